package ntp

import (
	"net/netip"
	"slices"
	"time"
)

// A Source says how the system clock was set.
type Source string

// The sources. Unset and Floor are before the first answer that could be believed.
const (
	Unset    Source = "unset"    // it shows a time before the floor: certainly wrong
	Floor    Source = "floor"    // it shows no less than what is known to have passed
	NTP      Source = "ntp"      // by servers, too few to be sure
	Verified Source = "verified" // by three servers that agree, or fewer and Verify
)

// A Reason says why the last attempt to set the clock failed.
type Reason string

// The reasons, the most telling first: if servers fail in several ways, it is the first of these.
const (
	CannotSet      Reason = "cannot-set"     // the kernel refuses
	TooFar         Reason = "too-far"        // they differ from the clock by over 15 minutes and are fewer than three
	Disagree       Reason = "disagree"       // no time is told by more than half of the servers
	Impossible     Reason = "impossible"     // they tell a time before the floor, or after this firmware's life
	Unsynchronised Reason = "unsynchronised" // they do not know the time themselves
	Refused        Reason = "refused"        // they do not want to be asked by us, or not so often
	NoAnswer       Reason = "no-answer"      // nothing usable came back in time
	Unresolved     Reason = "unresolved"     // DNS does not know the servers' addresses
	NoServers      Reason = "no-servers"     // nobody named one
)

var reasons = []Reason{CannotSet, TooFar, Disagree, Impossible, Unsynchronised, Refused, NoAnswer, Unresolved, NoServers}

// A State is what is known about the clock.
type State struct {
	Source  Source
	Servers []Server      // those that agreed when the clock was last set, the preferred first
	Offset  time.Duration // by which the clock was wrong then: positive if it was late

	// Synced is when the clock was last set; the zero time for never. It has a monotonic reading:
	// time.Since(Synced) is its age, whatever the clock was set to.
	Synced time.Time

	// Stepped is what the clock jumped by just now; 0 in every State that tells something else.
	Stepped time.Duration

	Reason Reason // why the last attempt failed; "" if it did not
	Detail string // Reason in a technician's words, or why Verify failed
}

// A Server is one that was asked.
type Server struct {
	Name    string // as it was named: a host or an address
	Address netip.AddrPort
}

func (s State) equal(o State) bool {
	return s.Source == o.Source && slices.Equal(s.Servers, o.Servers) && s.Offset == o.Offset &&
		s.Synced.Equal(o.Synced) && s.Stepped == o.Stepped && s.Reason == o.Reason && s.Detail == o.Detail
}
