package reconcile

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vishvananda/netlink"

	"cloudlink.local/gateway/internal/network/spec"
	"cloudlink.local/gateway/internal/testnet"
)

func TestSecondRunChangesNothing(t *testing.T) {
	t.Parallel()
	g, peer := newGateway(t), testnet.New(t)
	g.Plug("lan0", peer, "eth0")
	g.Plug("lan1", peer, "eth1")
	g.ip("link set lan0 down")
	end := time.Now().Add(time.Hour)
	links := ports("lan0", "lan1")
	links[0].MTU = 1400
	links[0].StableSecret = ip("2001:db8:1:2:3:4:5:6")
	noRoute := address("lan1", "10.2.0.5/24")
	noRoute.NoPrefixRoute = true
	want := spec.Policy(spec.Merge(spec.Spec{
		Links: links,
		Addresses: []spec.Address{
			{Link: "lan0", Prefix: subnet("10.1.0.5/24"), Source: spec.DHCP, Valid: end},
			{Link: "lan0", Prefix: subnet("10.1.0.6/24"), Source: spec.DHCP, Valid: end, Preferred: time.Now()},
			{Link: "lan0", Prefix: subnet("fd01::5/64"), Source: spec.DHCPv6, Valid: end, Preferred: end.Add(-time.Minute)},
			{Link: "lan0", Prefix: subnet("fd01::6/64"), Preferred: end},
			noRoute,
			address("lan1", "fd02::5/64"),
			address("lan1", "10.9.0.5/31"),
		},
		Routes: []spec.Route{
			{Link: "lan0", Destination: everyv4, Via: ip("10.1.0.1"), PreferredSource: ip("10.1.0.6"), Metric: 100},
			{Link: "lan0", Destination: everyv6, Via: ip("fd01::1"), PreferredSource: ip("fd01::6"), Metric: 100},
			route("lan1", "0.0.0.0/0", "10.2.0.1", 100),
			route("lan1", "10.2.0.0/24", "", 7),
			route("lan1", "::/0", "fe80::1", 0),
			{Link: "lan1", Destination: subnet("10.77.0.0/16"), Via: ip("10.200.0.1"), OnLink: true},
		},
		Rules: []spec.Rule{{Priority: 99, From: subnet("10.0.0.0/8"), Table: spec.Main}},
	}))
	g.settle(want)
	for _, a := range want.Addresses {
		if !g.has(a.Prefix.String()) {
			t.Errorf("%v is missing", a.Prefix)
		}
	}
	checkRoutes(g, want)

	monitor := g.Start(t, exec.Command("ip", "-o", "monitor", "link", "address", "route", "rule"))
	marker := 0
	mark := func() { // waits until the monitor is there
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			marker++
			g.ip("rule add prio %d from 203.0.113.9 lookup main", marker)
			if strings.Contains(strings.Join(monitor.Lines(), "\n"), "203.0.113.9") {
				return
			}
			if time.Now().After(deadline) {
				t.Fatal("ip monitor shows nothing")
			}
		}
	}
	mark()
	monitor.Wait(t, fmt.Sprintf("%d:", marker))
	before := len(monitor.Lines())
	for range 3 {
		if n := g.make(want); n != 0 {
			t.Errorf("%d changes in a second run", n)
		}
	}
	g.ip("rule add prio %d from 203.0.113.9 lookup main", marker+1)
	monitor.Wait(t, fmt.Sprintf("%d:", marker+1))
	for _, line := range monitor.Lines()[before:] {
		if !strings.Contains(line, "203.0.113.9") {
			t.Errorf("the kernel saw a change: %s", line)
		}
	}
}

func TestFailingStepDoesNotHinderTheRest(t *testing.T) {
	t.Parallel()
	g, peer := newGateway(t), testnet.New(t)
	g.Plug("lan0", peer, "eth0")
	links := ports("lan0")
	links[0].MTU = 100_000_000
	want := spec.Merge(spec.Spec{
		Links:     links,
		Addresses: []spec.Address{address("lan0", "10.1.0.5/24")},
		Routes: []spec.Route{
			route("lan0", "10.2.0.0/16", "10.99.0.1", 5), // no way to this router
			route("lan0", "10.3.0.0/16", "10.1.0.1", 5),
		},
	})
	n, err := g.try(want)
	if err == nil || !strings.Contains(err.Error(), "set route to 10.2.0.0/16 via 10.99.0.1 on lan0, metric 5: network is unreachable") ||
		!strings.Contains(err.Error(), "set MTU of lan0 to 100000000: ") {
		t.Errorf("error is %v", err)
	}
	if n > 40 {
		t.Errorf("%d changes", n)
	}
	if !strings.Contains(g.ip("route"), "10.3.0.0/16 via 10.1.0.1 dev lan0 proto 67") {
		t.Errorf("the good route is missing: %s", g.ip("route"))
	}
	if n, _ := g.try(want); n > 4 {
		t.Errorf("%d changes in a second run, want only the two that fail, twice", n)
	}
}

func TestPortComesLateAndGoes(t *testing.T) {
	t.Parallel()
	g, peer := newGateway(t), testnet.New(t)
	want := spec.Policy(spec.Merge(spec.Spec{
		Links:     ports("lan0"),
		Addresses: []spec.Address{address("lan0", "10.1.0.5/24")},
		Routes:    []spec.Route{route("lan0", "0.0.0.0/0", "10.1.0.1", 100)},
	}))
	for range 2 {
		g.make(want)
		g.Plug("lan0", peer, "eth0")
		g.make(want)
		checkRoutes(g, want)
		if n := g.make(want); n != 0 {
			t.Errorf("%d changes in a second run", n)
		}
		g.ip("link del lan0")
	}
	if n := g.make(spec.Spec{}); n == 0 || len(g.state().Rules) != 0 {
		t.Errorf("%d changes for nothing wanted; rules are %+v", n, g.state().Rules)
	}
}

func TestMTUAndLinkAreRestored(t *testing.T) {
	t.Parallel()
	g, peer := newGateway(t), testnet.New(t)
	g.Plug("lan0", peer, "eth0")
	links := ports("lan0")
	links[0].MTU = 1300
	want := spec.Merge(spec.Spec{Links: links, Addresses: []spec.Address{address("lan0", "10.1.0.5/24")}})
	restored := func(after string, mtu int) {
		t.Helper()
		g.make(want)
		l, _ := g.state().link("lan0")
		if !l.Up || l.MTU != mtu || !g.has("10.1.0.5/24") {
			t.Errorf("%s: link is %+v", after, l)
		}
	}
	restored("start", 1300)
	g.ip("link set lan0 mtu 1400")
	restored("another MTU", 1300)
	g.ip("link set lan0 down")
	restored("switched off", 1300)
	g.ip("addr flush dev lan0")
	restored("flushed", 1300)
	want.Links[0].MTU = 0
	restored("MTU left alone", 1300)
}

func TestTakingOneOfSeveralAddressesAwayLeavesTheOthers(t *testing.T) {
	t.Parallel()
	g, peer := newGateway(t), testnet.New(t)
	g.Plug("lan0", peer, "eth0")
	all := spec.Spec{Links: ports("lan0")}
	for i := range 6 {
		all.Addresses = append(all.Addresses, address("lan0", fmt.Sprintf("10.1.0.%d/24", i+1)))
	}
	all.Routes = []spec.Route{route("lan0", "0.0.0.0/0", "10.1.0.254", 100)}
	g.make(spec.Policy(spec.Merge(all)))
	g.ip("addr add 10.1.0.99/24 dev lan0") // somebody else's
	monitor := g.Start(t, exec.Command("ip", "-o", "monitor", "address"))
	for deadline := time.Now().Add(30 * time.Second); len(monitor.Lines()) == 0; time.Sleep(10 * time.Millisecond) {
		g.run("addr del 10.1.9.9/24 dev lan0")
		g.ip("addr add 10.1.9.9/24 dev lan0")
		if time.Now().After(deadline) {
			t.Fatal("ip monitor shows nothing")
		}
	}
	for len(all.Addresses) > 0 {
		all.Addresses = all.Addresses[1:] // the first is the primary one
		want := spec.Policy(spec.Merge(all))
		if len(all.Addresses) == 0 {
			want.Routes = nil
		}
		g.make(want)
		if n := g.make(want); n != 0 {
			t.Errorf("%d changes in a second run", n)
		}
		checkRoutes(g, want)
		for _, a := range all.Addresses {
			if !g.has(a.Prefix.String()) {
				t.Errorf("%v went along", a.Prefix)
			}
		}
	}
	if !g.has("10.1.0.99/24") {
		t.Error("the foreign address is gone")
	}
	for _, line := range monitor.Lines() {
		if strings.HasPrefix(line, "Deleted") && strings.Contains(line, "10.1.0.99") {
			t.Errorf("gap: %s", line)
		}
	}
}

func TestLifetimesAreWrittenOnlyWhenTheyDiffer(t *testing.T) {
	t.Parallel()
	g, peer := newGateway(t), testnet.New(t)
	g.Plug("lan0", peer, "eth0")
	for _, p := range []string{"10.1.0.5/24", "fd01::5/64"} {
		now := time.Now()
		a := address("lan0", p)
		for _, c := range []struct {
			name             string
			valid, preferred time.Time
			shown            string
		}{
			{"an hour", now.Add(time.Hour), time.Time{}, "valid_lft 3"},
			{"preferred for half", now.Add(time.Hour), now.Add(time.Hour / 2), "preferred_lft 1"},
			{"no longer preferred", now.Add(time.Hour), now.Add(-time.Hour), "preferred_lft 0sec"},
			{"the longest with an end", now.Add((1<<32 - 2) * time.Second), time.Time{}, "valid_lft 42949"},
			{"more than the kernel's longest", now.Add(1 << 33 * time.Second), time.Time{}, "valid_lft 42949"},
			{"no end", time.Time{}, now.Add(time.Hour), "valid_lft forever preferred_lft forever"},
		} {
			a.Valid, a.Preferred = c.valid, c.preferred
			want := spec.Merge(spec.Spec{Links: ports("lan0"), Addresses: []spec.Address{a}})
			g.settle(want)
			if out := g.ip("-o addr show to %v", a.Prefix.Addr()); !strings.Contains(out, c.shown) {
				t.Errorf("%s: %s", c.name, out)
			}
			if n := g.make(want); n != 0 {
				t.Errorf("%s, %s: %d changes in a second run", p, c.name, n)
			}
		}
		a.Valid = now.Add(-time.Second)
		g.make(spec.Merge(spec.Spec{Links: ports("lan0"), Addresses: []spec.Address{a}}))
		if g.has(p) {
			t.Errorf("%s is past its end and there", p)
		}
	}
}

func TestAddressGetsAnotherSubnetOrPort(t *testing.T) {
	t.Parallel()
	g, peer := newGateway(t), testnet.New(t)
	peer.IP("link", "add", "br0", "type", "bridge")
	peer.IP("link", "set", "br0", "up")
	for _, n := range []string{"0", "1"} { // both ports in one network
		g.Plug("lan"+n, peer, "eth"+n)
		peer.IP("link", "set", "eth"+n, "master", "br0")
	}
	for _, p := range []string{"10.1.0.5/24", "10.1.0.5/16", "fd01::5/64", "fd01::5/56"} {
		for _, link := range []string{"lan0", "lan1"} {
			want := spec.Merge(spec.Spec{Links: ports("lan0", "lan1"), Addresses: []spec.Address{address(link, p)}})
			g.settle(want)
			if out := g.ip("-o addr show to %v", subnet(p).Addr()); strings.Count(out, "\n") != 1 ||
				!strings.Contains(out, link) || !strings.Contains(out, " "+p+" ") {
				t.Errorf("%s on %s: %s", p, link, out)
			}
		}
		a := address("lan1", p)
		a.NoPrefixRoute = true
		want := spec.Merge(spec.Spec{Links: ports("lan0", "lan1"), Addresses: []spec.Address{a}})
		g.settle(want)
		if !strings.Contains(g.ip("-o addr show to %v", subnet(p).Addr()), "noprefixroute") {
			t.Errorf("%s has a route to its subnet", p)
		}
	}
}

func TestDuplicateIPv6AddressIsReportedAndNotSetAgainAndAgain(t *testing.T) {
	t.Parallel()
	for name, valid := range map[string]time.Time{"with an end": time.Now().Add(time.Hour), "without": {}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, peer := newGateway(t), testnet.New(t)
			g.Plug("lan0", peer, "eth0")
			peer.IP("addr", "add", "fd01::5/64", "dev", "eth0", "nodad")
			want := spec.Merge(spec.Spec{
				Links:     ports("lan0"),
				Addresses: []spec.Address{{Link: "lan0", Prefix: subnet("fd01::5/64"), Valid: valid}, address("lan0", "fd01::6/64")},
				Routes:    []spec.Route{{Link: "lan0", Destination: everyv6, Via: ip("fe80::1"), PreferredSource: ip("fd01::5")}},
			})
			var duplicate DuplicateError
			for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
				if _, err := g.try(want); errors.As(err, &duplicate) {
					break
				} else if err != nil {
					t.Fatal(err)
				}
				if time.Now().After(deadline) {
					t.Fatalf("no duplicate is reported: %s", g.ip("addr"))
				}
			}
			if (duplicate != DuplicateError{"lan0", ip("fd01::5")}) {
				t.Errorf("reported is %+v", duplicate)
			}
			for range 3 {
				if n, err := g.try(want); n != 0 || !errors.As(err, &duplicate) {
					t.Errorf("%d changes, %v, want none and a report", n, err)
				}
			}
			peer.IP("addr", "del", "fd01::5/64", "dev", "eth0")
			without := want
			without.Addresses = want.Addresses[1:]
			g.make(without)
			for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
				g.make(want) // asked anew, it is free
				if strings.Contains(g.ip("-6 route"), "default via fe80::1 dev lan0 proto 67 src fd01::5") {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("the address is not used: %s", g.ip("addr"))
				}
			}
		})
	}
}

func TestRepliesLeaveByThePortTheyCameInOn(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	var peers []*testnet.Peer
	for n := range 2 { // far away, both have the same address
		peer := testnet.New(t)
		g.Plug(fmt.Sprintf("lan%d", n), peer, "eth0")
		peer.IP("addr", "add", fmt.Sprintf("10.%d.0.1/24", n), "dev", "eth0")
		peer.IP("addr", "add", fmt.Sprintf("fd0%d::1/64", n), "dev", "eth0", "nodad")
		peer.IP("addr", "add", "198.51.100.1/32", "dev", "lo")
		peer.IP("addr", "add", "2001:db8::1/128", "dev", "lo")
		peers = append(peers, peer)
	}
	plain := spec.Merge(spec.Spec{
		Links: ports("lan0", "lan1"),
		Addresses: []spec.Address{
			address("lan0", "10.0.0.5/24"), address("lan0", "fd00::5/64"),
			address("lan1", "10.1.0.5/24"), address("lan1", "fd01::5/64"),
		},
		Routes: []spec.Route{
			route("lan0", "0.0.0.0/0", "10.0.0.1", 100), route("lan0", "::/0", "fd00::1", 100),
			route("lan1", "0.0.0.0/0", "10.1.0.1", 101), route("lan1", "::/0", "fd01::1", 101),
		},
	})
	g.settle(plain)
	if answers(peers[1], "198.51.100.1", "10.1.0.5") || answers(peers[1], "2001:db8::1", "fd01::5") {
		t.Error("replies leave by the right port without Policy: the test proves nothing")
	}
	g.settle(spec.Policy(plain))
	for n, peer := range peers {
		if !answers(peer, "198.51.100.1", fmt.Sprintf("10.%d.0.5", n)) {
			t.Errorf("no answer by IPv4 on lan%d", n)
		}
		if !answers(peer, "2001:db8::1", fmt.Sprintf("fd0%d::5", n)) {
			t.Errorf("no answer by IPv6 on lan%d", n)
		}
	}
	for _, to := range []string{"203.0.113.9", "2001:db8:9::9"} { // our own way out is the first port's
		if out := g.ip("route get %s", to); !strings.Contains(out, "dev lan0") {
			t.Errorf("way to %s is %s", to, out)
		}
	}
}

func TestRepliesLeaveByThePortTheyCameInOnWhereBothAreInOneSubnet(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	want := spec.Spec{Links: ports("lan0", "lan1")}
	var peers []*testnet.Peer
	for n := range 2 {
		peer := testnet.New(t)
		g.Plug(fmt.Sprintf("lan%d", n), peer, "eth0")
		peer.IP("addr", "add", "10.0.0.1/24", "dev", "eth0")
		peer.IP("addr", "add", "fd00::1/64", "dev", "eth0", "nodad")
		peers = append(peers, peer)
		want.Addresses = append(want.Addresses, address(fmt.Sprintf("lan%d", n), fmt.Sprintf("10.0.0.%d/24", n+5)),
			address(fmt.Sprintf("lan%d", n), fmt.Sprintf("fd00::%d/64", n+5)))
	}
	g.settle(spec.Policy(spec.Merge(want)))
	for n, peer := range peers {
		if !answers(peer, "10.0.0.1", fmt.Sprintf("10.0.0.%d", n+5)) {
			t.Errorf("no answer by IPv4 on lan%d", n)
		}
		if !answers(peer, "fd00::1", fmt.Sprintf("fd00::%d", n+5)) {
			t.Errorf("no answer by IPv6 on lan%d", n)
		}
	}
}

func TestLinkLocalAddressAnswersEverybodyOnTheLink(t *testing.T) {
	t.Parallel()
	g, peer := newGateway(t), testnet.New(t)
	g.Plug("lan0", peer, "eth0")
	peer.IP("addr", "add", "192.168.5.9/24", "dev", "eth0")
	peer.IP("route", "add", "169.254.0.0/16", "dev", "eth0") // as desktops have it
	g.make(spec.Policy(spec.Merge(spec.Spec{Links: ports("lan0"), Addresses: []spec.Address{address("lan0", "169.254.7.7/16")}})))
	if !answers(peer, "192.168.5.9", "169.254.7.7") {
		t.Error("no answer")
	}
}

func TestOldAndNewConfigurationStandSideBySide(t *testing.T) {
	t.Parallel()
	g, lan := newGateway(t), testnet.New(t)
	g.Plug("lan0", lan, "port0")
	lan.IP("link", "add", "br0", "type", "bridge")
	lan.IP("link", "set", "br0", "up")
	lan.IP("link", "set", "port0", "master", "br0")
	var routers []*testnet.Peer
	for n := range 2 { // each forwards only for its own subnet: the owner's browser is behind both
		router := testnet.New(t)
		lan.Plug(fmt.Sprintf("port%d", n+1), router, "eth0")
		lan.IP("link", "set", fmt.Sprintf("port%d", n+1), "master", "br0")
		router.IP("addr", "add", fmt.Sprintf("10.%d.0.1/24", n), "dev", "eth0")
		router.IP("addr", "add", fmt.Sprintf("fd0%d::1/64", n), "dev", "eth0", "nodad")
		router.IP("addr", "add", "198.51.100.1/32", "dev", "lo")
		router.IP("addr", "add", "2001:db8::1/128", "dev", "lo")
		routers = append(routers, router)
	}
	config := func(n int) spec.Spec {
		return spec.Spec{
			Links:     ports("lan0"),
			Addresses: []spec.Address{address("lan0", fmt.Sprintf("10.%d.0.5/24", n)), address("lan0", fmt.Sprintf("fd0%d::5/64", n))},
			Routes: []spec.Route{
				route("lan0", "0.0.0.0/0", fmt.Sprintf("10.%d.0.1", n), 100),
				route("lan0", "::/0", fmt.Sprintf("fd0%d::1", n), 100),
			},
		}
	}
	reachable := func(step string, want ...bool) {
		t.Helper()
		for n, r := range routers {
			if answers(r, "198.51.100.1", fmt.Sprintf("10.%d.0.5", n)) != want[n] {
				t.Errorf("%s: by IPv4, the address of configuration %d answers is not %t", step, n, want[n])
			}
			if answers(r, "2001:db8::1", fmt.Sprintf("fd0%d::5", n)) != want[n] {
				t.Errorf("%s: by IPv6, the address of configuration %d answers is not %t", step, n, want[n])
			}
		}
	}
	ways := func(step string, n int) {
		t.Helper()
		for to, via := range map[string]string{"203.0.113.9": fmt.Sprintf("10.%d.0.1", n), "2001:db8:9::9": fmt.Sprintf("fd0%d::1", n)} {
			if out := g.ip("route get %s", to); !strings.Contains(out, "via "+via+" ") {
				t.Errorf("%s: way to %s is %s", step, to, out)
			}
		}
	}
	g.settle(spec.Policy(spec.Merge(config(0))))
	reachable("before", true, false)
	ways("before", 0)
	both := spec.Policy(spec.Merge(spec.Behind(config(0)), config(1)))
	g.settle(both)
	reachable("on probation", true, true)
	ways("on probation", 1)
	if n := g.make(both); n != 0 {
		t.Errorf("%d changes in a second run", n)
	}
	g.settle(spec.Policy(spec.Merge(config(1))))
	reachable("confirmed", false, true)
	ways("confirmed", 1)
	g.settle(both)
	g.settle(spec.Policy(spec.Merge(config(0))))
	reachable("returned", true, false)
	ways("returned", 0)
}

func TestForeignThingsThatDoWhatIsWantedAreLeftAlone(t *testing.T) {
	t.Parallel()
	g, peer := newGateway(t), testnet.New(t)
	g.Plug("lan0", peer, "eth0")
	g.ip("addr add 10.1.0.5/24 dev lan0")
	g.ip("addr add fd01::5/56 dev lan0 nodad")
	g.ip("rule add prio 99 from 10.1.0.5 lookup 7")
	g.ip("route add 10.2.0.0/16 via 10.1.0.1 metric 100 proto static")
	want := spec.Merge(spec.Spec{
		Links:     ports("lan0"),
		Addresses: []spec.Address{address("lan0", "10.1.0.5/24"), address("lan0", "fd01::5/64")},
		Routes:    []spec.Route{route("lan0", "10.2.0.0/16", "10.1.0.1", 100)},
		Rules:     []spec.Rule{{Priority: 99, From: subnet("10.1.0.5/32"), Table: 7}},
	})
	g.make(want)
	if n := g.make(want); n != 0 {
		t.Errorf("%d changes in a second run", n)
	}
	g.make(spec.Spec{})
	if !g.has("10.1.0.5/24") || !g.has("fd01::5/56") || !strings.Contains(g.ip("rule"), "from 10.1.0.5 lookup 7") ||
		!strings.Contains(g.ip("route"), "proto static") || strings.Contains(g.ip("route"), "proto 67") {
		t.Errorf("%s%s%s", g.ip("addr"), g.ip("rule"), g.ip("route"))
	}
	g.ip("-6 route add 2001:db8::/32 via fe80::1 dev lan0 metric 100")
	_, err := g.try(spec.Merge(spec.Spec{Links: ports("lan0"), Routes: []spec.Route{route("lan0", "2001:db8::/32", "fe80::2", 100)}}))
	if err == nil || !strings.Contains(err.Error(), "another program has a route there with this metric") {
		t.Errorf("error is %v", err)
	}
	if out := g.ip("-6 route show 2001:db8::/32"); strings.Contains(out, "fe80::2") || !strings.Contains(out, "fe80::1") {
		t.Errorf("the foreign route is now %s", out)
	}
}

func TestIPv6ComesAndGoes(t *testing.T) {
	t.Parallel()
	g, peer := newGateway(t), testnet.New(t)
	g.Plug("lan0", peer, "eth0")
	g.ip("link set lan0 down") // as ports are at the start
	peer.IP("addr", "add", "fd16::1/64", "dev", "eth0", "nodad")
	peer.Dnsmasq(t, "eth0", "10.16.0.1/24", "--dhcp-range=10.16.0.50,10.16.0.99,1h", "--enable-ra", "--dhcp-range=fd16::,ra-only,64,1h")
	link := spec.Link{Name: "lan0", StableSecret: ip("2001:db8:1:2:3:4:5:6"), IPv6: spec.IPv6Automatic}
	want := func(way spec.IPv6) spec.Spec {
		link.IPv6 = way
		return spec.Merge(spec.Spec{Links: []spec.Link{link}})
	}
	await := func(what string, wanted func([]Address) bool) []Address {
		t.Helper()
		var list []Address
		for deadline := time.Now().Add(45 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
			g.make(want(link.IPv6))
			list = slices.DeleteFunc(g.state().Addresses, func(a Address) bool { return a.Link != "lan0" })
			if wanted(list) {
				return list
			}
		}
		t.Fatalf("waited in vain for %s: %+v", what, list)
		return nil
	}
	announced := func(list []Address) bool {
		return slices.ContainsFunc(list, func(a Address) bool { return a.Source == spec.SLAAC && !a.Tentative && !a.Valid.IsZero() })
	}
	g.make(want(spec.IPv6Automatic))
	first := await("an address that a router announced", announced)
	l, _ := g.state().link("lan0")
	for _, a := range first {
		b := a.Prefix.Addr().As16()
		if b[11] == 0xff && b[12] == 0xfe && b[13] == l.MAC[3] {
			t.Errorf("%v shows the MAC address %v", a.Prefix, l.MAC)
		}
	}
	learned := g.state().Learned()
	if len(learned.Addresses) != 1 || len(learned.Routes) != 1 || learned.Routes[0].Destination != everyv6 || !learned.Routes[0].Kernel {
		t.Errorf("learned is %+v", learned)
	}
	// What the kernel learned gets a table of its own, and stays the kernel's.
	policy := spec.Policy(spec.Merge(want(spec.IPv6Automatic), learned))
	g.settle(policy)
	if out := g.ip("-6 route show table %d", policy.Rules[0].Table); !strings.Contains(out, "default via fe80::") || !strings.Contains(out, "fd16::/64 dev lan0") {
		t.Errorf("table is %s", out)
	}

	g.make(want(spec.IPv6Off))
	await("no IPv6", func(list []Address) bool { return len(list) == 0 })
	g.make(want(spec.IPv6Static))
	await("only the link's own address", func(list []Address) bool {
		return len(list) == 1 && list[0].Source == spec.LinkLocal && !list[0].Tentative
	})
	g.make(want(spec.IPv6Automatic))
	g.ip("link set lan0 down") // the kernel asks for routers when it comes up
	again := await("an announced address again", announced)
	for _, a := range first { // RFC 7217: the same ones, whatever happened
		if !slices.ContainsFunc(again, func(b Address) bool { return a.Prefix == b.Prefix }) {
			t.Errorf("%v has not come back: %+v", a.Prefix, again)
		}
	}
}

func TestSetsTheKernelsSettingsWhereTheyDiffer(t *testing.T) {
	t.Parallel()
	g, peer := newGateway(t), testnet.New(t)
	g.Plug("lan0", peer, "eth0")
	g.ip("link set lo down")
	want := spec.Merge(spec.Spec{Links: ports("lan0")})
	g.make(want)
	if lo := g.ip("link show lo"); !strings.Contains(lo, ",UP") {
		t.Errorf("loopback is %s", lo)
	}
	check := func(port string, s sysctl) {
		t.Helper()
		path := fmt.Sprintf("/proc/sys/net/%s/conf/%s/%s", s.family, port, s.name)
		if got := strings.TrimSpace(g.Run("cat", path)); got != s.value {
			t.Errorf("%s is %s, want %s", path, got, s.value)
		}
	}
	for _, s := range always {
		check("lan0", s)
		if !strings.HasSuffix(s.name, "_notify") {
			check("all", s)
			check("default", s)
		}
	}
	for _, s := range sysctlsOf(want.Links[0]) {
		check("lan0", s)
	}
	g.Run("sh", "-c", "echo 0 >/proc/sys/net/ipv4/conf/lan0/arp_ignore")
	if n := g.make(want); n != 1 {
		t.Errorf("%d changes for one setting", n)
	}
	check("lan0", sysctl{"ipv4", "arp_ignore", "1"})
}

func TestStateShowsThePort(t *testing.T) { // in the test's own namespace, whose /sys it is
	peer := testnet.Cable(t, "lan0")
	g := inside(t, testnet.Home(t))
	g.settle(spec.Merge(spec.Spec{Links: ports("lan0"), Addresses: []spec.Address{
		{Link: "lan0", Prefix: subnet("10.1.0.5/24"), Valid: time.Now().Add(time.Hour)}, address("lan0", "169.254.1.1/16"),
	}}))
	g.ip("addr add 10.7.0.1/24 dev lan0")
	s := g.state()
	l, ok := s.link("lan0")
	if !ok || !l.Up || !l.Carrier || l.SpeedMbps != 10000 || l.MTU != 1500 || len(l.MAC) != 6 || l.Kind != "veth" || l.Physical || l.Ours {
		t.Errorf("link is %+v", l)
	}
	sources := map[string]spec.Source{}
	for _, a := range s.Addresses {
		sources[a.Prefix.String()] = a.Source
		if left := time.Until(a.Valid); a.Source == spec.DHCP && (left > time.Hour || left < 59*time.Minute) {
			t.Errorf("lease has %v left", left)
		}
	}
	if sources["10.1.0.5/24"] != spec.DHCP || sources["169.254.1.1/16"] != spec.LinkLocal || sources["10.7.0.1/24"] != spec.Manual {
		t.Errorf("sources are %v", sources)
	}
	peer.IP("link", "set", "eth0", "down")
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if l, _ := g.state().link("lan0"); !l.Carrier && l.Up {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the port still shows a link")
		}
	}
}

func TestWatchOutlivesAFlood(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	ctx, stop := context.WithCancel(t.Context())
	calls, ended := make(chan struct{}), make(chan error, 1)
	go func() { // ends with ctx
		ended <- g.Do(func() error {
			return Watch(ctx, func() {
				select {
				case calls <- struct{}{}:
				case <-ctx.Done():
				}
			})
		})
	}()
	wait := func(what string) {
		t.Helper()
		select {
		case <-calls:
		case err := <-ended:
			t.Fatalf("%s: Watch ended: %v", what, err)
		case <-time.After(30 * time.Second):
			t.Fatalf("%s: no call", what)
		}
	}
	wait("start")
	err := g.Do(func() error { // while Watch waits for us: its queue runs over
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		for i := range 3000 {
			a := &netlink.Addr{IPNet: ipNet(subnet(fmt.Sprintf("10.5.%d.%d/32", i/250, i%250+1)))}
			if err := errors.Join(netlink.AddrAdd(lo, a), netlink.AddrDel(lo, a)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	wait("flood")
	quiet := func() { // until what is queued is read
		for {
			select {
			case <-calls:
			case <-time.After(20 * pause):
				return
			}
		}
	}
	quiet()
	for _, change := range []string{
		"addr add 10.1.0.1/32 dev lo", "-6 addr add fd01::1/128 dev lo", "link set lo mtu 1500",
		"route add 10.9.0.0/16 dev lo", "-6 route add fd09::/64 dev lo",
		"rule add from 10.1.0.1 lookup 7", "-6 rule add from fd01::1 lookup 7",
	} {
		g.ip("%s", change)
		wait(change)
		quiet()
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("Watch ended with %v", err)
	}
}

func TestReconcilesWhileOthersFlood(t *testing.T) {
	t.Parallel()
	g, peer := newGateway(t), testnet.New(t)
	g.Plug("lan0", peer, "eth0")
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() { // ends with stop
		done <- g.Do(func() error { // dumps are interrupted and queues run over
			link, err := netlink.LinkByName("lan0")
			for i := 0; err == nil; i++ {
				select {
				case <-stop:
					return nil
				default:
				}
				a := &netlink.Addr{IPNet: ipNet(subnet(fmt.Sprintf("192.168.0.%d/32", i%200+1)))}
				if err = netlink.AddrAdd(link, a); errors.Is(err, unix.EEXIST) {
					err = netlink.AddrDel(link, a)
				}
			}
			return err
		})
	}()
	for n := range 30 {
		want := spec.Policy(spec.Merge(spec.Spec{
			Links:     ports("lan0"),
			Addresses: []spec.Address{address("lan0", fmt.Sprintf("10.1.%d.5/24", n))},
			Routes:    []spec.Route{route("lan0", "0.0.0.0/0", fmt.Sprintf("10.1.%d.1", n), 100)},
		}))
		g.make(want)
		checkRoutes(g, want)
	}
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
}
