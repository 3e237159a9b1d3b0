package ipv6

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
)

// A State is where the DHCPv6 client stands (RFC 8415 §18.2).
//
//	                     ┌──────────────── reply, rapid commit ───────────┐
//	idle ─ managed ─→ soliciting ─ advertise ─→ requesting ─ reply ─→ bound ⇄ renewing
//	 │                ↑ ↑ ↑ ↑                    │        no binding │ ↑ ↑        │ T2
//	 │                │ │ │ └─ refused, silence ─┘←─────────────────┘ │ └─────── rebinding
//	 │                │ │ └──── not on link, silence ── confirming ───┘           │
//	 │                │ └────── declining ← the address is another's              │
//	 │                └──────── it expired ───────────────────────────────────────┘
//	 └ other ─→ informing ⇄ informed
type State string

// The states. Where an address is remembered, the first is confirming.
const (
	Idle       State = "idle" // no router says that there is a server
	Confirming State = "confirming"
	Soliciting State = "soliciting"
	Requesting State = "requesting"
	Bound      State = "bound"
	Renewing   State = "renewing"
	Rebinding  State = "rebinding"
	Declining  State = "declining"
	Informing  State = "informing"
	Informed   State = "informed"
)

// kinds is what each state sends.
var kinds = map[State]dhcpv6.MessageType{
	Confirming: dhcpv6.MessageTypeConfirm,
	Soliciting: dhcpv6.MessageTypeSolicit,
	Requesting: dhcpv6.MessageTypeRequest,
	Renewing:   dhcpv6.MessageTypeRenew,
	Rebinding:  dhcpv6.MessageTypeRebind,
	Declining:  dhcpv6.MessageTypeDecline,
	Informing:  dhcpv6.MessageTypeInformationRequest,
}

// retransmission is how often each state sends (RFC 8415 §7.6).
var retransmission = map[State]struct{ first, most time.Duration }{
	Confirming: {time.Second, 4 * time.Second},
	Soliciting: {time.Second, time.Hour}, // unless a server says how long
	Requesting: {time.Second, 30 * time.Second},
	Renewing:   {10 * time.Second, 10 * time.Minute},
	Rebinding:  {10 * time.Second, 10 * time.Minute},
	Declining:  {time.Second, time.Hour},
	Informing:  {time.Second, time.Hour}, // as soliciting
}

const (
	maxDelay      = time.Second      // before the first message: not all machines of a house at once
	confirmTime   = 10 * time.Second // then nobody is going to answer
	requestTries  = 10
	declineTries  = 4
	maxConflicts  = 3                // in a row; then
	conflictPause = 5 * time.Minute  // before the server is asked for another address,
	declinePause  = 10 * time.Second // and else this
	maxPause      = 5 * time.Minute  // between two times that a server refuses

	refreshTime    = 24 * time.Hour   // of information whose server does not say (RFC 8415 §7.6)
	minRefreshTime = 10 * time.Minute // of a server that says less
)

// want is what the routers would have us ask for.
type want int

const (
	nothing want = iota
	information
	addresses
)

// client is the client without socket and clock: its methods take what happened and return the message
// to be sent to the servers, if any. Whoever drives it calls timeout at the time wake.
type client struct {
	duid   []byte
	iaid   [4]byte
	common []dhcpv6.Option // what every message that asks for something says
	random func() float64  // from 0 to 1
	ours   func(netip.Addr) bool

	state   State
	want    want
	lease   *Lease    // in use, nil for none; outlives a state until it expires
	old     *Lease    // whose address was ours: asked for again; nil for none
	offer   *Lease    // while soliciting and requesting
	best    byte      // the offer's preference
	decline *Lease    // while declining
	keep    bool      // the link is the one where the address in use was leased
	next    time.Time // when there is something to do; the zero time is never
	xid     dhcpv6.TransactionID
	began   time.Time // of the exchange
	sent    time.Time // of the last message: a lease counts from there
	tries   int       // messages of the state so far
	pause   time.Duration
	solMax  time.Duration // between two messages; 0 where no server says
	infMax  time.Duration

	refused  int // times in a row that a server said no
	declined int // times in a row that another device had the address

	trouble *Trouble // why a server's message was not used; at most one for each of ours
	notes   []string // what of the lease was not used
}

// A Trouble is what servers or routers say that we could not use: a refusal or nonsense.
type Trouble struct {
	Server netip.Addr // whence; invalid where it is not one
	Refuse bool       // it refused us the address
	Text   string
}

// start begins with the address that is remembered, if any, and in use or not.
func (c *client) start(now time.Time, remembered *Lease, inUse, keep bool) {
	c.old, c.keep = remembered, keep
	c.state = Idle
	if !remembered.hasAddress() || due(remembered.Expires, now) {
		return
	}
	if inUse {
		c.lease = remembered
	}
	c.enter(Confirming, now)
	c.next = now.Add(c.delay())
}

// wants says what the routers would have us ask for. An address that we have is kept all the same.
func (c *client) wants(now time.Time, w want) {
	if w == c.want {
		return
	}
	c.want = w
	switch c.state {
	case Idle, Soliciting, Requesting, Informing, Informed:
		if c.lease.hasAddress() {
			return
		}
		if w == nothing {
			c.lease = nil
		}
		c.restart(now, c.delay())
	}
}

// restart begins anew with what is wanted, after a pause.
func (c *client) restart(now time.Time, pause time.Duration) {
	c.offer = nil
	switch {
	case c.want == addresses || c.lease.hasAddress():
		c.enter(Soliciting, now)
	case c.want == information:
		c.enter(Informing, now)
	default:
		c.enter(Idle, now)
		c.next = time.Time{}
		return
	}
	c.next = now.Add(pause)
}

// enter begins a new exchange.
func (c *client) enter(s State, now time.Time) {
	c.state = s
	c.tries = 0
	c.next = now
	n := uint32(c.random() * (1 << 24))
	c.xid = dhcpv6.TransactionID{byte(n >> 16), byte(n >> 8), byte(n)}
}

// wake is when timeout is to be called; the zero time is never.
func (c *client) wake() time.Time {
	if c.lease.hasAddress() {
		return earlier(c.next, c.lease.Expires)
	}
	return c.next
}

// timeout does what is due now.
func (c *client) timeout(now time.Time) *dhcpv6.Message {
	if c.lease.hasAddress() && due(c.lease.Expires, now) {
		c.lease = nil
		switch c.state {
		case Confirming, Bound, Renewing, Rebinding:
			c.restart(now, 0)
		case Soliciting, Requesting:
			if c.want != addresses {
				c.restart(now, 0)
			}
		}
	}
	if !due(c.next, now) {
		return nil
	}
	switch {
	case c.state == Bound && due(c.lease.Rebind, now): // the clock leapt over T1
		c.enter(Rebinding, now)
	case c.state == Bound:
		c.enter(Renewing, now)
	case c.state == Renewing && due(c.lease.Rebind, now):
		c.enter(Rebinding, now)
	case c.state == Informed:
		c.enter(Informing, now)
	case c.state == Soliciting && c.offer != nil: // all have had time to say what they offer
		c.enter(Requesting, now)
	case c.state == Requesting && c.tries == requestTries:
		c.restart(now, 0)
	case c.state == Confirming && c.tries > 0 && now.Sub(c.began) >= confirmTime:
		if c.keep {
			c.bind(c.old)
			return nil
		}
		c.lease = nil
		c.restart(now, 0)
	case c.state == Declining && c.tries == declineTries:
		c.restart(now, c.afterConflict())
	}
	if !due(c.next, now) {
		return nil
	}
	return c.send(now)
}

// send makes the state's message, and sets when the next one is due.
func (c *client) send(now time.Time) *dhcpv6.Message {
	if c.tries == 0 {
		c.began = now
	}
	c.tries++
	c.sent = now
	c.trouble = nil
	c.pause = c.nextPause()
	c.next = now.Add(c.pause)
	switch c.state {
	case Confirming:
		c.next = earlier(c.next, c.began.Add(confirmTime))
	case Renewing:
		c.next = earlier(c.next, c.lease.Rebind)
	}

	kind := kinds[c.state]
	m := newMessage(kind, c.xid, c.duid)
	elapsed := min(now.Sub(c.began), 0xffff*10*time.Millisecond)
	m.AddOption(dhcpv6.OptElapsedTime(elapsed))
	var l *Lease // whose address it is about
	server := false
	switch c.state {
	case Soliciting:
		l = c.old
		m.AddOption(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionRapidCommit})
	case Confirming:
		l = c.old
	case Requesting:
		l, server = c.offer, true
	case Renewing:
		l, server = c.lease, true
	case Rebinding:
		l = c.lease
	case Declining:
		l, server = c.decline, true
	}
	if server {
		m.AddOption(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionServerID, OptionData: l.Server})
	}
	if c.state != Informing {
		m.AddOption(identity(c.iaid, l))
	}
	switch c.state {
	case Confirming, Declining:
		return m
	case Informing:
		m.AddOption(requested(dhcpv6.OptionInformationRefreshTime, dhcpv6.OptionInfMaxRT))
	default:
		m.AddOption(requested(dhcpv6.OptionSolMaxRT))
	}
	for _, o := range c.common {
		m.AddOption(o)
	}
	return m
}

// newMessage makes a message that says who we are.
func newMessage(kind dhcpv6.MessageType, xid dhcpv6.TransactionID, duid []byte) *dhcpv6.Message {
	m := &dhcpv6.Message{MessageType: kind, TransactionID: xid}
	m.AddOption(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionClientID, OptionData: duid})
	return m
}

// identity names the address of l, if there is one. Times are the server's business.
func identity(iaid [4]byte, l *Lease) dhcpv6.Option {
	ia := &dhcpv6.OptIANA{IaId: iaid}
	if l.hasAddress() {
		ia.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: l.Addr.AsSlice()})
	}
	return ia
}

func requested(more ...dhcpv6.OptionCode) dhcpv6.Option {
	return dhcpv6.OptRequestedOption(append([]dhcpv6.OptionCode{
		dhcpv6.OptionDNSRecursiveNameServer,
		dhcpv6.OptionDomainSearchList,
		dhcpv6.OptionSNTPServerList,
		dhcpv6.OptionNTPServer,
	}, more...)...)
}

// receive takes a server's message and returns what is to be answered.
func (c *client) receive(now time.Time, m *message) *dhcpv6.Message {
	if c.tries == 0 || m.xid != c.xid || !bytes.Equal(m.client, c.duid) || len(m.server) == 0 {
		return nil // another's, late or of no use: RFC 8415 §16
	}
	switch {
	case c.state == Soliciting && m.kind == dhcpv6.MessageTypeAdvertise:
		c.hearMaxima(m)
		offer, _, err := m.lease(c.iaid, nil, c.sent, c.ours)
		if err != nil {
			c.complain(m, "offer: ", err)
			return nil // another server may do better
		}
		if c.offer == nil || m.preference > c.best || m.preference == c.best && c.old.hasAddress() && offer.Addr == c.old.Addr {
			c.offer, c.best = offer, m.preference
		}
		if c.tries == 1 && m.preference < 255 { // RFC 8415 §18.2.1
			return nil
		}
		c.enter(Requesting, now)
		return c.send(now)
	case m.kind != dhcpv6.MessageTypeReply, c.state == Soliciting && !m.rapid,
		c.state == Requesting && !bytes.Equal(m.server, c.offer.Server),
		c.state == Renewing && !bytes.Equal(m.server, c.lease.Server):
		return nil
	}
	c.hearMaxima(m)
	switch c.state {
	case Soliciting, Requesting, Renewing, Rebinding:
		return c.granted(now, m)
	case Confirming:
		switch {
		case m.status == nil:
			c.bind(c.old)
		case m.status.StatusCode == iana.StatusNotOnLink:
			c.lease, c.old = nil, nil
			c.refuse(now, m, statusError{m.status})
		default:
			c.complain(m, "", statusError{m.status})
		}
	case Declining:
		c.restart(now, c.afterConflict())
	case Informing:
		if m.status != nil {
			c.complain(m, "", statusError{m.status})
			return nil
		}
		refresh := m.refresh
		if refresh == 0 {
			refresh = refreshTime
		}
		c.lease = m.about(nil)
		c.state, c.next, c.notes = Informed, time.Time{}, m.notes
		if refresh != infinite {
			c.next = now.Add(max(refresh, minRefreshTime))
		}
		c.lease.Renew = c.next
	}
	return nil
}

// granted takes the answer to a request for an address or more time.
func (c *client) granted(now time.Time, m *message) *dhcpv6.Message {
	var known *Lease
	if c.state == Renewing || c.state == Rebinding {
		known = c.lease
	}
	l, notes, err := m.lease(c.iaid, known, c.sent, c.ours)
	status := iana.StatusSuccess
	if s, ok := errors.AsType[statusError](err); ok {
		status = s.StatusCode
	}
	switch {
	case err == nil:
		c.trouble, c.notes, c.refused = nil, notes, 0
		if known != nil {
			c.declined = 0
		}
		c.bind(l)
	case c.state == Soliciting: // another server may do better
		c.complain(m, "", err)
	case status == iana.StatusUnspecFail, status == iana.StatusUseMulticast:
		c.complain(m, "", err) // as if it had not answered (RFC 8415 §18.2.10)
	case c.state == Requesting:
		if status == iana.StatusNotOnLink {
			c.old = nil
		}
		c.refuse(now, m, err)
	case status == iana.StatusNoBinding: // the server has forgotten us, but not its network
		c.offer = m.about(c.lease)
		c.offer.Addr = c.lease.Addr
		c.enter(Requesting, now)
		return c.send(now)
	case status == iana.StatusNotOnLink, err == errEnded:
		c.lease, c.old = nil, nil
		c.refuse(now, m, err)
	default: // it stays as it is (RFC 8415 §18.2.10.1)
		c.complain(m, "", err)
	}
	return nil
}

// hearMaxima takes how often a server would be asked at most.
func (c *client) hearMaxima(m *message) {
	if m.solMax != 0 {
		c.solMax = m.solMax
	}
	if m.infMax != 0 {
		c.infMax = m.infMax
	}
}

// bind uses l.
func (c *client) bind(l *Lease) {
	c.state, c.lease, c.old, c.offer, c.next = Bound, l, l, nil, l.Renew
}

// taken says that another device has addr: its server is told, and asked for another after a pause.
func (c *client) taken(now time.Time, addr netip.Addr) {
	if !c.lease.hasAddress() || c.lease.Addr != addr {
		return
	}
	c.decline, c.lease, c.old, c.offer = c.lease, nil, nil, nil
	c.declined++
	c.enter(Declining, now)
}

// vouch says that a router knows the network of the remembered address: this is its link.
func (c *client) vouch() { c.keep = true }

// complain notes why m is not used.
func (c *client) complain(m *message, what string, err error) {
	if c.trouble == nil {
		s, refuse := errors.AsType[statusError](err)
		c.trouble = &Trouble{Server: m.from, Refuse: refuse && s.StatusCode != iana.StatusUnspecFail, Text: what + err.Error()}
	}
}

// refuse starts again: at once the first time (the cable is in another network), later ones after
// a growing pause.
func (c *client) refuse(now time.Time, m *message, err error) {
	c.trouble = nil
	c.complain(m, "", err)
	var pause time.Duration
	if c.refused > 0 {
		pause = c.about(min(time.Second<<min(c.refused, 10), maxPause))
	}
	c.refused++
	c.restart(now, pause)
}

func (c *client) afterConflict() time.Duration {
	c.decline = nil
	if c.declined > maxConflicts {
		return conflictPause
	}
	return declinePause
}

// delay is the time before the first message.
func (c *client) delay() time.Duration { return time.Duration(c.random() * float64(maxDelay)) }

// about is d, give or take a tenth (RFC 8415 §15).
func (c *client) about(d time.Duration) time.Duration {
	return d + time.Duration((c.random()-0.5)/5*float64(d))
}

// nextPause is the time to wait for an answer to the state's message (RFC 8415 §15).
func (c *client) nextPause() time.Duration {
	r := retransmission[c.state]
	switch {
	case c.state == Soliciting && c.solMax != 0:
		r.most = c.solMax
	case c.state == Informing && c.infMax != 0:
		r.most = c.infMax
	}
	switch {
	case c.tries == 1 && c.state == Soliciting: // never shorter: servers' offers are collected
		return r.first + time.Duration(c.random()/10*float64(r.first))
	case c.tries == 1:
		return c.about(r.first)
	}
	if pause := c.pause + c.about(c.pause); pause <= r.most {
		return pause
	}
	return c.about(r.most)
}

// release makes the message that gives l back.
func (c *client) release(l *Lease) *dhcpv6.Message {
	m := newMessage(dhcpv6.MessageTypeRelease, c.xid, c.duid)
	m.AddOption(dhcpv6.OptElapsedTime(0))
	m.AddOption(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionServerID, OptionData: l.Server})
	m.AddOption(identity(c.iaid, l))
	return m
}

// String says who said what.
func (t *Trouble) String() string {
	if !t.Server.IsValid() {
		return t.Text
	}
	what := "sent what cannot be used"
	if t.Refuse {
		what = "refused the address"
	}
	return fmt.Sprintf("server %v %s: %s", t.Server, what, t.Text)
}
