package arp

import (
	"net"
	"net/netip"
	"time"
)

// A Timing says how long to look before an address is used.
type Timing struct {
	Wait     time.Duration // at most so long before the first probe
	Min, Max time.Duration // between two probes
	Answer   time.Duration // after the last probe
	Probes   int
}

var (
	// Standard is that of RFC 5227 §1.1: 4 to 7 s.
	Standard = Timing{Wait: time.Second, Min: time.Second, Max: 2 * time.Second, Answer: 2 * time.Second, Probes: 3}

	// Quick is for an address that somebody gave us who knows the network: a device that is awake
	// answers within milliseconds, so the address is used after 0.3 s. Looking goes on as long as
	// the standard demands, and what turns up counts as if the address had not been used yet. Other
	// systems look as briefly, and then no more (Apple's 0.9 s, NetworkManager 0.2 s).
	Quick = Timing{Min: 80 * time.Millisecond, Max: 120 * time.Millisecond, Answer: 100 * time.Millisecond, Probes: 3}

	// Held is for an address that was ours on this link before: it is used while we look.
	Held = Timing{}
)

const (
	look          = 4 * time.Second  // in all: what the standard takes where chance is kind
	afterwards    = time.Second      // between two packets while the address is used already
	defendAgain   = 10 * time.Second // DEFEND_INTERVAL
	announcements = 2                // ANNOUNCE_NUM
)

// An Event is what a Watch finds.
type Event string

// Taken and Lost end the Watch.
const (
	Free     Event = "free"     // nobody has the address: use it
	Taken    Event = "taken"    // another device had it before us: do not use it
	Defended Event = "defended" // another device has begun to use it; it was told whose it is
	Lost     Event = "lost"     // it would not hear: stop using the address at once
)

// A claim is the claim to an address without socket and clock: its methods take what happened and
// return what to send and what to tell, "" for nothing. Whoever drives it calls timeout at the time
// wake, first at the start.
//
//	probing ─ nobody answers ─→ using, unsettled ─ nobody answers ─→ using, settled ─ again within 10 s ─→ lost
//	   └───────── taken ──────────────┘                                    └ conflict: defended ┘
type claim struct {
	addr   netip.Addr
	mac    [6]byte
	timing Timing
	random func(time.Duration) time.Duration // below its argument, or 0

	began     time.Time
	probes    int // sent before use
	using     bool
	settled   bool
	announced int
	checked   bool      // the last packet sent while unsettled was a probe
	defended  time.Time // the last time
	wake      time.Time // the zero time is never
}

// timeout does what is due.
func (c *claim) timeout(now time.Time) (out *message, event Event) {
	switch {
	case c.began.IsZero():
		c.began = now
		if c.timing.Probes > 0 && c.timing.Wait > 0 {
			c.wake = now.Add(c.random(c.timing.Wait))
			return nil, ""
		}
	case c.wake.IsZero():
		return nil, ""
	}
	if !c.using {
		if c.probes < c.timing.Probes {
			c.probes++
			c.wake = now.Add(c.timing.Answer)
			if c.probes < c.timing.Probes {
				c.wake = now.Add(c.timing.Min + c.random(c.timing.Max-c.timing.Min))
			}
			return c.probe(), ""
		}
		c.using = true
		event = Free
	}
	c.settled = now.Sub(c.began) >= look
	c.wake = now.Add(afterwards)
	switch {
	case c.settled && c.announced == announcements:
		c.wake = time.Time{}
		return nil, event
	case c.settled:
		c.announced++
		c.wake = now.Add(2 * afterwards) // ANNOUNCE_INTERVAL
		return c.announcement(), event
	case c.announced == 0 || c.checked && c.announced < announcements:
		c.announced++
		c.checked = false
		return c.announcement(), event
	}
	c.checked = true
	return c.probe(), event
}

// receive takes a packet of another device that is about the address.
func (c *claim) receive(now time.Time, m message) (out *message, event Event) {
	if m.senderMAC == c.mac {
		return nil, ""
	}
	uses := m.sender == c.addr
	probes := m.op == request && m.sender.IsUnspecified() && m.target == c.addr
	switch {
	case !c.using && (uses || probes), c.using && uses && !c.settled:
		c.wake = time.Time{}
		return nil, Taken
	case !c.using || !uses: // a probe is answered by the kernel, which has the address now
		return nil, ""
	case !c.defended.IsZero() && now.Sub(c.defended) < defendAgain: // RFC 5227 §2.4 (b)
		c.wake = time.Time{}
		return nil, Lost
	}
	c.defended = now
	return c.announcement(), Defended
}

func (c *claim) probe() *message {
	return &message{op: request, senderMAC: c.mac, sender: netip.IPv4Unspecified(), target: c.addr}
}

func (c *claim) announcement() *message {
	return &message{op: request, senderMAC: c.mac, sender: c.addr, target: c.addr}
}

// hardware is mac as an array.
func hardware(mac net.HardwareAddr) (a [6]byte) {
	copy(a[:], mac)
	return a
}
