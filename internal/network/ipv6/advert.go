package ipv6

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// An Info is what the link's routers say about it, besides what the kernel takes from their
// advertisements itself: addresses, routes, MTU.
type Info struct {
	Routers []netip.Addr // that want to be default routers
	Managed bool         // addresses are to be had by DHCPv6
	Other   bool         // DNS servers and the like are
	DNS     []netip.Addr // RFC 8106; link-local ones have the port as their zone
	Search  []string     // domains to look short names up in
}

func (i *Info) equal(o *Info) bool {
	return slices.Equal(i.Routers, o.Routers) && i.Managed == o.Managed && i.Other == o.Other &&
		slices.Equal(i.DNS, o.DNS) && slices.Equal(i.Search, o.Search)
}

// Bounds of what all routers together can make us keep. The kernel has its own: max_addresses, 16.
const (
	maxRouters  = 16
	MaxPrefixes = 64
	maxRDNSS    = 6
	maxDNSSL    = 8
)

// routerTime is how long a router's flags count after its last advertisement, at least: they have no
// lifetime of their own, and advertisements come half an hour apart at most (RFC 4861 §6.2.1).
const routerTime = 31 * time.Minute

// infinite is a lifetime without an end.
const infinite = 0xffffffff * time.Second

// An advert is a router's advertisement (RFC 4861 §4.2).
type advert struct {
	from           netip.Addr
	managed, other bool
	lifetime       time.Duration // as a default router
	prefixes       []offered[netip.Prefix]
	dns            []offered[netip.Addr]
	search         []offered[string]
	excess         int // what was left out because there is too much
}

// What a router offers, and for how long; 0 is no longer.
type offered[T comparable] struct {
	value    T
	lifetime time.Duration
}

// parseAdvert reads an advertisement that arrived on the port zone. What surely is none or damaged is
// an error (RFC 4861 §6.1.2); an option that makes no sense is passed over.
func parseAdvert(b []byte, from netip.Addr, hopLimit int, zone string) (*advert, error) {
	const (
		typeAdvert   = 134
		optionPrefix = 3
		optionRDNSS  = 25
		optionDNSSL  = 31
	)
	switch {
	case len(b) < 16 || b[0] != typeAdvert || b[1] != 0:
		return nil, errors.New("no router advertisement")
	case hopLimit != 255:
		return nil, fmt.Errorf("router advertisement with hop limit %d: it comes from another network", hopLimit)
	case !from.IsLinkLocalUnicast():
		return nil, fmt.Errorf("router advertisement from %v, which is not the link's", from)
	}
	a := &advert{
		from: from.WithZone(""), managed: b[5]&0x80 != 0, other: b[5]&0x40 != 0,
		lifetime: time.Duration(binary.BigEndian.Uint16(b[6:])) * time.Second,
	}
	seconds := func(b []byte) time.Duration { return time.Duration(binary.BigEndian.Uint32(b)) * time.Second }
	for b = b[16:]; len(b) > 0; {
		if len(b) < 2 || b[1] == 0 || len(b) < int(b[1])*8 {
			return nil, errors.New("router advertisement with an option that is cut off")
		}
		o := b[:int(b[1])*8]
		b = b[len(o):]
		switch o[0] {
		case optionPrefix:
			if len(o) != 32 || o[2] > 128 {
				continue
			}
			if p := netip.PrefixFrom(netip.AddrFrom16([16]byte(o[16:])), int(o[2])).Masked(); p.Addr().IsGlobalUnicast() {
				add(&a.prefixes, MaxPrefixes, p, seconds(o[4:]), &a.excess)
			}
		case optionRDNSS:
			for raw := o[min(8, len(o)):]; len(raw) >= 16; raw = raw[16:] {
				if addr := netip.AddrFrom16([16]byte(raw)); usable(addr) {
					add(&a.dns, maxRDNSS, zoned(addr, zone), seconds(o[4:]), &a.excess)
				}
			}
		case optionDNSSL:
			if len(o) < 16 {
				continue
			}
			names, err := parseNames(o[8:])
			if err != nil {
				continue
			}
			for _, name := range names {
				add(&a.search, maxDNSSL, name, seconds(o[4:]), &a.excess)
			}
		}
	}
	return a, nil
}

func add[T comparable](list *[]offered[T], limit int, value T, lifetime time.Duration, excess *int) {
	switch at := slices.IndexFunc(*list, func(o offered[T]) bool { return o.value == value }); {
	case at >= 0:
		(*list)[at].lifetime = lifetime
	case len(*list) == limit:
		*excess++
	default:
		*list = append(*list, offered[T]{value, lifetime})
	}
}

// routers is what the link's routers have advertised and what of it still counts. It has neither
// socket nor clock.
type routers struct {
	routers  []timed[router]
	prefixes []timed[netip.Prefix]
	dns      []timed[netip.Addr]
	search   []timed[string]
	excess   int // what was left out because there is too much, so far
}

type router struct {
	addr           netip.Addr
	managed, other bool
	until          time.Time // as a default router
}

// A timed value counts until then; the zero time is for ever.
type timed[T any] struct {
	value T
	until time.Time
}

// hear takes what a router says.
func (r *routers) hear(now time.Time, a *advert) {
	r.expire(now)
	r.excess += a.excess
	said := router{a.from, a.managed, a.other, now.Add(a.lifetime)}
	keep(&r.routers, maxRouters, said, max(a.lifetime, routerTime), now, &r.excess, func(o router) bool { return o.addr == a.from })
	merge(&r.prefixes, MaxPrefixes, a.prefixes, now, &r.excess)
	merge(&r.dns, maxRDNSS, a.dns, now, &r.excess)
	merge(&r.search, maxDNSSL, a.search, now, &r.excess)
}

func merge[T comparable](list *[]timed[T], limit int, offers []offered[T], now time.Time, excess *int) {
	for _, o := range offers {
		keep(list, limit, o.value, o.lifetime, now, excess, func(v T) bool { return v == o.value })
	}
}

// keep has value in list, in the place of the one that is the same.
func keep[T any](list *[]timed[T], limit int, value T, lifetime time.Duration, now time.Time, excess *int, same func(T) bool) {
	at := slices.IndexFunc(*list, func(t timed[T]) bool { return same(t.value) })
	t := timed[T]{value: value}
	if lifetime != infinite {
		t.until = now.Add(lifetime)
	}
	switch {
	case at >= 0 && lifetime == 0:
		*list = slices.Delete(*list, at, at+1)
	case at >= 0:
		(*list)[at] = t
	case lifetime == 0:
	case len(*list) == limit:
		*excess++
	default:
		*list = append(*list, t)
	}
}

// expire forgets what does not count any longer.
func (r *routers) expire(now time.Time) {
	r.routers = expired(r.routers, now)
	r.prefixes = expired(r.prefixes, now)
	r.dns = expired(r.dns, now)
	r.search = expired(r.search, now)
}

func expired[T any](list []timed[T], now time.Time) []timed[T] {
	return slices.DeleteFunc(list, func(t timed[T]) bool { return due(t.until, now) })
}

// wake is when something ends that info tells; the zero time is never.
func (r *routers) wake(now time.Time) (at time.Time) {
	for _, t := range r.routers {
		if t.value.until.After(now) {
			at = earlier(at, t.value.until)
		}
		at = earlier(at, t.until)
	}
	for _, t := range r.dns {
		at = earlier(at, t.until)
	}
	for _, t := range r.search {
		at = earlier(at, t.until)
	}
	return at
}

// info is what counts now.
func (r *routers) info(now time.Time) Info {
	var i Info
	for _, t := range r.routers {
		i.Managed = i.Managed || t.value.managed
		i.Other = i.Other || t.value.other
		if t.value.until.After(now) {
			i.Routers = append(i.Routers, t.value.addr)
		}
	}
	for _, t := range r.dns {
		i.DNS = append(i.DNS, t.value)
	}
	for _, t := range r.search {
		i.Search = append(i.Search, t.value)
	}
	return i
}

// covers says whether addr is of one of the link's networks.
func (r *routers) covers(addr netip.Addr) bool {
	return slices.ContainsFunc(r.prefixes, func(t timed[netip.Prefix]) bool { return t.value.Contains(addr) })
}

// networks is what is advertised.
func (r *routers) networks() (list []netip.Prefix) {
	for _, t := range r.prefixes {
		list = append(list, t.value)
	}
	return list
}

// wanted is what the routers would have us ask of DHCPv6.
func (i *Info) wanted() want {
	switch {
	case i.Managed:
		return addresses
	case i.Other:
		return information
	}
	return nothing
}

// due says whether t, where there is such a time, has come.
func due(t, now time.Time) bool { return !t.IsZero() && !t.After(now) }

// earlier is the earlier of two times of which the zero time is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
