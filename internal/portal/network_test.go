package portal

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"

	"cloudlink.local/gateway/internal/diary"
	"cloudlink.local/gateway/internal/network"
	"cloudlink.local/gateway/internal/network/commit"
	"cloudlink.local/gateway/internal/portmap"
	"cloudlink.local/gateway/internal/settings"
)

// netState is what a gateway's network service keeps beyond its state.
type netState struct {
	settings  settings.Settings
	former    *settings.Network // what returns, during a probation
	diary     []diary.Entry
	results   []portmap.Result
	testing   chan bool         // if not nil, a self-test waits for one
	asked     []network.Request // to change, confirm and return
	moveTo    []netip.Addr      // of a change on probation
	refuseAll error             // the answer to every change
}

// sampleNet is the network service of sample.
func sampleNet(start time.Time) netState {
	s := netState{settings: settings.Default(), moveTo: []netip.Addr{netip.MustParseAddr("192.168.178.50")}}
	for i, e := range []diary.Entry{
		{Time: start.Add(-26 * time.Hour), Clock: "floor", Boottime: 4, Kind: diary.CablePlugged, Args: map[string]string{"port": "eth0", "speed": "1000"}},
		{Clock: "floor", Boottime: 6.4, Kind: diary.LeaseObtained, Args: map[string]string{
			"port": "eth0", "address": "192.168.178.40/24", "server": "192.168.178.1", "router": "192.168.178.1", "options": "6, 15, 42"}},
		{Clock: "ntp", Boottime: 9.2, Kind: diary.ClockStepped, Args: map[string]string{
			"from": diary.Time(start.Add(-26 * time.Hour)), "to": diary.Time(start), "server": "192.168.178.1"}},
		{Clock: "verified", Boottime: 4000, Kind: diary.ServerChanged, Count: 4, Args: map[string]string{
			"port": "eth0", "old": "192.168.178.1", "new": "192.168.178.2", "mac": "52:54:00:00:00:02"}},
		{Clock: "verified", Boottime: 9000, Kind: diary.SettingsChanged, Args: map[string]string{"by": "portal", "from": "192.168.178.23", "fields": "clock.servers"}},
	} {
		e.ID, e.BootID = uint64(i+1), "6b0f5f5e-3f0c-4a53-9d55-0c1c4ad2a1f7"
		if e.Time.IsZero() {
			e.Time = start.Add(time.Duration(e.Boottime * float64(time.Second)))
		}
		if i < 2 {
			e.Actual = start.Add(time.Duration(e.Boottime * float64(time.Second)))
		}
		s.diary = append(s.diary, e)
	}
	for i, row := range portmap.Table {
		r := portmap.Result{Row: row, State: portmap.Unknown, Detail: portmap.Text{DE: "Das lässt sich von hier nicht prüfen.", EN: "This cannot be checked from here."}}
		switch {
		case row.Direction == portmap.Inside:
			r.State, r.Good, r.Detail = portmap.Blocked, true, portmap.Text{DE: "Auf den Adressen der Ports lauscht dort niemand.", EN: "Nobody listens there on the addresses of the ports."}
		case i == 0:
			r.State, r.Good, r.Detail = portmap.Open, true, portmap.Text{DE: "pool.ntp.org hat geantwortet.", EN: "pool.ntp.org answered."}
		case i == 1:
			r.State, r.Detail = portmap.Blocked, portmap.Text{DE: "accounts.example:443: keine Antwort in 3 s. Eine Firewall auf dem Weg verwirft die Pakete, oder der Dienst ist aus.",
				EN: "accounts.example:443: no answer within 3 s. A firewall on the way drops the packets, or the service is off."}
		}
		s.results = append(s.results, r)
	}
	return s
}

func (f fakeNetwork) Settings(ctx context.Context) (settings.Settings, error) {
	return ask(ctx, f.gateway, PartNetwork, func() settings.Settings { return f.net.settings.Clone() })
}

func (f fakeNetwork) Diary(ctx context.Context, after uint64) ([]diary.Entry, error) {
	return ask(ctx, f.gateway, PartNetwork, func() []diary.Entry {
		return slices.DeleteFunc(slices.Clone(f.net.diary), func(e diary.Entry) bool { return e.ID <= after })
	})
}

func (f fakeNetwork) PortMap(ctx context.Context) ([]portmap.Row, error) {
	return ask(ctx, f.gateway, PartNetwork, func() []portmap.Row { return portmap.Table })
}

func (f fakeNetwork) SelfTest(ctx context.Context) ([]portmap.Result, error) {
	if f.net.testing != nil {
		select {
		case <-f.net.testing:
		case <-ctx.Done():
		}
	}
	return ask(ctx, f.gateway, PartNetwork, func() []portmap.Result { return f.net.results })
}

// Change does what the network service does, without a network.
func (f fakeNetwork) Change(ctx context.Context, p network.Proposal) (network.Status, error) {
	var err error
	s, askErr := ask(ctx, f.gateway, PartNetwork, func() network.Status {
		f.net.asked = append(f.net.asked, p.Request)
		all := f.net.settings.Clone()
		if p.Clock != nil {
			all.Clock = *p.Clock
		}
		if p.Network != nil {
			all.Network = *p.Network
		}
		if p.Names != nil {
			all.Names = *p.Names
		}
		if p.Update != nil {
			all.Update = *p.Update
		}
		if err = all.Check(); err != nil {
			err = wrong(err)
			return network.Status{}
		}
		if err = f.net.refuseAll; err != nil {
			return network.Status{}
		}
		old := f.net.settings.Network
		if f.net.former != nil {
			old = *f.net.former
		}
		f.net.settings = all
		f.n.Names.Host = strings.ToLower(all.Names.Host) + local
		if p.Network != nil && commit.Risky(old, all.Network) {
			f.net.former = &old
			f.n.Change = &network.Change{SecondsLeft: 90, Addresses: f.net.moveTo, By: p.By}
		}
		return f.n
	})
	if err == nil {
		err = askErr
	}
	return s, err
}

// Confirm is as Change.
func (f fakeNetwork) Confirm(ctx context.Context, r network.Request) (network.Status, error) {
	return f.end(ctx, r, diary.CommitConfirmed, func() error {
		if !slices.Contains(f.n.Change.Addresses, r.ArrivedOn) {
			return &network.Refusal{Reason: "confirm: the request came over an old address"}
		}
		f.net.former = nil
		return nil
	})
}

// Return is as Change.
func (f fakeNetwork) Return(ctx context.Context, r network.Request) (network.Status, error) {
	return f.end(ctx, r, diary.CommitReturned, func() error {
		f.net.settings.Network, f.net.former = *f.net.former, nil
		return nil
	})
}

func (f fakeNetwork) end(ctx context.Context, r network.Request, kind diary.Kind, how func() error) (network.Status, error) {
	var err error
	s, askErr := ask(ctx, f.gateway, PartNetwork, func() network.Status {
		f.net.asked = append(f.net.asked, r)
		if f.n.Change == nil {
			err = &network.Refusal{Reason: "confirm: no change is on probation"}
			return network.Status{}
		}
		if err = how(); err == nil {
			f.n.Change = nil
			f.net.diary = append(f.net.diary, diary.Entry{ID: uint64(len(f.net.diary) + 1), Time: time.Now(), Clock: "ntp", Kind: kind,
				Args: map[string]string{"reason": diary.ReasonTakenBack, "by": r.By, "from": r.From.String(), "address": r.ArrivedOn.String()}})
		}
		return f.n
	})
	if err == nil {
		err = askErr
	}
	return s, err
}
