package mdns

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cloudlink.local/gateway/internal/mdns/wire"
)

// A cable is a conn without a kernel.
type cable struct {
	family family
	in     chan datagram
	out    chan outgoing
	closed chan struct{}
	once   sync.Once
}

func (c *cable) read(buf []byte) (datagram, error) {
	select {
	case d, ok := <-c.in:
		if !ok {
			return datagram{}, errors.New("device is gone")
		}
		d.bytes = buf[:copy(buf, d.bytes)]
		return d, nil
	case <-c.closed:
		return datagram{}, net.ErrClosed
	}
}

func (c *cable) write(o outgoing) error {
	select {
	case <-c.closed:
		return net.ErrClosed
	case c.out <- o:
		return nil
	}
}

func (c *cable) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

// A stage is a Responder with cables for sockets, in a bubble of its own time.
type stage struct {
	t      *testing.T
	r      *Responder
	wishes chan Wish
	stop   context.CancelFunc
	ended  chan error

	mu     sync.Mutex // guards what follows
	cables []*cable
	refuse error // of opening
	told   int   // times that Changed was called
}

func newStage(t *testing.T) *stage {
	s := &stage{t: t, wishes: make(chan Wish), ended: make(chan error, 1)}
	ctx, stop := context.WithCancel(t.Context())
	s.stop = stop
	s.r = New(Config{Log: slog.New(slog.DiscardHandler), Changed: func() {
		s.mu.Lock()
		s.told++
		s.mu.Unlock()
	}, world: world{
		open:     s.open,
		mtu:      func(Link) int { return 1500 },
		hardware: func(int, netip.Addr) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, 9} },
		random:   func(d time.Duration) time.Duration { return d / 2 },
	}})
	go func() { s.ended <- s.r.Run(ctx, s.wishes) }()
	return s
}

func (s *stage) open(_ Link, f family) (conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse != nil {
		return nil, s.refuse
	}
	c := &cable{family: f, in: make(chan datagram), out: make(chan outgoing, 1<<16), closed: make(chan struct{})}
	s.cables = append(s.cables, c)
	return c, nil
}

// cable is the one opened last.
func (s *stage) cable() *cable {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.cables) == 0 {
		s.t.Fatal("no socket was opened")
	}
	return s.cables[len(s.cables)-1]
}

// sent returns what went out.
func (c *cable) sent() (list []outgoing) {
	for {
		select {
		case o := <-c.out:
			list = append(list, o)
		default:
			return list
		}
	}
}

func (s *stage) wish(links ...Link) {
	w := ourWish()
	w.Links = links
	s.wishes <- *w
}

var lan = Link{Name: "lan", Index: 2, Addresses: []netip.Prefix{ourPrefix}}

// wait lets time pass.
func wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestRunProbesAnnouncesAndSaysGoodbye(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.wish(lan)
		wait(10 * time.Second)
		c := s.cable()
		if out := c.sent(); len(out) != 5 {
			t.Errorf("sent %d packets, want 3 probes and 2 announcements", len(out))
		}
		status := s.r.Status()
		if len(status.Links) != 1 || status.Links[0].Trouble != "" || len(status.Links[0].Names) != 3 {
			t.Fatalf("status is %+v", status)
		}
		for _, n := range status.Links[0].Names {
			if n.State != Announced {
				t.Errorf("%+v", n)
			}
		}
		told := s.told
		if told == 0 {
			t.Error("Changed was not called")
		}
		s.wish(lan)
		wait(10 * time.Second)
		if s.told != told {
			t.Error("Changed was called for nothing: who wishes again when it is would never end")
		}
		s.stop()
		if err := <-s.ended; err != nil {
			t.Error(err)
		}
		out := c.sent()
		if len(out) != 1 {
			t.Fatalf("at the end sent %d packets, want a goodbye", len(out))
		}
		if m, err := wire.Parse(out[0].bytes); err != nil || len(m.Answers) != 7 || m.Answers[0].TTL != 0 {
			t.Errorf("goodbye is %+v, %v", m, err)
		}
	})
}

// The link goes down, which takes it out of the wish, and comes back.
func TestRFC6762_8_LinkUpAgainProbesAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.wish(lan)
		wait(10 * time.Second)
		first := s.cable()
		first.sent()
		s.wish()
		wait(time.Second)
		if out := first.sent(); len(out) != 1 {
			t.Errorf("sent %d packets, want a goodbye", len(out))
		}
		if status := s.r.Status(); len(status.Links) != 0 {
			t.Errorf("status is %+v", status)
		}
		s.wish(lan)
		wait(10 * time.Second)
		second := s.cable()
		if second == first {
			t.Fatal("the socket was not opened anew")
		}
		if out := second.sent(); len(out) != 5 {
			t.Errorf("sent %d packets, want 3 probes and 2 announcements", len(out))
		}
		s.stop()
		<-s.ended
	})
}

func TestSocketsHeal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.refuse = errors.New("no such device")
		s.wish(lan)
		wait(10 * time.Second)
		if status := s.r.Status(); len(status.Links) != 1 || !strings.Contains(status.Links[0].Trouble, "no such device") {
			t.Errorf("status is %+v", status)
		}
		s.mu.Lock()
		s.refuse = nil
		s.mu.Unlock()
		wait(10 * time.Second)
		if status := s.r.Status(); status.Links[0].Trouble != "" || status.Links[0].Names[0].State != Announced {
			t.Errorf("status is %+v", status)
		}
		first := s.cable()
		close(first.in) // as when the device goes
		wait(10 * time.Second)
		second := s.cable()
		if second == first {
			t.Fatal("the broken socket was not opened again")
		}
		second.in <- datagram{from: asker, multicast: true, bytes: query(shortName, wire.A)}
		synctest.Wait()
		if out := second.sent(); len(out) != 1 {
			t.Errorf("sent %d packets, want an answer", len(out))
		}
		s.stop()
		<-s.ended
	})
}

func TestSecondFamilyComesLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.wish(lan)
		wait(10 * time.Second)
		both := lan
		both.Addresses = []netip.Prefix{ourPrefix, ourPrefix6}
		s.wish(both)
		wait(10 * time.Second)
		c := s.cable()
		out := c.sent()
		if c.family != v6 || len(out) != 2 {
			t.Fatalf("sent %d packets, want 2 announcements", len(out))
		}
		s.stop()
		<-s.ended
	})
}

func TestRivalHasAMAC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.wish(lan)
		wait(400 * ms)
		w := wire.NewResponse(512, 0)
		w.Answers(host(shortName, "192.0.2.9", 120))
		s.cable().in <- datagram{from: peer, bytes: w.Bytes()}
		wait(10 * time.Second)
		for _, n := range s.r.Status().Links[0].Names {
			if n.Name == "cloudlink.local" && (n.State != Lost || n.Rival == nil || n.Rival.MAC.String() != "02:00:00:00:00:09") {
				t.Errorf("name is %+v, rival %+v", n, n.Rival)
			}
		}
		s.stop()
		<-s.ended
	})
}

func TestEndsWithoutAWish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		close(s.wishes)
		wait(time.Second)
		s.stop()
		if err := <-s.ended; err != nil {
			t.Error(err)
		}
	})
}

func query(name string, typ wire.Type) []byte {
	w := wire.NewQuery(512)
	w.Question(q(name, typ))
	return w.Bytes()
}

// One host floods, with ten thousand queries a second; the other is answered each time, and what we do
// for the first is counted.
func TestFloodIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.wish(lan)
		wait(time.Minute)
		c := s.cable()
		c.sent()
		flooder := datagram{from: netip.MustParseAddrPort("192.0.2.66:40000"), multicast: true, bytes: query(shortName, wire.A)}
		other := datagram{from: resolver, multicast: true, bytes: query(longName, wire.A)}
		const seconds, bursts, burst = 10, 100, 100
		for range seconds {
			for i := range bursts {
				for range burst {
					c.in <- flooder
				}
				if i == bursts/2 {
					c.in <- other
				}
				wait(time.Second / bursts)
			}
		}
		toFlooder, toOther, toAll := 0, 0, 0
		for _, o := range c.sent() {
			switch o.to {
			case flooder.from:
				toFlooder++
			case other.from:
				toOther++
			default:
				toAll++
			}
		}
		if toOther != seconds {
			t.Errorf("the other host got %d answers to %d queries", toOther, seconds)
		}
		// Each is answered, since it is a resolver's: so answers count what was read.
		if budget := hostBurst + (seconds+1)*hostRate; toFlooder > budget || toFlooder < hostBurst {
			t.Errorf("read %d of %d queries, want at most %d", toFlooder, seconds*bursts*burst, budget)
		}
		if toAll != 0 {
			t.Errorf("%d packets to everybody", toAll)
		}
		s.stop()
		<-s.ended
	})
}

// A flood of ordinary queries costs everybody one packet a second.
func TestFloodForEverybodyIsOnePacketASecond(t *testing.T) {
	b := up(t)
	for range 100 {
		for range 50 {
			b.ask(asker, q(shortName, wire.A), q(httpType, wire.PTR))
			b.probed(peer, shortName, host(shortName, "192.0.2.9", 120))
			b.receive(asker, wire.Message{Truncated: true, Questions: []wire.Question{q(httpType, wire.PTR)}})
		}
		b.run(100 * ms)
	}
	toAll := 0
	for _, s := range b.take() {
		if s.to == everyone {
			toAll++
		}
	}
	if toAll > 60 { // a second has one answer of each kind, and four in defence
		t.Errorf("%d packets to everybody within ten seconds", toAll)
	}
	if n := len(b.link.replies); n > mostReplies {
		t.Errorf("%d answers wait", n)
	}
	if n := len(b.link.sent); n > 32 {
		t.Errorf("%d records are remembered as sent", n)
	}
}

func TestAdmissionIsFair(t *testing.T) {
	a := newAdmission()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	steady := netip.MustParseAddr("192.0.2.7")
	a.admit(now, steady, 100)
	stranger := netip.MustParseAddr("10.0.0.0")
	admitted, refused := 0, 0
	for tick := range 1000 { // ten seconds of ten thousand packets each, all from other addresses
		for range 100 {
			stranger = stranger.Next()
			if a.admit(now, stranger, 100) {
				admitted++
			}
		}
		if tick%20 == 0 && !a.admit(now, steady, 100) {
			refused++
		}
		now = now.Add(10 * ms)
	}
	if len(a.hosts) > mostHosts {
		t.Errorf("%d hosts are remembered", len(a.hosts))
	}
	if admitted > allBurst+11*allRate {
		t.Errorf("%d packets of strangers were read", admitted)
	}
	if refused > 0 {
		t.Errorf("a host that was there before was refused %d times of 50", refused)
	}
	// Long packets are as many as they are dear.
	from := netip.MustParseAddr("192.0.2.8")
	a = newAdmission()
	long := 0
	for range 1000 {
		if a.admit(now, from, 9000) {
			long++
		}
	}
	if long > hostBurst/(1+9000/sizeUnit) {
		t.Errorf("%d long packets at once", long)
	}
	if n := testing.AllocsPerRun(100, func() { a.admit(now, from, 100) }); n != 0 {
		t.Errorf("a refused packet costs %v allocations", n)
	}
}

// FuzzReceive: whatever comes, in whatever state, does not break a link, and makes it send no more
// than it may.
func FuzzReceive(f *testing.F) {
	f.Add(query(shortName, wire.A), uint16(100), true)
	f.Fuzz(func(t *testing.T, b []byte, after uint16, multicast bool) {
		m, err := wire.Parse(b)
		if err != nil {
			return
		}
		bench := newBench(t)
		bench.wishes(ourWish(), ourPrefix, ourPrefix6)
		bench.run(time.Duration(after) * ms)
		bench.take()
		for _, from := range []netip.AddrPort{peer, peer6, resolver} {
			bench.link.receive(bench.now, packet{family: familyOf(from.Addr()), from: from, multicast: multicast, msg: m})
			bench.run(100 * ms)
		}
		bench.run(time.Minute)
		if out := bench.take(); len(out) > 60 {
			t.Errorf("sent %d packets", len(out))
		}
	})
}
