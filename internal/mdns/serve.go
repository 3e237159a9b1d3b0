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

// waiting is how many packets wait for a link's goroutine: more than one host may have there.
const waiting = 2 * hostBurst

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

// run owns a link.
func (r *Responder) run(ctx context.Context, at Link, wishes <-chan order) {
	packets := make(chan heard, waiting)
	admission := newAdmission()
	var sockets [len(families)]*socket
	var reading sync.WaitGroup
	reads, stopReads := context.WithCancel(context.Background()) // after the goodbye
	defer reading.Wait()
	defer stopReads()
	l := newLink(r.config.Log, r.kin, r.config.random, func(o outgoing) error { return sockets[o.family].send(o) })
	var look time.Time // when to look again for a rival's MAC address
	looked := 0
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			l.close(time.Now())
			return
		case o := <-wishes:
			l.link = o.link
			for _, f := range families {
				if sockets[f] != nil || !l.usable(f) {
					continue
				}
				s := &socket{family: f, open: func(f family) (conn, error) { return r.config.open(at, f) }}
				sockets[f] = s
				reading.Go(func() { s.run(reads, admission, packets) })
			}
			l.update(time.Now(), o.wish, o.link, r.config.mtu(o.link))
		case p := <-packets:
			if msg, err := wire.Parse(p.bytes); err == nil {
				l.receive(time.Now(), packet{family: p.family, from: p.from, multicast: p.multicast, msg: msg})
			}
		case <-timer.C:
			l.wake(time.Now())
		}
		now := time.Now()
		if again := !look.IsZero() && !now.Before(look); l.dirty || again {
			if l.dirty {
				looked = 0
			}
			l.dirty, look = false, time.Time{}
			status, all := r.identified(at, l.status())
			r.publish(status)
			if looked++; !all && looked < looks {
				look = now.Add(lookEvery)
			}
		}
		next := l.next()
		if next.IsZero() || !look.IsZero() && look.Before(next) {
			next = look
		}
		if next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(next))
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
