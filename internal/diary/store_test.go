package diary

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// config is a diary in dir whose boot-time clock began now.
func config(dir string) Config {
	booted := time.Now()
	return Config{
		Dir:      dir,
		BootID:   "b8a3",
		Boottime: func() time.Duration { return time.Since(booted) },
		Clock:    func() string { return "ntp" },
		Log:      slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
}

// run has Run write, until the returned function is called.
func run(d *Diary) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.Run(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

func mustClose(t *testing.T, d *Diary) {
	t.Helper()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

func summary(list []Entry) (out []string) {
	for _, e := range list {
		out = append(out, fmt.Sprintf("%s%s ×%d", e.Kind, e.Args["port"], max(1, e.Count)))
	}
	return out
}

func TestEntriesOutliveTheProcess(t *testing.T) {
	c := config(filepath.Join(t.TempDir(), "diary"))
	d := Open(c)
	d.Add(CablePlugged, "port", "eth0", "speed", "1000")
	d.Add(DuplicateAddress, "port", "eth0", "address", "192.0.2.7", "mac", "02:00:00:00:00:4f", "colour", "not ours")
	before := d.List(0, 0)
	mustClose(t, d)

	d = Open(c)
	if got := d.List(0, 0); !reflect.DeepEqual(got, before) {
		t.Errorf("got  %+v\nwant %+v", got, before)
	}
	d.Add(CableUnplugged, "port", "eth0")
	mustClose(t, d)
	list := Open(c).List(0, 0)
	if len(list) != 3 || list[0].ID != 1 || list[2].ID != 3 {
		t.Errorf("got %+v, want three entries with IDs 1 to 3", list)
	}
	if _, extra := list[1].Args["colour"]; extra {
		t.Error("an argument that the kind does not have is kept")
	}
	if e := list[0]; e.BootID != "b8a3" || e.Clock != "ntp" || e.Time.Location() != time.UTC || e.Time.IsZero() {
		t.Errorf("got %+v", e)
	}
}

func TestRepeatsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := config(t.TempDir())
		d := Open(c)
		for range 17 {
			d.Add(NTPRefused, "server", "192.0.2.1", "reason", ReasonNoAnswer)
			time.Sleep(time.Minute)
		}
		d.Add(NTPRefused, "server", "192.0.2.1", "reason", ReasonDisagree) // says something else
		list := d.List(0, 0)
		if len(list) != 2 || list[0].Count != 17 || list[1].Count != 0 {
			t.Fatalf("got %+v", list)
		}
		if got := list[0].Last.Sub(list[0].Time); got != 16*time.Minute {
			t.Errorf("last seen %v after the first", got)
		}
		mustClose(t, d)
		if got := Open(c).List(0, 0); !reflect.DeepEqual(got, list) {
			t.Errorf("read again: %+v\nwant %+v", got, list)
		}
		time.Sleep(again + time.Second)
		d = Open(c)
		d.Add(NTPRefused, "server", "192.0.2.1", "reason", ReasonDisagree)
		if n := len(d.List(0, 0)); n != 3 {
			t.Errorf("%d entries: what happens again much later is news", n)
		}
	})
}

// A cable that flaps for a day, with the process restarted now and then.
func TestAFlappingCableWearsNothingOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := config(t.TempDir())
		d := Open(c)
		d.Add(StaticSet, "port", "eth1", "address", "192.0.2.1/24")
		stop := run(d)
		path := filepath.Join(c.Dir, current)
		var size int64
		writes, flaps := 0, 0
		for range 24 * 360 {
			for range 5 {
				d.Add(CableUnplugged, "port", "eth0")
				d.Add(CablePlugged, "port", "eth0", "speed", "1000")
				flaps++
				time.Sleep(2 * time.Second)
			}
			synctest.Wait()
			if info, err := os.Stat(path); err == nil && info.Size() != size {
				writes++
				size = info.Size()
			}
			if flaps%9000 == 0 {
				stop()
				mustClose(t, d)
				d = Open(c)
				stop = run(d)
			}
		}
		stop()
		list := d.List(0, 0)
		mustClose(t, d)
		if list[0].Kind != StaticSet {
			t.Error("the flapping cable displaced everything else")
		}
		counted := 0
		for _, e := range list {
			if e.Kind == CablePlugged {
				counted += max(1, e.Count)
			}
		}
		if counted != flaps {
			t.Errorf("%d of %d counted", counted, flaps)
		}
		if len(list) > 1+2*limits[1].most {
			t.Errorf("%d entries", len(list))
		}
		if writes > 400 {
			t.Errorf("written %d times in a day", writes)
		}
	})
}

func TestOthersOfAKindThatComeTooOftenAreOmitted(t *testing.T) {
	d := Open(config(t.TempDir()))
	for i := range 10000 { // a hostile router
		d.Add(PrefixAppeared, "port", "eth0", "prefix", fmt.Sprintf("2001:db8:%x::/64", i))
	}
	d.Add(CableUnplugged, "port", "eth0")
	list := d.List(0, 0)
	if want := limits[0].most + 1; len(list) != want {
		t.Fatalf("%d entries, want %d", len(list), want)
	}
	if e := list[len(list)-2]; e.Omitted != 10000-limits[0].most {
		t.Errorf("%d omitted", e.Omitted)
	}
}

func TestWritingIsCoalesced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := config(t.TempDir())
		d := Open(c)
		defer run(d)()
		path := filepath.Join(c.Dir, current)
		lines := func() int {
			synctest.Wait()
			b, err := os.ReadFile(path)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			return bytes.Count(b, []byte("\n"))
		}
		d.Add(CablePlugged, "port", "eth0")
		time.Sleep(settle / 2)
		if n := lines(); n != 0 {
			t.Errorf("%d lines at once", n)
		}
		time.Sleep(settle)
		if n := lines(); n != 1 {
			t.Errorf("%d lines after a moment", n)
		}
		for range 10 {
			d.Add(CableUnplugged, "port", "eth0")
			d.Add(CablePlugged, "port", "eth0")
			time.Sleep(settle)
		}
		if n := lines(); n != 1 {
			t.Errorf("%d lines while it is too early", n)
		}
		time.Sleep(pause)
		if n := lines(); n < 21 {
			t.Errorf("%d lines after the pause", n)
		}
		time.Sleep(lazy + pause)
		n := lines()
		d.Add(CablePlugged, "port", "eth0")
		time.Sleep(pause)
		if got := lines(); got != n {
			t.Errorf("a repeat was written at once: %d lines, then %d", n, got)
		}
		time.Sleep(lazy)
		if got := lines(); got != n+1 {
			t.Errorf("a repeat was not written: %d lines, then %d", n, got)
		}
	})
}

func TestTheDiaryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := config(t.TempDir())
		long := strings.Repeat("ü", maxArg)
		d := Open(c)
		for i := range 3 * maxEntries {
			d.Add(SettingsChanged, "by", fmt.Sprint(i), "from", long[:i%len(long)], "fields", long)
			time.Sleep(time.Hour)
			if i%50 == 0 {
				if err := d.flush(); err != nil {
					t.Fatal(err)
				}
			}
			if i == maxEntries { // small ones from here
				long = "ü"
			}
		}
		if d.bytes > maxBytes || len(d.entries) > maxEntries {
			t.Errorf("in memory: %d entries of %d bytes", len(d.entries), d.bytes)
		}
		mustClose(t, d)
		var total int64
		var lines int
		files, err := os.ReadDir(c.Dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			b, err := os.ReadFile(filepath.Join(c.Dir, f.Name()))
			if err != nil {
				t.Fatal(err)
			}
			total += int64(len(b))
			lines += bytes.Count(b, []byte("\n"))
		}
		if len(files) != 2 || total > maxBytes || lines > maxEntries {
			t.Errorf("on the medium: %d files of %d bytes, %d lines", len(files), total, lines)
		}
		read := Open(c).List(0, 0)
		kept := d.List(0, 0)
		if len(read) < segmentLines || !reflect.DeepEqual(read, kept[len(kept)-len(read):]) {
			t.Errorf("%d entries were read again, or not the newest", len(read))
		}
	})
}

func TestList(t *testing.T) {
	d := Open(config(t.TempDir()))
	for i := range 10 {
		d.Add(CablePlugged, "port", fmt.Sprint("eth", i))
	}
	for _, test := range []struct {
		after       uint64
		limit       int
		first, last uint64
	}{
		{0, 0, 1, 10}, {0, 3, 8, 10}, {7, 0, 8, 10}, {7, 2, 9, 10}, {9, 5, 10, 10},
		{1 << 63, 0, 1, 10}, {^uint64(0), 0, 1, 10},
	} {
		list := d.List(test.after, test.limit)
		if len(list) == 0 || list[0].ID != test.first || list[len(list)-1].ID != test.last {
			t.Errorf("after %d, %d at most: %q", test.after, test.limit, summary(list))
		}
	}
	if list := d.List(10, 0); len(list) != 0 {
		t.Errorf("after the newest: %q", summary(list))
	}
}

func TestTheActualTimeIsToldOnceItIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock, off := "floor", -5*365*24*time.Hour
		c := config(t.TempDir())
		c.Clock = func() string { return clock }
		d := Open(c)
		d.BootID = "the boot before"
		d.Add(CablePlugged)
		d.BootID = c.BootID
		var real []time.Time
		add := func(kind Kind) {
			real = append(real, time.Now().UTC())
			d.Add(kind)
			d.entries[len(d.entries)-1].Time = time.Now().Add(off).UTC()
			time.Sleep(time.Minute)
		}
		add(CablePlugged)
		add(LeaseObtained)
		for _, e := range d.List(0, 0) {
			if !e.Actual.IsZero() {
				t.Errorf("%+v: nobody knows the time yet", e)
			}
		}
		clock, off = "ntp", 0
		add(ClockStepped)
		if e := d.List(0, 0)[0]; !e.Actual.IsZero() {
			t.Error("an entry of the boot before is corrected")
		}
		list := d.List(1, 0)
		for i, e := range list[:2] {
			if !e.Actual.Equal(real[i]) {
				t.Errorf("%s: it was %v, not %v", e.Kind, real[i], e.Actual)
			}
		}
		if !list[2].Actual.IsZero() {
			t.Error("a right clock is corrected")
		}
		d.BootID, clock = "another", "floor"
		add(CablePlugged)
		if list := d.List(4, 0); !list[0].Actual.IsZero() {
			t.Error("an entry of the boot after is corrected")
		}
	})
}

// A diary that somebody or something else wrote, in part: what can be read is kept, and what is added
// is there the next time.
func TestADamagedDiaryGoesOn(t *testing.T) {
	good := func(id int) string {
		return fmt.Sprintf(`{"id":%d,"time":"2026-11-22T01:02:03Z","clock":"ntp","boottime_seconds":1,"boot_id":"x","kind":"cable-plugged","args":{"port":"eth%[1]d"}}`, id)
	}
	for _, test := range []struct {
		name, old, current string
		keep, damaged      int
	}{
		{"torn last line", "", good(1) + "\n" + good(2)[:40], 1, 1},
		{"no last newline", "", good(1) + "\n" + good(2), 2, 0},
		{"garbage in the middle", "", good(1) + "\n\x00\xff\x00\n" + good(2) + "\n", 2, 1},
		{"zeros", "", good(1) + "\n" + strings.Repeat("\x00", 4096), 1, 1},
		{"foreign", "", "hello\nworld\n", 0, 2},
		{"foreign JSON", "", "[]\n{}\n{\"id\":-1}\nnull\n", 0, 4},
		{"the old one is garbage", "x\n" + good(1) + "\n", good(2) + "\n", 2, 1},
		{"oversized", "", strings.Repeat("x", 10*segmentBytes) + "\n" + good(1) + "\n", 1, 1},
		{"both have an entry", good(1) + "\n" + good(2) + "\n", good(2) + "\n", 2, 0},
		{"not in order", "", good(3) + "\n" + good(1) + "\n", 2, 0},
		{"the last number there is", "", strings.Replace(good(1), `"id":1`, fmt.Sprintf(`"id":%d`, int64(maxID)), 1) + "\n", 0, 1},
		{"a number beyond", "", strings.Replace(good(1), `"id":1`, `"id":18446744073709551615`, 1) + "\n", 0, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := config(t.TempDir())
			for name, text := range map[string]string{old: test.old, current: test.current, "." + current + "123": "left by a killed process"} {
				if err := os.WriteFile(filepath.Join(c.Dir, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			d := Open(c)
			want := test.keep
			if test.damaged > 0 {
				want++
				list := d.List(0, 0)
				if e := list[len(list)-1]; e.Kind != DiaryDamaged || e.Args["lines"] != fmt.Sprint(test.damaged) {
					t.Errorf("the newest entry is %+v", e)
				}
			}
			d.Add(CableUnplugged, "port", "eth9")
			want++
			before := d.List(0, 0)
			mustClose(t, d)
			if len(before) != want {
				t.Errorf("%q, want %d entries", summary(before), want)
			}
			d = Open(c)
			if after := d.List(0, 0); !reflect.DeepEqual(after, before) {
				t.Errorf("read again: %q\nbefore: %q", summary(after), summary(before))
			}
			if files, _ := os.ReadDir(c.Dir); len(files) != 2 {
				t.Errorf("%d files are left", len(files))
			}
		})
	}
}

func TestWhatIsNoFileIsReplaced(t *testing.T) {
	for name, put := range map[string]func(path string) error{
		"fifo":    func(path string) error { return unix.Mkfifo(path, 0o600) },
		"symlink": func(path string) error { return os.Symlink("/proc/self/mem", path) },
	} {
		t.Run(name, func(t *testing.T) {
			c := config(t.TempDir())
			if err := put(filepath.Join(c.Dir, current)); err != nil {
				t.Fatal(err)
			}
			d := Open(c)
			d.Add(CablePlugged, "port", "eth0")
			mustClose(t, d)
			if list := Open(c).List(0, 0); len(list) != 2 || list[0].Kind != DiaryDamaged {
				t.Errorf("got %q", summary(list))
			}
		})
	}
}

// obstacles keep the diary from its files, root or not.
var obstacles = map[string]func(t *testing.T, dir string) (remove func()){
	"a directory in the file's place": func(t *testing.T, dir string) func() {
		path := filepath.Join(dir, current)
		if err := os.MkdirAll(filepath.Join(path, "x"), 0o700); err != nil {
			t.Fatal(err)
		}
		return func() { os.RemoveAll(path) }
	},
	"a file in the directory's place": func(t *testing.T, dir string) func() {
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		return func() {
			os.Remove(dir)
			os.Mkdir(dir, 0o700)
		}
	},
	"no data partition": func(t *testing.T, dir string) func() {
		parent := filepath.Dir(dir)
		if err := os.RemoveAll(parent); err != nil {
			t.Fatal(err)
		}
		return func() { os.MkdirAll(dir, 0o700) }
	},
}

func TestWithoutAMediumItGoesOnInMemory(t *testing.T) {
	for name, obstruct := range obstacles {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "data", "diary")
				if err := os.MkdirAll(dir, 0o700); err != nil {
					t.Fatal(err)
				}
				remove := obstruct(t, dir)
				var log lockedBuffer
				c := config(dir)
				c.Log = slog.New(slog.NewTextHandler(&log, nil))
				d := Open(c)
				stop := run(d)
				d.Add(CablePlugged, "port", "eth0")
				time.Sleep(time.Hour)
				d.Add(CableUnplugged, "port", "eth0")
				time.Sleep(time.Hour)
				synctest.Wait()
				if d.Err() == nil {
					t.Error("it does not say that it cannot be saved")
				}
				said := 0
				for _, e := range d.List(0, 0) {
					if e.Kind == DiaryUnsaved {
						said++
					}
				}
				if n := strings.Count(log.String(), "memory only"); said != 1 || n != 1 {
					t.Errorf("said %d times in the diary, %d times in the log:\n%s", said, n, log.String())
				}
				remove()
				time.Sleep(retry + pause)
				synctest.Wait()
				if err := d.Err(); err != nil {
					t.Errorf("after the cure: %v", err)
				}
				want := d.List(0, 0)
				stop()
				mustClose(t, d)
				if got := Open(config(dir)).List(0, 0); !reflect.DeepEqual(got, want) {
					t.Errorf("read again: %q\nwant %q", summary(got), summary(want))
				}
			})
		})
	}
}

// As on a disk that is full in the middle of a line: what got through is there, and an error.
func TestAFailedWriteIsMadeGood(t *testing.T) {
	c := config(t.TempDir())
	d := Open(c)
	d.Add(CablePlugged, "port", "eth0")
	if err := d.flush(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(c.Dir, current)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"id":2,"time":"20`); err != nil { // what got through
		t.Fatal(err)
	}
	f.Close()
	d.files.f.Close()
	if d.files.f, err = os.Open(path); err != nil {
		t.Fatal(err)
	}
	d.Add(CableUnplugged, "port", "eth0")
	if err := d.flush(); err == nil {
		t.Fatal("the write did not fail")
	}
	if d.Err() == nil {
		t.Error("it does not say so")
	}
	if err := d.flush(); err != nil {
		t.Fatal(err)
	}
	if err := d.Err(); err != nil {
		t.Errorf("after a good write: %v", err)
	}
	want := d.List(0, 0)
	mustClose(t, d)
	if got := Open(c).List(0, 0); !reflect.DeepEqual(got, want) || len(got) != 3 {
		t.Errorf("read again: %q\nwant %q", summary(got), summary(want))
	}
}

// A power cut between any two writes of a rotation loses nothing but what was to be lost.
func TestAllStatesOfARotationCanBeRead(t *testing.T) {
	c := config(t.TempDir())
	d := Open(c)
	for i := range 900 {
		d.add(Entry{Time: now(), BootID: fmt.Sprint(i), Kind: CablePlugged, Args: map[string]string{"port": fmt.Sprint("eth", i)}})
	}
	mustClose(t, d)
	var s files
	entries, damaged, err := s.open(c.Dir)
	if err != nil || damaged != 0 || len(entries) != 900 {
		t.Fatalf("%d entries, %d damaged, %v", len(entries), damaged, err)
	}
	if err := s.rotate(); err != nil { // and then the power fails
		t.Fatal(err)
	}
	d = Open(c)
	if list := d.List(0, 0); len(list) != 900 {
		t.Errorf("%d entries are left", len(list))
	}
	d.Add(CableUnplugged, "port", "eth0")
	mustClose(t, d)
	if list := Open(c).List(0, 0); len(list) != 901 || list[900].ID != 901 {
		t.Errorf("%d entries are left", len(list))
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"id":1,"time":"2026-11-22T01:02:03.004Z","clock":"ntp","boottime_seconds":12.5,"boot_id":"x","kind":"cable-plugged","args":{"port":"eth0"},"count":17,"last":"2026-11-22T01:03:03Z","last_boottime_seconds":72}`+"\n"), []byte("{\"id\":1"))
	f.Add([]byte("{\"id\":281474976710656,\"kind\":\"x\"}\n\x00\xff\n"), []byte(`{"id":2,"time":"9999-12-31T23:59:59-23:59","kind":"x"}`+"\n"))
	f.Add([]byte(`{"id":3,"kind":"x","args":{"a":"\u202e\u001b[2J"},"boottime_seconds":1e308,"omitted":-1}`), []byte(`{"id":3,"kind":"x","args":{"a":"\u202e\u001b[2J"},"actual":"2026-11-22T01:02:03Z"}`))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		list, damaged, whole := merge(first, second)
		if damaged > 0 && whole {
			t.Error("damaged and whole")
		}
		for i, e := range list {
			if e.ID == 0 || e.ID >= maxID || i > 0 && e.ID <= list[i-1].ID {
				t.Fatalf("IDs do not grow: %+v", list)
			}
			if e.Text("de") == "" || e.line() == nil {
				t.Errorf("cannot be shown or written: %+v", e)
			}
		}
		b, lines, rest := pack(list)
		if len(b) > segmentBytes || lines > segmentLines {
			t.Errorf("a segment of %d lines and %d bytes", lines, len(b))
		}
		before, _, _ := pack(rest)
		again, damaged, whole := merge(before, b)
		if damaged > 0 || !whole || len(again) > len(list) || !slices.EqualFunc(again, list[len(list)-len(again):], func(a, b Entry) bool { return reflect.DeepEqual(a, b) }) {
			t.Errorf("read again, %d damaged:\n%+v\nbefore:\n%+v", damaged, again, list)
		}
	})
}

// A lockedBuffer is a log that can be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
