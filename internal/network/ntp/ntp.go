package ntp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// A Client sets the system clock. All fields but Verify are needed.
type Client struct {
	Build time.Time // of this firmware
	Floor time.Time // what time it is at least: the build, or what was saved later
	Clock Clock     // System, but in tests

	// Resolve looks a host name up. It must end with its context.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)

	// Verify checks after a step what agreement cannot: that a TLS server's certificate holds now, say.
	// It has half a minute. If it fails, it is called again each time the clock is set. nil for none.
	Verify func(ctx context.Context) error

	Log *slog.Logger

	// Changed is called with every new state.
	Changed func(State)

	dial func(context.Context, netip.AddrPort) (net.Conn, error) // nil but in tests
}

// A Wish says who is to be asked, in order. It is sent anew whenever the network has changed.
type Wish struct {
	Offered []string // by the network: DHCP's option 42, then DHCPv6's option 56
	Chosen  []string // by the owner
}

const (
	poll       = 30 * time.Minute // between questions, give or take a third
	retry      = 2 * time.Second  // after a first failure, then doubling
	maxRetry   = 5 * time.Minute
	look       = 30 * time.Second // whether somebody else has set the clock
	jump       = window / 2       // is more than looking twice takes
	burst      = 6                // rounds in a burstTime: the retries, but not every flap of a cable
	burstTime  = time.Minute
	verifyTime = 30 * time.Second
)

// A session is one run of a Client. What changes belongs to the round under way, or else to run.
type session struct {
	*Client
	began    time.Time
	held     map[netip.AddrPort]held
	starts   []time.Time // of the last rounds, no more than burst
	failures int         // rounds, since the last success or wish

	before   bool // the clock was set by NTP since the boot
	belief   time.Duration
	believed bool
	unproven bool          // Verify is to be called
	wall     time.Duration // what the system clock was ahead of our scale
	state    State
}

// Run sets the clock until ctx ends, which is no error. It asks at once with each wish, then again
// and again.
func (c *Client) Run(ctx context.Context, wishes <-chan Wish) error {
	s := &session{Client: c, began: time.Now(), held: map[netip.AddrPort]held{}, before: c.Clock.Synchronised()}
	if c.dial == nil {
		c := *c
		c.dial = dial
		s.Client = &c
	}
	s.wall = s.ahead()
	switch {
	case s.before: // by a former process
		s.state.Source = NTP
	case c.Clock.Now().Before(c.Floor):
		s.state.Source = Unset
	default:
		s.state.Source = Floor
	}
	s.Changed(s.state)
	s.run(ctx, wishes)
	return nil
}

func (s *session) run(ctx context.Context, wishes <-chan Wish) {
	next := time.NewTimer(poll)
	next.Stop() // until the first wish
	defer next.Stop()
	watch := time.NewTicker(look)
	defer watch.Stop()
	var wish Wish
	var done chan struct{} // closed at the end of the round under way, nil for none
	var stop context.CancelFunc
	start := func() {
		round, cancel := context.WithCancel(ctx)
		ended := make(chan struct{})
		stop, done = cancel, ended
		go func() { defer close(ended); s.round(round, wish) }()
	}
	halt := func() {
		if done != nil {
			stop()
			<-done
			done = nil
			next.Stop()
		}
	}
	defer halt()
	for {
		select {
		case <-ctx.Done():
			return
		case w, open := <-wishes:
			if !open {
				wishes = nil
				continue
			}
			halt()
			wish, s.failures = w, 0
			next.Reset(s.allowed())
		case <-watch.C:
			if done == nil && len(s.starts) > 0 && s.jumped() {
				s.Log.Warn("clock: somebody else has set it")
				next.Reset(s.allowed())
			}
		case <-next.C:
			start()
		case <-done:
			halt()
			next.Reset(s.pause())
		}
	}
}

// now is the time on our scale, which goes by the monotonic clock. It starts in the middle of what a
// server's time stamp can mean (1970 to 2106), so that no difference overflows.
func (s *session) now() time.Time {
	return time.Date(2038, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Since(s.began))
}

// ahead is what the system clock is ahead of our scale.
func (s *session) ahead() time.Duration { return s.Clock.Now().Round(0).Sub(s.now()) }

// jumped tells whether somebody has set the system clock since the last time it was asked or set.
func (s *session) jumped() bool {
	before := s.wall
	s.wall = s.ahead()
	return (s.wall - before).Abs() > jump
}

// allowed is the time until another round may start.
func (s *session) allowed() time.Duration {
	if len(s.starts) < burst {
		return 0
	}
	return max(0, burstTime-time.Since(s.starts[0]))
}

// pause is the time until the next round.
func (s *session) pause() time.Duration {
	d := poll
	if s.failures > 0 {
		d = maxRetry
		if n := s.failures - 1; n < 8 {
			d = min(retry<<n, maxRetry)
		}
	}
	d += time.Duration((rand.Float64()*2 - 1) / 3 * float64(d))
	return max(d, s.allowed())
}

// round asks everybody once and sets the clock by what they say.
func (s *session) round(ctx context.Context, wish Wish) {
	s.starts = append(s.starts[max(0, len(s.starts)-burst+1):], time.Now())
	list, wrong := quotas(wish)
	samples, failures := s.ask(ctx, list)
	if ctx.Err() != nil {
		return // another wish, or the end: this says nothing about the servers
	}
	for _, err := range wrong {
		failures = append(failures, failure{NoServers, err})
	}
	s.wall = s.ahead()
	v, doubt := judge(samples, knowledge{
		now: s.now(), floor: s.Floor, end: s.Build.Add(life),
		wall: s.wall, before: s.before,
		believed: s.believed, belief: s.belief, verified: s.state.Source == Verified,
	})
	if doubt != nil {
		failures = append(failures, *doubt)
	}
	if doubt != nil || len(samples) == 0 {
		s.fail(failures)
		return
	}
	step, err := s.set(v.truth - s.wall)
	if err != nil {
		s.fail([]failure{{CannotSet, err}})
		return
	}
	s.failures, s.before, s.believed, s.belief = 0, true, true, v.truth
	st := State{Source: NTP, Servers: v.servers, Offset: v.truth - s.wall, Synced: time.Now(), Stepped: step}
	if v.verified {
		st.Source = Verified
	}
	s.wall = s.ahead()
	if step != 0 {
		s.unproven = s.Verify != nil
		s.Log.Info("clock: stepped", "by", step.Round(time.Millisecond), "time", stamp(s.Clock.Now()), "servers", st.Servers, "source", st.Source)
	}
	s.tell(st)
	if s.unproven {
		s.verify(ctx)
	}
}

// set sets the clock and returns what it jumped by.
func (s *session) set(by time.Duration) (time.Duration, error) {
	if by.Abs() < slewed {
		return 0, s.Clock.Slew(by)
	}
	return by, s.Clock.Step(by)
}

// verify makes the caller's check.
func (s *session) verify(ctx context.Context) {
	check, cancel := context.WithTimeout(ctx, verifyTime)
	defer cancel()
	err := s.Verify(check)
	if ctx.Err() != nil {
		return
	}
	st := s.state
	st.Stepped = 0
	if err == nil {
		s.unproven, st.Source, st.Detail = false, Verified, ""
	} else {
		st.Detail = fmt.Sprintf("verify clock: %v", err)
	}
	s.tell(st)
}

// fail tells why the clock was not set. It goes on as it was.
func (s *session) fail(failures []failure) {
	s.failures++
	if len(failures) == 0 {
		failures = []failure{{NoServers, errors.New("nobody named an NTP server")}}
	}
	slices.SortStableFunc(failures, func(a, b failure) int {
		return slices.Index(reasons, a.reason) - slices.Index(reasons, b.reason)
	})
	var words []string
	for _, f := range failures {
		words = append(words, f.err.Error())
	}
	st := s.state
	st.Stepped, st.Reason, st.Detail = 0, failures[0].reason, strings.Join(words, "; ")
	if st.Reason != s.state.Reason {
		s.Log.Warn("clock: not set: "+st.Detail, "reason", st.Reason)
	}
	s.tell(st)
}

// tell publishes st if it is new.
func (s *session) tell(st State) {
	if !st.equal(s.state) {
		s.state = st
		s.Changed(st)
	}
}
