package reconcile

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"cloudlink.local/gateway/internal/network/spec"
)

// An op is one change of the kernel's state.
type op struct {
	what string // for errors and tests: it tells ops of a plan apart
	do   func() error
}

// A DuplicateError says that another device on the link has a wanted IPv6 address. The kernel keeps
// the address and does not use it; it asks again when the address was removed and set once more.
type DuplicateError struct {
	Link    string
	Address netip.Addr
}

func (e DuplicateError) Error() string {
	return fmt.Sprintf("use %v on %s: another device there has this address: give one of them another", e.Address, e.Link)
}

// plan returns what has to be done to make have what is wanted, in order: links, addresses, routes,
// rules, then what is to go, the other way round. What waits for something (a port that is not there,
// an address the kernel still tests) is left for the plan after that. The error tells what no plan
// can do.
func plan(want spec.Spec, have State, now time.Time) ([]op, error) {
	p := planner{have: have, now: now}
	p.links(want.Links)
	p.addresses(want.Addresses)
	p.routes(want.Routes)
	p.rules(want.Rules)
	slices.Reverse(p.last)
	return append(p.ops, p.last...), errors.Join(p.errs...)
}

type planner struct {
	have State
	now  time.Time
	ops  []op
	last []op // deletions, last first
	errs []error
	up   map[string]bool     // wanted links that are there, and switched on by then
	free map[netip.Addr]bool // addresses that a route can prefer by then
}

func (p *planner) add(what string, do func() error)   { p.ops = append(p.ops, op{what, do}) }
func (p *planner) later(what string, do func() error) { p.last = append(p.last, op{what, do}) }

func (p *planner) links(want []spec.Link) {
	p.up = map[string]bool{}
	if lo, ok := p.have.link("lo"); ok && !lo.Up {
		p.add("switch lo on", func() error { return setUp(lo) })
	}
	wanted := map[string]bool{}
	for _, w := range want {
		wanted[w.Name] = true
		l, ok := p.have.link(w.Name)
		if w.VLAN != 0 {
			parent, there := p.have.link(w.Parent)
			switch {
			case ok && l.Kind == "vlan" && l.VLAN == w.VLAN && l.Parent == w.Parent:
				if l.Ours && !l.marked {
					p.add("mark link "+w.Name, func() error { return setMark(l) })
				}
			case ok && l.Ours:
				p.add("delete link "+w.Name, func() error { return deleteLink(l) })
				ok = false // it is made in the next round
			case ok:
				p.errs = append(p.errs, fmt.Errorf("make VLAN %d on %s: another program has a link %s: remove it with ip link delete %s",
					w.VLAN, w.Parent, w.Name, w.Name))
				ok = false
			case there:
				what := fmt.Sprintf("make link %s: VLAN %d on %s", w.Name, w.VLAN, w.Parent)
				p.add(what, func() error { return makeVLAN(w, parent) })
			}
		}
		if !ok { // it waits for its port
			continue
		}
		if w.MTU != 0 && l.MTU != w.MTU {
			p.add(fmt.Sprintf("set MTU of %s to %d", w.Name, w.MTU), func() error { return setMTU(l, w.MTU) })
		}
		if !l.Up {
			p.add("switch "+w.Name+" on", func() error { return setUp(l) })
		}
		p.up[w.Name] = true
	}
	for _, l := range p.have.Links {
		if l.Ours && !wanted[l.Name] {
			p.later("delete link "+l.Name, func() error { return deleteLink(l) })
		}
	}
}

func (p *planner) addresses(want []spec.Address) {
	p.free = map[netip.Addr]bool{}
	for _, h := range p.have.Addresses {
		if !h.Tentative && !h.Duplicate {
			p.free[h.Prefix.Addr()] = true
		}
	}
	kept := make([]bool, len(p.have.Addresses))
	var set []op // after what has to go first
	for _, w := range want {
		link, ok := p.have.link(w.Link)
		if w.Kernel || !ok || !p.up[w.Link] || !w.Valid.IsZero() && w.Valid.Sub(p.now) < time.Second {
			continue
		}
		ip, missing, fresh := w.Prefix.Addr(), true, true
		for i, h := range p.have.Addresses {
			if h.Link != w.Link || h.Prefix.Addr() != ip {
				continue
			}
			same := h.Prefix == w.Prefix && h.NoPrefixRoute == w.NoPrefixRoute
			switch {
			case !h.Ours && (h.Prefix == w.Prefix || ip.Is6()):
				missing = false // somebody else's does as well
			case !h.Ours: // IPv4 can have both
			case h.Duplicate && same:
				kept[i], missing = true, false
				p.errs = append(p.errs, DuplicateError{w.Link, ip})
			case same:
				kept[i], fresh = true, false
				missing = !h.Tentative && !sameLifetimes(h.Address, w, p.now)
			case h.Prefix == w.Prefix || ip.Is6(): // to the kernel it is the same one
				kept[i] = true
				p.add(fmt.Sprintf("replace address %v on %s", h.Prefix, w.Link), func() error { return deleteAddress(link, h) })
			}
		}
		if missing {
			if ip.Is4() {
				p.free[ip] = true
			}
			what := fmt.Sprintf("set address %v on %s", w.Prefix, w.Link)
			set = append(set, op{what, func() error { return setAddress(link, w, fresh) }})
		}
	}
	for i, h := range p.have.Addresses {
		if !h.Ours || kept[i] {
			continue
		}
		link, _ := p.have.link(h.Link)
		what := fmt.Sprintf("delete address %v from %s", h.Prefix, h.Link)
		do := func() error { return deleteAddress(link, h) }
		elsewhere := func(w spec.Address) bool { return w.Prefix.Addr() == h.Prefix.Addr() && !w.Kernel }
		if h.Prefix.Addr().Is6() && slices.ContainsFunc(want, elsewhere) {
			p.add(what, do) // or we would be the other device that has it
		} else {
			p.later(what, do)
		}
	}
	p.ops = append(p.ops, set...)
}

// sameLifetimes says whether a wanted address's ends are the kernel's.
func sameLifetimes(have, want spec.Address, now time.Time) bool {
	return sameEnd(have.Valid, want.Valid, now) && sameEnd(have.Preferred, preferred(want), now)
}

// sameEnd compares ends as the kernel has them: it counts in seconds, none of which are negative, and
// knows a longest time.
func sameEnd(a, b, now time.Time) bool {
	if a.IsZero() || b.IsZero() {
		return a.IsZero() && b.IsZero()
	}
	const near = 3
	m, n := int64(seconds(a, now)), int64(seconds(b, now))
	return m-n < near && n-m < near
}

// preferred is until when an address is preferred. The kernel's answer for an address without end is
// that it is preferred without end, and so is ours.
func preferred(a spec.Address) time.Time {
	if a.Valid.IsZero() || a.Preferred.IsZero() || a.Preferred.After(a.Valid) {
		return a.Valid
	}
	return a.Preferred
}

// A routeKey is what makes two routes one to the kernel.
type routeKey struct {
	destination   netip.Prefix
	table, metric int
}

func keyOf(r spec.Route) routeKey { return routeKey{r.Destination, r.Table, r.Metric} }

func (p *planner) routes(want []spec.Route) {
	kept := make([]bool, len(p.have.Routes))
	taken := map[routeKey]bool{}
	for _, w := range want {
		link, ok := p.have.link(w.Link)
		if w.Kernel || taken[keyOf(w)] || !ok || !p.up[w.Link] ||
			w.PreferredSource.IsValid() && !p.free[w.PreferredSource] {
			continue
		}
		taken[keyOf(w)] = true
		i := slices.IndexFunc(p.have.Routes, func(h Route) bool { return h.Ours && sameRoute(h.Route, w) })
		if i >= 0 {
			kept[i] = true
			continue
		}
		if w.Destination.Addr().Is6() {
			// IPv6 would make one route with two next routers of ours and another's at the same metric:
			// our old one goes first, and another's is an error.
			for i, h := range p.have.Routes {
				if h.Ours && !kept[i] && keyOf(h.Route) == keyOf(w) {
					kept[i] = true
					p.add("replace "+routeText(h.Route), func() error { return deleteRoute(h) })
				}
			}
		}
		p.add("set "+routeText(w), func() error { return setRoute(link, w) })
	}
	for i, h := range p.have.Routes {
		if h.Ours && !kept[i] {
			p.later("delete "+routeText(h.Route), func() error { return deleteRoute(h) })
		}
	}
}

// sameRoute compares what we set; OnLink only says how a route may be set.
func sameRoute(a, b spec.Route) bool {
	return a.Link == b.Link && keyOf(a) == keyOf(b) && a.Via == b.Via && a.PreferredSource == b.PreferredSource
}

func routeText(r spec.Route) string {
	text := fmt.Sprintf("route to %v", r.Destination)
	if r.Via.IsValid() {
		text += fmt.Sprintf(" via %v", r.Via)
	}
	text += fmt.Sprintf(" on %s, metric %d", r.Link, r.Metric)
	if r.Table != spec.Main {
		text += fmt.Sprintf(", table %d", r.Table)
	}
	return text
}

func (p *planner) rules(want []spec.Rule) {
	text := func(r spec.Rule) string {
		return fmt.Sprintf("rule %d: from %v to table %d", r.Priority, r.From, r.Table)
	}
	for _, w := range want {
		if !slices.ContainsFunc(p.have.Rules, func(h Rule) bool { return h.Rule == w }) { // anybody's does
			p.add("set "+text(w), func() error { return setRule(w) })
		}
	}
	for _, h := range p.have.Rules {
		if h.Ours && !slices.Contains(want, h.Rule) {
			p.later("delete "+text(h.Rule), func() error { return deleteRule(h) })
		}
	}
}
