// Package lan holds the tests of the built image on a LAN: its ports are taps on switches in network
// namespaces, where the real DHCP servers, routers and clients run.
package lan

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"cloudlink.local/gateway/internal/network"
	"cloudlink.local/gateway/internal/portal"
	"cloudlink.local/gateway/internal/qemu"
	"cloudlink.local/gateway/internal/testnet"
	"cloudlink.local/gateway/internal/testvm"
)

// imageDir tells the test binary inside the namespaces, which lead nowhere, where the image is.
const imageDir = "LAN_TEST_IMAGE"

func TestMain(m *testing.M) {
	if os.Getenv(imageDir) == "" {
		dir, err := testvm.BuildImage("qemu-virt", "gateway")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Setenv(imageDir, dir)
	}
	testnet.Main(m)
}

func image() string { return filepath.Join(os.Getenv(imageDir), "cloudlink.img") }

// A lan is a switch with a peer behind it.
type lan struct{ *testnet.Peer }

// onLAN boots the image with a port on a switch of its own for each lan.
func onLAN(t *testing.T, lans ...lan) *testvm.VM {
	t.Helper()
	var nics []qemu.NIC
	for i, l := range lans {
		nics = append(nics, qemu.NIC{Tap: l.Tap(t, fmt.Sprintf("tap%d", i))})
	}
	return testvm.Boot(t, testvm.Options{Image: image(), NICs: nics})
}

// awaitAddress waits until the console shows an IPv4 address of the port in the subnet.
func awaitAddress(t *testing.T, vm *testvm.VM, port, subnet string) netip.Addr {
	t.Helper()
	m := vm.Expect(`Port\s+` + port + `, connected: (` + regexp.QuoteMeta(subnet) + `[0-9.]+)/`)
	addr, err := netip.ParseAddr(m[1])
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

// leased returns the address that a port leased.
func leased(s portal.Status, port string) (netip.Addr, bool) {
	for _, p := range s.Ports {
		for _, a := range p.Addresses {
			if p.Name == port && a.Source == network.DHCP {
				return a.Prefix.Addr(), true
			}
		}
	}
	return netip.Addr{}, false
}

// asks says whether a TCP connection to the address opens.
func (l lan) asks(addr netip.Addr, port uint16) error {
	ctx, stop := context.WithTimeout(context.Background(), 3*time.Second)
	defer stop()
	conn, err := l.Dial(ctx, "tcp", netip.AddrPortFrom(addr, port).String())
	if err == nil {
		conn.Close()
	}
	return err
}

func TestTwoPorts(t *testing.T) {
	wan, local := lan{testnet.Switch(t)}, lan{testnet.Switch(t)}
	wanServer := wan.Dnsmasq(t, testnet.Bridge, "192.0.2.1/24", "--dhcp-range=192.0.2.100,192.0.2.150,1h", "--dhcp-authoritative")
	local.Dnsmasq(t, testnet.Bridge, "198.51.100.1/24", "--dhcp-range=198.51.100.100,198.51.100.150,1h", "--dhcp-authoritative")
	vm := onLAN(t, wan, local)
	step := func(name string, f func(t *testing.T)) {
		t.Run(name, func(t *testing.T) { vm.In(t); f(t) })
	}
	var onWAN, onLAN netip.Addr
	step("D2: both have a lease, the page is on lan only", func(t *testing.T) {
		onLAN = awaitAddress(t, vm, "eth1", "198.51.100.")
		vm.Reach(netip.AddrPortFrom(onLAN, 80).String(), local.Dial)
		vm.Until("both ports have an address", func() error {
			s := vm.Status()
			var ok bool
			if onWAN, ok = leased(s, "eth0"); !ok {
				return fmt.Errorf("%+v", s.Ports)
			}
			return nil
		})
		s := vm.WaitUp()
		if s.Ports[0].Role != network.WAN || s.Ports[1].Role != network.LAN {
			t.Errorf("roles: %+v", s.Ports)
		}
		if err := wan.asks(onWAN, 80); err == nil {
			t.Error("the page answers on wan")
		}
	})
	step("replies leave by the port they came in on", func(t *testing.T) {
		// A network behind each router, with the same sender's address in both.
		for i, l := range []lan{wan, local} {
			l.IP("addr", "add", "203.0.113.9/32", "dev", "lo")
			to := []netip.Addr{onWAN, onLAN}[i]
			if out := l.Run("ping", "-c", "3", "-W", "5", "-I", "203.0.113.9", to.String()); !strings.Contains(out, " 0% packet loss") {
				t.Errorf("%v: %s", to, out)
			}
		}
	})
	step("kill -9 of the service: addresses and routes stay", func(t *testing.T) {
		before := vm.Shell("ip addr show eth0") + vm.Shell("ip route show")
		for _, s := range vm.Status().Services {
			if s.Name == "network" {
				vm.Shell(fmt.Sprintf("kill -9 %d", s.PID))
			}
		}
		after := vm.Shell("ip addr show eth0") + vm.Shell("ip route show")
		if lines(before) != lines(after) {
			t.Errorf("before:\n%safter:\n%s", before, after)
		}
		vm.WaitUp()
		if addr, _ := leased(vm.Status(), "eth0"); addr != onWAN {
			t.Errorf("it has %v, and had %v", addr, onWAN)
		}
	})
	step("the clock set back five years in the middle of a lease changes nothing", func(t *testing.T) {
		vm.Shell("date 010112002021")
		vm.Until("the address is there still, with its time", func() error {
			for _, p := range vm.Status().Ports {
				for _, a := range p.Addresses {
					if a.Source == network.DHCP && (a.ValidSeconds < 3000 || a.ValidSeconds > 3600) {
						return fmt.Errorf("%+v", a)
					}
				}
			}
			return nil
		})
	})
	step("after a restart the same address, asked for and not sought", func(t *testing.T) {
		seen := len(wanServer.Lines())
		boot := vm.Status().BootID
		vm.ShellEnds("kill -2 1")
		vm.Until("it is another run", func() error {
			if s := vm.Status(); s.BootID == boot {
				return errors.New("still the same")
			}
			return nil
		})
		vm.WaitUp()
		vm.Until("wan has its address", func() error {
			if addr, _ := leased(vm.Status(), "eth0"); addr != onWAN {
				return fmt.Errorf("it has %v, and had %v", addr, onWAN)
			}
			return nil
		})
		log := strings.Join(wanServer.Lines()[seen:], "\n")
		if strings.Contains(log, "DHCPDISCOVER") || !strings.Contains(log, "DHCPREQUEST") {
			t.Errorf("the server saw\n%s", log)
		}
	})
}

// lines leaves out what counts down.
func lines(s string) string {
	return regexp.MustCompile(`(valid_lft|preferred_lft|expires) \S+`).ReplaceAllString(s, "")
}

func TestWithoutAServer(t *testing.T) {
	l := lan{testnet.Switch(t)}
	l.IP("addr", "add", "169.254.77.1/16", "dev", testnet.Bridge)
	vm := onLAN(t, l)
	addr := awaitAddress(t, vm, "eth0", "169.254.")
	vm.Reach(netip.AddrPortFrom(addr, 80).String(), l.Dial)
	s := vm.WaitUp()
	if s.Ports[0].Addresses[0].Source != network.LinkLocal || s.Ports[0].Role != network.Both {
		t.Errorf("port: %+v", s.Ports[0])
	}
}
