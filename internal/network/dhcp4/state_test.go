package dhcp4

import (
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// FuzzClient: in whatever order servers answer and time passes, the client neither stands still
// nor asks without a pause, and it uses an address only while it has a lease.
func FuzzClient(f *testing.F) {
	f.Add([]byte("ttoatttttttttt"), false)
	f.Add([]byte("oatan"), true)
	f.Add([]byte("onononoxoxox"), false)
	f.Add([]byte("oaLtiLtoiLt"), true)
	f.Fuzz(func(t *testing.T, events []byte, remember bool) {
		if len(events) > 1000 {
			return
		}
		now := sent
		var seed uint32
		c := client{mac: mac, random: func() uint32 { seed = seed*1664525 + 1013904223; return seed }}
		var remembered *Lease
		if remember {
			remembered = &Lease{Prefix: netip.MustParsePrefix("10.0.2.15/24"), Expires: now.Add(time.Hour)}
		}
		c.start(now, remembered)
		for _, e := range events {
			check(t, &c, now)
			answer := func(kind dhcpv4.MessageType, change ...dhcpv4.Modifier) {
				c.receive(now, reply(&dhcpv4.DHCPv4{TransactionID: c.xid, ClientHWAddr: mac}, kind, change...))
			}
			switch e {
			case 'o':
				answer(dhcpv4.MessageTypeOffer)
			case 'a':
				answer(dhcpv4.MessageTypeAck)
			case 'i':
				answer(dhcpv4.MessageTypeAck, seconds32(dhcpv4.OptionIPAddressLeaseTime, infinite))
			case 'n':
				answer(dhcpv4.MessageTypeNak)
			case 'x':
				answer(dhcpv4.MessageTypeAck, raw(dhcpv4.OptionSubnetMask, 1))
			case 'L': // the machine slept
				now = now.Add(48 * time.Hour)
				c.timeout(now)
			default:
				if !c.wake.IsZero() {
					if c.wake.After(now) {
						now = c.wake
					}
					c.timeout(now)
				}
			}
		}
		check(t, &c, now)
	})
}

func check(t *testing.T, c *client, now time.Time) {
	t.Helper()
	switch c.state {
	case Bound, Renewing, Rebinding, Rebooting:
		if c.lease == nil {
			t.Fatalf("%s without a lease", c.state)
		}
	case Requesting:
		if c.offer == nil {
			t.Fatal("requesting without an offer")
		}
	}
	switch {
	case c.wake.IsZero() && (c.state != Bound || !c.lease.Expires.IsZero()):
		t.Fatalf("%s stands still", c.state)
	case !c.wake.IsZero() && c.tries > 0 && c.state != Bound && !c.wake.After(now):
		t.Fatalf("%s asks again without a pause", c.state)
	case c.wake.Sub(now) > maxPause*9/8 && c.state != Bound && c.state != Renewing && c.state != Rebinding:
		t.Fatalf("%s waits for %v", c.state, c.wake.Sub(now))
	case c.lease != nil && !c.lease.Expires.IsZero() && c.wake.After(c.lease.Expires):
		t.Fatalf("%s oversleeps the end of its lease", c.state)
	}
}
