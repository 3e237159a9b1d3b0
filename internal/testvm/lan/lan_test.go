// Package lan holds the tests of the built image on a LAN: its ports are taps on switches in network
// namespaces, where the real DHCP servers, routers and clients run.
package lan

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"cloudlink.local/gateway/internal/network"
	"cloudlink.local/gateway/internal/qemu"
	"cloudlink.local/gateway/internal/testnet"
	"cloudlink.local/gateway/internal/testvm"
)

// imageDir tells the test binary inside the namespaces, which lead nowhere, where the image is.
const imageDir = "LAN_TEST_IMAGE"

func TestMain(m *testing.M) {
	if os.Getenv(imageDir) == "" {
		dir, err := testvm.BuildImage("qemu-virt", "gateway")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Setenv(imageDir, dir)
	}
	testnet.Main(m)
}

func image() string { return filepath.Join(os.Getenv(imageDir), "cloudlink.img") }

// A lan is a switch with a peer behind it.
type lan struct{ *testnet.Peer }

// onLAN boots the image with a port on a switch of its own for each lan.
func onLAN(t *testing.T, lans ...lan) *testvm.VM {
	t.Helper()
	var nics []qemu.NIC
	for i, l := range lans {
		nics = append(nics, qemu.NIC{Tap: l.Tap(t, fmt.Sprintf("tap%d", i))})
	}
	return testvm.Boot(t, testvm.Options{Image: image(), NICs: nics})
}

// lease waits until the lease file names an address for the MAC, which QEMU's i-th card has.
func awaitAddress(t *testing.T, vm *testvm.VM) netip.Addr {
	t.Helper()
	m := vm.Expect(`Port\s+eth0, connected: ([0-9.]+)/`)
	addr, err := netip.ParseAddr(m[1])
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

func TestOnALANWithDnsmasq(t *testing.T) {
	l := lan{testnet.Switch(t)}
	l.Dnsmasq(t, testnet.Bridge, "192.0.2.1/24", "--dhcp-range=192.0.2.100,192.0.2.150,2m")
	vm := onLAN(t, l)
	addr := awaitAddress(t, vm)
	vm.Reach(netip.AddrPortFrom(addr, 80).String(), l.Dial)
	s := vm.WaitUp()
	if len(s.Ports) != 1 || s.Ports[0].Gateway != netip.MustParseAddr("192.0.2.1") {
		t.Errorf("ports: %+v", s.Ports)
	}
	if s.Ports[0].Addresses[0].Source != network.DHCP {
		t.Errorf("address: %+v", s.Ports[0].Addresses)
	}
}
