package settings

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"cloudlink.local/gateway/internal/testnet"
)

// TestMain gives the tests a mount namespace, for file systems of their own.
func TestMain(m *testing.M) { testnet.Main(m) }

func TestDefaultIsValid(t *testing.T) {
	if err := Default().Check(); err != nil {
		t.Error(err)
	}
}

// full returns settings in which every field differs from the default and every list has an entry.
func full() Settings {
	s := Default()
	s.Network.WAN = Port{
		VLAN: 7,
		MTU:  1492,
		IPv4: IPv4{Method: Static, Addresses: prefixes("192.0.2.5/24", "198.51.100.5/31"), Router: addr("192.0.2.1")},
		IPv6: IPv6{Method: Static, Addresses: prefixes("2001:db8::5/64"), Router: addr("fe80::1")},
		DNS:  []netip.Addr{addr("9.9.9.9"), addr("2620:fe::fe")},
		Routes: []Route{
			{prefix("10.0.0.0/8"), addr("192.0.2.254")},
			{prefix("2001:db8:1::/48"), addr("2001:db8::1")},
		},
	}
	s.Network.LAN = Port{
		VLAN:   4094,
		MTU:    9000,
		IPv4:   IPv4{Method: Off},
		IPv6:   IPv6{Method: Static, Addresses: prefixes("fe80::5/64", "fd00::5/64")},
		DNS:    []netip.Addr{addr("fe80::1")},
		Routes: []Route{{prefix("fd00:1::/64"), addr("fd00::1")}},
	}
	s.Clock.Servers = []string{"ntp1.example", "192.0.2.123", "2001:db8::123"}
	return s
}

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func prefixes(list ...string) []netip.Prefix {
	var p []netip.Prefix
	for _, s := range list {
		p = append(p, prefix(s))
	}
	return p
}

// fields calls visit with each plain value in v, to be changed there.
func fields(path string, v reflect.Value, visit func(path string, v reflect.Value)) {
	_, address := v.Interface().(netip.Addr)
	_, subnet := v.Interface().(netip.Prefix)
	switch {
	case v.Kind() == reflect.Struct && !address && !subnet:
		for i := range v.NumField() {
			fields(join(path, v.Type().Field(i).Tag.Get("json")), v.Field(i), visit)
		}
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			fields(entry(path, i), v.Index(i), visit)
		}
	default:
		visit(path, v)
	}
}

// change makes a plain value another one.
func change(v reflect.Value) {
	switch old := v.Interface().(type) {
	case netip.Addr:
		v.Set(reflect.ValueOf(addr("203.0.113.9")))
	case netip.Prefix:
		v.Set(reflect.ValueOf(netip.PrefixFrom(old.Addr(), old.Bits()-1)))
	default:
		switch v.Kind() {
		case reflect.String:
			v.SetString(v.String() + "x")
		case reflect.Bool:
			v.SetBool(!v.Bool())
		default:
			v.SetInt(v.Int() + 1)
		}
	}
}

func TestEqualSeesEveryField(t *testing.T) {
	base := full().Network
	other := base.Clone()
	if !base.Equal(other) {
		t.Error("a clone is not equal")
	}
	seen := 0
	fields("network", reflect.ValueOf(&other).Elem(), func(path string, v reflect.Value) {
		was := reflect.New(v.Type()).Elem()
		was.Set(v)
		change(v)
		if base.Equal(other) || other.Equal(base) || (base.WAN.Equal(other.WAN) && base.LAN.Equal(other.LAN)) {
			t.Errorf("%s makes no difference", path)
		}
		v.Set(was)
		seen++
	})
	if seen < 25 || !base.Equal(other) {
		t.Errorf("%d fields seen", seen)
	}
	other.WAN.DNS = other.WAN.DNS[:1]
	if base.WAN.Equal(other.WAN) {
		t.Error("a shorter list makes no difference")
	}
	none := Network{}
	if !none.Equal(none.Clone()) {
		t.Error("nil and empty lists differ")
	}
}

func TestCloneSharesNothing(t *testing.T) {
	want, _ := json.Marshal(full())
	s := full()
	clone := s.Clone()
	fields("", reflect.ValueOf(&clone).Elem(), func(_ string, v reflect.Value) { change(v) })
	if got, _ := json.Marshal(s); string(got) != string(want) {
		t.Errorf("changing a clone made the original\n%s\nfrom\n%s", got, want)
	}
}

func TestJSONHasNoNullAndEmptyTextForNone(t *testing.T) {
	for what, v := range map[string]any{"settings": Settings{}, "port": Port{}, "ipv4": IPv4{}, "ipv6": IPv6{}, "clock": Clock{}, "route": Route{}} {
		b, err := json.Marshal(v)
		if err != nil || strings.Contains(string(b), "null") {
			t.Errorf("%s: %s %v", what, b, err)
		}
	}
	got, err := json.Marshal(Route{})
	if want := `{"destination":"","router":""}`; string(got) != want || err != nil {
		t.Errorf("%s %v, want %s", got, err, want)
	}
	got, err = json.Marshal(Default().Network.WAN)
	if want := `{"vlan":0,"mtu":0,"ipv4":{"method":"dhcp","addresses":[],"router":""},"ipv6":{"method":"automatic","addresses":[],"router":""},"dns":[],"routes":[]}`; string(got) != want || err != nil {
		t.Errorf("%s %v, want %s", got, err, want)
	}
}
