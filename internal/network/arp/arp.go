// Package arp finds out whether another device on the link has an IPv4 address, announces it as ours
// and defends it (RFC 5227), and asks who has one. Putting addresses on the port is the caller's, and
// so are the kernel's answers to other devices' questions.
package arp

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

// A Watch looks after one address of a port.
type Watch struct {
	Port   *net.Interface
	Addr   netip.Addr
	Timing Timing

	// Report is called with each event and the other device's MAC address, nil with Free.
	Report func(Event, net.HardwareAddr)
}

// Run looks after the address until ctx ends or the address is another device's. An error means that
// the port is gone or down.
func (w *Watch) Run(ctx context.Context) error {
	conn, err := listen(w.Port, w.Addr)
	if err != nil {
		return err
	}
	return w.run(ctx, conn)
}

func (w *Watch) run(ctx context.Context, conn net.PacketConn) error {
	received, done := make(chan message), make(chan struct{})
	reading := make(chan error, 1)
	go func() { // ends when conn is closed, and done when nobody takes its packet any more
		reading <- read(done, conn, received)
		close(reading)
	}()
	defer func() {
		close(done)
		conn.Close()
		for range reading {
		}
	}()
	c := claim{addr: w.Addr, mac: hardware(w.Port.HardwareAddr), timing: w.Timing, random: below}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var out *message
		var event Event
		var other net.HardwareAddr
		select {
		case <-ctx.Done():
			return nil
		case err := <-reading:
			return fmt.Errorf("watch %v on %s: %w", w.Addr, w.Port.Name, err)
		case m := <-received:
			other = m.senderMAC[:]
			if ownPort(other) { // two of our ports in one network
				continue
			}
			out, event = c.receive(time.Now(), m)
		case <-timer.C:
			out, event = c.timeout(time.Now())
		}
		if out != nil {
			// What cannot be sent is as if lost on the way; a port that went down ends the reading.
			conn.WriteTo(out.bytes(), &packet.Addr{HardwareAddr: everybody})
		}
		if event != "" {
			w.Report(event, other)
		}
		switch {
		case event == Taken, event == Lost:
			return nil
		case c.wake.IsZero():
			timer.Stop()
		default:
			timer.Reset(time.Until(c.wake))
		}
	}
}

var everybody = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// ErrSilent is returned where nobody answers.
var ErrSilent = errors.New("nobody answers")

const (
	questions = 3
	patience  = 300 * time.Millisecond // for each
)

// Ask asks, as from, who has target: everybody, or the one device that had it last (RFC 4436 §2.1).
func Ask(ctx context.Context, port *net.Interface, from, target netip.Addr, to net.HardwareAddr) (net.HardwareAddr, error) {
	conn, err := listen(port, target)
	if err != nil {
		return nil, err
	}
	return ask(ctx, conn, port, from, target, to)
}

func ask(ctx context.Context, conn net.PacketConn, port *net.Interface, from, target netip.Addr, to net.HardwareAddr) (net.HardwareAddr, error) {
	received, done := make(chan message), make(chan struct{})
	reading := make(chan error, 1)
	go func() { // ends as in Watch.run
		reading <- read(done, conn, received)
		close(reading)
	}()
	defer func() {
		close(done)
		conn.Close()
		for range reading {
		}
	}()
	if len(to) == 0 {
		to = everybody
	}
	question := message{op: request, senderMAC: hardware(port.HardwareAddr), sender: from, target: target}
	next := time.NewTimer(0)
	defer next.Stop()
	for asked := 0; ; {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case err := <-reading:
			return nil, fmt.Errorf("ask for %v on %s: %w", target, port.Name, err)
		case m := <-received:
			if m.op == reply && m.sender == target {
				return m.senderMAC[:], nil
			}
		case <-next.C:
			if asked == questions {
				return nil, ErrSilent
			}
			asked++
			conn.WriteTo(question.bytes(), &packet.Addr{HardwareAddr: to})
			next.Reset(patience)
		}
	}
}

// listen opens a socket that hears only what is about addr.
func listen(port *net.Interface, addr netip.Addr) (net.PacketConn, error) {
	only, err := filter(addr, port.HardwareAddr)
	if err != nil {
		return nil, err
	}
	conn, err := packet.Listen(port, packet.Datagram, unix.ETH_P_ARP, &packet.Config{Filter: only})
	if err != nil {
		return nil, fmt.Errorf("listen for ARP on %s: %w", port.Name, err)
	}
	return conn, nil
}

// read hands packets on. It ends with an error when the port goes down.
func read(done <-chan struct{}, conn net.PacketConn, received chan<- message) error {
	buf := make([]byte, 64)
	for {
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			return err
		}
		m, ok := parse(buf[:n])
		if !ok {
			continue
		}
		select {
		case received <- m:
		case <-done:
			return net.ErrClosed
		}
	}
}

// ownPort says whether mac is that of a port of this machine.
func ownPort(mac net.HardwareAddr) bool {
	ports, err := net.Interfaces()
	if err != nil {
		return false
	}
	for _, p := range ports {
		if p.HardwareAddr.String() == mac.String() {
			return true
		}
	}
	return false
}

// below is a random duration below d.
func below(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return rand.N(d)
}
