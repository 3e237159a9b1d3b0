package supervise

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/condition"
	"cloudlink.local/gateway/internal/logring"
	"cloudlink.local/gateway/internal/machine"
	"cloudlink.local/gateway/internal/testroot"
)

// role has the test binary be a service of that kind.
const role = "SUPERVISE_ROLE"

func init() { runtime.LockOSThread() } // as process 1 does

func TestMain(m *testing.M) {
	if play, ok := roles[os.Getenv(role)]; ok {
		play()
		os.Exit(0)
	}
	testroot.Main(m) // the tests run as process 1
}

var roles = map[string]func(){
	"good": func() {
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, unix.SIGTERM)
		ready()
		<-stop
		fmt.Println("<6>stops in order")
	},
	"deaf": func() {
		signal.Ignore(unix.SIGTERM)
		ready()
		select {}
	},
	"hung": func() { // it lived once
		ready()
		say(Alive)
		select {}
	},
	"crash": func() { panic("on purpose") },
	"who": func() {
		status, _ := os.ReadFile("/proc/self/status")
		for line := range bytes.Lines(status) {
			fmt.Printf("<6>%s", line)
		}
		group, _ := os.ReadFile("/proc/self/cgroup")
		fmt.Printf("<6>cgroup %s", bytes.ReplaceAll(group, []byte("\n"), []byte(" ")))
		fmt.Printf("\n<6>session %v environment %q\n", unix.Getpgrp() == unix.Getpid(), os.Environ())
		ready()
		select {}
	},
	"flood": func() {
		w := bufio.NewWriter(os.Stdout)
		w.Write(bytes.Repeat([]byte("endless "), 1<<20))
		w.WriteString("\n")
		for i := range 200000 {
			fmt.Fprintf(w, "\x1b[2J\x00\xff line %d\n", i)
		}
		w.Flush()
		ready()
		select {}
	},
	"orphans": func() { // leaves children behind, some in a session of their own
		for i := range 10 {
			attr := &syscall.ProcAttr{Env: []string{role + "=" + []string{"short", "long"}[i%2]}, Sys: &syscall.SysProcAttr{Setsid: i%4 == 0}}
			if _, err := syscall.ForkExec("/proc/self/exe", []string{"orphan"}, attr); err != nil {
				panic(err)
			}
		}
		ready()
		os.Exit(3)
	},
	"short": func() {},
	"long":  func() { select {} },
}

func ready() { say(Ready) }

func say(word string) {
	fd, err := strconv.Atoi(os.Getenv("CLOUDLINK_READY_FD"))
	if err != nil {
		panic(err)
	}
	unix.Write(fd, []byte(word+"\n"))
}

// A bench is a running supervisor.
type bench struct {
	*Supervisor
	ring    *logring.Ring
	stop    context.CancelFunc
	stopped chan struct{}
}

// cgroupDir makes a place for the services' groups in the unified hierarchy.
func cgroupDir(t *testing.T) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if f[2] != "cgroup2" {
			continue
		}
		dir := filepath.Join(f[1], fmt.Sprintf("supervise-test-%d", time.Now().UnixNano()))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			groups, _ := filepath.Glob(filepath.Join(dir, "*", "cgroup.procs"))
			for _, g := range append(groups, filepath.Join(dir, "cgroup.procs")) {
				testroot.Until(t, "the group "+filepath.Dir(g)+" is empty", func() bool { return os.Remove(filepath.Dir(g)) == nil })
			}
		})
		return dir
	}
	t.Fatal("no cgroup2 is mounted")
	return ""
}

func start(t *testing.T, specs ...Spec) *bench {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	b := &bench{ring: logring.New(256 << 10), stop: stop, stopped: make(chan struct{})}
	children := NewChildren()
	var reaper sync.WaitGroup
	reapCtx, stopReaper := context.WithCancel(context.Background())
	reaper.Go(func() { children.Reap(reapCtx) })
	log := slog.New(logring.NewHandler(func(level machine.Level, text string) { b.ring.Add("init", level, text) }))
	b.Supervisor = New(children, specs, cgroupDir(t), b.ring, log)
	go func() {
		b.Run(ctx)
		close(b.stopped)
	}()
	t.Cleanup(func() {
		b.Hurry()
		stop()
		<-b.stopped
		stopReaper()
		reaper.Wait()
		if t.Failed() {
			for _, e := range b.ring.Since(0, machine.LevelDebug) {
				if e.Source != "who" {
					t.Logf("%s <%d> %s", e.Source, e.Level, e.Text)
				}
			}
		}
	})
	for _, spec := range specs {
		b.Start(spec.Name)
	}
	return b
}

// spec returns a service of that role.
func spec(kind string) Spec {
	return Spec{Name: kind, User: 65001, Memory: 256 << 20, Processes: 100, Env: []string{role + "=" + kind}}
}

func (b *bench) service(name string) machine.Service {
	for _, s := range b.Status() {
		if s.Name == name {
			return s
		}
	}
	return machine.Service{}
}

func (b *bench) await(t *testing.T, name string, state machine.ServiceState) machine.Service {
	t.Helper()
	testroot.Until(t, name+" is "+string(state), func() bool { return b.service(name).State == state })
	return b.service(name)
}

// output returns what a source wrote.
func (b *bench) output(source string) string {
	var text strings.Builder
	for _, e := range b.ring.Since(0, machine.LevelDebug) {
		if e.Source == source {
			text.WriteString(e.Text + "\n")
		}
	}
	return text.String()
}

func TestAServiceRunsWithWhatItsSpecGivesAndNoMore(t *testing.T) {
	s := spec("who")
	var confined int
	s.Confine = func() error { confined = unix.Gettid(); return nil }
	s.Groups, s.Caps = []uint32{65100}, Caps{unix.CAP_NET_ADMIN, unix.CAP_NET_BIND_SERVICE}
	b := start(t, s)
	b.await(t, "who", machine.Running)
	testroot.Until(t, "it has told all", func() bool { return strings.Contains(b.output("who"), "session") })
	got := b.output("who")
	const caps = "0000000000001400"
	for _, want := range []string{
		"Uid: 65001 65001 65001 65001", "Gid: 65001 65001 65001 65001", "Groups: 65100", "NoNewPrivs: 1",
		"CapPrm: " + caps, "CapEff: " + caps, "CapBnd: " + caps, "CapAmb: " + caps, "session true",
		`"GOMEMLIMIT=201326592"`, "/who",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in\n%s", want, got)
		}
	}
	if _, err := os.Stat("/proc/" + strconv.Itoa(b.service("who").PID)); err != nil {
		t.Error(err)
	}
	testroot.Until(t, "the thread that started it is gone", func() bool {
		_, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", confined))
		return confined != 0 && err != nil
	})
	own, err := os.ReadFile("/proc/self/status")
	if err != nil || !strings.Contains(string(own), "NoNewPrivs:\t0") || strings.Contains(string(own), "CapBnd:\t"+caps) {
		t.Errorf("process 1 has lost privileges itself: %v\n%s", err, own)
	}
}

func TestAHungServiceIsKilledAndStartedAgain(t *testing.T) {
	b := start(t, spec("hung"))
	b.Settle(t.Context(), time.Minute)
	beat := func() *atomic.Int64 {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.services[0].beat
	}()
	testroot.Until(t, "it has said that it lives", func() bool { return beat.Load() != 0 })
	if s := b.service("hung"); s.Restarts != 0 {
		t.Fatalf("it is not left alone: %+v", s)
	}
	beat.Store(int64(time.Since(b.Supervisor.start) - silenceLimit)) // as if all of the limit had passed
	testroot.Until(t, "it runs again", func() bool {
		s := b.service("hung")
		return s.Restarts == 1 && s.State == machine.Running
	})
	if s := b.service("hung"); s.LastExit != "killed by signal SIGKILL" {
		t.Errorf("%+v", s)
	}
}

// A virtual machine that was paused has hung services only as long as nobody has run.
func TestAPausedMachineKillsNobody(t *testing.T) {
	b := start(t, spec("hung"))
	b.Settle(t.Context(), time.Minute)
	b.mu.Lock()
	sv := b.services[0]
	b.mu.Unlock()
	testroot.Until(t, "it has said that it lives", func() bool { return sv.beat.Load() != 0 })
	// As if it had spoken right before a pause of a minute, which Run then notices.
	now := time.Since(b.Supervisor.start)
	sv.beat.Store(int64(now - silenceLimit/2))
	b.Supervisor.forgive(silenceLimit / 2)
	if quiet := time.Since(b.Supervisor.start) - time.Duration(sv.beat.Load()); quiet > silenceLimit/4 {
		t.Errorf("the pause is held against it: %v", quiet)
	}
	b.Supervisor.forgive(time.Second) // Run is that late on any busy machine
	if got := time.Duration(sv.beat.Load()); got > time.Since(b.Supervisor.start) {
		t.Errorf("its last word is in the future: %v", got)
	}
}

func TestServicesSettleOrTimeRunsOut(t *testing.T) {
	t.Run("settle", func(t *testing.T) {
		b := start(t, spec("good"))
		b.Settle(t.Context(), time.Minute)
		if s := b.service("good"); s.State != machine.Running {
			t.Errorf("it is %+v", s)
		}
	})
	t.Run("time runs out", func(t *testing.T) {
		b := start(t, spec("short")) // it ends before it is ready
		b.Settle(t.Context(), 10*time.Millisecond)
		ctx, stop := context.WithCancel(t.Context())
		stop()
		b.Settle(ctx, time.Hour)
	})
}

// A process that waits for a device which does not answer cannot be killed: here its end is just
// never heard of.
func TestAServiceThatCannotBeKilledIsLeftBehind(t *testing.T) {
	ring := logring.New(1 << 16)
	log := slog.New(logring.NewHandler(func(level machine.Level, text string) { ring.Add("init", level, text) }))
	s := New(NewChildren(), []Spec{spec("good")}, cgroupDir(t), ring, log)
	ctx, stop := context.WithCancel(t.Context())
	stopped := make(chan struct{})
	go func() { s.Run(ctx); close(stopped) }()
	s.Start("good")
	s.Settle(ctx, time.Minute)
	stop()
	s.Hurry()
	<-stopped
	if list := ring.Since(0, machine.LevelError); len(list) != 1 || !strings.Contains(list[0].Text, "left behind") {
		t.Errorf("it is told as %v", list)
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(s.Status()[0].PID, &status, 0, nil); err != nil {
		t.Error(err)
	}
}

func TestAServiceThatIsKilledIsBackAtOnce(t *testing.T) {
	b := start(t, spec("good"))
	first := b.await(t, "good", machine.Running)
	if err := unix.Kill(first.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	testroot.Until(t, "it runs again", func() bool {
		s := b.service("good")
		return s.State == machine.Running && s.PID != first.PID
	})
	if s := b.service("good"); s.Restarts != 1 || s.LastExit != "killed by signal SIGKILL" {
		t.Errorf("it is %+v", s)
	}
	if list := b.Conditions(); len(list) != 0 {
		t.Errorf("one end is told the owner: %v", list)
	}
}

func TestAServiceThatCrashesForeverIsTriedAgainAndTold(t *testing.T) {
	b := start(t, spec("crash"), spec("good"))
	testroot.Until(t, "the owner is told", func() bool { return len(b.Conditions()) == 1 })
	if c := b.Conditions()[0]; c.ID != condition.ServiceFailing || c.Args["service"] != "crash" {
		t.Errorf("the owner is told %+v", c)
	}
	s := b.service("crash")
	if s.Restarts < 3 || s.LastExit != "exit status 2" || s.State == machine.Running {
		t.Errorf("it is %+v", s)
	}
	testroot.Until(t, "its crash is in the log", func() bool { return strings.Contains(b.output("crash"), "panic: on purpose") })
	if g := b.service("good"); g.State != machine.Running || g.Restarts != 0 {
		t.Errorf("the other one is %+v", g)
	}
	if !b.Alive(10 * time.Second) {
		t.Error("the supervisor makes no progress")
	}
}

func TestAProgramThatIsNotThereIsToldAndTriedAgain(t *testing.T) {
	s := spec("good")
	s.Args = []string{"/nowhere"}
	b := start(t, s)
	testroot.Until(t, "it was tried twice", func() bool { return b.service("good").Restarts >= 2 })
	if got := b.service("good"); got.State != machine.Waiting || !strings.Contains(got.LastExit, "no such file") {
		t.Errorf("it is %+v", got)
	}
}

func TestServicesStopInReverseOrder(t *testing.T) {
	one, two := spec("good"), spec("good")
	one.Name, two.Name = "one", "two"
	b := start(t, one, two)
	b.await(t, "one", machine.Running)
	b.await(t, "two", machine.Running)
	b.stop()
	<-b.stopped
	var order []string
	for _, e := range b.ring.Since(0, machine.LevelInfo) {
		if e.Text == "stops in order" {
			order = append(order, e.Source)
		}
	}
	if got := strings.Join(order, " "); got != "two one" {
		t.Errorf("they stopped in the order %q", got)
	}
	for _, s := range b.Status() {
		if s.State != machine.Stopped || s.LastExit != "ended by itself" {
			t.Errorf("%+v", s)
		}
	}
}

func TestAServiceThatDoesNotStopIsKilled(t *testing.T) {
	for name, hurry := range map[string]bool{"after its time": false, "at once in a hurry": true} {
		t.Run(name, func(t *testing.T) {
			b := start(t, spec("deaf"), spec("good"))
			pid := b.await(t, "deaf", machine.Running).PID
			b.await(t, "good", machine.Running)
			b.stop()
			if hurry {
				b.Hurry()
			}
			<-b.stopped
			if err := unix.Kill(pid, 0); err != unix.ESRCH {
				t.Errorf("it is still there: %v", err)
			}
			if s := b.service("deaf"); s.State != machine.Stopped || s.LastExit != "killed by signal SIGKILL" {
				t.Errorf("it is %+v", s)
			}
			if waited := strings.Contains(b.output("init"), "does not stop"); waited == hurry {
				t.Errorf("it was given its time: %v", waited)
			}
		})
	}
}

func TestWhatAServiceLeavesRunningIsKilledAndReaped(t *testing.T) {
	b := start(t, spec("orphans"))
	testroot.Until(t, "it has ended twice", func() bool { return b.service("orphans").Restarts >= 2 })
	b.Hurry()
	b.stop()
	<-b.stopped
	testroot.Until(t, "no process is left but this one", func() bool {
		dirs, err := filepath.Glob("/proc/[0-9]*")
		if err != nil {
			t.Fatal(err)
		}
		return len(dirs) == 1
	})
}

func TestAFloodOfOutputStaysWithinItsBounds(t *testing.T) {
	b := start(t, spec("good"))
	b.await(t, "good", machine.Running)
	b.ring.Add("other", machine.LevelInfo, "something of importance")
	flood := New(b.children, []Spec{spec("flood")}, b.cgroups, b.ring, b.log)
	ctx, stop := context.WithCancel(t.Context())
	stopped := make(chan struct{})
	go func() { flood.Run(ctx); close(stopped) }()
	flood.Start("flood")
	testroot.Until(t, "all is written", func() bool { return flood.Status()[0].State == machine.Running })
	stop()
	flood.Hurry()
	<-stopped
	if got := b.output("other"); got != "something of importance\n" {
		t.Errorf("another's line is gone: %q", got)
	}
	entries := b.ring.Since(0, machine.LevelDebug)
	if len(entries) > 2000 {
		t.Errorf("%d entries are kept", len(entries))
	}
	for _, e := range entries {
		if strings.ContainsAny(e.Text, "\x1b\x00\n") || len(e.Text) > logring.MaxLine {
			t.Fatalf("an entry of %d bytes: %.80q", len(e.Text), e.Text)
		}
	}
	if !strings.Contains(b.output("flood"), "dropped") {
		t.Error("nobody says that lines were dropped")
	}
}

func TestEveryChildIsReapedOnceWithItsOwnStatus(t *testing.T) {
	children := NewChildren()
	ctx, stop := context.WithCancel(t.Context())
	var reaper, starters sync.WaitGroup
	reaper.Go(func() { children.Reap(ctx) })
	var mu sync.Mutex // guards got
	got := map[int][]int{}
	for worker := range 4 {
		starters.Go(func() {
			for i := range 50 {
				want := worker*50 + i
				attr := &syscall.ProcAttr{Env: os.Environ(), Sys: &syscall.SysProcAttr{}}
				// Every other one leaves an orphan behind.
				script := fmt.Sprintf("exit %d", want%100)
				if i%2 == 0 {
					script = "(exit 99) & " + script
				}
				c, err := children.start([]string{"/bin/sh", "-c", script}, attr, AllCaps(), nil, func(s unix.WaitStatus) {
					mu.Lock()
					defer mu.Unlock()
					got[want] = append(got[want], s.ExitStatus())
				})
				if err != nil {
					t.Error(err)
					return
				}
				unix.Close(c.pidfd)
			}
		})
	}
	starters.Wait()
	testroot.Until(t, "all are reaped", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(got) == 200
	})
	stop()
	reaper.Wait()
	for want, list := range got {
		if len(list) != 1 || list[0] != want%100 {
			t.Errorf("child %d ended with %v", want, list)
		}
	}
	if len(children.ends) != 0 {
		t.Errorf("%d are still waited for", len(children.ends))
	}
}

func TestPausesGrow(t *testing.T) {
	var h history
	for i, want := range []time.Duration{0, 1, 2, 4, 8, 16, 32, 60, 60, 60} {
		var got time.Duration
		if h, got = h.ended(time.Second); got != want*time.Second {
			t.Errorf("after end %d it waits for %v, want %v", i+1, got, want*time.Second)
		}
		if h.failing() != (i >= 2) {
			t.Errorf("after end %d it counts as failing: %v", i+1, h.failing())
		}
	}
	for range 100 {
		h, _ = h.ended(0)
	}
	if _, pause := h.ended(0); pause != maxPause {
		t.Errorf("in the end it waits for %v", pause)
	}
	h, pause := h.ended(healthy)
	if pause != 0 || h.failing() {
		t.Errorf("after a healthy time it waits for %v, failing %v", pause, h.failing())
	}
}

func TestAnEndIsToldInWords(t *testing.T) {
	for status, want := range map[unix.WaitStatus]string{
		0:      "ended by itself",
		2 << 8: "exit status 2",
		9:      "killed by signal SIGKILL",
		0x8b:   "killed by signal SIGSEGV, core dumped",
	} {
		if got := describe(status); got != want {
			t.Errorf("%#x is told as %q, want %q", status, got, want)
		}
	}
}
