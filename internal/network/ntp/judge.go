package ntp

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

const (
	window = time.Second            // servers whose times differ by less agree
	quorum = 3                      // so many that agree are believed whatever they say
	far    = 15 * time.Minute       // fewer may not move the clock by more
	slewed = 400 * time.Millisecond // less is not worth a jump
)

// life is how long after its build a firmware may still run: a clock that shows more is wrong. It is
// process 1's measure, too.
const life = 25 * 365 * 24 * time.Hour

// A sample is what one server says: how far the true time is ahead of our scale.
type sample struct {
	server Server
	offset time.Duration
	order  int // in which the servers were named
}

// A failure is why a server gave no sample.
type failure struct {
	reason Reason
	err    error
}

// Knowledge is what the samples are judged by. Times that are not on our scale are offsets to it, as
// the samples are.
type knowledge struct {
	now        time.Time     // on our scale
	floor, end time.Time     // the true time is between them
	wall       time.Duration // the system clock
	before     bool          // it has been set by NTP since the boot
	believed   bool          // belief is known
	belief     time.Duration // the true time, by what was agreed last
	verified   bool          // and that was verified
}

// A verdict is what to do.
type verdict struct {
	servers  []Server
	truth    time.Duration // the true time, as an offset to our scale
	verified bool
}

// judge says what time it is, or why that is not known.
func judge(samples []sample, k knowledge) (verdict, *failure) {
	var possible []sample
	var impossible *failure
	for _, s := range samples {
		t := k.now.Add(s.offset)
		switch {
		case t.Before(k.floor):
			impossible = &failure{Impossible, fmt.Errorf("%s says %s, before %s, which has passed", s.server, stamp(t), stamp(k.floor))}
		case t.After(k.end):
			impossible = &failure{Impossible, fmt.Errorf("%s says %s, after %s, the end of this firmware's life", s.server, stamp(t), stamp(k.end))}
		default:
			possible = append(possible, s)
		}
	}
	if len(possible) == 0 {
		return verdict{}, impossible
	}
	group := agreed(possible)
	if 2*len(group) <= len(possible) {
		return verdict{}, &failure{Disagree, fmt.Errorf("no more than %d of %d servers agree within a second", len(group), len(possible))}
	}
	v := verdict{truth: group[0].offset, verified: len(group) >= quorum}
	for _, s := range group {
		v.servers = append(v.servers, s.server)
	}
	kept := k.believed && (v.truth-k.belief).Abs() <= far // they say what they said before
	if by := v.truth - k.wall; by.Abs() > far && !v.verified && k.before && !kept {
		return verdict{}, &failure{TooFar, fmt.Errorf("%s says %s, which is %s from here: only %d servers that agree may set the clock by more than %s",
			group[0].server, stamp(k.now.Add(v.truth)), by.Round(time.Second), quorum, far)}
	}
	if k.verified && k.believed && (v.truth-k.belief).Abs() <= window {
		v.verified = true // one is enough to confirm what three have said
	}
	return v, nil
}

// agreed returns the largest group of samples that agree, of the largest the closest, in the order in
// which the servers were named: the LAN's own first, by which the other devices there go.
func agreed(samples []sample) []sample {
	sorted := slices.SortedFunc(slices.Values(samples), func(a, b sample) int { return cmp.Compare(a.offset, b.offset) })
	var best []sample
	spread := func(g []sample) time.Duration { return g[len(g)-1].offset - g[0].offset }
	for first, last := 0, 0; last < len(sorted); last++ {
		for sorted[last].offset-sorted[first].offset > window {
			first++
		}
		group := sorted[first : last+1]
		if len(group) > len(best) || len(group) == len(best) && spread(group) < spread(best) {
			best = group
		}
	}
	best = slices.Clone(best)
	slices.SortStableFunc(best, func(a, b sample) int { return cmp.Compare(a.order, b.order) })
	return best
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
