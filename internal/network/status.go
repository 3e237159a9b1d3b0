package network

import (
	"net/netip"

	"cloudlink.local/gateway/internal/condition"
)

// Socket is the network service's Unix socket: GET /status → Status.
const Socket = "/run/cloudlink/network/sock"

// ResolvConf is what programs that look names up read; the network service writes it.
const ResolvConf = "/run/cloudlink/network/resolv.conf"

// Status is the Ethernet ports as the network service sees them.
type Status struct {
	Ports []Port `json:"ports"` // in the kernel's order; the first is the one configured
}

// A Port is one Ethernet port.
type Port struct {
	Name      string       `json:"name"`
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
	ValidSeconds int64        `json:"valid_seconds,omitempty"` // what is left of it, 0 for no end
}

// Source says where an address comes from.
type Source string

// The sources of addresses.
const (
	DHCP   Source = "dhcp"
	Kernel Source = "kernel" // IPv6: the link's own, and what a router announced
	Manual Source = "manual" // put there by hand, in a root shell
)

// patience is how long, in seconds, a DHCP server may take before the owner is told: some first
// look for seconds whether an address is free.
const patience = 10

// Conditions are what the owner is to be told about the network, most pressing first.
func (s Status) Conditions() []condition.Condition {
	if len(s.Ports) == 0 {
		return []condition.Condition{condition.New(condition.NoNetworkPort)}
	}
	switch p := s.Ports[0]; {
	case !p.Link:
		return []condition.Condition{condition.New(condition.NoLink, "port", p.Name)}
	case p.SearchingSeconds >= patience:
		return []condition.Condition{condition.New(condition.NoAddress, "port", p.Name)}
	}
	return nil
}
