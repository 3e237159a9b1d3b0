package dhcp4

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"cloudlink.local/gateway/internal/network/arp"
)

// A State is where the client stands (RFC 2131 §4.4, figure 5).
//
//	      ┌─ nothing remembered ─→ selecting ─ offer ─→ requesting ─ ack ─→ checking ─ free ─→ bound ⇄ renewing
//	start ┤                         ↑ ↑ ↑ ↑                  │                  │               ↑         │ T2
//	      └─ address remembered ─→ rebooting ─ ack ──────────┼──────────────────┼───────────────┘         ↓
//	                                  └ no answer, nak ──────┴─────── nak, declined, expired ───────── rebinding
type State string

// The states by their names in the RFC, and checking: nobody else may have the address.
const (
	Selecting  State = "selecting"
	Rebooting  State = "rebooting"
	Requesting State = "requesting"
	Checking   State = "checking"
	Bound      State = "bound"
	Renewing   State = "renewing"
	Rebinding  State = "rebinding"
)

const (
	maxPause     = 64 * time.Second // between two messages that nobody answers
	rebootTries  = 1                // 1 s: the cable may be in another network now
	vouchedTries = 3                // 7 s: it is not
	selectTries  = 4                // 15 s: the server made an offer and went silent
	doubtTries   = 2                // 3 s: nobody here knows our address
	checkTime    = 30 * time.Second // more than it takes
	repeatPause  = 150 * time.Millisecond
	longAgo      = 0xffff // seconds; what the message's field can say at most

	declinePause  = 10 * time.Second // RFC 2131 §3.1 (5)
	maxConflicts  = 10               // in a row, and from then on
	conflictPause = time.Minute      // RFC 5227 §2.1.1
)

// A client is the client's side of the protocol without socket and clock: its methods take what
// happened and return what to send. Whoever drives it calls timeout at the time wake, and looks whether
// the address that claim names is free.
type client struct {
	mac    net.HardwareAddr
	common []dhcpv4.Option // what every message but a DECLINE says
	random func() uint32
	terms

	state    State
	lease    *Lease    // the address in use, nil for none; outlives a state until it expires
	old      *Lease    // an address that was ours: asked for again; nil for none
	offer    *Lease    // while requesting and checking
	keep     bool      // the address in use is not doubted: the link is the one it was leased on
	vouched  bool      // while rebooting: the gateway says that the link is the one of old
	late     bool      // while selecting: a server may still answer what rebooting asked
	next     time.Time // when there is something to do; the zero time is never
	xid      dhcpv4.TransactionID
	began    time.Time // of the exchange, for the message's seconds
	sent     time.Time // of the last message: a lease counts from there
	tries    int       // messages of the state so far
	repeat   time.Time // when the one after the next is due, which is the first once more; zero: it is not
	refused  int       // times in a row that a server said no or nonsense
	declined int       // times in a row that another device had the address

	trouble    *Trouble // why a server's message was not used
	complained bool     // since our last message: more are not told
	notes      []string // what of the lease was not used
}

// A Trouble is a server's message that we could not use: a refusal or nonsense. At most one is told for
// each of ours.
type Trouble struct {
	Server netip.Addr // invalid where it does not say
	Refuse bool       // it refused us the address (NAK)
	Reason Reason     // what is wrong with the message, where it did not refuse
	Text   string
}

// An outgoing message and whom it goes to.
type outgoing struct {
	msg  *dhcpv4.DHCPv4
	from netip.Addr // our address, invalid where we have none yet
	to   netip.Addr // the server; invalid is everybody
}

// start begins with the address that is remembered, if any, and in use or not, and returns the first
// message. A link that has just come up may lose that one, for the kernel says so before it sends, and
// a switch before it forwards: it is sent twice. The pauses are as if it had been sent once.
func (c *client) start(now time.Time, remembered *Lease, inUse, keep bool) *outgoing {
	c.old, c.keep = remembered, keep
	if inUse {
		c.lease = remembered
	}
	c.enter(Selecting, now)
	if c.old != nil && !due(c.old.Expires, now) {
		c.enter(Rebooting, now)
	}
	out := c.timeout(now)
	if !keep {
		c.repeat, c.next = c.next, now.Add(c.about(repeatPause))
	}
	return out
}

// enter begins a new exchange.
func (c *client) enter(s State, now time.Time) {
	c.state = s
	c.tries = 0
	c.began = now
	c.next = now
	c.vouched, c.late = false, false
	c.repeat = time.Time{}
	if s != Requesting { // it goes on with the offer's
		binary.BigEndian.PutUint32(c.xid[:], c.random())
	}
}

// wake is when timeout is to be called; the zero time is never.
func (c *client) wake() time.Time {
	if c.lease != nil && !c.lease.Expires.IsZero() && (c.next.IsZero() || c.lease.Expires.Before(c.next)) {
		return c.lease.Expires
	}
	return c.next
}

// timeout does what is due now.
func (c *client) timeout(now time.Time) *outgoing {
	if c.lease != nil && due(c.lease.Expires, now) {
		c.old, c.lease = c.lease, nil
		switch c.state {
		case Bound, Renewing, Rebinding, Rebooting:
			c.enter(Selecting, now)
		}
	}
	if !due(c.next, now) {
		return nil
	}
	if next := c.repeat; !next.IsZero() {
		c.repeat = time.Time{}
		if next.After(now) { // and the clock has not leapt
			c.tries--
			return c.send(now, next.Sub(now))
		}
	}
	switch {
	case c.state == Bound && due(c.lease.Rebind, now): // the clock leapt over T1
		c.enter(Rebinding, now)
	case c.state == Bound:
		c.enter(Renewing, now)
	case c.state == Renewing && due(c.lease.Rebind, now):
		c.enter(Rebinding, now)
	case c.state == Rebooting && c.vouched && c.tries < vouchedTries:
	case c.state == Rebooting && c.vouched && c.lease != nil && c.lease.Server.IsValid():
		c.bind(c.lease) // RFC 4436: it goes on as if the cable had never been out
		return nil
	case c.state == Rebooting && c.tries >= rebootTries:
		xid := c.xid
		c.enter(Selecting, now)
		c.xid, c.late = xid, true
	case c.state == Requesting && c.tries == selectTries,
		c.state == Checking: // nobody looked; the server will offer the address again
		c.enter(Selecting, now)
	case c.state == Selecting && c.tries == doubtTries && !c.keep:
		c.lease = nil // still the first that is asked for
	}
	switch c.state {
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
	c.next = now.Add(pause)
	c.complained = false
	msg := c.message(now, dhcpv4.MessageTypeRequest)
	for _, o := range c.common {
		msg.UpdateOption(o)
	}
	p := &outgoing{msg: msg}
	switch c.state { // RFC 2131 §4.3.6, table 4, and §4.4.1, table 5
	case Selecting:
		msg.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeDiscover))
		if c.old != nil {
			msg.UpdateOption(dhcpv4.OptRequestedIPAddress(c.old.Addr().AsSlice()))
		}
	case Rebooting:
		msg.UpdateOption(dhcpv4.OptRequestedIPAddress(c.old.Addr().AsSlice()))
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
	return p
}

// message makes a message that says who we are.
func (c *client) message(now time.Time, kind dhcpv4.MessageType) *dhcpv4.DHCPv4 {
	return &dhcpv4.DHCPv4{
		OpCode:        dhcpv4.OpcodeBootRequest,
		HWType:        iana.HWTypeEthernet,
		ClientHWAddr:  c.mac,
		TransactionID: c.xid,
		NumSeconds:    uint16(min(now.Sub(c.began)/time.Second, longAgo)),
		Options:       dhcpv4.OptionsFromList(dhcpv4.OptMessageType(kind), clientID(c.mac)),
	}
}

// receive takes a server's message and returns what is to be answered.
func (c *client) receive(now time.Time, msg *dhcpv4.DHCPv4) *outgoing {
	if msg.OpCode != dhcpv4.OpcodeBootReply || msg.TransactionID != c.xid ||
		msg.ClientHWAddr.String() != c.mac.String() {
		return nil
	}
	server, _ := first(msg, dhcpv4.OptionServerIdentifier)
	kind := msg.MessageType()
	switch {
	case c.state == Selecting && kind == dhcpv4.MessageTypeOffer:
		if c.tries == 0 {
			return nil // a late one, while we keep a pause
		}
		offer, _, err := c.read(msg, nil, c.sent)
		if err != nil {
			c.complain(Trouble{Server: server, Reason: reasonOf(err), Text: "offer: " + err.Error()})
			return nil // another server may do better
		}
		c.enter(Requesting, now)
		c.offer = offer
		return c.timeout(now)

	case c.state == Selecting && !c.late, c.state == Bound, c.state == Checking: // nothing was asked for
		return nil
	case c.state == Requesting && server != c.offer.Server,
		c.state == Renewing && server.IsValid() && server != c.lease.Server:
		return nil // another server's

	case kind == dhcpv4.MessageTypeAck:
		var known *Lease
		switch c.state {
		case Renewing, Rebinding:
			known, c.declined = c.lease, 0
		}
		lease, notes, err := c.read(msg, known, c.sent)
		if err != nil {
			c.refuse(now, Trouble{Server: server, Reason: reasonOf(err), Text: "acknowledgement: " + err.Error()})
			return nil
		}
		c.notes, c.refused = notes, 0
		c.take(now, lease)
		return nil

	case kind == dhcpv4.MessageTypeNak:
		if c.state != Requesting { // it is the address in use, not the one offered
			c.lease, c.old = nil, nil
		}
		c.refuse(now, Trouble{Server: server, Refuse: true, Text: fmt.Sprintf("%+.80q", msg.Message())})
		return nil
	}
	return nil
}

// take takes a lease that a server acknowledged. An address that is new on this link is checked first.
func (c *client) take(now time.Time, l *Lease) {
	switch {
	case c.lease != nil && c.lease.Addr() == l.Addr(),
		c.old != nil && c.old.Addr() == l.Addr() && c.old.Server == l.Server && !due(c.old.Expires, now):
		// In use, or ours on this link a while ago: looking at the same time is enough.
		c.bind(l)
	default:
		c.offer = l
		c.enter(Checking, now)
		c.next = now.Add(checkTime)
	}
}

// bind uses l.
func (c *client) bind(l *Lease) {
	c.state, c.lease, c.old, c.offer, c.next = Bound, l, l, nil, l.Renew
}

// claim is the address that is to be looked after, invalid for none, and how.
func (c *client) claim() (netip.Addr, arp.Timing) {
	switch {
	case c.state == Checking:
		return c.offer.Addr(), arp.Quick
	case c.lease != nil:
		return c.lease.Addr(), arp.Held
	case c.state == Rebooting && c.vouched:
		return c.old.Addr(), arp.Quick
	}
	return netip.Addr{}, arp.Timing{}
}

// free says that nobody else has the claim's address.
func (c *client) free() {
	switch {
	case c.state == Checking:
		c.bind(c.offer)
	case c.state == Rebooting && c.vouched:
		c.lease = c.old
	}
}

// taken says that another device has the claim's address: the server is told, and asked for another
// after a pause.
func (c *client) taken(now time.Time) *outgoing {
	var l *Lease
	switch {
	case c.state == Checking:
		l = c.offer
	case c.lease != nil:
		l = c.lease
	case c.state == Rebooting:
		l = c.old
	}
	if l == nil {
		return nil
	}
	if c.lease != nil && c.lease.Addr() == l.Addr() {
		c.lease = nil
	}
	c.old = nil
	c.enter(Selecting, now)
	c.declined++
	c.next = now.Add(declinePause)
	if c.declined > maxConflicts {
		c.next = now.Add(conflictPause)
	}
	if !l.Server.IsValid() {
		return nil
	}
	msg := c.message(now, dhcpv4.MessageTypeDecline)
	msg.UpdateOption(dhcpv4.OptRequestedIPAddress(l.Addr().AsSlice()))
	msg.UpdateOption(dhcpv4.OptServerIdentifier(l.Server.AsSlice()))
	return &outgoing{msg: msg}
}

// vouch says that the remembered lease's gateway has answered: this is its link.
func (c *client) vouch() {
	if c.state == Rebooting {
		c.vouched = true
	}
}

// meet says which device the gateway of lease l is.
func (c *client) meet(l *Lease, mac net.HardwareAddr) {
	if c.lease == l && l.GatewayMAC.String() != mac.String() {
		met := *l
		met.GatewayMAC = mac
		c.lease, c.old = &met, &met
	}
}

// complain tells why a server's message is not used, of the first after each of ours: what a hostile
// server sends beyond that costs little.
func (c *client) complain(why Trouble) {
	if !c.complained {
		c.trouble, c.complained = &why, true
	}
}

// damaged takes a packet for us that is no message.
func (c *client) damaged(from netip.Addr, err error) {
	if c.state != Bound && c.state != Checking { // something was asked for
		c.complain(Trouble{Server: from, Reason: Malformed, Text: err.Error()})
	}
}

// refuse starts again: at once the first time (the cable is in another network), later ones after
// a growing pause.
func (c *client) refuse(now time.Time, why Trouble) {
	c.complain(why)
	if c.late { // what was asked before; what was asked since goes on
		c.late = false
		return
	}
	c.enter(Selecting, now)
	if c.refused > 0 {
		c.next = now.Add(c.pause(c.refused - 1))
	}
	c.refused++
}

// due says whether t, where there is such a time, has come.
func due(t, now time.Time) bool { return !t.IsZero() && !t.After(now) }

// pause is the time to wait after n+1 messages without an answer: 1, 2, 4 … 64 s or so.
func (c *client) pause(n int) time.Duration {
	if n < 6 {
		return c.about(time.Second << n)
	}
	return c.about(maxPause)
}

// about is d, give or take an eighth, so that the machines of a house do not all ask at once when the
// power is back.
func (c *client) about(d time.Duration) time.Duration {
	return d - d/8 + time.Duration(float64(d/4)*float64(c.random())/(1<<32))
}

// until is the time to wait for more time on a lease: half of what is left (RFC 2131 §4.4.5), but
// neither so short that a silent server is flooded nor over the end.
func (c *client) until(now, end time.Time) time.Duration {
	left := end.Sub(now)
	short := min(time.Minute, c.lease.Expires.Sub(c.lease.Renew)/8)
	return min(max(left/2, short), left)
}
