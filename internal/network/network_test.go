package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/condition"
	"cloudlink.local/gateway/internal/network/reconcile"
	"cloudlink.local/gateway/internal/testnet"
)

// serviceDir tells the test binary to be the network service, with its files there.
const serviceDir = "NETWORK_TEST_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(serviceDir); dir != "" {
		os.Exit(beService(dir))
	}
	testnet.Main(m)
}

// beService runs the service until SIGTERM, for ports whose names begin with "lan".
func beService(dir string) int {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	s := inDir(dir)
	s.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	err := s.Run(ctx, func() { fmt.Println("ready") })
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("stopped")
	return 0
}

func inDir(dir string) Config {
	return Config{
		Socket:     filepath.Join(dir, "network.sock"),
		ResolvConf: filepath.Join(dir, "resolv.conf"),
		Data:       dir,
		IsPort:     func(l reconcile.Link) bool { return strings.HasPrefix(l.Name, "lan") },
		Built:      time.Now().Add(-time.Hour),
		Clock:      noClock{},
	}
}

// noClock stands for the system clock, which is everybody's on this machine.
type noClock struct{}

func (noClock) Now() time.Time           { return time.Now() }
func (noClock) Step(time.Duration) error { return unix.EPERM }
func (noClock) Slew(time.Duration) error { return unix.EPERM }
func (noClock) Synchronised() bool       { return false }

// A gateway is a network service in a namespace of its own.
type gateway struct {
	*testnet.Peer
	t   *testing.T
	dir string
}

// newGateway makes the namespace; its ports and the service are still to come.
func newGateway(t *testing.T) *gateway {
	dir, err := os.MkdirTemp("", "network") // t.TempDir's name is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return &gateway{testnet.New(t), t, dir}
}

// withCable makes a gateway with port lan0, a peer with eth0 and a cable between them.
func withCable(t *testing.T) (gw *gateway, peer *testnet.Peer) {
	gw, peer = newGateway(t), testnet.New(t)
	gw.Plug("lan0", peer, "eth0")
	gw.IP("link", "set", "lan0", "down") // switching it on is the service's
	return gw, peer
}

// start starts the service as process 1 does: its own user and three capabilities.
func (g *gateway) start() *testnet.Process {
	g.t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), serviceDir+"="+g.dir)
	if len(ownUsers(g.t)) > 1 { // else the kernel knows no other user here
		const user = 101
		if err := os.Chown(g.dir, user, user); err != nil {
			g.t.Fatal(err)
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Credential:  &syscall.Credential{Uid: user, Gid: user},
			AmbientCaps: []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_NET_BIND_SERVICE},
		}
	}
	s := g.Start(g.t, cmd)
	s.Wait(g.t, "ready")
	return s
}

// ownUsers is the lines of uid_map but that of a namespace with a single user.
func ownUsers(t *testing.T) []string {
	b, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(b))
	if fields[2] == "1" {
		return nil
	}
	return fields
}

// await waits until the service's status is as wanted, and returns it.
func (g *gateway) await(what string, wanted func(Status) bool) Status {
	g.t.Helper()
	client := newClient(filepath.Join(g.dir, "network.sock"))
	var last Status
	var err error
	for deadline := time.Now().Add(45 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		var s Status
		if s, err = client.Status(g.t.Context()); err == nil {
			if last = s; wanted(s) {
				return s
			}
		}
	}
	g.t.Fatalf("waited in vain for %s; status is %+v, %v", what, last, err)
	return last
}

// awaitLease waits for an address from network on the first port.
func (g *gateway) awaitLease(network string) (Port, Address) {
	g.t.Helper()
	var address Address
	s := g.await("an address of "+network, func(s Status) bool {
		a, ok := leased(s)
		address = a
		return ok && netip.MustParsePrefix(network).Contains(a.Prefix.Addr())
	})
	return s.Ports[0], address
}

func leased(s Status) (Address, bool) {
	if len(s.Ports) > 0 {
		for _, a := range s.Ports[0].Addresses {
			if a.Source == DHCP {
				return a, true
			}
		}
	}
	return Address{}, false
}

// serve starts a DHCP server for 10.N.0.0/24 on the peer's eth0.
func serve(t *testing.T, peer *testnet.Peer, n int, args ...string) *testnet.Process {
	t.Helper()
	peer.IP("-4", "addr", "flush", "dev", "eth0")
	return peer.Dnsmasq(t, "eth0", fmt.Sprintf("10.%d.0.1/24", n), append([]string{
		fmt.Sprintf("--dhcp-range=10.%d.0.50,10.%d.0.99,1h", n, n), "--dhcp-authoritative",
	}, args...)...)
}

func TestLeasesAnAddress(t *testing.T) {
	t.Parallel()
	gw, peer := withCable(t)
	server := serve(t, peer, 1, "--dhcp-option=option:dns-server,10.1.0.2,10.1.0.3")
	service := gw.start()
	port, address := gw.awaitLease("10.1.0.0/24")

	if port.Name != "lan0" || !port.Link || port.MAC == "" {
		t.Errorf("port is %+v", port)
	}
	if address.Prefix.Bits() != 24 || address.ValidSeconds < 3500 || address.ValidSeconds > 3600 {
		t.Errorf("address is %+v", address)
	}
	if want := netip.MustParseAddr("10.1.0.1"); port.Gateway != want {
		t.Errorf("gateway is %v, want %v", port.Gateway, want)
	}
	if want := []netip.Addr{netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("10.1.0.3")}; !slices.Equal(port.DNS, want) {
		t.Errorf("DNS servers are %v, want %v", port.DNS, want)
	}
	if route := gw.IP("route", "show", "default"); !strings.HasPrefix(route, "default via 10.1.0.1 dev lan0 proto 67") {
		t.Errorf("route is %q", route)
	}
	if got := gw.IP("-4", "addr", "show", "lan0"); !strings.Contains(got, "brd 10.1.0.255") || strings.Contains(got, "forever") {
		t.Errorf("kernel's address is %s", got)
	}
	conf, err := os.ReadFile(filepath.Join(gw.dir, "resolv.conf"))
	if err != nil || !strings.HasSuffix(string(conf), "\nnameserver 10.1.0.2\nnameserver 10.1.0.3\n") {
		t.Errorf("resolv.conf is %q, %v", conf, err)
	}
	log := strings.Join(server.Lines(), "\n")
	for _, want := range []string{"vendor class: cloudlink-gateway", "client provides name: "} {
		if !strings.Contains(log, want) {
			t.Errorf("the server was not told %q", want)
		}
	}

	// The gateway answers, and nothing in it listens.
	err = peer.Do(func() error {
		conn, err := net.DialTimeout("tcp4", netip.AddrPortFrom(address.Prefix.Addr(), 80).String(), 5*time.Second)
		if err == nil {
			conn.Close()
		}
		return err
	})
	if !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("connecting to the gateway: %v, want that it refuses", err)
	}

	service.Stop()
	service.Wait(t, "stopped")
	if got := gw.IP("-4", "addr", "show", "lan0"); !strings.Contains(got, address.Prefix.String()) {
		t.Errorf("the address went with the service: %q", got)
	}
}

func TestGoesOnAfterBeingKilled(t *testing.T) {
	t.Parallel()
	gw, peer := withCable(t)
	server := serve(t, peer, 2)
	service := gw.start()
	_, before := gw.awaitLease("10.2.0.0/24")
	server.Wait(t, "DHCPACK")

	monitor := gw.Start(t, exec.Command("ip", "-o", "monitor", "address", "route"))
	service.Kill()
	gw.start()
	server.Wait(t, "DHCPREQUEST") // for the address on the port, without a DISCOVER
	server.Wait(t, "DHCPACK")
	gw.await("the lease to be a full hour again", func(s Status) bool {
		a, ok := leased(s)
		return ok && a.Prefix == before.Prefix && a.ValidSeconds > 3590 && s.Ports[0].Gateway.IsValid()
	})
	log := strings.Join(server.Lines(), "\n")
	if n := strings.Count(log, "DHCPDISCOVER"); n != 1 {
		t.Errorf("the server saw %d DISCOVERs, want that of the first process alone", n)
	}
	for _, line := range monitor.Lines() {
		if strings.HasPrefix(line, "Deleted") && strings.Contains(line, "10.2.0.") {
			t.Errorf("gap: %s", line)
		}
	}
}

func TestKeepsAnAddressWhileNoServerAnswersAfterBeingKilled(t *testing.T) {
	t.Parallel()
	gw, peer := withCable(t)
	server := serve(t, peer, 3, "--dhcp-option=option:dns-server,10.3.0.2")
	service := gw.start()
	_, before := gw.awaitLease("10.3.0.0/24")
	server.Stop()
	service.Kill()
	gw.start()
	port, after := gw.awaitLease("10.3.0.0/24")
	if after.Prefix != before.Prefix || port.Gateway.String() != "10.3.0.1" || fmt.Sprint(port.DNS) != "[10.3.0.2]" {
		t.Errorf("port is %+v, want what the first process had", port)
	}
	serve(t, peer, 3) // it knows nothing of the lease any more
	gw.await("the lease to be a full hour again", func(s Status) bool {
		a, ok := leased(s)
		return ok && a.Prefix == before.Prefix && a.ValidSeconds > 3590
	})
}

func TestRenewsAtTheServersT1AndOutlivesItsRestart(t *testing.T) {
	t.Parallel()
	gw, peer := withCable(t)
	server := serve(t, peer, 4, "--dhcp-option=option:T1,10", "--dhcp-option=option:T2,600")
	gw.start()
	_, before := gw.awaitLease("10.4.0.0/24")
	server.Stop()
	server = serve(t, peer, 4, "--dhcp-option=option:T1,10", "--dhcp-option=option:T2,600")
	server.Wait(t, "DHCPREQUEST")
	server.Wait(t, "DHCPACK")
	gw.await("the lease to be a full hour again", func(s Status) bool {
		a, ok := leased(s)
		return ok && a.Prefix == before.Prefix && a.ValidSeconds > 3590
	})
	if log := strings.Join(server.Lines(), "\n"); strings.Contains(log, "DHCPDISCOVER") {
		t.Error("the lease was not renewed but lost")
	}
}

func TestTakesAnotherAddressWhenTheServersNetworkChanged(t *testing.T) {
	t.Parallel()
	gw, peer := withCable(t)
	server := serve(t, peer, 5, "--dhcp-option=option:T1,10", "--dhcp-option=option:T2,14")
	gw.start()
	gw.awaitLease("10.5.0.0/24")
	server.Stop()
	server = serve(t, peer, 6) // the cable stays: only the renewal can tell
	server.Wait(t, "DHCPNAK")
	port, _ := gw.awaitLease("10.6.0.0/24")
	if port.Gateway.String() != "10.6.0.1" {
		t.Errorf("gateway is %v", port.Gateway)
	}
	gw.hasOnly("10.6.0.")
}

// hasOnly checks that the only IPv4 address and default route are of the network that begins with
// prefix.
func (g *gateway) hasOnly(prefix string) {
	g.t.Helper()
	var ports []struct {
		Addrs []struct{ Local string } `json:"addr_info"`
	}
	if err := json.Unmarshal([]byte(g.IP("-4", "-json", "addr", "show", "lan0")), &ports); err != nil {
		g.t.Fatal(err)
	}
	if len(ports) != 1 || len(ports[0].Addrs) != 1 || !strings.HasPrefix(ports[0].Addrs[0].Local, prefix) {
		g.t.Errorf("addresses are %+v, want one of %s", ports, prefix)
	}
	if routes := g.IP("route", "show", "default"); strings.Count(routes, "\n") != 1 || !strings.HasPrefix(routes, "default via "+prefix) {
		g.t.Errorf("default routes are %q, want one over %s", routes, prefix)
	}
}

func TestCableIsMovedToAnotherNetwork(t *testing.T) {
	t.Parallel()
	gw, peer := withCable(t)
	server := serve(t, peer, 7)
	gw.start()
	gw.awaitLease("10.7.0.0/24")
	for _, next := range []int{8, 7, 8} {
		peer.IP("link", "set", "eth0", "down")
		s := gw.await("the link to be down", func(s Status) bool { return !s.Ports[0].Link })
		if c := s.Conditions(); len(c) != 1 || c[0].ID != condition.NoLink || c[0].Args["port"] != "lan0" {
			t.Errorf("conditions are %v", c)
		}
		server.Stop()
		server = serve(t, peer, next)
		peer.IP("link", "set", "eth0", "up")
		gw.awaitLease(fmt.Sprintf("10.%d.0.0/24", next))
		gw.hasOnly(fmt.Sprintf("10.%d.0.", next))
	}
}

func TestCableIsMovedToANetworkWhoseServerIgnoresStrangeAddresses(t *testing.T) {
	t.Parallel()
	gw, peer := withCable(t)
	server := serve(t, peer, 9)
	gw.start()
	gw.awaitLease("10.9.0.0/24")
	peer.IP("link", "set", "eth0", "down")
	gw.await("the link to be down", func(s Status) bool { return !s.Ports[0].Link })
	server.Stop()
	peer.IP("-4", "addr", "flush", "dev", "eth0")
	peer.Dnsmasq(t, "eth0", "10.10.0.1/24", "--dhcp-range=10.10.0.50,10.10.0.99,1h", "--dhcp-ignore-clid")
	peer.IP("link", "set", "eth0", "up")
	gw.awaitLease("10.10.0.0/24")
	gw.hasOnly("10.10.0.")
}

func TestServerComesLate(t *testing.T) {
	t.Parallel()
	gw, peer := withCable(t)
	gw.start()
	s := gw.await("a search", func(s Status) bool { return s.Ports[0].SearchingSeconds > 0 })
	if c := s.Conditions(); len(c) != 0 {
		t.Errorf("conditions are %v, want patience", c)
	}
	conf, err := os.ReadFile(filepath.Join(gw.dir, "resolv.conf"))
	if err != nil || strings.Contains(string(conf), "nameserver") {
		t.Errorf("resolv.conf is %q, %v", conf, err)
	}
	s.Ports[0].SearchingSeconds = patience
	if c := s.Conditions(); len(c) != 1 || c[0].ID != condition.NoAddress || c[0].Args["port"] != "lan0" {
		t.Errorf("conditions are %v", c)
	}
	serve(t, peer, 11)
	port, _ := gw.awaitLease("10.11.0.0/24")
	if port.SearchingSeconds != 0 {
		t.Errorf("searching although found: %+v", port)
	}
}

func TestPortComesLateAndGoes(t *testing.T) {
	t.Parallel()
	gw, peer := newGateway(t), testnet.New(t)
	gw.start()
	s := gw.await("no port", func(s Status) bool { return len(s.Ports) == 0 })
	if c := s.Conditions(); len(c) != 1 || c[0].ID != condition.NoNetworkPort {
		t.Errorf("conditions are %v", c)
	}
	for range 2 {
		gw.Plug("lan0", peer, "eth0")
		server := serve(t, peer, 12)
		gw.awaitLease("10.12.0.0/24")
		server.Stop()
		gw.IP("link", "del", "lan0")
		gw.await("no port", func(s Status) bool { return len(s.Ports) == 0 })
	}
}

func TestFirstOfTwoPortsIsConfigured(t *testing.T) {
	t.Parallel()
	gw, peer, other := newGateway(t), testnet.New(t), testnet.New(t)
	gw.Plug("lan1", peer, "eth0") // the kernel's order is not the alphabet's
	gw.Plug("lan0", other, "eth0")
	serve(t, peer, 13)
	serve(t, other, 14)
	gw.IP("link", "set", "lan0", "down")
	gw.start()
	port, _ := gw.awaitLease("10.13.0.0/24")
	if port.Name != "lan1" {
		t.Errorf("port %s has the lease", port.Name)
	}
	gw.await("the other port to be switched on", func(s Status) bool { return s.Ports[1].Link })
}

func TestRestoresWhatIsItsOwnAndLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	gw, peer := withCable(t)
	gw.IP("addr", "add", "192.168.7.7/24", "dev", "lan0")
	gw.IP("link", "set", "lan0", "up")
	gw.IP("route", "add", "default", "via", "192.168.7.1", "metric", "500")
	serve(t, peer, 15)
	gw.start()
	_, address := gw.awaitLease("10.15.0.0/24")
	restored := func(after string) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			addrs, routes := gw.IP("-4", "addr", "show", "lan0"), gw.IP("route", "show", "default")
			if strings.Contains(addrs, address.Prefix.String()) && strings.Contains(routes, "default via 10.15.0.1") {
				if !strings.Contains(addrs, "192.168.7.7/24") {
					t.Errorf("%s: the foreign address is gone: %s", after, addrs)
				}
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: not restored: %s%s", after, addrs, routes)
			}
		}
	}
	restored("start")
	gw.IP("addr", "del", address.Prefix.String(), "dev", "lan0")
	restored("address deleted")
	gw.IP("route", "del", "default", "via", "10.15.0.1")
	restored("route deleted")
	if routes := gw.IP("route", "show", "default"); !strings.Contains(routes, "via 192.168.7.1") {
		t.Errorf("the foreign route is gone: %s", routes)
	}
	gw.IP("link", "set", "lan0", "down")
	gw.await("the port to be on", func(s Status) bool { return s.Ports[0].Link })
	restored("port switched off")

	s := gw.await("both addresses", func(s Status) bool { return len(s.Ports[0].Addresses) > 1 })
	for _, a := range s.Ports[0].Addresses {
		if a.Prefix.String() == "192.168.7.7/24" && a.Source != Manual {
			t.Errorf("address %v is said to come from %s", a.Prefix, a.Source)
		}
	}
}

func TestReportsIPv6AddressesOfTheKernel(t *testing.T) {
	t.Parallel()
	gw, peer := withCable(t)
	peer.IP("addr", "add", "fd00:16::1/64", "dev", "eth0", "nodad")
	serve(t, peer, 16, "--enable-ra", "--dhcp-range=fd00:16::,ra-only,64,1h")
	gw.start()
	gw.await("an address that a router announced", func(s Status) bool {
		return slices.ContainsFunc(s.Ports[0].Addresses, func(a Address) bool {
			return a.Source == Kernel && a.ValidSeconds > 0 && netip.MustParsePrefix("fd00:16::/64").Contains(a.Prefix.Addr())
		})
	})
}

func TestSetsTheKernelsSettings(t *testing.T) {
	t.Parallel()
	gw, _ := withCable(t)
	gw.IP("link", "set", "lo", "down")
	gw.start()
	gw.await("the link", func(s Status) bool { return s.Ports[0].Link })
	if lo := gw.IP("link", "show", "lo"); !strings.Contains(lo, ",UP") {
		t.Errorf("loopback is %s", lo)
	}
	for name, want := range map[string]string{"ipv4/conf/*/accept_redirects": "0", "ipv4/conf/*/arp_ignore": "1", "ipv6/conf/*/accept_redirects": "0"} {
		for _, port := range []string{"all", "default", "lan0"} {
			path := "/proc/sys/net/" + strings.Replace(name, "*", port, 1)
			if got := strings.TrimSpace(gw.Run("cat", path)); got != want {
				t.Errorf("%s is %s, want %s", path, got, want)
			}
		}
	}
}

func TestLeasesAnIPv6Address(t *testing.T) {
	t.Parallel()
	gw, peer := withCable(t)
	peer.IP("addr", "add", "fd00:17::1/64", "dev", "eth0", "nodad")
	serve(t, peer, 17, "--enable-ra", "--dhcp-range=fd00:17::100,fd00:17::1ff,64,1h", "--dhcp-option=option6:dns-server,[fd00:17::53]")
	service := gw.start()
	var addr netip.Prefix
	gw.await("an address from DHCPv6", func(s Status) bool {
		for _, a := range s.Ports[0].Addresses {
			if a.Source == DHCP6 && a.ValidSeconds > 3000 {
				addr = a.Prefix
			}
		}
		return addr.IsValid() && slices.Contains(s.Ports[0].DNS, netip.MustParseAddr("fd00:17::53"))
	})
	service.Kill()
	gw.start()
	gw.await("the same address after a restart", func(s Status) bool {
		return slices.ContainsFunc(s.Ports[0].Addresses, func(a Address) bool { return a.Source == DHCP6 && a.Prefix == addr })
	})
}
