// Package settings is what the owner has decided: one struct, with its defaults, its rules and its
// file. The network service owns the file; everybody else asks it over its socket and gets copies.
package settings

import (
	"encoding/json"
	"net/netip"
	"slices"
)

// Version is the version of the settings' shape. A file of a lower one is migrated when it is read; of
// a higher one, written by the newer firmware in the other slot, what is known is taken. Once there has
// been a release, every change of the shape needs a new version and a migration, and so does a rule that
// becomes stricter: a key that is unknown to a version is damage.
const Version = 1

// Settings is everything that the owner can set.
type Settings struct {
	Version int     `json:"version"`
	Network Network `json:"network"`
	Clock   Clock   `json:"clock"`
	Names   Names   `json:"names"`
	Update  Update  `json:"update"`
}

// Network is how the Ethernet ports are configured. A device with one port uses WAN for it.
type Network struct {
	WAN Port `json:"wan"` // the first port
	LAN Port `json:"lan"` // the second
}

// A Port is one Ethernet port (D2).
type Port struct {
	VLAN   int          `json:"vlan"` // 1 to 4094; 0 for none
	MTU    int          `json:"mtu"`  // bytes, 1280 to 9000; 0: the DHCP server's, or 1500
	IPv4   IPv4         `json:"ipv4"`
	IPv6   IPv6         `json:"ipv6"`
	DNS    []netip.Addr `json:"dns"` // servers instead of those that are learned; empty: learned
	Routes []Route      `json:"routes"`
}

// A Method says where a port's addresses come from.
type Method string

// The methods. DHCP is IPv4's; Automatic is IPv6's: router advertisements, and DHCPv6 where they
// tell to use it.
const (
	DHCP      Method = "dhcp"
	Automatic Method = "automatic"
	Static    Method = "static"
	Off       Method = "off"
)

// IPv4 is DHCP, Static or Off. Where DHCP gives nothing, the port has a link-local address.
type IPv4 struct {
	Method    Method         `json:"method"`
	Addresses []netip.Prefix `json:"addresses"` // static only: each with the length of its subnet
	Router    netip.Addr     `json:"router"`    // static only; zero for none
}

// IPv6 is Automatic, Static or Off.
type IPv6 struct {
	Method    Method         `json:"method"`
	Addresses []netip.Prefix `json:"addresses"`
	Router    netip.Addr     `json:"router"`
}

// A Route leads to Destination through Router.
type Route struct {
	Destination netip.Prefix `json:"destination"`
	Router      netip.Addr   `json:"router"`
}

// Clock is where the time comes from.
type Clock struct {
	Servers []string `json:"servers"` // NTP hosts or addresses; asked after those that DHCP names
}

// Names is how the gateway is found in the LAN (M20-M26).
type Names struct {
	Host  string `json:"host"`   // one label: HOST.local opens the page
	OnWAN bool   `json:"on_wan"` // answer on wan as well, where lan is a port of its own
}

// Update is how the gateway updates itself (D3).
type Update struct {
	Server         string  `json:"server"`    // URL of the update repository; "" for none: nothing is asked
	Channel        Channel `json:"channel"`   // what it takes
	Automatic      bool    `json:"automatic"` // installs what it finds; else it only tells
	Window         Window  `json:"window"`    // when it may restart for that
	NotDuringCalls bool    `json:"not_during_calls"`
}

// A Channel is a kind of release.
type Channel string

// The channels. Whoever takes Beta takes Stable as well.
const (
	Stable Channel = "stable"
	Beta   Channel = "beta"
)

// A Window is a time of the day, over midnight where To is before From. Both are "" for any time.
type Window struct {
	From string `json:"from"` // "02:00"
	To   string `json:"to"`
	Zone string `json:"zone"` // "Europe/Berlin"; "" for UTC
}

// Default returns the settings of a new device.
func Default() Settings {
	port := Port{
		IPv4:   IPv4{Method: DHCP, Addresses: []netip.Prefix{}},
		IPv6:   IPv6{Method: Automatic, Addresses: []netip.Prefix{}},
		DNS:    []netip.Addr{},
		Routes: []Route{},
	}
	return Settings{
		Version: Version,
		Network: Network{WAN: port, LAN: port},
		Clock:   Clock{Servers: []string{"pool.ntp.org"}},
		Names:   Names{Host: "cloudlink"},
		Update:  Update{Channel: Stable, Automatic: true, NotDuringCalls: true},
	}
}

// Clone returns a copy that shares nothing with s. Its lists are never nil.
func (s Settings) Clone() Settings {
	s.Network = s.Network.Clone()
	s.Clock.Servers = list(s.Clock.Servers)
	return s
}

// Clone returns a copy that shares nothing with n. Its lists are never nil.
func (n Network) Clone() Network {
	for _, p := range []*Port{&n.WAN, &n.LAN} {
		p.IPv4.Addresses = list(p.IPv4.Addresses)
		p.IPv6.Addresses = list(p.IPv6.Addresses)
		p.DNS = list(p.DNS)
		p.Routes = list(p.Routes)
	}
	return n
}

// list returns a copy of l that is never nil.
func list[T any](l []T) []T { return append([]T{}, l...) }

// Equal says whether n and m configure the ports alike. The order of a list counts: the first
// address is the one that is used for what the gateway sends.
func (n Network) Equal(m Network) bool { return n.WAN.Equal(m.WAN) && n.LAN.Equal(m.LAN) }

// Equal says whether p and q configure a port alike.
func (p Port) Equal(q Port) bool {
	return p.VLAN == q.VLAN && p.MTU == q.MTU && p.IPv4.equal(q.IPv4) && IPv4(p.IPv6).equal(IPv4(q.IPv6)) &&
		slices.Equal(p.DNS, q.DNS) && slices.Equal(p.Routes, q.Routes)
}

func (f IPv4) equal(g IPv4) bool {
	return f.Method == g.Method && f.Router == g.Router && slices.Equal(f.Addresses, g.Addresses)
}

// MarshalJSON writes empty lists as such, never as null. So do those that follow.
func (p Port) MarshalJSON() ([]byte, error) {
	type plain Port // without this method
	p.DNS, p.Routes = list(p.DNS), list(p.Routes)
	return json.Marshal(plain(p))
}

// MarshalJSON is as Port's.
func (f IPv4) MarshalJSON() ([]byte, error) {
	type plain IPv4
	f.Addresses = list(f.Addresses)
	return json.Marshal(plain(f))
}

// MarshalJSON is as Port's.
func (f IPv6) MarshalJSON() ([]byte, error) { return IPv4(f).MarshalJSON() }

// MarshalJSON is as Port's.
func (c Clock) MarshalJSON() ([]byte, error) {
	type plain Clock
	c.Servers = list(c.Servers)
	return json.Marshal(plain(c))
}
