package spec

import (
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"
)

var (
	prefix = netip.MustParsePrefix
	addr   = netip.MustParseAddr
)

func TestHigherLayerWins(t *testing.T) {
	end := time.Now().Add(time.Hour)
	defaults := Spec{Links: []Link{
		{Name: "eth1", MTU: 1500, IPv6: IPv6Automatic, Layer: Default},
		{Name: "eth0", MTU: 1500, IPv6: IPv6Automatic, Layer: Default},
	}}
	automatic := Spec{
		Links:     []Link{{Name: "eth1", MTU: 1400, Layer: Automatic}},
		Addresses: []Address{{Link: "eth1", Prefix: prefix("192.0.2.7/24"), Source: DHCP, Valid: end}},
		Routes: []Route{
			{Link: "eth1", Destination: prefix("0.0.0.0/0"), Via: addr("192.0.2.1"), Metric: 100},
			{Link: "eth1", Destination: prefix("10.0.0.0/8"), Via: addr("192.0.2.1"), Metric: 100},
		},
		Resolvers: []Resolver{{"eth1", addr("192.0.2.1")}, {"eth1", addr("192.0.2.2")}, {"eth0", addr("192.0.2.3")}},
		Search:    []Search{{"eth1", "example.net"}, {"eth0", "example.com"}},
	}
	owner := Spec{
		Links: []Link{
			{Name: "eth0.5", Parent: "eth0", VLAN: 5, Layer: Owner},
			{Name: "eth0", IPv6: IPv6Off, Layer: Owner},
		},
		Addresses: []Address{
			{Link: "eth1", Prefix: prefix("192.0.2.7/25"), Source: Static},
			{Link: "eth0", Prefix: prefix("192.0.2.7/24"), Source: Static},
			{Link: "eth0", Prefix: prefix("2001:db8::7/64"), Source: Static}, // off there
			{Link: "eth9", Prefix: prefix("192.0.2.9/24"), Source: Static},   // no such port
		},
		Routes: []Route{
			{Link: "eth1", Destination: prefix("10.9.9.9/8"), Via: addr("192.0.2.9"), Metric: 100},
			{Link: "eth9", Destination: prefix("10.9.0.0/16")},
			{Link: "eth1", Destination: prefix("2001:db8:1::/48"), Via: addr("fe80::1")},
		},
		Rules:     []Rule{{5, prefix("192.0.2.7/32"), 7}, {5, prefix("192.0.2.7/32"), 8}, {4, prefix("192.0.2.7/24"), 9}},
		Resolvers: []Resolver{{"eth1", addr("192.0.2.53")}},
	}
	want := Spec{
		Links: []Link{
			{Name: "eth1", MTU: 1400, IPv6: IPv6Automatic, Layer: Automatic},
			{Name: "eth0", MTU: 1500, IPv6: IPv6Off, Layer: Owner},
			{Name: "eth0.5", Parent: "eth0", VLAN: 5, Layer: Owner},
		},
		Addresses: []Address{
			{Link: "eth1", Prefix: prefix("192.0.2.7/25"), Source: Static},
			{Link: "eth0", Prefix: prefix("192.0.2.7/24"), Source: Static},
		},
		Routes: []Route{
			{Link: "eth1", Destination: prefix("0.0.0.0/0"), Via: addr("192.0.2.1"), Metric: 100, Table: Main},
			{Link: "eth1", Destination: prefix("10.0.0.0/8"), Via: addr("192.0.2.9"), Metric: 100, Table: Main},
			{Link: "eth1", Destination: prefix("2001:db8:1::/48"), Via: addr("fe80::1"), Metric: 1024, Table: Main},
		},
		Rules:     []Rule{{4, prefix("192.0.2.0/24"), 9}, {5, prefix("192.0.2.7/32"), 8}},
		Resolvers: []Resolver{{"eth1", addr("192.0.2.53")}, {"eth0", addr("192.0.2.3")}},
		Search:    []Search{{"eth1", "example.net"}, {"eth0", "example.com"}},
	}
	if got := Merge(defaults, automatic, owner); !reflect.DeepEqual(got, want) {
		t.Errorf("merged\n%+v\nwant\n%+v", got, want)
	}
}

// random makes a layer, of few names and numbers, so that much of it meets other layers'.
func random(r *rand.Rand) Spec {
	links := []string{"eth0", "eth1", "eth2"}
	link := func() string { return links[r.IntN(3)] }
	ips := []netip.Addr{addr("10.0.0.1"), addr("10.0.1.1"), addr("169.254.3.4"), addr("fd00::1"), addr("fe80::1")}
	ip := func() netip.Addr { return ips[r.IntN(len(ips))] }
	var s Spec
	for _, l := range links {
		if r.IntN(4) > 0 {
			s.Links = append(s.Links, Link{Name: l, MTU: r.IntN(2) * 1400, IPv6: []IPv6{"", IPv6Off, IPv6Static, IPv6Automatic}[r.IntN(4)]})
		}
	}
	for range r.IntN(6) {
		a := ip()
		s.Addresses = append(s.Addresses, Address{Link: link(), Prefix: netip.PrefixFrom(a, r.IntN(a.BitLen()+1))})
	}
	for range r.IntN(6) {
		a := ip()
		route := Route{Link: link(), Destination: netip.PrefixFrom(a, r.IntN(2)*8), Metric: r.IntN(3), Table: r.IntN(2) * 7}
		if via := ip(); r.IntN(2) > 0 && via.Is4() == a.Is4() {
			route.Via = via
		}
		s.Routes = append(s.Routes, route)
	}
	for range r.IntN(3) {
		s.Rules = append(s.Rules, Rule{r.IntN(2), netip.PrefixFrom(ip(), 16), r.IntN(2)})
	}
	return s
}

func TestMergeIsDeterministicAndIdempotent(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 0))
		a, b := random(r), random(r)
		merged := Merge(a, b)
		if again := Merge(a, b); !reflect.DeepEqual(again, merged) {
			t.Fatalf("seed %d: two runs differ:\n%+v\n%+v", seed, merged, again)
		}
		if again := Merge(merged); !reflect.DeepEqual(again, merged) {
			t.Fatalf("seed %d: merging the result differs:\n%+v\n%+v", seed, merged, again)
		}
		policy := Policy(merged)
		// Each is there once, so the order in which a layer has them does not show.
		shuffled := Spec{Links: merged.Links, Addresses: slices.Clone(merged.Addresses),
			Routes: slices.Clone(merged.Routes), Rules: slices.Clone(merged.Rules)}
		r.Shuffle(len(shuffled.Addresses), reflect.Swapper(shuffled.Addresses))
		r.Shuffle(len(shuffled.Routes), reflect.Swapper(shuffled.Routes))
		r.Shuffle(len(shuffled.Rules), reflect.Swapper(shuffled.Rules))
		if again := Policy(Merge(shuffled)); !reflect.DeepEqual(again, policy) {
			t.Fatalf("seed %d: order shows:\n%+v\n%+v", seed, policy, again)
		}
		for i, r := range policy.Routes {
			for _, o := range policy.Routes[:i] {
				if (r.Table >= tables || r.Table == Main) && r.Table == o.Table && r.Destination == o.Destination && r.Metric == o.Metric {
					t.Fatalf("seed %d: %+v and %+v are one to the kernel", seed, r, o)
				}
			}
		}
	}
}

func TestEachAddressHasATableOfItsOwn(t *testing.T) {
	got := Policy(Merge(Spec{
		Links: []Link{{Name: "wan"}, {Name: "lan"}},
		Addresses: []Address{
			{Link: "wan", Prefix: prefix("10.1.0.5/24")},
			{Link: "lan", Prefix: prefix("10.2.0.5/24")},
			{Link: "lan", Prefix: prefix("10.3.0.5/24")},
			{Link: "lan", Prefix: prefix("169.254.7.7/16")},
			{Link: "lan", Prefix: prefix("fe80::5/64")},
			{Link: "lan", Prefix: prefix("2001:db8::5/64"), Kernel: true},
		},
		Routes: []Route{
			{Link: "wan", Destination: prefix("0.0.0.0/0"), Via: addr("10.1.0.1"), PreferredSource: addr("10.1.0.5"), Metric: 100},
			{Link: "lan", Destination: prefix("0.0.0.0/0"), Via: addr("10.2.0.1"), Metric: 100},
			{Link: "lan", Destination: prefix("0.0.0.0/0"), Via: addr("10.3.0.1"), Metric: 200},
			{Link: "lan", Destination: prefix("::/0"), Via: addr("fe80::1"), Kernel: true},
		},
	}))
	lan := tables + linkTables
	want := Spec{
		Links:     got.Links,
		Addresses: got.Addresses,
		Routes: []Route{
			{Link: "wan", Destination: prefix("10.1.0.0/24"), Table: tables},
			{Link: "lan", Destination: prefix("10.2.0.0/24"), Table: lan},
			{Link: "lan", Destination: prefix("10.3.0.0/24"), Table: lan + 1},
			{Link: "lan", Destination: prefix("0.0.0.0/0"), Table: lan + 2},
			{Link: "lan", Destination: prefix("169.254.0.0/16"), Table: lan + 2},
			{Link: "lan", Destination: prefix("2001:db8::/64"), Metric: 1024, Table: lan + 3},
			{Link: "wan", Destination: prefix("0.0.0.0/0"), Via: addr("10.1.0.1"), PreferredSource: addr("10.1.0.5"), Metric: 100, Table: Main},
			{Link: "lan", Destination: prefix("0.0.0.0/0"), Via: addr("10.2.0.1"), Metric: 101, Table: Main},
			{Link: "lan", Destination: prefix("0.0.0.0/0"), Via: addr("10.3.0.1"), Metric: 201, Table: Main},
			{Link: "wan", Destination: prefix("0.0.0.0/0"), Via: addr("10.1.0.1"), Metric: 100, Table: tables},
			{Link: "lan", Destination: prefix("0.0.0.0/0"), Via: addr("10.2.0.1"), Metric: 100, Table: lan},
			{Link: "lan", Destination: prefix("0.0.0.0/0"), Via: addr("10.3.0.1"), Metric: 200, Table: lan + 1},
			{Link: "lan", Destination: prefix("::/0"), Via: addr("fe80::1"), Metric: 1024, Table: Main, Kernel: true},
			{Link: "lan", Destination: prefix("::/0"), Via: addr("fe80::1"), Metric: 1024, Table: lan + 3},
		},
		Rules: []Rule{
			{priority, prefix("10.1.0.5/32"), tables},
			{priority, prefix("10.2.0.5/32"), lan},
			{priority, prefix("10.3.0.5/32"), lan + 1},
			{priority, prefix("169.254.7.7/32"), lan + 2},
			{priority, prefix("2001:db8::5/128"), lan + 3},
		},
	}
	if !reflect.DeepEqual(got.Routes, want.Routes) {
		t.Errorf("routes are")
		for _, r := range got.Routes {
			t.Errorf("  %+v", r)
		}
	}
	if !reflect.DeepEqual(got.Rules, want.Rules) {
		t.Errorf("rules are %+v", got.Rules)
	}
}

func TestWhatWasBeforeStandsBehindWhatIsNew(t *testing.T) {
	before := Spec{
		Links:     []Link{{Name: "eth0", IPv6: IPv6Automatic, MTU: 1400}},
		Addresses: []Address{{Link: "eth0", Prefix: prefix("10.1.0.5/24")}},
		Routes: []Route{
			{Link: "eth0", Destination: prefix("0.0.0.0/0"), Via: addr("10.1.0.1"), Metric: 100},
			{Link: "eth0", Destination: prefix("::/0"), Via: addr("fe80::1")},
		},
	}
	after := Spec{
		Links: []Link{{Name: "eth0", IPv6: IPv6Off, MTU: 1500}, {Name: "eth0.5", Parent: "eth0", VLAN: 5}},
		Addresses: []Address{
			{Link: "eth0", Prefix: prefix("10.2.0.5/24")},
			{Link: "eth0.5", Prefix: prefix("10.1.0.5/24")},
		},
		Routes: []Route{
			{Link: "eth0", Destination: prefix("0.0.0.0/0"), Via: addr("10.2.0.1"), Metric: 100},
			{Link: "eth0.5", Destination: prefix("0.0.0.0/0"), Via: addr("10.1.0.1"), Metric: 100},
		},
	}
	both := Policy(Merge(Behind(before), after))
	if l := both.Links[0]; l.IPv6 != IPv6Automatic || l.MTU != 1500 {
		t.Errorf("link is %+v, want the new MTU and the old IPv6", l)
	}
	metrics := map[netip.Addr]int{}
	for _, r := range both.Routes {
		if r.Link == "eth0" && r.Table == Main {
			metrics[r.Via] = r.Metric
		}
	}
	if want := map[netip.Addr]int{addr("10.1.0.1"): 2100, addr("10.2.0.1"): 100, addr("fe80::1"): 3024}; !reflect.DeepEqual(metrics, want) {
		t.Errorf("metrics are %v, want %v", metrics, want)
	}
	want := []Rule{ // the address on both links answers on the new one
		{priority, prefix("10.1.0.5/32"), tables + linkTables},
		{priority, prefix("10.2.0.5/32"), tables + 1},
	}
	if !reflect.DeepEqual(both.Rules, want) {
		t.Errorf("rules are %+v, want %+v", both.Rules, want)
	}
	if before.Routes[0].Metric != 100 {
		t.Error("Behind changed its argument")
	}
	if now := Merge(after); now.Links[0].IPv6 != IPv6Off {
		t.Errorf("confirmed, the link is %+v", now.Links[0])
	}
}

func TestFloodOfAddressesGetsNoMoreTablesThanItsLinkHas(t *testing.T) {
	s := Spec{Links: []Link{{Name: "eth0"}, {Name: "eth1"}}}
	for i := range 1000 {
		ip := netip.AddrFrom16([16]byte{0xfd, 14: byte(i >> 8), 15: byte(i)})
		s.Addresses = append(s.Addresses, Address{Link: "eth0", Prefix: netip.PrefixFrom(ip, 64)})
	}
	for _, r := range Policy(Merge(s)).Rules {
		if r.Table < tables || r.Table >= tables+linkTables {
			t.Errorf("%+v has the table of another link", r)
		}
	}
}
