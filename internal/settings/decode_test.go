package settings

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// wrong are texts that Decode refuses, with all that it says.
var wrong = []struct {
	text string
	want string
}{
	{``, " not-json"},
	{"{\n\"version\":1,\n}", " not-json"},
	{`{"version":1} {}`, " not-json"},
	{`[]`, " not-object"},
	{`null`, " not-object"},
	{strings.Repeat(" ", maxSize) + `{}`, " too-large"},
	{`{}`, "version bad-version"},
	{`{"version":"1"}`, "version bad-version"},
	{`{"version":0}`, "version bad-version"},
	{`{"version":2}`, "version bad-version"},
	{`{"version":1.5}`, "version bad-version"},
	{`{"version":1,"Network":{}}`, "Network unknown-key"},
	{`{"version":1,"network":{"wan":{"VLAN":1,"vlan":"1","zz":{"a":1}}}}`,
		"network.wan.vlan not-number, network.wan.VLAN unknown-key, network.wan.zz unknown-key"},
	{`{"version":1,"network":{"dmz\u001b":{}}}`, "network.dmz\ufffd unknown-key"},
	{`{"version":1,"version":1}`, "version duplicate-key"},
	{`{"version":1,"network":{"lan":{"mtu":1400,"dns":[],"mtu":1500}}}`, "network.lan.mtu duplicate-key"},
	{`{"version":1,"x":[{"a":{"b":1,"b":2}}]}`, "x[0].a.b duplicate-key"},
	{`{"version":1,"network":` + strings.Repeat("[", 17) + strings.Repeat("]", 17) + `}`,
		"network" + strings.Repeat("[0]", 16) + " too-deep"},
	{`{"version":1,"network":[]}`, "network not-object"},
	{`{"version":1,"network":null,"clock":"x"}`, "network not-object, clock not-object"},
	{`{"version":1,"network":{"wan":{"dns":null,"routes":{}}}}`, "network.wan.dns not-list, network.wan.routes not-list"},
	{`{"version":1,"clock":{"servers":["a",1,null]}}`, "clock.servers[1] not-text, clock.servers[2] not-text"},
	{`{"version":1,"names":{"host":7,"on_wan":"yes"}}`, "names.host not-text, names.on_wan not-bool"},
	{`{"version":1,"network":{"wan":{"mtu":1e3,"vlan":99999999999999999999}}}`, "network.wan.vlan not-number, network.wan.mtu not-number"},
	{`{"version":1,"network":{"wan":{"ipv4":{"method":true,"router":1,"addresses":[2]}}}}`,
		"network.wan.ipv4.method not-text, network.wan.ipv4.addresses[0] not-text, network.wan.ipv4.router not-text"},
	{`{"version":1,"network":{"wan":{"dns":["dns.example","192.0.2.01"," 192.0.2.1"]}}}`,
		"network.wan.dns[0] not-address, network.wan.dns[1] not-address, network.wan.dns[2] not-address"},
	{`{"version":1,"network":{"wan":{"dns":["192.0.2.1/24"]}}}`, "network.wan.dns[0] needless-length"},
	{`{"version":1,"network":{"wan":{"ipv4":{"addresses":["192.0.2.1","192.0.2.1/255.255.255.240","192.0.2.1/255.0.255.0","192.0.2.1/33","x/24","2001:db8::1%eth0"]}}}}`,
		"network.wan.ipv4.addresses[0] no-length, network.wan.ipv4.addresses[1] length-as-mask, network.wan.ipv4.addresses[2] not-subnet, " +
			"network.wan.ipv4.addresses[3] not-subnet, network.wan.ipv4.addresses[4] not-subnet, network.wan.ipv4.addresses[5] no-length"},
	{`{"version":1,"network":{"lan":{"routes":[{"destination":"10.0.0.0","via":"x"},[]]}}}`,
		"network.lan.routes[0].destination no-length, network.lan.routes[0].via unknown-key, network.lan.routes[1] not-object"},
}

// list returns paths and codes of err, an Errors.
func summary(t *testing.T, err error) string {
	t.Helper()
	if err == nil {
		return ""
	}
	errs, ok := errors.AsType[Errors](err)
	if !ok {
		t.Fatalf("not Errors: %v", err)
	}
	complete(t, errs)
	var list []string
	for _, e := range errs {
		list = append(list, e.Path+" "+string(e.Code))
	}
	return strings.Join(list, ", ")
}

func TestDecodeRefusesWithTheFieldsPath(t *testing.T) {
	for _, c := range wrong {
		s, err := Decode([]byte(c.text))
		if got := summary(t, err); got != c.want {
			t.Errorf("%.200s\n got %s\nwant %s", c.text, got, c.want)
		}
		if !reflect.DeepEqual(s, Settings{}) {
			t.Errorf("%.200s: settings beside the error", c.text)
		}
	}
}

func TestDecodeSaysWhatToWriteInstead(t *testing.T) {
	_, err := Decode([]byte(`{"version":1,"network":{"wan":{"dns":["192.0.2.1/24"],"ipv4":{"addresses":["192.0.2.7","192.0.2.7/255.255.255.240","fd00::7"]}}}}`))
	want := `network.wan.ipv4.addresses[0]: “192.0.2.7” lacks the length of the subnet: write for example 192.0.2.7/24
network.wan.ipv4.addresses[1]: “192.0.2.7/255.255.255.240” has the subnet mask where the length of the subnet belongs: write 192.0.2.7/28
network.wan.ipv4.addresses[2]: “fd00::7” lacks the length of the subnet: write for example fd00::7/64
network.wan.dns[0]: “192.0.2.1/24” has the length of a subnet, which does not belong here: write 192.0.2.1`
	if fmt.Sprint(err) != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	if _, err := Decode([]byte("{\n\n  oops")); fmt.Sprint(err) != "settings: this is not JSON from line 3 on: correct the text there" {
		t.Errorf("%v", err)
	}
}

func TestDecodeReadsWhatIsWritten(t *testing.T) {
	for _, s := range []Settings{Default(), full()} {
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decode(b)
		if err != nil || !reflect.DeepEqual(got, s.Clone()) {
			t.Errorf("%s\nbecame\n%+v %v", b, got, err)
		}
		n, err := json.Marshal(s.Network)
		if err != nil {
			t.Fatal(err)
		}
		network, err := DecodeNetwork(n)
		if err != nil || !network.Equal(s.Network) {
			t.Errorf("%s\nbecame\n%+v %v", n, network, err)
		}
	}
	if err := full().Check(); err != nil {
		t.Errorf("the test's own settings: %v", err)
	}
}

func TestWhatIsLeftOutHasItsDefault(t *testing.T) {
	got, err := Decode([]byte(`{"version":1,"network":{"lan":{"mtu":1400}}}`))
	want := Default()
	want.Network.LAN.MTU = 1400
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v %v", got, err)
	}
	if n, err := DecodeNetwork([]byte(`{"lan":{"mtu":1400}}`)); err != nil || !n.Equal(want.Network) {
		t.Errorf("%+v %v", n, err)
	}
}

func TestDecodeNetworkNamesThePathInTheSettings(t *testing.T) {
	for text, want := range map[string]string{
		`{`:                        "network not-json",
		`[]`:                       "network not-object",
		`{"wan":{"ipv4":{"x":1}}}`: "network.wan.ipv4.x unknown-key",
		`{"wan":{},"wan":{}}`:      "network.wan duplicate-key",
	} {
		_, err := DecodeNetwork([]byte(text))
		if got := summary(t, err); got != want {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
	}
}

func TestWhatHostileTextCostsIsBounded(t *testing.T) {
	keys := []byte(`{"version":1`)
	for i := range maxValues - 2 {
		keys = fmt.Appendf(keys, `,"k%d":0`, i)
	}
	keys = append(keys, '}')
	_, err := Decode(keys)
	if errs, _ := errors.AsType[Errors](err); len(errs) != maxErrors || errs[0].Code != UnknownKey {
		t.Errorf("%d mistakes: %v", len(errs), err)
	}
	for name, text := range map[string]string{
		"long key":     `{"version":1,"` + strings.Repeat("k", maxSize-20) + `":0}`,
		"long text":    `{"version":1,"clock":{"servers":["` + strings.Repeat("k", maxSize-50) + `"]}}`,
		"many entries": `{"version":1,"clock":{"servers":[` + strings.Repeat("0,", maxSize/2-50) + `0]}}`,
		"many lists":   `{"version":1,"x":[` + strings.Repeat("[],", maxSize/3-50) + `0]}`,
		"deep lists":   strings.Repeat("[", maxSize/2) + strings.Repeat("]", maxSize/2),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _, _, err := current.load([]byte(text))
		runtime.ReadMemStats(&after)
		if size := after.TotalAlloc - before.TotalAlloc; size > 24*maxSize {
			t.Errorf("%s: %d bytes", name, size)
		}
		if n := len(fmt.Sprint(err)); err == nil || n > 1000 {
			t.Errorf("%s: a text of %d bytes: %v", name, n, err)
		}
	}
}

func FuzzLoad(f *testing.F) {
	b, err := json.Marshal(full())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	for _, c := range wrong {
		if len(c.text) < 1000 {
			f.Add([]byte(c.text))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, version, notes, err := current.load(b)
		said := slices.Clone(notes)
		if errs, ok := errors.AsType[Errors](err); ok {
			said = append(said, errs...)
		}
		complete(t, said)
		for _, e := range said {
			for _, word := range append(slices.Collect(maps.Values(e.Args)), e.Path) {
				if len(word) > 2000 || strings.ContainsFunc(word, func(r rune) bool { return !unicode.IsPrint(r) && r != utf8.RuneError }) {
					t.Errorf("%s %s: %q", e.Path, e.Code, word)
				}
			}
		}
		if err != nil {
			return
		}
		if err := s.Check(); err != nil {
			t.Errorf("loaded, but not valid: %v", err)
		}
		if version == Version && len(notes) > 0 {
			t.Errorf("of our version, and changed: %v", notes)
		}
		again, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decode(again)
		if err != nil || !reflect.DeepEqual(got, s) {
			t.Errorf("%s\nread again: %v\n%+v\n%+v", again, err, got, s)
		}
		if !got.Network.Equal(s.Network) {
			t.Errorf("not Equal: %+v", s.Network)
		}
	})
}

// Whoever mistyped two fields is told of both, but not of what follows from the other mistake.
func TestMistakesOfFormAndOfValueAreToldTogether(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{`{"wan":{"vlan":"x","mtu":9,"ipv4":{"method":"static"}},"lan":{"dns":["127.0.0.1"]}}`,
			"network.wan.vlan not-number, network.wan.ipv4.addresses addresses-missing, network.wan.mtu mtu-range, network.lan.dns[0] loopback"},
		{`{"wan":{"ipv4":{"method":"static","addresses":["192.0.2.1","10.0.0.1/24"],"router":"192.0.2.254"}}}`, "network.wan.ipv4.addresses[0] no-length"},
		{`{"wan":{"ipv4":{"method":7,"addresses":["192.0.2.1/24"],"router":"192.0.2.254"},"vlan":5000}}`, "network.wan.ipv4.method not-text, network.wan.vlan vlan-range"},
		{`{"wan":{"ipv4":{"method":"static","addresses":["192.0.2.1/24"]},"vlan":"7"},"lan":{"ipv4":{"method":"static","addresses":["192.0.2.2/24"]}}}`, "network.wan.vlan not-number"},
		{`{"settings":{"wan":{}},"ports":[]}`, "network.settings wrapped"},
	} {
		_, err := DecodeNetwork([]byte(c.text))
		got, _ := errors.AsType[Errors](err)
		complete(t, got)
		wanted := strings.Split(c.want, ", ")
		var told []string
		for _, e := range got {
			told = append(told, e.Path+" "+string(e.Code))
		}
		slices.Sort(wanted)
		slices.Sort(told)
		if !slices.Equal(told, wanted) {
			t.Errorf("%s:\n got %q\nwant %q", c.text, told, wanted)
		}
	}
}

func TestAMaskAfterASpaceIsUnderstood(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.2.20 255.255.255.0": "Write 10.0.2.20/24.",
		"10.0.2.20/255.255.255.0": "Write 10.0.2.20/24.",
		"10.0.0.0  255.0.0.0":     "Write 10.0.0.0/8.",
		"10.0.2.20":               "Write for example 10.0.2.20/24.",
		"255.255.255.0":           "Enter one like 192.168.1.10/24 or 2001:db8::10/64.",
		"10.0.2.20 255.0.255.0":   "Enter one like 192.168.1.10/24 or 2001:db8::10/64.",
		"2001:db8::1 255.255.0.0": "Enter one like 192.168.1.10/24 or 2001:db8::10/64.",
	} {
		var errs Errors
		if _, ok := parsePrefix(&errs, "x", text); ok || errs[0].Text("en").Cure != want {
			t.Errorf("%s: %v", text, errs)
		}
	}
}

func TestM21_ExampleOfANameWritesUmlautsAsGermanDoes(t *testing.T) {
	for host, want := range map[string]string{"ümlaut": "uemlaut", "Größe": "groesse", "Büro.local": "buero", "Ä": "ae"} {
		s := Default()
		s.Names.Host = host
		if e, ok := errors.AsType[*FieldError](s.Check()); !ok || e.Args["example"] != want {
			t.Errorf("%s: %v", host, e)
		}
	}
}
