package dhcp4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// A Lease is what a server granted: an address for a while, and how to reach others from it.
type Lease struct {
	Prefix     netip.Prefix     `json:"prefix"`             // our address and how much of the network is on the link
	Gateway    netip.Addr       `json:"gateway,omitzero"`   // invalid where the server names none
	GatewayMAC net.HardwareAddr `json:"-"`                  // whose answer tells this link from others; nil until it is known
	Routes     []Route          `json:"routes,omitempty"`   // besides the link and the gateway; at most maxRoutes
	DNS        []netip.Addr     `json:"dns,omitempty"`      // at most maxDNS
	NTP        []netip.Addr     `json:"ntp,omitempty"`      // at most maxNTP
	Domain     string           `json:"domain,omitempty"`   // of the network
	Search     []string         `json:"search,omitempty"`   // domains to look short names up in; at most maxSearch
	Hostname   string           `json:"hostname,omitempty"` // that the server has for us, where it is not ours already
	MTU        int              `json:"mtu,omitempty"`      // 0 where the server names none
	Server     netip.Addr       `json:"server,omitzero"`    // whom to ask for more time; invalid in a lease that was found on the port
	Renew      time.Time        `json:"-"`                  // T1: ask the server for more time; the zero time is never
	Rebind     time.Time        `json:"-"`                  // T2: ask every server for more time; the zero time is never
	Expires    time.Time        `json:"-"`                  // the address must not be used any longer; the zero time is never
}

// A Route leads to a network through a neighbour.
type Route struct {
	To  netip.Prefix `json:"to"`
	Via netip.Addr   `json:"via,omitzero"` // invalid where the network is on the link
}

// Addr is the leased address.
func (l *Lease) Addr() netip.Addr { return l.Prefix.Addr() }

// Bounds of what a server can make us keep.
const (
	maxDNS    = 3 // what a resolver reads of resolv.conf
	maxNTP    = 4
	maxSearch = 8
	maxRoutes = 64
)

const (
	defaultTime = time.Hour        // of a server that does not say; what others take, too
	minTime     = 20 * time.Second // of a server that says less: else we would ask all the time
	infinite    = 0xffffffff       // RFC 2131 §3.3
	minMTU      = 576              // what every network carries; less is a mistake or an attack
	ethernetMTU = 1500
)

// A Reason is a kind of mistake in a server's message.
type Reason string

// The reasons. A mistake that is none of these is Malformed.
const (
	Malformed  Reason = "malformed"
	BadAddress Reason = "bad-address" // none that a machine can have
	OwnNetwork Reason = "own-network" // another port of ours has it
	BadMask    Reason = "bad-mask"
	BadServer  Reason = "bad-server" // it does not say who it is
)

// A badMessage is what is wrong with a server's message.
type badMessage struct {
	reason Reason
	text   string
}

func (b *badMessage) Error() string { return b.text }

func bad(reason Reason, format string, args ...any) error {
	return &badMessage{reason, fmt.Sprintf(format, args...)}
}

func reasonOf(err error) Reason {
	if b := (*badMessage)(nil); errors.As(err, &b) {
		return b.reason
	}
	return Malformed
}

// terms is what we know when we read a server's message.
type terms struct {
	hostname string
	maxMTU   int
	ours     func(netip.Addr) bool // whether another port of ours has the address
}

// read makes a lease of a server's offer or acknowledgement to a request that was sent at the time
// sent. What the message leaves out is taken from old, if not nil: some servers leave out of a
// renewal what they said before. Values that cannot be meant are errors where we could not work
// with them, and notes where we can do without.
func (t *terms) read(msg *dhcpv4.DHCPv4, old *Lease, sent time.Time) (l *Lease, notes []string, err error) {
	l = &Lease{}
	if old != nil {
		*l = *old
		l.GatewayMAC = nil
	}
	note := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }

	addr, ok := netip.AddrFromSlice(msg.YourIPAddr.To4())
	if !ok || !usable(addr) {
		return nil, nil, bad(BadAddress, "server gives address %v, which no machine can have", msg.YourIPAddr)
	}
	if addr.IsLinkLocalUnicast() { // RFC 3927 §1.9
		return nil, nil, bad(BadAddress, "server gives address %v, which machines choose themselves", addr)
	}
	if t.ours != nil && t.ours(addr) {
		return nil, nil, bad(OwnNetwork, "server gives address %v, which another of our ports has", addr)
	}
	bits := defaultBits(addr)
	if msg.Options.Has(dhcpv4.OptionSubnetMask) {
		mask := msg.Options.Get(dhcpv4.OptionSubnetMask)
		if bits, ok = maskBits(mask); !ok {
			return nil, nil, bad(BadMask, "server gives network mask %.20x, which is none", mask)
		}
	} else if old != nil && old.Addr() == addr {
		bits = old.Prefix.Bits()
	}
	if bits < 8 {
		return nil, nil, bad(BadMask, "server gives network %v/%d, larger than there is one", addr, bits)
	}
	l.Prefix = netip.PrefixFrom(addr, bits)
	if !host(addr, l.Prefix) {
		return nil, nil, bad(BadAddress, "server gives address %v, which means the whole network", l.Prefix)
	}

	if server, ok := first(msg, dhcpv4.OptionServerIdentifier); ok {
		l.Server = server
	}
	if !usable(l.Server) {
		return nil, nil, bad(BadServer, "server does not say its own address")
	}

	t.readRoutes(l, msg, note)
	if old != nil && old.Gateway == l.Gateway {
		l.GatewayMAC = old.GatewayMAC
	}
	if msg.Options.Has(dhcpv4.OptionDomainNameServer) {
		l.DNS = machines(msg, dhcpv4.OptionDomainNameServer, maxDNS)
	}
	if msg.Options.Has(dhcpv4.OptionNTPServers) {
		l.NTP = machines(msg, dhcpv4.OptionNTPServers, maxNTP)
	}
	t.readNames(l, msg, note)
	if raw := msg.Options.Get(dhcpv4.OptionInterfaceMTU); raw != nil {
		l.MTU = 0
		limit := t.maxMTU
		if limit == 0 {
			limit = ethernetMTU
		}
		switch mtu := number16(raw); {
		case mtu < minMTU || mtu > limit:
			note("MTU %d is ignored: it is not within %d and %d", mtu, minMTU, limit)
		default:
			l.MTU = mtu
		}
	}
	readTimes(l, msg, sent, note)
	return l, notes, nil
}

// readRoutes reads the gateway and the routes. Option 121 overrules option 3 (RFC 3442).
func (t *terms) readRoutes(l *Lease, msg *dhcpv4.DHCPv4, note func(string, ...any)) {
	if raw := msg.Options.Get(dhcpv4.OptionClasslessStaticRoute); len(raw) > 0 {
		routes, err := parseRoutes(raw)
		if err == nil {
			l.setRoutes(routes, note)
			return
		}
		note("classless routes are ignored: %v", err)
	}
	if !msg.Options.Has(dhcpv4.OptionRouter) {
		return
	}
	l.Gateway, l.Routes = netip.Addr{}, nil
	for a := range addrs(msg, dhcpv4.OptionRouter) {
		if usable(a) && a != l.Addr() && host(a, l.Prefix) {
			l.Gateway = a
			break
		}
	}
	if l.Gateway.IsValid() && !l.Prefix.Contains(l.Gateway) {
		note("gateway %v is outside of %v; taken to be on the link", l.Gateway, l.Prefix.Masked())
	}
}

// setRoutes takes routes but those that would take packets away from this machine or its link.
func (l *Lease) setRoutes(routes []Route, note func(string, ...any)) {
	l.Gateway, l.Routes = netip.Addr{}, nil
	own := l.Prefix.Masked()
	refused, excess := 0, 0
	for _, r := range routes {
		within := func(p netip.Prefix) bool { return p.Contains(r.To.Addr()) && r.To.Bits() >= p.Bits() }
		switch {
		case within(own) && !r.Via.IsValid(): // known from the mask
		case within(own), slices.ContainsFunc(reserved, within), r.Via == l.Addr(),
			r.Via.IsValid() && !(usable(r.Via) && host(r.Via, l.Prefix)),
			r.To.Bits() == 0 && !r.Via.IsValid():
			refused++
		case slices.ContainsFunc(l.Routes, func(o Route) bool { return o.To == r.To }):
		case r.To.Bits() == 0:
			if !l.Gateway.IsValid() {
				l.Gateway = r.Via
			}
		case len(l.Routes) == maxRoutes:
			excess++
		default:
			l.Routes = append(l.Routes, r)
		}
	}
	if refused > 0 {
		note("%d routes are ignored: they lead to ourselves, to our own network or through no neighbour", refused)
	}
	if excess > 0 {
		note("%d routes are ignored: more than %d", excess, maxRoutes)
	}
}

// reserved is where no route may lead: this machine, and every link's own.
var reserved = []netip.Prefix{
	netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("224.0.0.0/3"),
}

// readNames reads the network's domain, the search list and our name.
func (t *terms) readNames(l *Lease, msg *dhcpv4.DHCPv4, note func(string, ...any)) {
	if raw := msg.Options.Get(dhcpv4.OptionDomainName); raw != nil {
		if l.Domain, _ = domain(raw); l.Domain == "" && len(raw) > 0 {
			note("domain %.40q is ignored: it is none", raw)
		}
	}
	if raw := msg.Options.Get(dhcpv4.OptionDNSDomainSearchList); raw != nil {
		search, err := parseSearch(raw)
		if err != nil {
			note("search list is ignored: %v", err)
		}
		l.Search = search[:min(len(search), maxSearch)]
	}
	if raw := msg.Options.Get(dhcpv4.OptionHostName); raw != nil {
		l.Hostname, _ = domain(raw)
		if short, _, _ := strings.Cut(l.Hostname, "."); strings.EqualFold(short, t.hostname) {
			l.Hostname = "" // dnsmasq, say, returns the name that we told it
		}
	}
}

// readTimes reads how long the lease lasts. T1 and T2 are the server's where they are in order.
func readTimes(l *Lease, msg *dhcpv4.DHCPv4, sent time.Time, note func(string, ...any)) {
	valid := defaultTime
	if s, ok := seconds(msg, dhcpv4.OptionIPAddressLeaseTime); ok {
		if s == infinite {
			l.Renew, l.Rebind, l.Expires = time.Time{}, time.Time{}, time.Time{}
			return
		}
		valid = time.Duration(s) * time.Second
		if valid < minTime {
			note("lease of %v is taken for %v", valid, minTime)
			valid = minTime
		}
	}
	renew, rebind := valid/2, valid/8*7
	t1, ok1 := seconds(msg, dhcpv4.OptionRenewTimeValue)
	t2, ok2 := seconds(msg, dhcpv4.OptionRebindingTimeValue)
	given1, given2 := time.Duration(t1)*time.Second, time.Duration(t2)*time.Second
	if !ok1 {
		given1 = renew
		if ok2 {
			given1 = min(renew, given2/7*4) // in the usual proportion
		}
	}
	if !ok2 {
		given2 = rebind
	}
	if minTime/4 <= given1 && given1 < given2 && given2 < valid {
		renew, rebind = given1, given2
	} else {
		note("T1 %v and T2 %v do not fit a lease of %v: %v and %v are used", given1, given2, valid, renew, rebind)
	}
	l.Renew, l.Rebind, l.Expires = sent.Add(renew), sent.Add(rebind), sent.Add(valid)
}

// usable says whether one machine can have addr.
func usable(addr netip.Addr) bool {
	return addr.Is4() && addr.IsValid() && addr.As4()[0] != 0 && addr.As4()[0] < 224 && !addr.IsLoopback()
}

// host says whether addr is that of one machine as far as network p goes: neither the network's
// own address nor its broadcast address.
func host(addr netip.Addr, p netip.Prefix) bool {
	if p.Bits() > 30 || !p.Contains(addr) { // RFC 3021: two machines, or one, and nothing else
		return true
	}
	a := addr.As4()
	rest := binary.BigEndian.Uint32(a[:]) << p.Bits()
	return rest != 0 && rest != ^uint32(0)<<p.Bits()
}

// defaultBits is what machines assumed before there were masks.
func defaultBits(addr netip.Addr) int {
	switch first := addr.As4()[0]; {
	case first < 128:
		return 8
	case first < 192:
		return 16
	default:
		return 24
	}
}

func maskBits(mask []byte) (bits int, ok bool) {
	if len(mask) != 4 {
		return 0, false
	}
	bits, size := net.IPMask(mask).Size()
	return bits, size == 32
}

// number16 is -1 for what is no 16-bit number.
func number16(raw []byte) int {
	if len(raw) != 2 {
		return -1
	}
	return int(binary.BigEndian.Uint16(raw))
}

// addrs yields the addresses that an option lists.
func addrs(msg *dhcpv4.DHCPv4, option dhcpv4.OptionCode) func(yield func(netip.Addr) bool) {
	return func(yield func(netip.Addr) bool) {
		for raw := range slices.Chunk(msg.Options.Get(option), 4) {
			if addr, ok := netip.AddrFromSlice(raw); ok && !yield(addr) {
				return
			}
		}
	}
}

// machines is the addresses in an option that machines can have, each once.
func machines(msg *dhcpv4.DHCPv4, option dhcpv4.OptionCode, limit int) (list []netip.Addr) {
	for a := range addrs(msg, option) {
		if usable(a) && len(list) < limit && !slices.Contains(list, a) {
			list = append(list, a)
		}
	}
	return list
}

func first(msg *dhcpv4.DHCPv4, option dhcpv4.OptionCode) (netip.Addr, bool) {
	for addr := range addrs(msg, option) {
		return addr, true
	}
	return netip.Addr{}, false
}

func seconds(msg *dhcpv4.DHCPv4, option dhcpv4.OptionCode) (uint32, bool) {
	raw := msg.Options.Get(option)
	if len(raw) != 4 {
		return 0, false
	}
	return binary.BigEndian.Uint32(raw), true
}
