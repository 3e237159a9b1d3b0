package testnet

import (
	"fmt"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Bridge is the port of a Switch's namespace that joins its taps; addresses and servers of the
// far end go there.
const Bridge = "br0"

// Switch makes a namespace with a switch in it, for guests whose ports are taps.
func Switch(t testing.TB) *Peer {
	t.Helper()
	p := New(t)
	err := p.Do(func() error {
		// A switch that forwards from the first moment: no listening, no learning delay.
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: Bridge}}); err != nil {
			return fmt.Errorf("make bridge: %w", err)
		}
		return up(Bridge)
	})
	if err != nil {
		t.Fatalf("testnet: %v", err)
	}
	return p
}

// Tap makes tap name on the switch of p and returns its file, for QEMU in any namespace:
// cmd.ExtraFiles = []*os.File{tap} and -netdev tap,id=n0,fd=3. The tap goes with the last holder
// of the file; the test's own copy is closed when the test ends.
func (p *Peer) Tap(t testing.TB, name string) *os.File {
	t.Helper()
	var tap *os.File
	err := p.Do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("open /dev/net/tun: %w (needs CONFIG_TUN in the kernel and permission to read and write)", err)
		}
		req, err := unix.NewIfreq(name)
		if err == nil {
			req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
		}
		tap = os.NewFile(uintptr(fd), name) // not before: a tap's file can be polled only from now on
		if err != nil {
			return fmt.Errorf("make tap %s: %w", name, err)
		}
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find tap %s: %w", name, err)
		}
		bridge, err := netlink.LinkByName(Bridge)
		if err != nil {
			return fmt.Errorf("find switch: %w", err)
		}
		if err := netlink.LinkSetMaster(link, bridge); err != nil {
			return fmt.Errorf("plug tap %s into the switch: %w", name, err)
		}
		return up(name)
	})
	if tap != nil {
		t.Cleanup(func() { tap.Close() })
	}
	if err != nil {
		t.Fatalf("testnet: %v", err)
	}
	return tap
}
