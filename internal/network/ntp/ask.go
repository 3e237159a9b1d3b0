package ntp

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	beevik "github.com/beevik/ntp"
)

// What one round may cost, whatever is named and answered.
const (
	maxOffered  = 3 // servers that DHCP names, with one address each: fewer than pool has
	maxChosen   = 8 // addresses of those that the owner names
	perName     = 4 // addresses of one name
	maxResolved = 32
	maxStray    = 64 // packets that are no answer to our question
	resolveTime = 5 * time.Second
	answerTime  = 3 * time.Second
	maxDistance = 16 * time.Second // from the true time, by the server's own account
	maxHeld     = 256              // servers that do not want to be asked
	rateHold    = 15 * time.Minute
	maxRateHold = 4 * time.Hour
	denyHold    = 24 * time.Hour
)

// A quota is a server and how many of its addresses are asked.
type quota struct {
	host
	count int
}

// quotas returns whom w means, and what is wrong with the rest.
func quotas(w Wish) (list []quota, wrong []error) {
	take := func(names []string, count int) {
		for _, name := range names {
			h, err := parseHost(name)
			switch {
			case err != nil:
				wrong = append(wrong, err)
			case h.addr.IsValid():
				list = append(list, quota{h, 1})
			default:
				list = append(list, quota{h, count})
			}
		}
	}
	take(w.Offered[:min(len(w.Offered), maxOffered)], 1)
	if chosen := w.Chosen[:min(len(w.Chosen), maxChosen)]; len(chosen) > 0 {
		take(chosen, min(perName, maxChosen/len(chosen)))
	}
	return list, wrong
}

// A reply is what came of one address, or of a name that leads to none.
type reply struct {
	sample  *sample // nil with
	failure *failure
	kiss    *kiss // why not to ask again soon
}

// A kiss is a kiss-of-death packet (RFC 5905, section 7.4).
type kiss struct {
	from netip.AddrPort
	code string
}

// ask asks all of list at once and waits for them; not for the last if enough agree already.
func (s *session) ask(ctx context.Context, list []quota) (samples []sample, failures []failure) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	replies := make(chan reply)
	var asking sync.WaitGroup
	var claimed sync.Map // addresses: one that is named twice is one server
	expected := 0
	for order, q := range list {
		expected += q.count
		asking.Go(func() { s.askHost(ctx, order, q, &claimed, replies) })
	}
	go func() { asking.Wait(); close(replies) }() // ends with the loop below, which reads to the end
	var kisses []kiss
	for r := range replies {
		switch {
		case ctx.Err() != nil: // what was cut short says nothing
		case r.sample != nil:
			samples = append(samples, *r.sample)
			if group := agreed(samples); len(group) >= quorum && 2*len(group) > expected {
				cancel() // whatever the others would say
			}
		case r.failure != nil:
			failures = append(failures, *r.failure)
		}
		if r.kiss != nil {
			kisses = append(kisses, *r.kiss)
		}
	}
	for _, k := range kisses {
		s.hold(k)
	}
	return samples, failures
}

// askHost asks one server, at so many of its addresses as it may.
func (s *session) askHost(ctx context.Context, order int, q quota, claimed *sync.Map, replies chan<- reply) {
	fail := func(reason Reason, err error) { replies <- reply{failure: &failure{reason, err}} }
	addrs := []netip.Addr{q.addr}
	if !q.addr.IsValid() {
		var err error
		if addrs, err = s.resolve(ctx, q.name); err != nil {
			fail(Unresolved, fmt.Errorf("resolve %s: %w", q.name, err))
			return
		}
	}
	var asking sync.WaitGroup
	defer asking.Wait()
	left := q.count
	for _, addr := range addrs {
		server := Server{q.named, netip.AddrPortFrom(addr, q.port)}
		if left == 0 {
			break
		}
		if _, twice := claimed.LoadOrStore(server.Address, true); twice {
			continue
		}
		if h, ok := s.held[server.Address]; ok && time.Now().Before(h.until) {
			fail(Refused, fmt.Errorf("%s does not want to be asked now: it said %s", server, h.code))
			continue
		}
		conn, err := s.dial(ctx, server.Address)
		if err != nil { // no way there: another address may be of the other family
			fail(NoAnswer, fmt.Errorf("ask %s: %w", server, err))
			continue
		}
		left--
		asking.Go(func() {
			r := s.askAddress(ctx, server, conn)
			if r.sample != nil {
				r.sample.order = order
			}
			replies <- r
		})
	}
}

// resolve returns name's addresses in the order in which to try them.
func (s *session) resolve(ctx context.Context, name string) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveTime)
	defer cancel()
	found, err := s.Resolve(ctx, name)
	if err != nil {
		return nil, err
	}
	found = found[:min(len(found), maxResolved)]
	var addrs []netip.Addr
	for _, a := range found {
		if a = a.Unmap(); askable(a) && !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	if len(addrs) == 0 {
		return nil, errors.New("it has no usable address")
	}
	// Others each time, of a pool; the one family first, then, should that have failed, the other: an
	// address and a route do not mean that it leads anywhere.
	rand.Shuffle(len(addrs), func(i, j int) { addrs[i], addrs[j] = addrs[j], addrs[i] })
	first := s.failures%2 == 0
	rank := func(a netip.Addr) int {
		if a.Is4() == first {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(addrs, func(a, b netip.Addr) int { return cmp.Compare(rank(a), rank(b)) })
	return addrs, nil
}

// askAddress asks one question over conn, and closes it.
func (s *session) askAddress(ctx context.Context, server Server, conn net.Conn) reply {
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	fail := func(reason Reason, err error) reply {
		return reply{failure: &failure{reason, fmt.Errorf("ask %s: %w", server, err)}}
	}
	r, err := beevik.QueryWithOptions(server.Address.String(), beevik.QueryOptions{
		Timeout:       answerTime,
		GetSystemTime: s.now,
		Dialer:        func(_, _ string) (net.Conn, error) { return &answers{Conn: conn}, nil },
	})
	if err != nil {
		return fail(NoAnswer, err)
	}
	if r.Version > 4 { // we asked in 4, and Validate looks at less of a 5
		return fail(Unsynchronised, fmt.Errorf("it answers in NTP version %d", r.Version))
	}
	if r.IsKissOfDeath() {
		switch r.KissCode {
		case "RATE", "DENY", "RSTR":
			refused := fail(Refused, fmt.Errorf("kiss of death: %s", r.KissCode))
			refused.kiss = &kiss{server.Address, r.KissCode}
			return refused
		}
		return fail(Unsynchronised, errors.New("it does not know the time")) // INIT, STEP, or chrony's zeros
	}
	if err := r.Validate(); err != nil {
		return fail(Unsynchronised, err)
	}
	// As wide as Validate's own: a Windows server that is seldom synchronised claims seconds of
	// dispersion and is right nevertheless, which agreement shows.
	if r.RootDistance > maxDistance {
		return fail(Unsynchronised, fmt.Errorf("it may be wrong by %v, by its own account", r.RootDistance.Round(time.Millisecond)))
	}
	return reply{sample: &sample{server: server, offset: r.ClockOffset}}
}

// A held server has asked not to be asked.
type held struct {
	code  string
	pause time.Duration
	until time.Time // monotonic
}

// hold remembers k. With RATE, the pause doubles when we were still too fast.
func (s *session) hold(k kiss) {
	now := time.Now()
	h := held{code: k.code, pause: denyHold}
	if k.code == "RATE" {
		h.pause = rateHold
		if old, ok := s.held[k.from]; ok && old.code == k.code {
			h.pause = min(2*old.pause, maxRateHold)
		}
	}
	h.until = now.Add(h.pause)
	for a, old := range s.held { // remembered for as long again, for the doubling
		if now.Sub(old.until) > old.pause {
			delete(s.held, a)
		}
	}
	if _, known := s.held[k.from]; known || len(s.held) < maxHeld {
		s.held[k.from] = h
	}
}

// answers is a connection to a server on which only the answer to the last question is read: a sender
// who guesses must not be able to end the exchange, and one who does not stop must.
type answers struct {
	net.Conn
	question [8]byte // the transmit time that was sent, a random number
}

// Layout of a packet (RFC 5905, section 7.3).
const (
	packetSize   = 48
	pollInterval = 2
	precision    = 3
	originTime   = 24
	transmitTime = 40
)

func (a *answers) Write(b []byte) (int, error) {
	if len(b) >= packetSize {
		copy(a.question[:], b[transmitTime:])
	}
	return a.Conn.Write(b)
}

func (a *answers) Read(b []byte) (int, error) {
	for range maxStray {
		n, err := a.Conn.Read(b)
		if err != nil {
			return n, err
		}
		if isAnswer(b[:n], a.question) {
			// What we have no use for. beevik/ntp 1.6 panics at -128: it shifts by the negated byte.
			b[pollInterval], b[precision] = 0, 0
			return n, nil
		}
	}
	return 0, fmt.Errorf("%d packets and none of them an answer", maxStray)
}

// isAnswer tells whether packet answers question.
func isAnswer(packet []byte, question [8]byte) bool {
	return len(packet) >= packetSize && bytes.Equal(packet[originTime:originTime+8], question[:])
}

// dial opens a socket that receives from addr alone. No packet is sent.
func dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "udp", addr.String())
}
