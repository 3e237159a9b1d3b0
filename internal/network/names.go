package network

import (
	"context"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"cloudlink.local/gateway/internal/condition"
	"cloudlink.local/gateway/internal/diary"
	"cloudlink.local/gateway/internal/mdns"
	"cloudlink.local/gateway/internal/network/reconcile"
	"cloudlink.local/gateway/internal/settings"
)

// UniqueName is the host name that no other device has. It is the kernel's, what DHCP servers are
// told, and in .local the name that stays where another device has the short one.
func UniqueName(serial string) string {
	if serial == "" {
		return settings.Default().Names.Host
	}
	return settings.Default().Names.Host + "-" + strings.ToLower(serial)
}

// Names are those under which the gateway is found in the LAN (M20-M26).
type Names struct {
	Host   string      `json:"host"`   // as set, with .local; another device may have it
	Unique string      `json:"unique"` // of the serial number, with .local; even that may be another device's somewhere
	Ports  []PortNames `json:"ports"`  // where the gateway answers for them
}

// PortNames are what is known of the names on one port or VLAN.
type PortNames struct {
	Port      string `json:"port"`
	Trouble   string `json:"trouble,omitempty"`   // why it cannot answer here, in a technician's words
	Reachable string `json:"reachable,omitempty"` // the host name that is sure to lead to it here; "" while there is none
	Names     []Name `json:"names"`
}

// A Name is one of ours: a host's or a service instance's.
type Name struct {
	Name    string     `json:"name"`
	State   mdns.State `json:"state"`
	Instead string     `json:"instead,omitempty"` // the lost name that this one, with a number, stands in for
	Rival   *Rival     `json:"rival,omitempty"`   // who has it, or the one that it stands in for
}

// A Rival is another device that has our name.
type Rival struct {
	Address      netip.Addr `json:"address"`
	MAC          string     `json:"mac,omitempty"`
	SecondsSince float64    `json:"seconds_since"`
}

const local = ".local"

// announces says whether the gateway answers for its names on a port: on wan only where that is the
// one port, or the owner wants it.
func announces(p portPlan, n settings.Names) bool { return p.role != WAN || n.OnWAN }

// announcement is what the responder is to answer, with the addresses that the links have now: while a
// change is on probation, old and new.
func (s *service) announcement(state reconcile.State, plans []portPlan) mdns.Wish {
	set := s.store.Get().Names
	short := s.Unique[max(0, len(s.Unique)-4):]
	wish := mdns.Wish{Host: strings.ToLower(set.Host), Unique: s.Unique, Services: []mdns.Service{{
		Instance: "CloudLink Gateway (" + strings.ToUpper(short) + ")", Type: "_http._tcp", Port: 80,
		Text: []string{"path=/", "version=" + s.Version, "serial=" + strings.ToUpper(short)},
	}}}
	for _, p := range plans {
		i := slices.IndexFunc(state.Links, func(l reconcile.Link) bool { return l.Name == p.link })
		if i < 0 || !announces(p, set) || slices.ContainsFunc(wish.Links, func(l mdns.Link) bool { return l.Name == p.link }) {
			continue
		}
		have := state.Links[i]
		if !have.Up || !have.Carrier {
			continue
		}
		link := mdns.Link{Name: have.Name, Index: have.Index}
		for _, a := range state.Addresses {
			if a.Link == p.link && !a.Tentative && !a.Duplicate {
				link.Addresses = append(link.Addresses, a.Prefix)
			}
		}
		if len(link.Addresses) > 0 {
			slices.SortFunc(link.Addresses, netip.Prefix.Compare)
			wish.Links = append(wish.Links, link)
		}
	}
	return wish
}

// announce tells the responder where the names are to be answered for, if that is new.
func (s *service) announce(state reconcile.State, plans []portPlan) {
	wish := s.announcement(state, plans)
	if reflect.DeepEqual(s.announced, wish) {
		return
	}
	s.announced = wish
	select {
	case <-s.announcements: // what has not been read yet is out of date
	default:
	}
	s.announcements <- wish // nobody else sends
}

// respond answers for the names until ctx ends. Without it everything else goes on.
func (s *service) respond(ctx context.Context) error {
	for ctx.Err() == nil {
		err := s.responder.Run(ctx, s.announcements)
		if err == nil {
			continue
		}
		s.log.Warn(err.Error())
		select {
		case <-ctx.Done():
		case <-time.After(tick):
		}
	}
	return nil
}

// names are what the responder knows now.
func (s *service) names() Names {
	n := Names{Host: strings.ToLower(s.store.Get().Names.Host) + local, Unique: s.Unique + local, Ports: []PortNames{}}
	for _, l := range s.responder.Status().Links {
		port := PortNames{Port: l.Name, Trouble: l.Trouble, Names: []Name{}}
		for _, name := range l.Names {
			have := Name{Name: name.Name, State: name.State, Instead: name.Instead}
			if r := name.Rival; r != nil {
				have.Rival = &Rival{Address: r.Addr, MAC: r.MAC.String(), SecondsSince: time.Since(r.Since).Seconds()}
			}
			port.Names = append(port.Names, have)
		}
		port.Reachable = port.reachable(n.Host, n.Unique)
		n.Ports = append(n.Ports, port)
	}
	return n
}

// reachable returns of the names that are announced the one that others are least likely to have.
func (p PortNames) reachable(host, unique string) string {
	for _, is := range []func(Name) bool{
		func(n Name) bool { return n.Name == unique },
		func(n Name) bool { return n.Instead == unique },
		func(n Name) bool { return n.Name == host },
	} {
		for _, n := range p.Names {
			if is(n) && n.State == mdns.Announced {
				return n.Name
			}
		}
	}
	return ""
}

// Where returns under what the gateway is found on the port now: where no name is left, an address.
func (p PortNames) Where(ports []Port) string {
	if p.Reachable != "" {
		return p.Reachable
	}
	var other string // a link-local one, which needs the port's name behind it
	for _, port := range ports {
		if port.Name != p.Port && !strings.HasPrefix(p.Port, port.Name+".") { // its VLAN
			continue
		}
		for _, a := range port.Addresses {
			addr := a.Prefix.Addr()
			if !a.Former && (addr.Is4() || !addr.IsLinkLocalUnicast()) {
				return addr.String()
			}
			other = addr.String()
		}
	}
	if other == "" {
		return "–"
	}
	return other
}

// tellNames notes in the diary which names other devices have.
func (s *service) tellNames(names Names) {
	now := map[[2]string]bool{}
	for _, p := range names.Ports {
		for _, n := range p.Names {
			key := [2]string{p.Port, n.Name}
			switch {
			case n.State == mdns.Lost:
				now[key] = true
				if !s.lost[key] && n.Rival != nil {
					s.diary.Add(diary.NameLost, "port", p.Port, "name", n.Name, "address", name(n.Rival.Address), "mac", n.Rival.MAC)
				}
			case s.lost[key] && n.State != mdns.Announced:
				now[key] = true // not yet again
			case s.lost[key]:
				s.diary.Add(diary.NameRegained, "port", p.Port, "name", n.Name)
			}
		}
	}
	s.lost = now
}

// conditions are what the owner is to be told of the names. The ports have the addresses.
func (n Names) conditions(ports []Port) []condition.Condition {
	var list []condition.Condition
	for _, p := range n.Ports {
		for _, name := range p.Names {
			if name.State != mdns.Lost || name.Rival == nil {
				continue
			}
			mac := name.Rival.MAC
			if mac == "" {
				mac = "–"
			}
			list = append(list, condition.New(condition.NameTaken, "name", name.Name, "port", p.Port,
				"address", name.Rival.Address.WithZone("").String(), "mac", mac, "other", p.Where(ports)))
		}
	}
	return list
}
