// Package dhcp4 is a DHCPv4 client (RFC 2131): the states are ours, the codec of messages is
// insomniacslk/dhcp's. It leases an address and keeps it; putting it on the port is the caller's.
package dhcp4

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

// A Client leases an address for a port with a cable in it.
type Client struct {
	Port       *net.Interface
	Hostname   string // ours, told to the server
	Vendor     string // what kind of machine we are
	Remembered *Lease // asked for first, if not nil
	Log        *slog.Logger

	// Changed is called with each new lease, or new end of one, and with nil when it is lost.
	Changed func(*Lease)
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
	s := &session{Client: c, conn: raw}
	return s.run(ctx)
}

// A session is one run of a Client.
type session struct {
	*Client
	conn    net.PacketConn // IPv4 packets from and to the link
	unicast net.PacketConn // held while renewing: else the kernel tells the server that nobody listens
	sm      client
}

func (s *session) run(ctx context.Context) (err error) {
	received := make(chan *dhcpv4.DHCPv4)
	ctx, cancel := context.WithCancelCause(ctx)
	reading := make(chan struct{})
	go func() { // ends when conn is closed
		defer close(reading)
		cancel(s.receive(ctx, received))
	}()
	defer func() {
		s.conn.Close()
		s.closeUnicast()
		<-reading
	}()

	s.sm = client{mac: s.Port.HardwareAddr, common: s.options(), random: rand.Uint32}
	out := s.sm.start(time.Now(), s.Remembered)
	timer := time.NewTimer(0)
	defer timer.Stop()
	told := s.Remembered
	for {
		if s.sm.state != Renewing {
			s.closeUnicast()
		}
		if s.sm.trouble != nil {
			s.Log.Warn("DHCP: "+s.sm.trouble.Error(), "port", s.Port.Name)
			s.sm.trouble = nil
		}
		if s.sm.lease != told {
			told = s.sm.lease
			s.Changed(told)
		}
		if out != nil {
			if err := s.send(out); err != nil { // as if lost on the way: it is sent again
				s.Log.Debug("DHCP: "+err.Error(), "port", s.Port.Name)
			}
		}
		if s.sm.wake.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(s.sm.wake))
		}
		select {
		case <-ctx.Done():
			if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
				return err
			}
			return nil
		case msg := <-received:
			out = s.sm.receive(time.Now(), msg)
		case <-timer.C:
			out = s.sm.timeout(time.Now())
		}
	}
}

// receive hands the servers' messages on. It ends with an error when the port goes down.
func (s *session) receive(ctx context.Context, received chan<- *dhcpv4.DHCPv4) error {
	conn := nclient4.NewBroadcastUDPConn(s.conn, &net.UDPAddr{Port: nclient4.ClientPort})
	buf := make([]byte, nclient4.MaxMessageSize)
	for {
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			return fmt.Errorf("read DHCP on %s: %w", s.Port.Name, err)
		}
		msg, err := dhcpv4.FromBytes(buf[:n])
		if err != nil {
			continue // not DHCP, or damaged: the server's answer to our next try counts
		}
		select {
		case received <- msg:
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

// options is what each of our messages says besides its own.
func (c *Client) options() []dhcpv4.Option {
	id := append([]byte{1}, c.Port.HardwareAddr...) // type Ethernet: what servers' reservations know
	return []dhcpv4.Option{
		dhcpv4.OptClientIdentifier(id),
		dhcpv4.OptHostName(c.Hostname),
		dhcpv4.OptClassIdentifier(c.Vendor),
		dhcpv4.OptMaxMessageSize(nclient4.MaxMessageSize),
		dhcpv4.OptParameterRequestList(
			dhcpv4.OptionSubnetMask,
			dhcpv4.OptionRouter,
			dhcpv4.OptionDomainNameServer,
			dhcpv4.OptionIPAddressLeaseTime,
			dhcpv4.OptionServerIdentifier,
			dhcpv4.OptionRenewTimeValue,
			dhcpv4.OptionRebindingTimeValue,
		),
	}
}
