package lan

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cloudlink.local/gateway/internal/condition"
	"cloudlink.local/gateway/internal/diary"
	"cloudlink.local/gateway/internal/mdns"
	"cloudlink.local/gateway/internal/mdns/mdnstest"
	"cloudlink.local/gateway/internal/network"
	"cloudlink.local/gateway/internal/portal"
	"cloudlink.local/gateway/internal/qemu"
	"cloudlink.local/gateway/internal/settings"
	"cloudlink.local/gateway/internal/testnet"
	"cloudlink.local/gateway/internal/testvm"
)

// computer makes a computer on the lan with a program of multicast DNS.
func (l lan) computer(t *testing.T, name, addr string, kind mdnstest.Kind) *mdnstest.Host {
	t.Helper()
	p := testnet.New(t)
	l.Plug(name, p, "eth0")
	l.IP("link", "set", name, "master", testnet.Bridge)
	p.IP("addr", "add", addr, "dev", "eth0")
	p.IP("route", "add", "default", "via", "192.0.2.1")
	h := mdnstest.New(t, p, kind, mdnstest.Names{Host: name}, mdnstest.Options{Bus: kind != mdnstest.Ours})
	if kind != mdnstest.Ours { // that one only lends its network to other programs
		h.Start()
	}
	return h
}

// says waits until a program prints all of the words.
func says(t *testing.T, h *mdnstest.Host, words []string, program ...string) {
	t.Helper()
	var out string
	mdnstest.Eventually(t, time.Minute, fmt.Sprintf("%q says %q", program, words), func() bool {
		out, _ = h.Command(15*time.Second, program[0], program[1:]...)
		for _, w := range words {
			if !strings.Contains(out, w) {
				return false
			}
		}
		return true
	})
}

// names returns how a gateway's names are doing on its first port.
func names(vm *testvm.VM) map[string]network.Name {
	var answer portal.NamesState
	vm.JSON("/api/v1/names", &answer)
	all := map[string]network.Name{}
	for _, p := range answer.Names.Ports {
		for _, n := range p.Names {
			all[n.Name] = n
		}
	}
	return all
}

// awaitName waits until a name is in a state.
func awaitName(vm *testvm.VM, name string, state mdns.State) (n network.Name) {
	vm.Until(name+" is "+string(state), func() error {
		all := names(vm)
		if n = all[name]; n.State != state {
			return fmt.Errorf("%+v", all)
		}
		return nil
	})
	return n
}

// The built image is found by the programs that people have: M20-M26.
func TestM20CloudlinkLocal(t *testing.T) {
	l := lan{testnet.Switch(t)}
	l.Dnsmasq(t, testnet.Bridge, "192.0.2.1/24", "--dhcp-range=192.0.2.100,192.0.2.150,1h", "--dhcp-authoritative")
	boot := func(i int) (*testvm.VM, netip.Addr) {
		nic := qemu.NIC{Tap: l.Tap(t, fmt.Sprintf("tap%d", i)), MAC: fmt.Sprintf("52:54:00:c1:0e:0%d", i)}
		vm := testvm.Boot(t, testvm.Options{Image: image(), NICs: []qemu.NIC{nic}})
		addr := awaitAddress(t, vm, "eth0", "192.0.2.")
		vm.Reach(netip.AddrPortFrom(addr, 80).String(), l.Dial)
		return vm, addr
	}
	first, firstAddr := boot(1)
	const short, unique1, unique2 = "cloudlink.local", "cloudlink-525400c10e01.local", "cloudlink-525400c10e02.local"
	step := func(name string, f func(t *testing.T)) {
		t.Run(name, func(t *testing.T) { first.In(t); f(t) })
	}
	avahi := l.computer(t, "avahi", "192.0.2.21/24", mdnstest.Avahi)
	plain := l.computer(t, "plain", "192.0.2.22/24", mdnstest.Ours)
	resolved := l.computer(t, "resolved", "192.0.2.23/24", mdnstest.Resolved)
	instance := "CloudLink Gateway (0E01)"
	step("avahi resolves both names, both ways", func(t *testing.T) {
		says(t, avahi, []string{short + "\t" + firstAddr.String()}, "avahi-resolve", "-4", "-n", short)
		says(t, avahi, []string{unique1 + "\t" + firstAddr.String()}, "avahi-resolve", "-4", "-n", unique1)
		says(t, avahi, []string{short + "\tfe80::"}, "avahi-resolve", "-6", "-n", short)
		says(t, avahi, []string{firstAddr.String() + "\t" + unique1}, "avahi-resolve", "-a", firstAddr.String())
	})
	step("avahi, mdns-scan and python3-zeroconf find the service", func(t *testing.T) {
		says(t, avahi, []string{instance, "hostname = [" + unique1 + "]", "address = [" + firstAddr.String() + "]", "port = [80]", `"path=/"`, "version="},
			"avahi-browse", "-rt", "_http._tcp")
		says(t, plain, []string{"+ " + instance + "._http._tcp.local"}, "timeout", "4", "stdbuf", "-oL", "mdns-scan")
		says(t, plain, []string{instance + "._http._tcp.local. " + unique1 + ". ['" + firstAddr.String() + "'"}, "/usr/bin/python3", "-c", zeroconf)
	})
	step("systemd-resolved resolves it", func(t *testing.T) {
		says(t, resolved, []string{short + ": " + firstAddr.String(), "mDNS/IPv4"}, append(resolved.Resolvectl(), "query", "-4", short)...)
	})
	step("M20: the page opens under its name", func(t *testing.T) {
		says(t, avahi, []string{"CloudLink Gateway"}, "curl", "-s", "-H", "Host: "+short, "http://"+firstAddr.String()+"/")
		says(t, avahi, []string{"CloudLink Gateway"}, "curl", "-s", "-H", "Host: "+unique1, "http://"+firstAddr.String()+"/")
	})

	var second *testvm.VM
	var secondAddr netip.Addr
	step("a second gateway: both can be reached, and it says who has the name", func(t *testing.T) {
		second, secondAddr = boot(2)
		second.In(t)
		lost := awaitName(second, short, mdns.Lost)
		if lost.Rival == nil || lost.Rival.MAC != "52:54:00:c1:0e:01" || !lost.Rival.Address.Is6() && lost.Rival.Address != firstAddr {
			t.Errorf("its rival is %+v", lost.Rival)
		}
		awaitName(second, unique2, mdns.Announced)
		second.Until("the owner is told", func() error {
			if s := second.Status(); !testvm.HasCondition(s, condition.NameTaken) {
				return fmt.Errorf("%+v", s.Conditions)
			}
			return nil
		})
		second.Until("it is in the diary", func() error {
			var list portal.Diary
			second.JSON("/api/v1/network/diary", &list)
			for _, e := range list.Entries {
				if e.Kind == diary.NameLost {
					return nil
				}
			}
			return fmt.Errorf("%+v", list)
		})
		says(t, avahi, []string{unique2 + "\t" + secondAddr.String()}, "avahi-resolve", "-4", "-n", unique2)
		says(t, avahi, []string{short + "\t" + firstAddr.String()}, "avahi-resolve", "-4", "-n", short)
		if n := names(first)[short]; n.State != mdns.Announced {
			t.Errorf("the first one: %+v", n)
		}
	})
	step("a flood of questions from one host leaves those of another answered", func(t *testing.T) {
		flood, asker := listenIn(t, plain, "192.0.2.22:5353"), listenIn(t, resolved, "192.0.2.23:0")
		group := netip.MustParseAddrPort("224.0.0.251:5353")
		ctx, stop := context.WithCancel(t.Context())
		var flooding sync.WaitGroup
		defer flooding.Wait()
		defer stop()
		flooding.Go(func() {
			const each = 15 // three thousand a second: this machine is emulated; ten are package conformance's
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for range 12_000 {
				for range each {
					flood.WriteToUDPAddrPort(question("nobody"), group)
				}
				select {
				case <-tick.C:
				case <-ctx.Done():
					return
				}
			}
		})
		const asks = 10
		answered := 0
		buf := make([]byte, 9000)
		for range asks {
			if _, err := asker.WriteToUDPAddrPort(question("cloudlink"), group); err != nil {
				t.Fatal(err)
			}
			asker.SetReadDeadline(time.Now().Add(3 * time.Second))
			if _, from, err := asker.ReadFromUDPAddrPort(buf); err == nil && from.Addr().Unmap() == firstAddr {
				answered++
			}
		}
		if answered < asks/2 {
			t.Errorf("%d of %d questions were answered", answered, asks)
		}
	})
	step("another name at once", func(t *testing.T) {
		if status, answer, err := l.send("PUT", firstAddr, "/api/v1/names", settings.Names{Host: "office"}); err != nil || status != http.StatusOK {
			t.Fatalf("%d %s %v", status, answer, err)
		}
		awaitName(first, "office.local", mdns.Announced)
		says(t, avahi, []string{"office.local\t" + firstAddr.String()}, "avahi-resolve", "-4", "-n", "office.local")
	})
	step("the second takes the name when it is free", func(t *testing.T) {
		second.In(t)
		awaitName(second, short, mdns.Announced)
		says(t, avahi, []string{short + "\t" + secondAddr.String()}, "avahi-resolve", "-4", "-n", short)
	})
	step("while a change is on probation it is found under both addresses", func(t *testing.T) {
		n := settings.Default().Network
		n.WAN.IPv4 = settings.IPv4{Method: settings.Static, Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.77/24")}}
		if status, answer, err := l.send("PUT", firstAddr, "/api/v1/network", n); err != nil || status != http.StatusOK {
			t.Fatalf("%d %s %v", status, answer, err)
		}
		says(t, plain, []string{"192.0.2.77", firstAddr.String()}, "/usr/bin/python3", "-c", zeroconf)
	})
	step("a goodbye when it is switched off", func(t *testing.T) {
		first.PowerButton()
		first.WaitOff()
		mdnstest.Eventually(t, time.Minute, "avahi has forgotten it", func() bool {
			out, _ := avahi.Command(15*time.Second, "avahi-browse", "-t", "_http._tcp")
			return !strings.Contains(out, instance) && strings.Contains(out, "CloudLink Gateway (0E02)")
		})
	})
}

// question is a question for the address of NAME.local, as any program may ask it.
func question(name string) []byte {
	b := []byte{0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, byte(len(name))}
	return append(append(b, name...), "\x05local\x00\x00\x01\x00\x01"...)
}

// listenIn opens a socket of a computer.
func listenIn(t *testing.T, h *mdnstest.Host, addr string) *net.UDPConn {
	t.Helper()
	var conn *net.UDPConn
	err := h.Do(func() (err error) {
		control := func(_, _ string, raw syscall.RawConn) error {
			return raw.Control(func(fd uintptr) { syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1) })
		}
		c, err := (&net.ListenConfig{Control: control}).ListenPacket(t.Context(), "udp4", addr)
		if err == nil {
			conn = c.(*net.UDPConn)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

const zeroconf = `
import time
from zeroconf import Zeroconf, ServiceBrowser, ServiceListener
class Listener(ServiceListener):
    def add_service(self, zc, kind, name):
        info = zc.get_service_info(kind, name, 5000)
        print(name, info.server, info.parsed_addresses(), info.port, info.properties, flush=True)
    def update_service(self, *args): pass
    def remove_service(self, *args): pass
zc = Zeroconf(interfaces=["192.0.2.22"])
ServiceBrowser(zc, "_http._tcp.local.", Listener())
time.sleep(5)
zc.close()
`
