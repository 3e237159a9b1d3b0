// Package firewall keeps our nftables table, inet cloudlink: what comes in from the Ethernet ports is
// dropped unless it answers the gateway, keeps the network itself going (ICMP, neighbour discovery,
// DHCP), or is meant for what the port offers. Other tables are never touched.
//
// # When it stands
//
// The kernel switches no Ethernet port on by itself. Whoever calls Apply before it switches the first
// port on has no moment without a firewall; that is why nothing is built in for the time before. The
// table belongs to the kernel, not to the process: it stands while the network service restarts.
//
// A change replaces the rules of all chains in one transaction; each packet sees the old rules or the
// new ones. Connections live in the kernel's connection table and go on.
//
// # What it does not do
//
// No rule trusts a source address, so a forged one gains nothing but in one case, which is refused:
// our own addresses (127.0.0.0/8 among them) coming from outside. A strict reverse-path check would add
// nothing but would cut the owner off where two ports are in one network.
//
// Nothing is forwarded. The relay's fast path takes its packets before these rules; the slow path's
// flows are known to the connection table, since the gateway sent first, or have a static range. A flow
// that the fast path has carried for minutes is no longer known to it: the relay's keepalives must go
// through the kernel, or the port must have the range open.
package firewall

import (
	"fmt"
	"slices"
	"strings"

	"cloudlink.local/gateway/internal/portmap"
)

// A Policy says what is offered on each port. What it does not name offers nothing.
type Policy struct {
	Ports []Port `json:"ports"`
}

// A Port is an Ethernet port, or a VLAN on it, and what is offered there.
type Port struct {
	Link   string `json:"link"`   // the kernel's name: eth0, eth0.10
	DHCPv4 bool   `json:"dhcpv4"` // our client asks here
	DHCPv6 bool   `json:"dhcpv6"`
	Portal bool   `json:"portal"`
	MDNS   bool   `json:"mdns"`
	Media  bool   `json:"media"` // the range of RTP is open to whoever sends first; else to answers only
}

// maxPorts bounds the table: two ports, each with a VLAN beside, and room.
const maxPorts = 8

// ForPorts returns the policy of D2: the page and our name are offered on lan; a device with one port
// has lan empty and offers them there.
func ForPorts(wan, lan string) Policy {
	client := Port{Link: wan, DHCPv4: true, DHCPv6: true}
	if lan == "" {
		client.Portal, client.MDNS = true, true
		return Policy{Ports: []Port{client}}
	}
	return Policy{Ports: []Port{client, {Link: lan, DHCPv4: true, DHCPv6: true, Portal: true, MDNS: true}}}
}

// Reachable returns p with the page and our name offered on every port: while a change is on
// probation, the owner may come from either side.
func (p Policy) Reachable() Policy {
	ports := slices.Clone(p.Ports)
	for i := range ports {
		ports[i].Portal, ports[i].MDNS = true, true
	}
	return Policy{Ports: ports}
}

// Check says what is wrong with p.
func (p Policy) Check() error {
	if len(p.Ports) > maxPorts {
		return fmt.Errorf("firewall policy: ports: %d are too many: at most %d", len(p.Ports), maxPorts)
	}
	for i, port := range p.Ports {
		switch name := port.Link; {
		case name == "" || len(name) > 15 || name == "." || name == ".." || strings.ContainsFunc(name, illegal):
			return fmt.Errorf("firewall policy: ports[%d].link: %q is no name of a port: give 1 to 15 characters such as eth0", i, name)
		case name == loopback:
			return fmt.Errorf("firewall policy: ports[%d].link: %s is not an Ethernet port: leave it out, it is always open", i, name)
		case slices.ContainsFunc(p.Ports[:i], func(q Port) bool { return q.Link == name }):
			return fmt.Errorf("firewall policy: ports[%d].link: %s is there twice: name each port once", i, name)
		}
	}
	return nil
}

// illegal says what no name of a link has; * would make nft(8) show another rule than there is.
func illegal(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`/:*"\`, r) }

// Apply makes the kernel's table that of p. It reads what is there, writes only where that is another,
// and reads again. It returns whether something was written: to be told, for nobody but us should.
// Where there was no table, after the boot, only the next call reads again: the owner waits for the
// first page, and the kernel has acknowledged every rule.
func Apply(p Policy) (changed bool, err error) {
	if err := p.Check(); err != nil {
		return false, err
	}
	want := rules(p)
	const tries = 3 // somebody else may write at the same moment
	for try := 0; ; try++ {
		have, readErr := read()
		if readErr != nil {
			return changed, fmt.Errorf("read firewall: %w", readErr)
		}
		difference := have.differs(want)
		switch {
		case difference == "":
			return try > 0, nil
		case try == tries && err == nil:
			return changed, fmt.Errorf("write firewall: the kernel keeps something else: %s", difference)
		case try == tries:
			return changed, fmt.Errorf("write firewall: %w", err)
		}
		if err = write(want, have.sound()); err == nil { // else the next look tells whether it took effect
			changed = true
		}
		if changed && !have.exists {
			return true, nil
		}
	}
}

// Verify returns an error unless the kernel's table is that of p.
func Verify(p Policy) error {
	if err := p.Check(); err != nil {
		return err
	}
	have, err := read()
	if err != nil {
		return fmt.Errorf("read firewall: %w", err)
	}
	if difference := have.differs(rules(p)); difference != "" {
		return fmt.Errorf("firewall is not as it should be: %s", difference)
	}
	return nil
}

// Counters returns how many packets met each rule since it was written, by the rule's comment; rules of
// the same comment count together.
func Counters() (map[string]uint64, error) {
	t, err := read()
	if err != nil {
		return nil, fmt.Errorf("read firewall: %w", err)
	}
	return t.counts, nil
}

// An Access says what of a row of the port table comes in on a port.
type Access string

// The accesses.
const (
	Everyone Access = "everyone" // whoever sends
	Answers  Access = "answers"  // only what answers the gateway
	Nobody   Access = "nobody"
)

// Text returns the words for a.
func (a Access) Text() portmap.Text { return accesses[a] }

var accesses = map[Access]portmap.Text{
	Everyone: {DE: "offen", EN: "open"},
	Answers:  {DE: "nur Antworten", EN: "answers only"},
	Nobody:   {DE: "geschlossen", EN: "closed"},
}

// A Row is a row of the port table and who gets in on each port.
type Row struct {
	portmap.Row
	Ports []PortAccess `json:"access"`
}

// A PortAccess is who gets in on a port.
type PortAccess struct {
	Link   string `json:"link"`
	Access Access `json:"access"`
}

// Explain says what p means for each row of the port table.
func Explain(p Policy) []Row {
	list := make([]Row, len(portmap.Table))
	for i, row := range portmap.Table {
		list[i] = Row{Row: row, Ports: make([]PortAccess, len(p.Ports))}
		for j, port := range p.Ports {
			list[i].Ports[j] = PortAccess{port.Link, port.access(row)}
		}
	}
	return list
}

func (p Port) access(row portmap.Row) Access {
	switch {
	case row.Direction == portmap.Out:
		return Answers
	case row.Direction == portmap.Inside:
		return Nobody
	case row.Opened == portmap.HolePunching && !p.Media:
		return Answers
	case row.ID == "ping" || p.offers(row.ID):
		return Everyone
	}
	return Nobody
}

// offers says whether the row is open on p. The rules are made by it, too.
func (p Port) offers(id string) bool {
	switch id {
	case "portal":
		return p.Portal
	case "mdns":
		return p.MDNS
	case "dhcp":
		return p.DHCPv4
	case "dhcpv6":
		return p.DHCPv6
	case "rtp", "rtp-static":
		return p.Media
	}
	return false
}
