package network

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"cloudlink.local/gateway/internal/condition"
	"cloudlink.local/gateway/internal/diary"
	"cloudlink.local/gateway/internal/mdns"
)

const (
	shortName  = "cloudlink.local"
	serialName = "cloudlink-4711af.local"
	instance   = "CloudLink Gateway (11AF)._http._tcp.local"
)

// namesOn are the names on eth0, all announced but for the changes.
func namesOn(changes ...Name) Names {
	p := PortNames{Port: "eth0"}
	for _, name := range []string{shortName, serialName, instance} {
		n := Name{Name: name, State: mdns.Announced}
		for _, c := range changes {
			if c.Name == name {
				n = c
			}
		}
		p.Names = append(p.Names, n)
		for _, c := range changes {
			if c.Instead == name {
				p.Names = append(p.Names, c)
			}
		}
	}
	p.Reachable = p.reachable(shortName, serialName)
	return Names{Host: shortName, Unique: serialName, Ports: []PortNames{p}}
}

var thief = &Rival{Address: netip.MustParseAddr("192.0.2.66"), MAC: "02:00:00:00:00:66"}

func TestTheDiaryTellsOfEachNameThatIsLost(t *testing.T) {
	d := diary.Open(diary.Config{
		Dir: t.TempDir(), Boottime: func() time.Duration { return 0 }, Clock: func() string { return "" },
	})
	s := &service{diary: d}
	var told []string
	tell := func(n Names, want ...string) {
		t.Helper()
		s.tellNames(n)
		told = append(told, want...)
		var got []string
		for _, e := range d.List(0, 0) {
			got = append(got, strings.TrimSpace(string(e.Kind)+" "+e.Args["name"]+" "+e.Args["address"]))
		}
		if !reflect.DeepEqual(got, told) {
			t.Errorf("the diary says %q, want %q", got, told)
		}
	}
	tell(namesOn())
	lost := Name{Name: serialName, State: mdns.Lost, Rival: thief}
	tell(namesOn(lost, Name{Name: "cloudlink-4711af-2.local", State: mdns.Probing, Instead: serialName, Rival: thief}),
		"name-lost "+serialName+" 192.0.2.66")
	tell(namesOn(lost, Name{Name: "cloudlink-4711af-2.local", State: mdns.Announced, Instead: serialName, Rival: thief}))
	tell(namesOn(lost, Name{Name: instance, State: mdns.Lost, Rival: thief}), "name-lost "+instance+" 192.0.2.66")
	tell(namesOn(Name{Name: serialName, State: mdns.Probing}), "name-regained "+instance)
	tell(namesOn(), "name-regained "+serialName)
}

func TestTheOwnerIsToldWhereTheGatewayIsFoundInstead(t *testing.T) {
	ports := []Port{{Name: "eth0", Addresses: []Address{
		{Prefix: netip.MustParsePrefix("fe80::1/64")},
		{Prefix: netip.MustParsePrefix("192.0.2.9/24"), Former: true},
		{Prefix: netip.MustParsePrefix("192.0.2.1/24")},
	}}}
	lost := func(name string) Name { return Name{Name: name, State: mdns.Lost, Rival: thief} }
	number := Name{Name: "cloudlink-4711af-2.local", State: mdns.Announced, Instead: serialName, Rival: thief}
	trying := number
	trying.State = mdns.Probing
	for _, test := range []struct {
		names Names
		taken []string
		other string
	}{
		{namesOn(), nil, ""},
		{namesOn(lost(shortName)), []string{shortName}, serialName},
		{namesOn(lost(serialName), number), []string{serialName}, number.Name},
		{namesOn(lost(serialName), trying), []string{serialName}, shortName},
		{namesOn(lost(shortName), lost(serialName), trying), []string{shortName, serialName}, "192.0.2.1"},
		{namesOn(lost(instance)), []string{instance}, serialName},
	} {
		var taken []string
		for _, c := range test.names.conditions(ports) {
			taken = append(taken, c.Args["name"])
			if c.ID != condition.NameTaken || c.Args["other"] != test.other || c.Args["address"] != "192.0.2.66" {
				t.Errorf("%+v, want other %q", c, test.other)
			}
		}
		if !reflect.DeepEqual(taken, test.taken) {
			t.Errorf("told of %q, want %q", taken, test.taken)
		}
	}
	none := namesOn(lost(shortName), lost(serialName))
	none.Ports[0].Port = "eth0.5" // a VLAN
	if got := none.Ports[0].Where(ports); got != "192.0.2.1" {
		t.Errorf("found at %q", got)
	}
	if got := none.Ports[0].Where(nil); got != "–" {
		t.Errorf("found at %q", got)
	}
	if got := none.Ports[0].Where([]Port{{Name: "eth0", Addresses: ports[0].Addresses[:1]}}); got != "fe80::1" {
		t.Errorf("found at %q", got)
	}
}
