package reconcile

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"cloudlink.local/gateway/internal/network/spec"
	"cloudlink.local/gateway/internal/testnet"
)

// checkRoutes checks by ip(8) that routes and rules with our mark are those wanted, on links there are.
func checkRoutes(g *gateway, want spec.Spec) {
	g.t.Helper()
	cable := g.cables()
	// A route that prefers an IPv6 address waits until that is tested, and the test for a cable.
	waits := func(source, link string) bool { return strings.Contains(source, ":") && !cable[link] }
	text := func(v any, instead string) string {
		if v == nil {
			return instead
		}
		return fmt.Sprint(v)
	}
	var wanted, have []string
	for _, r := range want.Routes {
		if _, ok := cable[r.Link]; !ok || r.Kernel || waits(r.PreferredSource.String(), r.Link) {
			continue
		}
		to, table := r.Destination.String(), fmt.Sprint(r.Table)
		if r.Destination.Bits() == 0 {
			to = "default"
		} else if r.Destination.IsSingleIP() {
			to = r.Destination.Addr().String()
		}
		if r.Table == spec.Main {
			table = "main"
		}
		wanted = append(wanted, fmt.Sprint(to, " ", r.Via, " ", r.PreferredSource, " ", r.Link, " ", r.Metric, " ", table))
	}
	for _, family := range []string{"-4", "-6"} {
		for _, r := range g.ask(family + " route show table all proto 67") {
			none := netip.Addr{}.String()
			if waits(text(r["prefsrc"], ""), fmt.Sprint(r["dev"])) {
				continue
			}
			have = append(have, fmt.Sprint(r["dst"], " ", text(r["gateway"], none), " ", text(r["prefsrc"], none), " ",
				r["dev"], " ", text(r["metric"], "0"), " ", text(r["table"], "main")))
		}
	}
	same(g, "routes", wanted, have)

	wanted, have = nil, nil
	var others []string
	for _, r := range want.Rules {
		wanted = append(wanted, fmt.Sprint(r.Priority, " ", r.From, " ", r.Table))
	}
	for _, family := range []string{"-4", "-6"} {
		for _, r := range g.ask(family + " rule") {
			a, err := netip.ParseAddr(fmt.Sprint(r["src"]))
			if err != nil { // "all"
				continue
			}
			bits := text(r["srclen"], fmt.Sprint(a.BitLen()))
			table := strings.Replace(fmt.Sprint(r["table"]), "main", fmt.Sprint(spec.Main), 1)
			rule := fmt.Sprint(r["priority"], " ", a, "/", bits, " ", table)
			if r["protocol"] == "67" {
				have = append(have, rule)
			} else {
				others = append(others, rule)
			}
		}
	}
	wanted = slices.DeleteFunc(wanted, func(w string) bool { // somebody else's does as well
		return slices.Contains(others, w) && !slices.Contains(have, w)
	})
	same(g, "rules", wanted, have)
}

func same(g *gateway, what string, wanted, have []string) {
	g.t.Helper()
	slices.Sort(wanted)
	slices.Sort(have)
	for _, w := range wanted {
		if !slices.Contains(have, w) {
			g.t.Errorf("%s: missing: %s", what, w)
		}
	}
	for _, h := range have {
		if !slices.Contains(wanted, h) {
			g.t.Errorf("%s: not wanted: %s", what, h)
		}
	}
}

// checkAddresses checks by ip(8) that addresses in our subnets are those wanted.
func checkAddresses(g *gateway, want spec.Spec) {
	g.t.Helper()
	there := map[string]bool{}
	var wanted, have []string
	for _, l := range g.ask("addr") {
		name := fmt.Sprint(l["ifname"])
		there[name] = true
		for _, info := range l["addr_info"].([]any) {
			a := info.(map[string]any)
			p := subnet(fmt.Sprintf("%v/%v", a["local"], a["prefixlen"]))
			if ourSubnet(p) {
				have = append(have, name+" "+p.String())
			}
		}
	}
	for _, a := range want.Addresses {
		if there[a.Link] {
			wanted = append(wanted, a.Link+" "+a.Prefix.String())
		}
	}
	same(g, "addresses", wanted, have)
}

// ourSubnet says whether p is of the addresses that the test wants, now or then.
func ourSubnet(p netip.Prefix) bool {
	return subnet("10.0.0.0/8").Contains(p.Addr()) || subnet("fd00::/16").Contains(p.Addr())
}

// foreign lists, by ip(8), what is not ours and not the kernel's. What is IPv6's goes with IPv6.
func foreign(g *gateway, want spec.Spec) []string {
	g.t.Helper()
	off := func(link any) bool {
		return slices.ContainsFunc(want.Links, func(l spec.Link) bool { return l.Name == link && l.IPv6 == spec.IPv6Off })
	}
	var all []string
	for _, l := range g.ask("addr") {
		for _, info := range l["addr_info"].([]any) {
			a := info.(map[string]any)
			p := subnet(fmt.Sprintf("%v/%v", a["local"], a["prefixlen"]))
			if !ourSubnet(p) && !(p.Addr().Is6() && (p.Addr().IsLinkLocalUnicast() || off(l["ifname"]))) {
				all = append(all, fmt.Sprint("address ", l["ifname"], " ", p))
			}
		}
	}
	for _, family := range []string{"-4", "-6"} {
		for _, r := range g.ask(family + " -d route show table all proto static") {
			delete(r, "flags") // they tell of the cable
			if family == "-4" || !off(r["dev"]) {
				all = append(all, fmt.Sprint("route ", r))
			}
		}
		for _, r := range g.ask(family + " rule") {
			if r["protocol"] != "67" {
				all = append(all, fmt.Sprint("rule ", r))
			}
		}
	}
	slices.Sort(all)
	return all
}

// wish makes a random wanted state for the links.
func wish(r *rand.Rand, links []string) spec.Spec {
	config := func() spec.Spec {
		var s spec.Spec
		for n, name := range links {
			if r.IntN(6) == 0 {
				continue
			}
			l := spec.Link{Name: name, MTU: 1500 - r.IntN(2)*100, IPv6: spec.IPv6Static}
			if r.IntN(6) == 0 {
				l.IPv6 = spec.IPv6Off
			}
			s.Links = append(s.Links, l)
			for k := range 3 {
				for _, form := range [][2]string{{"10.%d.%d.5/%d", "10.%d.%d.1"}, {"fd00:%d:%d::5/%d", "fd00:%d:%d::1"}} {
					if r.IntN(2) == 0 {
						continue
					}
					bits := []int{24, 25}[r.IntN(2)]
					if strings.Contains(form[0], ":") {
						bits = []int{64, 80}[r.IntN(2)]
					}
					a := spec.Address{Link: name, Prefix: subnet(fmt.Sprintf(form[0], n, k, bits)), NoPrefixRoute: r.IntN(8) == 0}
					if r.IntN(2) == 0 {
						a.Valid = time.Now().Add(time.Hour)
					}
					s.Addresses = append(s.Addresses, a)
					if a.NoPrefixRoute {
						s.Routes = append(s.Routes, spec.Route{Link: name, Destination: a.Prefix.Masked(), Metric: 50 + k})
					}
					via := ip(fmt.Sprintf(form[1], n, k))
					to := []netip.Prefix{everyv4, subnet("198.18.0.0/16"), subnet("198.19.0.0/17")}
					if via.Is6() {
						to = []netip.Prefix{everyv6, subnet("2001:db8::/32"), subnet("2001:db8:1::/48")}
					}
					for range r.IntN(3) {
						route := spec.Route{Link: name, Destination: to[r.IntN(3)], Via: via, Metric: 100 * (1 + r.IntN(2))}
						if r.IntN(3) == 0 {
							route.PreferredSource = a.Prefix.Addr()
						}
						s.Routes = append(s.Routes, route)
					}
				}
			}
		}
		return s
	}
	if r.IntN(3) == 0 {
		return spec.Policy(spec.Merge(spec.Behind(config()), config()))
	}
	return spec.Policy(spec.Merge(config()))
}

func TestAnyOrderOfEventsEndsInTheWantedState(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(seed, 3))
			g, peer := newGateway(t), testnet.New(t)
			// The kernel's test of IPv6 addresses takes a second each; other tests have it.
			g.Run("sh", "-c", "echo 0 >/proc/sys/net/ipv6/conf/default/dad_transmits")
			links := []string{"lan0", "lan1", "lan2"}
			plugged := map[string]bool{}
			plug := func(name string) {
				g.Plug(name, peer, "far"+name)
				plugged[name] = true
			}
			for _, l := range links {
				plug(l)
			}
			g.ip("addr add 192.168.77.1/24 dev lan0")
			g.ip("addr add 192.168.78.1/24 dev lan1")
			pick := func(list ...string) string { return list[r.IntN(len(list))] }
			want := wish(r, links)
			event := func() string {
				link := pick(links...)
				switch r.IntN(17) {
				case 0, 1, 2, 3:
					want = wish(r, links)
					return "another wish"
				case 4:
					if l := "lan2"; plugged[l] {
						plugged[l] = false
						return "link del " + l
					}
					plug("lan2")
					return "lan2 is plugged in"
				case 5:
					return "link set " + link + " " + pick("up", "down")
				case 6:
					if plugged[link] {
						peer.IP("link", "set", "far"+link, pick("up", "down"))
					}
					return "the cable of " + link
				case 7:
					return "link set " + link + " mtu " + pick("1280", "1500", "9000")
				case 8: // a root shell takes something of ours
					if len(want.Addresses) > 0 {
						a := want.Addresses[r.IntN(len(want.Addresses))]
						return fmt.Sprintf("addr del %v dev %s", a.Prefix, a.Link)
					}
				case 9:
					return pick("-4", "-6") + " route flush table " + pick("main", fmt.Sprint(67000+r.IntN(200))) + " proto 67"
				case 10:
					if len(want.Rules) > 0 {
						rule := want.Rules[r.IntN(len(want.Rules))]
						return fmt.Sprintf("rule del prio %d from %v lookup %d", rule.Priority, rule.From, rule.Table)
					}
				case 11: // or puts something of its own there, or takes it away again
					return fmt.Sprintf("addr %s 192.168.%d.%d/24 dev %s", pick("add", "add", "del"), 79+r.IntN(3), 1+r.IntN(3), link)
				case 12:
					return fmt.Sprintf("addr %s fd77::%d/64 dev %s", pick("add", "add", "del"), 1+r.IntN(3), link)
				case 13:
					return fmt.Sprintf("route %s %s %s metric %d proto static", pick("append", "append", "del"),
						pick("default via 192.168.77.9", "198.18.0.0/16 via 192.168.77.9", "blackhole 203.0.113.0/24", "192.0.2.0/24 dev lan1"),
						pick("", "table 67000", "table 67065", "table 99"), 100*(1+r.IntN(2)))
				case 14:
					return fmt.Sprintf("-6 route %s %s metric %d proto static", pick("add", "add", "del"),
						pick("2001:db8:7::/48 dev lan0", "2001:db8:8::/48 via fe80::9 dev lan1"), 100*(1+r.IntN(2)))
				case 15:
					return fmt.Sprintf("rule %s prio %d from %s lookup %d", pick("add", "add", "del"), 6699+r.IntN(3), pick("10.0.0.5", "192.168.77.1", "fd00:0:0::5"), 67000+r.IntN(3))
				case 16:
					if plugged[link] {
						g.Run("sh", "-c", "echo "+pick("0", "1")+" >/proc/sys/net/"+pick("ipv4/conf/"+link+"/arp_ignore", "ipv6/conf/"+link+"/disable_ipv6"))
					}
					return "a setting of " + link
				}
				return "nothing"
			}
			var log []string
			for step := range 80 {
				for range 1 + r.IntN(3) {
					e := event()
					if word, _, _ := strings.Cut(e, " "); slices.Contains([]string{"link", "addr", "route", "rule", "-4", "-6"}, word) {
						if out, err := g.run(e); err != nil {
							e += ": " + strings.TrimSpace(out)
						}
					}
					log = append(log, fmt.Sprint(step, ": ", e))
				}
				before := foreign(g, want)
				g.make(want)
				g.settle(want)
				if after := foreign(g, want); !slices.Equal(before, after) {
					t.Errorf("foreign things changed, from\n%s\nto\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
				}
				checkAddresses(g, want)
				checkRoutes(g, want)
				if t.Failed() {
					t.Fatalf("seed %d, step %d, after\n%s\nwanted:\n%+v", seed, step, strings.Join(log, "\n"), want)
				}
			}
		})
	}
}
