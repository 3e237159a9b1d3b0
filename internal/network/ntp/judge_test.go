package ntp

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"
)

var (
	build = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	day   = 24 * time.Hour
	year  = 365 * day
)

func claims(offsets ...time.Duration) (list []sample) {
	for i, o := range offsets {
		a := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), port)
		list = append(list, sample{Server{a.Addr().String(), a}, o, i})
	}
	return list
}

func TestWhoIsBelieved(t *testing.T) {
	// The scale stands at a year after the build, which is the true time and the belief; the floor is
	// a day before.
	const ms = time.Millisecond
	fresh := knowledge{now: build.Add(year), floor: build.Add(year - day), end: build.Add(life)}
	set := fresh
	set.before, set.believed = true, true
	sure := set
	sure.verified = true
	restarted := fresh // the service; the kernel knows that the clock was set
	restarted.before = true
	wall := func(k knowledge, d time.Duration) knowledge { k.wall = d; return k }
	for name, c := range map[string]struct {
		claims   []sample
		k        knowledge
		reason   Reason
		truth    time.Duration
		verified bool
	}{
		"three agree":                                  {claims(0, 300*ms, 900*ms), fresh, "", 0, true},
		"three agree, five years off":                  {claims(0, 1, 2), wall(set, 5*year), "", 0, true},
		"three agree on a new time":                    {claims(year, year, year), set, "", year, true},
		"three in a row, the ends too far apart":       {claims(0, 800*ms, 1600*ms), fresh, "", 0, false},
		"the closest two are taken":                    {claims(0, 900*ms, 1600*ms), fresh, "", 900 * ms, false},
		"one of three lies, first time":                {claims(5*year, 0, 1), wall(fresh, -5*year), "", 0, false},
		"one of three lies, later":                     {claims(5*year, 0, 1), set, "", 0, false},
		"one of four lies":                             {claims(5*year, 0, 1, 2), wall(set, -5*year), "", 0, true},
		"two of four lie alike":                        {claims(year, year, 0, 0), set, Disagree, 0, false},
		"two lie, each for himself":                    {claims(year, 2*year, 0), set, Disagree, 0, false},
		"three of the network's and four of the pool":  {claims(year, year, year, 0, 0, 0, 0), set, "", 0, true},
		"one alone, first time":                        {claims(10 * year), fresh, "", 10 * year, false},
		"one alone, first time, back to the floor":     {claims(-day), wall(fresh, 10*year), "", -day, false},
		"one alone, before the floor":                  {claims(-day - 1), fresh, Impossible, 0, false},
		"three agree, before the floor":                {claims(-2*day, -2*day, -2*day), set, Impossible, 0, false},
		"one alone, after the firmware's life":         {claims(25 * year), fresh, Impossible, 0, false},
		"who says the impossible does not count":       {claims(-year, 24*year+1, 0), fresh, "", 0, false},
		"one alone, later, within 15 minutes":          {claims(far), set, "", far, false},
		"one alone, later, over 15 minutes":            {claims(far + 1), set, TooFar, 0, false},
		"two alone, later, over 15 minutes back":       {claims(-far-1, -far-1), set, TooFar, 0, false},
		"one alone, who said so before; clock set":     {claims(0), wall(set, -5*year), "", 0, false},
		"one alone, clock set, says something else":    {claims(far + 1), wall(set, -5*year), TooFar, 0, false},
		"one alone, after this service was restarted":  {claims(far + 1), restarted, TooFar, 0, false},
		"one confirms what three said":                 {claims(900 * ms), sure, "", 900 * ms, true},
		"one moves what three said":                    {claims(time.Minute), sure, "", time.Minute, false},
		"restarted, the clock right":                   {claims(time.Second), restarted, "", time.Second, false},
		"nobody":                                       {nil, fresh, "", 0, false},
		"the same server, twice, is the caller's care": {claims(0, 0), fresh, "", 0, false},
	} {
		v, f := judge(c.claims, c.k)
		var reason Reason
		if f != nil {
			reason = f.reason
		}
		if reason != c.reason {
			t.Errorf("%s: refused for %q (%v), want %q", name, reason, f, c.reason)
		} else if reason == "" && (v.truth != c.truth || v.verified != c.verified) {
			t.Errorf("%s: by %v, verified %v; want %v, %v", name, v.truth, v.verified, c.truth, c.verified)
		}
	}
}

func TestTheFirstNamedOfThoseThatAgreeIsFollowed(t *testing.T) {
	v, f := judge(claims(-year, 40, 20, 30), knowledge{now: build.Add(year), floor: build, end: build.Add(life)})
	if f != nil {
		t.Fatal(f.err)
	}
	if v.truth != 40 {
		t.Errorf("the time is %d's", v.truth)
	}
	if got := fmt.Sprint(v.servers); got != "[192.0.2.1 192.0.2.2 192.0.2.3]" {
		t.Errorf("servers are %s", got)
	}
}

// Whatever is claimed, the verdict is possible and somebody has claimed it; and a later move by over a
// quarter of an hour has three voices or the belief behind it.
func FuzzJudge(f *testing.F) {
	f.Add(int64(0), int64(0), int64(0), int64(0), int64(0), byte(0))
	f.Add(int64(5*year), int64(1), int64(2), int64(-5*year), int64(0), byte(7))
	f.Fuzz(func(t *testing.T, a, b, c, wall, belief int64, flags byte) {
		list := claims(time.Duration(a), time.Duration(b), time.Duration(c))[:1+flags>>6%3]
		bound := func(d int64) time.Duration { return time.Duration(d) % (100 * year) } // what NTP can say
		for i := range list {
			list[i].offset = bound(int64(list[i].offset))
		}
		k := knowledge{
			now: build.Add(year), floor: build.Add(year - day), end: build.Add(life),
			wall: bound(wall), belief: bound(belief), before: flags&1 != 0, believed: flags&2 != 0, verified: flags&4 != 0,
		}
		v, failed := judge(list, k)
		if failed != nil {
			return
		}
		truth := k.now.Add(v.truth)
		if truth.Before(k.floor) || truth.After(k.end) {
			t.Fatalf("the clock would be set to %v", truth)
		}
		if !slices.ContainsFunc(list, func(s sample) bool { return s.offset == v.truth }) {
			t.Fatalf("nobody says %v", v.truth)
		}
		moved := (v.truth-k.wall).Abs() > far && (!k.believed || (v.truth-k.belief).Abs() > far)
		if moved && k.before && len(v.servers) < quorum {
			t.Fatalf("%d servers move the clock by %v", len(v.servers), v.truth-k.wall)
		}
	})
}
