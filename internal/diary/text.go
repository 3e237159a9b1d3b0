package diary

import (
	"embed"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"unicode"

	"github.com/nicksnyder/go-i18n/v2/i18n"
	"golang.org/x/text/language"
)

// maxArg bounds an argument's runes.
const maxArg = 160

// maxList bounds the entries of an argument that is a list. A change can be of some two dozen fields.
const maxList = 32

//go:embed de.json en.json
var catalogues embed.FS

// texts is read at first use: most processes of the one binary never show a text.
var texts = sync.OnceValue(func() *i18n.Bundle {
	b := i18n.NewBundle(language.English)
	for _, name := range []string{"en.json", "de.json"} {
		if _, err := b.LoadMessageFileFS(catalogues, name); err != nil {
			panic("diary: " + err.Error()) // embedded, so a test would have seen it
		}
	}
	return b
})

// Text returns e in words, in lang ("de" or "en"; English for any other). It is plain text: a page
// still has to escape it.
func (e Entry) Text(lang string) string {
	l := i18n.NewLocalizer(texts(), lang)
	part := func(id string, data map[string]string) (string, bool) {
		s, err := l.Localize(&i18n.LocalizeConfig{MessageID: id, TemplateData: data})
		return s, err == nil
	}
	names, known := arguments(e.Kind)
	id, args := string(e.Kind), map[string]string{}
	if !known { // written by the firmware in the other slot
		id, args["kind"] = "unknown", printable(string(e.Kind))
	}
	for _, name := range names {
		args[name] = printable(e.Args[name])
		switch name {
		case "reason", "by":
			if s, ok := part(name+"."+e.Args[name], nil); ok {
				args[name] = s
			}
		case "fields", "options", "changes":
			args[name] = inWords(strings.TrimSuffix(name, "s"), e.Args[name], part)
		}
	}
	text, ok := part(id, args)
	if !ok {
		text = id // the timeline is still complete; the package's test sees to it that it never is
	}
	text = clause().ReplaceAllStringFunc(text, func(s string) string {
		if strings.Contains(s, none) {
			return ""
		}
		return strings.Trim(s, "⟨⟩")
	})
	text = strings.ReplaceAll(text, none, "–")
	if e.Count > 1 {
		text += " (×" + strconv.Itoa(e.Count) + ")"
	}
	if e.Omitted > 0 {
		if s, ok := part("omitted", map[string]string{"n": strconv.Itoa(e.Omitted)}); ok {
			text += " " + s
		}
	}
	return text
}

// inWords returns a list, entry by entry, in the words that the catalogue has for this kind.
func inWords(kind, list string, part func(string, map[string]string) (string, bool)) string {
	if list == "" {
		return none
	}
	var words []string
	for _, one := range strings.SplitN(list, ", ", maxList) {
		if rest, ok := strings.CutPrefix(one, "network."); ok { // "network.wan.mtu"
			port, rest, _ := strings.Cut(rest, ".")
			if word, ok := part(kind+"."+rest, nil); ok && (port == "wan" || port == "lan") {
				words = append(words, word+" ("+strings.ToUpper(port)+")")
				continue
			}
		}
		word, ok := part(kind+"."+one, nil)
		if !ok {
			word = printable(one)
		}
		words = append(words, word)
	}
	return strings.Join(words, ", ")
}

// none stands for an argument without a value until the text is put together: a part of it in ⟨ ⟩ is
// left out where that is in it, elsewhere it reads "–".
const none = "\x00"

var clause = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile("⟨[^⟩]*⟩") })

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
		if !unicode.IsPrint(r) || r == '⟨' || r == '⟩' {
			r = unicode.ReplacementChar
		}
		b.WriteRune(r)
	}
	if n == 0 {
		return none
	}
	return b.String()
}
