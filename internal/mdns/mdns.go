// Package mdns makes the gateway answer on each link for its names and services: Multicast DNS
// (RFC 6762) and DNS-based Service Discovery (RFC 6763).
//
// A link's engine is a pure state machine: packets and the time in, packets out. One goroutine per
// link owns it and its sockets' packets come to it through a bounded queue. What links know of each
// other is in kin: which addresses and records are the gateway's own.
package mdns

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// A Config is what a Responder needs from outside.
type Config struct {
	Log     *slog.Logger
	Changed func() // Status has changed; called from a goroutine of the responder, must not block
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
	Names   []Name // host, unique name, each service instance
	Trouble string // why nothing can be sent here, a technician's words; "" for none
}

// A Name is one of ours on one link.
type Name struct {
	Name  string // "cloudlink.local"
	State State
	Rival *Rival // with Lost, and with a name that had to be changed
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

	mu     sync.Mutex // guards status
	status Status
}

// New makes a Responder; Run makes it answer.
func New(c Config) *Responder { return &Responder{config: c} }

// Status is safe to call from any goroutine.
func (r *Responder) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status
}

// Run answers as the newest wish says until ctx ends; then it says goodbye.
func (r *Responder) Run(ctx context.Context, wishes <-chan Wish) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-wishes:
		}
	}
}
