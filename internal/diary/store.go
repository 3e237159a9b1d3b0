package diary

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"
)

// The diary's bounds, in memory and, in two segments of half the size each, on the medium.
const (
	maxEntries = 2000
	maxBytes   = 256 << 10
)

// When entries are written: soon after the first, then no more often than every pause. Counts of
// repeats can wait, and a medium that refused is asked again after retry.
const (
	settle = time.Second
	pause  = 30 * time.Second
	lazy   = 10 * time.Minute
	retry  = 10 * time.Minute
)

// again is how long an event that is the same as the newest entry is counted as its repeat.
const again = time.Hour

// limits are how many entries of one kind are added in one boot within a time; what exceeds them is
// counted. A cable that flaps for days fills neither the diary nor the medium's life.
var limits = []struct {
	within time.Duration
	most   int
}{
	{10 * time.Minute, 20},
	{24 * time.Hour, 100},
}

// A Config says where the diary is and what it notes beside each event.
type Config struct {
	Dir      string // of its own
	BootID   string
	Boottime func() time.Duration // CLOCK_BOOTTIME
	Clock    func() string        // the clock's state, as Entry.Clock; must be quick
	Log      *slog.Logger
}

// A Diary is the timeline. Its methods may be called at the same time. Add only notes in memory;
// Run writes, and Close writes what is left.
type Diary struct {
	Config
	wake chan struct{} // has one element after due has changed

	writing sync.Mutex // held while the medium is used; taken before mu
	files   files      // guarded by writing

	mu      sync.Mutex // guards what follows
	entries []Entry    // by ID; an entry's Args never change
	bytes   int        // what the entries are estimated to take
	next    uint64     // ID
	pending map[uint64]bool
	fresh   time.Time // when the oldest pending new entry was added; zero for none
	counted time.Time // when the oldest pending count was
	written time.Time // when the medium was tried last
	err     error     // why it could not be written
}

// Open reads the diary in c.Dir. It never fails: what cannot be read is left out, and without a
// directory that can be written the diary is kept in memory. It says either in the diary and the log.
func Open(c Config) *Diary {
	d := &Diary{Config: c, wake: make(chan struct{}, 1), pending: map[uint64]bool{}, next: 1}
	entries, damaged, err := d.files.open(c.Dir)
	for _, e := range entries {
		d.entries = append(d.entries, e)
		d.bytes += e.size()
		d.next = e.ID + 1
	}
	d.trim()
	switch {
	case err != nil:
		d.Log.Warn("read diary: " + err.Error())
		d.Add(DiaryDamaged)
	case damaged > 0:
		d.Log.Warn("the diary was damaged", "lines", damaged)
		d.Add(DiaryDamaged, "lines", strconv.Itoa(damaged))
	}
	return d
}

// Add notes an event: args are the names and values of the kind's arguments.
func (d *Diary) Add(kind Kind, args ...string) {
	e := Entry{Clock: d.Clock(), Boottime: d.Boottime().Seconds(), BootID: d.BootID, Kind: kind, Time: now()}
	names, _ := arguments(kind)
	for i := 0; i+1 < len(args); i += 2 {
		if args[i+1] == "" || !slices.Contains(names, args[i]) {
			continue
		}
		if e.Args == nil {
			e.Args = map[string]string{}
		}
		e.Args[args[i]] = printable(args[i+1])
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.add(e)
}

// add adds e, or counts it where it is a repeat or comes too often.
func (d *Diary) add(e Entry) {
	if old := d.counts(e); old != nil {
		if same(*old, e) {
			old.Count = max(1, old.Count) + 1
		} else {
			old.Omitted++
		}
		old.Last, old.LastBoottime = e.Time, e.Boottime
		if !d.pending[old.ID] {
			d.pending[old.ID] = true
			if d.counted.IsZero() {
				d.counted = time.Now()
			}
			d.nudge()
		}
		return
	}
	e.ID = d.next
	d.next++
	d.entries = append(d.entries, e)
	d.bytes += e.size()
	d.trim()
	d.pending[e.ID] = true
	if d.fresh.IsZero() {
		d.fresh = time.Now()
	}
	d.nudge()
}

// counts returns the entry that counts e; nil where e is to be added.
func (d *Diary) counts(e Entry) *Entry {
	var equal, kind *Entry // the newest of the same text, of the same kind
	seen := make([]int, len(limits))
	for i := len(d.entries) - 1; i >= 0; i-- {
		old := &d.entries[i]
		age := seconds(e.Boottime - old.Boottime)
		if old.BootID != e.BootID || age > limits[len(limits)-1].within {
			break
		}
		if old.Kind != e.Kind {
			continue
		}
		if kind == nil {
			kind = old
		}
		if equal == nil && same(*old, e) {
			equal = old
		}
		if i == len(d.entries)-1 && equal != nil && seconds(e.Boottime-max(old.Boottime, old.LastBoottime)) <= again {
			return equal
		}
		for n, l := range limits {
			if age <= l.within {
				seen[n]++
			}
		}
	}
	for n, l := range limits {
		if seen[n] >= l.most {
			if equal != nil {
				return equal
			}
			return kind
		}
	}
	return nil
}

// same says whether two entries tell the same.
func same(a, b Entry) bool { return a.Kind == b.Kind && maps.Equal(a.Args, b.Args) }

// trim drops the oldest entries beyond the bounds.
func (d *Diary) trim() {
	drop := 0
	for ; len(d.entries)-drop > maxEntries || d.bytes > maxBytes && drop < len(d.entries)-1; drop++ {
		d.bytes -= d.entries[drop].size()
		delete(d.pending, d.entries[drop].ID)
		d.entries[drop] = Entry{} // lets go of its arguments
	}
	d.entries = d.entries[drop:] // append moves to a new array once this one's end is reached
}

// nudge has Run look again at what is due.
func (d *Diary) nudge() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// due returns when to write; the zero time is never.
func (d *Diary) due() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case len(d.pending) == 0:
		return time.Time{}
	case d.err != nil:
		return d.written.Add(retry)
	case d.fresh.IsZero():
		return d.counted.Add(lazy)
	}
	due := d.fresh.Add(settle)
	if spaced := d.written.Add(pause); spaced.After(due) {
		due = spaced
	}
	return due
}

// Run writes what was added, until ctx ends.
func (d *Diary) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Stop()
		if due := d.due(); !due.IsZero() {
			timer.Reset(time.Until(due))
		}
		select {
		case <-ctx.Done():
			d.flush()
			return nil
		case <-d.wake:
		case <-timer.C:
			d.flush()
		}
	}
}

// Close writes what is left and lets go of the files. Nothing is to be added afterwards.
func (d *Diary) Close() error {
	err := d.flush()
	d.writing.Lock()
	defer d.writing.Unlock()
	return errors.Join(err, d.files.close())
}

// Err returns why the diary cannot be saved; nil while it can.
func (d *Diary) Err() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

// flush writes the pending entries to the medium. Those it does not take remain pending.
func (d *Diary) flush() error {
	d.writing.Lock()
	defer d.writing.Unlock()
	d.mu.Lock()
	var list []Entry
	for _, e := range d.entries {
		if d.pending[e.ID] || d.files.torn { // which are written anew
			list = append(list, e)
		}
	}
	taken := d.pending
	if len(taken) == 0 {
		d.mu.Unlock()
		return nil
	}
	d.pending, d.fresh, d.counted = map[uint64]bool{}, time.Time{}, time.Time{}
	d.mu.Unlock()

	err := d.files.write(list)

	d.mu.Lock()
	d.written = time.Now()
	recovered := err == nil && d.err != nil
	if err == nil {
		d.err = nil
	} else {
		maps.Copy(d.pending, taken)
		d.forget()
	}
	d.mu.Unlock()
	if err != nil {
		err = fmt.Errorf("write diary: %w", err)
		d.trouble(err)
	}
	if recovered {
		d.Log.Info("the diary can be saved again")
	}
	return err
}

// forget drops from pending what trim dropped meanwhile.
func (d *Diary) forget() {
	for id := range d.pending {
		if len(d.entries) == 0 || id < d.entries[0].ID {
			delete(d.pending, id)
		}
	}
}

// trouble notes why the diary cannot be saved; it says so once.
func (d *Diary) trouble(err error) {
	d.mu.Lock()
	first := d.err == nil
	d.err, d.written = err, time.Now()
	d.mu.Unlock()
	if first {
		d.Log.Warn("the diary is kept in memory only: " + err.Error())
		d.Add(DiaryUnsaved)
	}
}

// List returns the newest entries after ID after, at most limit of them (0: all), oldest first. An
// after that is yet to come is from a diary that was lost: it is answered with all there is.
func (d *Diary) List(after uint64, limit int) []Entry {
	d.mu.Lock()
	list := slices.Clone(d.entries)
	next := d.next
	d.mu.Unlock()
	tellActual(list)
	if after < next {
		i, _ := slices.BinarySearchFunc(list, after+1, func(e Entry, id uint64) int { return cmp.Compare(e.ID, id) })
		list = list[i:]
	}
	if limit > 0 && len(list) > limit {
		list = list[len(list)-limit:]
	}
	return list
}

// tellActual fills Actual where the clock was wrong and a later entry of the same boot knows the time.
func tellActual(list []Entry) {
	var known *Entry // the oldest of its boot, so far, whose clock was right
	for i := len(list) - 1; i >= 0; i-- {
		e := &list[i]
		switch {
		case e.Clock == "ntp" || e.Clock == "verified":
			known = e
		case known != nil && known.BootID == e.BootID && known.Boottime >= e.Boottime:
			e.Actual = known.Time.Add(-seconds(known.Boottime - e.Boottime)).Truncate(time.Second)
		}
	}
}

func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
