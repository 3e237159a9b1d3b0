package ipv6

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"cloudlink.local/gateway/internal/network/dhcp4"
)

// A Stored is a Lease with an address as it is kept on the data partition: with times that count from
// when it was stored. The wall clock has no part in it: it leaps when the time is learned. What time of
// the machine's a lease is stored at is for dhcp4.Now to say.
type Stored struct {
	Boot             string `json:"boot"`              // when the machine had this boot ID,
	Clock            int64  `json:"clock"`             // so many seconds after its boot
	PreferredSeconds int64  `json:"preferred_seconds"` // what was left then; negative is past, never is endless
	RenewSeconds     int64  `json:"renew_seconds"`
	RebindSeconds    int64  `json:"rebind_seconds"`
	ExpiresSeconds   int64  `json:"expires_seconds"`
	Lease
}

// endless is a stored time that never comes.
const endless = int64(infinite / time.Second)

// Store makes l storable at the moment boot, which time.Now calls now.
func (l *Lease) Store(now time.Time, boot dhcp4.Boot) Stored {
	left := func(t time.Time) int64 {
		if t.IsZero() {
			return endless
		}
		return int64(t.Sub(now) / time.Second)
	}
	return Stored{
		Boot: boot.ID, Clock: int64((boot.Clock + time.Second - 1) / time.Second),
		PreferredSeconds: left(l.Preferred), RenewSeconds: left(l.Renew), RebindSeconds: left(l.Rebind), ExpiresSeconds: left(l.Expires),
		Lease: *l,
	}
}

// Restore makes s a Lease again at the moment boot, which time.Now calls now. How long the machine was
// switched off nobody knows: the time since it was switched on is all that has surely passed, so the
// lease may have ended for the server. It is therefore only asked for.
func (s *Stored) Restore(now time.Time, boot dhcp4.Boot) (*Lease, error) {
	l := s.Lease
	if !usable(l.Addr) || !l.Addr.IsGlobalUnicast() || l.Addr.Zone() != "" {
		return nil, fmt.Errorf("restore DHCPv6 lease: %v is no address for a port", l.Addr)
	}
	if len(l.Server) < 3 || len(l.Server) > maxDUID {
		return nil, fmt.Errorf("restore DHCPv6 lease of %v: its server is not known", l.Addr)
	}
	if len(l.DNS) > maxDNS || len(l.NTP) > maxNTP || len(l.NTPNames) > maxNTP || len(l.Search) > maxSearch {
		return nil, fmt.Errorf("restore DHCPv6 lease of %v: it says more than a server can", l.Addr)
	}
	for _, a := range slices.Concat(l.DNS, l.NTP) {
		if !usable(a) {
			return nil, fmt.Errorf("restore DHCPv6 lease of %v: no machine has address %v", l.Addr, a)
		}
	}
	for _, name := range slices.Concat(l.Search, l.NTPNames) {
		if !isName(name) {
			return nil, fmt.Errorf("restore DHCPv6 lease of %v: %.40q is no name", l.Addr, name)
		}
	}
	if l.ServerAddr.IsValid() && !usable(l.ServerAddr) {
		l.ServerAddr = netip.Addr{}
	}
	passed := boot.Clock
	if s.Boot == boot.ID {
		passed -= time.Duration(s.Clock-1) * time.Second
	}
	at := func(seconds int64) time.Time {
		if seconds == endless {
			return time.Time{}
		}
		seconds = min(max(seconds, -endless), endless)
		return now.Add(time.Duration(seconds)*time.Second - max(passed, 0))
	}
	l.Preferred, l.Renew, l.Rebind, l.Expires = at(s.PreferredSeconds), at(s.RenewSeconds), at(s.RebindSeconds), at(s.ExpiresSeconds)
	for _, pair := range [][2]time.Time{{l.Renew, l.Rebind}, {l.Rebind, l.Expires}, {l.Preferred, l.Expires}} {
		if !pair[1].IsZero() && (pair[0].IsZero() || pair[0].After(pair[1])) {
			return nil, fmt.Errorf("restore DHCPv6 lease of %v: its times are not in order", l.Addr)
		}
	}
	return &l, nil
}
