package portal

import (
	"context"
	"errors"
	"io"
	"time"

	"cloudlink.local/gateway/internal/update"
	"cloudlink.local/gateway/internal/update/trust"
)

// upState is what a gateway's update service keeps beyond its state.
type upState struct {
	orders []string // name and asker
	bundle []byte   // as it came in
	refuse error    // the answer to every order
}

// sampleUpdate is an update service that has done its work: it has updated the gateway two days ago, and
// asked today.
func sampleUpdate(now time.Time) update.Status {
	began := now.Add(-52 * time.Hour)
	step := func(s update.State, after, took float64) update.Step {
		return update.Step{State: s, Time: began.Add(time.Duration(after * float64(time.Second))), Seconds: took}
	}
	good := update.Attempt{
		ID: 2, Kind: update.Update, Source: update.FromRepository, From: "0.9.0", To: "1.0.0", FromSlot: "b", ToSlot: "a",
		Delta: true, Bytes: 1_310_720, Began: began, State: update.Confirmed, BootID: "5d2c7c1e-9f3b-4a53-9d55-0c1c4ad2a1f7",
		Steps: []update.Step{
			step(update.Checking, 0, 0.41), step(update.Downloading, 0.41, 2.6), step(update.Verifying, 3, 0.9), step(update.Writing, 4, 6.2),
			step(update.PendingReboot, 10.2, 31), step(update.Trial, 41, 92), step(update.Confirmed, 133, 0),
		},
		Notes: update.Notes{DE: "Erste freigegebene Version.", EN: "First release."},
		Checks: []update.Check{
			{Name: update.ServiceRuns, Arg: "network", OK: true}, {Name: update.ServiceRuns, Arg: "portal", OK: true},
			{Name: update.PortAddress, Arg: "eth0", OK: true}, {Name: update.PageOpens, OK: true}, {Name: update.DataKept, OK: true},
		},
	}
	first := update.Attempt{
		ID: 1, Kind: update.Drill, By: "192.168.178.23", Source: update.FromSlot, From: "0.9.0", To: "0.8.0", FromSlot: "b", ToSlot: "a",
		Began: began.Add(-24 * time.Hour), State: update.Confirmed, Steps: []update.Step{},
	}
	return update.Status{
		State: update.Confirmed, Version: "1.0.0", Slot: "a",
		Other:    &update.Other{Version: "0.9.0", BuildTime: time.Date(2026, 10, 2, 14, 0, 0, 0, time.UTC)},
		Check:    &update.LastCheck{Time: now.Add(-3 * time.Hour), Reason: update.Reason(trust.UpToDate)},
		Attempts: []update.Attempt{good, first},
	}
}

// offered is sample with an update to be had.
func offered() *gateway {
	g := sample()
	g.u.Check = &update.LastCheck{Time: g.m.Time.Add(-3 * time.Hour), Available: &update.Available{
		Version: "1.1.0", Bytes: 1_468_006,
		Notes: update.Notes{DE: "Der Verlauf nennt jetzt auch VLANs.\nFehler behoben: Ein Port ohne Router wird wieder grün.",
			EN: "The timeline names VLANs, too.\nMended: a port without router turns green again."},
	}}
	return g
}

// begin begins an attempt that is on its way to state.
func (g *gateway) begin(kind update.Kind, to string, states ...update.State) *update.Attempt {
	a := update.Attempt{
		ID: 1, Kind: kind, By: "192.168.178.23", Source: update.FromRepository, From: g.u.Version, To: to, FromSlot: "a", ToSlot: "b",
		Bytes: 12 << 20, Began: g.m.Time.Add(-time.Minute),
	}
	if len(g.u.Attempts) > 0 {
		a.ID = g.u.Attempts[0].ID + 1
	}
	if kind != update.Update {
		a.Source, a.Bytes = update.FromSlot, 0
	}
	for i, s := range states {
		a.Steps = append(a.Steps, update.Step{State: s, Time: a.Began.Add(time.Duration(i) * 4 * time.Second), Seconds: 4})
		a.State = s
	}
	a.Steps[len(states)-1].Seconds = 0
	g.u.Attempts = append([]update.Attempt{a}, g.u.Attempts...)
	g.u.State = a.State
	return &g.u.Attempts[0]
}

// downloading is a gateway with an update on its way.
func downloading() *gateway {
	g := offered()
	g.begin(update.Update, "1.1.0", update.Checking, update.Downloading)
	g.u.Progress = &update.Progress{Bytes: 5 << 20, Total: 12 << 20, SecondsLeft: 42}
	return g
}

// proving is one whose new version runs on trial.
func proving() *gateway {
	g := offered()
	g.begin(update.Update, "1.1.0", update.Checking, update.Downloading, update.Verifying, update.Writing, update.PendingReboot, update.Trial)
	g.m.Release.Version, g.u.Version, g.m.Slot, g.u.Slot = "1.1.0", "1.1.0", "b", "b"
	g.u.Other = &update.Other{Version: "1.0.0", BuildTime: testRelease.BuildTime}
	g.u.Checks = []update.Check{
		{Name: update.ServiceRuns, Arg: "network", OK: true}, {Name: update.ServiceRuns, Arg: "portal", OK: true},
		{Name: update.PortAddress, Arg: "eth0", Detail: "no DHCP server has answered"}, {Name: update.PageOpens, OK: true}, {Name: update.DataKept, OK: true},
	}
	return g
}

// updateFailedThere is one whose download has ended in an error.
func updateFailedThere() *gateway {
	g := offered()
	a := g.begin(update.Update, "1.1.0", update.Checking, update.Downloading, update.Failed)
	a.Reason, a.Detail = update.NoConnection, "no-connection: GET https://updates.example/targets/1.1.0.bundle: dial tcp 203.0.113.7:443: connect: no route to host"
	return g
}

// returned is one whose new version did not prove itself.
func returned() *gateway {
	g := offered()
	a := g.begin(update.Update, "1.1.0", update.Checking, update.Downloading, update.Verifying, update.Writing, update.PendingReboot, update.Trial, update.RolledBack)
	a.Reason, a.Checks = update.CheckFailed, proving().u.Checks
	a.LastLog = []string{"network: eth0: link is up, 1000 Mbit/s", "network: eth0: no answer to DHCP DISCOVER, again in 16 s", "init: restart requested by user 104, process 75"}
	return g
}

type fakeUpdate struct{ *gateway }

func (f fakeUpdate) Status(ctx context.Context) (update.Status, error) {
	return ask(ctx, f.gateway, PartUpdate, func() update.Status { return f.u })
}

func (f fakeUpdate) order(ctx context.Context, name string, r update.Request, then func()) (update.Status, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return update.Status{}, ctx.Err()
	case f.down[PartUpdate]:
		return update.Status{}, errDown
	case f.up.refuse != nil:
		return update.Status{}, f.up.refuse
	}
	f.up.orders = append(f.up.orders, name+" "+r.By)
	if then != nil {
		then()
	}
	return f.u, nil
}

func (f fakeUpdate) CheckNow(ctx context.Context, r update.Request) (update.Status, error) {
	return f.order(ctx, "check", r, func() { f.u.Checking = true })
}

func (f fakeUpdate) Install(ctx context.Context, r update.Request) (update.Status, error) {
	return f.order(ctx, "install", r, func() { f.begin(update.Update, "1.1.0", update.Checking) })
}

func (f fakeUpdate) Rollback(ctx context.Context, r update.Request) (update.Status, error) {
	return f.order(ctx, "rollback", r, func() { f.begin(update.Rollback, "0.9.0", update.Verifying) })
}

func (f fakeUpdate) USB(ctx context.Context, r update.Request) (update.Status, error) {
	return f.order(ctx, "usb", r, func() { f.begin(update.Update, "1.0.0", update.Checking) })
}

func (f fakeUpdate) Drill(ctx context.Context, r update.Request) (update.Status, error) {
	return f.order(ctx, "drill", r, func() { f.begin(update.Drill, "0.9.0", update.Verifying) })
}

func (f fakeUpdate) Cancel(ctx context.Context, r update.Request) (update.Status, error) {
	return f.order(ctx, "cancel", r, func() {
		f.u.State, f.u.Attempts[0].State, f.u.Attempts[0].Reason = update.Failed, update.Failed, update.Cancelled
	})
}

func (f fakeUpdate) Upload(ctx context.Context, r update.Request, bundle io.Reader) (update.Status, error) {
	b, err := io.ReadAll(bundle)
	if err != nil {
		return update.Status{}, errors.Join(errors.New("ask update service"), err)
	}
	return f.order(ctx, "upload", r, func() {
		f.up.bundle = b
		f.begin(update.Update, "1.1.0", update.Checking)
	})
}
