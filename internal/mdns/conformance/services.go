package conformance

import (
	"slices"
	"strings"
	"time"
)

func enumerates(s *script) {
	s.ready()
	if r := s.record(enumeration, typePTR); !strings.EqualFold(r.target(), s.service) {
		s.fail("answers with %v, want %s", r, s.service)
	}
}

func hasTextAndPort(s *script) {
	s.ready()
	if r := s.record(s.instance, typeSRV); len(r.data) < 7 || r.data[4] != 0 || r.data[5] != 80 {
		s.fail("answers with %v", r)
	}
	want := slices.Sorted(slices.Values(s.host.Names.Services[0].Text)) // the order does not matter
	if r := s.record(s.instance, typeTXT); !slices.Equal(slices.Sorted(slices.Values(r.strings())), want) {
		s.fail("answers with %v", r)
	}
}

func mapsBack(s *script) {
	s.ready()
	name := s.record(reverse(s.own), typePTR).target()
	s.ask(q(name, s.addrType))
	s.wait(3*second, "the address of "+name+", which the reverse mapping names", s.claims(name))
}

// required fails the scenario unless the answer to a question has these in its additionals or answers.
func (s *script) required(ask question, want ...question) {
	s.ready()
	target := s.record(s.instance, typeSRV).target()
	s.ask(ask)
	p := s.wait(3*second, "an answer to "+ask.String(), answers(ask.name, ask.typ))
	for _, w := range append(want, q(target, s.addrType)) {
		if _, ok := find(p.records(), w.name, w.typ); !ok {
			s.fail("the answer to %v lacks %v: %v", ask, w, p.message)
		}
	}
}

func additionalsOfPTR(s *script) {
	s.required(q(s.service, typePTR), q(s.instance, typeSRV), q(s.instance, typeTXT))
}

func additionalsOfSRV(s *script) { s.required(q(s.instance, typeSRV)) }

// conflict is a record that denies the host its name.
func (s *script) conflict() record { return s.a(s.name, s.third, 120).flushing() }

func probesAfterConflict(s *script) {
	s.ready()
	s.say(s.conflict())
	s.wait(3*second, "a probe for "+s.name, probe(s.name))
}

func probesAfterServiceConflict(s *script) {
	s.ready()
	s.say(srv(s.instance, 8080, "elsewhere.local", 120).flushing())
	s.wait(3*second, "a probe for "+s.instance, probe(s.instance))
}

func probesAfterConflictInUpperCase(s *script) {
	s.ready()
	s.say(s.a(strings.ToUpper(s.name), s.third, 120).flushing())
	s.wait(3*second, "a probe for "+s.name, probe(s.name))
}

func keepsNameNobodyDefends(s *script) {
	s.ready()
	s.say(s.conflict())
	s.wait(3*second, "a probe for "+s.name, probe(s.name))
	s.wait(5*second, "an announcement of "+s.name+", as nobody has it", s.claims(s.name))
	s.threeProbes(s.name, s.probesSince(s.conflictAt()))
	s.alive()
}

// conflictAt is when the script last spoke as another host.
func (s *script) conflictAt() time.Time {
	var at time.Time
	for _, p := range s.packets() {
		if p.sent && p.from.Addr() == s.other {
			at = p.at
		}
	}
	return at
}

func (s *script) probesSince(at time.Time) []*packet {
	return s.received(func(p *packet) bool { return p.probes(s.name) && p.at.After(at) })
}

func losesNameThatIsDefended(s *script) {
	s.ready()
	s.say(s.conflict())
	s.wait(3*second, "a probe for "+s.name, probe(s.name))
	s.say(s.conflict())
	for s.find(2*second, probe(s.name)) != nil {
		s.say(s.conflict())
	}
	s.ask(q(s.name, s.addrType))
	s.quiet(4*second, "claims a name that another has", s.claims(s.name))
}

// unmoved fails the scenario if the host probes again.
func (s *script) unmoved() {
	s.quiet(2*second, "probes, though there is no conflict", func(p *packet) bool { return !p.response() && len(p.authority) > 0 })
	s.alive()
}

func sameRecordIsNoConflict(s *script) {
	s.ready()
	s.say(s.ownAddress(120).flushing())
	s.unmoved()
}

func sharedRecordIsNoConflict(s *script) {
	s.ready()
	s.say(ptr(s.service, "Another._http._tcp.local", 4500))
	s.unmoved()
}

func otherPortIsNoConflict(s *script) {
	s.ready()
	s.send(outgoing{from: s.other, port: 40000, message: message{flags: flagResponse | flagAuthoritative, answers: []record{s.conflict()}}})
	s.unmoved()
}

func distantHostIsNoConflict(s *script) {
	s.ready()
	s.send(outgoing{from: offLink, unicast: true, message: message{flags: flagResponse | flagAuthoritative, answers: []record{s.conflict()}}})
	s.unmoved()
}

func rescuesRecord(s *script) {
	s.ready()
	for _, r := range []record{s.ownAddress(0).flushing(), s.record(s.service, typePTR)} {
		r.ttl = 0
		s.say(r)
		s.wait(2*second, "an announcement of "+r.String()+", which another has said goodbye to", both(multicast, answers(r.name, r.typ)))
	}
}
