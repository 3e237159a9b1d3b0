package conformance

import (
	"errors"
	"testing"
	"time"

	"cloudlink.local/gateway/internal/mdns/mdnstest"
)

// A Stopwatch measures how long a program takes to answer.
type Stopwatch struct {
	script *script
	id     uint16 // of the last question
}

// NewStopwatch starts a program and waits until it has announced itself. It is ended when the test ends.
func NewStopwatch(t testing.TB, kind mdnstest.Kind) (w *Stopwatch, err error) {
	t.Helper()
	s := newScript(t, kind, setup{})
	t.Cleanup(s.close)
	defer func() {
		switch r := recover().(type) {
		case nil:
		case *failure:
			err = r
		default:
			panic(r)
		}
	}()
	s.ready()
	return &Stopwatch{script: s}, nil
}

// Ask asks for the address of the host's name, a unique record, and returns the time from the question
// to the answer, both as the kernel had them. The question is a simple resolver's (RFC 6762, 6.7): the
// answer to others may be given once a second only.
func (w *Stopwatch) Ask() (time.Duration, error) {
	s := w.script
	w.id++
	const port = 40000
	asked := s.send(outgoing{port: port, message: message{id: w.id, questions: []question{q(s.name, s.addrType)}}})
	p := s.find(time.Second, func(p *packet) bool { return p.to.Port() == port && p.id == w.id && s.claims(s.name)(p) })
	if p == nil {
		return 0, errors.New("no answer in a second")
	}
	return p.at.Sub(asked.at), nil
}
