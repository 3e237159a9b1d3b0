// Package wire reads and writes Multicast DNS packets. It is the only package that knows the library;
// of that it uses the code for names, where the traps are, and not its seventy types of records: those
// would weigh more than the rest of the responder.
//
// A record's data is kept as it is in a packet, names in it in full. So two records have the same
// data where the bytes are the same, and which of two is later (RFC 6762 §8.2) is a comparison of
// bytes, for types we have never heard of as well.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode"

	"github.com/miekg/dns"
)

// A Type is that of a record.
type Type uint16

// Types that a responder meets.
const (
	A     = Type(dns.TypeA)
	PTR   = Type(dns.TypePTR)
	TXT   = Type(dns.TypeTXT)
	AAAA  = Type(dns.TypeAAAA)
	SRV   = Type(dns.TypeSRV)
	NSEC  = Type(dns.TypeNSEC)
	ANY   = Type(dns.TypeANY)
	cname = Type(dns.TypeCNAME)
)

// Classes.
const (
	IN       = uint16(dns.ClassINET)
	AnyClass = uint16(dns.ClassANY)
)

// topBit of a class is QU in a question and cache-flush in a record (RFC 6762 §18.12, §18.13).
const topBit = 1 << 15

// A Question is one of a packet.
type Question struct {
	Name    string // in full, escaped as the library does, so ASCII: `a\.b\195\164.local.`
	Type    Type
	Class   uint16
	Unicast bool // QU: an answer to the asker alone will do
}

// A Record is one of a packet.
type Record struct {
	Name  string // as a Question's
	Type  Type
	Class uint16
	Flush bool // caches shall forget what else they have of this name and type
	TTL   uint32
	Data  string // as in a packet, uncompressed
}

// A Message is a packet.
type Message struct {
	ID         uint16
	Response   bool
	Truncated  bool // more known answers follow
	Questions  []Question
	Answers    []Record
	Authority  []Record
	Additional []Record
}

// Flags of the header's second word.
const (
	response      = 1 << 15
	authoritative = 1 << 10
	truncated     = 1 << 9
	opcodeRcode   = 0x780f
)

const headerSize = 12

// MaxEntries is how many questions and records of a packet are read. One that is full of known
// answers has some 250; a name of 126 pointers costs a sender two bytes, and us a thousand.
const MaxEntries = 512

// maxNames is how many bytes all names of a packet may have in full. Those of a long one that is full
// of known answers have a quarter of that.
const maxNames = 128 << 10

// ErrForeign is returned for a packet that is to be ignored: of another operation, or with an error
// code (RFC 6762 §18.3, §18.11).
var ErrForeign = errors.New("not a message of Multicast DNS: opcode or response code is not zero")

// Parse reads a packet.
func Parse(b []byte) (*Message, error) {
	if len(b) < headerSize {
		return nil, fmt.Errorf("read header: %d bytes, want at least %d", len(b), headerSize)
	}
	flags := binary.BigEndian.Uint16(b[2:])
	if flags&opcodeRcode != 0 {
		return nil, ErrForeign
	}
	m := &Message{
		ID:        binary.BigEndian.Uint16(b),
		Response:  flags&response != 0,
		Truncated: flags&truncated != 0,
	}
	var count [4]int
	sum := 0
	for i := range count {
		count[i] = int(binary.BigEndian.Uint16(b[4+2*i:]))
		sum += count[i]
	}
	if sum > MaxEntries {
		return nil, fmt.Errorf("read header: %d questions and records, at most %d are read", sum, MaxEntries)
	}
	r := reader{b: b, off: headerSize}
	for range count[0] {
		m.Questions = append(m.Questions, r.question())
	}
	for i, section := range []*[]Record{&m.Answers, &m.Authority, &m.Additional} {
		for range count[1+i] {
			*section = append(*section, r.record())
		}
	}
	if r.err != nil {
		return nil, r.err
	}
	return m, nil
}

// A reader reads a packet's parts one after the other. After an error it reads nothing more.
type reader struct {
	b     []byte
	off   int
	names int // bytes of all so far
	err   error
}

func (r *reader) fail(what string, err error) {
	if r.err == nil {
		r.err = fmt.Errorf("read %s at byte %d: %w", what, r.off, err)
	}
}

// name reads a name that ends before end. A pointer in it may point anywhere before that too.
func (r *reader) name(end int) string {
	if r.err != nil {
		return ""
	}
	name, off, err := dns.UnpackDomainName(r.b[:end], r.off)
	if r.names += len(name); err == nil && r.names > maxNames {
		err = errMany
	}
	if err != nil {
		r.fail("name", err)
		return ""
	}
	r.off = off
	return name
}

var (
	errShort = errors.New("the packet ends in the middle of it")
	errMany  = errors.New("its names are too long, all together")
)

// take reads n bytes.
func (r *reader) take(n int, what string) []byte {
	if r.err == nil && len(r.b)-r.off < n {
		r.fail(what, errShort)
	}
	if r.err != nil {
		return make([]byte, n)
	}
	r.off += n
	return r.b[r.off-n : r.off]
}

func (r *reader) question() Question {
	name := r.name(len(r.b))
	b := r.take(4, "question")
	class := binary.BigEndian.Uint16(b[2:])
	return Question{
		Name: name, Type: Type(binary.BigEndian.Uint16(b)),
		Class: class &^ topBit, Unicast: class&topBit != 0,
	}
}

func (r *reader) record() Record {
	name := r.name(len(r.b))
	b := r.take(10, "record")
	class := binary.BigEndian.Uint16(b[2:])
	rec := Record{
		Name: name, Type: Type(binary.BigEndian.Uint16(b)),
		Class: class &^ topBit, Flush: class&topBit != 0,
		TTL: binary.BigEndian.Uint32(b[4:]),
	}
	size := int(binary.BigEndian.Uint16(b[8:]))
	if r.err != nil {
		return rec
	}
	if len(r.b)-r.off < size {
		r.fail("record's data", errShort)
		return rec
	}
	rec.Data = r.data(rec.Type, r.off+size)
	return rec
}

// data reads a record's data up to end, names in it in full.
func (r *reader) data(t Type, end int) string {
	lead, ok := nameAt(t)
	if !ok {
		return string(r.take(end-r.off, "record's data"))
	}
	if end-r.off < lead {
		r.fail("record's data", errShort)
		return ""
	}
	data := slices.Clone(r.take(lead, "record's data"))
	data = append(data, packed(r.name(end))...)
	if r.err == nil && r.off > end {
		r.fail("record's data", errShort)
	}
	if r.err != nil {
		return ""
	}
	return string(append(data, r.take(end-r.off, "record's data")...))
}

// nameAt tells where in a type's data its name is: only for those whose names a sender of Multicast
// DNS may compress and we compare (RFC 6762 §18.14).
func nameAt(t Type) (lead int, ok bool) {
	switch t {
	case PTR, NSEC, cname:
		return 0, true
	case SRV:
		return 6, true
	}
	return 0, false
}

// packed is name in full.
func packed(name string) []byte {
	var buf [256]byte // the longest name has 255
	n, err := dns.PackDomainName(name, buf[:], 0, nil, false)
	if err != nil {
		return nil // reader.name has returned nothing
	}
	return slices.Clone(buf[:n])
}

// Fold makes of a name what is the same for all its spellings: only ASCII letters have two
// (RFC 6762 §16), and names are ASCII.
func Fold(name string) string { return strings.ToLower(name) }

// Name makes a name of labels, each any UTF-8. It fails where one is empty or too long.
func Name(labels ...string) (string, error) {
	var b []byte
	for _, l := range labels {
		if len(l) == 0 || len(l) > MaxLabel {
			return "", fmt.Errorf("label %q: has %d bytes, want 1 to %d", l, len(l), MaxLabel)
		}
		b = append(append(b, byte(len(l))), l...)
	}
	name, _, err := dns.UnpackDomainName(append(b, 0), 0)
	if err != nil {
		return "", fmt.Errorf("name of labels %q: %w", labels, err)
	}
	return name, nil
}

// Text is a name as people write it, without the last dot. Whatever a hostile name has in it is left out.
func Text(name string) string {
	var labels []string
	for b := packed(name); len(b) > 1; b = b[1+b[0]:] {
		labels = append(labels, string(b[1:1+b[0]]))
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(strings.Join(labels, "."), ""))
}

// MaxLabel is how many bytes a label may have.
const MaxLabel = 63

// HostData returns type and data of a host's address record.
func HostData(a netip.Addr) (Type, string) {
	if a.Is4() {
		return A, string(a.AsSlice())
	}
	return AAAA, string(a.WithZone("").AsSlice())
}

// PTRData is the data of a pointer.
func PTRData(target string) string { return string(packed(target)) }

// SRVData is the data of a service's place. Priority and weight are 0 (RFC 6763 §5).
func SRVData(port uint16, target string) string {
	return string(append(binary.BigEndian.AppendUint16(make([]byte, 4), port), packed(target)...))
}

// TXTData is the data of a service's text, each string cut off after 255 bytes. No string at all is
// one empty string (RFC 6763 §6.1).
func TXTData(text []string) string {
	var b []byte
	for _, s := range text {
		s = s[:min(len(s), 255)]
		b = append(append(b, byte(len(s))), s...)
	}
	if len(b) == 0 {
		b = []byte{0}
	}
	return string(b)
}

// NSECData says that name has records of these types alone (RFC 6762 §6.1), all below 256.
func NSECData(name string, types ...Type) string {
	var bits [32]byte
	last := 0
	for _, t := range types {
		bits[t/8] |= 0x80 >> (t % 8)
		last = max(last, int(t/8))
	}
	b := append(packed(name), 0, byte(last+1))
	return string(append(b, bits[:last+1]...))
}

// Target is the name in a record's data; "" for types without.
func (r *Record) Target() string {
	lead, ok := nameAt(r.Type)
	if !ok || len(r.Data) < lead {
		return ""
	}
	name, _, err := dns.UnpackDomainName([]byte(r.Data), lead)
	if err != nil {
		return ""
	}
	return name
}

// Addr is the address of an A or AAAA record; the zero Addr for others.
func (r *Record) Addr() netip.Addr {
	a, ok := netip.AddrFromSlice([]byte(r.Data))
	if !ok || r.Type == A != a.Is4() || r.Type != A && r.Type != AAAA {
		return netip.Addr{}
	}
	return a
}

// ReverseName is the name under which an address's host is found.
func ReverseName(a netip.Addr) string {
	const hex = "0123456789abcdef"
	b := a.AsSlice()
	slices.Reverse(b)
	var s strings.Builder
	for _, c := range b {
		if a.Is4() {
			fmt.Fprintf(&s, "%d.", c)
		} else {
			s.Write([]byte{hex[c&15], '.', hex[c>>4], '.'})
		}
	}
	if a.Is4() {
		return s.String() + "in-addr.arpa."
	}
	return s.String() + "ip6.arpa."
}
