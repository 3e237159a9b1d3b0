package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/bench/internal/harness"
)

const (
	rate   = 10_000 // packets a second to each host: 100 calls, both ways
	span   = 10 * time.Second
	spans  = 3                // of each kind, in turn
	settle = 12 * time.Second // after the lease: by then the address has been looked after and announced

	// tick is how finely the kernel tells CPU time in /proc. Idle clients use next to none: without
	// this much added to both sides, the ratio would be one of two accidents.
	tick = 10 * time.Millisecond
)

// The ports of calls (M16-M18).
const firstMedia, lastMedia = 65336, 65534

// An idler is a host whose client has a lease and nothing to do.
type idler struct {
	*host
	name          string
	to            []netip.Addr // its own address, and one of which the client knows nothing
	with, without []time.Duration
	packets       uint64
}

// measureIdle measures the CPU time of our service and of dhcpcd, at the same time, while RTP passes
// their ports and while nothing does, in turn. There are three spans of 10 s of each kind: what the
// service does every 30 s falls into one of each, and the median is one without.
func measureIdle(l *lan, result map[string]any) error {
	var idlers []*idler
	for i, c := range clients[:2] {
		if err := c.forget(); err != nil {
			return err
		}
		h, err := l.newHost(nil)
		if err != nil {
			return err
		}
		addr, _, err := h.lease(c)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		other := netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)})
		if err := h.add(port, other.String()+"/32"); err != nil {
			return err
		}
		way := &netlink.Route{Dst: &net.IPNet{IP: other.AsSlice(), Mask: net.CIDRMask(32, 32)}, Gw: addr.AsSlice()}
		if err := l.RouteAdd(way); err != nil {
			return fmt.Errorf("lead to %v: %w", other, err)
		}
		idlers = append(idlers, &idler{host: h, name: c.name, to: []netip.Addr{addr, other}})
	}
	time.Sleep(settle)
	for i := range spans {
		for _, traffic := range []bool{false, true} {
			if err := measureSpan(l, idlers, traffic); err != nil {
				return err
			}
		}
		fmt.Printf("CPU time in 10 s, quiet and with RTP %d/%d", i+1, spans)
		for _, d := range idlers {
			fmt.Printf("  %s %.2f ms, %.2f ms", d.name, ms(d.without[i]), ms(d.with[i]))
		}
		fmt.Println()
	}
	for i, suffix := range []string{"", "_dhcpcd"} {
		with, without := harness.Median(idlers[i].with), harness.Median(idlers[i].without)
		result["idle_cpu_ratio"+suffix] = harness.Round(float64(with+tick) / float64(without+tick))
		result["idle_cpu_ms_with"+suffix] = harness.Round(ms(with))
		result["idle_cpu_ms_without"+suffix] = harness.Round(ms(without))
		result["idle_packets_per_second"+suffix] = int(float64(idlers[i].packets) / (spans * span).Seconds())
	}
	return nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// measureSpan measures one span, with or without traffic.
func measureSpan(l *lan, idlers []*idler, traffic bool) error {
	before := make([]time.Duration, len(idlers))
	received := make([]uint64, len(idlers))
	for i, d := range idlers {
		var err error
		if before[i], err = d.cpuTime(); err != nil {
			return err
		}
		if received[i], err = d.received(); err != nil {
			return err
		}
	}
	if traffic {
		var to []netip.Addr
		for j := range idlers[0].to {
			for _, d := range idlers {
				to = append(to, d.to[j])
			}
		}
		if err := sendRTP(l, to, rate*len(idlers)); err != nil {
			return fmt.Errorf("send RTP: %w", err)
		}
	} else {
		time.Sleep(span)
	}
	for i, d := range idlers {
		after, err := d.cpuTime()
		if err != nil {
			return err
		}
		if !traffic {
			d.without = append(d.without, after-before[i])
			continue
		}
		d.with = append(d.with, after-before[i])
		all, err := d.received()
		if err != nil {
			return err
		}
		n := all - received[i]
		if want := uint64(rate * span.Seconds()); n < want*99/100 {
			return fmt.Errorf("only %d of %d packets arrived at %s: is this machine busy?", n, want, d.name)
		}
		d.packets += n
	}
	return nil
}

// sendRTP sends, in a span and evenly, perSecond packets of 200 bytes with their IP and UDP headers,
// to each address in turn.
func sendRTP(l *lan, to []netip.Addr, perSecond int) error {
	var conn *net.UDPConn
	err := l.do(func() (err error) {
		conn, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(server, 0)))
		return err
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	packet := make([]byte, 200-20-8)
	packet[0] = 2 << 6 // RTP's version
	again := time.NewTicker(2 * time.Millisecond)
	defer again.Stop()
	begin, all := time.Now(), perSecond*int(span/time.Second)
	for sent := 0; sent < all; <-again.C {
		due := int(min(time.Since(begin), span).Seconds() * float64(perSecond))
		for ; sent < due; sent++ {
			n := sent / len(to)
			binary.BigEndian.PutUint16(packet[2:], uint16(n)) // its number
			call := uint16(firstMedia + n%(lastMedia-firstMedia+1))
			if _, err := conn.WriteToUDPAddrPort(packet, netip.AddrPortFrom(to[sent%len(to)], call)); err != nil {
				return err
			}
		}
	}
	return nil
}

// received is how many packets have come in at the port.
func (h *host) received() (n uint64, err error) {
	err = h.set(port, func(l netlink.Link) error { n = l.Attrs().Statistics.RxPackets; return nil })
	return n, err
}

// cpuTime is what all processes in h have used so far: the sum
// of utime and stime of their /proc/PID/stat, to the nanosecond.
func (h *host) cpuTime() (sum time.Duration, err error) {
	pids, err := h.processes()
	if err != nil {
		return 0, err
	}
	if len(pids) == 0 {
		return 0, errors.New("the client has ended")
	}
	for _, pid := range pids {
		var t unix.Timespec
		if err := unix.ClockGettime(int32(^pid<<3|2), &t); err != nil { // clock_getcpuclockid(3)
			return 0, fmt.Errorf("CPU time of process %d: %w", pid, err)
		}
		sum += time.Duration(t.Nano())
	}
	return sum, nil
}
