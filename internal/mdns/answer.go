package mdns

import (
	"net/netip"
	"slices"
	"time"

	"cloudlink.local/gateway/internal/mdns/wire"
)

// When answers go out (RFC 6762 §6).
const (
	sharedMin  = 20 * time.Millisecond // others may answer as well
	sharedMax  = 120 * time.Millisecond
	knownMin   = 400 * time.Millisecond // more known answers follow (§7.2)
	knownMax   = 500 * time.Millisecond
	patience   = 500 * time.Millisecond // that an answer may wait for others to share a packet with (§6.4)
	againEvery = time.Second            // between the same record to everybody
	defend     = 250 * time.Millisecond // the same, where it answers a probe
	nearly     = 250 * time.Millisecond // who asks this shortly before it may be sent again gets it then
)

const (
	legacyTTL   = 10  // §6.7
	legacySize  = 512 // bytes that every resolver takes
	mostReplies = 256 // that wait
)

// A reply is an answer that is on its way.
type reply struct {
	family  family
	due     time.Time
	limit   time.Time      // it cannot wait longer for company
	to      netip.AddrPort // the zero AddrPort: everybody
	legacy  *wire.Message  // the query of an ordinary resolver; nil for others
	waits   netip.Addr     // whose further known answers are to be heard; the zero Addr: nobody's
	defends bool           // it answers a probe for a name of ours
	must    bool           // nobody will ask again
	sets    []*set
	known   []*set // are not needed as additional records
}

// asked answers a query.
func (l *link) asked(now time.Time, p packet) {
	l.tieBreak(now, p)
	from := p.from.Addr()
	if len(p.msg.Authority) > 0 && l.kin.ownAddr(now, from) {
		return // two of our links, in one switch, probe for the same name
	}
	known := l.known(p.msg.Answers)
	for _, r := range l.replies {
		if r.waits == from {
			r.sets = without(r.sets, known)
		}
	}
	legacy := p.from.Port() != port
	if legacy {
		known = nil
		if !l.onLink(from) {
			return // it would leave the link, and who asked may not be who gets it
		}
	}
	wait, again := l.delay(p.msg)
	var replies []*reply
	for _, q := range p.msg.Questions {
		for _, s := range without(l.answers(q), known) {
			r := reply{family: p.family, due: now.Add(wait), defends: defends(p.msg, s), known: known}
			if r.defends {
				r.due = now // §6.3: never delayed
			} else if again {
				r.waits = from
			}
			switch recent := now.Sub(l.timesSent(s)[p.family]) < time.Duration(s.ttl)*time.Second/4; {
			case legacy:
				r.to, r.legacy = p.from, p.msg
			case (q.Unicast || !p.multicast) && recent && l.onLink(from): // §5.4
				r.to = p.from
			}
			i := slices.IndexFunc(replies, func(o *reply) bool { return o.to == r.to && o.defends == r.defends })
			if i < 0 {
				replies, i = append(replies, &r), len(replies)
			}
			replies[i].sets = join(replies[i].sets, s)
		}
	}
	for _, r := range replies {
		l.schedule(now, r)
	}
}

// delay is how long the answer to a query waits, and whether that is for more known answers.
func (l *link) delay(m *wire.Message) (wait time.Duration, more bool) {
	if m.Truncated {
		return knownMin + l.random(knownMax-knownMin), true
	}
	alone := len(m.Questions) == 1 // §6.3: who asks several gets others' answers as well
	for _, q := range m.Questions {
		for _, s := range l.answers(q) {
			alone = alone && s.unique
		}
	}
	if alone {
		return 0, false
	}
	return sharedMin + l.random(sharedMax-sharedMin), false
}

// answers returns what answers a question: of a name of ours, if need be, that there is no such record.
func (l *link) answers(q wire.Question) []*set {
	if q.Class != wire.IN && q.Class != wire.AnyClass {
		return nil
	}
	key := wire.Fold(q.Name)
	var list []*set
	var denial *set
	for _, s := range l.sets {
		switch {
		case s.key != key:
		case s.typ == q.Type, q.Type == wire.ANY && s.typ != wire.NSEC:
			list = append(list, s)
		case s.typ == wire.NSEC:
			denial = s
		}
	}
	if list == nil && denial != nil {
		list = []*set{denial}
	}
	return list
}

// known returns which of our sets others have for at least half of their time (§7.1). Of several
// records in one set all are needed, or the cache-flush bit would take the others away (§10.2).
func (l *link) known(answers []wire.Record) []*set {
	if len(answers) == 0 {
		return nil
	}
	keys := make([]string, len(answers))
	for i := range answers {
		keys[i] = wire.Fold(answers[i].Name)
	}
	var list []*set
	for _, s := range l.sets {
		have := 0
		for _, d := range s.data {
			one := *s
			one.data = []string{d}
			for i := range answers {
				if r := &answers[i]; r.TTL >= (s.ttl+1)/2 && one.has(keys[i], r) {
					have++
					break
				}
			}
		}
		if have == len(s.data) {
			list = append(list, s)
		}
	}
	return list
}

// defends says whether s answers a probe for its name.
func defends(m *wire.Message, s *set) bool {
	return s.unique && slices.ContainsFunc(m.Authority, func(r wire.Record) bool { return wire.Fold(r.Name) == s.key })
}

// without returns those of list that are not in others.
func without(list, others []*set) []*set {
	var rest []*set
	for _, s := range list {
		if !slices.Contains(others, s) {
			rest = append(rest, s)
		}
	}
	return rest
}

// join returns list with those of more that it has not.
func join(list []*set, more ...*set) []*set { return append(list, without(more, list)...) }

// schedule sends a reply now, if it is due, or puts it where it shares a packet with others (§6.4).
func (l *link) schedule(now time.Time, r *reply) {
	if !now.Before(r.due) {
		l.deliver(now, r)
		return
	}
	if r.limit.IsZero() {
		r.limit = r.due.Add(patience)
	}
	if !r.to.IsValid() && !r.waits.IsValid() {
		for _, o := range l.replies {
			if o.to.IsValid() || o.waits.IsValid() || o.family != r.family {
				continue
			}
			if o.due.Before(now.Add(sharedMin)) { // too soon for this one
				if r.due.After(o.limit) {
					continue
				}
				o.due = r.due
			}
			o.sets, o.known = join(o.sets, r.sets...), nil
			return
		}
	}
	if len(l.replies) < mostReplies {
		l.replies = append(l.replies, r)
	}
}

// reply sends what is due.
func (l *link) reply(now time.Time) {
	var due []*reply
	l.replies = slices.DeleteFunc(l.replies, func(r *reply) bool {
		if now.Before(r.due) {
			return false
		}
		due = append(due, r)
		return true
	})
	for _, r := range due {
		l.deliver(now, r)
	}
}

// heardAnswer takes out of what waits what another has told everybody just now (§7.4).
func (l *link) heardAnswer(f family, key string, record *wire.Record) {
	for _, r := range l.replies {
		if r.family == f && !r.to.IsValid() {
			r.sets = slices.DeleteFunc(r.sets, func(s *set) bool {
				return len(s.data) == 1 && record.TTL >= s.ttl && s.has(key, record)
			})
		}
	}
}

// deliver sends a reply: what of it still is ours.
func (l *link) deliver(now time.Time, r *reply) {
	r.sets = l.current(r.sets)
	if r.to.IsValid() {
		l.deliverTo(now, r)
		return
	}
	pause := againEvery
	if r.defends {
		pause = defend
	}
	recent := func(s *set) bool { return now.Sub(l.timesSent(s)[r.family]) < pause }
	var sets []*set
	for _, s := range r.sets {
		free := l.timesSent(s)[r.family].Add(pause)
		switch {
		case !recent(s):
			sets = append(sets, s)
		case r.must, !r.defends && free.Sub(now) <= nearly:
			l.schedule(now, &reply{family: r.family, due: free, must: r.must, sets: []*set{s}})
		} // else it was sent to everybody just now, and so to who asked
	}
	if len(sets) == 0 {
		return
	}
	extra := slices.DeleteFunc(without(l.related(sets), r.known), recent)
	packets, written := pack(func() *wire.Writer { return wire.NewResponse(l.limit(r.family), 0) }, sets, extra)
	for _, w := range packets {
		if l.transmit(r.family, netip.AddrPort{}, w) != nil {
			l.makeUp(now)
			return
		}
	}
	l.markSent(now, r.family, written)
}

// deliverTo sends a reply to one device.
func (l *link) deliverTo(now time.Time, r *reply) {
	if len(r.sets) == 0 {
		return
	}
	extra := without(l.related(r.sets), r.known)
	if r.legacy == nil {
		packets, _ := pack(func() *wire.Writer { return wire.NewResponse(l.limit(r.family), 0) }, r.sets, extra)
		for _, w := range packets {
			l.transmit(r.family, r.to, w) // a lost answer is asked for again
		}
		return
	}
	answer := func(size int) []*wire.Writer {
		packets, _ := pack(func() *wire.Writer {
			w := wire.NewResponse(size, r.legacy.ID)
			w.Legacy = true
			for _, q := range r.legacy.Questions {
				w.Question(q)
			}
			return w
		}, brief(r.sets), brief(extra))
		return packets
	}
	packets := answer(min(legacySize, l.limit(r.family)))
	if len(packets) > 1 {
		packets = answer(l.limit(r.family))
	}
	l.transmit(r.family, r.to, packets[0])
}

// brief returns the sets as a resolver gets them that will not hear of it when they change.
func brief(sets []*set) []*set {
	list := make([]*set, len(sets))
	for i, s := range sets {
		b := *s
		b.ttl = min(s.ttl, legacyTTL)
		list[i] = &b
	}
	return list
}

// related returns what who asks for the sets will ask for next (RFC 6763 §12), and what their names
// have not (RFC 6762 §6.1, §6.2).
func (l *link) related(sets []*set) []*set {
	list := slices.Clone(sets)
	for i := 0; i < len(list); i++ { // what is added has relations too
		s := list[i]
		for _, o := range l.sets {
			switch {
			case s.target != "" && o.key == s.target,
				s.unique && o.key == s.key && (o.typ == wire.A || o.typ == wire.AAAA || o.typ == wire.NSEC):
				list = join(list, o)
			}
		}
	}
	list = list[len(sets):]
	slices.SortStableFunc(list, func(a, b *set) int { return rank(a) - rank(b) })
	return list
}

// rank puts denials last: they are what a full packet can do without.
func rank(s *set) int {
	if s.typ == wire.NSEC {
		return 1
	}
	return 0
}

// pack makes packets of sets, as many as it takes, and puts of the extra ones in what fits. It returns
// what they hold.
func pack(start func() *wire.Writer, sets, extra []*set) (packets []*wire.Writer, written []*set) {
	w := start()
	packets = append(packets, w)
	answers := 0
	another := func() {
		if answers > 0 {
			w, answers = start(), 0
			packets = append(packets, w)
		}
	}
	put := func(records ...wire.Record) bool {
		ok := w.Answers(records...)
		if ok {
			answers++
		}
		return ok
	}
	for _, s := range sets {
		records := s.records()
		written = append(written, s)
		if put(records...) {
			continue
		}
		another()
		if put(records...) {
			continue
		}
		for _, r := range records { // more than a packet holds
			if !put(r) {
				another()
				put(r)
			}
		}
	}
	for _, s := range extra {
		if w.Additional(s.records()...) {
			written = append(written, s)
		}
	}
	return packets, written
}
