package supervise

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Children are all child processes of process 1: those it starts, and the orphans that the kernel
// gives to it. Only Reap waits for any of them, so nobody takes another's exit status, and nothing
// else in this process may start or wait for one.
type Children struct {
	mu   sync.Mutex // held while one starts, so that it is known before it is reaped; guards what follows
	ends map[int]func(unix.WaitStatus)
}

// NewChildren returns the children of this process, whose main goroutine must be locked to its thread:
// a service may be started from any other.
func NewChildren() *Children {
	return &Children{ends: map[int]func(unix.WaitStatus){}}
}

// A child is a started process. Its process file descriptor, unlike its number, never comes to
// mean another process.
type child struct {
	pid   int
	pidfd int
}

// start runs argv with attr, and no more privileges than keep and what attr gives it, from a thread
// on which confine, if there is one, was called. When it has ended, ended is called once, on Reap's
// goroutine.
func (c *Children) start(argv []string, attr *syscall.ProcAttr, keep Caps, confine func() error, ended func(unix.WaitStatus)) (child, error) {
	type result struct {
		child
		err error
	}
	done := make(chan result)
	go func() {
		// A thread's bounding set, its "no new privileges" and its confinement pass to the process that
		// it forks and cannot be had back: they are set on a thread that ends with this goroutine.
		runtime.LockOSThread()
		if err := keep.bound(); err != nil {
			done <- result{err: err}
			return
		}
		if confine != nil {
			if err := confine(); err != nil {
				done <- result{err: fmt.Errorf("shut it in: %w", err)}
				return
			}
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		pidfd := -1
		attr.Sys.PidFD = &pidfd
		pid, err := syscall.ForkExec(argv[0], argv, attr)
		if err == nil {
			c.ends[pid] = ended
		}
		done <- result{child{pid, pidfd}, err}
	}()
	r := <-done
	return r.child, r.err
}

// signal sends sig unless the process has ended.
func (c child) signal(sig unix.Signal) error {
	if c.pidfd < 0 {
		return unix.ESRCH
	}
	return unix.PidfdSendSignal(c.pidfd, sig, nil, 0)
}

// Reap waits for children as they end, until ctx ends.
func (c *Children) Reap(ctx context.Context) {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	defer signal.Stop(ended)
	for {
		for c.reapOne() {
		}
		select {
		case <-ended:
		case <-ctx.Done():
			return
		}
	}
}

// reapOne waits for one child that has ended; false if there is none.
func (c *Children) reapOne() bool {
	c.mu.Lock()
	var status unix.WaitStatus
	pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
	for err == unix.EINTR {
		pid, err = unix.Wait4(-1, &status, unix.WNOHANG, nil)
	}
	if err != nil || pid <= 0 {
		c.mu.Unlock()
		return false
	}
	end := c.ends[pid]
	delete(c.ends, pid)
	c.mu.Unlock()
	if end != nil {
		end(status)
	}
	return true
}

// Caps are capabilities, by number (unix.CAP_…).
type Caps []uintptr

// AllCaps is every capability: for the root shell of development images.
func AllCaps() Caps {
	var all Caps
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		all = append(all, c)
	}
	return all
}

// bound takes all but these capabilities from the bounding set of this thread, and makes sure
// that no program can give it more than it has.
func (keep Caps) bound() error {
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if slices.Contains(keep, c) {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && err != unix.EINVAL { // this kernel knows fewer
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no new privileges: %w", err)
	}
	return nil
}

// describe says how a process ended, in words for the owner.
func describe(s unix.WaitStatus) string {
	switch {
	case s.Signaled() && s.CoreDump():
		return "killed by signal " + unix.SignalName(s.Signal()) + ", core dumped"
	case s.Signaled():
		return "killed by signal " + unix.SignalName(s.Signal())
	case s.ExitStatus() == 0:
		return "ended by itself"
	}
	return fmt.Sprintf("exit status %d", s.ExitStatus())
}
