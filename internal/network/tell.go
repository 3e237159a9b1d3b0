package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"cloudlink.local/gateway/internal/diary"
	"cloudlink.local/gateway/internal/network/commit"
	"cloudlink.local/gateway/internal/network/dhcp4"
	"cloudlink.local/gateway/internal/network/ipv6"
	"cloudlink.local/gateway/internal/network/ntp"
	"cloudlink.local/gateway/internal/network/reconcile"
	"cloudlink.local/gateway/internal/network/spec"
)

// leased takes what a DHCP client has to say.
func (s *service) leased(l *link, lease *dhcp4.Lease) {
	old := l.lease
	l.lease, l.kept = lease, lease != nil
	name := func(a netip.Addr) string {
		if !a.IsValid() {
			return ""
		}
		return a.String()
	}
	switch {
	case lease == nil && old == nil:
	case lease == nil:
		kind := diary.LeaseLost
		if !old.Expires.IsZero() && !time.Now().Before(old.Expires) {
			kind = diary.LeaseExpired
		}
		s.log.Warn("no address any more: asking every DHCP server", "port", l.name)
		s.diary.Add(kind, "port", l.name, "address", old.Prefix.String(), "server", name(old.Server))
	case old == nil || old.Prefix != lease.Prefix:
		s.log.Info(fmt.Sprintf("address %v, router %v, from DHCP server %v", lease.Prefix, lease.Gateway, lease.Server), "port", l.name)
		s.diary.Add(diary.LeaseObtained, "port", l.name, "address", lease.Prefix.String(),
			"server", name(lease.Server), "router", name(lease.Gateway), "options", optionsOf(lease))
	case changes(old, lease) != "":
		s.diary.Add(diary.LeaseChanged, "port", l.name, "address", lease.Prefix.String(),
			"server", name(lease.Server), "router", name(lease.Gateway), "changes", changes(old, lease))
	default:
		s.log.Debug(fmt.Sprintf("DHCP server %v extended the lease of %v", lease.Server, lease.Prefix), "port", l.name)
	}
	if lease != nil {
		l.remembered, l.unsaved = lease, true
	}
	if l.local != nil {
		l.local.Need(lease == nil)
	}
}

// leased6 takes what a DHCPv6 client has to say.
func (s *service) leased6(l *link, lease *ipv6.Lease) {
	old := l.lease6
	l.lease6 = lease
	l.kept = l.kept || lease != nil
	addr := func(lease *ipv6.Lease) string {
		if lease == nil || !lease.Addr.IsValid() {
			return ""
		}
		return lease.Addr.String()
	}
	server := func(lease *ipv6.Lease) string {
		if !lease.ServerAddr.IsValid() {
			return ""
		}
		return lease.ServerAddr.String()
	}
	switch was, is := addr(old), addr(lease); {
	case is != "" && is != was:
		s.log.Info(fmt.Sprintf("address %s from DHCPv6 server %s", is, server(lease)), "port", l.name)
		s.diary.Add(diary.LeaseObtained, "port", l.name, "address", is, "server", server(lease))
	case is == "" && was != "":
		s.diary.Add(diary.LeaseLost, "port", l.name, "address", was, "server", server(old))
	}
	if lease != nil && lease.Addr.IsValid() {
		l.remembered6, l.unsaved = lease, true
	}
}

// advertised takes what IPv6's routers say.
func (s *service) advertised(l *link, info ipv6.Info) {
	for _, r := range info.Routers {
		if !slices.Contains(l.routers.Routers, r) {
			s.diary.Add(diary.RouterAppeared, "port", l.name, "router", r.WithZone("").String())
		}
	}
	for _, r := range l.routers.Routers {
		if !slices.Contains(info.Routers, r) {
			s.diary.Add(diary.RouterGone, "port", l.name, "router", r.WithZone("").String())
		}
	}
	l.routers = info
}

func (s *service) serverTrouble6(l *link, t ipv6.Trouble) {
	switch {
	case !t.Server.IsValid(): // the routers say too much
		l.flooded = true
		s.diary.Add(diary.PrefixesIgnored, "port", l.name, "limit", strconv.Itoa(ipv6.MaxPrefixes))
	case t.Refuse:
		s.diary.Add(diary.ServerRefused, "port", l.name, "server", t.Server.String())
	default:
		s.diary.Add(diary.OfferRejected, "port", l.name, "server", t.Server.String(), "reason", string(dhcp4.Malformed))
	}
}

// optionsOf names what a lease brings beside address and router, by DHCP's numbers.
func optionsOf(l *dhcp4.Lease) string {
	var list []string
	add := func(there bool, number int) {
		if there {
			list = append(list, strconv.Itoa(number))
		}
	}
	add(len(l.DNS) > 0, 6)
	add(l.Domain != "", 15)
	add(l.MTU != 0, 26)
	add(len(l.NTP) > 0, 42)
	add(len(l.Search) > 0, 119)
	add(len(l.Routes) > 0, 121)
	return strings.Join(list, ", ")
}

// changes names what a renewal brought that is new.
func changes(old, new *dhcp4.Lease) string {
	var list []string
	add := func(same bool, what string) {
		if !same {
			list = append(list, what)
		}
	}
	add(old.Gateway == new.Gateway, "router")
	add(slices.Equal(old.DNS, new.DNS), "DNS")
	add(slices.Equal(old.NTP, new.NTP), "NTP")
	add(slices.Equal(old.Routes, new.Routes), "routes")
	add(old.MTU == new.MTU, "MTU")
	add(old.Domain == new.Domain && slices.Equal(old.Search, new.Search), "search")
	return strings.Join(list, ", ")
}

// localChanged takes what a link-local client has to say.
func (s *service) localChanged(l *link, addr netip.Addr) {
	if addr.IsValid() {
		s.diary.Add(diary.LinkLocalUsed, "port", l.name, "address", addr.String())
		l.lastLocal = addr
		l.unsaved = true
	} else if l.linkLocal.IsValid() {
		s.diary.Add(diary.LinkLocalLeft, "port", l.name, "address", l.linkLocal.String())
	}
	l.linkLocal = addr
}

func (s *service) conflict(l *link, addr netip.Addr, mac net.HardwareAddr, kept bool) {
	s.log.Warn("another device has our address", "port", l.name, "address", addr, "mac", mac, "kept", kept)
	s.diary.Add(diary.DuplicateAddress, "port", l.name, "address", addr.String(), "mac", mac.String())
	if !kept && !addr.IsLinkLocalUnicast() {
		server := ""
		if l.remembered != nil && l.remembered.Server.IsValid() {
			server = l.remembered.Server.String()
		}
		s.diary.Add(diary.AddressGivenBack, "port", l.name, "address", addr.String(), "server", server)
	}
}

func (s *service) serverTrouble(l *link, t dhcp4.Trouble) {
	server := ""
	if t.Server.IsValid() {
		server = t.Server.String()
	}
	if t.Refuse {
		address := ""
		if l.remembered != nil {
			address = l.remembered.Prefix.String()
		}
		s.diary.Add(diary.ServerRefused, "port", l.name, "address", address, "server", server)
		return
	}
	s.diary.Add(diary.OfferRejected, "port", l.name, "server", server, "reason", string(t.Reason))
}

// tellCables notes in the diary what was plugged and unplugged.
func (s *service) tellCables(ports []reconcile.Link) {
	now := map[string]reconcile.Link{}
	for _, p := range ports {
		now[p.Name] = p
		was := s.seen[p.Name]
		switch {
		case p.Carrier && !was.Carrier:
			speed := ""
			if p.SpeedMbps > 0 {
				speed = strconv.Itoa(p.SpeedMbps)
			}
			s.diary.Add(diary.CablePlugged, "port", p.Name, "speed", speed)
		case !p.Carrier && was.Carrier:
			s.diary.Add(diary.CableUnplugged, "port", p.Name)
		}
	}
	for name, was := range s.seen {
		if _, there := now[name]; !there && was.Carrier {
			s.diary.Add(diary.CableUnplugged, "port", name)
		}
	}
	s.seen = now
}

// tellStatic notes in the diary which addresses the settings gave.
func (s *service) tellStatic(current spec.Spec) {
	now := map[netip.Prefix]bool{}
	for _, a := range current.Addresses {
		if a.Source == spec.Static {
			now[a.Prefix] = true
			if !s.static[a.Prefix] {
				s.diary.Add(diary.StaticSet, "port", a.Link, "address", a.Prefix.String())
			}
		}
	}
	s.static = now
}

// tellDuplicates notes in the diary whose IPv6 address another device has, and returns the other errors.
func (s *service) tellDuplicates(err error) error {
	// A client of IPv6 hears of it itself.
	dup := reconcile.DuplicateError{}
	if errors.As(err, &dup) && s.duplicate != dup && (s.links[dup.Link] == nil || !s.links[dup.Link].wants.v6) {
		s.diary.Add(diary.DuplicateAddress, "port", dup.Link, "address", dup.Address.String())
	}
	s.duplicate = dup
	return err
}

// publish makes what is asked for of what is there.
func (s *service) publish(state reconcile.State, ports []reconcile.Link, plans []portPlan, sp specs, number uint64) {
	now := time.Now()
	status := &Status{Ports: []Port{}}
	var ours commit.Addresses
	for _, p := range ports {
		port := Port{Name: p.Name, MAC: p.MAC.String(), Link: p.Carrier, SpeedMbps: p.SpeedMbps, MTU: p.MTU, Addresses: []Address{}}
		link := p.Name
		if i := slices.IndexFunc(plans, func(pp portPlan) bool { return pp.port == p.Name }); i >= 0 {
			port.Role, port.VLAN = plans[i].role, plans[i].VLAN
			link = plans[i].link
		}
		for _, a := range state.Addresses {
			if a.Link != p.Name && parentOf(state, a.Link) != p.Name || a.Tentative || a.Duplicate {
				continue
			}
			address := Address{Prefix: a.Prefix, Source: Manual, ValidSeconds: left(a.Valid, now)}
			kernels := a.Source == spec.SLAAC || a.Prefix.Addr().IsLinkLocalUnicast() && a.Prefix.Addr().Is6()
			if source, ok := sourceOf(sp.all, a.Address); ok {
				address.Source = sources[source]
			} else if kernels {
				address.Source = Kernel
			}
			ip := a.Prefix.Addr()
			if ip.Is6() && ip.IsLinkLocalUnicast() {
				ip = ip.WithZone(a.Link)
			}
			now, then := names(sp.current, a.Address, kernels), names(sp.former, a.Address, kernels)
			address.Former = then && !now
			switch {
			case port.Role == WAN: // the owner comes from lan (D2): what happens here does not cut him off
			case now && then:
				ours.Common = append(ours.Common, ip)
			case now:
				ours.New = append(ours.New, ip)
			case then:
				ours.Old = append(ours.Old, ip)
			}
			port.Addresses = append(port.Addresses, address)
		}
		for _, r := range sp.current.Routes {
			if r.Link == link && r.Destination.Bits() == 0 && r.Destination.Addr().Is4() {
				port.Gateway = r.Via
			}
		}
		for _, r := range sp.current.Resolvers {
			if r.Link == link {
				port.DNS = append(port.DNS, r.Address)
			}
		}
		if l := s.links[link]; l != nil && !l.since.IsZero() {
			port.SearchingSeconds = int64(now.Sub(l.since) / time.Second)
		}
		status.Ports = append(status.Ports, port)
	}
	s.published.Store(status)
	s.mu.Lock()
	s.addresses, s.number = ours, number
	s.mu.Unlock()
}

var sources = map[spec.Source]Source{
	spec.DHCP: DHCP, spec.DHCPv6: DHCP6, spec.Static: Static, spec.LinkLocal: LinkLocal, spec.SLAAC: Kernel, spec.Manual: Manual,
}

func parentOf(state reconcile.State, link string) string {
	for _, l := range state.Links {
		if l.Name == link && l.Ours {
			return l.Parent
		}
	}
	return ""
}

// sourceOf finds where a wanted address comes from.
func sourceOf(s spec.Spec, a spec.Address) (spec.Source, bool) {
	for _, w := range s.Addresses {
		if w.Link == a.Link && w.Prefix.Addr() == a.Prefix.Addr() && !w.Kernel {
			return w.Source, true
		}
	}
	return "", false
}

// names says whether a is of configuration s: named there, or the kernel's own on a link that speaks
// IPv6 there.
func names(s spec.Spec, a spec.Address, kernels bool) bool {
	if _, ok := sourceOf(s, a); ok {
		return true
	}
	return kernels && slices.ContainsFunc(s.Links, func(l spec.Link) bool { return l.Name == a.Link && l.IPv6 != spec.IPv6Off })
}

// clockNow is the clock as it is published.
func (s *service) clockNow() Clock {
	state := s.clockState.Load()
	c := Clock{
		Source: state.Source, Servers: []string{}, OffsetSeconds: state.Offset.Seconds(),
		Reason: state.Reason, Detail: state.Detail,
	}
	for _, server := range state.Servers {
		c.Servers = append(c.Servers, serverName(server))
	}
	if !state.Synced.IsZero() {
		c.SyncedSeconds = time.Since(state.Synced).Seconds()
	}
	return c
}

func serverName(s ntp.Server) string {
	if addr := s.Address.Addr().String(); s.Name != addr {
		return s.Name + " (" + addr + ")"
	}
	return s.Name
}
