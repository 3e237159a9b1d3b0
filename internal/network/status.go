package network

import "net/netip"

// Socket is the network service's Unix socket: GET /status → Status.
const Socket = "/run/cloudlink/network.sock"

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
}

// An Address is one address of a port.
type Address struct {
	Prefix       netip.Prefix `json:"prefix"`
	Source       string       `json:"source"`                  // "dhcp" or "kernel" (IPv6 link-local, SLAAC)
	ValidSeconds int64        `json:"valid_seconds,omitempty"` // what is left of the lease
}
