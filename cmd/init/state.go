package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/boot"
	"cloudlink.local/gateway/internal/boot/clock"
	"cloudlink.local/gateway/internal/boot/data"
	"cloudlink.local/gateway/internal/boot/slots"
	"cloudlink.local/gateway/internal/condition"
	"cloudlink.local/gateway/internal/logring"
	"cloudlink.local/gateway/internal/machine"
	"cloudlink.local/gateway/internal/release"
	"cloudlink.local/gateway/internal/safefile"
	"cloudlink.local/gateway/internal/supervise"
)

const (
	runtimeDir = "/run/cloudlink"
	workDir    = "/run/init"        // mounts of process 1's own
	ownDir     = data.Dir + "/init" // process 1's own
	logDir     = data.Dir + "/log"
	clockFile  = ownDir + "/clock"
	serialFile = ownDir + "/serial"
	cleanFile  = ownDir + "/clean" // there if the last run ended in order
)

// A state is what process 1 tells of the machine.
type state struct {
	began   time.Duration // after the kernel's start
	release release.Release
	bootID  string
	clock   *clock.Clock
	sup     *supervise.Supervisor

	mu     sync.Mutex // guards what follows
	slot   string
	serial string
	data   data.Result
	notes  []condition.Condition // of the boot
	slots  *slots.Keeper         // nil until it is known what the loader decided by
}

func newState(began time.Duration, rel release.Release, clk *clock.Clock, sup *supervise.Supervisor) *state {
	st := &state{began: began, release: rel, clock: clk, sup: sup}
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	st.bootID = strings.TrimSpace(string(id))
	if rel.Keys == release.Development {
		st.note(condition.New(condition.DevelopmentKeys))
	}
	return st
}

// note adds what the owner is told until the next boot.
func (s *state) note(c condition.Condition) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notes = append(s.notes, c)
}

// keep notes what the machine keeps things on, and returns its disk.
func (s *state) keep(found storage) *boot.Disk {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.data = found.data
	if found.disk != nil {
		s.slot = string(found.disk.Slot)
	}
	return found.disk
}

// findSerial finds out the device's serial number. The data partition must be there.
func (s *state) findSerial() (serial string, fresh bool) {
	serial, fresh = boot.Serial("/sys", serialFile)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serial = serial
	return serial, fresh
}

// keeper returns the slots' keeper, nil while there is none.
func (s *state) keeper() machine.SlotKeeper {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.slots == nil {
		return nil
	}
	return s.slots
}

// result returns what became of the data partition.
func (s *state) result() data.Result {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.data
}

// status returns the machine's status now.
func (s *state) status() machine.Status {
	conditions := s.sup.Conditions()
	services := s.sup.Status()
	s.mu.Lock()
	defer s.mu.Unlock()
	conditions = append(conditions, s.notes...)
	if s.clock.Source() == clock.Floor {
		conditions = append(conditions, condition.New(condition.ClockFloor))
	}
	st := machine.Status{
		Release: s.release, Serial: s.serial, Slot: s.slot, BootID: s.bootID,
		UptimeSeconds: uptime().Seconds(), InitSeconds: s.began.Seconds(), Time: time.Now().UTC(),
		Memory: memory(), Services: services,
	}
	var more []condition.Condition
	st.Data, more = s.data.Status(data.Dir)
	st.Conditions = append(conditions, more...)
	condition.Sort(st.Conditions)
	return st
}

func uptime() time.Duration {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // cannot fail with a clock that exists
	return time.Duration(ts.Nano())
}

func memory() machine.Memory {
	b, _ := os.ReadFile("/proc/meminfo")
	return parseMemory(b)
}

func parseMemory(b []byte) (m machine.Memory) {
	for line := range bytes.Lines(b) {
		f := bytes.Fields(line)
		if len(f) < 2 {
			continue
		}
		kb, _ := strconv.ParseInt(string(f[1]), 10, 64)
		switch string(f[0]) {
		case "MemTotal:":
			m.TotalBytes = kb << 10
		case "MemAvailable:":
			m.AvailableBytes = kb << 10
		}
	}
	return m
}

// newLog returns process 1's own log: lines go to the ring, and warnings to the kernel's log as
// well, where a crash record finds them and, if grave, the serial line shows them.
func newLog(ring *logring.Ring) *slog.Logger {
	kmsg, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		ring.Add("init", machine.LevelWarn, err.Error())
	}
	return slog.New(logring.NewHandler(func(level machine.Level, text string) {
		ring.Add("init", level, text)
		if kmsg != nil && level <= machine.LevelWarn {
			fmt.Fprintf(kmsg, "<%d>init: %s\n", 8+level, logring.Clean(text)) // 8: not from the kernel
		}
	}))
}

// serve answers on process 1's socket.
func serve(ctx context.Context, st *state, ring *logring.Ring, tail *logring.Tail, requests chan<- boot.Request, log *slog.Logger) error {
	l, err := machine.Listen(machine.Socket, socketGroup)
	if err != nil {
		return err
	}
	ask := func(how boot.Ending) func(string) {
		return func(by string) {
			select {
			case requests <- boot.Request{Ending: how, By: by}:
			case <-ctx.Done():
			}
		}
	}
	s := machine.Server{
		Status: st.status, Log: ring.Since, Previous: tail.Previous,
		Restart: ask(boot.Restart), PowerOff: ask(boot.PowerOff),
		Slots:   st.keeper,
		MayStop: []uint32{consoleUser, portalUser, updateUser}, MayUpdate: []uint32{updateUser}, Logger: log,
	}
	return s.Run(ctx, l)
}

// makeDirs makes the directories below /run and gives the console's devices to its user.
func makeDirs(keys release.Keys) error {
	errs := []error{
		ownDirectory(runtimeDir, 0),
		os.MkdirAll(data.Dir, 0o755),
		os.Chmod("/", 0o755), // the kernel makes it anybody's
		os.MkdirAll(workDir, 0o700),
		os.MkdirAll(slotsDir, 0o755),
	}
	for _, row := range services(keys) {
		errs = append(errs, ownDirectory(filepath.Join(runtimeDir, row.Name), row.User)) // so that none takes another's place
	}
	if keys != release.Development {
		active, _ := os.ReadFile("/sys/class/tty/console/active")
		for _, tty := range append(strings.Fields(string(active)), "console") {
			if tty == "tty0" { // whichever is in front: the first
				tty = "tty1"
			}
			errs = append(errs, os.Chown(filepath.Join("/dev", tty), consoleUser, consoleUser))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("make directories: %w", err)
	}
	return nil
}

// ownDirectory makes a directory in which a service has its socket, for the others to reach it.
func ownDirectory(dir string, user uint32) error {
	return errors.Join(os.MkdirAll(dir, 0o750), os.Chown(dir, int(user), socketGroup), os.Chmod(dir, 0o750))
}

// makeDataDirs makes the directories of process 1 and of the services on the data partition.
func makeDataDirs(rows []row) error {
	errs := []error{os.Chmod(data.Dir, 0o755)}
	private := func(dir string, user int) {
		errs = append(errs, safefile.Clear(dir, true), os.MkdirAll(dir, 0o700), os.Chown(dir, user, user), os.Chmod(dir, 0o700))
	}
	private(ownDir, 0)
	private(logDir, 0)
	for _, row := range rows {
		if row.keeps {
			private(filepath.Join(data.Dir, row.Name), int(row.User))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("make directories for data: %w", err)
	}
	return nil
}
