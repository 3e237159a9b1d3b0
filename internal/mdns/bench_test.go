package mdns

import (
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"cloudlink.local/gateway/internal/mdns/wire"
)

// Who is on the link.
var (
	ourPrefix  = netip.MustParsePrefix("192.0.2.1/24")
	ourPrefix6 = netip.MustParsePrefix("fe80::1/64")
	peer       = netip.MustParseAddrPort("192.0.2.9:5353")
	peer6      = netip.MustParseAddrPort("[fe80::9]:5353")
	asker      = netip.MustParseAddrPort("192.0.2.7:5353")
	resolver   = netip.MustParseAddrPort("192.0.2.7:40000")
	everyone   = netip.AddrPort{}
)

// Names of ours.
const (
	shortName = "cloudlink.local."
	longName  = "cloudlink-4711af.local."
	instance  = `CloudLink\ Gateway\ \(11af\)._http._tcp.local.`
	httpType  = "_http._tcp.local."
	allTypes  = "_services._dns-sd._udp.local."
	reverse   = "1.2.0.192.in-addr.arpa."
)

func ourWish() *Wish {
	return &Wish{Host: "cloudlink", Unique: "cloudlink-4711af", Services: []Service{
		{Instance: "CloudLink Gateway (11af)", Type: "_http._tcp", Port: 80, Text: []string{"path=/"}},
	}}
}

// A bench is a link on a workbench: the test is its clock and its network.
type bench struct {
	t      *testing.T
	start  time.Time
	now    time.Time
	link   *link
	kin    *kin
	out    []sent
	fails  error                                   // of sending
	random func(below time.Duration) time.Duration // the middle, if nil
}

// A sent packet left at a time after the start.
type sent struct {
	outgoing
	after time.Duration
	msg   *wire.Message
}

func newBench(t *testing.T) *bench {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	b := &bench{t: t, start: start, now: start, kin: newKin()}
	b.link = newLink(slog.New(slog.DiscardHandler), b.kin, func(d time.Duration) time.Duration {
		if b.random != nil {
			return b.random(d)
		}
		return d / 2
	}, func(o outgoing) error {
		if b.fails != nil {
			return b.fails
		}
		msg, err := wire.Parse(o.bytes)
		if err != nil {
			t.Errorf("we sent what cannot be read: %x: %v", o.bytes, err)
			return nil
		}
		b.out = append(b.out, sent{o, b.now.Sub(start), msg})
		return nil
	})
	return b
}

// wishes gives the link a wish and addresses.
func (b *bench) wishes(w *Wish, addrs ...netip.Prefix) {
	to := Link{Name: "lan", Index: 2, Addresses: addrs}
	b.kin.setLinks(b.now, []Link{to})
	b.link.update(b.now, w, to, 1500)
}

// up is a link whose names are ours since long.
func up(t *testing.T) *bench {
	b := newBench(t)
	b.wishes(ourWish(), ourPrefix)
	b.run(10 * time.Minute)
	b.out = nil
	return b
}

// run lets time pass.
func (b *bench) run(d time.Duration) {
	b.t.Helper()
	end := b.now.Add(d)
	for steps := 0; ; steps++ {
		next := b.link.next()
		if next.IsZero() || next.After(end) {
			break
		}
		if steps > 100000 {
			b.t.Fatal("the link never rests")
		}
		if next.After(b.now) {
			b.now = next
		}
		b.link.wake(b.now)
	}
	b.now = end
}

// take returns what was sent since the last take.
func (b *bench) take() []sent {
	out := b.out
	b.out = nil
	return out
}

// one returns the only packet sent since the last take.
func (b *bench) one() sent {
	b.t.Helper()
	out := b.take()
	if len(out) != 1 {
		b.t.Fatalf("sent %d packets, want one: %v", len(out), out)
	}
	return out[0]
}

// quiet says that nothing was sent.
func (b *bench) quiet(why string) {
	b.t.Helper()
	if out := b.take(); len(out) > 0 {
		b.t.Errorf("%s: sent %v", why, out)
	}
}

func (b *bench) receive(from netip.AddrPort, m wire.Message) {
	b.link.receive(b.now, packet{family: familyOf(from.Addr()), from: from, multicast: true, msg: &m})
}

// ask multicasts questions; a query of one to us alone is askUs's.
func (b *bench) ask(from netip.AddrPort, q ...wire.Question) {
	b.receive(from, wire.Message{Questions: q})
}

func (b *bench) askUs(from netip.AddrPort, q ...wire.Question) {
	b.link.receive(b.now, packet{family: familyOf(from.Addr()), from: from, msg: &wire.Message{ID: 99, Questions: q}})
}

// tell multicasts a response.
func (b *bench) tell(from netip.AddrPort, r ...wire.Record) {
	b.receive(from, wire.Message{Response: true, Answers: r})
}

// probed multicasts another device's probe.
func (b *bench) probed(from netip.AddrPort, name string, r ...wire.Record) {
	b.receive(from, wire.Message{Questions: []wire.Question{qu(name, wire.ANY)}, Authority: r})
}

func q(name string, typ wire.Type) wire.Question {
	return wire.Question{Name: name, Type: typ, Class: wire.IN}
}

func qu(name string, typ wire.Type) wire.Question {
	return wire.Question{Name: name, Type: typ, Class: wire.IN, Unicast: true}
}

func host(name, addr string, ttl uint32) wire.Record {
	typ, data := wire.HostData(netip.MustParseAddr(addr))
	return wire.Record{Name: name, Type: typ, Class: wire.IN, Flush: true, TTL: ttl, Data: data}
}

func pointer(name, target string, ttl uint32) wire.Record {
	return wire.Record{Name: name, Type: wire.PTR, Class: wire.IN, TTL: ttl, Data: wire.PTRData(target)}
}

// state is that of one of our names, as the status tells.
func (b *bench) state(text string) Name {
	b.t.Helper()
	for _, n := range b.link.status().Names {
		if n.Name == text {
			return n
		}
	}
	b.t.Fatalf("%s is none of %v", text, b.link.status().Names)
	return Name{}
}

// String is for messages: when, where to, and what.
func (s sent) String() string {
	to := "everybody"
	if s.to.IsValid() {
		to = s.to.String()
	}
	text := fmt.Sprintf("[%v to %s:", s.after, to)
	for _, q := range s.msg.Questions {
		text += " ?" + describe(q.Name, q.Type)
	}
	for i, section := range [][]wire.Record{s.msg.Answers, s.msg.Authority, s.msg.Additional} {
		if len(section) > 0 {
			text += []string{" answers", " authority", " additional"}[i]
		}
		for _, r := range section {
			text += fmt.Sprintf(" %s/%d", describe(r.Name, r.Type), r.TTL)
		}
	}
	return text + "]"
}

var typeNames = map[wire.Type]string{
	wire.A: "A", wire.AAAA: "AAAA", wire.PTR: "PTR", wire.SRV: "SRV", wire.TXT: "TXT", wire.NSEC: "NSEC", wire.ANY: "ANY",
}

func describe(name string, typ wire.Type) string {
	short := map[string]string{
		shortName: "short", longName: "long", instance: "instance", httpType: "http", allTypes: "types", reverse: "reverse",
	}
	if s, ok := short[name]; ok {
		name = s
	}
	return name + " " + typeNames[typ]
}

// listed returns records as their descriptions, sorted.
func listed(records []wire.Record) string {
	var list []string
	for _, r := range records {
		list = append(list, describe(r.Name, r.Type))
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

// expect compares the answers and the additional records of a packet.
func expect(t *testing.T, s sent, answers, additional string) {
	t.Helper()
	if got := listed(s.msg.Answers); got != answers {
		t.Errorf("answers: %s\nwant: %s", got, answers)
	}
	if got := listed(s.msg.Additional); got != additional {
		t.Errorf("additional: %s\nwant: %s", got, additional)
	}
}

// times are when packets left, since a time after the start.
func times(packets []sent, since time.Duration) (list []time.Duration) {
	for _, s := range packets {
		list = append(list, s.after-since)
	}
	return list
}

func (b *bench) after() time.Duration { return b.now.Sub(b.start) }

// unhex reads bytes as people write them; text in quotes stands for itself.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	var b []byte
	for i, part := range strings.Split(s, `"`) {
		if i%2 == 1 {
			b = append(b, part...)
			continue
		}
		raw, err := hex.DecodeString(strings.Join(strings.Fields(part), ""))
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, raw...)
	}
	return b
}
