package dhcp4

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// FuzzClient: in whatever order servers answer and time passes, the client neither stands still
// nor asks without a pause, and it uses an address only while it has a lease.
func FuzzClient(f *testing.F) {
	f.Add([]byte("ttoatttttttttt"), byte(0))
	f.Add([]byte("oatfatan"), byte(7))
	f.Add([]byte("onononoxoxox"), byte(0))
	f.Add([]byte("oafLtiLtoifLt"), byte(5))
	f.Add([]byte("vtftttttnocfca"), byte(1))
	f.Add([]byte("cccccccoacoafc"), byte(3))
	f.Fuzz(func(t *testing.T, events []byte, how byte) {
		if len(events) > 1000 {
			return
		}
		now := sent
		var seed uint32
		c := client{mac: mac, random: func() uint32 { seed = seed*1664525 + 1013904223; return seed }}
		var remembered *Lease
		if how&1 != 0 {
			remembered = &Lease{Prefix: netip.MustParsePrefix("10.0.2.15/24"), Expires: now.Add(time.Hour)}
			if how&8 != 0 {
				remembered.Server = netip.MustParseAddr("10.0.2.2")
				remembered.Renew, remembered.Rebind = now.Add(-time.Minute), now.Add(time.Minute)
			}
		}
		c.start(now, remembered, remembered != nil && how&2 != 0, how&4 != 0)
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
			case 'b':
				answer(dhcpv4.MessageTypeAck, dhcpv4.WithYourIP(net.IPv4(10, 0, 2, 16)))
			case 'i':
				answer(dhcpv4.MessageTypeAck, seconds32(dhcpv4.OptionIPAddressLeaseTime, infinite))
			case 'n':
				answer(dhcpv4.MessageTypeNak)
			case 'x':
				answer(dhcpv4.MessageTypeAck, raw(dhcpv4.OptionSubnetMask, 1))
			case 'f':
				c.free()
			case 'c':
				c.taken(now)
			case 'v':
				c.vouch()
			case 'm':
				if c.lease != nil {
					c.meet(c.lease, mac)
				}
			case 'L': // the machine slept
				now = now.Add(48 * time.Hour)
				c.timeout(now)
			default:
				if wake := c.wake(); !wake.IsZero() {
					if wake.After(now) {
						now = wake
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
	case Bound, Renewing, Rebinding:
		if c.lease == nil {
			t.Fatalf("%s without a lease", c.state)
		}
	case Rebooting:
		if c.old == nil {
			t.Fatal("rebooting without an address to ask for")
		}
	case Requesting, Checking:
		if c.offer == nil {
			t.Fatalf("%s without an offer", c.state)
		}
	}
	wake := c.wake()
	switch {
	case wake.IsZero() && (c.state != Bound || !c.lease.Expires.IsZero()):
		t.Fatalf("%s stands still", c.state)
	case !wake.IsZero() && c.tries > 0 && c.state != Bound && !wake.After(now):
		t.Fatalf("%s asks again without a pause", c.state)
	case wake.Sub(now) > maxPause*9/8 && c.state != Bound && c.state != Renewing && c.state != Rebinding:
		t.Fatalf("%s waits for %v", c.state, wake.Sub(now))
	case c.lease != nil && !c.lease.Expires.IsZero() && wake.After(c.lease.Expires):
		t.Fatalf("%s oversleeps the end of its lease", c.state)
	}
	if addr, _ := c.claim(); c.lease != nil && !addr.IsValid() {
		t.Fatal("nobody watches the address in use")
	}
}
