// Package clock keeps the system clock from falling behind what is known to have passed: the
// build of this firmware, how long it has run since, and the last time of which the network service was
// sure. What the system clock shows is not among it: a server that lies, or a mad board clock, would
// be believed for ever after.
package clock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/google/renameio/v2"

	"cloudlink.local/gateway/internal/safefile"
)

// A Source says where the time came from.
type Source string

// RTC is a battery-backed clock that shows a possible time. Floor is a bound: it is no earlier.
const (
	RTC   Source = "rtc"
	Floor Source = "floor"
)

// life is how long after its build a firmware may still run: a clock that shows more is wrong.
const life = 25 * 365 * 24 * time.Hour

// decide returns what time it is: that of the board's clock if possible, else the latest that is
// known to have passed. Zero times are not known.
func decide(build, saved, rtc time.Time) (time.Time, Source) {
	possible := func(t time.Time) bool { return !t.Before(build) && !t.After(build.Add(life)) }
	floor := build
	if possible(saved) {
		floor = saved
	}
	if possible(rtc) && !rtc.Before(floor) {
		return rtc, RTC
	}
	return floor, Floor
}

// A Clock is the system clock.
type Clock struct {
	build time.Time

	mu     sync.Mutex // guards what follows
	source Source
	floor  time.Time // it was no earlier
	at     time.Time // when the monotonic clock was here
	file   string    // where the time is saved; "" until Resume
}

// Set sets the system clock from the board's clock at device and the build time, before anything
// else asks what time it is.
func Set(build time.Time, device string) (*Clock, error) {
	rtc, rtcErr := readRTC(device)
	now, source := decide(build, time.Time{}, rtc)
	if errors.Is(rtcErr, fs.ErrNotExist) {
		rtcErr = nil // many boards have none
	}
	err := set(now)
	return &Clock{build: build, source: source, floor: build, at: time.Now()}, errors.Join(rtcErr, err)
}

// Resume raises the clock to the times saved in file and sure, and has Save write to file from now on.
// sure is the last time of which somebody was sure, in the same form.
func (c *Clock) Resume(file, sure string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.file = file
	var errs []error
	for _, name := range []string{file, sure} {
		saved, err := read(name)
		if err != nil {
			errs = append(errs, fmt.Errorf("read saved time: %w", err))
			continue
		}
		now := time.Now()
		then, source := decide(c.build, saved, now)
		if floor, _ := decide(c.build, saved, time.Time{}); floor.After(c.floor.Add(time.Since(c.at))) {
			c.floor, c.at = floor, now
		}
		if source == Floor && then.After(now) {
			c.source = Floor
			errs = append(errs, set(then))
		}
	}
	return errors.Join(errs...)
}

// read reads a saved time; zero is none.
func read(file string) (time.Time, error) {
	b, err := safefile.Read(file, 100)
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	return parse(b)
}

// Source returns where the time came from.
func (c *Clock) Source() Source {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.source
}

// Save saves the time that it is at least.
func (c *Clock) Save() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.file == "" {
		return nil
	}
	if err := renameio.WriteFile(c.file, Format(c.floor.Add(time.Since(c.at))), 0o600); err != nil {
		return fmt.Errorf("save time in %s: %w", filepath.Base(c.file), err)
	}
	return nil
}

// Run saves the time every hour until ctx ends. What goes wrong is said once.
func (c *Clock) Run(ctx context.Context, report func(error)) {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	failed := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := c.Save()
		if err != nil && !failed {
			report(err)
		}
		failed = err != nil
	}
}

// Format writes a time as Resume reads it.
func Format(t time.Time) []byte { return []byte(t.UTC().Format(time.RFC3339) + "\n") }

func parse(b []byte) (time.Time, error) {
	return time.Parse(time.RFC3339, strings.TrimSuffix(string(b), "\n"))
}

func set(t time.Time) error {
	tv := unix.NsecToTimeval(t.UnixNano())
	if err := unix.Settimeofday(&tv); err != nil {
		return fmt.Errorf("set clock: %w", err)
	}
	return nil
}

func readRTC(device string) (time.Time, error) {
	f, err := os.Open(device)
	if err != nil {
		return time.Time{}, fmt.Errorf("open board's clock: %w", err)
	}
	defer f.Close()
	t, err := unix.IoctlGetRTCTime(int(f.Fd()))
	if err != nil {
		return time.Time{}, fmt.Errorf("read board's clock: %w", err)
	}
	return time.Date(int(t.Year)+1900, time.Month(t.Mon+1), int(t.Mday), int(t.Hour), int(t.Min), int(t.Sec), 0, time.UTC), nil
}
