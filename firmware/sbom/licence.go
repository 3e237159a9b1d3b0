package sbom

import (
	"embed"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
)

//go:embed texts
var texts embed.FS

// text returns one of the texts that are committed beside this file.
func text(name string) (string, error) {
	b, err := texts.ReadFile("texts/" + name + ".txt")
	return string(b), err
}

// Licences as people write them, in lower case and without punctuation: word? may be missing, ANY
// stands for a few words such as a name. Words of one letter do not count, on either side.
const (
	mit = `permission is hereby granted free of charge to any person obtaining copy of this software and associated
		documentation files the software to deal in the software without restriction including without limitation the
		rights to use copy modify merge publish distribute sublicense and or sell copies of the software and to permit
		persons to whom the software is furnished to do so subject to the following conditions
		the above copyright notice and this permission notice including? the? next? paragraph? shall be included in all
		copies or substantial portions of the software
		the software is provided as is without warranty of any kind express or implied including but not limited to the
		warranties of merchantability fitness for particular purpose and noninfringement in no event shall the authors or
		copyright holders be liable for any claim damages or other liability whether in an action of contract tort or
		otherwise arising from out of or in connection with the software or the use or other dealings in the software`
	bsd2 = `redistribution and use in source and binary forms with or without modification are permitted provided that the
		following conditions are met
		redistributions of source code must retain the above copyright notice this list of conditions and the following
		disclaimer
		redistributions in binary form must reproduce the above copyright notice this list of conditions and the
		following disclaimer in the documentation and or other materials provided with the distribution`
	bsd3 = bsd2 + `
		neither the name of ANY nor the names of its? contributors may be used to endorse or promote products derived
		from this software without specific prior written permission`
	bsdEnd = `
		this software is provided by ANY as is and any express or implied warranties including but not limited to the
		implied warranties of merchantability and fitness for particular purpose are disclaimed in no event shall ANY be
		liable for any direct indirect incidental special exemplary or consequential damages including but not limited to
		procurement of substitute goods or services loss of use data or profits or business interruption however caused
		and on any theory of liability whether in contract strict liability or tort including negligence or otherwise
		arising in any way out of the use of this software even if advised of the possibility of such damage`
	zeroBSD = `permission to use copy modify and or distribute this software for any purpose with or without fee is hereby
		granted`
	isc = zeroBSD + ` provided that the above copyright notice and this permission notice appear in all copies`
	// Both end with it.
	iscEnd = `
		the software is provided as is and the author disclaims all warranties with regard to this software including all
		implied warranties of merchantability and fitness in no event shall the author be liable for any special direct
		indirect or consequential damages or any damages whatsoever resulting from loss of use data or profits whether in
		an action of contract negligence or other tortious action arising out of or in connection with the use or
		performance of this software`
)

type pattern struct {
	id string // SPDX; "" for words that make no licence
	re *regexp.Regexp
}

// patterns are tried in this order: BSD's two clauses are the beginning of its three.
var patterns = sync.OnceValue(func() []pattern {
	full := func(name, end string) string { // a whole licence up to where its appendix begins
		t, err := text(name)
		if err != nil {
			panic(err) // embedded
		}
		terms, _, _ := strings.Cut(t, end)
		return words(terms)
	}
	list := []pattern{
		{"Apache-2.0", compile(full("Apache-2.0", "END OF TERMS AND CONDITIONS"))},
		{"MPL-2.0", compile(full("MPL-2.0", "Exhibit A - Source Code Form"))},
		{"BSD-3-Clause", compile(bsd3 + bsdEnd)},
		{"BSD-2-Clause", compile(bsd2 + bsdEnd)},
		{"MIT", compile(mit)},
		{"ISC", compile(isc + iscEnd)},
		{"0BSD", compile(zeroBSD + iscEnd)},
	}
	for _, re := range []string{
		`end of terms and conditions `,
		`appendix how to apply the apache license to your work (\S+ ){1,80}?identification within third party archives `,
		`licensed under the apache license version the license (\S+ ){1,70}?limitations under the license `,
		`exhibit source code form license notice (\S+ ){1,120}?defined by the mozilla public license `,
		`(the |new )?(mit|bsd|isc|zero clause bsd|clause bsd|bsd clause) (license )?(mit )?`,
	} {
		list = append(list, pattern{"", regexp.MustCompile(`\b` + re)})
	}
	return list
})

// compile makes a regular expression of a licence's words.
func compile(licence string) *regexp.Regexp {
	var re strings.Builder
	re.WriteString(`\b`)
	for _, w := range strings.Fields(licence) {
		switch optional := strings.TrimSuffix(w, "?"); {
		case w == "ANY":
			re.WriteString(`(?:\S+ ){0,12}?`)
		case w != optional:
			re.WriteString("(?:" + optional + " )?")
		default:
			re.WriteString(w + " ")
		}
	}
	return regexp.MustCompile(re.String())
}

var (
	copyrightLine = regexp.MustCompile(`(?m)^[\s#*/>-]*(?:Portions )?(?:Copyright\b|\([cC]\)|©|(?i:all rights reserved)).*$`)
	notWord       = regexp.MustCompile(`[^a-z0-9]+`)
)

// words is a text reduced to what a licence is recognised by, each word followed by a blank.
func words(s string) string {
	s = copyrightLine.ReplaceAllString(s, "")
	var b strings.Builder
	for w := range strings.FieldsSeq(notWord.ReplaceAllString(strings.ToLower(s), " ")) {
		if w == "https" {
			w = "http"
		}
		if len(w) > 1 {
			b.WriteString(w + " ")
		}
	}
	return b.String()
}

// maxRest is how many words a licence file may have beside licences: a heading, a line about files.
const maxRest = 12

// Detect returns the licences that a licence file consists of, as an SPDX expression. A text with
// more to it than the licences known here is an error: a person has to read that.
func Detect(file string) (string, error) {
	rest := words(file)
	var ids []string
	for _, p := range patterns() {
		shorter := p.re.ReplaceAllString(rest, "")
		if shorter != rest && p.id != "" {
			ids = append(ids, p.id)
		}
		rest = shorter
	}
	left := strings.Fields(rest)
	if len(ids) == 0 || len(left) > maxRest {
		return "", fmt.Errorf("unknown licence, or more than a licence: %q", strings.Join(left[:min(len(left), maxRest)], " "))
	}
	slices.Sort(ids)
	return strings.Join(ids, " AND "), nil
}
