package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/network/dhcp4"
)

// protocol marks addresses and routes as ours: what has another mark is not touched. No other
// program has this number (iproute2's rt_protos).
const protocol = 67

const (
	ifaProto = 11  // IFA_PROTO, since Linux 5.18
	metric   = 100 // of our routes: whoever sets one by hand with none goes first
	forever  = 0xffffffff
)

// A port is an Ethernet port as the kernel has it.
type port struct {
	index int
	name  string
	mac   net.HardwareAddr
	up    bool // switched on
	link  bool
	speed int
}

// physical says whether link is a port of the machine, not one made of software.
func physical(link netlink.Link) bool {
	dir := "/sys/class/net/" + link.Attrs().Name
	_, err := os.Stat(dir + "/device")
	_, wireless := os.Stat(dir + "/phy80211")
	return link.Type() == "device" && err == nil && wireless != nil
}

// listPorts lists the Ethernet ports in the kernel's order.
func listPorts(isPort func(netlink.Link) bool) ([]port, error) {
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) { // then an event follows: we look again
		return nil, fmt.Errorf("list ports: %w", err)
	}
	var ports []port
	for _, link := range links {
		a := link.Attrs()
		if a.EncapType != "ether" || len(a.HardwareAddr) != 6 || a.Flags&net.FlagLoopback != 0 || !isPort(link) {
			continue
		}
		const running = unix.IFF_UP | unix.IFF_RUNNING | unix.IFF_LOWER_UP
		ports = append(ports, port{
			index: a.Index,
			name:  a.Name,
			mac:   a.HardwareAddr,
			up:    a.RawFlags&unix.IFF_UP != 0,
			link:  a.RawFlags&running == running,
			speed: speed(a.Name),
		})
	}
	slices.SortFunc(ports, func(a, b port) int { return a.index - b.index })
	return ports, nil
}

// switchOn brings a port up.
func switchOn(name string) error {
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	if err != nil {
		return fmt.Errorf("switch port %s on: %w", name, err)
	}
	return nil
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

// An addr is one address of a port as the kernel has it.
type addr struct {
	port    int
	prefix  netip.Prefix
	ours    bool
	expires time.Time // the zero time is never
}

// listAddrs lists the addresses that can be used.
func listAddrs(now time.Time) ([]addr, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETADDR, unix.NLM_F_DUMP)
	req.AddData(nl.NewIfAddrmsg(unix.AF_UNSPEC))
	msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWADDR)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var list []addr
	for _, m := range msgs {
		head := nl.DeserializeIfAddrmsg(m)
		attrs, err := nl.ParseRouteAttr(m[head.Len():])
		if err != nil {
			return nil, fmt.Errorf("list addresses: %w", err)
		}
		a := addr{port: int(head.Index)}
		flags := uint32(head.Flags)
		var ip netip.Addr
		for _, attr := range attrs {
			switch attr.Attr.Type {
			case unix.IFA_ADDRESS:
				if !ip.IsValid() {
					ip, _ = netip.AddrFromSlice(attr.Value)
				}
			case unix.IFA_LOCAL: // where there is one, IFA_ADDRESS is the other end's
				ip, _ = netip.AddrFromSlice(attr.Value)
			case unix.IFA_FLAGS:
				flags = binary.NativeEndian.Uint32(attr.Value)
			case unix.IFA_CACHEINFO:
				if valid := nl.DeserializeIfaCacheInfo(attr.Value).Valid; valid != forever {
					a.expires = now.Add(time.Duration(valid) * time.Second)
				}
			case ifaProto:
				a.ours = len(attr.Value) == 1 && attr.Value[0] == protocol
			}
		}
		a.prefix = netip.PrefixFrom(ip, int(head.Prefixlen))
		if flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0 && a.prefix.IsValid() {
			list = append(list, a)
		}
	}
	return list, nil
}

// setAddr gives port the leased address, or more time to it.
func setAddr(port int, lease *dhcp4.Lease, now time.Time) error {
	ip := lease.Addr().AsSlice()
	head := nl.NewIfAddrmsg(unix.AF_INET)
	head.Index = uint32(port)
	head.Prefixlen = uint8(lease.Prefix.Bits())
	req := nl.NewNetlinkRequest(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE|unix.NLM_F_ACK)
	req.AddData(head)
	req.AddData(nl.NewRtAttr(unix.IFA_LOCAL, ip))
	req.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, ip))
	req.AddData(nl.NewRtAttr(ifaProto, []byte{protocol}))
	if bits := lease.Prefix.Bits(); bits < 31 { // RFC 3021: no broadcast between two
		all := lease.Addr().As4()
		for i, m := range net.CIDRMask(bits, 32) {
			all[i] |= ^m
		}
		req.AddData(nl.NewRtAttr(unix.IFA_BROADCAST, all[:]))
	}
	valid := uint32(forever)
	if !lease.Expires.IsZero() {
		valid = uint32(min(lease.Expires.Sub(now)/time.Second, forever-1))
	}
	info := nl.IfaCacheInfo{IfaCacheinfo: unix.IfaCacheinfo{Valid: valid, Prefered: valid}}
	req.AddData(nl.NewRtAttr(unix.IFA_CACHEINFO, info.Serialize()))
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("set address %v: %w", lease.Prefix, err)
	}
	return nil
}

// removeAddr takes an address away; it may be gone already.
func removeAddr(a addr) error {
	err := netlink.AddrDel(nil, &netlink.Addr{
		LinkIndex: a.port,
		IPNet:     &net.IPNet{IP: a.prefix.Addr().AsSlice(), Mask: net.CIDRMask(a.prefix.Bits(), a.prefix.Addr().BitLen())},
	})
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("remove address %v: %w", a.prefix, err)
	}
	return nil
}

// listRoutes lists our routes.
func listRoutes() ([]netlink.Route, error) {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4,
		&netlink.Route{Protocol: protocol, Table: unix.RT_TABLE_MAIN},
		netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	return routes, nil
}

// defaultRoute is the way to everybody through the lease's gateway.
func defaultRoute(port int, lease *dhcp4.Lease) *netlink.Route {
	r := &netlink.Route{
		LinkIndex: port,
		Dst:       &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)},
		Gw:        lease.Gateway.AsSlice(),
		Protocol:  protocol,
		Priority:  metric,
		Table:     unix.RT_TABLE_MAIN,
	}
	if !lease.Prefix.Contains(lease.Gateway) { // it is on the link although its address is not
		r.Flags = int(netlink.FLAG_ONLINK)
	}
	return r
}

func sameRoute(a, b *netlink.Route) bool {
	const onlink = int(netlink.FLAG_ONLINK) // other flags are the kernel's: dead, link down
	return a.LinkIndex == b.LinkIndex && a.Dst.String() == b.Dst.String() && a.Gw.Equal(b.Gw) &&
		a.Priority == b.Priority && a.Flags&onlink == b.Flags&onlink
}

// watch returns a channel that gets a value when links, addresses or routes may have changed.
// Closing the file ends it. What the kernel says is not read: one looks for oneself, so messages
// that were lost in a flood do no harm.
func watch() (<-chan struct{}, *os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, nil, fmt.Errorf("watch ports: %w", err)
	}
	err = unix.Bind(fd, &unix.SockaddrNetlink{
		Family: unix.AF_NETLINK,
		Groups: unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV4_ROUTE,
	})
	if err != nil {
		unix.Close(fd)
		return nil, nil, fmt.Errorf("watch ports: %w", err)
	}
	file := os.NewFile(uintptr(fd), "netlink")
	changed := make(chan struct{}, 1)
	go func() { // ends when file is closed
		defer close(changed)
		buf := make([]byte, 8) // the rest of a message is dropped
		for {
			_, err := file.Read(buf)
			if err != nil && !errors.Is(err, unix.ENOBUFS) {
				return
			}
			select {
			case changed <- struct{}{}:
			default: // it is known already
			}
		}
	}()
	return changed, file, nil
}
