package reconcile

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/network/spec"
)

// protocol marks routes, rules and addresses as ours: what has another mark is not touched. No other
// program has this number (iproute2's rt_protos).
const protocol = 67

// mark is the alias of the VLAN links that we made. Until it is there, right after a link was made, the
// link's group is protocol: a link can be born with a group, and not with an alias.
const mark = "cloudlink"

const (
	ifaProto = 11 // IFA_PROTO, since Linux 5.18
	forever  = 0xffffffff
	tries    = 5 // to list what changes meanwhile
)

// State is the kernel's: all links and addresses, our routes and the default routes of router
// advertisements, and all rules for senders.
type State struct {
	Links     []Link
	Addresses []Address
	Routes    []Route
	Rules     []Rule
}

// A Link is a link as the kernel has it.
type Link struct {
	Index     int
	Name      string
	Kind      string // "vlan", "veth", …; "device" for hardware
	Physical  bool   // an Ethernet port of the machine, not one made of software
	MAC       net.HardwareAddr
	MTU       int
	Up        bool // switched on
	Carrier   bool // and connected: cable in and the other end up
	SpeedMbps int  // 0 where the driver does not say
	Parent    string
	VLAN      int
	Ours      bool // made by a Reconciler
	marked    bool
}

// An Address is an address as the kernel has it. Its Source is a guess where it is ours.
type Address struct {
	spec.Address
	Ours      bool
	Tentative bool // not usable yet: the kernel asks whether another device has it
	Duplicate bool // never usable: another device has it
}

// A Route is a route as the kernel has it.
type Route struct {
	spec.Route
	Ours bool
	raw  netlink.Route
}

// A Rule is a rule as the kernel has it, if it is about nothing but the sender.
type Rule struct {
	spec.Rule
	Ours bool
}

// List asks the kernel for everything.
func List() (State, error) {
	var s State
	links, err := list(func() ([]netlink.Link, error) { return netlink.LinkList() })
	if err != nil {
		return s, fmt.Errorf("list links: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	for _, l := range links {
		s.Links = append(s.Links, newLink(l, names))
	}
	if s.Addresses, err = list(func() ([]Address, error) { return listAddresses(names) }); err != nil {
		return s, fmt.Errorf("list addresses: %w", err)
	}
	if s.Routes, err = list(func() ([]Route, error) { return listRoutes(names) }); err != nil {
		return s, fmt.Errorf("list routes: %w", err)
	}
	if s.Rules, err = list(listRules); err != nil {
		return s, fmt.Errorf("list rules: %w", err)
	}
	return s, nil
}

// list lists until nothing changed meanwhile. If something always does, there will be an event, and
// another look after it.
func list[T any](f func() ([]T, error)) ([]T, error) {
	for n := 1; ; n++ {
		l, err := f()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return l, err
		}
		if n == tries {
			return l, nil
		}
	}
}

// link finds a link by its name.
func (s State) link(name string) (Link, bool) {
	for _, l := range s.Links {
		if l.Name == name {
			return l, true
		}
	}
	return Link{}, false
}

// Learned is the layer of what the kernel learned from router advertisements by itself, for Policy.
func (s State) Learned() spec.Spec {
	var l spec.Spec
	for _, a := range s.Addresses {
		if a.Source == spec.SLAAC && !a.Ours && !a.Tentative && !a.Duplicate {
			a.Kernel = true
			l.Addresses = append(l.Addresses, a.Address)
		}
	}
	for _, r := range s.Routes {
		if !r.Ours {
			l.Routes = append(l.Routes, r.Route)
		}
	}
	return l
}

func newLink(link netlink.Link, names map[int]string) Link {
	const running = unix.IFF_UP | unix.IFF_RUNNING | unix.IFF_LOWER_UP
	a := link.Attrs()
	l := Link{
		Index:     a.Index,
		Name:      a.Name,
		Kind:      link.Type(),
		Physical:  physical(link),
		MAC:       a.HardwareAddr,
		MTU:       a.MTU,
		Up:        a.RawFlags&unix.IFF_UP != 0,
		Carrier:   a.RawFlags&running == running,
		SpeedMbps: speed(a.Name),
	}
	if v, ok := link.(*netlink.Vlan); ok {
		l.Parent, l.VLAN = names[a.ParentIndex], v.VlanId
		l.marked = a.Alias == mark
		l.Ours = l.marked || a.Group == protocol
	}
	return l
}

// physical says whether link is an Ethernet port of the machine.
func physical(link netlink.Link) bool {
	a := link.Attrs()
	if link.Type() != "device" || a.EncapType != "ether" || len(a.HardwareAddr) != 6 || a.Flags&net.FlagLoopback != 0 {
		return false
	}
	dir := "/sys/class/net/" + a.Name
	_, err := os.Stat(dir + "/device")
	_, wireless := os.Stat(dir + "/phy80211")
	return err == nil && wireless != nil
}

// speed is the link's in Mbit/s, 0 where the driver does not say.
func speed(name string) int {
	b, err := os.ReadFile("/sys/class/net/" + name + "/speed")
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	return max(n, 0) // -1 is unknown
}

func listAddresses(names map[int]string) ([]Address, error) {
	now := time.Now()
	req := nl.NewNetlinkRequest(unix.RTM_GETADDR, unix.NLM_F_DUMP)
	req.AddData(nl.NewIfAddrmsg(unix.AF_UNSPEC))
	msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWADDR)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, err
	}
	var all []Address
	for _, m := range msgs {
		index, a, ok := parseAddress(m, now)
		if name := names[index]; ok && name != "" { // a link that came meanwhile brings an event
			a.Link = name
			all = append(all, a)
		}
	}
	return all, err
}

// parseAddress reads an RTM_NEWADDR message: an address and the index of its link.
func parseAddress(m []byte, now time.Time) (index int, a Address, ok bool) {
	if len(m) < unix.SizeofIfAddrmsg {
		return 0, a, false
	}
	head := nl.DeserializeIfAddrmsg(m)
	flags := uint32(head.Flags)
	proto := -1
	var local, address netip.Addr
	for kind, v := range attributes(m[unix.SizeofIfAddrmsg:]) {
		switch kind {
		case unix.IFA_ADDRESS:
			address, _ = netip.AddrFromSlice(v)
		case unix.IFA_LOCAL: // where there is one, IFA_ADDRESS is the other end's
			local, _ = netip.AddrFromSlice(v)
		case unix.IFA_FLAGS:
			if len(v) >= 4 {
				flags = binary.NativeEndian.Uint32(v)
			}
		case unix.IFA_CACHEINFO: // ifa_prefered, ifa_valid, …
			if len(v) >= 8 {
				a.Preferred = end(binary.NativeEndian.Uint32(v), now)
				a.Valid = end(binary.NativeEndian.Uint32(v[4:]), now)
			}
		case ifaProto:
			if len(v) == 1 {
				proto = int(v[0])
			}
		}
	}
	if !local.IsValid() {
		local = address
	}
	a.Prefix = netip.PrefixFrom(local, int(head.Prefixlen))
	a.NoPrefixRoute = flags&unix.IFA_F_NOPREFIXROUTE != 0
	a.Duplicate = flags&unix.IFA_F_DADFAILED != 0
	a.Tentative = flags&unix.IFA_F_TENTATIVE != 0 && !a.Duplicate
	a.Ours = proto == protocol
	a.Source = source(a, proto)
	return int(head.Index), a, a.Prefix.IsValid()
}

// attributes goes through netlink attributes, up to one that is cut off.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(kind uint16, value []byte) bool) {
		for len(b) >= unix.SizeofRtAttr {
			n := int(binary.NativeEndian.Uint16(b))
			kind := binary.NativeEndian.Uint16(b[2:])
			if n < unix.SizeofRtAttr || n > len(b) || !yield(kind, b[unix.SizeofRtAttr:n]) {
				return
			}
			const align = unix.RTA_ALIGNTO
			b = b[min((n+align-1)/align*align, len(b)):]
		}
	}
}

// end is the end of a lifetime; the zero time for none.
func end(seconds uint32, now time.Time) time.Time {
	if seconds == forever {
		return time.Time{}
	}
	return now.Add(time.Duration(seconds) * time.Second)
}

// source guesses where an address comes from.
func source(a Address, proto int) spec.Source {
	const fromRouter = 2 // IFAPROT_KERNEL_RA
	ip := a.Prefix.Addr()
	switch {
	case ip.IsLinkLocalUnicast():
		return spec.LinkLocal
	case proto == fromRouter:
		return spec.SLAAC
	case !a.Ours:
		return spec.Manual
	case a.Valid.IsZero():
		return spec.Static
	case ip.Is4():
		return spec.DHCP
	}
	return spec.DHCPv6
}

func listRoutes(names map[int]string) ([]Route, error) {
	const fromRouter = unix.RTPROT_RA
	var all []Route
	filter := &netlink.Route{Table: unix.RT_TABLE_UNSPEC} // every table
	var interrupted error
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		err := netlink.RouteListFilteredIter(family, filter, netlink.RT_FILTER_TABLE, func(r netlink.Route) bool {
			for _, r := range nextHops(r) {
				n := newRoute(r, family, names)
				n.Ours = r.Protocol == protocol
				n.Kernel = r.Protocol == fromRouter && n.Destination.Bits() == 0
				if n.Link != "" && (n.Ours || n.Kernel) {
					all = append(all, n)
				}
			}
			return true
		})
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return nil, err
		}
		interrupted = cmp.Or(interrupted, err)
	}
	return all, interrupted
}

// nextHops makes single routes of one with several next routers.
func nextHops(r netlink.Route) []netlink.Route {
	if len(r.MultiPath) == 0 {
		return []netlink.Route{r}
	}
	var all []netlink.Route
	for _, hop := range r.MultiPath {
		one := r
		one.MultiPath, one.LinkIndex, one.Gw = nil, hop.LinkIndex, hop.Gw
		all = append(all, one)
	}
	return all
}

func newRoute(r netlink.Route, family int, names map[int]string) Route {
	n := Route{raw: r}
	n.Link = names[r.LinkIndex]
	n.Destination = prefix(r.Dst)
	if !n.Destination.IsValid() {
		n.Destination = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if family == netlink.FAMILY_V6 {
			n.Destination = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
	}
	n.Via = addr(r.Gw)
	n.PreferredSource = addr(r.Src)
	n.Metric = r.Priority
	n.Table = r.Table
	n.OnLink = r.Flags&int(netlink.FLAG_ONLINK) != 0
	return n
}

func listRules() ([]Rule, error) {
	rules, err := netlink.RuleList(netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, err
	}
	var all []Rule
	for _, r := range rules {
		from := prefix(r.Src)
		if !from.IsValid() || r.Dst != nil || r.IifName != "" || r.OifName != "" || r.Mark != 0 || r.Mask != nil ||
			r.Invert || r.Dport != nil || r.Sport != nil || r.IPProto > 0 || r.UIDRange != nil || r.Tos != 0 {
			continue
		}
		all = append(all, Rule{
			Rule: spec.Rule{Priority: r.Priority, From: from, Table: r.Table},
			Ours: r.Protocol == protocol,
		})
	}
	return all, err
}

// prefix is n, or the invalid prefix for nil.
func prefix(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(addr(n.IP), bits)
}

// addr is ip with an IPv4 address in four bytes, or the invalid address for none.
func addr(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
