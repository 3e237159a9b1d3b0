package network

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/renameio/v2"

	"cloudlink.local/gateway/internal/diary"
	"cloudlink.local/gateway/internal/network/dhcp4"
	"cloudlink.local/gateway/internal/network/linklocal"
	"cloudlink.local/gateway/internal/network/reconcile"
	"cloudlink.local/gateway/internal/settings"
)

// A link is a port or a VLAN with its clients. They run while it has a carrier; what they know stays
// until they know better. All fields belong to the goroutine of the service's run.
type link struct {
	name  string
	index int
	mac   net.HardwareAddr
	mtu   int

	lease      *dhcp4.Lease // in use
	remembered *dhcp4.Lease // to be asked for first
	linkLocal  netip.Addr   // in use; the zero Addr is none
	lastLocal  netip.Addr   // to be tried first
	kept       bool         // the link has not been down since it was leased
	since      time.Time    // when it has had a carrier and no lease from; zero: not now

	stop  context.CancelFunc // nil while no client runs
	done  sync.WaitGroup     // of the clients
	local *linklocal.Client
	again time.Time // when clients may be started after one that failed
}

func (l *link) learned() learned { return learned{l.lease, l.linkLocal} }

// stored is what is kept of a link, as a file.
type stored struct {
	Lease     *dhcp4.Stored `json:"lease,omitempty"`
	LinkLocal netip.Addr    `json:"link_local,omitzero"`
}

func (s *service) leaseFile(name string) string {
	return filepath.Join(s.Data, "lease-"+name+".json")
}

// newLink makes a link with what is kept of it. A lease of this boot is on the port still.
func (s *service) newLink(have reconcile.Link) *link {
	l := &link{name: have.Name}
	b, err := os.ReadFile(s.leaseFile(have.Name))
	if err != nil {
		return l
	}
	var st stored
	if err := json.Unmarshal(b, &st); err != nil {
		s.log.Warn(fmt.Sprintf("the lease kept of %s is damaged and not used: %v", have.Name, err))
		return l
	}
	l.lastLocal = st.LinkLocal
	if st.Lease == nil {
		return l
	}
	now, err := dhcp4.Now()
	if err == nil {
		l.remembered, err = st.Lease.Restore(time.Now(), now)
	}
	if err != nil {
		s.log.Warn(err.Error())
		return l
	}
	if l.kept = st.Lease.Boot == now.ID; l.kept { // a former process of this boot put it on the port
		l.lease = l.remembered
		s.log.Info(fmt.Sprintf("%v is on the port since the last process", l.lease.Prefix), "port", l.name)
	}
	return l
}

// save keeps what is known of l for the next start.
func (s *service) save(l *link) {
	st := stored{LinkLocal: l.lastLocal}
	if l.remembered != nil {
		if now, err := dhcp4.Now(); err == nil {
			lease := l.remembered.Store(time.Now(), now)
			st.Lease = &lease
		}
	}
	b, err := json.Marshal(st)
	if err == nil {
		err = renameio.WriteFile(s.leaseFile(l.name), b, 0o600)
	}
	if err != nil {
		s.log.Warn("keep lease: " + err.Error())
	}
}

// runLinks has clients run on the links whose settings want them, and on no others.
func (s *service) runLinks(ctx context.Context, state reconcile.State, plans, former []portPlan) {
	wanted := map[string]bool{}
	for _, list := range [][]portPlan{plans, former} {
		for _, p := range list {
			wanted[p.link] = wanted[p.link] || p.IPv4.Method == settings.DHCP
		}
	}
	now := time.Now()
	for name := range s.links {
		if !wanted[name] {
			s.give(s.links[name])
			delete(s.links, name)
		}
	}
	found := map[string]bool{}
	for _, have := range state.Links {
		if !wanted[have.Name] {
			continue
		}
		found[have.Name] = true
		l := s.links[have.Name]
		if l == nil {
			l = s.newLink(have)
			s.links[have.Name] = l
		}
		if l.stop != nil && (l.index != have.Index || !bytes.Equal(l.mac, have.MAC) || !have.Carrier) {
			l.halt()
			l.kept = false
		}
		l.index, l.mac, l.mtu = have.Index, have.MAC, have.MTU
		if l.stop == nil && have.Carrier && !l.again.After(now) {
			s.startClients(ctx, l)
		}
		if l.stop == nil && l.lease != nil && !l.lease.Expires.IsZero() && !now.Before(l.lease.Expires) {
			s.leased(l, nil)
		}
		switch {
		case !have.Carrier || l.lease != nil:
			l.since = time.Time{}
		case l.since.IsZero():
			l.since = now
		}
	}
	for name, l := range s.links {
		if !found[name] { // the port is gone
			l.halt()
			delete(s.links, name)
		}
	}
}

// give gives back what l has: its settings do not want it any more.
func (s *service) give(l *link) {
	l.halt()
	if l.lease != nil {
		if err := s.dhcp(l).Release(l.lease); err != nil {
			s.log.Debug(err.Error(), "port", l.name)
		}
		s.diary.Add(diary.LeaseLost, "port", l.name, "address", l.lease.Prefix.String(), "server", l.lease.Server.String())
	}
	os.Remove(s.leaseFile(l.name)) // else the next start asks for it, which does no harm
}

// halt ends l's clients. What they were telling is dropped.
func (l *link) halt() {
	if l.stop != nil {
		l.stop()
		l.done.Wait()
		l.stop, l.local = nil, nil
	}
}

func (s *service) stopLinks() {
	for _, l := range s.links {
		l.halt()
	}
}

func (s *service) dhcp(l *link) *dhcp4.Client {
	return &dhcp4.Client{
		Port:     &net.Interface{Index: l.index, Name: l.name, HardwareAddr: l.mac, MTU: l.mtu},
		Hostname: hostname(), Vendor: vendor, Log: s.log,
	}
}

// startClients starts the clients of l. Their callbacks are passed on to the goroutine of run.
func (s *service) startClients(ctx context.Context, l *link) {
	ctx, l.stop = context.WithCancel(ctx)
	tell := func(f func()) {
		s.post(ctx, func() {
			if ctx.Err() == nil {
				f()
			}
		})
	}
	c := s.dhcp(l)
	c.Remembered, c.InUse, c.LinkKept = l.remembered, l.lease != nil, l.kept
	c.Changed = func(lease *dhcp4.Lease) { tell(func() { s.leased(l, lease) }) }
	c.Conflict = func(addr netip.Addr, mac net.HardwareAddr, kept bool) {
		tell(func() { s.conflict(l, addr, mac, kept) })
	}
	c.ServerChanged = func(from, to netip.Addr) {
		tell(func() { s.diary.Add(diary.ServerChanged, "port", l.name, "old", from.String(), "new", to.String()) })
	}
	c.Troubled = func(t dhcp4.Trouble) { tell(func() { s.serverTrouble(l, t) }) }

	local := linklocal.New(c.Port, s.log)
	local.Remembered = l.lastLocal
	local.Changed = func(addr netip.Addr) { tell(func() { s.localChanged(l, addr) }) }
	local.Conflict = c.Conflict
	l.local = local
	local.Need(l.lease == nil)

	run := func(client func(context.Context) error) {
		l.done.Go(func() {
			if err := client(ctx); err != nil {
				tell(func() {
					s.log.Warn(err.Error())
					l.again = time.Now().Add(time.Second)
					l.halt()
				})
			}
		})
	}
	run(c.Run)
	run(local.Run)
}
