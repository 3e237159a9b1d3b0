package ntp

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"cloudlink.local/gateway/internal/testnet"
)

func TestMain(m *testing.M) { testnet.Main(m) }

// A hostile server does what act says with each question: it may send anything from anywhere.
func hostile(t *testing.T, addr string, act func(conn *net.UDPConn, from netip.AddrPort, question []byte)) string {
	t.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(addr), 0)))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { // ends when conn is closed
		defer close(ended)
		buf := make([]byte, 512)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			act(conn, from, buf[:n])
		}
	}()
	t.Cleanup(func() { conn.Close(); <-ended })
	return conn.LocalAddr().String()
}

// askOnce runs a real client, with a clock in memory, until it says something about servers.
func askOnce(t *testing.T, servers ...string) (State, *clock) {
	t.Helper()
	c := &clock{off: -day}
	states := make(chan State, 16)
	client := Client{
		Build: time.Now().Add(-year), Floor: time.Now().Add(-year), Clock: c, Log: slog.New(slog.DiscardHandler),
		Resolve: func(context.Context, string) ([]netip.Addr, error) { panic("nothing to resolve") },
		Changed: func(s State) { states <- s },
	}
	ctx, stop := context.WithCancel(t.Context())
	wishes, ended := make(chan Wish), make(chan struct{})
	go func() { defer close(ended); client.Run(ctx, wishes) }()
	<-states // the floor
	wishes <- Wish{Chosen: servers}
	s := <-states
	stop()
	<-ended
	return s, c
}

func good(conn *net.UDPConn, from netip.AddrPort, question []byte) {
	conn.WriteToUDPAddrPort(reply48(question, time.Now()), from)
}

func right(t *testing.T, s State, c *clock) {
	t.Helper()
	if d := time.Since(c.Now()).Abs(); s.Source != NTP || d > time.Second {
		t.Errorf("clock is wrong by %v: %+v", d, s)
	}
}

func TestStrayPacketsDoNotEndTheQuestion(t *testing.T) {
	for name, stray := range map[string]func(question []byte) []byte{
		"truncated":         func(q []byte) []byte { return reply48(q, time.Now().Add(year))[:packetSize-1] },
		"empty":             func([]byte) []byte { return nil },
		"wrong origin":      func(q []byte) []byte { p := reply48(q, time.Now().Add(year)); p[originTime+7] ^= 1; return p },
		"origin of zero":    func(q []byte) []byte { p := reply48(q, time.Now().Add(year)); clear(p[24:32]); return p },
		"our own question":  func(q []byte) []byte { return q },
		"garbage, 60 KiB":   func([]byte) []byte { return make([]byte, 60<<10) },
		"an answer, behind": func(q []byte) []byte { return append(make([]byte, 8), reply48(q, time.Now().Add(year))...) },
	} {
		t.Run(name, func(t *testing.T) {
			s, c := askOnce(t, hostile(t, "127.0.0.1", func(conn *net.UDPConn, from netip.AddrPort, question []byte) {
				for range maxStray / 2 {
					conn.WriteToUDPAddrPort(stray(question), from)
				}
				good(conn, from, question)
			}))
			right(t, s, c)
		})
	}
}

func TestRepliesFromAnotherPortOrHostAreNotHeard(t *testing.T) {
	others := []*net.UDPConn{}
	for _, addr := range []string{"127.0.0.1", "127.0.0.9"} {
		conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(addr)})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		others = append(others, conn)
	}
	s, c := askOnce(t, hostile(t, "127.0.0.1", func(_ *net.UDPConn, from netip.AddrPort, question []byte) {
		for _, other := range others {
			good(other, from, question)
		}
	}))
	if s.Reason != NoAnswer || len(c.steps)+len(c.slews) != 0 {
		t.Errorf("%+v", s)
	}
}

func TestAFloodEndsTheQuestion(t *testing.T) {
	before := runtime.NumGoroutine()
	flooded := hostile(t, "127.0.0.1", func(conn *net.UDPConn, from netip.AddrPort, question []byte) {
		p := reply48(question, time.Now().Add(year))
		p[originTime] ^= 1
		for range 5000 {
			conn.WriteToUDPAddrPort(p, from)
		}
		good(conn, from, question) // too late
	})
	s, c := askOnce(t, flooded)
	if s.Reason != NoAnswer || !strings.Contains(s.Detail, "none of them an answer") || len(c.steps) != 0 {
		t.Errorf("%+v", s)
	}
	s, c = askOnce(t, flooded, hostile(t, "127.0.0.2", good)) // another server beside it does not suffer
	right(t, s, c)
	if now := runtime.NumGoroutine(); now > before+2 { // the servers'
		t.Errorf("%d goroutines, %d before", now, before)
	}
}

func TestAHostWithoutAServerIsNotWaitedFor(t *testing.T) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	nobody := conn.LocalAddr().String()
	conn.Close()
	s, _ := askOnce(t, nobody)
	if s.Reason != NoAnswer || !strings.Contains(s.Detail, "connection refused") {
		t.Errorf("%+v", s)
	}
}

func TestIPv6(t *testing.T) {
	s, c := askOnce(t, hostile(t, "::1", good))
	right(t, s, c)
}

func TestAnAnswerWithExtensionFields(t *testing.T) {
	s, c := askOnce(t, hostile(t, "127.0.0.1", func(conn *net.UDPConn, from netip.AddrPort, question []byte) {
		conn.WriteToUDPAddrPort(append(reply48(question, time.Now()), make([]byte, 1024)...), from)
	}))
	right(t, s, c)
}

// Whatever a server sends, it is refused or says a time that NTP can say.
func FuzzAnswer(f *testing.F) {
	question := make([]byte, packetSize)
	f.Add(reply48(question, build), true)
	f.Add(reply48(question, build)[:47], true)
	f.Add(reply48(question, time.Date(2036, 2, 7, 6, 28, 17, 0, time.UTC)), true)
	f.Add(make([]byte, packetSize), false)
	f.Fuzz(func(t *testing.T, packet []byte, answers bool) {
		packet = slices.Clone(packet) // the fuzzer's own
		near, far := net.Pipe()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			defer far.Close()
			question := make([]byte, packetSize)
			if _, err := far.Read(question); err != nil {
				return
			}
			if answers && len(packet) >= packetSize {
				copy(packet[originTime:], question[transmitTime:])
			}
			far.Write(packet)
		}()
		s := &session{began: time.Now(), Client: &Client{}}
		r := s.askAddress(t.Context(), Server{"a", netip.MustParseAddrPort("192.0.2.1:123")}, near)
		<-ended
		if (r.sample == nil) == (r.failure == nil) {
			t.Fatalf("%+v", r)
		}
		if r.sample == nil {
			return
		}
		if !answers || packet[1] == 0 || packet[1] > 15 || packet[0]>>6 == 3 || packet[0]&7 != 4 {
			t.Fatalf("%x is believed", packet)
		}
		told := s.now().Add(r.sample.offset)
		if told.Before(time.Unix(0, 0).Add(-10*time.Second)) || told.Year() > 2106 {
			t.Fatalf("%x says %v", packet, told)
		}
	})
}
