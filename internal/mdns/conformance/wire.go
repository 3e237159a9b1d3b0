package conformance

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A packet is one that was on the cable, with UDP port 5353 at one of its ends.
type packet struct {
	at       time.Time // when the kernel had it
	sent     bool      // by the script
	from, to netip.AddrPort
	hops     byte // TTL, or IPv6's hop limit
	size     int  // of the IP packet
	message
	bad error // why the content cannot be read
}

func (p *packet) multicast() bool { return p.to.Addr() == group4 || p.to.Addr() == group6 }

var (
	group4 = netip.MustParseAddr("224.0.0.251")
	group6 = netip.MustParseAddr("ff02::fb")
)

// A wire is the script's end of a cable: it hears everything, with the time from the kernel, and it
// sends frames byte for byte.
type wire struct {
	mac net.HardwareAddr

	file *os.File // for hearing
	out  int      // for sending: a socket does not hear what it sends itself
	done chan struct{}
	err  error // why reading ended; after done

	mu   sync.Mutex // guards what follows
	all  []*packet
	more chan struct{} // closed when a packet is added
}

// openWire opens a port of the namespace that it is called in.
func openWire(port string) (*wire, error) {
	ifi, err := net.InterfaceByName(port)
	if err != nil {
		return nil, err
	}
	const everything = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // in the network's byte order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, everything)
	if err != nil {
		return nil, fmt.Errorf("open a packet socket: %w", err)
	}
	out, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // hears nothing
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("open a packet socket: %w", err)
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: everything, Ifindex: ifi.Index}),
		unix.Bind(out, &unix.SockaddrLinklayer{Ifindex: ifi.Index}))
	if err != nil {
		unix.Close(fd)
		unix.Close(out)
		return nil, fmt.Errorf("listen at %s: %w", port, err)
	}
	w := &wire{mac: ifi.HardwareAddr, file: os.NewFile(uintptr(fd), port), out: out, done: make(chan struct{}), more: make(chan struct{})}
	go func() { // ends with close
		defer close(w.done)
		w.err = w.read()
	}()
	return w, nil
}

// close ends it.
func (w *wire) close() {
	w.file.Close()
	unix.Close(w.out)
	<-w.done
}

// read notes packets until the file is closed.
func (w *wire) read() error {
	conn, err := w.file.SyscallConn()
	if err != nil {
		return err
	}
	buf, oob := make([]byte, 1<<16), make([]byte, 256)
	for {
		var n, oobn int
		var from unix.Sockaddr
		var recvErr error
		err := conn.Read(func(fd uintptr) bool {
			n, oobn, _, from, recvErr = unix.Recvmsg(int(fd), buf, oob, 0)
			return !errors.Is(recvErr, unix.EAGAIN)
		})
		if err != nil {
			return err
		}
		if errors.Is(recvErr, unix.ENETDOWN) { // the script unplugged the cable, for a while
			continue
		}
		if recvErr != nil {
			return recvErr
		}
		link, ok := from.(*unix.SockaddrLinklayer)
		if !ok {
			continue
		}
		p := readFrame(buf[:n])
		if p == nil {
			continue
		}
		p.at, p.sent = stamp(oob[:oobn]), link.Pkttype == unix.PACKET_OUTGOING
		w.mu.Lock()
		w.all = append(w.all, p)
		close(w.more)
		w.more = make(chan struct{})
		w.mu.Unlock()
	}
}

// stamp is the time of receipt.
func stamp(oob []byte) time.Time {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return time.Now()
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= 16 {
			return time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:])))
		}
	}
	return time.Now()
}

const mdnsPort = 5353

// readFrame reads an Ethernet frame, and returns nil for what is not multicast DNS.
func readFrame(b []byte) *packet {
	const ethernet, udp = 14, 8
	if len(b) < ethernet+20 {
		return nil
	}
	kind := binary.BigEndian.Uint16(b[12:])
	b = b[ethernet:]
	p := &packet{size: len(b)}
	var from, to netip.Addr
	switch {
	case kind == unix.ETH_P_IP && b[9] == unix.IPPROTO_UDP && len(b) >= int(b[0]&15)*4+udp:
		if binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
			return nil // not the first fragment
		}
		from, to, p.hops = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:])), b[8]
		b = b[int(b[0]&15)*4:]
	case kind == unix.ETH_P_IPV6 && len(b) >= 40+udp && b[6] == unix.IPPROTO_UDP:
		from, to, p.hops = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:])), b[7]
		b = b[40:]
	default:
		return nil
	}
	p.from = netip.AddrPortFrom(from, binary.BigEndian.Uint16(b))
	p.to = netip.AddrPortFrom(to, binary.BigEndian.Uint16(b[2:]))
	if p.from.Port() != mdnsPort && p.to.Port() != mdnsPort {
		return nil
	}
	if n := int(binary.BigEndian.Uint16(b[4:])); n >= udp && n <= len(b) {
		b = b[:n] // Ethernet fills short frames up
	}
	p.message, p.bad = parse(b[udp:])
	return p
}

// A frame says how a packet is to be sent.
type frame struct {
	toMAC    net.HardwareAddr
	from, to netip.AddrPort
	hops     byte
}

// send sends one packet.
func (w *wire) send(f frame, payload []byte) error {
	udp := binary.BigEndian.AppendUint16(nil, f.from.Port())
	udp = binary.BigEndian.AppendUint16(udp, f.to.Port())
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(payload)))
	udp = append(append(udp, 0, 0), payload...)
	pseudo := append(f.from.Addr().AsSlice(), f.to.Addr().AsSlice()...)
	pseudo = append(pseudo, 0, unix.IPPROTO_UDP)
	pseudo = binary.BigEndian.AppendUint16(pseudo, uint16(len(udp)))
	sum := checksum(append(pseudo, udp...))
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(udp[6:], sum)

	b := append(append([]byte(nil), f.toMAC...), w.mac...)
	if f.to.Addr().Is4() {
		b = binary.BigEndian.AppendUint16(b, unix.ETH_P_IP)
		ip := []byte{0x45, 0}
		ip = binary.BigEndian.AppendUint16(ip, uint16(20+len(udp)))
		ip = append(ip, 0, 0, 0x40, 0, f.hops, unix.IPPROTO_UDP, 0, 0)
		ip = append(append(ip, f.from.Addr().AsSlice()...), f.to.Addr().AsSlice()...)
		binary.BigEndian.PutUint16(ip[10:], checksum(ip))
		b = append(b, ip...)
	} else {
		b = binary.BigEndian.AppendUint16(b, unix.ETH_P_IPV6)
		b = append(b, 0x60, 0, 0, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(len(udp)))
		b = append(b, unix.IPPROTO_UDP, f.hops)
		b = append(append(b, f.from.Addr().AsSlice()...), f.to.Addr().AsSlice()...)
	}
	_, err := unix.Write(w.out, append(b, udp...))
	return err
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
