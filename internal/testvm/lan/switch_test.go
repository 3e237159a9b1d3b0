package lan

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/diary"
	"cloudlink.local/gateway/internal/portal"
	"cloudlink.local/gateway/internal/testnet"
)

// senders pings an address and returns the MAC addresses that the answers, and those to the question who
// has it, come from.
func (l lan) senders(t *testing.T, to netip.Addr) (macs []string) {
	t.Helper()
	var conn *packet.Conn
	err := l.Do(func() error {
		port, err := net.InterfaceByName(testnet.Bridge)
		if err == nil {
			conn, err = packet.Listen(port, packet.Raw, unix.ETH_P_ALL, nil)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	l.IP("neigh", "flush", "dev", testnet.Bridge)
	if out := l.Run("ping", "-c", "3", "-i", "0.2", "-W", "5", to.String()); !strings.Contains(out, " 0% packet loss") {
		t.Errorf("%v: %s", to, out)
	}
	conn.SetReadDeadline(time.Now().Add(10 * time.Second)) // they are here already
	buf := make([]byte, 2000)
	for pings := 0; pings < 3; {
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			t.Fatalf("%v: %d answers were seen: %v", to, pings, err)
		}
		var sender netip.Addr
		switch b := buf[:n]; {
		case n >= 34 && b[12] == 0x08 && b[13] == 0x00 && b[23] == unix.IPPROTO_ICMP:
			if sender = netip.AddrFrom4([4]byte(b[26:])); sender == to {
				pings++
			}
		case n >= 42 && b[12] == 0x08 && b[13] == 0x06:
			sender = netip.AddrFrom4([4]byte(b[28:]))
		}
		if mac := net.HardwareAddr(buf[6:12]).String(); sender == to && !slices.Contains(macs, mac) {
			macs = append(macs, mac)
		}
	}
	return macs
}

// TestBothPortsInOneSwitch is what happens when somebody just plugs everything in.
func TestBothPortsInOneSwitch(t *testing.T) {
	l := lan{testnet.Switch(t)}
	dnsmasq := l.Dnsmasq(t, testnet.Bridge, "192.0.2.1/24", "--dhcp-range=192.0.2.100,192.0.2.150,1h", "--dhcp-authoritative",
		"--dhcp-option=option:T1,5", "--dhcp-option=option:T2,3000")
	vm := boot(t, []*os.File{l.Tap(t, "tap0"), l.Tap(t, "tap1")}...)
	onLAN := awaitAddress(t, vm, "eth1", "192.0.2.")
	vm.Reach(netip.AddrPortFrom(onLAN, 80).String(), l.Dial)
	vm.WaitUp()
	step := func(name string, f func(t *testing.T)) {
		t.Run(name, func(t *testing.T) { vm.In(t); f(t) })
	}
	var onWAN netip.Addr
	step("both have an address, and each answers for its own", func(t *testing.T) {
		vm.Until("wan has an address", func() (err error) {
			var ok bool
			if onWAN, ok = leased(vm.Status(), "eth0"); !ok {
				err = fmt.Errorf("%+v", vm.Status().Ports)
			}
			return err
		})
		if onWAN == onLAN {
			t.Fatalf("both have %v", onLAN)
		}
		for i, addr := range []netip.Addr{onWAN, onLAN} {
			want := fmt.Sprintf("52:54:00:c1:0d:%02x", i)
			if got := l.senders(t, addr); !slices.Equal(got, []string{want}) {
				t.Errorf("for %v answers %v, want %s", addr, got, want)
			}
		}
		if err := l.asks(onWAN, 80); err == nil {
			t.Error("the page answers at the address of wan")
		}
	})
	step("after a few renewals all is as it was", func(t *testing.T) {
		vm.Until("both have renewed", func() error {
			log := strings.Join(dnsmasq.Lines(), "\n")
			for _, a := range []netip.Addr{onWAN, onLAN} {
				if n := strings.Count(log, "DHCPACK(br0) "+a.String()); n < 3 {
					return fmt.Errorf("%v: %d times", a, n)
				}
			}
			return nil
		})
		list, _ := entries(vm, 0)
		kinds := map[diary.Kind]int{}
		for _, e := range list {
			kinds[e.Kind]++
		}
		if kinds[diary.LeaseObtained] != 2 || kinds[diary.CablePlugged] != 2 || kinds[diary.DuplicateAddress]+kinds[diary.LeaseLost]+
			kinds[diary.LinkLocalUsed]+kinds[diary.LeaseChanged]+kinds[diary.AddressGivenBack] > 0 {
			t.Errorf("the diary: %+v", list)
		}
		s := vm.Status()
		for port, want := range map[string]netip.Addr{"eth0": onWAN, "eth1": onLAN} {
			if got, _ := leased(s, port); got != want {
				t.Errorf("%s has %v, had %v", port, got, want)
			}
		}
	})
	step("a server that offers one port the other's address", func(t *testing.T) {
		_, last := entries(vm, 0)
		unplug(t, vm, 0)
		dnsmasq.Stop()
		l.hostile(t).is(func(req *dhcpv4.DHCPv4) [][]byte {
			switch {
			case req.ClientHWAddr[5] != 0: // the other port keeps what it has
			case req.MessageType() == dhcpv4.MessageTypeRequest:
				return [][]byte{answer(req, dhcpv4.MessageTypeNak)}
			case req.MessageType() == dhcpv4.MessageTypeDiscover:
				return [][]byte{answer(req, dhcpv4.MessageTypeOffer, yours(onLAN.String()))}
			}
			return nil
		})
		plug(t, vm, 0)
		told(vm, last, string(diary.ServerRefused), "offer-rejected own-network")
		vm.Until("wan has no address, and lan has its own", func() error {
			s := vm.Status()
			if got, ok := leased(s, "eth0"); ok {
				return fmt.Errorf("wan has %v", got)
			}
			if got, _ := leased(s, "eth1"); got != onLAN {
				return fmt.Errorf("lan has %v", got)
			}
			return nil
		})
		list, _ := entries(vm, last)
		if slices.ContainsFunc(list, func(e portal.DiaryEntry) bool { return e.Kind == diary.DuplicateAddress }) {
			t.Errorf("the diary: %+v", list)
		}
	})
}
