package conformance

import (
	"slices"
	"strings"
	"time"
)

const (
	second    = time.Second
	shortTime = 1200 * time.Millisecond // in which an answer comes, if one comes
)

// silent fails the scenario if the host answers with the record.
func (s *script) silent(name string, typ uint16, why string) {
	s.quiet(shortTime, why, answers(name, typ))
}

func answersUniqueAtOnce(s *script) {
	s.ready()
	var all []time.Duration
	for range 4 {
		asked := s.ask(q(s.name, s.addrType))
		p := s.wait(3*second, "an answer for "+s.name, s.claims(s.name))
		all = append(all, p.at.Sub(asked.at))
		s.pause()
	}
	s.mostly(all, 0, 50*time.Millisecond, "answers with a unique record")
}

// mostly fails the scenario where one of these times is too short, or more than one of four too long.
func (s *script) mostly(all []time.Duration, least, most time.Duration, what string) {
	slices.Sort(all)
	s.within(all[0], least, most, what)
	s.within(all[len(all)*3/4-1], least, most, what)
}

func delaysShared(s *script) {
	s.ready()
	var all []time.Duration
	for range 8 {
		asked := s.ask(q(s.service, typePTR))
		p := s.wait(3*second, "an answer for "+s.service, answers(s.service, typePTR))
		all = append(all, p.at.Sub(asked.at))
		s.pause()
	}
	s.mostly(all, 20*time.Millisecond, 130*time.Millisecond, "answers with a shared record")
	if spread := all[len(all)-1] - all[0]; spread < 10*time.Millisecond {
		s.fail("answers with a shared record come after %v, which is not random", all)
	}
}

func aggregatesOneQuery(s *script) {
	s.ready()
	s.ask(q(s.name, s.addrType), q(s.service, typePTR), q(s.instance, typeSRV))
	s.oneAnswer(q(s.name, s.addrType), q(s.service, typePTR), q(s.instance, typeSRV))
}

func aggregatesTwoQueries(s *script) {
	s.ready()
	sent := s.sendAll(asking(q(s.service, typePTR)), asking(q(enumeration, typePTR)))
	s.inTime(sent[1], answers(s.service, typePTR))
	s.oneAnswer(q(s.service, typePTR), q(enumeration, typePTR))
}

// oneAnswer fails the scenario unless one packet answers all.
func (s *script) oneAnswer(questions ...question) {
	s.wait(3*second, "one packet that answers all", func(p *packet) bool {
		return p.response() && !slices.ContainsFunc(questions, func(q question) bool {
			_, ok := p.answer(q.name, q.typ)
			return !ok
		})
	})
	for _, q := range questions {
		s.silent(q.name, q.typ, "answers twice")
	}
}

func limitsRate(s *script) {
	s.ready()
	first := s.ask(q(s.name, s.addrType))
	for range 7 {
		time.Sleep(200 * time.Millisecond)
		s.ask(q(s.name, s.addrType))
	}
	s.find(second, func(*packet) bool { return false })
	found := s.received(func(p *packet) bool {
		return p.at.After(first.at) && p.multicast() && answers(s.name, s.addrType)(p)
	})
	if len(found) == 0 {
		s.fail("no answer for %s", s.name)
	}
	for i := 1; i < len(found); i++ {
		if d := found[i].at.Sub(found[i-1].at); d < second-10*time.Millisecond {
			s.fail("multicasts a record again after %v, want 1 s", d)
		}
	}
}

func answersAgain(s *script) {
	s.ready()
	for range 3 {
		s.ask(q(s.name, s.addrType))
		s.wait(2*second, "an answer for "+s.name, s.claims(s.name))
		time.Sleep(second + 20*time.Millisecond)
	}
}

func defendsQuickly(s *script) {
	s.ready()
	s.ask(q(s.name, s.addrType))
	s.wait(3*second, "an answer for "+s.name, s.claims(s.name))
	time.Sleep(300 * time.Millisecond)
	rival := s.send(outgoing{from: s.other, message: message{ // not QU: all are to hear the answer
		questions: []question{q(s.name, typeANY)}, authority: []record{s.a(s.name, s.third, 120)},
	}})
	p := s.wait(3*second, "a defence of "+s.name, s.claims(s.name))
	s.within(p.at.Sub(rival.at), 0, probeGap, "the defence")
}

func defendsService(s *script) {
	s.ready()
	rival := s.rival(s.instance, srv(s.instance, 8080, "elsewhere.local", 120))
	p := s.wait(3*second, "a defence of "+s.instance, answers(s.instance, typeSRV))
	s.within(p.at.Sub(rival.at), 0, probeGap, "the defence")
}

func ignoresUnknownNames(s *script) {
	s.ready()
	s.ask(q("nobody.local", s.addrType), q("nobody.local", typeANY), qu("_ipp._tcp.local", typePTR), q("99.2.0.192.in-addr.arpa", typePTR))
	s.quiet(1500*time.Millisecond, "answers for others", anyResponse)
}

// denies fails the scenario unless the host says that its name has no such record.
func (s *script) denies(typ uint16) {
	s.ask(q(s.name, typ))
	p := s.wait(3*second, "an NSEC record", func(p *packet) bool {
		_, ok := find(p.records(), s.name, typeNSEC)
		return p.response() && ok
	})
	r, _ := find(p.records(), s.name, typeNSEC)
	switch types := r.types(); {
	case !slices.Contains(types, s.addrType):
		s.fail("%v does not list %s", r, typeName(s.addrType))
	case slices.Contains(types, typ):
		s.fail("%v lists %s", r, typeName(typ))
	case slices.Contains(types, typeNSEC):
		s.fail("%v lists itself", r)
	case !strings.EqualFold(r.target(), s.name):
		s.fail("%v has %s for the next name", r, r.target())
	case !r.flush():
		s.fail("%v has no flush bit", r)
	}
}

func deniesOtherFamily(s *script) { s.ready(); s.denies(s.noType) }
func deniesOtherTypes(s *script)  { s.ready(); s.denies(typeMX) }

func tellsOfOtherFamily(s *script) {
	s.ready()
	s.ask(q(s.name, s.addrType))
	p := s.wait(3*second, "an answer for "+s.name, s.claims(s.name))
	_, nsec := find(p.additionals, s.name, typeNSEC)
	_, other := find(p.records(), s.name, s.noType)
	if !nsec && !other {
		s.fail("the answer does not tell whether there is %s too: %v", typeName(s.noType), p.message)
	}
}

func answersANY(s *script) {
	s.ready()
	s.ask(q(s.name, typeANY))
	s.wait(3*second, "an answer for "+s.name, s.claims(s.name))
	s.pause()
	s.ask(q(s.instance, typeANY))
	s.wait(3*second, "an answer with both SRV and TXT", both(answers(s.instance, typeSRV), answers(s.instance, typeTXT)))
}

func answersClassANY(s *script) {
	s.ready()
	s.ask(question{s.name, s.addrType, 255})
	s.wait(3*second, "an answer for "+s.name, s.claims(s.name))
}

func ignoresOtherClasses(s *script) {
	s.ready()
	const chaos = 3
	s.ask(question{s.name, s.addrType, chaos})
	s.silent(s.name, s.addrType, "answers a question of class CH")
}

func ignoresCase(s *script) {
	s.ready()
	s.ask(q(strings.ToUpper(s.name), s.addrType))
	s.wait(3*second, "an answer for "+strings.ToUpper(s.name), s.claims(s.name))
	s.pause()
	s.ask(q(strings.ToUpper(s.instance), typeSRV))
	s.wait(3*second, "an answer for "+strings.ToUpper(s.instance), answers(s.instance, typeSRV))
}

// ignores fails the scenario if a question with these flags is answered.
func (s *script) ignores(flags uint16) {
	s.ready()
	s.send(outgoing{message: message{flags: flags, questions: []question{q(s.name, s.addrType)}}})
	s.silent(s.name, s.addrType, "answers")
	s.alive()
}

func ignoresOpcodes(s *script)   { s.ignores(2 << 11) }
func ignoresCodes(s *script)     { s.ignores(3) }
func ignoresResponses(s *script) { s.ignores(flagResponse | flagAuthoritative) }

func answersWithIDZero(s *script) {
	s.ready()
	s.send(outgoing{message: message{id: 0x1234, questions: []question{q(s.name, s.addrType)}}})
	p := s.wait(3*second, "an answer for "+s.name, s.claims(s.name))
	if p.id != 0 {
		s.fail("a multicast answer has id %#x", p.id)
	}
}

// tour has the host say all it may say: probes, announcements, answers, goodbyes.
func (s *script) tour() {
	s.ready()
	for _, ask := range []question{
		q(s.name, s.addrType), q(s.name, s.noType), q(s.name, typeANY), q(s.service, typePTR), q(enumeration, typePTR),
		q(s.instance, typeSRV), q(s.instance, typeTXT), q(s.instance, typeANY), q(reverse(s.own), typePTR),
		qu(s.name, s.addrType), qu(s.service, typePTR),
	} {
		s.ask(ask)
		time.Sleep(200 * time.Millisecond)
	}
	s.pause()
	s.ask(q(s.name, typeANY), q(s.name, s.addrType), q(s.instance, typeANY), q(s.instance, typeSRV),
		q(s.service, typePTR), q(enumeration, typePTR), q(s.service, typeANY))
	s.send(outgoing{port: 40000, message: message{id: 77, questions: []question{q(s.name, s.addrType)}}})
	time.Sleep(second)
	s.host.Stop()
	time.Sleep(100 * time.Millisecond)
}

// each looks at each packet of a tour; there are some.
func (s *script) each(look func(*packet)) {
	s.tour()
	all := s.received(func(*packet) bool { return true })
	if !slices.ContainsFunc(all, (*packet).multicast) {
		s.fail("the host is silent")
	}
	for _, p := range all {
		look(p)
	}
}

func readable(s *script) {
	s.each(func(p *packet) {
		if p.bad != nil {
			s.fail("a packet cannot be read: %v", p.bad)
		}
	})
}

func hops255(s *script) {
	s.each(func(p *packet) {
		if p.hops != 255 {
			s.fail("a packet to %v has TTL %d", p.to, p.hops)
		}
	})
}

func port5353(s *script) {
	s.each(func(p *packet) {
		if p.response() && p.from.Port() != mdnsPort || p.multicast() && p.to.Port() != mdnsPort {
			s.fail("a packet from %v to %v", p.from, p.to)
		}
	})
}

func responseHeader(s *script) {
	s.each(func(p *packet) {
		if p.response() && p.flags != flagResponse|flagAuthoritative {
			s.fail("a response has flags %#x", p.flags)
		}
		if !p.response() && p.flags&^flagTruncated != 0 {
			s.fail("a query has flags %#x", p.flags)
		}
		if p.multicast() && p.id != 0 {
			s.fail("a multicast packet has id %#x", p.id)
		}
	})
}

func noQuestionsInResponses(s *script) {
	s.each(func(p *packet) {
		if p.response() && p.multicast() && len(p.questions) > 0 {
			s.fail("a response has a question: %v", p.message)
		}
	})
}

func noDuplicates(s *script) {
	s.each(func(p *packet) {
		seen := map[string]bool{}
		for _, r := range p.records() {
			if p.response() && seen[r.key()] {
				s.fail("a packet has %v twice: %v", r, p.message)
			}
			seen[r.key()] = true
		}
	})
}

func fitsFrames(s *script) {
	s.each(func(p *packet) {
		if p.size > 1500 {
			s.fail("a packet has %d bytes", p.size)
		}
	})
}

func flushesUnique(s *script) {
	s.each(func(p *packet) {
		if !p.response() || !p.multicast() {
			return
		}
		for _, r := range p.records() {
			unique := r.typ != typePTR || strings.HasSuffix(r.name, ".arpa")
			if unique != r.flush() {
				s.fail("%v in %v", r, p.message)
			}
		}
	})
}

func lifetimes(s *script) {
	s.ready()
	for _, want := range []struct {
		question
		ttl uint32
	}{
		{q(s.name, s.addrType), 120}, {q(s.instance, typeSRV), 120}, {q(reverse(s.own), typePTR), 120},
		{q(s.service, typePTR), 4500}, {q(s.instance, typeTXT), 4500},
	} {
		if r := s.record(want.name, want.typ); r.ttl != want.ttl {
			s.fail("%v, want a TTL of %d", r, want.ttl)
		}
	}
}

func unicastsWhenAsked(s *script) {
	s.ready()
	s.ask(qu(s.name, s.addrType))
	p := s.wait(3*second, "an answer for "+s.name, s.claims(s.name))
	if p.multicast() || p.to.Addr() != s.us || p.to.Port() != mdnsPort {
		s.fail("the answer goes to %v", p.to)
	}
	s.quiet(shortTime, "multicasts as well", both(multicast, answers(s.name, s.addrType)))
}

func multicastsWhenStale(s *script) {
	s.ready()
	time.Sleep(32 * second) // a quarter of the TTL of 120 s, and more
	s.ask(qu(s.name, s.addrType))
	s.wait(3*second, "an answer by multicast", both(multicast, s.claims(s.name)))
}

func answersDirectQueries(s *script) {
	s.ready()
	s.send(outgoing{unicast: true, message: message{questions: []question{q(s.name, s.addrType)}}})
	p := s.wait(3*second, "an answer for "+s.name, s.claims(s.name))
	if p.multicast() || p.to.Addr() != s.us {
		s.fail("the answer goes to %v", p.to)
	}
}

func ignoresDistantQueries(s *script) {
	s.ready()
	for _, port := range []uint16{mdnsPort, 40000} {
		s.send(outgoing{from: offLink, port: port, unicast: true, message: message{questions: []question{q(s.name, s.addrType)}}})
		s.silent(s.name, s.addrType, "answers a host that is not on the link")
	}
	s.alive()
}

// legacy asks from another port than 5353 and returns the answer.
func (s *script) legacy(ask question) *packet {
	s.ready()
	const id, port = 0x4321, 40000
	s.send(outgoing{port: port, message: message{id: id, questions: []question{ask}}})
	p := s.wait(3*second, "an answer by unicast", both(unicast, answers(ask.name, ask.typ)))
	if p.to.Addr() != s.us || p.to.Port() != port {
		s.fail("the answer goes to %v", p.to)
	}
	if p.id != id {
		s.fail("the answer has id %#x, want %#x", p.id, id)
	}
	return p
}

func answersLegacy(s *script) {
	p := s.legacy(q(s.name, s.addrType))
	if len(p.questions) != 1 || !strings.EqualFold(p.questions[0].name, s.name) || p.questions[0].typ != s.addrType {
		s.fail("the answer has questions %v", p.questions)
	}
}

func shortensLegacy(s *script) {
	for _, r := range s.legacy(q(s.service, typePTR)).records() {
		if r.ttl > 10 {
			s.fail("the answer has %v", r)
		}
	}
}

func spareLegacyTheFlushBit(s *script) {
	for _, r := range s.legacy(q(s.name, s.addrType)).records() {
		if r.flush() {
			s.fail("the answer has %v", r)
		}
	}
}

// own is the address record as the host has it, other than with the flush bit.
func (s *script) ownAddress(ttl uint32) record { return s.a(s.name, s.own, ttl) }

// asksKnowing asks and says what is known already.
func (s *script) asksKnowing(ask question, known ...record) *packet {
	return s.send(outgoing{message: message{questions: []question{ask}, answers: known}})
}

func heedsKnownAnswers(s *script) {
	s.ready()
	for _, ask := range []question{q(s.name, s.addrType), q(s.service, typePTR)} {
		r := s.record(ask.name, ask.typ)
		r.ttl, r.class = r.ttl/2, classIN
		s.asksKnowing(ask, r)
		s.silent(ask.name, ask.typ, "answers with what is known")
	}
	s.alive()
}

func refreshesKnownAnswers(s *script) {
	s.ready()
	for _, ask := range []question{q(s.name, s.addrType), q(s.service, typePTR)} {
		r := s.record(ask.name, ask.typ)
		r.ttl, r.class = r.ttl/2-1, classIN
		s.asksKnowing(ask, r)
		s.wait(3*second, "an answer, as what is known is over half its life", answers(ask.name, ask.typ))
	}
}

func heedsOneKnownAnswer(s *script) {
	s.ready()
	r := s.record(s.service, typePTR)
	r.class = classIN
	s.send(outgoing{message: message{questions: []question{q(s.name, s.addrType), q(s.service, typePTR)}, answers: []record{r}}})
	p := s.wait(3*second, "an answer for "+s.name, s.claims(s.name))
	if _, ok := find(p.records(), s.service, typePTR); ok {
		s.fail("answers with what is known: %v", p.message)
	}
	s.silent(s.service, typePTR, "answers with what is known")
}

func correctsKnownAnswers(s *script) {
	s.ready()
	s.asksKnowing(q(s.name, s.addrType), s.a(s.name, s.third, 120))
	s.wait(3*second, "an answer, as something else is known", s.claims(s.name))
}

func heedsLaterKnownAnswers(s *script) {
	s.ready()
	r := s.record(s.service, typePTR)
	r.class = classIN
	first := s.send(outgoing{message: message{flags: flagTruncated, questions: []question{q(s.service, typePTR)}}})
	pos := s.pos
	time.Sleep(100 * time.Millisecond)
	second := s.send(outgoing{message: message{answers: []record{r}}})
	s.pos = pos
	if second.at.Sub(first.at) > 350*time.Millisecond {
		s.late("the script's second packet comes after %v", second.at.Sub(first.at))
	}
	s.silent(s.service, typePTR, "answers with what is known")
	s.alive()
}

func awaitsKnownAnswers(s *script) {
	s.ready()
	asked := s.send(outgoing{message: message{flags: flagTruncated, questions: []question{q(s.service, typePTR)}}})
	p := s.wait(3*second, "an answer for "+s.service, answers(s.service, typePTR))
	s.within(p.at.Sub(asked.at), 400*time.Millisecond, 500*time.Millisecond+busy, "the answer")
}

func leavesAnswerToOthers(s *script) {
	s.ready()
	r := s.record(s.service, typePTR)
	sent := s.sendAll(asking(q(s.service, typePTR)), s.saying(r))
	s.inTime(sent[1], answers(s.service, typePTR))
	s.silent(s.service, typePTR, "answers with what another has just answered")
}

func answersBesideShorter(s *script) {
	s.ready()
	r := s.record(s.service, typePTR)
	r.ttl = 10
	sent := s.sendAll(asking(q(s.service, typePTR)), s.saying(r))
	s.inTime(sent[1], answers(s.service, typePTR))
	s.wait(3*second, "an answer, as another's has a shorter life", answers(s.service, typePTR))
}

func ownLinkOnly(s *script) {
	s.tour()
	for _, p := range s.received(anyResponse) {
		for _, r := range p.records() {
			if (r.typ == typeA || r.typ == typeAAAA) && r.addr() != s.own || r.is(reverse(second4), typePTR) {
				s.fail("tells of another link: %v", r)
			}
		}
	}
}
