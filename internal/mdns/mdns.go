// Package mdns makes the gateway answer on each link for its names and services: Multicast DNS
// (RFC 6762) and DNS-based Service Discovery (RFC 6763).
//
// A link's engine is a pure state machine: packets and the time in, packets out. Whoever has
// something for it, its goroutine or those that read its sockets, has it alone meanwhile. What links know of
// each other is in kin: which addresses and records are the gateway's own.
package mdns

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"
)

// A Config is what a Responder needs from outside.
type Config struct {
	Log     *slog.Logger
	Changed func() // Status has changed; called from a goroutine of the responder, must not block

	world // the kernel's, but for tests
}

// A world is where the links are.
type world struct {
	open     func(Link, family) (conn, error)
	mtu      func(Link) int
	hardware func(link int, a netip.Addr) net.HardwareAddr
	random   func(below time.Duration) time.Duration
}

// A Wish is what is to be announced, and where. It replaces the one before.
type Wish struct {
	Host     string    // first label of the short name: "cloudlink"; may be shared by devices, so it may be lost in a conflict
	Unique   string    // first label of the name that is nobody else's: "cloudlink-4711af"; A, AAAA, reverse PTR and SRV's target are this one
	Services []Service // on every link
	Links    []Link
}

// A Service is an instance of DNS-SD.
type Service struct {
	Instance string // "CloudLink Gateway (11af)"
	Type     string // "_http._tcp"
	Port     uint16
	Text     []string // "path=/"
}

// A Link is a link that is up, and all its own addresses: IPv4, and IPv6 with link-local, usable ones
// only. A link that went down and up again has to be away from one wish to be probed anew.
type Link struct {
	Name      string
	Index     int
	Addresses []netip.Prefix
}

// A Status is how the names are doing, on each link of the wish.
type Status struct{ Links []LinkStatus }

// A LinkStatus is a Status's part for one link.
type LinkStatus struct {
	Name    string
	Names   []Name // host, unique name, each service instance; behind one that is lost what stands in for it
	Trouble string // why nothing can be sent here, a technician's words; "" for none
}

// A Name is one of ours on one link.
type Name struct {
	Name    string // "cloudlink.local"
	State   State
	Instead string // of one with a number added: the name that it stands in for; else ""
	Rival   *Rival // who has this name that is lost, or that one
}

// A State is how far a name is.
type State string

// probing → announced → probing (conflict) → lost (to Rival) → probing (free again)
const (
	Probing   State = "probing"
	Announced State = "announced"
	Lost      State = "lost"
)

// A Rival is another device that has one of our names.
type Rival struct {
	Addr  netip.Addr
	MAC   net.HardwareAddr // from the neighbour table, may be nil
	Since time.Time
	Host  string // what it calls itself, if seen
}

// A Responder answers for the gateway.
type Responder struct {
	config Config
	kin    *kin

	mu     sync.Mutex // guards status
	status Status
}

// New makes a Responder; Run makes it answer.
func New(c Config) *Responder {
	if c.open == nil {
		c.world = world{open: listen, mtu: mtu, hardware: hardware, random: below}
	}
	return &Responder{config: c, kin: newKin()}
}

// below is a random duration of at most d.
func below(d time.Duration) time.Duration { return rand.N(d + 1) }

// mtu is how many bytes a packet on the link may have.
func mtu(l Link) int {
	if port, err := net.InterfaceByIndex(l.Index); err == nil {
		return port.MTU
	}
	return 1280 // every IPv6 link takes that
}

// Status is safe to call from any goroutine.
func (r *Responder) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Status{Links: slices.Clone(r.status.Links)} // what is in it is replaced, never changed
}

// Run answers as the newest wish says until ctx ends; then it says goodbye.
func (r *Responder) Run(ctx context.Context, wishes <-chan Wish) error {
	type key struct {
		name  string
		index int
	}
	running := map[key]*service{}
	defer func() {
		for _, s := range running {
			s.stop()
		}
		for _, s := range running {
			<-s.done
		}
	}()
	for {
		var w Wish
		var ok bool
		select {
		case <-ctx.Done():
			return nil
		case w, ok = <-wishes:
		}
		if !ok {
			<-ctx.Done()
			return nil
		}
		r.kin.setLinks(time.Now(), w.Links)
		wanted := map[key]bool{}
		for _, l := range w.Links {
			wanted[key{l.Name, l.Index}] = true
		}
		for k, s := range running {
			if !wanted[k] {
				s.stop()
				<-s.done
				delete(running, k)
			}
		}
		r.order(w.Links)
		for _, l := range w.Links {
			k := key{l.Name, l.Index}
			if running[k] == nil {
				running[k] = r.serve(l)
			}
			running[k].wish(&w, l)
		}
	}
}

// order makes the status that of links, without what is not among them.
func (r *Responder) order(links []Link) {
	r.change(func(before []LinkStatus) (list []LinkStatus) {
		for _, l := range links {
			s := LinkStatus{Name: l.Name}
			for _, known := range before {
				if known.Name == l.Name {
					s = known
				}
			}
			list = append(list, s)
		}
		return list
	})
}

// publish makes s part of the status.
func (r *Responder) publish(s LinkStatus) {
	r.change(func(before []LinkStatus) []LinkStatus {
		list := slices.Clone(before)
		for i := range list {
			if list[i].Name == s.Name {
				list[i] = s
			}
		}
		return list
	})
}

// change changes the status and says so, if there is news: who hears of it may wish again.
func (r *Responder) change(f func([]LinkStatus) []LinkStatus) {
	r.mu.Lock()
	list := f(r.status.Links)
	news := !reflect.DeepEqual(r.status.Links, list)
	r.status.Links = list
	r.mu.Unlock()
	if news && r.config.Changed != nil {
		r.config.Changed()
	}
}
