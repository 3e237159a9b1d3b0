// Package commit keeps an owner from locking himself out: a change that can cut him off is applied on
// probation, with the old configuration beside the new, and counts only once a request that came in
// over the new one has confirmed it. Otherwise the old one returns.
//
// What was confirmed is in the settings, and only there: to confirm is to save the settings, which is
// atomic. The record beside them, written before a change is applied, only lets a process that is
// started anew go on with the probation. Without it, or with a damaged one, the settings count. At boot
// a change that is not confirmed is returned at once: who switches a gateway off and on is looking for
// a way back in.
package commit

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"cloudlink.local/gateway/internal/diary"
	"cloudlink.local/gateway/internal/settings"
)

// Period is how long a change can be confirmed.
const Period = 90 * time.Second

// A State says where the last change stands.
//
//	        Begin: risky          Confirm
//	idle ────────────────→ probation ─────→ confirmed
//	 │                      │   ↑ └┘ Begin       ↑
//	 │                      │   └─ Begin: risky ─┤   time, boot,
//	 │                      └───────────────────────────────────→ returned
//	 └─ Begin: not risky ────────────────────────┘   TakeBack
//
// Begin leads from confirmed and from returned to where it leads from idle. During a probation, one
// that is not risky by what was confirmed last leads to confirmed, and one that is the same, to returned.
type State string

// The states.
const (
	Idle      State = "idle"
	Probation State = "probation"
	Confirmed State = "confirmed"
	Returned  State = "returned"
)

// Why a change was returned: diary.ReasonTimeout, diary.ReasonTakenBack or
const atBoot = "boot"

// A Change is the last change of the network settings and where it stands.
type Change struct {
	Number uint64           `json:"number"` // growing
	State  State            `json:"state"`
	Old    settings.Network `json:"old"` // what was confirmed last when it began
	New    settings.Network `json:"new"`
	By     string           `json:"by"`   // the user's name
	From   string           `json:"from"` // where the request came from
	Began  time.Time        `json:"began"`
	Reason string           `json:"reason,omitempty"` // why it was returned

	// The probation ends when the boot-time clock of boot BootID shows Ends.
	BootID string        `json:"boot_id"`
	Ends   time.Duration `json:"ends_ns"`
}

// A moment is now by the clocks that a change needs.
type moment struct {
	bootID   string
	boottime time.Duration
}

// begin returns the change to new that follows c. confirmed is what was confirmed last: a further
// change during a probation does not touch it.
func (c Change) begin(confirmed, new settings.Network, by, from string, at moment) Change {
	if c.State == Probation && new.Equal(confirmed) {
		return c.takeBack()
	}
	next := Change{
		Number: c.Number + 1,
		State:  Probation,
		Old:    confirmed.Clone(),
		New:    new.Clone(),
		By:     by,
		From:   from,
		BootID: at.bootID,
		Ends:   at.boottime + Period,
		Began:  time.Now().UTC().Truncate(time.Second),
	}
	if !Risky(confirmed, new) {
		next.State = Confirmed
	}
	return next
}

// takeBack returns c, on probation so far, as the owner took it back.
func (c Change) takeBack() Change {
	c.State, c.Reason = Returned, diary.ReasonTakenBack
	return c
}

// remaining returns what is left of a probation; 0 for none.
func (c Change) remaining(at moment) time.Duration {
	if c.State != Probation || c.BootID != at.bootID || at.bootID == "" {
		return 0
	}
	return max(0, c.Ends-at.boottime)
}

// expire returns c as it is at a later moment, perhaps in another process or after a boot.
func (c Change) expire(at moment) Change {
	c.Ends = min(c.Ends, at.boottime+Period) // no longer, whatever the record says
	if c.State == Probation && c.remaining(at) == 0 {
		c.State, c.Reason = Returned, diary.ReasonTimeout
		if c.BootID != at.bootID || at.bootID == "" {
			c.Reason = atBoot
		}
	}
	return c
}

// Addresses are the gateway's own addresses, link-local ones with their zone, on which it answers the
// owner: those of a port on which it does not are left out.
type Addresses struct {
	New    []netip.Addr // only the new configuration has them
	Common []netip.Addr // both have
	Old    []netip.Addr // only the old one has: they go when the new one is confirmed
}

// A Refusal says why a confirmation did not count.
type Refusal string

// The refusals.
const (
	NoProbation  Refusal = "no-probation"   // there is nothing to confirm, or no longer
	OtherChange  Refusal = "other-change"   // another change has taken the place of the one that was meant
	NoNewAddress Refusal = "no-new-address" // the new configuration has no address yet
	OldAddress   Refusal = "old-address"    // the request came over an address that goes
	NotNew       Refusal = "not-new"        // it came over one that stays, which proves nothing about those that come
	NotOurs      Refusal = "not-ours"       // it came over none of the addresses
)

// A RefusedError is a confirmation that did not count.
type RefusedError struct {
	Refusal Refusal
	Over    []netip.Addr // the addresses over which it would
}

func (e *RefusedError) Error() string {
	over := "no address"
	if len(e.Over) > 0 {
		over = strings.Trim(fmt.Sprint(e.Over), "[]")
	}
	switch e.Refusal {
	case NoProbation:
		return "confirm: no change is on probation: make it again"
	case OtherChange:
		return "confirm: another change is on probation: load the page again"
	case NoNewAddress:
		return "confirm: the new configuration has no address yet: wait for it, or take the change back"
	case OldAddress:
		return "confirm: the request came over an old address: open the page over " + over
	case NotNew:
		return "confirm: the request came over an address that does not change: open the page over " + over
	}
	return "confirm: the request came over none of the gateway's addresses: open the page over " + over
}

// confirm returns c confirmed by a request for change number (0: whichever it is) that came in on
// address arrived. Where addresses move, it has to be one of the new. Where they are only added, only
// removed or all the same, any that stays will do: whoever uses it does not lose it.
func (c Change) confirm(number uint64, arrived netip.Addr, ours Addresses, at moment) (Change, error) {
	arrived = arrived.Unmap()
	over := slices.Concat(ours.New, ours.Common)
	moved := len(ours.New) > 0 && len(ours.Old) > 0
	if moved {
		over = ours.New
	}
	refuse := func(r Refusal) (Change, error) { return c, &RefusedError{Refusal: r, Over: over} }
	switch {
	case c.remaining(at) == 0:
		return refuse(NoProbation)
	case number != 0 && number != c.Number:
		return refuse(OtherChange)
	case slices.Contains(over, arrived):
		c.State = Confirmed
		return c, nil
	case len(over) == 0:
		return refuse(NoNewAddress)
	case slices.Contains(ours.Common, arrived):
		return refuse(NotNew)
	case slices.Contains(ours.Old, arrived):
		return refuse(OldAddress)
	}
	return refuse(NotOurs)
}
