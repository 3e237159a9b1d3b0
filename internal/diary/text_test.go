package diary

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// declared returns the constants of diary.go by name: the kinds, and the reasons.
func declared(t *testing.T) (kinds, reasons map[string]string) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "diary.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	kinds, reasons = map[string]string{}, map[string]string{}
	ast.Inspect(f, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || len(v.Values) != 1 {
			return true
		}
		lit, ok := v.Values[0].(*ast.BasicLit)
		if !ok {
			return true
		}
		value := strings.Trim(lit.Value, `"`)
		if typ, ok := v.Type.(*ast.Ident); ok && typ.Name == "Kind" {
			kinds[v.Names[0].Name] = value
		} else if strings.HasPrefix(v.Names[0].Name, "Reason") {
			reasons[v.Names[0].Name] = value
		}
		return true
	})
	return kinds, reasons
}

func TestOrderListsEveryKindOnce(t *testing.T) {
	kinds, _ := declared(t)
	var listed []string
	for _, o := range Order {
		listed = append(listed, string(o.Kind))
		if !isName(string(o.Kind)) {
			t.Errorf("%q is not a name that the reader takes", o.Kind)
		}
	}
	slices.Sort(listed)
	if want := slices.Sorted(maps.Values(kinds)); len(want) == 0 || !slices.Equal(listed, want) {
		t.Errorf("Order:     %q\nconstants: %q", listed, want)
	}
}

func TestEveryKindHasATextInBothLanguages(t *testing.T) {
	field := regexp.MustCompile(`\{\{\.([a-z]+)\}\}`)
	_, reasons := declared(t)
	for _, lang := range []string{"de", "en"} {
		b, err := catalogues.ReadFile(lang + ".json")
		if err != nil {
			t.Fatal(err)
		}
		var catalogue map[string]json.RawMessage
		if err := json.Unmarshal(b, &catalogue); err != nil {
			t.Fatal(err)
		}
		texts := map[string][]string{"unknown": {"kind"}, "omitted": {"n"}} // and the fields they name
		for _, o := range Order {
			texts[string(o.Kind)] = o.Args
		}
		if words := []string{"reason", "by", "field", "option", "change"}; len(catalogue) != len(texts)+len(words) {
			t.Errorf("%s.json has %d texts, want %d and %q", lang, len(catalogue), len(texts), words)
		}
		for id, args := range texts {
			var text string
			if err := json.Unmarshal(catalogue[id], &text); err != nil {
				t.Errorf("%s %s: %v", lang, id, err)
			}
			if text != strings.TrimSpace(text) || id != "omitted" && !strings.HasSuffix(strings.TrimRight(text, "⟩"), ".") {
				t.Errorf("%s %s is not a sentence: %q", lang, id, text)
			}
			var used []string
			for _, m := range field.FindAllStringSubmatch(text, -1) {
				used = append(used, m[1])
			}
			slices.Sort(used)
			if want := slices.Sorted(slices.Values(args)); !slices.Equal(slices.Compact(used), want) {
				t.Errorf("%s %s: the text names %q, Order %q", lang, id, used, want)
			}
			if rest := field.ReplaceAllString(text, ""); strings.ContainsAny(rest, "{}") {
				t.Errorf("%s %s: not a field of ours: %q", lang, id, rest)
			}
		}
		var reason map[string]string
		if err := json.Unmarshal(catalogue["reason"], &reason); err != nil {
			t.Fatal(err)
		}
		if got, want := slices.Sorted(maps.Keys(reason)), slices.Sorted(maps.Values(reasons)); !slices.Equal(got, want) {
			t.Errorf("%s reasons:\n%q, constants:\n%q", lang, got, want)
		}
		for code, text := range reason {
			if text == "" || strings.HasSuffix(text, ".") {
				t.Errorf("%s reason %s ends a sentence that has its own full stop: %q", lang, code, text)
			}
		}
	}
}

// Whoever adds an entry can leave out what he does not know, but not name what its text does not: this
// test reads the calls of the whole module.
func TestNoCallNamesWhatItsKindDoesNot(t *testing.T) {
	kinds, _ := declared(t)
	calls := 0
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		src, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(src, []byte("internal/diary\"")) {
			return err
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, path, src, 0)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) == 0 || call.Ellipsis.IsValid() {
				return true
			}
			sel, ok := call.Args[0].(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if pkg, ok := sel.X.(*ast.Ident); !ok || pkg.Name != "diary" || kinds[sel.Sel.Name] == "" {
				return true
			}
			calls++
			var names []string
			for i := 1; i < len(call.Args); i += 2 {
				if lit, ok := call.Args[i].(*ast.BasicLit); ok {
					names = append(names, strings.Trim(lit.Value, `"`))
				}
			}
			known, _ := arguments(Kind(kinds[sel.Sel.Name]))
			if len(call.Args)%2 == 0 || slices.ContainsFunc(names, func(name string) bool { return !slices.Contains(known, name) }) {
				t.Errorf("%v: %s with %q, its text names %q", fset.Position(call.Pos()), sel.Sel.Name, names, known)
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if calls == 0 {
		t.Error("no calls were found")
	}
}

func TestTextNamesItsArguments(t *testing.T) {
	for _, test := range []struct {
		entry  Entry
		de, en string
	}{
		{Entry{Kind: DuplicateAddress, Args: map[string]string{"port": "eth0", "address": "192.0.2.7", "mac": "02:00:00:00:00:4f"}},
			"Port eth0: Adresse 192.0.2.7 wird auch von einem anderen Gerät benutzt (MAC-Adresse 02:00:00:00:00:4f).",
			"Port eth0: address 192.0.2.7 is also used by another device (MAC address 02:00:00:00:00:4f)."},
		{Entry{Kind: CommitReturned, Args: map[string]string{"reason": ReasonTimeout}},
			"Die vorigen Netzwerkeinstellungen gelten wieder: Die Änderung wurde nicht rechtzeitig bestätigt.",
			"The previous network settings are in effect again: the change was not confirmed in time."},
		{Entry{Kind: NTPRefused, Args: map[string]string{"server": "ntp.example", "reason": "stratum 17"}, Count: 17, Omitted: 3},
			"Die Uhr wurde nicht gestellt: stratum 17. Zeitserver: ntp.example. (×17) (+ 3 weitere dieser Art)",
			"The clock was not set: stratum 17. Time server: ntp.example. (×17) (+ 3 more of this kind)"},
		{Entry{Kind: CommitProbation, Args: map[string]string{"by": "portal", "from": "192.0.2.9", "seconds": "90",
			"fields": "network.wan.ipv4.method, network.lan.routes, names.on_wan, network.dmz.mtu, from.the.future"}},
			"Netzwerkeinstellungen auf Probe geändert (auf der Seite des Gateways, Rechner 192.0.2.9): IPv4-Adressvergabe (WAN), weitere Routen (LAN), auch an WAN, network.dmz.mtu, from.the.future. Ohne Bestätigung innerhalb von 90 Sekunden gelten wieder die vorigen.",
			"Network settings changed on probation (on the gateway's page, computer 192.0.2.9): IPv4 address assignment (WAN), more routes (LAN), also on WAN, network.dmz.mtu, from.the.future. Unless confirmed within 90 seconds, the previous ones return."},
		{Entry{Kind: LeaseObtained, Args: map[string]string{"port": "eth0", "address": "192.0.2.7/24", "server": "192.0.2.1", "options": "6, 42, 77"}},
			"Port eth0: Adresse 192.0.2.7/24 vom DHCP-Server 192.0.2.1 erhalten. Übernommene DHCP-Optionen: DNS-Server, Zeitserver (NTP), 77.",
			"Port eth0: address 192.0.2.7/24 obtained from DHCP server 192.0.2.1. DHCP options taken: DNS servers, time servers (NTP), 77."},
		{Entry{Kind: CableUnplugged},
			"Port –: Kabel gezogen, oder das Gerät am anderen Ende ist aus.",
			"Port –: cable unplugged, or the device at the other end is off."},
		{Entry{Kind: "from-the-future", Args: map[string]string{"x": "y"}},
			"Eintrag einer anderen Firmwareversion (from-the-future).",
			"An entry of another firmware version (from-the-future)."},
	} {
		if got := test.entry.Text("de"); got != test.de {
			t.Errorf("de: %q\nwant %q", got, test.de)
		}
		if got := test.entry.Text("en"); got != test.en {
			t.Errorf("en: %q\nwant %q", got, test.en)
		}
		if test.entry.Text("fr") != test.entry.Text("en") {
			t.Error("another language is not answered in English")
		}
	}
}

func FuzzText(f *testing.F) {
	f.Add("offer-rejected", "timeout")
	f.Add("unknown", "\x1b[2J\x07{{.port}}\u202e")
	f.Add("reason", "\xff\xfe"+strings.Repeat("ä", 2*maxArg))
	f.Fuzz(func(t *testing.T, kind, arg string) {
		for _, k := range []Kind{Kind(kind), OfferRejected, CommitProbation} {
			for _, lang := range []string{"de", "en"} {
				text := Entry{Kind: k, Args: map[string]string{"reason": arg, "server": arg, "fields": arg, "by": arg}}.Text(lang)
				if text == "" || !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) && r != unicode.ReplacementChar }) {
					t.Errorf("unprintable: %q", text)
				}
				if n := utf8.RuneCountInString(text); n > 3*maxArg {
					t.Errorf("%d runes: %q", n, text)
				}
			}
		}
	})
}

func TestPartsOfATextWithoutTheirArgumentAreLeftOut(t *testing.T) {
	for _, c := range []struct {
		args map[string]string
		want string
	}{
		{map[string]string{"port": "eth0"}, "Port eth0: link up."},
		{map[string]string{"port": "eth0", "speed": "1000"}, "Port eth0: link up at 1000 Mbit/s."},
		{map[string]string{"port": "⟨eth0", "speed": "⟩"}, "Port \ufffdeth0: link up at \ufffd Mbit/s."},
		{nil, "Port –: link up."},
	} {
		if got := (Entry{Kind: CablePlugged, Args: c.args}).Text("en"); got != c.want {
			t.Errorf("%v: %q, want %q", c.args, got, c.want)
		}
	}
}
