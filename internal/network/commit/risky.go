package commit

import (
	"slices"
	"strings"

	"cloudlink.local/gateway/internal/settings"
)

// Risky says whether the change can cut the owner off: whether it touches addresses or where they come
// from, VLAN, MTU, routers or routes, as far as they are in use. DNS servers cannot: the page is also
// found without.
func Risky(old, new settings.Network) bool {
	return slices.ContainsFunc(Fields(inUse(old), inUse(new)), func(path string) bool { return !strings.HasSuffix(path, ".dns") })
}

// inUse returns n without what its methods do not use.
func inUse(n settings.Network) settings.Network {
	for _, p := range []*settings.Port{&n.WAN, &n.LAN} {
		if p.IPv4.Method != settings.Static {
			p.IPv4 = settings.IPv4{Method: p.IPv4.Method}
		}
		if p.IPv6.Method != settings.Static {
			p.IPv6 = settings.IPv6{Method: p.IPv6.Method}
		}
	}
	return n
}

// Fields returns the paths of the fields in which old and new differ.
func Fields(old, new settings.Network) []string {
	paths := []string{}
	for _, port := range []struct {
		name     string
		old, new settings.Port
	}{{"wan", old.WAN, new.WAN}, {"lan", old.LAN, new.LAN}} {
		o, n := port.old, port.new
		for _, field := range []struct {
			name string
			same bool
		}{
			{"vlan", o.VLAN == n.VLAN},
			{"mtu", o.MTU == n.MTU},
			{"ipv4.method", o.IPv4.Method == n.IPv4.Method},
			{"ipv4.addresses", slices.Equal(o.IPv4.Addresses, n.IPv4.Addresses)},
			{"ipv4.router", o.IPv4.Router == n.IPv4.Router},
			{"ipv6.method", o.IPv6.Method == n.IPv6.Method},
			{"ipv6.addresses", slices.Equal(o.IPv6.Addresses, n.IPv6.Addresses)},
			{"ipv6.router", o.IPv6.Router == n.IPv6.Router},
			{"dns", slices.Equal(o.DNS, n.DNS)},
			{"routes", slices.Equal(o.Routes, n.Routes)},
		} {
			if !field.same {
				paths = append(paths, "network."+port.name+"."+field.name)
			}
		}
	}
	return paths
}
