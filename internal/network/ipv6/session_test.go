package ipv6

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"golang.org/x/sys/unix"
)

var (
	mac        = net.HardwareAddr{0x52, 0x54, 0, 0x12, 0x34, 0x56}
	own        = netip.MustParseAddr("fe80::5054")
	router1    = netip.MustParseAddr("fe80::1")
	router2    = netip.MustParseAddr("fe80::2")
	address    = netip.MustParseAddr("2001:db8::15")
	serverDUID = []byte{0, 3, 0, 1, 2, 0, 0, 0, 0, 1}
	otherDUID  = []byte{0, 3, 0, 1, 2, 0, 0, 0, 0, 2}
)

// A link is the wire in a test's bubble.
type link struct {
	adverts, inbox chan packet
	outbox         chan *dhcpv6.Message
	solicits       chan time.Time
	closed, down   chan struct{}
	once           sync.Once
}

type packet struct {
	bytes    []byte
	from     netip.Addr
	hopLimit int
}

func (l *link) read(packets chan packet, buf []byte) (packet, int, error) {
	select {
	case p := <-packets:
		return p, copy(buf, p.bytes), nil
	case <-l.down:
		return packet{}, 0, unix.ENETDOWN
	case <-l.closed:
		return packet{}, 0, net.ErrClosed
	}
}

func (l *link) readAdvert(buf []byte) (int, netip.Addr, int, error) {
	p, n, err := l.read(l.adverts, buf)
	return n, p.from, p.hopLimit, err
}

func (l *link) readDHCP(buf []byte) (int, netip.Addr, error) {
	p, n, err := l.read(l.inbox, buf)
	return n, p.from, err
}

func (l *link) sendSolicit() error { l.solicits <- time.Now(); return nil }

func (l *link) sendDHCP(b []byte) error {
	m, err := dhcpv6.MessageFromBytes(b)
	if err != nil {
		return err
	}
	l.outbox <- m
	return nil
}

func (l *link) close() { l.once.Do(func() { close(l.closed) }) }

// A bench is a session in a test's bubble. Chance is always in the middle.
type bench struct {
	*link
	t         *testing.T
	s         *session
	changes   chan change
	leases    chan *Lease
	infos     chan Info
	troubles  chan Trouble
	conflicts chan netip.Addr
	moved     chan [2]netip.Addr
	stop      context.CancelFunc
	ended     chan error
}

func run(t *testing.T, remembered *Lease, prepare ...func(*session)) *bench {
	b := &bench{
		link: &link{
			adverts: make(chan packet, 1000), inbox: make(chan packet, 1000), outbox: make(chan *dhcpv6.Message, 1000),
			solicits: make(chan time.Time, 1000), closed: make(chan struct{}), down: make(chan struct{}),
		},
		t: t, changes: make(chan change), leases: make(chan *Lease, 1000), infos: make(chan Info, 1000),
		troubles: make(chan Trouble, 1000), conflicts: make(chan netip.Addr, 10), moved: make(chan [2]netip.Addr, 10), ended: make(chan error, 1),
	}
	b.s = &session{
		Client: &Client{
			Port: &net.Interface{Index: 1 << 30, Name: "lan0", HardwareAddr: mac}, DUID: ownDUID, Hostname: "cloudlink",
			Log: slog.New(slog.DiscardHandler), Remembered: remembered,
			Changed: func(l *Lease) { b.leases <- l }, Advertised: func(i Info) { b.infos <- i },
			Troubled: func(tr Trouble) { b.troubles <- tr }, Conflict: func(a netip.Addr) { b.conflicts <- a },
			ServerChanged: func(from, to netip.Addr) { b.moved <- [2]netip.Addr{from, to} },
		},
		wire: b.link, own: own, changes: b.changes, random: func() float64 { return 0.5 },
	}
	for _, p := range prepare {
		p(b.s)
	}
	ctx, stop := context.WithCancel(t.Context())
	b.stop = stop
	go func() {
		err := b.s.run(ctx)
		if ctx.Err() != nil {
			err = nil
		}
		b.ended <- err
	}()
	return b
}

func (b *bench) end() {
	b.t.Helper()
	b.stop()
	if err := <-b.ended; err != nil {
		b.t.Error(err)
	}
}

// expect waits for the client's next message.
func (b *bench) expect(kind dhcpv6.MessageType) *dhcpv6.Message {
	b.t.Helper()
	select {
	case m := <-b.outbox:
		if m.MessageType != kind {
			b.t.Fatalf("sent %v, want %v", m.Summary(), kind)
		}
		if id := m.GetOneOption(dhcpv6.OptionClientID); id == nil || !bytes.Equal(id.ToBytes(), ownDUID) {
			b.t.Errorf("%v says it is from %v", kind, id)
		}
		return m
	case <-time.After(48 * time.Hour):
		b.t.Fatalf("no %v was sent", kind)
		return nil
	}
}

// quiet says that nothing happens for a while.
func (b *bench) quiet(d time.Duration) {
	b.t.Helper()
	time.Sleep(d)
	synctest.Wait()
	for len(b.outbox) > 0 {
		b.t.Errorf("sent %v", (<-b.outbox).Summary())
	}
	for len(b.leases) > 0 {
		b.t.Errorf("lease is %+v", <-b.leases)
	}
}

func (b *bench) advertise(from netip.Addr, a []byte) { b.adverts <- packet{a, from, 255} }

func (b *bench) answer(m *dhcpv6.Message) { b.inbox <- packet{bytes: m.ToBytes(), from: router1} }

// managed and other are advertisements with a flag.
var (
	managed = routerAdvert(0x80|0x40, 1800)
	other   = routerAdvert(0x40, 1800)
	neither = routerAdvert(0, 1800)
)

func routerAdvert(flags byte, lifetime uint16, options ...[]byte) []byte {
	b := []byte{134, 0, 0, 0, 64, flags, byte(lifetime >> 8), byte(lifetime), 0, 0, 0, 0, 0, 0, 0, 0}
	return append(b, slices.Concat(options...)...)
}

func prefixOption(p netip.Prefix, valid uint32) []byte {
	b := []byte{3, 4, byte(p.Bits()), 0xc0}
	b = binary.BigEndian.AppendUint32(b, valid)
	b = binary.BigEndian.AppendUint32(b, valid)
	return append(append(b, 0, 0, 0, 0), p.Addr().AsSlice()...)
}

func rdnss(lifetime uint32, addrs ...string) []byte {
	b := binary.BigEndian.AppendUint32([]byte{25, byte(1 + 2*len(addrs)), 0, 0}, lifetime)
	for _, a := range addrs {
		b = append(b, netip.MustParseAddr(a).AsSlice()...)
	}
	return b
}

func dnssl(lifetime uint32, name string) []byte {
	b := binary.BigEndian.AppendUint32([]byte{31, 0, 0, 0}, lifetime)
	b = append(b, wireName(name)...)
	for len(b)%8 != 0 {
		b = append(b, 0)
	}
	b[1] = byte(len(b) / 8)
	return b
}

func wireName(name string) (b []byte) {
	for l := range strings.SplitSeq(name, ".") {
		b = append(append(b, byte(len(l))), l...)
	}
	return append(b, 0)
}

// reply answers m with the address for 2 hours, T1 1000 s and T2 2000 s.
func reply(m *dhcpv6.Message, kind dhcpv6.MessageType, more ...func(*dhcpv6.Message)) *dhcpv6.Message {
	r := &dhcpv6.Message{MessageType: kind, TransactionID: m.TransactionID}
	r.AddOption(generic(dhcpv6.OptionClientID, ownDUID))
	r.AddOption(generic(dhcpv6.OptionServerID, serverDUID))
	if ia := m.Options.OneIANA(); ia != nil {
		r.AddOption(&dhcpv6.OptIANA{IaId: ia.IaId, T1: 1000 * time.Second, T2: 2000 * time.Second, Options: dhcpv6.IdentityOptions{Options: dhcpv6.Options{
			&dhcpv6.OptIAAddress{IPv6Addr: address.AsSlice(), PreferredLifetime: time.Hour, ValidLifetime: 2 * time.Hour},
		}}})
	}
	r.AddOption(dhcpv6.OptDNS(net.ParseIP("2001:db8::53"), net.ParseIP("fe80::53"), net.ParseIP("::1")))
	for _, f := range more {
		f(r)
	}
	return r
}

func generic(code dhcpv6.OptionCode, data []byte) dhcpv6.Option {
	return &dhcpv6.OptionGeneric{OptionCode: code, OptionData: data}
}

// with has a message say something else or more.
func with(code dhcpv6.OptionCode, data ...byte) func(*dhcpv6.Message) {
	return func(m *dhcpv6.Message) { m.UpdateOption(generic(code, data)) }
}

func without(code dhcpv6.OptionCode) func(*dhcpv6.Message) {
	return func(m *dhcpv6.Message) { m.Options.Del(code) }
}

// granting changes what is granted.
func granting(change func(*dhcpv6.OptIANA, *dhcpv6.OptIAAddress)) func(*dhcpv6.Message) {
	return func(m *dhcpv6.Message) { change(m.Options.OneIANA(), m.Options.OneIANA().Options.OneAddress()) }
}

// refusing has no address granted, for a reason.
func refusing(code iana.StatusCode) func(*dhcpv6.Message) {
	return func(m *dhcpv6.Message) {
		m.Options.OneIANA().Options.Options = dhcpv6.Options{&dhcpv6.OptStatusCode{StatusCode: code, StatusMessage: "no\x1b[2J"}}
	}
}

// bound has the client have the address.
func (b *bench) bound() *Lease {
	b.t.Helper()
	b.advertise(router1, managed)
	b.answer(reply(b.expect(dhcpv6.MessageTypeSolicit), dhcpv6.MessageTypeAdvertise, with(dhcpv6.OptionPreference, 255)))
	b.answer(reply(b.expect(dhcpv6.MessageTypeRequest), dhcpv6.MessageTypeReply))
	l := <-b.leases
	if !l.hasAddress() || l.Addr != address {
		b.t.Fatalf("lease is %+v", l)
	}
	return l
}

func remembered() *Lease {
	now := time.Now()
	return &Lease{Addr: address, Server: serverDUID, ServerAddr: router1, Renew: now.Add(time.Hour), Rebind: now.Add(2 * time.Hour), Expires: now.Add(3 * time.Hour)}
}

func TestLeasesAnAddressWhenARouterSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, nil)
		b.quiet(time.Minute)
		b.advertise(router1, managed)
		m := b.expect(dhcpv6.MessageTypeSolicit)
		if i := <-b.infos; !i.Managed || !i.Other || !slices.Equal(i.Routers, []netip.Addr{router1}) {
			t.Errorf("routers say %+v", i)
		}
		if ia := m.Options.OneIANA(); ia == nil || ia.IaId != [4]byte(mac[2:]) || len(ia.Options.Options) > 0 {
			t.Errorf("solicits %v", ia)
		}
		if m.GetOneOption(dhcpv6.OptionIAPD) != nil || m.GetOneOption(dhcpv6.OptionReconfAccept) != nil || m.GetOneOption(dhcpv6.OptionRapidCommit) == nil {
			t.Errorf("solicits %v", m.Summary())
		}
		if f := m.Options.FQDN(); f == nil || f.Flags != 1 || f.DomainName.Labels[0] != "cloudlink" {
			t.Errorf("its name is %v", f)
		}
		for _, o := range []dhcpv6.OptionCode{23, 24, 31, 56, 82} {
			if !m.IsOptionRequested(o) {
				t.Errorf("does not ask for %v", o)
			}
		}
		b.answer(reply(m, dhcpv6.MessageTypeAdvertise, func(m *dhcpv6.Message) {
			m.AddOption(&dhcpv6.OptIAPD{Options: dhcpv6.PDOptions{}}) // not asked for
		}))
		b.quiet(900 * time.Millisecond) // another may offer more
		m = b.expect(dhcpv6.MessageTypeRequest)
		if id := m.GetOneOption(dhcpv6.OptionServerID); id == nil || !bytes.Equal(id.ToBytes(), serverDUID) {
			t.Errorf("requests of %v", id)
		}
		if m.GetOneOption(dhcpv6.OptionIAPD) != nil || !m.Options.OneIANA().Options.OneAddress().IPv6Addr.Equal(address.AsSlice()) {
			t.Errorf("requests %v", m.Summary())
		}
		start := time.Now()
		b.answer(reply(m, dhcpv6.MessageTypeReply, with(dhcpv6.OptionDomainSearchList, wireName("example.net")...),
			with(dhcpv6.OptionNTPServer, append([]byte{0, 3, 0, 13}, wireName("ntp.example")...)...)))
		l := <-b.leases
		want := []netip.Addr{netip.MustParseAddr("2001:db8::53"), netip.MustParseAddr("fe80::53%lan0")}
		if l.Prefix().String() != "2001:db8::15/128" || !slices.Equal(l.DNS, want) || l.ServerAddr != router1 || !slices.Equal(l.Search, []string{"example.net"}) || !slices.Equal(l.NTPNames, []string{"ntp.example"}) {
			t.Errorf("lease is %+v", l)
		}
		if l.Preferred.Sub(start) != time.Hour || l.Renew.Sub(start) != 1000*time.Second || l.Rebind.Sub(start) != 2000*time.Second || l.Expires.Sub(start) != 2*time.Hour {
			t.Errorf("lease is %+v", l)
		}
		b.end()
	})
}

func TestTakesTheBestOffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, nil)
		b.advertise(router1, managed)
		m := b.expect(dhcpv6.MessageTypeSolicit)
		b.answer(reply(m, dhcpv6.MessageTypeAdvertise))
		b.answer(reply(m, dhcpv6.MessageTypeAdvertise, with(dhcpv6.OptionServerID, otherDUID...), with(dhcpv6.OptionPreference, 7)))
		b.answer(reply(m, dhcpv6.MessageTypeAdvertise, with(dhcpv6.OptionPreference, 6)))
		m = b.expect(dhcpv6.MessageTypeRequest)
		if id := m.GetOneOption(dhcpv6.OptionServerID).ToBytes(); !bytes.Equal(id, otherDUID) {
			t.Errorf("requests of %x", id)
		}
		b.answer(reply(m, dhcpv6.MessageTypeReply)) // another server's
		b.quiet(100 * time.Millisecond)
		b.answer(reply(m, dhcpv6.MessageTypeReply, with(dhcpv6.OptionServerID, otherDUID...)))
		if l := <-b.leases; !bytes.Equal(l.Server, otherDUID) {
			t.Errorf("lease is %+v", l)
		}
		b.end()
	})
}

func TestRapidCommitSavesTwoMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, nil)
		b.advertise(router1, managed)
		m := b.expect(dhcpv6.MessageTypeSolicit)
		b.answer(reply(m, dhcpv6.MessageTypeReply)) // without the option: not ours to take
		b.quiet(100 * time.Millisecond)
		b.answer(reply(m, dhcpv6.MessageTypeReply, with(dhcpv6.OptionRapidCommit)))
		if l := <-b.leases; l.Addr != address {
			t.Errorf("lease is %+v", l)
		}
		b.end()
	})
}

// TestRetransmission looks at the pauses of RFC 8415 §15, chance being in the middle.
func TestRetransmission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, nil)
		pauses := func(kind dhcpv6.MessageType, want ...time.Duration) (m *dhcpv6.Message) {
			t.Helper()
			m = b.expect(kind)
			start, last := time.Now(), time.Now()
			for i, w := range want {
				again := b.expect(kind)
				if d := time.Since(last); d.Round(10*time.Millisecond) != w {
					t.Errorf("pause %d of %v is %v, want %v", i+1, kind, d, w)
				}
				if again.TransactionID != m.TransactionID {
					t.Errorf("%v has another transaction", kind)
				}
				if got, want := again.Options.ElapsedTime(), min(time.Since(start), 0xffff*10*time.Millisecond); (got - want).Abs() > 10*time.Millisecond {
					t.Errorf("%v says %v have passed, not %v", kind, got, want)
				}
				last = time.Now()
			}
			return m
		}
		const s = time.Second
		b.advertise(router1, managed)
		defer b.keepAdvertising(managed)()
		pauses(dhcpv6.MessageTypeSolicit, 1050*time.Millisecond, 2100*time.Millisecond, 4200*time.Millisecond, 8400*time.Millisecond,
			16800*time.Millisecond, 33600*time.Millisecond, 67200*time.Millisecond, 134400*time.Millisecond, 268800*time.Millisecond,
			537600*time.Millisecond, 1075200*time.Millisecond, 2150400*time.Millisecond, 3600*s, 3600*s)
		b.answer(reply(b.expect(dhcpv6.MessageTypeSolicit), dhcpv6.MessageTypeAdvertise, refusing(iana.StatusNoAddrsAvail), with(dhcpv6.OptionSolMaxRT, 0, 0, 0, 100)))
		b.expect(dhcpv6.MessageTypeSolicit) // its pause was begun
		last := time.Now()
		m := b.expect(dhcpv6.MessageTypeSolicit)
		if d := time.Since(last); d != 100*s {
			t.Errorf("pause is %v although the server wants 100 s", d)
		}
		b.answer(reply(m, dhcpv6.MessageTypeAdvertise))
		pauses(dhcpv6.MessageTypeRequest, 1*s, 2*s, 4*s, 8*s, 16*s, 30*s, 30*s, 30*s, 30*s) // ten, then anew
		m = b.expect(dhcpv6.MessageTypeSolicit)
		b.answer(reply(m, dhcpv6.MessageTypeAdvertise))
		b.answer(reply(b.expect(dhcpv6.MessageTypeRequest), dhcpv6.MessageTypeReply, granting(func(ia *dhcpv6.OptIANA, _ *dhcpv6.OptIAAddress) {
			ia.T2 = 3000 * s
		})))
		l := <-b.leases
		m = pauses(dhcpv6.MessageTypeRenew, 10*s, 20*s, 40*s, 80*s, 160*s, 320*s, 600*s, 600*s)
		if !bytes.Equal(m.GetOneOption(dhcpv6.OptionServerID).ToBytes(), serverDUID) || !m.Options.OneIANA().Options.OneAddress().IPv6Addr.Equal(address.AsSlice()) {
			t.Errorf("renews %v", m.Summary())
		}
		m = pauses(dhcpv6.MessageTypeRebind, 10*s, 20*s)
		if m.GetOneOption(dhcpv6.OptionServerID) != nil {
			t.Error("asks one server only")
		}
		for len(b.leases) == 0 {
			b.expect(dhcpv6.MessageTypeRebind)
			synctest.Wait()
			if len(b.outbox) == 0 {
				time.Sleep(min(601*s, time.Until(l.Expires)))
				synctest.Wait()
			}
		}
		if l2 := <-b.leases; l2 != nil || time.Now().Before(l.Expires) {
			t.Errorf("lease is %+v, %v before its end", l2, time.Until(l.Expires))
		}
		if m := b.expect(dhcpv6.MessageTypeSolicit); !m.Options.OneIANA().Options.OneAddress().IPv6Addr.Equal(address.AsSlice()) {
			t.Errorf("asks for another address: %v", m.Summary())
		}
		b.end()
	})
}

func TestRenewsAndRebinds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, nil)
		first := b.bound()
		m := b.expect(dhcpv6.MessageTypeRenew)
		if !time.Now().Equal(first.Renew) {
			t.Errorf("renews %v after T1", time.Since(first.Renew))
		}
		b.answer(reply(m, dhcpv6.MessageTypeReply, with(dhcpv6.OptionServerID, otherDUID...))) // not asked
		b.quiet(time.Second)
		b.answer(reply(m, dhcpv6.MessageTypeReply, without(dhcpv6.OptionDNSRecursiveNameServer)))
		l := <-b.leases
		if !l.Expires.After(first.Expires) || !slices.Equal(l.DNS, first.DNS) { // what is left out stays
			t.Errorf("lease is %+v", l)
		}
		for kind := dhcpv6.MessageTypeRenew; kind != dhcpv6.MessageTypeRebind; kind = (<-b.outbox).MessageType {
		}
		// Not the first REBIND's: it has been taken from the wire; the second will do.
		b.inbox <- packet{bytes: reply(b.expect(dhcpv6.MessageTypeRebind), dhcpv6.MessageTypeReply, with(dhcpv6.OptionServerID, otherDUID...)).ToBytes(), from: router2}
		if l := <-b.leases; !bytes.Equal(l.Server, otherDUID) || l.Addr != address {
			t.Errorf("lease is %+v", l)
		}
		if m := <-b.moved; m != [2]netip.Addr{router1, router2} {
			t.Errorf("server changed: %v", m)
		}
		b.end()
	})
}

func TestServersRefusals(t *testing.T) {
	for _, c := range []struct {
		name string
		more func(*dhcpv6.Message)
		kept bool // the lease is
		next dhcpv6.MessageType
		text string
	}{
		{"no binding", refusing(iana.StatusNoBinding), true, dhcpv6.MessageTypeRequest, ""},
		{"not on link", refusing(iana.StatusNotOnLink), false, dhcpv6.MessageTypeSolicit, `NotOnLink "no\x1b[2J"`},
		{"no addresses", refusing(iana.StatusNoAddrsAvail), true, dhcpv6.MessageTypeRenew, "NoAddrsAvail"},
		{"failure", refusing(iana.StatusUnspecFail), true, dhcpv6.MessageTypeRenew, "UnspecFail"},
		{"status of the message", with(dhcpv6.OptionStatusCode, 0, 1), true, dhcpv6.MessageTypeRenew, "UnspecFail"},
		{"nothing granted", without(dhcpv6.OptionIANA), true, dhcpv6.MessageTypeRenew, "grants no address"},
		{"taken back", granting(func(_ *dhcpv6.OptIANA, a *dhcpv6.OptIAAddress) { a.PreferredLifetime, a.ValidLifetime = 0, 0 }), false, dhcpv6.MessageTypeSolicit, "takes the address back"},
		{"T1 after T2", granting(func(ia *dhcpv6.OptIANA, _ *dhcpv6.OptIAAddress) { ia.T1 = ia.T2 + 1e9 }), true, dhcpv6.MessageTypeRenew, "T1"},
		{"preferred for longer than valid", granting(func(_ *dhcpv6.OptIANA, a *dhcpv6.OptIAAddress) { a.PreferredLifetime = a.ValidLifetime + 1e9 }), true, dhcpv6.MessageTypeRenew, "longer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := run(t, nil)
				b.bound()
				b.answer(reply(b.expect(dhcpv6.MessageTypeRenew), dhcpv6.MessageTypeReply, c.more))
				b.expect(c.next)
				if c.text != "" {
					if tr := <-b.troubles; !strings.Contains(tr.Text, c.text) {
						t.Errorf("trouble is %+v", tr)
					}
				}
				if len(b.leases) == 0 != c.kept {
					t.Errorf("%d news of the lease", len(b.leases))
				}
				if !c.kept && <-b.leases != nil {
					t.Error("lease is not lost")
				}
				b.end()
			})
		})
	}
}

func TestAServerThatAlwaysRefusesIsAskedLessAndLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, nil)
		b.advertise(router1, managed)
		defer b.keepAdvertising(managed)()
		start, n := time.Now(), 0
		for time.Since(start) < 24*time.Hour {
			b.answer(reply(b.expect(dhcpv6.MessageTypeSolicit), dhcpv6.MessageTypeAdvertise, with(dhcpv6.OptionPreference, 255)))
			b.answer(reply(b.expect(dhcpv6.MessageTypeRequest), dhcpv6.MessageTypeReply, refusing(iana.StatusNoAddrsAvail)))
			n++
		}
		if n > 24*60/5+15 {
			t.Errorf("asked %d times in a day", n)
		}
		b.end()
	})
}

// TestHostileMessages has servers say what cannot be meant; none of it is used, and the client goes on.
func TestHostileMessages(t *testing.T) {
	for _, c := range []struct {
		name string
		more func(*dhcpv6.Message)
	}{
		{"another transaction", func(m *dhcpv6.Message) { m.TransactionID[0]++ }},
		{"another client", with(dhcpv6.OptionClientID, 0, 4, 9)},
		{"no client", without(dhcpv6.OptionClientID)},
		{"no server", without(dhcpv6.OptionServerID)},
		{"empty server", with(dhcpv6.OptionServerID)},
		{"huge server", with(dhcpv6.OptionServerID, make([]byte, 131)...)},
		{"two servers", func(m *dhcpv6.Message) { m.AddOption(generic(dhcpv6.OptionServerID, otherDUID)) }},
		{"reconfigure", func(m *dhcpv6.Message) { m.MessageType = dhcpv6.MessageTypeReconfigure }},
		{"other identity", granting(func(ia *dhcpv6.OptIANA, _ *dhcpv6.OptIAAddress) { ia.IaId[0]++ })},
		{"lifetime 0", granting(func(_ *dhcpv6.OptIANA, a *dhcpv6.OptIAAddress) { a.PreferredLifetime, a.ValidLifetime = 0, 0 })},
		{"lifetime 1 s", granting(func(_ *dhcpv6.OptIANA, a *dhcpv6.OptIAAddress) { a.PreferredLifetime, a.ValidLifetime = 1e9, 1e9 })},
		{"T1 after T2", granting(func(ia *dhcpv6.OptIANA, _ *dhcpv6.OptIAAddress) { ia.T1 = infinite })},
		{"link-local", granting(func(_ *dhcpv6.OptIANA, a *dhcpv6.OptIAAddress) { a.IPv6Addr = net.ParseIP("fe80::1") })},
		{"multicast", granting(func(_ *dhcpv6.OptIANA, a *dhcpv6.OptIAAddress) { a.IPv6Addr = net.ParseIP("ff0e::1") })},
		{"nobody", granting(func(_ *dhcpv6.OptIANA, a *dhcpv6.OptIAAddress) { a.IPv6Addr = net.IPv6unspecified })},
		{"ourselves", granting(func(_ *dhcpv6.OptIANA, a *dhcpv6.OptIAAddress) { a.IPv6Addr = net.IPv6loopback })},
		{"IPv4", granting(func(_ *dhcpv6.OptIANA, a *dhcpv6.OptIAAddress) { a.IPv6Addr = net.ParseIP("10.0.0.1").To16() })},
		{"huge", with(dhcpv6.OptionVendorOpts, make([]byte, 65000)...)},
		{"another port's", func(*dhcpv6.Message) {}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				others := false
				b := run(t, nil)
				b.advertise(router1, managed)
				b.expect(dhcpv6.MessageTypeSolicit)
				if c.name == "another port's" {
					others = true
					b.s.sm.ours = func(a netip.Addr) bool { return others && a == address } // the session waits
				}
				m := b.expect(dhcpv6.MessageTypeSolicit)
				for range 3 {
					b.answer(reply(m, dhcpv6.MessageTypeAdvertise, c.more))
					b.answer(reply(m, dhcpv6.MessageTypeReply, with(dhcpv6.OptionRapidCommit), c.more))
				}
				b.inbox <- packet{bytes: []byte{7}, from: router1}
				b.inbox <- packet{from: router1}
				b.quiet(time.Second)
				others = false
				m = b.expect(dhcpv6.MessageTypeSolicit)
				b.answer(reply(m, dhcpv6.MessageTypeAdvertise))
				m = b.expect(dhcpv6.MessageTypeRequest)
				b.answer(reply(m, dhcpv6.MessageTypeReply))
				if l := <-b.leases; l.Addr != address {
					t.Errorf("lease is %+v", l)
				}
				b.end()
			})
		})
	}
}

func TestFloodOfOffersCostsLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, nil)
		b.advertise(router1, managed)
		m := b.expect(dhcpv6.MessageTypeSolicit)
		for i := range 1000 {
			b.answer(reply(m, dhcpv6.MessageTypeAdvertise, with(dhcpv6.OptionServerID, 0, 2, 0, 0, 0, 9, byte(i>>8), byte(i))))
		}
		time.Sleep(500 * time.Millisecond)
		synctest.Wait()
		if n := len(b.inbox); n < 1000-maxPace {
			t.Errorf("%d messages were read in half a second", 1000-n)
		}
		m = b.expect(dhcpv6.MessageTypeRequest)
		if id := m.GetOneOption(dhcpv6.OptionServerID).ToBytes(); !bytes.Equal(id, []byte{0, 2, 0, 0, 0, 9, 0, 0}) {
			t.Errorf("requests of %x, not the first", id)
		}
		b.end()
	})
}

func TestOddLifetimes(t *testing.T) {
	const s = time.Second
	for _, c := range []struct {
		name                        string
		t1, t2, preferred, valid    time.Duration // as sent
		renew, rebind, prefer, ends time.Duration // 0 is never
	}{
		{"the client's choice", 0, 0, 1000 * s, 2000 * s, 500 * s, 800 * s, 1000 * s, 2000 * s},
		{"T2 only", 0, 600 * s, 1000 * s, 2000 * s, 375 * s, 600 * s, 1000 * s, 2000 * s},
		{"T1 only", 900 * s, 0, 1000 * s, 2000 * s, 900 * s, 900 * s, 1000 * s, 2000 * s},
		{"endless", 0, 0, infinite, infinite, 0, 0, 0, 0},
		{"endless with T1", 100 * s, 200 * s, infinite, infinite, 100 * s, 200 * s, 0, 0},
		{"all endless", infinite, infinite, infinite, infinite, 0, 0, 0, 0},
		{"never to be renewed but ending", infinite, infinite, 1000 * s, 2000 * s, 500 * s, 800 * s, 1000 * s, 2000 * s},
		{"T2 after the end", 100 * s, 3000 * s, 1000 * s, 2000 * s, 500 * s, 800 * s, 1000 * s, 2000 * s},
		{"T1 at once", 1 * s, 2 * s, 1000 * s, 2000 * s, 500 * s, 800 * s, 1000 * s, 2000 * s},
		{"no longer preferred", 0, 0, 0, 2000 * s, 1000 * s, 1600 * s, -1, 2000 * s},
		{"short", 0, 0, 2 * s, 20 * s, 5 * s, 5 * s, 2 * s, 20 * s},
	} {
		t.Run(c.name, func(t *testing.T) {
			start := time.Now()
			l := &Lease{}
			l.setTimes(start, c.t1, c.t2, c.preferred, c.valid)
			for _, p := range []struct {
				name string
				got  time.Time
				want time.Duration
			}{{"T1", l.Renew, c.renew}, {"T2", l.Rebind, c.rebind}, {"preferred", l.Preferred, c.prefer}, {"end", l.Expires, c.ends}} {
				want := start.Add(max(p.want, 0))
				if p.want == 0 {
					want = time.Time{}
				}
				if !p.got.Equal(want) {
					t.Errorf("%s is after %v, want %v", p.name, p.got.Sub(start), p.want)
				}
			}
		})
	}
}

func TestRememberedLeaseIsConfirmed(t *testing.T) {
	yes := func(m *dhcpv6.Message) { m.AddOption(&dhcpv6.OptStatusCode{StatusMessage: "yes"}) }
	no := func(m *dhcpv6.Message) { m.AddOption(&dhcpv6.OptStatusCode{StatusCode: iana.StatusNotOnLink}) }
	covering := routerAdvert(0x80, 1800, prefixOption(netip.MustParsePrefix("2001:db8::/64"), 100))
	elsewhere := routerAdvert(0x80, 1800, prefixOption(netip.MustParsePrefix("2001:db8:1::/64"), 100))
	for _, c := range []struct {
		name        string
		inUse, kept bool
		advert      []byte
		answer      func(*dhcpv6.Message)
		want        []bool // of Changed: has an address
		next        dhcpv6.MessageType
	}{
		{"after a boot", false, false, managed, yes, []bool{true}, dhcpv6.MessageTypeRenew},
		{"after a restart", true, true, managed, yes, nil, dhcpv6.MessageTypeRenew},
		{"another network", true, false, managed, no, []bool{false}, dhcpv6.MessageTypeSolicit},
		{"another network after a boot", false, false, managed, no, nil, dhcpv6.MessageTypeSolicit},
		{"silence after a restart", true, true, managed, nil, nil, dhcpv6.MessageTypeRenew},
		{"silence, but the router knows it", false, false, covering, nil, []bool{true}, dhcpv6.MessageTypeRenew},
		{"silence, and the router does not", true, false, elsewhere, nil, []bool{false}, dhcpv6.MessageTypeSolicit},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				b := run(t, remembered(), func(s *session) { s.InUse, s.LinkKept = c.inUse, c.kept })
				b.advertise(router1, c.advert)
				m := b.expect(dhcpv6.MessageTypeConfirm)
				if !m.Options.OneIANA().Options.OneAddress().IPv6Addr.Equal(address.AsSlice()) || m.GetOneOption(dhcpv6.OptionServerID) != nil || m.GetOneOption(dhcpv6.OptionORO) != nil {
					t.Errorf("confirms %v", m.Summary())
				}
				if c.answer != nil {
					b.answer(reply(m, dhcpv6.MessageTypeReply, without(dhcpv6.OptionIANA), c.answer))
				} else {
					for range 3 {
						b.expect(dhcpv6.MessageTypeConfirm)
					}
				}
				b.expect(c.next)
				if c.next == dhcpv6.MessageTypeRenew && time.Since(start) != time.Hour {
					t.Errorf("renews after %v", time.Since(start))
				}
				for _, w := range c.want {
					if l := <-b.leases; l.hasAddress() != w {
						t.Errorf("lease is %+v", l)
					}
				}
				if len(b.leases) > 0 {
					t.Errorf("lease is %+v", <-b.leases)
				}
				b.end()
			})
		})
	}
}

func TestDeclinesAnAddressThatAnotherDeviceHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, nil)
		b.bound()
		for i := range maxConflicts + 2 {
			b.changes <- change{addr: netip.MustParseAddr("2001:db8::99"), flags: unix.IFA_F_DADFAILED} // SLAAC's
			<-b.conflicts
			b.changes <- change{addr: address, flags: unix.IFA_F_DADFAILED | unix.IFA_F_TENTATIVE, gone: true}
			if a := <-b.conflicts; a != address {
				t.Errorf("conflict is about %v", a)
			}
			m := b.expect(dhcpv6.MessageTypeDecline)
			if l := <-b.leases; l != nil {
				t.Errorf("lease is %+v", l)
			}
			if !bytes.Equal(m.GetOneOption(dhcpv6.OptionServerID).ToBytes(), serverDUID) || !m.Options.OneIANA().Options.OneAddress().IPv6Addr.Equal(address.AsSlice()) {
				t.Errorf("declines %v", m.Summary())
			}
			if i == 0 { // nobody answers: four times
				for range declineTries - 1 {
					b.expect(dhcpv6.MessageTypeDecline)
				}
			} else {
				b.answer(reply(m, dhcpv6.MessageTypeReply, without(dhcpv6.OptionIANA)))
			}
			last := time.Now()
			m = b.expect(dhcpv6.MessageTypeSolicit)
			want := declinePause
			if i >= maxConflicts {
				want = conflictPause
			}
			if i > 0 && time.Since(last) != want {
				t.Errorf("pause %d is %v, want %v", i, time.Since(last), want)
			}
			if len(m.Options.OneIANA().Options.Options) > 0 {
				t.Error("asks for the same address again")
			}
			b.answer(reply(m, dhcpv6.MessageTypeAdvertise, with(dhcpv6.OptionPreference, 255)))
			b.answer(reply(b.expect(dhcpv6.MessageTypeRequest), dhcpv6.MessageTypeReply))
			<-b.leases
		}
		b.end()
	})
}

func TestInformationOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, nil)
		b.advertise(router1, other)
		m := b.expect(dhcpv6.MessageTypeInformationRequest)
		if m.Options.OneIANA() != nil || !m.IsOptionRequested(dhcpv6.OptionInformationRefreshTime) || !m.IsOptionRequested(dhcpv6.OptionInfMaxRT) {
			t.Errorf("asks %v", m.Summary())
		}
		for _, c := range []struct {
			refresh []byte
			want    time.Duration
		}{{nil, 24 * time.Hour}, {[]byte{0, 0, 0, 1}, 10 * time.Minute}, {[]byte{0, 0, 0x10, 0}, 0x1000 * time.Second}, {[]byte{0, 1}, 24 * time.Hour}} {
			var more []func(*dhcpv6.Message)
			if c.refresh != nil {
				more = append(more, with(dhcpv6.OptionInformationRefreshTime, c.refresh...))
			}
			b.answer(reply(m, dhcpv6.MessageTypeReply, more...))
			if l := <-b.leases; l.hasAddress() || len(l.DNS) != 2 {
				t.Errorf("lease is %+v", l)
			}
			start := time.Now()
			b.advertise(router1, other)
			// The router keeps advertising, or its flags are forgotten.
			stop := b.keepAdvertising(other)
			m = b.expect(dhcpv6.MessageTypeInformationRequest)
			stop()
			if time.Since(start) != c.want {
				t.Errorf("asks again after %v, want %v", time.Since(start), c.want)
			}
		}
		b.answer(reply(m, dhcpv6.MessageTypeReply, with(dhcpv6.OptionInformationRefreshTime, 0xff, 0xff, 0xff, 0xff)))
		<-b.leases
		stop := b.keepAdvertising(other)
		b.quiet(1000 * time.Hour)
		stop()
		b.advertise(router1, neither)
		if l := <-b.leases; l != nil {
			t.Errorf("lease is %+v", l)
		}
		b.advertise(router1, managed)
		b.expect(dhcpv6.MessageTypeSolicit)
		b.end()
	})
}

func (b *bench) keepAdvertising(a []byte) context.CancelFunc {
	ctx, stop := context.WithCancel(b.t.Context())
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(10 * time.Minute):
				b.advertise(router1, a)
			}
		}
	}()
	return stop
}

func TestAddressStaysThoughRoutersSayNothingMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, nil)
		b.bound()
		b.advertise(router1, neither)
		b.answer(reply(b.expect(dhcpv6.MessageTypeRenew), dhcpv6.MessageTypeReply))
		l := <-b.leases
		b.advertise(router1, other)
		b.quiet(10 * time.Second)
		// Its server is gone: at its end it is not asked for again, but information is.
		for len(b.leases) == 0 {
			time.Sleep(time.Minute)
			synctest.Wait()
			b.advertise(router1, other)
		}
		if got := <-b.leases; got != nil || time.Now().Before(l.Expires) {
			t.Errorf("lease is %+v", got)
		}
		for kind := dhcpv6.MessageTypeRenew; kind != dhcpv6.MessageTypeInformationRequest; kind = (<-b.outbox).MessageType {
			if kind == dhcpv6.MessageTypeSolicit {
				t.Error("solicits an address")
			}
		}
		b.end()
	})
}

func TestRoutersAreAskedUntilOneAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, nil)
		last := <-b.solicits
		for _, want := range []time.Duration{4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3600, 3600} {
			now := <-b.solicits
			if now.Sub(last) != want*time.Second {
				t.Errorf("pause is %v, want %v", now.Sub(last), want*time.Second)
			}
			last = now
		}
		b.adverts <- packet{managed, router1, 64} // from another network
		b.adverts <- packet{managed, netip.MustParseAddr("2001:db8::1"), 255}
		b.adverts <- packet{managed[:15], router1, 255}
		b.adverts <- packet{append(slices.Clone(managed), 3, 0), router1, 255} // an endless option
		<-b.solicits
		b.advertise(router1, neither)
		time.Sleep(100 * time.Hour)
		if len(b.solicits) > 0 || len(b.outbox) > 0 {
			t.Error("asks on")
		}
		b.end()
	})
}

func TestWhatRoutersSayEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, nil)
		start := time.Now()
		b.advertise(router1, routerAdvert(0, 100, rdnss(60, "2001:db8::53", "fe80::53", "ff02::1"), dnssl(70, "example.net"), rdnss(0xffffffff, "2001:db8::54")))
		b.advertise(router2, routerAdvert(0x40, 0, rdnss(0, "2001:db8::99"), dnssl(1, "bad name")))
		for _, want := range []struct {
			after               time.Duration
			routers, dns, names int
			other               bool
		}{
			{0, 1, 3, 1, false}, {0, 1, 3, 1, true}, {60, 1, 1, 1, true}, {70, 1, 1, 0, true}, {100, 0, 1, 0, true}, {31 * 60, 0, 1, 0, false},
		} {
			i := <-b.infos
			if time.Since(start) != want.after*time.Second || len(i.Routers) != want.routers || len(i.DNS) != want.dns || len(i.Search) != want.names || i.Other != want.other {
				t.Errorf("after %v: %+v", time.Since(start), i)
			}
		}
		b.advertise(router1, routerAdvert(0, 0, rdnss(0, "2001:db8::54")))
		if i := <-b.infos; len(i.DNS) > 0 {
			t.Errorf("routers say %+v", i)
		}
		b.end()
	})
}

func TestNetworksAreToldWhenAllRoutersHadTimeToAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type told struct {
			networks []netip.Prefix
			routers  []netip.Addr
			at       time.Time
		}
		var got []told
		b := run(t, nil, func(s *session) {
			s.Networks = func(n []netip.Prefix, r []netip.Addr) { got = append(got, told{n, r, time.Now()}) }
		})
		b.quiet(time.Minute)
		if len(got) > 0 {
			t.Errorf("told without a router: %+v", got)
		}
		first := time.Now()
		one, two := netip.MustParsePrefix("2001:db8:1::/64"), netip.MustParsePrefix("2001:db8:2::/64")
		b.advertise(router1, routerAdvert(0, 1800, prefixOption(one, 3600)))
		time.Sleep(3 * time.Second)
		b.advertise(router2, routerAdvert(0, 1800, prefixOption(two, 3600)))
		time.Sleep(time.Minute)
		b.advertise(router1, routerAdvert(0, 1800, prefixOption(one, 3600)))
		b.quiet(time.Minute)
		b.end()
		if len(got) != 1 || !slices.Equal(got[0].networks, []netip.Prefix{one, two}) || !slices.Equal(got[0].routers, []netip.Addr{router1, router2}) ||
			got[0].at.Sub(first) != answerTime {
			t.Errorf("told %+v", got)
		}
	})
}

func TestRoutersThatSayTooMuch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, nil)
		for i := range 10_000 {
			from := netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 14: byte(i >> 8), 15: byte(i)})
			p := netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0x20, 1: 1, 6: byte(i >> 8), 7: byte(i)}), 64)
			b.advertise(from, routerAdvert(0, 9000, prefixOption(p, 0xffffffff), rdnss(0xffffffff, p.Addr().Next().String()), dnssl(0xffffffff, "a"+strings.Repeat("b", i%60))))
		}
		var i Info
		for len(b.adverts) > 0 || len(b.infos) > 0 {
			select {
			case i = <-b.infos:
			case <-time.After(2 * time.Second):
			}
		}
		b.end()
		if len(i.Routers) != maxRouters || len(i.DNS) != maxRDNSS || len(i.Search) != maxDNSSL || len(b.s.routers.prefixes) != MaxPrefixes {
			t.Errorf("routers say %+v", i)
		}
		if len(b.troubles) != 1 {
			t.Errorf("%d troubles", len(b.troubles))
		}
	})
}

func TestEndsWithThePort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, nil)
		close(b.down)
		if err := <-b.ended; !errors.Is(err, unix.ENETDOWN) {
			t.Errorf("ended with %v", err)
		}
		b = run(t, nil)
		b.changes <- change{addr: own, gone: true}
		if err := <-b.ended; err == nil || !strings.Contains(err.Error(), "lost its address") {
			t.Errorf("ended with %v", err)
		}
	})
}
