package ntp

import (
	"net/netip"
	"strings"
	"testing"
)

func TestServersAreNamedByHostOrAddress(t *testing.T) {
	for named, want := range map[string]host{
		"pool.ntp.org":        {name: "pool.ntp.org", port: 123},
		"pool.ntp.org.":       {name: "pool.ntp.org.", port: 123},
		"ntp":                 {name: "ntp", port: 123},
		"3com.example:1123":   {name: "3com.example", port: 1123},
		"192.0.2.1":           {addr: netip.MustParseAddr("192.0.2.1"), port: 123},
		"192.0.2.1:1123":      {addr: netip.MustParseAddr("192.0.2.1"), port: 1123},
		"::ffff:192.0.2.1":    {addr: netip.MustParseAddr("192.0.2.1"), port: 123},
		"2001:db8::1":         {addr: netip.MustParseAddr("2001:db8::1"), port: 123},
		"[2001:db8::1]":       {addr: netip.MustParseAddr("2001:db8::1"), port: 123},
		"[2001:db8::1]:1123":  {addr: netip.MustParseAddr("2001:db8::1"), port: 1123},
		"fe80::1%eth0":        {addr: netip.MustParseAddr("fe80::1%eth0"), port: 123},
		"[fe80::1%eth0]:1123": {addr: netip.MustParseAddr("fe80::1%eth0"), port: 1123},
	} {
		want.named = named
		if got, err := parseHost(named); err != nil || got != want {
			t.Errorf("%q is %+v, %v", named, got, err)
		}
	}
	for _, named := range []string{
		"", ".", "a b", "10.0.0.0/8", "http://pool.ntp.org", "pool..org", "-a.example", "a-.example", "1.2.3", "1.2.3.400",
		"ntp.example:", "ntp.example:0", "ntp.example:65536", "ntp.example:ntp", "[192.0.2.1]", "[2001:db8::1", "2001:db8::1]",
		"[ntp.example]:123", "0.0.0.0", "224.0.1.1", "255.255.255.255", "::", "ff02::101", "uhr.büro.example",
		strings.Repeat("a", 64) + ".example", strings.Repeat("a.", 127) + "example",
	} {
		err := CheckServer(named)
		if err == nil {
			t.Errorf("%q is taken", named)
			continue
		}
		if !strings.Contains(err.Error(), "write a host name or an address") {
			t.Errorf("%q: no cure in %q", named, err)
		}
	}
}

func FuzzHost(f *testing.F) {
	for _, s := range []string{"pool.ntp.org", "192.0.2.1:123", "[fe80::1%eth0]:1123", "::ffff:1.2.3.4", "[]:1", "]:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, err := parseHost(s)
		if err != nil {
			if len(err.Error()) > 600 {
				t.Fatalf("%d bytes of error", len(err.Error()))
			}
			return
		}
		if h.port == 0 || h.addr.IsValid() == (h.name != "") || h.addr.IsValid() && !askable(h.addr) {
			t.Fatalf("%q is %+v", s, h)
		}
	})
}
