package network

import (
	"net/netip"

	"cloudlink.local/gateway/internal/condition"
	"cloudlink.local/gateway/internal/network/ntp"
	"cloudlink.local/gateway/internal/settings"
)

// Socket is the network service's Unix socket, on which it answers in JSON:
//
//	GET  /status            → Status
//	GET  /settings          → settings.Settings
//	PUT  /settings Proposal → Status; 422 Refusal where a field is wrong, and nothing has changed
//	POST /confirm Request   → Status; 409 Refusal where the request did not come over the new configuration
//	POST /return Request    → Status: the change on probation is taken back now
//	GET  /diary?after=N     → []diary.Entry, those with a higher ID than N
//	GET  /ports             → []portmap.Row
//	POST /selftest          → []portmap.Result, which takes up to half a minute
const Socket = "/run/cloudlink/network/sock"

// ResolvConf is what programs that look names up read; the network service writes it.
const ResolvConf = "/run/cloudlink/network/resolv.conf"

// Status is the Ethernet ports and the clock as the network service sees them.
type Status struct {
	Ports  []Port  `json:"ports"` // in the kernel's order: the first is wan, the second lan; others are not used
	Clock  Clock   `json:"clock"`
	Names  Names   `json:"names"`
	Change *Change `json:"change,omitempty"` // nil: nothing is on probation

	// Unsaved says that settings are in effect that could not be saved: they end with this run.
	Unsaved bool `json:"unsaved,omitempty"`
}

// A Change of settings is on probation: unless it is confirmed over the new configuration, it is taken
// back when the time is over.
type Change struct {
	SecondsLeft float64      `json:"seconds_left"`
	Addresses   []netip.Addr `json:"addresses"` // of the new configuration, so far: where to confirm
	By          string       `json:"by"`        // who made it
}

// A Clock is what is known about the system clock.
type Clock struct {
	Source        ntp.Source `json:"source"`
	Servers       []string   `json:"servers"`                  // that agreed when it was last set
	OffsetSeconds float64    `json:"offset_seconds,omitempty"` // by which it was wrong then
	SyncedSeconds float64    `json:"synced_seconds,omitempty"` // ago; 0 for never
	Reason        ntp.Reason `json:"reason,omitempty"`         // why the last attempt failed
	Detail        string     `json:"detail,omitempty"`         // in a technician's words
}

// A Proposal is new settings; a part that is nil stays as it is.
type Proposal struct {
	Request
	Network *settings.Network `json:"network,omitempty"`
	Clock   *settings.Clock   `json:"clock,omitempty"`
	Names   *settings.Names   `json:"names,omitempty"`
	Update  *settings.Update  `json:"update,omitempty"`
}

// A Request says who asks for something.
type Request struct {
	By        string     `json:"by"`         // a name for the diary
	From      netip.Addr `json:"from"`       // the browser's address
	ArrivedOn netip.Addr `json:"arrived_on"` // ours
}

// A Refusal is an answer that nothing has changed, and why.
type Refusal struct {
	Reason string                `json:"reason"` // a technician's words
	Fields []settings.FieldError `json:"fields,omitempty"`
}

func (r *Refusal) Error() string { return r.Reason }

// A Port is one Ethernet port.
type Port struct {
	Name      string       `json:"name"`
	Role      Role         `json:"role,omitempty"` // "" where the port is not used
	VLAN      int          `json:"vlan,omitempty"`
	MTU       int          `json:"mtu"`
	MAC       string       `json:"mac"`
	Link      bool         `json:"link"`                 // cable in and the other end up
	SpeedMbps int          `json:"speed_mbps,omitempty"` // 0 where the driver does not say
	Addresses []Address    `json:"addresses"`
	Gateway   netip.Addr   `json:"gateway,omitzero"`
	DNS       []netip.Addr `json:"dns,omitempty"`

	// SearchingSeconds is how long there has been no address although there is a link: so long no
	// DHCP server has answered.
	SearchingSeconds int64 `json:"searching_seconds,omitempty"`
}

// An Address is one address of a port.
type Address struct {
	Prefix       netip.Prefix `json:"prefix"`
	Source       Source       `json:"source"`
	Former       bool         `json:"former,omitempty"`        // of the configuration before the change on probation
	ValidSeconds int64        `json:"valid_seconds,omitempty"` // what is left of it, 0 for no end
}

// A Role says which settings are a port's.
type Role string

// The roles (D2). A device's only port is Both, and has the settings of wan.
const (
	WAN  Role = "wan"
	LAN  Role = "lan"
	Both Role = "both"
)

// Source says where an address comes from.
type Source string

// The sources of addresses.
const (
	DHCP      Source = "dhcp"
	DHCP6     Source = "dhcpv6"
	Static    Source = "static"     // from the settings
	LinkLocal Source = "link-local" // IPv4's, while no DHCP server answers (RFC 3927)
	Kernel    Source = "kernel"     // IPv6: the link's own, and what a router announced
	Manual    Source = "manual"     // put there by hand, in a root shell
)

// patience is how long, in seconds, a DHCP server may take before the owner is told: some first
// look for seconds whether an address is free.
const patience = 10

// Conditions are what the owner is to be told about the network, most pressing first.
func (s Status) Conditions() []condition.Condition {
	if len(s.Ports) == 0 {
		return []condition.Condition{condition.New(condition.NoNetworkPort)}
	}
	var list []condition.Condition
	switch p := s.Ports[0]; {
	case !p.Link:
		list = append(list, condition.New(condition.NoLink, "port", p.Name))
	case p.SearchingSeconds >= patience:
		list = append(list, condition.New(condition.NoAddress, "port", p.Name))
	}
	return append(list, s.Names.conditions(s.Ports)...)
}
