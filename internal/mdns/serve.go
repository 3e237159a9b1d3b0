package mdns

import (
	"context"
	"sync"
	"time"

	"cloudlink.local/gateway/internal/mdns/wire"
)

// A service is the goroutine of one link.
type service struct {
	wishes chan order // the newest one
	stop   context.CancelFunc
	done   chan struct{}
}

// An order is a wish, for one link.
type order struct {
	wish *Wish
	link Link
}

// serve starts to answer on a link. It goes on until stop is called, says goodbye, and closes done.
func (r *Responder) serve(l Link) *service {
	ctx, stop := context.WithCancel(context.Background())
	s := &service{wishes: make(chan order, 1), stop: stop, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		r.run(ctx, l, s.wishes)
	}()
	return s
}

// wish takes the place of the wish before, if that was not looked at yet. Only one goroutine may call it.
func (s *service) wish(w *Wish, l Link) {
	select {
	case <-s.wishes:
	default:
	}
	s.wishes <- order{w, l}
}

// An owner owns a link: whoever works on it, its goroutine or those that read its sockets, does so one
// at a time, and leaves the timer set for what comes next. An answer goes out from the goroutine that has
// read the question: the way over another one costs as much again.
type owner struct {
	r  *Responder
	at Link

	mu     sync.Mutex // guards what follows
	l      *link
	timer  *time.Timer
	look   time.Time // when to look again for a rival's MAC address
	looked int
	ended  bool // it has said goodbye
}

// do works on the link.
func (o *owner) do(work func(now time.Time, l *link)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended {
		return
	}
	now := time.Now()
	work(now, o.l)
	if next := o.l.next(); !next.IsZero() && !next.After(now) {
		o.l.wake(now) // what is due goes out now
	}
	if again := !o.look.IsZero() && !now.Before(o.look); o.l.dirty || again {
		if o.l.dirty {
			o.looked = 0
		}
		o.l.dirty, o.look = false, time.Time{}
		status, all := o.r.identified(o.at, o.l.status())
		o.r.publish(status)
		if o.looked++; !all && o.looked < looks {
			o.look = now.Add(lookEvery)
		}
	}
	next := o.l.next()
	if next.IsZero() || !o.look.IsZero() && o.look.Before(next) {
		next = o.look
	}
	if next.IsZero() {
		o.timer.Stop()
	} else {
		o.timer.Reset(time.Until(next))
	}
}

// hear takes a datagram.
func (o *owner) hear(f family, d datagram) {
	msg, err := wire.Parse(d.bytes)
	if err != nil {
		return
	}
	o.do(func(now time.Time, l *link) {
		l.receive(now, packet{family: f, from: d.from, multicast: d.multicast, msg: msg})
	})
}

// run owns a link until ctx ends.
func (r *Responder) run(ctx context.Context, at Link, wishes <-chan order) {
	admission := newAdmission()
	var sockets [len(families)]*socket
	var reading sync.WaitGroup
	reads, stopReads := context.WithCancel(context.Background()) // after the goodbye
	defer reading.Wait()
	defer stopReads()
	o := &owner{r: r, at: at, timer: time.NewTimer(0)}
	o.l = newLink(r.config.Log, r.kin, r.config.random, func(out outgoing) error { return sockets[out.family].send(out) })
	defer o.timer.Stop()
	for {
		select {
		case <-ctx.Done():
			o.do(func(now time.Time, l *link) {
				l.close(now)
				o.ended = true
			})
			return
		case w := <-wishes:
			o.do(func(now time.Time, l *link) {
				l.link = w.link
				for _, f := range families {
					if sockets[f] != nil || !l.usable(f) {
						continue
					}
					s := &socket{family: f, open: func(f family) (conn, error) { return r.config.open(at, f) }}
					sockets[f] = s
					reading.Go(func() { s.run(reads, admission, o.hear) })
				}
				l.update(now, w.wish, w.link, r.config.mtu(w.link))
			})
		case <-o.timer.C:
			o.do(func(now time.Time, l *link) { l.wake(now) })
		}
	}
}

// Another device's MAC address is known a moment after it was written to.
const (
	lookEvery = 200 * time.Millisecond
	looks     = 10
)

// identified adds what the kernel knows about rivals, and says whether it knows all.
func (r *Responder) identified(at Link, s LinkStatus) (LinkStatus, bool) {
	all := true
	for i, n := range s.Names {
		if n.Rival != nil && n.Rival.MAC == nil {
			rival := *n.Rival
			rival.MAC = r.config.hardware(at.Index, rival.Addr)
			s.Names[i].Rival = &rival
			all = all && rival.MAC != nil
		}
	}
	return s, all
}
