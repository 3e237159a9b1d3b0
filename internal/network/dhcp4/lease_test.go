package dhcp4

import (
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

var sent = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// ack is an ordinary acknowledgement, changed by change.
func ack(change ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	m := &dhcpv4.DHCPv4{
		OpCode:     dhcpv4.OpcodeBootReply,
		YourIPAddr: net.IPv4(10, 0, 2, 15),
		Options: dhcpv4.OptionsFromList(
			dhcpv4.OptMessageType(dhcpv4.MessageTypeAck),
			dhcpv4.OptServerIdentifier(net.IPv4(10, 0, 2, 2)),
			dhcpv4.OptSubnetMask(net.CIDRMask(24, 32)),
			dhcpv4.OptRouter(net.IPv4(10, 0, 2, 2)),
			dhcpv4.OptDNS(net.IPv4(10, 0, 2, 3)),
			dhcpv4.OptIPAddressLeaseTime(24*time.Hour),
		),
	}
	for _, c := range change {
		c(m)
	}
	return m
}

// read reads msg as a machine called cloudlink with an ordinary port does.
func read(msg *dhcpv4.DHCPv4, old *Lease, sent time.Time) (*Lease, error) {
	l, _, err := (&terms{hostname: "cloudlink"}).read(msg, old, sent)
	return l, err
}

func raw(code dhcpv4.OptionCode, value ...byte) dhcpv4.Modifier {
	return dhcpv4.WithGeneric(code, value)
}

func seconds32(code dhcpv4.OptionCode, s uint32) dhcpv4.Modifier {
	return raw(code, byte(s>>24), byte(s>>16), byte(s>>8), byte(s))
}

func TestReadsAnOrdinaryLease(t *testing.T) {
	got, err := read(ack(), nil, sent)
	if err != nil {
		t.Fatal(err)
	}
	want := &Lease{
		Prefix:  netip.MustParsePrefix("10.0.2.15/24"),
		Gateway: netip.MustParseAddr("10.0.2.2"),
		DNS:     []netip.Addr{netip.MustParseAddr("10.0.2.3")},
		Server:  netip.MustParseAddr("10.0.2.2"),
		Renew:   sent.Add(12 * time.Hour),
		Rebind:  sent.Add(21 * time.Hour),
		Expires: sent.Add(24 * time.Hour),
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestRefusesLeasesThatCannotBeMeant(t *testing.T) {
	yiaddr := func(a ...byte) dhcpv4.Modifier { return dhcpv4.WithYourIP(net.IP(a)) }
	for name, c := range map[string]struct {
		change []dhcpv4.Modifier
		want   string
	}{
		"no address":             {[]dhcpv4.Modifier{dhcpv4.WithYourIP(nil)}, "no machine"},
		"address 0.0.0.0":        {[]dhcpv4.Modifier{yiaddr(0, 0, 0, 0)}, "no machine"},
		"this network":           {[]dhcpv4.Modifier{yiaddr(0, 1, 2, 3)}, "no machine"},
		"loopback":               {[]dhcpv4.Modifier{yiaddr(127, 0, 0, 1)}, "no machine"},
		"link-local":             {[]dhcpv4.Modifier{yiaddr(169, 254, 7, 7)}, "choose themselves"},
		"multicast":              {[]dhcpv4.Modifier{yiaddr(224, 0, 0, 251)}, "no machine"},
		"reserved":               {[]dhcpv4.Modifier{yiaddr(240, 0, 0, 1)}, "no machine"},
		"broadcast":              {[]dhcpv4.Modifier{yiaddr(255, 255, 255, 255)}, "no machine"},
		"address of the network": {[]dhcpv4.Modifier{yiaddr(10, 0, 2, 0)}, "whole network"},
		"network's broadcast":    {[]dhcpv4.Modifier{yiaddr(10, 0, 2, 255)}, "whole network"},
		"mask /0":                {[]dhcpv4.Modifier{raw(dhcpv4.OptionSubnetMask, 0, 0, 0, 0)}, "larger than"},
		"mask /7":                {[]dhcpv4.Modifier{raw(dhcpv4.OptionSubnetMask, 254, 0, 0, 0)}, "larger than"},
		"mask with a hole":       {[]dhcpv4.Modifier{raw(dhcpv4.OptionSubnetMask, 255, 0, 255, 0)}, "which is none"},
		"mask too short":         {[]dhcpv4.Modifier{raw(dhcpv4.OptionSubnetMask, 255, 255)}, "which is none"},
		"mask empty":             {[]dhcpv4.Modifier{raw(dhcpv4.OptionSubnetMask)}, "which is none"},
		"mask too long":          {[]dhcpv4.Modifier{raw(dhcpv4.OptionSubnetMask, 255, 255, 255, 0, 0)}, "which is none"},
		"no server":              {[]dhcpv4.Modifier{dhcpv4.WithoutOption(dhcpv4.OptionServerIdentifier)}, "own address"},
		"server 0.0.0.0":         {[]dhcpv4.Modifier{raw(dhcpv4.OptionServerIdentifier, 0, 0, 0, 0)}, "own address"},
		"server is everybody":    {[]dhcpv4.Modifier{raw(dhcpv4.OptionServerIdentifier, 255, 255, 255, 255)}, "own address"},
		"server cut off":         {[]dhcpv4.Modifier{raw(dhcpv4.OptionServerIdentifier, 10, 0, 2)}, "own address"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := read(ack(c.change...), nil, sent)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %+v, %v, want an error with %q", l, err, c.want)
			}
		})
	}
}

func TestDoesWithoutWhatIsNonsense(t *testing.T) {
	for name, c := range map[string]struct {
		change dhcpv4.Modifier
		want   func(*Lease) bool
	}{
		"no gateway":         {dhcpv4.WithoutOption(dhcpv4.OptionRouter), func(l *Lease) bool { return !l.Gateway.IsValid() }},
		"gateway is us":      {raw(dhcpv4.OptionRouter, 10, 0, 2, 15), func(l *Lease) bool { return !l.Gateway.IsValid() }},
		"gateway is all":     {raw(dhcpv4.OptionRouter, 10, 0, 2, 255), func(l *Lease) bool { return !l.Gateway.IsValid() }},
		"gateway multicast":  {raw(dhcpv4.OptionRouter, 224, 0, 0, 1), func(l *Lease) bool { return !l.Gateway.IsValid() }},
		"gateway cut off":    {raw(dhcpv4.OptionRouter, 10, 0, 2), func(l *Lease) bool { return !l.Gateway.IsValid() }},
		"second gateway":     {raw(dhcpv4.OptionRouter, 0, 0, 0, 0, 10, 0, 2, 9), func(l *Lease) bool { return l.Gateway.String() == "10.0.2.9" }},
		"gateway off link":   {raw(dhcpv4.OptionRouter, 192, 0, 2, 1), func(l *Lease) bool { return l.Gateway.String() == "192.0.2.1" }},
		"no DNS":             {dhcpv4.WithoutOption(dhcpv4.OptionDomainNameServer), func(l *Lease) bool { return len(l.DNS) == 0 }},
		"DNS twice and zero": {raw(dhcpv4.OptionDomainNameServer, 0, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9), func(l *Lease) bool { return len(l.DNS) == 1 }},
		"1000 DNS servers":   {raw(dhcpv4.OptionDomainNameServer, many(1000)...), func(l *Lease) bool { return len(l.DNS) == maxDNS }},
		"no mask":            {dhcpv4.WithoutOption(dhcpv4.OptionSubnetMask), func(l *Lease) bool { return l.Prefix.Bits() == 8 }},
		"two machines' mask": {raw(dhcpv4.OptionSubnetMask, 255, 255, 255, 254), func(l *Lease) bool { return l.Prefix.Bits() == 31 }},
		"one machine's mask": {raw(dhcpv4.OptionSubnetMask, 255, 255, 255, 255), func(l *Lease) bool { return l.Prefix.Bits() == 32 }},
		"no time":            {dhcpv4.WithoutOption(dhcpv4.OptionIPAddressLeaseTime), valid(defaultTime)},
		"time cut off":       {raw(dhcpv4.OptionIPAddressLeaseTime, 1, 2), valid(defaultTime)},
		"time 0":             {seconds32(dhcpv4.OptionIPAddressLeaseTime, 0), valid(minTime)},
		"time 1":             {seconds32(dhcpv4.OptionIPAddressLeaseTime, 1), valid(minTime)},
		"136 years":          {seconds32(dhcpv4.OptionIPAddressLeaseTime, infinite-1), valid((infinite - 1) * time.Second)},
		"for ever":           {seconds32(dhcpv4.OptionIPAddressLeaseTime, infinite), func(l *Lease) bool { return l.Expires.IsZero() && l.Renew.IsZero() && l.Rebind.IsZero() }},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := read(ack(c.change), nil, sent)
			if err != nil || !c.want(l) {
				t.Errorf("got %+v, %v", l, err)
			}
		})
	}
}

func many(n int) []byte {
	var b []byte
	for i := range n {
		b = append(b, 9, 9, byte(i>>8), byte(i))
	}
	return b
}

func valid(d time.Duration) func(*Lease) bool {
	return func(l *Lease) bool {
		return l.Expires.Equal(sent.Add(d)) && l.Renew.Equal(sent.Add(d/2)) && l.Rebind.Equal(sent.Add(d/8*7))
	}
}

func TestHonoursTheServersTimesWithinBounds(t *testing.T) {
	const day = 24 * 3600
	for name, c := range map[string]struct {
		t1, t2, wantT1, wantT2 uint32
	}{
		"its own":        {100, 200, 100, 200},
		"T1 0":           {0, 200, day / 2, day / 8 * 7},
		"T1 too early":   {4, 200, day / 2, day / 8 * 7},
		"T2 before T1":   {300, 200, day / 2, day / 8 * 7},
		"T2 is T1":       {200, 200, day / 2, day / 8 * 7},
		"T2 too late":    {200, day, day / 2, day / 8 * 7},
		"T1 never":       {infinite, infinite, day / 2, day / 8 * 7},
		"just in bounds": {5, day - 1, 5, day - 1},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := read(ack(seconds32(dhcpv4.OptionRenewTimeValue, c.t1), seconds32(dhcpv4.OptionRebindingTimeValue, c.t2)), nil, sent)
			if err != nil {
				t.Fatal(err)
			}
			if t1, t2 := l.Renew.Sub(sent), l.Rebind.Sub(sent); t1 != time.Duration(c.wantT1)*time.Second || t2 != time.Duration(c.wantT2)*time.Second {
				t.Errorf("T1 %v, T2 %v", t1, t2)
			}
		})
	}
}

func TestRenewalKeepsWhatTheServerLeavesOut(t *testing.T) {
	old, err := read(ack(), nil, sent)
	if err != nil {
		t.Fatal(err)
	}
	short := ack(
		dhcpv4.WithoutOption(dhcpv4.OptionSubnetMask), dhcpv4.WithoutOption(dhcpv4.OptionRouter),
		dhcpv4.WithoutOption(dhcpv4.OptionDomainNameServer), dhcpv4.WithoutOption(dhcpv4.OptionServerIdentifier))
	got, err := read(short, old, sent)
	if err != nil || !reflect.DeepEqual(got, old) {
		t.Errorf("got %+v, %v, want %+v", got, err, old)
	}
	none, err := read(ack(raw(dhcpv4.OptionRouter), raw(dhcpv4.OptionDomainNameServer)), old, sent)
	if err != nil || none.Gateway.IsValid() || len(none.DNS) != 0 {
		t.Errorf("got %+v, %v, want neither gateway nor DNS: the server says there are none", none, err)
	}
}

// FuzzRead: whatever a server sends, a lease is one that a port can have, or none.
func FuzzRead(f *testing.F) {
	f.Add(ack().ToBytes(), false)
	f.Add(ack(dhcpv4.WithoutOption(dhcpv4.OptionSubnetMask)).ToBytes(), true)
	f.Add(ack(raw(dhcpv4.OptionRouter, 10, 0, 2, 255), seconds32(dhcpv4.OptionIPAddressLeaseTime, 0)).ToBytes(), true)
	f.Fuzz(func(t *testing.T, b []byte, renewal bool) {
		msg, err := dhcpv4.FromBytes(b)
		if err != nil {
			return
		}
		var old *Lease
		if renewal {
			if old, err = read(ack(), nil, sent); err != nil {
				t.Fatal(err)
			}
		}
		l, err := read(msg, old, sent)
		if err != nil {
			if len(err.Error()) > 200 {
				t.Errorf("error of %d bytes", len(err.Error()))
			}
			return
		}
		a := l.Addr()
		if !l.Prefix.IsValid() || !a.Is4() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || l.Prefix.Bits() < 8 {
			t.Errorf("address %v", l.Prefix)
		}
		if l.Gateway == a || l.Gateway.IsValid() && !usable(l.Gateway) {
			t.Errorf("gateway %v of %v", l.Gateway, l.Prefix)
		}
		if len(l.DNS) > maxDNS {
			t.Errorf("%d DNS servers", len(l.DNS))
		}
		if !usable(l.Server) {
			t.Errorf("server %v", l.Server)
		}
		if l.Expires.IsZero() {
			if !l.Renew.IsZero() || !l.Rebind.IsZero() {
				t.Errorf("times of a lease without end: %v, %v", l.Renew, l.Rebind)
			}
		} else if l.Renew.Sub(sent) < minTime/4 || !l.Rebind.After(l.Renew) || !l.Expires.After(l.Rebind) {
			t.Errorf("times %v, %v, %v", l.Renew, l.Rebind, l.Expires)
		}
	})
}
