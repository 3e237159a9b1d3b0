package settings

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// static returns IPv4 settings with these addresses.
func static(router string, addresses ...string) IPv4 {
	f := IPv4{Method: Static, Addresses: prefixes(addresses...)}
	if router != "" {
		f.Router = addr(router)
	}
	return f
}

// many returns n different /24 networks, or addresses in them.
func many(n, host int) []netip.Prefix {
	var list []netip.Prefix
	for i := range n {
		list = append(list, prefix(fmt.Sprintf("10.%d.0.%d/24", i, host)))
	}
	return list
}

// rules are changes to the default settings, and all that Check says then.
var rules = []struct {
	name   string
	change func(s *Settings, wan, lan *Port)
	want   string
}{
	{"version", func(s *Settings, _, _ *Port) { s.Version = 2 }, "version bad-version"},

	{"VLAN from 1 to 4094", func(_ *Settings, wan, lan *Port) { wan.VLAN, lan.VLAN = 1, 4094 }, ""},
	{"VLAN outside", func(_ *Settings, wan, lan *Port) { wan.VLAN, lan.VLAN = -1, 4095 }, "network.wan.vlan vlan-range, network.lan.vlan vlan-range"},
	{"MTU from 1280 to 9000", func(_ *Settings, wan, lan *Port) { wan.MTU, lan.MTU = 1280, 9000 }, ""},
	{"MTU outside", func(_ *Settings, wan, lan *Port) { wan.MTU, lan.MTU = 1279, 9001 }, "network.wan.mtu mtu-range, network.lan.mtu mtu-range"},
	{"MTU below 0", func(_ *Settings, wan, _ *Port) { wan.MTU = -1 }, "network.wan.mtu mtu-range"},

	{"all off", func(_ *Settings, wan, _ *Port) { wan.IPv4.Method, wan.IPv6.Method = Off, Off }, ""},
	{"no method", func(_ *Settings, wan, _ *Port) { wan.IPv4.Method = "" }, "network.wan.ipv4.method unknown-method"},
	{"each its own methods", func(_ *Settings, wan, _ *Port) { wan.IPv4.Method, wan.IPv6.Method = Automatic, DHCP },
		"network.wan.ipv4.method unknown-method, network.wan.ipv6.method unknown-method"},
	{"static without an address", func(_ *Settings, wan, _ *Port) {
		wan.IPv4 = static("192.0.2.1")
		wan.IPv6.Method = Static
	}, "network.wan.ipv4.addresses addresses-missing, network.wan.ipv6.addresses addresses-missing"},
	{"DHCP with static values", func(_ *Settings, wan, _ *Port) {
		wan.IPv4 = static("192.0.2.1", "192.0.2.5/24")
		wan.IPv4.Method = DHCP
		wan.IPv6 = IPv6(static("fe80::1", "2001:db8::5/64"))
		wan.IPv6.Method = Off
	}, "network.wan.ipv4.addresses addresses-not-static, network.wan.ipv4.router router-not-static, " +
		"network.wan.ipv6.addresses addresses-not-static, network.wan.ipv6.router router-not-static"},

	{"hosts of small subnets", func(_ *Settings, wan, _ *Port) {
		wan.IPv4 = static("192.0.2.3", "192.0.2.2/31", "198.51.100.0/32", "198.51.100.255/32", "203.0.113.1/30", "10.0.0.1/8")
		wan.IPv6 = IPv6(static("2001:db8::1", "2001:db8::/127", "2001:db8:1::/128", "fe80::5/64"))
	}, ""},
	{"networks", func(_ *Settings, wan, _ *Port) {
		wan.IPv4 = static("", "192.0.2.0/24", "203.0.113.4/30")
		wan.IPv6 = IPv6(static("", "2001:db8::/64"))
	}, "network.wan.ipv4.addresses[0] network-address, network.wan.ipv4.addresses[1] network-address, network.wan.ipv6.addresses[0] network-address"},
	{"broadcast", func(_ *Settings, wan, _ *Port) {
		wan.IPv4 = static("", "192.0.2.255/24", "203.0.113.7/30", "10.255.255.255/8")
		wan.IPv6 = IPv6(static("", "2001:db8::ffff:ffff:ffff:ffff/64")) // has none
	}, "network.wan.ipv4.addresses[0] broadcast-address, network.wan.ipv4.addresses[1] broadcast-address, network.wan.ipv4.addresses[2] broadcast-address"},
	{"special IPv4", func(_ *Settings, wan, _ *Port) {
		wan.IPv4 = static("", "0.0.0.5/8", "127.0.0.2/8", "224.0.0.5/24", "255.255.255.255/32", "169.254.3.4/16", "240.0.0.1/24")
	}, "network.wan.ipv4.addresses[0] unspecified, network.wan.ipv4.addresses[1] loopback, network.wan.ipv4.addresses[2] multicast, " +
		"network.wan.ipv4.addresses[3] reserved, network.wan.ipv4.addresses[4] link-local, network.wan.ipv4.addresses[5] reserved"},
	{"special IPv6", func(_ *Settings, wan, _ *Port) {
		wan.IPv6 = IPv6(static("", "::/64", "::1/128", "ff02::5/64", "::ffff:192.0.2.5/120"))
	}, "network.wan.ipv6.addresses[0] not-subnet, network.wan.ipv6.addresses[1] loopback, network.wan.ipv6.addresses[2] multicast, " +
		"network.wan.ipv6.addresses[3] mapped-address"},
	{"the other version", func(_ *Settings, wan, _ *Port) {
		wan.IPv4 = static("2001:db8::1", "192.0.2.5/24", "2001:db8::5/64")
		wan.IPv6 = IPv6(static("192.0.2.1", "2001:db8::5/64", "192.0.2.5/24"))
	}, "network.wan.ipv4.addresses[1] not-ipv4, network.wan.ipv4.router not-ipv4, network.wan.ipv6.addresses[1] not-ipv6, network.wan.ipv6.router not-ipv6"},
	{"an empty address", func(_ *Settings, wan, _ *Port) { wan.IPv4 = IPv4{Method: Static, Addresses: make([]netip.Prefix, 1)} },
		"network.wan.ipv4.addresses[0] empty"},
	{"lengths", func(_ *Settings, wan, _ *Port) {
		wan.IPv4 = static("", "10.0.0.5/0", "11.0.0.5/7")
		wan.IPv6 = IPv6(static("", "2001:db8::5/15"))
	}, "network.wan.ipv4.addresses[0] length-range, network.wan.ipv4.addresses[1] length-range, network.wan.ipv6.addresses[0] length-range"},
	{"an impossible length", func(_ *Settings, wan, _ *Port) {
		wan.IPv4 = IPv4{Method: Static, Addresses: []netip.Prefix{netip.PrefixFrom(addr("192.0.2.5"), 33)}}
	}, "network.wan.ipv4.addresses[0] length-range"},
	{"eight addresses", func(_ *Settings, wan, _ *Port) { wan.IPv4 = IPv4{Method: Static, Addresses: many(8, 5)} }, ""},
	{"nine addresses", func(_ *Settings, wan, _ *Port) {
		wan.IPv4 = IPv4{Method: Static, Addresses: many(9, 0), Router: addr("192.0.2.1")}
	}, "network.wan.ipv4.addresses too-many"},
	{"an address twice", func(_ *Settings, wan, _ *Port) {
		wan.IPv4 = static("", "192.0.2.5/24", "192.0.2.6/24", "192.0.2.5/25")
	}, "network.wan.ipv4.addresses[2] duplicate"},

	{"an address on both ports", func(_ *Settings, wan, lan *Port) {
		wan.IPv4, lan.IPv4 = static("", "192.0.2.5/24"), static("", "10.0.0.5/8", "192.0.2.5/32")
		wan.IPv6, lan.IPv6 = IPv6(static("", "fd00::5/64")), IPv6(static("", "fd00::5/64"))
		lan.VLAN = 3
	}, "network.lan.ipv4.addresses[1] other-ports-address, network.lan.ipv6.addresses[0] other-ports-address"},
	{"overlapping subnets", func(_ *Settings, wan, lan *Port) {
		wan.IPv4, lan.IPv4 = static("", "10.1.0.5/16"), static("", "192.0.2.5/24", "10.0.0.5/8")
		wan.IPv6, lan.IPv6 = IPv6(static("", "fd00::5/64")), IPv6(static("", "fd00::6/112"))
	}, "network.lan.ipv4.addresses[1] subnets-overlap, network.lan.ipv6.addresses[0] subnets-overlap"},
	{"link-local subnets are every port's", func(_ *Settings, wan, lan *Port) {
		wan.IPv6, lan.IPv6 = IPv6(static("", "fe80::5/64")), IPv6(static("", "fe80::6/64"))
	}, ""},
	{"overlapping subnets on different VLANs", func(_ *Settings, wan, lan *Port) {
		wan.IPv4, lan.IPv4 = static("", "10.1.0.5/16"), static("", "10.0.0.5/8")
		lan.VLAN = 3
	}, ""},
	{"overlapping subnets of one port", func(_ *Settings, wan, _ *Port) { wan.IPv4 = static("", "10.1.0.5/16", "10.0.0.5/8") }, ""},
	{"a port that is not static does not overlap", func(_ *Settings, wan, lan *Port) {
		wan.IPv4, lan.IPv4 = static("", "10.1.0.5/16"), static("", "10.0.0.5/8")
		wan.IPv4.Method = Off
	}, "network.wan.ipv4.addresses addresses-not-static"},

	{"router in the second subnet", func(_ *Settings, wan, _ *Port) {
		wan.IPv4 = static("198.51.100.1", "192.0.2.5/24", "198.51.100.5/24")
		wan.IPv6 = IPv6(static("2001:db8::", "2001:db8::5/64")) // all routers' anycast address
	}, ""},
	{"router outside", func(_ *Settings, wan, _ *Port) {
		wan.IPv4 = static("192.0.3.1", "192.0.2.5/24", "198.51.100.5/24")
		wan.IPv6 = IPv6(static("2001:db8:1::1", "2001:db8::5/64"))
	}, "network.wan.ipv4.router router-outside, network.wan.ipv6.router router-outside"},
	{"no router is none's", func(_ *Settings, wan, lan *Port) {
		wan.IPv4 = static("192.0.2.5", "192.0.2.5/24")
		wan.IPv6 = IPv6(static("fe80::5", "2001:db8::5/64"))
		lan.IPv6 = IPv6(static("", "fe80::5/64"))
	}, "network.wan.ipv4.router router-own-address, network.wan.ipv6.router router-own-address"},
	{"impossible routers", func(_ *Settings, wan, lan *Port) {
		wan.IPv4, lan.IPv4 = static("192.0.2.0", "192.0.2.5/24"), static("198.51.100.255", "198.51.100.5/24")
		wan.IPv6, lan.IPv6 = IPv6(static("ff02::2", "2001:db8::5/64")), IPv6(static("fe80::1%eth0", "fd00::5/64"))
	}, "network.wan.ipv4.router network-address, network.wan.ipv6.router multicast, " +
		"network.lan.ipv4.router broadcast-address, network.lan.ipv6.router zone-in-address"},

	{"three DNS servers", func(_ *Settings, wan, _ *Port) {
		wan.DNS = []netip.Addr{addr("9.9.9.9"), addr("fe80::1"), addr("169.254.1.1")}
	}, ""},
	{"four DNS servers", func(_ *Settings, wan, _ *Port) { wan.DNS = make([]netip.Addr, 4) }, "network.wan.dns too-many"},
	{"impossible DNS servers", func(_ *Settings, wan, lan *Port) {
		wan.DNS = []netip.Addr{{}, addr("127.0.0.53"), addr("::1")}
		lan.DNS = []netip.Addr{addr("0.0.0.0"), addr("ff02::fb"), addr("fe80::1%eth0")}
	}, "network.wan.dns[0] empty, network.wan.dns[1] loopback, network.wan.dns[2] loopback, " +
		"network.lan.dns[0] unspecified, network.lan.dns[1] multicast, network.lan.dns[2] zone-in-address"},
	{"more impossible DNS servers", func(_ *Settings, wan, _ *Port) {
		wan.DNS = []netip.Addr{addr("::ffff:9.9.9.9"), addr("9.9.9.9"), addr("9.9.9.9")}
	}, "network.wan.dns[0] mapped-address, network.wan.dns[2] duplicate"},

	{"routes through learned subnets", func(_ *Settings, wan, _ *Port) {
		wan.Routes = []Route{{prefix("10.0.0.0/8"), addr("192.0.2.1")}, {prefix("fd00::/8"), addr("fe80::1")},
			{prefix("0.0.0.0/1"), addr("192.0.2.1")}, {prefix("192.0.2.9/32"), addr("192.0.2.1")}}
	}, ""},
	{"32 routes", func(_ *Settings, wan, _ *Port) {
		for _, d := range many(32, 0) {
			wan.Routes = append(wan.Routes, Route{d, addr("192.0.2.1")})
		}
	}, ""},
	{"33 routes", func(_ *Settings, wan, _ *Port) { wan.Routes = make([]Route, 33) }, "network.wan.routes too-many"},
	{"impossible destinations", func(_ *Settings, wan, _ *Port) {
		for _, d := range prefixes("10.0.0.1/8", "0.0.0.0/0", "::/0", "127.0.0.0/8", "224.0.0.0/4", "fe80::/64", "::ffff:10.0.0.0/104", "0.0.0.0/8", "240.0.0.0/5") {
			wan.Routes = append(wan.Routes, Route{Destination: d})
		}
		wan.Routes = append(wan.Routes, Route{})
	}, "network.wan.routes[0].destination route-host-bits, network.wan.routes[1].destination route-default, network.wan.routes[2].destination route-default, " +
		"network.wan.routes[3].destination loopback, network.wan.routes[4].destination multicast, network.wan.routes[5].destination link-local, " +
		"network.wan.routes[6].destination mapped-address, network.wan.routes[7].destination unspecified, network.wan.routes[8].destination reserved, " +
		"network.wan.routes[9].destination empty"},
	{"a port's own subnet", func(_ *Settings, wan, lan *Port) {
		wan.IPv4, lan.IPv4 = static("", "192.0.2.5/24"), static("", "198.51.100.5/24")
		wan.Routes = []Route{
			{prefix("192.0.2.0/24"), addr("192.0.2.1")}, {prefix("192.0.2.128/25"), addr("192.0.2.1")}, {prefix("198.51.100.0/24"), addr("192.0.2.1")},
		}
	}, "network.wan.routes[0].destination route-own-subnet, network.wan.routes[2].destination route-own-subnet"},
	{"a destination twice", func(_ *Settings, wan, lan *Port) {
		wan.Routes = []Route{{prefix("10.0.0.0/8"), addr("192.0.2.1")}, {prefix("10.0.0.0/8"), addr("192.0.2.2")}}
		lan.Routes = []Route{{prefix("10.0.0.0/8"), addr("198.51.100.1")}} // the second way there
	}, "network.wan.routes[1].destination duplicate"},
	{"routers of routes", func(_ *Settings, wan, lan *Port) {
		wan.IPv4 = static("", "192.0.2.5/24")
		wan.IPv6.Method = Off
		wan.Routes = []Route{
			{Destination: prefix("10.0.0.0/16")},
			{prefix("10.1.0.0/16"), addr("198.51.100.1")},
			{prefix("10.2.0.0/16"), addr("192.0.2.5")},
			{prefix("10.3.0.0/16"), addr("fe80::1")},
			{prefix("fd00:1::/64"), addr("fe80::1")},
			{prefix("10.4.0.0/16"), addr("127.0.0.1")},
			{prefix("10.5.0.0/16"), addr("192.0.2.255")},
			{prefix("10.6.0.0/16"), addr("192.0.2.0")},
		}
		lan.Routes = []Route{{prefix("10.7.0.0/16"), addr("192.0.2.5")}}
	}, "network.wan.routes[0].router router-missing, network.wan.routes[1].router router-outside, network.wan.routes[2].router router-own-address, " +
		"network.wan.routes[3].router route-family, network.wan.routes[4].router route-family-off, network.wan.routes[5].router loopback, " +
		"network.wan.routes[6].router broadcast-address, network.wan.routes[7].router network-address, network.lan.routes[0].router router-own-address"},

	{"no time server", func(s *Settings, _, _ *Port) { s.Clock.Servers = nil }, ""},
	{"eight time servers", func(s *Settings, _, _ *Port) {
		s.Clock.Servers = []string{"a", "NTP.example", "0.de.pool.ntp.org", "xn--bcher-kva.example", "a-b.c4", "3com", "192.0.2.1", "2001:db8::1"}
	}, ""},
	{"nine time servers", func(s *Settings, _, _ *Port) { s.Clock.Servers = make([]string, 9) }, "clock.servers too-many"},
	{"not host names", func(s *Settings, _, _ *Port) {
		s.Clock.Servers = []string{"-a.example", "a-", "a..b", "a.", "bücher.example", "a_b", "192.0.2.256", strings.Repeat("a", 64)}
	}, "clock.servers[0] host-syntax, clock.servers[1] host-syntax, clock.servers[2] host-syntax, clock.servers[3] host-syntax, " +
		"clock.servers[4] host-syntax, clock.servers[5] host-syntax, clock.servers[6] host-syntax, clock.servers[7] host-syntax"},
	{"nearly host names", func(s *Settings, _, _ *Port) {
		s.Clock.Servers = []string{"", "a b", "a\n", "https://a.example/", "a.example:123", "[2001:db8::1]:123", "[2001:db8::1]", strings.Repeat("a.", 127) + "a"}
	}, "clock.servers[0] empty, clock.servers[1] host-space, clock.servers[2] host-space, clock.servers[3] host-scheme, clock.servers[4] host-port, " +
		"clock.servers[5] host-port, clock.servers[6] host-syntax, clock.servers[7] host-syntax"},
	{"impossible time servers", func(s *Settings, _, _ *Port) {
		s.Clock.Servers = []string{"127.0.0.1", "224.0.1.1", "::", "fe80::1", "fe80::1%eth0", "localhost", "a.LocalHost"}
	}, "clock.servers[0] loopback, clock.servers[1] multicast, clock.servers[2] unspecified, clock.servers[3] link-local, clock.servers[4] zone-in-address, " +
		"clock.servers[5] loopback, clock.servers[6] loopback"},
	{"names", func(s *Settings, _, _ *Port) { s.Names.Host = "Office-2" }, ""},
	{"no name", func(s *Settings, _, _ *Port) { s.Names.Host = "" }, "names.host name-empty"},
	{"a name with its domain", func(s *Settings, _, _ *Port) { s.Names.Host = "cloudlink.local" }, "names.host name-label"},
	{"a name of digits", func(s *Settings, _, _ *Port) { s.Names.Host = "4711" }, "names.host name-label"},
	{"a name with a space", func(s *Settings, _, _ *Port) { s.Names.Host = "my gateway" }, "names.host name-label"},
	{"a name with an umlaut", func(s *Settings, _, _ *Port) { s.Names.Host = "büro" }, "names.host name-label"},
	{"a long name", func(s *Settings, _, _ *Port) { s.Names.Host = strings.Repeat("a", 41) }, "names.host name-length"},
	{"a name that is taken", func(s *Settings, _, _ *Port) { s.Names.Host = "LocalHost" }, "names.host name-taken"},
	{"an update server", func(s *Settings, _, _ *Port) {
		s.Update.Server = "https://updates.example:8443/gateway/"
		s.Update.Window = Window{"22:30", "04:00", "Europe/Berlin"}
		s.Update.Channel = Beta
	}, ""},
	{"no update server", func(s *Settings, _, _ *Port) { s.Update.Server = "updates.example" }, "update.server server-url"},
	{"a password", func(s *Settings, _, _ *Port) { s.Update.Server = "https://a:b@updates.example/" }, "update.server server-url"},
	{"a file", func(s *Settings, _, _ *Port) { s.Update.Server = "file:///etc" }, "update.server server-url"},
	{"an update channel", func(s *Settings, _, _ *Port) { s.Update.Channel = "nightly" }, "update.channel unknown-channel"},
	{"no times of day", func(s *Settings, _, _ *Port) { s.Update.Window = Window{"2:00", "24:00", "Europe/Bonn"} },
		"update.window.from not-time-of-day, update.window.to not-time-of-day, update.window.zone unknown-zone"},
	{"half a window", func(s *Settings, _, _ *Port) { s.Update.Window.From = "02:00" }, "update.window window-half"},
	{"no window", func(s *Settings, _, _ *Port) { s.Update.Window = Window{"02:00", "02:00", ""} }, "update.window window-empty"},
	{"a time server twice", func(s *Settings, _, _ *Port) { s.Clock.Servers = []string{"a.example", "A.Example"} }, "clock.servers[1] duplicate"},
}

func TestD2CheckNamesEveryMistakeAtItsField(t *testing.T) {
	for _, c := range rules {
		s := Default()
		c.change(&s, &s.Network.WAN, &s.Network.LAN)
		err := s.Check()
		if got := summary(t, err); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
		if got := summary(t, s.Network.Check()); strings.HasPrefix(c.want, "network") && got != c.want {
			t.Errorf("%s: the network alone:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

// What a port has learned counts while it goes on learning.
func TestD2AStaticAddressLiesInNoNetworkOfTheOtherPort(t *testing.T) {
	learned := []netip.Prefix{prefix("10.9.9.15/24")}
	for _, c := range []struct{ name, wan, lan, want string }{
		{"the LAN's own address", "10.9.9.15/24", "", "network.wan.ipv4.addresses[0] other-ports-address"},
		{"in the LAN's subnet", "10.9.9.20/24", "", "network.wan.ipv4.addresses[0] subnets-overlap"},
		{"elsewhere", "10.9.8.20/24", "", ""},
		{"and the other way round", "", "10.9.9.20/25", "network.lan.ipv4.addresses[0] subnets-overlap"},
	} {
		n := Default().Network
		var wan, lan []netip.Prefix
		if c.wan != "" {
			n.WAN.IPv4, lan = static("", c.wan), learned
		} else {
			n.LAN.IPv4, wan = static("", c.lan), learned
		}
		if got := summary(t, n.CheckBeside(wan, lan)); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		n.LAN.IPv4, n.WAN.IPv4 = static("", "10.9.7.1/24"), static("", "10.9.9.20/24")
		if err := n.CheckBeside(wan, lan); err != nil { // nothing is learned any more
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestEveryCodeIsTried(t *testing.T) {
	tried := map[string]bool{string(PortRange): true, string(PortInternal): true, string(Wrapped): true} // elsewhere
	for _, c := range rules {
		for _, mistake := range strings.Split(c.want, ", ") {
			tried[mistake[strings.Index(mistake, " ")+1:]] = true
		}
	}
	for _, c := range wrong {
		for _, mistake := range strings.Split(c.want, ", ") {
			tried[mistake[strings.Index(mistake, " ")+1:]] = true
		}
	}
	for _, code := range declared(t) {
		if !tried[code] {
			t.Errorf("no test for %s", code)
		}
	}
}

func TestExamplesAreGood(t *testing.T) {
	for _, c := range []struct{ entered, example string }{
		{"10.0.0.0/8", "10.0.0.5/8"},
		{"192.0.2.4/30", "192.0.2.6/30"},
		{"192.0.2.7/30", "192.0.2.6/30"},
		{"192.0.2.255/24", "192.0.2.5/24"},
		{"192.0.2.0/29", "192.0.2.5/29"},
		{"2001:db8::/64", "2001:db8::5/64"},
		{"2001:db8::/126", "2001:db8::3/126"},
	} {
		if got := exampleHost(prefix(c.entered)).String(); got != c.example {
			t.Errorf("%s: %s, want %s", c.entered, got, c.example)
		}
		var errs Errors
		if !checkHostAddress(&errs, "", prefix(c.example)) {
			t.Errorf("%s: %v", c.example, errs)
		}
	}
	s := Default()
	s.Network.WAN.IPv4 = static("10.0.0.1", "192.0.2.5/24", "192.0.2.6/24", "198.51.100.5/24")
	s.Network.WAN.Routes = []Route{{prefix("10.0.3.0/8"), addr("192.0.2.1")}, {prefix("::ffff:10.0.3.0/112"), addr("192.0.2.1")}}
	s.Clock.Servers = []string{"[2001:db8::1]:123", "a.example:123"}
	want := `network.wan.ipv4.router: 10.0.0.1 cannot be reached from the addresses of this port: enter a router in 192.0.2.0/24, 198.51.100.0/24, or correct the addresses
network.wan.routes[0].destination: 10.0.3.0/8 is an address in a network, not a network: write 10.0.0.0/8
network.wan.routes[1].destination: ::ffff:10.0.3.0/112 is an IPv4 address in the notation of IPv6: enter 10.0.0.0/16 where IPv4 belongs
clock.servers[0]: “[2001:db8::1]:123” has a port number, which is fixed: write 2001:db8::1
clock.servers[1]: “a.example:123” has a port number, which is fixed: write a.example`
	if err := s.Check(); fmt.Sprint(err) != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

func TestM19InternalPortsAreRefused(t *testing.T) {
	for port := -1; port <= 65536; port++ {
		err := CheckServicePort("pbx.sip.port", port)
		want := Code("")
		switch {
		case port < 1 || port > 65535:
			want = PortRange
		case slices.Contains([]int{19060, 19061, 5070, 5071, 5080, 5081}, port):
			want = PortInternal
		}
		got := Code("")
		if e, ok := errors.AsType[*FieldError](err); ok {
			got = e.Code
			complete(t, Errors{e})
		}
		if got != want || (err == nil) != (want == "") {
			t.Errorf("%d: %v", port, err)
		}
	}
	want := "pbx.sip.port: the gateway needs port 5070 itself (5070, 5071, 5080, 5081, 19060 and 19061 are for internal use): choose another port"
	if err := CheckServicePort("pbx.sip.port", 5070); err.Error() != want {
		t.Errorf("%v", err)
	}
}
