package conformance

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// The codec of the script is its own, and plain: what ours gets wrong must not be wrong here too.

// Types of records.
const (
	typeA    = 1
	typePTR  = 12
	typeMX   = 15
	typeTXT  = 16
	typeAAAA = 28
	typeSRV  = 33
	typeNSEC = 47
	typeANY  = 255
)

const (
	classIN = 1
	top     = 1 << 15 // of a class: QU in a question, cache flush in a record

	flagResponse      = 1 << 15
	flagAuthoritative = 1 << 10
	flagTruncated     = 1 << 9
)

// A question is one, as it is on the wire but for its name.
type question struct {
	name  string // "cloudlink.local", with \. and \\ in labels that have these
	typ   uint16
	class uint16 // with the bit for QU
}

// A record is one. Its data is as on the wire without compression.
type record struct {
	name  string
	typ   uint16
	class uint16 // with the bit for cache flush
	ttl   uint32
	data  []byte
}

// A message is a packet's content.
type message struct {
	id, flags                       uint16
	questions                       []question
	answers, authority, additionals []record
}

func (r record) flush() bool { return r.class&top != 0 }

// key is what makes two records the same one.
func (r record) key() string {
	return fmt.Sprintf("%s/%d/%d/%x", strings.ToLower(r.name), r.typ, r.class&^top, foldData(r))
}

// is reports whether r has this name and type.
func (r record) is(name string, typ uint16) bool {
	return r.typ == typ && strings.EqualFold(r.name, name)
}

// foldData is the data with names in lower case, for comparing.
func foldData(r record) []byte {
	switch r.typ {
	case typePTR:
		return []byte(strings.ToLower(string(r.data)))
	case typeSRV:
		return append(slices.Clone(r.data[:6]), strings.ToLower(string(r.data[6:]))...)
	}
	return r.data
}

// target is the name in the data of PTR, SRV and NSEC.
func (r record) target() string {
	at := 0
	if r.typ == typeSRV {
		at = 6
	}
	name, _, err := readName(r.data, at)
	if err != nil {
		return ""
	}
	return name
}

func (r record) addr() netip.Addr {
	a, _ := netip.AddrFromSlice(r.data)
	return a
}

// strings is what a TXT record has.
func (r record) strings() (all []string) {
	for b := r.data; len(b) > 0 && int(b[0]) < len(b); b = b[1+b[0]:] {
		all = append(all, string(b[1:1+b[0]]))
	}
	return all
}

// types is the bitmap of an NSEC record.
func (r record) types() (all []uint16) {
	_, at, err := readName(r.data, 0)
	if err != nil {
		return nil
	}
	for at+2 <= len(r.data) {
		block, n := int(r.data[at]), int(r.data[at+1])
		at += 2
		for i := range n {
			if at+i >= len(r.data) {
				return nil
			}
			for bit := range 8 {
				if r.data[at+i]&(0x80>>bit) != 0 {
					all = append(all, uint16(block<<8|i*8+bit))
				}
			}
		}
		at += n
	}
	return all
}

// records is all of a message's but the authority section.
func (m message) records() []record { return append(slices.Clone(m.answers), m.additionals...) }

func (m message) response() bool { return m.flags&flagResponse != 0 }

// probes reports whether m is a probe for name.
func (m message) probes(name string) bool {
	return !m.response() && len(m.authority) > 0 &&
		slices.ContainsFunc(m.questions, func(q question) bool { return strings.EqualFold(q.name, name) })
}

// answer finds an answer.
func (m message) answer(name string, typ uint16) (record, bool) { return find(m.answers, name, typ) }

func find(in []record, name string, typ uint16) (record, bool) {
	i := slices.IndexFunc(in, func(r record) bool { return r.is(name, typ) })
	if i < 0 {
		return record{}, false
	}
	return in[i], true
}

// appendName appends the bytes of a name, without compression.
func appendName(b []byte, name string) []byte {
	for _, label := range labels(name) {
		b = append(append(b, byte(len(label))), label...)
	}
	return append(b, 0)
}

// labels splits a name at its dots, but those after a backslash.
func labels(name string) (all []string) {
	var label []byte
	for i := 0; i < len(name); i++ {
		switch {
		case name[i] == '\\' && i+1 < len(name):
			i++
			label = append(label, name[i])
		case name[i] == '.':
			all, label = append(all, string(label)), nil
		default:
			label = append(label, name[i])
		}
	}
	if len(label) > 0 {
		all = append(all, string(label))
	}
	return all
}

var escaper = strings.NewReplacer(".", `\.`, `\`, `\\`)

// readName reads the name at an offset of a packet and returns where what follows it begins.
func readName(b []byte, at int) (name string, next int, err error) {
	var all []string
	length := 0
	for hops := 0; ; {
		if at >= len(b) {
			return "", 0, errors.New("a name ends outside the packet")
		}
		n := int(b[at])
		switch {
		case n == 0:
			if next == 0 {
				next = at + 1
			}
			return strings.Join(all, "."), next, nil
		case n&0xc0 == 0xc0:
			if at+1 >= len(b) {
				return "", 0, errors.New("a pointer ends outside the packet")
			}
			if next == 0 {
				next = at + 2
			}
			to := n&0x3f<<8 | int(b[at+1])
			if hops++; to >= at || hops > 100 {
				return "", 0, errors.New("a pointer does not point back")
			}
			at = to
		case n&0xc0 != 0:
			return "", 0, fmt.Errorf("label of kind %#x", n)
		default:
			if at+1+n > len(b) {
				return "", 0, errors.New("a label ends outside the packet")
			}
			if length += n + 1; length > 254 {
				return "", 0, errors.New("a name is too long")
			}
			all = append(all, escaper.Replace(string(b[at+1:at+1+n])))
			at += n + 1
		}
	}
}

// bytes makes the packet, without compression.
func (m message) bytes() []byte {
	b := binary.BigEndian.AppendUint16(nil, m.id)
	b = binary.BigEndian.AppendUint16(b, m.flags)
	for _, n := range []int{len(m.questions), len(m.answers), len(m.authority), len(m.additionals)} {
		b = binary.BigEndian.AppendUint16(b, uint16(n))
	}
	for _, q := range m.questions {
		b = appendName(b, q.name)
		b = binary.BigEndian.AppendUint16(b, q.typ)
		b = binary.BigEndian.AppendUint16(b, q.class)
	}
	for _, section := range [][]record{m.answers, m.authority, m.additionals} {
		for _, r := range section {
			b = appendName(b, r.name)
			b = binary.BigEndian.AppendUint16(b, r.typ)
			b = binary.BigEndian.AppendUint16(b, r.class)
			b = binary.BigEndian.AppendUint32(b, r.ttl)
			b = binary.BigEndian.AppendUint16(b, uint16(len(r.data)))
			b = append(b, r.data...)
		}
	}
	return b
}

// parse reads a packet, to its last byte.
func parse(b []byte) (m message, err error) {
	if len(b) < 12 {
		return m, errors.New("shorter than a header")
	}
	m.id, m.flags = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	at := 12
	for range binary.BigEndian.Uint16(b[4:]) {
		var q question
		if q.name, at, err = readName(b, at); err != nil {
			return m, err
		}
		if at+4 > len(b) {
			return m, errors.New("a question ends outside the packet")
		}
		q.typ, q.class = binary.BigEndian.Uint16(b[at:]), binary.BigEndian.Uint16(b[at+2:])
		at += 4
		m.questions = append(m.questions, q)
	}
	for i, section := range []*[]record{&m.answers, &m.authority, &m.additionals} {
		for range binary.BigEndian.Uint16(b[6+2*i:]) {
			var r record
			if r, at, err = readRecord(b, at); err != nil {
				return m, err
			}
			*section = append(*section, r)
		}
	}
	if at != len(b) {
		return m, fmt.Errorf("%d bytes too many", len(b)-at)
	}
	return m, nil
}

func readRecord(b []byte, at int) (r record, next int, err error) {
	if r.name, at, err = readName(b, at); err != nil {
		return r, 0, err
	}
	if at+10 > len(b) {
		return r, 0, errors.New("a record ends outside the packet")
	}
	r.typ, r.class = binary.BigEndian.Uint16(b[at:]), binary.BigEndian.Uint16(b[at+2:])
	r.ttl = binary.BigEndian.Uint32(b[at+4:])
	at, next = at+10, at+10+int(binary.BigEndian.Uint16(b[at+8:]))
	if next > len(b) {
		return r, 0, errors.New("data ends outside the packet")
	}
	switch r.typ { // these have names, which may be compressed
	case typePTR, typeNSEC, typeSRV:
		if r.typ == typeSRV {
			if at+6 > next {
				return r, 0, errors.New("an SRV record is too short")
			}
			r.data = append(r.data, b[at:at+6]...)
			at += 6
		}
		name, end, err := readName(b[:next], at)
		if err != nil {
			return r, 0, err
		}
		r.data = appendName(r.data, name)
		if r.typ == typeNSEC {
			r.data = append(r.data, b[end:next]...)
		} else if end != next {
			return r, 0, errors.New("data goes on after its name")
		}
	default:
		r.data = slices.Clone(b[at:next])
	}
	return r, next, nil
}

var typeNames = map[uint16]string{
	typeA: "A", typePTR: "PTR", typeMX: "MX", typeTXT: "TXT", typeAAAA: "AAAA", typeSRV: "SRV", typeNSEC: "NSEC", typeANY: "ANY",
}

func typeName(t uint16) string {
	if s, ok := typeNames[t]; ok {
		return s
	}
	return fmt.Sprintf("type %d", t)
}

func (q question) String() string {
	s := q.name + " " + typeName(q.typ)
	if q.class&top != 0 {
		s += " QU"
	}
	return s
}

func (r record) String() string {
	s := fmt.Sprintf("%s %s %d", r.name, typeName(r.typ), r.ttl)
	if r.flush() {
		s += " flush"
	}
	switch r.typ {
	case typeA, typeAAAA:
		return s + " " + r.addr().String()
	case typePTR, typeSRV:
		return s + " " + r.target()
	case typeNSEC:
		for _, t := range r.types() {
			s += " " + typeName(t)
		}
		return s
	}
	return fmt.Sprintf("%s %q", s, r.data)
}

func (m message) String() string {
	var b strings.Builder
	if m.response() {
		b.WriteString("response")
	} else {
		b.WriteString("query")
	}
	if m.flags&flagTruncated != 0 {
		b.WriteString(" TC")
	}
	if m.id != 0 {
		fmt.Fprintf(&b, " id %d", m.id)
	}
	for _, q := range m.questions {
		fmt.Fprintf(&b, " | ? %v", q)
	}
	for i, section := range [][]record{m.answers, m.authority, m.additionals} {
		for _, r := range section {
			fmt.Fprintf(&b, " | %s %v", []string{"an", "ns", "ar"}[i], r)
		}
	}
	return b.String()
}
