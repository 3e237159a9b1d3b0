package update

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/update/trust"
)

// A Reason says why an attempt ended without success; its texts, de and en, are found by it. Those of
// what may be installed are package trust's.
type Reason string

// The reasons of this package.
const (
	NoServer       Reason = "no-server"     // the settings name none
	Interrupted    Reason = "interrupted"   // the gateway restarted in the middle
	NoConnection   Reason = "no-connection" // nobody answers at the server's address
	ServerAnswer   Reason = "server-answer" // it answers with an error: Detail has it
	WrongFile      Reason = "wrong-file"    // what came is not what was promised
	NoSpace        Reason = "no-space"      // the data partition is full
	MediumFailed   Reason = "medium-failed" // reading or writing the slot fails
	ReadBackDiffer Reason = "read-back"     // what the medium gives back is not what was written
	NotArmed       Reason = "not-armed"     // the loader's environment could not be written
	NothingThere   Reason = "nothing-there" // the other slot holds no system
	NotConfirmed   Reason = "not-confirmed" // the trial did not prove itself in time, or did not start
	CheckFailed    Reason = "check-failed"  // a check of the trial failed: Checks tell which
	Crashed        Reason = "crashed"       // the kernel of the trial crashed or hung
	Cancelled      Reason = "cancelled"     // by a person
	Internal       Reason = "internal"      // none of ours foresaw it
	NoBundle       Reason = "no-bundle"     // no USB stick has one
	NotSlots       Reason = "no-slots"      // the machine was not started by our loader
)

// passes says whether the next hour may bring what this one did not.
func (r Reason) passes() bool {
	switch r {
	case NoConnection, Reason(trust.TooSlow), Reason(trust.NoAnswer), Reason(trust.Truncated), Reason(trust.Mixed):
		return true
	}
	return false
}

// A Failure is an error that the owner is told.
type Failure struct {
	Reason Reason
	Err    error // a technician's words
}

func (f *Failure) Error() string {
	if f.Err == nil {
		return string(f.Reason)
	}
	return fmt.Sprintf("%s: %v", f.Reason, f.Err)
}

// Unwrap returns what is behind f.
func (f *Failure) Unwrap() error { return f.Err }

func fail(r Reason, err error) *Failure { return &Failure{r, err} }

// failure returns what the owner is told of err: its reason, or that of the medium it comes from.
func failure(err error, otherwise Reason) *Failure {
	if f := (*Failure)(nil); errors.As(err, &f) {
		return f
	}
	if e := (*trust.Error)(nil); errors.As(err, &e) {
		return fail(Reason(e.Reason), err)
	}
	if errors.Is(err, context.Canceled) {
		return fail(Cancelled, nil)
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fail(NoSpace, err)
	}
	return fail(otherwise, err)
}
