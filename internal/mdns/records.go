package mdns

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"cloudlink.local/gateway/internal/mdns/wire"
)

// How long others may keep a record (RFC 6762 §10): those with a host's name in them, and others.
const (
	hostTTL  = 120
	otherTTL = 75 * 60
)

// Labels of the one domain, and the name under which types of services are listed (RFC 6763 §9).
const domain = "local"

var enumeration = []string{"_services", "_dns-sd", "_udp", domain}

// A set is what is always sent together: all records of one name and type, or a shared record.
type set struct {
	name   string
	key    string // name, folded
	typ    wire.Type
	ttl    uint32
	unique bool
	data   []string
	target string // key of the name whose records go along with these (RFC 6763 §12); "" for none
}

func newSet(name string, typ wire.Type, ttl uint32, unique bool, data ...string) *set {
	return &set{name: name, key: wire.Fold(name), typ: typ, ttl: ttl, unique: unique, data: data}
}

// id is the same for sets with the same owner and purpose: one takes the other's place.
func (s *set) id() string {
	if s.unique {
		return identity(s.key, s.typ, "")
	}
	return identity(s.key, s.typ, s.data[0])
}

func identity(key string, typ wire.Type, data string) string {
	return fmt.Sprintf("%s %d %s", key, typ, data)
}

func (s *set) records() []wire.Record {
	list := make([]wire.Record, len(s.data))
	for i, d := range s.data {
		list[i] = wire.Record{Name: s.name, Type: s.typ, Class: wire.IN, Flush: s.unique, TTL: s.ttl, Data: d}
	}
	return list
}

// has says whether r is one of the set's records.
func (s *set) has(key string, r *wire.Record) bool {
	return s.typ == r.Type && s.key == key && r.Class == wire.IN && slices.ContainsFunc(s.data, func(d string) bool {
		return sameData(r.Type, d, r.Data)
	})
}

// sameData compares data; names in it are names (RFC 6762 §16).
func sameData(typ wire.Type, a, b string) bool {
	switch {
	case a == b:
		return true
	case typ != wire.PTR && typ != wire.SRV:
		return false
	}
	x, y := wire.Record{Type: typ, Data: a}, wire.Record{Type: typ, Data: b}
	tx, ty := x.Target(), y.Target()
	return tx != "" && wire.Fold(tx) == wire.Fold(ty) && (typ == wire.PTR || len(b) > 6 && a[:6] == b[:6])
}

// A role is what a name is for.
type role int

const (
	hostRole role = iota
	uniqueRole
	instanceRole
)

// A name is one that we claim on a link, with the records that live and die with it.
type name struct {
	role    role
	label   string  // as wished
	service Service // of an instance
	rank    int     // 1: the name is as wished; 2: it has a 2 added; …
	instead *name   // the name as wished, where this one stands in for it while another device has it

	text string // as people write it, without the last dot
	full string
	key  string
	own  []*set // unique, of this name: they are probed for
	more []*set // others: its NSEC, pointers to it

	state State
	step  int       // probes, announcements or quiet questions sent
	at    time.Time // of the next one; zero for none

	losses   int           // ties lost in a row
	tied     bool          // waits for the winner of a tie
	rival    *Rival        // who has it
	since    time.Time     // when it was announced
	patient  time.Duration // until the next quiet question, or the next probe for the last number
	hinted   bool          // the next question is because of a goodbye
	lastHint time.Time     // when such a one was last asked

	hintPause time.Duration // until such a one may be asked again
}

// labels are those of the name, by its rank.
func (n *name) labels() []string {
	switch {
	case n.role == instanceRole:
		label := n.label
		if n.rank > 1 { // RFC 6763 appendix D
			label = numbered(label, fmt.Sprintf(" (%d)", n.rank))
		}
		return append(append([]string{label}, strings.Split(n.service.Type, ".")...), domain)
	case n.rank > 1:
		return []string{numbered(n.label, fmt.Sprintf("-%d", n.rank)), domain}
	}
	return []string{n.label, domain}
}

// numbered adds number to a label, of which it cuts off what then is too long.
func numbered(label, number string) string {
	label = label[:min(len(label), wire.MaxLabel-len(number))]
	for !utf8.ValidString(label) && label != "" {
		label = label[:len(label)-1]
	}
	return label + number
}

// rename computes what follows from label and rank.
func (n *name) rename() error {
	full, err := wire.Name(n.labels()...)
	if err != nil {
		return err
	}
	n.full, n.key, n.text = full, wire.Fold(full), strings.Join(n.labels(), ".")
	return nil
}

// sets is all of a name's.
func (n *name) sets() []*set { return slices.Concat(n.own, n.more) }

// fill makes the name's records: addresses are those of the link, leads is the name they lead to.
func (n *name) fill(addrs []netip.Prefix, leads *name) {
	n.own, n.more = nil, nil
	if n.role == instanceRole {
		n.fillService(leads)
		return
	}
	data := map[wire.Type][]string{}
	for _, a := range addrs {
		typ, d := wire.HostData(a.Addr())
		if !slices.Contains(data[typ], d) {
			data[typ] = append(data[typ], d)
		}
	}
	var types []wire.Type
	for _, typ := range []wire.Type{wire.A, wire.AAAA} {
		if len(data[typ]) > 0 {
			n.own = append(n.own, newSet(n.full, typ, hostTTL, true, data[typ]...))
			types = append(types, typ)
		}
	}
	n.more = append(n.more, nsec(n.full, types...))
	if n == leads {
		for _, a := range addrs {
			// Not probed for: the address is ours alone, which ARP and its like have found out.
			reverse := wire.ReverseName(a.Addr())
			n.more = append(n.more, newSet(reverse, wire.PTR, hostTTL, true, wire.PTRData(n.full)), nsec(reverse, wire.PTR))
		}
	}
}

func (n *name) fillService(leads *name) {
	srv := newSet(n.full, wire.SRV, hostTTL, true, wire.SRVData(n.service.Port, leads.full))
	srv.target = leads.key
	n.own = []*set{srv, newSet(n.full, wire.TXT, otherTTL, true, wire.TXTData(n.service.Text))}

	// These labels are parts of a name that was made already.
	kind, _ := wire.Name(n.labels()[1:]...)
	all, _ := wire.Name(enumeration...)
	instance := newSet(kind, wire.PTR, otherTTL, false, wire.PTRData(n.full))
	instance.target = n.key
	n.more = []*set{
		nsec(n.full, wire.TXT, wire.SRV),
		instance,
		newSet(all, wire.PTR, otherTTL, false, wire.PTRData(kind)),
	}
}

func nsec(name string, types ...wire.Type) *set {
	return newSet(name, wire.NSEC, hostTTL, true, wire.NSECData(name, types...))
}
