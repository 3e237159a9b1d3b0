package dhcp4

import (
	"encoding/binary"
	"fmt"
	"net"

	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// assemble makes the kernel hand us nothing but servers' answers to mac: a gateway forwards
// thousands of packets a second that this process must not wake up for.
func assemble(mac net.HardwareAddr) ([]bpf.RawInstruction, error) {
	if len(mac) != 6 {
		return nil, fmt.Errorf("listen for DHCP: %q is no Ethernet address", mac)
	}
	const ( // bytes into the IPv4 header, and into UDP after it
		fragment = 6
		protocol = 9
		port     = 2
		op       = 8
		chaddr   = 8 + 28
	)
	filter, err := bpf.Assemble([]bpf.Instruction{
		0:  bpf.LoadExtension{Num: bpf.ExtType}, // to us or to everybody: neither others' nor our own
		1:  bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: unix.PACKET_MULTICAST, SkipTrue: 13},
		2:  bpf.LoadAbsolute{Off: protocol, Size: 1},
		3:  bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP, SkipTrue: 11},
		4:  bpf.LoadAbsolute{Off: fragment, Size: 2},
		5:  bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x3fff, SkipTrue: 9}, // part of a larger one
		6:  bpf.LoadMemShift{Off: 0},                                    // X = length of the IPv4 header
		7:  bpf.LoadIndirect{Off: port, Size: 2},
		8:  bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: nclient4.ClientPort, SkipTrue: 6},
		9:  bpf.LoadIndirect{Off: op, Size: 1},
		10: bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 2, SkipTrue: 4}, // a server's reply
		11: bpf.LoadIndirect{Off: chaddr, Size: 4},
		12: bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32(mac), SkipTrue: 2},
		13: bpf.LoadIndirect{Off: chaddr + 4, Size: 2},
		14: bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(binary.BigEndian.Uint16(mac[4:])), SkipTrue: 1},
		15: bpf.RetConstant{Val: 0},
		16: bpf.RetConstant{Val: 0xffff},
	})
	if err != nil {
		return nil, fmt.Errorf("assemble DHCP filter: %w", err)
	}
	return filter, nil
}
