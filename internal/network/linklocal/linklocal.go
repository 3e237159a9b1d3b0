// Package linklocal gives a port an address without a server (RFC 3927), so that two devices on one
// cable find each other. It is a fallback: it begins when there has been no lease for a while, and
// its address goes when a lease has been there for a while. Putting it on the port is the caller's.
package linklocal

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"cloudlink.local/gateway/internal/network/arp"
)

const (
	patience     = 4 * time.Second  // for DHCP servers, before we begin; looking takes 4 to 7 s more
	linger       = 30 * time.Second // with a lease beside it, for whoever is connected to the address
	maxConflicts = 10               // at once; then one try in each
	rateLimit    = time.Minute      // (RFC 3927 §2.2.1)
)

// A Client keeps a link-local address for a port with a cable in it.
type Client struct {
	Port       *net.Interface
	Remembered netip.Addr // the last address here, tried first, if valid
	Log        *slog.Logger

	// InUse says that Remembered is on the port. It stays there until it is not needed any more, or is
	// found to be another device's.
	InUse bool

	// Changed is called with each new address, to be remembered, and with the zero Addr when there is none
	// any more.
	Changed func(netip.Addr)

	// Conflict is called when another device is found to have the address, and says whether we keep it.
	Conflict func(addr netip.Addr, mac net.HardwareAddr, kept bool)

	needed chan bool
	watch  func(context.Context, *arp.Watch) error
}

// New makes a client for port.
func New(port *net.Interface, log *slog.Logger) *Client {
	return &Client{
		Port: port, Log: log, needed: make(chan bool, 1),
		Changed:  func(netip.Addr) {},
		Conflict: func(netip.Addr, net.HardwareAddr, bool) {},
		watch:    func(ctx context.Context, w *arp.Watch) error { return w.Run(ctx) },
	}
}

// Need says whether the port lacks a better address; at first it does. Any goroutine may call it, but
// only one at a time.
func (c *Client) Need(yes bool) {
	select {
	case <-c.needed: // what Run has not read yet is out of date
	default:
	}
	c.needed <- yes
}

// Run keeps an address while it is needed, until ctx ends; the address stays ours then. An error means
// that the port is gone or down: start again when it is back.
func (c *Client) Run(ctx context.Context) error {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	var w *watch // of addr, nil for none
	defer func() { w.end() }()
	needed, used := true, false
	addr, tried, conflicts := c.Remembered, uint64(0), 0
	if !Is(addr) {
		addr, tried = candidate(c.Port.HardwareAddr, 0), 1
	} else if c.InUse {
		used = true
		timer.Stop()
		w = c.begin(ctx, addr, arp.Held) // the link may be another
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case yes := <-c.needed:
			if yes == needed {
				continue
			}
			needed = yes
			switch {
			case !needed && used:
				timer.Reset(linger)
			case !needed: // a lease in time
				w = w.end()
				timer.Stop()
			case used: // the lease did not last: the address stays
				timer.Stop()
			default:
				timer.Reset(patience)
			}
		case <-timer.C:
			if needed {
				w = c.begin(ctx, addr, arp.Standard)
				continue
			}
			w, used = w.end(), false
			c.Changed(netip.Addr{})
		case err := <-w.ended():
			if err != nil {
				return err
			}
			w = w.end()
		case f := <-w.events():
			switch f.event {
			case arp.Free:
				conflicts = 0
				if used { // already
					continue
				}
				used = true
				c.Log.Info("link-local address "+addr.String(), "port", c.Port.Name)
				c.Changed(addr)
			case arp.Defended:
				c.Conflict(addr, f.mac, true)
			case arp.Taken, arp.Lost:
				c.Log.Warn("link-local address "+addr.String()+" is another device's", "port", c.Port.Name, "mac", f.mac)
				c.Conflict(addr, f.mac, false)
				if used {
					used = false
					c.Changed(netip.Addr{})
				}
				w = w.end()
				addr = candidate(c.Port.HardwareAddr, tried)
				tried++
				conflicts++
				switch {
				case !needed:
					timer.Stop()
				case conflicts < maxConflicts:
					timer.Reset(0)
				default:
					timer.Reset(rateLimit)
				}
			}
		}
	}
}

// Is says whether addr is one that a device may choose for itself (RFC 3927 §2.1).
func Is(addr netip.Addr) bool {
	if !addr.Is4() {
		return false
	}
	a := addr.As4()
	return a[0] == 169 && a[1] == 254 && a[2] != 0 && a[2] != 255
}

// candidate is the n-th address that the device with mac tries: the same ones each time, others than
// its neighbours'.
func candidate(mac net.HardwareAddr, n uint64) netip.Addr {
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(append([]byte("link-local "), mac...), n))
	i := binary.BigEndian.Uint32(sum[:]) % (254 << 8)
	return netip.AddrFrom4([4]byte{169, 254, byte(1 + i>>8), byte(i)})
}

// A watch is a running arp.Watch. A nil one never says anything.
type watch struct {
	stop  context.CancelFunc
	found chan found
	over  chan error
}

type found struct {
	event arp.Event
	mac   net.HardwareAddr
}

func (c *Client) begin(ctx context.Context, addr netip.Addr, timing arp.Timing) *watch {
	ctx, stop := context.WithCancel(ctx)
	w := &watch{stop: stop, found: make(chan found), over: make(chan error, 1)}
	go func() { // watch.end waits for it
		defer close(w.over)
		w.over <- c.watch(ctx, &arp.Watch{Port: c.Port, Addr: addr, Timing: timing, Report: func(e arp.Event, mac net.HardwareAddr) {
			select {
			case w.found <- found{e, mac}:
			case <-ctx.Done():
			}
		}})
	}()
	return w
}

func (w *watch) events() <-chan found {
	if w == nil {
		return nil
	}
	return w.found
}

func (w *watch) ended() <-chan error {
	if w == nil {
		return nil
	}
	return w.over
}

// end stops w and waits for its end.
func (w *watch) end() *watch {
	if w != nil {
		w.stop()
		for range w.over {
		}
	}
	return nil
}
