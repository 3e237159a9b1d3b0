package update

import (
	"fmt"
	"slices"
	"time"
)

// A State is where an update is. States are saved by name: the other slot's firmware reads them, too.
type State string

// The states. From any of the working ones it can go to Failed, from Trial to RolledBack.
const (
	Idle          State = "idle"
	Checking      State = "checking"
	Downloading   State = "downloading"
	Verifying     State = "verifying"
	Writing       State = "writing"
	PendingReboot State = "pending-reboot" // the other slot is written, read back and armed
	Trial         State = "trial"          // it runs, and has to prove itself
	Confirmed     State = "confirmed"
	Failed        State = "error"
	RolledBack    State = "rolled-back"
)

// next says which states may follow each. Whatever begins an attempt begins with Checking; an uploaded
// bundle is checked like a repository, a drill only reads what is there (Verifying).
var next = map[State][]State{
	Idle:          {Checking, Verifying},
	Checking:      {Downloading, Verifying, Failed},
	Downloading:   {Verifying, Failed},
	Verifying:     {Downloading, Writing, PendingReboot, Failed},
	Writing:       {Verifying, PendingReboot, Failed},
	PendingReboot: {Trial, Confirmed, RolledBack, Failed},
	Trial:         {Confirmed, RolledBack},
	Confirmed:     {Checking, Verifying, Idle},
	Failed:        {Checking, Verifying, Idle},
	RolledBack:    {Checking, Verifying, Idle},
}

// May says whether to can follow s.
func (s State) May(to State) bool { return slices.Contains(next[s], to) }

// Working says whether an update is on its way: every page says so, and nothing else begins.
func (s State) Working() bool {
	switch s {
	case Checking, Downloading, Verifying, Writing, PendingReboot, Trial:
		return true
	}
	return false
}

// A Kind says what an attempt is for.
type Kind string

// The kinds of attempts.
const (
	Update   Kind = "update"
	Rollback Kind = "rollback" // to what the other slot holds, for good
	Drill    Kind = "drill"    // to what the other slot holds, to see that it would start, and back
)

// An Attempt is the receipt of one update: what was tried, every step, and how it ended. It is kept
// when it has ended.
type Attempt struct {
	ID       int       `json:"id"` // growing
	Kind     Kind      `json:"kind"`
	By       string    `json:"by"` // "" for the gateway itself
	Source   Source    `json:"source"`
	From     string    `json:"from"` // version
	To       string    `json:"to,omitempty"`
	FromSlot string    `json:"from_slot"`
	ToSlot   string    `json:"to_slot"`
	Delta    bool      `json:"delta,omitempty"` // only what differs was fetched
	Bytes    int64     `json:"bytes,omitempty"` // to be fetched
	Began    time.Time `json:"began"`
	Steps    []Step    `json:"steps"`
	State    State     `json:"state"`
	Reason   Reason    `json:"reason,omitempty"`   // of Failed and RolledBack
	Detail   string    `json:"detail,omitempty"`   // in a technician's words
	Checks   []Check   `json:"checks,omitempty"`   // of the trial
	LastLog  []string  `json:"last_log,omitempty"` // of the trial that failed
	Notes    Notes     `json:"notes,omitzero"`
	Floor    string    `json:"floor,omitempty"` // nothing older is installed once this has proved itself
	BootID   string    `json:"boot_id"`         // of the run that armed the trial

	PeakMemory int64 `json:"peak_memory_bytes,omitempty"` // that fetching and writing it took

	Expected Expected `json:"expected"` // what the trial is measured by
}

// A Step is one state of an attempt.
type Step struct {
	State   State     `json:"state"`
	Time    time.Time `json:"time"`
	Seconds float64   `json:"seconds,omitempty"` // it took; 0 while it lasts
}

// Notes are what a release says of itself, in plain text.
type Notes struct {
	DE string `json:"de,omitempty"`
	EN string `json:"en,omitempty"`
}

// A Source says where an update comes from.
type Source string

// The sources.
const (
	FromRepository Source = "repository"
	FromUpload     Source = "upload"
	FromUSB        Source = "usb"
	FromSlot       Source = "slot" // it is there already
)

// Booted is what process 1 knows after a start.
type Booted struct {
	Slot    string // that runs: "a" or "b"
	OnTrial bool   // and has not been confirmed
	BootID  string
	Version string // that runs
	Trial   string // slot that the loader's environment has on trial, tried or not; "" for none
	Tries   int    // left for it
}

// Resume returns what becomes of an attempt that was saved, after a restart of the service or of the
// machine. It asks nobody: every power cut and every decision of the loader is a row of its test.
func Resume(a Attempt, now Booted) (State, Reason) {
	sameBoot := a.BootID == now.BootID
	switch a.State {
	case Checking:
		return Failed, Interrupted
	case Downloading:
		return Downloading, "" // what was fetched is kept
	case Verifying, Writing:
		if a.Kind != Update {
			return Failed, Interrupted // nothing has been changed, and somebody waited for it
		}
		return Verifying, "" // what was fetched is checked again, and the slot written from its start
	case PendingReboot, Trial:
		switch {
		case now.Slot == a.ToSlot && now.OnTrial:
			return Trial, ""
		case now.Slot == a.ToSlot: // the cut came after the confirmation
			return Confirmed, ""
		case a.State == PendingReboot && (sameBoot || now.Trial != a.ToSlot || now.Tries > 0):
			return PendingReboot, "" // the loader has not tried it
		default:
			return RolledBack, NotConfirmed
		}
	}
	return a.State, a.Reason
}

// begin ends the attempt's last step and begins that of state to.
func (a *Attempt) begin(to State, now time.Time, took time.Duration) error {
	if a.State != "" && !a.State.May(to) {
		return fmt.Errorf("update: %s cannot follow %s", to, a.State)
	}
	if n := len(a.Steps); n > 0 && a.Steps[n-1].Seconds == 0 {
		a.Steps[n-1].Seconds = took.Seconds()
	}
	a.State = to
	a.Steps = append(a.Steps, Step{State: to, Time: now.UTC()})
	return nil
}
