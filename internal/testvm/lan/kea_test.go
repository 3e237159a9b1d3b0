package lan

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"cloudlink.local/gateway/internal/diary"
	"cloudlink.local/gateway/internal/network"
	"cloudlink.local/gateway/internal/portal"
	"cloudlink.local/gateway/internal/testnet"
	"cloudlink.local/gateway/internal/testvm"
)

// serve starts a server that reads a configuration file and returns it once it has printed ready.
func (l lan) serve(t *testing.T, config, ready, name string, args ...string) *testnet.Process {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "config")
	if err := os.WriteFile(path, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	for i := range args {
		args[i] = strings.NewReplacer("CONFIG", path, "DIR", dir).Replace(args[i])
	}
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "KEA_PIDFILE_DIR="+dir, "KEA_LOCKFILE_DIR=none")
	s := l.Start(t, cmd)
	s.Wait(t, ready)
	return s
}

// kea4 serves a network on each of two switches. Leases are renewed every five seconds: as lost packets
// are asked for again soon, the test is over soon.
func (l lan) kea4(t *testing.T) {
	l.IP("addr", "add", "192.0.2.1/24", "dev", testnet.Bridge)
	l.IP("link", "add", "br1", "type", "bridge")
	l.IP("link", "set", "br1", "up")
	l.IP("addr", "add", "198.51.100.1/24", "dev", "br1")
	l.serve(t, `{"Dhcp4": {
		"interfaces-config": {"interfaces": ["br0", "br1"]}, "lease-database": {"type": "memfile", "persist": false},
		"valid-lifetime": 30, "renew-timer": 5, "rebind-timer": 15, "authoritative": true,
		"option-data": [{"name": "domain-name-servers", "data": "192.0.2.53"}, {"name": "domain-name", "data": "kea.example"}],
		"subnet4": [{"subnet": "192.0.2.0/24", "pools": [{"pool": "192.0.2.100 - 192.0.2.150"}],
				"option-data": [{"name": "routers", "data": "192.0.2.1"}]},
			{"subnet": "198.51.100.0/24", "pools": [{"pool": "198.51.100.100 - 198.51.100.150"}],
				"option-data": [{"name": "routers", "data": "198.51.100.1"}]}],
		"loggers": [{"name": "kea-dhcp4", "severity": "INFO", "output_options": [{"output": "stdout", "flush": true}]}]
	}}`, "DHCP4_STARTED", "kea-dhcp4", "-c", "CONFIG")
}

// kea6 has addresses, and prefixes to delegate, which nobody asks for.
func (l lan) kea6(t *testing.T) *testnet.Process {
	l.IP("addr", "add", "fd0d::1/64", "dev", testnet.Bridge, "nodad")
	for !strings.Contains(l.IP("-6", "addr", "show", "dev", testnet.Bridge, "scope", "link", "-tentative"), "fe80::") {
		time.Sleep(10 * time.Millisecond)
	}
	s := l.serve(t, `{"Dhcp6": {
		"interfaces-config": {"interfaces": ["br0"]}, "lease-database": {"type": "memfile", "persist": false},
		"server-id": {"type": "LL", "htype": 1, "identifier": "020000000d00", "persist": false},
		"preferred-lifetime": 3000, "valid-lifetime": 4000,
		"option-data": [{"name": "dns-servers", "data": "fd0d::53"}],
		"subnet6": [{"subnet": "fd0d::/64", "interface": "br0", "pools": [{"pool": "fd0d::10 - fd0d::1f"}],
			"pd-pools": [{"prefix": "fd0d:0:1::", "prefix-len": 48, "delegated-len": 64}]}],
		"loggers": [{"name": "kea-dhcp6", "severity": "INFO", "output_options": [{"output": "stdout", "flush": true}]}]
	}}`, "DHCP6_STARTED", "kea-dhcp6", "-c", "CONFIG")
	l.router(t, testnet.Bridge, "fd0d::/64")
	return s
}

// router advertises a network whose addresses are to be had by DHCPv6 as well.
func (l lan) router(t *testing.T, port, prefix string) {
	l.serve(t, fmt.Sprintf(`interface %s { AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 10; AdvDefaultLifetime 600;
		AdvManagedFlag on; AdvOtherConfigFlag on; prefix %s { AdvValidLifetime 3600; AdvPreferredLifetime 3600; }; };`, port, prefix),
		"polling for", "radvd", "--nodaemon", "--logmethod=stderr", "--debug=2", "--config=CONFIG", "--pidfile=DIR/pid")
}

// lose has three in ten of the packets on port get lost, in each direction.
func (l lan) lose(port string) {
	l.Run("nft", fmt.Sprintf("table netdev loss { "+
		"chain in { type filter hook ingress device %[1]s priority 0; numgen random mod 10 < 3 counter drop; }; "+
		"chain out { type filter hook egress device %[1]s priority 0; numgen random mod 10 < 3 counter drop; }; }", port))
}

// loseNone ends that, and says whether any did.
func (l lan) loseNone(t *testing.T) {
	t.Helper()
	for _, chain := range []string{"in", "out"} {
		if out := l.Run("nft", "list", "chain", "netdev", "loss", chain); strings.Contains(out, "packets 0 ") {
			t.Errorf("no packet was lost: %s", out)
		}
	}
	l.Run("nft", "delete", "table", "netdev", "loss")
}

// inTheEnd is VM.Until for what is left to chance: it gives up when that is next to impossible.
func inTheEnd(t *testing.T, what string, try func() error) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("wait until %s: %v", what, err)
		}
	}
}

// addresses returns port's addresses that come from source.
func addresses(p network.Port, source network.Source) (list []netip.Addr) {
	for _, a := range p.Addresses {
		if a.Source == source {
			list = append(list, a.Prefix.Addr())
		}
	}
	return list
}

// seenAddress is awaitAddress where the console is a shell.
func seenAddress(vm *testvm.VM, port, subnet string) (addr netip.Addr) {
	find := regexp.MustCompile(`inet (` + regexp.QuoteMeta(subnet) + `[0-9.]*)/`)
	vm.Until(port+" has an address in "+subnet, func() error {
		out := vm.Shell("ip addr show " + port)
		m := find.FindStringSubmatch(out)
		if m == nil {
			return errors.New(out)
		}
		addr = netip.MustParseAddr(m[1])
		return nil
	})
	return addr
}

// unplug takes the cable of the i-th port out, and waits until the gateway knows.
func unplug(t *testing.T, vm *testvm.VM, i int) {
	t.Helper()
	if err := vm.Machine().SetLink(i, false); err != nil {
		t.Fatal(err)
	}
	vm.Until("the port has no link", func() error {
		if out := vm.Shell(fmt.Sprintf("cat /sys/class/net/eth%d/carrier", i)); strings.TrimSpace(out) != "0" {
			return errors.New(out)
		}
		return nil
	})
}

func plug(t *testing.T, vm *testvm.VM, i int) {
	t.Helper()
	if err := vm.Machine().SetLink(i, true); err != nil {
		t.Fatal(err)
	}
}

// TestWithKea boots once: first with packet loss, then to see all that kea and radvd give, and at last
// the cable goes to another switch.
func TestWithKea(t *testing.T) {
	l := lan{testnet.Switch(t)}
	l.kea4(t)
	tap := l.Tap(t, "tap0")
	l.lose("tap0")
	vm := boot(t, tap)
	step := func(name string, f func(t *testing.T)) {
		t.Run(name, func(t *testing.T) { vm.In(t); f(t) })
	}
	vm.Expect("Press Enter") // a key before that stops U-Boot
	has := regexp.MustCompile(`inet (192\.0\.2\.[0-9]+)/24 [^\n]*\n\s*valid_lft ([0-9]+)sec`)
	find := func() (addr netip.Addr, left int, err error) {
		out := vm.Shell("ip addr show eth0")
		m := has.FindStringSubmatch(out)
		if m == nil {
			return addr, 0, errors.New(out)
		}
		addr = netip.MustParseAddr(m[1])
		left, err = strconv.Atoi(m[2])
		return addr, left, err
	}
	var addr netip.Addr
	step("a third of the packets lost: it gets an address", func(t *testing.T) {
		inTheEnd(t, "it has an address", func() (err error) { addr, _, err = find(); return err })
	})
	step("a third of the packets lost: the page loads", func(t *testing.T) {
		inTheEnd(t, "the page loads", func() error {
			client := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DialContext: l.Dial, DisableKeepAlives: true}}
			resp, err := client.Get("http://" + addr.String() + "/")
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			if err == nil && (resp.StatusCode != http.StatusOK || !strings.Contains(string(b), "</html>")) {
				err = fmt.Errorf("%d %.100q", resp.StatusCode, b)
			}
			return err
		})
	})
	step("a third of the packets lost: the lease is renewed", func(t *testing.T) {
		least := 1 << 30
		inTheEnd(t, "there is more time", func() error {
			_, left, err := find()
			if err != nil || left > least {
				return err
			}
			least = left
			return fmt.Errorf("%d s are left", left)
		})
	})
	l.loseNone(t)
	step("no packet is lost any more", func(t *testing.T) {
		inTheEnd(t, "it has an address", func() (err error) { addr, _, err = find(); return err })
	})
	vm.Reach(netip.AddrPortFrom(addr, 80).String(), l.Dial)
	vm.WaitUp()
	kea6 := l.kea6(t)
	var addr6 netip.Addr
	step("addresses of both kinds, DNS of both, the page over both, no prefix", func(t *testing.T) {
		var s portal.Status
		vm.Until("kea's address is there", func() error {
			s = vm.Status()
			if len(addresses(s.Ports[0], network.DHCP6)) == 0 || len(addresses(s.Ports[0], network.Kernel)) < 2 {
				return fmt.Errorf("%+v", s.Ports[0].Addresses)
			}
			return nil
		})
		if got, ok := leased(s, "eth0"); !ok || got != addr {
			t.Errorf("IPv4: %+v", s.Ports[0].Addresses)
		}
		addr6 = addresses(s.Ports[0], network.DHCP6)[0]
		if p := netip.MustParsePrefix("fd0d::10/124"); !p.Contains(addr6) {
			t.Errorf("IPv6: %+v", s.Ports[0].Addresses)
		}
		for _, a := range s.Ports[0].Addresses {
			if delegated := netip.MustParsePrefix("fd0d:0:1::/48"); delegated.Contains(a.Prefix.Addr()) {
				t.Errorf("of a prefix for others: %+v", a)
			}
		}
		if log := strings.Join(kea6.Lines(), "\n"); strings.Contains(log, "PD_LEASE") || !strings.Contains(log, "DHCP6_LEASE_ALLOC") {
			t.Errorf("kea leased\n%s", log)
		}
		conf := vm.Shell("cat /etc/resolv.conf")
		for _, dns := range []string{"192.0.2.53", "fd0d::53"} {
			if !slices.Contains(s.Ports[0].DNS, netip.MustParseAddr(dns)) || !strings.Contains(conf, "nameserver "+dns) {
				t.Errorf("DNS server %s: %v\n%s", dns, s.Ports[0].DNS, conf)
			}
		}
		if !strings.Contains(conf, "search kea.example") {
			t.Errorf("resolv.conf is\n%s", conf)
		}
		for _, a := range append(addresses(s.Ports[0], network.Kernel), addr, addr6) {
			if !a.IsLinkLocalUnicast() {
				vm.Until("the page answers at "+a.String(), func() error { return l.asks(a, 80) })
			}
		}
	})
	step("the cable goes to another switch", func(t *testing.T) {
		l.IP("addr", "add", "fd0e::1/64", "dev", "br1", "nodad")
		l.router(t, "br1", "fd0e::/64")
		unplug(t, vm, 0)
		l.IP("link", "set", "tap0", "master", "br1")
		plug(t, vm, 0)
		addr := seenAddress(vm, "eth0", "198.51.100.")
		vm.Reach(netip.AddrPortFrom(addr, 80).String(), l.Dial)
		vm.Until("the page is there", func() error { return l.asks(addr, 80) })
		vm.Until("it has addresses and routes of the new network, and of no other", func() error {
			all := vm.Shell("ip addr show eth0") + "\n" + vm.Shell("ip route show") + "\n" + vm.Shell("ip -6 route show")
			if strings.Contains(all, "192.0.2.") || strings.Contains(all, "fd0d:") || strings.Count(all, "::/0 via") != 1 || !strings.Contains(all, "inet6 fd0e:") {
				return errors.New(all)
			}
			return nil
		})
		list, _ := entries(vm, 0)
		if !slices.ContainsFunc(list, func(e portal.DiaryEntry) bool { return e.Kind == diary.PrefixGone && e.Args["prefix"] == "fd0d::/64" }) {
			t.Errorf("the diary does not tell: %+v", list)
		}
	})
}
