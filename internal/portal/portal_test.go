package portal

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/queryparam"
	"golang.org/x/net/html"

	"cloudlink.local/gateway/internal/condition"
	"cloudlink.local/gateway/internal/machine"
	"cloudlink.local/gateway/internal/network"
	"cloudlink.local/gateway/internal/update"
)

// request asks h under the gateway's IP address. header is pairs of name and value.
func request(t *testing.T, h http.Handler, method, path string, header ...string) (*http.Response, string) {
	t.Helper()
	r := httptest.NewRequest(method, path, nil)
	r.Host = "192.0.2.1"
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
		}
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result(), w.Body.String()
}

func get(t *testing.T, h http.Handler, path string, header ...string) (*http.Response, string) {
	t.Helper()
	return request(t, h, http.MethodGet, path, header...)
}

var pagePaths = []string{"/", "/network", "/find", "/update", "/update/help", "/log", "/log?level=debug", "/log?boot=previous", "/licences", "/browsers", "/nowhere"}

// everyState is gateways in all the states that the pages have words for.
func everyState() map[string]*gateway {
	all := map[string]*gateway{"sample": sample(), "faulty": faulty(), "sited": sited(), "contested": contested(), "downloading": downloading(), "proving": proving(), "update failed": updateFailedThere(), "returned": returned(), "offered": offered()}
	for _, p := range []Part{PartMachine, PartNetwork, PartUpdate} {
		g := sample()
		g.down[p] = true
		all["without "+string(p)] = g
	}
	for _, state := range []machine.DataState{machine.DataReplaced, machine.DataReadOnly, machine.DataMissing, machine.DataFailing} {
		g := sample()
		g.m.Data = machine.Data{State: state}
		all["data "+string(state)] = g
	}
	for _, state := range []machine.ServiceState{machine.Starting, machine.Waiting, machine.Stopped, "of a later version"} {
		g := sample()
		g.m.Services[0].State = state
		all["service "+string(state)] = g
	}
	for _, o := range condition.Order {
		g := sample()
		g.m.Conditions = []condition.Condition{condition.New(o.ID)}
		all["condition "+string(o.ID)] = g
	}
	empty := &gateway{down: map[Part]bool{}} // process 1 has said nothing yet
	all["empty"] = empty
	hostile := sample()
	hostile.m.Serial, hostile.m.BootID = `"><script>`, `&boot="'`
	hostile.m.Services[0].Name, hostile.m.Services[0].LastExit, hostile.m.Services[0].State = "<b>x</b>", "<i>", machine.Waiting
	hostile.n.Ports[0].Name, hostile.n.Ports[0].MAC = "<u>", "\x00\x1b"
	hostile.m.Conditions = []condition.Condition{condition.New(condition.ServiceFailing, "service", "<script>alert(1)</script>")}
	hostile.u = update.Status{State: "<b>", Version: "<script>", Slot: `"`, Other: &update.Other{Version: "<i>"}, Checks: []update.Check{{Name: "<u>", Arg: "<script>", Detail: "\x1b"}},
		Check:    &update.LastCheck{Reason: "<script>", Detail: "<script>", Available: &update.Available{Version: "<script>", Notes: update.Notes{DE: "<script>\x00\n\u202e"}}},
		Attempts: []update.Attempt{{ID: 3, Kind: "<b>", By: "<script>", To: "<i>", State: "<u>", Reason: "<b>", Detail: "\x1b", LastLog: []string{"<script>"}, Steps: []update.Step{{State: "<b>"}}}}}
	hostile.n.Names.Host = `"><script>.local`
	hostile.n.Names.Ports = []network.PortNames{{Port: "<u>", Trouble: "<script>\x1b", Names: []network.Name{
		{Name: "<b>\x00.local", State: "of a later version", Rival: &network.Rival{MAC: "<i>"}}}}}
	all["hostile"] = hostile
	return all
}

func TestPagesAreSoundHTML(t *testing.T) {
	for name, g := range everyState() {
		p := newPortal(t, g)
		for _, lang := range languages {
			for _, visit := range append(pagePaths, "/ IE", "/ other host", "/?x", "/log?%", "/log?level=x", "/?lang=en&lang=de") {
				header := []string{"Accept-Language", lang}
				path, with, _ := strings.Cut(visit, " ")
				switch with {
				case "IE":
					header = append(header, "User-Agent", "Mozilla/5.0 (Windows NT 6.1; WOW64; Trident/7.0; rv:11.0) like Gecko")
				case "other host":
					header = append(header, "Host", "other.test")
				}
				resp, body := get(t, p, path, header...)
				where := fmt.Sprintf("%s, %s %s", name, lang, visit)
				want := map[string]int{
					"/nowhere": http.StatusNotFound, "/ other host": http.StatusMisdirectedRequest, "/?x": http.StatusBadRequest,
					"/log?%": http.StatusBadRequest, "/log?level=x": http.StatusBadRequest, "/?lang=en&lang=de": http.StatusBadRequest,
				}[visit]
				if want == 0 {
					want = http.StatusOK
				}
				if resp.StatusCode != want {
					t.Errorf("%s: %s", where, resp.Status)
				}
				checkHTML(t, where, body)
				if !strings.Contains(body, `<html lang="`+lang+`">`) {
					t.Errorf("%s: not in the language asked for", where)
				}
				for _, asset := range regexp.MustCompile(`/assets/[^"#]+`).FindAllString(body, -1) {
					if resp, _ := get(t, p, asset); resp.StatusCode != http.StatusOK {
						t.Errorf("%s: %s: %s", where, asset, resp.Status)
					}
				}
				for _, symbol := range regexp.MustCompile(`icons\.svg#([a-z]*)`).FindAllStringSubmatch(body, -1) {
					if !bytes.Contains(content("icons.svg"), []byte(`<symbol id="`+symbol[1]+`"`)) {
						t.Errorf("%s: no icon %q", where, symbol[1])
					}
				}
			}
		}
	}
}

var void = map[string]bool{"meta": true, "link": true, "img": true, "br": true, "hr": true, "input": true}

// checkHTML finds what a browser would silently repair, ids that are there twice or not at all,
// and anything that the content policy would stop.
func checkHTML(t *testing.T, where, page string) {
	t.Helper()
	var open []string
	ids, wanted := map[string]int{}, map[string]bool{}
	count := map[string]int{}
	z := html.NewTokenizer(strings.NewReader(page))
	for {
		switch kind := z.Next(); kind {
		case html.ErrorToken:
			if !errors.Is(z.Err(), io.EOF) || len(open) > 0 {
				t.Errorf("%s: ends in %q: %v", where, open, z.Err())
			}
			for id := range wanted {
				if ids[id] == 0 {
					t.Errorf("%s: no element has the id %q", where, id)
				}
			}
			for id, n := range ids {
				if n > 1 {
					t.Errorf("%s: id %q is there %d times", where, id, n)
				}
			}
			if count["h1"] != 1 || count["title"] != 1 {
				t.Errorf("%s: %d h1, %d titles", where, count["h1"], count["title"])
			}
			return
		case html.StartTagToken, html.SelfClosingTagToken:
			tok := z.Token()
			count[tok.Data]++
			if kind == html.StartTagToken && !void[tok.Data] {
				open = append(open, tok.Data)
			}
			external := false
			seen := map[string]bool{}
			for _, a := range tok.Attr {
				if seen[a.Key] {
					t.Errorf("%s: %s has %s twice", where, tok.Data, a.Key)
				}
				seen[a.Key] = true
				switch {
				case a.Key == "id":
					ids[a.Val]++
				case a.Key == "aria-labelledby", a.Key == "href" && strings.HasPrefix(a.Val, "#"):
					wanted[strings.TrimPrefix(a.Val, "#")] = true
				case a.Key == "src":
					external = true
				case a.Key == "style", strings.HasPrefix(a.Key, "on"), strings.HasPrefix(a.Key, "hx-on"), strings.HasPrefix(a.Val, "javascript:"):
					t.Errorf("%s: inline %s=%q", where, a.Key, a.Val)
				}
			}
			if tok.Data == "style" || tok.Data == "script" && !external {
				t.Errorf("%s: inline %s", where, tok.Data)
			}
		case html.EndTagToken:
			tok := z.Token()
			if len(open) == 0 || open[len(open)-1] != tok.Data {
				t.Errorf("%s: </%s> ends %q", where, tok.Data, open)
				return
			}
			open = open[:len(open)-1]
		}
	}
}

// Both languages have the same texts, and the pages use all of them.
func TestCatalogues(t *testing.T) {
	read := func(lang string) map[string]any {
		b, err := files.ReadFile("page/" + lang + ".json")
		if err != nil {
			t.Fatal(err)
		}
		var m map[string]any
		if err := json.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	de, en := read("de"), read("en")
	if a, b := slices.Sorted(maps.Keys(de)), slices.Sorted(maps.Keys(en)); !slices.Equal(a, b) {
		t.Errorf("de: %q\nen: %q", a, b)
	}
	field := regexp.MustCompile(`\{\{[^}]*\}\}`)
	for id := range de {
		a, b := field.FindAllString(fmt.Sprint(de[id]), -1), field.FindAllString(fmt.Sprint(en[id]), -1)
		slices.Sort(a)
		slices.Sort(b)
		if !slices.Equal(a, b) {
			t.Errorf("%s: de names %q, en %q", id, a, b)
		}
	}

	var source strings.Builder
	for _, pattern := range []string{"page/*.html", "*.go"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			source.Write(b)
		}
	}
	// Some are put together: {{.T (print "state." .Worst)}}.
	made := regexp.MustCompile(`"([a-z]+\.)",? ?[.$+a-z]`)
	prefixes := map[string]bool{}
	for _, m := range made.FindAllStringSubmatch(source.String(), -1) {
		prefixes[m[1]] = true
	}
	for id := range de {
		prefix, _, _ := strings.Cut(id, ".")
		if !strings.Contains(source.String(), `"`+id+`"`) && !prefixes[prefix+"."] {
			t.Errorf("no page says %q", id)
		}
	}
}

func TestEveryAnswerIsGuarded(t *testing.T) {
	p := newPortal(t, sample())
	paths := append(pagePaths, "/live", "/log/live", "/log.txt", "/licences/notices.txt", "/api/v1/status", "/api/v1/log",
		"/api/v1/find", "/api/v1/names", "/find/live", "/update/live", "/update/attempts", "/update/gate?seen=0", "/api/v1/update", "/api/v1/update/settings", "/api/v1/update/attempts/2", "/find/token", "/find/qr.png?address=192.0.2.1",
		"/api/openapi.json", "/api/nowhere", "/assets/"+fingerprint()+"/style.css", "/?lang=de")
	for _, path := range paths {
		for _, host := range []string{"cloudlink.local", "evil.test"} {
			resp, _ := get(t, p, path, "Host", host)
			for name, want := range map[string]string{
				"Content-Security-Policy":      contentPolicy,
				"X-Content-Type-Options":       "nosniff",
				"X-Frame-Options":              "DENY",
				"Referrer-Policy":              "same-origin",
				"Cross-Origin-Resource-Policy": "same-origin",
			} {
				if path == "/find" && host != "evil.test" && name == "Content-Security-Policy" {
					continue // TestFindPolicyNamesOurNamesAlone
				}
				if got := resp.Header.Get(name); got != want {
					t.Errorf("%s: %s: %q", path, name, got)
				}
			}
			if host == "evil.test" && resp.StatusCode != http.StatusMisdirectedRequest {
				t.Errorf("%s under a foreign name: %s", path, resp.Status)
			}
			cached := strings.HasPrefix(path, "/assets/") && host != "evil.test"
			if got := resp.Header.Get("Cache-Control"); (got == "no-store") == cached {
				t.Errorf("%s: Cache-Control: %s", path, got)
			}
		}
	}
}

func TestOnlyReading(t *testing.T) {
	p := newPortal(t, sample())
	for _, path := range []string{"/", "/log", "/api/v1/status"} {
		if resp, body := request(t, p, http.MethodHead, path); resp.StatusCode != http.StatusOK {
			t.Errorf("HEAD %s: %s %s", path, resp.Status, body)
		}
		for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, "BREW"} {
			resp, body := request(t, p, method, path)
			if resp.StatusCode != http.StatusMethodNotAllowed || !strings.Contains(resp.Header.Get("Allow"), http.MethodGet) {
				t.Errorf("%s %s: %s, Allow %q", method, path, resp.Status, resp.Header.Get("Allow"))
			}
			if path == "/" {
				checkHTML(t, method, body)
			}
			resp, _ = request(t, p, method, path, "Origin", "http://evil.test")
			if resp.StatusCode != http.StatusForbidden {
				t.Errorf("%s %s from another site: %s", method, path, resp.Status)
			}
		}
	}
}

// A question that is not understood is not half answered.
func TestUnknownQueryParametersAreRefused(t *testing.T) {
	p := newPortal(t, sample())
	for path, want := range map[string]struct{ kind, param string }{
		"/?utm_source=mail":                    {"unknown", "utm_source"},
		"/?LANG=de":                            {"unknown", "LANG"},
		"/?lang=de&lang=de":                    {"twice", "lang"},
		"/?lang=fr":                            {"value", "lang"},
		"/?=":                                  {"unknown", ""},
		"/?%00%0d%0aSet-Cookie:%20a%3Db":       {"unknown", "\ufffd\ufffd\ufffdSet-Cookie: a=b"},
		"/?%3Cscript%3E=1":                     {"unknown", "&lt;script&gt;"},
		"/?" + strings.Repeat("x", 9000):       {"unknown", strings.Repeat("x", maxShown) + "…"},
		"/?%zz":                                {"form", ""},
		"/?a;b":                                {"form", ""},
		"/update/gate?boot=1&x":                {"unknown", "x"},
		"/live?boot=1":                         {"unknown", "boot"},
		"/update/gate?boot=1&boot=2":           {"twice", "boot"},
		"/update/gate?boot=1&seen=x":           {"value", "seen"},
		"/update?done=all":                     {"value", "done"},
		"/log?level=info&boot=current&after=1": {"unknown", "after"},
		"/log?level=warning":                   {"value", "level"},
		"/log?level=warn&level=error":          {"twice", "level"},
		"/log?boot=next":                       {"value", "boot"},
		"/log/live?lang=de":                    {"unknown", "lang"},
		"/log/live?after=1.5":                  {"value", "after"},
		"/log/live?after=18446744073709551616": {"value", "after"},
		"/log.txt?level=warn":                  {"unknown", "level"},
		"/licences?x=1":                        {"unknown", "x"},
		"/licences/notices.txt?lang=de":        {"unknown", "lang"},
		"/browsers?x=1":                        {"unknown", "x"},
		"/assets/" + fingerprint() + "/htmx.min.js?v=2": {"unknown", "v"},
	} {
		resp, body := get(t, p, path, "Accept-Language", "en")
		if resp.StatusCode != http.StatusBadRequest || resp.Header.Get("Set-Cookie") != "" {
			t.Errorf("%.60s: %s, cookie %q", path, resp.Status, resp.Header.Get("Set-Cookie"))
		}
		checkHTML(t, path, body)
		sentence := map[string]string{
			"form": "cannot be read. Remove it.", "unknown": "This page does not know “" + want.param + "”.",
			"twice": "“" + want.param + "” is in the address more than once.", "value": "“" + want.param + "” cannot have this value. Possible are: ",
		}[want.kind]
		if !strings.Contains(body, sentence) {
			t.Errorf("%.60s: does not say %q:\n%s", path, sentence, body)
		}
	}
	for path, want := range map[string]huma.ErrorDetail{
		"/api/v1/status?unknown=true":         {Location: "query.unknown", Message: `query parameter "unknown" is unknown; there are none here`},
		"/api/v1/log?since=5":                 {Location: "query.since", Message: `query parameter "since" is unknown; known are after, boot, level`},
		"/api/v1/log?after=5&after=6":         {Location: "query.after", Message: `query parameter "after" is given more than once; give it once`},
		"/api/v1/log?after=5;level=x":         {Location: "query", Message: "the query cannot be read; want name=value&name=value, percent-encoded"},
		"/api/openapi.json?pretty":            {Location: "query.pretty", Message: `query parameter "pretty" is unknown; there are none here`},
		"/api/v1/status?%0d%0a%1b[2J=\"<b>\"": {Location: "query.\ufffd\ufffd\ufffd[2J", Message: "query parameter \"\ufffd\ufffd\ufffd[2J\" is unknown; there are none here"},
	} {
		resp, body := get(t, p, path)
		var got huma.ErrorModel
		if err := json.Unmarshal([]byte(body), &got); err != nil || resp.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %s %s: %v", path, resp.Header.Get("Content-Type"), body, err)
			continue
		}
		if resp.StatusCode != http.StatusBadRequest || got.Status != http.StatusBadRequest || len(got.Errors) != 1 || *got.Errors[0] != want {
			t.Errorf("%s: %s %s", path, resp.Status, body)
		}
	}
}

func FuzzQuery(f *testing.F) {
	f.Add("level=info&boot=previous")
	f.Add("level=info&level=info")
	f.Add("%zz;")
	f.Add("\x1b[2J=%0d%0a&<b>")
	params := []param{langQuery, levelQuery, runQuery, {name: "after"}}
	f.Fuzz(func(t *testing.T, raw string) {
		q, wrong := checkQuery(raw, params)
		if wrong != nil {
			text := wrong.sentence() + wrong.Param
			if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) || utf8.RuneCountInString(wrong.Param) > maxShown+1 {
				t.Errorf("%q: says %q", raw, text)
			}
			return
		}
		// Both who take it apart, package url and huma, see the same.
		raw = q.Encode()
		for name, values := range q {
			if len(values) != 1 || values[0] != "" && queryparam.Get(raw, name) != values[0] {
				t.Errorf("%s: %q, huma: %q", name, values, queryparam.Get(raw, name))
			}
		}
	})
}

func TestOwnHost(t *testing.T) {
	own := ownNames{Host: "bureau.local", Unique: uniqueName("CLG-7F3A91")}
	for host, want := range map[string]bool{
		"cloudlink.local":              true,
		"CloudLink.local:8080":         true,
		"cloudlink.local.":             true,
		"cloudlink-clg-7f3a91.local":   true,
		"bureau.local":                 true,
		"localhost:8080":               true,
		"192.168.178.40":               true,
		"192.168.178.40:80":            true,
		"[fe80::1]":                    true,
		"[fe80::1%25eth0]:80":          true,
		"[::1]:80":                     true,
		"":                             false,
		":80":                          false,
		"evil.test":                    false,
		"cloudlink.local.evil.test":    false,
		"cloudlink-other.local":        false,
		"cloudlink-.local":             false,
		"cloudlink.local:http":         false,
		"cloudlink.local:80:80":        false,
		"cloudlink.local..":            false,
		"fe80::1":                      false,
		"[192.168.178.40]":             false,
		"[cloudlink.local]":            false,
		"192.168.178.40.evil.test":     false,
		"0x7f.1":                       false,
		"cloudlink.local@evil.test":    false,
		"[fe80::1]evil.test":           false,
		"[fe80::1]:80]":                false,
		"cloudlink.local:65536":        false,
		"cloudlink.local:-1":           false,
		"evil.test\x00cloudlink.local": false,
	} {
		if got := ownHost(host, own); got != want {
			t.Errorf("%q: %t", host, got)
		}
	}
	if ownHost("cloudlink-.local", ownNames{Host: defaultHost, Unique: uniqueName("")}) {
		t.Error("a gateway without serial number has a name made of nothing")
	}
}

func TestOwnNameOutlivesProcess1(t *testing.T) {
	g := sample()
	p := newPortal(t, g)
	const name = "cloudlink-clg-7f3a91.local"
	if resp, _ := get(t, p, "/", "Host", name); resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
	for _, p := range []*Portal{p, newPortal(t, g)} {
		for part := range map[Part]bool{PartMachine: true, PartNetwork: true} {
			g.change(func(g *gateway) { g.down = map[Part]bool{part: true} })
			if resp, _ := get(t, p, "/", "Host", name); resp.StatusCode != http.StatusOK {
				t.Errorf("without %s: %s", part, resp.Status)
			}
		}
	}
	g.change(func(g *gateway) { g.down = map[Part]bool{PartMachine: true, PartNetwork: true} })
	if resp, _ := get(t, p, "/", "Host", name); resp.StatusCode != http.StatusOK {
		t.Errorf("without both: %s", resp.Status)
	}
}

func FuzzOwnHost(f *testing.F) {
	f.Add("cloudlink.local:80", "CLG1")
	f.Add("[fe80::1%eth0]:80", "")
	f.Add("cloudlink-clg1.local", "CLG1")
	f.Fuzz(func(t *testing.T, host, serial string) {
		if !ownHost(host, ownNames{Host: defaultHost, Unique: uniqueName(serial)}) {
			return
		}
		// Whatever is let in is, as a browser reads it, a name of ours or an address.
		name := strings.TrimSuffix(strings.ToLower(host), ".")
		if h, _, err := net.SplitHostPort(host); err == nil {
			name = strings.TrimSuffix(strings.ToLower(h), ".")
		}
		name = strings.TrimSuffix(strings.TrimPrefix(name, "["), "]")
		address, _, _ := strings.Cut(name, "%")
		if name != "cloudlink.local" && name != "localhost" && name != "cloudlink-"+strings.ToLower(serial)+".local" && net.ParseIP(address) == nil {
			t.Errorf("let in: %q", host)
		}
	})
}

func TestLanguage(t *testing.T) {
	p := newPortal(t, sample())
	for _, c := range []struct{ accept, cookie, want string }{
		{"", "", "en"},
		{"de", "", "de"},
		{"de-CH,de;q=0.9,en;q=0.8", "", "de"},
		{"fr,de;q=0.5,en;q=0.7", "", "en"},
		{"fr", "", "en"},
		{"en-GB", "lang=de", "de"},
		{"de", "lang=en", "en"},
		{"de", "lang=fr", "de"},
		{"*;q=0.1", "", "en"},
		{strings.Repeat("de,", 4000), "", "de"},
	} {
		header := []string{"Accept-Language", c.accept}
		if c.cookie != "" {
			header = append(header, "Cookie", c.cookie)
		}
		if _, body := get(t, p, "/", header...); !strings.Contains(body, `<html lang="`+c.want+`">`) {
			t.Errorf("%.40q, %q: not %s", c.accept, c.cookie, c.want)
		}
	}
}

// Whoever chose a language has it everywhere, whatever the browser prefers, and on error pages too.
func TestChosenLanguageOnEveryPage(t *testing.T) {
	for name, g := range map[string]*gateway{"faulty": faulty(), "trying": trying()} {
		p := newPortal(t, g)
		for _, path := range append(pagePaths, "/live?version=0", "/log/live", "/network/live", "/network/diary", "/find/live", "/probation", "/?x", "/find/qr.png") {
			for _, lang := range languages {
				_, want := get(t, p, path, "Accept-Language", lang)
				for _, browser := range languages {
					if _, got := get(t, p, path, "Accept-Language", browser, "Cookie", "lang="+lang); stable(got) != stable(want) {
						t.Errorf("%s, %s: %s in a %s browser is\n%s", name, path, lang, browser, got)
					}
				}
			}
		}
	}
}

// stable leaves out of a page what changes by the second: the clock.
func stable(page string) string {
	return regexp.MustCompile(`<time[^>]*>[^<]*</time>`).ReplaceAllString(page, "")
}

func TestLanguageIsSwitchedByLink(t *testing.T) {
	p := newPortal(t, sample())
	resp, _ := get(t, p, "/log?level=warn&lang=de&boot=previous")
	if got := resp.Header.Get("Location"); resp.StatusCode != http.StatusSeeOther || got != "/log?boot=previous&level=warn" {
		t.Errorf("%s, to %q", resp.Status, got)
	}
	if got, want := resp.Header.Get("Set-Cookie"), "lang=de; Path=/; Max-Age=31536000; HttpOnly; SameSite=Lax"; got != want {
		t.Errorf("cookie %q", got)
	}
	for _, path := range []string{"//evil.test/?lang=de", "//evil.test/%2e%2e/log?lang=de", "/\\evil.test/?lang=de", "/nowhere?lang=de"} {
		resp, _ := get(t, p, path)
		if to := resp.Header.Get("Location"); strings.HasPrefix(to, "//") || strings.HasPrefix(to, "/\\") || strings.Contains(to, ":") {
			t.Errorf("%s leads to %q", path, to)
		}
	}
	if resp, _ := get(t, p, "/?lang=xx"); resp.StatusCode != http.StatusBadRequest || resp.Header.Get("Set-Cookie") != "" {
		t.Errorf("unknown language: %s, cookie %q", resp.Status, resp.Header.Get("Set-Cookie"))
	}
}

func FuzzLanguage(f *testing.F) {
	f.Add("de-CH,de;q=0.9,en;q=0.8", "en")
	f.Add("i-klingon;q=1,x-de", "de\x00")
	f.Add("de;q=0.5;q=0.9,*", "")
	f.Fuzz(func(t *testing.T, accept, cookie string) {
		r := &http.Request{Header: http.Header{"Accept-Language": {accept}, "Cookie": {"lang=" + cookie}}}
		if got := chooseLang(r); !known(got) {
			t.Errorf("language %q", got)
		}
	})
}

func TestInternetExplorerIsTold(t *testing.T) {
	p := newPortal(t, faulty())
	for _, agent := range []string{
		"Mozilla/5.0 (compatible; MSIE 10.0; Windows NT 6.2; Trident/6.0)",
		"Mozilla/5.0 (Windows NT 10.0; WOW64; Trident/7.0; rv:11.0) like Gecko",
	} {
		for _, path := range []string{"/", "/log", "/licences"} {
			_, body := get(t, p, path, "User-Agent", agent, "Accept-Language", "de-DE")
			for _, want := range []string{"Dieser Browser wird nicht unterstützt", "Internet Explorer", "Mozilla Firefox ab Version", "Entwicklungsschlüssel"} {
				if !strings.Contains(body, want) {
					t.Errorf("%s: lacks %q", path, want)
				}
			}
			if strings.Contains(body, "<script") || strings.Contains(body, "stylesheet") {
				t.Errorf("%s: not plain:\n%s", path, body)
			}
		}
	}
	if _, body := get(t, p, "/", "User-Agent", "Mozilla/5.0 (X11; Linux) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0 Safari/537.36"); !strings.Contains(body, "<script") {
		t.Error("Chrome gets the plain page")
	}
}

func TestDevelopmentKeysAreNamedOnEveryPage(t *testing.T) {
	production, development := newPortal(t, sample()), newPortal(t, faulty())
	for _, path := range pagePaths {
		if _, body := get(t, development, path); !strings.Contains(body, `class="development"`) {
			t.Errorf("%s: no banner", path)
		}
		if _, body := get(t, production, path); strings.Contains(body, `class="development"`) {
			t.Errorf("%s: banner on a production image", path)
		}
	}
}

func TestAssets(t *testing.T) {
	p := newPortal(t, sample())
	for name, path := range assets {
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		url := "/assets/" + fingerprint() + "/" + name
		resp, plain := get(t, p, url)
		if plain != string(want) || resp.Header.Get("Content-Encoding") != "" {
			t.Errorf("%s: not the file", name)
		}
		if got := resp.Header.Get("Cache-Control"); got != "public, max-age=31536000, immutable" {
			t.Errorf("%s: Cache-Control: %s", name, got)
		}
		if got := resp.Header.Get("Content-Type"); got == "" || strings.HasPrefix(got, "text/plain") {
			t.Errorf("%s: Content-Type: %s", name, got)
		}
		resp, packed := get(t, p, url, "Accept-Encoding", "br, gzip")
		if got := resp.Header.Get("Content-Encoding"); got != "gzip" || unzip(t, packed) != string(want) {
			t.Errorf("%s: as gzip: %q, %d bytes", name, got, len(packed))
		}
		if resp, _ := get(t, p, "/assets/000000000000/"+name); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s of another version: %s", name, resp.Status)
		}
	}
	if resp, _ := get(t, p, "/assets/"+fingerprint()+"/vendor.json"); resp.StatusCode != http.StatusNotFound {
		t.Errorf("what is no asset: %s", resp.Status)
	}
}

func unzip(t *testing.T, s string) string {
	t.Helper()
	z, err := gzip.NewReader(strings.NewReader(s))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestTakesGzip(t *testing.T) {
	for header, want := range map[string]bool{
		"": false, "gzip": true, "br, gzip;q=0.5": true, "gzip;q=0": false, "gzip; q=0.0": false, "gzip;q=x": false, "xgzip": false, "*": false,
	} {
		r := &http.Request{Header: http.Header{"Accept-Encoding": {header}}}
		if got := takesGzip(r); got != want {
			t.Errorf("%q: %t", header, got)
		}
	}
}

// What is vendored is what vendor.json says, and nothing else is.
func TestVendored(t *testing.T) {
	b, err := os.ReadFile("page/vendor.json")
	if err != nil {
		t.Fatal(err)
	}
	var list []struct {
		Name, Version, License, Source, File, SHA256 string

		LicenseFile string `json:"license_file"`
	}
	if err := json.Unmarshal(b, &list); err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for _, v := range list {
		b, err := os.ReadFile(filepath.Join("page", v.File))
		if err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != v.SHA256 {
			t.Errorf("%s: sha256 %x", v.File, sum)
		}
		if v.Name == "" || v.Version == "" || v.License == "" || !strings.Contains(v.Source, v.Name+"@"+v.Version) {
			t.Errorf("%s: %+v", v.File, v)
		}
		named[v.File], named[v.LicenseFile] = true, true
	}
	filepath.WalkDir("page/vendor", func(path string, d fs.DirEntry, err error) error {
		if rel, _ := filepath.Rel("page", path); err == nil && !d.IsDir() && !named[filepath.ToSlash(rel)] {
			t.Errorf("vendor.json does not name %s", path)
		}
		return err
	})
}

func TestNotices(t *testing.T) {
	p := newPortal(t, sample())
	resp, plain := get(t, p, "/licences/notices.txt")
	if !strings.HasPrefix(plain, "Third-party notices\n") || resp.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("%s: %q", resp.Header.Get("Content-Type"), plain)
	}
	resp, packed := get(t, p, "/licences/notices.txt", "Accept-Encoding", "gzip")
	if resp.Header.Get("Content-Encoding") != "gzip" || unzip(t, packed) != plain {
		t.Errorf("as gzip: %q", packed)
	}
	p = newPortal(t, sample(), func(c *Config) { c.Notices = "testdata/none" })
	if resp, _ := get(t, p, "/licences/notices.txt"); resp.StatusCode != http.StatusNotFound {
		t.Errorf("without notices: %s", resp.Status)
	}
	p = newPortal(t, sample(), func(c *Config) { c.Notices = "testdata/fonts.conf" })
	if resp, _ := get(t, p, "/licences/notices.txt"); resp.StatusCode != http.StatusInternalServerError {
		t.Errorf("damaged notices: %s", resp.Status)
	}
}

func TestLogPage(t *testing.T) {
	g := sample()
	p := newPortal(t, g)
	for path, want := range map[string]int{
		"/log": 10, "/log?level=error": 1, "/log?level=warn": 3, "/log?level=debug": 11, "/log?level=": 10, "/log?boot=current": 10,
		"/log?level=nonsense": 0, "/log?boot=before": 0, "/log?boot=previous": 1,
	} {
		if _, body := get(t, p, path); strings.Count(body, `class="text"`) != want {
			t.Errorf("%s: %d entries, want %d", path, strings.Count(body, `class="text"`), want)
		}
	}
	g.change(func(g *gateway) {
		for i := range 2 * shownEntries {
			g.entries = append(g.entries, machine.Entry{Seq: uint64(100 + i), Source: "x", Level: machine.LevelInfo, Text: fmt.Sprint("line ", i)})
		}
	})
	_, body := get(t, p, "/log")
	if n := strings.Count(body, `class="text"`); n != shownEntries || !strings.Contains(body, fmt.Sprint(shownEntries+10)+" older entries are not shown") {
		t.Errorf("%d entries of a long log", n)
	}
	if first := strings.Index(body, "line 999"); first < 0 || first > strings.Index(body, "line 998") {
		t.Error("the newest entry is not the first")
	}
	resp, body := get(t, p, "/log.txt")
	if n := strings.Count(body, "\n"); n != 11+2*shownEntries || !strings.HasPrefix(resp.Header.Get("Content-Disposition"), "attachment") {
		t.Errorf("as a file: %d lines, %s", n, resp.Header.Get("Content-Disposition"))
	}
	if !strings.Contains(body, "2026-11-22T09:14:05.624Z error console: read console: input/output error\n") {
		t.Errorf("as a file: %.300s", body)
	}
	resp, body = get(t, p, "/log.txt?boot=previous")
	if want := "2026-11-22T09:13:03.000Z info  init: restart requested by user 103, process 73\n"; body != want || !strings.Contains(resp.Header.Get("Content-Disposition"), "previous") {
		t.Errorf("the previous run's as a file: %q, %s", body, resp.Header.Get("Content-Disposition"))
	}
	for path, want := range map[string]string{"/log": `href="/log.txt"`, "/log?boot=previous": `href="/log.txt?boot=previous"`} {
		if _, body := get(t, p, path); !strings.Contains(body, want) {
			t.Errorf("%s does not offer %s", path, want)
		}
	}
	for path, want := range map[string]int{
		"/log/live?after=1099&boot=" + g.m.BootID: http.StatusNoContent,
		"/log/live?after=1098&boot=" + g.m.BootID: http.StatusOK,
		"/log/live?after=1099&boot=another":       http.StatusOK,
		"/log/live?after=":                        http.StatusOK,
		"/log/live?after=-1":                      http.StatusBadRequest,
	} {
		if resp, _ := get(t, p, path); resp.StatusCode != want {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
	g.change(func(g *gateway) { g.down[PartMachine] = true })
	if resp, _ := get(t, p, "/log.txt"); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("as a file without process 1: %s", resp.Status)
	}
	if resp, _ := get(t, p, "/log/live?after=1"); resp.StatusCode != http.StatusNoContent {
		t.Errorf("live without process 1: %s", resp.Status)
	}
	if resp, body := get(t, p, "/api/v1/log"); resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("API without process 1: %s %s", resp.Status, body)
	}
}

// What a service writes is seen on the page, in the file and by programs, and obeyed by no terminal.
func TestEscapeSequencesInTheLogAreShownNotObeyed(t *testing.T) {
	g := sample()
	g.entries = []machine.Entry{
		{Seq: 1, Source: "portal", Level: machine.LevelInfo, Text: `\x1b[2Jgone`}, // as process 1 hands it on
		{Seq: 2, Source: "\x1b[31m", Level: machine.LevelInfo, Text: "\x1b]0;title\x07 \u009b31m \x7f\x05 a\r\nSet-Cookie: b=c\n\u202eleft"},
	}
	g.before = g.entries
	p := newPortal(t, g)
	for _, path := range []string{"/log?level=debug", "/log?boot=previous", "/log/live", "/log.txt", "/log.txt?boot=previous", "/api/v1/log", "/api/v1/log?boot=previous"} {
		_, body := get(t, p, path)
		if i := strings.IndexFunc(body, func(r rune) bool { return r != '\n' && r != '\u00a0' && !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("%s: %q", path, body[i:min(i+20, len(body))])
		}
		shown := body
		if strings.HasPrefix(path, "/api") {
			shown = strings.ReplaceAll(body, `\\`, `\`)
		}
		for _, want := range []string{`\x1b[2Jgone`, "\ufffd[31m", "\ufffd]0;title\ufffd \ufffd31m", "a\ufffd\ufffdSet-Cookie: b=c"} {
			if !strings.Contains(shown, want) {
				t.Errorf("%s: lacks %q", path, want)
			}
		}
		if n := strings.Count(body, "\n"); strings.HasPrefix(path, "/log.txt") && n != 2 {
			t.Errorf("%s: %d lines", path, n)
		}
	}
}

func FuzzLogEntry(f *testing.F) {
	f.Add("kernel", "plain text", 6)
	f.Add("<b>", `</li><script>alert(1)</script>`, 3)
	f.Add(`"'`, "\x00\x1b[31m\u202e&lt;{{.}}\xff", 4)
	f.Fuzz(func(t *testing.T, source, text string, level int) {
		g := sample()
		g.entries = []machine.Entry{{Seq: 1, Source: source, Text: text, Level: machine.Level(level & 7)}}
		_, page := get(t, newPortal(t, g), "/log?level=debug")
		doc, err := html.Parse(strings.NewReader(page))
		if err != nil {
			t.Fatal(err)
		}
		var scripts int
		var entry []string // what the elements of the entry say
		for n := range doc.Descendants() {
			switch {
			case n.Data == "script":
				scripts++
			case n.Data == "li" && n.Parent.Data == "ol":
				for e := range n.Descendants() {
					if e.Type == html.ElementNode && (attribute(e, "class") == "source" || attribute(e, "class") == "text") {
						entry = append(entry, inner(e))
					} else if e.Type == html.ElementNode && e.Data != "time" && e.Data != "b" {
						t.Errorf("<%s> in the entry", e.Data)
					}
				}
			}
		}
		if scripts != 2 {
			t.Errorf("%d scripts", scripts)
		}
		if len(entry) != 2 || entry[0] != plain(source) || !strings.HasSuffix(entry[1], plain(text)) {
			t.Errorf("source %q, text %q: %q", source, text, entry)
		}
	})
}

func attribute(n *html.Node, key string) string {
	for _, a := range n.Attr {
		if a.Key == key {
			return a.Val
		}
	}
	return ""
}

func inner(n *html.Node) string {
	var b strings.Builder
	for c := range n.Descendants() {
		if c.Type == html.TextNode {
			b.WriteString(c.Data)
		}
	}
	return b.String()
}

// The API says what the page shows, and its description holds for what it says.
func TestAPI(t *testing.T) {
	for name, g := range everyState() {
		if strings.Contains(name, "later version") || name == "hostile" || name == "empty" {
			continue // not what the other parts say
		}
		p := newPortal(t, g)
		_, description := get(t, p, "/api/openapi.json")
		var doc struct {
			OpenAPI    string
			Components struct{ Schemas map[string]*huma.Schema }
		}
		if err := json.Unmarshal([]byte(description), &doc); err != nil || !strings.HasPrefix(doc.OpenAPI, "3.1") {
			t.Fatalf("description: %v, OpenAPI %q", err, doc.OpenAPI)
		}
		if strings.Contains(description, `"null"`) {
			t.Error("the description lets something be null")
		}
		for path, schema := range map[string]string{"/api/v1/status": "Status", "/api/v1/log": "Log", "/api/v1/log?boot=previous": "Log", "/api/v1/find": "Find", "/api/v1/names": "NamesState", updatePath: "UpdateStatus", updateSettingsPath: "SettingsUpdate"} {
			resp, body := get(t, p, path, "Accept-Language", "de")
			if resp.StatusCode == http.StatusServiceUnavailable && (g.down[PartMachine] || (path == namesPath || path == updateSettingsPath) && g.down[PartNetwork] || g.down[PartUpdate]) {
				schema = "ErrorModel"
			} else if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/json" {
				t.Errorf("%s: %s: %s %s", name, path, resp.Status, body)
			}
			for _, fault := range validate(t, doc.Components.Schemas, schema, body) {
				t.Errorf("%s: %s: %v", name, path, fault)
			}
		}
	}
	p := newPortal(t, faulty())
	_, body := get(t, p, "/api/v1/status", "Accept-Language", "de")
	var s Status
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		t.Fatal(err)
	}
	if want := p.status(t.Context(), "de"); fmt.Sprintf("%+v", s) != fmt.Sprintf("%+v", want) {
		t.Errorf("API: %+v\npage: %+v", s, want)
	}
	if got := s.Conditions[0]; got.ID != condition.ServiceFailing || got.Title != "Dienst „Konsole“ gestört" {
		t.Errorf("first condition: %+v", got)
	}
	for path, want := range map[string]int{
		"/api/":                                  http.StatusNotFound,
		"/api/v1/log?level=all":                  http.StatusUnprocessableEntity,
		"/api/v1/log?after=-1":                   http.StatusUnprocessableEntity,
		"/api/v1/log?after=5":                    http.StatusOK,
		"/api/v1/log?after=5&level=warn&boot=":   http.StatusOK,
		"/api/v1/log?%6cevel=all":                http.StatusUnprocessableEntity,
		"/api/v1/log?after&level=error&boot=old": http.StatusUnprocessableEntity,
		"/api/openapi.yaml":                      http.StatusOK,
		"/api/docs":                              http.StatusNotFound,
		"/docs":                                  http.StatusNotFound,
	} {
		resp, body := get(t, p, path)
		if resp.StatusCode != want {
			t.Errorf("%s: %s %s", path, resp.Status, body)
		}
		if want >= 400 && strings.HasPrefix(path, "/api") && resp.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: an error of type %s", path, resp.Header.Get("Content-Type"))
		}
	}
}

// validate returns where body does not fit the schema of this name.
func validate(t *testing.T, schemas map[string]*huma.Schema, name, body string) []error {
	t.Helper()
	registry := huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer)
	maps.Copy(registry.Map(), schemas)
	for _, s := range schemas {
		s.PrecomputeMessages()
	}
	var v any
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		return []error{err}
	}
	result := &huma.ValidateResult{}
	huma.Validate(registry, schemas[name], huma.NewPathBuffer(nil, 0), huma.ModeReadFromServer, v, result)
	return result.Errors
}

func TestManyViewersCostAsMuchAsOne(t *testing.T) {
	g := sample()
	p := newPortal(t, g)
	p.keep = time.Hour
	var viewers sync.WaitGroup
	for range 50 {
		viewers.Go(func() { get(t, p, "/live") })
	}
	viewers.Wait()
	if g.asked != 3 { // process 1 and the services, once each
		t.Errorf("asked %d times", g.asked)
	}
}

// A hung stands in for a part that takes the question and never answers.
type hung struct{ Network }

func (hung) Status(ctx context.Context) (network.Status, error) {
	<-ctx.Done()
	return network.Status{}, ctx.Err()
}

func TestHungPartDelaysNoPage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPortal(t, sample(), func(c *Config) { c.Network = hung{} })
		p.keep = keepTime
		for _, path := range pagePaths {
			start := time.Now() // in the bubble: exact
			get(t, p, path)
			if waited := time.Since(start); waited > askTime {
				t.Errorf("%s: waited %v", path, waited)
			}
			time.Sleep(keepTime)
		}
		_, body := get(t, p, "/")
		if !strings.Contains(body, "The network service does not answer at present.") || !strings.Contains(body, "CLG-7F3A91") {
			t.Errorf("page: %s", body)
		}
	})
}

// Parts start one after the other, and start again: only one that stays silent is worth a line.
func TestASilentPartIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := sample()
		var kept journal
		p := newPortal(t, g, func(c *Config) { c.Log = kept.logger() })
		watch := func(seconds int) string {
			before := kept.String()
			for range seconds { // as a page does that is open
				get(t, p, "/live")
				time.Sleep(time.Second)
			}
			return strings.TrimPrefix(kept.String(), before)
		}
		down := func(is bool) { g.change(func(g *gateway) { g.down[PartNetwork] = is }) }
		down(true)
		if said := watch(5); said != "" {
			t.Errorf("while it starts: %s", said)
		}
		down(false)
		if said := watch(5); said != "" {
			t.Errorf("when it is up: %s", said)
		}
		down(true)
		if said := watch(60); strings.Count(said, "\n") != 1 || !strings.Contains(said, `level=WARN msg="part does not answer" part=network`) {
			t.Errorf("when it stays silent: %s", said)
		}
		down(false)
		if said := watch(5); strings.Count(said, "\n") != 1 || !strings.Contains(said, `level=INFO msg="part answers again" part=network`) {
			t.Errorf("when it answers again: %s", said)
		}
	})
}

func TestViewerWhoLeavesDoesNotSpoilTheAnswerForOthers(t *testing.T) {
	p := newPortal(t, sample())
	p.keep = time.Hour
	ctx, leave := context.WithCancel(t.Context())
	leave()
	if s := p.status(ctx, "en"); len(s.Unknown) > 0 {
		t.Errorf("unknown: %v", s.Unknown)
	}
}

type panics struct{ Machine }

func (panics) Status(context.Context) (machine.Status, error) { panic("<i>oops</i>") }

func TestPanicIsOnePagesEnd(t *testing.T) {
	p := newPortal(t, sample(), func(c *Config) { c.Machine = panics{} })
	for range 2 { // and leaves no lock behind
		resp, body := get(t, p, "/")
		if resp.StatusCode != http.StatusInternalServerError || !strings.Contains(body, "Internal error") || strings.Contains(body, "oops") {
			t.Errorf("%s: %s", resp.Status, body)
		}
		checkHTML(t, "panic", body)
	}
	if resp, _ := get(t, p, "/licences"); resp.StatusCode != http.StatusOK {
		t.Errorf("afterwards: %s", resp.Status)
	}
}

func TestWordsAndNumbers(t *testing.T) {
	de, en := view{Lang: "de"}, view{Lang: "en"}
	for _, c := range []struct{ got, want string }{
		{de.Bytes(1023), "1,0 KiB"},
		{en.Bytes(999), "999 B"},
		{de.Bytes(1536), "1,5 KiB"},
		{en.Bytes(231 << 20), "231 MiB"},
		{de.Bytes(1 << 30), "1,0 GiB"},
		{en.Number(-1234567.891, 2), "-1,234,567.89"},
		{de.Number(-123, 0), "-123"},
		{de.Number(1000, 0), "1.000"},
		{de.Speed(100), "100 Mbit/s"},
		{de.Speed(1000), "1 Gbit/s"},
		{de.Speed(2500), "2,5 Gbit/s"},
		{en.Speed(0), ""},
		{de.Time(time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)), "04.03.2026, 05:06:07"},
		{en.Time(time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)), "4 Mar 2026, 05:06:07"},
	} {
		if got := strings.ReplaceAll(c.got, nbsp, " "); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
	for seconds, want := range map[float64][2]string{
		-1:     {"0 Sek.", "0 s"},
		0.9:    {"0 Sek.", "0 s"},
		59:     {"59 Sek.", "59 s"},
		61:     {"1 Min. 1 Sek.", "1 min 1 s"},
		3600:   {"1 Std. 0 Min.", "1 h 0 min"},
		86400:  {"1 Tag 0 Std.", "1 day 0 h"},
		187432: {"2 Tage 4 Std.", "2 days 4 h"},
		1e8:    {"1.157 Tage 9 Std.", "1,157 days 9 h"},
	} {
		for i, v := range []view{de, en} {
			got, err := v.Duration(seconds)
			if got = strings.ReplaceAll(got, nbsp, " "); err != nil || got != want[i] {
				t.Errorf("%v %s: %q, %v", seconds, v.Lang, got, err)
			}
		}
	}
}

// A version and a boot's name come back from the page as they are, whatever is in them.
func TestLivePartDoesNotTellOfARestartThatWasNone(t *testing.T) {
	g := sample()
	g.m.BootID = "a+b&c=d%20"
	p := newPortal(t, g, func(c *Config) { c.Release.Version = "0.0.0-dev.206+ge4365a3" })
	for page, asks := range map[string]*regexp.Regexp{
		"/":    regexp.MustCompile(`hx-get="(/update/gate[^"]*)"`),
		"/log": regexp.MustCompile(`hx-get="(/log/live[^"]*)"`),
	} {
		_, body := get(t, p, page, "Accept-Language", "en")
		m := asks.FindStringSubmatch(body)
		if m == nil {
			t.Fatalf("%s does not ask for its live part", page)
		}
		resp, live := get(t, p, html.UnescapeString(m[1]), "Accept-Language", "en")
		if resp.StatusCode >= 300 || strings.Contains(live, "restarted") {
			t.Errorf("%s: %s %s", m[1], resp.Status, live)
		}
	}
}
