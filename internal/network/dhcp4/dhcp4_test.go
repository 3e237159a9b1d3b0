package dhcp4

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/network/arp"
	"cloudlink.local/gateway/internal/testnet"
)

func TestMain(m *testing.M) { testnet.Main(m) }

var mac = net.HardwareAddr{0x52, 0x54, 0, 0x12, 0x34, 0x56}

// A link is the wire in a test's bubble: what the client sends comes out at sent, what is put
// into inbox reaches it.
type link struct {
	net.PacketConn
	inbox  chan []byte
	outbox chan outgoing
	closed chan struct{}
	once   sync.Once
	down   chan struct{}
}

func newLink() *link {
	return &link{
		inbox: make(chan []byte, 16), outbox: make(chan outgoing, 16),
		closed: make(chan struct{}), down: make(chan struct{}),
	}
}

func (l *link) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case p := <-l.inbox:
		return copy(b, p), nil, nil
	case <-l.down:
		return 0, nil, unix.ENETDOWN
	case <-l.closed:
		return 0, nil, net.ErrClosed
	}
}

func (l *link) WriteTo(b []byte, _ net.Addr) (int, error) {
	msg, err := dhcpv4.FromBytes(b[28:]) // after the headers of IPv4 and UDP
	if err != nil {
		return 0, err
	}
	from, _ := netip.AddrFromSlice(b[12:16])
	l.outbox <- outgoing{msg: msg, from: from}
	return len(b), nil
}

func (l *link) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// answer puts a server's message on the wire.
func (l *link) answer(msg *dhcpv4.DHCPv4) {
	wire := &wire{}
	conn := nclient4.NewBroadcastUDPConn(wire, &net.UDPAddr{IP: net.IPv4(10, 0, 2, 2), Port: nclient4.ServerPort})
	conn.WriteTo(msg.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: nclient4.ClientPort})
	l.inbox <- wire.packet
}

type wire struct {
	net.PacketConn
	packet []byte
}

func (w *wire) WriteTo(b []byte, _ net.Addr) (int, error) {
	w.packet = slices.Clone(b)
	return len(b), nil
}

// reply makes the server's message to a request.
func reply(req *dhcpv4.DHCPv4, kind dhcpv4.MessageType, change ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	m := ack(append([]dhcpv4.Modifier{dhcpv4.WithMessageType(kind)}, change...)...)
	m.TransactionID, m.ClientHWAddr = req.TransactionID, req.ClientHWAddr
	return m
}

// A bubble is a client in a test's bubble, where time passes when all wait. On its link all addresses
// are free and no gateway answers, unless the test says otherwise.
type bubble struct {
	*link
	t      *testing.T
	leases chan *Lease
	ended  chan error
	stop   context.CancelFunc
}

// run starts a client, with the address that is remembered, if any, in use already.
func run(t *testing.T, remembered *Lease, change ...func(*session)) *bubble {
	ctx, stop := context.WithCancel(t.Context())
	b := &bubble{link: newLink(), t: t, leases: make(chan *Lease, 16), ended: make(chan error, 1), stop: stop}
	c := &Client{
		Port:       &net.Interface{Index: 1, Name: "lan0", HardwareAddr: mac},
		Hostname:   "cloudlink",
		Vendor:     "cloudlink-gateway",
		Remembered: remembered,
		InUse:      remembered != nil,
		LinkKept:   true,
		Log:        slog.New(slog.DiscardHandler),
		Changed:    func(l *Lease) { b.leases <- l },
	}
	s := &session{
		Client: c, conn: b.link,
		watch: func(ctx context.Context, w *arp.Watch) error {
			w.Report(arp.Free, nil)
			<-ctx.Done()
			return nil
		},
		ask: func(context.Context, netip.Addr, netip.Addr, net.HardwareAddr) (net.HardwareAddr, error) {
			return nil, arp.ErrSilent
		},
	}
	for _, c := range change {
		c(s)
	}
	go func() { b.ended <- s.run(ctx) }()
	return b
}

// end stops the client and sees that it ends without an error.
func (b *bubble) end() {
	b.t.Helper()
	b.stop()
	if err := <-b.ended; err != nil {
		b.t.Errorf("the client ended with %v", err)
	}
}

func (b *bubble) expect(kind dhcpv4.MessageType) *dhcpv4.DHCPv4 {
	b.t.Helper()
	p := <-b.outbox
	if p.msg.MessageType() != kind {
		b.t.Fatalf("the client sent %v, want %v", p.msg.MessageType(), kind)
	}
	return p.msg
}

// expectTwice expects the first message of a link that has just come up.
func (b *bubble) expectTwice(kind dhcpv4.MessageType) *dhcpv4.DHCPv4 {
	b.t.Helper()
	m, start := b.expect(kind), time.Now()
	again := b.expect(kind)
	if got := time.Since(start); again.TransactionID != m.TransactionID || got < repeatPause*7/8 || got > repeatPause*9/8 {
		b.t.Errorf("sent again after %v: %v", got, again)
	}
	return again
}

// lease leads the client to a lease.
func (b *bubble) lease(change ...dhcpv4.Modifier) *Lease {
	b.t.Helper()
	b.answer(reply(b.expect(dhcpv4.MessageTypeDiscover), dhcpv4.MessageTypeOffer, change...))
	b.answer(reply(b.expect(dhcpv4.MessageTypeRequest), dhcpv4.MessageTypeAck, change...))
	return <-b.leases
}

func TestSaysWhoItIsAndWhatItWants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, nil)
		discover := b.expect(dhcpv4.MessageTypeDiscover)
		check := func(m *dhcpv4.DHCPv4) {
			t.Helper()
			if got := m.HostName(); got != "cloudlink" {
				t.Errorf("host name %q", got)
			}
			if got := m.ClassIdentifier(); got != "cloudlink-gateway" {
				t.Errorf("vendor class %q", got)
			}
			if got := m.Options.Get(dhcpv4.OptionClientIdentifier); !slices.Equal(got, append([]byte{1}, mac...)) {
				t.Errorf("client identifier %x", got)
			}
			if got, want := m.Options.Get(dhcpv4.OptionFQDN), "\x05\x00\x00\x09cloudlink"; string(got) != want {
				t.Errorf("FQDN %q, want %q", got, want)
			}
			if got := m.Options.Get(dhcpv4.OptionMaximumDHCPMessageSize); len(got) != 2 {
				t.Errorf("maximum message size %x", got)
			}
			for _, code := range []uint8{1, 3, 6, 12, 15, 26, 42, 51, 54, 58, 59, 60, 61, 81, 119, 121} {
				if !m.IsOptionRequested(dhcpv4.GenericOptionCode(code)) {
					t.Errorf("does not ask for option %d", code)
				}
			}
			if m.IsBroadcast() || m.ClientHWAddr.String() != mac.String() {
				t.Errorf("message is %v", m)
			}
		}
		check(discover)
		b.answer(reply(discover, dhcpv4.MessageTypeOffer))
		request := b.expect(dhcpv4.MessageTypeRequest)
		check(request)
		if request.TransactionID != discover.TransactionID || !request.RequestedIPAddress().Equal(net.IPv4(10, 0, 2, 15)) ||
			!request.ServerIdentifier().Equal(net.IPv4(10, 0, 2, 2)) || !request.ClientIPAddr.Equal(net.IPv4zero) {
			t.Errorf("request is %v", request)
		}
		b.end()
	})
}

func TestAsksForEverWithGrowingPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, nil)
		start, last := time.Now(), time.Now()
		var xid dhcpv4.TransactionID
		for i := range 1000 {
			m := b.expect(dhcpv4.MessageTypeDiscover)
			want := time.Duration(0)
			if i > 0 {
				want = min(time.Second<<min(i-1, 10), maxPause)
			}
			if got := time.Since(last); got < want-want/8 || got > want+want/8 {
				t.Errorf("pause %d is %v, want about %v", i, got, want)
			}
			last = time.Now()
			if i == 0 {
				xid = m.TransactionID
			}
			if m.TransactionID != xid {
				t.Errorf("message %d has another transaction id: a slow server's offer would be lost", i)
			}
			if want := min(time.Since(start)/time.Second, 0xffff); time.Duration(m.NumSeconds) != want {
				t.Errorf("message %d says %d s, want %d", i, m.NumSeconds, want)
			}
		}
		b.answer(reply(&dhcpv4.DHCPv4{TransactionID: xid, ClientHWAddr: mac}, dhcpv4.MessageTypeOffer))
		b.expect(dhcpv4.MessageTypeRequest)
		b.end()
	})
}

func TestAsksAllAgainWhenAServerGoesSilentAfterItsOffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, nil)
		first := b.expect(dhcpv4.MessageTypeDiscover)
		b.answer(reply(first, dhcpv4.MessageTypeOffer))
		for range selectTries {
			b.expect(dhcpv4.MessageTypeRequest)
		}
		if m := b.expect(dhcpv4.MessageTypeDiscover); m.TransactionID == first.TransactionID {
			t.Error("the new exchange has the old transaction id")
		}
		b.end()
	})
}

func TestKeepsALeaseForWeeks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, nil)
		l := b.lease()
		for range 100 { // the test's server is not to be reached by unicast: it answers at T2
			at := l.Rebind
			b.answer(reply(b.expect(dhcpv4.MessageTypeRequest), dhcpv4.MessageTypeAck))
			if !time.Now().Equal(at) {
				t.Errorf("asked at %v, want T2, %v", time.Now(), at)
			}
			next := <-b.leases
			if next == nil || next.Prefix != l.Prefix || !next.Expires.Equal(time.Now().Add(24*time.Hour)) {
				t.Fatalf("lease is %+v", next)
			}
			l = next
		}
		b.end()
	})
}

func TestRebindsFromItsAddressUntilTheLeaseEndsAndThenLetsGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, nil)
		l := b.lease()
		tries := 0
		for p := range b.outbox {
			if p.msg.MessageType() == dhcpv4.MessageTypeDiscover {
				break
			}
			tries++
			if p.from != l.Addr() || !p.msg.ClientIPAddr.Equal(net.IP(l.Addr().AsSlice())) || p.msg.RequestedIPAddress() != nil || p.msg.ServerIdentifier() != nil {
				t.Errorf("from %v: %v", p.from, p.msg)
			}
		}
		if !time.Now().Equal(l.Expires) {
			t.Errorf("let go at %v, want %v", time.Now(), l.Expires)
		}
		if lost := <-b.leases; lost != nil {
			t.Errorf("lease is %+v, want none", lost)
		}
		if tries < 5 || tries > 200 {
			t.Errorf("tried %d times in three hours", tries)
		}
		b.end()
	})
}

func TestALeaseWithoutEndIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, nil)
		b.lease(seconds32(dhcpv4.OptionIPAddressLeaseTime, infinite))
		select {
		case p := <-b.outbox:
			t.Errorf("sent %v", p.msg)
		case <-time.After(50 * 365 * 24 * time.Hour):
		}
		b.end()
	})
}

func TestAShortLeaseDoesNotFloodTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, nil)
		b.lease(seconds32(dhcpv4.OptionIPAddressLeaseTime, 0))
		for n, start := 0, time.Now(); time.Since(start) < time.Hour; n++ {
			b.answer(reply(b.expect(dhcpv4.MessageTypeRequest), dhcpv4.MessageTypeAck, seconds32(dhcpv4.OptionIPAddressLeaseTime, 0)))
			<-b.leases
			if n > int(time.Hour/(minTime/2)) {
				t.Fatalf("%d renewals in %v", n, time.Since(start))
			}
		}
		b.end()
	})
}

func TestNakMakesItStartAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, nil)
		b.lease()
		b.answer(reply(b.expect(dhcpv4.MessageTypeRequest), dhcpv4.MessageTypeNak))
		if l := <-b.leases; l != nil {
			t.Errorf("lease is %+v, want none", l)
		}
		at := time.Now()
		b.lease()
		if time.Since(at) != 0 {
			t.Errorf("waited %v", time.Since(at))
		}
		b.end()
	})
}

func TestAServerThatRefusesForEverIsAskedLessAndLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, nil)
		start := time.Now()
		n := 0
		for ; time.Since(start) < time.Hour; n++ {
			kind := dhcpv4.MessageTypeNak
			nonsense := func(*dhcpv4.DHCPv4) {}
			if n%2 == 1 {
				kind, nonsense = dhcpv4.MessageTypeAck, dhcpv4.WithYourIP(net.IPv4zero)
			}
			b.answer(reply(b.expect(dhcpv4.MessageTypeDiscover), dhcpv4.MessageTypeOffer))
			b.answer(reply(b.expect(dhcpv4.MessageTypeRequest), kind, nonsense))
		}
		if n < 30 || n > 100 {
			t.Errorf("asked %d times in an hour", n)
		}
		b.lease()
		b.end()
	})
}

func TestGoesOnWithTheAddressItRemembers(t *testing.T) {
	remembered := func() *Lease {
		return &Lease{Prefix: netip.MustParsePrefix("10.0.2.15/24"), Expires: time.Now().Add(time.Hour)}
	}
	t.Run("the server agrees", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := run(t, remembered())
			req := b.expect(dhcpv4.MessageTypeRequest)
			if !req.RequestedIPAddress().Equal(net.IPv4(10, 0, 2, 15)) || req.ServerIdentifier() != nil || !req.ClientIPAddr.Equal(net.IPv4zero) {
				t.Errorf("request is %v", req)
			}
			b.answer(reply(req, dhcpv4.MessageTypeAck))
			if l := <-b.leases; l == nil || !l.Server.IsValid() {
				t.Errorf("lease is %+v", l)
			}
			b.end()
		})
	})
	t.Run("the server refuses", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := run(t, remembered())
			b.answer(reply(b.expect(dhcpv4.MessageTypeRequest), dhcpv4.MessageTypeNak))
			if l := <-b.leases; l != nil {
				t.Errorf("lease is %+v, want none", l)
			}
			b.expect(dhcpv4.MessageTypeDiscover)
			b.end()
		})
	})
	t.Run("nobody answers", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := remembered()
			b := run(t, l)
			for range rebootTries {
				b.expect(dhcpv4.MessageTypeRequest)
			}
			if m := b.expect(dhcpv4.MessageTypeDiscover); !m.RequestedIPAddress().Equal(net.IPv4(10, 0, 2, 15)) {
				t.Errorf("asks for %v", m.RequestedIPAddress())
			}
			for range 200 { // more than an hour of them
				b.expect(dhcpv4.MessageTypeDiscover)
				if now := time.Now(); (len(b.leases) > 0) != !now.Before(l.Expires) {
					t.Fatalf("at %v the lease was %d times changed", now, len(b.leases))
				}
			}
			if l := <-b.leases; l != nil {
				t.Errorf("lease is %+v, want none", l)
			}
			b.end()
		})
	})
	t.Run("it has ended meanwhile", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := remembered()
			l.Expires = time.Now()
			b := run(t, l)
			b.expect(dhcpv4.MessageTypeDiscover)
			if l := <-b.leases; l != nil {
				t.Errorf("lease is %+v, want none", l)
			}
			b.end()
		})
	})
}

func TestStrangersMessagesAreIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, nil)
		discover := b.expect(dhcpv4.MessageTypeDiscover)
		for _, change := range []dhcpv4.Modifier{
			func(m *dhcpv4.DHCPv4) { m.TransactionID[0]++ },
			func(m *dhcpv4.DHCPv4) { m.ClientHWAddr = net.HardwareAddr{1, 2, 3, 4, 5, 6} },
			func(m *dhcpv4.DHCPv4) { m.ClientHWAddr = nil },
			func(m *dhcpv4.DHCPv4) { m.OpCode = dhcpv4.OpcodeBootRequest },
			dhcpv4.WithMessageType(dhcpv4.MessageTypeAck),
			dhcpv4.WithMessageType(dhcpv4.MessageTypeNak),
			dhcpv4.WithoutOption(dhcpv4.OptionDHCPMessageType),
		} {
			m := reply(discover, dhcpv4.MessageTypeOffer)
			change(m)
			b.answer(m)
		}
		for _, damaged := range [][]byte{{0x45}, make([]byte, 28), make([]byte, 1500)} {
			b.inbox <- damaged
		}
		b.answer(reply(discover, dhcpv4.MessageTypeOffer))
		request := b.expect(dhcpv4.MessageTypeRequest)
		other := raw(dhcpv4.OptionServerIdentifier, 10, 0, 2, 66)
		b.answer(reply(request, dhcpv4.MessageTypeNak, other))
		b.answer(reply(request, dhcpv4.MessageTypeAck, other))
		b.answer(reply(request, dhcpv4.MessageTypeOffer))
		b.answer(reply(request, dhcpv4.MessageTypeAck))
		if l := <-b.leases; l == nil || l.Server.String() != "10.0.2.2" {
			t.Errorf("lease is %+v", l)
		}
		b.answer(reply(request, dhcpv4.MessageTypeNak)) // nobody asked
		synctest.Wait()
		if len(b.leases) > 0 {
			t.Error("a message that nobody asked for changed the lease")
		}
		b.end()
	})
}

func TestEndsWithAnErrorWhenThePortGoesDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, nil)
		b.lease()
		close(b.down)
		if err := <-b.ended; !errors.Is(err, unix.ENETDOWN) {
			t.Errorf("ended with %v", err)
		}
		b.stop()
	})
}

// TestTheKernelHandsOnNothingButOurServersAnswers counts what gets through the filter.
func TestTheKernelHandsOnNothingButOurServersAnswers(t *testing.T) {
	peer := testnet.Cable(t, "lan0")
	ifi, err := net.InterfaceByName("lan0")
	if err != nil {
		t.Fatal(err)
	}
	filter, err := assemble(ifi.HardwareAddr)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := packet.Listen(ifi, packet.Datagram, unix.ETH_P_IP, &packet.Config{Filter: filter})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()

	ours := reply(&dhcpv4.DHCPv4{ClientHWAddr: ifi.HardwareAddr}, dhcpv4.MessageTypeOffer)
	others := reply(&dhcpv4.DHCPv4{ClientHWAddr: mac}, dhcpv4.MessageTypeOffer)
	request := reply(&dhcpv4.DHCPv4{ClientHWAddr: ifi.HardwareAddr}, dhcpv4.MessageTypeOffer)
	request.OpCode = dhcpv4.OpcodeBootRequest
	err = peer.Do(func() error {
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		raw, err := packet.Listen(eth0, packet.Datagram, unix.ETH_P_IP, nil)
		if err != nil {
			return err
		}
		defer raw.Close()
		send := func(from, to int, b []byte) error {
			conn := nclient4.NewBroadcastUDPConn(raw, &net.UDPAddr{IP: net.IPv4(10, 0, 2, 2), Port: from})
			_, err := conn.WriteTo(b, &net.UDPAddr{IP: net.IPv4bcast, Port: to})
			return err
		}
		for i := range 1000 { // calls' packets, say
			if err := send(10000+i, 20000+i, make([]byte, 172)); err != nil {
				return err
			}
		}
		first := wireOf(ours)
		first[6] = 0x20 // more parts follow
		later := wireOf(ours)
		later[7] = 8
		for _, err := range []error{
			send(67, 68, others.ToBytes()),
			send(68, 67, request.ToBytes()),
			send(67, 68, request.ToBytes()),
			send(67, 69, ours.ToBytes()),
			send(67, 68, nil),
			second(raw.WriteTo(first, &packet.Addr{HardwareAddr: nclient4.BroadcastMac})),
			second(raw.WriteTo(later, &packet.Addr{HardwareAddr: nclient4.BroadcastMac})),
			second(raw.WriteTo(wireOf(ours), &packet.Addr{HardwareAddr: mac})), // not to us
			send(67, 68, ours.ToBytes()),
		} {
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 2000)
	n, _, err := conn.ReadFrom(buf)
	if err != nil {
		t.Fatal(err)
	}
	if msg, err := dhcpv4.FromBytes(buf[28:n]); err != nil || msg.MessageType() != dhcpv4.MessageTypeOffer {
		t.Errorf("read %v, %v", msg, err)
	}
	stats, err := conn.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if stats.Packets != 1 {
		t.Errorf("%d packets came through, want the one answer", stats.Packets)
	}
}

func wireOf(msg *dhcpv4.DHCPv4) []byte {
	w := &wire{}
	conn := nclient4.NewBroadcastUDPConn(w, &net.UDPAddr{IP: net.IPv4(10, 0, 2, 2), Port: nclient4.ServerPort})
	conn.WriteTo(msg.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: nclient4.ClientPort})
	return w.packet
}

func second(_ int, err error) error { return err }

// TestRenewsFromItsAddressByUnicast has a server that sees where requests come from, and which
// then falls silent: the lease ends.
func TestRenewsFromItsAddressByUnicast(t *testing.T) {
	peer := testnet.Cable(t, "lan0")
	peer.IP("addr", "add", "10.0.2.2/24", "dev", "eth0")
	home := testnet.Home(t)
	ifi, err := net.InterfaceByName("lan0")
	if err != nil {
		t.Fatal(err)
	}
	var server net.PacketConn
	err = peer.Do(func() (err error) { server, err = net.ListenPacket("udp4", "10.0.2.2:67"); return err })
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	var all *packet.Conn
	err = peer.Do(func() error {
		eth0, err := net.InterfaceByName("eth0")
		if err == nil {
			all, err = packet.Listen(eth0, packet.Datagram, unix.ETH_P_IP, nil)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer all.Close()

	ctx, stop := context.WithCancel(t.Context())
	leases := make(chan *Lease, 1)
	ended := make(chan error, 1)
	c := &Client{
		Port: ifi, Hostname: "cloudlink", Vendor: "test", Log: slog.New(slog.DiscardHandler),
		Changed: func(l *Lease) { leases <- l },
	}
	go func() { ended <- c.Run(ctx) }()

	from := nclient4.NewBroadcastUDPConn(all, &net.UDPAddr{Port: nclient4.ServerPort})
	to := nclient4.NewBroadcastUDPConn(all, &net.UDPAddr{IP: net.IPv4(10, 0, 2, 2), Port: nclient4.ServerPort})
	hear := func(kind dhcpv4.MessageType) (*dhcpv4.DHCPv4, string) {
		t.Helper()
		buf := make([]byte, 2000)
		for {
			all.SetReadDeadline(time.Now().Add(30 * time.Second))
			n, src, err := from.ReadFrom(buf)
			if err != nil {
				t.Fatal(err)
			}
			if m, err := dhcpv4.FromBytes(buf[:n]); err == nil && m.OpCode == dhcpv4.OpcodeBootRequest {
				if m.MessageType() != kind {
					t.Fatalf("heard %v, want %v", m.MessageType(), kind)
				}
				return m, fmt.Sprint(src)
			}
		}
	}
	answer := func(m *dhcpv4.DHCPv4, kind dhcpv4.MessageType) {
		t.Helper()
		m = reply(m, kind, seconds32(dhcpv4.OptionIPAddressLeaseTime, 0)) // 20 s: T1 after 10, T2 after 17.5
		if _, err := to.WriteTo(m.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: nclient4.ClientPort}); err != nil {
			t.Fatal(err)
		}
	}
	m, _ := hear(dhcpv4.MessageTypeDiscover)
	answer(m, dhcpv4.MessageTypeOffer)
	m, _ = hear(dhcpv4.MessageTypeRequest)
	answer(m, dhcpv4.MessageTypeAck)
	l := <-leases
	home.IP("addr", "add", l.Prefix.String(), "dev", "lan0")

	buf := make([]byte, 2000)
	server.SetReadDeadline(time.Now().Add(30 * time.Second))
	n, src, err := server.ReadFrom(buf) // bound to its address, it gets no broadcasts
	if err != nil {
		t.Fatal(err)
	}
	if m, err := dhcpv4.FromBytes(buf[:n]); err != nil || m.MessageType() != dhcpv4.MessageTypeRequest || src.String() != "10.0.2.15:68" {
		t.Fatalf("server got %v from %v, %v", m, src, err)
	}
	m, from68 := hear(dhcpv4.MessageTypeRequest)
	if from68 != "10.0.2.15:68" || !m.ClientIPAddr.Equal(net.IPv4(10, 0, 2, 15)) {
		t.Errorf("renewal from %v: %v", from68, m)
	}
	answer(m, dhcpv4.MessageTypeAck)
	if l := <-leases; l == nil || l.Addr().String() != "10.0.2.15" {
		t.Errorf("lease is %+v", l)
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("ended with %v", err)
	}
}
