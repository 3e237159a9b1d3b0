package testnet

import (
	"bufio"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"
)

// A Process is a program that runs in a Peer's namespace until the test ends.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{}

	mu    sync.Mutex // guards what follows
	lines []string
	seen  int           // how many of them Wait is past
	more  chan struct{} // closed when a line is added or the program ended
	ended bool
	err   error
}

// Start starts cmd in p's namespace. It is ended when the test ends, or with the test binary.
// Its output goes to the test's log.
func (p *Peer) Start(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	if !filepath.IsAbs(cmd.Path) {
		cmd.Path, cmd.Err = lookPath(t, cmd.Path), nil
	}
	s := &Process{cmd: cmd, done: make(chan struct{}), more: make(chan struct{})}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatalf("testnet: start %s: %v", cmd.Path, err)
	}
	cmd.Stderr = cmd.Stdout
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started := make(chan error)
	go func() { // ends with the program
		defer close(s.done)
		runtime.LockOSThread() // Pdeathsig is sent when this thread ends: with the goroutine
		err := netns.Set(p.ns)
		if err == nil {
			err = cmd.Start()
		}
		started <- err
		if err != nil {
			return
		}
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			s.add(lines.Text(), false, nil)
		}
		s.add("", true, cmd.Wait())
	}()
	if err := <-started; err != nil {
		t.Fatalf("testnet: start %s: %v", cmd.Path, err)
	}
	t.Cleanup(func() {
		s.Stop()
		if t.Failed() {
			t.Logf("%s printed:\n%s", filepath.Base(cmd.Path), strings.Join(s.Lines(), "\n"))
		}
	})
	return s
}

func (s *Process) add(line string, ended bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ended {
		s.ended, s.err = true, err
	} else {
		s.lines = append(s.lines, line)
	}
	close(s.more)
	s.more = make(chan struct{})
}

// Lines returns what the program has printed so far.
func (s *Process) Lines() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lines[:len(s.lines):len(s.lines)]
}

// Wait waits until the program has printed a line that contains text, after the line that the
// last Wait found.
func (s *Process) Wait(t testing.TB, text string) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		s.mu.Lock()
		more, ended, err := s.more, s.ended, s.err
		for s.seen < len(s.lines) {
			s.seen++
			if strings.Contains(s.lines[s.seen-1], text) {
				s.mu.Unlock()
				return
			}
		}
		s.mu.Unlock()
		if ended {
			t.Fatalf("testnet: %v ended (%v) before it printed %q", s, err, text)
		}
		select {
		case <-more:
		case <-deadline:
			t.Fatalf("testnet: %v has not printed %q within 30 s", s, text)
		}
	}
}

// Stop asks the program to end, waits, and kills it where it does not.
func (s *Process) Stop() {
	s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.done:
	case <-time.After(5 * time.Second):
		s.cmd.Process.Kill()
		<-s.done
	}
}

// Kill ends the program as a power cut would.
func (s *Process) Kill() {
	s.cmd.Process.Kill()
	<-s.done
}

// Dnsmasq starts dnsmasq as a DHCP server in p's namespace, on the port that has addr (which it
// is given there), and waits until it serves. Further arguments are dnsmasq's.
func (p *Peer) Dnsmasq(t testing.TB, port, addr string, args ...string) *Process {
	t.Helper()
	p.IP("addr", "replace", addr, "dev", port)
	dir := t.TempDir()
	cmd := exec.Command(lookPath(t, "dnsmasq"), append([]string{
		"--keep-in-foreground", "--log-facility=-", "--log-dhcp",
		"--conf-file=/dev/null", "--user=root", "--group=", "--pid-file=",
		"--dhcp-leasefile=" + filepath.Join(dir, "leases"),
		"--port=0", "--no-ping", "--interface=" + port, "--bind-interfaces",
	}, args...)...)
	s := p.Start(t, cmd)
	s.Wait(t, "sockets bound exclusively to interface")
	return s
}

// String says which program it is.
func (s *Process) String() string {
	return fmt.Sprintf("%s (process %d)", filepath.Base(s.cmd.Path), s.cmd.Process.Pid)
}
