package ntp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A clock is a system clock in memory.
type clock struct {
	mu         sync.Mutex // guards what follows
	off        time.Duration
	steps      []time.Duration
	slews      []time.Duration
	synced     bool
	impossible error // to set it
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Round(0).Add(c.off)
}

func (c *clock) set(list *[]time.Duration, by time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.impossible != nil {
		return c.impossible
	}
	*list = append(*list, by)
	c.off += by
	c.synced = true
	return nil
}

func (c *clock) Step(by time.Duration) error { return c.set(&c.steps, by) }
func (c *clock) Slew(by time.Duration) error { return c.set(&c.slews, by) }

func (c *clock) Synchronised() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.synced
}

// put sets the clock as somebody else would.
func (c *clock) put(off time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off = off
}

// A server answers questions of the time. Its fields may be changed by do.
type server struct {
	mu    sync.Mutex
	off   time.Duration // what its time is ahead of the true one
	mute  bool
	alter func(packet []byte) // before it goes out
	asked []time.Time
}

func (s *server) do(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// answer returns what it says to question at the true time now; nil for nothing.
func (s *server) answer(question []byte, now time.Time) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, time.Now())
	if s.mute {
		return nil
	}
	packet := reply48(question, now.Add(s.off))
	if s.alter != nil {
		s.alter(packet)
	}
	return packet
}

func (s *server) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.asked)
}

// reply48 is a good server's answer.
func reply48(question []byte, now time.Time) []byte {
	p := make([]byte, packetSize)
	p[0] = 4<<3 | 4 // no leap second, version 4, server
	p[1] = 2        // stratum
	p[3] = 0xec     // precision
	copy(p[12:], "\xc0\x00\x02\x01")
	copy(p[originTime:], question[transmitTime:])
	putTime(p[16:], now.Add(-time.Minute)) // reference
	putTime(p[32:], now)
	putTime(p[transmitTime:], now)
	return p
}

func putTime(b []byte, t time.Time) {
	since := uint64(t.Unix() + 2208988800) // seconds since 1900
	binary.BigEndian.PutUint32(b, uint32(since))
	binary.BigEndian.PutUint32(b[4:], uint32(uint64(t.Nanosecond())<<32/1e9))
}

// A world is a Client with servers, in a bubble of synctest.
type world struct {
	t        *testing.T
	clock    *clock
	began    time.Time // of the bubble, when it is
	truth    time.Time
	servers  map[string]*server // by address
	names    map[string][]string
	unroute  func(netip.Addr) bool
	wishes   chan Wish
	client   *Client
	mu       sync.Mutex
	states   []State
	resolved int
}

// inWorld runs f with a client that knows servers, each at its address. The clock shows the floor,
// which is a day before the truth.
func inWorld(t *testing.T, servers map[string]*server, f func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, began: time.Now(), truth: build.Add(year), servers: servers, wishes: make(chan Wish), clock: &clock{}}
		w.clock.off = w.truth.Add(-day).Sub(w.began)
		w.client = &Client{
			Build: build, Floor: w.truth.Add(-day), Clock: w.clock, Log: slog.New(slog.DiscardHandler),
			Resolve: w.resolve, dial: w.dial,
			Changed: func(s State) { w.mu.Lock(); defer w.mu.Unlock(); w.states = append(w.states, s) },
		}
		f(w)
	})
}

func (w *world) now() time.Time { return w.truth.Add(time.Since(w.began)) }

// run starts the client; the returned function ends it.
func (w *world) run() (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := w.client.Run(ctx, w.wishes); err != nil {
			w.t.Errorf("Run: %v", err)
		}
	}()
	synctest.Wait()
	return func() { cancel(); <-ended; synctest.Wait() }
}

func (w *world) ask(chosen ...string) { w.wishes <- Wish{Chosen: chosen}; w.wait(0) }

// wait lets so much time pass, and all happen that does then.
func (w *world) wait(d time.Duration) { time.Sleep(d); synctest.Wait() }

func (w *world) state() State {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.states[len(w.states)-1]
}

// wrong is what the clock is behind the truth.
func (w *world) wrong() time.Duration { return w.now().Sub(w.clock.Now()).Abs() }

func (w *world) expect(source Source, reason Reason) {
	w.t.Helper()
	if s := w.state(); s.Source != source || s.Reason != reason {
		w.t.Errorf("state is %q, reason %q (%s), want %q, %q", s.Source, s.Reason, s.Detail, source, reason)
	}
}

func (w *world) resolve(ctx context.Context, name string) (list []netip.Addr, err error) {
	w.mu.Lock()
	w.resolved++
	addrs, known := w.names[name]
	w.mu.Unlock()
	if !known {
		return nil, errors.New("no such host")
	}
	if len(addrs) == 0 { // a resolver that does not answer
		<-ctx.Done()
		return nil, ctx.Err()
	}
	for _, a := range addrs {
		list = append(list, netip.MustParseAddr(a))
	}
	return list, nil
}

func (w *world) dial(_ context.Context, to netip.AddrPort) (net.Conn, error) {
	s := w.servers[to.Addr().String()]
	if s == nil || w.unroute != nil && w.unroute(to.Addr()) {
		return nil, errors.New("network is unreachable")
	}
	near, far := net.Pipe()
	go func() { // ends when the client closes its end
		defer far.Close()
		question := make([]byte, 512)
		for {
			n, err := far.Read(question)
			if err != nil {
				return
			}
			if packet := s.answer(question[:n], w.now()); packet != nil {
				if _, err := far.Write(packet); err != nil {
					return
				}
			}
		}
	}()
	return near, nil
}

func TestThreeServersSetTheClockAndAreAskedForEver(t *testing.T) {
	servers := map[string]*server{"192.0.2.1": {}, "192.0.2.2": {off: 100 * time.Millisecond}, "192.0.2.3": {off: -50 * time.Millisecond}}
	inWorld(t, servers, func(w *world) {
		defer w.run()()
		w.wait(time.Hour)
		w.expect(Floor, "")
		if servers["192.0.2.1"].count() != 0 {
			t.Error("asked before anybody wished it")
		}
		w.ask("192.0.2.1", "192.0.2.2", "192.0.2.3")
		w.expect(Verified, "")
		if s := w.state(); s.Stepped.Round(time.Second) != day || s.Offset != s.Stepped || len(s.Servers) != 3 || time.Since(s.Synced) != 0 {
			t.Errorf("%+v", s)
		}
		if w.wrong() > time.Second {
			t.Errorf("wrong by %v", w.wrong())
		}
		w.wait(10 * day)
		if steps := len(w.clock.steps); steps != 1 {
			t.Errorf("%d steps", steps)
		}
		asked := servers["192.0.2.1"].asked
		for i := 1; i < len(asked); i++ {
			if d := asked[i].Sub(asked[i-1]); d < 20*time.Minute || d > 40*time.Minute {
				t.Fatalf("asked after %v", d)
			}
		}
		if age := time.Since(w.state().Synced); len(asked) < 300 || age > 40*time.Minute {
			t.Errorf("asked %d times in ten days, last %v ago", len(asked), age)
		}
	})
}

func TestAnUnansweredQuestionIsAskedAgainForEver(t *testing.T) {
	s := &server{mute: true}
	inWorld(t, map[string]*server{"192.0.2.1": s}, func(w *world) {
		defer w.run()()
		w.ask("192.0.2.1")
		w.wait(24 * time.Hour)
		w.expect(Floor, NoAnswer)
		for i, want := 1, retry; i < len(s.asked); i, want = i+1, min(2*want, maxRetry) {
			lo, hi := want*2/3+answerTime, want*4/3+answerTime
			if d := s.asked[i].Sub(s.asked[i-1]); d < lo || d > hi {
				t.Fatalf("question %d after %v, want %v to %v", i, d, lo, hi)
			}
		}
		if n := len(s.asked); n < 200 {
			t.Errorf("asked %d times in a day", n)
		}
		s.do(func() { s.mute = false })
		w.wait(maxRetry * 2)
		w.expect(NTP, "")
		if w.wrong() > time.Second {
			t.Errorf("wrong by %v", w.wrong())
		}
	})
}

func TestAWishIsAskedAtOnceAndEndsTheRoundBefore(t *testing.T) {
	servers := map[string]*server{"192.0.2.1": {mute: true}, "192.0.2.2": {}}
	inWorld(t, servers, func(w *world) {
		defer w.run()()
		w.ask("192.0.2.1")
		w.ask("192.0.2.2")
		if w.expect(NTP, ""); w.wrong() > time.Second {
			t.Errorf("wrong by %v", w.wrong())
		}
		w.wait(time.Minute)
		if n := servers["192.0.2.1"].count(); n != 1 {
			t.Errorf("the old server was asked %d times", n)
		}
		w.ask("192.0.2.2") // the network has changed: who knows
		if n := servers["192.0.2.2"].count(); n != 2 {
			t.Errorf("the server was asked %d times", n)
		}
		close(w.wishes) // nobody has any more
		w.wait(time.Hour)
		if n := servers["192.0.2.2"].count(); n < 3 {
			t.Errorf("the server was asked %d times", n)
		}
	})
}

func TestAFlappingCableDoesNotFloodTheServers(t *testing.T) {
	s := &server{}
	inWorld(t, map[string]*server{"192.0.2.1": s}, func(w *world) {
		defer w.run()()
		for range 3000 {
			w.ask("192.0.2.1")
			w.wait(200 * time.Millisecond)
		}
		if n := s.count(); n > 10*burst+burst {
			t.Errorf("asked %d times in ten minutes", n)
		}
		w.wait(burstTime)
		w.expect(NTP, "")
	})
}

func TestOneServerThatLiesIsIgnored(t *testing.T) {
	servers := map[string]*server{"192.0.2.1": {off: 5 * year}, "192.0.2.2": {}, "192.0.2.3": {}}
	inWorld(t, servers, func(w *world) {
		defer w.run()()
		w.wishes <- Wish{Offered: []string{"192.0.2.1"}, Chosen: []string{"192.0.2.2", "192.0.2.3"}}
		w.wait(time.Hour)
		w.expect(NTP, "")
		if w.wrong() > time.Second || slices.ContainsFunc(w.state().Servers, func(s Server) bool { return s.Name == "192.0.2.1" }) {
			t.Errorf("wrong by %v, by %v", w.wrong(), w.state().Servers)
		}
	})
}

func TestServersThatDisagreeSetNothing(t *testing.T) {
	inWorld(t, map[string]*server{"192.0.2.1": {off: year}, "192.0.2.2": {}}, func(w *world) {
		defer w.run()()
		w.ask("192.0.2.1", "192.0.2.2")
		w.expect(Floor, Disagree)
		if len(w.clock.steps)+len(w.clock.slews) != 0 {
			t.Error("the clock was set")
		}
	})
}

func TestTheOneServerOfAClosedNetworkIsBelievedOnce(t *testing.T) {
	s := &server{}
	inWorld(t, map[string]*server{"192.0.2.1": s}, func(w *world) {
		stop := w.run()
		w.ask("192.0.2.1")
		w.expect(NTP, "")
		s.do(func() { s.off = 10 * time.Minute })
		w.wait(time.Hour)
		w.expect(NTP, "")
		if d := w.wrong(); d.Round(time.Minute) != 10*time.Minute {
			t.Errorf("wrong by %v", d)
		}
		s.do(func() { s.off = time.Hour })
		w.wait(time.Hour)
		w.expect(NTP, TooFar)
		stop()
		stop = w.run() // killed, say: the kernel remembers
		w.expect(NTP, "")
		w.ask("192.0.2.1")
		w.expect(NTP, TooFar)
		if d := w.wrong(); d.Round(time.Minute) != 10*time.Minute {
			t.Errorf("wrong by %v", d)
		}
		s.do(func() { s.off = 0 })
		w.wait(time.Hour)
		w.expect(NTP, "")
		stop()
	})
}

func TestWallClockSetBackFiveYearsIsCorrected(t *testing.T) {
	s := &server{}
	inWorld(t, map[string]*server{"192.0.2.1": s}, func(w *world) {
		defer w.run()()
		w.ask("192.0.2.1")
		for _, off := range []time.Duration{-5 * year, 5 * year, -time.Hour, time.Second} {
			w.wait(3 * time.Minute)
			w.clock.put(time.Until(w.now()) + off)
			w.wait(look)
			if d := w.wrong(); d > time.Second/2 {
				t.Errorf("set by %v: wrong by %v after %v", off, d, look)
			}
			if got := w.state().Stepped.Round(time.Second / 10); got != -off {
				t.Errorf("stepped by %v, want %v", got, -off)
			}
		}
		if age := time.Since(w.state().Synced); age > look || age < 0 {
			t.Errorf("last set %v ago", age)
		}
		if n := s.count(); n != 5 {
			t.Errorf("asked %d times", n)
		}
	})
}

func TestTheFloorHolds(t *testing.T) {
	servers := map[string]*server{"192.0.2.1": {off: -2 * day}, "192.0.2.2": {off: -2 * day}, "192.0.2.3": {off: -2 * day}}
	inWorld(t, servers, func(w *world) {
		w.clock.off -= year // process 1 could not set it
		defer w.run()()
		w.expect(Unset, "")
		w.ask("192.0.2.1", "192.0.2.2", "192.0.2.3")
		w.expect(Unset, Impossible)
		for _, s := range servers {
			s.do(func() { s.off = 24*year + day })
		}
		w.ask("192.0.2.1", "192.0.2.2", "192.0.2.3")
		w.expect(Unset, Impossible)
		if len(w.clock.steps)+len(w.clock.slews) != 0 {
			t.Error("the clock was set")
		}
	})
}

func TestTheEraOfNTPEndsIn2036(t *testing.T) {
	servers := map[string]*server{"192.0.2.1": {}, "192.0.2.2": {}, "192.0.2.3": {}}
	inWorld(t, servers, func(w *world) {
		wrap := time.Date(2036, 2, 7, 6, 28, 16, 0, time.UTC)
		w.truth = wrap.Add(-2 * time.Hour)
		defer w.run()()
		w.ask("192.0.2.1", "192.0.2.2", "192.0.2.3")
		for w.now().Before(wrap.Add(2 * time.Hour)) {
			if w.expect(Verified, ""); w.wrong() > time.Second {
				t.Fatalf("at %v wrong by %v", w.now(), w.wrong())
			}
			w.wait(10 * time.Minute)
		}
		if len(w.clock.steps) != 1 {
			t.Errorf("steps %v", w.clock.steps)
		}
	})
	inWorld(t, servers, func(w *world) { // and the gateway may have slept across it
		w.truth = time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC)
		defer w.run()()
		w.ask("192.0.2.1", "192.0.2.2", "192.0.2.3")
		if w.expect(Verified, ""); w.wrong() > time.Second {
			t.Errorf("wrong by %v", w.wrong())
		}
	})
}

func TestLittleIsSlewedAndMoreStepped(t *testing.T) {
	s := &server{}
	inWorld(t, map[string]*server{"192.0.2.1": s}, func(w *world) {
		defer w.run()()
		w.ask("192.0.2.1")
		for _, c := range []struct {
			off    time.Duration
			step   bool
			source Source
		}{{300 * time.Millisecond, false, NTP}, {-90 * time.Millisecond, false, NTP}, {10 * time.Second, true, NTP}} {
			steps, slews := len(w.clock.steps), len(w.clock.slews)
			s.do(func() { s.off = c.off })
			w.ask("192.0.2.1")
			if got := len(w.clock.steps) > steps; got != c.step || got == (len(w.clock.slews) > slews) || (w.state().Stepped != 0) != c.step {
				t.Errorf("%v: steps %v, slews %v, told %v", c.off, w.clock.steps, w.clock.slews, w.state().Stepped)
			}
		}
	})
}

func TestServersThatRefuseAreLeftAlone(t *testing.T) {
	kiss := func(code string) func([]byte) {
		return func(p []byte) { p[0] |= 3 << 6; p[1] = 0; copy(p[12:], code) }
	}
	for code, c := range map[string]struct {
		reason   Reason
		min, max int // questions in a day
	}{
		"RATE":             {Refused, 7, 10}, // after 15 min, 30 min, 1 h, 2 h, 4 h, 4 h, 4 h, 4 h
		"DENY":             {Refused, 1, 1},
		"RSTR":             {Refused, 1, 1},
		"INIT":             {Unsynchronised, 200, 400},
		"\x00\x00\x00\x00": {Unsynchronised, 200, 400}, // chrony's
		"XXXX":             {Unsynchronised, 200, 400},
	} {
		s := &server{alter: kiss(code)}
		inWorld(t, map[string]*server{"192.0.2.1": s}, func(w *world) {
			defer w.run()()
			w.ask("192.0.2.1")
			w.wait(day - time.Minute)
			w.expect(Floor, c.reason)
			w.ask("192.0.2.1") // a new wish changes nothing about that
			if n := s.count(); n < c.min || n > c.max {
				t.Errorf("%q: asked %d times", code, n)
			}
			s.do(func() { s.alter = nil })
			w.wait(5 * time.Hour)
			w.expect(NTP, "")
		})
	}
}

func TestRefusalsAreRememberedInBoundedMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &session{held: map[netip.AddrPort]held{}}
		for i := range 10 * maxHeld {
			s.hold(kiss{netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), port), "RATE"})
		}
		if n := len(s.held); n != maxHeld {
			t.Errorf("%d are remembered", n)
		}
		time.Sleep(3 * day)
		s.hold(kiss{netip.MustParseAddrPort("192.0.2.1:123"), "DENY"})
		if n := len(s.held); n != 1 {
			t.Errorf("%d are remembered after three days", n)
		}
	})
}

func TestServersThatAreNotFitSetNothing(t *testing.T) {
	for name, alter := range map[string]func(p []byte){
		"not synchronised":                           func(p []byte) { p[0] |= 3 << 6 },
		"stratum 16":                                 func(p []byte) { p[1] = 16 },
		"root dispersion of 20 s":                    func(p []byte) { binary.BigEndian.PutUint16(p[8:], 20) },
		"root delay of 40 s":                         func(p []byte) { binary.BigEndian.PutUint16(p[4:], 40) },
		"not set for two days":                       func(p []byte) { putTime(p[16:], build.Add(year-2*day)) },
		"set in the future":                          func(p []byte) { putTime(p[16:], build.Add(2*year)) },
		"never set":                                  func(p []byte) { clear(p[16:24]) },
		"no time at all":                             func(p []byte) { clear(p[transmitTime:]) },
		"sent before received":                       func(p []byte) { putTime(p[32:], build.Add(2*year)) },
		"a client's packet":                          func(p []byte) { p[0] = 4<<3 | 3 },
		"a broadcast":                                func(p []byte) { p[0] = 4<<3 | 5 },
		"version 5":                                  func(p []byte) { p[0] = 5<<3 | 4 },
		"version 7, not in sync":                     func(p []byte) { p[0] = 3<<6 | 7<<3 | 4 },
		"nothing that was asked":                     func(p []byte) { p[originTime]++ },
		"nothing but zeros":                          func(p []byte) { clear(p) },
		"stratum 16, and poll and precision of -128": func(p []byte) { p[1], p[2], p[3] = 16, 0x80, 0x80 },
		"what was asked, no answer":                  func(p []byte) { clear(p[:originTime]); clear(p[32:]) },
	} {
		inWorld(t, map[string]*server{"192.0.2.1": {alter: alter}}, func(w *world) {
			defer w.run()()
			w.ask("192.0.2.1")
			w.wait(time.Hour)
			if s := w.state(); s.Source != Floor || s.Reason != Unsynchronised && s.Reason != NoAnswer {
				t.Errorf("%s: %+v", name, s)
			}
			if len(w.clock.steps)+len(w.clock.slews) != 0 {
				t.Errorf("%s: the clock was set", name)
			}
		})
	}
	inWorld(t, map[string]*server{"192.0.2.1": {alter: func(p []byte) { binary.BigEndian.PutUint16(p[8:], 10) }}}, func(w *world) {
		defer w.run()()
		w.ask("192.0.2.1") // a Windows server that claims ten seconds
		w.expect(NTP, "")
	})
}

func TestANameIsAskedAtNoMoreThanFourOfItsAddresses(t *testing.T) {
	servers, pool := map[string]*server{}, []string{"0.0.0.0", "224.0.1.1"}
	for i := range 10 {
		a := fmt.Sprintf("192.0.2.%d", i)
		servers[a], pool = &server{}, append(pool, a, "::ffff:"+a)
	}
	servers["2001:db8::1"] = &server{}
	inWorld(t, servers, func(w *world) {
		w.names = map[string][]string{"pool.ntp.org": append(pool, "2001:db8::1")}
		defer w.run()()
		w.ask("pool.ntp.org")
		w.expect(Verified, "")
		asked := 0
		for _, s := range servers {
			asked += s.count()
		}
		if asked < quorum || asked > perName || servers["2001:db8::1"].count() != 0 {
			t.Errorf("asked %d servers", asked)
		}
		for _, s := range w.state().Servers {
			if s.Name != "pool.ntp.org" || !netip.MustParsePrefix("192.0.2.0/24").Contains(s.Address.Addr()) {
				t.Errorf("server %v", s)
			}
		}
	})
}

func TestAFamilyThatLeadsNowhereIsNotWaitedFor(t *testing.T) {
	addrs := []string{"192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "2001:db8::1", "2001:db8::2", "2001:db8::3"}
	for name, dead := range map[string]string{"no route": "route", "a route to nowhere": "mute"} {
		servers := map[string]*server{}
		for i, a := range addrs {
			servers[a] = &server{mute: dead == "mute" && i < 4}
		}
		inWorld(t, servers, func(w *world) {
			w.names = map[string][]string{"pool.ntp.org": addrs}
			if dead == "route" {
				w.unroute = netip.Addr.Is4
			}
			defer w.run()()
			w.ask("pool.ntp.org")
			w.wait(2 * (retry + answerTime))
			if w.expect(Verified, ""); w.wrong() > time.Second {
				t.Errorf("%s: wrong by %v", name, w.wrong())
			}
		})
	}
}

func TestAResolverThatHangsHoldsNothingUp(t *testing.T) {
	inWorld(t, map[string]*server{"192.0.2.1": {}}, func(w *world) {
		w.names = map[string][]string{"slow.example": nil, "empty.example": {"0.0.0.0"}}
		defer w.run()()
		w.wishes <- Wish{Offered: []string{"192.0.2.1"}, Chosen: []string{"slow.example", "none.example", "empty.example"}}
		w.wait(resolveTime)
		w.expect(NTP, "")
		w.ask("slow.example", "none.example")
		w.wait(resolveTime)
		w.expect(NTP, Unresolved)
	})
}

func TestAWishWithoutServersOrWithNonsense(t *testing.T) {
	inWorld(t, map[string]*server{"192.0.2.1": {}}, func(w *world) {
		defer w.run()()
		w.ask()
		w.expect(Floor, NoServers)
		w.ask("http://ntp.example/", "\x00")
		w.expect(Floor, NoServers)
		w.ask("http://ntp.example/", "192.0.2.1")
		w.expect(NTP, "")
	})
}

func TestADHCPServerThatNamesManyDoesNotOutvoteTheOwner(t *testing.T) {
	servers := map[string]*server{}
	var offered []string
	for i := range 60 {
		a := fmt.Sprintf("10.0.0.%d", i+1)
		servers[a], offered = &server{off: year}, append(offered, a)
	}
	pool := []string{"192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"}
	for _, a := range pool {
		servers[a] = &server{}
	}
	inWorld(t, servers, func(w *world) {
		w.names = map[string][]string{"pool.ntp.org": pool}
		defer w.run()()
		w.wishes <- Wish{Offered: offered, Chosen: []string{"pool.ntp.org"}}
		w.wait(time.Hour)
		if w.expect(Verified, ""); w.wrong() > time.Second {
			t.Errorf("wrong by %v", w.wrong())
		}
		asked := 0
		for _, a := range offered {
			asked += min(1, servers[a].count())
		}
		if asked > maxOffered { // fewer where the four have agreed before
			t.Errorf("asked %d of the DHCP server's", asked)
		}
	})
}

func TestAServerNamedTwiceIsOneServer(t *testing.T) {
	s := &server{off: year}
	inWorld(t, map[string]*server{"192.0.2.1": s}, func(w *world) {
		w.names = map[string][]string{"a.example": {"192.0.2.1"}, "b.example": {"192.0.2.1", "::ffff:192.0.2.1"}}
		defer w.run()()
		w.wishes <- Wish{Offered: []string{"192.0.2.1", "192.0.2.1"}, Chosen: []string{"a.example", "b.example", "192.0.2.1"}}
		w.wait(0)
		w.expect(NTP, "")
		if n := s.count(); n != 1 {
			t.Errorf("asked %d times", n)
		}
	})
}

func TestAfterAStepTheCallerMayVerify(t *testing.T) {
	inWorld(t, map[string]*server{"192.0.2.1": {}}, func(w *world) {
		calls, result := 0, errors.New("certificate has expired") // guarded by w.mu
		w.client.Verify = func(ctx context.Context) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			calls++
			if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > verifyTime {
				t.Error("it may take for ever")
			}
			return result
		}
		defer w.run()()
		w.ask("192.0.2.1")
		w.expect(NTP, "")
		if s := w.state(); s.Stepped != 0 || s.Detail != "verify clock: certificate has expired" {
			t.Errorf("%+v", s)
		}
		w.mu.Lock()
		result = nil
		w.mu.Unlock()
		w.wait(time.Hour)
		w.expect(Verified, "")
		had := calls
		w.wait(time.Hour)
		if w.expect(Verified, ""); calls != had {
			t.Errorf("verified %d times again", calls-had)
		}
	})
}

func TestAVerifierThatHangsEndsWithANewWish(t *testing.T) {
	inWorld(t, map[string]*server{"192.0.2.1": {}}, func(w *world) {
		w.client.Verify = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		defer w.run()()
		w.ask("192.0.2.1")
		if w.state().Stepped == 0 {
			t.Error("the step is told only after it was verified")
		}
		w.ask("192.0.2.1")
		w.wait(verifyTime)
		w.expect(NTP, "")
		if w.state().Detail == "" {
			t.Error("nothing is said about it")
		}
	})
}

func TestAClockThatCannotBeSetIsTold(t *testing.T) {
	inWorld(t, map[string]*server{"192.0.2.1": {}}, func(w *world) {
		w.clock.impossible = errors.New("operation not permitted")
		defer w.run()()
		w.ask("192.0.2.1")
		w.expect(Floor, CannotSet)
		w.clock.mu.Lock()
		w.clock.impossible = nil
		w.clock.mu.Unlock()
		w.wait(time.Minute)
		w.expect(NTP, "")
	})
}

func TestTheEndDoesNotWait(t *testing.T) {
	inWorld(t, map[string]*server{"192.0.2.1": {mute: true}}, func(w *world) {
		stop := w.run()
		w.ask("192.0.2.1")
		began := time.Now()
		stop()
		if d := time.Since(began); d != 0 {
			t.Errorf("it took %v", d)
		}
		w.expect(Floor, "")
	})
}
