package mdns

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"cloudlink.local/gateway/internal/mdns/wire"
)

func TestRFC6762_6_UniqueAnswersAtOnce(t *testing.T) {
	b := up(t)
	b.ask(asker, q(shortName, wire.A))
	p := b.one()
	want := unhex(t, `0000 8400 0000 0001 0000 0001
		09"cloudlink" 05"local" 00 0001 8001 00000078 0004 c0000201
		c00c 002f 8001 00000078 0005 c00c 0001 40`)
	if !bytes.Equal(p.bytes, want) {
		t.Errorf("answer\n%x\nwant\n%x", p.bytes, want)
	}
	if p.to != everyone || p.after != b.after() {
		t.Errorf("sent %v, asked at %v", p, b.after())
	}
}

func TestRFC6762_6_Answers(t *testing.T) {
	const denied = "instance NSEC, "
	for _, test := range []struct {
		question            wire.Question
		answers, additional string
	}{
		{q(shortName, wire.A), "short A", "short NSEC"},
		{q(longName, wire.A), "long A", "long NSEC"},
		{q("CloudLink.LOCAL.", wire.A), "short A", "short NSEC"}, // §16
		{q(shortName, wire.AAAA), "short NSEC", "short A"},       // §6.1
		{q(shortName, 65), "short NSEC", "short A"},              // HTTPS, as browsers ask
		{q(shortName, wire.NSEC), "short NSEC", "short A"},
		{q(shortName, wire.ANY), "short A", "short NSEC"},
		{wire.Question{Name: shortName, Type: wire.A, Class: wire.AnyClass}, "short A", "short NSEC"},
		{wire.Question{Name: shortName, Type: wire.A, Class: 3}, "", ""},
		{q(reverse, wire.PTR), "reverse PTR", "reverse NSEC"},
		{q(reverse, wire.A), "reverse NSEC", ""},
		{q("9.2.0.192.in-addr.arpa.", wire.PTR), "", ""},
		{q(instance, wire.SRV), "instance SRV", denied + "long A, long NSEC"}, // RFC 6763 §12.2
		{q(instance, wire.TXT), "instance TXT", "instance NSEC"},              // RFC 6763 §12.3
		{q(instance, wire.ANY), "instance SRV, instance TXT", denied + "long A, long NSEC"},
		{q(instance, wire.A), "instance NSEC", ""},
		{q(httpType, wire.PTR), "http PTR", denied + "instance SRV, instance TXT, long A, long NSEC"}, // RFC 6763 §12.1
		{q(httpType, wire.ANY), "http PTR", denied + "instance SRV, instance TXT, long A, long NSEC"},
		{q(httpType, wire.A), "", ""},            // shared: others may have it
		{q(allTypes, wire.PTR), "types PTR", ""}, // RFC 6763 §9
		{q("local.", wire.ANY), "", ""},
		{q("other.local.", wire.A), "", ""},
		{q("_ipp._tcp.local.", wire.PTR), "", ""},
	} {
		b := up(t)
		b.ask(asker, test.question)
		b.run(time.Second)
		name := describe(test.question.Name, test.question.Type)
		if test.answers == "" {
			b.quiet(name)
			continue
		}
		t.Log(name)
		expect(t, b.one(), test.answers, test.additional)
	}
}

// RFC 6762 §6.2: who asks for one address gets the others too.
func TestRFC6762_6_2_BothFamiliesOfAddresses(t *testing.T) {
	b := newBench(t)
	b.wishes(ourWish(), ourPrefix, ourPrefix6, netip.MustParsePrefix("2001:db8::1/64"))
	b.run(10 * time.Minute)
	b.take()
	b.ask(asker, q(shortName, wire.A))
	expect(t, b.one(), "short A", "short AAAA, short AAAA, short NSEC")
	b.run(time.Minute)
	b.ask(asker, q(shortName, wire.AAAA))
	p := b.one()
	expect(t, p, "short AAAA, short AAAA", "short A, short NSEC")
	if nsec := p.msg.Additional[1]; nsec.Data != wire.NSECData(shortName, wire.A, wire.AAAA) {
		t.Errorf("NSEC is %q", nsec.Data)
	}
}

func TestRFC6762_6_SharedAnswersAfterARandomDelay(t *testing.T) {
	for _, random := range []time.Duration{0, 1 * ms, 100 * ms} {
		b := up(t)
		b.random = func(below time.Duration) time.Duration {
			if below != 100*ms {
				t.Errorf("random below %v", below)
			}
			return random
		}
		at := b.after()
		b.ask(asker, q(httpType, wire.PTR))
		b.run(time.Second)
		if p := b.one(); p.after-at != 20*ms+random {
			t.Errorf("answered after %v, want %v", p.after-at, 20*ms+random)
		}
	}
}

func TestRFC6762_6_SharedDelayIsUniform(t *testing.T) {
	b := up(t)
	b.random = below // the real one
	var quadrants [4]int
	for range 1000 {
		at := b.after()
		b.ask(asker, q(httpType, wire.PTR))
		b.run(2 * time.Second)
		delay := b.one().after - at
		if delay < 20*ms || delay > 120*ms {
			t.Fatalf("answered after %v", delay)
		}
		quadrants[min(3, (delay-20*ms)/(25*ms))]++
	}
	for i, n := range quadrants {
		if n < 150 || n > 350 { // of 250; the odds against it are 10^12
			t.Errorf("%d of 1000 in quadrant %d", n, i+1)
		}
	}
}

func TestRFC6762_6_3_SeveralQuestions(t *testing.T) {
	b := up(t)
	at := b.after()
	b.ask(asker, q(shortName, wire.A), q(shortName, wire.AAAA), q("other.local.", wire.A), q(httpType, wire.PTR))
	b.run(time.Second)
	p := b.one()
	expect(t, p, "http PTR, short A, short NSEC", "instance NSEC, instance SRV, instance TXT, long A, long NSEC")
	if delay := p.after - at; delay < 20*ms || delay > 120*ms {
		t.Errorf("answered after %v", delay)
	}
}

func TestRFC6762_6_4_Aggregation(t *testing.T) {
	b := up(t)
	at := b.after()
	b.random = func(time.Duration) time.Duration { return 0 }
	b.ask(asker, q(httpType, wire.PTR))
	b.run(10 * ms)
	b.random = func(time.Duration) time.Duration { return 100 * ms }
	b.ask(peer, q(allTypes, wire.PTR))
	b.run(time.Second)
	p := b.one()
	expect(t, p, "http PTR, types PTR", "instance NSEC, instance SRV, instance TXT, long A, long NSEC")
	if delay := p.after - at; delay != 130*ms {
		t.Errorf("answered after %v", delay)
	}
}

// However many ask, the first does not wait longer than half a second more.
func TestRFC6762_6_4_AggregationEnds(t *testing.T) {
	b := up(t)
	b.link.sets = append(b.link.sets, func() (list []*set) {
		for i := range 100 {
			list = append(list, newSet(fmt.Sprintf("_x%d._tcp.local.", i), wire.PTR, 4500, false, wire.PTRData("x.local.")))
		}
		return list
	}()...)
	at := b.after()
	for i := range 100 {
		b.ask(asker, q(fmt.Sprintf("_x%d._tcp.local.", i), wire.PTR))
		b.run(18 * ms)
	}
	b.run(time.Second)
	if first := b.take()[0]; first.after-at > 620*ms {
		t.Errorf("the first answer came after %v", first.after-at)
	}
}

func TestRFC6762_6_OncePerSecond(t *testing.T) {
	b := up(t)
	at := b.after()
	for range 600 { // for three seconds
		b.ask(asker, q(shortName, wire.A))
		b.run(5 * ms)
	}
	b.run(5 * time.Second)
	if got, want := times(b.take(), at), []time.Duration{0, 1000 * ms, 2000 * ms, 3000 * ms}; !slices.Equal(got, want) {
		t.Errorf("answered at %v, want %v", got, want)
	}
	// Six equal questions in 0.6 s: who asks later has heard the answer to the first.
	b = up(t)
	for range 6 {
		b.ask(asker, q(shortName, wire.A))
		b.run(120 * ms)
	}
	b.run(5 * time.Second)
	b.one()
	// A link and family each have their own second.
	b = newBench(t)
	b.wishes(ourWish(), ourPrefix, ourPrefix6)
	b.run(time.Hour)
	b.take()
	b.ask(asker, q(shortName, wire.A))
	b.ask(peer6, q(shortName, wire.A))
	if out := b.take(); len(out) != 2 || out[0].family == out[1].family {
		t.Errorf("sent %v", out)
	}
}

func TestRFC6762_6_ProbesAreDefendedEvery250ms(t *testing.T) {
	b := up(t)
	at := b.after()
	var defended []sent
	for range 10 {
		b.probed(peer, shortName, host(shortName, "192.0.2.200", 120))
		b.run(100 * ms)
		for _, s := range b.take() {
			if s.to == everyone {
				defended = append(defended, s)
			}
		}
	}
	if got := times(defended, at); !slices.Equal(got, []time.Duration{0}) {
		t.Errorf("QU probes were answered for everybody at %v, want once", got)
	}
	b = up(t)
	at = b.after()
	for range 10 {
		b.receive(peer, wire.Message{Questions: []wire.Question{q(shortName, wire.ANY)},
			Authority: []wire.Record{host(shortName, "192.0.2.200", 120)}})
		b.run(125 * ms)
	}
	if got, want := times(b.take(), at), []time.Duration{0, 250 * ms, 500 * ms, 750 * ms, 1000 * ms}; !slices.Equal(got, want) {
		t.Errorf("probes were answered at %v, want %v", got, want)
	}
}

// §8.1: one question or several, a probe is answered at once.
func TestRFC6762_6_3_DefenceIsNeverDelayed(t *testing.T) {
	b := up(t)
	b.receive(peer, wire.Message{
		Questions: []wire.Question{qu("other.local.", wire.ANY), qu(shortName, wire.ANY)},
		Authority: []wire.Record{host("other.local.", "192.0.2.9", 120), host(shortName, "192.0.2.9", 120)},
	})
	expect(t, b.one(), "short A", "short NSEC")
}

func TestRFC6762_7_1_KnownAnswers(t *testing.T) {
	known := func(ttl uint32) wire.Message {
		return wire.Message{Questions: []wire.Question{q(httpType, wire.PTR)}, Answers: []wire.Record{pointer(httpType, instance, ttl)}}
	}
	for ttl, answered := range map[uint32]bool{4500: false, 2250: false, 2249: true, 1: true, 0: true} {
		b := up(t)
		b.receive(asker, known(ttl))
		b.run(time.Second)
		if out := b.take(); (len(out) > 0) != answered {
			t.Errorf("known for %d s more: sent %v", ttl, out)
		}
	}
	// Names are names, in data too; another's answer is not ours.
	for target, answered := range map[string]bool{`cloudlink\ gateway\ \(11AF\)._HTTP._tcp.LOCAL.`: false, "other._http._tcp.local.": true} {
		b := up(t)
		m := known(4500)
		m.Answers[0] = pointer("_HTTP._tcp.local.", target, 4500)
		b.receive(asker, m)
		b.run(time.Second)
		if out := b.take(); (len(out) > 0) != answered {
			t.Errorf("known %s: sent %v", target, out)
		}
	}
}

// One of two addresses is not enough: the cache-flush bit of the other would take it away.
func TestRFC6762_10_2_AllOfASetOrNothing(t *testing.T) {
	b := newBench(t)
	b.wishes(ourWish(), ourPrefix, netip.MustParsePrefix("192.0.2.2/24"))
	b.run(time.Hour)
	b.take()
	one, other := host(shortName, "192.0.2.1", 120), host(shortName, "192.0.2.2", 120)
	b.receive(asker, wire.Message{Questions: []wire.Question{q(shortName, wire.A)}, Answers: []wire.Record{one}})
	expect(t, b.one(), "short A, short A", "short NSEC")
	b.run(time.Minute)
	b.receive(asker, wire.Message{Questions: []wire.Question{q(shortName, wire.A)}, Answers: []wire.Record{one, other}})
	b.quiet("both are known")
}

func TestRFC6762_7_2_MultipacketKnownAnswers(t *testing.T) {
	truncated := wire.Message{Truncated: true, Questions: []wire.Question{q(httpType, wire.PTR)}}
	more := wire.Message{Answers: []wire.Record{pointer(httpType, instance, 4500)}}

	b := up(t)
	at := b.after()
	b.receive(asker, truncated)
	b.run(time.Second)
	if delay := b.one().after - at; delay < 400*ms || delay > 500*ms {
		t.Errorf("answered after %v", delay)
	}

	b = up(t)
	b.receive(asker, truncated)
	b.run(300 * ms)
	b.receive(asker, more)
	b.run(time.Second)
	b.quiet("it was among the known answers that followed")

	b = up(t)
	b.receive(asker, truncated)
	b.run(300 * ms)
	b.receive(peer, more)
	b.run(time.Second)
	b.one() // another's known answers are not the asker's

	// A unique record waits as well.
	b = up(t)
	b.receive(asker, wire.Message{Truncated: true, Questions: []wire.Question{q(shortName, wire.A)}})
	b.run(399 * ms)
	b.quiet("more known answers may follow")
	b.run(200 * ms)
	b.one()
}

func TestRFC6762_7_4_DuplicateAnswerSuppression(t *testing.T) {
	for _, test := range []struct {
		from     netip.AddrPort
		r        wire.Record
		answered bool
	}{
		{peer, pointer(httpType, instance, 4500), false},
		{peer, pointer(httpType, instance, 4499), true},
		{peer, pointer(httpType, "other._http._tcp.local.", 4500), true},
		{netip.AddrPortFrom(ourPrefix.Addr(), 5353), pointer(httpType, instance, 4500), false}, // our other port
	} {
		b := up(t)
		b.ask(asker, q(httpType, wire.PTR))
		b.run(10 * ms)
		b.tell(test.from, test.r)
		b.run(time.Second)
		if out := b.take(); (len(out) > 0) != test.answered {
			t.Errorf("after %v of %v: sent %v", test.r, test.from, out)
		}
	}
}

// §6.6: another says of our record that it is to be forgotten soon.
func TestRFC6762_6_6_RecordWithTooShortALifeIsCorrected(t *testing.T) {
	for ttl, corrected := range map[uint32]bool{0: true, 10: true, 2249: true, 2250: false, 4500: false} {
		b := up(t)
		b.tell(peer, pointer(httpType, instance, ttl))
		if out := b.take(); (len(out) > 0) != corrected {
			t.Errorf("TTL %d: sent %v", ttl, out)
		}
	}
}

// Nobody will ask: the correction is not dropped for having been sent within the second. And our other
// port, in the same switch, may be the one that says goodbye.
func TestRFC6762_6_6_CorrectionIsNotLost(t *testing.T) {
	for _, from := range []netip.AddrPort{peer, netip.AddrPortFrom(ourPrefix.Addr(), 5353)} {
		b := up(t)
		b.ask(asker, q(httpType, wire.PTR))
		b.run(200 * ms)
		told := b.one().after
		b.tell(from, pointer(httpType, instance, 0))
		b.run(5 * time.Second)
		if p := b.one(); p.after-told != time.Second {
			t.Errorf("corrected after %v", p.after-told)
		}
	}
}

func TestRFC6762_5_4_UnicastAnswers(t *testing.T) {
	b := up(t)
	b.ask(asker, qu(shortName, wire.A))
	if p := b.one(); p.to != everyone {
		t.Errorf("not told everybody for ten minutes, and sent %v", p)
	}
	b.run(29 * time.Second)
	b.ask(asker, qu(shortName, wire.A))
	p := b.one()
	if p.to != asker || p.source != ourPrefix.Addr() || p.msg.ID != 0 || len(p.msg.Questions) != 0 || !p.msg.Answers[0].Flush {
		t.Errorf("sent %v, want it to %v alone", p, asker)
	}
	expect(t, p, "short A", "short NSEC")
	b.run(time.Second) // 30 s are a quarter of its time
	b.ask(asker, qu(shortName, wire.A))
	if p := b.one(); p.to != everyone {
		t.Errorf("sent %v", p)
	}
	// An answer to one does not count against the second of those to everybody.
	b.run(5 * time.Second)
	for range 3 {
		b.ask(asker, qu(shortName, wire.A))
	}
	if out := b.take(); len(out) != 3 {
		t.Errorf("sent %v", out)
	}
	b.ask(asker, q(shortName, wire.A))
	if p := b.one(); p.to != everyone {
		t.Errorf("sent %v", p)
	}
}

func TestRFC6762_5_5_DirectUnicastQueries(t *testing.T) {
	b := up(t)
	b.ask(asker, q(shortName, wire.A))
	b.take()
	b.askUs(asker, q(shortName, wire.A))
	if p := b.one(); p.to != asker {
		t.Errorf("sent %v", p)
	}
	for _, from := range []string{"198.51.100.7:5353", "198.51.100.7:40000", "8.8.8.8:5353"} {
		b.askUs(netip.MustParseAddrPort(from), q(shortName, wire.A))
		b.quiet("the asker is not on the link")
	}
}

// §11: what was sent to everybody is from the link, whatever its source; what was sent to us alone is
// only if its source is.
func TestRFC6762_11_SourceAddressCheck(t *testing.T) {
	far := netip.MustParseAddrPort("198.51.100.7:5353")
	b := up(t)
	b.ask(far, q(shortName, wire.A))
	b.one()
	b.run(5 * time.Second)
	b.ask(far, qu(shortName, wire.A))
	if p := b.one(); p.to != everyone {
		t.Errorf("sent %v: it would leave the link", p)
	}
	b.ask(netip.AddrPortFrom(far.Addr(), 40000), q(shortName, wire.A))
	b.quiet("a resolver that is not on the link")

	deny := &wire.Message{Response: true, Answers: []wire.Record{host(shortName, "192.0.2.9", 120)}}
	b.link.receive(b.now, packet{from: far, msg: deny})
	if s := b.state("cloudlink.local"); s.State != Announced {
		t.Errorf("a response from another network: %+v", s)
	}
	b.link.receive(b.now, packet{from: peer, msg: deny})
	if s := b.state("cloudlink.local"); s.State != Probing {
		t.Errorf("a response from the link: %+v", s)
	}
}

func TestRFC6762_6_7_LegacyUnicast(t *testing.T) {
	b := up(t)
	b.receive(resolver, wire.Message{ID: 0x1234, Questions: []wire.Question{q("CloudLink.local.", wire.A)}})
	p := b.one()
	want := unhex(t, `1234 8400 0001 0001 0000 0001
		09"CloudLink" 05"local" 00 0001 0001
		09"cloudlink" c016 0001 0001 0000000a 0004 c0000201
		c021 002f 0001 0000000a 0005 c021 0001 40`)
	if p.to != resolver || !bytes.Equal(p.bytes, want) {
		t.Errorf("sent to %v\n%x\nwant\n%x", p.to, p.bytes, want)
	}
	// It asked for the second time, and is answered again; and does not count for the others.
	b.receive(resolver, wire.Message{ID: 0x1235, Questions: []wire.Question{q(shortName, wire.A)}})
	b.one()
	b.ask(asker, q(shortName, wire.A))
	if p := b.one(); p.to != everyone {
		t.Errorf("sent %v", p)
	}
}

func TestRFC6762_6_7_LegacyTakesNoCompressionInSRV(t *testing.T) {
	b := up(t)
	b.receive(resolver, wire.Message{ID: 1, Questions: []wire.Question{q(instance, wire.SRV)}})
	p := b.one()
	if !bytes.Contains(p.bytes, []byte("\x00\x00\x00\x00\x00\x50\x10cloudlink-4711af\x05local\x00")) {
		t.Errorf("SRV's target is compressed: %x", p.bytes)
	}
	if len(p.bytes) > 512 {
		t.Errorf("answer has %d bytes", len(p.bytes))
	}
	// Shared records wait for others in this case too.
	at := b.after()
	b.receive(resolver, wire.Message{ID: 2, Questions: []wire.Question{q(httpType, wire.PTR)}})
	b.run(time.Second)
	if p := b.one(); p.to != resolver || p.after-at < 20*ms || p.msg.ID != 2 {
		t.Errorf("sent %v", p)
	}
}

func TestNoAnswersToAnswers(t *testing.T) {
	b := up(t)
	b.receive(peer, wire.Message{Response: true, Questions: []wire.Question{q(shortName, wire.A)},
		Answers: []wire.Record{host("other.local.", "192.0.2.9", 120)}})
	b.run(time.Minute)
	b.quiet("it was an answer")
}

func TestRFC6762_10_TTLs(t *testing.T) {
	b := up(t)
	b.ask(asker, q(httpType, wire.PTR), q(reverse, wire.PTR), q(shortName, wire.A), q(allTypes, wire.PTR))
	b.run(time.Second)
	p := b.one()
	for _, r := range append(p.msg.Answers, p.msg.Additional...) {
		want := uint32(120)
		if r.Type == wire.TXT || r.Type == wire.PTR && r.Name != reverse {
			want = 4500
		}
		if r.TTL != want {
			t.Errorf("%s has TTL %d, want %d", describe(r.Name, r.Type), r.TTL, want)
		}
		if shared := r.Type == wire.PTR && r.Name != reverse; r.Flush == shared { // §10.2
			t.Errorf("%s has the cache-flush bit: %t", describe(r.Name, r.Type), r.Flush)
		}
	}
}

// A link's answers hold that link's addresses.
func TestAddressesOfThisLinkOnly(t *testing.T) {
	b := newBench(t)
	k := newKin()
	b.kin, b.link.kin = k, k
	links := []Link{
		{Name: "lan", Index: 2, Addresses: []netip.Prefix{ourPrefix}},
		{Name: "wan", Index: 3, Addresses: []netip.Prefix{netip.MustParsePrefix("203.0.113.1/24")}},
	}
	k.setLinks(b.now, links)
	b.link.update(b.now, ourWish(), links[0], 1500)
	b.run(time.Minute)
	b.ask(asker, q(shortName, wire.ANY), q(longName, wire.ANY), q(httpType, wire.PTR), q("1.113.0.203.in-addr.arpa.", wire.PTR))
	b.run(time.Minute)
	for _, s := range b.take() {
		if bytes.Contains(s.bytes, []byte{203, 0, 113, 1}) || bytes.Contains(s.bytes, []byte("\x03113\x010\x03203")) {
			t.Errorf("%v tells of the other link", s)
		}
	}
}

// What is sent from a link with two addresses comes from the one in the asker's subnet.
func TestAnswersFromTheAskersSubnet(t *testing.T) {
	b := newBench(t)
	b.wishes(ourWish(), ourPrefix, netip.MustParsePrefix("198.51.100.1/24"))
	b.run(time.Minute)
	b.take()
	from := netip.MustParseAddrPort("198.51.100.7:40000")
	b.receive(from, wire.Message{ID: 1, Questions: []wire.Question{q(shortName, wire.A)}})
	if p := b.one(); p.source != netip.MustParseAddr("198.51.100.1") || p.to != from {
		t.Errorf("sent from %v to %v", p.source, p.to)
	}
}

// A new wish comes while an answer waits: it says what is so now.
func TestWaitingAnswersFollowTheWish(t *testing.T) {
	b := up(t)
	b.ask(asker, q(httpType, wire.PTR))
	w := ourWish()
	w.Services = nil
	b.wishes(w, ourPrefix)
	b.take() // goodbyes
	b.run(time.Minute)
	b.quiet("the service is gone")
}
