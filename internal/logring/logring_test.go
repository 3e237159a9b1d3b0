package logring

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"cloudlink.local/gateway/internal/machine"
)

func texts(list []machine.Entry) []string {
	var s []string
	for _, e := range list {
		s = append(s, e.Text)
	}
	return s
}

func TestTheNewestEntriesAreKeptWithinTheBound(t *testing.T) {
	r := New(10 * (overhead + 10))
	for i := range 25 {
		r.Add("test", machine.LevelInfo, fmt.Sprintf("entry %04d", i))
	}
	list := r.Since(0, machine.LevelDebug)
	if len(list) != 10 || list[0].Text != "entry 0015" || list[9].Text != "entry 0024" || list[9].Seq != 25 {
		t.Errorf("kept %v", list)
	}
	r.Add("test", machine.LevelInfo, strings.Repeat("x", MaxLine))
	if list := r.Since(0, machine.LevelDebug); len(list) != 1 {
		t.Errorf("one that is larger than the bound leaves %d", len(list))
	}
}

func TestEntriesAreAskedForByNumberAndLevel(t *testing.T) {
	r := New(1 << 20)
	for _, level := range []machine.Level{machine.LevelInfo, machine.LevelError, machine.LevelDebug, machine.LevelWarn} {
		r.Add("test", level, fmt.Sprint(level))
	}
	for _, c := range []struct {
		after uint64
		level machine.Level
		want  string
	}{
		{0, machine.LevelDebug, "6 3 7 4"}, {0, machine.LevelWarn, "3 4"}, {2, machine.LevelDebug, "7 4"},
		{4, machine.LevelDebug, ""}, {1 << 63, machine.LevelDebug, ""}, {0, 0, ""},
	} {
		if got := strings.Join(texts(r.Since(c.after, c.level)), " "); got != c.want {
			t.Errorf("after %d up to level %d: %q, want %q", c.after, c.level, got, c.want)
		}
	}
	if list := New(100).Since(0, 7); list == nil || len(list) != 0 {
		t.Errorf("an empty ring gives %v: JSON must say []", list)
	}
}

func TestManyMayWriteAndReadAtOnce(t *testing.T) {
	r := New(8 << 10)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 500 {
				r.Add("test", machine.LevelError, "text")
				r.Since(0, machine.LevelDebug)
			}
		})
	}
	all.Wait()
	list := r.Since(0, machine.LevelDebug)
	for i, e := range list {
		if e.Seq != list[0].Seq+uint64(i) {
			t.Fatalf("numbers %d and %d follow each other", list[i-1].Seq, e.Seq)
		}
	}
	if list[len(list)-1].Seq != 2000 {
		t.Errorf("the last one is %d", list[len(list)-1].Seq)
	}
}

func TestLateLinesAreReadInTheOrderOfTime(t *testing.T) {
	r := New(1 << 20)
	start := time.Now()
	r.now = func() time.Time { return start.Add(5 * time.Second) }
	r.Add("init", machine.LevelInfo, "five")
	r.Add("init", machine.LevelDebug, "five again")
	r.addAt(start.Add(1*time.Second), "kernel", machine.LevelInfo, "one")
	r.addAt(start.Add(2*time.Second), "kernel", machine.LevelWarn, "two")
	read := func(after uint64, level machine.Level, want string) (last uint64) {
		t.Helper()
		list := r.Since(after, level)
		if got := strings.Join(texts(list), ", "); got != want {
			t.Errorf("after %d: %q, want %q", after, got, want)
		}
		last = after
		for _, e := range list {
			if e.Seq <= last {
				t.Errorf("after %d: number %d follows %d", after, e.Seq, last)
			}
			last = e.Seq
		}
		return last
	}
	last := read(0, machine.LevelDebug, "one, two, five, five again")
	read(0, machine.LevelInfo, "one, two, five")
	read(2, machine.LevelInfo, "one, two") // whoever has read before gets them when they come

	r.now = func() time.Time { return start.Add(6 * time.Second) }
	r.Add("init", machine.LevelInfo, "six")
	if last = read(last, machine.LevelDebug, "six"); last != 5 {
		t.Errorf("the last is number %d, want 5", last)
	}
	read(last, machine.LevelDebug, "")
}

// The kernel's clock is not set in a test; the ring's copy of the time is.
func TestAStepOfTheClockChangesNoOrder(t *testing.T) {
	r := New(1 << 20)
	start := time.Now()
	for i, wall := range []time.Duration{0, -8760 * time.Hour, 8760 * time.Hour, 0} {
		at := start.Add(time.Duration(i) * time.Second)
		r.addAt(at, "test", machine.LevelInfo, fmt.Sprint(i))
		r.entries[i].Time = r.entries[i].Time.Add(wall)
	}
	r.addAt(start.Add(1500*time.Millisecond), "kernel", machine.LevelInfo, "late")
	if got := strings.Join(texts(r.Since(0, machine.LevelDebug)), " "); got != "0 1 late 2 3" {
		t.Errorf("read %q", got)
	}
}

func TestALineCannotDriveATerminal(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                 "plain",
		"Grüße, 世界":             "Grüße, 世界",
		"\x1b[2Jgone\a":         `\x1b[2Jgone\x07`,
		"two\nlines\r\n":        `two\x0alines`,
		"tab\there":             "tab here",
		"csi \u009b31m":         `csi \x9b31m`,
		"bad \xff utf8":         "bad \uFFFD utf8",
		"turn\u202eback":        "turnback",
		"zero\u200bwidth\ufeff": "zerowidth",
		"\x00":                  `\x00`,
		"":                      "",
	} {
		if got := Clean(in); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}

func FuzzClean(f *testing.F) {
	f.Add("plain")
	f.Add("\x1b[2J \xff\u009b")
	f.Fuzz(func(t *testing.T, in string) {
		got := Clean(in)
		if !utf8.ValidString(got) || len(got) > MaxLine {
			t.Fatalf("%d bytes, valid %v", len(got), utf8.ValidString(got))
		}
		for _, c := range got {
			if c < ' ' || c >= 0x7f && c < 0xa0 {
				t.Fatalf("%q has %q", got, c)
			}
		}
		if again := Clean(got); again != strings.TrimRight(got, " ") {
			t.Fatalf("%q becomes %q when it is cleaned again", got, again)
		}
	})
}

func TestOutputBecomesEntriesWithLevels(t *testing.T) {
	r := New(1 << 20)
	r.Copy("portal", strings.NewReader("<6>hello\n<3>bad\npanic: oh\n<30>facility\n<x>odd\n<>odd\n<\n\n<6>"+strings.Repeat("é", MaxLine)+"\n<7>no end"))
	want := []string{"6 hello", "3 bad", "4 panic: oh", "6 facility", "4 <x>odd", "4 <>odd", "4 <", "4 "}
	list := r.Since(0, machine.LevelDebug)
	if len(list) != len(want)+2 {
		t.Fatalf("%d entries: %v", len(list), texts(list))
	}
	for i, w := range want {
		if got := fmt.Sprintf("%d %s", list[i].Level, list[i].Text); got != w || list[i].Source != "portal" {
			t.Errorf("entry %d from %s is %q, want %q", i, list[i].Source, got, w)
		}
	}
	if long := list[len(want)].Text; !strings.HasPrefix(long, "éé") || !strings.HasSuffix(long, "é…") || len(long) > MaxLine {
		t.Errorf("the long line is %d bytes and ends in %q", len(long), long[len(long)-10:])
	}
	if last := list[len(want)+1]; last.Text != "no end" || last.Level != machine.LevelDebug {
		t.Errorf("the last one is %+v", last)
	}
}

func TestASourceThatFloodsIsCutShortAndToldOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(1 << 20)
		out, in := io.Pipe()
		done := make(chan struct{})
		go func() { r.Copy("wild", out); close(done) }()
		for range 1000 {
			fmt.Fprintln(in, "<6>line")
		}
		time.Sleep(10 * time.Second)
		fmt.Fprintln(in, "<6>later")
		in.Close()
		<-done
		list := texts(r.Since(0, machine.LevelDebug))
		if len(list) != burst+2 || list[burst] != "600 more lines came too fast and were dropped" || list[burst+1] != "later" {
			t.Errorf("%d entries, the last are %q", len(list), list[max(0, len(list)-3):])
		}
	})
}

func FuzzOutput(f *testing.F) {
	f.Add([]byte("<6>hello\n"))
	f.Add(bytes.Repeat([]byte("x"), MaxLine+20))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := New(1 << 16)
		r.Copy("fuzz", bytes.NewReader(b))
		for _, e := range r.Since(0, machine.LevelDebug) {
			if len(e.Text) > MaxLine || !utf8.ValidString(e.Text) || e.Level < 0 || e.Level > 7 {
				t.Fatalf("%+v", e)
			}
		}
	})
}

func TestKernelRecordsAreRead(t *testing.T) {
	for in, want := range map[string]string{
		"4,1,2500000,-;bad thing\n SUBSYSTEM=x\n":  "4 2.5s bad thing",
		"6,339,5140900,-,caller=T1;NET: up\n":      "6 5.1409s NET: up",
		"2,1,0,c;":                                 "2 0s ",
		`6,1,0,-;a\x09b \x5cx09 \xc3\xbc \x1 \xzz`: "6 0s a\tb \\x09 ü \\x1 \\xzz",
	} {
		level, since, text, ok := parseKernel([]byte(in))
		if got := fmt.Sprintf("%d %v %s", level, since, text); !ok || got != want {
			t.Errorf("%q is %q, %v, want %q", in, got, ok, want)
		}
	}
	for _, in := range []string{"", ";", "12,1,2,-;from user space", "x,1,2,-;text", "4,1,-2,-;text", "4,1;text"} {
		if _, _, text, ok := parseKernel([]byte(in)); ok {
			t.Errorf("%q is %q", in, text)
		}
	}
}

func FuzzKernelRecord(f *testing.F) {
	f.Add([]byte("4,1,2500000,-;bad thing\n SUBSYSTEM=x\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if level, since, _, ok := parseKernel(b); ok && (level < 0 || level > 7 || since < 0) {
			t.Fatalf("level %d, %v", level, since)
		}
	})
}

func TestTheKernelsOwnLogIsCopied(t *testing.T) {
	f, err := os.Open("/dev/kmsg")
	if err != nil {
		t.Fatalf("this test reads the kernel's log: %v", err)
	}
	f.Close()
	r := New(1 << 20)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.CopyKernel(ctx) }()
	for deadline := time.Now().Add(30 * time.Second); len(r.Since(0, machine.LevelDebug)) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing is copied")
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	e := r.Since(0, machine.LevelDebug)[0]
	if e.Source != "kernel" || e.Text == "" || e.Time.After(time.Now()) {
		t.Errorf("%+v", e)
	}
}

func TestSlogRecordsBecomeLines(t *testing.T) {
	var got string
	log := slog.New(NewHandler(func(level machine.Level, text string) { got = fmt.Sprintf("%d %s", level, text) }))
	log.Info("lease", "address", "192.0.2.7", "for", time.Minute, "error", errors.New("a b"), slog.Group("", "x", 1), slog.Attr{})
	if want := `6 lease address=192.0.2.7 for=1m0s error="a b" x=1`; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	log.WithGroup("").With("a", 1).WithGroup("g").With("b", 2).Error("bad", "c", 3)
	if want := "3 bad a=1 g.b=2 g.c=3"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestTheTailOfARunIsThereInTheNext(t *testing.T) {
	dir := t.TempDir()
	first := New(1 << 20)
	tail := NewTail(first, dir)
	if err := tail.Rotate(); err != nil {
		t.Fatal(err)
	}
	first.Add("init", machine.LevelInfo, "one")
	first.Add("kernel", machine.LevelError, "two")
	for _, sync := range []bool{false, true, true} {
		if err := tail.Save(sync); err != nil {
			t.Fatal(err)
		}
	}
	first.Add("portal", machine.LevelWarn, "three")
	if err := tail.Save(true); err != nil {
		t.Fatal(err)
	}
	// A power cut tears the last line, and the medium has garbage.
	f, err := os.OpenFile(filepath.Join(dir, currentLog), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(f, "\x00\xff\n%s\n{\"seq\":9,\"text\":\"to", strings.Repeat("x", 100))
	f.Close()

	tail = NewTail(New(1<<20), dir)
	if err := tail.Rotate(); err != nil {
		t.Fatal(err)
	}
	list, err := tail.Previous(machine.LevelDebug)
	if got := strings.Join(texts(list), " "); got != "one two three" || err != nil {
		t.Errorf("the last run said %q, %v", got, err)
	}
	if !list[1].Time.Equal(first.Since(1, machine.LevelError)[0].Time) || list[1].Source != "kernel" || list[1].Level != machine.LevelError {
		t.Errorf("%+v", list[1])
	}
	if list, err := tail.Previous(machine.LevelWarn); len(list) != 2 || err != nil {
		t.Errorf("of level warn: %v, %v", list, err)
	}
	if list, err := NewTail(first, t.TempDir()).Previous(machine.LevelDebug); list == nil || len(list) != 0 || err != nil {
		t.Errorf("without a last run: %v, %v", list, err)
	}
}

func TestTheTailOnDiskIsBounded(t *testing.T) {
	dir := t.TempDir()
	r := New(256 << 10)
	tail := NewTail(r, dir)
	for i := range 400 {
		for range 10 {
			r.Add("test", machine.LevelInfo, fmt.Sprint(i, strings.Repeat("<", 500))) // six bytes each in JSON
		}
		if err := tail.Save(false); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(filepath.Join(dir, currentLog)); err != nil || info.Size() > maxFile {
			t.Fatalf("%v, %v", info.Size(), err)
		}
	}
	if err := tail.Rotate(); err != nil {
		t.Fatal(err)
	}
	list, err := tail.Previous(machine.LevelDebug)
	if err != nil || len(list) < 20 || list[len(list)-1].Seq != 4000 {
		t.Errorf("%d entries, %v", len(list), err)
	}
	for i := 1; i < len(list); i++ {
		if list[i].Seq != list[i-1].Seq+1 {
			t.Fatalf("entry %d follows %d", list[i].Seq, list[i-1].Seq)
		}
	}
}

func TestADiskThatFailsOnlyPausesTheTail(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "later")
	r := New(1 << 20)
	tail := NewTail(r, dir)
	r.Add("init", machine.LevelInfo, "one")
	for range 3 {
		if err := tail.Save(false); err == nil {
			t.Fatal("it was saved nowhere")
		}
	}
	if got := len(r.Since(0, machine.LevelWarn)); got != 1 {
		t.Errorf("that was said %d times", got)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	r.Add("init", machine.LevelInfo, "two")
	if err := tail.Save(false); err != nil {
		t.Fatal(err)
	}
	os.Remove(filepath.Join(dir, currentLog)) // and again
	r.Add("init", machine.LevelInfo, "three")
	if err := tail.Save(false); err == nil {
		t.Fatal("it was saved nowhere")
	}
	if err := tail.Save(false); err != nil {
		t.Fatal(err)
	}
	if err := tail.Rotate(); err != nil {
		t.Fatal(err)
	}
	list, err := tail.Previous(machine.LevelInfo)
	if got := strings.Join(texts(list), " "); !strings.Contains(got, "one") || !strings.Contains(got, "three") || err != nil {
		t.Errorf("saved in the end: %q, %v", got, err)
	}
}

func TestErrorsAreSavedSoonAndTheRestNowAndThen(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		r := New(1 << 20)
		tail := NewTail(r, dir)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { tail.Run(ctx); close(done) }()
		saved := func() int {
			synctest.Wait()
			b, _ := os.ReadFile(filepath.Join(dir, currentLog))
			return bytes.Count(b, []byte("\n"))
		}
		time.Sleep(soon + time.Second)
		r.Add("init", machine.LevelInfo, "one")
		time.Sleep(every - 2*time.Second)
		if n := saved(); n != 0 {
			t.Errorf("%d lines are saved before their time", n)
		}
		time.Sleep(2 * time.Second)
		if n := saved(); n != 1 {
			t.Errorf("%d lines are saved after their time", n)
		}
		r.Add("init", machine.LevelError, "two")
		r.Add("init", machine.LevelInfo, "three")
		time.Sleep(2 * gather)
		if n := saved(); n != 3 {
			t.Errorf("%d lines are saved after an error", n)
		}
		for range 50 { // a disk that fails says so all the time
			r.Add("kernel", machine.LevelError, "bad sector")
			time.Sleep(100 * time.Millisecond)
		}
		if n := saved(); n != 3 {
			t.Errorf("%d lines are saved: errors do not wait for each other", n)
		}
		time.Sleep(rest)
		if n := saved(); n != 53 {
			t.Errorf("%d lines are saved in the end", n)
		}
		stop()
		<-done
	})
}

func FuzzTail(f *testing.F) {
	f.Add([]byte(`{"seq":1,"time":"2026-01-01T00:00:00Z","source":"init","level":6,"text":"hello"}` + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, e := range decode(bytes.NewReader(b), machine.LevelDebug) {
			if Clean(e.Text) != strings.TrimRight(e.Text, " ") || e.Level > machine.LevelDebug || len(e.Source) > 32 {
				t.Fatalf("%+v", e)
			}
		}
	})
}
