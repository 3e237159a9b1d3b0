package ipv6

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"cloudlink.local/gateway/internal/network/dhcp4"
	"cloudlink.local/gateway/internal/testnet"
)

func TestMain(m *testing.M) { testnet.Main(m) }

// ownDUID is what real servers know the tests by.
var ownDUID = []byte{0, 4, 1, 2, 3, 4, 5, 6, 0x47, 8, 0x89, 10, 11, 12, 13, 14, 15, 16}

// radvd starts a router in network fdNN::/64 that advertises what options say.
func radvd(t testing.TB, p *testnet.Peer, port string, n byte, options string) *testnet.Process {
	t.Helper()
	addServerAddress(p, port, n)
	dir := t.TempDir()
	config := filepath.Join(dir, "radvd.conf")
	writeFile(t, config, fmt.Sprintf(`interface %s { AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 10; %s };`, port, options))
	s := p.Start(t, exec.Command("radvd", "--nodaemon", "--logmethod=stderr", "--debug=2", "--config="+config, "--pidfile="+filepath.Join(dir, "pid")))
	s.Wait(t, "polling for")
	return s
}

// addServerAddress gives the server its address at once, and waits until it has a link-local one.
func addServerAddress(p *testnet.Peer, port string, n byte) {
	p.IP("addr", "replace", fmt.Sprintf("fd%02x::1/64", n), "dev", port, "nodad")
	for !strings.Contains(p.IP("-6", "addr", "show", "dev", port, "scope", "link", "-tentative"), "fe80::") {
		time.Sleep(10 * time.Millisecond)
	}
}

// kea starts a DHCPv6 server for network fdNN::/64, with addresses ::10 and ::11 and prefixes to
// delegate, T1 after 5 s.
func kea(t testing.TB, p *testnet.Peer, port string, n byte, leases, more string) *testnet.Process {
	t.Helper()
	addServerAddress(p, port, n)
	dir := t.TempDir()
	config := filepath.Join(dir, "kea.json")
	writeFile(t, config, fmt.Sprintf(`{"Dhcp6": {
		"interfaces-config": {"interfaces": [%[1]q]},
		"server-id": {"type": "LL", "htype": 1, "identifier": "02000000%02[2]x00", "persist": false},
		"lease-database": {"type": "memfile", "name": %[3]q},
		"preferred-lifetime": 100, "valid-lifetime": 120, "renew-timer": 5, "rebind-timer": 60,
		"option-data": [
			{"name": "dns-servers", "data": "fd%02[2]x::53, fe80::53"}, {"name": "domain-search", "data": "kea.example, second.example"},
			{"name": "sntp-servers", "data": "fd%02[2]x::123"}, {"name": "information-refresh-time", "data": "700"}],
		"subnet6": [{"subnet": "fd%02[2]x::/64", "interface": %[1]q, %[4]s
			"pools": [{"pool": "fd%02[2]x::10 - fd%02[2]x::11"}],
			"pd-pools": [{"prefix": "fd%02[2]x:0:1::", "prefix-len": 48, "delegated-len": 64}]}],
		"loggers": [{"name": "kea-dhcp6", "severity": "DEBUG", "debuglevel": 55, "output_options": [{"output": "stdout", "flush": true}]}]
	}}`, port, n, leases, more))
	cmd := exec.Command("kea-dhcp6", "-c", config)
	cmd.Env = append(os.Environ(), "KEA_PIDFILE_DIR="+dir, "KEA_LOCKFILE_DIR=none")
	s := p.Start(t, cmd)
	s.Wait(t, "DHCP6_STARTED")
	return s
}

// dnsmasq starts a router and DHCPv6 server for network fdNN::/64.
func dnsmasq(t testing.TB, p *testnet.Peer, port string, n byte, more ...string) *testnet.Process {
	t.Helper()
	addServerAddress(p, port, n)
	s := p.Start(t, exec.Command("dnsmasq", append([]string{"--keep-in-foreground", "--log-facility=-", "--log-dhcp", "--conf-file=/dev/null",
		"--user=root", "--group=", "--pid-file=", "--port=0", "--interface=" + port, "--bind-interfaces", "--enable-ra",
		"--dhcp-leasefile=" + filepath.Join(t.TempDir(), "leases"),
		fmt.Sprintf("--dhcp-option=option6:dns-server,[fd%02x::53]", n), "--dhcp-option=option6:domain-search,dnsmasq.example",
		fmt.Sprintf("--dhcp-option=option6:ntp-server,[fd%02x::123]", n)}, more...)...))
	s.Wait(t, "sockets bound exclusively to interface")
	return s
}

func writeFile(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// A device is a client whose leases are put on its port, as the network service does.
type device struct {
	*Client
	t         testing.TB
	leases    chan *Lease
	infos     chan Info
	conflicts chan netip.Addr
	troubles  chan Trouble
	stop      context.CancelFunc
	ended     chan error
}

// plug makes port in the test's namespace, with a cable to a switch.
func plug(t testing.TB, port string, sw *testnet.Peer) *net.Interface {
	t.Helper()
	testnet.Home(t).Plug(port, sw, "far-"+port)
	sw.IP("link", "set", "far-"+port, "master", testnet.Bridge)
	p, err := net.InterfaceByName(port)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func newDevice(t testing.TB, port *net.Interface) *device {
	d := &device{
		Client: &Client{Port: port, DUID: ownDUID, Hostname: "cloudlink", Log: slog.New(slog.DiscardHandler)},
		t:      t, leases: make(chan *Lease, 64), infos: make(chan Info, 64), conflicts: make(chan netip.Addr, 64),
		troubles: make(chan Trouble, 64), ended: make(chan error, 1),
	}
	var on *netlink.Addr
	d.Changed = func(l *Lease) {
		link, err := netlink.LinkByIndex(port.Index)
		if err != nil {
			t.Error(err)
			return
		}
		if on != nil && (!l.hasAddress() || on.IP.String() != l.Addr.String()) {
			netlink.AddrDel(link, on)
			on = nil
		}
		if l.hasAddress() {
			on = &netlink.Addr{
				IPNet:    &net.IPNet{IP: l.Addr.AsSlice(), Mask: net.CIDRMask(128, 128)},
				ValidLft: int(time.Until(l.Expires) / time.Second), PreferedLft: int(time.Until(l.Preferred) / time.Second),
			}
			if err := netlink.AddrReplace(link, on); err != nil {
				t.Error(err)
			}
		}
		d.leases <- l
	}
	d.Advertised = func(i Info) { d.infos <- i }
	d.Conflict = func(a netip.Addr) { d.conflicts <- a }
	d.Troubled = func(tr Trouble) { d.troubles <- tr }
	return d
}

func (d *device) run() {
	ctx, stop := context.WithCancel(d.t.Context())
	d.stop = stop
	go func() { d.ended <- d.Run(ctx) }()
}

func (d *device) end() {
	d.t.Helper()
	d.stop()
	if err := <-d.ended; err != nil {
		d.t.Error(err)
	}
}

// await waits for what list tells to be as wanted.
func await[T any](d *device, list <-chan T, what string, wanted func(T) bool) T {
	d.t.Helper()
	deadline := time.After(60 * time.Second)
	for {
		select {
		case v := <-list:
			if wanted(v) {
				return v
			}
			d.t.Logf("%s: not %+v", what, v)
		case err := <-d.ended:
			d.t.Fatalf("waited for %s; the client ended with %v", what, err)
		case <-deadline:
			d.t.Fatalf("waited in vain for %s", what)
		}
	}
}

func some(l *Lease) bool { return l.hasAddress() }

func addrs(format string, n byte, more ...string) []netip.Addr {
	list := []netip.Addr{netip.MustParseAddr(fmt.Sprintf(format, n))}
	for _, m := range more {
		list = append(list, netip.MustParseAddr(m))
	}
	return list
}

// awaitFile waits until the last line about addr in kea's file of leases is as wanted.
func awaitFile(t testing.TB, path, addr string, wanted func(fields []string) bool) {
	t.Helper()
	var line string
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if strings.HasPrefix(lines.Text(), addr+",") {
				line = lines.Text()
			}
		}
		f.Close()
		if line != "" && wanted(strings.Split(line, ",")) {
			return
		}
	}
	t.Fatalf("the server's file says %q", line)
}

func TestKeaLeasesRenewsAndTakesBackAnAddress(t *testing.T) {
	for _, c := range []struct {
		name, more string
		n          byte
	}{{"four messages", "", 1}, {"rapid commit", `"rapid-commit": true,`, 2}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			sw := testnet.Switch(t)
			file := filepath.Join(t.TempDir(), "leases")
			server := kea(t, sw, testnet.Bridge, c.n, file, c.more)
			radvd(t, sw, testnet.Bridge, c.n, "AdvManagedFlag on; AdvOtherConfigFlag on;")
			d := newDevice(t, plug(t, fmt.Sprintf("lan%d", c.n), sw))
			d.run()
			l := await(d, d.leases, "a lease", some)
			if a := l.Addr.String(); a != fmt.Sprintf("fd%02x::10", c.n) && a != fmt.Sprintf("fd%02x::11", c.n) {
				t.Errorf("lease is %+v", l)
			}
			if want := addrs("fd%02x::53", c.n, "fe80::53%"+d.Port.Name); !slices.Equal(l.DNS, want) {
				t.Errorf("DNS servers are %v, want %v", l.DNS, want)
			}
			if !slices.Equal(l.Search, []string{"kea.example", "second.example"}) || !slices.Equal(l.NTP, addrs("fd%02x::123", c.n)) {
				t.Errorf("lease is %+v", l)
			}
			if l.Rebind.Sub(l.Renew) != 55*time.Second || l.Expires.Sub(l.Renew) != 115*time.Second || l.Expires.Sub(l.Preferred) != 20*time.Second {
				t.Errorf("lease is %+v", l)
			}
			for range 2 {
				first := l
				l = await(d, d.leases, "more time", func(l *Lease) bool { return some(l) && l.Expires.After(first.Expires) })
				if l.Addr != first.Addr {
					t.Errorf("address is %v, was %v", l.Addr, first.Addr)
				}
			}
			d.end()
			if err := d.Release(l); err != nil {
				t.Fatal(err)
			}
			server.Wait(t, "DHCP6_RELEASE_NA")
			awaitFile(t, file, l.Addr.String(), func(f []string) bool { return f[2] == "0" })
			if text, err := os.ReadFile(file); err != nil || strings.Contains(string(text), fmt.Sprintf("fd%02x:0:1:", c.n)) {
				t.Errorf("a prefix was delegated (%v):\n%s", err, text)
			}
			if rapid := !strings.Contains(strings.Join(server.Lines(), "\n"), "DHCP6_LEASE_ADVERT"); rapid != (c.more != "") {
				t.Errorf("rapid commit: %v", rapid)
			}
		})
	}
}

func TestDnsmasqLeasesAnAddress(t *testing.T) {
	sw := testnet.Switch(t)
	server := dnsmasq(t, sw, testnet.Bridge, 3, "--dhcp-range=fd03::10,fd03::11,64,2m")
	d := newDevice(t, plug(t, "lan3", sw))
	d.run()
	l := await(d, d.leases, "a lease", some)
	if !slices.Equal(l.DNS, addrs("fd%02x::53", 3)) || !slices.Equal(l.Search, []string{"dnsmasq.example"}) || !slices.Equal(l.NTP, addrs("fd%02x::123", 3)) {
		t.Errorf("lease is %+v", l)
	}
	i := await(d, d.infos, "flags", func(i Info) bool { return i.Managed && i.Other })
	if !slices.Equal(i.DNS, addrs("fd%02x::53", 3)) || !slices.Equal(i.Search, []string{"dnsmasq.example"}) || len(i.Routers) != 1 {
		t.Errorf("routers say %+v", i)
	}
	d.end()
	if err := d.Release(l); err != nil {
		t.Fatal(err)
	}
	server.Wait(t, "DHCPRELEASE("+testnet.Bridge+")")
}

func TestServersThatOnlyInform(t *testing.T) {
	for _, c := range []struct {
		name, domain string
		n            byte
		start        func(t *testing.T, sw *testnet.Peer)
		refresh      time.Duration
	}{
		{"kea", "kea.example", 4, func(t *testing.T, sw *testnet.Peer) {
			kea(t, sw, testnet.Bridge, 4, filepath.Join(t.TempDir(), "leases"), "")
			radvd(t, sw, testnet.Bridge, 4, "AdvOtherConfigFlag on; prefix fd04::/64 {};")
		}, 700 * time.Second},
		{"dnsmasq", "dnsmasq.example", 5, func(t *testing.T, sw *testnet.Peer) {
			dnsmasq(t, sw, testnet.Bridge, 5, "--dhcp-range=fd05::,ra-stateless", "--dhcp-option=option6:information-refresh-time,1000")
		}, 1000 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			sw := testnet.Switch(t)
			c.start(t, sw)
			d := newDevice(t, plug(t, fmt.Sprintf("lan%d", c.n), sw))
			d.run()
			start := time.Now()
			l := await(d, d.leases, "information", func(l *Lease) bool { return l != nil })
			if l.hasAddress() || l.DNS[0] != addrs("fd%02x::53", c.n)[0] || l.Search[0] != c.domain || l.NTP[0] != addrs("fd%02x::123", c.n)[0] {
				t.Errorf("lease is %+v", l)
			}
			if refresh := l.Renew.Sub(start); refresh < c.refresh || refresh > c.refresh+time.Minute {
				t.Errorf("asks again after %v", refresh)
			}
			d.end()
		})
	}
}

func TestRoutersSayWhichDNSServersThereAre(t *testing.T) {
	sw := testnet.Switch(t)
	router := radvd(t, sw, testnet.Bridge, 6, "prefix fd06::/64 {}; RDNSS fd06::53 fe80::54 { AdvRDNSSLifetime 40; }; DNSSL radvd.example { AdvDNSSLLifetime 40; };")
	d := newDevice(t, plug(t, "lan6", sw))
	d.run()
	whole := func(i Info) bool {
		return len(i.Routers) == 1 && !i.Managed && !i.Other && slices.Equal(i.DNS, addrs("fd%02x::53", 6, "fe80::54%lan6")) && slices.Equal(i.Search, []string{"radvd.example"})
	}
	await(d, d.infos, "DNS servers", whole)
	d.end()
	d = newDevice(t, d.Port) // it is asked again
	d.run()
	await(d, d.infos, "DNS servers", whole)
	router.Stop() // it says that it goes
	await(d, d.infos, "the router's end", func(i Info) bool { return len(i.Routers) == 0 && len(i.DNS) == 0 && len(i.Search) == 0 })
	if len(d.leases) > 0 {
		t.Errorf("lease is %+v", <-d.leases)
	}
	d.end()
}

func TestServerIsToldOfAnAddressThatAnotherDeviceHas(t *testing.T) {
	sw, other := testnet.Switch(t), testnet.New(t)
	file := filepath.Join(t.TempDir(), "leases")
	server := kea(t, sw, testnet.Bridge, 7, file, "")
	radvd(t, sw, testnet.Bridge, 7, "AdvManagedFlag on;")
	sw.Plug("far-other", other, "eth0")
	sw.IP("link", "set", "far-other", "master", testnet.Bridge)
	other.IP("addr", "add", "fd07::10/64", "dev", "eth0", "nodad")
	d := newDevice(t, plug(t, "lan7", sw))
	d.Remembered = &Lease{Addr: netip.MustParseAddr("fd07::10"), Expires: time.Now()} // a hint
	d.run()
	if l := await(d, d.leases, "the address", some); l.Addr.String() != "fd07::10" {
		t.Fatalf("lease is %+v", l)
	}
	if a := await(d, d.conflicts, "the conflict", func(netip.Addr) bool { return true }); a.String() != "fd07::10" {
		t.Errorf("conflict is about %v", a)
	}
	await(d, d.leases, "the loss", func(l *Lease) bool { return l == nil })
	server.Wait(t, "DHCP6_DECLINE_LEASE")
	if l := await(d, d.leases, "another address", some); l.Addr.String() != "fd07::11" {
		t.Errorf("lease is %+v", l)
	}
	d.end()
}

// TestLeaseOutlivesARestartAndAMovedCable goes on with a lease as stored, then in another network.
func TestLeaseOutlivesARestartAndAMovedCable(t *testing.T) {
	sw, elsewhere := testnet.Switch(t), testnet.Switch(t)
	first := kea(t, sw, testnet.Bridge, 8, filepath.Join(t.TempDir(), "leases"), "")
	radvd(t, sw, testnet.Bridge, 8, "AdvManagedFlag on;")
	kea(t, elsewhere, testnet.Bridge, 9, filepath.Join(t.TempDir(), "leases"), "")
	radvd(t, elsewhere, testnet.Bridge, 9, "AdvManagedFlag on;")
	port := plug(t, "lan8", sw)
	d := newDevice(t, port)
	d.run()
	l := await(d, d.leases, "a lease", some)
	d.end()

	again := func(port *net.Interface, boot dhcp4.Boot) *device {
		t.Helper()
		now, err := dhcp4.Now()
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(l.Store(time.Now(), now))
		if err != nil {
			t.Fatal(err)
		}
		var s Stored
		if err := json.Unmarshal(text, &s); err != nil {
			t.Fatal(err)
		}
		d := newDevice(t, port)
		if d.Remembered, err = s.Restore(time.Now(), boot); err != nil {
			t.Fatal(err)
		}
		d.run()
		return d
	}
	d = again(port, dhcp4.Boot{ID: "another", Clock: time.Second})
	first.Wait(t, "CONFIRM")
	if got := await(d, d.leases, "the same address", some); got.Addr != l.Addr {
		t.Errorf("lease is %+v", got)
	}
	d.end()

	port = plug(t, "lan9", elsewhere)
	d = again(port, dhcp4.Boot{ID: "another", Clock: time.Second})
	if got := await(d, d.leases, "an address of the other network", some); !netip.MustParsePrefix("fd09::/64").Contains(got.Addr) {
		t.Errorf("lease is %+v", got)
	}
	if tr := await(d, d.troubles, "a refusal", func(Trouble) bool { return true }); !tr.Refuse || !strings.Contains(tr.Text, "NotOnLink") {
		t.Errorf("trouble is %+v", tr)
	}
	d.end()
}
