package update

import (
	"fmt"
	"slices"
	"time"
)

// Socket is the update service's Unix socket, on which it answers in JSON:
//
//	GET  /status            → Status
//	POST /check Request     → 202: the update server is asked now
//	POST /install Request   → 202: and what it has is installed
//	POST /usb Request       → 202: a bundle is looked for on USB sticks, and installed
//	POST /rollback Request  → 202: the system in the other slot is started, for good
//	POST /drill Request     → 202: it is started, to see that it would, and then this one again
//	POST /cancel Request    → 202: the update ends, if it can still end
//	POST /upload?by=NAME    → 202: the body is a bundle, and is installed
//
// 409 says why it is not done.
const Socket = "/run/cloudlink/update/sock"

// Status is how updates stand.
type Status struct {
	State    State      `json:"state"`   // of the newest attempt
	Version  string     `json:"version"` // that runs
	Slot     string     `json:"slot"`
	Other    *Other     `json:"other,omitempty"` // in the other slot; nil: nothing that starts
	Checking bool       `json:"checking,omitempty"`
	Busy     bool       `json:"busy,omitempty"`     // something is on its way: what is asked for now is refused
	Check    *LastCheck `json:"check,omitempty"`    // nil: not since the start
	Progress *Progress  `json:"progress,omitempty"` // of the step that lasts
	Checks   []Check    `json:"checks,omitempty"`   // of the trial that runs
	Attempts []Attempt  `json:"attempts"`           // the newest first
}

// Other is the system in the slot that is not running.
type Other struct {
	Version   string    `json:"version"`
	BuildTime time.Time `json:"build_time"`
}

// LastCheck is what came of asking for updates.
type LastCheck struct {
	Time      time.Time  `json:"time"`
	Reason    Reason     `json:"reason,omitempty"` // why there is none
	Detail    string     `json:"detail,omitempty"`
	Available *Available `json:"available,omitempty"`
}

// Available is an update that can be installed.
type Available struct {
	Version string `json:"version"`
	Bytes   int64  `json:"bytes"` // to be fetched
	Notes   Notes  `json:"notes,omitzero"`
}

// A Request says who asks for something.
type Request struct {
	By string `json:"by"`
}

// status is a copy of what is shown.
func (s *service) status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.shown
	st.Busy = s.taken
	st.Attempts, st.Checks = slices.Clone(st.Attempts), slices.Clone(st.Checks)
	return st
}

// show changes what is shown.
func (s *service) show(change func(*Status)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.shown)
}

func (s *service) progress(p Progress) { s.show(func(st *Status) { st.Progress = &p }) }

func (s *service) checked(c LastCheck) { s.show(func(st *Status) { st.Check = &c }) }

// cancellable says how the attempt can be ended, nil where it cannot any more.
func (s *service) cancellable(cancel func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cancel = cancel; cancel != nil {
		s.cancelled = false
	}
}

// begin begins an attempt.
func (s *service) begin(a Attempt, state State) Attempt {
	a.Began, a.Steps = time.Now().UTC(), []Step{}
	a = s.store.add(a)
	s.enter(&a, state)
	return a
}

// enter goes to the next state, and saves that.
func (s *service) enter(a *Attempt, to State) {
	if a.State == to {
		return
	}
	now := time.Now()
	took := time.Duration(0)
	if n := len(a.Steps); n > 0 {
		took = max(0, now.Sub(a.Steps[n-1].Time)) // the clock may have been put back
	}
	if err := a.begin(to, now, took); err != nil {
		s.Log.Error(err.Error()) // the table of states is wrong; the attempt goes on
	}
	s.Log.Info("update: "+string(to), "version", a.To, "attempt", a.ID)
	s.show(func(st *Status) { st.Progress = nil })
	s.save(*a)
}

// end ends the attempt.
func (s *service) end(a *Attempt, state State, f *Failure) {
	if f != nil {
		a.Reason = f.Reason
		if f.Err != nil {
			a.Detail = f.Err.Error()
		}
		s.Log.Warn(fmt.Sprintf("update: %v", f), "version", a.To, "attempt", a.ID)
	}
	s.enter(a, state)
}

func (s *service) save(a Attempt) {
	s.store.save(a)
	s.show(func(st *Status) { st.State, st.Attempts = a.State, s.store.all() })
}
