package dhcp4

import (
	"encoding/json"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// full is a lease with all there is.
func full(t *testing.T) *Lease {
	t.Helper()
	l, err := read(ack(
		raw(dhcpv4.OptionClasslessStaticRoute, 0, 10, 0, 2, 9, 24, 192, 168, 7, 10, 0, 2, 7, 32, 203, 0, 113, 5, 0, 0, 0, 0),
		raw(dhcpv4.OptionDNSDomainSearchList, []byte("\x01a\x00\x01b\x00")...), raw(dhcpv4.OptionDomainName, []byte("example.org")...),
		raw(dhcpv4.OptionNTPServers, 10, 0, 2, 4), raw(dhcpv4.OptionInterfaceMTU, 5, 0), raw(dhcpv4.OptionHostName, []byte("door")...),
	), nil, sent)
	if err != nil {
		t.Fatal(err)
	}
	l.GatewayMAC = net.HardwareAddr{2, 0, 0, 0, 0, 9}
	return l
}

// through stores l and restores it, by way of a file's text.
func through(t *testing.T, l *Lease, now time.Time, then Boot, later time.Time, at Boot) *Lease {
	t.Helper()
	text, err := json.Marshal(l.Store(now, then))
	if err != nil {
		t.Fatal(err)
	}
	for _, wall := range []string{"2026", "time"} {
		if strings.Contains(string(text), wall) {
			t.Errorf("the file has a time of the wall clock: %s", text)
		}
	}
	var s Stored
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	got, err := s.Restore(later, at)
	if err != nil {
		t.Fatalf("%v of %s", err, text)
	}
	return got
}

func TestStoredLeaseComesBack(t *testing.T) {
	l := full(t)
	leap := 5 * 365 * 24 * time.Hour
	for what, c := range map[string]struct {
		at     Boot
		wall   time.Duration // what the wall clock says has passed
		passed time.Duration // what counts
	}{
		"at once":                   {Boot{"a", time.Hour}, 0, 0},
		"in the same boot":          {Boot{"a", 2 * time.Hour}, time.Hour, time.Hour},
		"the wall clock leapt on":   {Boot{"a", 2 * time.Hour}, leap, time.Hour},
		"the wall clock leapt back": {Boot{"a", 2 * time.Hour}, -leap, time.Hour},
		"after another boot":        {Boot{"b", time.Minute}, -leap, time.Minute},
	} {
		t.Run(what, func(t *testing.T) {
			later := sent.Add(c.wall)
			got := through(t, l, sent, Boot{"a", time.Hour}, later, c.at)
			for i, d := range []time.Duration{l.Renew.Sub(sent) - got.Renew.Sub(later), l.Rebind.Sub(sent) - got.Rebind.Sub(later), l.Expires.Sub(sent) - got.Expires.Sub(later)} {
				if d < c.passed || d > c.passed+2*time.Second {
					t.Errorf("time %d is %v shorter, want %v and no less", i, d, c.passed)
				}
			}
			got.Renew, got.Rebind, got.Expires = l.Renew, l.Rebind, l.Expires
			if !reflect.DeepEqual(got, l) {
				t.Errorf("got %+v, want %+v", got, l)
			}
		})
	}
}

func TestStoredLeaseWithoutEndAndPastItsEnd(t *testing.T) {
	endless, err := read(ack(seconds32(dhcpv4.OptionIPAddressLeaseTime, infinite)), nil, sent)
	if err != nil {
		t.Fatal(err)
	}
	if got := through(t, endless, sent, Boot{"a", 0}, sent, Boot{"b", time.Hour}); !reflect.DeepEqual(got, endless) {
		t.Errorf("got %+v, want %+v", got, endless)
	}
	if got := through(t, full(t), sent.Add(48*time.Hour), Boot{"a", 0}, sent, Boot{"b", 0}); !due(got.Expires, sent) {
		t.Errorf("ends at %v", got.Expires)
	}
}

func TestTheMachinesClockGoesOn(t *testing.T) {
	a, err := Now()
	if err != nil {
		t.Fatal(err)
	}
	b, err := Now()
	if err != nil || a.ID != b.ID || len(a.ID) != 36 || b.Clock <= a.Clock {
		t.Errorf("%+v, then %+v, %v", a, b, err)
	}
}

// FuzzStored: whatever is in the file, a restored lease is one that a port can have.
func FuzzStored(f *testing.F) {
	f.Add(`{"boot":"a","clock":3600,"renew_seconds":1,"rebind_seconds":2,"expires_seconds":3,"gateway_mac":"02:00:00:00:00:09","prefix":"10.0.2.15/24","server":"10.0.2.2"}`)
	f.Add(`{"prefix":"127.0.0.1/8","endless":true}`)
	f.Add(`{"prefix":"10.0.2.15/24","expires_seconds":-9223372036854775808,"clock":9223372036854775807,"boot":"x"}`)
	f.Add(`{}`)
	f.Fuzz(func(t *testing.T, text string) {
		var s Stored
		if json.Unmarshal([]byte(text), &s) != nil {
			return
		}
		l, err := s.Restore(sent, Boot{"x", time.Hour})
		if err != nil {
			return
		}
		if !usable(l.Addr()) || l.Prefix.Bits() < 8 {
			t.Errorf("address %v", l.Prefix)
		}
		if !l.Expires.IsZero() && (l.Rebind.After(l.Expires) || l.Renew.After(l.Rebind)) {
			t.Errorf("times %v, %v, %v", l.Renew, l.Rebind, l.Expires)
		}
		var c client
		c.mac, c.random = mac, func() uint32 { return 0 }
		c.start(sent, l, true, false)
		check(t, &c, sent)
	})
}
