package mdns

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"cloudlink.local/gateway/internal/mdns/wire"
)

// Times and counts of RFC 6762: §8.1 probing, §8.3 announcing, §8.4 updating.
const (
	probeDelay    = 125 * time.Millisecond // at most, before the first: §8.1 allows twice that, and who has just plugged us in waits
	probeInterval = 250 * time.Millisecond
	probeCount    = 3
	tieWait       = time.Second
	announceCount = 2
	announceEvery = time.Second
	conflictPause = 5 * time.Second // between probes after too many conflicts
)

// How a lost name is won back.
const (
	tiesLost      = 5                // in a row, and nobody announces the name: it is lost all the same
	answerWait    = time.Second      // for an answer to a quiet question
	questionCount = 2                // without an answer, before it is probed for
	questionFirst = time.Minute      // until the first quiet question
	questionMax   = 15 * time.Minute // between two, and how long a name must be held for us to start over
	hintEvery     = 10 * time.Second // at least, between two questions that goodbyes make us ask
)

// How long another number is looked for. When even the last one is denied it is kept, and probed for
// less and less often: who denies everything must not make us talk without end.
const (
	lastRank    = 9
	numberFirst = time.Second
	numberMax   = time.Minute
)

// retry is when what could not be sent is tried again.
const retry = probeInterval

// A family is that of IP.
type family int

const (
	v4 family = iota
	v6
)

var families = [...]family{v4, v6}

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return v4
	}
	return v6
}

// port is that of Multicast DNS.
const port = 5353

// A packet came from the link.
type packet struct {
	family    family
	from      netip.AddrPort // without a zone
	multicast bool           // was sent to everybody
	msg       *wire.Message
}

// An outgoing packet goes to everybody where to is the zero AddrPort.
type outgoing struct {
	family family
	source netip.Addr
	to     netip.AddrPort
	bytes  []byte
}

// A link answers on one link. It has no goroutine and no clock: who owns it calls receive with each
// packet, wake at the time that next tells, and update.
type link struct {
	log    *slog.Logger
	kin    *kin
	send   func(outgoing) error
	random func(below time.Duration) time.Duration

	link    Link
	size    int // bytes that a packet may have, with its headers
	names   []*name
	sets    []*set // of all names that are announced
	leads   *name  // what services and addresses lead to: the unique name, or what stands in for it
	replies []*reply
	sent    map[string]*[len(families)]time.Time // by set's id: when everybody last got it

	conflicts, updates limiter
	updateAt           time.Time // when changed records are announced, or were last
	slow               bool      // too many conflicts: until none of the names is probed for

	troubles [len(families)]error // of what was last sent
	dirty    bool                 // the status has changed
}

func newLink(log *slog.Logger, k *kin, random func(time.Duration) time.Duration, send func(outgoing) error) *link {
	return &link{
		log: log, kin: k, random: random, send: send,
		sent:      map[string]*[len(families)]time.Time{},
		conflicts: limiter{most: 15, within: 10 * time.Second}, // §8.1
		updates:   limiter{most: 10, within: time.Minute},      // §8.4
	}
}

// update makes the link go by a new wish. Packets have at most mtu bytes.
func (l *link) update(now time.Time, w *Wish, to Link, mtu int) {
	l.link, l.size, l.dirty = to, min(mtu, 9000), true // §17
	before := l.names
	l.names = nil
	start := now.Add(l.random(probeDelay)) // the same for all: they share their probes
	claim := func(r role, label string, s Service) {
		n := &name{role: r, label: label, service: s, rank: 1}
		if i := slices.IndexFunc(before, n.same); i >= 0 {
			n = before[i]
			n.service = s
			before = slices.Delete(slices.Clone(before), i, i+1)
		} else if err := n.rename(); err != nil {
			l.log.Error("A name cannot be used. Give it between 1 and 63 bytes.", "link", to.Name, "err", err)
			return
		} else {
			l.probe(n, start)
		}
		l.names = append(l.names, n)
		if s := standIn(before, n); s != nil {
			s.service = n.service
			l.names = append(l.names, s)
		}
	}
	if w.Host != w.Unique {
		claim(hostRole, w.Host, Service{})
	}
	claim(uniqueRole, w.Unique, Service{})
	for _, s := range w.Services {
		claim(instanceRole, s.Instance, s)
	}
	l.fill(now, true)
}

// same says whether other is the same claim.
func (n *name) same(other *name) bool {
	return other.instead == nil && n.role == other.role && n.label == other.label && n.service.Type == other.service.Type
}

// fill makes all records anew, takes back those that are gone, and announces those that are new. Keep
// says that those that are gone are still to be known as ours.
func (l *link) fill(now time.Time, keep bool) {
	old := l.sets
	l.leads = l.leading()
	var all []*set
	var changed []*name
	at := now
	for _, n := range l.names {
		before := n.sets()
		if l.leads == nil && n.role == instanceRole {
			n.own, n.more = nil, nil
			continue
		}
		n.fill(l.link.Addresses, l.leads)
		if n.state == Announced && !slices.EqualFunc(before, n.sets(), equal) {
			changed = append(changed, n)
			if t := l.lastSent(n).Add(announceEvery); t.After(at) {
				at = t
			}
		}
		all = append(all, n.sets()...)
	}
	if len(changed) > 0 && !now.Before(l.updateAt) {
		l.updateAt = l.updates.after(at)
	}
	for _, n := range changed {
		n.step, n.at = 0, l.updateAt
	}
	l.kin.setRecords(now, l.link.Name, all, keep)
	l.collect()
	l.goodbye(missing(old, l.sets))
	for _, r := range l.replies {
		r.sets = l.current(r.sets)
	}
}

// leading returns the name that services and addresses lead to. Where no number of the unique name can be
// had, that is the short one; nil where the wish has no name that can be used.
func (l *link) leading() *name {
	var short, unique *name
	for _, n := range l.names {
		switch {
		case n.role == hostRole:
			short = n
		case n.role == uniqueRole && n.instead == nil:
			unique = n
		}
	}
	if unique == nil || unique.state == Announced {
		return unique
	}
	other := standIn(l.names, unique)
	switch {
	case other == nil:
		return unique
	case other.rank == lastRank && other.state != Announced && short != nil && short.state == Announced:
		return short
	}
	return other
}

// standIn returns the name among names that stands in for n; nil where none does.
func standIn(names []*name, n *name) *name {
	for _, s := range names {
		if s.instead == n {
			return s
		}
	}
	return nil
}

// settle lets those names go that have stood in for one that is ours again, and makes the records anew
// where they lead to another name now.
func (l *link) settle(now time.Time) {
	over := func(n *name) bool { return n.instead != nil && n.instead.state == Announced }
	if !slices.ContainsFunc(l.names, over) && l.leads == l.leading() {
		return
	}
	l.names = slices.DeleteFunc(slices.Clone(l.names), over)
	l.dirty = true
	l.fill(now, true)
}

func equal(a, b *set) bool {
	return a.name == b.name && a.typ == b.typ && slices.Equal(a.data, b.data)
}

// missing returns of the sets those records that are not in kept.
func missing(sets, kept []*set) []*set {
	var gone []*set
	for _, s := range sets {
		rest := *s
		rest.data = slices.DeleteFunc(slices.Clone(s.data), func(d string) bool {
			return slices.ContainsFunc(kept, func(k *set) bool {
				return k.key == s.key && k.typ == s.typ && slices.Contains(k.data, d)
			})
		})
		if len(rest.data) > 0 && s.typ != wire.NSEC { // denials are not announced, so not taken back
			gone = append(gone, &rest)
		}
	}
	return gone
}

// collect gathers what is answered for: two services of one type share a record.
func (l *link) collect() {
	l.sets = nil
	for _, n := range l.names {
		if n.state != Announced {
			continue
		}
		for _, s := range n.sets() {
			if !slices.ContainsFunc(l.sets, func(o *set) bool { return o.id() == s.id() }) {
				l.sets = append(l.sets, s)
			}
		}
	}
}

// current returns what now is in the place of the sets, each once.
func (l *link) current(sets []*set) []*set {
	var list []*set
	for _, s := range sets {
		i := slices.IndexFunc(l.sets, func(o *set) bool { return o.id() == s.id() })
		if i >= 0 {
			list = join(list, l.sets[i])
		}
	}
	return list
}

// next is when wake is to be called; the zero time: not before something else happens.
func (l *link) next() time.Time {
	var next time.Time
	sooner := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	for _, n := range l.names {
		sooner(n.at)
	}
	for _, r := range l.replies {
		sooner(r.due)
	}
	return next
}

// wake does all that is due.
func (l *link) wake(now time.Time) {
	isDue := func(n *name) bool { return !n.at.IsZero() && !now.Before(n.at) }
	for _, n := range l.names {
		if isDue(n) && n.state == Probing && n.step == probeCount {
			l.won(now, n)
		}
	}
	l.settle(now)
	due := map[State][]*name{}
	for _, n := range l.names {
		if isDue(n) {
			due[n.state] = append(due[n.state], n)
		}
	}
	l.sendProbes(now, due[Probing])
	l.announce(now, due[Announced])
	l.ask(now, due[Lost])
	l.reply(now)
}

// probe makes n be probed for, from t on.
func (l *link) probe(n *name, t time.Time) {
	n.state, n.step, n.at = Probing, 0, t
	l.dirty = true
}

func (l *link) sendProbes(now time.Time, names []*name) {
	if len(names) == 0 {
		return
	}
	err := l.toAll(func(f family) []*wire.Writer { return l.probes(f, names) })
	for _, n := range names {
		if err != nil { // a probe that nobody could hear proves nothing
			n.at = now.Add(retry)
			continue
		}
		n.tied = false
		n.step, n.at = n.step+1, now.Add(probeInterval)
	}
}

// probes makes the packets that ask for names and tell what is to be theirs (§8.2): in one, where
// they fit.
func (l *link) probes(f family, names []*name) []*wire.Writer {
	var packets []*wire.Writer
	for rest := names; len(rest) > 0; {
		count := len(rest)
		for {
			w := wire.NewQuery(l.limit(f))
			fits := true
			for _, n := range rest[:count] {
				// QU, so that who has the name need not tell everybody (§8.1).
				fits = fits && w.Question(wire.Question{Name: n.full, Type: wire.ANY, Class: wire.IN, Unicast: true})
			}
			for _, n := range rest[:count] {
				for _, r := range n.proposed() {
					fits = fits && w.Authority(r)
				}
			}
			if fits || count == 1 {
				packets = append(packets, w)
				break
			}
			count--
		}
		rest = rest[count:]
	}
	return packets
}

// proposed are the records that a name is to have, without the cache-flush bit (§10.2).
func (n *name) proposed() []wire.Record {
	var list []wire.Record
	for _, s := range n.own {
		for _, r := range s.records() {
			r.Flush = false
			list = append(list, r)
		}
	}
	return list
}

// won makes n ours.
func (l *link) won(now time.Time, n *name) {
	n.state, n.step, n.since = Announced, 0, now
	n.losses, n.rival = 0, nil
	if !slices.ContainsFunc(l.names, func(n *name) bool { return n.state == Probing }) {
		l.slow = false
	}
	l.collect()
	l.dirty = true
	l.log.Info("This name is ours.", "link", l.link.Name, "name", n.text)
}

// announce tells everybody about names, as often as it has to be (§8.3).
func (l *link) announce(now time.Time, names []*name) {
	var sets []*set
	for _, n := range names {
		for _, s := range n.sets() {
			if s.typ != wire.NSEC {
				sets = append(sets, s)
			}
		}
	}
	if len(sets) == 0 {
		for _, n := range names {
			n.at = time.Time{}
		}
		return
	}
	sets = l.current(sets) // each once
	err := l.toAll(func(f family) []*wire.Writer {
		l.markSent(now, f, sets)
		return l.everybody(f, sets)
	})
	for _, n := range names {
		n.step++
		switch {
		case err != nil:
			n.step, n.at = n.step-1, now.Add(announceEvery)
		case n.step < announceCount:
			n.at = now.Add(announceEvery)
		default:
			n.at = time.Time{}
		}
	}
}

// goodbye tells everybody that these records are no more (§10.1).
func (l *link) goodbye(sets []*set) {
	if len(sets) == 0 {
		return
	}
	var gone []*set
	for _, s := range sets {
		g := *s
		g.ttl = 0
		gone = append(gone, &g)
	}
	l.toAll(func(f family) []*wire.Writer { return l.everybody(f, gone) }) // else they expire
}

// close says goodbye to everything.
func (l *link) close(now time.Time) {
	l.goodbye(missing(l.sets, nil))
	l.kin.setRecords(now, l.link.Name, nil, true)
}

// everybody makes responses of sets for everybody.
func (l *link) everybody(f family, sets []*set) []*wire.Writer {
	packets, _ := pack(func() *wire.Writer { return wire.NewResponse(l.limit(f), 0) }, sets, nil)
	return packets
}

var errNoAddress = errors.New("the link has no address")

// usable says whether the link has an address of the family. Without one the kernel would take that
// of another link.
func (l *link) usable(f family) bool { return l.source(f, netip.Addr{}).IsValid() }

// source is our address for a packet to an address; for one to everybody, the zero Addr.
func (l *link) source(f family, to netip.Addr) netip.Addr {
	var best netip.Addr
	for _, p := range l.link.Addresses {
		a := p.Addr()
		switch {
		case familyOf(a) != f:
		case to.IsValid() && p.Masked().Contains(to),
			!to.IsValid() && f == v6 && a.IsLinkLocalUnicast() && !best.IsLinkLocalUnicast():
			best = a
			if to.IsValid() {
				return best
			}
		case !best.IsValid():
			best = a
		}
	}
	return best
}

// onLink says whether a is in a subnet of the link (§11).
func (l *link) onLink(a netip.Addr) bool {
	return a.Is6() && a.IsLinkLocalUnicast() || slices.ContainsFunc(l.link.Addresses, func(p netip.Prefix) bool {
		return p.Masked().Contains(a)
	})
}

// limit is how many bytes of DNS a packet may have.
func (l *link) limit(f family) int {
	const udp = 8
	if f == v4 {
		return l.size - 20 - udp
	}
	return l.size - 40 - udp
}

// toAll sends packets to everybody, in each family. It fails where none could be used.
func (l *link) toAll(packets func(family) []*wire.Writer) error {
	err := errNoAddress
	done := false
	for _, f := range families {
		if !l.usable(f) {
			l.trouble(f, errNoAddress)
			continue
		}
		for _, w := range packets(f) {
			err = l.transmit(f, netip.AddrPort{}, w)
			done = done || err == nil
		}
	}
	if done {
		return nil
	}
	return err
}

func (l *link) transmit(f family, to netip.AddrPort, w *wire.Writer) error {
	if w.Empty() {
		return nil
	}
	err := l.send(outgoing{family: f, source: l.source(f, to.Addr()), to: to, bytes: w.Bytes()})
	if !to.IsValid() {
		l.trouble(f, err)
	}
	return err
}

// makeUp announces everything once more, after an answer to everybody could not be sent: it is the
// answer, and tells whether sending works again.
func (l *link) makeUp(now time.Time) {
	if !now.Before(l.updateAt) {
		l.updateAt = l.updates.after(now.Add(announceEvery))
	}
	for _, n := range l.names {
		if n.state == Announced && n.at.IsZero() {
			n.step, n.at = announceCount-1, l.updateAt
		}
	}
}

// trouble notes how sending went.
func (l *link) trouble(f family, err error) {
	if fmt.Sprint(l.troubles[f]) != fmt.Sprint(err) {
		l.troubles[f], l.dirty = err, true
	}
}

func (l *link) timesSent(s *set) *[len(families)]time.Time {
	id := s.id()
	if l.sent[id] == nil {
		if len(l.sent) >= 256 { // of wishes long gone
			clear(l.sent)
		}
		l.sent[id] = new([len(families)]time.Time)
	}
	return l.sent[id]
}

func (l *link) markSent(now time.Time, f family, sets []*set) {
	for _, s := range sets {
		l.timesSent(s)[f] = now
	}
}

// lastSent is when one of a name's probed records was last sent to everybody.
func (l *link) lastSent(n *name) time.Time {
	var last time.Time
	for _, s := range n.own {
		for _, t := range l.timesSent(s) {
			if t.After(last) {
				last = t
			}
		}
	}
	return last
}

// receive takes a packet of the link.
func (l *link) receive(now time.Time, p packet) {
	switch {
	case p.msg.Response && p.from.Port() != port: // §6
	case !l.usable(p.family):
	case !p.multicast && !l.onLink(p.from.Addr()): // §11, §5.5
	case p.msg.Response:
		l.hear(now, p)
	default:
		l.asked(now, p)
	}
	l.settle(now)
}

// hear looks what a response says about us.
func (l *link) hear(now time.Time, p packet) {
	own := l.kin.ownAddr(now, p.from.Addr())
	for _, section := range [][]wire.Record{p.msg.Answers, p.msg.Authority, p.msg.Additional} {
		for i := range section {
			r := &section[i]
			key := wire.Fold(r.Name)
			if p.multicast {
				l.heardAnswer(p.family, key, r)
				l.correct(now, p.family, key, r) // our other port may be in the same switch, and leave
			}
			if !own {
				l.hearRecord(now, p, key, r)
			}
		}
	}
}

func (l *link) hearRecord(now time.Time, p packet, key string, r *wire.Record) {
	for _, n := range l.names {
		if n.state == Lost && n.rival != nil && p.from.Addr() == n.rival.Addr {
			l.callsItself(n, key, r)
			if r.TTL == 0 { // of whatever: not every device takes its name back when it leaves
				l.rivalLeaves(now, n)
			}
		}
		if n.key != key || r.Class != wire.IN || r.Type == wire.NSEC ||
			slices.ContainsFunc(n.own, func(s *set) bool { return s.has(key, r) }) || l.kin.ownRecord(now, key, r) {
			continue
		}
		switch {
		case r.TTL == 0:
			l.rivalLeaves(now, n)
		case n.state == Probing: // a record of any type is a sign that somebody has the name (§8.1)
			l.denied(now, n, p.from.Addr())
		case n.state == Lost:
			l.stillLost(now, n, p.from.Addr())
		case slices.ContainsFunc(n.own, func(s *set) bool { return s.typ == r.Type }): // §9
			l.log.Warn("Another device uses our name.", "link", l.link.Name, "name", n.text, "addr", p.from.Addr())
			l.meet(now, n, p.from.Addr())
			l.conflict(now)
			l.probe(n, l.pause(now, now.Add(l.random(probeDelay))))
			l.collect()
		}
	}
}

// correct announces a record again where another's packet makes caches forget it too soon (§6.6).
func (l *link) correct(now time.Time, f family, key string, r *wire.Record) {
	for _, s := range l.sets {
		if s.typ != wire.NSEC && s.has(key, r) && r.TTL < s.ttl/2 {
			l.schedule(now, &reply{family: f, due: now, limit: now, sets: []*set{s}, must: true})
		}
	}
}

// conflict counts one.
func (l *link) conflict(now time.Time) {
	if l.conflicts.count(now) {
		l.slow = true
	}
}

// pause is when a name may be probed for that is to be at t: later, after too many conflicts (§8.1).
func (l *link) pause(now, t time.Time) time.Time {
	if slow := now.Add(conflictPause); l.slow && t.Before(slow) {
		return slow
	}
	return t
}

// meet notes who has the name.
func (l *link) meet(now time.Time, n *name, who netip.Addr) {
	if n.rival == nil || n.rival.Addr != who && n.state != Lost {
		n.rival = &Rival{Addr: who, Since: now}
		l.dirty = true
	}
}

// denied ends the probing for a name that another device has.
func (l *link) denied(now time.Time, n *name, by netip.Addr) {
	l.conflict(now)
	l.meet(now, n, by)
	n.losses, n.tied = 0, false
	switch {
	case n.instead == nil:
		l.lose(now, n)
		if n.role != hostRole && standIn(l.names, n) == nil {
			l.number(now, &name{role: n.role, label: n.label, service: n.service, rank: 1, instead: n})
		}
	case n.rank < lastRank:
		l.number(now, n)
	default:
		n.patient, n.since = longer(n, now, numberFirst, numberMax), time.Time{}
		l.probe(n, l.pause(now, now.Add(n.patient)))
		l.collect()
	}
}

// number gives a name that stands in for another the next number, and has it probed for.
func (l *link) number(now time.Time, n *name) {
	n.rank++
	if err := n.rename(); err != nil {
		l.log.Error("A name cannot be numbered.", "link", l.link.Name, "err", err) // it was good without
		return
	}
	if !slices.Contains(l.names, n) {
		i := slices.Index(l.names, n.instead)
		l.names = slices.Insert(slices.Clone(l.names), i+1, n)
	}
	l.log.Warn("We take another name.", "link", l.link.Name, "name", n.text, "instead", n.instead.text)
	start := l.pause(now, now.Add(l.random(probeDelay)))
	l.probe(n, start)
	for _, o := range l.names {
		if n.role == uniqueRole && o.role == instanceRole && o.state != Lost {
			// It will lead to another name than the rival's, whose instance may be called the same:
			// as long as both led to the same name, neither could tell.
			l.probe(o, start)
		}
	}
	l.collect()
	l.fill(now, false) // what we were called is the rival's
}

// lose gives a name up until it is free.
func (l *link) lose(now time.Time, n *name) {
	n.patient = longer(n, now, questionFirst, questionMax)
	switch {
	case n.hintPause == 0, n.held(now):
		n.hintPause = hintEvery
	case n.hinted, !n.since.IsZero(): // who says goodbye and takes the name again must not make us flap
		n.hintPause = min(2*n.hintPause, questionMax)
	}
	n.state, n.step, n.at = Lost, 0, now.Add(n.patient)
	n.since, n.hinted = time.Time{}, false
	l.collect()
	l.dirty = true
	l.log.Warn("Another device has our name; the others go on working.", "link", l.link.Name, "name", n.text, "addr", n.rival.Addr)
	l.introduce(n.rival.Addr)
}

// held says whether a name was ours for a while.
func (n *name) held(now time.Time) bool { return !n.since.IsZero() && now.Sub(n.since) >= questionMax }

// longer is how long to wait for a name this time: from first on twice as long each time, until the name
// was ours for a while.
func longer(n *name, now time.Time, first, most time.Duration) time.Duration {
	if n.patient == 0 || n.held(now) {
		return first
	}
	return min(2*n.patient, most)
}

// introduce asks a rival alone for its name (§5.5). For that the kernel has to find its MAC address out.
func (l *link) introduce(who netip.Addr) {
	f := familyOf(who)
	if !l.usable(f) || !l.onLink(who) {
		return
	}
	w := wire.NewQuery(l.limit(f))
	w.Question(wire.Question{Name: wire.ReverseName(who), Type: wire.PTR, Class: wire.IN, Unicast: true})
	l.transmit(f, netip.AddrPortFrom(who, port), w)
}

// ask asks who has lost names, and has those probed for that nobody has.
func (l *link) ask(now time.Time, names []*name) {
	names = slices.DeleteFunc(names, func(n *name) bool {
		free := n.step == questionCount
		if free {
			l.probe(n, l.pause(now, now.Add(l.random(probeDelay))))
		}
		return free
	})
	if len(names) == 0 {
		return
	}
	err := l.toAll(func(f family) []*wire.Writer { return l.questions(f, names) })
	for _, n := range names {
		n.step, n.at = n.step+1, now.Add(answerWait)
		if err != nil {
			n.step, n.at = 0, now.Add(n.patient) // silence is no answer
		}
	}
}

// questions makes the packets that ask for names: one, where they fit.
func (l *link) questions(f family, names []*name) (packets []*wire.Writer) {
	for _, n := range names {
		q := wire.Question{Name: n.full, Type: wire.ANY, Class: wire.IN, Unicast: true}
		if last := len(packets) - 1; last < 0 || !packets[last].Question(q) {
			w := wire.NewQuery(l.limit(f))
			w.Question(q)
			packets = append(packets, w)
		}
	}
	return packets
}

// stillLost puts the next question off, if one was asked.
func (l *link) stillLost(now time.Time, n *name, to netip.Addr) {
	if n.step == 0 {
		return
	}
	if !n.hinted { // else the question was not the next in turn
		n.patient = min(2*n.patient, questionMax)
	}
	n.step, n.at, n.hinted = 0, now.Add(n.patient), false
	if familyOf(n.rival.Addr) == familyOf(to) && n.rival.Addr != to {
		n.rival = &Rival{Addr: to, Since: now}
	}
}

// rivalLeaves has it asked soon whether a lost name is free, for its owner said goodbye. Everybody can
// say so: it does not help often.
func (l *link) rivalLeaves(now time.Time, n *name) {
	at := now.Add(answerWait) // for as long a record with TTL 0 lives (§10.1)
	if next := n.lastHint.Add(n.hintPause); !n.lastHint.IsZero() && at.Before(next) {
		at = next
	}
	if n.state != Lost || n.step > 0 || !n.at.IsZero() && !at.Before(n.at) {
		return // it is being asked, or will be by then
	}
	n.at, n.hinted, n.lastHint = at, true, at
}

// callsItself notes what other name a rival has.
func (l *link) callsItself(n *name, key string, r *wire.Record) {
	var host string
	switch {
	case r.TTL == 0:
	case r.Type == wire.PTR && key == wire.ReverseName(n.rival.Addr):
		host = r.Target()
	case r.Addr() == n.rival.Addr:
		host = r.Name
	}
	text := wire.Text(host)
	if host == "" || wire.Fold(host) == n.key || text == n.rival.Host {
		return
	}
	known := *n.rival // the status has the former
	known.Host = text
	n.rival, l.dirty = &known, true
}

// tieBreak compares what another device that is probing for a name of ours is to have with what we
// are to have: who has the later wins (§8.2).
func (l *link) tieBreak(now time.Time, p packet) {
	if len(p.msg.Authority) == 0 || l.kin.ownAddr(now, p.from.Addr()) {
		return
	}
	for _, n := range l.names {
		if n.state != Probing || n.tied {
			continue
		}
		var theirs []wire.Record
		foreign := false
		for _, r := range p.msg.Authority {
			if wire.Fold(r.Name) == n.key {
				theirs = append(theirs, r)
				foreign = foreign || !l.kin.ownRecord(now, n.key, &r)
			}
		}
		if !foreign || !loses(n.proposed(), theirs) {
			continue
		}
		l.conflict(now)
		n.losses++
		l.meet(now, n, p.from.Addr())
		if n.losses >= tiesLost {
			l.denied(now, n, p.from.Addr())
			continue
		}
		n.tied = true
		l.probe(n, l.pause(now, now.Add(tieWait)))
	}
}

// loses says whether ours are the earlier.
func loses(ours, theirs []wire.Record) bool {
	order := func(a, b wire.Record) int {
		return cmp.Or(cmp.Compare(a.Class, b.Class), cmp.Compare(a.Type, b.Type), bytes.Compare([]byte(a.Data), []byte(b.Data)))
	}
	slices.SortFunc(ours, order)
	slices.SortFunc(theirs, order)
	return slices.CompareFunc(ours, theirs, order) < 0
}

// status is how the names are doing.
func (l *link) status() LinkStatus {
	s := LinkStatus{Name: l.link.Name}
	for _, n := range l.names {
		item := Name{Name: n.text, State: n.state}
		switch {
		case n.instead != nil:
			item.Instead, item.Rival = n.instead.text, n.instead.rival
		case n.state == Lost:
			item.Rival = n.rival
		}
		s.Names = append(s.Names, item)
	}
	works := false
	for _, f := range families {
		works = works || l.usable(f) && l.troubles[f] == nil
	}
	for _, f := range families {
		if err := l.troubles[f]; !works && err != nil && (s.Trouble == "" || err != errNoAddress) {
			s.Trouble = err.Error()
		}
	}
	return s
}

// A limiter counts events of the last while.
type limiter struct {
	most   int
	within time.Duration
	times  []time.Time // the newest, at most most
}

// count counts an event and says whether there were too many.
func (c *limiter) count(now time.Time) bool {
	c.times = append(c.times, now)
	if len(c.times) > c.most {
		c.times = c.times[1:]
	}
	return len(c.times) == c.most && now.Sub(c.times[0]) <= c.within
}

// after counts an event that is to be at t, and returns when it may be.
func (c *limiter) after(t time.Time) time.Time {
	if len(c.times) == c.most && t.Before(c.times[0].Add(c.within)) {
		t = c.times[0].Add(c.within)
	}
	c.count(t)
	return t
}
