package supervise

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/condition"
	"cloudlink.local/gateway/internal/logring"
	"cloudlink.local/gateway/internal/machine"
)

// A Spec says how a service is run.
type Spec struct {
	Name      string
	User      uint32 // and group
	Groups    []uint32
	Caps      Caps
	Memory    int64 // most bytes, page cache included
	Processes int   // most processes and threads
	OOMScore  int   // -1000 to 1000: who goes first when memory runs out
	Env       []string
	Confine   func() error // is called on the thread from which a process is started, just before
	Args      []string     // the program; this one with the service's name if empty
}

// A Supervisor runs services. It is made by New, works in Run, and is asked by Status.
type Supervisor struct {
	children *Children
	ring     *logring.Ring
	log      *slog.Logger
	cgroups  string // where the services' groups are made

	events   chan event
	wake     chan struct{} // has one element after Start
	ended    chan struct{} // closed when Run has ended
	hurry    chan struct{} // closed when there is no time for an orderly stop
	hurryUp  func()
	progress atomic.Int64 // when Run last came round, by the monotonic clock
	start    time.Time
	copies   sync.WaitGroup // of the services' output

	mu       sync.Mutex // guards the services' fields, which only Run and Start change
	services []*service
}

// A service is a Spec and where it stands:
//
//	waiting → starting → running
//	   ↑─────────┴──────────┘  it ended; asked to stop, it is stopped instead
type service struct {
	Spec
	state    machine.ServiceState
	since    time.Time // of state
	due      time.Time // when a waiting service is started; zero: not yet asked for
	run      int       // counts the starts, to tell an event of an earlier process
	group    cgroup    // of that process
	proc     child
	output   *os.File
	ready    *os.File
	killed   bool          // for not getting ready, or for its silence
	beat     *atomic.Int64 // when that process last said that it lives, after Supervisor.start; 0: not yet
	history  history
	restarts int
	lastExit string
}

// An event is something that happened to a service.
type event struct {
	service *service
	run     int
	what    string // "ready" or "end"
	status  unix.WaitStatus
}

// New returns a supervisor of services that wait for Start. Their output goes to ring.
func New(children *Children, specs []Spec, cgroups string, ring *logring.Ring, log *slog.Logger) *Supervisor {
	s := &Supervisor{
		children: children, ring: ring, log: log, cgroups: cgroups,
		events: make(chan event), wake: make(chan struct{}, 1), ended: make(chan struct{}), hurry: make(chan struct{}),
		start: time.Now(),
	}
	s.hurryUp = sync.OnceFunc(func() { close(s.hurry) })
	for _, spec := range specs {
		s.services = append(s.services, &service{Spec: spec, state: machine.Waiting, since: s.start, proc: child{pidfd: -1}})
	}
	return s
}

// Start has Run start the services of these names.
func (s *Supervisor) Start(names ...string) {
	s.mu.Lock()
	for _, sv := range s.services {
		if sv.state == machine.Waiting && sv.due.IsZero() && slices.Contains(names, sv.Name) {
			sv.due = time.Now()
		}
	}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default: // it is about to look anyway
	}
}

// Settle waits until the services that were started are running, ctx ends, or limit has passed.
func (s *Supervisor) Settle(ctx context.Context, limit time.Duration) {
	end := time.NewTimer(limit)
	defer end.Stop()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for !s.settled() {
		select {
		case <-look.C:
		case <-end.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

func (s *Supervisor) settled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sv := range s.services {
		if sv.state == machine.Starting || sv.state == machine.Waiting && !sv.due.IsZero() {
			return false
		}
	}
	return true
}

// Hurry makes an orderly stop a quick one: what still runs is killed.
func (s *Supervisor) Hurry() { s.hurryUp() }

// Alive says whether Run came round within the last d.
func (s *Supervisor) Alive(d time.Duration) bool {
	return time.Since(s.start)-time.Duration(s.progress.Load()) < d
}

func (s *Supervisor) send(e event) {
	select {
	case s.events <- e:
	case <-s.ended:
	}
}

// Run supervises until ctx ends; then it stops the services, the last one first, and returns.
func (s *Supervisor) Run(ctx context.Context) {
	defer close(s.ended)
	tick := time.NewTicker(time.Second) // keeps Alive true
	defer tick.Stop()
	due := time.NewTimer(0)
	defer due.Stop()
	for {
		round := time.Since(s.start)
		s.forgive(round - time.Duration(s.progress.Swap(int64(round))))
		if wait, any := s.step(time.Now()); any {
			due.Reset(wait)
		}
		select {
		case e := <-s.events:
			s.handle(e)
		case <-s.wake:
		case <-due.C:
		case <-tick.C:
		case <-ctx.Done():
			s.stop(tick.C)
			return
		}
	}
}

// forgive takes a pause of the whole machine (its virtual one stopped, its disk or console stood still)
// off what is held against the services: who did not run could not say that it lives.
func (s *Supervisor) forgive(since time.Duration) {
	if since < paused {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sv := range s.services {
		if beat := sv.beat.Load(); beat != 0 {
			sv.beat.CompareAndSwap(beat, beat+int64(since)) // a newer one is better still
		}
		if sv.state == machine.Starting {
			sv.since = sv.since.Add(since)
		}
	}
}

// step does what is due, and returns how long until more is.
func (s *Supervisor) step(now time.Time) (wait time.Duration, any bool) {
	for _, sv := range s.services {
		if s.overdue(sv, now) {
			if err := s.launch(sv); err != nil { // without the lock: others want to know how it goes meanwhile
				s.log.Error("start service", "service", sv.Name, "error", err)
				s.mu.Lock()
				s.fail(sv, err.Error(), 0)
				s.mu.Unlock()
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sv := range s.services {
		if sv.state != machine.Waiting || sv.due.IsZero() {
			continue
		}
		if left := max(0, time.Until(sv.due)); !any || left < wait {
			wait, any = left, true
		}
	}
	return wait, any
}

// overdue says whether a service is to be started now, and kills one that does not get ready or hangs.
func (s *Supervisor) overdue(sv *service, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sv.state == machine.Starting && !sv.killed && now.Sub(sv.since) >= startLimit {
		s.log.Warn("service is not ready and is killed", "service", sv.Name, "after", startLimit)
		s.kill(sv) // its end comes as an event
		sv.killed = true
	}
	if sv.state == machine.Running && !sv.killed {
		if beat := time.Duration(sv.beat.Load()); beat != 0 && now.Sub(s.start)-beat >= silenceLimit {
			s.log.Warn("service hangs and is killed", "service", sv.Name, "silent_for", silenceLimit)
			s.kill(sv)
			sv.killed = true
		}
	}
	return sv.state == machine.Waiting && !sv.due.IsZero() && !sv.due.After(now)
}

func (s *Supervisor) handle(e event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sv := e.service
	if e.run != sv.run {
		return
	}
	now := time.Now()
	switch e.what {
	case "ready":
		if sv.state == machine.Starting {
			s.log.Info("service is ready", "service", sv.Name, "after", now.Sub(sv.since).Round(time.Millisecond))
			sv.state, sv.since = machine.Running, now
		}
	case "end":
		ready := time.Duration(0)
		if sv.state == machine.Running {
			ready = now.Sub(sv.since)
		}
		s.release(sv)
		s.fail(sv, describe(e.status), ready)
		s.log.Warn("service ended", "service", sv.Name, "why", sv.lastExit, "again_in", sv.due.Sub(now).Round(time.Second))
	}
}

// fail notes that a service has ended, and when to start it again.
func (s *Supervisor) fail(sv *service, why string, ready time.Duration) {
	var pause time.Duration
	sv.history, pause = sv.history.ended(ready)
	now := time.Now()
	sv.state, sv.since, sv.due = machine.Waiting, now, now.Add(pause)
	sv.lastExit = why
	sv.restarts++
}

// launch starts a service's process.
func (s *Supervisor) launch(sv *service) error {
	run, groupFD := sv.run+1, -1
	group, err := newGroup(s.cgroups, sv.Name, run)
	if err == nil {
		groupFD, err = group.open(sv.Memory, sv.Processes)
	}
	if err != nil { // better without limits than not at all
		s.log.Warn("make service's group", "service", sv.Name, "error", err)
	}
	if groupFD >= 0 {
		defer unix.Close(groupFD)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	output, outputEnd, err := pipe()
	if err != nil {
		return err
	}
	defer unix.Close(outputEnd)
	ready, readyEnd, err := pipe()
	if err != nil {
		output.Close()
		return err
	}
	defer unix.Close(readyEnd)

	args := sv.Args
	if len(args) == 0 {
		args = []string{"/proc/self/exe", sv.Name}
	}
	attr := &syscall.ProcAttr{
		Dir: "/",
		Env: append([]string{
			"PATH=/bin:/sbin:/usr/bin:/usr/sbin", "HOME=/", "CLOUDLINK_READY_FD=3",
			"GOMEMLIMIT=" + strconv.FormatInt(sv.Memory/4*3, 10), // collects garbage before memory.high slows it down
		}, sv.Env...),
		Files: []uintptr{null.Fd(), uintptr(outputEnd), uintptr(outputEnd), uintptr(readyEnd)},
		Sys: &syscall.SysProcAttr{
			Setsid:      true,
			Credential:  &syscall.Credential{Uid: sv.User, Gid: sv.User, Groups: sv.Groups},
			AmbientCaps: sv.Caps,
			UseCgroupFD: groupFD >= 0, CgroupFD: groupFD,
		},
	}
	if sv.User == 0 {
		attr.Sys.AmbientCaps = nil // root has them anyway
	}
	proc, err := s.children.start(args, attr, sv.Caps, sv.Confine, func(status unix.WaitStatus) {
		s.send(event{service: sv, run: run, what: "end", status: status})
	})
	if err != nil {
		output.Close()
		ready.Close()
		return err
	}
	// A child cannot lower it for itself. If it has ended by now, that is told elsewhere.
	write(fmt.Sprintf("/proc/%d/oom_score_adj", proc.pid), strconv.Itoa(sv.OOMScore))
	s.mu.Lock()
	sv.state, sv.since, sv.killed = machine.Starting, time.Now(), false
	sv.run, sv.group, sv.proc, sv.output, sv.ready = run, group, proc, output, ready
	beat := new(atomic.Int64)
	sv.beat = beat
	s.mu.Unlock()
	s.copies.Go(func() {
		defer output.Close()
		s.ring.Copy(sv.Name, output)
	})
	go func() { // ends at the latest when release closes the pipe
		isReady := false
		words := bufio.NewScanner(ready)
		for words.Scan() {
			switch {
			case words.Text() == Ready && !isReady:
				isReady = true
				s.send(event{service: sv, run: run, what: "ready"})
			case words.Text() == Alive:
				beat.Store(int64(time.Since(s.start)))
			}
		}
	}()
	return nil
}

// release lets go of what belonged to a process that has ended, and of what it left running.
func (s *Supervisor) release(sv *service) {
	s.kill(sv)
	unix.Close(sv.proc.pidfd)
	sv.proc = child{pidfd: -1}
	sv.ready.Close()
	sv.output.SetReadDeadline(time.Now().Add(time.Second)) // what it said last is still read
}

// kill ends all processes of a service.
func (s *Supervisor) kill(sv *service) {
	if err := sv.group.kill(); err != nil {
		s.log.Warn("kill service's group", "service", sv.Name, "error", err)
		sv.proc.signal(unix.SIGKILL)
	}
}

// pipe returns a pipe whose reading end obeys deadlines and whose writing end blocks, as programs
// expect of their output.
func pipe() (r *os.File, w int, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, -1, fmt.Errorf("make pipe: %w", err)
	}
	unix.SetNonblock(fds[0], true)
	return os.NewFile(uintptr(fds[0]), "pipe"), fds[1], nil
}

// stop stops the services one after the other, the last one first.
func (s *Supervisor) stop(tick <-chan time.Time) {
	for _, sv := range slices.Backward(s.services) {
		s.stopOne(sv, tick)
	}
	s.copies.Wait()
}

func (s *Supervisor) stopOne(sv *service, tick <-chan time.Time) {
	s.mu.Lock()
	running := sv.proc.pidfd >= 0
	if running {
		sv.proc.signal(unix.SIGTERM)
	} else {
		sv.state, sv.since, sv.due = machine.Stopped, time.Now(), time.Time{}
	}
	s.mu.Unlock()
	if !running {
		return
	}
	limit := time.NewTimer(stopLimit)
	defer limit.Stop()
	hurry, killed := s.hurry, false
	kill := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.kill(sv)
		killed = true
		limit.Reset(killLimit)
	}
	for {
		s.progress.Store(int64(time.Since(s.start)))
		select {
		case e := <-s.events:
			if e.what != "end" {
				continue
			}
			s.mu.Lock()
			s.release(e.service)
			e.service.state, e.service.since, e.service.due = machine.Stopped, time.Now(), time.Time{}
			e.service.lastExit = describe(e.status)
			s.mu.Unlock()
			if e.service == sv {
				return
			}
		case <-tick:
		case <-hurry:
			hurry = nil
			kill()
		case <-limit.C:
			if killed { // it waits for a device that does not answer
				s.log.Error("service cannot be killed and is left behind", "service", sv.Name)
				sv.output.SetReadDeadline(time.Now())
				return
			}
			s.log.Warn("service does not stop and is killed", "service", sv.Name)
			kill()
		}
	}
}

// Status returns where the services stand.
func (s *Supervisor) Status() []machine.Service {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := []machine.Service{}
	for _, sv := range s.services {
		list = append(list, machine.Service{
			Name: sv.Name, State: sv.state, PID: sv.proc.pid,
			SinceSeconds: time.Since(sv.since).Seconds(),
			Restarts:     sv.restarts, LastExit: sv.lastExit,
			MemoryBytes: sv.group.memory(),
		})
	}
	return list
}

// Conditions returns what the owner should be told of the services.
func (s *Supervisor) Conditions() []condition.Condition {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []condition.Condition
	for _, sv := range s.services {
		well := sv.state == machine.Running && time.Since(sv.since) >= healthy
		slow := sv.state == machine.Starting && time.Since(sv.since) >= startSlow
		if slow || sv.history.failing() && !well && sv.state != machine.Stopped {
			list = append(list, condition.New(condition.ServiceFailing, "service", sv.Name))
		}
	}
	return list
}
