package mdns

import (
	"net/netip"
	"sync"
	"time"

	"cloudlink.local/gateway/internal/mdns/wire"
)

// remembered is how long what was ours still is no rival's: a reflector may be slow, and an address
// can be taken away while its own probe is on the way back.
const remembered = 2 * time.Minute

// kin is what the links know of each other: the gateway's own addresses and records. Both ports may be
// in one switch, or a reflector may bring to one what another sent; neither is a conflict.
type kin struct {
	mu      sync.Mutex                 // guards what follows
	addrs   map[netip.Addr]time.Time   // until when; zero: it is in use
	records map[string]map[string]bool // by link, by identity
	former  map[string]time.Time       // by identity: until when
}

func newKin() *kin {
	return &kin{addrs: map[netip.Addr]time.Time{}, records: map[string]map[string]bool{}, former: map[string]time.Time{}}
}

// setLinks says which addresses are in use.
func (k *kin) setLinks(now time.Time, links []Link) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for a, until := range k.addrs {
		switch {
		case until.IsZero():
			k.addrs[a] = now.Add(remembered)
		case !now.Before(until):
			delete(k.addrs, a)
		}
	}
	for _, l := range links {
		for _, p := range l.Addresses {
			k.addrs[p.Addr()] = time.Time{}
		}
	}
}

// setRecords says which records a link has now, and whether those it had are still to be known as ours.
func (k *kin) setRecords(now time.Time, link string, sets []*set, keep bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, until := range k.former {
		if !now.Before(until) {
			delete(k.former, id)
		}
	}
	for id := range k.records[link] {
		if keep {
			k.former[id] = now.Add(remembered)
		}
	}
	current := map[string]bool{}
	for _, s := range sets {
		for _, d := range s.data {
			current[identity(s.key, s.typ, d)] = true
		}
	}
	k.records[link] = current
}

// ownAddr says whether a is one of the gateway's.
func (k *kin) ownAddr(now time.Time, a netip.Addr) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	until, ok := k.addrs[a]
	return ok && (until.IsZero() || now.Before(until))
}

// ownRecord says whether some link of the gateway has the record, or had it.
func (k *kin) ownRecord(now time.Time, key string, r *wire.Record) bool {
	id := identity(key, r.Type, r.Data)
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, records := range k.records {
		if records[id] {
			return true
		}
	}
	return now.Before(k.former[id])
}
