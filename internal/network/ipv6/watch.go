package ipv6

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A change is what the kernel says about an address of the port.
type change struct {
	addr  netip.Addr
	flags uint32 // IFA_F_…
	gone  bool
}

// usable says whether the address is ours alone, as far as the kernel found.
func (c change) usable() bool {
	return !c.gone && c.flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0
}

// duplicate says whether another device has it. An address that has a lifetime is gone then.
func (c change) duplicate() bool { return c.flags&unix.IFA_F_DADFAILED != 0 }

// watch reports the port's addresses and what becomes of them, until ctx ends.
func watch(ctx context.Context, port *net.Interface, changes chan<- change) error {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{Groups: 1 << (unix.RTNLGRP_IPV6_IFADDR - 1)})
	if err != nil {
		return fmt.Errorf("watch addresses of %s: %w", port.Name, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })() // ends a blocked read
	found, err := list(port)
	for {
		switch {
		case ctx.Err() != nil:
			return context.Canceled
		case errors.Is(err, unix.ENOBUFS): // a flood: see what has come of it
			time.Sleep(10 * time.Millisecond) // it may go on; it must cost little
			if found, err = list(port); err != nil {
				continue
			}
		case err != nil:
			return fmt.Errorf("watch addresses of %s: %w", port.Name, err)
		}
		for _, ch := range found {
			select {
			case changes <- ch:
			case <-ctx.Done():
				return context.Canceled
			}
		}
		var messages []netlink.Message
		messages, err = conn.Receive()
		found = parseChanges(messages, port.Index)
	}
}

// list asks the kernel for the port's addresses.
func list(port *net.Interface) ([]change, error) {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return nil, fmt.Errorf("list addresses of %s: %w", port.Name, err)
	}
	defer conn.Close()
	messages, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETADDR, Flags: netlink.Request | netlink.Dump},
		Data:   []byte{unix.AF_INET6, 0, 0, 0, 0, 0, 0, 0},
	})
	if err != nil {
		return nil, fmt.Errorf("list addresses of %s: %w", port.Name, err)
	}
	return parseChanges(messages, port.Index), nil
}

// parseChanges reads the kernel's words about the addresses of port index.
func parseChanges(messages []netlink.Message, index int) (list []change) {
	for _, m := range messages {
		gone := m.Header.Type == unix.RTM_DELADDR
		if !gone && m.Header.Type != unix.RTM_NEWADDR || len(m.Data) < unix.SizeofIfAddrmsg ||
			m.Data[0] != unix.AF_INET6 || int(binary.NativeEndian.Uint32(m.Data[4:])) != index {
			continue
		}
		ch := change{flags: uint32(m.Data[2]), gone: gone}
		attributes, err := netlink.NewAttributeDecoder(m.Data[unix.SizeofIfAddrmsg:])
		if err != nil {
			continue
		}
		for attributes.Next() {
			switch attributes.Type() {
			case unix.IFA_ADDRESS:
				ch.addr, _ = netip.AddrFromSlice(attributes.Bytes())
			case unix.IFA_FLAGS:
				ch.flags = attributes.Uint32()
			}
		}
		if attributes.Err() == nil && ch.addr.IsValid() {
			list = append(list, ch)
		}
	}
	return list
}
