// Package portmap is the table of ports (M10): whom the gateway talks to, who may talk to it, and
// what stays inside. The firewall, the README, the API and the page are made from this one table;
// SelfTest checks its rows.
package portmap

import (
	"slices"
	"strconv"
)

//go:generate go run ./generate ../../README.md

// A Row is one line of the table.
type Row struct {
	ID          string     `json:"id"`          // short, for ever
	Requirement string     `json:"requirement"` // where it comes from
	Direction   Direction  `json:"direction"`
	Protocol    Protocol   `json:"protocol"`
	Ports       Ports      `json:"ports"`            // zero where the protocol has none
	Region      Region     `json:"region,omitempty"` // of the media services
	Peer        Text       `json:"peer"`             // the other end
	Purpose     Text       `json:"purpose"`
	Needs       Capability `json:"needs"`            // what does not work without the row
	Opened      Opening    `json:"opened,omitempty"` // rows that come in: by whom
}

// A Text is in every language that the product speaks.
type Text struct {
	DE string `json:"de"`
	EN string `json:"en"`
}

// Ports are those from From to To.
type Ports struct {
	From uint16 `json:"from"`
	To   uint16 `json:"to"`
}

// String is empty for no ports.
func (p Ports) String() string {
	switch {
	case p == Ports{}:
		return ""
	case p.From == p.To:
		return strconv.Itoa(int(p.From))
	default:
		return strconv.Itoa(int(p.From)) + "-" + strconv.Itoa(int(p.To))
	}
}

// Contains says whether port is one of p.
func (p Ports) Contains(port uint16) bool { return p.From <= port && port <= p.To && p.To != 0 }

// A Direction is seen from the gateway.
type Direction string

// The directions. Answers always come back; a row is named after who speaks first.
const (
	Out    Direction = "out"
	In     Direction = "in"
	Inside Direction = "internal" // between the gateway's own programs
)

// A Protocol is what carries the row.
type Protocol string

// The protocols.
const (
	TCP  Protocol = "tcp"
	UDP  Protocol = "udp"
	ICMP Protocol = "icmp" // and ICMPv6
)

// A Region is where media services are.
type Region string

// The regions.
const (
	US Region = "us"
	EU Region = "eu"
	AP Region = "ap"
)

// An Opening says how a port that is spoken to from outside gets open.
type Opening string

// The openings.
const (
	HolePunching Opening = "hole-punching" // the gateway sends first, answers come back
	Static       Opening = "static"        // a rule that stands: the gateway's, and the operator's on the way
)

// A Capability is what the gateway does for its owner.
type Capability string

// The capabilities.
const (
	Clock      Capability = "clock"
	Cloud      Capability = "cloud"
	Calls      Capability = "calls"
	Traversal  Capability = "nat-traversal"
	Page       Capability = "page"
	Discovery  Capability = "discovery"
	Addressing Capability = "addressing"
	Diagnosis  Capability = "diagnosis"
)

// RTP are the ports of calls' voice (M16).
var RTP = Ports{65336, 65534}

// Table is the table, in the order in which it is shown.
var Table = []Row{
	{
		ID: "ntp", Requirement: "M11", Direction: Out, Protocol: UDP, Ports: Ports{123, 123}, Needs: Clock,
		Peer:    Text{"Zeitserver", "time servers"},
		Purpose: Text{"Uhrzeit (NTP)", "Time of day (NTP)"},
	},
	{
		ID: "accounts", Requirement: "M12", Direction: Out, Protocol: TCP, Ports: Ports{443, 443}, Needs: Cloud,
		Peer:    Text{"Konten-Dienst", "accounts service"},
		Purpose: Text{"Verwaltung aus der Cloud (REST über HTTPS)", "Administration from the cloud (REST over HTTPS)"},
	},
	sip(US, Text{"Vereinigte Staaten", "United States"}),
	sip(EU, Text{"Europa", "Europe"}),
	sip(AP, Text{"Asien und Pazifik", "Asia Pacific"}),
	{
		ID: "stun", Requirement: "M15", Direction: Out, Protocol: UDP, Ports: Ports{3478, 3479}, Needs: Traversal,
		Peer:    Text{"STUN-Dienst, Haupt- und Ausweichport", "STUN service, primary and alternate port"},
		Purpose: Text{"Eigene öffentliche Adresse erfahren (STUN)", "Learn our own public address (STUN)"},
	},
	{
		ID: "rtp", Requirement: "M16-M18", Direction: In, Protocol: UDP, Ports: RTP, Needs: Calls, Opened: HolePunching,
		Peer:    Text{"Mediendienste", "media services"},
		Purpose: Text{"Sprache der Gespräche (RTP): das Gateway sendet zuerst, nichts ist zu öffnen", "Voice of calls (RTP): the gateway sends first, nothing has to be opened"},
	},
	{
		ID: "rtp-static", Requirement: "M16-M18", Direction: In, Protocol: UDP, Ports: RTP, Needs: Calls, Opened: Static,
		Peer:    Text{"Mediendienste", "media services"},
		Purpose: Text{"Sprache der Gespräche (RTP), nur wo Hole Punching abgeschaltet ist: der Betreiber öffnet den Bereich", "Voice of calls (RTP), only where hole punching is off: the operator opens the range"},
	},
	internal("internal-5070", Ports{5070, 5071}),
	internal("internal-5080", Ports{5080, 5081}),
	internal("internal-19060", Ports{19060, 19061}),
	{
		ID: "portal", Requirement: "M20", Direction: In, Protocol: TCP, Ports: Ports{80, 80}, Needs: Page, Opened: Static,
		Peer:    lan,
		Purpose: Text{"Seite des Gateways (HTTP)", "The gateway's page (HTTP)"},
	},
	{
		ID: "mdns", Requirement: "M25", Direction: In, Protocol: UDP, Ports: Ports{5353, 5353}, Needs: Discovery, Opened: Static,
		Peer:    lan,
		Purpose: Text{"Gefunden werden unter cloudlink.local (mDNS)", "Being found as cloudlink.local (mDNS)"},
	},
	{
		ID: "dhcp", Requirement: "D2", Direction: In, Protocol: UDP, Ports: Ports{68, 68}, Needs: Addressing, Opened: Static,
		Peer:    Text{"DHCP-Server im selben LAN", "DHCP server in the same LAN"},
		Purpose: Text{"Eigene IPv4-Adresse erhalten (DHCP)", "Get our own IPv4 address (DHCP)"},
	},
	{
		ID: "dhcpv6", Requirement: "D2", Direction: In, Protocol: UDP, Ports: Ports{546, 546}, Needs: Addressing, Opened: Static,
		Peer:    Text{"DHCPv6-Server im selben LAN", "DHCPv6 server in the same LAN"},
		Purpose: Text{"Eigene IPv6-Adresse erhalten (DHCPv6)", "Get our own IPv6 address (DHCPv6)"},
	},
	{
		ID: "ping", Requirement: "M22", Direction: In, Protocol: ICMP, Needs: Diagnosis, Opened: Static,
		Peer:    Text{"alle", "anyone"},
		Purpose: Text{"Auf ping antworten, begrenzt; Nachbarn und Router finden (ICMPv6)", "Answer ping, limited; find neighbours and routers (ICMPv6)"},
	},
}

var lan = Text{"Computer im selben LAN", "computers in the same LAN"}

func sip(r Region, name Text) Row {
	return Row{
		ID: "sip-" + string(r), Requirement: "M13, M14", Direction: Out, Protocol: TCP, Ports: Ports{5061, 5061}, Region: r, Needs: Calls,
		Peer:    Text{"alle Rechner der Mediendienste, Region " + name.DE, "every host of the media services, region " + name.EN},
		Purpose: Text{"Gespräche aufbauen (SIP über TLS)", "Set up calls (SIP over TLS)"},
	}
}

func internal(id string, p Ports) Row {
	return Row{
		ID: id, Requirement: "M19", Direction: Inside, Protocol: TCP, Ports: p, Needs: Calls,
		Peer: Text{"nur das Gateway selbst", "only the gateway itself"},
		Purpose: Text{
			"Intern. In der Telefonanlage für keinen Dienst verwenden, weder mit TCP noch mit UDP",
			"Internal. To be used for no service of the PBX, neither with TCP nor with UDP",
		},
	}
}

// Find returns the row with this ID. It panics where there is none: rows are named in code only.
func Find(id string) Row {
	for _, r := range Table {
		if r.ID == id {
			return r
		}
	}
	panic("portmap: no such row: " + id)
}

// Internal says whether port is one of the internal ones (M19): no service may be set to it, with TCP
// or UDP, and the firewall lets neither in.
func Internal(port uint16) bool {
	for _, r := range Table {
		if r.Direction == Inside && r.Ports.Contains(port) {
			return true
		}
	}
	return false
}

// TCPPorts are all TCP ports of the table, which SelfTest connects to.
func TCPPorts() []uint16 {
	var list []uint16
	for _, r := range Table {
		if r.Protocol != TCP {
			continue
		}
		for port := r.Ports.From; port <= r.Ports.To; port++ {
			if !slices.Contains(list, port) {
				list = append(list, port)
			}
		}
	}
	return list
}
