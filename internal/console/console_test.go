package console

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/machine"
	"cloudlink.local/gateway/internal/network"
	"cloudlink.local/gateway/internal/release"
	"cloudlink.local/gateway/internal/update"
)

// A fake is a gateway that the test arranges.
type fake struct {
	mu    sync.Mutex
	view  View
	log   []machine.Entry
	asked []string
	hung  bool // neither part answers, nor says no
}

func (f *fake) set(change func(*fake)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *fake) wait(ctx context.Context) error {
	f.mu.Lock()
	hung := f.hung
	f.mu.Unlock()
	if hung {
		<-ctx.Done()
	}
	return ctx.Err()
}

func (f *fake) Status(ctx context.Context) (machine.Status, error) {
	if err := f.wait(ctx); err != nil {
		return machine.Status{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.view.Machine == nil {
		return machine.Status{}, errors.New("no process 1")
	}
	return *f.view.Machine, nil
}

func (f *fake) Log(ctx context.Context, after uint64, level machine.Level) ([]machine.Entry, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []machine.Entry
	for _, e := range f.log {
		if e.Seq > after && e.Level <= level {
			list = append(list, e)
		}
	}
	return list, nil
}

func (f *fake) Restart(context.Context) error {
	f.set(func(f *fake) { f.asked = append(f.asked, "restart") })
	return nil
}

func (f *fake) PowerOff(context.Context) error {
	f.set(func(f *fake) { f.asked = append(f.asked, "power off") })
	return errors.New("not now")
}

type fakeNetwork struct{ *fake }

func (f fakeNetwork) Status(ctx context.Context) (network.Status, error) {
	if err := f.wait(ctx); err != nil {
		return network.Status{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.view.Network == nil {
		return network.Status{}, errors.New("no network service")
	}
	return *f.view.Network, nil
}

type fakeUpdate struct{ *fake }

func (f fakeUpdate) Status(ctx context.Context) (update.Status, error) {
	if err := f.wait(ctx); err != nil {
		return update.Status{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.view.Update == nil {
		return update.Status{}, errors.New("no update service")
	}
	return *f.view.Update, nil
}

// A line is the other end of a terminal: what a person sees and types.
type line struct {
	t      *testing.T
	master *os.File
	mu     sync.Mutex
	all    []byte
	more   chan struct{}
	seen   int
	done   chan struct{}
}

// newLine makes a terminal at path.
func newLine(t *testing.T, path string) *line {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	var number int
	err = control(master, func(fd int) (err error) {
		if err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err == nil {
			number, err = unix.IoctlGetInt(fd, unix.TIOCGPTN)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	os.Remove(path)
	if err := os.Symlink(fmt.Sprintf("/dev/pts/%d", number), path); err != nil {
		t.Fatal(err)
	}
	l := &line{t: t, master: master, more: make(chan struct{}), done: make(chan struct{})}
	t.Cleanup(l.hangUp)
	return l
}

// read sees what is printed until hangUp.
func (l *line) read() *line {
	go func() {
		defer close(l.done)
		buf := make([]byte, 4096)
		for {
			n, err := l.master.Read(buf)
			if errors.Is(err, unix.EIO) { // nobody has the terminal open at the moment
				time.Sleep(10 * time.Millisecond)
				continue
			}
			if err != nil {
				return
			}
			l.mu.Lock()
			l.all = append(l.all, bytes.ReplaceAll(buf[:n], []byte("\r\n"), []byte("\n"))...)
			close(l.more)
			l.more = make(chan struct{})
			l.mu.Unlock()
		}
	}()
	return l
}

func (l *line) hangUp() { l.master.Close() }

func (l *line) typ(text string) {
	l.t.Helper()
	l.master.SetWriteDeadline(time.Now().Add(10 * time.Second))
	if _, err := l.master.WriteString(text); err != nil {
		l.t.Fatal(err)
	}
}

// expect waits for text after what an earlier expect has found, and returns what came before it.
func (l *line) expect(text string) string {
	l.t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		l.mu.Lock()
		rest, more := string(l.all[l.seen:]), l.more
		if i := strings.Index(rest, text); i >= 0 {
			l.seen += i + len(text)
			l.mu.Unlock()
			return rest[:i]
		}
		l.mu.Unlock()
		select {
		case <-more:
		case <-deadline:
			l.t.Fatalf("waited in vain for %q; since then came:\n%s", text, rest)
		}
	}
}

// start runs a console on the terminal at path.
func start(t *testing.T, f *fake, paths ...string) (stop func()) {
	t.Helper()
	return startWith(t, f, []string{"/nowhere/gosh", "/bin/sh"}, paths...)
}

// startWith runs one whose image has one of shells.
func startWith(t *testing.T, f *fake, shells []string, paths ...string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	ready := make(chan struct{})
	c := &console{machine: f, network: fakeNetwork{f}, update: fakeUpdate{f}, shells: shells, log: slog.New(slog.DiscardHandler)}
	go func() { ended <- c.run(ctx, func() { close(ready) }, paths) }()
	<-ready
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("the console ended with %v", err)
			}
		case <-time.After(30 * time.Second):
			t.Error("the console does not end")
		}
	})
	t.Cleanup(stop)
	return stop
}

func TestAPersonUsesTheConsole(t *testing.T) {
	t.Parallel()
	f := &fake{view: sample(), log: []machine.Entry{
		{Seq: 1, Source: "kernel", Level: machine.LevelInfo, Text: "Booting"},
		{Seq: 2, Source: "init", Level: machine.LevelInfo, Text: "process 1 is up"},
		{Seq: 3, Source: "kernel", Level: machine.LevelWarn, Text: "too hot"},
		{Seq: 4, Source: "portal", Level: machine.LevelWarn, Text: "a warning"},
		{Seq: 5, Source: "kernel", Level: machine.LevelInfo, Text: "chatter"},
	}}
	const (
		menu    = "\nMenu\n  1  Addresses\n  2  Log\n  3  Restart\n  4  Power off\n  5  Deutsch\n  0  Back\n> "
		logMenu = "\nLog\n  1  Last lines\n  2  Errors and warnings only\n  3  Follow\n" +
			"  4  Everything, with all messages of the kernel\n  0  Back\n> "
	)
	path := filepath.Join(t.TempDir(), "tty")
	l := newLine(t, path).read()
	stop := start(t, f, path)
	l.expect("\n  Page      http://10.0.2.15/\n")
	l.expect("Press Enter for the menu.\n")

	l.typ("\r")
	l.expect("\n" + menu) // no root shell: this is no development image
	l.typ("1\r")
	l.expect("1\n  Port      eth0, 1000 Mbit/s, 52:54:00:12:34:56\n")
	l.expect("router 10.0.2.2\n            DNS 10.0.2.3\n" + menu)
	l.typ("2\r")
	l.expect("2\n" + logMenu)
	l.typ("1\r") // our own lines, and what matters of the kernel's
	l.expect("1\n00:00:00   init: process 1 is up\n00:00:00 W kernel: too hot\n00:00:00 W portal: a warning\n" + logMenu)
	l.typ("2\r")
	l.expect("2\n00:00:00 W kernel: too hot\n00:00:00 W portal: a warning\n" + logMenu)
	l.typ("4\r")
	l.expect("4\n00:00:00   kernel: Booting\n00:00:00   init: process 1 is up\n00:00:00 W kernel: too hot\n" +
		"00:00:00 W portal: a warning\n00:00:00   kernel: chatter\n" + logMenu)
	l.typ("3\r")
	l.expect("3\n  Press Enter to end.\n00:00:00   init: process 1 is up\n00:00:00 W kernel: too hot\n00:00:00 W portal: a warning\n")
	f.set(func(f *fake) {
		f.log = append(f.log,
			machine.Entry{Seq: 6, Source: "kernel", Level: machine.LevelInfo, Text: "more chatter"},
			machine.Entry{Seq: 7, Source: "network", Level: machine.LevelInfo, Text: "news"})
	})
	if before := l.expect("network: news\n"); strings.Contains(before, "chatter") {
		t.Errorf("followed:\n%s", before)
	}
	l.typ("\r0\r")
	l.expect(logMenu)
	l.expect(menu)
	l.typ("5\r")
	l.expect("Neu starten")
	l.expect("> ")
	l.typ("3\rn\r")
	l.expect("Gateway neu starten? [j/N] n\n")
	l.expect("> ")
	l.typ("4\rj\r")
	l.expect("Das ging schief: not now\n\nMenü\n")
	l.expect("> ")
	l.typ("3\rj\r")
	l.expect("Das Gateway startet neu.\n")
	if want := []string{"power off", "restart"}; !slices.Equal(f.asked, want) {
		t.Errorf("process 1 was asked for %v, want %v", f.asked, want)
	}
	l.typ("\r")
	l.expect("\n  Seite     http://10.0.2.15/\n")
	l.expect("Menü.\n")
	l.typ("1\r") // a choice at the screen counts
	l.expect("1\n  Port      eth0")
	l.expect("0  Zurück\n> ")
	l.typ("0\r")
	l.expect("Menü.\n")
	l.typ("\r2\r1\r") // and those typed at once after Enter
	l.expect("init: process 1 is up\n")
	l.expect("> ")
	l.typ("0\r0\r")
	l.expect("Seite")
	l.expect("Menü.\n")

	// A change is printed by itself.
	f.set(func(f *fake) { f.view.Network = &network.Status{} })
	l.expect("Kein Netzwerkanschluss gefunden")
	stop()
}

func TestEverythingIsTheEndOfALongLog(t *testing.T) {
	t.Parallel()
	f := &fake{view: sample()}
	for i := range 2 * allLines {
		f.log = append(f.log, machine.Entry{Seq: uint64(i + 1), Source: "kernel", Level: machine.LevelDebug, Text: fmt.Sprintf("line %04d", i+1)})
	}
	path := filepath.Join(t.TempDir(), "tty")
	l := newLine(t, path).read()
	start(t, f, path)
	l.expect("Press Enter for the menu.\n")
	l.typ("2\r1\r4\r")
	l.expect("Nothing.\n")
	l.expect(fmt.Sprintf("(earlier lines left out: %d)\n00:00:00   kernel: line %04d\n", allLines, allLines+1))
	l.expect(fmt.Sprintf("line %04d\n\nLog\n", 2*allLines))
}

func TestWhatIsBeingTypedOutlivesANewScreen(t *testing.T) {
	t.Parallel()
	f := &fake{view: sample()}
	path := filepath.Join(t.TempDir(), "tty")
	l := newLine(t, path).read()
	start(t, f, path)
	l.expect("Press Enter for the menu.\n")
	l.typ("1")
	l.expect("1")
	f.set(func(f *fake) { f.view.Network = &network.Status{} })
	l.expect("No network port found")
	l.expect("Press Enter for the menu.\n1")
	l.typ("\r")
	l.expect("\n  Port      none found\n")
}

func TestAMenuIsNotDisturbed(t *testing.T) {
	t.Parallel()
	f := &fake{view: sample()}
	path := filepath.Join(t.TempDir(), "tty")
	l := newLine(t, path).read()
	start(t, f, path)
	l.expect("Press Enter for the menu.\n")
	l.typ("\r")
	l.expect("> ")
	f.set(func(f *fake) { f.view.Network = nil })
	time.Sleep(5 * time.Second) // nothing must happen: there is nothing to wait for
	l.typ("\r")
	if before := l.expect("Press Enter for the menu.\n"); !strings.HasPrefix(before, "\n\n---") || !strings.Contains(before, "does not answer") {
		t.Errorf("came:\n%s", before)
	}
}

// prompt is that of this machine's /bin/sh, with HOME and PS1 unset.
var prompt = map[bool]string{true: "# ", false: "$ "}[os.Geteuid() == 0]

func TestADevelopmentImageHasARootShell(t *testing.T) {
	t.Parallel()
	f := &fake{view: sample()}
	f.view.Machine.Release.Keys = release.Development
	path := filepath.Join(t.TempDir(), "tty")
	l := newLine(t, path).read()
	start(t, f, path)
	l.expect("Press Enter for the menu.\n")
	for range 2 {
		l.typ("\r")
		l.expect("Root shell")
		l.expect("> ")
		l.typ("9\r")
		l.expect(prompt)
		l.typ("echo shell is ready''\r")
		l.expect("shell is ready\n")
		l.typ("echo $TERM; stty size; echo controlled >/dev/tty; cat\r")
		l.expect("vt220\n24 80\ncontrolled\n")
		f.set(func(f *fake) { f.view.Network = nil }) // does not disturb
		l.typ("abc\r")
		l.expect("abc\nabc\n")
		l.typ("\x03")
		l.expect("^C")
		l.expect(prompt)
		l.typ("exit 3\r")
		l.expect("The shell has ended.\n")
		l.expect("Root shell")
		l.expect("> ")
		l.typ("0\r")
		l.expect("Press Enter for the menu.\n")
	}
}

// TestMain makes the test binary a stand-in for gosh where it is called by that name.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "gosh" {
		gosh()
		return
	}
	os.Exit(m.Run())
}

// gosh reads lines and runs them as u-root's gosh does: its line editor takes keys as they are, a
// command runs in its own process group, and a signal that it is sent ends it.
func gosh() {
	signals := func(on bool) {
		t, err := unix.IoctlGetTermios(0, unix.TCGETS)
		if err != nil {
			panic(err)
		}
		t.Iflag &^= unix.ICRNL
		t.Lflag &^= unix.ECHO | unix.ICANON | unix.ISIG
		if on {
			t.Lflag |= unix.ISIG
		}
		if err := unix.IoctlSetTermios(0, unix.TCSETS, t); err != nil {
			panic(err)
		}
	}
	for {
		signals(false)
		fmt.Print("$ ")
		var line []byte
		for b := make([]byte, 1); b[0] != '\r'; {
			if _, err := os.Stdin.Read(b); err != nil {
				return
			}
			if b[0] == keyInterrupt {
				fmt.Print("^C")
			}
			line = append(line, b[0])
		}
		signals(true)
		switch command := strings.TrimSpace(string(line)); command {
		case "exit":
			return
		case "loop":
			fmt.Println("looping")
			select {}
		default:
			cmd := exec.Command("/bin/sh", "-c", command)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
			fmt.Printf("ended: %v\n", cmd.Run())
		}
	}
}

// startGosh opens the shell of a console whose image has a gosh only.
func startGosh(t *testing.T) *line {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(self, filepath.Join(dir, "gosh")); err != nil {
		t.Fatal(err)
	}
	f := &fake{view: sample()}
	f.view.Machine.Release.Keys = release.Development
	l := newLine(t, filepath.Join(dir, "tty")).read()
	startWith(t, f, []string{filepath.Join(dir, "gosh")}, filepath.Join(dir, "tty"))
	l.expect("Press Enter for the menu.\n")
	l.typ("\r9\r")
	l.expect("$ ")
	return l
}

func TestCtrlCEndsACommandAndSparesTheShell(t *testing.T) {
	t.Parallel()
	l := startGosh(t)
	for _, c := range []struct{ key, why string }{{"\x03", "interrupt"}, {"\x1c", "quit"}} {
		l.typ("echo it ru''ns; exec sleep 1000\r")
		l.expect("it runs\n")
		l.typ(c.key)
		l.expect("ended: signal: " + c.why)
		l.expect("$ ")
		l.typ("echo the shell is the''re\r")
		l.expect("the shell is there\nended: <nil>\n$ ")
	}
	l.typ("(sleep 1000; echo never) | (echo it ru''ns; cat)\r") // all of a command
	l.expect("it runs\n")
	l.typ("\x03")
	l.expect("ended: ")
	l.expect("$ ")
	l.typ("\x03") // at the prompt it is the line editor's
	l.expect("^C")
	l.typ("\rexit\r")
	l.expect("The shell has ended.\n")
	l.expect("> ")
	l.typ("0\r")
	l.expect("Press Enter for the menu.\n")
}

func TestWhoInsistsEndsTheShellToo(t *testing.T) {
	t.Parallel()
	l := startGosh(t)
	l.typ("loop\r")
	l.expect("looping\n")
	l.typ(strings.Repeat("\x03", insist))
	l.expect("The shell has ended.\n")
}

func TestWhatIsPastedAfterTheChoiceIsForTheShell(t *testing.T) {
	t.Parallel()
	f := &fake{view: sample()}
	f.view.Machine.Release.Keys = release.Development
	path := filepath.Join(t.TempDir(), "tty")
	l := newLine(t, path).read()
	start(t, f, path)
	l.expect("Press Enter for the menu.\n")
	l.typ("9\recho pas''ted\rexit\r")
	l.expect("pasted\n")
	l.expect("The shell has ended.\n")
}

func TestTheShellEndsWhenTheTerminalHangsUp(t *testing.T) {
	t.Parallel()
	f := &fake{view: sample()}
	f.view.Machine.Release.Keys = release.Development
	path := filepath.Join(t.TempDir(), "tty")
	l := newLine(t, path).read()
	start(t, f, path)
	l.expect("Press Enter for the menu.\n")
	l.typ("\r9\r")
	l.expect(prompt)
	l.typ("trap '' HUP; echo pid=$$.\r")
	l.expect("\npid=")
	pid := l.expect(".")
	l.hangUp()
	<-l.done
	l = newLine(t, path).read() // it is served again only when the shell has ended
	l.expect("Press Enter for the menu.\n")
	if _, err := os.Stat("/proc/" + pid); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the shell, process %s, is still there: %v", pid, err)
	}
}

func TestTheShellEndsWithTheService(t *testing.T) {
	t.Parallel()
	f := &fake{view: sample()}
	f.view.Machine.Release.Keys = release.Development
	path := filepath.Join(t.TempDir(), "tty")
	l := newLine(t, path).read()
	stop := start(t, f, path)
	l.expect("Press Enter for the menu.\n")
	l.typ("\r9\r")
	l.expect(prompt)
	l.typ("trap '' HUP; echo pid=$$.\r")
	l.expect("\npid=")
	pid := l.expect(".")
	stop()
	if _, err := os.Stat("/proc/" + pid); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the shell, process %s, is still there: %v", pid, err)
	}
}

func TestATerminalThatTakesNothingHangsNobody(t *testing.T) {
	t.Parallel()
	f := &fake{view: sample()}
	dir := t.TempDir()
	stuck := newLine(t, filepath.Join(dir, "stuck")) // nobody reads it
	l := newLine(t, filepath.Join(dir, "tty")).read()
	stop := start(t, f, filepath.Join(dir, "stuck"), filepath.Join(dir, "tty"))
	l.expect("Press Enter for the menu.\n")
	for range 40 { // until the terminal's buffer is full
		stuck.typ("\r1\r\r")
	}
	l.typ("\r")
	l.expect("> ")
	stop() // its write is ended
}

func TestATerminalMayHangUpAndComeBack(t *testing.T) {
	t.Parallel()
	f := &fake{view: sample()}
	path := filepath.Join(t.TempDir(), "tty")
	start(t, f, path) // before there is a terminal
	for range 2 {
		l := newLine(t, path).read()
		l.expect("Press Enter for the menu.\n")
		l.typ("\r")
		l.expect("> ")
		l.hangUp()
		<-l.done
	}
}

func TestNoiseAndFloodsDoNoHarm(t *testing.T) {
	t.Parallel()
	f := &fake{view: sample()}
	path := filepath.Join(t.TempDir(), "tty")
	l := newLine(t, path).read()
	start(t, f, path)
	l.expect("Press Enter for the menu.\n")
	l.typ(strings.Repeat("\x00\xff\x1b[\x13\x11garbage\r\n", 2000))
	l.typ(strings.Repeat("x", 10000))
	time.Sleep(1500 * time.Millisecond) // the silence after which it listens again
	l.typ("\x15")
	for {
		l.typ("\r")
		if strings.Contains(l.expect("\n"), "no choice") {
			continue
		}
		break
	}
	l.typ("5\r5\r")
	l.expect("Restart")
	if len(f.asked) > 0 {
		t.Errorf("noise asked for %v", f.asked)
	}
}

func TestAnEchoingLineIsNotAnsweredForEver(t *testing.T) {
	t.Parallel()
	f := &fake{view: sample()}
	path := filepath.Join(t.TempDir(), "tty")
	l := newLine(t, path)
	go func() { // a loop plug; ends at hangUp
		defer close(l.done)
		buf := make([]byte, 4096)
		for {
			n, err := l.master.Read(buf)
			if errors.Is(err, unix.EIO) {
				time.Sleep(10 * time.Millisecond)
				continue
			}
			if err != nil {
				return
			}
			l.mu.Lock()
			l.all = append(l.all, buf[:n]...)
			l.mu.Unlock()
			l.master.SetWriteDeadline(time.Now().Add(time.Second))
			l.master.Write(buf[:n])
		}
	}()
	start(t, f, path)
	length := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.all)
	}
	for last, same := 0, 0; same < 20; time.Sleep(100 * time.Millisecond) { // two seconds of silence
		if n := length(); n != last || n == 0 {
			last, same = n, 0
		} else {
			same++
		}
		if t.Context().Err() != nil || length() > 10<<20 {
			t.Fatalf("%d bytes and no end", length())
		}
	}
}

func TestAHungServiceDoesNotHangTheMenu(t *testing.T) {
	t.Parallel()
	f := &fake{view: sample()}
	path := filepath.Join(t.TempDir(), "tty")
	l := newLine(t, path).read()
	start(t, f, path)
	l.expect("Press Enter for the menu.\n")
	f.set(func(f *fake) { f.hung = true })
	l.expect("Process 1 does not answer.\n")
	l.typ("\r")
	l.expect("> ")
}

func TestKnowsTheKernelsScreens(t *testing.T) {
	for path, want := range map[string]string{"/dev/tty0": "linux", "/dev/tty1": "linux", "/dev/ttyAMA0": "vt220", "/dev/hvc0": "vt220", "/dev/tty": "vt220", "/dev/console": "vt220"} {
		if got := termOf(path); got != want {
			t.Errorf("%s is a %s, want %s", path, got, want)
		}
	}
}

func TestFindsTheKernelsConsoles(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"tty1", "ttyAMA0", "hvc0"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	active := filepath.Join(dir, "active")
	for content, want := range map[string]string{
		"ttyAMA0\n":            "ttyAMA0",
		"tty0 ttyAMA0\n":       "tty1 ttyAMA0",
		"tty0 tty1 ttyS0 hvc0": "tty1 hvc0",
		"":                     "console",
		"ttyS9\n":              "console",
	} {
		if err := os.WriteFile(active, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, path := range ttys(active, dir) {
			got = append(got, filepath.Base(path))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q: got %v, want %s", content, got, want)
		}
	}
	if got := ttys(filepath.Join(dir, "missing"), dir); len(got) != 1 || filepath.Base(got[0]) != "console" {
		t.Errorf("without the kernel's list: %v", got)
	}
}
