package ipv6

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"cloudlink.local/gateway/internal/network/dhcp4"
)

func TestNames(t *testing.T) {
	long := bytes.Repeat([]byte("\x3faaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"), 4)
	for in, want := range map[string]string{
		"":                                "",
		"\x00\x00\x00":                    "",
		"\x07example\x03net\x00":          "example.net",
		"\x01a\x00\x01b\x01c\x00\x00\x00": "a b.c",
		"\x07example\x03net":              "cut off",
		"\x07exa":                         "too long",
		"\x40":                            "too long",
		"\xc0\x00":                        "too long",
		"\x01 \x00":                       "is none",
		"\x03a\nb\x00":                    "is none",
		"\x02-a\x00":                      "is none",
		string(long) + "\x00":             "too long",
	} {
		names, err := parseNames([]byte(in))
		if err == nil && strings.Join(names, " ") != want || err != nil && (want == "" || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %q, %v", in, names, err)
		}
	}
}

func TestDUIDIsForLife(t *testing.T) {
	path := filepath.Join(t.TempDir(), "duid")
	first, err := DUID(path)
	if err != nil || len(first) != 18 || first[1] != 4 {
		t.Fatalf("%x, %v", first, err)
	}
	if again, err := DUID(path); err != nil || !bytes.Equal(first, again) {
		t.Errorf("%x, then %x, %v", first, again, err)
	}
	if err := os.WriteFile(path, first[:17], 0o600); err != nil {
		t.Fatal(err)
	}
	fresh, err := DUID(path)
	if err != nil || len(fresh) != 18 || bytes.Equal(first, fresh) {
		t.Errorf("%x, then %x, %v", first, fresh, err)
	}
	if again, err := DUID(path); err != nil || !bytes.Equal(fresh, again) {
		t.Errorf("%x, then %x, %v", fresh, again, err)
	}
	if _, err := DUID(filepath.Join(path, "duid")); err == nil || !strings.Contains(err.Error(), "DUID") {
		t.Errorf("in no directory: %v", err)
	}
}

func TestStoredLease(t *testing.T) {
	now := time.Now()
	after := func(s int) time.Time { return now.Add(time.Duration(s) * time.Second) }
	whole := Lease{
		Addr: address, Server: serverDUID, ServerAddr: router1, DNS: []netip.Addr{netip.MustParseAddr("fe80::53%lan0")},
		NTP: []netip.Addr{netip.MustParseAddr("2001:db8::123")}, NTPNames: []string{"ntp.example"}, Search: []string{"example.net"},
		Preferred: after(50), Renew: after(60), Rebind: after(80), Expires: after(100),
	}
	stored := dhcp4.Boot{ID: "a", Clock: 1000 * time.Second}
	for _, c := range []struct {
		name    string
		boot    dhcp4.Boot
		passed  time.Duration
		endless bool
	}{
		{"at once", stored, time.Second, false}, // rounded
		{"later", dhcp4.Boot{ID: "a", Clock: 1030 * time.Second}, 31 * time.Second, false},
		{"after a boot", dhcp4.Boot{ID: "b", Clock: 7 * time.Second}, 7 * time.Second, false},
		{"endless", dhcp4.Boot{ID: "b", Clock: 7 * time.Second}, 0, true},
	} {
		l := whole
		if c.endless {
			l.Preferred, l.Renew, l.Rebind, l.Expires = time.Time{}, time.Time{}, time.Time{}, time.Time{}
		}
		text, err := json.Marshal(l.Store(now, stored))
		if err != nil {
			t.Fatal(err)
		}
		var s Stored
		if err := json.Unmarshal(text, &s); err != nil {
			t.Fatal(err)
		}
		got, err := s.Restore(now, c.boot)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if !c.endless {
			l.Preferred, l.Renew, l.Rebind, l.Expires = l.Preferred.Add(-c.passed), l.Renew.Add(-c.passed), l.Rebind.Add(-c.passed), l.Expires.Add(-c.passed)
		}
		if !reflect.DeepEqual(*got, l) {
			t.Errorf("%s: %+v, want %+v", c.name, *got, l)
		}
	}
	for name, damage := range map[string]func(*Stored){
		"no address for a port": func(s *Stored) { s.Addr = own },
		"server is not known":   func(s *Stored) { s.Server = nil },
		"more than a server":    func(s *Stored) { s.DNS = make([]netip.Addr, 4) },
		"no machine has":        func(s *Stored) { s.NTP = []netip.Addr{netip.IPv6Unspecified()} },
		"is no name":            func(s *Stored) { s.Search = []string{"a\nb"} },
		"not in order":          func(s *Stored) { s.RebindSeconds = 101 },
		"times are not":         func(s *Stored) { s.PreferredSeconds = endless },
	} {
		s := whole.Store(now, stored)
		damage(&s)
		if l, err := s.Restore(now, stored); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %+v, %v", name, l, err)
		}
	}
}

func FuzzAdvert(f *testing.F) {
	f.Add(managed)
	f.Add(routerAdvert(0, 100, prefixOption(netip.MustParsePrefix("2001:db8::/64"), 100), rdnss(60, "2001:db8::53", "fe80::53"), dnssl(70, "example.net")))
	f.Add(append(slices.Clone(other), 25, 1, 0, 0, 0, 0, 0, 1, 31, 1, 0, 0, 0, 0, 0, 1, 3, 1, 0, 0, 0, 0, 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := parseAdvert(b, router1, 255, "lan0")
		if err != nil {
			return
		}
		var r routers
		now := time.Now()
		for range 3 {
			r.hear(now, a)
			info := r.info(now)
			if len(info.DNS) > maxRDNSS || len(info.Search) > maxDNSSL || len(r.prefixes) > MaxPrefixes {
				t.Fatalf("too much: %+v", info)
			}
			for _, name := range info.Search {
				if !isName(name) {
					t.Errorf("%q is no name", name)
				}
			}
			for _, addr := range info.DNS {
				if !usable(addr) || addr.IsLinkLocalUnicast() != (addr.Zone() == "lan0") {
					t.Errorf("%v is no DNS server", addr)
				}
			}
			wake := r.wake(now)
			if wake.IsZero() || wake.Before(now) {
				t.Fatalf("nothing ends, but at %v", wake)
			}
			now = wake
			r.expire(now)
		}
	})
}

// FuzzMessage has a client in each state hear a message that is for it.
func FuzzMessage(f *testing.F) {
	m := &dhcpv6.Message{MessageType: dhcpv6.MessageTypeSolicit, TransactionID: dhcpv6.TransactionID{0x80}}
	m.AddOption(&dhcpv6.OptIANA{IaId: [4]byte(mac[2:])})
	f.Add(reply(m, dhcpv6.MessageTypeAdvertise, with(dhcpv6.OptionPreference, 255)).ToBytes())
	f.Add(reply(m, dhcpv6.MessageTypeReply, with(dhcpv6.OptionRapidCommit), with(dhcpv6.OptionDomainSearchList, wireName("example.net")...)).ToBytes())
	f.Add(reply(m, dhcpv6.MessageTypeReply, refusing(3), with(dhcpv6.OptionNTPServer, append([]byte{0, 3, 0, 13}, wireName("ntp.example")...)...)).ToBytes())
	f.Add(reply(m, dhcpv6.MessageTypeReply, refusing(4), with(dhcpv6.OptionSolMaxRT, 0, 0, 0, 100), with(dhcpv6.OptionInformationRefreshTime, 0, 0, 0, 1)).ToBytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		msg, err := parse(b, router1, "lan0")
		if err != nil {
			return
		}
		for state := range kinds {
			now := time.Now()
			held := &Lease{Addr: address, Server: serverDUID, Renew: now.Add(time.Minute), Rebind: now.Add(time.Hour), Expires: now.Add(2 * time.Hour)}
			c := client{duid: ownDUID, iaid: [4]byte(mac[2:]), random: func() float64 { return 0.5 }, want: addresses, old: held}
			switch state {
			case Requesting:
				c.offer = held
			case Declining:
				c.decline = held
			case Renewing, Rebinding:
				c.lease = held
			}
			c.enter(state, now)
			c.send(now)
			if out := c.receive(now, msg); out != nil && out.MessageType != dhcpv6.MessageTypeRequest {
				t.Errorf("%s: answers with %v", state, out.MessageType)
			}
			if l := c.lease; l != nil {
				if l.hasAddress() && (!usable(l.Addr) || !l.Expires.IsZero() && (l.Renew.IsZero() || l.Renew.After(l.Rebind) || l.Rebind.After(l.Expires))) ||
					len(l.DNS) > maxDNS || len(l.NTP) > maxNTP || len(l.NTPNames) > maxNTP || len(l.Search) > maxSearch {
					t.Errorf("%s: lease is %+v", state, l)
				}
				if l.hasAddress() && l != held {
					s := l.Store(now, dhcp4.Boot{})
					if _, err := s.Restore(now, dhcp4.Boot{}); err != nil {
						t.Errorf("%s: %+v: %v", state, l, err)
					}
				}
			}
			for range 20 { // time goes on
				at := c.wake()
				if at.IsZero() {
					break
				}
				if at.Before(now) {
					t.Fatalf("%s: wakes %v ago", state, now.Sub(at))
				}
				now = at
				c.timeout(now)
			}
		}
	})
}

func FuzzStored(f *testing.F) {
	now := time.Now()
	s := (&Lease{Addr: address, Server: serverDUID, Renew: now.Add(1e9), Rebind: now.Add(2e9), Expires: now.Add(3e9)}).Store(now, dhcp4.Boot{ID: "a"})
	text, err := json.Marshal(s)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		var s Stored
		if json.Unmarshal(text, &s) != nil {
			return
		}
		l, err := s.Restore(now, dhcp4.Boot{ID: "a"})
		if err == nil && (!l.hasAddress() || !l.Expires.IsZero() && l.Rebind.After(l.Expires)) {
			t.Errorf("lease is %+v", l)
		}
	})
}
