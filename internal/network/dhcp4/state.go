package dhcp4

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

// A State is where the client stands (RFC 2131 §4.4, figure 5).
//
//	      ┌─ nothing remembered ─→ selecting ─ offer ─→ requesting ─ ack ─→ bound ⇄ renewing
//	start ┤                         ↑ ↑ ↑                    │               ↑         │ T2
//	      └─ address remembered ─→ rebooting ─ ack ──────────┼───────────────┘         ↓
//	                                  └ no answer, nak ──────┴──── nak, expired ── rebinding
type State string

// The states by their names in the RFC.
const (
	Selecting  State = "selecting"
	Rebooting  State = "rebooting"
	Requesting State = "requesting"
	Bound      State = "bound"
	Renewing   State = "renewing"
	Rebinding  State = "rebinding"
)

const (
	maxPause    = 64 * time.Second // between two messages that nobody answers
	rebootTries = 2                // 3 s: the cable may be in another network now
	selectTries = 4                // 15 s: the server made an offer and went silent
	longAgo     = 0xffff           // seconds; what the message's field can say at most
)

// A client is the client's side of the protocol without socket and clock: its methods take what
// happened and return what to send. Whoever drives it calls timeout at the time wake.
type client struct {
	mac    net.HardwareAddr
	common []dhcpv4.Option // what every message of ours says
	random func() uint32

	state State
	lease *Lease    // the address we may use, nil for none; outlives a state until it expires
	wake  time.Time // when timeout is to be called; the zero time is never

	xid     dhcpv4.TransactionID
	began   time.Time // of the exchange, for the message's seconds
	sent    time.Time // of the last message: a lease counts from there
	tries   int       // messages of the state so far
	refused int       // times in a row that a server said no or nonsense
	offer   *Lease    // while requesting
	trouble error     // why a server's message was not used; at most one for each of ours
}

// An outgoing message and whom it goes to.
type outgoing struct {
	msg  *dhcpv4.DHCPv4
	from netip.Addr // our address, invalid where we have none yet
	to   netip.Addr // the server; invalid is everybody
}

// start begins with the address that is remembered, if any, and returns the first message.
func (c *client) start(now time.Time, remembered *Lease) *outgoing {
	c.lease = remembered
	c.enter(Selecting, now)
	if c.lease != nil && !c.expired(now) {
		c.enter(Rebooting, now)
	}
	return c.timeout(now)
}

// enter begins a new exchange.
func (c *client) enter(s State, now time.Time) {
	c.state = s
	c.tries = 0
	c.began = now
	if s != Requesting { // it goes on with the offer's
		binary.BigEndian.PutUint32(c.xid[:], c.random())
	}
}

// timeout does what is due now.
func (c *client) timeout(now time.Time) *outgoing {
	if c.expired(now) {
		c.lease = nil
		switch c.state {
		case Bound, Renewing, Rebinding, Rebooting:
			c.enter(Selecting, now)
		}
	}
	switch {
	case c.state == Bound && due(c.lease.Rebind, now): // the clock leapt over T1
		c.enter(Rebinding, now)
	case c.state == Bound && due(c.lease.Renew, now):
		c.enter(Renewing, now)
	case c.state == Renewing && due(c.lease.Rebind, now):
		c.enter(Rebinding, now)
	case c.state == Rebooting && c.tries == rebootTries,
		c.state == Requesting && c.tries == selectTries:
		c.enter(Selecting, now)
	}

	switch c.state {
	case Bound:
		c.wake = c.lease.Renew
		return nil
	case Renewing:
		return c.send(now, c.until(now, c.lease.Rebind))
	case Rebinding:
		return c.send(now, c.until(now, c.lease.Expires))
	}
	return c.send(now, c.pause(c.tries))
}

// send makes the state's message; the next one is due after pause.
func (c *client) send(now time.Time, pause time.Duration) *outgoing {
	c.tries++
	c.sent = now
	c.wake = now.Add(pause)
	if c.lease != nil && !c.lease.Expires.IsZero() && c.lease.Expires.Before(c.wake) {
		c.wake = c.lease.Expires
	}
	c.trouble = nil
	msg := &dhcpv4.DHCPv4{
		OpCode:        dhcpv4.OpcodeBootRequest,
		HWType:        iana.HWTypeEthernet,
		ClientHWAddr:  c.mac,
		TransactionID: c.xid,
		NumSeconds:    uint16(min(now.Sub(c.began)/time.Second, longAgo)),
		Options:       dhcpv4.OptionsFromList(c.common...),
	}
	p := &outgoing{msg: msg}
	kind := dhcpv4.MessageTypeRequest
	switch c.state { // RFC 2131 §4.3.6, table 4, and §4.4.1, table 5
	case Selecting:
		kind = dhcpv4.MessageTypeDiscover
		if c.lease != nil {
			msg.UpdateOption(dhcpv4.OptRequestedIPAddress(c.lease.Addr().AsSlice()))
		}
	case Rebooting:
		msg.UpdateOption(dhcpv4.OptRequestedIPAddress(c.lease.Addr().AsSlice()))
	case Requesting:
		msg.UpdateOption(dhcpv4.OptRequestedIPAddress(c.offer.Addr().AsSlice()))
		msg.UpdateOption(dhcpv4.OptServerIdentifier(c.offer.Server.AsSlice()))
	case Renewing, Rebinding:
		msg.ClientIPAddr = c.lease.Addr().AsSlice()
		p.from = c.lease.Addr()
		if c.state == Renewing {
			p.to = c.lease.Server
		}
	}
	msg.UpdateOption(dhcpv4.OptMessageType(kind))
	return p
}

// receive takes a server's message and returns what is to be answered.
func (c *client) receive(now time.Time, msg *dhcpv4.DHCPv4) *outgoing {
	if msg.OpCode != dhcpv4.OpcodeBootReply || msg.TransactionID != c.xid ||
		msg.ClientHWAddr.String() != c.mac.String() {
		return nil
	}
	server, _ := first(msg, dhcpv4.OptionServerIdentifier)
	switch {
	case c.state == Selecting && msg.MessageType() == dhcpv4.MessageTypeOffer:
		if c.tries == 0 {
			return nil // a late one, while we keep a pause
		}
		offer, err := read(msg, nil, c.sent)
		if err != nil {
			if c.trouble == nil {
				c.trouble = fmt.Errorf("offer of %v: %w", server, err)
			}
			return nil // another server may do better
		}
		c.enter(Requesting, now)
		c.offer = offer
		return c.timeout(now)

	case c.state == Selecting || c.state == Bound: // nothing else was asked for
		return nil
	case c.state == Requesting && server != c.offer.Server,
		c.state == Renewing && server.IsValid() && server != c.lease.Server:
		return nil // another server's

	case msg.MessageType() == dhcpv4.MessageTypeAck:
		var old *Lease
		switch c.state {
		case Renewing, Rebinding:
			old = c.lease
		}
		lease, err := read(msg, old, c.sent)
		if err != nil {
			c.refuse(now, fmt.Errorf("acknowledgement of %v: %w", server, err))
			return nil
		}
		c.lease, c.state, c.refused, c.trouble = lease, Bound, 0, nil
		c.wake = lease.Renew
		return nil

	case msg.MessageType() == dhcpv4.MessageTypeNak:
		if c.state != Requesting { // it is the address in use, not the one offered
			c.lease = nil
		}
		c.refuse(now, fmt.Errorf("%v refused the address: %+.80q", server, msg.Message()))
		return nil
	}
	return nil
}

// refuse starts again: at once the first time (the cable is in another network), later ones after
// a growing pause.
func (c *client) refuse(now time.Time, why error) {
	c.trouble = why
	c.enter(Selecting, now)
	c.wake = now
	if c.refused > 0 {
		c.wake = now.Add(c.pause(c.refused - 1))
	}
	c.refused++
}

func (c *client) expired(now time.Time) bool {
	return c.lease != nil && due(c.lease.Expires, now)
}

// due says whether t, where there is such a time, has come.
func due(t, now time.Time) bool { return !t.IsZero() && !t.After(now) }

// pause is the time to wait after n+1 messages without an answer: 1, 2, 4 … 64 s, give or take an
// eighth, so that the machines of a house do not all ask at once when the power is back.
func (c *client) pause(n int) time.Duration {
	d := maxPause
	if n < 6 {
		d = time.Second << n
	}
	return d - d/8 + time.Duration(float64(d/4)*float64(c.random())/(1<<32))
}

// until is the time to wait for more time on a lease: half of what is left (RFC 2131 §4.4.5), but
// neither so short that a silent server is flooded nor over the end.
func (c *client) until(now, end time.Time) time.Duration {
	left := end.Sub(now)
	short := min(time.Minute, c.lease.Expires.Sub(c.lease.Renew)/8)
	return min(max(left/2, short), left)
}
