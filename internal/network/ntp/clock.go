package ntp

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// A Clock is the system clock.
type Clock interface {
	Now() time.Time
	Step(by time.Duration) error // at once
	Slew(by time.Duration) error // little by little; what is left of an earlier one is forgotten

	// Synchronised tells whether it has been stepped or slewed since the boot and not set otherwise.
	Synchronised() bool
}

// System is the kernel's clock. To set it needs CAP_SYS_TIME and the system call adjtimex.
type System struct{}

// Now returns its time.
func (System) Now() time.Time { return time.Now() }

// Step adds by to it, which takes no time that would be missing from it.
func (System) Step(by time.Duration) error {
	t := stepped(by)
	if _, err := unix.Adjtimex(&t); err != nil {
		return fmt.Errorf("step clock by %v: %w", by, err)
	}
	return confirm()
}

// Slew has the kernel add by at 0.5 ms a second.
func (System) Slew(by time.Duration) error {
	t := unix.Timex{Modes: unix.ADJ_OFFSET_SINGLESHOT, Offset: by.Microseconds()}
	if _, err := unix.Adjtimex(&t); err != nil {
		return fmt.Errorf("slew clock by %v: %w", by, err)
	}
	return confirm()
}

// Synchronised asks the kernel, which forgets it when the clock is set otherwise, or has not been
// confirmed for eight hours.
func (System) Synchronised() bool {
	state, err := unix.Adjtimex(&unix.Timex{})
	return err == nil && state != unix.TIME_ERROR
}

// stepped returns what adjtimex wants for a step: whole seconds, and nanoseconds that are not negative.
func stepped(by time.Duration) unix.Timex {
	whole := by.Truncate(time.Second)
	if whole > by {
		whole -= time.Second
	}
	t := unix.Timex{Modes: unix.ADJ_SETOFFSET | unix.ADJ_NANO}
	t.Time.Sec, t.Time.Usec = int64(whole/time.Second), int64(by-whole)
	return t
}

// confirm tells the kernel that the clock is right within a second: it writes the time to the
// board's clock then, every eleven minutes.
func confirm() error {
	t := unix.Timex{Modes: unix.ADJ_STATUS | unix.ADJ_MAXERROR | unix.ADJ_ESTERROR, Maxerror: window.Microseconds(), Esterror: window.Microseconds()}
	if _, err := unix.Adjtimex(&t); err != nil {
		return fmt.Errorf("confirm clock: %w", err)
	}
	return nil
}
