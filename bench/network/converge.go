package main

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"

	"cloudlink.local/gateway/internal/network/reconcile"
	"cloudlink.local/gateway/internal/network/spec"
)

// measureConverge counts what the reconciler asks of the kernel: first to configure two ports, then to
// leave them so.
func measureConverge(result map[string]any) error {
	n, err := newNamespace()
	if err != nil {
		return err
	}
	defer n.close()
	for _, name := range []string{"lan0", "lan1"} {
		// Both ends of the cable are here: its far end is up, and nobody's.
		if err := n.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "far-" + name}); err != nil {
			return fmt.Errorf("lay cable: %w", err)
		}
		if err := n.up("far-" + name); err != nil {
			return err
		}
	}
	want := wanted()
	return n.do(func() error {
		var r reconcile.Reconciler
		first, err := r.Reconcile(want)
		if err != nil {
			return fmt.Errorf("reconcile: %w", err)
		}
		if err := tested(); err != nil {
			return err
		}
		second, err := r.Reconcile(want)
		if err != nil {
			return fmt.Errorf("reconcile again: %w", err)
		}
		fmt.Printf("writes to configure two ports: %d; again: %d\n", first, second)
		result["converge_writes_first_run"], result["converge_writes_second_run"] = first, second
		return nil
	})
}

// wanted is one of everything that the settings can want but a VLAN, which not every kernel of a
// building machine can make.
func wanted() spec.Spec {
	prefix, addr := netip.MustParsePrefix, netip.MustParseAddr
	return spec.Policy(spec.Merge(spec.Spec{
		Links: []spec.Link{
			{Name: "lan0", MTU: 1500, IPv6: spec.IPv6Automatic, StableSecret: addr("2001:db8::5ec:7e7")},
			{Name: "lan1", MTU: 1400, IPv6: spec.IPv6Static},
		},
		Addresses: []spec.Address{
			{Link: "lan0", Prefix: prefix("192.0.2.10/24"), Source: spec.DHCP, Valid: time.Now().Add(time.Hour)},
			{Link: "lan0", Prefix: prefix("192.0.2.11/24"), Source: spec.Static},
			{Link: "lan0", Prefix: prefix("2001:db8:1::10/64"), Source: spec.Static},
			{Link: "lan1", Prefix: prefix("198.51.100.10/24"), Source: spec.Static},
			{Link: "lan1", Prefix: prefix("2001:db8:2::10/64"), Source: spec.Static},
		},
		Routes: []spec.Route{
			{Link: "lan0", Destination: prefix("0.0.0.0/0"), Via: addr("192.0.2.1"), Metric: 100},
			{Link: "lan0", Destination: prefix("::/0"), Via: addr("2001:db8:1::1"), Metric: 100},
			{Link: "lan1", Destination: prefix("0.0.0.0/0"), Via: addr("198.51.100.1"), Metric: 100},
			{Link: "lan1", Destination: prefix("203.0.113.0/24"), Via: addr("198.51.100.2"), Metric: 100},
		},
	}))
}

// tested waits until the kernel knows that nobody else has the IPv6 addresses.
func tested() error {
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		state, err := reconcile.List()
		if err != nil {
			return err
		}
		tentative := 0
		for _, a := range state.Addresses {
			if a.Tentative {
				tentative++
			}
		}
		if tentative == 0 {
			return nil
		}
	}
	return errors.New("the kernel has not tested the IPv6 addresses in 20 s")
}
