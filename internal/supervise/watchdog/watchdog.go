// Package watchdog has the board reset the machine when process 1 no longer does its work.
package watchdog

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Find returns the name of the watchdog's device, the board's own before the kernel's one of
// software, which a kernel that hangs takes along. sys is sysfs.
func Find(sys string) string {
	paths, _ := filepath.Glob(filepath.Join(sys, "class/watchdog/watchdog*")) // the pattern is well-formed
	for _, path := range paths {
		if to, err := os.Readlink(path); err == nil && !strings.Contains(to, "/virtual/") {
			return filepath.Base(path)
		}
	}
	return "watchdog0"
}

const (
	timeout = 30 * time.Second // from the last feeding to the reset
	every   = 5 * time.Second  // between feedings
)

// A Watchdog is an open, running watchdog. It is never closed: an end of process 1 resets.
type Watchdog struct {
	f *os.File
}

// Open starts the watchdog at path.
func Open(path string) (*Watchdog, error) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("open watchdog: %w", err)
	}
	w := &Watchdog{f}
	// A board that cannot count that far takes the nearest it can, or keeps its own time.
	unix.IoctlSetPointerInt(int(f.Fd()), unix.WDIOC_SETTIMEOUT, int(timeout/time.Second))
	if err := w.Feed(); err != nil {
		return nil, err
	}
	return w, nil
}

// Timeout returns how long the board waits for a feeding.
func (w *Watchdog) Timeout() time.Duration {
	n, err := unix.IoctlGetInt(int(w.f.Fd()), unix.WDIOC_GETTIMEOUT)
	if err != nil || n <= 0 {
		return timeout
	}
	return time.Duration(n) * time.Second
}

// ResetLast says whether the watchdog ended the last run, as far as the board remembers.
func (w *Watchdog) ResetLast() bool {
	n, err := unix.IoctlGetInt(int(w.f.Fd()), unix.WDIOC_GETBOOTSTATUS)
	return err == nil && n&unix.WDIOF_CARDRESET != 0
}

// Feed puts the reset off.
func (w *Watchdog) Feed() error {
	if err := unix.IoctlWatchdogKeepalive(int(w.f.Fd())); err != nil {
		return fmt.Errorf("feed watchdog: %w", err)
	}
	return nil
}

// Disarm stops the watchdog, for a power-off: some boards would start again by it. Where the board
// does not allow that, nothing is lost.
func (w *Watchdog) Disarm() {
	w.f.Write([]byte("V")) // then a close means to stop
	w.f.Close()
}

// Run feeds w as long as alive says that process 1 makes progress, until ctx ends.
func (w *Watchdog) Run(ctx context.Context, alive func() bool, log *slog.Logger) {
	feed(ctx, w, min(every, w.Timeout()/3), alive, log)
}

func feed(ctx context.Context, w interface{ Feed() error }, every time.Duration, alive func() bool, log *slog.Logger) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	hungry, failed := false, false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !alive() {
			if !hungry {
				log.Error("process 1 makes no progress; the watchdog will reset the machine")
			}
			hungry = true
			continue
		}
		hungry = false
		err := w.Feed()
		if err != nil && !failed {
			log.Error(err.Error())
		}
		failed = err != nil
	}
}
