package spec

import (
	"net/netip"
	"slices"
)

// The numbers of Policy: address i of link l has table tables + l*linkTables + i.
const (
	tables     = 67000
	linkTables = 64
	priority   = 6700
)

// Policy adds to a merged Spec what lets replies leave by the port they came in on, through the router
// of the network they belong to. Each address has a table of its own, with the routes of its link that
// go with it, and a rule that sends there what comes from this address:
//
//	the route to its subnet
//	routes without a next router, and through one that is link-local or in no address's subnet
//	routes through a router in its subnet, or with it as PreferredSource
//
// An IPv4 link-local address reaches everybody on its link (RFC 3927 section 2.6.2). IPv6's need no
// table, as each is used with its link. A link's routes in Main get a metric higher by the link's
// place, so that the first link's go first and no two are the same to the kernel.
func Policy(s Spec) Spec {
	place := places(s.Links)
	routes := slices.Clone(s.Routes)
	type choice struct {
		rule   Rule
		metric int // of the way to everybody
	}
	from := map[netip.Prefix]choice{} // two links may have an address: one rule for it
	var own []Address                 // of the link
	for i, a := range s.Addresses {
		if i == 0 || s.Addresses[i-1].Link != a.Link {
			own = nil
			for _, b := range s.Addresses[i:] {
				if b.Link == a.Link && (b.Prefix.Addr().Is4() || !b.Prefix.Addr().IsLinkLocalUnicast()) {
					own = append(own, b)
				}
			}
		}
		n := slices.Index(own, a)
		if n < 0 || n >= linkTables { // so many are a flood
			continue
		}
		table := tables + place[a.Link]*linkTables + n
		added, metric := tableOf(a, own, s.Routes, table)
		routes = append(routes, added...)
		c := choice{Rule{Priority: priority, From: host(a.Prefix.Addr()), Table: table}, metric}
		if other, ok := from[c.rule.From]; !ok || c.metric < other.metric {
			from[c.rule.From] = c
		}
	}
	type key struct {
		destination netip.Prefix
		metric      int
	}
	taken := map[key]bool{}
	for i := range s.Routes {
		r := &routes[i]
		if r.Table != Main || r.Kernel {
			continue
		}
		r.Metric += place[r.Link]
		for taken[key{r.Destination, r.Metric}] {
			r.Metric++
		}
		taken[key{r.Destination, r.Metric}] = true
	}
	sortRoutes(routes, place)
	rules := slices.Clone(s.Rules)
	for _, c := range from {
		rules = append(rules, c.rule)
	}
	sortRules(rules)
	s.Routes, s.Rules = routes, rules
	return s
}

// tableOf returns the routes of a's table, and the metric of the one to everybody. The link has the
// addresses own.
func tableOf(a Address, own []Address, routes []Route, table int) ([]Route, int) {
	const nowhere = 1 << 31
	var list []Route
	best := nowhere
	add := func(r Route) {
		r.Table, r.PreferredSource, r.Kernel = table, netip.Addr{}, false
		same := func(o Route) bool { return o.Destination == r.Destination && o.Metric == r.Metric }
		if !slices.ContainsFunc(list, same) {
			list = append(list, r)
		}
		if r.Destination.Bits() == 0 {
			best = min(best, r.Metric)
		}
	}
	for _, r := range routes {
		if r.Link == a.Link && r.Table == Main && r.Destination.Addr().Is4() == a.Prefix.Addr().Is4() && goesWith(r, a, own) {
			add(r)
		}
	}
	subnet := Route{Link: a.Link, Destination: a.Prefix.Masked()}
	subnet.Metric = metric(subnet)
	known := func(r Route) bool { return r.Destination == subnet.Destination && !r.Via.IsValid() }
	if !a.Prefix.IsSingleIP() && !slices.ContainsFunc(list, known) {
		add(subnet)
	}
	if best == nowhere && a.Prefix.Addr().Is4() && a.Prefix.Addr().IsLinkLocalUnicast() {
		add(Route{Link: a.Link, Destination: netip.PrefixFrom(netip.IPv4Unspecified(), 0)})
	}
	return list, best
}

// goesWith says whether a route is one for packets from a.
func goesWith(r Route, a Address, own []Address) bool {
	switch {
	case r.PreferredSource.IsValid():
		return r.PreferredSource == a.Prefix.Addr()
	case !r.Via.IsValid() || r.Via.Is6() && r.Via.IsLinkLocalUnicast():
		return true
	case a.Prefix.Contains(r.Via):
		return true
	}
	return !slices.ContainsFunc(own, func(b Address) bool { return b.Prefix.Contains(r.Via) })
}

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
