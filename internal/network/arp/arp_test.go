package arp

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/testnet"
)

func TestMain(m *testing.M) { testnet.Main(m) }

// port waits until a port has a link: the kernel drops what is sent before.
func port(t *testing.T, name string) *net.Interface {
	t.Helper()
	for {
		p, err := net.InterfaceByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if p.Flags&net.FlagRunning != 0 {
			return p
		}
		time.Sleep(time.Millisecond)
	}
}

// A found is an event with the device that caused it.
type found struct {
	Event
	mac string
}

// watch starts a Watch for a in the test's namespace.
func watch(t *testing.T, a netip.Addr, timing Timing) (events chan found, ended chan error) {
	ctx, stop := context.WithCancel(t.Context())
	t.Cleanup(stop)
	events, ended = make(chan found, 16), make(chan error, 1)
	w := &Watch{Port: port(t, "lan0"), Addr: a, Timing: timing, Report: func(e Event, mac net.HardwareAddr) {
		events <- found{e, mac.String()}
	}}
	go func() { ended <- w.Run(ctx) }()
	return events, ended
}

// far opens a socket for all ARP packets at the far end, and its MAC address.
func far(t *testing.T, peer *testnet.Peer) (conn *packet.Conn, mac net.HardwareAddr) {
	t.Helper()
	err := peer.Do(func() error {
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		mac = eth0.HardwareAddr
		conn, err = packet.Listen(eth0, packet.Datagram, unix.ETH_P_ARP, nil)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn, mac
}

func hear(t *testing.T, conn *packet.Conn) message {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	buf := make([]byte, 64)
	for {
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		if m, ok := parse(buf[:n]); ok && m.target == addr {
			return m
		}
	}
}

func TestFindsTheDeviceThatHasTheAddress(t *testing.T) {
	peer := testnet.Cable(t, "lan0")
	peer.IP("addr", "add", "192.0.2.10/24", "dev", "eth0")
	_, mac := far(t, peer)
	events, ended := watch(t, addr, Quick)
	if e := <-events; e != (found{Taken, mac.String()}) {
		t.Errorf("event is %v, want it taken by %v", e, mac)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestLooksAnnouncesAndDefends(t *testing.T) {
	peer := testnet.Cable(t, "lan0")
	conn, mac := far(t, peer)
	events, ended := watch(t, addr, Quick)
	for range 3 {
		if m := hear(t, conn); !m.sender.IsUnspecified() {
			t.Errorf("sent %+v, want a probe", m)
		}
	}
	if e := <-events; e.Event != Free {
		t.Fatalf("event is %v", e)
	}
	if m := hear(t, conn); m.sender != addr || m.senderMAC != hardware(port(t, "lan0").HardwareAddr) {
		t.Errorf("sent %+v, want an announcement", m)
	}
	for _, later := range []string{probe, announce, probe} {
		if m := hear(t, conn); name(&m) != later {
			t.Errorf("sent %+v, want a %s", m, later)
		}
	}
	// One second after the last packet the claim is settled; until then a conflict says "taken".
	stolen := message{op: request, senderMAC: hardware(mac), sender: addr, target: addr}
	time.Sleep(afterwards + afterwards/2)
	for _, want := range []Event{Defended, Lost} {
		if _, err := conn.WriteTo(stolen.bytes(), &packet.Addr{HardwareAddr: everybody}); err != nil {
			t.Fatal(err)
		}
		if e := <-events; e != (found{want, mac.String()}) {
			t.Errorf("event is %v, want %s", e, want)
		}
	}
	if m := hear(t, conn); m.sender != addr {
		t.Errorf("sent %+v, want an announcement", m)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestTheKernelHandsOnNothingButWhatIsAboutTheAddress counts what gets through the filter.
func TestTheKernelHandsOnNothingButWhatIsAboutTheAddress(t *testing.T) {
	peer := testnet.Cable(t, "lan0")
	near, err := listen(port(t, "lan0"), addr)
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	conn, mac := far(t, peer)
	send := func(b []byte, to net.HardwareAddr) {
		t.Helper()
		if _, err := conn.WriteTo(b, &packet.Addr{HardwareAddr: to}); err != nil {
			t.Fatal(err)
		}
	}
	elsewhere := netip.MustParseAddr("192.0.2.99")
	for range 1000 {
		send((&message{op: request, senderMAC: hardware(mac), sender: elsewhere, target: addr}).bytes(), everybody)
	}
	good := message{op: reply, senderMAC: hardware(mac), sender: addr, target: addr}
	send(good.bytes(), ours[:]) // to another device
	send(good.bytes()[:20], everybody)
	send(nil, everybody)
	ipv6 := good.bytes()
	ipv6[2] = 0x86
	send(ipv6, everybody)
	echo := good
	echo.senderMAC = hardware(port(t, "lan0").HardwareAddr)
	send(echo.bytes(), everybody)
	want := []message{good, {op: request, senderMAC: hardware(mac), sender: netip.IPv4Unspecified(), target: addr}}
	for _, m := range want {
		send(m.bytes(), everybody)
	}
	buf := make([]byte, 64)
	for _, m := range want {
		n, _, err := near.ReadFrom(buf)
		if got, ok := parse(buf[:n]); err != nil || !ok || got != m {
			t.Errorf("read %+v, %v, want %+v", got, err, m)
		}
	}
	stats, err := near.(*packet.Conn).Stats()
	if err != nil || stats.Packets != 2 {
		t.Errorf("%+v, %v, want 2 packets", stats, err)
	}
}

func TestOurOwnOtherPortIsNoConflict(t *testing.T) {
	peer := testnet.Switch(t)
	home := testnet.Home(t)
	home.Plug("lan0", peer, "far0")
	home.Plug("lan1", peer, "far1")
	peer.IP("link", "set", "far0", "master", testnet.Bridge)
	peer.IP("link", "set", "far1", "master", testnet.Bridge)
	home.IP("addr", "add", "192.0.2.10/24", "dev", "lan1") // its kernel answers, by default on both
	events, _ := watch(t, addr, Quick)
	if e := <-events; e.Event != Free {
		t.Errorf("event is %v", e)
	}
}

func TestAsksWhoHasAnAddress(t *testing.T) {
	peer := testnet.Cable(t, "lan0")
	_, mac := far(t, peer)
	peer.IP("addr", "add", "192.0.2.1/24", "dev", "eth0")
	gateway := netip.MustParseAddr("192.0.2.1")
	got, err := Ask(t.Context(), port(t, "lan0"), addr, gateway, nil)
	if err != nil || got.String() != mac.String() {
		t.Errorf("asked everybody: %v, %v, want %v", got, err, mac)
	}
	got, err = Ask(t.Context(), port(t, "lan0"), addr, gateway, mac)
	if err != nil || got.String() != mac.String() {
		t.Errorf("asked it alone: %v, %v, want %v", got, err, mac)
	}
	if _, err := Ask(t.Context(), port(t, "lan0"), addr, gateway, ours[:]); !errors.Is(err, ErrSilent) {
		t.Errorf("asked somebody who is not there: %v", err)
	}
}

func TestEndsWithAnErrorWhenThePortGoesDown(t *testing.T) {
	testnet.Cable(t, "lan0")
	events, ended := watch(t, addr, Held)
	if e := <-events; e.Event != Free {
		t.Fatalf("event is %v", e)
	}
	testnet.Home(t).IP("link", "set", "lan0", "down")
	if err := <-ended; !errors.Is(err, unix.ENETDOWN) {
		t.Errorf("ended with %v", err)
	}
}
