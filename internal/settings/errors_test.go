package settings

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	goparser "go/parser"
	"go/token"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// declared returns the values of the constants of type Code.
func declared(t *testing.T) []string {
	f, err := goparser.ParseFile(token.NewFileSet(), "errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	ast.Inspect(f, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok {
			if typ, ok := v.Type.(*ast.Ident); ok && typ.Name == "Code" {
				list = append(list, strings.Trim(v.Values[0].(*ast.BasicLit).Value, `"`))
			}
		}
		return true
	})
	slices.Sort(list)
	if len(list) == 0 {
		t.Fatal("no Code found")
	}
	return list
}

func TestEveryCodeIsListedWithItsArguments(t *testing.T) {
	var listed []string
	for code := range codes {
		listed = append(listed, string(code))
	}
	slices.Sort(listed)
	if want := declared(t); !slices.Equal(listed, want) {
		t.Errorf("constants: %q\ncodes:     %q", want, listed)
	}
}

func TestEveryCodeHasATextInBothLanguages(t *testing.T) {
	field := regexp.MustCompile(`\{\{\.([a-z]+)\}\}`)
	for _, lang := range []string{"de", "en"} {
		b, err := catalogues.ReadFile(lang + ".json")
		if err != nil {
			t.Fatal(err)
		}
		var catalogue map[Code]map[string]string
		if err := json.Unmarshal(b, &catalogue); err != nil {
			t.Fatal(err)
		}
		if len(catalogue) != len(codes) {
			t.Errorf("%s.json has texts for %d codes of %d", lang, len(catalogue), len(codes))
		}
		for code, args := range codes {
			parts := catalogue[code]
			if keys := slices.Sorted(maps.Keys(parts)); !slices.Equal(keys, []string{"cure", "message"}) {
				t.Errorf("%s %s: parts %q", lang, code, keys)
			}
			used := map[string]bool{}
			for name, text := range parts {
				if text != strings.TrimSpace(text) || len(text) < 10 || !strings.HasSuffix(text, ".") {
					t.Errorf("%s %s.%s is no sentence: %q", lang, code, name, text)
				}
				for _, m := range field.FindAllStringSubmatch(text, -1) {
					used[m[1]] = true
				}
				if rest := field.ReplaceAllString(text, ""); strings.ContainsAny(rest, "{}") {
					t.Errorf("%s %s.%s: not a field of ours: %q", lang, code, name, rest)
				}
			}
			if got := slices.Sorted(maps.Keys(used)); !slices.Equal(got, slices.Sorted(slices.Values(args))) {
				t.Errorf("%s %s: the text names %q, codes %q", lang, code, got, args)
			}
		}
	}
}

// complete complains where a mistake lacks an argument that its texts name, or has one too many.
func complete(t *testing.T, errs Errors) {
	t.Helper()
	for _, e := range errs {
		if got, want := slices.Sorted(maps.Keys(e.Args)), slices.Sorted(slices.Values(codes[e.Code])); !slices.Equal(got, want) {
			t.Errorf("%s %s: arguments %q, its text has %q", e.Path, e.Code, got, want)
		}
	}
}

func TestErrorNamesFieldMistakeAndCure(t *testing.T) {
	s := full()
	s.Network.WAN.IPv4.Addresses = prefixes("192.0.2.5/24", "11.0.0.0/8")
	err := fmt.Errorf("change settings: %w", s.Check())
	if want := "change settings: network.wan.ipv4.addresses[1]: 11.0.0.0/8 is a network, not an address: write for example 11.0.0.5/8"; err.Error() != want {
		t.Errorf("%v\nwant %s", err, want)
	}
	e, ok := errors.AsType[*FieldError](err)
	if !ok || e.Path != "network.wan.ipv4.addresses[1]" || e.Code != NetworkAddress {
		t.Errorf("%+v", e)
	}
	if errs, ok := errors.AsType[Errors](err); !ok || len(errs) != 1 {
		t.Errorf("%+v", errs)
	}
	want := Text{Message: "11.0.0.0/8 ist ein Netz, keine Adresse.", Cure: "Schreiben Sie zum Beispiel 11.0.0.5/8."}
	if got := e.Text("de"); got != want {
		t.Errorf("de: %+v", got)
	}
	if e.Text("fr") != e.Text("en") {
		t.Error("another language is not answered in English")
	}

	// It can be said at the other end of a socket.
	b, err := json.Marshal(e)
	if want := `{"path":"network.wan.ipv4.addresses[1]","code":"network-address","args":{"example":"11.0.0.5/8","value":"11.0.0.0/8"}}`; string(b) != want || err != nil {
		t.Errorf("%s %v", b, err)
	}
	var there FieldError
	if err := json.Unmarshal(b, &there); err != nil || there.Text("de") != want {
		t.Errorf("%+v %v", there, err)
	}
	if got := (&FieldError{Path: "x", Code: "from-tomorrow\n"}).Error(); got != "x: from-tomorrow\ufffd: from-tomorrow\ufffd" {
		t.Errorf("%q", got)
	}
}
