package ipv6

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

const (
	clientPort = 546
	serverPort = 547
	maxMessage = 8 << 10 // bytes; a longer one is cut off, and dropped for it
	queue      = 64 << 10
)

// Groups of the link.
var (
	allRouters = net.ParseIP("ff02::2")
	allServers = net.ParseIP("ff02::1:2")
)

// sockets is a wire.
type sockets struct {
	port   *net.Interface
	dhcp   *net.UDPConn
	icmp   net.PacketConn
	router *ipv6.PacketConn // icmp
}

// dial opens sockets that get nothing but advertisements and what is sent to our DHCPv6 port: a gateway
// forwards thousands of packets a second that this process must not wake up for.
func dial(port *net.Interface, own netip.Addr) (*sockets, error) {
	conn, err := dialDHCP(port, own)
	if err != nil {
		return nil, err
	}
	s := &sockets{port: port, dhcp: conn}
	config := net.ListenConfig{Control: onPort(port)}
	s.icmp, err = config.ListenPacket(context.Background(), "ip6:ipv6-icmp", "::")
	if err == nil {
		s.router = ipv6.NewPacketConn(s.icmp)
		var filter ipv6.ICMPFilter
		filter.SetAll(true)
		filter.Accept(ipv6.ICMPTypeRouterAdvertisement)
		err = errors.Join(
			s.router.SetICMPFilter(&filter),
			s.router.SetControlMessage(ipv6.FlagHopLimit, true),
			s.router.SetMulticastHopLimit(255), // RFC 4861 §6.1.1
		)
	}
	if err != nil {
		s.close()
		return nil, fmt.Errorf("listen to routers on %s: %w", port.Name, err)
	}
	return s, nil
}

func dialDHCP(port *net.Interface, own netip.Addr) (*net.UDPConn, error) {
	config := net.ListenConfig{Control: onPort(port)}
	addr := netip.AddrPortFrom(own.WithZone(zone(port)), clientPort)
	conn, err := config.ListenPacket(context.Background(), "udp6", addr.String())
	if err != nil {
		return nil, fmt.Errorf("listen for DHCPv6 on %s: %w", port.Name, err)
	}
	return conn.(*net.UDPConn), nil
}

// onPort ties a socket to the port.
func onPort(port *net.Interface) func(_, _ string, raw syscall.RawConn) error {
	return func(_, _ string, raw syscall.RawConn) (err error) {
		controlErr := raw.Control(func(fd uintptr) {
			err = errors.Join(
				unix.BindToDevice(int(fd), port.Name),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, queue))
		})
		return errors.Join(err, controlErr)
	}
}

// zone is the port by its number: Go remembers for a minute which number a name had.
func zone(port *net.Interface) string { return strconv.Itoa(port.Index) }

func (s *sockets) close() {
	s.dhcp.Close()
	if s.icmp != nil {
		s.icmp.Close()
	}
}

func (s *sockets) readAdvert(buf []byte) (n int, from netip.Addr, hopLimit int, err error) {
	n, control, addr, err := s.router.ReadFrom(buf)
	if err != nil {
		return 0, netip.Addr{}, 0, err
	}
	if ip, ok := addr.(*net.IPAddr); ok {
		from, _ = netip.AddrFromSlice(ip.IP)
	}
	if control != nil {
		hopLimit = control.HopLimit
	}
	return n, from, hopLimit, nil
}

func (s *sockets) readDHCP(buf []byte) (n int, from netip.Addr, err error) {
	n, addr, err := s.dhcp.ReadFromUDPAddrPort(buf)
	return n, addr.Addr(), err
}

// sendSolicit asks the routers to advertise, which they do to us or to everybody (RFC 4861 §4.1).
func (s *sockets) sendSolicit() error {
	const kind, sourceAddress = 133, 1
	m := []byte{kind, 0, 0, 0, 0, 0, 0, 0} // the kernel fills the checksum in
	if len(s.port.HardwareAddr) == 6 {
		m = append(append(m, sourceAddress, 1), s.port.HardwareAddr...)
	}
	if _, err := s.router.WriteTo(m, nil, &net.IPAddr{IP: allRouters, Zone: zone(s.port)}); err != nil {
		return fmt.Errorf("ask routers: %w", err)
	}
	return nil
}

func (s *sockets) sendDHCP(m []byte) error {
	if _, err := s.dhcp.WriteTo(m, &net.UDPAddr{IP: allServers, Port: serverPort, Zone: zone(s.port)}); err != nil {
		return fmt.Errorf("ask DHCPv6 servers: %w", err)
	}
	return nil
}

// linkLocal is the port's link-local address.
func linkLocal(port *net.Interface) (netip.Addr, error) {
	list, err := list(port)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, ch := range list {
		if ch.usable() && ch.addr.IsLinkLocalUnicast() {
			return ch.addr, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("%s has no link-local address: %w", port.Name, os.ErrNotExist)
}
