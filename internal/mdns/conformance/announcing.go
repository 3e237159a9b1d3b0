package conformance

import (
	"bytes"
	"slices"
	"strings"
	"time"

	"cloudlink.local/gateway/internal/mdns/mdnstest"
)

// announcements returns the multicast responses so far that claim the name.
func (s *script) announcements() []*packet { return s.received(both(s.claims(s.name), multicast)) }

func announcesTwice(s *script) {
	s.start()
	s.announced()
	time.Sleep(2500 * time.Millisecond)
	found := s.announcements()
	if len(found) < 2 || len(found) > 8 {
		s.fail("%d announcements, want 2 to 8", len(found))
	}
	s.within(found[1].at.Sub(found[0].at), time.Second, time.Second+busy, "from the first announcement to the second")
	for i := 2; i < len(found); i++ {
		before := found[i-1].at.Sub(found[i-2].at)
		s.within(found[i].at.Sub(found[i-1].at), 2*before-50*time.Millisecond, time.Hour, "from an announcement to the next")
	}
}

func announcesAfterLastProbe(s *script) {
	s.start()
	s.announced()
	probes := s.probes(s.name)
	if len(probes) == 0 {
		s.fail("there are no probes")
	}
	s.within(s.announcements()[0].at.Sub(probes[len(probes)-1].at), probeGap, 2*probeGap+busy, "from the last probe to the announcement")
}

func announcesAllRecords(s *script) {
	s.start()
	s.announced()
	time.Sleep(2500 * time.Millisecond)
	for _, want := range []struct {
		name  string
		typ   uint16
		flush bool
	}{
		{s.name, s.addrType, true},
		{reverse(s.own), typePTR, true},
		{s.instance, typeSRV, true},
		{s.instance, typeTXT, true},
		{s.service, typePTR, false},
	} {
		found := s.received(both(multicast, answers(want.name, want.typ)))
		if len(found) < 2 {
			s.fail("%s %s is announced %d times, want twice", want.name, typeName(want.typ), len(found))
		}
		if r, _ := found[0].answer(want.name, want.typ); r.flush() != want.flush {
			s.fail("announces %v", r)
		}
	}
}

func announcesNewText(s *script) {
	s.ready()
	service := mdnstest.Gateway.Services[0]
	service.Text = []string{"path=/new"}
	s.forget()
	s.host.Serve(service)
	text := append([]byte{byte(len(service.Text[0]))}, service.Text[0]...)
	s.wait(10*time.Second, "an announcement of the new text, flushing the old", func(p *packet) bool {
		r, ok := p.answer(s.instance, typeTXT)
		return p.response() && ok && bytes.Equal(r.data, text) && r.flush() && r.ttl > 0
	})
	s.calm()
	s.ask(q(s.instance, typeTXT))
	p := s.wait(3*time.Second, "the text", answers(s.instance, typeTXT))
	for _, r := range p.records() {
		if r.typ == typeTXT && !bytes.Equal(r.data, text) {
			s.fail("answers with %v after the text has changed", r)
		}
	}
}

// addresses waits until a question is answered with exactly these addresses.
func (s *script) addresses(want ...string) {
	s.pause()
	s.ask(q(s.name, s.addrType))
	p := s.wait(3*time.Second, "an answer for "+s.name, answers(s.name, s.addrType))
	var got []string
	for _, r := range p.answers {
		if r.is(s.name, s.addrType) {
			got = append(got, r.addr().String())
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		s.fail("answers with addresses %v, want %v", got, want)
	}
}

func announcesNewAddress(s *script) {
	s.ready()
	s.forget()
	s.host.IP("addr", "del", "192.0.2.1/24", "dev", targetPort)
	s.host.IP("addr", "add", "192.0.2.11/24", "dev", targetPort)
	s.wait(10*time.Second, "an announcement of the new address, flushing the old", func(p *packet) bool {
		r, ok := p.answer(s.name, typeA)
		return p.response() && p.multicast() && ok && r.addr().String() == "192.0.2.11" && r.flush() && r.ttl > 0
	})
	s.calm()
	s.addresses("192.0.2.11")
	s.pause()
	s.ask(q(reverse(own4), typePTR))
	s.quiet(time.Second, "answers for an address that it no longer has", answers(reverse(own4), typePTR))
}

func announcesAddedAddress(s *script) {
	s.ready()
	s.forget()
	s.host.IP("addr", "add", "192.0.2.11/24", "dev", targetPort)
	s.wait(10*time.Second, "an announcement of the added address", func(p *packet) bool {
		return p.response() && p.multicast() && slices.ContainsFunc(p.answers, func(r record) bool {
			return r.is(s.name, typeA) && r.addr().String() == "192.0.2.11" && r.ttl > 0
		})
	})
	s.calm()
	s.addresses("192.0.2.1", "192.0.2.11")
}

func keepsSetsTogether(s *script) {
	s.host.IP("addr", "add", "192.0.2.11/24", "dev", targetPort)
	s.ready()
	s.ask(q(s.name, typeA))
	s.wait(3*time.Second, "an answer for "+s.name, answers(s.name, typeA))
	for _, p := range s.received(holds(s.name, typeA)) {
		var all []string
		flush := false
		for _, r := range p.records() {
			if r.is(s.name, typeA) {
				all, flush = append(all, r.addr().String()), flush || r.flush()
			}
		}
		slices.Sort(all)
		if flush && !slices.Equal(all, []string{"192.0.2.1", "192.0.2.11"}) {
			s.fail("flushes all addresses but %v", all)
		}
	}
}

func withdrawsAddress(s *script) {
	s.host.IP("addr", "add", "192.0.2.11/24", "dev", targetPort)
	s.ready()
	s.forget()
	s.host.IP("addr", "del", "192.0.2.11/24", "dev", targetPort)
	s.wait(5*time.Second, "a goodbye of the address that is gone, or a flush", func(p *packet) bool {
		goodbye, flush, still := false, false, false
		for _, r := range p.records() {
			if r.is(s.name, typeA) {
				gone := r.addr().String() == "192.0.2.11"
				goodbye = goodbye || gone && r.ttl == 0
				still = still || gone && r.ttl > 0
				flush = flush || !gone && r.flush() && r.ttl > 0
			}
		}
		return p.response() && p.multicast() && (goodbye || flush && !still)
	})
	s.calm()
	s.addresses("192.0.2.1")
}

func saysGoodbye(s *script) {
	s.ready()
	s.forget()
	s.host.Stop()
	for _, want := range []question{q(s.name, s.addrType), q(s.service, typePTR), q(s.instance, typeSRV), q(s.instance, typeTXT)} {
		found := s.received(func(p *packet) bool {
			r, ok := p.answer(want.name, want.typ)
			return p.response() && p.multicast() && ok && r.ttl == 0
		})
		if len(found) == 0 {
			// The last packet may still be under way to the script.
			s.wait(time.Second, "a goodbye of "+want.String(), func(p *packet) bool {
				r, ok := p.answer(want.name, want.typ)
				return p.response() && p.multicast() && ok && r.ttl == 0
			})
		}
	}
}

func saysNothingAfterGoodbye(s *script) {
	s.ready()
	s.forget()
	s.host.Stop()
	gone := false
	for _, p := range s.packets()[s.pos:] {
		for _, r := range p.records() {
			if p.sent || !strings.EqualFold(r.name, s.name) || r.typ != s.addrType {
				continue
			}
			gone = gone || r.ttl == 0
			if gone && r.ttl > 0 {
				s.fail("claims its name again after its goodbye")
			}
		}
	}
	if !gone {
		s.fail("says no goodbye")
	}
}

func idles(s *script) {
	s.ready()
	s.forget()
	time.Sleep(20 * time.Second)
	// Up to eight announcements are allowed, each after twice the time of the one before.
	if found := s.packets()[s.pos:]; len(found) > 3 {
		s.fail("%d packets in 20 s though nobody asks", len(found))
	}
}
