package mdns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/mdns/wire"
)

const (
	queue     = 256 << 10 // bytes that wait in the kernel, for each link and family
	maxPacket = 9000      // RFC 6762 §17; a longer one is cut off, and dropped for it
	hopLimit  = 255       // §11
)

// Where everybody listens.
var groups = [len(families)]netip.Addr{netip.MustParseAddr("224.0.0.251"), netip.MustParseAddr("ff02::fb")}

// A datagram is what a socket has received.
type datagram struct {
	from      netip.AddrPort // without a zone
	multicast bool
	bytes     []byte
}

// A conn sends and receives on one link, in one family. Its methods may be called at the same time.
type conn interface {
	read(buf []byte) (datagram, error)
	write(outgoing) error
	Close() error
}

// A socket is a conn that is opened again when it breaks.
type socket struct {
	family family
	open   func(family) (conn, error)

	mu   sync.Mutex // guards what follows
	conn conn
	err  error // of opening
}

// reopen is how long a broken socket rests.
const reopen = time.Second

func (s *socket) ensure() (conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil {
		s.conn, s.err = s.open(s.family)
	}
	return s.conn, s.err
}

// drop closes c, which does not work any more, or is not needed.
func (s *socket) drop(c conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == c {
		s.conn = nil
	}
	c.Close()
}

// close closes what is open; nobody sends any more.
func (s *socket) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
}

// run receives packets until ctx ends, and hands on what is admitted.
func (s *socket) run(ctx context.Context, a *admission, hear func(family, datagram)) {
	defer s.close()
	buf := make([]byte, maxPacket+1)
	for ctx.Err() == nil {
		if c, err := s.ensure(); err == nil {
			stop := context.AfterFunc(ctx, func() { s.drop(c) }) // ends a blocked read
			s.receive(c, buf, a, hear)
			stop()
			s.drop(c)
		}
		select {
		case <-ctx.Done():
		case <-time.After(reopen):
		}
	}
}

// receive reads packets until c breaks.
func (s *socket) receive(c conn, buf []byte, a *admission, hear func(family, datagram)) {
	for {
		d, err := c.read(buf)
		if err != nil {
			return
		}
		if len(d.bytes) > maxPacket || !a.admit(time.Now(), d.from.Addr(), len(d.bytes)) {
			continue
		}
		d.bytes = bytes.Clone(d.bytes)
		hear(s.family, d)
	}
}

// send sends one packet.
func (s *socket) send(o outgoing) error {
	c, err := s.ensure()
	if err != nil {
		return err
	}
	return c.write(o)
}

// udp is the conn of the kernel.
type udp struct {
	*net.UDPConn
	raw    syscall.RawConn
	family family
	link   Link
}

// listen opens a socket that hears what comes by one link. It needs no privilege.
func listen(link Link, f family) (conn, error) {
	network, any := "udp4", "0.0.0.0"
	if f == v6 {
		network, any = "udp6", "::"
	}
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		controlErr := raw.Control(func(fd uintptr) {
			err = errors.Join(
				// Another responder or a browser may listen beside us (RFC 6762 §15.1).
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
				unix.BindToDevice(int(fd), link.Name),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, queue),
			)
		})
		return errors.Join(err, controlErr)
	}}
	c, err := config.ListenPacket(context.Background(), network, net.JoinHostPort(any, strconv.Itoa(port)))
	if err != nil {
		return nil, fmt.Errorf("listen for %s on %s: %w", network, link.Name, err)
	}
	u := &udp{UDPConn: c.(*net.UDPConn), family: f, link: link}
	u.raw, err = u.SyscallConn()
	if err == nil {
		err = u.join()
	}
	if err != nil {
		u.Close()
		return nil, fmt.Errorf("join %v on %s: %w", groups[f], link.Name, err)
	}
	return u, nil
}

func (u *udp) join() error {
	port := &net.Interface{Index: u.link.Index, Name: u.link.Name}
	group := &net.UDPAddr{IP: groups[u.family].AsSlice()}
	if u.family == v4 {
		c := ipv4.NewPacketConn(u.UDPConn)
		return errors.Join(
			c.SetBPF(prefilter),
			c.JoinGroup(port, group),
			c.SetMulticastInterface(port),
			c.SetMulticastLoopback(false),
			c.SetMulticastTTL(hopLimit),
			c.SetTTL(hopLimit),
			c.SetControlMessage(ipv4.FlagDst, true),
		)
	}
	c := ipv6.NewPacketConn(u.UDPConn)
	return errors.Join(
		c.SetBPF(prefilter),
		c.JoinGroup(port, group),
		c.SetMulticastInterface(port),
		c.SetMulticastLoopback(false),
		c.SetMulticastHopLimit(hopLimit),
		c.SetHopLimit(hopLimit),
		c.SetControlMessage(ipv6.FlagDst, true),
	)
}

func (u *udp) read(buf []byte) (datagram, error) {
	var oob [128]byte
	n, control, _, from, err := u.ReadMsgUDPAddrPort(buf, oob[:])
	if err != nil {
		return datagram{}, err
	}
	d := datagram{bytes: buf[:n], from: netip.AddrPortFrom(from.Addr().Unmap().WithZone(""), from.Port())}
	var to net.IP
	if u.family == v4 {
		var m ipv4.ControlMessage
		if err := m.Parse(oob[:control]); err == nil {
			to = m.Dst
		}
	} else {
		var m ipv6.ControlMessage
		if err := m.Parse(oob[:control]); err == nil {
			to = m.Dst
		}
	}
	d.multicast = to.Equal(groups[u.family].AsSlice())
	return d, nil
}

func (u *udp) write(o outgoing) error {
	to := o.to
	if !to.IsValid() {
		to = netip.AddrPortFrom(groups[u.family], port)
	}
	// The source is told to the kernel: it knows neither which of our addresses is in the reader's
	// subnet, nor that a link without one must not use another's.
	var control []byte
	if u.family == v4 {
		control = (&ipv4.ControlMessage{Src: o.source.AsSlice(), IfIndex: u.link.Index}).Marshal()
	} else {
		control = (&ipv6.ControlMessage{Src: o.source.AsSlice(), IfIndex: u.link.Index}).Marshal()
	}
	var sa unix.Sockaddr = &unix.SockaddrInet6{Addr: to.Addr().As16(), Port: int(to.Port()), ZoneId: uint32(u.link.Index)}
	if u.family == v4 {
		sa = &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}
	}
	// It does not wait: a port that is stuck must not stop the other family, and what is lost is asked again.
	var err error
	closed := u.raw.Write(func(fd uintptr) bool {
		err = unix.Sendmsg(int(fd), o.bytes, control, sa, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		return true
	})
	if err := errors.Join(closed, err); err != nil {
		return fmt.Errorf("send to %v on %s: %w", to.Addr(), u.link.Name, err)
	}
	return nil
}

// prefilter makes the kernel drop what wire.Parse and the link would, before it wakes us up.
var prefilter = func() []bpf.RawInstruction {
	const ( // bytes into the UDP packet
		source    = 0
		flags     = 8 + 2
		questions = 8 + 4
		answers   = 8 + 6
	)
	filter, err := bpf.Assemble([]bpf.Instruction{
		0:  bpf.LoadAbsolute{Off: flags, Size: 2}, // too short for that: dropped
		1:  bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x780f, SkipTrue: 9},
		2:  bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x8000, SkipFalse: 2}, // a response,
		3:  bpf.LoadAbsolute{Off: source, Size: 2},
		4:  bpf.JumpIf{Cond: bpf.JumpEqual, Val: port, SkipTrue: 5, SkipFalse: 6}, // from a responder
		5:  bpf.LoadAbsolute{Off: questions, Size: 2},                             // a query that asks,
		6:  bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: wire.MaxEntries, SkipTrue: 4},
		7:  bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0, SkipTrue: 2},
		8:  bpf.LoadAbsolute{Off: answers, Size: 2}, // or says what it knows
		9:  bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipTrue: 1},
		10: bpf.RetConstant{Val: 0xffff},
		11: bpf.RetConstant{Val: 0},
	})
	if err != nil {
		panic(err) // the program is a constant
	}
	return filter
}()

// hardware returns who has an address, as the kernel knows it; nil where it does not.
func hardware(link int, a netip.Addr) net.HardwareAddr {
	family := unix.AF_INET
	if a.Is6() {
		family = unix.AF_INET6
	}
	list, err := netlink.NeighList(link, family)
	if err != nil {
		return nil
	}
	for _, n := range list {
		if found, ok := netip.AddrFromSlice(n.IP); ok && found.Unmap() == a && len(n.HardwareAddr) > 0 {
			return n.HardwareAddr
		}
	}
	return nil
}
