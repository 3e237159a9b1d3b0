package settings

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// third is a format whose versions 1 and 2 this test made up: 1 called the ports eth0 and eth1 and had
// them at the top, 2 had one time server as a text.
var third = format{version: 3, migrations: []migration{
	func(s map[string]any) error {
		s["network"] = map[string]any{"wan": s["eth0"], "lan": s["eth1"]}
		delete(s, "eth0")
		delete(s, "eth1")
		return nil
	},
	func(s map[string]any) error {
		server, ok := s["ntp"].(string)
		if !ok {
			return errors.New("ntp is no text")
		}
		s["clock"] = map[string]any{"servers": []any{server}}
		delete(s, "ntp")
		return nil
	},
}}

func TestOlderSettingsAreMigratedStepByStep(t *testing.T) {
	want := Default()
	want.Network.WAN.MTU, want.Network.LAN.VLAN = 1400, 9
	want.Clock.Servers = []string{"ntp.example"}
	for version, text := range map[int]string{
		1: `{"version":1,"eth0":{"mtu":1400},"eth1":{"vlan":9},"ntp":"ntp.example"}`,
		2: `{"version":2,"network":{"wan":{"mtu":1400},"lan":{"vlan":9}},"ntp":"ntp.example"}`,
		3: `{"version":3,"network":{"wan":{"mtu":1400},"lan":{"vlan":9}},"clock":{"servers":["ntp.example"]}}`,
	} {
		got, was, notes, err := third.load([]byte(text))
		if err != nil || notes != nil || was != version || !reflect.DeepEqual(got, want) {
			t.Errorf("version %d: %+v %d %v %v", version, got, was, notes, err)
		}
	}
	for text, want := range map[string]string{
		`{"version":2,"ntp":1}`:                             "migrate settings from version 2 to 3: ntp is no text",
		`{"version":1,"eth0":{},"eth1":{},"ntp":"a","x":1}`: "x: there is no such setting: remove it or correct its name",
		`{"version":2,"ntp":"a b"}`:                         "clock.servers[0]: “a b” has a space in it: remove it; enter several servers one by one",
		`{"version":1,"ntp":"a","ntp":"b"}`:                 "ntp: this setting is given twice: remove one of the two",
	} {
		if _, _, _, err := third.load([]byte(text)); fmt.Sprint(err) != want {
			t.Errorf("%s:\n got %v\nwant %s", text, err, want)
		}
	}
}

func TestThereIsAMigrationFromEveryVersion(t *testing.T) {
	if len(current.migrations) != Version-1 {
		t.Errorf("%d migrations to version %d", len(current.migrations), Version)
	}
}

func TestOfNewerSettingsTheKnownIsTaken(t *testing.T) {
	for _, c := range []struct {
		text string
		want func(s *Settings) // differs from the default
		note string
	}{
		{`{"version":7}`, func(*Settings) {}, ""},
		{`{"version":2,"wifi":{"on":true},"network":{"wan":{"mtu":1400,"vlan":5,"speed":"1g","ipv4":{"method":"static","addresses":["192.0.2.5/24"],"router":"192.0.2.1","metric":5},"routes":[{"destination":"10.0.0.0/8","router":"192.0.2.2","metric":1}]}},"clock":{"servers":["ntp.example"]}}`,
			func(s *Settings) {
				p := &s.Network.WAN
				p.MTU, p.VLAN, p.IPv4 = 1400, 5, static("192.0.2.1", "192.0.2.5/24")
				p.Routes = []Route{{prefix("10.0.0.0/8"), addr("192.0.2.2")}}
				s.Clock.Servers = []string{"ntp.example"}
			}, ""},
		// An unknown method: the other parts of the port hold.
		{`{"version":2,"network":{"wan":{"mtu":1492,"ipv4":{"method":"pppoe","router":"192.0.2.1"},"dns":["9.9.9.9"]}}}`,
			func(s *Settings) {
				s.Network.WAN.MTU = 1492
				s.Network.WAN.DNS = append(s.Network.WAN.DNS, addr("9.9.9.9"))
			},
			"network.wan.ipv4.method unknown-method"},
		// Other types, and what no longer fits what is reset for them.
		{`{"version":2,"network":{"lan":{"vlan":[5],"mtu":99,"ipv6":{"method":"off"},"ipv4":{"method":"static","addresses":["192.0.2.5"],"router":"192.0.2.1"}},"wan":"auto"},"clock":{"servers":["a.example",{"host":"b"}]}}`,
			func(s *Settings) { s.Network.LAN.IPv6.Method = Off },
			"network.wan not-object, network.lan.vlan not-number, network.lan.ipv4.addresses[0] no-length, clock.servers[1] not-text, network.lan.mtu mtu-range"},
		{`{"version":2,"network":{"lan":{"ipv4":{"method":"off"},"ipv6":{"method":"mesh"},"routes":[{"destination":"fd00::/64","router":"fe80::1"},{"destination":"10.0.0.0/8","router":"192.0.2.1"}]}}}`,
			func(s *Settings) { s.Network.LAN.IPv4.Method = Off },
			"network.lan.ipv6.method unknown-method, network.lan.routes[1].router route-family-off"},
		{`{"version":2,"network":{"wan":{"vlan":5,"ipv4":{"method":"static","addresses":["10.0.0.5/8"]}},"lan":{"vlan":{},"ipv4":{"method":"static","addresses":["10.0.0.6/8"]}}}}`,
			func(s *Settings) {
				s.Network.WAN.VLAN, s.Network.WAN.IPv4 = 5, static("", "10.0.0.5/8")
				s.Network.LAN.IPv4 = static("", "10.0.0.6/8")
			}, "network.lan.vlan not-number"},
		{`{"version":2,"network":[],"clock":null}`, func(*Settings) {}, "network not-object, clock not-object"},
	} {
		want := Default()
		c.want(&want)
		got, version, notes, err := current.load([]byte(c.text))
		if err != nil || version < 2 || !reflect.DeepEqual(got, want.Clone()) {
			a, _ := json.Marshal(got)
			b, _ := json.Marshal(want)
			t.Errorf("%s\n got %s %d %v\nwant %s", c.text, a, version, err, b)
		}
		if len(notes) > 0 || c.note != "" {
			if got := summary(t, notes); got != c.note {
				t.Errorf("%s\n got %s\nwant %s", c.text, got, c.note)
			}
		}
	}
}

func TestNewerSettingsThatAreNoJSONAreRefused(t *testing.T) {
	for text, want := range map[string]string{
		`{"version":2`: " not-json",
		`{"version":2,"network":{"wan":{},"wan":{}}}`: "network.wan duplicate-key",
	} {
		if _, _, _, err := current.load([]byte(text)); summary(t, err) != want {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// However many parts are wrong, and through one another: what is left is valid.
func TestEveryPartCanBeRepaired(t *testing.T) {
	for _, c := range rules {
		s := Default()
		c.change(&s, &s.Network.WAN, &s.Network.LAN)
		s.Version = 2
		text, err := json.Marshal(s)
		if err != nil {
			continue // the impossible length
		}
		got, _, notes, err := current.load(text)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if err := got.Check(); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		network := slices.ContainsFunc(strings.Split(c.want, ", "), func(m string) bool { return m != "" && !strings.HasPrefix(m, "version ") })
		if network != (len(notes) > 0) {
			t.Errorf("%s: notes %v", c.name, notes)
		}
	}
}
