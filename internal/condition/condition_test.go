package condition

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestOrderListsEveryKindOnce(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "condition.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var declared []string // the values of the constants of type ID
	ast.Inspect(f, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok {
			if typ, ok := v.Type.(*ast.Ident); ok && typ.Name == "ID" {
				declared = append(declared, strings.Trim(v.Values[0].(*ast.BasicLit).Value, `"`))
			}
		}
		return true
	})
	var listed []string
	for _, o := range Order {
		listed = append(listed, string(o.ID))
	}
	slices.Sort(declared)
	slices.Sort(listed)
	if len(declared) == 0 || !slices.Equal(declared, listed) {
		t.Errorf("constants: %q\nOrder:     %q", declared, listed)
	}
}

func TestEveryKindHasATextInBothLanguages(t *testing.T) {
	field := regexp.MustCompile(`\{\{(?:upper )?\.([a-z]+)\}\}`)
	for _, lang := range []string{"de", "en"} {
		b, err := catalogues.ReadFile(lang + ".json")
		if err != nil {
			t.Fatal(err)
		}
		var catalogue map[ID]map[string]string
		if err := json.Unmarshal(b, &catalogue); err != nil {
			t.Fatal(err)
		}
		if len(catalogue) != len(Order) {
			t.Errorf("%s.json has texts for %d kinds of %d", lang, len(catalogue), len(Order))
		}
		for _, o := range Order {
			parts := catalogue[o.ID]
			if keys := slices.Sorted(maps.Keys(parts)); !slices.Equal(keys, []string{"cure", "detail", "title"}) {
				t.Errorf("%s %s: parts %q", lang, o.ID, keys)
			}
			used := map[string]bool{}
			for name, text := range parts {
				if text == "" || text != strings.TrimSpace(text) {
					t.Errorf("%s %s.%s: %q", lang, o.ID, name, text)
				}
				if sentence := strings.HasSuffix(text, "."); sentence == (name == "title") {
					t.Errorf("%s %s.%s: a title has no full stop, a sentence has one: %q", lang, o.ID, name, text)
				}
				for _, m := range field.FindAllStringSubmatch(text, -1) {
					used[m[1]] = true
				}
				if rest := field.ReplaceAllString(text, ""); strings.ContainsAny(rest, "{}") {
					t.Errorf("%s %s.%s: not a field of ours: %q", lang, o.ID, name, rest)
				}
			}
			if got := slices.Sorted(maps.Keys(used)); !slices.Equal(got, slices.Sorted(slices.Values(o.Args))) {
				t.Errorf("%s %s: the text names %q, Order %q", lang, o.ID, got, o.Args)
			}
		}
	}
}

func TestTextNamesItsArguments(t *testing.T) {
	c := New(FellBack, "wanted", "b", "booted", "a")
	if got, want := c.Text("de").Detail, "Die Firmware in Systembereich B ließ sich nicht starten. Das Gateway läuft aus Systembereich A."; got != want {
		t.Errorf("de: %q", got)
	}
	if got, want := c.Text("en").Detail, "The firmware in slot B could not be started. The gateway is running from slot A."; got != want {
		t.Errorf("en: %q", got)
	}
	if c.Text("fr") != c.Text("en") {
		t.Error("another language is not answered in English")
	}
	if got, want := New(NoLink).Text("en").Title, "Port ?: no link"; got != want {
		t.Errorf("without its argument: %q, want %q", got, want)
	}
}

func TestSortPutsTheMostPressingFirst(t *testing.T) {
	list := []Condition{New(DevelopmentKeys), New(NoLink, "port", "eth1"), New(NoLink, "port", "eth0"), New(StorageFailing)}
	Sort(list)
	var got []string
	for _, c := range list {
		got = append(got, string(c.ID)+c.Args["port"])
	}
	if want := []string{"storage-failing", "no-linketh1", "no-linketh0", "development-keys"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func FuzzText(f *testing.F) {
	f.Add("eth0")
	f.Add("\x1b[2J\x07{{.port}}\u202e")
	f.Add("\xff\xfe" + strings.Repeat("ä", 2*maxArg))
	f.Fuzz(func(t *testing.T, arg string) {
		plain := New(ServiceFailing, "service", "x")
		for _, lang := range []string{"de", "en"} {
			got, base := New(ServiceFailing, "service", arg).Text(lang), plain.Text(lang)
			if !utf8.ValidString(got.Detail) || strings.ContainsFunc(got.Detail, func(r rune) bool { return !unicode.IsPrint(r) && r != unicode.ReplacementChar }) {
				t.Errorf("unprintable: %q", got.Detail)
			}
			if n := utf8.RuneCountInString(got.Detail); n > utf8.RuneCountInString(base.Detail)+maxArg {
				t.Errorf("%d runes: %q", n, got.Detail)
			}
			if arg != "" && utf8.ValidString(arg) && utf8.RuneCountInString(arg) <= maxArg && !strings.ContainsFunc(arg, func(r rune) bool { return !unicode.IsPrint(r) }) &&
				!strings.Contains(got.Detail, arg) {
				t.Errorf("%q is not in %q", arg, got.Detail)
			}
		}
	})
}
