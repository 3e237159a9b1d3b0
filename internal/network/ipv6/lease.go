package ipv6

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
)

// A Lease is what a DHCPv6 server granted: an address for a while, and what there is on the network.
// Where only that was asked for, it has no address.
type Lease struct {
	Addr       netip.Addr   `json:"address,omitzero"`        // invalid where the lease is information only
	DNS        []netip.Addr `json:"dns,omitempty"`           // at most maxDNS; link-local ones have the port as their zone
	Search     []string     `json:"search,omitempty"`        // domains to look short names up in; at most maxSearch
	NTP        []netip.Addr `json:"ntp,omitempty"`           // at most maxNTP; as DNS
	NTPNames   []string     `json:"ntp_names,omitempty"`     // at most maxNTP
	Server     []byte       `json:"server,omitempty"`        // its DUID
	ServerAddr netip.Addr   `json:"server_address,omitzero"` // whence it, or its relay, answers
	Preferred  time.Time    `json:"-"`                       // not for new connections any longer; the zero time is never
	Renew      time.Time    `json:"-"`                       // T1: ask the server for more time, or again; the zero time is never
	Rebind     time.Time    `json:"-"`                       // T2: ask every server for more time; the zero time is never
	Expires    time.Time    `json:"-"`                       // the address must not be used any longer; the zero time is never
}

// Prefix is the address as it goes on the port: DHCPv6 does not say what else is on the link (RFC 5942).
func (l *Lease) Prefix() netip.Prefix { return netip.PrefixFrom(l.Addr, 128) }

// hasAddress says whether l is a lease with an address.
func (l *Lease) hasAddress() bool { return l != nil && l.Addr.IsValid() }

// Bounds of what a server can make us keep.
const (
	maxDNS    = 3 // what a resolver reads of resolv.conf
	maxNTP    = 4
	maxSearch = 8
	maxDUID   = 130 // bytes, RFC 8415 §11.1
)

const (
	minTime  = 20 * time.Second // an address for less is not worth taking
	minRenew = 5 * time.Second  // of a server that says less: else we would ask all the time
)

// A message is one of a server's, checked as far as that can be done without knowing what was asked.
// What else is in it is gone.
type message struct {
	kind           dhcpv6.MessageType
	xid            dhcpv6.TransactionID
	from           netip.Addr
	client, server []byte // DUIDs
	preference     byte
	rapid          bool
	status         *dhcpv6.OptStatusCode // nil is success
	identities     []*dhcpv6.OptIANA

	// Of these, nil is what the server does not say.
	dns, ntp         []netip.Addr
	search, ntpNames []string

	refresh, solMax, infMax time.Duration // 0 is what the server does not say
	notes                   []string      // what was passed over
}

// parse reads a message that came from a server on the port zone. What says who is meant and what
// is granted must be sound; of the rest, what is damaged is passed over.
func parse(b []byte, from netip.Addr, zone string) (*message, error) {
	if len(b) < dhcpv6.MessageHeaderSize {
		return nil, errors.New("it is cut off")
	}
	m := &message{kind: dhcpv6.MessageType(b[0]), from: from.WithZone("")}
	copy(m.xid[:], b[1:])
	var options dhcpv6.Options
	// Not the codec's own way: it gives up the whole message for one bad option.
	err := options.FromBytesWithParser(b[dhcpv6.MessageHeaderSize:], func(code dhcpv6.OptionCode, data []byte) (dhcpv6.Option, error) {
		switch code {
		case dhcpv6.OptionIANA, dhcpv6.OptionStatusCode, dhcpv6.OptionPreference:
			return dhcpv6.ParseOption(code, data)
		}
		return &dhcpv6.OptionGeneric{OptionCode: code}, m.read(code, data, zone)
	})
	if err != nil {
		return nil, err
	}
	for _, o := range options {
		switch o := o.(type) {
		case *dhcpv6.OptIANA:
			m.identities = append(m.identities, o)
		case *dhcpv6.OptStatusCode:
			if o.StatusCode != iana.StatusSuccess {
				m.status = o
			}
		default:
			if o.Code() == dhcpv6.OptionPreference {
				m.preference = o.ToBytes()[0]
			}
		}
	}
	return m, nil
}

// read reads the options that the codec is not asked for.
func (m *message) read(code dhcpv6.OptionCode, data []byte, zone string) error {
	switch code {
	case dhcpv6.OptionClientID, dhcpv6.OptionServerID:
		if len(data) < 3 || len(data) > maxDUID {
			return fmt.Errorf("its %v has %d bytes", code, len(data))
		}
		id := &m.client
		if code == dhcpv6.OptionServerID {
			id = &m.server
		}
		if *id != nil {
			return fmt.Errorf("it has two options %v", code)
		}
		*id = bytes.Clone(data)
	case dhcpv6.OptionRapidCommit:
		m.rapid = true
	case dhcpv6.OptionDNSRecursiveNameServer:
		m.dns = machines(m.dns, data, maxDNS, zone)
	case dhcpv6.OptionSNTPServerList:
		m.ntp = machines(m.ntp, data, maxNTP, zone)
	case dhcpv6.OptionNTPServer:
		m.readNTP(data, zone)
	case dhcpv6.OptionDomainSearchList:
		names, err := parseNames(data)
		if err != nil {
			m.notes = append(m.notes, fmt.Sprintf("search list is ignored: %v", err))
		}
		m.search = slices.Concat([]string{}, names[:min(len(names), maxSearch)])
	case dhcpv6.OptionInformationRefreshTime:
		m.refresh = seconds(data, 0, infinite)
	case dhcpv6.OptionSolMaxRT: // RFC 8415 §21.24 says which values to ignore
		m.solMax = seconds(data, time.Minute, 24*time.Hour)
	case dhcpv6.OptionInfMaxRT:
		m.infMax = seconds(data, time.Minute, 24*time.Hour)
	}
	return nil
}

// readNTP reads option 56 (RFC 5908), one server. Those that send by multicast are passed over.
func (m *message) readNTP(data []byte, zone string) {
	const address, name = 1, 3
	for len(data) >= 4 {
		code, n := int(data[0])<<8|int(data[1]), int(data[2])<<8|int(data[3])
		if data = data[4:]; n > len(data) {
			return
		}
		switch code {
		case address:
			m.ntp = machines(m.ntp, data[:n], maxNTP, zone)
		case name:
			if names, err := parseNames(data[:n]); err == nil && len(names) == 1 && len(m.ntpNames) < maxNTP {
				m.ntpNames = append(m.ntpNames, names[0])
			}
		}
		data = data[n:]
	}
}

// machines adds the addresses in data that machines can have to list, which is not nil then.
func machines(list []netip.Addr, data []byte, limit int, zone string) []netip.Addr {
	if list == nil {
		list = []netip.Addr{}
	}
	for ; len(data) >= 16; data = data[16:] {
		a := zoned(netip.AddrFrom16([16]byte(data)), zone)
		if usable(a) && len(list) < limit && !slices.Contains(list, a) {
			list = append(list, a)
		}
	}
	return list
}

// seconds is 0 for what is no number or out of bounds.
func seconds(data []byte, least, most time.Duration) time.Duration {
	if len(data) != 4 {
		return 0
	}
	d := time.Duration(uint32(data[0])<<24|uint32(data[1])<<16|uint32(data[2])<<8|uint32(data[3])) * time.Second
	if d < least || d > most {
		return 0
	}
	return d
}

// about makes a lease without an address of m. What m leaves out is taken from known, if not nil.
func (m *message) about(known *Lease) *Lease {
	l := &Lease{Server: m.server, ServerAddr: m.from, DNS: m.dns, Search: m.search, NTP: m.ntp, NTPNames: m.ntpNames}
	if known == nil {
		return l
	}
	if l.DNS == nil {
		l.DNS = known.DNS
	}
	if l.Search == nil {
		l.Search = known.Search
	}
	if l.NTP == nil && l.NTPNames == nil {
		l.NTP, l.NTPNames = known.NTP, known.NTPNames
	}
	return l
}

// A statusError is a server's refusal.
type statusError struct{ *dhcpv6.OptStatusCode }

func (e statusError) Error() string { return fmt.Sprintf("%v %+.80q", e.StatusCode, e.StatusMessage) }

// Errors of lease, besides a statusError.
var (
	errNoAddress = errors.New("it grants no address")
	errEnded     = errors.New("it takes the address back")
)

// lease makes a lease with an address of m: the answer to what was sent at the time sent. known is the
// one whose time is to be longer, or nil.
func (m *message) lease(iaid [4]byte, known *Lease, sent time.Time, ours func(netip.Addr) bool) (*Lease, []string, error) {
	if m.status != nil {
		return nil, nil, statusError{m.status}
	}
	var ia *dhcpv6.OptIANA
	for _, i := range m.identities {
		if i.IaId == iaid {
			ia = i
			break
		}
	}
	if ia == nil {
		return nil, nil, errNoAddress
	}
	if s := ia.Options.Status(); s != nil && s.StatusCode != iana.StatusSuccess {
		return nil, nil, statusError{s}
	}
	if ia.T1 > ia.T2 && ia.T2 > 0 {
		return nil, nil, fmt.Errorf("its T1 %v is after its T2 %v", ia.T1, ia.T2) // RFC 8415 §21.4
	}
	var best *dhcpv6.OptIAAddress
	var bestAddr netip.Addr
	err := errNoAddress
	for _, a := range ia.Options.Addresses() {
		addr, _ := netip.AddrFromSlice(a.IPv6Addr)
		held := known != nil && known.Addr == addr
		s := a.Options.Status()
		switch {
		case s != nil && s.StatusCode != iana.StatusSuccess:
			err = statusError{s}
		case a.ValidLifetime == 0 && held:
			err = errEnded
		case a.ValidLifetime == 0:
		case !addr.IsGlobalUnicast() || !usable(addr):
			err = fmt.Errorf("it gives address %v, which no machine can have", addr)
		case ours != nil && ours(addr):
			err = fmt.Errorf("it gives address %v, which another of our ports has", addr)
		case a.PreferredLifetime > a.ValidLifetime:
			err = fmt.Errorf("it gives address %v longer for new connections, %v, than at all, %v", addr, a.PreferredLifetime, a.ValidLifetime)
		case !held && a.ValidLifetime < minTime:
			err = fmt.Errorf("it gives address %v for %v only", addr, a.ValidLifetime)
		case best == nil || held:
			best, bestAddr = a, addr
		}
	}
	if best == nil {
		return nil, nil, err
	}
	l := m.about(known)
	l.Addr = bestAddr
	notes := m.notes
	if note := l.setTimes(sent, ia.T1, ia.T2, best.PreferredLifetime, best.ValidLifetime); note != "" {
		notes = append(slices.Clone(notes), note)
	}
	return l, notes, nil
}

// setTimes sets the times of a lease. T1 and T2 are the server's where it says and they fit.
func (l *Lease) setTimes(sent time.Time, t1, t2, preferred, valid time.Duration) (note string) {
	base := preferred
	if base == 0 || base == infinite {
		base = valid
	}
	usual1, usual2 := base/2, base/5*4 // RFC 8415 §21.4
	if base == infinite {
		usual1, usual2 = infinite, infinite
	}
	renew, rebind := t1, t2
	if t1 == 0 {
		renew = usual1
		if t2 != 0 {
			renew = min(usual1, t2/8*5)
		}
	}
	if t2 == 0 {
		rebind = max(usual2, renew)
	}
	if renew < minRenew || rebind > valid {
		if t1 != 0 || t2 != 0 {
			note = fmt.Sprintf("T1 %v and T2 %v do not fit an address for %v: others are used", t1, t2, valid)
		}
		renew, rebind = max(usual1, minRenew), max(usual2, minRenew)
	}
	at := func(d time.Duration) time.Time {
		if d == infinite {
			return time.Time{}
		}
		return sent.Add(min(d, valid))
	}
	l.Renew, l.Rebind, l.Preferred, l.Expires = at(renew), at(rebind), at(preferred), at(valid)
	return note
}

// fqdn is the value of option 39 (RFC 4704): our name in DNS's form, to which the server is asked to
// point. We update nothing ourselves.
func fqdn(hostname string) []byte {
	b := []byte{1} // S: the server updates
	for l := range strings.SplitSeq(hostname, ".") {
		l = l[:min(len(l), 63)]
		b = append(append(b, byte(len(l))), l...)
	}
	return b // no last zero: the name is a part of one
}
