package update

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"cloudlink.local/gateway/firmware/publish"
	"cloudlink.local/gateway/firmware/publish/publishtest"
	"cloudlink.local/gateway/internal/boot/bootenv"
	"cloudlink.local/gateway/internal/machine"
	"cloudlink.local/gateway/internal/release"
	"cloudlink.local/gateway/internal/settings"
)

func TestMain(m *testing.M) { publishtest.Main(m) }

// A disk is what a machine keeps over a restart: the data partition, the slots, the loader's environment.
type disk struct {
	dir   string
	env   bootenv.Env
	floor string
}

func (d disk) slot(s bootenv.Slot) string { return filepath.Join(d.dir, "slot-"+string(s)) }
func (d disk) data() string               { return filepath.Join(d.dir, "data") }

// copy returns the disk as it is now.
func (d disk) copy(t *testing.T) disk {
	t.Helper()
	fresh := disk{dir: filepath.Join(t.TempDir(), "disk"), env: d.env, floor: d.floor}
	if err := os.CopyFS(fresh.dir, os.DirFS(d.dir)); err != nil {
		t.Fatal(err)
	}
	return fresh
}

// A box is a machine with process 1, as package slots and the loader do it, on folders.
type box struct {
	t      *testing.T
	called func(what string) // before and after everything that is done to the disk

	mu       sync.Mutex
	disk     disk
	boot     int
	running  bootenv.Slot
	onTrial  bool
	access   machine.SlotAccess
	restarts chan struct{} // has an element when a restart was asked for
	sick     bool          // the system on trial does not prove itself
}

// start switches the machine on: the loader decides what runs.
func start(t *testing.T, d disk, boot int) *box {
	b := &box{t: t, disk: d, boot: boot, access: machine.SlotClosed, restarts: make(chan struct{}, 8), called: func(string) {}}
	b.running = d.env.Confirmed
	if d.env.Trial != bootenv.None && d.env.Trial != d.env.Confirmed && d.env.Tries > 0 {
		b.disk.env.Tries--
		if b.starts(d.env.Trial) {
			b.running, b.onTrial = d.env.Trial, true
		}
	}
	if !b.starts(b.running) {
		t.Fatalf("slot %s is to be started, and holds nothing that does", b.running)
	}
	return b
}

// starts says whether a slot holds one of the systems of the tests, whole.
func (b *box) starts(s bootenv.Slot) bool {
	m, err := os.ReadFile(filepath.Join(b.disk.slot(s), "manifest.json"))
	if err != nil {
		return false
	}
	parsed, err := release.ParseManifest(bytes.TrimSpace(m))
	if err != nil {
		return false
	}
	linux, err := os.ReadFile(filepath.Join(b.disk.slot(s), "linux.efi"))
	_, sig := os.Stat(filepath.Join(b.disk.slot(s), "linux.efi.sig"))
	return err == nil && sig == nil && bytes.Equal(linux, publishtest.UKI(parsed.Version))
}

func (b *box) version() string {
	m, err := os.ReadFile(filepath.Join(b.disk.slot(b.running), "manifest.json"))
	if err != nil {
		b.t.Fatal(err)
	}
	parsed, err := release.ParseManifest(bytes.TrimSpace(m))
	if err != nil {
		b.t.Fatal(err)
	}
	return parsed.Version
}

func (b *box) do(what string, f func() error) (machine.Slots, error) {
	b.called(what)
	b.mu.Lock()
	err := f()
	b.mu.Unlock()
	b.called(what)
	if err != nil {
		return machine.Slots{}, err
	}
	return b.Slots(context.Background())
}

func (b *box) Slots(context.Context) (machine.Slots, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return machine.Slots{
		Running: string(b.running), Confirmed: string(b.disk.env.Confirmed), Trial: string(b.disk.env.Trial),
		Tries: b.disk.env.Tries, OnTrial: b.onTrial, Dir: b.disk.slot(b.running.Other()), OwnDir: b.disk.slot(b.running), Access: b.access,
	}, nil
}

func (b *box) OpenSlot(context.Context) (machine.Slots, error) {
	return b.do("open", func() error {
		if b.onTrial {
			return errors.New("on trial")
		}
		b.disk.env = bootenv.Env{Confirmed: b.running}
		b.access = machine.SlotWritable
		dir := b.disk.slot(b.running.Other())
		return errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o755))
	})
}

func (b *box) SealSlot(context.Context) (machine.Slots, error) {
	return b.do("seal", func() error {
		if b.access != machine.SlotWritable {
			return errors.New("not open")
		}
		b.access = machine.SlotReadable
		return nil
	})
}

func (b *box) LookSlot(context.Context) (machine.Slots, error) {
	return b.do("look", func() error { b.access = machine.SlotReadable; return nil })
}

func (b *box) CloseSlot(context.Context) (machine.Slots, error) {
	return b.do("close", func() error { b.access = machine.SlotClosed; return nil })
}

func (b *box) OpenRunning(ctx context.Context) (machine.Slots, error) { return b.Slots(ctx) }

func (b *box) ArmSlot(_ context.Context, tries int) (machine.Slots, error) {
	return b.do("arm", func() error {
		if b.onTrial || b.access != machine.SlotReadable {
			return errors.New("not read back")
		}
		b.disk.env = bootenv.Env{Confirmed: b.running, Trial: b.running.Other(), Tries: tries}
		return nil
	})
}

func (b *box) ConfirmSlot(context.Context) (machine.Slots, error) {
	return b.do("confirm", func() error { b.disk.env, b.onTrial = bootenv.Env{Confirmed: b.running}, false; return nil })
}

func (b *box) OpenSticks(ctx context.Context) (machine.Slots, error) {
	slots, err := b.Slots(ctx)
	slots.Sticks = []string{filepath.Join(b.disk.dir, "stick")}
	return slots, err
}

func (b *box) CloseSticks(ctx context.Context) (machine.Slots, error) { return b.Slots(ctx) }

func (b *box) Floor(context.Context) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.disk.floor, nil
}

func (b *box) RaiseFloor(_ context.Context, version string) error {
	_, err := b.do("floor", func() error { b.disk.floor = version; return nil })
	return err
}

func (b *box) Status(context.Context) (machine.Status, error) {
	return machine.Status{
		BootID: fmt.Sprint("boot ", b.boot), Serial: "12345", Data: machine.Data{State: machine.DataOK, FreeBytes: 1 << 30},
		Services: []machine.Service{{Name: "portal", State: machine.Running}},
	}, nil
}

func (b *box) Log(context.Context, uint64, machine.Level) ([]machine.Entry, error) { return nil, nil }

func (b *box) PreviousLog(context.Context, machine.Level) ([]machine.Entry, error) { return nil, nil }

func (b *box) Restart(context.Context) error {
	_, err := b.do("restart", func() error { b.restarts <- struct{}{}; return nil })
	return err
}

// A site is a repository with a new release and a disk with the old one.
type site struct {
	repo   *publishtest.Repo
	server *httptest.Server
	set    settings.Update
	root   string
	disk   disk
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{repo: publishtest.New(t), disk: disk{dir: t.TempDir(), env: bootenv.Env{Confirmed: bootenv.A}}}
	s.repo.Now = time.Now()
	s.repo.Publish("1.1.0", func(r *publish.Release) { r.SecurityFloor = "1.0.5" })
	s.server = httptest.NewServer(publish.Handler(s.repo.Dir))
	t.Cleanup(s.server.Close)
	s.set = settings.Update{Server: s.server.URL, Channel: settings.Stable}
	s.root = filepath.Join(t.TempDir(), "root.json")
	old := s.repo.Image("1.0.0", nil)
	err := errors.Join(os.WriteFile(s.root, s.repo.Root(), 0o600), os.Mkdir(s.disk.data(), 0o755),
		os.CopyFS(s.disk.slot(bootenv.A), os.DirFS(old)), os.CopyFS(s.disk.slot(bootenv.B), os.DirFS(old)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A run is the service on a machine, from its start to its end.
type run struct {
	*Client
	stop func()
}

func (s *site) run(t *testing.T, b *box) *run {
	t.Helper()
	return s.runWith(t, b, b, func(*Config) {})
}

// runWith is run with another way to b, and a changed Config.
func (s *site) runWith(t *testing.T, m Machine, b *box, change func(*Config)) *run {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	c := Config{
		Socket: filepath.Join(t.TempDir(), "sock"), Data: b.disk.data(), RootFile: s.root, Machine: m,
		Release:  release.Release{Product: release.Product, Board: "qemu-virt", Version: b.version()},
		Settings: func(context.Context) (settings.Update, error) { return s.set, nil },
		Health: func(ctx context.Context) Health {
			h := Health{}
			h.Machine, _ = b.Status(ctx)
			if b.sick && b.onTrial {
				h.Page = errors.New("it does not open")
			}
			return h
		},
		InCall: func(context.Context) bool { return false },
		Trial:  trial{every: time.Millisecond, steady: 3 * time.Millisecond, limit: 20 * time.Millisecond},
		Log:    slog.New(slog.DiscardHandler),
	}
	change(&c)
	go func() { done <- c.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	r := &run{newClient(c.Socket), sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the service ends: %v", err)
		}
	})}
	t.Cleanup(r.stop)
	return r
}

// settle goes on, with as many restarts as are asked for, until no attempt is under way.
func (s *site) settle(t *testing.T, b *box, first func(*run)) (*box, Status) {
	t.Helper()
	for range 6 {
		r := s.run(t, b)
		if first != nil {
			first(r)
			first = nil
		}
		restart, st := s.await(t, b, r)
		r.stop()
		if !restart {
			return b, st
		}
		called := b.called
		sick := b.sick
		b = start(t, b.disk, b.boot+1)
		b.called, b.sick = called, sick
	}
	t.Fatal("it restarts again and again")
	return nil, Status{}
}

func (s *site) await(t *testing.T, b *box, r *run) (restart bool, st Status) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		select {
		case <-b.restarts:
			return true, st
		default:
		}
		var err error
		if st, err = r.Status(t.Context()); err != nil {
			t.Fatal(err)
		}
		if st.Slot != "" && !st.Busy && len(b.restarts) == 0 {
			return false, st
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("nothing more happens: %+v", st)
	return false, st
}

func install(t *testing.T) func(*run) {
	return func(r *run) { ask(t, r.Install) }
}

// ask asks for something as soon as the service takes it.
func ask(t *testing.T, what func(context.Context, Request) (Status, error)) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := what(t.Context(), Request{By: "test"}); err == nil {
			return
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func TestM4AnUpdateIsInstalledAndConfirmed(t *testing.T) {
	s := newSite(t)
	b, st := s.settle(t, start(t, s.disk, 1), install(t))
	if b.version() != "1.1.0" || b.onTrial || b.disk.env != (bootenv.Env{Confirmed: bootenv.B}) || st.State != Confirmed {
		t.Errorf("%s runs, on trial %v, environment %+v, %s", b.version(), b.onTrial, b.disk.env, st.State)
	}
	// And back by a person, although that is older; and no further, once there is a floor.
	_, st = s.settle(t, b, func(r *run) { ask(t, r.Rollback) })
	if a := st.Attempts[0]; a.Kind != Rollback || a.State != Failed || a.Reason != "below-floor" {
		t.Errorf("below the floor: %+v", a)
	}
}

// The newest bundle on a stick is taken, by its name; what is in it is checked like any other.
func TestM5FromAStick(t *testing.T) {
	s := newSite(t)
	stick := filepath.Join(s.disk.dir, "stick")
	if err := os.Mkdir(stick, 0o755); err != nil {
		t.Fatal(err)
	}
	_, st := s.settle(t, start(t, s.disk, 1), func(r *run) { ask(t, r.USB) })
	if a := st.Attempts[0]; a.Reason != NoBundle || a.Source != FromUSB {
		t.Errorf("an empty stick: %+v", a)
	}
	for name, b := range map[string][]byte{
		"cloudlink-qemu-virt-0.9.0.bundle": []byte("old"), "holiday.jpg": nil, ".hidden-9.9.9.bundle": nil,
		"cloudlink-qemu-virt-1.1.0.bundle": s.repo.Bundle("1.1.0"), "something.bundle": nil,
	} {
		if err := os.WriteFile(filepath.Join(stick, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, st := s.settle(t, start(t, s.disk, 2), func(r *run) { ask(t, r.USB) })
	if b.version() != "1.1.0" || st.Attempts[0].Source != FromUSB || st.State != Confirmed {
		t.Errorf("%s runs: %+v", b.version(), st.Attempts[0])
	}
}

// A factory reset erases the data partition, and what was known there of the oldest safe version.
func TestM8TheFloorSurvivesAReset(t *testing.T) {
	s := newSite(t)
	b, _ := s.settle(t, start(t, s.disk, 1), func(r *run) { ask(t, r.Install) })
	if b.disk.floor != "1.0.5" {
		t.Fatalf("floor %q is kept outside of the data partition", b.disk.floor)
	}
	if err := errors.Join(os.RemoveAll(b.disk.data()), os.Mkdir(b.disk.data(), 0o755)); err != nil {
		t.Fatal(err)
	}
	_, st := s.settle(t, start(t, b.disk, b.boot+1), func(r *run) { ask(t, r.Rollback) })
	if a := st.Attempts[0]; a.State != Failed || a.Reason != "below-floor" {
		t.Errorf("after the reset: %+v", a)
	}
}

func TestM6ASickReleaseGivesBack(t *testing.T) {
	s := newSite(t)
	b := start(t, s.disk, 1)
	b.sick = true
	b, st := s.settle(t, b, install(t))
	a := st.Attempts[0]
	if b.version() != "1.0.0" || a.State != RolledBack || a.Reason != CheckFailed || a.Detail != "page-opens: it does not open" {
		t.Errorf("%s runs; %+v", b.version(), a)
	}
}

// The process is killed, or the power is cut, wherever something is done: each time it ends well.
func TestM8KilledAtEveryStep(t *testing.T) {
	type moment struct {
		name    string
		disk    disk
		boot    int
		running bootenv.Slot
		onTrial bool
	}
	s := newSite(t)
	var moments []moment
	b := start(t, s.disk, 1)
	var mu sync.Mutex
	note := func(b **box) func(string) {
		return func(what string) {
			mu.Lock()
			defer mu.Unlock()
			m := *b
			moments = append(moments, moment{fmt.Sprintf("%d %s", len(moments), what), m.disk.copy(t), m.boot, m.running, m.onTrial})
		}
	}
	good := publish.Handler(s.repo.Dir)
	current := b
	s.server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		note(&current)("fetch")
		good.ServeHTTP(w, r)
	})
	first := install(t)
	for restart := true; restart; {
		current.called = note(&current)
		r := s.run(t, current)
		if first != nil {
			first(r)
			first = nil
		}
		restart, _ = s.await(t, current, r)
		r.stop()
		if restart {
			current = start(t, current.disk, current.boot+1)
		}
	}
	s.server.Config.Handler = good
	if len(moments) < 20 {
		t.Fatalf("only %d moments", len(moments))
	}
	for _, m := range moments {
		for _, how := range []string{"killed", "cut"} {
			t.Run(m.name+" "+how, func(t *testing.T) {
				d := m.disk.copy(t)
				b := &box{t: t, disk: d, boot: m.boot, running: m.running, onTrial: m.onTrial, access: machine.SlotClosed, restarts: make(chan struct{}, 8), called: func(string) {}}
				if how == "cut" {
					b = start(t, d, m.boot+1)
				}
				b, st := s.settle(t, b, nil)
				if b.onTrial || st.State.Working() {
					t.Fatalf("it is %s, on trial %v", st.State, b.onTrial)
				}
				if len(st.Attempts) > 0 && st.State != Confirmed && b.version() != "1.0.0" {
					t.Errorf("%s runs and the attempt is %s (%s)", b.version(), st.State, st.Attempts[0].Reason)
				}
				// Whatever it was, the next one comes through.
				if b.version() == "1.0.0" {
					b, st = s.settle(t, b, install(t))
				}
				if b.version() != "1.1.0" || b.onTrial {
					t.Errorf("%s runs in the end, on trial %v: %+v", b.version(), b.onTrial, st.Attempts)
				}
			})
		}
	}
}
