// Package update is the service that keeps the firmware new: it finds out what may be installed
// (package trust), fetches it, writes it into the slot that is not running, has the loader try it, and
// confirms it once it has proved itself. What it did and why is the receipt, which is kept.
//
// One goroutine moves the attempt from state to state. After any restart, Resume says where it stands.
package update

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"cloudlink.local/gateway/internal/boot/bootenv"
	"cloudlink.local/gateway/internal/boot/data"
	"cloudlink.local/gateway/internal/machine"
	"cloudlink.local/gateway/internal/network"
	"cloudlink.local/gateway/internal/release"
	"cloudlink.local/gateway/internal/safefile"
	"cloudlink.local/gateway/internal/settings"
	"cloudlink.local/gateway/internal/update/bundle"
	"cloudlink.local/gateway/internal/update/trust"
)

const (
	dataDir  = data.Dir + "/update"
	uploaded = "upload.bundle"

	firstCheck = time.Minute    // after the start: the network and the clock come first
	interval   = 24 * time.Hour // between checks, and up to jitter more
	again      = time.Hour      // where the server could not be asked
	jitter     = 2 * time.Hour
	waiting    = 10 * time.Second // between looks whether it may restart now
	stalled    = 30 * time.Second
	logLines   = 60       // of a trial that failed
	memory     = 40 << 20 // bytes of heap, from which on garbage is collected at once
)

// A Config is where the service works.
type Config struct {
	Socket, Data, RootFile string
	Release                release.Release
	Machine                Machine
	Settings               func(context.Context) (settings.Update, error)
	Health                 func(context.Context) Health
	InCall                 func(context.Context) bool // calls go through the gateway now
	Trial                  trial
	Farewell               time.Duration // that process 1 may take from a restart to the end of this service
	Log                    *slog.Logger
}

// Machine is process 1: a machine.Client.
type Machine interface {
	Slots
	Status(context.Context) (machine.Status, error)
	Log(ctx context.Context, after uint64, level machine.Level) ([]machine.Entry, error)
	PreviousLog(context.Context, machine.Level) ([]machine.Entry, error)
	Restart(context.Context) error
}

// Run is the service update. It calls ready once it answers on Socket.
func Run(ctx context.Context, ready func(), log *slog.Logger) error {
	rel, _ := release.Load(release.File) // process 1 has told what is wrong with it
	nets := network.NewClient()
	return Config{
		Socket: Socket, Data: dataDir, RootFile: release.UpdateRoot, Release: rel, Machine: machine.NewClient(), Log: log,
		Settings: func(ctx context.Context) (settings.Update, error) {
			all, err := nets.Settings(ctx)
			return all.Update, err
		},
		Health: realHealth(machine.NewClient(), nets),
		InCall: func(context.Context) bool { return false }, // nothing relays calls yet
		Trial:  realTrial, Farewell: 10 * time.Second,
	}.Run(ctx, ready)
}

// realHealth asks everybody.
func realHealth(m *machine.Client, nets *network.Client) func(context.Context) Health {
	page := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	return func(ctx context.Context) (h Health) {
		h.Machine, h.Page = m.Status(ctx)
		if s, err := nets.Status(ctx); err == nil {
			h.Network = &s
		}
		if h.Page != nil {
			return h
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1/", nil)
		if err == nil {
			var resp *http.Response
			if resp, err = page.Do(req); err == nil {
				resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					err = errors.New("it answers " + resp.Status)
				}
			}
		}
		h.Page = err
		return h
	}
}

// A service is one run of a Config.
type service struct {
	Config
	store  *store // of the mover
	uki    string // SHA-256 of the linux.efi that runs, once it is known; of the mover
	orders chan order

	mu        sync.Mutex // guards what follows
	shown     Status
	taken     bool               // something is ordered, comes in or is on its way: nothing else begins
	cancel    context.CancelFunc // of the attempt, while it may be cancelled
	cancelled bool               // it was
}

// An order is what somebody wants done.
type order struct {
	kind  Kind
	by    string // "" for the gateway itself
	check bool   // only see whether there is something
	file  string // an uploaded bundle
	stick bool   // it came, or is to come, from a USB stick
}

// source says where what is ordered comes from.
func (o order) source() Source {
	switch {
	case o.stick:
		return FromUSB
	case o.file != "":
		return FromUpload
	}
	return FromRepository
}

// Run runs the service until ctx ends. It calls ready once it answers on c.Socket.
func (c Config) Run(ctx context.Context, ready func()) error {
	debug.SetMemoryLimit(memory)
	s := &service{Config: c, orders: make(chan order, 1), taken: true} // until it is known what was on its way
	s.store = openStore(c.Data, func(err error) { c.Log.Warn(err.Error()) })
	s.show(func(st *Status) {
		st.Version, st.Attempts = c.Release.Version, s.store.all()
		st.State = s.store.last().State
	})
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop, err := s.listen(ctx, cancel)
	if err != nil {
		return err
	}
	defer stop()
	ready()
	return s.move(ctx)
}

// move is the one goroutine that moves an attempt on.
func (s *service) move(ctx context.Context) error {
	slots, err := s.awaitSlots(ctx)
	if err != nil {
		return nil // ctx has ended
	}
	s.resume(ctx, slots)
	s.release()
	next := time.NewTimer(firstCheck + time.Duration(rand.Int64N(int64(firstCheck))))
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
				return err
			}
			return nil
		case o := <-s.orders:
			s.carryOut(ctx, o)
			s.release()
		case <-next.C:
			pause := again
			if s.take() {
				s.carryOut(ctx, order{kind: Update})
				s.release()
				if c := s.status().Check; c == nil || !c.Reason.passes() {
					pause = interval
				}
			}
			next.Reset(pause + time.Duration(rand.Int64N(int64(jitter))))
		}
	}
}

// awaitSlots waits until process 1 knows the slots. A system that our loader did not start has none:
// it goes on without updates.
func (s *service) awaitSlots(ctx context.Context) (machine.Slots, error) {
	told := false
	for {
		slots, err := s.Machine.Slots(ctx)
		if err == nil {
			s.show(func(st *Status) { st.Slot = slots.Running })
			return slots, nil
		}
		if !told {
			told = true
			s.Log.Info("waiting for the slots: " + err.Error())
		}
		select {
		case <-ctx.Done():
			return slots, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// resume goes on with the attempt that a restart has interrupted.
func (s *service) resume(ctx context.Context, slots machine.Slots) {
	a := s.store.last()
	if slots.OnTrial && a.State != PendingReboot && a.State != Trial {
		// Somebody armed it by hand, or the record is lost: it has to prove itself all the same.
		to := s.Release.Version
		if a.State.Working() {
			to = a.To
			s.end(&a, Failed, fail(Interrupted, nil))
		}
		a = s.begin(Attempt{Kind: Update, By: "", Source: FromSlot, FromSlot: slots.Confirmed, ToSlot: slots.Running, To: to}, Trial)
		if err := s.trust(ctx).Allowed(s.Release.Version); err != nil { // it may have been a drill
			s.end(&a, RolledBack, failure(err, Internal))
			s.restart(ctx)
			return
		}
	}
	if !a.State.Working() {
		os.Remove(s.path(uploaded)) // it did not come whole
		s.lookAround(ctx)
		return
	}
	st, err := s.Machine.Status(ctx)
	if err != nil {
		s.Log.Warn(err.Error())
	}
	now := Booted{Slot: slots.Running, OnTrial: slots.OnTrial, BootID: st.BootID, Version: s.Release.Version, Trial: slots.Trial, Tries: slots.Tries}
	state, reason := Resume(a, now)
	s.Log.Info(fmt.Sprintf("update %d was %s when the gateway started: it is %s now", a.ID, a.State, state))
	switch state {
	case Trial:
		s.enter(&a, Trial)
		s.prove(ctx, &a)
	case Confirmed:
		s.confirmed(ctx, &a)
	case RolledBack:
		s.rolledBack(ctx, &a, st, reason)
	case PendingReboot:
		s.armAgain(ctx, a)
	case Downloading, Verifying:
		s.goOn(ctx, a)
	default:
		s.end(&a, Failed, fail(reason, nil))
	}
	s.lookAround(ctx)
}

// goOn begins an update anew that has not changed anything yet. What was fetched is there still.
func (s *service) goOn(ctx context.Context, a Attempt) {
	s.end(&a, Failed, fail(Interrupted, nil))
	switch {
	case a.Source == FromRepository:
		s.carryOut(ctx, order{kind: Update, by: a.By})
	case a.Source == FromUpload, a.Source == FromUSB:
		s.carryOut(ctx, order{kind: Update, by: a.By, file: s.path(uploaded), stick: a.Source == FromUSB})
	}
}

// armAgain goes on with an attempt whose slot was written, and which only waited for its restart.
func (s *service) armAgain(ctx context.Context, a Attempt) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.cancellable(cancel)
	defer s.cancellable(nil)
	m, err := look(ctx, s.Machine)
	if err == nil && m.Version != a.To {
		err = fail(NothingThere, fmt.Errorf("the slot holds %s and not %s", m.Version, a.To))
	}
	if err == nil {
		err = s.tryOther(ctx, &a)
	}
	s.finish(ctx, &a, err)
}

func (s *service) path(name string) string { return filepath.Join(s.Data, name) }

// lookAround finds out which system the other slot holds, for the page.
func (s *service) lookAround(ctx context.Context) {
	m, err := look(ctx, s.Machine)
	closeSlot(s.Machine)
	s.show(func(st *Status) {
		st.Other = nil
		if err == nil {
			st.Other = &Other{Version: m.Version, BuildTime: m.BuildTime}
		}
	})
}

// carryOut does what was ordered.
func (s *service) carryOut(ctx context.Context, o order) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.cancellable(cancel)
	defer s.cancellable(nil)
	switch o.kind {
	case Update:
		s.update(ctx, o)
	default:
		s.toOther(ctx, o)
	}
}

// A plan is what an update is to fetch and install.
type plan struct {
	offer trust.Offer
	file  string // where it lies already; "" for in the repository
}

// update looks for an update and installs it.
func (s *service) update(ctx context.Context, o order) {
	set, err := s.Settings(ctx)
	switch {
	case err != nil && o.source() == FromRepository:
		s.Log.Warn("update: " + err.Error())
		return
	case o.source() == FromRepository && set.Server == "":
		s.checked(LastCheck{Time: time.Now().UTC(), Reason: NoServer})
		return
	case err == nil && o.stick && o.file == "":
		o.file = s.path(uploaded)
		err = s.fromSticks(ctx)
	}
	var p plan
	if err == nil {
		p, err = s.find(ctx, o, set)
	}
	if err != nil {
		if s.stopping(ctx) {
			return
		}
		f := failure(err, Internal)
		s.checked(LastCheck{Time: time.Now().UTC(), Reason: f.Reason, Detail: f.Error()})
		if o.source() != FromRepository { // somebody waits for it
			os.Remove(s.path(uploaded))
			a := s.begin(Attempt{Kind: Update, By: o.by, Source: o.source(), From: s.Release.Version}, Checking)
			s.end(&a, Failed, f)
		}
		return
	}
	t := p.offer.Full.Target
	s.checked(LastCheck{Time: time.Now().UTC(), Available: &Available{
		Version: t.Version, Bytes: p.size(), Notes: Notes{DE: t.Notes["de"], EN: t.Notes["en"]},
	}})
	if o.check || o.by == "" && (!set.Automatic || s.store.gaveBack(t.Version)) {
		return
	}
	s.install(ctx, o, p)
}

func (p plan) size() int64 {
	if p.offer.Delta != nil {
		return p.offer.Delta.Size
	}
	return p.offer.Full.Size
}

// find asks the source for an update.
func (s *service) find(ctx context.Context, o order, set settings.Update) (plan, error) {
	root, err := safefile.Read(s.RootFile, 1<<20)
	if err != nil {
		return plan{}, fmt.Errorf("root metadata of the image: %w", err)
	}
	s.show(func(st *Status) { st.Checking = true })
	defer s.show(func(st *Status) { st.Checking = false })
	client := s.trust(ctx)
	client.Root, client.Now = root, time.Now
	device := trust.Device{
		Product: s.Release.Product, Board: s.Release.Board, Version: s.Release.Version, BuildTime: s.Release.BuildTime,
		Channel: string(set.Channel), Asked: o.by != "",
	}
	if st, err := s.Machine.Status(ctx); err == nil {
		device.Serial = st.Serial
	}
	if o.file != "" {
		f, err := safefile.Open(o.file)
		if err != nil {
			return plan{}, failure(err, MediumFailed)
		}
		defer f.Close()
		b, err := trust.OpenBundle(f)
		if err != nil {
			return plan{}, err
		}
		client.Source = b
		offer, err := client.Check(ctx, device)
		if err != nil {
			return plan{}, err
		}
		target, err := os.Create(s.path("fetched"))
		if err != nil {
			return plan{}, failure(err, MediumFailed)
		}
		_, err = io.Copy(target, b.Target(offer.Full))
		if err := errors.Join(err, target.Close()); err != nil {
			os.Remove(target.Name())
			return plan{}, failure(err, WrongFile)
		}
		return plan{offer: offer, file: s.path("fetched")}, nil
	}
	device.UKI = s.running(ctx)
	repo, err := trust.NewRepository(set.Server)
	if err != nil {
		return plan{}, fail(Reason(trust.NotRepository), err)
	}
	defer repo.Close()
	client.Source = repo
	offer, err := client.Check(ctx, device)
	return plan{offer: offer}, err
}

// install takes an update from its file to the restart.
func (s *service) install(ctx context.Context, o order, p plan) {
	full := p.offer.Full
	t := full.Target
	a := s.begin(Attempt{
		Kind: Update, By: o.by, Source: o.source(), From: s.Release.Version, To: t.Version, Bytes: full.Size,
		Floor: t.SecurityFloor, Notes: Notes{DE: t.Notes["de"], EN: t.Notes["en"]},
	}, Checking)
	err := func() error {
		path, verify := p.file, verify
		if path == "" {
			path, verify = s.path("fetched"), verifyCompared
			if err := s.fetch(ctx, &a, p.offer, path); err != nil {
				return err
			}
		}
		s.enter(&a, Verifying)
		if err := verify(path, t); err != nil {
			return err
		}
		s.enter(&a, Writing)
		if err := write(ctx, s.Machine, path, t); err != nil {
			return err
		}
		debug.FreeOSMemory()
		s.forget() // the slot has it now
		return s.tryOther(ctx, &a)
	}()
	// What came from the server is kept for the next attempt, but not where it leaves no room for the receipt.
	if err != nil && !s.stopping(ctx) && (p.file != "" || failure(err, Internal).Reason == NoSpace) {
		s.forget()
	}
	s.finish(ctx, &a, err)
}

// forget removes what was fetched and uploaded.
func (s *service) forget() {
	for _, name := range []string{uploaded, "fetched"} {
		os.Remove(s.path(name))
	}
}

// fetch has the whole update's file at path when it returns nil: made of a delta if there is one, else
// from the server.
func (s *service) fetch(ctx context.Context, a *Attempt, offer trust.Offer, path string) error {
	full := offer.Full
	if err := s.only(path, full.SHA256); err != nil {
		return err
	}
	info, err := os.Stat(path)
	if d := offer.Delta; d != nil && (err != nil || info.Size() != full.Size) {
		a.Delta, a.Bytes = true, d.Size
		err := s.fetchDelta(ctx, a, *d, full, path)
		if err == nil || ctx.Err() != nil {
			return err
		}
		s.Log.Warn("update: the delta is of no use, the whole update is fetched", "error", err)
		a.Delta, a.Bytes = false, full.Size
		if err := os.RemoveAll(path); err != nil {
			return failure(err, MediumFailed)
		}
	}
	s.enter(a, Downloading)
	return s.download(ctx, full, path)
}

// download fetches a file from the repository.
func (s *service) download(ctx context.Context, f trust.File, path string) error {
	d := fetcher{client: trust.NewHTTPClient(), tell: s.progress, log: s.Log, stalled: stalled, pauses: defaultPauses}
	defer d.client.CloseIdleConnections()
	return d.fetch(ctx, File{URL: f.URL, Size: f.Size, SHA256: f.SHA256}, path)
}

// fetchDelta fetches what differs from the system that runs, and makes the whole of both.
func (s *service) fetchDelta(ctx context.Context, a *Attempt, d, full trust.File, path string) error {
	s.enter(a, Downloading)
	patch := s.path("fetched.delta")
	if err := s.only(patch, d.SHA256); err != nil {
		return err
	}
	defer func() {
		if !s.stopping(ctx) {
			os.Remove(patch)
		}
	}()
	if err := s.download(ctx, d, patch); err != nil {
		return err
	}
	s.enter(a, Verifying)
	slots, err := s.Machine.OpenRunning(ctx)
	if err != nil {
		return fail(MediumFailed, err)
	}
	defer debug.FreeOSMemory() // the compressor's tables
	return rebuild(ctx, patch, d, filepath.Join(slots.OwnDir, bundle.UKI), full, path, s.progress)
}

// running returns the SHA-256 of the system that runs, for which there may be deltas; "" where it cannot
// be read.
func (s *service) running(ctx context.Context) string {
	if s.uki != "" {
		return s.uki
	}
	slots, err := s.Machine.OpenRunning(ctx)
	if err == nil {
		s.uki, err = sumFile(filepath.Join(slots.OwnDir, bundle.UKI))
	}
	if err != nil {
		s.Log.Warn("update: no deltas: " + err.Error())
	}
	return s.uki
}

// only keeps what was fetched before if it was of the same file.
func (s *service) only(path, sha256 string) error {
	mark := path + ".sha256"
	if b, err := safefile.Read(mark, 100); err == nil && string(b) == sha256 {
		return nil
	}
	return orNil(errors.Join(os.RemoveAll(path), os.WriteFile(mark, []byte(sha256), 0o600)), MediumFailed)
}

// toOther has the loader try what the other slot holds: to stay there, or to see that it would start.
func (s *service) toOther(ctx context.Context, o order) {
	a := s.begin(Attempt{Kind: o.kind, By: o.by, Source: FromSlot, From: s.Release.Version}, Verifying)
	err := func() error {
		m, err := look(ctx, s.Machine)
		if err != nil {
			return err
		}
		a.To = m.Version
		if err := s.trust(ctx).Allowed(m.Version); err != nil && o.kind == Rollback {
			return err
		}
		return s.tryOther(ctx, &a)
	}()
	s.finish(ctx, &a, err)
}

// tryOther waits for a good time, arms the trial and restarts. The other slot has been read back.
func (s *service) tryOther(ctx context.Context, a *Attempt) error {
	slots, err := s.Machine.Slots(ctx)
	if err != nil {
		return failure(err, NotSlots)
	}
	a.FromSlot, a.ToSlot = slots.Running, string(bootenv.Slot(slots.Running).Other())
	s.enter(a, PendingReboot)
	for a.By == "" && !s.goodTime(ctx) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(waiting):
		}
	}
	h := s.Health(ctx)
	a.Expected, a.BootID, a.PeakMemory = expect(h), h.Machine.BootID, peakMemory()
	s.save(*a)
	s.cancellable(nil) // from here on the loader decides
	if ctx.Err() != nil {
		return ctx.Err() // it was cancelled just before
	}
	if _, err := s.Machine.ArmSlot(ctx, 1); err != nil {
		return s.notArmed(ctx, err)
	}
	s.Log.Info(arming+a.ToSlot, "version", a.To)
	var refused <-chan time.Time
	err = s.Machine.Restart(ctx)
	if err != nil { // or the answer was lost: process 1 ends this service before all others
		refused = time.After(s.Farewell)
	}
	select {
	case <-ctx.Done(): // the restart is under way
		return nil
	case <-refused:
		return s.notArmed(ctx, err)
	}
}

// notArmed takes back what the loader may have been told: no start in some weeks shall try what failed.
func (s *service) notArmed(ctx context.Context, err error) error {
	_, e := s.Machine.ConfirmSlot(context.WithoutCancel(ctx))
	return fail(NotArmed, errors.Join(err, e))
}

// goodTime says whether the gateway may restart now by itself.
func (s *service) goodTime(ctx context.Context) bool {
	set, err := s.Settings(ctx)
	if err != nil {
		return false
	}
	now := time.Now()
	return inWindow(set.Window.From, set.Window.To, set.Window.Zone, now) && !(set.NotDuringCalls && s.InCall(ctx))
}

// finish ends an attempt that has not led to a restart.
func (s *service) finish(ctx context.Context, a *Attempt, err error) {
	if err == nil || s.stopping(ctx) {
		return // Resume goes on with it
	}
	closeSlot(s.Machine)
	s.end(a, Failed, failure(err, Internal))
	s.lookAround(context.WithoutCancel(ctx))
}

// stopping says whether the service ends, and not only the attempt.
func (s *service) stopping(ctx context.Context) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return ctx.Err() != nil && !s.cancelled
}

// prove runs the trial of the system that runs.
func (s *service) prove(ctx context.Context, a *Attempt) {
	t := s.Trial
	t.look = func(ctx context.Context) Health {
		h := s.Health(ctx)
		h.Version = s.Release.Version
		return h
	}
	expected := a.Expected
	expected.Version = a.To // also where the record of what was expected is lost
	checks, good := t.run(ctx, expected, func(list []Check) {
		s.show(func(st *Status) { st.Checks = list })
	})
	if ctx.Err() != nil {
		return
	}
	a.Checks = checks
	switch {
	case good && a.Kind == Drill:
		s.end(a, Confirmed, nil)
	case good:
		s.confirmed(ctx, a)
		return
	default:
		s.gaveUp(ctx, a)
	}
	s.restart(ctx)
}

// restart ends a trial: the loader starts the system before it.
func (s *service) restart(ctx context.Context) {
	if err := s.Machine.Restart(ctx); err != nil {
		s.Log.Error(err.Error())
	}
}

// confirmed makes the system that runs the one that stays.
func (s *service) confirmed(ctx context.Context, a *Attempt) {
	if _, err := s.Machine.ConfirmSlot(ctx); err != nil {
		s.Log.Error(err.Error()) // process 1 goes back when the trial's time is over
		s.end(a, RolledBack, fail(NotArmed, err))
		return
	}
	if a.Floor != "" { // before the end: a cut in between makes it good
		err := s.trust(ctx).RaiseFloor(a.Floor)
		if err := errors.Join(err, s.Machine.RaiseFloor(ctx, a.Floor)); err != nil {
			s.Log.Warn(err.Error())
		}
	}
	s.end(a, Confirmed, nil)
}

// trust returns what decides which versions may be installed. The floor is kept by process 1, too, where
// a factory reset leaves it.
func (s *service) trust(ctx context.Context) *trust.Client {
	kept, err := s.Machine.Floor(ctx)
	if err != nil {
		s.Log.Warn("update: the floor that outlasts a reset cannot be read: " + err.Error())
	}
	return &trust.Client{Dir: s.path("trust"), Log: s.Log, Kept: kept}
}
