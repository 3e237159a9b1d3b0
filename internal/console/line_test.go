package console

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"cloudlink.local/gateway/internal/condition"
	"cloudlink.local/gateway/internal/machine"
	"cloudlink.local/gateway/internal/network"
)

// typeAll feeds text and returns the lines that came of it and what was printed.
func typeAll(e *editor, text string) (lines []string, printed string) {
	for _, b := range []byte(text) {
		echo, line, done := e.feed(b)
		printed += echo
		if done {
			lines = append(lines, line)
		}
	}
	return lines, printed
}

func TestEditsALine(t *testing.T) {
	for name, c := range map[string]struct{ typed, lines, printed string }{
		"carriage return":        {"1\r", "1", "1\n"},
		"line feed":              {"1\n", "1", "1\n"},
		"both are one":           {"1\r\n2\r\n", "1|2", "1\n2\n"},
		"two of each are two":    {"\r\r\n\n", "||", "\n\n\n"},
		"backspace":              {"12\x083\r", "13", "12\b \b3\n"},
		"delete":                 {"12\x7f3\r", "13", "12\b \b3\n"},
		"backspace at the start": {"\x08\x7f1\r", "1", "1\n"},
		"Ctrl-U":                 {"123\x154\r", "4", "123\b \b\b \b\b \b4\n"},
		"Ctrl-C":                 {"y\x03", "", "y\n"},
		"arrows":                 {"\x1b[A\x1b[1;5C1\x1bOP2\r", "12", "12\n"},
		"ESC alone":              {"\x1b1\r", "1", "1\n"},
		"ESC ESC":                {"\x1b\x1b[A1\r", "1", "1\n"},
		"broken sequence":        {"\x1b[\r", "", "\n"},
		"noise":                  {"\x00\xff\xfe\x80ü\x07\t\x111\r", "1", "1\n"},
		"too long":               {strings.Repeat("x", 5000) + "\r", strings.Repeat("x", maxLine), strings.Repeat("x", maxLine) + "\n"},
	} {
		t.Run(name, func(t *testing.T) {
			lines, printed := typeAll(&editor{}, c.typed)
			if got := strings.Join(lines, "|"); got != c.lines || printed != c.printed {
				t.Errorf("lines %q, printed %q; want %q, %q", got, printed, c.lines, c.printed)
			}
		})
	}
}

// FuzzEditor: whatever comes over the line, lines are short and printable, and what is printed
// leaves the cursor where the line ends.
func FuzzEditor(f *testing.F) {
	f.Add([]byte("1\r\n\x1b[A9\r"))
	f.Add([]byte("abc\x7f\x7f\x15\x03\n\r\x1b[\x1bO"))
	f.Add([]byte(strings.Repeat("\xff\x00y\r", 20)))
	f.Fuzz(func(t *testing.T, typed []byte) {
		e := &editor{}
		column := 0
		for _, b := range typed {
			echo, line, done := e.feed(b)
			for _, r := range echo {
				switch {
				case r == '\n':
					column = 0
				case r == '\b':
					column--
				case r < ' ' || r > '~':
					t.Fatalf("prints %q", echo)
				default:
					column++
				}
			}
			if column != len(e.line) || column > maxLine {
				t.Fatalf("cursor in column %d of a line of %d", column, len(e.line))
			}
			if len(line) > maxLine || strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Fatalf("line %q", line)
			}
			if done && len(e.line) > 0 || !done && line != "" {
				t.Fatalf("line %q, done %v, %d bytes left", line, done, len(e.line))
			}
		}
	})
}

func TestDialogueLeadsThroughTheMenu(t *testing.T) {
	for name, c := range map[string]struct {
		lines string // with commas between
		shell bool
		place place
		do    action
		says  string
	}{
		"Enter opens the menu":           {"", false, inMenu, nothing, "Menu\n  1  Addresses\n"},
		"anything opens the menu":        {"hello", false, inMenu, nothing, "Menu"},
		"Enter closes it":                {",", false, atScreen, showScreen, ""},
		"0 closes it":                    {",0", false, atScreen, showScreen, ""},
		"addresses":                      {",1", false, inMenu, showAddresses, ""},
		"log menu":                       {",2", false, inLogs, nothing, "Follow"},
		"a choice at the screen counts":  {"1", false, inMenu, showAddresses, ""},
		"as the log's menu does":         {"2", false, inLogs, nothing, "Last lines"},
		"a restart is asked there too":   {"3", false, asked, nothing, ""},
		"0 has nowhere to go":            {"0", false, inMenu, nothing, "Menu"},
		"no shell from there either":     {"9", false, inMenu, nothing, "Menu"},
		"log":                            {",2,1", false, inLogs, showLog, ""},
		"errors":                         {",2,2", false, inLogs, showErrors, ""},
		"everything":                     {",2,4", false, inLogs, showAll, ""},
		"follow":                         {",2,3", false, following, startFollow, "Press Enter to end."},
		"end of follow":                  {",2,3,", false, inLogs, nothing, "Log"},
		"back from the log":              {",2,0", false, inMenu, nothing, "Menu"},
		"no such log":                    {",2,7", false, inLogs, nothing, `no choice "7"`},
		"restart is asked first":         {",3", false, asked, nothing, ""},
		"yes":                            {",3,y", false, inMenu, doRestart, ""},
		"YES":                            {",3, Y ", false, inMenu, doRestart, ""},
		"no":                             {",3,n", false, inMenu, nothing, "Menu"},
		"Enter is no":                    {",3,", false, inMenu, nothing, "Menu"},
		"3 is no":                        {",3,3", false, inMenu, nothing, "Menu"},
		"j is no English":                {",3,j", false, inMenu, nothing, "Menu"},
		"power off":                      {",4,y", false, inMenu, doPowerOff, ""},
		"German":                         {",5", false, inMenu, nothing, "Menü\n  1  Adressen\n"},
		"ja":                             {",5,4,j", false, inMenu, doPowerOff, ""},
		"and back":                       {",5,5", false, inMenu, nothing, "Menu"},
		"no shell in a production image": {",9", false, inMenu, nothing, `no choice "9"`},
		"a shell in a development image": {",9", true, inMenu, startShell, ""},
		"which the menu says":            {"", true, inMenu, nothing, "9  Root shell"},
		"in German as well":              {",5", true, inMenu, nothing, "9  Root-Shell (nur in Entwicklungs-Images)\n"},
		"nonsense":                       {",%s%n", false, inMenu, nothing, `no choice "%s%n"`},
	} {
		t.Run(name, func(t *testing.T) {
			d := dialogue{place: atScreen, lang: &english, shell: c.shell}
			var text string
			var do action
			for line := range strings.SplitSeq(c.lines, ",") {
				text, do = d.line(line)
			}
			if d.place != c.place || do != c.do || !strings.Contains(text, c.says) {
				t.Errorf("at %s, does %q, says %q", d.place, do, text)
			}
		})
	}
}

func TestThePromptNamesWhatAYesDoes(t *testing.T) {
	for answer, want := range map[action]string{
		doRestart:  "  Gateway neu starten? [j/N] ",
		doPowerOff: "  Gateway ausschalten? [j/N] ",
	} {
		d := dialogue{place: asked, lang: &german, answer: answer}
		if got := d.prompt(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestAScreenIsPrintedAgainWhenSomethingChanged(t *testing.T) {
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	var a announcer
	// see shows v each second for a while and returns after how many seconds it was printed.
	see := func(v View, seconds int) (printed []int) {
		for i := range seconds {
			v.Machine.UptimeSeconds++
			if a.announce(v, now) {
				a.shown(v)
				printed = append(printed, i)
			}
			now = now.Add(time.Second)
		}
		return printed
	}
	expect := func(what string, got []int, want ...int) {
		t.Helper()
		if len(got) != len(want) {
			t.Fatalf("%s: printed after %v s, want %v", what, got, want)
		}
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("%s: printed after %v s, want %v", what, got, want)
			}
		}
	}
	all := views()
	expect("a new state settles", see(all["searching"], 10), 2)
	expect("a URL is shown at once", see(all["healthy"], 3600), 0)
	expect("what changes beside it", see(detailed(), 3600))
	expect("a lost link", see(unplugged(), 100), 2)
	expect("trouble", see(all["no-port"], 100), 2)
	expect("a moment's trouble", see(all["starting"], 1))
	expect("is none", see(all["no-port"], 100))
}

// detailed is the sample some seconds later: its router has announced a prefix, the lease is older,
// and the speed is known better.
func detailed() View {
	v := sample()
	p := &v.Network.Ports[0]
	p.Addresses = append(p.Addresses, network.Address{Prefix: netip.MustParsePrefix("2001:db8::5/64"), Source: network.Kernel, ValidSeconds: 86400})
	p.Addresses[0].ValidSeconds--
	p.SpeedMbps = 100
	p.DNS = append(p.DNS, netip.MustParseAddr("2001:db8::1"))
	return v
}

// unplugged is the sample with its cable pulled, before anybody has drawn conclusions.
func unplugged() View {
	v := sample()
	v.Network.Ports[0].Link = false
	return v
}

func TestEachMatterOfTheOwnersIsNews(t *testing.T) {
	for name, change := range map[string]func(*View){
		"IPv4 address": func(v *View) {
			v.Network.Ports[0].Addresses[0].Prefix = netip.MustParsePrefix("192.0.2.1/24")
		},
		"IPv4 prefix":   func(v *View) { v.Network.Ports[0].Addresses[0].Prefix = netip.MustParsePrefix("10.0.2.15/8") },
		"only IPv6":     func(v *View) { v.Network.Ports[0].Addresses = v.Network.Ports[0].Addresses[1:] },
		"link":          func(v *View) { v.Network.Ports[0].Link = false },
		"port":          func(v *View) { v.Network.Ports = append(v.Network.Ports, network.Port{Name: "eth1"}) },
		"condition":     func(v *View) { v.Machine.Conditions = []condition.Condition{condition.New(condition.DataReplaced)} },
		"service":       func(v *View) { v.Machine.Services[1].State = machine.Stopped },
		"no network":    func(v *View) { v.Network = nil },
		"no machine":    func(v *View) { v.Machine = nil },
		"serial number": func(v *View) { v.Machine.Serial = "CL-1" },
	} {
		v := sample()
		change(&v)
		if key(v) == key(sample()) {
			t.Errorf("%s: a change is no news", name)
		}
	}
	if key(detailed()) != key(sample()) {
		t.Error("a change that concerns nobody is news")
	}
}

func TestAFlappingStateDoesNotFillTheLog(t *testing.T) {
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	var a announcer
	healthy, down := views()["healthy"], views()["no-port"]
	printed := 0
	for i := range 3600 {
		v := healthy
		if i/5%2 == 1 {
			v = down
		}
		if a.announce(v, now) {
			a.shown(v)
			printed++
		}
		now = now.Add(time.Second)
	}
	if printed < 20 || printed > 80 {
		t.Errorf("printed %d times in an hour", printed)
	}
}

func TestLinesThatNobodyTypesAreNotObeyed(t *testing.T) {
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	var g guard
	for range 100 { // a person
		if !g.allow(now) {
			t.Fatal("a person is not obeyed")
		}
		now = now.Add(300 * time.Millisecond)
	}
	obeyed := 0
	for range 10000 { // our own output, sent back
		if g.allow(now) {
			obeyed++
		}
		now = now.Add(5 * time.Millisecond)
	}
	if obeyed > maxRate {
		t.Errorf("%d lines of noise were obeyed", obeyed)
	}
	now = now.Add(time.Second)
	if !g.allow(now) {
		t.Error("after a second's silence a line is still not obeyed")
	}
}
