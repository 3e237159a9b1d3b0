package console

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"cloudlink.local/gateway/internal/condition"
	"cloudlink.local/gateway/internal/machine"
	"cloudlink.local/gateway/internal/network"
	"cloudlink.local/gateway/internal/release"
	"cloudlink.local/gateway/internal/update"
)

var renew = flag.Bool("update", false, "write testdata anew")

// sample is a gateway in good health.
func sample() View {
	return View{
		Machine: &machine.Status{
			Release: release.Release{
				Product: release.Product, Board: "qemu-virt", Version: "0.1.0", Keys: release.Production,
			},
			Serial: "CL-00042", Slot: "a", UptimeSeconds: 185.5,
			Services: []machine.Service{
				{Name: "network", State: machine.Running}, {Name: "portal", State: machine.Running},
				{Name: "console", State: machine.Running},
			},
		},
		Network: &network.Status{Ports: []network.Port{{
			Name: "eth0", MAC: "52:54:00:12:34:56", Link: true, SpeedMbps: 1000,
			Addresses: []network.Address{
				{Prefix: netip.MustParsePrefix("10.0.2.15/24"), Source: network.DHCP, ValidSeconds: 86000},
				{Prefix: netip.MustParsePrefix("fec0::5054:ff:fe12:3456/64"), Source: network.Kernel, ValidSeconds: 600},
				{Prefix: netip.MustParsePrefix("fe80::5054:ff:fe12:3456/64"), Source: network.Kernel},
			},
			Gateway: netip.MustParseAddr("10.0.2.2"),
			DNS:     []netip.Addr{netip.MustParseAddr("10.0.2.3")},
		}}},
	}
}

func views() map[string]View {
	starting := sample()
	starting.Network = nil
	starting.Machine.Services[0].State = machine.Starting

	searching := sample()
	searching.Network.Ports[0].Addresses = searching.Network.Ports[0].Addresses[2:]
	searching.Network.Ports[0].SearchingSeconds = 30
	searching.Machine.Release.Keys = release.Development
	searching.Machine.Conditions = []condition.Condition{condition.New(condition.DevelopmentKeys)}

	trouble := sample()
	trouble.Machine.UptimeSeconds = 3*24*3600 + 5
	trouble.Machine.Slot, trouble.Machine.Serial = "", ""
	trouble.Machine.Services[1] = machine.Service{Name: "portal", State: machine.Waiting, Restarts: 7, LastExit: "exit status 2"}
	trouble.Machine.Services[2] = machine.Service{Name: "console", State: machine.Starting, Restarts: 1, LastExit: "signal: killed"}
	trouble.Machine.Conditions = []condition.Condition{
		condition.New(condition.DataReplaced), condition.New(condition.ServiceFailing, "service", "portal"),
		condition.New(condition.FellBack, "wanted", "b", "booted", "a"), condition.New(condition.BootEnvRepaired),
	}
	trouble.Network.Ports[0].Link = false
	trouble.Network.Ports[0].Addresses = nil
	trouble.Network.Ports = append(trouble.Network.Ports, network.Port{
		Name: "eth1", MAC: "52:54:00:12:34:57", Link: true,
		Addresses: []network.Address{{Prefix: netip.MustParsePrefix("2001:db8::1/64"), Source: network.Kernel}},
	})

	hostile := sample()
	hostile.Machine.Release.Version = "1\x1b[2J\r\n\x07" + strings.Repeat("9", 200)
	hostile.Machine.Release.Board = "\u202eboard\u0085"
	hostile.Machine.Serial = strings.Repeat("a b", 1000)
	hostile.Machine.Slot = "a\x1b]0;x\x07"
	hostile.Machine.Services[0] = machine.Service{Name: "\xff\xfe", State: machine.Stopped, LastExit: "\x1bc", Restarts: 1 << 40}
	hostile.Machine.Conditions = []condition.Condition{
		condition.New(condition.ServiceFailing, "service", strings.Repeat("x\x1b[31m", 500)), {ID: "no such"},
	}
	hostile.Network.Ports[0].Name = "\x9b2J" + strings.Repeat("W", 300)

	return map[string]View{
		"healthy": sample(), "silence": {}, "starting": starting, "searching": searching, "trouble": trouble,
		"hostile": hostile, "no-port": {Machine: sample().Machine, Network: &network.Status{}},
	}
}

// TestScreensReadWell compares with the screens in testdata, which people have looked at.
func TestScreensReadWell(t *testing.T) {
	for name, v := range views() {
		for _, lang := range []string{"en", "de"} {
			t.Run(name+"-"+lang, func(t *testing.T) { golden(t, name+"-"+lang, Screen(v, lang)) })
		}
	}
}

func TestAddressPagesReadWell(t *testing.T) {
	for _, name := range []string{"healthy", "trouble", "silence", "no-port", "hostile"} {
		for _, lang := range []string{"en", "de"} {
			t.Run(name+"-"+lang, func(t *testing.T) {
				golden(t, "addresses-"+name+"-"+lang, addressPage(views()[name], languageOf(lang)))
			})
		}
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	fits(t, got)
	path := filepath.Join("testdata", name+".txt")
	if *renew {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; go test -update writes it", err)
	}
	if got != string(want) {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// fits checks that text cannot upset a terminal of 80 columns.
func fits(t *testing.T, text string) {
	t.Helper()
	if !strings.HasSuffix(text, "\n") {
		t.Errorf("the last line does not end: %q", text)
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if n := utf8.RuneCountInString(line); n > width {
			t.Errorf("line of %d columns: %q", n, line)
		}
		if strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) || !utf8.ValidString(line) {
			t.Errorf("line that a terminal may obey: %q", line)
		}
	}
}

func TestTheURLHasALineOfItsOwn(t *testing.T) {
	if s := Screen(sample(), "en"); !strings.Contains(s, "\n  Page      http://10.0.2.15/\n") {
		t.Error(s)
	}
}

func TestAPortsLineHasItsMostUsefulAddresses(t *testing.T) {
	for _, c := range []struct{ addresses, want string }{
		{"10.0.2.15/24 fec0::1/64 fe80::1/64", ": 10.0.2.15/24"},
		{"fe80::1/64 fec0::1/64 2001:db8::1/64 fd00::1/64", ": 2001:db8::1/64, fd00::1/64"},
		{"169.254.1.2/16 fe80::1/64", ": 169.254.1.2/16"},
		{"fec0::1/64 fe80::1/64", ": fec0::1/64"},
		{"fe80::1/64", ": fe80::1/64"},
		{"", ""},
	} {
		p := network.Port{Name: "eth0", Link: true}
		for a := range strings.FieldsSeq(c.addresses) {
			p.Addresses = append(p.Addresses, network.Address{Prefix: netip.MustParsePrefix(a)})
		}
		if got := portLine(p, false, &english); got != "eth0, connected"+c.want {
			t.Errorf("%s: %q", c.addresses, got)
		}
	}
}

func TestLabelsFitTheirColumn(t *testing.T) {
	for _, l := range []*language{&english, &german} {
		for _, label := range []string{l.page, l.port, l.serial, l.uptime, l.service, l.machine,
			l.severity[condition.Error], l.severity[condition.Warning], l.severity[condition.Info]} {
			if n := utf8.RuneCountInString(label); n == 0 || n > labelWidth {
				t.Errorf("%s: label %q has %d columns", l.code, label, n)
			}
		}
	}
}

func TestBothLanguagesAreWhole(t *testing.T) {
	blank := func(l *language) []string { return strings.Split(fmt.Sprintf("%q", fmt.Sprintf("%#v", *l)), `""`) }
	for _, l := range []*language{&english, &german} {
		if parts := blank(l); len(parts) > 1 {
			t.Errorf("%s: a text is missing after %.200s", l.code, parts[0])
		}
		for _, s := range []network.Source{network.DHCP, network.DHCP6, network.Static, network.LinkLocal, network.Kernel, network.Manual} {
			if l.sources[string(s)] == "" {
				t.Errorf("%s: no word for source %s", l.code, s)
			}
		}
	}
}

func TestDurationsAreInWords(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0 seconds", time.Second: "1 second", 59 * time.Second: "59 seconds", 60 * time.Second: "1 minute",
		119 * time.Minute: "1 hour", 47 * time.Hour: "1 day", 1000 * time.Hour: "41 days",
	} {
		if got := span(d, &english); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
}

func TestLogLinesAreFoldedAndHarmless(t *testing.T) {
	at := time.Date(2026, 11, 22, 3, 4, 5, 0, time.UTC)
	for _, e := range []machine.Entry{
		{Time: at, Source: "network", Level: machine.LevelInfo, Text: "address 10.0.2.15/24, gateway 10.0.2.2"},
		{Time: at, Source: "kernel", Level: machine.LevelError, Text: strings.Repeat("word ", 60)},
		{Time: at, Source: strings.Repeat("x", 500), Level: machine.LevelWarn, Text: strings.Repeat("y", 5000)},
		{Source: "\x1b[2J", Text: "\x1b[31m\xff\u202e\r"},
		{Source: "Û31m", Text: "\u009b31m Û31m ß0;x"},
		{},
	} {
		fits(t, entryLine(e))
	}
	if got := entryLine(machine.Entry{Time: at, Source: "portal", Level: machine.LevelWarn, Text: "a word"}); got != "03:04:05 W portal: a word\n" {
		t.Errorf("got %q", got)
	}
}

// A service may write what it likes: a terminal shows it and does not obey it, not even one that
// knows no UTF-8 and takes the byte 0x9B for ESC [.
func TestEscapeSequencesInTheLogAreShownNotObeyed(t *testing.T) {
	for text, want := range map[string]string{
		`\x1b[2Jgone`:             `\x1b[2Jgone`, // as process 1 hands it on
		"\x1b[2J\x1b]0;title\x07": "?[2J?]0;title?",
		"\u009b31m":               "?31m",
		"Û31m \u01d0x":            "?31m ?x",
		"grüne Wörter":            "grüne Wörter",
		"\u202eright to left":     "?right to left",
		"\r\n\x08\x05":            "????",
	} {
		got := entryLine(machine.Entry{Source: "portal", Level: machine.LevelInfo, Text: text})
		if got != "00:00:00   portal: "+want+"\n" {
			t.Errorf("%q is shown as %q, want %q", text, got, want)
		}
		for _, b := range []byte(got) {
			if b < ' ' && b != '\n' || b == 0x7f || b >= 0x90 && b <= 0x9f {
				t.Errorf("%q is sent with a byte %#x", text, b)
			}
		}
	}
}

// FuzzScreen: whatever the services say of themselves, a screen stays a screen.
func FuzzScreen(f *testing.F) {
	f.Add("0.1.0", "eth0", "exit status 1", "portal", int64(3), 60.5)
	f.Add("\x1b[2J", "\x9b", strings.Repeat("long ", 99), "\xff", int64(-1), -1e300)
	f.Fuzz(func(t *testing.T, version, port, exit, name string, n int64, uptime float64) {
		v := sample()
		v.Machine.Release.Version, v.Machine.Release.Board, v.Machine.Slot, v.Machine.Serial = version, name, exit, port
		v.Machine.UptimeSeconds = uptime
		v.Machine.Services = append(v.Machine.Services, machine.Service{Name: name, State: machine.Waiting, LastExit: exit, Restarts: int(n)})
		v.Machine.Conditions = []condition.Condition{condition.New(condition.ServiceFailing, "service", name), {ID: condition.ID(exit)}}
		v.Network.Ports[0].Name, v.Network.Ports[0].MAC, v.Network.Ports[0].SpeedMbps = port, version, int(n)
		v.Network.Ports[0].Addresses[0].ValidSeconds = n
		v.Network.Ports[0].Addresses[1].Source = network.Source(name)
		for _, lang := range []string{"en", "de", exit} {
			fits(t, Screen(v, lang))
			fits(t, addressPage(v, languageOf(lang)))
		}
		fits(t, entryLine(machine.Entry{Source: name, Text: exit, Level: machine.Level(n)}))
	})
}

func TestD6_ConditionsOfUpdatesAreOnTheScreen(t *testing.T) {
	v := sample()
	v.Update = &update.Status{State: update.Downloading}
	if list := conditions(v); len(list) == 0 || list[0].ID != condition.UpdateRunning {
		t.Errorf("%+v", list)
	}
}
