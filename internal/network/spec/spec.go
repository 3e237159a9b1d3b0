// Package spec says how the Ethernet ports are to be configured, as data: links, addresses, routes,
// rules and DNS servers. Each part that knows something makes a layer of its own; Merge makes one of
// them, Policy adds what lets replies leave by the port they came in on, and package reconcile makes
// the kernel's state so.
package spec

import (
	"net/netip"
	"time"
)

// A Spec is how the ports are to be configured, or one layer of it. The order of Links is that of the
// ports: the first goes first where several lead to the same place.
type Spec struct {
	Links     []Link
	Addresses []Address
	Routes    []Route
	Rules     []Rule
	Resolvers []Resolver // in the order in which they are to be asked
	Search    []Search   // in the order in which they are to be tried

	behind bool // made by Behind
}

// A Layer says who asked for something.
type Layer string

// The layers, each going before those above it.
const (
	Default   Layer = "default"
	Automatic Layer = "automatic" // DHCP, router advertisements, IPv4 link-local
	Owner     Layer = "owner"
)

// A Link is a port of the machine, or a VLAN on one. It is switched on. In a layer, a field's zero
// value leaves what the layers below say.
type Link struct {
	Name   string
	Parent string // VLANs only: the link that carries it
	VLAN   int    // 1 to 4094; 0 for a port
	MTU    int    // bytes; 0 leaves it alone
	IPv6   IPv6
	// StableSecret is what RFC 7217 makes a link's own addresses of, 16 secret bytes that never change
	// (the kernel writes them as an address, and so do we). Without, the kernel's way stays.
	StableSecret netip.Addr
	Layer        Layer // the highest that names the link; only for being shown
}

// IPv6 is how a link speaks IPv6. The zero value leaves it alone.
type IPv6 string

// The ways of IPv6.
const (
	IPv6Off       IPv6 = "off"
	IPv6Static    IPv6 = "static"    // the link-local address and those of the Spec
	IPv6Automatic IPv6 = "automatic" // and those that router advertisements give
)

// An Address is one address of a link.
type Address struct {
	Link   string
	Prefix netip.Prefix // the address, with the length of its subnet
	Source Source
	// Valid and Preferred are the ends of the address's lifetimes, with Go's monotonic reading. The
	// zero Valid is never; the zero Preferred is Valid. An address past Valid is not wanted.
	Valid, Preferred time.Time
	NoPrefixRoute    bool // no route to the subnet comes with it
	// Kernel marks an address of the kernel's own, made from a router advertisement. It is here for
	// Policy to follow; it is neither set nor removed.
	Kernel bool
}

// A Source says where an address comes from.
type Source string

// The sources of addresses.
const (
	DHCP      Source = "dhcp"
	DHCPv6    Source = "dhcpv6"
	LinkLocal Source = "link-local" // made up: RFC 3927, or IPv6's own
	SLAAC     Source = "slaac"      // made from a router's advertisement
	Static    Source = "static"
	Manual    Source = "manual" // put there by hand, in a root shell
)

// A Route leads to Destination.
type Route struct {
	Link            string
	Destination     netip.Prefix
	Via             netip.Addr // the next router; none where Destination is on the link
	PreferredSource netip.Addr // the sender's address of packets that have none yet; none: the kernel chooses
	Metric          int        // the lowest goes first; IPv6's 0 is 1024
	Table           int        // 0 is Main
	OnLink          bool       // Via is on the link although no address says so
	Kernel          bool       // as in Address
}

// Main is the routing table of packets for which no rule says otherwise.
const Main = 254

// A Rule has packets from From look for their way in Table.
type Rule struct {
	Priority int // the lowest goes first; that of Main is 32766
	From     netip.Prefix
	Table    int
}

// A Resolver is a DNS server that was named for a link.
type Resolver struct {
	Link    string
	Address netip.Addr
}

// A Search is a domain in which short names are looked up.
type Search struct {
	Link   string
	Domain string
}
