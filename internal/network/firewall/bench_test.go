package firewall

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	nl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/testnet"
)

// A side is a cable of the gateway and the peer at its other end.
type side struct {
	t              testing.TB
	link           string
	peer           *testnet.Peer
	v4, v6         netip.Addr // the gateway's
	peer4, peer6   netip.Addr
	mac, peerMAC   net.HardwareAddr
	sentinel, echo *net.UDPConn // peer's end, and the gateway's, which spoke first
}

// A gateway is the test's own namespace with its ports, and its services: one that listens on every
// port that is asked about.
type gateway struct {
	t    testing.TB
	home *testnet.Peer
	got  map[string]chan string // protocol and port → what came in
}

func newGateway(t *testing.T) *gateway {
	apply(t, Policy{}) // connections are tracked from here on
	// The connection table outlives cables: a new test's peers are strangers.
	if err := nl.ConntrackTableFlush(nl.ConntrackTable); err != nil {
		t.Fatal(err)
	}
	return &gateway{t: t, home: testnet.Home(t), got: map[string]chan string{}}
}

// plug lays a cable to a port with addresses of subnet n.
func (g *gateway) plug(link string, n int) *side {
	g.t.Helper()
	peer := testnet.Cable(g.t, link)
	addr := func(format string) netip.Addr { return netip.MustParseAddr(fmt.Sprintf(format, n)) }
	s := &side{
		t: g.t, link: link, peer: peer,
		v4: addr("192.0.%d.1"), peer4: addr("192.0.%d.2"), v6: addr("fd00:%d::1"), peer6: addr("fd00:%d::2"),
	}
	g.home.IP("addr", "add", s.v4.String()+"/24", "dev", link)
	g.home.IP("addr", "add", s.v6.String()+"/64", "dev", link, "nodad")
	peer.IP("addr", "add", s.peer4.String()+"/24", "dev", "eth0")
	peer.IP("addr", "add", s.peer6.String()+"/64", "dev", "eth0", "nodad")
	s.mac = mac(g.t, g.home, link)
	s.peerMAC = mac(g.t, peer, "eth0")
	// Nobody has to look for a neighbour first: packets are sent in the order of the test.
	for _, n := range []struct {
		at   *testnet.Peer
		dev  string
		addr netip.Addr
		mac  net.HardwareAddr
	}{{peer, "eth0", s.v4, s.mac}, {peer, "eth0", s.v6, s.mac}, {g.home, link, s.peer4, s.peerMAC}, {g.home, link, s.peer6, s.peerMAC}} {
		n.at.IP("neigh", "replace", n.addr.String(), "lladdr", n.mac.String(), "dev", n.dev, "nud", "permanent")
	}
	// The way on which a packet overtakes nothing: what was sent before its echo has been dealt with.
	err := peer.Do(func() (err error) {
		s.sentinel, err = net.ListenUDP("udp4", &net.UDPAddr{IP: s.peer4.AsSlice()})
		return err
	})
	if err != nil {
		g.t.Fatal(err)
	}
	s.echo, err = net.DialUDP("udp4", nil, s.sentinel.LocalAddr().(*net.UDPAddr))
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { s.sentinel.Close(); s.echo.Close() })
	if _, err := s.echo.Write([]byte("first")); err != nil {
		g.t.Fatal(err)
	}
	go func() { // ends when echo is closed
		buf := make([]byte, 64)
		for {
			n, err := s.echo.Read(buf)
			if err != nil {
				return
			}
			s.echo.Write(buf[:n])
		}
	}()
	s.settled()
	return s
}

func mac(t testing.TB, p *testnet.Peer, link string) (addr net.HardwareAddr) {
	t.Helper()
	err := p.Do(func() error {
		port, err := net.InterfaceByName(link)
		if err == nil {
			addr = port.HardwareAddr
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

var sentinels uint64

// settled returns once the gateway has dealt with what the peer has sent so far. It is a conversation
// that the gateway began: no policy stops it.
func (s *side) settled() {
	s.t.Helper()
	for range 3 {
		sentinels++
		word := binary.BigEndian.AppendUint64(nil, sentinels)
		if _, err := s.sentinel.WriteToUDPAddrPort(word, s.echo.LocalAddr().(*net.UDPAddr).AddrPort()); err != nil {
			s.t.Fatalf("speak with the gateway from %s: %v", s.link, err)
		}
		s.sentinel.SetReadDeadline(time.Now().Add(10 * time.Second))
		buf := make([]byte, 64)
		for {
			n, err := s.sentinel.Read(buf)
			if err != nil {
				s.t.Fatalf("the gateway's answer on %s: %v", s.link, err)
			}
			if string(buf[:n]) == string(word) {
				break
			}
		}
	}
}

// listen makes the gateway listen on port of protocol, TCP or UDP, over IPv4 and IPv6.
func (g *gateway) listen(protocol string, port uint16) chan string {
	g.t.Helper()
	key := protocol + strconv.Itoa(int(port))
	if got, ok := g.got[key]; ok {
		return got
	}
	got := make(chan string, 20000)
	g.got[key] = got
	address := ":" + strconv.Itoa(int(port))
	if protocol == "udp" {
		conn, err := net.ListenPacket("udp", address)
		if err != nil {
			g.t.Fatal(err)
		}
		conn.(*net.UDPConn).SetReadBuffer(8 << 20)
		g.t.Cleanup(func() { conn.Close() })
		go func() { // ends when conn is closed
			buf := make([]byte, 65536)
			for {
				n, _, err := conn.ReadFrom(buf)
				if err != nil {
					return
				}
				got <- string(buf[:n])
			}
		}()
		return got
	}
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	l, err := config.Listen(context.Background(), "tcp", address)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { l.Close() })
	go func() { // ends when l is closed; each conversation with its other end
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer conn.Close(); io.Copy(conn, conn) }()
		}
	}()
	return got
}

// open says whether a packet of the peer to port of protocol gets in, to IPv4 or IPv6. want is what to
// wait for.
func (g *gateway) open(s *side, protocol string, to netip.AddrPort, want bool) bool {
	g.t.Helper()
	drain(g.listen(protocol, to.Port()))
	if protocol == "tcp" {
		return s.connects(to, want)
	}
	s.send(to, 0, "probe")
	s.settled()
	return g.receives(to.Port(), "probe")
}

// send sends a datagram from the peer, from a port of its own.
func (s *side) send(to netip.AddrPort, from uint16, data string) {
	s.t.Helper()
	err := s.peer.Do(func() error {
		conn, err := net.DialUDP("udp", &net.UDPAddr{Port: int(from)}, net.UDPAddrFromAddrPort(to))
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte(data))
		return err
	})
	if err != nil {
		s.t.Fatalf("send to %v: %v", to, err)
	}
}

// receives says whether data has come in on a UDP port.
func (g *gateway) receives(port uint16, data string) bool {
	g.t.Helper()
	return slices.Contains(g.received(port), data)
}

// received returns what has come in on a UDP port. A last word, from the gateway to itself, tells when
// all has been read that came before.
func (g *gateway) received(port uint16) (all []string) {
	g.t.Helper()
	got := g.listen("udp", port)
	sentinels++
	last := "last word " + strconv.FormatUint(sentinels, 10)
	conn, err := net.Dial("udp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
	if err == nil {
		defer conn.Close()
		_, err = conn.Write([]byte(last))
	}
	if err != nil {
		g.t.Fatal(err)
	}
	for {
		select {
		case s := <-got:
			if s == last {
				return all
			}
			all = append(all, s)
		case <-time.After(10 * time.Second):
			g.t.Fatalf("the gateway's own word did not come in on port %d", port)
		}
	}
}

func drain(got chan string) {
	for {
		select {
		case <-got:
		default:
			return
		}
	}
}

// connects says whether a TCP connection is made. Its first packet is sent before the sentinel.
func (s *side) connects(to netip.AddrPort, want bool) bool {
	s.t.Helper()
	made := false
	err := s.peer.Do(func() error {
		family, addr := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()})
		if to.Addr().Is4() {
			family, addr = unix.AF_INET, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
		}
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Connect(fd, addr); err != unix.EINPROGRESS {
			return fmt.Errorf("connect: %w", err)
		}
		s.settled()
		timeout := 0
		if want {
			timeout = 10_000
		}
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		n, err := unix.Poll(fds, timeout)
		for err == unix.EINTR {
			n, err = unix.Poll(fds, timeout)
		}
		made = n == 1 && fds[0].Revents == unix.POLLOUT
		return err
	})
	if err != nil {
		s.t.Fatalf("connect to %v: %v", to, err)
	}
	return made
}

// frames sends Ethernet frames of the peer to the gateway.
func (s *side) frames(kind uint16, packets ...[]byte) {
	s.t.Helper()
	err := s.peer.Do(func() error {
		port, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		to := &unix.SockaddrLinklayer{Ifindex: port.Index, Halen: 6}
		copy(to.Addr[:], s.mac)
		head := append(append([]byte{}, s.mac...), s.peerMAC...)
		head = binary.BigEndian.AppendUint16(head, kind)
		for _, p := range packets {
			if err := unix.Sendto(fd, append(head[:14:14], p...), 0, to); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		s.t.Fatalf("send frames: %v", err)
	}
}

// ipPacket returns an IP packet, and its kind for Ethernet. payload's checksum is filled in at offset
// sum, unless that is negative.
func ipPacket(from, to netip.Addr, protocol byte, hops byte, payload []byte, sum int) (uint16, []byte) {
	payload = append([]byte{}, payload...)
	pseudo := append(append([]byte{}, from.AsSlice()...), to.AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(payload)))
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(protocol))
	if sum >= 0 {
		if protocol == unix.IPPROTO_ICMP || protocol == unix.IPPROTO_IGMP {
			pseudo = nil
		}
		binary.BigEndian.PutUint16(payload[sum:], checksum(append(pseudo, payload...)))
	}
	if from.Is4() {
		head := []byte{0x45, 0, 0, 0, 0, 7, 0, 0, hops, protocol, 0, 0}
		head = append(append(head, from.AsSlice()...), to.AsSlice()...)
		binary.BigEndian.PutUint16(head[2:], uint16(20+len(payload)))
		binary.BigEndian.PutUint16(head[10:], checksum(head))
		return unix.ETH_P_IP, append(head, payload...)
	}
	head := []byte{0x60, 0, 0, 0, 0, 0, protocol, hops}
	binary.BigEndian.PutUint16(head[4:], uint16(len(payload)))
	return unix.ETH_P_IPV6, append(append(append(head, from.AsSlice()...), to.AsSlice()...), payload...)
}

func udpPacket(from, to netip.AddrPort, data string) (uint16, []byte) {
	payload := binary.BigEndian.AppendUint16(nil, from.Port())
	payload = binary.BigEndian.AppendUint16(payload, to.Port())
	payload = binary.BigEndian.AppendUint16(payload, uint16(8+len(data)))
	payload = append(append(payload, 0, 0), data...)
	return ipPacket(from.Addr(), to.Addr(), unix.IPPROTO_UDP, 64, payload, 6)
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func apply(t testing.TB, p Policy) (changed bool) {
	t.Helper()
	changed, err := Apply(p)
	if err != nil {
		t.Fatal(err)
	}
	return changed
}

// count returns a rule's counter.
func count(t testing.TB, comment string) uint64 {
	t.Helper()
	counts, err := Counters()
	if err != nil {
		t.Fatal(err)
	}
	n, ok := counts[comment]
	if !ok {
		t.Fatalf("no rule is called %q: %v", comment, counts)
	}
	return n
}

// await waits until what is so.
func await(t testing.TB, what string, so func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !so() {
		if time.Now().After(deadline) {
			t.Fatalf("still not so after 30 s: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// sysctl sets a value below /proc/sys/net and sets it back.
func sysctl(t testing.TB, name, value string) {
	t.Helper()
	path := "/proc/sys/net/" + name
	old, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, []byte(value), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.WriteFile(path, old, 0o644) })
}
