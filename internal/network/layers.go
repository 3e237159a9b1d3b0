package network

import (
	"crypto/rand"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"cloudlink.local/gateway/internal/network/dhcp4"
	"cloudlink.local/gateway/internal/network/firewall"
	"cloudlink.local/gateway/internal/network/ipv6"
	"cloudlink.local/gateway/internal/network/reconcile"
	"cloudlink.local/gateway/internal/network/spec"
	"cloudlink.local/gateway/internal/safefile"
	"cloudlink.local/gateway/internal/settings"
)

// metric is that of our routes: whoever sets one by hand with none goes first.
const metric = 100

// A portPlan is what the settings want of a port.
type portPlan struct {
	port string // the kernel's name
	link string // the VLAN's, or the port's
	role Role
	settings.Port
}

// plan says which of the ports has which settings (D2).
func plan(ports []reconcile.Link, n settings.Network) []portPlan {
	roles := []struct {
		role Role
		want settings.Port
	}{{WAN, n.WAN}, {LAN, n.LAN}}
	var plans []portPlan
	for i, p := range ports[:min(len(ports), len(roles))] {
		pp := portPlan{port: p.Name, link: p.Name, role: roles[i].role, Port: roles[i].want}
		if pp.VLAN != 0 {
			pp.link = fmt.Sprintf("%s.%d", p.Name, pp.VLAN)
		}
		plans = append(plans, pp)
	}
	if len(plans) == 1 {
		plans[0].role = Both
	}
	return plans
}

// base is the layer of what is so whatever the settings say: the ports are switched on.
func base(plans []portPlan, secret netip.Addr) spec.Spec {
	var s spec.Spec
	for _, p := range plans {
		port := spec.Link{Name: p.port, Layer: spec.Default}
		if p.VLAN != 0 { // without the tag nobody is spoken to
			port.IPv6 = spec.IPv6Off
			s.Links = append(s.Links, port)
			port = spec.Link{Name: p.link, Parent: p.port, VLAN: p.VLAN, Layer: spec.Default}
		}
		port.StableSecret = secret
		port.MTU = 1500
		s.Links = append(s.Links, port)
	}
	return s
}

// learned is what a link's clients know.
type learned struct {
	lease     *dhcp4.Lease
	linkLocal netip.Addr
	lease6    *ipv6.Lease
	routers   ipv6.Info
}

// automatic is the layer of what the link's clients learned, as far as the settings want it.
func automatic(p portPlan, l learned) spec.Spec {
	var s spec.Spec
	if p.IPv4.Method == settings.DHCP {
		s = automatic4(p, l)
	}
	if p.IPv6.Method == settings.Automatic {
		automatic6(&s, p, l)
	}
	return s
}

// automatic6 adds what DHCPv6 and the routers say.
func automatic6(s *spec.Spec, p portPlan, l learned) {
	dns, search := l.routers.DNS, l.routers.Search
	if lease := l.lease6; lease != nil {
		if lease.Addr.IsValid() {
			s.Addresses = append(s.Addresses, spec.Address{
				Link: p.link, Prefix: lease.Prefix(), Source: spec.DHCPv6, Valid: lease.Expires, Preferred: lease.Preferred,
				NoPrefixRoute: true, // it would be to itself, and stay when the address goes
			})
		}
		dns, search = append(slices.Clone(dns), lease.DNS...), append(slices.Clone(search), lease.Search...)
	}
	for _, a := range dns {
		s.Resolvers = append(s.Resolvers, spec.Resolver{Link: p.link, Address: a})
	}
	for _, d := range search {
		s.Search = append(s.Search, spec.Search{Link: p.link, Domain: d})
	}
}

func automatic4(p portPlan, l learned) spec.Spec {
	var s spec.Spec
	if l.linkLocal.IsValid() {
		s.Addresses = append(s.Addresses, spec.Address{Link: p.link, Prefix: netip.PrefixFrom(l.linkLocal, 16), Source: spec.LinkLocal})
	}
	lease := l.lease
	if lease == nil {
		return s
	}
	s.Links = []spec.Link{{Name: p.link, MTU: lease.MTU, Layer: spec.Automatic}}
	s.Addresses = append(s.Addresses, spec.Address{Link: p.link, Prefix: lease.Prefix, Source: spec.DHCP, Valid: lease.Expires})
	if lease.Gateway.IsValid() {
		s.Routes = append(s.Routes, everywhere(p.link, lease.Gateway, lease.Prefix))
	}
	for _, r := range lease.Routes {
		s.Routes = append(s.Routes, spec.Route{
			Link: p.link, Destination: r.To, Via: r.Via, Metric: metric,
			OnLink: r.Via.IsValid() && !lease.Prefix.Contains(r.Via), PreferredSource: lease.Addr(),
		})
	}
	for _, a := range lease.DNS {
		s.Resolvers = append(s.Resolvers, spec.Resolver{Link: p.link, Address: a})
	}
	domains := lease.Search
	if lease.Domain != "" && !slices.Contains(domains, lease.Domain) {
		domains = append(slices.Clone(domains), lease.Domain)
	}
	for _, d := range domains {
		s.Search = append(s.Search, spec.Search{Link: p.link, Domain: d})
	}
	return s
}

// everywhere is the way to everybody through a router, which may be on the link without an address of
// ours saying so.
func everywhere(link string, router netip.Addr, own netip.Prefix) spec.Route {
	all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if router.Is6() {
		all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return spec.Route{
		Link: link, Destination: all, Via: router, Metric: metric,
		OnLink: router.Is4() && !own.Contains(router),
	}
}

// owner is the layer of what the settings say themselves.
func owner(p portPlan) spec.Spec {
	link := spec.Link{Name: p.link, MTU: p.MTU, Layer: spec.Owner}
	switch p.IPv6.Method {
	case settings.Off:
		link.IPv6 = spec.IPv6Off
	case settings.Static:
		link.IPv6 = spec.IPv6Static
	default:
		link.IPv6 = spec.IPv6Automatic
	}
	s := spec.Spec{Links: []spec.Link{link}}
	static := func(addresses []netip.Prefix, router netip.Addr) {
		for _, a := range addresses {
			s.Addresses = append(s.Addresses, spec.Address{Link: p.link, Prefix: a, Source: spec.Static})
		}
		if router.IsValid() {
			s.Routes = append(s.Routes, everywhere(p.link, router, netip.PrefixFrom(router, router.BitLen())))
		}
	}
	if p.IPv4.Method == settings.Static {
		static(p.IPv4.Addresses, p.IPv4.Router)
	}
	if p.IPv6.Method == settings.Static {
		static(p.IPv6.Addresses, p.IPv6.Router)
	}
	for _, r := range p.Routes {
		s.Routes = append(s.Routes, spec.Route{Link: p.link, Destination: r.Destination, Via: r.Router, Metric: metric})
	}
	for _, a := range p.DNS {
		s.Resolvers = append(s.Resolvers, spec.Resolver{Link: p.link, Address: a})
	}
	return s
}

// behind says whether a route of the main table leads through a router that only the former
// configuration knows.
func behind(r spec.Route, current spec.Spec) bool {
	if r.Kernel || !r.Via.IsValid() || r.Table != 0 && r.Table != spec.Main {
		return false
	}
	return !slices.ContainsFunc(current.Routes, func(c spec.Route) bool {
		return c.Link == r.Link && c.Via == r.Via && c.Destination == r.Destination
	})
}

// policyOf is what the firewall is to let in: D2, for what the settings use.
func (s *service) policyOf(plans []portPlan) firewall.Policy {
	wan, lan := "", ""
	for _, p := range plans {
		if p.role == LAN {
			lan = p.link
		} else {
			wan = p.link
		}
	}
	policy := firewall.ForPorts(wan, lan)
	for i := range policy.Ports {
		for _, p := range plans {
			if p.link == policy.Ports[i].Link {
				policy.Ports[i].DHCPv4 = p.IPv4.Method == settings.DHCP
				policy.Ports[i].DHCPv6 = p.IPv6.Method == settings.Automatic
				policy.Ports[i].MDNS = announces(p, s.store.Get().Names)
			}
		}
	}
	return policy
}

// offersOf names what a policy lets in, for the diary.
func offersOf(p firewall.Policy) string {
	var list []string
	for _, port := range p.Ports {
		if port.Portal {
			list = append(list, "tcp/80 "+port.Link)
		}
		if port.MDNS {
			list = append(list, "udp/5353 "+port.Link)
		}
	}
	return strings.Join(list, ", ")
}

// secret reads the 16 bytes that never leave the gateway and of which its ports' own IPv6 addresses
// are made (RFC 7217), or makes them.
func secret(path string) (netip.Addr, error) {
	b, err := safefile.Read(path, 16)
	if addr, ok := netip.AddrFromSlice(b); err == nil && ok && addr.Is6() {
		return addr, nil
	}
	if err := safefile.Clear(path, false); err != nil {
		return netip.Addr{}, fmt.Errorf("make room for the secret of IPv6 addresses: %w", err)
	}
	var fresh [16]byte
	rand.Read(fresh[:]) // does not fail
	if err := renameio.WriteFile(path, fresh[:], 0o600); err != nil {
		return netip.Addr{}, fmt.Errorf("save secret of IPv6 addresses: %w", err)
	}
	return netip.AddrFrom16(fresh), nil
}

// resolvConf is what programs that look names up read.
func resolvConf(s spec.Spec) []byte {
	var b strings.Builder
	b.WriteString("# Written by the network service.\n")
	seen := map[netip.Addr]bool{}
	for _, r := range s.Resolvers {
		if len(seen) < maxDNS && !seen[r.Address] {
			seen[r.Address] = true
			fmt.Fprintf(&b, "nameserver %s\n", r.Address)
		}
	}
	var domains []string
	for _, d := range s.Search {
		if !slices.Contains(domains, d.Domain) {
			domains = append(domains, d.Domain)
		}
	}
	if len(domains) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(domains, " "))
	}
	return []byte(b.String())
}

// left is the whole seconds until t; 0 for never, and 1 for less than that.
func left(t, now time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return max(1, int64(t.Sub(now)/time.Second))
}
