package arp

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// What a packet wants (RFC 826).
const (
	request = 1
	reply   = 2
)

const size = 28 // of a packet for IPv4 over Ethernet

// A message is an ARP packet for IPv4 over Ethernet.
type message struct {
	op                   uint16
	senderMAC, targetMAC [6]byte
	sender, target       netip.Addr
}

// parse reads a packet. Padding after it is ignored.
func parse(b []byte) (m message, ok bool) {
	const ethernet, ipv4 = 1, 0x0800
	if len(b) < size || binary.BigEndian.Uint16(b) != ethernet || binary.BigEndian.Uint16(b[2:]) != ipv4 ||
		b[4] != 6 || b[5] != 4 {
		return message{}, false
	}
	m.op = binary.BigEndian.Uint16(b[6:])
	m.senderMAC = [6]byte(b[8:])
	m.sender = netip.AddrFrom4([4]byte(b[14:]))
	m.targetMAC = [6]byte(b[18:])
	m.target = netip.AddrFrom4([4]byte(b[24:]))
	return m, m.op == request || m.op == reply
}

// bytes is the packet on the wire.
func (m *message) bytes() []byte {
	b := make([]byte, 0, size)
	b = append(b, 0, 1, 8, 0, 6, 4)
	b = binary.BigEndian.AppendUint16(b, m.op)
	b = append(b, m.senderMAC[:]...)
	b = append(b, m.sender.AsSlice()...)
	b = append(b, m.targetMAC[:]...)
	return append(b, m.target.AsSlice()...)
}

// filter makes the kernel hand us only what is about addr and does not come from mac: packets whose
// sender says that addr is its own, and requests of those who look whether it is free.
func filter(addr netip.Addr, mac net.HardwareAddr) ([]bpf.RawInstruction, error) {
	if len(mac) != 6 || !addr.Is4() {
		return nil, fmt.Errorf("watch ARP for %v from %q: not an IPv4 address on Ethernet", addr, mac)
	}
	const (
		format    = 0
		lengths   = 4
		senderMAC = 8
		sender    = 14
		target    = 24
	)
	a := addr.As4()
	ip := binary.BigEndian.Uint32(a[:])
	raw, err := bpf.Assemble([]bpf.Instruction{
		0:  bpf.LoadExtension{Num: bpf.ExtType}, // to us or to everybody: neither others' nor our own
		1:  bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: unix.PACKET_MULTICAST, SkipTrue: 16},
		2:  bpf.LoadExtension{Num: bpf.ExtLen},
		3:  bpf.JumpIf{Cond: bpf.JumpLessThan, Val: size, SkipTrue: 14},
		4:  bpf.LoadAbsolute{Off: format, Size: 4}, // of IPv4 over Ethernet
		5:  bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0x0001_0800, SkipTrue: 12},
		6:  bpf.LoadAbsolute{Off: lengths, Size: 2},
		7:  bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0x0604, SkipTrue: 10},
		8:  bpf.LoadAbsolute{Off: sender, Size: 4},
		9:  bpf.JumpIf{Cond: bpf.JumpEqual, Val: ip, SkipTrue: 3},
		10: bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0, SkipTrue: 7},
		11: bpf.LoadAbsolute{Off: target, Size: 4},
		12: bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: ip, SkipTrue: 5},
		13: bpf.LoadAbsolute{Off: senderMAC, Size: 4},
		14: bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32(mac), SkipTrue: 2},
		15: bpf.LoadAbsolute{Off: senderMAC + 4, Size: 2},
		16: bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(binary.BigEndian.Uint16(mac[4:])), SkipTrue: 1}, // an echo
		17: bpf.RetConstant{Val: size},
		18: bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return nil, fmt.Errorf("assemble ARP filter: %w", err)
	}
	return raw, nil
}
