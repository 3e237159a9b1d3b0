package conformance

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

const (
	probeGap = 250 * time.Millisecond
	busy     = 250 * time.Millisecond // by how much a busy machine may be late
)

// probes returns the host's probes for a name so far.
func (s *script) probes(name string) []*packet { return s.received(probe(name)) }

func probesThreeTimes(s *script) {
	s.start()
	s.announced()
	for _, name := range []string{s.name, s.instance} {
		s.threeProbes(name, s.probes(name))
	}
}

// threeProbes fails the scenario unless these are one whole probing.
func (s *script) threeProbes(name string, probes []*packet) {
	if len(probes) != 3 {
		s.fail("%d probes for %s, want 3", len(probes), name)
	}
	for i := 1; i < 3; i++ {
		s.within(probes[i].at.Sub(probes[i-1].at), probeGap, probeGap+busy, "from a probe for "+name+" to the next")
	}
}

func probesAskForANY(s *script) {
	s.eachProbe(func(p *packet, q question) {
		if q.typ != typeANY {
			s.fail("a probe asks for %v, want ANY", q)
		}
	})
}

func probesAskForUnicast(s *script) {
	s.eachProbe(func(p *packet, q question) {
		if q.class&top == 0 {
			s.fail("a probe asks for %v, want QU", q)
		}
	})
}

// eachProbe looks at each question of each probe from the start to the announcement.
func (s *script) eachProbe(look func(*packet, question)) {
	s.start()
	s.announced()
	found := s.received(func(p *packet) bool { return !p.response() && len(p.authority) > 0 })
	if len(found) == 0 {
		s.fail("there are no probes")
	}
	for _, p := range found {
		for _, q := range p.questions {
			look(p, q)
		}
	}
}

func probesProposeAllRecords(s *script) {
	s.eachProbe(func(p *packet, q question) {
		var want []uint16
		switch {
		case strings.EqualFold(q.name, s.name):
			want = []uint16{s.addrType}
		case strings.EqualFold(q.name, s.instance):
			want = []uint16{typeSRV, typeTXT}
		}
		for _, typ := range want {
			r, ok := find(p.authority, q.name, typ)
			if !ok {
				s.fail("a probe for %s proposes no %s: %v", q.name, typeName(typ), p.message)
			}
			if typ == s.addrType && r.addr() != s.own {
				s.fail("a probe proposes %v", r)
			}
		}
	})
}

func probesDoNotFlush(s *script) {
	s.eachProbe(func(p *packet, _ question) {
		for _, r := range p.authority {
			if r.flush() {
				s.fail("a probe proposes %v", r)
			}
		}
	})
}

func probesNameAndServiceTogether(s *script) {
	s.start()
	s.announced()
	host, service := s.probes(s.name), s.probes(s.instance)
	if len(host) == 0 || len(service) == 0 {
		s.fail("%d probes for the host, %d for the service", len(host), len(service))
	}
	if d := service[0].at.Sub(host[0].at).Abs(); d >= probeGap {
		s.late("the first probes for host and service are %v apart", d)
	}
}

func probesWhatItAnnounces(s *script) {
	s.start()
	s.announced()
	time.Sleep(2 * time.Second)
	for _, p := range s.received(anyResponse) {
		for _, r := range p.records() {
			unique := r.typ == s.addrType || r.typ == typeSRV || r.typ == typeTXT
			if unique && len(s.received(func(x *packet) bool { return x.probes(r.name) && x.at.Before(p.at) })) == 0 {
				s.fail("announces %v and has not probed for it", r)
			}
		}
	}
}

func silentWhileProbing(s *script) {
	s.start()
	s.wait(10*time.Second, "a probe for "+s.name, probe(s.name))
	s.ask(q(s.name, s.addrType), q(s.name, typeANY))
	first := s.wait(10*time.Second, "an announcement", s.claims(s.name))
	probes := s.probes(s.name)
	last := probes[len(probes)-1]
	if len(probes) < 3 || first.at.Sub(last.at) < 100*time.Millisecond {
		s.fail("claims the name %v after probe %d", first.at.Sub(last.at), len(probes))
	}
}

func deniedName(s *script) {
	s.start()
	s.wait(10*time.Second, "a probe for "+s.name, probe(s.name))
	s.say(s.a(s.name, s.third, 120).flushing())
	s.quiet(4*time.Second, "claims a name that was denied", s.claims(s.name))
	s.ask(q(s.name, s.addrType))
	s.quiet(time.Second, "claims a name that was denied", s.claims(s.name))
}

func deniedInstance(s *script) {
	s.start()
	s.wait(10*time.Second, "a probe for "+s.instance, probe(s.instance))
	s.say(srv(s.instance, 8080, "elsewhere.local", 120).flushing())
	s.quiet(4*time.Second, "claims a name that was denied", holds(s.instance, typeSRV))
	s.seen(10*time.Second, "an announcement of the service by another name", func(p *packet) bool {
		return p.response() && slices.ContainsFunc(p.answers, func(r record) bool {
			return r.typ == typeSRV && !strings.EqualFold(r.name, s.instance) && strings.HasSuffix(strings.ToLower(r.name), s.service)
		})
	})
}

// limitsConflicts denies the service every name that it probes for.
func limitsConflicts(s *script) {
	s.start()
	denied := map[string]bool{}
	var at []time.Time
	isNew := func(p *packet) bool {
		return !p.response() && len(p.authority) > 0 && slices.ContainsFunc(p.questions, func(q question) bool {
			return strings.HasSuffix(strings.ToLower(q.name), "."+s.service) && !denied[q.name]
		})
	}
	for len(at) < 17 {
		p := s.find(8*time.Second, isNew)
		if p == nil {
			break // it has given up, or waits: nothing more can be wrong
		}
		at = append(at, p.at)
		if n := len(at); n > 15 && at[n-2].Sub(at[n-16]) < 10*time.Second && at[n-1].Sub(at[n-2]) < 5*time.Second {
			s.fail("probes again %v after %d conflicts in %v", at[n-1].Sub(at[n-2]), 15, at[n-2].Sub(at[n-16]))
		}
		for _, q := range p.questions {
			if strings.HasSuffix(strings.ToLower(q.name), "."+s.service) && !denied[q.name] {
				denied[q.name] = true
				s.say(srv(q.name, 8080, "elsewhere.local", 120).flushing())
			}
		}
	}
	if len(at) == 0 {
		s.fail("there are no probes")
	}
}

// smallest and greatest come before and after any address of the host's.
func (s *script) smallest() netip.Addr {
	if s.setup.ipv6 {
		return netip.MustParseAddr("2001:db8::1")
	}
	return netip.MustParseAddr("1.0.0.1")
}

func (s *script) greatest() netip.Addr {
	if s.setup.ipv6 {
		return netip.MustParseAddr("fe80:ffff::1")
	}
	return netip.MustParseAddr("223.255.255.254")
}

func loses(s *script) {
	s.start()
	s.wait(10*time.Second, "a probe for "+s.name, probe(s.name))
	rival := s.rival(s.name, s.a(s.name, s.greatest(), 120))
	s.lost(s.name, rival)
}

// lost fails the scenario unless the host waits a second, from the rival's probe, and probes again.
func (s *script) lost(name string, rival *packet) {
	const wait = time.Second
	// One that it sent at the same time does not count.
	const crossed = 10 * time.Millisecond
	next := s.wait(5*time.Second, "a probe for "+name+" again", func(p *packet) bool {
		return p.at.Sub(rival.at) > crossed && (p.probes(name) || holds(name, s.addrType)(p) || holds(name, typeSRV)(p))
	})
	if next.response() {
		s.fail("goes on as if it had won: %v", next.message)
	}
	if d := next.at.Sub(rival.at); d < wait-20*time.Millisecond {
		s.fail("probes again after %v, want 1 s", d)
	} else {
		s.within(d, wait-20*time.Millisecond, wait+probeGap+busy, "from the rival's probe to the host's next one")
	}
	s.wait(10*time.Second, "an announcement of "+name+", as the rival is gone", func(p *packet) bool {
		return holds(name, s.addrType)(p) || holds(name, typeSRV)(p)
	})
	again := s.received(func(p *packet) bool { return p.probes(name) && p.at.Sub(rival.at) > crossed })
	if len(again) != 3 {
		s.fail("%d probes for %s after the wait, want 3", len(again), name)
	}
}

// won fails the scenario unless the host goes on with its probing.
func (s *script) won(name string) {
	s.wait(10*time.Second, "an announcement of "+name, func(p *packet) bool {
		return holds(name, s.addrType)(p) || holds(name, typeSRV)(p)
	})
	s.threeProbes(name, s.probes(name))
}

func wins(s *script) {
	s.start()
	s.wait(10*time.Second, "a probe for "+s.name, probe(s.name))
	s.rival(s.name, s.a(s.name, s.smallest(), 120))
	s.won(s.name)
}

func hearsItself(s *script) {
	s.start()
	p := s.wait(10*time.Second, "a probe for "+s.name, probe(s.name))
	for range 2 { // a reflector, or another host with the same records
		s.send(outgoing{from: s.other, message: p.message})
		p = s.wait(5*time.Second, "the next probe for "+s.name, probe(s.name))
	}
	s.won(s.name)
}

// proposed is what the host proposes for the service.
func (s *script) proposed() (txt, srv record) {
	p := s.wait(10*time.Second, "a probe for "+s.instance, probe(s.instance))
	var has [2]bool
	txt, has[0] = find(p.authority, s.instance, typeTXT)
	srv, has[1] = find(p.authority, s.instance, typeSRV)
	if has != [2]bool{true, true} {
		s.fail("a probe for the service proposes not both SRV and TXT: %v", p.message)
	}
	return txt, srv
}

func winsByType(s *script) {
	s.start()
	txt, srv := s.proposed()
	txt.data = []byte{0}                       // less than any other
	srv.data = slices.Clone(srv.data)          // of one's own
	copy(srv.data, "\xff\xff\xff\xff\xff\xff") // more than any other, and of a later type
	s.rival(s.instance, srv, txt)
	s.won(s.instance)
}

func losesByLength(s *script) {
	s.start()
	p := s.wait(10*time.Second, "a probe for "+s.name, probe(s.name))
	own, ok := find(p.authority, s.name, s.addrType)
	if !ok {
		s.fail("a probe for the host proposes no address: %v", p.message)
	}
	all := []record{own}
	for _, r := range p.authority {
		if strings.EqualFold(r.name, s.name) && r.key() != own.key() {
			all = append(all, r)
		}
	}
	rival := s.rival(s.name, append(all, record{s.name, 40000, classIN, 120, []byte{1}})...)
	s.lost(s.name, rival)
}

func probesAfterLinkUp(s *script) {
	s.ready()
	s.replug()
	s.wait(10*time.Second, "a probe for "+s.name, probe(s.name))
	s.wait(10*time.Second, "an announcement", s.claims(s.name))
}

func announcesAfterLinkUp(s *script) {
	s.ready()
	s.replug()
	for range 2 {
		s.wait(10*time.Second, "an announcement", s.claims(s.name))
	}
}

// replug pulls the cable and plugs it in again.
func (s *script) replug() {
	s.peer.IP("link", "set", scriptPort, "down")
	time.Sleep(time.Second)
	s.forget()
	s.peer.IP("link", "set", scriptPort, "up")
	if s.setup.ipv6 {
		for _, a := range []netip.Addr{s.us, s.other} {
			s.peer.IP("addr", "replace", a.String()+"/64", "dev", scriptPort, "nodad")
		}
		s.host.IP("addr", "replace", s.own.String()+"/64", "dev", targetPort, "nodad")
	}
}
