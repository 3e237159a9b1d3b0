package dhcp4

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"cloudlink.local/gateway/internal/testnet"
)

// A server is a real DHCP server for network 10.N.0.0/24: addresses .10, .11 …, T1 after 5 s.
type server struct {
	name     string
	n        byte
	start    func(t testing.TB, p *testnet.Peer, port string, n byte, leases string) *testnet.Process
	released func(leases string) bool // what the server's file says about 10.N.0.10
	declined string                   // what it logs
}

var servers = []server{
	{"dnsmasq", 1, dnsmasq, func(leases string) bool { return !strings.Contains(leases, "10.1.0.10") }, "DHCPDECLINE"},
	{"kea", 2, kea, func(leases string) bool { // the last line about an address counts; a lifetime of 0 is its end
		at := strings.LastIndex(leases, "\n10.2.0.10,")
		return at >= 0 && strings.Split(leases[at:], ",")[3] == "0"
	}, "DHCP4_DECLINE_LEASE"},
	{"isc-dhcp-server", 3, dhcpd, func(leases string) bool {
		at := strings.LastIndex(leases, "lease 10.3.0.10 {")
		return at >= 0 && strings.Contains(leases[at:], "\n  binding state free")
	}, "DHCPDECLINE of"},
}

func dnsmasq(t testing.TB, p *testnet.Peer, port string, n byte, leases string) *testnet.Process {
	t.Helper()
	p.IP("addr", "replace", fmt.Sprintf("10.%d.0.1/24", n), "dev", port)
	s := p.Start(t, exec.Command("dnsmasq", "--keep-in-foreground", "--log-facility=-", "--log-dhcp", "--conf-file=/dev/null",
		"--user=root", "--group=", "--pid-file=", "--port=0", "--no-ping", "--interface="+port, "--bind-interfaces",
		"--dhcp-leasefile="+leases, fmt.Sprintf("--dhcp-range=10.%d.0.10,10.%d.0.11,2m", n, n), "--dhcp-option=option:T1,5"))
	s.Wait(t, "sockets bound exclusively to interface")
	return s
}

func kea(t testing.TB, p *testnet.Peer, port string, n byte, leases string) *testnet.Process {
	t.Helper()
	p.IP("addr", "replace", fmt.Sprintf("10.%d.0.1/24", n), "dev", port)
	dir := t.TempDir()
	config := filepath.Join(dir, "kea.json")
	writeFile(t, config, fmt.Sprintf(`{"Dhcp4": {
		"interfaces-config": {"interfaces": [%q]},
		"lease-database": {"type": "memfile", "name": %q},
		"valid-lifetime": 120, "renew-timer": 5, "rebind-timer": 60, "authoritative": true,
		"subnet4": [{"subnet": "10.%d.0.0/24", "pools": [{"pool": "10.%d.0.10 - 10.%d.0.200"}],
			"option-data": [{"name": "routers", "data": "10.%d.0.1"}]}],
		"loggers": [{"name": "kea-dhcp4", "severity": "INFO", "output_options": [{"output": "stdout", "flush": true}]}]
	}}`, port, leases, n, n, n, n))
	cmd := exec.Command("kea-dhcp4", "-c", config)
	cmd.Env = append(os.Environ(), "KEA_PIDFILE_DIR="+dir, "KEA_LOCKFILE_DIR=none")
	s := p.Start(t, cmd)
	s.Wait(t, "DHCP4_STARTED")
	return s
}

func dhcpd(t testing.TB, p *testnet.Peer, port string, n byte, leases string) *testnet.Process {
	t.Helper()
	p.IP("addr", "replace", fmt.Sprintf("10.%d.0.1/24", n), "dev", port)
	config := filepath.Join(t.TempDir(), "dhcpd.conf")
	writeFile(t, config, fmt.Sprintf(`authoritative; ping-check false; min-lease-time 120; default-lease-time 120; option dhcp-renewal-time 5;
		subnet 10.%d.0.0 netmask 255.255.255.0 { range 10.%d.0.10 10.%d.0.11; option routers 10.%d.0.1; }`, n, n, n, n))
	writeFile(t, leases, "")
	s := p.Start(t, exec.Command("dhcpd", "-4", "-f", "-d", "--no-pid", "-user", "root", "-group", "root", "-cf", config, "-lf", leases, port))
	s.Wait(t, "Server starting service")
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
	conflicts chan string
	stop      context.CancelFunc
	ended     chan error
}

// plug makes port in the test's namespace, with a cable to a switch, and waits for its link.
func plug(t testing.TB, port string, sw *testnet.Peer) *net.Interface {
	t.Helper()
	testnet.Home(t).Plug(port, sw, "far-"+port)
	sw.IP("link", "set", "far-"+port, "master", testnet.Bridge)
	for {
		p, err := net.InterfaceByName(port)
		if err != nil {
			t.Fatal(err)
		}
		if p.Flags&net.FlagRunning != 0 {
			return p
		}
		time.Sleep(time.Millisecond)
	}
}

func newDevice(t testing.TB, port *net.Interface) *device {
	d := &device{
		Client: &Client{Port: port, Hostname: "cloudlink", Vendor: "test", Log: slog.New(slog.DiscardHandler)},
		t:      t, leases: make(chan *Lease, 64), conflicts: make(chan string, 64), ended: make(chan error, 1),
	}
	var on *netlink.Addr
	d.Changed = func(l *Lease) {
		link, err := netlink.LinkByIndex(port.Index)
		if err != nil {
			t.Error(err)
			return
		}
		if on != nil && (l == nil || on.IP.String() != l.Addr().String()) {
			netlink.AddrDel(link, on)
			on = nil
		}
		if l != nil {
			on = &netlink.Addr{IPNet: &net.IPNet{IP: l.Addr().AsSlice(), Mask: net.CIDRMask(l.Prefix.Bits(), 32)}}
			if err := netlink.AddrReplace(link, on); err != nil {
				t.Error(err)
			}
		}
		d.leases <- l
	}
	d.Conflict = func(a netip.Addr, mac net.HardwareAddr, _ bool) { d.conflicts <- a.String() + " " + mac.String() }
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

// await waits for a lease as wanted.
func (d *device) await(what string, wanted func(*Lease) bool) *Lease {
	d.t.Helper()
	deadline := time.After(40 * time.Second)
	for {
		select {
		case l := <-d.leases:
			if wanted(l) {
				return l
			}
		case err := <-d.ended:
			d.t.Fatalf("waited for %s; the client ended with %v", what, err)
		case <-deadline:
			d.t.Fatalf("waited in vain for %s", what)
		}
	}
}

// hint makes the client ask for addr although it has no lease of it.
func hint(addr string) *Lease {
	return &Lease{Prefix: netip.MustParsePrefix(addr + "/24"), Expires: time.Now()}
}

func TestRealServersLeaseRenewAndTakeBack(t *testing.T) {
	for _, s := range servers {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			sw := testnet.Switch(t)
			file := filepath.Join(t.TempDir(), "leases")
			s.start(t, sw, testnet.Bridge, s.n, file)
			d := newDevice(t, plug(t, fmt.Sprintf("lan%d", s.n), sw))
			d.Remembered = hint(fmt.Sprintf("10.%d.0.10", s.n))
			d.run()
			var bridge string
			if err := sw.Do(func() error {
				b, err := net.InterfaceByName(testnet.Bridge)
				if err == nil {
					bridge = b.HardwareAddr.String()
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
			l := d.await("a lease whose gateway is known", func(l *Lease) bool { return l != nil && l.GatewayMAC != nil })
			if l.Addr().String() != fmt.Sprintf("10.%d.0.10", s.n) || l.Prefix.Bits() != 24 || l.GatewayMAC.String() != bridge ||
				l.Server.String() != fmt.Sprintf("10.%d.0.1", s.n) {
				t.Errorf("lease is %+v", l)
			}
			if t2 := l.Rebind.Sub(l.Renew) + 5*time.Second; l.Expires.Sub(l.Renew) != 115*time.Second || t2 < 60*time.Second {
				t.Errorf("times are %v before and %v after T1", l.Expires.Sub(l.Renew), t2)
			}
			for range 2 {
				first := l
				l = d.await("more time", func(l *Lease) bool { return l != nil && l.Expires.After(first.Expires) })
			}
			d.end()
			if err := d.Release(l); err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
				text, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				if s.released(string(text)) {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("the lease is not released; the server's file is:\n%s", text)
				}
			}
		})
	}
}

func TestRealServersAreToldOfAnAddressThatAnotherDeviceHas(t *testing.T) {
	for _, s := range servers {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			sw, other := testnet.Switch(t), testnet.New(t)
			process := s.start(t, sw, testnet.Bridge, s.n, filepath.Join(t.TempDir(), "leases"))
			sw.Plug("far-other", other, "eth0")
			sw.IP("link", "set", "far-other", "master", testnet.Bridge)
			other.IP("addr", "add", fmt.Sprintf("10.%d.0.10/24", s.n), "dev", "eth0")
			var mac string
			if err := other.Do(func() error {
				p, err := net.InterfaceByName("eth0")
				if err == nil {
					mac = p.HardwareAddr.String()
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
			d := newDevice(t, plug(t, fmt.Sprintf("lan%d", s.n), sw))
			d.Remembered = hint(fmt.Sprintf("10.%d.0.10", s.n))
			d.run()
			process.Wait(t, s.declined)
			if got, want := <-d.conflicts, fmt.Sprintf("10.%d.0.10 %s", s.n, mac); got != want {
				t.Errorf("conflict is %q, want %q", got, want)
			}
			l := d.await("another address", func(l *Lease) bool { return l != nil })
			if l.Addr().String() != fmt.Sprintf("10.%d.0.11", s.n) {
				t.Errorf("lease is %+v", l)
			}
			d.end()
		})
	}
}

// TestLeaseOutlivesARestartAndItsServer goes on with the lease as stored, first with its server, then
// with its gateway alone, then with another server in another network.
func TestLeaseOutlivesARestartAndItsServer(t *testing.T) {
	sw := testnet.Switch(t)
	dir := t.TempDir()
	first := dnsmasq(t, sw, testnet.Bridge, 4, filepath.Join(dir, "first"))
	port := plug(t, "lan4", sw)
	d := newDevice(t, port)
	d.run()
	l := d.await("a lease whose gateway is known", func(l *Lease) bool { return l != nil && l.GatewayMAC != nil })
	d.end()

	again := func() *device {
		t.Helper()
		boot, err := Now()
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(l.Store(time.Now(), boot))
		if err != nil {
			t.Fatal(err)
		}
		var s Stored
		if err := json.Unmarshal(text, &s); err != nil {
			t.Fatal(err)
		}
		d := newDevice(t, port)
		if d.Remembered, err = s.Restore(time.Now(), Boot{"another", time.Second}); err != nil {
			t.Fatal(err)
		}
		testnet.Home(t).IP("addr", "flush", "dev", "lan4")
		d.run()
		return d
	}

	d = again()
	first.Wait(t, "DHCPREQUEST(br0) "+l.Addr().String()) // of the first client
	first.Wait(t, "DHCPREQUEST(br0) "+l.Addr().String()) // of the second, without a DISCOVER
	if got := d.await("the same lease", func(l *Lease) bool { return l != nil }); got.Prefix != l.Prefix {
		t.Errorf("lease is %+v", got)
	}
	d.end()

	first.Kill()
	d = again()
	if got := d.await("the same lease", func(l *Lease) bool { return l != nil }); got.Prefix != l.Prefix {
		t.Errorf("lease is %+v", got)
	}
	d.end()

	sw.IP("addr", "flush", "dev", testnet.Bridge)
	kea(t, sw, testnet.Bridge, 5, filepath.Join(dir, "second"))
	d = again()
	if got := d.await("a lease of the other network", func(l *Lease) bool { return l != nil }); got.Server.String() != "10.5.0.1" {
		t.Errorf("lease is %+v", got)
	}
	d.end()
}

// TestTwoPortsInOneNetwork has two ports of ours on one switch: each gets its own address, and neither
// takes the other for a stranger.
func TestTwoPortsInOneNetwork(t *testing.T) {
	sw := testnet.Switch(t)
	kea(t, sw, testnet.Bridge, 6, filepath.Join(t.TempDir(), "leases"))
	a, b := newDevice(t, plug(t, "lan6", sw)), newDevice(t, plug(t, "lan7", sw))
	a.run()
	b.run()
	has := func(l *Lease) bool { return l != nil }
	if one, two := a.await("a lease", has), b.await("a lease", has); one.Addr() == two.Addr() {
		t.Errorf("both have %v", one.Addr())
	}
	// Renewals come every 5 s: by then both have looked whether the addresses are theirs alone.
	late := func(start time.Time) func(*Lease) bool {
		return func(l *Lease) bool { return l == nil || l.Expires.After(start.Add(125*time.Second)) }
	}
	start := time.Now()
	for _, d := range []*device{a, b} {
		if l := d.await("more time", late(start)); l == nil {
			t.Error("the lease is lost")
		}
		if len(d.conflicts) > 0 {
			t.Errorf("conflict: %s", <-d.conflicts)
		}
		d.end()
	}
}
