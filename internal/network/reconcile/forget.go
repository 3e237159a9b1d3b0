package reconcile

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/network/spec"
)

// maxForgotten is how many routes are removed at once: a hostile router has the kernel make thousands.
const maxForgotten = 5000

// Forget removes from a port what the kernel has learned from routers and keeps as long as they said:
// its addresses in the stale networks, default routes through others than routers, unless there are none
// stale, and the networks in which the port has no address.
func Forget(port string, stale []netip.Prefix, routers []netip.Addr) error {
	link, err := netlink.LinkByName(port)
	if err != nil {
		return fmt.Errorf("forget what routers on %s have said: %w", port, err)
	}
	index := link.Attrs().Index
	own, err := list(func() ([]Address, error) { return listAddresses(map[int]string{index: port}) })
	if err != nil {
		return fmt.Errorf("forget what routers on %s have said: %w", port, err)
	}
	var errs []error
	own = slices.DeleteFunc(own, func(a Address) bool {
		if a.Ours || a.Source != spec.SLAAC || !slices.Contains(stale, a.Prefix.Masked()) {
			return false
		}
		if err := deleteAddress(Link{Index: index, Name: port}, a); err != nil {
			errs = append(errs, fmt.Errorf("forget address %v: %w", a.Prefix, err))
		}
		return true
	})
	for _, r := range forgettable(index, own, stale, routers) {
		if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("forget route to %v: %w", r.Dst, err))
			break // the others would not go either
		}
	}
	return errors.Join(errs...)
}

// forgettable finds the routes of a port that Forget removes.
func forgettable(index int, own []Address, stale []netip.Prefix, routers []netip.Addr) (found []netlink.Route) {
	// An address alone, from DHCPv6, does not keep a network that is stale.
	needed := func(to netip.Prefix) bool {
		return slices.ContainsFunc(own, func(a Address) bool {
			return a.Prefix.Masked() == to || to.Contains(a.Prefix.Addr()) && !slices.Contains(stale, to)
		})
	}
	filter := &netlink.Route{LinkIndex: index, Table: unix.RT_TABLE_MAIN}
	// What an error of listing hides is found the next time.
	netlink.RouteListFilteredIter(netlink.FAMILY_V6, filter, netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE, func(r netlink.Route) bool {
		to, via := prefix(r.Dst), addr(r.Gw)
		everywhere := !to.IsValid() || to.Bits() == 0
		switch {
		case everywhere && r.Protocol == unix.RTPROT_RA && len(stale) > 0 && !slices.Contains(routers, via),
			!everywhere && !via.IsValid() && r.Protocol == unix.RTPROT_KERNEL && r.Type == unix.RTN_UNICAST &&
				to.Addr().IsGlobalUnicast() && !needed(to):
			found = append(found, r)
		}
		return len(found) < maxForgotten
	})
	return found
}
