package boot

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// An Ending is how the machine goes down.
type Ending string

// The endings.
const (
	Restart  Ending = "restart"
	PowerOff Ending = "power-off"
)

// A Request asks for the machine to go down, and says whose wish it is.
type Request struct {
	Ending Ending
	By     string
}

// signals are what process 1 is asked by, as other inits are. Ctrl-Alt-Del comes as SIGINT.
var signals = map[os.Signal]Request{
	unix.SIGTERM: {Restart, "signal SIGTERM"},
	unix.SIGINT:  {Restart, "Ctrl-Alt-Del"},
	unix.SIGUSR2: {PowerOff, "signal SIGUSR2"},
	unix.SIGPWR:  {PowerOff, "signal SIGPWR"},
}

// CatchSignals has no signal end this process any more, and returns those that ask for something.
func CatchSignals() <-chan os.Signal {
	// Not ignored, which the services would inherit, but caught, and dropped.
	signal.Notify(make(chan os.Signal, 1), unix.SIGHUP, unix.SIGQUIT, unix.SIGABRT, unix.SIGTRAP, unix.SIGSTKFLT, unix.SIGSYS, unix.SIGPIPE)
	caught := make(chan os.Signal, 4)
	for sig := range signals {
		signal.Notify(caught, sig)
	}
	return caught
}

// Signals sends on the requests that come as signals, until ctx ends.
func Signals(ctx context.Context, caught <-chan os.Signal, requests chan<- Request) {
	unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF) // Ctrl-Alt-Del asks us; it fails where we are not process 1
	for {
		select {
		case sig := <-caught:
			ask(ctx, requests, signals[sig])
		case <-ctx.Done():
			return
		}
	}
}

func ask(ctx context.Context, requests chan<- Request, r Request) {
	select {
	case requests <- r:
	case <-ctx.Done():
	}
}

// Buttons sends on the presses of power and restart keys below dir, /dev/input, until ctx ends.
// Devices may appear late: they are looked for again during the first minute.
func Buttons(ctx context.Context, dir string, requests chan<- Request, log *slog.Logger) {
	var readers sync.WaitGroup
	defer readers.Wait()
	open := map[string]bool{}
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for range 12 {
		paths, _ := filepath.Glob(filepath.Join(dir, "event*")) // the pattern is well-formed
		for _, path := range paths {
			if open[path] {
				continue
			}
			f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // non-blocking: Close ends a Read
			if err != nil {
				log.Warn("open button", "error", err)
				continue
			}
			open[path] = true
			readers.Go(func() {
				defer f.Close()
				defer context.AfterFunc(ctx, func() { f.Close() })()
				if err := readKeys(ctx, f, requests); ctx.Err() == nil {
					log.Info("button is gone", "device", filepath.Base(path), "error", err)
				}
			})
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
	<-ctx.Done()
}

// The kernel's key codes (input-event-codes.h).
const (
	keyPower   = 116
	keyRestart = 0x198
)

// eventSize is that of struct input_event: two long words of time, type, code, value.
const eventSize = 24

// readKeys reads until it cannot: the error says why.
func readKeys(ctx context.Context, r io.Reader, requests chan<- Request) error {
	buf := make([]byte, 64*eventSize)
	for {
		n, err := r.Read(buf)
		if err != nil {
			return err
		}
		for b := buf[:n]; len(b) >= eventSize; b = b[eventSize:] {
			kind, code, value := binary.LittleEndian.Uint16(b[16:]), binary.LittleEndian.Uint16(b[18:]), binary.LittleEndian.Uint32(b[20:])
			if kind != unix.EV_KEY || value != 1 { // 1 is pressed; released and repeated do not count
				continue
			}
			switch code {
			case keyPower:
				ask(ctx, requests, Request{PowerOff, "power button"})
			case keyRestart:
				ask(ctx, requests, Request{Restart, "restart button"})
			}
		}
	}
}

// settle is how long a step of going down may take before the next one is tried without it.
const settle = 8 * time.Second

// Down ends what processes are left, unmounts dirs, and brings what is written to the medium. No
// step can hold it up for long. It names what did not work.
func Down(dirs ...string) error {
	unix.Kill(-1, unix.SIGKILL) // orphans; process 1 itself is spared
	var errs []error
	for _, dir := range dirs {
		if err := Bounded("unmount "+dir, func() error { return unmount(dir) }); err != nil {
			errs = append(errs, err)
		}
	}
	errs = append(errs, Bounded("sync", func() error { unix.Sync(); return nil }))
	return errors.Join(errs...)
}

// unmount tries for a while: what was killed needs a moment to let go of its files. In the end
// the file system is at least made read-only, which leaves it clean as well.
func unmount(dir string) error {
	var err error
	for range 50 {
		if err = unix.Unmount(dir, 0); err == nil || errors.Is(err, unix.EINVAL) { // EINVAL: nothing is mounted there
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	if roErr := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); roErr != nil {
		return errors.Join(err, roErr)
	}
	return fmt.Errorf("%w; made read-only instead", err)
}

// Bounded runs step, and goes on without it if it hangs.
func Bounded(name string, step func() error) error {
	done := make(chan error, 1)
	go func() { done <- step() }() // one that hangs ends with the machine
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	case <-time.After(settle):
		return fmt.Errorf("%s: hangs", name)
	}
}

// End restarts the machine or powers it off, now. It returns only if the kernel refuses.
func End(e Ending) error {
	cmd := unix.LINUX_REBOOT_CMD_RESTART
	if e == PowerOff {
		cmd = unix.LINUX_REBOOT_CMD_POWER_OFF
	}
	if err := unix.Reboot(cmd); err != nil {
		return fmt.Errorf("%s: %w", e, err)
	}
	return nil
}
