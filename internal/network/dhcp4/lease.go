package dhcp4

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// A Lease is what a server granted: an address for a while, and how to reach others from it.
type Lease struct {
	Prefix  netip.Prefix // our address and how much of the network is on the link
	Gateway netip.Addr   // invalid where the server names none
	DNS     []netip.Addr // at most maxDNS
	Server  netip.Addr   // whom to ask for more time; invalid in a lease that was only remembered
	Renew   time.Time    // T1: ask the server for more time; the zero time is never
	Rebind  time.Time    // T2: ask every server for more time; the zero time is never
	Expires time.Time    // the address must not be used any longer; the zero time is never
}

// Addr is the leased address.
func (l *Lease) Addr() netip.Addr { return l.Prefix.Addr() }

// maxDNS is what a resolver reads of resolv.conf.
const maxDNS = 3

const (
	defaultTime = time.Hour        // of a server that does not say; what others take, too
	minTime     = 20 * time.Second // of a server that says less: else we would ask all the time
	infinite    = 0xffffffff       // RFC 2131 §3.3
)

// read makes a lease of a server's offer or acknowledgement to a request that was sent at the time
// sent. What the message leaves out is taken from old, if not nil: some servers leave out of a
// renewal what they said before. Values that cannot be meant are errors where we could not work
// with them and left out where we can do without.
func read(msg *dhcpv4.DHCPv4, old *Lease, sent time.Time) (*Lease, error) {
	l := &Lease{}
	if old != nil {
		l.Gateway, l.DNS, l.Server = old.Gateway, old.DNS, old.Server
	}

	addr, ok := netip.AddrFromSlice(msg.YourIPAddr.To4())
	if !ok || !usable(addr) {
		return nil, fmt.Errorf("server gives address %v, which no machine can have", msg.YourIPAddr)
	}
	bits := defaultBits(addr)
	if msg.Options.Has(dhcpv4.OptionSubnetMask) {
		mask := msg.Options.Get(dhcpv4.OptionSubnetMask)
		if bits, ok = maskBits(mask); !ok {
			return nil, fmt.Errorf("server gives network mask %x, which is none", mask)
		}
	} else if old != nil && old.Addr() == addr {
		bits = old.Prefix.Bits()
	}
	if bits < 8 {
		return nil, fmt.Errorf("server gives network %v/%d, larger than there is one", addr, bits)
	}
	l.Prefix = netip.PrefixFrom(addr, bits)
	if !host(addr, l.Prefix) {
		return nil, fmt.Errorf("server gives address %v, which means the whole network", l.Prefix)
	}

	if server, ok := first(msg, dhcpv4.OptionServerIdentifier); ok {
		l.Server = server
	}
	if !usable(l.Server) {
		return nil, fmt.Errorf("server does not say its own address")
	}

	if msg.Options.Has(dhcpv4.OptionRouter) {
		l.Gateway = netip.Addr{}
		for a := range addrs(msg, dhcpv4.OptionRouter) {
			if usable(a) && a != addr && host(a, l.Prefix) {
				l.Gateway = a
				break
			}
		}
	}
	if msg.Options.Has(dhcpv4.OptionDomainNameServer) {
		l.DNS = nil
		for a := range addrs(msg, dhcpv4.OptionDomainNameServer) {
			if usable(a) && len(l.DNS) < maxDNS && !slices.Contains(l.DNS, a) {
				l.DNS = append(l.DNS, a)
			}
		}
	}

	valid := defaultTime
	if s, ok := seconds(msg, dhcpv4.OptionIPAddressLeaseTime); ok {
		if s == infinite {
			return l, nil
		}
		valid = max(time.Duration(s)*time.Second, minTime)
	}
	renew, rebind := valid/2, valid/8*7
	t1, ok1 := seconds(msg, dhcpv4.OptionRenewTimeValue)
	t2, ok2 := seconds(msg, dhcpv4.OptionRebindingTimeValue)
	if ok1 && ok2 {
		t1, t2 := time.Duration(t1)*time.Second, time.Duration(t2)*time.Second
		if minTime/4 <= t1 && t1 < t2 && t2 < valid {
			renew, rebind = t1, t2
		}
	}
	l.Renew, l.Rebind, l.Expires = sent.Add(renew), sent.Add(rebind), sent.Add(valid)
	return l, nil
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
