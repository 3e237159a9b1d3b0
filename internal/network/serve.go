package network

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"cloudlink.local/gateway/internal/diary"
	"cloudlink.local/gateway/internal/network/commit"
	"cloudlink.local/gateway/internal/network/firewall"
	"cloudlink.local/gateway/internal/portmap"
	"cloudlink.local/gateway/internal/settings"
)

const (
	maxAsk     = 1 << 20 // bytes of a question
	maxEntries = 500     // of the diary, in one answer
)

// handler answers on the socket. See Socket.
func (s *service) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) { answer(w, s.status()) })
	mux.HandleFunc("GET /settings", func(w http.ResponseWriter, r *http.Request) {
		all := s.store.Get()
		all.Network = s.keeper.Effective().Current // with what is on probation
		answer(w, all)
	})
	mux.HandleFunc("PUT /settings", s.change)
	mux.HandleFunc("POST /confirm", s.confirm)
	mux.HandleFunc("POST /return", s.takeBack)
	mux.HandleFunc("GET /diary", func(w http.ResponseWriter, r *http.Request) {
		after, err := strconv.ParseUint(r.FormValue("after"), 10, 64)
		if err != nil && r.FormValue("after") != "" {
			refuse(w, http.StatusUnprocessableEntity, &Refusal{Reason: "after: want the ID of an entry"})
			return
		}
		answer(w, append([]diary.Entry{}, s.diary.List(after, maxEntries)...))
	})
	mux.HandleFunc("GET /ports", func(w http.ResponseWriter, r *http.Request) { answer(w, portmap.Table) })
	mux.HandleFunc("POST /selftest", func(w http.ResponseWriter, r *http.Request) {
		answer(w, portmap.SelfTest(r.Context(), s.targets(), portmap.Net{}))
	})
	return mux
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v) // an error is the asker's, who is gone
}

func refuse(w http.ResponseWriter, code int, r *Refusal) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(r)
}

// read reads a question; where it cannot be read the answer is given.
func read(w http.ResponseWriter, r *http.Request, v any) bool {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxAsk))
	if err == nil {
		err = json.Unmarshal(body, v)
	}
	if err != nil {
		refuse(w, http.StatusUnprocessableEntity, &Refusal{Reason: "read request: " + err.Error()})
	}
	return err == nil
}

// status is what was published last, as it stands now.
func (s *service) status() Status {
	status := *s.published.Load()
	status.Clock = s.clockNow()
	status.Names = s.names()
	status.Unsaved = s.unsaved.Load()
	if c := s.keeper.Status(); c.State == commit.Probation {
		s.mu.Lock()
		defer s.mu.Unlock()
		status.Change = &Change{
			SecondsLeft: c.RemainingSeconds, By: c.By,
			Addresses: over(s.addresses),
		}
	}
	return status
}

// change applies a Proposal: the network on probation, where that can cut the owner off.
func (s *service) change(w http.ResponseWriter, r *http.Request) {
	var p Proposal
	if !read(w, r, &p) {
		return
	}
	s.changing.Lock()
	defer s.changing.Unlock()
	all := s.store.Get()
	before := all.Clone()
	if p.Clock != nil {
		all.Clock = *p.Clock
	}
	if p.Names != nil {
		all.Names = *p.Names
	}
	if p.Update != nil {
		all.Update = *p.Update
	}
	if p.Network != nil {
		all.Network = *p.Network
	}
	if err := all.Check(); err != nil {
		refuse(w, http.StatusUnprocessableEntity, refusal(err))
		return
	}
	if p.Network != nil {
		wan, lan := s.learned()
		if err := all.Network.CheckBeside(wan, lan); err != nil {
			refuse(w, http.StatusUnprocessableEntity, refusal(err))
			return
		}
	}
	if p.Clock != nil || p.Names != nil || p.Update != nil { // nobody is cut off by these: the addresses go on
		now := before.Clone()
		now.Clock, now.Names, now.Update = all.Clock, all.Names, all.Update
		if err := s.store.Save(now); err != nil {
			refuse(w, http.StatusUnprocessableEntity, refusal(err))
			return
		}
		if fields := differ(before, now); fields != "" {
			s.diary.Add(diary.SettingsChanged, "by", p.By, "from", name(p.From), "fields", fields)
		}
		s.nudge()
	}
	if p.Network != nil {
		fields := commit.Fields(s.keeper.Effective().Current, all.Network)
		status, err := s.keeper.Begin(all.Network, p.By, name(p.From))
		if !s.saved(err) {
			refuse(w, http.StatusUnprocessableEntity, refusal(err))
			return
		}
		if status.State != commit.Probation && len(fields) > 0 {
			s.diary.Add(diary.SettingsChanged, "by", p.By, "from", name(p.From), "fields", strings.Join(fields, ", "))
		}
	}
	s.settled(r.Context())
	answer(w, s.status())
}

// learned returns the addresses that the ports have from DHCP servers.
func (s *service) learned() (wan, lan []netip.Prefix) {
	for _, p := range s.published.Load().Ports {
		for _, a := range p.Addresses {
			switch {
			case a.Source != DHCP:
			case p.Role == LAN:
				lan = append(lan, a.Prefix)
			case p.Role == WAN:
				wan = append(wan, a.Prefix)
			}
		}
	}
	return wan, lan
}

// differ names the fields beside the network's that differ.
func differ(a, b settings.Settings) string {
	var list []string
	if !slices.Equal(a.Clock.Servers, b.Clock.Servers) {
		list = append(list, "clock.servers")
	}
	if a.Names.Host != b.Names.Host {
		list = append(list, "names.host")
	}
	if a.Names.OnWAN != b.Names.OnWAN {
		list = append(list, "names.on_wan")
	}
	if a.Update != b.Update {
		list = append(list, "update")
	}
	return strings.Join(list, ", ")
}

// settled waits until run has applied what was changed: the second of two events comes after the look
// that follows the first.
func (s *service) settled(ctx context.Context) {
	s.post(ctx, func() {})
	s.post(ctx, func() {})
}

// over is the addresses over which a change can be confirmed.
func over(a commit.Addresses) []netip.Addr {
	if len(a.New) > 0 && len(a.Old) > 0 {
		return append([]netip.Addr{}, a.New...)
	}
	return append(slices.Clone(a.New), a.Common...)
}

func (s *service) confirm(w http.ResponseWriter, r *http.Request) {
	var q Request
	if !read(w, r, &q) {
		return
	}
	s.changing.Lock()
	defer s.changing.Unlock()
	s.settled(r.Context())
	s.mu.Lock()
	addresses, number := s.addresses, s.number
	s.mu.Unlock()
	if number == 0 {
		number = math.MaxUint64 // none: 0 would be whichever has begun since
	}
	_, err := s.keeper.Confirm(number, q.ArrivedOn, addresses, q.By, name(q.From))
	s.told(w, r, err)
}

func (s *service) takeBack(w http.ResponseWriter, r *http.Request) {
	var q Request
	if !read(w, r, &q) {
		return
	}
	s.changing.Lock()
	defer s.changing.Unlock()
	_, err := s.keeper.TakeBack()
	s.told(w, r, err)
}

// saved says whether a Keeper has done what it was asked. What it could not save is in effect until the
// next start, and the owner is told.
func (s *service) saved(err error) bool {
	save := (*commit.SaveError)(nil)
	if err != nil && !errors.As(err, &save) {
		return false
	}
	s.unsaved.Store(err != nil)
	return true
}

// told answers what a Keeper has said.
func (s *service) told(w http.ResponseWriter, r *http.Request, err error) {
	if !s.saved(err) {
		refuse(w, http.StatusConflict, refusal(err))
		return
	}
	s.settled(r.Context())
	answer(w, s.status())
}

// refusal is err for whoever asked.
func refusal(err error) *Refusal {
	r := &Refusal{Reason: err.Error()}
	if wrong := (settings.Errors)(nil); errors.As(err, &wrong) {
		for _, f := range wrong {
			r.Fields = append(r.Fields, *f)
		}
	}
	return r
}

func name(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.Unmap().String()
}

// targets are whom the self-test asks.
func (s *service) targets() portmap.Targets {
	t := portmap.Targets{NTP: s.store.Get().Clock.Servers}
	s.mu.Lock()
	defer s.mu.Unlock()
	t.Own = append(append(t.Own, s.addresses.New...), s.addresses.Common...)
	if policy := s.policy; policy != nil {
		t.Firewall = func() error { return firewall.Verify(*policy) }
	}
	return t
}
