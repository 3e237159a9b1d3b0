package conformance

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"time"
)

func answersLongQueries(s *script) {
	s.ready()
	m := message{questions: []question{q(s.service, typePTR), q(s.name, s.addrType)}}
	for i := 0; len(m.bytes()) < 8900; i++ {
		m.answers = append(m.answers, ptr(s.service, fmt.Sprintf("Another %d._http._tcp.local", i), 4500))
	}
	s.send(outgoing{message: m})
	s.wait(3*second, "an answer for "+s.name, s.claims(s.name))
}

// header makes a message's first bytes.
func header(flags, questions, answers uint16) (b []byte) {
	for _, n := range []uint16{0, flags, questions, answers, 0, 0} {
		b = binary.BigEndian.AppendUint16(b, n)
	}
	return b
}

// inClass appends type and class.
func inClass(b []byte, typ uint16) []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, typ), classIN)
}

const pointer = 0xc000 // to byte 0 of the message

func readsCompressedQuestions(s *script) {
	s.ready()
	b := appendName(header(0, 2, 0), "_ipp._tcp.local")
	local := len(b) - len("\x05local\x00")
	b = inClass(b, typePTR)
	host := labels(s.name)[0]
	b = append(append(b, byte(len(host))), host...)
	b = binary.BigEndian.AppendUint16(b, pointer|uint16(local))
	b = inClass(b, s.addrType)
	s.send(outgoing{raw: b})
	s.wait(3*second, "an answer for "+s.name, s.claims(s.name))
}

func readsCompressedKnownAnswers(s *script) {
	s.ready()
	const name = 12 // where the question's is
	b := inClass(appendName(header(0, 1, 1), s.service), typePTR)
	b = inClass(binary.BigEndian.AppendUint16(b, pointer|name), typePTR)
	b = binary.BigEndian.AppendUint32(b, 4500)
	instance := labels(s.instance)[0]
	b = binary.BigEndian.AppendUint16(b, uint16(1+len(instance)+2))
	b = append(append(b, byte(len(instance))), instance...)
	b = binary.BigEndian.AppendUint16(b, pointer|name)
	s.send(outgoing{raw: b})
	s.silent(s.service, typePTR, "answers with what is known")
	s.alive()
}

func survivesLoops(s *script) {
	s.ready()
	for _, name := range [][]byte{
		{0xc0, 12},           // points to itself
		{1, 'a', 0xc0, 12},   // to its beginning
		{0xc0, 14, 0xc0, 12}, // to each other
		{0xc0, 200},          // outside
		{0xff, 0xff},         // far outside
		{0xc0},               // is cut
		{63, 'a'},            // is cut
		{0x40, 'a', 0},       // a kind of label that there is not
		{0x80, 'a', 0},       // another
		append(appendName(nil, "a")[:2], 0xc0, 0), // to the header
	} {
		for _, flags := range []uint16{0, flagResponse | flagAuthoritative} {
			s.send(outgoing{raw: inClass(append(header(flags, 1, 0), name...), typeA)})
			s.send(outgoing{raw: inClass(append(header(flags, 0, 1), name...), typeA)})
		}
	}
	long := header(0, 1, 0)
	for range 100 {
		long = append(long, "\x09too-long-"...)
	}
	s.send(outgoing{raw: inClass(append(long, 0), typeA)})
	s.alive()
}

func survivesGarbage(s *script) {
	s.ready()
	random := rand.New(rand.NewPCG(6762, 6763))
	good := message{
		flags: flagResponse, questions: []question{q(s.name, typeANY)},
		answers:     []record{s.a(s.name, s.own, 120), srv(s.instance, 80, s.name, 120), ptr(s.service, s.instance, 4500)},
		additionals: []record{{s.name, typeNSEC, classIN, 120, append(appendName(nil, s.name), 0, 1, 0x40)}},
	}
	for i := range 300 {
		var b []byte
		switch i % 3 {
		case 0: // noise
			b = make([]byte, random.IntN(600))
			for j := range b {
				b[j] = byte(random.Uint32())
			}
		case 1: // the beginning of a message
			b = good.bytes()
			b = b[:random.IntN(len(b))]
		default: // one with a few bytes changed, but not its names: they would be conflicts
			b = good.bytes()
			for range 1 + random.IntN(4) {
				b[4+random.IntN(8)] = byte(random.Uint32())
			}
		}
		s.send(outgoing{raw: b})
	}
	time.Sleep(2 * second)
	s.alive()
}
