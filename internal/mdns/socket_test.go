package mdns

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/mdns/wire"
	"cloudlink.local/gateway/internal/testnet"
)

func TestMain(m *testing.M) { testnet.Main(m) }

// at is a port of the test's namespace, as a link.
func at(t *testing.T, name string, addrs ...string) Link {
	t.Helper()
	home := testnet.Home(t)
	for _, a := range addrs {
		args := []string{"addr", "replace", a, "dev", name}
		if strings.Contains(a, ":") {
			args = append(args, "nodad")
		}
		home.IP(args...)
	}
	return linkNow(t, name, addrs...)
}

func linkNow(t *testing.T, name string, addrs ...string) Link {
	t.Helper()
	p, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	for p.Flags&net.FlagRunning == 0 {
		time.Sleep(time.Millisecond)
		if p, err = net.InterfaceByName(name); err != nil {
			t.Fatal(err)
		}
	}
	l := Link{Name: name, Index: p.Index}
	for _, a := range addrs {
		l.Addresses = append(l.Addresses, netip.MustParsePrefix(a))
	}
	return l
}

// responder starts one in the test's namespace.
func responder(t *testing.T) (*Responder, chan<- Wish, func()) {
	ctx, stop := context.WithCancel(t.Context())
	changed := make(chan struct{}, 1)
	r := New(Config{Log: slog.New(slog.DiscardHandler), Changed: func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}})
	wishes, ended := make(chan Wish), make(chan error, 1)
	go func() { ended <- r.Run(ctx, wishes) }()
	end := func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		ended <- nil
	}
	t.Cleanup(end)
	return r, wishes, end
}

func wishFor(links ...Link) Wish {
	w := ourWish()
	w.Links = links
	return *w
}

// until waits for a status.
func until(t *testing.T, r *Responder, what string, ok func(Status) bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(r.Status()); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: status is still %+v", what, r.Status())
		}
	}
}

// ours says whether all names are announced, on n links.
func ours(n int) func(Status) bool {
	return func(s Status) bool {
		for _, l := range s.Links {
			if len(l.Names) != 3 || l.Trouble != "" {
				return false
			}
			for _, n := range l.Names {
				if n.State != Announced {
					return false
				}
			}
		}
		return len(s.Links) == n
	}
}

// A station is a device at the far end of a cable.
type station struct {
	t    *testing.T
	peer *testnet.Peer
	link Link
	conn map[family]*udp
}

func newStation(t *testing.T, peer *testnet.Peer, v4addr, v6addr string) *station {
	t.Helper()
	peer.IP("addr", "replace", v4addr, "dev", "eth0")
	peer.IP("addr", "replace", v6addr, "dev", "eth0", "nodad")
	s := &station{t: t, peer: peer, conn: map[family]*udp{}}
	err := peer.Do(func() error {
		s.link = linkNow(t, "eth0", v4addr, v6addr)
		for _, f := range families {
			c, err := listen(s.link, f)
			if err != nil {
				return err
			}
			s.conn[f] = c.(*udp)
			t.Cleanup(func() { c.Close() })
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// send multicasts a packet.
func (s *station) send(f family, b []byte) {
	s.t.Helper()
	err := s.peer.Do(func() error {
		return s.conn[f].write(outgoing{family: f, source: s.link.Addresses[f].Addr(), bytes: b})
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// wait waits for a packet.
func (s *station) wait(f family, what string, ok func(datagram, *wire.Message) bool) datagram {
	s.t.Helper()
	return s.ask(f, nil, what, ok)
}

// ask multicasts a query, if there is one, and waits for a packet. It asks again as queriers do: what
// everybody was told within the last second is not told again.
func (s *station) ask(f family, query []byte, what string, ok func(datagram, *wire.Message) bool) datagram {
	s.t.Helper()
	buf := make([]byte, maxPacket)
	deadline := time.Now().Add(20 * time.Second)
	for {
		if query != nil {
			s.send(f, query)
		}
		s.conn[f].SetReadDeadline(time.Now().Add(time.Second))
		for {
			d, err := s.conn[f].read(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(deadline) {
				break
			}
			if err != nil {
				s.t.Fatalf("%s: %v", what, err)
			}
			if m, err := wire.Parse(d.bytes); err == nil && ok(d, m) {
				return d
			}
		}
	}
}

// has says whether a response has a record with that address.
func has(m *wire.Message, name, addr string) bool {
	for _, r := range m.Answers {
		if r.Name == name && r.Addr() == netip.MustParseAddr(addr) && r.TTL > 0 {
			return m.Response
		}
	}
	return false
}

func TestAnswersAcrossTheCable(t *testing.T) {
	far := newStation(t, testnet.Cable(t, "lan0"), "192.0.2.9/24", "fe80::9/64")
	r, wishes, end := responder(t)
	wishes <- wishFor(at(t, "lan0", "192.0.2.1/24", "fe80::1/64"))

	far.wait(v4, "probe", func(d datagram, m *wire.Message) bool {
		return !m.Response && len(m.Questions) == 3 && len(m.Authority) == 6 && d.multicast
	})
	far.wait(v6, "probe over IPv6", func(d datagram, m *wire.Message) bool { return !m.Response && len(m.Authority) == 6 && d.multicast })
	until(t, r, "announced", ours(1))
	for f, want := range []string{"192.0.2.1:5353", "[fe80::1]:5353"} {
		f := family(f)
		d := far.wait(f, "announcement", func(_ datagram, m *wire.Message) bool {
			return has(m, longName, "192.0.2.1") && has(m, longName, "fe80::1")
		})
		if d.from.String() != want {
			t.Errorf("announced from %v, want %s", d.from, want)
		}
	}
	// To everybody, and to one alone, in both families.
	for _, f := range families {
		far.conn[f].drain()
		far.ask(f, query(instance, wire.SRV), "answer", func(d datagram, m *wire.Message) bool {
			return m.Response && d.multicast && len(m.Answers) == 1 && m.Answers[0].Type == wire.SRV
		})
		w := wire.NewQuery(512)
		w.Question(qu(instance, wire.SRV))
		far.ask(f, w.Bytes(), "answer for us alone", func(d datagram, m *wire.Message) bool {
			return m.Response && !d.multicast && len(m.Answers) == 1 && m.Answers[0].Type == wire.SRV
		})
	}
	end()
	far.wait(v4, "goodbye", func(_ datagram, m *wire.Message) bool {
		return m.Response && len(m.Answers) > 0 && m.Answers[0].TTL == 0
	})
}

// drain throws away what waits.
func (u *udp) drain() {
	buf := make([]byte, maxPacket)
	u.SetReadDeadline(time.Now().Add(time.Millisecond))
	for {
		if _, err := u.read(buf); err != nil {
			return
		}
	}
}

// RFC 6762 §11: all packets leave with 255, those for resolvers too.
func TestRFC6762_11_TTLIs255(t *testing.T) {
	far := newStation(t, testnet.Cable(t, "lan0"), "192.0.2.9/24", "fe80::9/64")
	r, wishes, _ := responder(t)
	c4, c6 := ipv4.NewPacketConn(far.conn[v4].UDPConn), ipv6.NewPacketConn(far.conn[v6].UDPConn)
	if err := errors.Join(c4.SetControlMessage(ipv4.FlagTTL|ipv4.FlagDst, true), c6.SetControlMessage(ipv6.FlagHopLimit|ipv6.FlagDst, true)); err != nil {
		t.Fatal(err)
	}
	wishes <- wishFor(at(t, "lan0", "192.0.2.1/24", "fe80::1/64"))
	buf := make([]byte, maxPacket)
	for range 4 { // 3 probes and an announcement
		_, control, _, err := c4.ReadFrom(buf)
		if err != nil || control.TTL != 255 {
			t.Fatalf("TTL is %v, %v", control, err)
		}
		_, control6, _, err := c6.ReadFrom(buf)
		if err != nil || control6.HopLimit != 255 {
			t.Fatalf("hop limit is %v, %v", control6, err)
		}
	}
	until(t, r, "announced", ours(1))

	var resolver net.PacketConn
	err := far.peer.Do(func() (err error) {
		resolver, err = net.ListenPacket("udp4", "192.0.2.9:0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer resolver.Close()
	p := ipv4.NewPacketConn(resolver)
	if err := p.SetControlMessage(ipv4.FlagTTL, true); err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{"192.0.2.1:5353", "224.0.0.251:5353"} {
		if _, err := resolver.WriteTo(query(shortName, wire.A), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to))); err != nil {
			t.Fatal(err)
		}
		resolver.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, control, from, err := p.ReadFrom(buf)
		if err != nil || control.TTL != 255 || from.String() != "192.0.2.1:5353" {
			t.Fatalf("asked %s: TTL %v from %v, %v", to, control, from, err)
		}
		if m, err := wire.Parse(buf[:n]); err != nil || !has(m, shortName, "192.0.2.1") || m.Answers[0].TTL > 10 {
			t.Errorf("asked %s: %+v, %v", to, m, err)
		}
	}
}

// Both ports are in one switch, and with them a device that listens.
func TestBothPortsInOneSwitch(t *testing.T) {
	sw := testnet.Switch(t)
	home, far := testnet.Home(t), testnet.New(t)
	home.Plug("lan0", sw, "p1")
	home.Plug("wan0", sw, "p2")
	far.Plug("eth0", sw, "p3")
	for _, p := range []string{"p1", "p2", "p3"} {
		sw.IP("link", "set", p, "master", testnet.Bridge)
	}
	listener := newStation(t, far, "192.0.2.9/24", "fe80::9/64")
	r, wishes, _ := responder(t)
	links := []Link{at(t, "lan0", "192.0.2.1/24", "fe80::1/64"), at(t, "wan0", "192.0.2.2/24", "fe80::2/64")}
	wishes <- wishFor(links...)
	until(t, r, "announced", ours(2))
	for _, a := range []string{"192.0.2.1", "192.0.2.2"} {
		listener.wait(v4, "announcement of "+a, func(_ datagram, m *wire.Message) bool { return has(m, shortName, a) })
	}
	// An address goes and comes back while everything is on the way.
	wishes <- wishFor(links[0], Link{Name: "wan0", Index: links[1].Index, Addresses: links[1].Addresses[1:]})
	wishes <- wishFor(links...)
	listener.ask(v4, query(shortName, wire.A), "answer", func(_ datagram, m *wire.Message) bool { return has(m, shortName, "192.0.2.1") })
	until(t, r, "still announced", ours(2))
	for _, l := range r.Status().Links {
		if l.Names[0].Name != "cloudlink.local" || l.Names[1].Name != "cloudlink-4711af.local" {
			t.Errorf("names are %v", l.Names)
		}
	}
}

// A device that has the name denies it; the status names it, with its MAC address.
func TestRivalAcrossTheCable(t *testing.T) {
	far := newStation(t, testnet.Cable(t, "lan0"), "192.0.2.9/24", "fe80::9/64")
	r, wishes, _ := responder(t)
	wishes <- wishFor(at(t, "lan0", "192.0.2.1/24"))
	d := far.wait(v4, "probe", func(_ datagram, m *wire.Message) bool { return !m.Response && len(m.Authority) > 0 })
	w := wire.NewResponse(512, 0)
	w.Answers(host(shortName, "192.0.2.9", 120))
	if d.from.Addr() != netip.MustParseAddr("192.0.2.1") {
		t.Errorf("probed from %v", d.from)
	}
	far.send(v4, w.Bytes()) // to everybody: so far neither knows the other's MAC address
	mac, _, _ := strings.Cut(strings.SplitAfter(far.peer.IP("-o", "link", "show", "dev", "eth0"), "link/ether ")[1], " ")
	until(t, r, "lost", func(s Status) bool {
		for _, l := range s.Links {
			for _, n := range l.Names {
				if n.Name == "cloudlink.local" && n.State == Lost {
					return n.Rival.Addr == netip.MustParseAddr("192.0.2.9") && n.Rival.MAC.String() == mac
				}
			}
		}
		return false
	})
}

// The cable is out for a while: what is sent fails or is lost, and then works again, without a new wish.
func TestLinkDownAndUpHeals(t *testing.T) {
	far := newStation(t, testnet.Cable(t, "lan0"), "192.0.2.9/24", "fe80::9/64")
	r, wishes, _ := responder(t)
	wishes <- wishFor(at(t, "lan0", "192.0.2.1/24"))
	until(t, r, "announced", ours(1))
	home := testnet.Home(t)
	home.IP("link", "set", "lan0", "down")
	home.IP("link", "set", "lan0", "up")
	linkNow(t, "lan0")
	far.ask(v4, query(instance, wire.TXT), "answer", func(_ datagram, m *wire.Message) bool {
		return m.Response && len(m.Answers) == 1 && m.Answers[0].Type == wire.TXT
	})
}

// §15.1: another responder may have the port already, or take it later.
func TestRFC6762_15_1_SharesThePort(t *testing.T) {
	far := newStation(t, testnet.Cable(t, "lan0"), "192.0.2.9/24", "fe80::9/64")
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
		return err
	}}
	other, err := config.ListenPacket(t.Context(), "udp4", ":5353")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	r, wishes, _ := responder(t)
	wishes <- wishFor(at(t, "lan0", "192.0.2.1/24"))
	until(t, r, "announced", ours(1))
	far.ask(v4, query(instance, wire.TXT), "answer", func(_ datagram, m *wire.Message) bool {
		return m.Response && len(m.Answers) == 1 && m.Answers[0].Type == wire.TXT
	})
}

// What ships has no privilege for this: neither CAP_NET_RAW nor CAP_NET_ADMIN.
func TestListenNeedsNoPrivilege(t *testing.T) {
	testnet.Cable(t, "lan0")
	l := at(t, "lan0", "192.0.2.1/24")
	done := make(chan error)
	go func() { // on a thread that ends with it
		done <- func() error {
			if err := dropCapabilities(); err != nil {
				return err
			}
			for _, f := range families {
				c, err := listen(l, f)
				if err != nil {
					return err
				}
				c.Close()
			}
			return nil
		}()
	}()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// dropCapabilities takes this thread's capabilities away; the thread is then of no use for others.
func dropCapabilities() error {
	runtime.LockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		return os.NewSyscallError("capset", err)
	}
	return nil
}

// The kernel drops what would be dropped anyway.
func TestPrefilter(t *testing.T) {
	vm, err := bpf.NewVM(disassembled(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, packet string
		passes       bool
	}{
		{"query", `9c40 14e9 0000 0000 0000 0000 0001 0000 0000 0000`, true},
		{"query from a responder", `14e9 14e9 0000 0000 0000 0000 0001 0000 0000 0000`, true},
		{"truncated", `14e9 14e9 0000 0000 0000 0200 0001 0001 0000 0000`, true},
		{"known answers alone", `14e9 14e9 0000 0000 0000 0000 0000 0001 0000 0000`, true},
		{"neither question nor answer", `14e9 14e9 0000 0000 0000 0000 0000 0000 0001 0001`, false},
		{"too many questions", `14e9 14e9 0000 0000 0000 0000 0201 0000 0000 0000`, false},
		{"response", `14e9 14e9 0000 0000 0000 8400 0000 0001 0000 0000`, true},
		{"response from elsewhere", `9c40 14e9 0000 0000 0000 8400 0000 0001 0000 0000`, false},
		{"opcode", `14e9 14e9 0000 0000 0000 2800 0001 0000 0000 0000`, false},
		{"error", `14e9 14e9 0000 0000 0000 8403 0000 0001 0000 0000`, false},
		{"half a header", `14e9 14e9 0000 0000 0000 0000`, false},
	} {
		if n, err := vm.Run(unhex(t, test.packet)); err != nil || (n > 0) != test.passes {
			t.Errorf("%s: passes %d bytes, %v", test.name, n, err)
		}
	}
}

func disassembled(t *testing.T) []bpf.Instruction {
	list, ok := bpf.Disassemble(prefilter)
	if !ok {
		t.Fatal("the filter cannot be read back")
	}
	return list
}
