package portmap

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// A world is a Dialer whose addresses lead to servers of this test, or to an error.
type world struct {
	mu     sync.Mutex
	leads  map[string]any // network and address → net.Addr, error or reply
	locals []uint16
}

// A reply is what a server makes of a question; nil for silence.
type reply func(question []byte) []byte

func (w *world) Dial(ctx context.Context, network, address string, local uint16) (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.locals = append(w.locals, local)
	switch lead := w.leads[network+" "+address].(type) {
	case error:
		return nil, &net.OpError{Op: "dial", Net: network, Err: lead}
	case reply:
		near, far := net.Pipe()
		go func() { // ends when the self-test closes its end
			defer far.Close()
			buf := make([]byte, 1500)
			for {
				n, err := far.Read(buf)
				if err != nil {
					return
				}
				if answer := lead(buf[:n]); answer != nil {
					far.Write(answer)
				}
			}
		}()
		return near, nil
	}
	return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
}

func ntpServer(question []byte) []byte {
	answer := make([]byte, 48)
	answer[0] = 4<<3 | 4
	copy(answer[24:], question[40:48])
	return answer
}

func stunServer(question []byte) []byte {
	answer := append([]byte{1, 1, 0, 0}, question[4:20]...)
	return answer
}

func accepts([]byte) []byte { return nil }

func find(t *testing.T, results []Result, id string) Result {
	t.Helper()
	for _, r := range results {
		if r.ID == id {
			return r
		}
	}
	t.Fatalf("no result for %s", id)
	return Result{}
}

var allTargets = Targets{
	NTP:      []string{"ntp.test"},
	Accounts: []string{"accounts.test"},
	Media:    map[Region][]string{US: {"us.test"}, EU: {"eu.test"}, AP: {"ap.test"}},
	STUN:     []string{"stun.test"},
	Own:      []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
}

func openWorld() *world {
	return &world{leads: map[string]any{
		"udp ntp.test:123":      reply(ntpServer),
		"tcp accounts.test:443": reply(accepts),
		"tcp us.test:5061":      reply(accepts),
		"tcp eu.test:5061":      reply(accepts),
		"tcp ap.test:5061":      reply(accepts),
		"udp stun.test:3478":    reply(stunServer),
		"udp stun.test:3479":    reply(stunServer),
	}}
}

func TestM10_EveryRowIsTestedAndSaysHowInBothLanguages(t *testing.T) {
	w := openWorld()
	results := SelfTest(t.Context(), allTargets, w)
	if len(results) != len(Table) {
		t.Fatalf("%d results for %d rows", len(results), len(Table))
	}
	want := map[string]State{
		"ntp": Open, "accounts": Open, "sip-us": Open, "sip-eu": Open, "sip-ap": Open, "stun": Open, "rtp": Open,
		"internal-5070": Blocked, "internal-5080": Blocked, "internal-19060": Blocked,
	}
	for i, r := range results {
		if r.ID != Table[i].ID {
			t.Errorf("result %d is of %s, want %s", i, r.ID, Table[i].ID)
		}
		state, checked := want[r.ID]
		if !checked {
			state = Unknown
		}
		if r.State != state || r.Good != checked {
			t.Errorf("%s is %s, good %v (%s), want %s, good %v", r.ID, r.State, r.Good, r.Detail.EN, state, checked)
		}
		if r.Detail.DE == "" || r.Detail.EN == "" || r.Detail.DE == r.Detail.EN {
			t.Errorf("%s: detail is %+v", r.ID, r.Detail)
		}
	}
	punched := false
	for _, local := range w.locals {
		punched = punched || local == RTP.To
	}
	if !punched {
		t.Error("hole punching was tested from a port outside the range")
	}
}

func TestWhatHasNoTargetIsUnknown(t *testing.T) {
	for _, r := range SelfTest(t.Context(), Targets{}, &world{}) {
		if r.State != Unknown || r.Good || r.Detail.DE == "" || r.Detail.EN == "" {
			t.Errorf("%s is %s: %+v", r.ID, r.State, r.Detail)
		}
	}
}

func TestErrorsAreJudgedForWhatTheyProve(t *testing.T) {
	for _, c := range []struct {
		err   error
		state State
		says  string
	}{
		{syscall.ECONNREFUSED, Blocked, "refused"},
		{os.ErrDeadlineExceeded, Blocked, "no answer within 3 s"},
		{context.DeadlineExceeded, Blocked, "no answer within 3 s"},
		{syscall.ENETUNREACH, Unknown, "no route"},
		{syscall.EHOSTUNREACH, Unknown, "no route"},
		{&net.DNSError{Name: "accounts.test", IsNotFound: true}, Unknown, "could not be resolved"},
		{&net.DNSError{Name: "accounts.test", IsTimeout: true}, Unknown, "could not be resolved"},
		{errors.New("strange"), Unknown, "strange"},
	} {
		w := &world{leads: map[string]any{"tcp accounts.test:443": c.err}}
		r := find(t, SelfTest(t.Context(), Targets{Accounts: []string{"accounts.test"}}, w), "accounts")
		if r.State != c.state || !strings.Contains(r.Detail.EN, c.says) {
			t.Errorf("%v: %s, %q; want %s and %q", c.err, r.State, r.Detail.EN, c.state, c.says)
		}
	}
}

func TestOneHostThatAnswersIsEnough(t *testing.T) {
	w := openWorld()
	w.leads["tcp first.test:443"] = os.ErrDeadlineExceeded
	targets := Targets{Accounts: []string{"first.test", "accounts.test"}}
	if r := find(t, SelfTest(t.Context(), targets, w), "accounts"); r.State != Open {
		t.Errorf("is %s: %s", r.State, r.Detail.EN)
	}
}

func TestM15_BothPortsOfSTUNMustAnswer(t *testing.T) {
	w := openWorld()
	w.leads["udp stun.test:3479"] = syscall.ECONNREFUSED
	results := SelfTest(t.Context(), allTargets, w)
	if r := find(t, results, "stun"); r.State != Blocked || !strings.Contains(r.Detail.EN, "stun.test:3479") {
		t.Errorf("is %s: %s", r.State, r.Detail.EN)
	}
	if r := find(t, results, "rtp"); r.State != Open {
		t.Errorf("hole punching needs the primary port alone, and is %s: %s", r.State, r.Detail.EN)
	}
}

func TestForeignAnswerIsNotTakenForTheService(t *testing.T) {
	w := &world{leads: map[string]any{"udp ntp.test:123": reply(func([]byte) []byte { return make([]byte, 48) })}}
	r := find(t, SelfTest(t.Context(), allTargets, w), "ntp")
	if r.State != Blocked || !strings.Contains(r.Detail.EN, "not the expected service") {
		t.Errorf("is %s: %s", r.State, r.Detail.EN)
	}
}

func TestPortsOfCallsAreLeftAlone(t *testing.T) {
	busy := &busyDialer{world: openWorld(), busy: 2}
	r := find(t, SelfTest(t.Context(), allTargets, busy), "rtp")
	if r.State != Open || !strings.Contains(r.Detail.EN, fmt.Sprint(RTP.To-2)) {
		t.Errorf("is %s: %s", r.State, r.Detail.EN)
	}
	busy = &busyDialer{world: openWorld(), busy: 100}
	r = find(t, SelfTest(t.Context(), allTargets, busy), "rtp")
	if r.State != Unknown || !strings.Contains(r.Detail.EN, "in use") {
		t.Errorf("is %s: %s", r.State, r.Detail.EN)
	}
}

// A busyDialer's last ports of the range are in use.
type busyDialer struct {
	*world
	busy uint16
}

func (d *busyDialer) Dial(ctx context.Context, network, address string, local uint16) (net.Conn, error) {
	if local > RTP.To-d.busy {
		return nil, &net.OpError{Op: "dial", Err: syscall.EADDRINUSE}
	}
	return d.world.Dial(ctx, network, address, local)
}

func TestM19_InternalPortThatAnswersIsJudgedByTheFirewall(t *testing.T) {
	for _, c := range []struct {
		name     string
		firewall func() error
		state    State
		good     bool
	}{
		{"not known", nil, Unknown, false},
		{"stands", func() error { return nil }, Blocked, true},
		{"is gone", func() error { return errors.New("gone") }, Open, false},
	} {
		w := openWorld()
		w.leads["tcp [2001:db8::1]:5081"] = reply(accepts)
		targets := allTargets
		targets.Firewall = c.firewall
		r := find(t, SelfTest(t.Context(), targets, w), "internal-5080")
		if r.State != c.state || r.Good != c.good || !strings.Contains(r.Detail.EN, "[2001:db8::1]:5081") {
			t.Errorf("firewall %s: %s, good %v: %s", c.name, r.State, r.Good, r.Detail.EN)
		}
	}
}

func TestSelfTestThatIsBrokenOffKnowsNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	w := openWorld()
	w.leads["udp ntp.test:123"] = reply(func([]byte) []byte { cancel(); return nil })
	if r := find(t, SelfTest(ctx, allTargets, w), "ntp"); r.State != Unknown {
		t.Errorf("is %s: %s", r.State, r.Detail.EN)
	}
}

func TestNetDialsFromThePortItIsGiven(t *testing.T) {
	server, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	var conn net.Conn
	for local := RTP.To; local > RTP.From && conn == nil; local-- { // one that is free
		conn, err = Net{}.Dial(t.Context(), "udp", server.LocalAddr().String(), local)
		if err == nil && conn.LocalAddr().(*net.UDPAddr).Port != int(local) {
			t.Errorf("came from %v, want port %d", conn.LocalAddr(), local)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func FuzzAnswersNTP(f *testing.F) {
	question := make([]byte, 48)
	copy(question[40:], "12345678")
	f.Add(ntpServer(question))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, answer []byte) {
		if answersNTP(question, answer) && string(answer[24:32]) != "12345678" {
			t.Error("took an answer to another question")
		}
	})
}

func FuzzAnswersSTUN(f *testing.F) {
	question := append([]byte{0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42}, "123456789012"...)
	f.Add(stunServer(question))
	f.Add([]byte{1, 1, 0, 4})
	f.Fuzz(func(t *testing.T, answer []byte) {
		if answersSTUN(question, answer) && string(answer[8:20]) != "123456789012" {
			t.Error("took an answer to another question")
		}
	})
}

func TestM10_WhatOthersProveIsOpen(t *testing.T) {
	results := SelfTest(t.Context(), Targets{}, &world{})
	given := netip.MustParsePrefix("192.0.2.7/24")
	for _, c := range []struct {
		evidence Evidence
		open     string
		says     string
	}{
		{Evidence{}, "", ""},
		{Evidence{DHCP: given}, "dhcp", "192.0.2.7/24"},
		{Evidence{DHCPv6: netip.MustParsePrefix("2001:db8::7/128")}, "dhcpv6", "2001:db8::7/128"},
		{Evidence{Visitor: netip.MustParseAddr("192.0.2.9")}, "portal", "192.0.2.9"},
		{Evidence{Visitor: netip.MustParseAddr("::ffff:127.0.0.1")}, "", ""},
	} {
		for _, r := range With(results, c.evidence) {
			if open := r.ID == c.open; (r.State == Open) != open || r.Good != open || open && !strings.Contains(r.Detail.DE, c.says) {
				t.Errorf("%+v: %s is %s: %s", c.evidence, r.ID, r.State, r.Detail.DE)
			}
		}
	}
	blocked := []Result{{Row: Find("dhcp"), State: Blocked}}
	if got := With(blocked, Evidence{DHCP: given}); got[0].State != Blocked {
		t.Error("what was found out is overruled")
	}
}
