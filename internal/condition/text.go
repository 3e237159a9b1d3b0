package condition

import (
	"embed"
	"strings"
	"sync"
	"text/template"
	"unicode"

	"github.com/nicksnyder/go-i18n/v2/i18n"
	"golang.org/x/text/language"
)

// A Text is a condition in words. It is plain text: a page still has to escape it.
type Text struct {
	Title  string `json:"title"`
	Detail string `json:"detail"` // what it means
	Cure   string `json:"cure"`   // what to do
}

// maxArg bounds an argument's runes in a text.
const maxArg = 64

//go:embed de.json en.json
var catalogues embed.FS

// texts is read at first use: most processes of the one binary never show a text.
var texts = sync.OnceValue(func() *i18n.Bundle {
	b := i18n.NewBundle(language.English)
	for _, name := range []string{"en.json", "de.json"} {
		if _, err := b.LoadMessageFileFS(catalogues, name); err != nil {
			panic("condition: " + err.Error()) // embedded, so a test would have seen it
		}
	}
	return b
})

// Text returns c in words, in lang ("de" or "en"; English for any other).
func (c Condition) Text(lang string) Text {
	l := i18n.NewLocalizer(texts(), lang)
	args := map[string]string{}
	for _, name := range Order[rank(c.ID)].Args {
		args[name] = printable(c.Args[name])
	}
	part := func(name string) string {
		s, err := l.Localize(&i18n.LocalizeConfig{
			MessageID:    string(c.ID) + "." + name,
			TemplateData: args,
			Funcs:        template.FuncMap{"upper": strings.ToUpper},
		})
		if err != nil {
			return string(c.ID) // the list is still complete; the package's test sees to it that it never is
		}
		return s
	}
	return Text{Title: part("title"), Detail: part("detail"), Cure: part("cure")}
}

// printable makes an argument fit for a line of a page or a terminal: whoever it comes from may
// have put control characters into it, or a novel.
func printable(arg string) string {
	var b strings.Builder
	n := 0
	for _, r := range arg {
		if n++; n > maxArg {
			b.WriteRune('…')
			break
		}
		if !unicode.IsPrint(r) {
			r = unicode.ReplacementChar
		}
		b.WriteRune(r)
	}
	if n == 0 {
		return "?"
	}
	return b.String()
}
