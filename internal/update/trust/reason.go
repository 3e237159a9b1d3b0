package trust

import (
	"errors"
	"fmt"
)

// A Reason says in one word why there is no update; its texts, de and en, are found by it.
type Reason string

// The reasons. Behind each is an Error that says more.
const (
	// Nobody has anything to fear from these.
	UpToDate    Reason = "up-to-date"   // there is nothing newer for us
	NotYet      Reason = "not-yet"      // there is, but it comes to us later; on request at once
	MinimumFrom Reason = "minimum-from" // there is, but first another has to be installed: Version says which

	// The way to the repository.
	NoConnection Reason = "no-connection" // nobody answers there
	Certificate  Reason = "certificate"   // the server's certificate is not good, or our clock is wrong
	Redirected   Reason = "redirected"    // it sends us to another server
	NoAnswer     Reason = "no-answer"     // it answers with an error: Status says which
	TooSlow      Reason = "too-slow"      // the answer takes too long

	// What the repository or the bundle is.
	NotRepository Reason = "not-a-repository" // something else is there
	UnknownKeys   Reason = "unknown-keys"     // it is not signed by whom we believe
	Expired       Reason = "expired"          // nobody has vouched for it for long, or our clock is wrong
	Frozen        Reason = "frozen"           // we have seen a newer one
	RolledBack    Reason = "rolled-back"      // what it lists is older than what we have seen
	Mixed         Reason = "mixed"            // its parts do not belong together
	Truncated     Reason = "truncated"        // it ends too early
	TooLarge      Reason = "too-large"        // it is larger than any of ours

	// What it offers.
	WrongProduct Reason = "wrong-product" // it is for another product
	WrongBoard   Reason = "wrong-board"   // it is for other boards
	Downgrade    Reason = "downgrade"     // it is older than what runs
	BelowFloor   Reason = "below-floor"   // it is older than what is still safe: Version says what is
)

// An Error is why there is no update.
type Error struct {
	Reason  Reason
	Status  int    // HTTP status, with NoAnswer
	Version string // with MinimumFrom and BelowFloor: the version that is wanted; with NotYet: what comes
	Err     error  // a technician's words
}

func (e *Error) Error() string {
	if e.Err == nil {
		return string(e.Reason)
	}
	return fmt.Sprintf("%s: %v", e.Reason, e.Err)
}

// Unwrap returns what is behind e.
func (e *Error) Unwrap() error { return e.Err }

// ReasonOf returns the reason in err, or "" if it has none: then something is wrong with this device.
func ReasonOf(err error) Reason {
	if e := (*Error)(nil); errors.As(err, &e) {
		return e.Reason
	}
	return ""
}

func failf(r Reason, format string, args ...any) *Error {
	return &Error{Reason: r, Err: fmt.Errorf(format, args...)}
}
