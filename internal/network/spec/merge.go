package spec

import (
	"cmp"
	"net/netip"
	"slices"
)

// behind is added to the metrics of Behind: more than 1024, that of the kernel's own routes from
// router advertisements, so that these go first where they are what is new.
const behind = 2000

// subnetMetric is that of the kernel's routes to an IPv6 address's subnet (IP6_RT_PRIO_ADDRCONF).
const subnetMetric = 256

// Behind makes of layer one that stands behind the others: what was configured before, which stays
// beside what is new until that is confirmed. Its routes have the worse metrics, and its links keep
// IPv6 even where a layer above switches it off.
func Behind(layer Spec) Spec {
	layer.Routes = slices.Clone(layer.Routes)
	for i := range layer.Routes {
		r := &layer.Routes[i]
		if !r.Kernel {
			r.Metric = metric(*r) + behind
		}
	}
	layer.behind = true
	return layer
}

func metric(r Route) int {
	if r.Metric == 0 && r.Destination.Addr().Is6() {
		return 1024 // IP6_RT_PRIO_USER
	}
	return r.Metric
}

// Merge makes one Spec of layers, the lowest first. Where two have something with the same key, the
// higher layer's holds, and within a layer the later one:
//
//	Link      Name, field by field: what is zero leaves the lower layer's
//	Address   Link and the address, whatever the subnet's length
//	Route     Link, Table, Destination and Metric
//	Rule      Priority and From
//	Resolver  Link: a layer that names any for a link replaces all of the lower ones
//	Search    Link, likewise
//
// An IPv6 address gets its route to its subnet here and not from the kernel, whose route is gone the
// moment that the address is given another lifetime (seen in Linux 6.18).
//
// What names a link that no layer has is left out, as is what is IPv6's on a link without it. The result depends on the order within a layer
// only for links, resolvers and search domains: links come in the order in which they are first
// named, but parents before their VLANs, and the rest in the order of their links and then by value.
func Merge(layers ...Spec) Spec {
	var s Spec
	s.Links = mergeLinks(layers)
	place := places(s.Links)
	fits := func(link string, a netip.Addr) bool {
		i, ok := place[link]
		return ok && (a.Is4() || s.Links[i].IPv6 != IPv6Off)
	}

	type addressKey struct {
		link string
		addr netip.Addr
	}
	addresses := map[addressKey]Address{}
	type routeKey struct {
		link          string
		table, metric int
		destination   netip.Prefix
	}
	routes := map[routeKey]Route{}
	type ruleKey struct {
		priority int
		from     netip.Prefix
	}
	rules := map[ruleKey]Rule{}
	resolvers := map[string][]Resolver{}
	search := map[string][]Search{}
	for _, layer := range layers {
		for _, a := range layer.Addresses {
			if fits(a.Link, a.Prefix.Addr()) {
				addresses[addressKey{a.Link, a.Prefix.Addr()}] = a
			}
		}
		for _, r := range layer.Routes {
			r.Destination = r.Destination.Masked()
			r.Metric = metric(r)
			r.Table = cmp.Or(r.Table, Main)
			if fits(r.Link, r.Destination.Addr()) {
				routes[routeKey{r.Link, r.Table, r.Metric, r.Destination}] = r
			}
		}
		for _, r := range layer.Rules {
			r.From = r.From.Masked()
			rules[ruleKey{r.Priority, r.From}] = r
		}
		replaceByLink(resolvers, layer.Resolvers, func(r Resolver) string { return r.Link })
		replaceByLink(search, layer.Search, func(s Search) string { return s.Link })
	}

	for key, a := range addresses {
		if key.addr.Is6() && !key.addr.IsLinkLocalUnicast() && !a.NoPrefixRoute && !a.Kernel && !a.Prefix.IsSingleIP() {
			a.NoPrefixRoute = true
			r := Route{Link: a.Link, Destination: a.Prefix.Masked(), Metric: subnetMetric, Table: Main}
			if key := (routeKey{r.Link, r.Table, r.Metric, r.Destination}); routes[key].Link == "" {
				routes[key] = r
			}
		}
		s.Addresses = append(s.Addresses, a)
	}
	slices.SortFunc(s.Addresses, func(a, b Address) int {
		return cmp.Or(cmp.Compare(place[a.Link], place[b.Link]), a.Prefix.Addr().Compare(b.Prefix.Addr()))
	})
	for _, r := range routes {
		s.Routes = append(s.Routes, r)
	}
	sortRoutes(s.Routes, place)
	for _, r := range rules {
		s.Rules = append(s.Rules, r)
	}
	sortRules(s.Rules)
	for _, l := range s.Links {
		s.Resolvers = append(s.Resolvers, resolvers[l.Name]...)
		s.Search = append(s.Search, search[l.Name]...)
	}
	return s
}

func mergeLinks(layers []Spec) []Link {
	var links []Link
	kept := map[string]bool{} // links whose IPv6 is that of a layer behind
	for _, layer := range layers {
		for _, l := range layer.Links {
			i := slices.IndexFunc(links, func(m Link) bool { return m.Name == l.Name })
			if i < 0 {
				i, links = len(links), append(links, Link{Name: l.Name})
			}
			m := &links[i]
			if l.VLAN != 0 {
				m.Parent, m.VLAN = l.Parent, l.VLAN
			}
			m.MTU = cmp.Or(l.MTU, m.MTU)
			if l.IPv6 != IPv6Off || !kept[l.Name] {
				m.IPv6 = cmp.Or(l.IPv6, m.IPv6)
			}
			if layer.behind && m.IPv6 != IPv6Off {
				kept[l.Name] = true
			}
			m.StableSecret = cmp.Or(l.StableSecret, m.StableSecret)
			m.Layer = cmp.Or(l.Layer, m.Layer)
		}
	}
	// Parents first. No VLAN is carried by another here, so that ports first will do.
	slices.SortStableFunc(links, func(a, b Link) int { return cmp.Compare(min(a.VLAN, 1), min(b.VLAN, 1)) })
	return links
}

// replaceByLink replaces in all what a layer has for a link, where it has something.
func replaceByLink[T any](all map[string][]T, layer []T, link func(T) string) {
	seen := map[string]bool{}
	for _, t := range layer {
		name := link(t)
		if !seen[name] {
			seen[name], all[name] = true, nil
		}
		all[name] = append(all[name], t)
	}
}

// places numbers the links.
func places(links []Link) map[string]int {
	place := map[string]int{}
	for i, l := range links {
		place[l.Name] = i
	}
	return place
}

// sortRoutes puts those without a next router first: the others need them.
func sortRoutes(routes []Route, place map[string]int) {
	slices.SortFunc(routes, func(a, b Route) int {
		return cmp.Or(
			a.Via.BitLen()-b.Via.BitLen(),
			cmp.Compare(a.Table, b.Table),
			cmp.Compare(place[a.Link], place[b.Link]),
			a.Destination.Addr().Compare(b.Destination.Addr()),
			cmp.Compare(a.Destination.Bits(), b.Destination.Bits()),
			cmp.Compare(a.Metric, b.Metric),
		)
	})
}

func sortRules(rules []Rule) {
	slices.SortFunc(rules, func(a, b Rule) int {
		return cmp.Or(
			cmp.Compare(a.Priority, b.Priority),
			a.From.Addr().Compare(b.From.Addr()),
			cmp.Compare(a.From.Bits(), b.From.Bits()),
		)
	})
}
