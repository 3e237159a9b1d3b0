package portal

import (
	"bytes"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"cloudlink.local/gateway/internal/settings"
	"cloudlink.local/gateway/internal/update"
	"cloudlink.local/gateway/internal/update/trust"
)

func TestSoftwarePage(t *testing.T) {
	for name, c := range map[string]struct {
		g       *gateway
		says    []string
		saysNot []string
		buttons []string // where they lead to
		nowhere []string
	}{
		"all is well": {
			g:       sample(),
			says:    []string{"Auf dem neuesten Stand", "Systembereich A", "0.9.0", "erstellt am 02.10.2026", "Update von 0.9.0 auf 1.0.0", "Gelungen", "Probealarm mit 0.8.0", "Bestanden", "nur die Unterschiede", "1,2\u00a0MiB", "dem Gateway selbst"},
			buttons: []string{"check", "rollback", "drill", "upload", "settings"}, nowhere: []string{"install", "cancel"},
		},
		"M48: there is an update": {
			g:       offered(),
			says:    []string{"Version 1.1.0 ist verfügbar", "Version 1.1.0 installieren", "1,4\u00a0MiB", "Der Verlauf nennt jetzt auch VLANs.", "Ein Port ohne Router wird wieder grün."},
			buttons: []string{"check", "install"}, nowhere: []string{"cancel"},
		},
		"M4: on its way": {
			g: downloading(), says: []string{"Systemupdate läuft", "Update von 1.0.0 auf 1.1.0: Herunterladen"},
			buttons: []string{"cancel"}, nowhere: []string{"install", "check", "rollback", "drill", "upload"},
		},
		"on trial": {
			g: proving(), says: []string{"Was die neue Version nachweisen muss", "Dienst „Netzwerk“ läuft", "Port eth0 hat seine Adressen wieder", "no DHCP server has answered", "noch nicht"},
			nowhere: []string{"cancel", "install", "check"},
		},
		"M6: failed": {
			g: updateFailedThere(), says: []string{"Update-Fehler", "Der Update-Server antwortet nicht.", "TCP-Port 443", "no route to host", "Erneut versuchen"},
			buttons: []string{"install", "check"},
		},
		"M6: gone back": {
			g:       returned(),
			says:    []string{"Update-Fehler", "nicht alles arbeitete wie zuvor", "Port eth0 hat seine Adressen wieder", "FEHLER", "no answer to DHCP DISCOVER", `/api/v1/update/attempts/3?lang=de"`, `/api/v1/update/attempts/3.json"`},
			saysNot: []string{"Erneut versuchen"},
		},
		"no server": {
			g: func() *gateway {
				g := sample()
				g.u = update.Status{State: update.Idle, Version: "1.0.0", Check: &update.LastCheck{Reason: update.NoServer}}
				return g
			}(),
			says: []string{"Es ist kein Update-Server eingetragen.", "noch kein Update installiert", "keine, die starten könnte"}, nowhere: []string{"rollback", "drill"},
		},
		"the check failed": {
			g: func() *gateway {
				g := sample()
				g.u.Check = &update.LastCheck{Time: g.m.Time, Reason: update.Reason(trust.Certificate), Detail: "x509: certificate has expired"}
				return g
			}(),
			says: []string{"Die Suche nach Updates ist nicht gelungen", "Zertifikat", "x509: certificate has expired"},
		},
		"being asked": {
			g:    func() *gateway { g := sample(); g.u.Checking = true; return g }(),
			says: []string{"Suche nach Updates läuft"}, buttons: []string{"cancel"}, nowhere: []string{"check"},
		},
		"without the update service": {
			g:    func() *gateway { g := sample(); g.down[PartUpdate] = true; return g }(),
			says: []string{"Der Update-Dienst antwortet derzeit nicht."}, buttons: []string{"settings"}, nowhere: []string{"check", "upload"},
		},
	} {
		p := newPortal(t, c.g)
		_, body := get(t, p, "/update", "Accept-Language", "de")
		checkHTML(t, name, body)
		for _, want := range c.says {
			if !strings.Contains(body, want) {
				t.Errorf("%s: lacks %q", name, want)
			}
		}
		for _, no := range c.saysNot {
			if strings.Contains(body, no) {
				t.Errorf("%s: says %q", name, no)
			}
		}
		for _, b := range c.buttons {
			if !strings.Contains(body, `action="/update/`+b+`"`) {
				t.Errorf("%s: no way to %s", name, b)
			}
		}
		for _, b := range c.nowhere {
			if strings.Contains(body, `action="/update/`+b+`"`) {
				t.Errorf("%s: a way to %s", name, b)
			}
		}
		for _, part := range []string{"/update/live", "/update/attempts"} {
			if resp, body := get(t, p, part); resp.StatusCode >= 300 || strings.Contains(body, "no value") {
				t.Errorf("%s %s: %s %s", name, part, resp.Status, body)
			}
		}
	}
}

func TestUpdateButtons(t *testing.T) {
	g := offered()
	p := newPortal(t, g)
	press := func(name string, values url.Values) (*http.Response, string) {
		t.Helper()
		return submit(t, p, "/update/"+name, values, "", "Accept-Language", "de")
	}
	for _, name := range []string{"check", "install", "cancel", "usb", "rollback", "drill"} {
		sure := url.Values{}
		if name == "usb" || name == "rollback" || name == "drill" {
			if resp, body := press(name, sure); resp.StatusCode != http.StatusBadRequest {
				t.Errorf("%s, not confirmed: %s %s", name, resp.Status, body)
			}
			sure.Set("sure", "yes")
		}
		resp, body := press(name, sure)
		if want := map[string]string{"cancel": "/update?done=cancelling"}[name]; resp.StatusCode != http.StatusSeeOther || want != "" && resp.Header.Get("Location") != want {
			t.Errorf("%s: %s to %q: %s", name, resp.Status, resp.Header.Get("Location"), body)
		}
	}
	if want := []string{"check", "install", "cancel", "usb", "rollback", "drill"}; len(g.up.orders) != len(want) || !slices.EqualFunc(g.up.orders, want, strings.HasPrefix) {
		t.Errorf("ordered %q", g.up.orders)
	}
	g.change(func(g *gateway) { g.up.refuse = &update.Refusal{Text: "an update is on its way already"} })
	if resp, body := press("install", nil); resp.StatusCode != http.StatusConflict || !strings.Contains(body, "Ein Update ist bereits unterwegs. Warten Sie") {
		t.Errorf("%s %s", resp.Status, body)
	}
	if resp, body := press("cancel", nil); resp.StatusCode != http.StatusConflict || !strings.Contains(body, "das sich noch abbrechen ließe") {
		t.Errorf("%s %s", resp.Status, body)
	}
	g.change(func(g *gateway) { g.down[PartUpdate] = true })
	if resp, body := press("check", nil); resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, "Der Update-Dienst antwortet nicht.") {
		t.Errorf("%s %s", resp.Status, body)
	}
}

// upload sends a file as a browser's form does.
func upload(t *testing.T, h http.Handler, field, name, content string) (*http.Response, string) {
	t.Helper()
	var b bytes.Buffer
	form := multipart.NewWriter(&b)
	part, err := form.CreateFormFile(field, name)
	if err != nil {
		t.Fatal(err)
	}
	part.Write([]byte(content))
	form.Close()
	r := httptest.NewRequest("POST", "/update/upload", &b)
	r.Host = "192.0.2.1"
	r.Header.Set("Content-Type", form.FormDataContentType())
	r.Header.Set("Accept-Language", "en")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result(), w.Body.String()
}

func TestBundleIsUploadedInTheForm(t *testing.T) {
	g := sample()
	p := newPortal(t, g)
	bundle := strings.Repeat("0123456789", maxBody/5)
	if resp, body := upload(t, p, "bundle", "1.1.0.bundle", bundle); resp.StatusCode != http.StatusSeeOther || string(g.up.bundle) != bundle {
		t.Errorf("%s %s, %d bytes", resp.Status, body, len(g.up.bundle))
	}
	if resp, body := upload(t, p, "bundle", "1.1.0.bundle", bundle); resp.StatusCode != http.StatusConflict || !strings.Contains(body, "An update is on its way already.") {
		t.Errorf("a second one: %s %s", resp.Status, body)
	}
	g.change(func(g *gateway) {
		g.u.State = update.Confirmed
		g.up.refuse = &update.Refusal{Check: &update.LastCheck{Reason: update.Reason(trust.UnknownKeys)}}
	})
	if resp, body := upload(t, p, "bundle", "other.bundle", "x"); resp.StatusCode != 422 || !strings.Contains(body, "not signed with the keys that this gateway trusts") {
		t.Errorf("%s %s", resp.Status, body)
	}
	if resp, body := upload(t, p, "bundle", "", ""); resp.StatusCode != 422 || !strings.Contains(body, "No file was chosen.") {
		t.Errorf("without a file: %s %s", resp.Status, body)
	}
	if resp, _ := upload(t, p, "other", "x", "x"); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("another form: %s", resp.Status)
	}
	if resp, _ := submit(t, p, "/update/upload", url.Values{"bundle": {"x"}}, ""); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("no form for files: %s", resp.Status)
	}
}

func TestUpdateSettingsForm(t *testing.T) {
	g := sample()
	p := newPortal(t, g)
	typed := url.Values{"server": {" https://updates.example/cloudlink "}, "channel": {"beta"}, "not_during_calls": {"true"},
		"window.from": {"02:00"}, "window.to": {"05:00"}, "window.zone": {"Europe/Berlin"}}
	resp, body := submit(t, p, "/update/settings", typed, "")
	want := settings.Update{Server: "https://updates.example/cloudlink", Channel: settings.Beta, NotDuringCalls: true, Window: settings.Window{From: "02:00", To: "05:00", Zone: "Europe/Berlin"}}
	if resp.StatusCode != http.StatusSeeOther || resp.Header.Get("Location") != "/update?done=saved" || g.net.settings.Update != want {
		t.Fatalf("%s %s: %+v", resp.Status, body, g.net.settings.Update)
	}
	_, body = get(t, p, "/update")
	for _, has := range []string{`value="https://updates.example/cloudlink"`, `value="beta" checked`, `type="time" value="02:00"`, `value="Europe/Berlin"`, `name="not_during_calls" value="true" checked`, `name="automatic" value="true" aria`} {
		if !strings.Contains(body, has) {
			t.Errorf("lacks %q", has)
		}
	}
	for field, c := range map[string]struct{ name, value, text string }{
		"update-server":           {"server", "updates.example", "keine Adresse eines Update-Servers"},
		"update-channel":          {"channel", "nightly", "Update-Kanal"},
		"update-window-from":      {"window.from", "", "nur ein Ende"},
		"update-window-to":        {"window.to", "26:00", "26:00"},
		"update-window-zone":      {"window.zone", "Atlantis", "keine Zeitzone"},
		"update-not_during_calls": {"not_during_calls", "perhaps", "perhaps"},
	} {
		values := url.Values{}
		for k, v := range typed {
			values[k] = v
		}
		values.Set(c.name, c.value)
		resp, body := submit(t, p, "/update/settings", values, "", "Accept-Language", "de")
		checkHTML(t, field, body)
		_, at, found := strings.Cut(body, `id="`+field+`-wrong"`)
		if resp.StatusCode != 422 || !found {
			t.Errorf("%s: %s, marked: %v: %s", field, resp.Status, found, body)
			continue
		}
		if text, _, _ := strings.Cut(at, "</div>"); !strings.Contains(text, c.text) && field != "update-not_during_calls" {
			t.Errorf("%s: %s", field, text)
		}
	}
	if g.net.settings.Update != want {
		t.Errorf("changed: %+v", g.net.settings.Update)
	}
	g.change(func(g *gateway) { g.down[PartNetwork] = true })
	if resp, _ := submit(t, p, "/update/settings", typed, ""); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("%s", resp.Status)
	}
}

func FuzzUpdateForm(f *testing.F) {
	f.Add("https://updates.example", "beta", "true", "02:00", "05:00", "Europe/Berlin")
	f.Add("\x00", "\xff", "<b>", "24:00", "", "../../etc/passwd")
	f.Fuzz(func(t *testing.T, server, channel, automatic, from, to, zone string) {
		u, err := updateOf(map[string]string{"server": server, "channel": channel, "automatic": automatic, "window.from": from, "window.to": to, "window.zone": zone})
		if err != nil {
			fm := form{view: view{Lang: "en"}, Key: "update"}
			if fm.blame(err); !fm.Failed() {
				t.Errorf("%v is blamed on nothing", err)
			}
			return
		}
		if u.Automatic != (automatic == "true") || u.NotDuringCalls {
			t.Errorf("%+v", u)
		}
	})
}
