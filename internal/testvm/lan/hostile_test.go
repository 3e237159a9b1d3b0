package lan

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/diary"
	"cloudlink.local/gateway/internal/machine"
	"cloudlink.local/gateway/internal/network"
	"cloudlink.local/gateway/internal/portal"
	"cloudlink.local/gateway/internal/testnet"
	"cloudlink.local/gateway/internal/testvm"
)

// A hostile is a DHCP server at 192.0.2.1 that means no good.
type hostile struct {
	conn net.PacketConn

	mu   sync.Mutex // guards what follows
	evil func(req *dhcpv4.DHCPv4) [][]byte
	seen map[dhcpv4.MessageType]int // messages since evil was set
}

// hostile starts one, which is silent at first.
func (l lan) hostile(t *testing.T) *hostile {
	t.Helper()
	h := &hostile{}
	h.is(nil)
	err := l.Do(func() (err error) {
		config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
			controlErr := raw.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), testnet.Bridge) })
			return errors.Join(err, controlErr)
		}}
		h.conn, err = config.ListenPacket(context.Background(), "udp4", "0.0.0.0:67")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(h.run) // ends when conn is closed
	t.Cleanup(func() { h.conn.Close(); running.Wait() })
	return h
}

func (h *hostile) run() {
	buf := make([]byte, 2000)
	for {
		n, _, err := h.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		req, err := dhcpv4.FromBytes(buf[:n])
		if err != nil {
			continue
		}
		h.mu.Lock()
		h.seen[req.MessageType()]++
		var answers [][]byte
		if h.evil != nil {
			answers = h.evil(req)
		}
		h.mu.Unlock()
		for _, b := range answers {
			h.conn.WriteTo(b, &net.UDPAddr{IP: net.IPv4bcast, Port: 68})
		}
	}
}

// is makes it answer so from now on.
func (h *hostile) is(evil func(req *dhcpv4.DHCPv4) [][]byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.evil, h.seen = evil, map[dhcpv4.MessageType]int{}
}

func (h *hostile) saw(kind dhcpv4.MessageType) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.seen[kind]
}

// option is one of DHCP's, as bytes.
func option(code uint8, value ...byte) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(code), value))
}

// leaseTime is option 51.
func leaseTime(seconds uint32) dhcpv4.Modifier {
	return option(51, binary.BigEndian.AppendUint32(nil, seconds)...)
}

// answer is the server's to req: 192.0.2.66/24 for an hour, but for what is changed.
func answer(req *dhcpv4.DHCPv4, kind dhcpv4.MessageType, change ...dhcpv4.Modifier) []byte {
	change = append([]dhcpv4.Modifier{
		dhcpv4.WithMessageType(kind), yours("192.0.2.66"), option(54, 192, 0, 2, 1), option(1, 255, 255, 255, 0), leaseTime(3600),
	}, change...)
	m, err := dhcpv4.NewReplyFromRequest(req, change...)
	if err != nil {
		panic(err) // crypto/rand has failed
	}
	return m.ToBytes()
}

func yours(addr string) dhcpv4.Modifier { return dhcpv4.WithYourIP(net.ParseIP(addr)) }

// grants is a server that grants what change says.
func grants(change ...dhcpv4.Modifier) func(*dhcpv4.DHCPv4) [][]byte {
	return func(req *dhcpv4.DHCPv4) [][]byte {
		switch req.MessageType() {
		case dhcpv4.MessageTypeDiscover:
			return [][]byte{answer(req, dhcpv4.MessageTypeOffer, change...)}
		case dhcpv4.MessageTypeRequest:
			return [][]byte{answer(req, dhcpv4.MessageTypeAck, change...)}
		}
		return nil
	}
}

// nonsense is a server each of whose answers is a volley of what nobody can use, in another order.
func nonsense() func(*dhcpv4.DHCPv4) [][]byte {
	turn := 0
	return func(req *dhcpv4.DHCPv4) [][]byte {
		offer := func(change ...dhcpv4.Modifier) []byte { return answer(req, dhcpv4.MessageTypeOffer, change...) }
		good := offer()
		options := bytes.TrimRight(bytes.TrimRight(good, "\x00"), "\xff")
		cutOff := append(slices.Clone(options), 6, 200, 1, 2)
		junk := append(slices.Clone(good[:240]), slices.Repeat([]byte{53, 1, 2, 250, 255, 0xde, 0xad}, 170)...)
		volley := [][]byte{
			cutOff,
			offer(yours("127.0.0.1")),
			offer(option(1, 255, 0, 255, 0)),
			offer(dhcpv4.WithoutOption(dhcpv4.OptionServerIdentifier)),
			offer(yours("224.0.0.1")), offer(yours("0.0.0.0")), offer(yours("255.255.255.255")), offer(yours("192.0.2.255")),
			offer(option(1, 0, 0, 0, 0)), offer(option(1, make([]byte, 1000)...)),
			offer(option(54, 0, 0, 0, 0)), offer(option(54, 127, 0, 0, 1)),
			junk, good[:200], good[:239], make([]byte, 1472),
			append(slices.Clone(good), make([]byte, 9000)...), // in parts
		}
		turn++
		at := turn % 4
		return append(slices.Clone(volley[at:]), volley[:at]...)
	}
}

// routesForAll is option 121 with routes for everything: in halves, for the machine itself, for its
// link, and more than a message holds.
func routesForAll() dhcpv4.Modifier {
	var b []byte
	for _, to := range []string{"0.0.0.0/1", "128.0.0.0/1", "0.0.0.0/0", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "192.0.2.0/24", "192.0.2.0/25",
		"192.0.2.66/32", "192.0.2.77/32", "0.0.0.0/2"} {
		p := netip.MustParsePrefix(to)
		b = append(b, byte(p.Bits()))
		b = append(b, p.Addr().AsSlice()[:(p.Bits()+7)/8]...)
		b = append(b, 192, 0, 2, 1)
	}
	for i := range byte(110) {
		b = append(b, 24, 10, 9, i, 192, 0, 2, 1)
	}
	return option(121, b...)
}

// A router in the peer's namespace that says whatever it is told to.
type router struct {
	t    *testing.T
	conn net.PacketConn
	port *net.Interface
}

func (l lan) hostileRouter(t *testing.T) *router {
	t.Helper()
	for !strings.Contains(l.IP("-6", "addr", "show", "dev", testnet.Bridge, "scope", "link", "-tentative"), "fe80::") {
		time.Sleep(10 * time.Millisecond)
	}
	r := &router{t: t}
	err := l.Do(func() (err error) {
		if r.port, err = net.InterfaceByName(testnet.Bridge); err != nil {
			return err
		}
		if r.conn, err = net.ListenPacket("ip6:ipv6-icmp", "::"); err != nil {
			return err
		}
		raw := ipv6.NewPacketConn(r.conn)
		return errors.Join(raw.SetMulticastInterface(r.port), raw.SetMulticastHopLimit(255))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.conn.Close() })
	return r
}

// advertise sends one advertisement; head is its bytes from the hop limit to the retransmission timer.
func (r *router) advertise(head [12]byte, options ...[]byte) {
	b := append([]byte{134, 0, 0, 0}, head[:]...)
	b = append(b, slices.Concat(options...)...)
	to := &net.IPAddr{IP: net.ParseIP("ff02::1"), Zone: fmt.Sprint(r.port.Index)}
	if _, err := r.conn.WriteTo(b, to); err != nil {
		r.t.Fatal(err)
	}
}

// prefix is an option that has each host make itself an address.
func prefix(i uint32) []byte {
	b := []byte{3, 4, 64, 0xc0, 0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10, 0, 0, 0, 0, 0x20, 1, 0x0d, 0xb8}
	b = binary.BigEndian.AppendUint32(b, i)
	return append(b, make([]byte, 8)...)
}

// entries returns what the diary has after the entry with that ID, and the last one's.
func entries(vm *testvm.VM, after uint64) (list []portal.DiaryEntry, last uint64) {
	var d portal.Diary
	vm.JSON(fmt.Sprintf("/api/v1/network/diary?after=%d", after), &d)
	for _, e := range d.Entries {
		after = max(after, e.ID)
	}
	return d.Entries, after
}

// told waits until the diary has, after that entry, all of what is wanted: kinds, or kinds and reasons.
func told(vm *testvm.VM, after uint64, want ...string) {
	vm.Until(fmt.Sprintf("the diary tells of %q", want), func() error {
		list, _ := entries(vm, after)
		for _, w := range want {
			if !slices.ContainsFunc(list, func(e portal.DiaryEntry) bool {
				return w == string(e.Kind) || w == string(e.Kind)+" "+e.Args["reason"]
			}) {
				return fmt.Errorf("not of %s: %+v", w, list)
			}
		}
		return nil
	})
}

// TestHostileServers has one gateway meet them all. After each the page is there, the memory is bounded,
// and the diary has told of it; at the end an honest server is believed.
func TestHostileServers(t *testing.T) {
	l := lan{testnet.Switch(t)}
	l.IP("addr", "add", "192.0.2.1/24", "dev", testnet.Bridge)
	l.IP("addr", "add", "169.254.77.1/16", "dev", testnet.Bridge)
	other := testnet.New(t) // another device, which has the address that is offered
	l.Plug("other", other, "eth0")
	l.IP("link", "set", "other", "master", testnet.Bridge)
	server := l.hostile(t)
	server.is(nonsense())
	vm := onLAN(t, l)
	linkLocal := awaitAddress(t, vm, "eth0", "169.254.")
	at := func(addr netip.Addr) { vm.Reach(netip.AddrPortFrom(addr, 80).String(), l.Dial) }
	at(linkLocal)
	vm.WaitUp()
	if _, ok := leased(vm.Status(), "eth0"); ok {
		t.Fatalf("it has a lease: %+v", vm.Status().Ports)
	}
	var last uint64
	// step has the server be evil, or leave it as it is, and the cable taken out for a moment.
	step := func(name string, evil func(*dhcpv4.DHCPv4) [][]byte, f func(t *testing.T)) {
		t.Run(name, func(t *testing.T) {
			vm.In(t)
			if evil != nil {
				_, last = entries(vm, last)
				unplug(t, vm, 0)
				server.is(evil)
				plug(t, vm, 0)
			}
			f(t)
			for _, s := range vm.Status().Services {
				if s.Name != "network" {
					continue
				}
				t.Logf("%s %s uses %d kB", s.Name, s.State, s.MemoryBytes>>10)
				if s.State != machine.Running || s.Restarts > 0 || s.MemoryBytes > 32<<20 {
					t.Errorf("the service: %+v", s)
				}
			}
		})
	}
	has := func(addr string) func(t *testing.T) {
		return func(t *testing.T) {
			t.Helper()
			at(seenAddress(vm, "eth0", addr))
			vm.Until("it has "+addr, func() error {
				if got, _ := leased(vm.Status(), "eth0"); got.String() != addr {
					return fmt.Errorf("%+v", vm.Status().Ports)
				}
				return nil
			})
			told(vm, last, string(diary.LeaseObtained))
		}
	}
	hasNone := func(t *testing.T) {
		t.Helper()
		at(linkLocal)
		vm.Until("it has its link-local address and no other", func() error {
			s := vm.Status()
			if got := addresses(s.Ports[0], network.LinkLocal); len(got) != 1 || got[0] != linkLocal {
				return fmt.Errorf("%+v", s.Ports[0].Addresses)
			}
			if got, ok := leased(s, "eth0"); ok {
				return fmt.Errorf("it has %v", got)
			}
			return nil
		})
	}

	step("nonsense, damaged and oversized", nil, func(t *testing.T) {
		hasNone(t)
		told(vm, 0, "offer-rejected malformed", "offer-rejected bad-address", "offer-rejected bad-mask", "offer-rejected bad-server")
	})
	step("offers and then refuses, without end", func(req *dhcpv4.DHCPv4) [][]byte {
		if req.MessageType() == dhcpv4.MessageTypeDiscover {
			return [][]byte{answer(req, dhcpv4.MessageTypeOffer)}
		}
		return [][]byte{answer(req, dhcpv4.MessageTypeNak, yours("0.0.0.0"), option(56, []byte("never\n\x1b[2J")...))}
	}, func(t *testing.T) {
		told(vm, last, string(diary.ServerRefused))
		hasNone(t)
		if n := server.saw(dhcpv4.MessageTypeRequest); n == 0 || n > 30 {
			t.Errorf("asked %d times", n)
		}
	})
	step("offers another device's address", nil, func(t *testing.T) {
		_, last = entries(vm, last)
		unplug(t, vm, 0)
		other.IP("addr", "add", "192.0.2.66/24", "dev", "eth0")
		server.is(grants())
		plug(t, vm, 0)
		told(vm, last, string(diary.DuplicateAddress), string(diary.AddressGivenBack))
		hasNone(t)
		if server.saw(dhcpv4.MessageTypeDecline) == 0 {
			t.Error("the server was not told")
		}
		unplug(t, vm, 0)
		other.IP("addr", "flush", "dev", "eth0")
		plug(t, vm, 0)
	})
	step("a lease of no time", grants(yours("192.0.2.70"), leaseTime(0)), func(t *testing.T) {
		has("192.0.2.70")(t)
		asked := server.saw(dhcpv4.MessageTypeRequest)
		vm.Until("it has asked for more", func() error {
			if n := server.saw(dhcpv4.MessageTypeRequest); n == asked {
				return fmt.Errorf("%d times", n)
			}
			return nil
		})
		for _, a := range vm.Status().Ports[0].Addresses {
			if a.Source == network.DHCP && (a.ValidSeconds < 1 || a.ValidSeconds > 20) {
				t.Errorf("%+v", a)
			}
		}
	})
	step("a lease without end", grants(yours("192.0.2.71"), leaseTime(0xffffffff)), func(t *testing.T) {
		has("192.0.2.71")(t)
		for _, a := range vm.Status().Ports[0].Addresses {
			if a.Source == network.DHCP && a.ValidSeconds != 0 {
				t.Errorf("%+v", a)
			}
		}
	})
	step("routes for everything", grants(yours("192.0.2.72"), routesForAll()), func(t *testing.T) {
		has("192.0.2.72")(t)
		list := vm.Shell("ip route show")
		if n := strings.Count(list, "\n"); n < 10 || n > 70 {
			t.Errorf("%d routes:\n%s", n, list)
		}
		for _, no := range []string{"127.0.0.0", "169.254.0.0/16 via", "192.0.2.0/24 via", "192.0.2.0/25", "192.0.2.77", "224.0.0.0"} {
			if strings.Contains(list, no) {
				t.Errorf("a route for %s:\n%s", no, list)
			}
		}
		other.IP("addr", "add", "192.0.2.77/24", "dev", "eth0")
		if out := other.Run("ping", "-c", "1", "-W", "5", "192.0.2.72"); !strings.Contains(out, " 0% packet loss") {
			t.Errorf("from its own link: %s", out)
		}
	})
	step("offers our own link-local address", grants(yours(linkLocal.String()), option(1, 255, 255, 0, 0)), func(t *testing.T) {
		told(vm, last, "offer-rejected bad-address")
		hasNone(t)
	})
	router := l.hostileRouter(t)
	usual := [12]byte{64, 0, 0x07, 0x08}
	step("ten thousand networks", nil, func(t *testing.T) {
		_, last = entries(vm, last)
		for i := range uint32(250) {
			var options [][]byte
			for j := range uint32(40) {
				options = append(options, prefix(40*i+j))
			}
			router.advertise(usual, options...)
			time.Sleep(time.Millisecond) // the switch has a short queue
		}
		told(vm, last, string(diary.PrefixesIgnored))
		vm.Until("the kernel keeps a few addresses and no other network", func() error {
			if n := len(addresses(vm.Status().Ports[0], network.Kernel)); n < 2 || n > 17 {
				return fmt.Errorf("%d addresses", n)
			}
			if n := strings.Count(vm.Shell("ip -6 route show"), "\n"); n > 40 {
				return fmt.Errorf("%d routes", n)
			}
			return nil
		})
	})
	step("silly advertisements", nil, func(t *testing.T) {
		max32 := []byte{0xff, 0xff, 0xff, 0xff}
		for _, hops := range []byte{0, 1, 255} {
			for _, lifetime := range []byte{0, 0xff} {
				for _, mtu := range [][]byte{{0, 0, 0, 0}, {0, 0, 0, 68}, {0, 0, 4, 255}, max32} {
					head := [12]byte{hops, 0, lifetime, lifetime, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
					router.advertise(head, append([]byte{5, 1, 0, 0}, mtu...))
					time.Sleep(20 * time.Millisecond)
				}
			}
		}
		vm.Until("the router is known", func() error {
			router.advertise([12]byte{1, 0, 0xff, 0xff}) // the last word
			if out := vm.Shell("ip -6 route show"); !strings.Contains(out, "::/0 via fe80::") {
				return errors.New(out)
			}
			return nil
		})
		out := vm.Shell("cat /proc/sys/net/ipv6/conf/eth0/mtu /proc/sys/net/ipv6/conf/eth0/hop_limit /sys/class/net/eth0/mtu")
		if got := strings.Fields(out); len(got) != 3 || got[0] != "1500" || len(got[1]) < 2 || got[2] != "1500" {
			t.Errorf("MTU of IPv6, hop limit, MTU: %q", got)
		}
		for _, a := range addresses(vm.Status().Ports[0], network.Kernel) {
			if a.IsLinkLocalUnicast() {
				to := fmt.Sprintf("%v%%%s", a.WithZone(""), testnet.Bridge)
				if out := l.Run("ping", "-c", "1", "-W", "5", to); !strings.Contains(out, " 0% packet loss") {
					t.Errorf("by IPv6: %s", out)
				}
			}
		}
	})
	t.Run("an honest server", func(t *testing.T) {
		vm.In(t)
		unplug(t, vm, 0)
		server.conn.Close()
		l.Dnsmasq(t, testnet.Bridge, "192.0.2.1/24", "--dhcp-range=192.0.2.100,192.0.2.150,1h", "--dhcp-authoritative")
		plug(t, vm, 0)
		addr := seenAddress(vm, "eth0", "192.0.2.1")
		at(addr)
		vm.Until("its address is the only one", func() error {
			s := vm.Status()
			if got, _ := leased(s, "eth0"); got != addr || len(addresses(s.Ports[0], network.LinkLocal)) > 0 {
				return fmt.Errorf("%+v", s.Ports[0].Addresses)
			}
			return nil
		})
	})
}
