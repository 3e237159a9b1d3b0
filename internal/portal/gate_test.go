package portal

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"cloudlink.local/gateway/internal/network"
	"cloudlink.local/gateway/internal/update"
)

// constants are the values of a file's constants of one type.
func constants(t *testing.T, file, of string) (values []string) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok {
			if typ, ok := v.Type.(*ast.Ident); ok && typ.Name == of {
				for _, value := range v.Values {
					s, err := strconv.Unquote(value.(*ast.BasicLit).Value)
					if err != nil {
						t.Fatal(err)
					}
					values = append(values, s)
				}
			}
		}
		return true
	})
	if len(values) == 0 {
		t.Fatalf("%s has no constants of type %s", file, of)
	}
	return values
}

// Whatever the update service says has its words.
func TestM6_EveryReasonHasATextAndACure(t *testing.T) {
	words := map[string][]string{"why.": nil, "step.": nil, "proof.": nil, "attempt.": nil, "source.": nil}
	reasons := append(constants(t, "../update/reason.go", "Reason"), constants(t, "../update/trust/reason.go", "Reason")...)
	for _, r := range reasons {
		words["why."] = append(words["why."], r, r+".cure")
	}
	words["step."] = constants(t, "../update/state.go", "State")
	words["attempt."] = constants(t, "../update/state.go", "Kind")
	words["source."] = constants(t, "../update/state.go", "Source")
	words["proof."] = constants(t, "../update/health.go", "CheckName")
	for _, lang := range languages {
		b, err := files.ReadFile("page/" + lang + ".json")
		if err != nil {
			t.Fatal(err)
		}
		var catalogue map[string]any
		if err := json.Unmarshal(b, &catalogue); err != nil {
			t.Fatal(err)
		}
		for prefix, list := range words {
			for _, w := range list {
				text, _ := catalogue[prefix+w].(string)
				if text == "" || prefix == "why." && !strings.HasSuffix(text, ".") {
					t.Errorf("%s: %s%s: %q", lang, prefix, w, text)
				}
			}
		}
	}
	// One that is not known yet is shown as it is, with what helps in any case.
	v := view{Lang: "de"}
	if v.Reason("of a later version") != "of a later version" || !strings.Contains(v.ReasonCure("of a later version"), "Servicepartner") {
		t.Error("a reason of a later version")
	}
}

// What answers again is compared with what the page was made from, before anything is said.
func TestM5_GateComparesBeforeItSpeaks(t *testing.T) {
	const (
		boot1, boot2 = "6b0f5f5e-3f0c-4a53-9d55-0c1c4ad2a1f7", "11111111-2222-3333-4444-555555555555"
	)
	then := origin{Boot: boot1, Slot: "a", Version: "1.0.0", Seen: 2}
	type change func(g *gateway)
	reboot := func(slot, version string) change {
		return func(g *gateway) {
			g.m.BootID, g.m.Slot, g.u.Slot, g.m.Release.Version, g.u.Version = boot2, slot, slot, version, version
		}
	}
	attempt := func(kind update.Kind, to string, state update.State, reason update.Reason) change {
		return func(g *gateway) {
			a := g.begin(kind, to, update.Checking, state)
			a.From, a.Reason = "1.0.0", reason
		}
	}
	down := func(p Part) change { return func(g *gateway) { g.down[p] = true } }
	uptime := func(s float64) change { return func(g *gateway) { g.m.UptimeSeconds = s } }
	for name, c := range map[string]struct {
		changes []change
		want    gateKind
		mute    bool
	}{
		"nothing has happened":                        {nil, gateShut, false},
		"M4: an update begins":                        {[]change{attempt("update", "1.1.0", update.Downloading, "")}, gateWorking, false},
		"restarted, on trial":                         {[]change{attempt("update", "1.1.0", update.Trial, ""), reboot("b", "1.1.0")}, gateWorking, false},
		"updated":                                     {[]change{attempt("update", "1.1.0", update.Confirmed, ""), reboot("b", "1.1.0")}, gateUpdated, false},
		"confirmed, but the version before runs":      {[]change{attempt("update", "1.1.0", update.Confirmed, ""), reboot("a", "1.0.0")}, gateRestart, false},
		"confirmed, but another version runs":         {[]change{attempt("update", "1.1.0", update.Confirmed, ""), reboot("b", "1.2.0")}, gateOther, false},
		"M6: failed":                                  {[]change{attempt("update", "1.1.0", update.Failed, update.NoSpace)}, gateError, false},
		"failed, and restarted since":                 {[]change{attempt("update", "1.1.0", update.Failed, update.Interrupted), reboot("a", "1.0.0")}, gateError, false},
		"cancelled":                                   {[]change{attempt("update", "1.1.0", update.Failed, update.Cancelled)}, gateEnded, false},
		"M6: has not proved itself, runs still":       {[]change{attempt("update", "1.1.0", update.RolledBack, update.CheckFailed), reboot("b", "1.1.0")}, gateReturns, false},
		"M6: rolled back":                             {[]change{attempt("update", "1.1.0", update.RolledBack, update.CheckFailed), reboot("a", "1.0.0")}, gateReturned, false},
		"went back as wanted":                         {[]change{attempt("rollback", "0.9.0", update.Confirmed, ""), reboot("b", "0.9.0")}, gateBack, false},
		"drill passed, runs still":                    {[]change{attempt("drill", "0.9.0", update.Confirmed, ""), reboot("b", "0.9.0")}, gateDrilling, false},
		"drill passed":                                {[]change{attempt("drill", "0.9.0", update.Confirmed, ""), reboot("a", "1.0.0")}, gateDrilled, false},
		"restarted only":                              {[]change{reboot("a", "1.0.0")}, gateRestart, false},
		"restarted with another version":              {[]change{reboot("a", "1.1.0")}, gateOther, false},
		"restarted from the other slot":               {[]change{reboot("b", "1.0.0")}, gateOther, false},
		"process 1 does not answer":                   {[]change{reboot("b", "1.1.0"), down(PartMachine)}, gateShut, true},
		"M4: an update, process 1 does not answer":    {[]change{attempt("update", "1.1.0", update.Downloading, ""), down(PartMachine)}, gateWorking, false},
		"updates do not answer, nothing has happened": {[]change{down(PartUpdate)}, gateShut, true},
		"updates do not answer yet":                   {[]change{reboot("b", "1.1.0"), uptime(5), down(PartUpdate)}, gateShut, true},
		"updates do not answer at all":                {[]change{reboot("b", "1.1.0"), down(PartUpdate)}, gateOther, false},
	} {
		g := sample()
		for _, change := range c.changes {
			change(g)
		}
		p := newPortal(t, g)
		now, ok := newGate(then, p.glance(t.Context()))
		if ok == c.mute || ok && now.Kind != c.want {
			t.Errorf("%s: %q, says something: %v; want %q", name, now.Kind, ok, c.want)
		}
		for _, lang := range languages {
			resp, body := get(t, p, gatePath+"?"+then.Query(), "Accept-Language", lang)
			where := fmt.Sprintf("%s, %s", name, lang)
			if (resp.StatusCode == 204) != c.mute || resp.StatusCode >= 300 {
				t.Errorf("%s: %s", where, resp.Status)
			}
			if strings.Contains(body, "no value") || (strings.TrimSpace(body) == "") != (c.mute || c.want == gateShut) {
				t.Errorf("%s: %q", where, body)
			}
			if c.want == gateWorking && !strings.Contains(body, map[string]string{"de": "Systemupdate läuft", "en": "System update in progress"}[lang]) ||
				strings.HasPrefix(name, "M6") && !strings.Contains(body, map[string]string{"de": "Update-Fehler", "en": "Update error"}[lang]) {
				t.Errorf("%s: %s", where, body)
			}
			if (now.Failed() || now.Kind == gateWorking) && !strings.Contains(body, `href="/update/help"`) {
				t.Errorf("M8: %s does not lead to the help: %s", where, body)
			}
		}
	}
}

// Every page says it, to whoever opens it.
func TestM4_EveryPageSaysThatAnUpdateIsOnItsWay(t *testing.T) {
	for lang, words := range map[string]string{"de": "Systemupdate läuft", "en": "System update in progress"} {
		p := newPortal(t, downloading())
		for _, path := range pagePaths {
			_, body := get(t, p, path, "Accept-Language", lang)
			for _, want := range []string{words, `<progress max="12582912" value="5242880"`, map[string]string{"de": "5,0 MiB von 12,0 MiB, noch 42 Sek.", "en": "5.0 MiB of 12.0 MiB, 42 s left"}[lang]} {
				if !strings.Contains(strings.ReplaceAll(body, nbsp, " "), want) {
					t.Errorf("%s %s: lacks %q", lang, path, want)
				}
			}
		}
		if _, body := get(t, newPortal(t, sample()), "/", "Accept-Language", lang); strings.Contains(body, words) {
			t.Errorf("%s: without an update", lang)
		}
	}
}

func TestM46_OverviewHasTheConditionsOfUpdates(t *testing.T) {
	for want, g := range map[string]*gateway{"Systemupdate läuft": downloading(), "Update-Fehler": returned(), "Update verfügbar: Version 1.1.0": offered()} {
		_, body := get(t, newPortal(t, g), "/", "Accept-Language", "de")
		_, after, _ := strings.Cut(body, `class="card conditions"`)
		if !strings.Contains(after, want) || !strings.Contains(after, `<a href="/update">`) || !strings.Contains(after, `<a href="/update/help">`) {
			t.Errorf("%s: %s", want, after)
		}
	}
}

func FuzzGate(f *testing.F) {
	f.Add("6b0f5f5e", "a", "1.0.0", "2", "network")
	f.Add("\x00<script>", "\u202e", `"&`, "-1", "//evil.test")
	g := returned()
	p := newPortal(f, g)
	f.Fuzz(func(t *testing.T, boot, slot, version, seen, page string) {
		q := url.Values{"boot": {boot}, "slot": {slot}, "version": {version}, "seen": {seen}, "page": {page}}
		resp, body := get(t, p, gatePath+"?"+q.Encode(), "Accept-Language", "en")
		if n, err := strconv.Atoi(seen); (err == nil && n >= 0) != (resp.StatusCode == 200) || resp.StatusCode >= 500 {
			t.Errorf("%q: %s", q, resp.Status)
		}
		if strings.Contains(body, "evil") || strings.Contains(body, "<script>alert") {
			t.Errorf("%q: %s", q, body)
		}
	})
}

// The asker is the one who is at the other end of the connection.
func TestByOf(t *testing.T) {
	if got := byOf(network.Request{}); got != byPortal {
		t.Error(got)
	}
}
