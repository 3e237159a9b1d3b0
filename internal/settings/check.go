package settings

import (
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Bounds.
const (
	maxVLAN      = 4094 // IEEE 802.1Q keeps 4095
	minMTU       = 1280 // what IPv6 asks of every link, RFC 8200 section 5
	maxMTU       = 9000
	maxAddresses = 8 // of a family
	maxDNS       = 3 // resolv.conf(5)'s
	maxRoutes    = 32
	maxServers   = 8
	maxURL       = 500 // characters
	maxName      = 40  // characters of a label: DNS would take 63, a person does not
)

// Check returns what is wrong with s as Errors, nil if all is well.
func (s Settings) Check() error {
	var errs Errors
	if s.Version != Version {
		errs.add("version", BadVersion, "version", strconv.Itoa(Version))
	}
	s.check(&errs)
	return errs.orNil()
}

// Check returns what is wrong with n as Errors, nil if all is well. Their paths start with network.
func (n Network) Check() error {
	var errs Errors
	n.check(&errs)
	return errs.orNil()
}

func (s Settings) check(errs *Errors) {
	s.Network.check(errs)
	s.Clock.check(errs)
	s.Names.check(errs)
	s.Update.check(errs)
}

func (c Clock) check(errs *Errors) {
	if tooMany(errs, "clock.servers", len(c.Servers), maxServers) {
		return
	}
	for i, host := range c.Servers {
		path := entry("clock.servers", i)
		if !checkHost(errs, path, host) {
			continue
		}
		if slices.ContainsFunc(c.Servers[:i], func(other string) bool { return strings.EqualFold(host, other) }) {
			errs.add(path, Duplicate, "value", host)
		}
	}
}

func (u Update) check(errs *Errors) {
	if u.Server != "" {
		at, err := url.Parse(u.Server)
		if err != nil || len(u.Server) > maxURL || at.Scheme != "https" && at.Scheme != "http" || at.Hostname() == "" ||
			at.User != nil || at.RawQuery != "" || at.Fragment != "" {
			errs.add("update.server", ServerURL, "value", u.Server)
		}
	}
	if u.Channel != Stable && u.Channel != Beta {
		errs.add("update.channel", UnknownChannel, "value", string(u.Channel), "choices", string(Stable)+", "+string(Beta))
	}
	w := u.Window
	for _, end := range []struct{ path, value string }{{"update.window.from", w.From}, {"update.window.to", w.To}} {
		if _, err := time.Parse("15:04", end.value); end.value != "" && (err != nil || len(end.value) != 5) {
			errs.add(end.path, NotTimeOfDay, "value", end.value)
		}
	}
	switch {
	case (w.From == "") != (w.To == ""):
		errs.add("update.window", WindowHalf)
	case w.From != "" && w.From == w.To:
		errs.add("update.window", WindowEmpty)
	}
	if _, err := time.LoadLocation(w.Zone); err != nil || w.Zone == "Local" {
		errs.add("update.window.zone", UnknownZone, "value", w.Zone)
	}
}

// umlauts are how German writes its letters beyond a to z with those.
var umlauts = strings.NewReplacer("ä", "ae", "ö", "oe", "ü", "ue", "ß", "ss")

// check refuses what cannot be a host's name in .local: one label of RFC 1123, and none that means
// something else already.
func (n Names) check(errs *Errors) {
	const path = "names.host"
	label, _, _ := strings.Cut(umlauts.Replace(strings.ToLower(n.Host)), ".local")
	example := strings.Trim(strings.Map(func(r rune) rune {
		if r == '-' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' {
			return r
		}
		return '-'
	}, label), "-")
	switch {
	case n.Host == "":
		errs.add(path, NameEmpty, "example", Default().Names.Host)
	case len(n.Host) > maxName:
		errs.add(path, NameLength, "value", n.Host, "most", strconv.Itoa(maxName))
	case strings.Contains(n.Host, ".") || !isHostName(n.Host):
		if example == "" || isNumber(example) {
			example = Default().Names.Host
		}
		errs.add(path, NameLabel, "value", n.Host, "example", example)
	case slices.Contains([]string{"localhost", "local", "wpad", "isatap"}, strings.ToLower(n.Host)):
		errs.add(path, NameTaken, "value", n.Host)
	}
}

func (n Network) check(errs *Errors) {
	own := slices.Concat(n.WAN.static(), n.LAN.static())
	n.WAN.check(errs, "network.wan", own)
	n.LAN.check(errs, "network.lan", own)
	n.checkBetween(errs, "network.lan.ipv4.addresses", n.LAN.IPv4)
	n.checkBetween(errs, "network.lan.ipv6.addresses", IPv4(n.LAN.IPv6))
}

// checkBetween compares addresses of the second port with those of the first.
func (n Network) checkBetween(errs *Errors, path string, lan IPv4) {
	if lan.Method != Static || len(lan.Addresses) > maxAddresses {
		return
	}
	for i, a := range lan.Addresses {
		for _, b := range n.WAN.static() {
			switch {
			case a.Addr() == b.Addr():
				errs.add(entry(path, i), OtherPortsAddress, "value", a.Addr().String(), "port", "WAN")
			case n.LAN.VLAN == n.WAN.VLAN && a.Overlaps(b) && !a.Addr().IsLinkLocalUnicast():
				errs.add(entry(path, i), SubnetsOverlap, "value", a.String(), "other", b.String(), "port", "WAN")
			default:
				continue
			}
			break // one is enough
		}
	}
}

// CheckBeside returns what is wrong with n beside what the ports learn of IPv4, as Errors, nil if all is
// well: wan and lan are the addresses that DHCP servers have given them.
func (n Network) CheckBeside(wan, lan []netip.Prefix) error {
	var errs Errors
	beside := func(path, other string, fixed, learns Port, learned []netip.Prefix) {
		if fixed.IPv4.Method != Static || learns.IPv4.Method != DHCP {
			return
		}
		for i, a := range fixed.IPv4.Addresses {
			for _, b := range learned {
				switch {
				case a.Addr() == b.Addr():
					errs.add(entry(path, i), OtherPortsAddress, "value", a.Addr().String(), "port", other)
				case fixed.VLAN == learns.VLAN && a.Overlaps(b):
					errs.add(entry(path, i), SubnetsOverlap, "value", a.String(), "other", b.String(), "port", other)
				default:
					continue
				}
				break
			}
		}
	}
	beside("network.wan.ipv4.addresses", "LAN", n.WAN, n.LAN, lan)
	beside("network.lan.ipv4.addresses", "WAN", n.LAN, n.WAN, wan)
	return errs.orNil()
}

// static returns the addresses that the owner has given the port, without the unusable.
func (p Port) static() []netip.Prefix {
	var list []netip.Prefix
	for _, f := range []IPv4{p.IPv4, IPv4(p.IPv6)} {
		if f.Method == Static && len(f.Addresses) <= maxAddresses {
			list = append(list, f.Addresses...)
		}
	}
	return slices.DeleteFunc(list, func(a netip.Prefix) bool { return !a.IsValid() })
}

// check checks a port; own are the addresses of all ports.
func (p Port) check(errs *Errors, path string, own []netip.Prefix) {
	if p.VLAN < 0 || p.VLAN > maxVLAN {
		errs.add(path+".vlan", VLANRange, "value", strconv.Itoa(p.VLAN))
	}
	if p.MTU != 0 && (p.MTU < minMTU || p.MTU > maxMTU) {
		errs.add(path+".mtu", MTURange, "value", strconv.Itoa(p.MTU))
	}
	checkFamily(errs, path+".ipv4", 4, p.IPv4, own)
	checkFamily(errs, path+".ipv6", 6, IPv4(p.IPv6), own)
	if !tooMany(errs, path+".dns", len(p.DNS), maxDNS) {
		for i, a := range p.DNS {
			at := entry(path+".dns", i)
			if checkUnicast(errs, at, a) && slices.Contains(p.DNS[:i], a) {
				errs.add(at, Duplicate, "value", a.String())
			}
		}
	}
	if !tooMany(errs, path+".routes", len(p.Routes), maxRoutes) {
		for i, r := range p.Routes {
			at := entry(path+".routes", i)
			if p.checkDestination(errs, at+".destination", p.Routes[:i], r.Destination, own) {
				p.checkGateway(errs, at+".router", r, own)
			}
		}
	}
}

// checkFamily checks what a port has of one IP version, given as IPv4 for both.
func checkFamily(errs *Errors, path string, version int, f IPv4, own []netip.Prefix) {
	choices := []Method{DHCP, Static, Off}
	if version == 6 {
		choices[0] = Automatic
	}
	if !slices.Contains(choices, f.Method) {
		errs.add(path+".method", UnknownMethod, "value", string(f.Method),
			"choices", string(choices[0])+", "+string(choices[1])+", "+string(choices[2]))
		return
	}
	if f.Method != Static {
		if len(f.Addresses) > 0 {
			errs.add(path+".addresses", AddressesNotStatic)
		}
		if f.Router.IsValid() {
			errs.add(path+".router", RouterNotStatic)
		}
		return
	}
	if len(f.Addresses) == 0 {
		errs.add(path+".addresses", AddressesMissing)
	}
	if tooMany(errs, path+".addresses", len(f.Addresses), maxAddresses) {
		return
	}
	var subnets []netip.Prefix
	for i, a := range f.Addresses {
		at := entry(path+".addresses", i)
		if a.Addr().IsUnspecified() {
			errs.add(at, NotSubnet, "value", a.String())
			continue
		}
		if !checkUnicast(errs, at, a.Addr()) || !checkVersion(errs, at, version, a.Addr()) || !checkHostAddress(errs, at, a) {
			continue
		}
		if slices.ContainsFunc(subnets, func(b netip.Prefix) bool { return a.Addr() == b.Addr() }) {
			errs.add(at, Duplicate, "value", a.Addr().String())
		}
		subnets = append(subnets, a)
	}
	at := path + ".router"
	if f.Router.IsValid() && len(subnets) > 0 && checkUnicast(errs, at, f.Router) && checkVersion(errs, at, version, f.Router) {
		checkReachable(errs, at, f.Router, subnets, own)
	}
}

// checkHostAddress checks an address with the length of its subnet.
func checkHostAddress(errs *Errors, path string, a netip.Prefix) bool {
	least := 16 // the widest that registries give
	if a.Addr().Is4() {
		least = 8
		if a.Addr().IsLinkLocalUnicast() {
			errs.add(path, LinkLocal, "value", a.Addr().String())
			return false
		}
	}
	if a.Bits() < least {
		errs.add(path, LengthRange, "value", strconv.Itoa(a.Bits()), "least", strconv.Itoa(least), "most", strconv.Itoa(a.Addr().BitLen()))
		return false
	}
	return checkNotEnds(errs, path, a, a.String(), exampleHost(a).String())
}

// checkNotEnds refuses the first and the last address of a subnet where they are no host's. value is
// what was entered.
func checkNotEnds(errs *Errors, path string, a netip.Prefix, value, example string) bool {
	switch {
	case a.Bits() >= a.Addr().BitLen()-1: // RFC 3021, RFC 6164: both of the two are hosts'
		return true
	case a == a.Masked(): // of IPv6, the anycast address of all routers: RFC 4291 section 2.6.1
		errs.add(path, NetworkAddress, "value", value, "example", example)
	case a.Addr() == broadcast(a):
		errs.add(path, BroadcastAddress, "value", value, "example", example)
	default:
		return true
	}
	return false
}

// broadcast returns the last address of an IPv4 subnet. IPv6 has none: the zero address.
func broadcast(p netip.Prefix) netip.Addr {
	if !p.Addr().Is4() {
		return netip.Addr{}
	}
	b := p.Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	return netip.AddrFrom4(b)
}

// exampleHost returns a host's address in the subnet of p: the fifth where there is one.
func exampleHost(p netip.Prefix) netip.Prefix {
	host := p.Masked().Addr()
	for range 5 {
		next := host.Next()
		if !p.Contains(next) || next == broadcast(p) {
			break
		}
		host = next
	}
	return netip.PrefixFrom(host, p.Bits())
}

// checkReachable checks a router against the subnets of its port and version.
func checkReachable(errs *Errors, path string, router netip.Addr, subnets, own []netip.Prefix) {
	if slices.ContainsFunc(own, func(a netip.Prefix) bool { return a.Addr() == router }) {
		errs.add(path, RouterOwnAddress, "value", router.String())
		return
	}
	if router.Is6() && router.IsLinkLocalUnicast() {
		return
	}
	i := slices.IndexFunc(subnets, func(p netip.Prefix) bool { return p.Contains(router) })
	if i < 0 {
		var names []string
		for _, p := range subnets {
			if name := p.Masked().String(); !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
		errs.add(path, RouterOutside, "value", router.String(), "subnet", strings.Join(names, ", "))
		return
	}
	if router.Is4() {
		subnet := netip.PrefixFrom(router, subnets[i].Bits())
		checkNotEnds(errs, path, subnet, router.String(), exampleHost(subnet).Addr().String())
	}
}

// checkDestination checks where a route leads to; before are the port's routes ahead of it.
func (p Port) checkDestination(errs *Errors, path string, before []Route, d netip.Prefix, own []netip.Prefix) bool {
	switch {
	case !d.IsValid():
		errs.add(path, Empty)
	case d.Addr().Is4In6():
		// An IPv4 network of that length, where it has one.
		v4 := netip.PrefixFrom(d.Addr().Unmap(), max(0, d.Bits()-96))
		errs.add(path, MappedAddress, "value", d.String(), "example", v4.Masked().String())
	case d != d.Masked():
		errs.add(path, RouteHostBits, "value", d.String(), "example", d.Masked().String())
	case d.Bits() == 0:
		errs.add(path, RouteDefault, "value", d.String())
	case special(d) != "":
		errs.add(path, special(d), "value", d.String())
	case slices.ContainsFunc(own, func(a netip.Prefix) bool { return a.Masked() == d }):
		errs.add(path, RouteOwnSubnet, "value", d.String())
	case slices.ContainsFunc(before, func(r Route) bool { return r.Destination == d }):
		errs.add(path, Duplicate, "value", d.String())
	default:
		return true
	}
	return false
}

// checkGateway checks the router of a route whose destination is good.
func (p Port) checkGateway(errs *Errors, path string, r Route, own []netip.Prefix) {
	if !r.Router.IsValid() {
		errs.add(path, RouterMissing)
		return
	}
	if !checkUnicast(errs, path, r.Router) {
		return
	}
	if r.Router.Is4() != r.Destination.Addr().Is4() {
		errs.add(path, RouteFamily, "value", r.Router.String(), "destination", r.Destination.String())
		return
	}
	family, name := p.IPv4, "IPv4"
	if r.Router.Is6() {
		family, name = IPv4(p.IPv6), "IPv6"
	}
	switch family.Method {
	case Off:
		errs.add(path, RouteFamilyOff, "family", name)
	case Static:
		subnets := slices.DeleteFunc(p.static(), func(a netip.Prefix) bool { return a.Addr().Is4() != r.Router.Is4() })
		if len(subnets) > 0 { // else that is what is wrong
			checkReachable(errs, path, r.Router, subnets, own)
		}
	default: // its subnets are learned
		if slices.ContainsFunc(own, func(a netip.Prefix) bool { return a.Addr() == r.Router }) {
			errs.add(path, RouterOwnAddress, "value", r.Router.String())
		}
	}
}

// specials are addresses that no single other host has.
var specials = []struct {
	net  netip.Prefix
	code Code
}{
	{netip.MustParsePrefix("0.0.0.0/8"), Unspecified},
	{netip.MustParsePrefix("::/128"), Unspecified},
	{netip.MustParsePrefix("127.0.0.0/8"), Loopback},
	{netip.MustParsePrefix("::1/128"), Loopback},
	{netip.MustParsePrefix("224.0.0.0/4"), Multicast},
	{netip.MustParsePrefix("ff00::/8"), Multicast},
	{netip.MustParsePrefix("240.0.0.0/4"), Reserved},
	{netip.MustParsePrefix("169.254.0.0/16"), LinkLocal},
	{netip.MustParsePrefix("fe80::/10"), LinkLocal},
}

// special says of which special kind all of p is; "" for none.
func special(p netip.Prefix) Code {
	for _, s := range specials {
		if s.net.Bits() <= p.Bits() && s.net.Contains(p.Addr()) {
			return s.code
		}
	}
	return ""
}

// checkUnicast refuses what cannot be another host's address on a port; link-local ones can.
func checkUnicast(errs *Errors, path string, a netip.Addr) bool {
	switch {
	case !a.IsValid():
		errs.add(path, Empty)
		return false
	case a.Is4In6():
		errs.add(path, MappedAddress, "value", a.String(), "example", a.Unmap().String())
		return false
	case a.Zone() != "":
		errs.add(path, ZoneInAddress, "value", a.String(), "example", a.WithZone("").String())
		return false
	}
	if code := special(netip.PrefixFrom(a, a.BitLen())); code != "" && code != LinkLocal {
		errs.add(path, code, "value", a.String())
		return false
	}
	return true
}

func checkVersion(errs *Errors, path string, version int, a netip.Addr) bool {
	if a.Is4() == (version == 4) {
		return true
	}
	code := NotIPv4
	if version == 6 {
		code = NotIPv6
	}
	errs.add(path, code, "value", a.String())
	return false
}

func tooMany(errs *Errors, path string, count, most int) bool {
	if count > most {
		errs.add(path, TooMany, "count", strconv.Itoa(count), "most", strconv.Itoa(most))
	}
	return count > most
}

// checkHost checks a host's name or address.
func checkHost(errs *Errors, path, host string) bool {
	if a, err := netip.ParseAddr(host); err == nil {
		if a.IsLinkLocalUnicast() && a.Zone() == "" { // on which port?
			errs.add(path, LinkLocal, "value", host)
			return false
		}
		return checkUnicast(errs, path, a)
	}
	colon := strings.LastIndexByte(host, ':')
	switch {
	case host == "":
		errs.add(path, Empty)
	case strings.ContainsFunc(host, unicode.IsSpace):
		errs.add(path, HostSpace, "value", host)
	case strings.Contains(host, "://"):
		errs.add(path, HostScheme, "value", host)
	case colon > 0 && isNumber(host[colon+1:]) && (strings.IndexByte(host, ':') == colon || host[colon-1] == ']'):
		errs.add(path, HostPort, "value", host, "example", strings.Trim(host[:colon], "[]"))
	case !isHostName(host):
		errs.add(path, HostSyntax, "value", host)
	case strings.EqualFold(host, "localhost") || strings.HasSuffix(strings.ToLower(host), ".localhost"): // RFC 6761 section 6.3
		errs.add(path, Loopback, "value", host)
	default:
		return true
	}
	return false
}

// isHostName says whether name is a host's by RFC 1123 section 2.1. A last label of digits alone is
// no top-level domain, but a mistyped address.
func isHostName(name string) bool {
	if len(name) > 253 {
		return false
	}
	labels := strings.Split(name, ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if c != '-' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
				return false
			}
		}
	}
	return !isNumber(labels[len(labels)-1])
}

func isNumber(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// internalPorts are what the gateway's own parts talk over (M19), by TCP; they are kept free of UDP
// as well.
var internalPorts = []int{5070, 5071, 5080, 5081, 19060, 19061}

// CheckServicePort returns a *FieldError where a service's setting at path names a port that there
// is not, or that the gateway needs itself.
func CheckServicePort(path string, port int) error {
	switch {
	case port < 1 || port > 65535:
		return fieldError(path, PortRange, "value", strconv.Itoa(port))
	case slices.Contains(internalPorts, port):
		return fieldError(path, PortInternal, "value", strconv.Itoa(port))
	}
	return nil
}
