package arp

import (
	"net/netip"
	"testing"
	"time"
)

var (
	addr  = netip.MustParseAddr("192.0.2.10")
	ours  = [6]byte{0x52, 0x54, 0, 0x12, 0x34, 0x56}
	other = [6]byte{0x52, 0x54, 0, 0x65, 0x43, 0x21}
	start = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
)

func newClaim(timing Timing) *claim {
	return &claim{addr: addr, mac: ours, timing: timing, random: func(d time.Duration) time.Duration { return d / 2 }}
}

// What a claim sends, in the timetables below.
const (
	probe    = "probe"
	announce = "announce"
)

func name(m *message) string {
	switch {
	case m == nil:
		return ""
	case m.sender.IsUnspecified():
		return probe
	}
	return announce
}

func TestTimetables(t *testing.T) {
	type entry struct {
		at    time.Duration
		sent  string
		event Event
	}
	const ms = time.Millisecond
	for what, c := range map[string]struct {
		timing Timing
		want   []entry
	}{
		"standard": {Standard, []entry{
			{0, "", ""}, {500 * ms, probe, ""}, {2000 * ms, probe, ""}, {3500 * ms, probe, ""},
			{5500 * ms, announce, Free}, {7500 * ms, announce, ""}, {9500 * ms, "", ""},
		}},
		"quick": {Quick, []entry{
			{0, probe, ""}, {100 * ms, probe, ""}, {200 * ms, probe, ""},
			{300 * ms, announce, Free}, {1300 * ms, probe, ""}, {2300 * ms, announce, ""}, {3300 * ms, probe, ""}, {4300 * ms, "", ""},
		}},
		"held": {Held, []entry{
			{0, announce, Free}, {1000 * ms, probe, ""}, {2000 * ms, announce, ""}, {3000 * ms, probe, ""}, {4000 * ms, "", ""},
		}},
	} {
		t.Run(what, func(t *testing.T) {
			cl := newClaim(c.timing)
			now := start
			for i, want := range c.want {
				out, event := cl.timeout(now)
				if got := (entry{now.Sub(start), name(out), event}); got != want {
					t.Errorf("entry %d is %v, want %v", i, got, want)
				}
				if out != nil && (out.senderMAC != ours || out.target != addr || out.op != request) {
					t.Errorf("sent %+v", out)
				}
				now = cl.wake
			}
			if !cl.wake.IsZero() || !cl.settled {
				t.Error("the claim is not settled in the end")
			}
		})
	}
}

func TestJudgesWhatOthersSend(t *testing.T) {
	zero := netip.IPv4Unspecified()
	elsewhere := netip.MustParseAddr("192.0.2.99")
	for what, c := range map[string]struct {
		m       message
		probing Event // while looking
		using   Event // while in use and settled
	}{
		"its answer":       {message{op: reply, senderMAC: other, sender: addr, target: zero}, Taken, Defended},
		"its request":      {message{op: request, senderMAC: other, sender: addr, target: elsewhere}, Taken, Defended},
		"its announcement": {message{op: request, senderMAC: other, sender: addr, target: addr}, Taken, Defended},
		"its probe":        {message{op: request, senderMAC: other, sender: zero, target: addr}, Taken, ""},
		"a question":       {message{op: request, senderMAC: other, sender: elsewhere, target: addr}, "", ""},
		"another's":        {message{op: reply, senderMAC: other, sender: elsewhere, target: zero}, "", ""},
		"our own echo":     {message{op: request, senderMAC: ours, sender: addr, target: addr}, "", ""},
	} {
		t.Run(what, func(t *testing.T) {
			cl := newClaim(Quick)
			cl.timeout(start)
			if _, event := cl.receive(start, c.m); event != c.probing {
				t.Errorf("while probing: %q, want %q", event, c.probing)
			}
			cl = settled(newClaim(Quick))
			if _, event := cl.receive(start.Add(time.Hour), c.m); event != c.using {
				t.Errorf("in use: %q, want %q", event, c.using)
			}
		})
	}
}

func settled(c *claim) *claim {
	now := start
	for !c.settled {
		c.timeout(now)
		now = c.wake
	}
	return c
}

func TestWhatTurnsUpWhileUnsettledCountsAsFoundBefore(t *testing.T) {
	cl := newClaim(Held)
	if _, event := cl.timeout(start); event != Free {
		t.Fatalf("event is %q", event)
	}
	if _, event := cl.receive(start.Add(3*time.Second), message{op: reply, senderMAC: other, sender: addr}); event != Taken {
		t.Errorf("event is %q, want %q", event, Taken)
	}
}

func TestDefendsOnceInTenSeconds(t *testing.T) {
	stolen := message{op: request, senderMAC: other, sender: addr, target: addr}
	cl := settled(newClaim(Held))
	now := start.Add(time.Hour)
	for range 5 { // one now and then is answered for ever
		out, event := cl.receive(now, stolen)
		if event != Defended || name(out) != announce {
			t.Fatalf("%q, sent %q", event, name(out))
		}
		now = now.Add(defendAgain)
	}
	if out, event := cl.receive(now.Add(-time.Millisecond), stolen); event != Lost || out != nil {
		t.Errorf("%q, sent %q, want the address given up", event, name(out))
	}
}

func FuzzParse(f *testing.F) {
	f.Add((&message{op: request, senderMAC: ours, sender: netip.IPv4Unspecified(), target: addr}).bytes())
	f.Add((&message{op: reply, senderMAC: other, sender: addr, target: addr}).bytes()[:27])
	f.Add(append((&message{op: reply, senderMAC: other, targetMAC: ours, sender: addr, target: addr}).bytes(), make([]byte, 18)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, ok := parse(b)
		if !ok {
			return
		}
		if got := string(m.bytes()); got != string(b[:size]) {
			t.Errorf("%x becomes %x", b, got)
		}
		cl := newClaim(Quick)
		cl.timeout(start)
		if _, event := cl.receive(start, m); event != "" && m.sender != addr && m.target != addr {
			t.Errorf("%+v, which is about others, counts as %q", m, event)
		}
	})
}
