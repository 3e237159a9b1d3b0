package commit

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"cloudlink.local/gateway/internal/diary"
	"cloudlink.local/gateway/internal/settings"
)

// A Config says where the record is kept and who is told.
type Config struct {
	File     string // the record, in a folder that is there
	Store    Store
	BootID   string
	Boottime func() time.Duration        // CLOCK_BOOTTIME
	Changed  func()                      // Effective is another; called by what changed it, and must not change it again
	Note     func(diary.Kind, ...string) // (*diary.Diary).Add
	Log      *slog.Logger
}

// A Store has the settings; a *settings.Store is one. While a Keeper has it, nobody else changes the
// network in it.
type Store interface {
	Get() settings.Settings
	Save(settings.Settings) error
}

// Effective is what is to be applied now.
type Effective struct {
	Current settings.Network

	// Beside is the old configuration during a probation, else nil. Of it a port keeps the addresses
	// that Current lacks, and the routes for replies from them, and nothing that would do in place of
	// what is new: an old router would hide that the new one is wrong. An address that both have on
	// different links or with different lengths is Current's.
	Beside *settings.Network
}

// Status is the last change as it is shown.
type Status struct {
	Change
	RemainingSeconds float64 `json:"remaining_seconds,omitempty"` // to confirm
}

// A Keeper keeps what was confirmed and the change on probation. Its methods may be called at the same
// time; they do not wait for the medium, but for those that change something.
type Keeper struct {
	Config
	medium medium
	wake   chan struct{} // has one element after a probation began

	changing sync.Mutex // held while something is changed and saved; taken before mu

	mu        sync.Mutex       // guards what follows
	confirmed settings.Network // last; also where it could not be saved
	change    Change
}

// Open goes on where the record says. What is to be applied first is Effective's.
func Open(c Config) *Keeper { return open(c, file(c.File)) }

func open(c Config, m medium) *Keeper {
	k := &Keeper{Config: c, medium: m, wake: make(chan struct{}, 1), confirmed: c.Store.Get().Network}
	b, err := m.read()
	if errors.Is(err, fs.ErrNotExist) {
		k.change = Change{State: Idle}
		return k
	}
	was, parseErr := decode(b)
	if err == nil {
		err = parseErr
	}
	if err != nil {
		k.Log.Warn("the record of a change on probation is damaged, the settings confirmed last count: " + err.Error())
		k.Note(diary.CommitDamaged)
		k.change = Change{State: Idle}
		k.save(k.change)
		return k
	}
	k.change = k.resume(was)
	if k.change.State == was.State {
		return k
	}
	if k.change.State == Returned {
		k.tellReturn(k.change)
	}
	k.save(k.change)
	return k
}

// resume returns the last change that the last process knew of, as it stands now.
func (k *Keeper) resume(was Change) Change {
	switch {
	case was.State == Probation && k.confirmed.Equal(was.New): // the process ended between the settings and the record
		was.State = Confirmed
	case was.State == Probation && !k.confirmed.Equal(was.Old), was.State == Confirmed && !k.confirmed.Equal(was.New):
		return Change{Number: was.Number, State: Idle} // the record is out of date
	}
	return was.expire(k.now())
}

func (k *Keeper) now() moment { return moment{bootID: k.BootID, boottime: k.Boottime()} }

// Begin changes the network settings: on probation where the change is risky. A further change during
// a probation takes the place of the new settings and begins its time anew. What changes nothing is not
// written. Settings that are wrong are refused with their Check's error. Any other error is a *SaveError.
func (k *Keeper) Begin(new settings.Network, by, from string) (Status, error) {
	all := k.Store.Get()
	all.Network = new
	if err := all.Check(); err != nil {
		return k.Status(), err
	}
	k.changing.Lock()
	defer k.changing.Unlock()
	k.mu.Lock()
	was := k.change
	if was.State != Probation && new.Equal(k.confirmed) {
		k.mu.Unlock()
		return k.Status(), k.saveSettings(new) // perhaps the medium did not take them
	}
	next := was.begin(k.confirmed, new, bound(by), bound(from), k.now())
	if next.State == Probation {
		k.mu.Unlock()
		k.save(next) // before it is applied: a process that is started anew knows what it finds
		k.mu.Lock()
	}
	k.change = next
	if next.State == Confirmed {
		k.confirmed = next.New
	}
	k.mu.Unlock()
	switch {
	case next.State == Probation:
		k.tellBegin(next)
		k.nudge()
	case was.State == Probation:
		k.Note(diary.CommitReturned, "reason", diary.ReasonTakenBack)
	}
	k.Changed()
	return k.Status(), k.settle(next)
}

// Confirm confirms change number (0: whichever is on probation) by a request that came in on our
// address arrived. A *RefusedError says why it does not count. Any other error is a *SaveError.
func (k *Keeper) Confirm(number uint64, arrived netip.Addr, ours Addresses, by, from string) (Status, error) {
	k.changing.Lock()
	defer k.changing.Unlock()
	k.mu.Lock()
	next, err := k.change.confirm(number, arrived, ours, k.now())
	if err != nil {
		k.mu.Unlock()
		return k.Status(), err
	}
	k.change, k.confirmed = next, next.New // in time, however long the medium takes now
	k.mu.Unlock()
	k.Note(diary.CommitConfirmed, "by", bound(by), "from", bound(from), "address", arrived.Unmap().String())
	k.Changed()
	return k.Status(), k.settle(next)
}

// TakeBack ends the probation as if its time were over. Its error is a *RefusedError.
func (k *Keeper) TakeBack() (Status, error) {
	k.changing.Lock()
	defer k.changing.Unlock()
	k.mu.Lock()
	if k.change.State != Probation {
		k.mu.Unlock()
		return k.Status(), &RefusedError{Refusal: NoProbation}
	}
	next := k.change.takeBack()
	k.change = next
	k.mu.Unlock()
	k.Note(diary.CommitReturned, "reason", next.Reason)
	k.Changed()
	return k.Status(), k.settle(next)
}

// A SaveError says that settings are in effect but could not be saved: they count until the next start.
type SaveError struct{ Err error }

func (e *SaveError) Error() string {
	return "save the network settings, they count until the next start: " + e.Err.Error()
}

func (e *SaveError) Unwrap() error { return e.Err }

// settle saves what next leads to: first the settings, which decides, then the record.
func (k *Keeper) settle(next Change) error {
	if next.State == Probation {
		return nil
	}
	if next.State == Confirmed {
		if err := k.saveSettings(next.New); err != nil {
			return err // the record stays: what it says will be over by the next start, or the old settings return
		}
	}
	k.save(next)
	return nil
}

// saveSettings saves what was confirmed.
func (k *Keeper) saveSettings(n settings.Network) error {
	all := k.Store.Get()
	all.Network = n
	if err := k.Store.Save(all); err != nil {
		k.Log.Warn("save the confirmed network settings: " + err.Error())
		return &SaveError{err}
	}
	return nil
}

// save writes the record. Without it nothing goes wrong but that a process that is started anew
// returns to what was confirmed: so the owner's change is not refused for it.
func (k *Keeper) save(c Change) {
	if err := k.medium.write(encode(c)); err != nil {
		k.Log.Warn("write the record of the network change: " + err.Error())
	}
}

// Run returns a change that is not confirmed in time, until ctx ends. A probation goes on then.
func (k *Keeper) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-k.wake:
		case <-timer.C:
		}
		if left, on := k.tick(); on {
			// Timers stand still while a virtual machine is suspended, and the boot-time clock does not.
			timer.Reset(min(left, time.Second))
		}
	}
}

// tick returns the change if its time is over. on says that one is on probation still.
func (k *Keeper) tick() (left time.Duration, on bool) {
	k.mu.Lock()
	was, at := k.change, k.now()
	next := was.expire(at)
	k.change = next
	k.mu.Unlock()
	if next.State == was.State {
		return next.remaining(at), next.State == Probation
	}
	k.tellReturn(next)
	k.Changed()
	k.changing.Lock() // only now: the old configuration does not wait for the medium
	defer k.changing.Unlock()
	k.mu.Lock()
	next = k.change
	k.mu.Unlock()
	if next.State == Returned { // and not begun anew meanwhile, which was saved
		k.save(next)
	}
	return next.remaining(k.now()), next.State == Probation
}

func (k *Keeper) nudge() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// Effective returns what is to be applied.
func (k *Keeper) Effective() Effective {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.change.State != Probation {
		return Effective{Current: k.confirmed.Clone()}
	}
	beside := k.confirmed.Clone()
	return Effective{Current: k.change.New.Clone(), Beside: &beside}
}

// Status returns the last change.
func (k *Keeper) Status() Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := Status{Change: k.change, RemainingSeconds: k.change.remaining(k.now()).Seconds()}
	s.Old, s.New = s.Old.Clone(), s.New.Clone()
	return s
}

func (k *Keeper) tellBegin(c Change) {
	k.Note(diary.CommitProbation, "by", c.By, "from", c.From, "fields", strings.Join(Fields(c.Old, c.New), ", "),
		"seconds", strconv.Itoa(int(Period/time.Second)))
}

func (k *Keeper) tellReturn(c Change) {
	if c.Reason == atBoot {
		k.Note(diary.CommitReturnedAtBoot)
	} else {
		k.Note(diary.CommitReturned, "reason", c.Reason)
	}
}

// bound makes a name fit for the record: it may come from a stranger.
func bound(s string) string {
	const most = 100
	if len(s) > most {
		s = s[:most]
	}
	return strings.ToValidUTF8(s, "?")
}
