package reconcile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// pause is between two reports of Watch, so that a flood of changes costs little.
const pause = 10 * time.Millisecond

// Watch calls changed at once, and then whenever links, addresses, routes or rules may have changed,
// until ctx ends, which is no error. What the kernel says is not read: one looks for oneself, so
// messages that were lost in a flood do no harm. They are lost soon, for the queue is short.
func Watch(ctx context.Context, changed func()) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("watch ports: %w", err)
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 0), // the smallest there is
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups(
			unix.RTNLGRP_LINK,
			unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
			unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
			unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
		)}),
	)
	file := os.NewFile(uintptr(fd), "netlink")
	defer file.Close()
	if err != nil {
		return fmt.Errorf("watch ports: %w", err)
	}
	defer context.AfterFunc(ctx, func() { file.Close() })() // ends a blocked read
	next := time.NewTimer(pause)
	defer next.Stop()
	buf := make([]byte, 8) // the rest of a message is dropped
	for {
		changed()
		next.Reset(pause)
		select {
		case <-ctx.Done():
			return nil
		case <-next.C:
		}
		_, err := file.Read(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("watch ports: %w", err)
		}
	}
}

func groups(numbers ...int) uint32 {
	var mask uint32
	for _, n := range numbers {
		mask |= 1 << (n - 1)
	}
	return mask
}
