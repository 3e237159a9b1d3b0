// Package ipv6 learns what IPv6 has to say about a link besides what the kernel sees to itself, which
// is addresses and routes from router advertisements: the routers' DNS servers (RFC 8106), and by
// DHCPv6 (RFC 8415) an address or what else there is, if the routers say so. The states are ours, the
// codec of DHCPv6's messages is insomniacslk/dhcp's. Prefixes are neither asked for nor taken, and no
// server may call us (RECONFIGURE).
//
// The advertisements are read from a socket of our own, and not from the kernel's RTM_NEWNDUSEROPT: so
// flags and DNS servers come together, and can be asked for again by a process that was started later.
package ipv6

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
)

// A Client listens to the routers of a link with a cable in it, and asks its DHCPv6 servers. Its
// callbacks are called from Run's goroutine; those that are nil are not, but for Changed and Advertised.
type Client struct {
	Port     *net.Interface
	DUID     []byte // what servers know us by: see DUID
	Hostname string // ours, told to the server
	Log      *slog.Logger

	// Remembered is asked for first, if not nil. It is used when a server says that it belongs to this
	// link, or when none does but a router advertises its network.
	Remembered *Lease

	// InUse says that its address is on the port: it stays there until a server says that it does not
	// belong to this link, or none does. LinkKept says that the link has not been down since it was
	// leased, as when the service was started again: silence is no reason to give it up then.
	InUse, LinkKept bool

	// Changed is called with each new lease, new end of one or news of one, and with nil when it is lost.
	// A lease may be one of information only. The address is to be put on the port at once; what the
	// kernel then says about another device that has it is heard here.
	Changed func(*Lease)

	// Advertised is called when what the routers say has changed.
	Advertised func(Info)

	// Networks is called once, when all routers have had time to answer, with the networks that they have
	// advertised by then. Until one has, it is not called.
	Networks func(networks []netip.Prefix, routers []netip.Addr)

	// Conflict is called when the kernel finds that another device has an address of the port, be it
	// leased or made by the kernel.
	Conflict func(addr netip.Addr)

	// ServerChanged is called when another server than before grants the lease.
	ServerChanged func(from, to netip.Addr)

	// Troubled is called when a server refuses or sends nonsense, and once when the routers say too much.
	Troubled func(Trouble)
}

// Run listens and asks until ctx ends; the address stays ours then. It first waits until the kernel has
// found that nobody else has the port's link-local address. An error means that the port or that
// address is gone: start again when it is back.
func (c *Client) Run(ctx context.Context) error {
	err := c.listen(ctx)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// listen is Run, but says why it ended.
func (c *Client) listen(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	changes := make(chan change)
	var watcher sync.WaitGroup
	watcher.Go(func() { cancel(watch(ctx, c.Port, changes)) })
	defer watcher.Wait()
	defer cancel(nil)
	s := &session{Client: c, changes: changes}
	for !s.own.IsValid() {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case ch := <-changes:
			s.conflict(ch)
			if ch.usable() && ch.addr.IsLinkLocalUnicast() {
				s.own = ch.addr
			}
		}
	}
	var err error
	if s.wire, err = dial(c.Port, s.own); err != nil {
		return err
	}
	return s.run(ctx)
}

// releaseTime is how long a server may take to say that it has a lease back.
const releaseTime = time.Second

// Release gives the lease back to its server. It is for when the port is to be without it, not for the
// end of Run. Call it after Run has ended; the address must not be used any longer.
func (c *Client) Release(l *Lease) error {
	if !l.hasAddress() {
		return nil
	}
	own, err := linkLocal(c.Port)
	if err != nil {
		return fmt.Errorf("release %v: %w", l.Addr, err)
	}
	conn, err := dialDHCP(c.Port, own)
	if err != nil {
		return fmt.Errorf("release %v: %w", l.Addr, err)
	}
	defer conn.Close()
	s := &session{Client: c, wire: &sockets{port: c.Port, dhcp: conn}}
	s.newClient()
	s.sm.enter(Idle, time.Now())
	m := s.sm.release(l)
	deadline := time.Now().Add(releaseTime)
	buf := make([]byte, maxMessage)
	for _, wait := range []time.Duration{releaseTime / 2, releaseTime} { // one of the two may get lost
		if err := s.wire.sendDHCP(m.ToBytes()); err != nil {
			return fmt.Errorf("release %v: %w", l.Addr, err)
		}
		conn.SetReadDeadline(deadline.Add(wait - releaseTime))
		for {
			n, from, err := s.wire.readDHCP(buf)
			if err != nil {
				break
			}
			if r, err := parse(buf[:n], from, c.Port.Name); err == nil && r.kind == dhcpv6.MessageTypeReply && r.xid == m.TransactionID {
				return nil
			}
		}
	}
	return fmt.Errorf("release %v: no server answers", l.Addr)
}

// A session is one run of a Client.
type session struct {
	*Client
	wire    wire
	own     netip.Addr // our link-local address
	changes <-chan change

	sm      client
	routers routers
	info    Info   // as told by Advertised
	told    *Lease // by Changed
	server  *Lease // the last that one granted
	noted   string // what was logged last of a lease's notes
	tooMuch bool   // the routers said so much that some was passed over
	heard   bool   // a router has advertised
	random  func() float64

	solicit time.Time     // when to ask the routers; the zero time is never
	pause   time.Duration // before they are asked again
	settle  time.Time     // when all have had time to answer; the zero time is never
}

// A wire is the way to the link's routers and servers. Reads end with an error when it is closed, or
// when the port is gone or down.
type wire interface {
	readAdvert(buf []byte) (n int, from netip.Addr, hopLimit int, err error)
	readDHCP(buf []byte) (n int, from netip.Addr, err error)
	sendSolicit() error
	sendDHCP([]byte) error
	close()
}

// Times between two questions to routers that do not answer: as RFC 4861 §10 for the first, then as
// RFC 7559.
const (
	firstSolicitPause = 4 * time.Second
	maxSolicitPause   = time.Hour
)

// answerTime is how long routers may take to answer after the first has: a router may wait 3 s after its
// last advertisement, and half a second by chance (RFC 4861 §6.2.6).
const answerTime = 4 * time.Second

// newClient makes the state machine.
func (s *session) newClient() {
	if s.random == nil {
		s.random = rand.Float64
	}
	s.sm = client{duid: s.DUID, random: s.random, ours: s.othersHave, common: []dhcpv6.Option{
		&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionFQDN, OptionData: fqdn(s.Hostname)},
	}}
	// The same for the port's life; two ports of ours in one network differ in it (RFC 8415 §12).
	copy(s.sm.iaid[:], s.Port.HardwareAddr[max(0, len(s.Port.HardwareAddr)-4):])
}

func (s *session) run(parent context.Context) error {
	ctx, cancel := context.WithCancelCause(parent)
	adverts, messages := make(chan *advert), make(chan *message)
	var readers sync.WaitGroup
	readers.Go(func() { cancel(s.readAdverts(ctx, adverts)) }) // end when wire is closed
	readers.Go(func() { cancel(s.readMessages(ctx, messages)) })
	defer func() {
		cancel(nil)
		s.wire.close()
		readers.Wait()
	}()

	s.newClient()
	now := time.Now()
	s.sm.start(now, s.Remembered, s.InUse, s.InUse && s.LinkKept)
	if s.InUse {
		s.told = s.Remembered
	}
	s.server = s.Remembered
	s.solicit, s.pause = now, firstSolicitPause
	timer := time.NewTimer(0)
	defer timer.Stop()
	var out *dhcpv6.Message
	for {
		s.tell()
		if out != nil {
			s.try(s.wire.sendDHCP(out.ToBytes()))
			out = nil
		}
		if wake := s.wake(); wake.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(wake))
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case a := <-adverts:
			s.hear(a)
		case m := <-messages:
			out = s.sm.receive(time.Now(), m)
		case ch := <-s.changes:
			s.conflict(ch)
			switch {
			case ch.addr == s.own && !ch.usable():
				return fmt.Errorf("%s has lost its address %v", s.Port.Name, s.own)
			case ch.duplicate():
				s.sm.taken(time.Now(), ch.addr)
			}
		case <-timer.C:
			now := time.Now()
			if due(s.solicit, now) {
				s.try(s.wire.sendSolicit())
				s.solicit = now.Add(s.pause)
				s.pause = min(2*s.pause, maxSolicitPause)
			}
			s.routers.expire(now)
			if due(s.settle, now) {
				s.settle = time.Time{}
				s.Networks(s.routers.networks(), s.routers.info(now).Routers)
			}
			out = s.sm.timeout(now)
		}
		s.advertise()
	}
}

// try takes what could not be sent for lost on the way: it is sent again.
func (s *session) try(err error) {
	if err != nil {
		s.Log.Debug("IPv6: "+err.Error(), "port", s.Port.Name)
	}
}

func (s *session) wake() time.Time {
	return earlier(earlier(s.solicit, s.settle), earlier(s.sm.wake(), s.routers.wake(time.Now())))
}

// hear takes what a router says.
func (s *session) hear(a *advert) {
	s.solicit = time.Time{}
	if !s.heard && s.Networks != nil {
		s.settle = time.Now().Add(answerTime)
	}
	s.heard = true
	s.routers.hear(time.Now(), a)
	if s.Remembered != nil && s.routers.covers(s.Remembered.Addr) {
		s.sm.vouch()
	}
	if s.routers.excess > 0 && !s.tooMuch {
		s.tooMuch = true
		s.trouble(Trouble{Text: fmt.Sprintf("router %v or others advertise too much; what is beyond %d routers, %d networks and %d DNS servers is ignored",
			a.from, maxRouters, MaxPrefixes, maxRDNSS)})
	}
}

// advertise tells what the routers say now, if that is new.
func (s *session) advertise() {
	now := time.Now()
	info := s.routers.info(now)
	if info.equal(&s.info) {
		return
	}
	s.info = info
	s.Advertised(info)
	s.sm.wants(now, info.wanted())
}

// conflict reports an address of ours that is another's, too.
func (s *session) conflict(ch change) {
	if !ch.duplicate() {
		return
	}
	s.Log.Warn(fmt.Sprintf("address %v: another device has it", ch.addr), "port", s.Port.Name)
	if s.Conflict != nil {
		s.Conflict(ch.addr)
	}
}

func (s *session) trouble(t Trouble) {
	s.Log.Warn("IPv6: "+t.String(), "port", s.Port.Name)
	if s.Troubled != nil {
		s.Troubled(t)
	}
}

// tell tells the caller and the log what is new of DHCPv6.
func (s *session) tell() {
	if t := s.sm.trouble; t != nil {
		s.sm.trouble = nil
		s.trouble(*t)
	}
	if s.sm.lease == s.told {
		return
	}
	s.told = s.sm.lease
	if notes := strings.Join(s.sm.notes, "; "); notes != s.noted {
		s.noted = notes
		if notes != "" {
			s.Log.Warn("DHCPv6: "+notes, "port", s.Port.Name)
		}
	}
	s.Changed(s.told)
	if !s.told.hasAddress() {
		return
	}
	if s.server != nil && string(s.server.Server) != string(s.told.Server) && s.ServerChanged != nil {
		s.ServerChanged(s.server.ServerAddr, s.told.ServerAddr)
	}
	s.server = s.told
}

// othersHave says whether another port of ours has addr.
func (c *Client) othersHave(addr netip.Addr) bool {
	ports, err := net.Interfaces()
	if err != nil {
		return false
	}
	for _, p := range ports {
		if p.Index == c.Port.Index {
			continue
		}
		addrs, err := p.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr() == addr {
				return true
			}
		}
	}
	return false
}

// readAdverts hands the routers' advertisements on. What is none or damaged is dropped.
func (s *session) readAdverts(ctx context.Context, adverts chan<- *advert) error {
	var p pace
	buf := make([]byte, maxMessage)
	for {
		n, from, hopLimit, err := s.wire.readAdvert(buf)
		if err != nil {
			return fmt.Errorf("read router advertisements on %s: %w", s.Port.Name, err)
		}
		if a, err := parseAdvert(buf[:n], from, hopLimit, s.Port.Name); err == nil {
			select {
			case adverts <- a:
			case <-ctx.Done():
				return context.Canceled
			}
		}
		if !p.keep(ctx) {
			return context.Canceled
		}
	}
}

// readMessages hands the servers' messages on.
func (s *session) readMessages(ctx context.Context, messages chan<- *message) error {
	var p pace
	buf := make([]byte, maxMessage)
	for {
		n, from, err := s.wire.readDHCP(buf)
		if err != nil {
			return fmt.Errorf("read DHCPv6 on %s: %w", s.Port.Name, err)
		}
		if m, err := parse(buf[:n], from, s.Port.Name); err == nil {
			select {
			case messages <- m:
			case <-ctx.Done():
				return context.Canceled
			}
		}
		if !p.keep(ctx) {
			return context.Canceled
		}
	}
}

// A pace keeps a flood from costing more than a little: the kernel drops what we do not read in time.
type pace struct {
	since time.Time
	n     int
}

const maxPace = 100 // messages a second

// keep waits where too many have come, and says whether to go on.
func (p *pace) keep(ctx context.Context) bool {
	if time.Since(p.since) >= time.Second {
		p.since, p.n = time.Now(), 0
	}
	if p.n++; p.n < maxPace {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(time.Until(p.since.Add(time.Second)))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
