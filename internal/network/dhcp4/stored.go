package dhcp4

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A Stored is a Lease as it is kept on the data partition: with times that count from when it was
// stored. The wall clock has no part in it: it leaps when the time is learned.
type Stored struct {
	Boot           string `json:"boot"`  // when the machine had this boot ID,
	Clock          int64  `json:"clock"` // so many seconds after its boot
	Endless        bool   `json:"endless,omitempty"`
	RenewSeconds   int64  `json:"renew_seconds,omitempty"` // what was left then; negative is past
	RebindSeconds  int64  `json:"rebind_seconds,omitempty"`
	ExpiresSeconds int64  `json:"expires_seconds,omitempty"`
	GatewayMAC     string `json:"gateway_mac,omitempty"`
	Lease
}

// A Boot is a moment since the machine was switched on.
type Boot struct {
	ID    string
	Clock time.Duration // since then
}

// Now is the present moment.
func Now() (Boot, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return Boot{}, fmt.Errorf("read boot ID: %w", err)
	}
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return Boot{}, fmt.Errorf("read time since boot: %w", err)
	}
	return Boot{string(bytes.TrimSpace(id)), time.Duration(ts.Nano())}, nil
}

// Store makes l storable at the moment boot, which time.Now calls now.
func (l *Lease) Store(now time.Time, boot Boot) Stored {
	left := func(t time.Time) int64 { return int64(t.Sub(now) / time.Second) }
	s := Stored{Boot: boot.ID, Clock: int64((boot.Clock + time.Second - 1) / time.Second), Lease: *l}
	if len(l.GatewayMAC) > 0 {
		s.GatewayMAC = l.GatewayMAC.String()
	}
	if l.Expires.IsZero() {
		s.Endless = true
	} else {
		s.RenewSeconds, s.RebindSeconds, s.ExpiresSeconds = left(l.Renew), left(l.Rebind), left(l.Expires)
	}
	return s
}

// Restore makes s a Lease again at the moment boot, which time.Now calls now. How long the machine was
// switched off nobody knows: the time since it was switched on is all that has surely passed, so the
// lease may have ended for the server. It is therefore only asked for, not used, unless the server or
// its gateway vouches for it.
func (s *Stored) Restore(now time.Time, boot Boot) (*Lease, error) {
	l := s.Lease
	if !usable(l.Addr()) || l.Prefix.Bits() < 8 || !host(l.Addr(), l.Prefix) {
		return nil, fmt.Errorf("restore lease: %v is no address for a port", l.Prefix)
	}
	for _, a := range []netip.Addr{l.Gateway, l.Server} {
		if a.IsValid() && !usable(a) {
			return nil, fmt.Errorf("restore lease of %v: no machine has address %v", l.Prefix, a)
		}
	}
	if len(l.DNS) > maxDNS || len(l.NTP) > maxNTP || len(l.Search) > maxSearch || len(l.Routes) > maxRoutes || l.MTU < 0 {
		return nil, fmt.Errorf("restore lease of %v: it says more than a server can", l.Prefix)
	}
	for _, name := range append([]string{l.Domain, l.Hostname}, l.Search...) {
		if _, ok := domain([]byte(name)); name != "" && !ok {
			return nil, fmt.Errorf("restore lease of %v: %.40q is no name", l.Prefix, name)
		}
	}
	l.GatewayMAC = nil
	if s.GatewayMAC != "" {
		mac, err := net.ParseMAC(s.GatewayMAC)
		if err != nil || len(mac) != 6 {
			return nil, fmt.Errorf("restore lease of %v: %q is no Ethernet address", l.Prefix, s.GatewayMAC)
		}
		l.GatewayMAC = mac
	}
	if s.Endless {
		return &l, nil
	}
	passed := boot.Clock
	if s.Boot == boot.ID {
		passed -= time.Duration(s.Clock-1) * time.Second
	}
	at := func(seconds int64) time.Time {
		seconds = min(max(seconds, -infinite), infinite)
		return now.Add(time.Duration(seconds)*time.Second - max(passed, 0))
	}
	l.Renew, l.Rebind, l.Expires = at(s.RenewSeconds), at(s.RebindSeconds), at(s.ExpiresSeconds)
	if l.Renew.After(l.Rebind) || l.Rebind.After(l.Expires) {
		return nil, fmt.Errorf("restore lease of %v: its times are not in order", l.Prefix)
	}
	return &l, nil
}
