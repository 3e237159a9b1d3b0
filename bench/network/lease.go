package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/bench/internal/harness"
)

// measureLeases measures, of each client in turn, the time from link-up to an address that works: the
// first time there, and after a restart with the lease of before.
func measureLeases(l *lan, runs int, result map[string]any) error {
	fresh, again := map[string][]time.Duration{}, map[string][]time.Duration{}
	for i := range runs {
		fmt.Printf("link-up to address %d/%d", i+1, runs)
		for _, c := range clients {
			if err := c.forget(); err != nil {
				return err
			}
			took, mac, err := linkUp(l, c, nil)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			fresh[c.name] = append(fresh[c.name], took)
			fmt.Printf("  %s %.3f s", c.name, took.Seconds())
			if c.reboot == nil {
				continue
			}
			if err := c.reboot(); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			if took, _, err = linkUp(l, c, mac); err != nil {
				return fmt.Errorf("%s with a lease: %w", c.name, err)
			}
			again[c.name] = append(again[c.name], took)
			fmt.Printf(", with its lease %.3f s", took.Seconds())
		}
		fmt.Println()
	}
	seconds := func(of []time.Duration) float64 { return harness.Median(of).Seconds() }
	result["lease_seconds"] = harness.Round(seconds(fresh["ours"]))
	result["dhcpcd_seconds"] = harness.Round(seconds(fresh["dhcpcd"]))
	result["udhcpc_seconds"] = harness.Round(seconds(fresh["udhcpc"]))
	result["lease_ratio"] = harness.Round(seconds(fresh["ours"]) / seconds(fresh["dhcpcd"]))
	result["lease_ratio_udhcpc"] = harness.Round(seconds(fresh["ours"]) / seconds(fresh["udhcpc"]))
	result["lease_again_seconds"] = harness.Round(seconds(again["ours"]))
	result["dhcpcd_again_seconds"] = harness.Round(seconds(again["dhcpcd"]))
	result["lease_again_ratio"] = harness.Round(seconds(again["ours"]) / seconds(again["dhcpcd"]))
	return nil
}

// linkUp plugs a host in and measures the time from link-up to an address that works. It returns the
// host's MAC address, which is mac where that is given.
func linkUp(l *lan, c client, mac net.HardwareAddr) (took time.Duration, _ net.HardwareAddr, err error) {
	h, err := l.newHost(mac)
	if err != nil {
		return 0, nil, err
	}
	if _, took, err = h.lease(c); err != nil {
		return 0, nil, err
	}
	if mac, err = h.mac(); err != nil {
		return 0, nil, err
	}
	return took, mac, h.remove()
}

// lease starts c, plugs the cable in, and waits until an address works.
func (h *host) lease(c client) (addr netip.Addr, took time.Duration, err error) {
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	links, addrs := make(chan netlink.LinkUpdate), make(chan netlink.AddrUpdate)
	ignore := func(error) {} // the subscription ends with its namespace
	err = netlink.LinkSubscribeWithOptions(links, ctx.Done(), netlink.LinkSubscribeOptions{Namespace: &h.ns, ErrorCallback: ignore})
	if err != nil {
		return addr, 0, fmt.Errorf("watch the port: %w", err)
	}
	err = netlink.AddrSubscribeWithOptions(addrs, ctx.Done(), netlink.AddrSubscribeOptions{Namespace: &h.ns, ErrorCallback: ignore})
	if err != nil {
		return addr, 0, fmt.Errorf("watch the port: %w", err)
	}
	if c.late {
		err = h.up(port)
	} else {
		h.client, err = c.start(h)
	}
	if err == nil {
		err = h.lan.up(h.far)
	}
	if err != nil {
		return addr, 0, err
	}
	var up time.Time // when the kernel told everybody that there is a link
	for {
		select {
		case u := <-links:
			if !up.IsZero() || u.Attrs().Name != port || u.IfInfomsg.Flags&unix.IFF_RUNNING == 0 {
				continue
			}
			up = time.Now()
			if c.late {
				if h.client, err = c.start(h); err != nil {
					return addr, 0, err
				}
			}
		case u := <-addrs:
			addr, _ = netip.AddrFromSlice(u.LinkAddress.IP)
			addr = addr.Unmap()
			if !u.NewAddr || !subnet.Contains(addr) || u.Flags&unix.IFA_F_TENTATIVE != 0 || up.IsZero() {
				continue
			}
			err := h.reaches(ctx, addr)
			return addr, time.Since(up), err
		case <-ctx.Done():
			return addr, 0, fmt.Errorf("no address in a minute")
		}
	}
}
