// Package reconcile makes the kernel's links, addresses, routes, rules and settings of the Ethernet
// ports what a spec.Spec says. It lists what there is, changes what differs, and lists again to see
// that it is so. It owns what carries our mark and never touches the rest.
package reconcile

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/network/spec"
)

// rounds is how often Reconcile looks and changes before it gives up. A VLAN takes three: it is made,
// then configured, then found as it should be.
const rounds = 8

// A Reconciler makes the kernel's state what is wanted. Its zero value can be used, by one goroutine.
type Reconciler struct {
	// Recheck is how long the kernel's settings of the links are trusted to be as they were left: reading
	// them all takes longer than all else. 0 is not at all.
	Recheck time.Duration

	writes  int // so far
	checked time.Time
	links   []spec.Link    // that were checked then
	indexes map[string]int // of these
}

// Reconcile makes the kernel's state what want, made by spec.Merge, says, as far as the ports are
// there. It returns how many changes it asked the kernel for: none where all is well. After one
// error it goes on with the rest. Errors are a DuplicateError or say which step failed.
func (r *Reconciler) Reconcile(want spec.Spec) (writes int, err error) {
	before := r.writes
	var failed []string // ops of the last round
	for range rounds {
		have, err := List()
		if err != nil {
			return r.writes - before, err
		}
		set, setErr := r.setSysctls(want.Links, have)
		ops, cannot := plan(want, have, time.Now())
		if len(ops) == 0 && set == 0 {
			return r.writes - before, errors.Join(setErr, cannot)
		}
		errs := []error{setErr, cannot}
		var what []string
		for _, op := range ops {
			r.writes++
			what = append(what, op.what)
			if err := op.do(); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", op.what, err))
			}
		}
		if err := errors.Join(errs...); err != nil && set == 0 && slices.Equal(what, failed) { // nothing changes any more
			return r.writes - before, err
		}
		failed = what
	}
	return r.writes - before, fmt.Errorf("configure ports: still not as wanted after %d attempts: "+
		"is another program changing the same? Last: %s", rounds, failed)
}

// An attrs is a link for the functions of package netlink that need its index.
func attrs(l Link) netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: l.Index, Name: l.Name}}
}

func setUp(l Link) error           { return netlink.LinkSetUp(attrs(l)) }
func setMTU(l Link, mtu int) error { return netlink.LinkSetMTU(attrs(l), mtu) }
func setMark(l Link) error         { return netlink.LinkSetAlias(attrs(l), mark) }
func deleteLink(l Link) error      { return netlink.LinkDel(attrs(l)) }

func makeVLAN(w spec.Link, parent Link) error {
	a := netlink.NewLinkAttrs()
	a.Name, a.ParentIndex, a.Group = w.Name, parent.Index, protocol
	return netlink.LinkAdd(&netlink.Vlan{LinkAttrs: a, VlanId: w.VLAN, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q})
}

// setAddress sets an address, or its lifetimes. The kernel would delete an IPv6 address with an end
// that another device has, and we would set it again and again. So a fresh one has no end until the
// kernel has tested it: that one stays, marked as a duplicate.
func setAddress(l Link, w spec.Address, fresh bool) error {
	now := time.Now()
	ip, family := w.Prefix.Addr(), unix.AF_INET
	if ip.Is6() {
		family = unix.AF_INET6
	}
	head := nl.NewIfAddrmsg(family)
	head.Index = uint32(l.Index)
	head.Prefixlen = uint8(w.Prefix.Bits())
	req := nl.NewNetlinkRequest(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE|unix.NLM_F_ACK)
	req.AddData(head)
	req.AddData(nl.NewRtAttr(unix.IFA_LOCAL, ip.AsSlice()))
	req.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, ip.AsSlice()))
	req.AddData(nl.NewRtAttr(ifaProto, []byte{protocol}))
	if bits := w.Prefix.Bits(); ip.Is4() && bits < 31 { // RFC 3021: no broadcast between two
		all := ip.As4()
		for i, m := range net.CIDRMask(bits, 32) {
			all[i] |= ^m
		}
		req.AddData(nl.NewRtAttr(unix.IFA_BROADCAST, all[:]))
	}
	if w.NoPrefixRoute {
		req.AddData(nl.NewRtAttr(unix.IFA_FLAGS, nl.Uint32Attr(unix.IFA_F_NOPREFIXROUTE)))
	}
	info := nl.IfaCacheInfo{IfaCacheinfo: unix.IfaCacheinfo{Valid: forever, Prefered: forever}}
	if !(ip.Is6() && fresh) {
		info.Valid, info.Prefered = seconds(w.Valid, now), seconds(preferred(w), now)
	}
	req.AddData(nl.NewRtAttr(unix.IFA_CACHEINFO, info.Serialize()))
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// seconds is the time until end as the kernel counts it.
func seconds(end, now time.Time) uint32 {
	if end.IsZero() {
		return forever
	}
	return uint32(min(max(end.Sub(now)/time.Second, 0), forever-1))
}

func deleteAddress(l Link, a Address) error {
	return netlink.AddrDel(attrs(l), &netlink.Addr{IPNet: ipNet(a.Prefix)})
}

func setRoute(l Link, w spec.Route) error {
	r := &netlink.Route{
		LinkIndex: l.Index,
		Dst:       ipNet(w.Destination),
		Protocol:  protocol,
		Priority:  w.Metric,
		Table:     w.Table,
		Scope:     netlink.SCOPE_LINK,
	}
	if w.Via.IsValid() {
		r.Gw, r.Scope = w.Via.AsSlice(), netlink.SCOPE_UNIVERSE
	}
	if w.PreferredSource.IsValid() {
		r.Src = w.PreferredSource.AsSlice()
	}
	if w.OnLink {
		r.Flags = int(netlink.FLAG_ONLINK)
	}
	if w.Destination.Addr().Is4() {
		return netlink.RouteAppend(r) // beside our old one, and another's with the same metric
	}
	err := netlink.RouteAdd(r)
	if errors.Is(err, unix.EEXIST) {
		return errors.New("another program has a route there with this metric: remove it with ip -6 route delete")
	}
	return err
}

func deleteRoute(h Route) error {
	r := h.raw
	r.Flags = 0 // the kernel's: dead, link down
	return netlink.RouteDel(&r)
}

func setRule(w spec.Rule) error { return netlink.RuleAdd(newRule(w)) }

func deleteRule(h Rule) error { return netlink.RuleDel(newRule(h.Rule)) }

func newRule(w spec.Rule) *netlink.Rule {
	r := netlink.NewRule()
	r.Priority, r.Src, r.Table, r.Protocol = w.Priority, ipNet(w.From), w.Table, protocol
	return r
}
