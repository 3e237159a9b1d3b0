package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/portmap"
	"cloudlink.local/gateway/internal/testnet"
)

// TestMain keeps all on one processor: each has its own queue of packets, so that two packets could
// overtake each other, and a test could not know when a packet has been dropped.
func TestMain(m *testing.M) {
	if err := onOneProcessor(); err != nil {
		fmt.Fprintf(os.Stderr, "keep tests on one processor: %v\n", err)
		os.Exit(1)
	}
	testnet.Main(m) // starts this again, on the same processor
}

func onOneProcessor() error {
	var everywhere unix.CPUSet
	if err := unix.SchedGetaffinity(0, &everywhere); err != nil {
		return err
	}
	var one unix.CPUSet
	for cpu := 0; one.Count() == 0; cpu++ {
		if everywhere.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, t := range threads {
		id, err := strconv.Atoi(t.Name())
		if err != nil {
			return err
		}
		if err := unix.SchedSetaffinity(id, &one); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}

// TestM10_PortsAreOpenWhereTheyAreOfferedAndNowhereElse asks for every port that matters, over IPv4 and
// IPv6, from both sides, under every combination of what one side offers.
func TestM10_PortsAreOpenWhereTheyAreOfferedAndNowhereElse(t *testing.T) {
	g := newGateway(t)
	sides := []*side{g.plug("lan", 1), g.plug("wan", 2)}
	probes := []struct {
		protocol string
		port     uint16
		offered  func(Port, netip.Addr) bool
	}{
		{"tcp", 80, func(p Port, _ netip.Addr) bool { return p.Portal }},
		{"udp", 80, nil},
		{"tcp", 443, nil},
		{"tcp", 22, nil},
		{"udp", 5353, func(p Port, _ netip.Addr) bool { return p.MDNS }},
		{"tcp", 5353, nil},
		{"udp", 68, func(p Port, a netip.Addr) bool { return p.DHCPv4 && a.Is4() }},
		{"udp", 546, nil}, // to a global address: see below
		{"udp", 123, nil},
		{"udp", 65335, nil},
		{"udp", 65336, func(p Port, _ netip.Addr) bool { return p.Media }},
		{"udp", 65534, func(p Port, _ netip.Addr) bool { return p.Media }},
		{"udp", 65535, nil},
		{"tcp", 65336, nil},
	}
	for bits := range 16 {
		lan := Port{Link: "lan", Portal: bits&1 != 0, MDNS: bits&2 != 0, Media: bits&4 != 0, DHCPv4: bits&8 != 0, DHCPv6: bits&8 != 0}
		policy := Policy{Ports: []Port{lan}} // nothing on wan
		apply(t, policy)
		for i, s := range sides {
			for _, p := range probes {
				for _, addr := range []netip.Addr{s.v4, s.v6} {
					want := i == 0 && p.offered != nil && p.offered(lan, addr)
					if have := g.open(s, p.protocol, netip.AddrPortFrom(addr, p.port), want); have != want {
						t.Errorf("%+v: %s %v of %s is open: %v, want %v", lan, p.protocol, p.port, s.link, have, want)
					}
				}
			}
		}
	}
}

func TestM19_InternalPortsAreClosedWhateverIsOffered(t *testing.T) {
	g := newGateway(t)
	s := g.plug("lan", 1)
	apply(t, Policy{Ports: []Port{{Link: "lan", DHCPv4: true, DHCPv6: true, Portal: true, MDNS: true, Media: true}}})
	for _, port := range []uint16{19060, 19061, 5070, 5071, 5080, 5081} {
		for _, protocol := range []string{"tcp", "udp"} {
			for _, addr := range []netip.Addr{s.v4, s.v6} {
				if g.open(s, protocol, netip.AddrPortFrom(addr, port), false) {
					t.Errorf("%s %d is open to %v", protocol, port, s.peer4)
				}
			}
		}
		// The gateway itself reaches it.
		conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
		if err != nil {
			t.Errorf("the gateway's own connection: %v", err)
			continue
		}
		conn.Close()
	}
}

func TestD2_PageIsOnLANOrOnTheOnlyPort(t *testing.T) {
	g := newGateway(t)
	wan, lan := g.plug("wan", 1), g.plug("lan", 2)
	for _, c := range []struct {
		name     string
		policy   Policy
		wan, lan bool
	}{
		{"two ports", ForPorts("wan", "lan"), false, true},
		{"one port", ForPorts("wan", ""), true, false},
		{"probation", ForPorts("wan", "lan").Reachable(), true, true},
	} {
		apply(t, c.policy)
		for _, at := range []struct {
			side *side
			want bool
		}{{wan, c.wan}, {lan, c.lan}} {
			for _, addr := range []netip.Addr{at.side.v4, at.side.v6} {
				if have := g.open(at.side, "tcp", netip.AddrPortFrom(addr, 80), at.want); have != at.want {
					t.Errorf("%s: page open at %v of %s: %v", c.name, addr, at.side.link, have)
				}
			}
		}
	}
}

func TestM16_HolePunchingOpensTheRangeToWhomWeSpokeTo(t *testing.T) {
	g := newGateway(t)
	s := g.plug("wan", 1)
	apply(t, ForPorts("wan", ""))
	for _, addrs := range [][2]netip.Addr{{s.v4, s.peer4}, {s.v6, s.peer6}} {
		conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: addrs[0].AsSlice(), Port: 65400})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		us, them := netip.AddrPortFrom(addrs[0], 65400), netip.AddrPortFrom(addrs[1], 30000)
		var far *net.UDPConn
		if err := s.peer.Do(func() (err error) {
			far, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(them))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		defer far.Close()
		far.WriteToUDPAddrPort([]byte("too early"), us)
		s.settled()
		if _, err := conn.WriteToUDPAddrPort([]byte("punch"), them); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 64)
		far.SetReadDeadline(time.Now().Add(10 * time.Second))
		if n, _, err := far.ReadFrom(buf); err != nil || string(buf[:n]) != "punch" {
			t.Fatalf("%q, %v", buf[:n], err)
		}
		s.send(us, 30001, "stranger")
		s.settled()
		far.WriteToUDPAddrPort([]byte("answer"), us)
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if n, _, err := conn.ReadFrom(buf); err != nil || string(buf[:n]) != "answer" {
			t.Errorf("first packet that came in is %q, %v, want the answer", buf[:n], err)
		}
	}
}

func TestAnswersAndErrorsComeBack(t *testing.T) {
	g := newGateway(t)
	s := g.plug("wan", 1)
	apply(t, Policy{})
	for _, addr := range []netip.Addr{s.peer4, s.peer6} {
		var l net.Listener
		if err := s.peer.Do(func() (err error) {
			l, err = net.Listen("tcp", netip.AddrPortFrom(addr, 443).String())
			return err
		}); err != nil {
			t.Fatal(err)
		}
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Errorf("TCP to %v: %v", addr, err)
		} else {
			conn.Close()
		}
		l.Close()
		// ICMP's error about what we sent.
		udp, err := net.Dial("udp", netip.AddrPortFrom(addr, 9).String())
		if err != nil {
			t.Fatal(err)
		}
		udp.Write([]byte("x"))
		udp.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := udp.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("UDP to a closed port of %v: %v, want refused", addr, err)
		}
		udp.Close()
	}
}

func TestNeighboursFindTheGatewayUnderTheStrictestPolicy(t *testing.T) {
	g := newGateway(t)
	s := g.plug("lan", 1)
	apply(t, Policy{})
	for _, addr := range []netip.Addr{s.v4, s.v6} {
		s.peer.IP("neigh", "del", addr.String(), "dev", "eth0")
	}
	for _, addr := range []netip.Addr{s.peer4, s.peer6} {
		g.home.IP("neigh", "del", addr.String(), "dev", "lan")
	}
	for _, addr := range []netip.Addr{s.v4, s.v6} {
		s.send(netip.AddrPortFrom(addr, 9), 0, "where are you?")
		await(t, addr.String()+" is found", func() bool {
			return strings.Contains(s.peer.IP("neigh", "show", addr.String(), "dev", "eth0"), s.mac.String())
		})
	}
	if count(t, "neighbours") == 0 {
		t.Error("no neighbour's question got in")
	}
}

// routerAdvertisement is a router's, with a prefix to make addresses of.
func routerAdvertisement(prefix netip.Prefix) []byte {
	ra := []byte{134, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	ra = append(ra, 3, 4, byte(prefix.Bits()), 0xc0, 0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10, 0, 0, 0, 0)
	return append(ra, prefix.Addr().AsSlice()...)
}

func TestRoutersAreHeardFromThisLinkOnly(t *testing.T) {
	g := newGateway(t)
	s := g.plug("lan", 1)
	sysctl(t, "ipv6/conf/lan/accept_ra", "2")
	apply(t, Policy{})
	all := netip.MustParseAddr("ff02::1")
	router := netip.MustParseAddr("fe80::1")
	for i, forged := range []struct {
		from netip.Addr
		hops byte
	}{{s.peer6, 255}, {router, 64}} {
		prefix := netip.MustParsePrefix(fmt.Sprintf("2001:db8:%d::/64", i+1))
		s.frames(ipPacket(forged.from, all, unix.IPPROTO_ICMPV6, forged.hops, routerAdvertisement(prefix), 2))
		s.settled()
		if n := count(t, "routers"); n != 0 {
			t.Errorf("advertisement from %v, hop limit %d, got in", forged.from, forged.hops)
		}
	}
	prefix := netip.MustParsePrefix("2001:db8:9::/64")
	s.frames(ipPacket(router, all, unix.IPPROTO_ICMPV6, 255, routerAdvertisement(prefix), 2))
	await(t, "an address of the router's prefix", func() bool {
		return strings.Contains(g.home.IP("-6", "addr", "show", "dev", "lan"), "2001:db8:9:")
	})
}

func TestSwitchesAreToldThatWeListen(t *testing.T) {
	g := newGateway(t)
	s := g.plug("lan", 1)
	apply(t, ForPorts("lan", ""))
	before := count(t, "lan: mdns")
	s.frames(ipPacket(s.peer4, netip.MustParseAddr("224.0.0.1"), unix.IPPROTO_IGMP, 1, []byte{0x11, 100, 0, 0, 0, 0, 0, 0}, 2))
	await(t, "IGMP's question is let in", func() bool { return count(t, "lan: mdns") == before+1 })
	listeners := count(t, "multicast listeners")
	query := append([]byte{130, 0, 0, 0, 0, 100, 0, 0}, make([]byte, 16)...)
	s.frames(ipPacket(netip.MustParseAddr("fe80::1"), netip.MustParseAddr("ff02::1"), unix.IPPROTO_ICMPV6, 1, query, 2))
	await(t, "MLD's question is let in", func() bool { return count(t, "multicast listeners") > listeners })
}

func TestDHCPv6AnswersComeToOurLinkLocalAddress(t *testing.T) {
	g := newGateway(t)
	s := g.plug("wan", 1)
	var own netip.Addr
	await(t, "a link-local address", func() bool {
		port, err := net.InterfaceByName("wan")
		if err != nil {
			t.Fatal(err)
		}
		addrs, _ := port.Addrs()
		for _, a := range addrs {
			if prefix, err := netip.ParsePrefix(a.String()); err == nil && prefix.Addr().Is6() && prefix.Addr().IsLinkLocalUnicast() {
				own = prefix.Addr()
			}
		}
		return own.IsValid() && !strings.Contains(g.home.IP("-6", "addr", "show", "dev", "wan"), "tentative")
	})
	for _, offered := range []bool{true, false} {
		apply(t, Policy{Ports: []Port{{Link: "wan", DHCPv6: offered}}})
		got := g.listen("udp", 546)
		drain(got)
		s.frames(udpPacket(netip.MustParseAddrPort("[fe80::547]:547"), netip.AddrPortFrom(own, 546), "reply"))
		s.settled()
		if have := g.receives(546, "reply"); have != offered {
			t.Errorf("offered %v: came in %v", offered, have)
		}
	}
}

func TestForgedSourcesAreDropped(t *testing.T) {
	g := newGateway(t)
	s := g.plug("lan", 1)
	other := g.plug("wan", 2)
	// The kernel's own checks off, so that ours is what is tried.
	for _, name := range []string{"rp_filter", "accept_local", "route_localnet"} {
		value := "1"
		if name == "rp_filter" {
			value = "0"
		}
		sysctl(t, "ipv4/conf/all/"+name, value)
		sysctl(t, "ipv4/conf/lan/"+name, value)
	}
	apply(t, Policy{Ports: []Port{{Link: "lan", Portal: true, MDNS: true, Media: true}}})
	got := g.listen("udp", 5353)
	from := func(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, 4000) }
	home4, home6 := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")
	for _, c := range []struct {
		name     string
		src, dst netip.Addr
		want     bool
	}{
		{"true IPv4", s.peer4, s.v4, true},
		{"true IPv6", s.peer6, s.v6, true},
		{"own IPv4", s.v4, s.v4, false},
		{"own IPv6", s.v6, s.v6, false},
		{"other port's IPv4", other.v4, s.v4, false},
		{"other port's IPv6", other.v6, s.v6, false},
		{"loopback IPv4", home4, s.v4, false},
		{"loopback's other IPv4", netip.MustParseAddr("127.9.9.9"), s.v4, false},
		{"loopback IPv6", home6, s.v6, false},
		{"to loopback IPv4", s.peer4, home4, false},
		{"to loopback IPv6", s.peer6, home6, false},
	} {
		drain(got)
		s.frames(udpPacket(from(c.src), netip.AddrPortFrom(c.dst, 5353), c.name))
		s.settled()
		if have := g.receives(5353, c.name); have != c.want {
			t.Errorf("%s: came in %v, want %v", c.name, have, c.want)
		}
	}
	if count(t, "own source from outside") == 0 || count(t, "loopback destination from outside") == 0 {
		t.Error("it was not our rules that dropped them")
	}
}

// TestNobodyJoinsAConversationThatWeHaveWithOurselves: the connection table knows no ports of the
// machine, so a packet from outside that carries our own addresses would be part of it.
func TestNobodyJoinsAConversationThatWeHaveWithOurselves(t *testing.T) {
	g := newGateway(t)
	s := g.plug("lan", 1)
	apply(t, ForPorts("lan", ""))
	server, err := net.ListenUDP("udp6", &net.UDPAddr{IP: s.v6.AsSlice(), Port: 5070})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	client, err := net.DialUDP("udp6", nil, server.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	buf := make([]byte, 64)
	ask := func() {
		t.Helper()
		client.Write([]byte("own"))
		server.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, from, err := server.ReadFromUDPAddrPort(buf)
		if err != nil || string(buf[:n]) != "own" {
			t.Fatalf("server got %q, %v", buf[:n], err)
		}
		server.WriteToUDPAddrPort([]byte("yes"), from)
		client.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := client.Read(buf); err != nil {
			t.Fatal(err)
		}
	}
	ask()
	s.frames(udpPacket(client.LocalAddr().(*net.UDPAddr).AddrPort(), server.LocalAddr().(*net.UDPAddr).AddrPort(), "forged"))
	s.settled()
	ask() // and nothing stood before it
}

func TestFragmentsAreJudgedAsWholePackets(t *testing.T) {
	g := newGateway(t)
	s := g.plug("lan", 1)
	apply(t, Policy{Ports: []Port{{Link: "lan", Media: true}}})
	big := strings.Repeat("x", 4000)
	for _, addr := range []netip.Addr{s.v4, s.v6} {
		for port, want := range map[uint16]bool{65400: true, 5070: false, 65000: false} {
			got := g.listen("udp", port)
			drain(got)
			have := false
			for range 5 { // a fragment may be lost on the way; none comes in that should not
				s.send(netip.AddrPortFrom(addr, port), 0, big)
				s.settled()
				if have = g.receives(port, big); have == want {
					break
				}
			}
			if have != want {
				t.Errorf("fragments to %v port %d: came in %v, want %v", addr, port, have, want)
			}
		}
	}
	// The first fragment names an open port, the second writes a closed one over it.
	drain(g.listen("udp", 5070))
	_, packet := udpPacket(netip.AddrPortFrom(s.peer4, 4000), netip.AddrPortFrom(s.v4, 65400), strings.Repeat("y", 24))
	_, evil := udpPacket(netip.AddrPortFrom(s.peer4, 4000), netip.AddrPortFrom(s.v4, 5070), strings.Repeat("y", 24))
	fragment := func(p []byte, from, to int, more bool) []byte {
		f := append(append([]byte{}, p[:20]...), p[20+from:20+to]...)
		offset := uint16(from / 8)
		if more {
			offset |= 0x2000
		}
		binary.BigEndian.PutUint16(f[2:], uint16(len(f)))
		binary.BigEndian.PutUint16(f[6:], offset)
		binary.BigEndian.PutUint16(f[10:], 0)
		binary.BigEndian.PutUint16(f[10:], checksum(f[:20]))
		return f
	}
	s.frames(unix.ETH_P_IP,
		fragment(packet, 0, 16, true),
		fragment(evil, 0, 8, true),
		fragment(packet, 16, 32, false),
	)
	s.settled()
	if g.receives(5070, strings.Repeat("y", 24)) {
		t.Error("an overlapping fragment reached a closed port")
	}
}

func TestPingIsLimited(t *testing.T) {
	g := newGateway(t)
	s := g.plug("lan", 1)
	for _, v := range []struct {
		from, to netip.Addr
		protocol byte
		kind     byte
	}{{s.peer4, s.v4, unix.IPPROTO_ICMP, 8}, {s.peer6, s.v6, unix.IPPROTO_ICMPV6, 128}} {
		apply(t, Policy{})
		apply(t, ForPorts("lan", "")) // counters begin anew
		kind, echo := ipPacket(v.from, v.to, v.protocol, 64, []byte{v.kind, 0, 0, 0, 0, 7, 0, 1}, 2)
		const sent = 2000
		packets := make([][]byte, sent) // of one conversation: all but the first are established
		for i := range packets {
			packets[i] = echo
		}
		s.frames(kind, packets...)
		await(t, "all are counted", func() bool { return count(t, "ping")+count(t, "ping flood") == sent })
		if count(t, "ping") < echoes || count(t, "ping flood") == 0 {
			t.Errorf("%d answered, %d dropped", count(t, "ping"), count(t, "ping flood"))
		}
	}
}

func connectionsTracked(t testing.TB) int {
	t.Helper()
	b, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestFloodsDoNotReachCalls: a call goes on, and the connection table stays small.
func TestFloodsDoNotReachCalls(t *testing.T) {
	g := newGateway(t)
	s := g.plug("lan", 1)
	g.listen("tcp", 80)
	apply(t, ForPorts("lan", ""))
	before := connectionsTracked(t)
	const rounds, each = 40, 100
	for i := range rounds {
		var flood [][]byte
		for j := range each {
			n := uint16(i*each + j)
			from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 1, byte(10 + n%200)}), 1024+n)
			_, dropped := udpPacket(from, netip.AddrPortFrom(s.v4, 10000+n), "flood")
			syn := binary.BigEndian.AppendUint16(nil, from.Port())
			syn = binary.BigEndian.AppendUint16(syn, 80)
			syn = append(syn, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0x20, 0, 0, 0, 0, 0)
			_, attack := ipPacket(from.Addr(), s.v4, unix.IPPROTO_TCP, 64, syn, 16)
			flood = append(flood, dropped, attack)
		}
		s.frames(unix.ETH_P_IP, flood...)
		s.settled() // three packets of a call, each answered
	}
	if n := connectionsTracked(t) - before; n > 50 {
		t.Errorf("the connection table grew by %d", n)
	}
	if count(t, "lan: portal") < rounds*each/2 {
		t.Errorf("%d of %d attempts counted", count(t, "lan: portal"), rounds*each)
	}
}

// TestRulesChangeBetweenTwoPackets applies other rules a hundred times under traffic: what both allow
// is never stopped, what neither allows never gets in, and a connection stays.
func TestRulesChangeBetweenTwoPackets(t *testing.T) {
	g := newGateway(t)
	s := g.plug("lan", 1)
	g.listen("tcp", 80)
	g.listen("udp", 65400)
	g.listen("udp", 5070)
	a := Policy{Ports: []Port{{Link: "lan", Portal: true, Media: true}}}
	b := Policy{Ports: []Port{{Link: "wan", Portal: true, DHCPv4: true, MDNS: true}, {Link: "lan", DHCPv6: true, Portal: true, Media: true}}}
	apply(t, a)
	var conn net.Conn
	if err := s.peer.Do(func() (err error) {
		conn, err = net.Dial("tcp", netip.AddrPortFrom(s.v4, 80).String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()

	// The prober's every packet is a new flow, told apart by its number.
	var sent atomic.Int64
	stop, done := make(chan struct{}), make(chan error)
	go func() {
		done <- s.peer.Do(func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			// On another processor than that on which the rules change.
			var here, everywhere unix.CPUSet
			for cpu := range len(everywhere) * 64 {
				everywhere.Set(cpu)
			}
			if err := errors.Join(unix.SchedGetaffinity(0, &here), unix.SchedSetaffinity(0, &everywhere)); err != nil {
				return err
			}
			defer unix.SchedSetaffinity(0, &here)
			const most = 4000
			for n := range most {
				select {
				case <-stop:
					return nil
				default:
				}
				from := netip.AddrPortFrom(s.peer4, uint16(1024+n))
				for _, port := range []uint16{65400, 5070} {
					_, packet := udpPacket(from, netip.AddrPortFrom(s.v4, port), "probe "+strconv.Itoa(n))
					if err := unix.Sendto(fd, packet, 0, &unix.SockaddrInet4{Addr: s.v4.As4()}); err != nil {
						return err
					}
				}
				sent.Add(1)
				time.Sleep(200 * time.Microsecond) // spreads them over the changes
			}
			return nil
		})
	}()
	buf := make([]byte, 16)
	for i := range 100 {
		if changed := apply(t, []Policy{b, a}[i%2]); !changed {
			t.Fatal("the rules did not change")
		}
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := conn.Write([]byte("still here")); err != nil {
			t.Fatalf("after %d changes: %v", i+1, err)
		}
		if n, err := conn.Read(buf); err != nil || string(buf[:n]) != "still here" {
			t.Fatalf("after %d changes: %q, %v", i+1, buf[:n], err)
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	s.settled()
	if sent.Load() < 100 {
		t.Fatalf("only %d probes in 100 changes", sent.Load())
	}
	arrived := map[string]bool{}
	await(t, "all probes have come in", func() bool {
		for _, word := range g.received(65400) {
			arrived[word] = true
		}
		return len(arrived) >= int(sent.Load())
	})
	if got := g.received(5070); len(got) != 0 {
		t.Errorf("%d packets got into a closed port", len(got))
	}
}

func TestNothingIsForwarded(t *testing.T) {
	g := newGateway(t)
	lan, wan := g.plug("lan", 1), g.plug("wan", 2)
	sysctl(t, "ipv4/ip_forward", "1") // somebody's mistake
	apply(t, ForPorts("wan", "lan"))
	lan.peer.IP("route", "add", "192.0.2.0/24", "via", lan.v4.String())
	wan.peer.IP("route", "add", "192.0.1.0/24", "via", wan.v4.String())
	lan.send(netip.AddrPortFrom(wan.peer4, 9), 0, "through")
	await(t, "it is dropped", func() bool { return count(t, "everything") == 1 })
}

func TestM10_ExplanationIsWhatTheRulesDo(t *testing.T) {
	policy := ForPorts("wan", "lan")
	rows := Explain(policy)
	if len(rows) != len(portmap.Table) {
		t.Fatalf("%d rows", len(rows))
	}
	want := map[string][2]Access{ // wan, lan
		"ntp": {Answers, Answers}, "accounts": {Answers, Answers}, "stun": {Answers, Answers},
		"sip-us": {Answers, Answers}, "sip-eu": {Answers, Answers}, "sip-ap": {Answers, Answers},
		"rtp": {Answers, Answers}, "rtp-static": {Nobody, Nobody},
		"internal-5070": {Nobody, Nobody}, "internal-5080": {Nobody, Nobody}, "internal-19060": {Nobody, Nobody},
		"portal": {Nobody, Everyone}, "mdns": {Nobody, Everyone}, "ping": {Everyone, Everyone},
		"dhcp": {Everyone, Everyone}, "dhcpv6": {Everyone, Everyone},
	}
	for _, r := range rows {
		w, ok := want[r.ID]
		if !ok || r.Ports[0] != (PortAccess{"wan", w[0]}) || r.Ports[1] != (PortAccess{"lan", w[1]}) {
			t.Errorf("%s: %v, want %v", r.ID, r.Ports, w)
		}
		for _, p := range r.Ports {
			if text := p.Access.Text(); text.DE == "" || text.EN == "" {
				t.Errorf("%s has no words for %q", r.ID, p.Access)
			}
		}
	}
	policy.Ports[1].Media = true
	for _, r := range Explain(policy) {
		if (r.ID == "rtp" || r.ID == "rtp-static") && r.Ports[1].Access != Everyone {
			t.Errorf("static range: %s is %v", r.ID, r.Ports[1])
		}
	}
}
