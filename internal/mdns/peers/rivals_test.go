package peers

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"cloudlink.local/gateway/internal/mdns"
	"cloudlink.local/gateway/internal/mdns/conformance"
	"cloudlink.local/gateway/internal/mdns/mdnstest"
	"cloudlink.local/gateway/internal/testnet"
)

const (
	short    = "cloudlink.local"
	unique   = "cloudlink-4711af.local"
	service  = instance + "._http._tcp.local"
	steadily = 8 * time.Second // in which nothing may change any more
)

// ours are all names of the gateway.
var ours = []string{short, unique, service}

// mac is the hardware address of a machine's port.
func mac(t *testing.T, p *testnet.Peer, port string) (mac net.HardwareAddr) {
	t.Helper()
	err := p.Do(func() error {
		ifi, err := net.InterfaceByName(port)
		if err == nil {
			mac = ifi.HardwareAddr
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return mac
}

// lost waits until the short name is lost on the port, to the rival.
func lost(t *testing.T, h *mdnstest.Host, rival *testnet.Peer) {
	t.Helper()
	becomes(t, h, port, short, mdns.Lost)
	want := mac(t, rival, port).String()
	mdnstest.Eventually(t, patient, "the rival is named with its hardware address", func() bool {
		n := name(h, port, short)
		return n.Rival != nil && n.Rival.MAC.String() == want
	})
	n := name(h, port, short)
	if !n.Rival.Addr.IsValid() || n.Rival.Since.IsZero() || time.Since(n.Rival.Since) > time.Hour {
		t.Errorf("the rival is %+v", n.Rival)
	}
	if n.Rival.Addr.Is4() && n.Rival.Addr != netip.MustParseAddr("192.0.2.2") {
		t.Errorf("the rival's address is %v", n.Rival.Addr)
	}
}

// changes is what states a name has had, without repetitions.
func changes(h *mdnstest.Host, of string) (all []string) {
	for _, s := range h.Statuses() {
		for _, l := range s.Links {
			for _, n := range l.Names {
				if n.Name == of && (len(all) == 0 || all[len(all)-1] != string(n.State)) {
					all = append(all, string(n.State))
				}
			}
		}
	}
	return all
}

func TestRivalHasTheNameAndLeaves(t *testing.T) {
	t.Parallel()
	for _, kind := range []mdnstest.Kind{mdnstest.Avahi, mdnstest.Resolved} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			l := newLAN(t)
			rivals := l.machine(t, clientAddrs...)
			rival := mdnstest.New(t, rivals, kind, mdnstest.Names{Host: "cloudlink"}, mdnstest.Options{Bus: true})
			rival.Start()
			c := client(t, l.machine(t, "192.0.2.3/24"))
			says(t, c, []string{"192.0.2.2"}, "avahi-resolve", "-4", "-n", short)

			h := gateway(t, l.machine(t, gatewayAddrs...))
			lost(t, h, rivals)
			becomes(t, h, port, unique, mdns.Announced)
			becomes(t, h, port, service, mdns.Announced)
			says(t, c, []string{"192.0.2.1"}, "avahi-resolve", "-4", "-n", unique)
			says(t, c, []string{"hostname = [" + unique + "]"}, "avahi-browse", "-rt", "_http._tcp")
			says(t, c, []string{"192.0.2.2"}, "avahi-resolve", "-4", "-n", short)

			rival.Stop()
			// resolved says no goodbye: its name is found free by asking now and then.
			mdnstest.Eventually(t, 3*time.Minute, "the name is ours again", func() bool { return name(h, port, short).State == mdns.Announced })
			if n := name(h, port, short); n.Rival != nil {
				t.Errorf("the name is announced and has a rival: %+v", n.Rival)
			}
			if got := strings.Join(changes(h, short), " "); got != "probing lost probing announced" {
				t.Errorf("the short name was: %s", got)
			}
		})
	}
}

func TestRivalComesLaterAndYields(t *testing.T) {
	t.Parallel()
	for _, kind := range []mdnstest.Kind{mdnstest.Avahi, mdnstest.Resolved} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			l := newLAN(t)
			h := gateway(t, l.machine(t, gatewayAddrs...))
			becomes(t, h, port, short, mdns.Announced)
			rival := mdnstest.New(t, l.machine(t, clientAddrs...), kind, mdnstest.Names{Host: "cloudlink"}, mdnstest.Options{Bus: true})
			rival.Start()
			c := client(t, l.machine(t, "192.0.2.3/24"))
			time.Sleep(steadily)
			becomes(t, h, port, short, mdns.Announced)
			says(t, c, []string{"192.0.2.1"}, "avahi-resolve", "-4", "-n", short)
			for _, state := range changes(h, short) {
				if state == string(mdns.Lost) {
					t.Errorf("the short name was: %v", changes(h, short))
				}
			}
		})
	}
}

// second is another gateway's names: the short name is the same.
var second = mdnstest.Names{
	Host: "cloudlink", Unique: "cloudlink-0022bb",
	Services: []mdnstest.Service{{Instance: "CloudLink Gateway (22bb)", Type: "_http._tcp", Port: 80, Text: []string{"path=/"}}},
}

func TestTwoGatewaysOnOneLAN(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	a, b := l.machine(t, "192.0.2.1/24"), l.machine(t, "192.0.2.2/24")
	one := mdnstest.New(t, a, mdnstest.Ours, mdnstest.Gateway, mdnstest.Options{})
	two := mdnstest.New(t, b, mdnstest.Ours, second, mdnstest.Options{})
	one.Start() // at the same time, nearly: whoever loses the tie-break probes again, and is denied
	two.Start()
	c := client(t, l.machine(t, "192.0.2.3/24"))
	becomes(t, one, port, unique, mdns.Announced)
	becomes(t, two, port, "cloudlink-0022bb.local", mdns.Announced)
	mdnstest.Eventually(t, patient, "one of them has the short name and the other has lost it", func() bool {
		x, y := name(one, port, short).State, name(two, port, short).State
		return x == mdns.Announced && y == mdns.Lost || x == mdns.Lost && y == mdns.Announced
	})
	says(t, c, []string{"192.0.2.1"}, "avahi-resolve", "-4", "-n", unique)
	says(t, c, []string{"192.0.2.2"}, "avahi-resolve", "-4", "-n", "cloudlink-0022bb.local")
	says(t, c, []string{instance, "CloudLink Gateway (22bb)"}, "avahi-browse", "-rt", "_http._tcp")

	winner, loser, winners := one, two, a
	if name(two, port, short).State == mdns.Announced {
		winner, loser, winners = two, one, b
	}
	mdnstest.Eventually(t, patient, "the loser names the winner", func() bool {
		n := name(loser, port, short)
		return n.Rival != nil && n.Rival.MAC.String() == mac(t, winners, port).String()
	})
	winner.Stop()
	// Its goodbye may be lost, on a busy machine: then the name is found free by asking now and then.
	mdnstest.Eventually(t, 3*time.Minute, "the name is the loser's", func() bool { return name(loser, port, short).State == mdns.Announced })
}

func TestClonedGateway(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	one := gateway(t, l.machine(t, "192.0.2.1/24"))
	for _, n := range ours {
		becomes(t, one, port, n, mdns.Announced)
	}
	two := gateway(t, l.machine(t, "192.0.2.2/24"))
	becomes(t, two, port, short, mdns.Lost)
	becomes(t, two, port, "cloudlink-4711af-2.local", mdns.Announced)
	becomes(t, two, port, instance+" (2)._http._tcp.local", mdns.Announced)
	for _, n := range ours {
		becomes(t, one, port, n, mdns.Announced)
	}
	c := client(t, l.machine(t, "192.0.2.3/24"))
	says(t, c, []string{"192.0.2.1"}, "avahi-resolve", "-4", "-n", unique)
	says(t, c, []string{"192.0.2.2"}, "avahi-resolve", "-4", "-n", "cloudlink-4711af-2.local")
	if n := name(two, port, "cloudlink-4711af-2.local"); n.Instead != unique || n.Rival == nil {
		t.Errorf("%+v", n)
	}

	one.Stop()
	for _, n := range ours {
		mdnstest.Eventually(t, 3*time.Minute, n+" is the clone's, which has no number any more", func() bool {
			return name(two, port, n).State == mdns.Announced && len(two.Status().Links[0].Names) == len(ours)
		})
	}
	says(t, c, []string{"192.0.2.2"}, "avahi-resolve", "-4", "-n", unique)
	says(t, c, []string{"hostname = [" + unique + "]"}, "avahi-browse", "-rt", "_http._tcp")
}

// steady fails the test unless all names are announced on these ports, were never lost, and no packet
// more than a few is sent.
func steady(t *testing.T, h *mdnstest.Host, taps map[*conformance.Tap]netip.Addr, ports ...string) {
	t.Helper()
	for _, p := range ports {
		for _, n := range ours {
			becomes(t, h, p, n, mdns.Announced)
		}
	}
	time.Sleep(4 * time.Second) // the last announcement
	before := map[*conformance.Tap]int{}
	for tap, host := range taps {
		before[tap] = tap.Packets(host)
	}
	time.Sleep(steadily)
	for tap, host := range taps {
		if n := tap.Packets(host) - before[tap]; n > 2 {
			t.Errorf("%v has sent %d packets in %v, though all is settled", host, n, steadily)
		}
	}
	for _, p := range ports {
		for _, n := range ours {
			becomes(t, h, p, n, mdns.Announced)
		}
	}
	for _, s := range h.Statuses() {
		for _, l := range s.Links {
			for _, n := range l.Names {
				if n.State == mdns.Lost || n.Rival != nil || strings.Contains(n.Name, "-2.") || strings.Contains(n.Name, "(2)") {
					t.Fatalf("on %s: %+v", l.Name, n)
				}
			}
		}
	}
}

// own fails the test if a host has told on a LAN of an address that is not among these.
func own(t *testing.T, tap *conformance.Tap, host netip.Addr, addrs ...string) {
	t.Helper()
	claims := tap.Claims(host)
	if len(claims) == 0 {
		t.Errorf("%v says nothing", host)
	}
	for _, c := range claims {
		known := c.Address.IsLinkLocalUnicast()
		for _, a := range addrs {
			known = known || c.Address.String() == a
		}
		if !known {
			t.Errorf("%v tells of %v: %s", host, c.Address, c.Name)
		}
	}
}

func TestBothPortsInOneSwitch(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	p := testnet.New(t)
	l.join(p, "lan0", "192.0.2.1/24")
	l.join(p, "lan1", "198.51.100.1/24")
	tap := conformance.Listen(t, l.Peer, testnet.Bridge)
	h := gateway(t, p)
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.1")
	steady(t, h, map[*conformance.Tap]netip.Addr{tap: a}, "lan0", "lan1")
	own(t, tap, a, "192.0.2.1")
	own(t, tap, b, "198.51.100.1")
	c := client(t, l.machine(t, "192.0.2.2/24", "198.51.100.2/24"))
	says(t, c, []string{short + "\t"}, "avahi-resolve", "-4", "-n", short)
	says(t, c, []string{"=   lan0 IPv4 " + instance}, "avahi-browse", "-rt", "_http._tcp")

	// One of them is pulled: the other answers still, with its own address alone.
	p.IP("link", "set", "lan1", "down")
	mdnstest.Eventually(t, patient, "the pulled port is not a link any more", func() bool { return len(h.Status().Links) == 1 })
	for _, n := range ours {
		becomes(t, h, "lan0", n, mdns.Announced)
	}
	p.IP("link", "set", "lan1", "up")
	steady(t, h, map[*conformance.Tap]netip.Addr{tap: b}, "lan0", "lan1")
}

func TestReflectorBetweenBothLANs(t *testing.T) {
	t.Parallel()
	left, right := newLAN(t), newLAN(t)
	reflects := testnet.New(t)
	left.join(reflects, "lan0", "192.0.2.9/24")
	right.join(reflects, "lan1", "198.51.100.9/24")
	reflector := mdnstest.New(t, reflects, mdnstest.Avahi, mdnstest.Names{Host: "reflector"}, mdnstest.Options{Reflect: true})
	reflector.Start()
	reflector.Await("Server startup complete")
	p := testnet.New(t)
	left.join(p, "lan0", "192.0.2.1/24")
	right.join(p, "lan1", "198.51.100.1/24")
	taps := []*conformance.Tap{conformance.Listen(t, left.Peer, testnet.Bridge), conformance.Listen(t, right.Peer, testnet.Bridge)}
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.1")
	h := gateway(t, p)
	steady(t, h, map[*conformance.Tap]netip.Addr{taps[0]: a, taps[1]: b}, "lan0", "lan1")
	own(t, taps[0], a, "192.0.2.1")
	own(t, taps[1], b, "198.51.100.1")
	if len(taps[0].Claims(netip.MustParseAddr("192.0.2.9"))) == 0 {
		t.Error("the reflector reflects nothing")
	}

	// The address changes: the old one comes back from the other LAN for a while.
	p.IP("addr", "add", "192.0.2.7/24", "dev", "lan0")
	mdnstest.Eventually(t, patient, "the new address is announced", func() bool {
		for _, c := range taps[0].Claims(a) {
			if c.Address.String() == "192.0.2.7" {
				return true
			}
		}
		return false
	})
	p.IP("addr", "del", "192.0.2.1/24", "dev", "lan0")
	steady(t, h, nil, "lan0", "lan1")
	own(t, taps[0], a, "192.0.2.1", "192.0.2.7")
	own(t, taps[1], b, "198.51.100.1")
}

func TestReflectorBesideOnePort(t *testing.T) {
	t.Parallel()
	left, right := newLAN(t), newLAN(t)
	reflects := testnet.New(t)
	left.join(reflects, "lan0", "192.0.2.9/24")
	right.join(reflects, "lan1", "198.51.100.9/24")
	reflector := mdnstest.New(t, reflects, mdnstest.Avahi, mdnstest.Names{Host: "reflector"}, mdnstest.Options{Reflect: true})
	reflector.Start()
	reflector.Await("Server startup complete")
	h := gateway(t, left.machine(t, "192.0.2.1/24"))
	steady(t, h, nil, port)
	c := client(t, right.machine(t, "198.51.100.2/24"))
	says(t, c, []string{"192.0.2.1"}, "avahi-resolve", "-4", "-n", short)
}
