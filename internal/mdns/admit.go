package mdns

import (
	"net/netip"
	"sync"
	"time"
)

// How much is read. A host that browses for all it knows sends some twenty packets in a second; a
// proxy for another network, more. What is above that is dropped before a byte of it is looked at.
const (
	hostRate  = 50 // packets a second
	hostBurst = 150
	allRate   = 1500
	allBurst  = 1500
	mostHosts = 256
	sizeUnit  = 512 // bytes that count as one packet more: what costs us is reading them
	sweepEach = time.Second
)

// An admission lets each host of a link have its share, so that one that floods is heard no more than
// others, and all together no more than we can bear.
type admission struct {
	mu        sync.Mutex // guards what follows
	hosts     map[netip.Addr]*bucket
	strangers bucket // of those for which there is no room
	all       bucket
	swept     time.Time
}

func newAdmission() *admission { return &admission{hosts: map[netip.Addr]*bucket{}} }

// admit says whether a packet is to be read.
func (a *admission) admit(now time.Time, from netip.Addr, size int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	cost := float64(1 + size/sizeUnit)
	return a.host(now, from).take(now, cost, hostRate, hostBurst) && a.all.take(now, cost, allRate, allBurst)
}

func (a *admission) host(now time.Time, from netip.Addr) *bucket {
	if b := a.hosts[from]; b != nil {
		return b
	}
	if len(a.hosts) >= mostHosts && now.Sub(a.swept) >= sweepEach {
		a.swept = now
		for addr, b := range a.hosts {
			if now.Sub(b.at) >= time.Second*hostBurst/hostRate { // it is full again
				delete(a.hosts, addr)
			}
		}
	}
	if len(a.hosts) >= mostHosts {
		return &a.strangers
	}
	b := new(bucket)
	a.hosts[from] = b
	return b
}

// A bucket loses what is taken and fills up again.
type bucket struct {
	used float64
	at   time.Time // when used was computed
}

func (b *bucket) take(now time.Time, cost, rate, burst float64) bool {
	b.used = max(0, b.used-now.Sub(b.at).Seconds()*rate)
	b.at = now
	if b.used+cost > burst {
		return false
	}
	b.used += cost
	return true
}
