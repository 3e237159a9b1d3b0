package dhcp4

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"cloudlink.local/gateway/internal/network/arp"
)

var (
	thief   = net.HardwareAddr{2, 0, 0, 0, 0, 0x66}
	router  = net.HardwareAddr{2, 0, 0, 0, 0, 9}
	address = netip.MustParseAddr("10.0.2.15")
)

// watched hands the client's watches to the test.
func watched(watches chan *arp.Watch) func(*session) {
	return func(s *session) {
		s.watch = func(ctx context.Context, w *arp.Watch) error {
			select {
			case watches <- w:
			case <-ctx.Done():
			}
			<-ctx.Done()
			return nil
		}
	}
}

// answering makes the gateway answer as the device mac.
func answering(mac net.HardwareAddr) func(*session) {
	return func(s *session) {
		s.ask = func(_ context.Context, _, _ netip.Addr, to net.HardwareAddr) (net.HardwareAddr, error) {
			if to != nil && to.String() != mac.String() {
				return nil, arp.ErrSilent
			}
			return mac, nil
		}
	}
}

// notInUse makes the remembered lease one from before a boot.
func notInUse(s *session) { s.InUse, s.LinkKept = false, false }

// cableWasOut makes the remembered lease one from before the cable was out.
func cableWasOut(s *session) { s.LinkKept = false }

func rememberedLease() *Lease {
	now := time.Now()
	return &Lease{
		Prefix: netip.PrefixFrom(address, 24), Server: netip.MustParseAddr("10.0.2.2"), Gateway: netip.MustParseAddr("10.0.2.2"),
		GatewayMAC: router, Renew: now.Add(time.Hour), Rebind: now.Add(2 * time.Hour), Expires: now.Add(3 * time.Hour),
	}
}

func TestUsesAnAddressOnlyWhenNobodyElseHasIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		watches := make(chan *arp.Watch)
		b := run(t, nil, watched(watches))
		b.answer(reply(b.expect(dhcpv4.MessageTypeDiscover), dhcpv4.MessageTypeOffer))
		b.answer(reply(b.expect(dhcpv4.MessageTypeRequest), dhcpv4.MessageTypeAck))
		w := <-watches
		if w.Addr != address || w.Timing != arp.Quick {
			t.Errorf("looks for %v with %+v", w.Addr, w.Timing)
		}
		synctest.Wait()
		if len(b.leases) > 0 {
			t.Error("uses the address before it is looked for")
		}
		w.Report(arp.Free, nil)
		if l := <-b.leases; l == nil || l.Addr() != address {
			t.Errorf("lease is %+v", l)
		}
		b.end()
	})
}

func TestDeclinesAnAddressThatAnotherDeviceHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		watches := make(chan *arp.Watch)
		var conflicts []string
		b := run(t, nil, watched(watches), func(s *session) {
			s.Conflict = func(a netip.Addr, mac net.HardwareAddr, kept bool) {
				if kept {
					t.Error("says it keeps the address")
				}
				conflicts = append(conflicts, a.String()+" "+mac.String())
			}
		})
		for i := range maxConflicts + 3 {
			last := time.Now()
			discover := b.expect(dhcpv4.MessageTypeDiscover)
			want := declinePause
			switch {
			case i == 0:
				want = 0
			case i > maxConflicts:
				want = conflictPause
			}
			if time.Since(last) != want {
				t.Errorf("pause %d is %v, want %v", i, time.Since(last), want)
			}
			b.answer(reply(discover, dhcpv4.MessageTypeOffer))
			b.answer(reply(b.expect(dhcpv4.MessageTypeRequest), dhcpv4.MessageTypeAck))
			(<-watches).Report(arp.Taken, thief)
			m := b.expect(dhcpv4.MessageTypeDecline)
			if !m.RequestedIPAddress().Equal(address.AsSlice()) || !m.ServerIdentifier().Equal(net.IPv4(10, 0, 2, 2)) ||
				!m.ClientIPAddr.Equal(net.IPv4zero) || m.HostName() != "" || m.ParameterRequestList() != nil || !m.Options.Has(dhcpv4.OptionClientIdentifier) {
				t.Errorf("declines with %v", m)
			}
		}
		if len(b.leases) > 0 {
			t.Errorf("lease is %+v", <-b.leases)
		}
		if len(conflicts) != maxConflicts+3 || conflicts[0] != "10.0.2.15 02:00:00:00:00:66" {
			t.Errorf("conflicts are %q", conflicts)
		}
		b.end()
	})
}

func TestDefendsItsAddressAndGivesItUpWhenThatDoesNotHelp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		watches := make(chan *arp.Watch)
		kept := make(chan bool, 2)
		b := run(t, nil, watched(watches), func(s *session) {
			s.Conflict = func(_ netip.Addr, _ net.HardwareAddr, k bool) { kept <- k }
		})
		b.answer(reply(b.expect(dhcpv4.MessageTypeDiscover), dhcpv4.MessageTypeOffer))
		b.answer(reply(b.expect(dhcpv4.MessageTypeRequest), dhcpv4.MessageTypeAck))
		w := <-watches
		w.Report(arp.Free, nil)
		<-b.leases
		time.Sleep(time.Hour)
		w.Report(arp.Defended, thief)
		if !<-kept {
			t.Error("says it gives the address up")
		}
		w.Report(arp.Lost, thief)
		if <-kept {
			t.Error("says it keeps the address")
		}
		if l := <-b.leases; l != nil {
			t.Errorf("lease is %+v, want none", l)
		}
		b.expect(dhcpv4.MessageTypeDecline)
		b.expect(dhcpv4.MessageTypeDiscover)
		b.end()
	})
}

func TestAnAddressThatWasOursIsUsedAtOnceWhenItsServerAgrees(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		watches := make(chan *arp.Watch)
		b := run(t, rememberedLease(), notInUse, watched(watches))
		req := b.expect(dhcpv4.MessageTypeRequest)
		synctest.Wait()
		if len(b.leases) > 0 {
			t.Error("uses the address before anybody agreed")
		}
		b.answer(reply(req, dhcpv4.MessageTypeAck))
		start := time.Now()
		if l := <-b.leases; l == nil || l.Addr() != address || time.Since(start) != 0 {
			t.Errorf("lease is %+v after %v", l, time.Since(start))
		}
		w := <-watches
		if w.Addr != address || w.Timing != arp.Held {
			t.Errorf("looks for %v with %+v", w.Addr, w.Timing)
		}
		w.Report(arp.Free, nil)
		w.Report(arp.Taken, thief) // found out afterwards
		if l := <-b.leases; l != nil {
			t.Errorf("lease is %+v, want none", l)
		}
		b.expect(dhcpv4.MessageTypeDecline)
		b.end()
	})
}

func TestAnotherServersAddressIsLookedForFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		watches := make(chan *arp.Watch)
		b := run(t, rememberedLease(), notInUse, watched(watches), func(s *session) { s.Remembered.Server = netip.MustParseAddr("10.0.2.66") })
		b.answer(reply(b.expect(dhcpv4.MessageTypeRequest), dhcpv4.MessageTypeAck))
		if w := <-watches; w.Timing != arp.Quick {
			t.Errorf("looks with %+v", w.Timing)
		}
		b.end()
	})
}

func TestTheGatewayTellsThatTheLinkIsTheSame(t *testing.T) {
	t.Run("and the lease goes on without the server", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			old := rememberedLease()
			b := run(t, old, notInUse, answering(router))
			b.expect(dhcpv4.MessageTypeRequest)
			start := time.Now()
			if l := <-b.leases; l == nil || l.Addr() != address || time.Since(start) != 0 {
				t.Errorf("lease is %+v after %v", l, time.Since(start))
			}
			for range vouchedTries { // the first once more
				b.expect(dhcpv4.MessageTypeRequest)
			}
			p := <-b.outbox // rebinding, for the test's server hears no unicast
			if p.from != address || !time.Now().Equal(old.Rebind) {
				t.Errorf("asks for more time at %v from %v, want %v", time.Now(), p.from, old.Rebind)
			}
			b.end()
		})
	})
	t.Run("but a refusal counts", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := run(t, rememberedLease(), notInUse, answering(router))
			req := b.expect(dhcpv4.MessageTypeRequest)
			<-b.leases
			b.answer(reply(req, dhcpv4.MessageTypeNak))
			if l := <-b.leases; l != nil {
				t.Errorf("lease is %+v, want none", l)
			}
			b.expect(dhcpv4.MessageTypeDiscover)
			b.end()
		})
	})
	t.Run("another device with its address does not", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := run(t, rememberedLease(), notInUse, answering(thief))
			b.expectTwice(dhcpv4.MessageTypeRequest)
			b.expect(dhcpv4.MessageTypeDiscover)
			if len(b.leases) > 0 {
				t.Errorf("lease is %+v", <-b.leases)
			}
			b.end()
		})
	})
	t.Run("it is met with each new lease", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := run(t, nil, answering(router))
			if l := b.lease(); l.GatewayMAC != nil {
				t.Errorf("gateway is %v before it was asked", l.GatewayMAC)
			}
			if l := <-b.leases; l.GatewayMAC.String() != router.String() {
				t.Errorf("gateway is %v", l.GatewayMAC)
			}
			b.answer(reply(b.expect(dhcpv4.MessageTypeRequest), dhcpv4.MessageTypeAck))
			if l := <-b.leases; l.GatewayMAC.String() != router.String() {
				t.Errorf("gateway is %v after the renewal", l.GatewayMAC)
			}
			synctest.Wait()
			if len(b.leases) > 0 {
				t.Errorf("told once more: %+v", <-b.leases)
			}
			b.end()
		})
	})
}

// TestTheFirstMessageIsSentOnceMore has a link that loses what is sent in the moment it comes up. What
// comes after that comes when it would have come anyway.
func TestTheFirstMessageIsSentOnceMore(t *testing.T) {
	fresh := &Lease{Prefix: netip.PrefixFrom(address, 24)}
	for what, c := range map[string]struct {
		remembered *Lease
		kind       dhcpv4.MessageType
	}{
		"of one that seeks":     {nil, dhcpv4.MessageTypeDiscover},
		"of one that remembers": {fresh, dhcpv4.MessageTypeRequest},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				b := run(t, c.remembered, notInUse)
				b.expectTwice(c.kind)
				last := b.expect(dhcpv4.MessageTypeDiscover)
				if got := time.Since(start); got < 875*time.Millisecond || got > 1125*time.Millisecond {
					t.Errorf("the next came after %v", got)
				}
				b.answer(reply(last, dhcpv4.MessageTypeOffer))
				b.answer(reply(b.expect(dhcpv4.MessageTypeRequest), dhcpv4.MessageTypeAck))
				if l := <-b.leases; l == nil {
					t.Error("no lease")
				}
				b.end()
			})
		})
	}
	t.Run("both are answered", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := run(t, fresh, notInUse, func(s *session) { s.Remembered.Server = netip.MustParseAddr("10.0.2.2") })
			m := b.expectTwice(dhcpv4.MessageTypeRequest)
			for range 2 {
				b.answer(reply(m, dhcpv4.MessageTypeAck))
			}
			<-b.leases
			synctest.Wait()
			if len(b.leases) > 0 {
				t.Errorf("told once more: %+v", <-b.leases)
			}
			b.end()
		})
	})
}

// TestCableMovedToAnotherNetwork has the address still on the port when the cable is plugged in
// elsewhere, where nobody knows it.
func TestCableMovedToAnotherNetwork(t *testing.T) {
	elsewhere := []dhcpv4.Modifier{
		dhcpv4.WithYourIP(net.IPv4(192, 168, 1, 7)), raw(dhcpv4.OptionServerIdentifier, 192, 168, 1, 1), raw(dhcpv4.OptionRouter, 192, 168, 1, 1),
	}
	t.Run("whose server is silent about our address", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			var servers []string
			b := run(t, rememberedLease(), cableWasOut, func(s *session) {
				s.ServerChanged = func(from, to netip.Addr) { servers = append(servers, from.String()+" to "+to.String()) }
			})
			b.expectTwice(dhcpv4.MessageTypeRequest)
			l := b.lease(elsewhere...)
			if l.Addr().String() != "192.168.1.7" || time.Since(start) > 2*time.Second {
				t.Errorf("lease is %+v after %v", l, time.Since(start))
			}
			synctest.Wait()
			if len(servers) != 1 || servers[0] != "10.0.2.2 to 192.168.1.1" {
				t.Errorf("servers changed: %q", servers)
			}
			b.end()
		})
	})
	t.Run("without a server", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			b := run(t, rememberedLease(), cableWasOut)
			if l := <-b.leases; l != nil || time.Since(start) > 5*time.Second {
				t.Errorf("lease is %+v after %v", l, time.Since(start))
			}
			b.end()
		})
	})
	t.Run("a slow server's word on our address counts", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := run(t, rememberedLease(), cableWasOut)
			req := b.expectTwice(dhcpv4.MessageTypeRequest)
			b.expect(dhcpv4.MessageTypeDiscover)
			b.answer(reply(req, dhcpv4.MessageTypeAck))
			if l := <-b.leases; l == nil || l.Addr() != address {
				t.Errorf("lease is %+v", l)
			}
			b.end()
		})
	})
	t.Run("a slow server refuses our address", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := run(t, rememberedLease(), cableWasOut)
			req := b.expectTwice(dhcpv4.MessageTypeRequest)
			discover := b.expect(dhcpv4.MessageTypeDiscover)
			b.answer(reply(req, dhcpv4.MessageTypeNak))
			if l := <-b.leases; l != nil {
				t.Errorf("lease is %+v, want none", l)
			}
			b.answer(reply(discover, dhcpv4.MessageTypeOffer, elsewhere...)) // what was asked since goes on
			b.expect(dhcpv4.MessageTypeRequest)
			b.end()
		})
	})
}

func TestARenewalWithAnotherAddressIsLookedForFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		watches := make(chan *arp.Watch)
		b := run(t, rememberedLease(), notInUse, watched(watches))
		b.answer(reply(b.expect(dhcpv4.MessageTypeRequest), dhcpv4.MessageTypeAck))
		<-b.leases
		(<-watches).Report(arp.Free, nil)
		b.answer(reply(b.expect(dhcpv4.MessageTypeRequest), dhcpv4.MessageTypeAck, dhcpv4.WithYourIP(net.IPv4(10, 0, 2, 99))))
		w := <-watches
		if w.Addr.String() != "10.0.2.99" || w.Timing != arp.Quick || len(b.leases) > 0 {
			t.Errorf("looks for %v with %+v", w.Addr, w.Timing)
		}
		w.Report(arp.Free, nil)
		if l := <-b.leases; l == nil || l.Addr() != w.Addr {
			t.Errorf("lease is %+v", l)
		}
		b.end()
	})
}

// TestHostileServers has each server do its worst for an hour: the client stays without an address, asks
// on at a bearable rate, says why, and takes a good server's lease afterwards.
func TestHostileServers(t *testing.T) {
	for what, c := range map[string]struct {
		change dhcpv4.Modifier
		says   string
	}{
		"offers 0.0.0.0":              {dhcpv4.WithYourIP(net.IPv4zero), "no machine"},
		"offers loopback":             {dhcpv4.WithYourIP(net.IPv4(127, 0, 0, 1)), "no machine"},
		"offers multicast":            {dhcpv4.WithYourIP(net.IPv4(224, 0, 0, 1)), "no machine"},
		"offers our other port's":     {dhcpv4.WithYourIP(net.IPv4(10, 9, 9, 9)), "another of our ports"},
		"mask of everything":          {raw(dhcpv4.OptionSubnetMask, 0, 0, 0, 0), "larger than"},
		"mask with holes":             {raw(dhcpv4.OptionSubnetMask, 255, 0, 255, 0), "which is none"},
		"mask of a thousand bytes":    {raw(dhcpv4.OptionSubnetMask, make([]byte, 1000)...), "which is none"},
		"does not say who it is":      {dhcpv4.WithoutOption(dhcpv4.OptionServerIdentifier), "own address"},
		"offers the network's own":    {dhcpv4.WithYourIP(net.IPv4(10, 0, 2, 0)), "whole network"},
		"refuses what it has offered": {nil, "no"},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var said []Trouble
				b := run(t, nil, func(s *session) {
					s.Troubled = func(tr Trouble) { said = append(said, tr) }
					s.others = func(a netip.Addr) bool { return a.String() == "10.9.9.9" }
				})
				asked := 0
				for start := time.Now(); time.Since(start) < time.Hour; asked++ {
					m := (<-b.outbox).msg
					switch {
					case c.change != nil:
						b.answer(reply(m, dhcpv4.MessageTypeOffer, c.change))
					case m.MessageType() == dhcpv4.MessageTypeDiscover:
						b.answer(reply(m, dhcpv4.MessageTypeOffer))
					default:
						b.answer(reply(m, dhcpv4.MessageTypeNak, raw(dhcpv4.OptionMessage, []byte("no\nway")...)))
					}
				}
				if asked > 150 || asked < 30 {
					t.Errorf("asked %d times in an hour", asked)
				}
				if len(b.leases) > 0 {
					t.Errorf("lease is %+v", <-b.leases)
				}
				m := (<-b.outbox).msg
				b.answer(reply(m, dhcpv4.MessageTypeOffer))
				if m.MessageType() == dhcpv4.MessageTypeDiscover {
					m = b.expect(dhcpv4.MessageTypeRequest)
				}
				b.answer(reply(m, dhcpv4.MessageTypeAck))
				if l := <-b.leases; l == nil {
					t.Error("the good server's lease was not taken")
				}
				b.end()
				if len(said) == 0 || len(said) > asked || !strings.Contains(said[0].Text, c.says) || strings.Contains(said[0].Text, "\n") || said[0].Refuse != (c.change == nil) {
					t.Errorf("said %d times %+v", len(said), said[:min(1, len(said))])
				}
			})
		})
	}
}

// TestAVolleyOfNonsenseIsToldOnce has a server answer each message with many that cannot be used; a good
// one among them is.
func TestAVolleyOfNonsenseIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said []Trouble
		b := run(t, nil, func(s *session) { s.Troubled = func(tr Trouble) { said = append(said, tr) } })
		cutOff := func(m *dhcpv4.DHCPv4) []byte {
			packet := wireOf(reply(m, dhcpv4.MessageTypeOffer))
			end := bytes.LastIndexByte(packet, 255)
			copy(packet[end:], []byte{6, 200}) // and padding, but not so much
			return packet
		}
		for range 3 {
			m := b.expect(dhcpv4.MessageTypeDiscover)
			for range 10 {
				b.inbox <- cutOff(m)
				b.answer(reply(m, dhcpv4.MessageTypeOffer, dhcpv4.WithYourIP(net.IPv4zero)))
			}
		}
		synctest.Wait()
		if len(said) != 3 || said[0].Reason != Malformed || said[0].Server.String() != "10.0.2.2" {
			t.Errorf("said %d times %+v", len(said), said)
		}
		m := b.expect(dhcpv4.MessageTypeDiscover)
		b.inbox <- cutOff(m)
		b.answer(reply(m, dhcpv4.MessageTypeOffer))
		b.answer(reply(b.expect(dhcpv4.MessageTypeRequest), dhcpv4.MessageTypeAck))
		if l := <-b.leases; l == nil {
			t.Error("the good offer was not taken")
		}
		b.inbox <- cutOff(m) // nobody asked
		b.end()
		if len(said) != 4 {
			t.Errorf("said %d times", len(said))
		}
	})
}

func TestTimesInWhateverOrderMakeALease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, nil)
		l := b.lease(seconds32(dhcpv4.OptionRenewTimeValue, 9000), seconds32(dhcpv4.OptionRebindingTimeValue, 8000), seconds32(dhcpv4.OptionIPAddressLeaseTime, 7000))
		if now := time.Now(); !l.Renew.Equal(now.Add(3500*time.Second)) || !l.Rebind.Equal(now.Add(6125*time.Second)) || !l.Expires.Equal(now.Add(7000*time.Second)) {
			t.Errorf("times are %v, %v, %v", l.Renew.Sub(now), l.Rebind.Sub(now), l.Expires.Sub(now))
		}
		b.end()
	})
}
