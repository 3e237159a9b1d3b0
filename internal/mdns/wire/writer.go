package wire

import (
	"encoding/binary"

	"github.com/miekg/dns"
)

// A Writer makes a packet of at most as many bytes as its limit. Sections are written in their order:
// questions, answers, authority, additional.
type Writer struct {
	buf   []byte // as long as the limit
	off   int
	names map[string]int // where a name is, for compression

	// Legacy says that the reader is an ordinary resolver: it knows neither the top bit of a class nor
	// compression in SRV (RFC 6762 §6.7, §18.14).
	Legacy bool
}

// Sections of a packet, as the words that count them in its header.
const (
	questions = 2 + iota
	answers
	authority
	additional
)

// NewQuery makes a Writer of a query. Its id is zero (RFC 6762 §18.1).
func NewQuery(limit int) *Writer { return newWriter(limit) }

// NewResponse makes a Writer of a response; id is zero but for legacy queries.
func NewResponse(limit int, id uint16) *Writer {
	w := newWriter(limit)
	binary.BigEndian.PutUint16(w.buf, id)
	binary.BigEndian.PutUint16(w.buf[2:], response|authoritative)
	return w
}

func newWriter(limit int) *Writer {
	return &Writer{buf: make([]byte, max(limit, headerSize)), off: headerSize, names: map[string]int{}}
}

// Bytes is the packet.
func (w *Writer) Bytes() []byte { return w.buf[:w.off] }

// Empty says whether the packet has neither question nor record.
func (w *Writer) Empty() bool { return w.off == headerSize }

// Question adds a question. False says that it does not fit; so do the following.
func (w *Writer) Question(q Question) bool {
	return w.add(questions, 1, func() bool {
		class := q.Class
		if q.Unicast {
			class |= topBit
		}
		return w.name(q.Name, true) && w.word(uint16(q.Type)) && w.word(class)
	})
}

// Answers adds records, all or none.
func (w *Writer) Answers(r ...Record) bool { return w.records(answers, r) }

// Authority adds records, all or none.
func (w *Writer) Authority(r ...Record) bool { return w.records(authority, r) }

// Additional adds records, all or none.
func (w *Writer) Additional(r ...Record) bool { return w.records(additional, r) }

func (w *Writer) records(section int, records []Record) bool {
	return w.add(section, len(records), func() bool {
		for i := range records {
			if !w.record(&records[i]) {
				return false
			}
		}
		return true
	})
}

// add writes n entries of a section, or leaves the packet as it was.
func (w *Writer) add(section, n int, write func() bool) bool {
	start := w.off
	if !write() {
		w.off = start
		for name, off := range w.names {
			if off >= start {
				delete(w.names, name)
			}
		}
		return false
	}
	count := w.buf[2*section:]
	binary.BigEndian.PutUint16(count, binary.BigEndian.Uint16(count)+uint16(n))
	return true
}

func (w *Writer) record(r *Record) bool {
	class := r.Class
	if r.Flush && !w.Legacy {
		class |= topBit
	}
	if !(w.name(r.Name, true) && w.word(uint16(r.Type)) && w.word(class) &&
		w.word(uint16(r.TTL>>16)) && w.word(uint16(r.TTL)) && w.word(0)) {
		return false
	}
	start := w.off
	if !w.data(r) {
		return false
	}
	binary.BigEndian.PutUint16(w.buf[start-2:], uint16(w.off-start))
	return true
}

func (w *Writer) data(r *Record) bool {
	lead, ok := nameAt(r.Type)
	if !ok || len(r.Data) < lead {
		return w.raw(r.Data)
	}
	name, end, err := dns.UnpackDomainName([]byte(r.Data), lead)
	if err != nil {
		return w.raw(r.Data)
	}
	return w.raw(r.Data[:lead]) && w.name(name, !(w.Legacy && r.Type == SRV)) && w.raw(r.Data[end:])
}

func (w *Writer) name(name string, compress bool) bool {
	off, err := dns.PackDomainName(name, w.buf, w.off, w.names, compress)
	if err != nil {
		return false
	}
	w.off = off
	return true
}

func (w *Writer) word(v uint16) bool {
	if len(w.buf)-w.off < 2 {
		return false
	}
	binary.BigEndian.PutUint16(w.buf[w.off:], v)
	w.off += 2
	return true
}

func (w *Writer) raw(s string) bool {
	if len(w.buf)-w.off < len(s) {
		return false
	}
	w.off += copy(w.buf[w.off:], s)
	return true
}
