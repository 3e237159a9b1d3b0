package conformance

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"cloudlink.local/gateway/internal/mdns/mdnstest"
	"cloudlink.local/gateway/internal/testnet"
)

// A Scenario is one thing that the RFCs ask of a responder. Its name begins with the RFC and the
// section.
type Scenario struct {
	Name  string
	play  func(*script)
	setup setup
}

// A setup is what a scenario has other than one port with IPv4.
type setup struct {
	ipv6   bool // instead of IPv4
	second bool // a second port with IPv4, of which the script hears nothing
	jumbo  bool // frames of 9216 bytes
}

// tries is how often a scenario is played that fails because something took too long, or while this
// machine stood still for a moment: then nobody's timers can be trusted, ours and the program's.
const tries = 4

// Run plays a scenario to a program, and returns what it did wrong.
func Run(t testing.TB, kind mdnstest.Kind, sc Scenario) error {
	t.Helper()
	for try := 1; ; try++ {
		watch := watchMachine()
		err := play(t, kind, sc)
		stood := watch.stop()
		switch {
		case err == nil:
			return nil
		case try == tries, !err.timing && stood < standstill:
			if stood >= standstill {
				err.text += fmt.Sprintf("This machine stood still for %v meanwhile.\n", stood)
			}
			return err
		}
	}
}

// standstill is how late a timer may be on a machine that is to judge others' timers.
const standstill = 60 * time.Millisecond

// A watchman looks how late this machine's timers are.
type watchman struct {
	quit   chan struct{}
	latest chan time.Duration
}

func watchMachine() watchman {
	const step = 10 * time.Millisecond
	w := watchman{make(chan struct{}), make(chan time.Duration)}
	go func() { // ends with stop
		var worst time.Duration
		for {
			begin := time.Now()
			select {
			case <-time.After(step):
				worst = max(worst, time.Since(begin)-step)
			case <-w.quit:
				w.latest <- worst
				return
			}
		}
	}()
	return w
}

// stop ends the watch and returns by how much a timer was late at worst.
func (w watchman) stop() time.Duration {
	close(w.quit)
	return <-w.latest
}

// A failure is what a program did wrong.
type failure struct {
	text   string
	timing bool // it did the right thing at the wrong time
}

func (f *failure) Error() string { return f.text }

func play(t testing.TB, kind mdnstest.Kind, sc Scenario) (err *failure) {
	t.Helper()
	s := newScript(t, kind, sc.setup)
	defer s.close()
	defer func() {
		switch r := recover().(type) {
		case nil:
		case *failure:
			r.text += "\n" + s.dump()
			err = r
		default:
			panic(r)
		}
	}()
	sc.play(s)
	return nil
}

// The addresses of a script's cable. The program under test has the first.
var (
	own4, us4, other4, third4 = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3"), netip.MustParseAddr("192.0.2.99")
	own6, us6, other6, third6 = netip.MustParseAddr("fe80::1"), netip.MustParseAddr("fe80::2"), netip.MustParseAddr("fe80::3"), netip.MustParseAddr("fe80::99")
	second4                   = netip.MustParseAddr("198.51.100.1")
	offLink                   = netip.MustParseAddr("203.0.113.7")
)

const (
	targetPort = "lan0" // of the program under test
	scriptPort = "eth0"
)

// A script is one scenario being played.
type script struct {
	t     testing.TB
	setup setup
	host  *mdnstest.Host
	peer  *testnet.Peer
	wire  *wire
	mac   net.HardwareAddr // the host's
	begin time.Time
	pos   int // how many packets have been judged

	own, us, other, third, group netip.Addr
	addrType, noType             uint16 // of the address record that the host has, and of the one it has not

	name, instance, service string // "cloudlink.local" and so on
}

const enumeration = "_services._dns-sd._udp.local"

func newScript(t testing.TB, kind mdnstest.Kind, setup setup) *script {
	t.Helper()
	names := mdnstest.Gateway
	s := &script{
		t: t, setup: setup, begin: time.Now(),
		own: own4, us: us4, other: other4, third: third4, group: group4, addrType: typeA, noType: typeAAAA,
		name:     names.Host + ".local",
		service:  names.Services[0].Type + ".local",
		instance: escaper.Replace(names.Services[0].Instance) + "." + names.Services[0].Type + ".local",
	}
	if setup.ipv6 {
		s.own, s.us, s.other, s.third, s.group, s.addrType, s.noType = own6, us6, other6, third6, group6, typeAAAA, typeA
	}
	machine := testnet.New(t)
	s.peer = testnet.New(t)
	for _, p := range []*testnet.Peer{machine, s.peer} { // no addresses but those below
		sysctl(t, p, "ipv6/conf/default/disable_ipv6", "1")
	}
	machine.Plug(targetPort, s.peer, scriptPort)
	if setup.jumbo {
		machine.IP("link", "set", targetPort, "mtu", "9216")
		s.peer.IP("link", "set", scriptPort, "mtu", "9216")
	}
	s.address(machine, targetPort, s.own)
	for _, a := range []netip.Addr{s.us, s.other} {
		s.address(s.peer, scriptPort, a)
	}
	if !setup.ipv6 {
		machine.IP("route", "add", "default", "via", s.us.String()) // it could answer anybody
	}
	if setup.second {
		far := testnet.New(t)
		sysctl(t, far, "ipv6/conf/default/disable_ipv6", "1")
		machine.Plug("lan1", far, scriptPort)
		machine.IP("addr", "add", second4.String()+"/24", "dev", "lan1")
	}
	err := machine.Do(func() error {
		ifi, err := net.InterfaceByName(targetPort)
		if err == nil {
			s.mac = ifi.HardwareAddr
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	err = s.peer.Do(func() (err error) {
		s.wire, err = openWire(scriptPort)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	// What comes by unicast is not refused.
	err = s.peer.Do(func() error {
		conn, err := net.ListenPacket("udp", ":5353")
		if err == nil {
			t.Cleanup(func() { conn.Close() })
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	s.host = mdnstest.New(t, machine, kind, names, mdnstest.Options{})
	return s
}

// address gives a port an address that can be used at once.
func (s *script) address(p *testnet.Peer, port string, a netip.Addr) {
	s.t.Helper()
	if a.Is4() {
		p.IP("addr", "add", a.String()+"/24", "dev", port)
		return
	}
	sysctl(s.t, p, "ipv6/conf/"+port+"/addr_gen_mode", "1") // none
	sysctl(s.t, p, "ipv6/conf/"+port+"/disable_ipv6", "0")
	p.IP("addr", "add", a.String()+"/64", "dev", port, "nodad")
}

func sysctl(t testing.TB, p *testnet.Peer, name, value string) {
	t.Helper()
	if err := p.Do(func() error { return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0) }); err != nil {
		t.Fatal(err)
	}
}

func (s *script) close() {
	s.host.Stop()
	s.wire.close()
}

// fail ends the scenario: the program did something wrong.
func (s *script) fail(format string, args ...any) {
	panic(&failure{text: fmt.Sprintf(format, args...)})
}

// late ends the scenario: the program did the right thing at the wrong time.
func (s *script) late(format string, args ...any) {
	panic(&failure{text: fmt.Sprintf(format, args...), timing: true})
}

// within fails the scenario where d is not between least and most. What is added to most is for a busy machine.
func (s *script) within(d, least, most time.Duration, what string) {
	const early = 2 * time.Millisecond // timers and clocks are that coarse
	if d < least-early || d > most {
		s.late("%s took %v, want %v to %v", what, d.Round(100*time.Microsecond), least, most)
	}
}

// dump is all that was on the cable.
func (s *script) dump() string {
	var b strings.Builder
	for _, p := range s.packets() {
		way := "<-"
		if p.sent {
			way = "->"
		}
		fmt.Fprintf(&b, "%8.4f %s %v to %v: ", p.at.Sub(s.begin).Seconds(), way, p.from, p.to)
		if p.bad != nil {
			fmt.Fprintf(&b, "unreadable: %v\n", p.bad)
			continue
		}
		text := p.message.String()
		if len(text) > 1500 {
			text = text[:1500] + "…"
		}
		fmt.Fprintln(&b, text)
	}
	return b.String()
}

// packets is all that was on the cable so far.
func (s *script) packets() []*packet {
	all, _ := s.heard()
	return all
}

func (s *script) heard() ([]*packet, chan struct{}) {
	s.wire.mu.Lock()
	defer s.wire.mu.Unlock()
	return s.wire.all[:len(s.wire.all):len(s.wire.all)], s.wire.more
}

// A match is what a packet is looked for by.
type match func(*packet) bool

// received is all packets from the host so far that match.
func (s *script) received(m match) (found []*packet) {
	for _, p := range s.packets() {
		if !p.sent && m(p) {
			found = append(found, p)
		}
	}
	return found
}

// forget has wait and quiet look only at what comes from now on.
func (s *script) forget() { s.pos = len(s.packets()) }

// wait waits for a packet from the host that matches, after the last one it found.
func (s *script) wait(within time.Duration, what string, m match) *packet {
	if p := s.find(within, m); p != nil {
		return p
	}
	s.fail("not within %v: %s", within, what)
	return nil
}

// quiet fails the scenario if a packet that matches comes in the time given.
func (s *script) quiet(d time.Duration, what string, m match) {
	pos := s.pos
	if p := s.find(d, m); p != nil {
		s.fail("after %v: %s: %v", p.at.Sub(s.begin), what, p.message)
	}
	s.pos = pos
}

func (s *script) find(within time.Duration, m match) *packet {
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	for {
		all, more := s.heard()
		for s.pos < len(all) {
			p := all[s.pos]
			s.pos++
			if !p.sent && m(p) {
				return p
			}
		}
		select {
		case <-more:
		case <-deadline.C:
			return nil
		}
	}
}

// probe matches probes for a name.
func probe(name string) match { return func(p *packet) bool { return p.probes(name) } }

// holds matches responses with a record among the answers or the additionals, with a TTL over 0.
func holds(name string, typ uint16) match {
	return func(p *packet) bool {
		r, ok := find(p.records(), name, typ)
		return p.response() && ok && r.ttl > 0
	}
}

// answers matches responses with a record among the answers, with a TTL over 0.
func answers(name string, typ uint16) match {
	return func(p *packet) bool {
		r, ok := p.answer(name, typ)
		return p.response() && ok && r.ttl > 0
	}
}

// claims matches responses in which the host says that its address has the name.
func (s *script) claims(name string) match {
	return func(p *packet) bool {
		return p.response() && slices.ContainsFunc(p.records(), func(r record) bool {
			return r.is(name, s.addrType) && r.addr() == s.own && r.ttl > 0
		})
	}
}

func both(a, b match) match { return func(p *packet) bool { return a(p) && b(p) } }

func anyResponse(p *packet) bool { return p.response() }
func multicast(p *packet) bool   { return p.multicast() }
func unicast(p *packet) bool     { return !p.multicast() }

// start starts the host's program.
func (s *script) start() { s.host.Start() }

// announced waits until the host has announced its name and its service.
func (s *script) announced() {
	s.seen(15*time.Second, "an announcement of "+s.name, s.claims(s.name))
	s.seen(15*time.Second, "an announcement of "+s.instance, answers(s.instance, typeSRV))
}

// seen waits until a packet that matches has come, however long ago.
func (s *script) seen(within time.Duration, what string, m match) *packet {
	pos := s.pos
	s.pos = 0
	p := s.wait(within, what, m)
	s.pos = max(pos, s.pos)
	return p
}

// calm waits until the host has said nothing for so long that it may repeat anything.
func (s *script) calm() {
	const silence, patience = 1500 * time.Millisecond, 15 * time.Second
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if s.forget(); s.find(silence, func(*packet) bool { return true }) == nil {
			return
		}
	}
	s.fail("not silent for %v in %v", silence, patience)
}

// ready starts the host and waits until it has announced itself and is silent.
func (s *script) ready() {
	s.start()
	s.announced()
	s.calm()
}

// An outgoing packet; its zero value goes from us to the group, port 5353 to 5353.
type outgoing struct {
	from    netip.Addr
	port    uint16 // it comes from
	unicast bool   // it goes to the host's own address
	raw     []byte // instead of the message
	message
}

// send sends a packet and returns it with the time the kernel had it at.
func (s *script) send(o outgoing) *packet { return s.sendAll(o)[0] }

// sendAll sends packets one right after the other.
func (s *script) sendAll(all ...outgoing) (sent []*packet) {
	var frames []frame
	var payloads [][]byte
	for _, o := range all {
		f := frame{toMAC: net.HardwareAddr{0x01, 0, 0x5e, 0, 0, 0xfb}, hops: 255}
		if s.setup.ipv6 {
			f.toMAC = net.HardwareAddr{0x33, 0x33, 0, 0, 0, 0xfb}
		}
		from, port, to := s.us, uint16(mdnsPort), s.group
		if o.from.IsValid() {
			from = o.from
		}
		if o.port != 0 {
			port = o.port
		}
		if o.unicast {
			to, f.toMAC = s.own, s.mac
		}
		f.from, f.to = netip.AddrPortFrom(from, port), netip.AddrPortFrom(to, mdnsPort)
		payload := o.raw
		if payload == nil {
			payload = o.message.bytes()
		}
		frames, payloads = append(frames, f), append(payloads, payload)
	}
	s.forget()
	n := s.pos
	for i := range frames {
		if err := s.wire.send(frames[i], payloads[i]); err != nil {
			s.t.Fatalf("conformance: send: %v", err)
		}
	}
	deadline := time.After(5 * time.Second)
	for {
		heard, more := s.heard()
		for ; n < len(heard); n++ {
			if heard[n].sent {
				sent = append(sent, heard[n])
			}
			if len(sent) == len(all) {
				return sent
			}
		}
		select {
		case <-more:
		case <-deadline:
			s.t.Fatal("conformance: a packet was sent and not heard on the cable")
		}
	}
}

// inTime has the scenario played again if the host spoke before the script did what the scenario is
// about: the script, on a busy machine, was too slow.
func (s *script) inTime(sent *packet, m match) {
	for _, p := range s.packets()[s.pos:] {
		if !p.sent && m(p) && !p.at.After(sent.at) {
			s.late("the host answers before the script's second packet, in %v", p.at.Sub(s.begin))
		}
	}
}

// ask sends a query by multicast.
func (s *script) ask(questions ...question) *packet { return s.send(asking(questions...)) }

// say sends a response by multicast, as another host.
func (s *script) say(records ...record) *packet { return s.send(s.saying(records...)) }

func (s *script) saying(records ...record) outgoing {
	return outgoing{from: s.other, message: message{flags: flagResponse | flagAuthoritative, answers: records}}
}

func asking(questions ...question) outgoing { return outgoing{message: message{questions: questions}} }

// rival sends another host's probe for a name, with these records.
func (s *script) rival(name string, proposed ...record) *packet {
	return s.send(outgoing{from: s.other, message: message{
		questions: []question{{name, typeANY, classIN | top}}, authority: proposed,
	}})
}

func q(name string, typ uint16) question  { return question{name, typ, classIN} }
func qu(name string, typ uint16) question { return question{name, typ, classIN | top} }

// address records, as the host's family has them.
func (s *script) a(name string, addr netip.Addr, ttl uint32) record {
	return record{name, s.addrType, classIN, ttl, addr.AsSlice()}
}

func ptr(name, target string, ttl uint32) record {
	return record{name, typePTR, classIN, ttl, appendName(nil, target)}
}

func srv(name string, port uint16, target string, ttl uint32) record {
	return record{name, typeSRV, classIN, ttl, appendName([]byte{0, 0, 0, 0, byte(port >> 8), byte(port)}, target)}
}

func (r record) flushing() record { r.class |= top; return r }

// record asks for one record, by itself, and returns it as it was answered. When it returns, the host
// may send it again.
func (s *script) record(name string, typ uint16) record {
	s.ask(q(name, typ))
	p := s.wait(3*time.Second, "an answer with "+typeName(typ)+" of "+name, answers(name, typ))
	r, _ := p.answer(name, typ)
	s.pause()
	return r
}

// pause lets time pass: a record is not to be repeated within a second.
func (s *script) pause() { time.Sleep(1200 * time.Millisecond) }

// alive fails the scenario unless the host answers for its name.
func (s *script) alive() {
	s.calm()
	s.ask(q(s.name, s.addrType))
	s.wait(3*time.Second, "an answer for "+s.name+" afterwards", s.claims(s.name))
}

// reverse is the name of the reverse mapping of an address.
func reverse(a netip.Addr) string {
	b := a.AsSlice()
	slices.Reverse(b)
	var name strings.Builder
	for _, x := range b {
		if a.Is4() {
			fmt.Fprintf(&name, "%d.", x)
		} else {
			fmt.Fprintf(&name, "%x.%x.", x&15, x>>4)
		}
	}
	if a.Is4() {
		return name.String() + "in-addr.arpa"
	}
	return name.String() + "ip6.arpa"
}
