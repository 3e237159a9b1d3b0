package ipv6

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/ipv6"

	"cloudlink.local/gateway/internal/testnet"
)

// sender opens a socket at the far end that advertises as a router.
func sender(t *testing.T, p *testnet.Peer, hopLimit int) func(message []byte) {
	t.Helper()
	for !strings.Contains(p.IP("-6", "addr", "show", "dev", "eth0", "scope", "link", "-tentative"), "fe80::") {
		time.Sleep(10 * time.Millisecond)
	}
	var conn net.PacketConn
	err := p.Do(func() (err error) {
		if conn, err = net.ListenPacket("ip6:ipv6-icmp", "::"); err != nil {
			return err
		}
		raw := ipv6.NewPacketConn(conn)
		port, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		return errors.Join(raw.SetMulticastInterface(port), raw.SetMulticastHopLimit(hopLimit))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return func(message []byte) {
		t.Helper()
		if _, err := conn.WriteTo(message, &net.IPAddr{IP: net.ParseIP("ff02::1"), Zone: "eth0"}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTenThousandPrefixes floods the kernel and us with networks. It takes 16 addresses of them, and so
// do we remember no more than we can hold; a DNS server that was there before stays.
func TestTenThousandPrefixes(t *testing.T) {
	peer := testnet.Cable(t, "lan0")
	port, err := net.InterfaceByName("lan0")
	if err != nil {
		t.Fatal(err)
	}
	send := sender(t, peer, 255)
	strange := sender(t, peer, 64)
	d := newDevice(t, port)
	d.run()
	// It listens once its own address is found to be free.
	solicited := time.After(30 * time.Second)
	for len(d.infos) == 0 {
		strange(routerAdvert(0, 1800, rdnss(9000, "2001:db8::66"))) // from another network
		send(routerAdvert(0, 1800, rdnss(9000, "2001:db8::53")))
		select {
		case <-solicited:
			t.Fatal("no advertisement is heard")
		case <-time.After(50 * time.Millisecond):
		}
	}
	if i := <-d.infos; len(i.DNS) != 1 || i.DNS[0].String() != "2001:db8::53" {
		t.Errorf("routers say %+v", i)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range 250 {
		var options [][]byte
		for j := range 40 {
			var a [16]byte
			a[0], a[1] = 0x20, 1
			binary.BigEndian.PutUint32(a[4:], uint32(i*40+j))
			options = append(options, prefixOption(netip.PrefixFrom(netip.AddrFrom16(a), 64), 0xffffffff))
		}
		send(routerAdvert(0, 1800, options...))
	}
	tr := await(d, d.troubles, "that the routers say too much", func(Trouble) bool { return true })
	if !strings.Contains(tr.Text, "too much") {
		t.Errorf("trouble is %+v", tr)
	}
	for deadline := time.Now().Add(30 * time.Second); len(d.infos) == 0; time.Sleep(50 * time.Millisecond) {
		send(routerAdvert(0, 1800, rdnss(0, "2001:db8::53"))) // what comes during a flood may get lost
		if time.Now().After(deadline) {
			t.Fatal("after the flood nothing is heard")
		}
	}
	if i := <-d.infos; len(i.DNS) != 0 {
		t.Errorf("routers say %+v", i)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if after.HeapAlloc > before.HeapAlloc+1<<20 {
		t.Errorf("%d bytes are kept", after.HeapAlloc-before.HeapAlloc)
	}
	found, err := list(port)
	if err != nil {
		t.Fatal(err)
	}
	if len(found) > 17 { // and the link-local one
		t.Errorf("the kernel has %d addresses", len(found))
	}
	routes, err := os.ReadFile("/proc/net/ipv6_route")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the kernel has %d addresses and %d routes", len(found), strings.Count(string(routes), "\n"))
	if len(d.troubles) > 0 {
		t.Errorf("more trouble: %+v", <-d.troubles)
	}
	d.end()
}

// TestOtherPacketsDoNotReachUs sends what a gateway forwards and what any host hears; the sockets get
// nothing of it.
func TestOtherPacketsDoNotReachUs(t *testing.T) {
	peer := testnet.Cable(t, "lan0")
	port, err := net.InterfaceByName("lan0")
	if err != nil {
		t.Fatal(err)
	}
	send := sender(t, peer, 255)
	own, err := linkLocal(port)
	for err != nil { // the kernel looks whether it is free
		time.Sleep(10 * time.Millisecond)
		own, err = linkLocal(port)
	}
	s, err := dial(port, own)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	err = peer.Do(func() error {
		for _, to := range []string{"5004", "547", "546"} {
			conn, err := net.Dial("udp6", fmt.Sprintf("[%v%%eth0]:%s", own, to))
			if err != nil {
				return err
			}
			defer conn.Close()
			for range 100 {
				if _, err := conn.Write([]byte("RTP")); err != nil && to == "546" { // the others are refused
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []byte{128, 129, 133, 136, 143} { // echo, solicitation, neighbour, multicast
		send([]byte{kind, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	}
	send(managed)
	buf := make([]byte, maxMessage)
	n, from, hopLimit, err := s.readAdvert(buf)
	if err != nil || n != len(managed) || buf[0] != 134 || !from.IsLinkLocalUnicast() || hopLimit != 255 {
		t.Errorf("first is %x from %v with hop limit %d, %v", buf[:n], from, hopLimit, err)
	}
	s.dhcp.SetReadDeadline(time.Now().Add(10 * time.Second))
	for range 100 {
		if n, _, err := s.readDHCP(buf); err != nil || string(buf[:n]) != "RTP" {
			t.Fatalf("DHCPv6 is %q, %v", buf[:n], err)
		}
	}
	s.dhcp.SetReadDeadline(time.Now().Add(-time.Second))
	if n, _, err := s.readDHCP(buf); err == nil {
		t.Errorf("and then %q", buf[:n])
	}
}
