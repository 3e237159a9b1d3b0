package watchdog

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A dog counts its feedings.
type dog struct {
	fed int
	err error
}

func (d *dog) Feed() error { d.fed++; return d.err }

func TestItIsFedAsLongAsThereIsProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		var alive atomic.Bool
		alive.Store(true)
		d := &dog{}
		var b bytes.Buffer
		done := make(chan struct{})
		go func() {
			feed(ctx, d, 5*time.Second, alive.Load, slog.New(slog.NewTextHandler(&b, nil)))
			close(done)
		}()
		time.Sleep(21 * time.Second)
		synctest.Wait()
		if d.fed != 4 {
			t.Errorf("fed %d times", d.fed)
		}
		alive.Store(false)
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if d.fed != 4 || strings.Count(b.String(), "no progress") != 1 {
			t.Errorf("fed %d times without progress; logged %s", d.fed-4, &b)
		}
		alive.Store(true)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if d.fed != 5 {
			t.Error("it is not fed again")
		}
		stop()
		<-done
	})
}

func TestAFeedingThatFailsIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithTimeout(t.Context(), 31*time.Second)
		defer stop()
		var b bytes.Buffer
		d := &dog{err: errors.New("bitten")}
		feed(ctx, d, 5*time.Second, func() bool { return true }, slog.New(slog.NewTextHandler(&b, nil)))
		if d.fed != 6 || strings.Count(b.String(), "bitten") != 1 {
			t.Errorf("tried %d times; logged %s", d.fed, &b)
		}
	})
}

func TestTheBoardsOwnIsTakenBeforeTheKernels(t *testing.T) {
	sys := t.TempDir()
	if got := Find(sys); got != "watchdog0" {
		t.Errorf("where there is none: %s", got)
	}
	dir := filepath.Join(sys, "class/watchdog")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{
		"watchdog0": "../../devices/virtual/watchdog/watchdog0", "watchdog1": "../../devices/pci0000:00/0000:00:03.0/watchdog/watchdog1",
	} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if got := Find(sys); got != "watchdog1" {
		t.Errorf("the board's own is not %s", got)
	}
	if err := os.Remove(filepath.Join(dir, "watchdog1")); err != nil {
		t.Fatal(err)
	}
	if got := Find(sys); got != "watchdog0" {
		t.Errorf("the only one is not %s", got)
	}
}

func TestABoardWithoutOneIsToldSo(t *testing.T) {
	if _, err := Open(filepath.Join(t.TempDir(), "watchdog0")); err == nil || !strings.Contains(err.Error(), "open watchdog") {
		t.Errorf("opened: %v", err)
	}
}
