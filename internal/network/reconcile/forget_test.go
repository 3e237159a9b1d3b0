package reconcile

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"cloudlink.local/gateway/internal/network/spec"
	"cloudlink.local/gateway/internal/testnet"
)

func TestForgetsWhatRoutersHaveSaid(t *testing.T) {
	t.Parallel()
	g, peer := newGateway(t), testnet.New(t)
	g.Plug("lan0", peer, "eth0")
	peer.IP("addr", "add", "fd17::1/64", "dev", "eth0", "nodad")
	peer.Dnsmasq(t, "eth0", "10.17.0.1/24", "--dhcp-range=10.17.0.50,10.17.0.99,1h", "--enable-ra", "--dhcp-range=fd17::,ra-only,64,1h")
	want := spec.Merge(spec.Spec{
		Links: []spec.Link{{Name: "lan0", IPv6: spec.IPv6Automatic}},
		Addresses: []spec.Address{
			{Link: "lan0", Prefix: subnet("2001:db8:1::1/64"), Source: spec.Static},
			{Link: "lan0", Prefix: subnet("fd17::10/128"), Source: spec.DHCPv6, NoPrefixRoute: true},
		},
	})
	learned := func() (addresses []netip.Prefix, routers []netip.Addr) {
		l := g.state().Learned()
		for _, a := range l.Addresses {
			addresses = append(addresses, a.Prefix)
		}
		for _, r := range l.Routes {
			routers = append(routers, r.Via)
		}
		return addresses, routers
	}
	var routers []netip.Addr
	for deadline := time.Now().Add(45 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		g.make(want)
		var addresses []netip.Prefix
		if addresses, routers = learned(); len(addresses) == 1 && len(routers) == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for a router: %v, %v", addresses, routers)
		}
	}
	g.settle(want)
	forget := func(stale []netip.Prefix, routers []netip.Addr) {
		t.Helper()
		var err error
		g.as(func() { err = Forget("lan0", stale, routers) })
		if err != nil {
			t.Fatal(err)
		}
	}
	routes := func() string { return g.ip("-6 route show dev lan0") }

	before := routes()
	forget(nil, nil)
	if after := routes(); strings.Count(after, "\n") != strings.Count(before, "\n") {
		t.Errorf("routes were\n%sand are\n%s", before, after)
	}
	for _, to := range []string{"2001:db8:7::/64", "2001:db8:8::/64"} { // as advertised, without an address
		g.ip("-6 route add %s dev lan0 proto kernel metric 256", to)
	}
	g.ip("-6 route add 2001:db8:9::/64 dev lan0") // somebody else's
	forget(nil, nil)
	after := routes()
	for to, stays := range map[string]bool{
		"2001:db8:7::/64": false, "2001:db8:8::/64": false, "2001:db8:9::/64": true, "fd17::/64": true, "2001:db8:1::/64": true, "fe80::/64": true, "default": true,
	} {
		if strings.Contains(after, to) != stays {
			t.Errorf("%s: want %t in\n%s", to, stays, after)
		}
	}

	stale := []netip.Prefix{subnet("fd17::/64")}
	forget(stale, routers) // the same router, in another network
	if addresses, now := learned(); len(addresses) > 0 || !slices.Equal(now, routers) {
		t.Errorf("learned: %v, %v", addresses, now)
	}
	forget(stale, nil)
	after = routes()
	if strings.Contains(after, "default") || strings.Contains(after, "fd17:") || !strings.Contains(after, "2001:db8:1::/64") {
		t.Errorf("routes are\n%s", after)
	}
	if !slices.ContainsFunc(g.state().Addresses, func(a Address) bool { return a.Prefix == subnet("2001:db8:1::1/64") }) {
		t.Error("our own address is gone")
	}
	if err := Forget("lan77", nil, nil); err == nil {
		t.Error("no error for a port that is not there")
	}
}
