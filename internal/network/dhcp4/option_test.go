package dhcp4

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

func route(to, via string) Route {
	r := Route{To: netip.MustParsePrefix(to)}
	if via != "" {
		r.Via = netip.MustParseAddr(via)
	}
	return r
}

func TestParsesClasslessRoutes(t *testing.T) {
	got, err := parseRoutes([]byte{
		0, 10, 0, 2, 9, // the default
		8, 10, 10, 0, 2, 8,
		24, 192, 168, 7, 10, 0, 2, 7,
		17, 172, 16, 0xff, 10, 0, 2, 6, // bits after the network are none of it
		32, 203, 0, 113, 5, 0, 0, 0, 0, // on the link
	})
	want := []Route{
		route("0.0.0.0/0", "10.0.2.9"), route("10.0.0.0/8", "10.0.2.8"), route("192.168.7.0/24", "10.0.2.7"),
		route("172.16.128.0/17", "10.0.2.6"), route("203.0.113.5/32", ""),
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	for _, bad := range [][]byte{{0}, {33, 1, 2, 3, 4, 5, 6, 7, 8, 9}, {24, 192, 168, 7, 10, 0, 2}, {0, 10, 0, 2, 9, 8}} {
		if got, err := parseRoutes(bad); err == nil {
			t.Errorf("%v parsed as %v", bad, got)
		}
	}
}

// notesOf reads an acknowledgement that must be usable.
func notesOf(t *testing.T, change ...dhcpv4.Modifier) (*Lease, string) {
	t.Helper()
	l, notes, err := (&terms{hostname: "cloudlink", maxMTU: 1500}).read(ack(change...), nil, sent)
	if err != nil {
		t.Fatal(err)
	}
	return l, strings.Join(notes, "; ")
}

func TestClasslessRoutesOverruleTheRouter(t *testing.T) {
	classless := func(b ...byte) dhcpv4.Modifier { return raw(dhcpv4.OptionClasslessStaticRoute, b...) }
	for what, c := range map[string]struct {
		change  dhcpv4.Modifier
		gateway string
		routes  []Route
		note    string
	}{
		"its default":            {classless(0, 10, 0, 2, 9, 24, 192, 168, 7, 10, 0, 2, 7), "10.0.2.9", []Route{route("192.168.7.0/24", "10.0.2.7")}, ""},
		"no default, no gateway": {classless(24, 192, 168, 7, 10, 0, 2, 7), "", []Route{route("192.168.7.0/24", "10.0.2.7")}, ""},
		"damaged":                {classless(24, 192, 168), "10.0.2.2", nil, "classless routes are ignored"},
		"empty":                  {classless(), "10.0.2.2", nil, ""},
		"routes for everything":  {classless(1, 0, 10, 0, 2, 7, 1, 128, 10, 0, 2, 7), "", []Route{route("0.0.0.0/1", "10.0.2.7"), route("128.0.0.0/1", "10.0.2.7")}, ""},
		"to ourselves":           {classless(0, 10, 0, 2, 9, 32, 10, 0, 2, 15, 10, 0, 2, 7), "10.0.2.9", nil, "1 routes are ignored"},
		"through ourselves":      {classless(0, 10, 0, 2, 15), "", nil, "1 routes are ignored"},
		"our own network away":   {classless(24, 10, 0, 2, 10, 0, 2, 7, 25, 10, 0, 2, 0, 10, 0, 2, 7), "", nil, "2 routes are ignored"},
		"our own network":        {classless(24, 10, 0, 2, 0, 0, 0, 0), "", nil, ""},
		"loopback":               {classless(8, 127, 10, 0, 2, 7), "", nil, "1 routes are ignored"},
		"link-local":             {classless(17, 169, 254, 0, 10, 0, 2, 7), "", nil, "1 routes are ignored"},
		"multicast":              {classless(4, 224, 10, 0, 2, 7), "", nil, "1 routes are ignored"},
		"through multicast":      {classless(8, 11, 224, 0, 0, 1), "", nil, "1 routes are ignored"},
		"twice the same":         {classless(8, 11, 10, 0, 2, 7, 8, 11, 10, 0, 2, 8), "", []Route{route("11.0.0.0/8", "10.0.2.7")}, ""},
	} {
		t.Run(what, func(t *testing.T) {
			l, notes := notesOf(t, c.change)
			gateway := ""
			if l.Gateway.IsValid() {
				gateway = l.Gateway.String()
			}
			if gateway != c.gateway || !reflect.DeepEqual(l.Routes, c.routes) {
				t.Errorf("gateway %v, routes %v", gateway, l.Routes)
			}
			if !strings.Contains(notes, c.note) || c.note == "" && notes != "" {
				t.Errorf("notes %q, want %q", notes, c.note)
			}
		})
	}
	t.Run("a thousand", func(t *testing.T) {
		var b []byte
		for i := range 1000 {
			b = append(b, 24, 20, byte(i>>8), byte(i), 10, 0, 2, 7)
		}
		l, notes := notesOf(t, classless(b...))
		if len(l.Routes) != maxRoutes || !strings.Contains(notes, fmt.Sprint(1000-maxRoutes)) {
			t.Errorf("%d routes, notes %q", len(l.Routes), notes)
		}
	})
	t.Run("one host and its router", func(t *testing.T) { // as clouds do
		l, notes := notesOf(t, raw(dhcpv4.OptionSubnetMask, 255, 255, 255, 255), classless(32, 10, 0, 0, 1, 0, 0, 0, 0, 0, 10, 0, 0, 1))
		if l.Gateway.String() != "10.0.0.1" || !reflect.DeepEqual(l.Routes, []Route{route("10.0.0.1/32", "")}) || notes != "" {
			t.Errorf("%+v, notes %q", l, notes)
		}
	})
}

func TestParsesSearchLists(t *testing.T) {
	const org = "\x07example\x03org\x00"
	long := strings.Repeat("\x3f"+strings.Repeat("a", 63), 4) + "\x00"
	for in, want := range map[string][]string{
		org:                                {"example.org"},
		org + "\x03eng\xc0\x00":            {"example.org", "eng.example.org"},
		org + "\x01a\xc0\x00\x01b\xc0\x0d": {"example.org", "a.example.org", "b.a.example.org"},
		"\x00":                             nil,
	} {
		got, err := parseSearch([]byte(in))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %q, %v, want %q", in, got, err, want)
		}
	}
	for in, want := range map[string]string{
		"\x07exam":                "too long",
		"\x03org":                 "cut off",
		"\x03org\xc0":             "cut off",
		"\xc0\x00":                "lead back",
		"\x01a\xc0\x02":           "lead back",
		"\x01a\xc0\x00\x00":       "lead back",
		"\x41a\x00":               "too long",
		"\x03a\nb\x00":            "is none",
		"\x01.\x00":               "is none",
		long:                      "too long",
		org + "\x01a\xc0\xff\x00": "lead back",
	} {
		if got, err := parseSearch([]byte(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %q, %v, want an error with %q", in, got, err, want)
		}
	}
}

func TestReadsNamesAndServersOfTheNetwork(t *testing.T) {
	str := func(code dhcpv4.OptionCode, s string) dhcpv4.Modifier { return raw(code, []byte(s)...) }
	for what, c := range map[string]struct {
		change dhcpv4.Modifier
		ok     func(*Lease) bool
		note   string
	}{
		"domain":              {str(dhcpv4.OptionDomainName, "example.org"), func(l *Lease) bool { return l.Domain == "example.org" }, ""},
		"domain with ends":    {str(dhcpv4.OptionDomainName, "example.org.\x00"), func(l *Lease) bool { return l.Domain == "example.org" }, ""},
		"domain with a line":  {str(dhcpv4.OptionDomainName, "a\nnameserver 6.6.6.6"), func(l *Lease) bool { return l.Domain == "" }, "domain"},
		"domain too long":     {str(dhcpv4.OptionDomainName, strings.Repeat("a.", 200)), func(l *Lease) bool { return l.Domain == "" }, "domain"},
		"search":              {str(dhcpv4.OptionDNSDomainSearchList, "\x01a\x00\x01b\xc0\x00"), func(l *Lease) bool { return reflect.DeepEqual(l.Search, []string{"a", "b.a"}) }, ""},
		"search damaged":      {str(dhcpv4.OptionDNSDomainSearchList, "\x01a\xc0\x00"), func(l *Lease) bool { return l.Search == nil }, "search list"},
		"search without end":  {str(dhcpv4.OptionDNSDomainSearchList, strings.Repeat("\x01a\x00", 500)), func(l *Lease) bool { return len(l.Search) == maxSearch }, ""},
		"our own name back":   {str(dhcpv4.OptionHostName, "CloudLink"), func(l *Lease) bool { return l.Hostname == "" }, ""},
		"and with its domain": {str(dhcpv4.OptionHostName, "cloudlink.example.org"), func(l *Lease) bool { return l.Hostname == "" }, ""},
		"another name for us": {str(dhcpv4.OptionHostName, "door-3"), func(l *Lease) bool { return l.Hostname == "door-3" }, ""},
		"a name that is none": {str(dhcpv4.OptionHostName, "a b; reboot"), func(l *Lease) bool { return l.Hostname == "" }, ""},
		"NTP":                 {raw(dhcpv4.OptionNTPServers, 10, 0, 2, 4, 0, 0, 0, 0, 10, 0, 2, 4), func(l *Lease) bool { return len(l.NTP) == 1 && l.NTP[0].String() == "10.0.2.4" }, ""},
		"NTP without end":     {raw(dhcpv4.OptionNTPServers, many(300)...), func(l *Lease) bool { return len(l.NTP) == maxNTP }, ""},
		"MTU":                 {raw(dhcpv4.OptionInterfaceMTU, 5, 0), func(l *Lease) bool { return l.MTU == 1280 }, ""},
		"MTU least":           {raw(dhcpv4.OptionInterfaceMTU, 2, 64), func(l *Lease) bool { return l.MTU == 576 }, ""},
		"MTU too small":       {raw(dhcpv4.OptionInterfaceMTU, 2, 63), func(l *Lease) bool { return l.MTU == 0 }, "MTU 575"},
		"MTU too large":       {raw(dhcpv4.OptionInterfaceMTU, 5, 221), func(l *Lease) bool { return l.MTU == 0 }, "MTU 1501"},
		"MTU cut off":         {raw(dhcpv4.OptionInterfaceMTU, 5), func(l *Lease) bool { return l.MTU == 0 }, "MTU"},
		"gateway off link":    {raw(dhcpv4.OptionRouter, 192, 0, 2, 1), func(l *Lease) bool { return l.Gateway.String() == "192.0.2.1" }, "outside"},
		"lease of 0 s":        {seconds32(dhcpv4.OptionIPAddressLeaseTime, 0), func(l *Lease) bool { return l.Expires.Equal(sent.Add(minTime)) }, "taken for 20s"},
	} {
		t.Run(what, func(t *testing.T) {
			l, notes := notesOf(t, c.change)
			if !c.ok(l) {
				t.Errorf("lease is %+v", l)
			}
			if !strings.Contains(notes, c.note) || c.note == "" && notes != "" || len(notes) > 500 {
				t.Errorf("notes %q, want %q", notes, c.note)
			}
		})
	}
}

func TestRefusesTheAddressOfAnotherPort(t *testing.T) {
	own := terms{ours: func(a netip.Addr) bool { return a.String() == "10.0.2.15" }}
	if l, _, err := own.read(ack(), nil, sent); err == nil || !strings.Contains(err.Error(), "another of our ports") {
		t.Errorf("got %+v, %v", l, err)
	}
}

// FuzzOptions: what we parse ourselves ends, and lets nothing through that files of others must not have.
func FuzzOptions(f *testing.F) {
	f.Add([]byte("\x07example\x03org\x00\x03eng\xc0\x00"))
	f.Add([]byte{0, 10, 0, 2, 9, 24, 192, 168, 7, 10, 0, 2, 7})
	f.Add([]byte("\xc0\x00"))
	f.Add([]byte("a.b\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		clean := func(name string) {
			for l := range strings.SplitSeq(name, ".") {
				if !label(l) {
					t.Errorf("%q has label %q", name, l)
				}
			}
			if len(name) > maxName {
				t.Errorf("name of %d bytes", len(name))
			}
		}
		if names, err := parseSearch(b); err == nil {
			for _, n := range names {
				clean(n)
			}
		} else if len(err.Error()) > 400 {
			t.Errorf("error of %d bytes", len(err.Error()))
		}
		if n, ok := domain(b); ok {
			clean(n)
		}
		if routes, err := parseRoutes(b); err == nil {
			for _, r := range routes {
				if r.To != r.To.Masked() {
					t.Errorf("route to %v", r.To)
				}
			}
			l := &Lease{Prefix: netip.MustParsePrefix("10.0.2.15/24")}
			l.setRoutes(routes, func(string, ...any) {})
			if len(l.Routes) > maxRoutes || l.Gateway == l.Addr() {
				t.Errorf("%d routes, gateway %v", len(l.Routes), l.Gateway)
			}
		}
	})
}
