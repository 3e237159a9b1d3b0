package mdns

import (
	"bytes"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"cloudlink.local/gateway/internal/mdns/wire"
)

const (
	ms    = time.Millisecond
	first = probeDelay / 2 // the bench draws the middle
)

func TestRFC6762_8_1_ThreeProbesOfAllNamesInOnePacket(t *testing.T) {
	b := newBench(t)
	b.wishes(ourWish(), ourPrefix)
	b.run(800 * ms)
	probes := b.take()
	if got, want := times(probes, 0), []time.Duration{first, first + 250*ms, first + 500*ms}; !slices.Equal(got, want) {
		t.Fatalf("probes at %v, want %v", got, want)
	}
	// Byte for byte: id 0, flags 0, QU, ANY; all records proposed, none with the cache-flush bit.
	want := unhex(t, `0000 0000 0003 0000 0004 0000
		09"cloudlink" 05"local" 00 00ff 8001
		10"cloudlink-4711af" c016 00ff 8001
		18"CloudLink Gateway (11af)" 05"_http" 04"_tcp" c016 00ff 8001
		c00c 0001 0001 00000078 0004 c0000201
		c021 0001 0001 00000078 0004 c0000201
		c038 0021 0001 00000078 0008 0000 0000 0050 c021
		c038 0010 0001 00001194 0007 06"path=/"`)
	for _, p := range probes {
		if !bytes.Equal(p.bytes, want) {
			t.Errorf("probe\n%x\nwant\n%x", p.bytes, want)
		}
		if p.to != everyone || p.source != ourPrefix.Addr() {
			t.Errorf("probe from %v to %v", p.source, p.to)
		}
	}
}

func TestRFC6762_8_1_FirstProbeAfterARandomDelay(t *testing.T) {
	for _, delay := range []time.Duration{0, 17 * ms, probeDelay} {
		b := newBench(t)
		b.random = func(below time.Duration) time.Duration {
			if below != probeDelay {
				t.Errorf("random below %v", below)
			}
			return delay
		}
		b.wishes(ourWish(), ourPrefix)
		b.run(delay + 249*ms)
		if p := b.one(); p.after != delay {
			t.Errorf("first probe after %v, want %v", p.after, delay)
		}
	}
}

func TestRFC6762_8_1_NoAnswersWhileProbing(t *testing.T) {
	b := newBench(t)
	b.wishes(ourWish(), ourPrefix)
	b.run(first + 650*ms)
	b.take()
	b.ask(asker, q(shortName, wire.A))
	b.ask(asker, q(httpType, wire.PTR))
	b.run(50 * ms)
	b.quiet("names are not ours yet")
}

func TestRFC6762_8_3_AnnouncesTwiceOneSecondApart(t *testing.T) {
	b := newBench(t)
	b.wishes(ourWish(), ourPrefix)
	b.run(first + 700*ms)
	b.take()
	b.run(time.Hour)
	out := b.take()
	if got, want := times(out, 0), []time.Duration{first + 750*ms, first + 1750*ms}; !slices.Equal(got, want) {
		t.Fatalf("announced at %v, want %v", got, want)
	}
	want := unhex(t, `0000 8400 0000 0007 0000 0000
		09"cloudlink" 05"local" 00 0001 8001 00000078 0004 c0000201
		10"cloudlink-4711af" c016 0001 8001 00000078 0004 c0000201
		01"1" 01"2" 01"0" 03"192" 07"in-addr" 04"arpa" 00 000c 8001 00000078 0002 c02b
		18"CloudLink Gateway (11af)" 05"_http" 04"_tcp" c016 0021 8001 00000078 0008 0000 0000 0050 c02b
		c070 0010 8001 00001194 0007 06"path=/"
		c089 000c 0001 00001194 0002 c070
		09"_services" 07"_dns-sd" 04"_udp" c016 000c 0001 00001194 0002 c089`)
	for _, a := range out {
		if !bytes.Equal(a.bytes, want) {
			t.Errorf("announcement\n%x\nwant\n%x", a.bytes, want)
		}
	}
}

// Both families are one link: the same packet goes to both groups at the same time.
func TestRFC6762_20_ProbesAndAnnouncesInBothFamilies(t *testing.T) {
	b := newBench(t)
	b.wishes(ourWish(), ourPrefix, ourPrefix6)
	b.run(time.Minute)
	out := b.take()
	if len(out) != 10 {
		t.Fatalf("sent %d packets, want 3 probes and 2 announcements in 2 families", len(out))
	}
	for i := 0; i < len(out); i += 2 {
		a, c := out[i], out[i+1]
		if a.family != v4 || c.family != v6 || a.after != c.after || !bytes.Equal(a.bytes, c.bytes) {
			t.Errorf("%v is not %v", a, c)
		}
		if c.source != ourPrefix6.Addr() {
			t.Errorf("IPv6 from %v", c.source)
		}
	}
}

// §8.2: class, type, data are compared in this order, as unsigned bytes.
func TestRFC6762_8_2_TieBreak(t *testing.T) {
	later := netip.MustParseAddr("192.0.2.200")
	for name, test := range map[string]struct {
		theirs []wire.Record
		lost   bool
	}{
		"their address is later":         {[]wire.Record{host(shortName, later.String(), 120)}, true},
		"their address is earlier":       {[]wire.Record{host(shortName, "10.0.0.1", 120)}, false},
		"the same":                       {[]wire.Record{host(shortName, "192.0.2.1", 120)}, false},
		"they have one more":             {[]wire.Record{host(shortName, "fe80::9", 120), host(shortName, "192.0.2.1", 120)}, true},
		"their first is earlier":         {[]wire.Record{host(shortName, "fe80::9", 120), host(shortName, "10.0.0.1", 120)}, false},
		"their type is later":            {[]wire.Record{{Name: shortName, Type: wire.TXT, Class: wire.IN, Data: "\x00"}}, true},
		"their class is later":           {[]wire.Record{{Name: shortName, Type: wire.A, Class: 3, Data: "\x00\x00\x00\x00"}}, true},
		"another spelling":               {[]wire.Record{host("ClOuDlInK.LoCaL.", later.String(), 120)}, true},
		"the probe is for another name":  {[]wire.Record{host("other.local.", later.String(), 120)}, false},
		"a type nobody knows, and later": {[]wire.Record{{Name: shortName, Type: 65280, Class: wire.IN, Data: "?"}}, true},
	} {
		b := newBench(t)
		b.wishes(ourWish(), ourPrefix)
		b.run(400 * ms)
		b.take()
		b.probed(peer, shortName, test.theirs...)
		b.run(300 * ms)
		asks := strings.Contains(b.one().String(), "?short")
		if asks == test.lost {
			t.Errorf("%s: probed on: %t, want %t", name, asks, !test.lost)
		}
	}
}

func TestRFC6762_8_2_LoserWaitsASecondAndProbesAgain(t *testing.T) {
	b := newBench(t)
	b.wishes(ourWish(), ourPrefix)
	b.run(400 * ms)
	b.take()
	// The winner's three probes, in both families, are one lost tie.
	for range 3 {
		b.probed(peer, shortName, host(shortName, "192.0.2.200", 120))
		b.run(100 * ms)
	}
	b.run(10 * time.Second)
	var probes []time.Duration
	for _, s := range b.take() {
		if strings.Contains(s.String(), "?short") {
			probes = append(probes, s.after)
		}
	}
	if want := []time.Duration{1400 * ms, 1650 * ms, 1900 * ms}; !slices.Equal(probes, want) {
		t.Errorf("probed again at %v, want %v", probes, want)
	}
	if s := b.state("cloudlink.local"); s.State != Announced || s.Rival != nil {
		t.Errorf("nobody took the name, and it is %v", s)
	}
}

func TestTiesLostInARowAreALostName(t *testing.T) {
	b := newBench(t)
	b.wishes(ourWish(), ourPrefix)
	for range 50 {
		b.run(100 * ms)
		b.probed(peer, shortName, host(shortName, "192.0.2.200", 120))
	}
	if s := b.state("cloudlink.local"); s.State != Lost || s.Rival == nil || s.Rival.Addr != peer.Addr() {
		t.Errorf("the name is %+v", s)
	}
}

func TestRFC6762_8_1_DeniedWhileProbing(t *testing.T) {
	for name, record := range map[string]wire.Record{
		"another address":       host(shortName, "192.0.2.9", 120),
		"another type":          host(shortName, "fe80::9", 120),
		"another spelling":      host("CLOUDLINK.local.", "192.0.2.9", 120),
		"without a flush bit":   {Name: shortName, Type: wire.A, Class: wire.IN, TTL: 1, Data: "\x0a\x00\x00\x01"},
		"a type nobody expects": {Name: shortName, Type: 13, Class: wire.IN, TTL: 1, Data: "?"},
	} {
		for _, wait := range []time.Duration{10 * ms, 300 * ms, 800 * ms} { // from the initial delay on
			b := newBench(t)
			b.wishes(ourWish(), ourPrefix)
			b.run(wait)
			b.tell(peer, record)
			s := b.state("cloudlink.local")
			if s.State != Lost || s.Rival == nil || s.Rival.Addr != peer.Addr() || !s.Rival.Since.Equal(b.now) {
				t.Errorf("%s after %v: name is %+v", name, wait, s)
			}
			b.take()
			b.run(5 * time.Second)
			for _, p := range b.take() {
				if p.to == everyone && strings.Contains(p.String(), "short") {
					t.Errorf("%s: still sent %v", name, p)
				}
			}
			// The long name and the service go on.
			if b.state("cloudlink-4711af.local").State != Announced || b.state("CloudLink Gateway (11af)._http._tcp.local").State != Announced {
				t.Errorf("%s: names are %v", name, b.link.status().Names)
			}
		}
	}
}

func TestWhatDoesNotDeny(t *testing.T) {
	for name, record := range map[string]wire.Record{
		"our own data":       host(shortName, "192.0.2.1", 120),
		"a goodbye":          host(shortName, "192.0.2.9", 0),
		"another name":       host("cloudlink2.local.", "192.0.2.9", 120),
		"another class":      {Name: shortName, Type: wire.A, Class: 3, TTL: 120, Data: "\x0a\x00\x00\x01"},
		"a denial of others": {Name: shortName, Type: wire.NSEC, Class: wire.IN, TTL: 120, Data: wire.NSECData(shortName, wire.A)},
	} {
		b := newBench(t)
		b.wishes(ourWish(), ourPrefix)
		b.run(400 * ms)
		b.tell(peer, record)
		b.run(time.Minute)
		if s := b.state("cloudlink.local"); s.State != Announced {
			t.Errorf("%s: name is %+v", name, s)
		}
	}
}

func TestRFC6762_6_ResponsesComeFromPort5353(t *testing.T) {
	b := newBench(t)
	b.wishes(ourWish(), ourPrefix)
	b.run(400 * ms)
	b.tell(netip.AddrPortFrom(peer.Addr(), 5354), host(shortName, "192.0.2.9", 120))
	b.run(time.Minute)
	if s := b.state("cloudlink.local"); s.State != Announced {
		t.Errorf("name is %+v", s)
	}
}

func TestRFC6762_8_1_ProbeRateLimit(t *testing.T) {
	b := newBench(t)
	w := ourWish()
	for _, letter := range "abcdefgh" {
		w.Services = append(w.Services, Service{Instance: string(letter), Type: "_http._tcp", Port: 80})
	}
	b.wishes(w, ourPrefix)
	var denials []time.Duration
	for range 4000 {
		b.run(10 * ms)
		for _, s := range b.take() {
			for _, question := range s.msg.Questions {
				if question.Type == wire.ANY && strings.HasPrefix(question.Name, "a") {
					denials = append(denials, s.after)
					b.tell(peer, wire.Record{Name: question.Name, Type: wire.TXT, Class: wire.IN, TTL: 120, Data: wire.TXTData([]string{"a=b"})})
				}
			}
		}
		if n := len(denials); n > 0 && b.after()-denials[n-1] > time.Second && n < 15 {
			b.tell(peer, host(longName, "192.0.2.9", 120)) // whatever else makes a conflict
			denials = append(denials, b.after())
		}
	}
	if len(denials) < 17 {
		t.Fatalf("only %d conflicts", len(denials))
	}
	for i := 16; i < len(denials); i++ {
		if gap := denials[i] - denials[i-1]; gap < 5*time.Second {
			t.Errorf("conflict %d came %v after the one before", i+1, gap)
		}
	}
}

// A thief denies each probe, whatever the name, for an hour: numbers and packets are few, and what it
// leaves us goes on.
func TestAThiefOfNamesCostsFewPackets(t *testing.T) {
	for _, takesShort := range []bool{false, true} {
		b := newBench(t)
		b.wishes(ourWish(), ourPrefix)
		b.run(10 * time.Second)
		b.take()
		b.tell(peer, host(longName, "192.0.2.66", 120))
		b.tell(peer, wire.Record{Name: instance, Type: wire.TXT, Class: wire.IN, TTL: 120, Data: wire.TXTData([]string{"a=b"})})
		if takesShort {
			b.tell(peer, host(shortName, "192.0.2.66", 120))
		}
		packets := map[bool]int{}
		start := b.after()
		for range 60 * 60 * 20 {
			b.run(50 * ms)
			for _, s := range b.take() {
				packets[s.after-start < time.Minute]++
				if s.to != everyone || s.msg.Response {
					continue
				}
				for _, question := range s.msg.Questions {
					if strings.HasPrefix(question.Name, "CloudLink") {
						b.tell(peer, wire.Record{Name: question.Name, Type: wire.TXT, Class: wire.IN, TTL: 120, Data: wire.TXTData([]string{"a=b"})})
					} else if takesShort || question.Name != shortName {
						b.tell(peer, host(question.Name, "192.0.2.66", 120))
					}
				}
			}
		}
		if packets[true] > 80 || packets[false] > 59*7 {
			t.Errorf("sent %d packets in the first minute, %d in the 59 after it", packets[true], packets[false])
		}
		for _, n := range []string{"cloudlink-4711af.local", "CloudLink Gateway (11af)._http._tcp.local"} {
			if s := b.state(n); s.State != Lost || s.Rival == nil || s.Rival.Addr != peer.Addr() {
				t.Errorf("%+v", s)
			}
		}
		for number, wished := range map[string]string{
			"cloudlink-4711af-9.local":                      "cloudlink-4711af.local",
			"CloudLink Gateway (11af) (9)._http._tcp.local": "CloudLink Gateway (11af)._http._tcp.local",
		} {
			if s := b.state(number); s.State != Probing || s.Instead != wished || s.Rival == nil {
				t.Errorf("%+v", s)
			}
		}
		if names := b.link.status().Names; len(names) != 5 {
			t.Errorf("names are %v", names)
		}
		b.ask(asker, q(shortName, wire.A))
		b.ask(asker, q(reverse, wire.PTR))
		if takesShort {
			b.quiet("all names are the thief's")
			continue
		}
		out := b.take()
		if len(out) != 2 || out[1].msg.Answers[0].Target() != shortName {
			t.Errorf("the name that is left is not answered for, or our address does not lead to it: %v", out)
		}
	}
}

// A thief leaves us no number of the unique name: a service whose name is ours leads to the short one.
func TestServicesLeadToANameThatIsAnnounced(t *testing.T) {
	b := up(t)
	target := func() string {
		t.Helper()
		b.run(time.Second) // since it was announced
		b.take()
		b.ask(asker, q(instance, wire.SRV))
		return b.one().msg.Answers[0].Target()
	}
	steal := true
	b.tell(peer, host(longName, "192.0.2.66", 120))
	run := func(d time.Duration) {
		for range d / (50 * ms) {
			b.run(50 * ms)
			for _, s := range b.take() {
				for _, question := range s.msg.Questions {
					if steal && strings.HasPrefix(question.Name, "cloudlink-4711af") && s.to == everyone {
						b.tell(peer, host(question.Name, "192.0.2.66", 120))
					}
				}
			}
		}
	}
	run(10 * time.Second)
	if got := target(); got != shortName {
		t.Errorf("SRV leads to %s", got)
	}
	steal = false
	run(20 * time.Second)
	if got := target(); got != "cloudlink-4711af-9.local." {
		t.Errorf("a number is free, and SRV leads to %s", got)
	}
	run(4 * time.Minute)
	if got := target(); got != longName {
		t.Errorf("the name is free, and SRV leads to %s", got)
	}
}

// §9: a conflict at any later time makes us probe again; the rival answers, or the name stays ours.
func TestRFC6762_9_LaterConflict(t *testing.T) {
	b := up(t)
	b.tell(peer, host(shortName, "192.0.2.9", 120))
	if s := b.state("cloudlink.local"); s.State != Probing {
		t.Fatalf("after a conflict the name is %+v", s)
	}
	b.ask(asker, q(shortName, wire.A))
	b.quiet("the name is in doubt")
	at := b.after()
	b.run(10 * time.Second)
	out := b.take()
	if got, want := times(out, at), []time.Duration{first, first + 250*ms, first + 500*ms, first + 750*ms, first + 1750*ms}; !slices.Equal(got, want) {
		t.Fatalf("sent at %v, want %v: %v", got, want, out)
	}
	if s := b.state("cloudlink.local"); s.State != Announced || s.Rival != nil {
		t.Errorf("nobody denied, and the name is %+v", s)
	}

	b.tell(peer, host(shortName, "192.0.2.9", 120))
	b.run(200 * ms)
	b.tell(peer, host(shortName, "192.0.2.9", 120))
	if s := b.state("cloudlink.local"); s.State != Lost || s.Rival.Addr != peer.Addr() {
		t.Errorf("denied, and the name is %+v", s)
	}
}

func TestRFC6762_9_LaterConflictOfSRVAndTXT(t *testing.T) {
	for _, r := range []wire.Record{
		{Name: instance, Type: wire.SRV, Class: wire.IN, TTL: 120, Data: wire.SRVData(8080, "other.local.")},
		{Name: instance, Type: wire.TXT, Class: wire.IN, TTL: 120, Data: wire.TXTData([]string{"a=b"})},
	} {
		b := up(t)
		b.tell(peer, r)
		if s := b.state("CloudLink Gateway (11af)._http._tcp.local"); s.State != Probing {
			t.Errorf("after a conflict the name is %+v", s)
		}
	}
}

func TestNoConflictOfAnnouncedNames(t *testing.T) {
	for name, r := range map[string]wire.Record{
		"a type we have not":       host(shortName, "fe80::9", 120),
		"our own record":           host(shortName, "192.0.2.1", 120),
		"our target spelled large": {Name: instance, Type: wire.SRV, Class: wire.IN, TTL: 120, Data: wire.SRVData(80, strings.ToUpper(longName))},
		"a shared record":          pointer(httpType, `other._http._tcp.local.`, 4500),
		"a goodbye":                host(shortName, "192.0.2.9", 0),
	} {
		b := up(t)
		b.tell(peer, r)
		b.run(time.Minute)
		b.quiet(name)
	}
}

// RFC 6763 appendix D.
func TestInstanceAndLongNameGetNumbers(t *testing.T) {
	b := up(t)
	srv := wire.Record{Name: instance, Type: wire.SRV, Class: wire.IN, TTL: 120, Data: wire.SRVData(80, "clone.local.")}
	for range 2 {
		b.tell(peer, srv)
		b.run(200 * ms)
	}
	b.run(10 * time.Second)
	if s := b.state("CloudLink Gateway (11af) (2)._http._tcp.local"); s.State != Announced || s.Rival == nil || s.Instead != "CloudLink Gateway (11af)._http._tcp.local" {
		t.Errorf("the renamed instance is %+v", s)
	}
	for range 2 {
		b.tell(peer, host(longName, "192.0.2.9", 120))
		b.run(200 * ms)
	}
	b.run(10 * time.Second)
	if s := b.state("cloudlink-4711af-2.local"); s.State != Announced || s.Rival == nil || s.Instead != "cloudlink-4711af.local" {
		t.Errorf("the renamed long name is %+v", s)
	}
	b.take()
	b.ask(asker, q(`CloudLink\ Gateway\ \(11af\)\ \(2\)._http._tcp.local.`, wire.SRV))
	p := b.one()
	if target := p.msg.Answers[0].Target(); target != "cloudlink-4711af-2.local." {
		t.Errorf("SRV leads to %s", target)
	}
	for _, s := range []string{"short", longName, instance} {
		if strings.Contains(p.String(), s) {
			t.Errorf("answer %v has %s in it", p, s)
		}
	}
}

// The names as wished come back like the short one does: after a goodbye, or when nobody answers for them.
func TestWishedNamesComeBack(t *testing.T) {
	srv := wire.Record{Name: instance, Type: wire.SRV, Class: wire.IN, TTL: 120, Data: wire.SRVData(80, "clone.local.")}
	for how, leave := range map[string]func(b *bench){
		"without a word": func(b *bench) { b.run(2 * time.Minute) },
		"with a goodbye": func(b *bench) {
			gone := srv
			gone.TTL = 0
			b.tell(peer, host(longName, "192.0.2.9", 0), gone)
			b.run(10 * time.Second)
		},
		"with a goodbye of something else": func(b *bench) {
			b.tell(peer, pointer("_ipp._tcp.local.", "other._ipp._tcp.local.", 0))
			b.run(10 * time.Second)
		},
	} {
		b := up(t)
		for range 2 {
			b.tell(peer, host(longName, "192.0.2.9", 120), srv)
			b.run(200 * ms)
		}
		b.run(10 * time.Second)
		if s := b.state("cloudlink-4711af.local"); s.State != Lost || s.Rival == nil || s.Instead != "" {
			t.Errorf("%+v", s)
		}
		b.take()
		leave(b)
		out := b.take()
		if len(out) > 2+3+2+2 { // questions, probes, announcements, goodbyes
			t.Errorf("%s: sent %d packets: %v", how, len(out), out)
		}
		if names := b.link.status().Names; len(names) != 3 {
			t.Errorf("%s: names are %v", how, names)
		}
		for _, n := range b.link.status().Names {
			if n.State != Announced || n.Rival != nil || n.Instead != "" {
				t.Errorf("%s: %+v", how, n)
			}
		}
		gone := map[string]bool{}
		for _, s := range out {
			for _, r := range s.msg.Answers {
				if r.TTL == 0 {
					gone[r.Name] = true
				}
			}
		}
		if !gone["cloudlink-4711af-2.local."] || !gone[`CloudLink\ Gateway\ \(11af\)\ \(2\)._http._tcp.local.`] {
			t.Errorf("%s: said goodbye to %v", how, gone)
		}
		b.ask(asker, q(instance, wire.SRV))
		if got := b.one().msg.Answers[0].Target(); got != longName {
			t.Errorf("%s: SRV leads to %s", how, got)
		}
	}
}

// A clone has all our names, and its service's record is the same as ours until we are called otherwise.
func TestLaterCloneTakesAnotherInstanceName(t *testing.T) {
	first, second := up(t), newBench(t)
	second.now, second.start = first.now, first.start
	second.wishes(ourWish(), netip.MustParsePrefix("192.0.2.2/24"))
	for range 2000 {
		first.run(10 * ms)
		second.run(10 * ms)
		for _, s := range first.take() {
			second.receive(netip.AddrPortFrom(s.source, 5353), *s.msg)
		}
		for _, s := range second.take() {
			first.receive(netip.AddrPortFrom(s.source, 5353), *s.msg)
		}
	}
	for _, n := range first.link.status().Names {
		if n.State != Announced || n.Rival != nil {
			t.Errorf("the first one's %+v", n)
		}
	}
	if s := second.state("cloudlink.local"); s.State != Lost {
		t.Errorf("%+v", s)
	}
	for _, n := range []string{"cloudlink-4711af-2.local", "CloudLink Gateway (11af) (2)._http._tcp.local"} {
		if s := second.state(n); s.State != Announced || s.Rival == nil {
			t.Errorf("%+v", s)
		}
	}
}

func TestNumbersFitIntoALabel(t *testing.T) {
	for _, label := range []string{strings.Repeat("a", 63), strings.Repeat("ä", 31) + "b"} {
		n := &name{role: instanceRole, label: label, service: Service{Type: "_http._tcp"}, rank: 10}
		if err := n.rename(); err != nil {
			t.Error(err)
		}
		if !strings.HasSuffix(n.labels()[0], " (10)") || strings.ContainsRune(n.labels()[0], '�') {
			t.Errorf("label is %q", n.labels()[0])
		}
	}
}

// A lost name is asked for quietly, less and less often, and comes back when nobody answers.
func TestLostNameIsReclaimedWithoutFlapping(t *testing.T) {
	b := newBench(t)
	b.wishes(ourWish(), ourPrefix)
	b.run(400 * ms)
	b.tell(peer, host(shortName, "192.0.2.9", 120))
	lost := b.after()
	b.run(10 * time.Second)
	b.take()

	var asked []time.Duration
	for range 60 * 60 * 10 { // an hour
		b.run(100 * ms)
		for _, s := range b.take() {
			if s.String() == "["+s.after.String()+" to everybody: ?short ANY]" && s.msg.Questions[0].Unicast {
				asked = append(asked, (s.after - lost).Round(time.Minute))
				b.link.receive(b.now, packet{from: peer, msg: &wire.Message{Response: true, Answers: []wire.Record{host(shortName, "192.0.2.9", 120)}}})
				continue
			}
			t.Errorf("sent %v", s)
		}
	}
	if want := []time.Duration{1 * time.Minute, 3 * time.Minute, 7 * time.Minute, 15 * time.Minute, 30 * time.Minute, 45 * time.Minute, 60 * time.Minute}; !slices.Equal(asked, want) && !slices.Equal(asked, want[:6]) {
		t.Errorf("asked at %v, want %v", asked, want)
	}
	b.run(20 * time.Minute) // nobody answers any more
	if s := b.state("cloudlink.local"); s.State != Announced || s.Rival != nil {
		t.Errorf("the name is free, and %+v", s)
	}
	if out := b.take(); len(out) != 2+3+2 {
		t.Errorf("sent %v, want two questions, three probes, two announcements", out)
	}
}

func TestLostNameComesBackAfterTheRivalsGoodbye(t *testing.T) {
	b := newBench(t)
	b.wishes(ourWish(), ourPrefix)
	b.run(400 * ms)
	b.tell(peer, host(shortName, "192.0.2.9", 120))
	b.run(10 * time.Second)
	b.take()
	b.tell(peer, host(shortName, "192.0.2.9", 0))
	b.run(10 * time.Second)
	if s := b.state("cloudlink.local"); s.State != Announced {
		t.Errorf("the rival is gone, and the name %+v", s)
	}
	// Who says goodbye all day long does not make us ask all day long.
	b.tell(peer, host(shortName, "192.0.2.9", 120))
	b.run(150 * ms)
	b.tell(peer, host(shortName, "192.0.2.9", 120))
	b.run(time.Second)
	b.take()
	questions := 0
	for range 120 {
		b.tell(peer, host(shortName, "192.0.2.9", 0))
		b.run(500 * ms)
		for _, s := range b.take() {
			questions++
			if s.msg.Response || len(s.msg.Authority) > 0 {
				t.Errorf("sent %v, and the rival still answers", s)
			}
			b.tell(peer, host(shortName, "192.0.2.9", 120))
		}
	}
	if questions > 6 {
		t.Errorf("asked %d times in a minute", questions)
	}
}

// What the rival said just before its goodbye may come after it: over the other family, say.
func TestAGoodbyeIsBelievedThoughALateAnswerComes(t *testing.T) {
	b := newBench(t)
	b.wishes(ourWish(), ourPrefix)
	b.run(400 * ms)
	b.tell(peer, host(shortName, "192.0.2.9", 120))
	b.run(10 * time.Second)
	b.tell(peer, host(shortName, "192.0.2.9", 0))
	b.tell(peer, host(shortName, "192.0.2.9", 120))
	b.run(10 * time.Second)
	if s := b.state("cloudlink.local"); s.State != Announced {
		t.Errorf("%+v", s)
	}
}

// A rival that is started again says goodbye twice within seconds.
func TestASecondGoodbyeIsNotForgotten(t *testing.T) {
	b := newBench(t)
	b.wishes(ourWish(), ourPrefix)
	b.run(400 * ms)
	b.tell(peer, host(shortName, "192.0.2.9", 120))
	b.run(5 * time.Second)
	b.tell(peer, host(shortName, "192.0.2.9", 0))
	b.run(1100 * ms)
	b.tell(peer, host(shortName, "192.0.2.9", 120))
	b.run(time.Second)
	b.tell(peer, host(shortName, "192.0.2.9", 0))
	b.run(15 * time.Second)
	if s := b.state("cloudlink.local"); s.State != Announced {
		t.Errorf("%+v", s)
	}
}

// Who takes a name and says goodbye in turn, all day long, does not make it come and go all day long.
func TestANameDoesNotFlapWithForgedGoodbyes(t *testing.T) {
	b := up(t)
	lost := 0
	last := Announced
	for range 60 * 60 * 5 { // an hour
		b.run(200 * ms)
		state := b.state("cloudlink.local").State
		switch {
		case state == Lost:
			b.tell(peer, host(shortName, "192.0.2.9", 0))
		default:
			b.tell(peer, host(shortName, "192.0.2.9", 120))
		}
		if state == Lost && last != Lost {
			lost++
		}
		last = state
		if b.take(); state == Probing && b.after()%(20*time.Second) < 15*time.Second {
			b.run(2 * time.Second) // it lets us have the name for a moment
		}
	}
	if lost > 20 {
		t.Errorf("the name was lost %d times in an hour", lost)
	}
}

func TestTheRivalsOtherNameIsToldInTheStatus(t *testing.T) {
	b := newBench(t)
	b.wishes(ourWish(), ourPrefix)
	b.run(400 * ms)
	b.take()
	b.tell(peer, host(shortName, "192.0.2.9", 120))
	ask := b.one()
	if ask.to != peer || len(ask.msg.Questions) != 1 || ask.msg.Questions[0] != qu("9.2.0.192.in-addr.arpa.", wire.PTR) {
		t.Errorf("after the loss we sent %v", ask)
	}
	b.tell(peer, pointer("9.2.0.192.in-addr.arpa.", "cloudlink-0815.local.", 120))
	if s := b.state("cloudlink.local"); s.Rival == nil || s.Rival.Host != "cloudlink-0815.local" {
		t.Errorf("the rival is %+v", s.Rival)
	}
}

// Both ports in one switch, a reflector: what is ours is no rival's, from wherever it comes.
func TestOwnPacketsNeverConflict(t *testing.T) {
	lan := newBench(t)
	wan := &bench{t: t, start: lan.start, now: lan.now, kin: lan.kin}
	wan.link = newLink(lan.link.log, lan.kin, func(d time.Duration) time.Duration { return d }, func(o outgoing) error {
		msg, _ := wire.Parse(o.bytes)
		wan.out = append(wan.out, sent{o, wan.now.Sub(wan.start), msg})
		return nil
	})
	links := []Link{
		{Name: "lan", Index: 2, Addresses: []netip.Prefix{ourPrefix}},
		{Name: "wan", Index: 3, Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.201/24")}},
	}
	lan.kin.setLinks(lan.now, links)
	lan.link.update(lan.now, ourWish(), links[0], 1500)
	wan.link.update(wan.now, ourWish(), links[1], 1500)
	reflector := netip.MustParseAddrPort("192.0.2.254:5353")
	deliver := func(to *bench, packets []sent) {
		for _, s := range packets {
			if s.to == everyone {
				to.receive(netip.AddrPortFrom(s.source, 5353), *s.msg)
				to.receive(reflector, *s.msg)
			}
		}
	}
	packets := 0
	for range 3000 {
		lan.run(10 * ms)
		wan.run(10 * ms)
		a, c := lan.take(), wan.take()
		packets += len(a) + len(c)
		deliver(wan, a)
		deliver(lan, c)
		deliver(lan, a) // the reflector sends it back where it came from
		deliver(wan, c)
	}
	for _, b := range []*bench{lan, wan} {
		for _, n := range b.link.status().Names {
			if n.State != Announced {
				t.Errorf("%+v", n)
			}
		}
		if len(b.link.status().Names) != 3 || b.state("cloudlink.local").Rival != nil {
			t.Errorf("names are %v", b.link.status().Names)
		}
	}
	if packets > 40 {
		t.Errorf("sent %d packets in half a minute", packets)
	}

	// The address goes; its records still come back from the reflector for a while.
	links[1].Addresses = []netip.Prefix{netip.MustParsePrefix("198.51.100.1/24")}
	lan.kin.setLinks(lan.now, links)
	wan.link.update(wan.now, ourWish(), links[1], 1500)
	lan.tell(reflector, host(shortName, "192.0.2.201", 120))
	if s := lan.state("cloudlink.local"); s.State != Announced {
		t.Errorf("an address of ours of a moment ago is a conflict: %+v", s)
	}
	lan.run(3 * time.Minute)
	lan.tell(reflector, host(shortName, "192.0.2.201", 120))
	if s := lan.state("cloudlink.local"); s.State != Probing {
		t.Errorf("an address that was ours minutes ago is no conflict: %+v", s)
	}
}

func TestRFC6762_10_1_Goodbyes(t *testing.T) {
	b := up(t)
	b.link.close(b.now)
	p := b.one()
	expect(t, p, "http PTR, instance SRV, instance TXT, long A, reverse PTR, short A, types PTR", "")
	for _, r := range p.msg.Answers {
		if r.TTL != 0 {
			t.Errorf("goodbye %+v has a TTL", r)
		}
	}

	b = up(t)
	w := ourWish()
	w.Host = "gateway"
	b.wishes(w, ourPrefix)
	expect(t, b.one(), "short A", "")
	b.run(time.Minute)
	if s := b.state("gateway.local"); s.State != Announced {
		t.Errorf("the new name is %+v", s)
	}
	if out := b.take(); len(out) != 5 {
		t.Errorf("sent %v, want 3 probes and 2 announcements", out)
	}
}

// A name that is probed for, or lost, is not taken back: it is another's.
func TestNoGoodbyeForWhatIsNotOurs(t *testing.T) {
	b := newBench(t)
	b.wishes(ourWish(), ourPrefix)
	b.run(400 * ms)
	b.tell(peer, host(shortName, "192.0.2.9", 120))
	b.take()
	b.link.close(b.now)
	b.quiet("nothing was announced")
}

func TestRFC6762_8_4_ChangedAddressIsAnnounced(t *testing.T) {
	b := up(t)
	second := netip.MustParsePrefix("198.51.100.1/24")
	b.wishes(ourWish(), ourPrefix, second)
	b.run(time.Minute)
	out := b.take()
	if len(out) != 2 || out[1].after-out[0].after != time.Second {
		t.Fatalf("sent %v, want two announcements", out)
	}
	for _, p := range out {
		expect(t, p, "1.100.51.198.in-addr.arpa. PTR, long A, long A, reverse PTR, short A, short A", "")
		for _, r := range p.msg.Answers {
			if !r.Flush {
				t.Errorf("%+v has no cache-flush bit", r)
			}
		}
	}
	b.wishes(ourWish(), second)
	b.run(time.Minute)
	out = b.take()
	if len(out) != 3 {
		t.Fatalf("sent %v, want a goodbye and two announcements", out)
	}
	expect(t, out[0], "long A, reverse PTR, short A", "")
	if out[0].msg.Answers[0].TTL != 0 || out[0].msg.Answers[0].Addr() != ourPrefix.Addr() {
		t.Errorf("goodbye is %v", out[0])
	}
	expect(t, out[1], "1.100.51.198.in-addr.arpa. PTR, long A, short A", "")
}

func TestRFC6762_8_4_AtMostTenUpdatesAMinute(t *testing.T) {
	b := up(t)
	for i := range 600 {
		b.wishes(ourWish(), netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + i%2)}), 24))
		b.run(100 * ms)
	}
	announcements := 0
	for _, s := range b.take() {
		if s.msg.Answers[0].TTL != 0 {
			announcements++
		}
	}
	if announcements > 20 || announcements < 10 {
		t.Errorf("%d announcements in a minute", announcements)
	}
}

func TestTheSameWishAgainChangesNothing(t *testing.T) {
	b := up(t)
	for range 5 {
		b.wishes(ourWish(), ourPrefix)
		b.run(time.Minute)
	}
	b.quiet("nothing has changed")
}

func TestQuietWhenIdle(t *testing.T) {
	b := up(t)
	b.run(7 * 24 * time.Hour)
	b.quiet("nobody asked")
	if next := b.link.next(); !next.IsZero() {
		t.Errorf("a timer runs: %v", next.Sub(b.now))
	}
}

func TestWhatCannotBeSentIsNotProven(t *testing.T) {
	b := newBench(t)
	b.fails = errors.New("network is down")
	b.wishes(ourWish(), ourPrefix)
	b.run(time.Minute)
	if s := b.state("cloudlink.local"); s.State != Probing {
		t.Errorf("nobody heard a probe, and the name is %+v", s)
	}
	if trouble := b.link.status().Trouble; trouble != "network is down" {
		t.Errorf("trouble is %q", trouble)
	}
	b.fails = nil
	b.run(2 * time.Second)
	if s := b.state("cloudlink.local"); s.State != Announced || b.link.status().Trouble != "" {
		t.Errorf("the name is %+v, trouble is %q", s, b.link.status().Trouble)
	}
}

// An answer that could not be sent is no trouble for ever.
func TestTroubleEndsByItself(t *testing.T) {
	b := up(t)
	b.fails = errors.New("no buffer space available")
	b.ask(asker, q(shortName, wire.A))
	if trouble := b.link.status().Trouble; trouble != "no buffer space available" {
		t.Errorf("trouble is %q", trouble)
	}
	b.run(10 * time.Second)
	b.fails = nil
	b.run(10 * time.Second)
	expect(t, b.one(), "http PTR, instance SRV, instance TXT, long A, reverse PTR, short A, types PTR", "")
	if trouble := b.link.status().Trouble; trouble != "" {
		t.Errorf("trouble is %q", trouble)
	}
}

func TestLinkWithoutAddressSendsNothing(t *testing.T) {
	b := newBench(t)
	b.wishes(ourWish())
	b.run(time.Minute)
	b.quiet("the kernel would take another link's address")
	if trouble := b.link.status().Trouble; trouble != "the link has no address" {
		t.Errorf("trouble is %q", trouble)
	}
}

func TestRFC6762_17_PacketsFitTheLink(t *testing.T) {
	for _, mtu := range []int{576, 1280, 1500, 9000, 65535} {
		b := newBench(t)
		w := ourWish()
		for i := range 20 {
			w.Services = append(w.Services, Service{
				Instance: strings.Repeat("x", 40) + string(rune('a'+i)), Type: "_http._tcp", Port: 80,
				Text: []string{strings.Repeat("y", 250), "n=" + string(rune('a'+i))},
			})
		}
		to := Link{Name: "lan", Index: 2, Addresses: []netip.Prefix{ourPrefix, ourPrefix6}}
		b.link.update(b.now, w, to, mtu)
		b.run(10 * time.Second)
		b.ask(peer6, q(httpType, wire.PTR))
		b.run(time.Second)
		seen := map[string]int{}
		for _, s := range b.take() {
			headers := 28
			if s.family == v6 {
				headers = 48
			}
			if size := len(s.bytes) + headers; size > min(mtu, 9000) {
				t.Errorf("MTU %d: sent %d bytes", mtu, size)
			}
			for _, r := range s.msg.Authority {
				if r.Type == wire.SRV && s.family == v4 {
					seen["probe "+r.Name]++
				}
			}
			for _, r := range s.msg.Answers {
				if r.Type == wire.SRV && s.family == v4 {
					seen["announcement "+r.Name]++
				}
			}
		}
		if len(seen) != 2*21 {
			t.Errorf("MTU %d: %d different SRV records probed for and announced, want %d", mtu, len(seen), 2*21)
		}
	}
}
