// Package dhcp4 is a DHCPv4 client (RFC 2131): the states are ours, the codec of messages is
// insomniacslk/dhcp's. It leases an address and keeps it; putting it on the port is the caller's.
package dhcp4

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/network/arp"
)

// A Client leases an address for a port with a cable in it. Its callbacks are called from Run's
// goroutine; those that are nil are not.
type Client struct {
	Port     *net.Interface
	Hostname string // ours, told to the server
	Vendor   string // what kind of machine we are
	MaxMTU   int    // the port's; 0 is Ethernet's 1500
	Log      *slog.Logger

	// Remembered is asked for first, if not nil. It is used when a server agrees, or when its gateway
	// answers on this link (RFC 4436) and nobody else has the address.
	Remembered *Lease

	// InUse says that its address is on the port: it stays there until a server refuses it, it ends, or
	// nobody on the link knows it. LinkKept says that the link has not been down since it was leased, as
	// when the service was started again: silence is no reason to give it up then.
	InUse, LinkKept bool

	// Changed is called with each new lease, new end of one or news of one, and with nil when it is lost.
	// The address is to be put on the port at once.
	Changed func(*Lease)

	// Conflict is called when another device is found to have the address, and says whether we keep it.
	Conflict func(addr netip.Addr, mac net.HardwareAddr, kept bool)

	// ServerChanged is called when another server than before grants the lease.
	ServerChanged func(from, to netip.Addr)

	// Troubled is called when a server's message cannot be used: it refuses, or it sends nonsense.
	Troubled func(Trouble)
}

// Run leases an address and keeps the lease until ctx ends; the address stays ours then. An error
// means that the port is gone or down: start again when it is back.
func (c *Client) Run(ctx context.Context) error {
	filter, err := assemble(c.Port.HardwareAddr)
	if err != nil {
		return err
	}
	raw, err := packet.Listen(c.Port, packet.Datagram, unix.ETH_P_IP, &packet.Config{Filter: filter})
	if err != nil {
		return fmt.Errorf("listen for DHCP on %s: %w", c.Port.Name, err)
	}
	s := &session{
		Client: c,
		conn:   raw,
		watch:  func(ctx context.Context, w *arp.Watch) error { return w.Run(ctx) },
		ask: func(ctx context.Context, from, target netip.Addr, to net.HardwareAddr) (net.HardwareAddr, error) {
			return arp.Ask(ctx, c.Port, from, target, to)
		},
		others: c.othersHave,
	}
	return s.run(ctx)
}

// Release gives the lease back to its server, which may then give the address to others at once. It is
// for when the port is to be without it, not for the end of Run. Call it after Run has ended and before
// the address is taken off the port: the server refuses what does not come from there.
func (c *Client) Release(l *Lease) error {
	if !l.Server.IsValid() {
		return fmt.Errorf("release %v: its server is not known", l.Addr())
	}
	s := &session{Client: c}
	defer s.closeUnicast()
	sm := client{mac: c.Port.HardwareAddr}
	binary.BigEndian.PutUint32(sm.xid[:], rand.Uint32())
	msg := sm.message(time.Now(), dhcpv4.MessageTypeRelease)
	msg.NumSeconds = 0
	msg.ClientIPAddr = l.Addr().AsSlice()
	msg.UpdateOption(dhcpv4.OptServerIdentifier(l.Server.AsSlice()))
	if err := s.send(&outgoing{msg: msg, from: l.Addr(), to: l.Server}); err != nil {
		return fmt.Errorf("release %v: %w", l.Addr(), err)
	}
	// The kernel may have to find the server's MAC address first, and drops what waits for it when our
	// own address goes.
	if err := drained(s.unicast, time.Second); err != nil {
		return fmt.Errorf("release %v: %w", l.Addr(), err)
	}
	return nil
}

// drained waits until what was written to conn has left, or for limit.
func drained(conn net.PacketConn, limit time.Duration) error {
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(limit); ; time.Sleep(5 * time.Millisecond) {
		var queued int
		controlErr := raw.Control(func(fd uintptr) { queued, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
		if err := errors.Join(controlErr, err); err != nil {
			return fmt.Errorf("see what is still to be sent: %w", err)
		}
		if queued == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the server cannot be reached")
		}
	}
}

// A session is one run of a Client.
type session struct {
	*Client
	conn    net.PacketConn // IPv4 packets from and to the link
	unicast net.PacketConn // held while renewing: else the kernel tells the server that nobody listens
	watch   func(context.Context, *arp.Watch) error
	ask     func(ctx context.Context, from, target netip.Addr, to net.HardwareAddr) (net.HardwareAddr, error)
	others  func(netip.Addr) bool // whether another port of ours has an address
	helpers sync.WaitGroup
	fail    context.CancelCauseFunc
	found   chan found
	met     chan met

	sm     client
	told   *Lease // by Changed
	server netip.Addr
	noted  string // what was logged last of a lease's notes
	claim  *claim // what is watched, nil for nothing
	asked  *Lease // whose gateway was asked for last
}

// A claim is an address that is watched.
type claim struct {
	addr netip.Addr
	stop context.CancelFunc
}

// What a claim's watch found.
type found struct {
	claim *claim
	event arp.Event
	mac   net.HardwareAddr
}

// The device that answers for a lease's gateway.
type met struct {
	lease  *Lease
	before bool // the lease is one to go back to
	mac    net.HardwareAddr
}

func (s *session) run(parent context.Context) error {
	received := make(chan received)
	s.found, s.met = make(chan found), make(chan met)
	ctx, cancel := context.WithCancelCause(parent)
	s.fail = cancel
	s.helpers.Go(func() { cancel(s.receive(ctx, received)) }) // ends when conn is closed
	defer func() {
		cancel(nil)
		s.conn.Close()
		s.closeUnicast()
		s.helpers.Wait()
	}()

	s.sm = client{
		mac: s.Port.HardwareAddr, common: s.options(), random: rand.Uint32,
		terms: terms{hostname: s.Hostname, maxMTU: s.MaxMTU, ours: s.others},
	}
	out := s.sm.start(time.Now(), s.Remembered, s.InUse, s.LinkKept)
	if s.InUse {
		s.told = s.Remembered
	}
	if s.Remembered != nil {
		s.server = s.Remembered.Server
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		s.tell()
		if out != nil {
			if err := s.send(out); err != nil { // as if lost on the way: it is sent again
				s.Log.Debug("DHCP: "+err.Error(), "port", s.Port.Name)
			}
		}
		s.lookAfter(ctx)
		s.meetGateway(ctx)
		if s.sm.state != Renewing {
			s.closeUnicast()
		}
		if wake := s.sm.wake(); wake.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(wake))
		}
		out = nil
		select {
		case <-ctx.Done():
			if parent.Err() != nil {
				return nil
			}
			return context.Cause(ctx)
		case r := <-received:
			if r.err != nil {
				s.sm.damaged(r.from, r.err)
			} else {
				out = s.sm.receive(time.Now(), r.msg)
			}
		case <-timer.C:
			out = s.sm.timeout(time.Now())
		case f := <-s.found:
			out = s.hear(f)
		case m := <-s.met:
			switch {
			case !m.before && m.lease == s.sm.lease:
				s.sm.meet(m.lease, m.mac)
				s.asked = s.sm.lease
			case m.before && m.mac.String() == m.lease.GatewayMAC.String():
				s.sm.vouch()
			}
		}
	}
}

// tell tells the caller and the log what is new.
func (s *session) tell() {
	name := slog.String("port", s.Port.Name)
	if t := s.sm.trouble; t != nil {
		s.sm.trouble = nil
		what := "sent what cannot be used"
		if t.Refuse {
			what = "refused the address"
		}
		s.Log.Warn(fmt.Sprintf("DHCP: server %v %s: %s", t.Server, what, t.Text), name)
		if s.Troubled != nil {
			s.Troubled(*t)
		}
	}
	if s.sm.lease == s.told {
		return
	}
	s.told = s.sm.lease
	if notes := strings.Join(s.sm.notes, "; "); notes != s.noted {
		s.noted = notes
		if notes != "" {
			s.Log.Warn("DHCP: "+notes, name)
		}
	}
	s.Changed(s.told)
	if s.told != nil && s.told.Server != s.server {
		if s.server.IsValid() && s.ServerChanged != nil {
			s.ServerChanged(s.server, s.told.Server)
		}
		s.server = s.told.Server
	}
}

// lookAfter has the address watched that is to be.
func (s *session) lookAfter(ctx context.Context) {
	addr, timing := s.sm.claim()
	if s.claim != nil {
		if s.claim.addr == addr {
			return
		}
		s.claim.stop()
		s.claim = nil
	}
	if !addr.IsValid() {
		return
	}
	ctx, stop := context.WithCancel(ctx)
	c := &claim{addr: addr, stop: stop}
	s.claim = c
	s.helpers.Go(func() { // ends when it is stopped, or the address is another device's
		err := s.watch(ctx, &arp.Watch{Port: s.Port, Addr: addr, Timing: timing, Report: func(e arp.Event, mac net.HardwareAddr) {
			select {
			case s.found <- found{c, e, mac}:
			case <-ctx.Done():
			}
		}})
		if err != nil && ctx.Err() == nil {
			s.fail(err)
		}
	})
}

// hear takes what a watch found.
func (s *session) hear(f found) *outgoing {
	if f.claim != s.claim {
		return nil
	}
	if f.event == arp.Free {
		s.sm.free()
		return nil
	}
	kept := f.event == arp.Defended
	what := "another device has it"
	if kept {
		what = "another device uses it as well"
	}
	s.Log.Warn(fmt.Sprintf("address %v: %s", f.claim.addr, what), "port", s.Port.Name, "mac", f.mac)
	if s.Conflict != nil {
		s.Conflict(f.claim.addr, f.mac, kept)
	}
	if kept {
		return nil
	}
	s.claim.stop()
	s.claim = nil
	return s.sm.taken(time.Now())
}

// meetGateway finds out which device the gateway is: after a lease to tell its link from others, and
// before one whether this is its link.
func (s *session) meetGateway(ctx context.Context) {
	var l *Lease
	var to net.HardwareAddr
	switch {
	case s.sm.state == Rebooting:
		l = s.sm.old
		if to = l.GatewayMAC; to == nil {
			return
		}
	case s.sm.state == Bound:
		l = s.sm.lease
	}
	if l == nil || l == s.asked || !l.Gateway.IsValid() {
		return
	}
	s.asked = l
	s.helpers.Go(func() { // ends after a second
		mac, err := s.ask(ctx, l.Addr(), l.Gateway, to)
		if err != nil {
			return
		}
		select {
		case s.met <- met{l, to != nil, mac}:
		case <-ctx.Done():
		}
	})
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

// What came in: a message, or why it is none and from whom.
type received struct {
	msg  *dhcpv4.DHCPv4
	from netip.Addr
	err  error
}

// receive hands the servers' messages on. It ends with an error when the port goes down.
func (s *session) receive(ctx context.Context, messages chan<- received) error {
	conn := nclient4.NewBroadcastUDPConn(s.conn, &net.UDPAddr{Port: nclient4.ClientPort})
	buf := make([]byte, nclient4.MaxMessageSize)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return fmt.Errorf("read DHCP on %s: %w", s.Port.Name, err)
		}
		var r received
		if from, ok := from.(*net.UDPAddr); ok {
			r.from, _ = netip.AddrFromSlice(from.IP.To4())
		}
		r.msg, r.err = dhcpv4.FromBytes(buf[:n])
		select {
		case messages <- r:
		case <-ctx.Done():
			return context.Canceled
		}
	}
}

// send sends p: to everybody on the link, or to the server by whatever route leads there.
func (s *session) send(p *outgoing) error {
	if !p.to.IsValid() {
		conn := nclient4.NewBroadcastUDPConn(s.conn, &net.UDPAddr{IP: p.from.AsSlice(), Port: nclient4.ClientPort})
		if _, err := conn.WriteTo(p.msg.ToBytes(), nclient4.DefaultServers); err != nil {
			return fmt.Errorf("send %v to everybody: %w", p.msg.MessageType(), err)
		}
		return nil
	}
	if s.unicast == nil {
		conn, err := s.listen(netip.AddrPortFrom(p.from, nclient4.ClientPort))
		if err != nil {
			return fmt.Errorf("listen as %v: %w", p.from, err)
		}
		s.unicast = conn
	}
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(p.to, nclient4.ServerPort))
	if _, err := s.unicast.WriteTo(p.msg.ToBytes(), to); err != nil {
		return fmt.Errorf("send %v to %v: %w", p.msg.MessageType(), p.to, err)
	}
	return nil
}

// listen opens a UDP socket on the port alone. Nobody reads it: the answers are read from the link.
func (s *session) listen(addr netip.AddrPort) (net.PacketConn, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		controlErr := raw.Control(func(fd uintptr) {
			err = errors.Join(
				unix.BindToDevice(int(fd), s.Port.Name),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 0)) // as small as it goes
		})
		return errors.Join(err, controlErr)
	}}
	return config.ListenPacket(context.Background(), "udp4", addr.String())
}

func (s *session) closeUnicast() {
	if s.unicast != nil {
		s.unicast.Close()
		s.unicast = nil
	}
}

// options is what each of our messages says besides its own. Both 12 and 81 tell our name: many a
// router shows only what it finds in 12.
func (c *Client) options() []dhcpv4.Option {
	return []dhcpv4.Option{
		dhcpv4.OptHostName(c.Hostname),
		dhcpv4.OptGeneric(dhcpv4.OptionFQDN, fqdn(c.Hostname)),
		dhcpv4.OptClassIdentifier(c.Vendor),
		dhcpv4.OptMaxMessageSize(nclient4.MaxMessageSize),
		dhcpv4.OptParameterRequestList(
			dhcpv4.OptionClasslessStaticRoute, // before the router (RFC 3442)
			dhcpv4.OptionSubnetMask,
			dhcpv4.OptionRouter,
			dhcpv4.OptionDomainNameServer,
			dhcpv4.OptionHostName,
			dhcpv4.OptionDomainName,
			dhcpv4.OptionInterfaceMTU,
			dhcpv4.OptionNTPServers,
			dhcpv4.OptionIPAddressLeaseTime,
			dhcpv4.OptionServerIdentifier,
			dhcpv4.OptionRenewTimeValue,
			dhcpv4.OptionRebindingTimeValue,
			dhcpv4.OptionClassIdentifier,
			dhcpv4.OptionClientIdentifier,
			dhcpv4.OptionFQDN,
			dhcpv4.OptionDNSDomainSearchList,
		),
	}
}

// clientID is type Ethernet and the MAC address: what servers' reservations know.
func clientID(mac net.HardwareAddr) dhcpv4.Option {
	return dhcpv4.OptClientIdentifier(append([]byte{1}, mac...))
}
