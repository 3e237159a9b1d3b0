// Package lan holds the tests of the built image on a LAN: its ports are taps on switches in network
// namespaces, where the real DHCP servers, routers and clients run.
package lan

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cloudlink.local/gateway/internal/diary"
	"cloudlink.local/gateway/internal/network"
	"cloudlink.local/gateway/internal/portal"
	"cloudlink.local/gateway/internal/qemu"
	"cloudlink.local/gateway/internal/settings"
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
	var taps []*os.File
	for i, l := range lans {
		taps = append(taps, l.Tap(t, fmt.Sprintf("tap%d", i)))
	}
	return boot(t, taps...)
}

// boot boots the image with a port on each tap.
func boot(t *testing.T, taps ...*os.File) *testvm.VM {
	t.Helper()
	var nics []qemu.NIC
	for _, tap := range taps {
		nics = append(nics, qemu.NIC{Tap: tap})
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
	step("a change of wan is confirmed over lan, from where its owner comes", func(t *testing.T) {
		n := settings.Default().Network
		n.WAN.IPv4 = settings.IPv4{Method: settings.Static, Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.7/24")}}
		if status, answer, err := local.send("PUT", onLAN, "/api/v1/network", n); err != nil || status != http.StatusOK {
			t.Fatalf("%d %s %v", status, answer, err)
		}
		if status, answer, err := local.send("POST", onLAN, "/api/v1/network/confirm", struct{}{}); err != nil || status != http.StatusOK {
			t.Errorf("%d %s %v", status, answer, err)
		}
		n = settings.Default().Network
		local.send("PUT", onLAN, "/api/v1/network", n)
		local.send("POST", onLAN, "/api/v1/network/confirm", struct{}{})
		vm.Until("wan has its lease again", func() error {
			addr, ok := leased(vm.Status(), "eth0")
			if !ok || vm.Status().Change != nil {
				return fmt.Errorf("%+v", vm.Status().Ports)
			}
			onWAN = addr
			return nil
		})
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
	// Nor does it go with the process.
	vm.Shell("kill -9 $(pidof network)")
	if out := vm.Shell("ip addr show eth0"); !strings.Contains(out, addr.String()) {
		t.Errorf("after kill -9: %s", out)
	}
	s = vm.WaitUp()
	list, _ := entries(vm, 0)
	// The killed one may not have saved its diary yet.
	used := slices.DeleteFunc(list, func(e portal.DiaryEntry) bool { return e.Kind != diary.LinkLocalUsed })
	if got := addresses(s.Ports[0], network.LinkLocal); len(got) != 1 || got[0] != addr || len(used) > 1 {
		t.Errorf("port: %+v; diary: %+v", s.Ports[0], used)
	}
}

// This machine's kernel knows no VLANs, so a second gateway is the other end.
func TestVLAN(t *testing.T) {
	l := lan{testnet.Switch(t)}
	var vms []*testvm.VM
	for i := range 2 {
		nic := qemu.NIC{Tap: l.Tap(t, fmt.Sprintf("tap%d", i)), MAC: fmt.Sprintf("52:54:00:c1:0e:%02x", i)}
		vm := testvm.Boot(t, testvm.Options{Image: image(), NICs: []qemu.NIC{nic}})
		vms = append(vms, vm)
	}
	for _, vm := range vms {
		vm.Expect("Press Enter") // a key before that stops U-Boot
	}
	for i, vm := range vms {
		s := settings.Default()
		s.Network.WAN.VLAN, s.Network.WAN.MTU = 10, 1400
		s.Network.WAN.IPv4 = settings.IPv4{Method: settings.Static, Addresses: []netip.Prefix{
			netip.MustParsePrefix(fmt.Sprintf("10.10.0.%d/24", i+1)), netip.MustParsePrefix(fmt.Sprintf("10.11.0.%d/24", i+1)),
		}}
		s.Network.WAN.IPv6 = settings.IPv6{Method: settings.Static, Addresses: []netip.Prefix{
			netip.MustParsePrefix(fmt.Sprintf("fd00:10::%d/64", i+1)),
		}}
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		vm.Shell("echo '" + string(b) + "' > /data/network/settings.json")
		vm.Shell("chmod 644 /data/network/settings.json")
		vm.Shell("kill -9 $(pidof network)")
	}
	for i, vm := range vms {
		vm.In(t)
		for _, peer := range []string{"10.10.0.%d", "10.11.0.%d"} {
			to := fmt.Sprintf(peer, 2-i)
			vm.Until("the other gateway answers at "+to, func() error {
				if out := vm.Shell("ping -c 1 " + to + " && echo answered"); !strings.Contains(out, "\nanswered") {
					return errors.New(out)
				}
				return nil
			})
		}
		if out := vm.Shell("ip link show eth0.10"); !strings.Contains(out, "mtu 1400") {
			t.Errorf("the VLAN: %s", out)
		}
		if out := vm.Shell("ip addr show eth0.10"); !strings.Contains(out, "fd00:10::") {
			t.Errorf("its IPv6 address: %s", out)
		}
		if out := vm.Shell("ip addr show eth0"); strings.Contains(out, "inet ") {
			t.Errorf("without the tag: %s", out)
		}
	}
	// Whoever does not have the tag does not get in.
	l.IP("addr", "add", "10.10.0.9/24", "dev", testnet.Bridge)
	if err := l.asks(netip.MustParseAddr("10.10.0.1"), 80); err == nil {
		t.Error("the page answers without the tag")
	}
}

// send sends a request with a JSON body to the API at an address of the gateway.
func (l lan) send(method string, addr netip.Addr, path string, body any) (status int, answer string, err error) {
	b, err := json.Marshal(body)
	if err != nil {
		return 0, "", err
	}
	req, err := http.NewRequest(method, "http://"+netip.AddrPortFrom(addr, 80).String()+path, bytes.NewReader(b))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Content-Type", "application/json")
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: l.Dial, DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(got), err
}

func TestAChangeIsOnProbation(t *testing.T) {
	l := lan{testnet.Switch(t)}
	l.Dnsmasq(t, testnet.Bridge, "192.0.2.1/24", "--dhcp-range=192.0.2.100,192.0.2.150,1h", "--dhcp-authoritative")
	l.IP("addr", "add", "198.51.100.1/24", "dev", testnet.Bridge)
	vm := onLAN(t, l)
	old := awaitAddress(t, vm, "eth0", "192.0.2.")
	at := func(addr netip.Addr) { vm.Reach(netip.AddrPortFrom(addr, 80).String(), l.Dial) }
	at(old)
	vm.WaitUp()
	step := func(name string, f func(t *testing.T)) {
		t.Run(name, func(t *testing.T) { vm.In(t); f(t) })
	}
	change := func(t *testing.T, addr netip.Addr) {
		t.Helper()
		n := settings.Default().Network
		n.WAN.IPv4 = settings.IPv4{Method: settings.Static, Addresses: []netip.Prefix{netip.PrefixFrom(addr, 24)}}
		if status, answer, err := l.send("PUT", old, "/api/v1/network", n); err != nil || status != http.StatusOK {
			t.Fatalf("change to %v: %d %s %v", addr, status, answer, err)
		}
	}
	only := func(t *testing.T, there, gone netip.Addr) {
		t.Helper()
		at(there)
		vm.Until(fmt.Sprintf("it answers at %v and not at %v", there, gone), func() error {
			if _, _, err := vm.TryGet("/"); err != nil {
				return err
			}
			if err := l.asks(gone, 80); err == nil {
				return fmt.Errorf("it answers at %v", gone)
			}
			return nil
		})
	}
	next := netip.MustParseAddr("198.51.100.7")
	step("what is wrong is refused, by its field, and changes nothing", func(t *testing.T) {
		n := settings.Default().Network
		n.WAN.IPv4 = settings.IPv4{Method: settings.Static, Addresses: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}}
		status, answer, err := l.send("PUT", old, "/api/v1/network", n)
		if err != nil || status != http.StatusUnprocessableEntity || !strings.Contains(answer, "network.wan.ipv4.addresses[0]") {
			t.Errorf("%d %s %v", status, answer, err)
		}
		if s := vm.Status(); s.Change != nil {
			t.Errorf("on probation: %+v", s.Change)
		}
	})
	step("both configurations answer, and only the new one confirms", func(t *testing.T) {
		// Whoever confirms all the time over the old address confirms nothing, not even in the moment of
		// the change.
		ctx, stop := context.WithCancel(t.Context())
		var confirming sync.WaitGroup
		for range 3 {
			confirming.Go(func() {
				for ctx.Err() == nil {
					if status, _, err := l.send("POST", old, "/api/v1/network/confirm", struct{}{}); err == nil && status == http.StatusOK {
						t.Error("confirmed over the old address")
						return
					}
				}
			})
		}
		change(t, next)
		stop()
		confirming.Wait()
		for _, addr := range []netip.Addr{old, next} {
			vm.Until(addr.String()+" answers", func() error { return l.asks(addr, 80) })
		}
		if s := vm.Status(); s.Change == nil || !slices.Contains(s.Change.Addresses, next) {
			t.Errorf("on probation: %+v", s.Change)
		}
		if status, answer, err := l.send("POST", old, "/api/v1/network/confirm", struct{}{}); err != nil || status != http.StatusConflict {
			t.Errorf("confirmed over the old address: %d %s %v", status, answer, err)
		}
		if status, answer, err := l.send("POST", next, "/api/v1/network/confirm", struct{}{}); err != nil || status != http.StatusOK {
			t.Errorf("not confirmed over the new address: %d %s %v", status, answer, err)
		}
		only(t, next, old)
	})
	confirmed, other := next, netip.MustParseAddr("192.0.2.77")
	step("a power cut in the middle brings back what was confirmed", func(t *testing.T) {
		old = confirmed
		change(t, other)
		vm.Until("the new address answers", func() error { return l.asks(other, 80) })
		vm.PowerCut()
		vm.On()
		only(t, confirmed, other)
		if diary := string(vm.Get("/api/v1/network/diary")); !strings.Contains(diary, "commit-returned-at-boot") {
			t.Errorf("the diary does not tell: %s", diary)
		}
	})
	step("kill -9 of the service in the middle: the time goes on, and then the old is back", func(t *testing.T) {
		vm.WaitUp()
		change(t, other)
		for _, s := range vm.Status().Services {
			if s.Name == "network" {
				vm.Shell(fmt.Sprintf("kill -9 %d", s.PID))
			}
		}
		vm.Until("it is on probation still", func() error {
			if s := vm.Status(); s.Change == nil {
				return fmt.Errorf("%+v", s)
			}
			return nil
		})
		vm.Until("the time is over", func() error {
			if s := vm.Status(); s.Change != nil {
				return fmt.Errorf("%.0f seconds left", s.Change.SecondsLeft)
			}
			return nil
		})
		only(t, confirmed, other)
	})
}
