package portal

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"cloudlink.local/gateway/internal/settings"
	"cloudlink.local/gateway/internal/update"
	"cloudlink.local/gateway/internal/update/trust"
)

func TestUpdateAPI(t *testing.T) {
	g := offered()
	p := newPortal(t, g)
	_, description := get(t, p, "/api/openapi.json")
	var doc struct {
		Components struct{ Schemas map[string]*huma.Schema }
		Paths      map[string]any
	}
	if err := json.Unmarshal([]byte(description), &doc); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{updatePath, updateEventsPath, updateCheckPath, updateUploadPath, updateSettingsPath, attemptsPath + "{id}"} {
		if doc.Paths[path] == nil {
			t.Errorf("the description lacks %s", path)
		}
	}
	step := func(method, path, body, schema string, want int, header ...string) string {
		t.Helper()
		resp, answer := send(t, p, method, path, body, "", append([]string{"Accept-Language", "de"}, header...)...)
		kind := "application/json"
		if want >= 400 {
			kind = "application/problem+json"
		}
		if resp.StatusCode != want || resp.Header.Get("Content-Type") != kind {
			t.Errorf("%s %s: %s %s", method, path, resp.Status, answer)
		}
		for _, fault := range validate(t, doc.Components.Schemas, schema, answer) {
			t.Errorf("%s %s: %v: %s", method, path, fault, answer)
		}
		return answer
	}
	if answer := step("GET", updatePath, "", "UpdateStatus", 200); !strings.Contains(answer, `"available":{"version":"1.1.0","bytes":1468006,`) {
		t.Error(answer)
	}
	for _, path := range []string{updateCheckPath, updateInstallPath, updateRollbackPath, updateDrillPath, updateUSBPath, updateCancelPath} {
		step("POST", path, "", "UpdateStatus", 202)
	}
	g.change(func(g *gateway) { g.u.Checking = false })
	bundle := strings.Repeat("a bundle is longer than what else is sent ", maxBody/20)
	step("POST", updateUploadPath, bundle, "UpdateStatus", 202, "Content-Type", "application/octet-stream")
	var want []string
	for _, name := range []string{"check", "install", "rollback", "drill", "usb", "cancel", "upload"} {
		want = append(want, name+" 192.168.178.23")
	}
	if !slices.Equal(g.up.orders, want) || string(g.up.bundle) != bundle {
		t.Errorf("ordered %q with %d bytes", g.up.orders, len(g.up.bundle))
	}
	if answer := step("POST", updateUploadPath, bundle, "UpdateProblem", 409, "Content-Type", "application/octet-stream"); !strings.Contains(answer, `"error":"busy"`) {
		t.Errorf("while one is on its way: %s", answer)
	}
	g.change(func(g *gateway) { g.up.refuse = &update.Refusal{Text: "an update is on its way already"} })
	for path, code := range map[string]string{updateCheckPath: busy, updateInstallPath: busy, updateRollbackPath: busy, updateDrillPath: busy, updateUSBPath: busy, updateCancelPath: notUnderWay} {
		if answer := step("POST", path, "{}", "UpdateProblem", 409); !strings.Contains(answer, `"error":"`+code+`"`) || !strings.Contains(answer, "Update") {
			t.Errorf("%s: %s", path, answer)
		}
	}
	g.change(func(g *gateway) {
		g.u.State = update.Confirmed
		g.up.refuse = &update.Refusal{Check: &update.LastCheck{Reason: update.Reason(trust.WrongBoard), Detail: "it is for rpi\x1b"}}
	})
	if answer := step("POST", updateUploadPath, "x", "UpdateProblem", 422, "Content-Type", "application/octet-stream"); !strings.Contains(answer, `"detail":"Das Update ist für andere Geräte. (it is for rpi`+"\ufffd"+`)"`) ||
		!strings.Contains(answer, `"error":"bundle-refused","reason":"wrong-board","cure":"Wählen Sie`) {
		t.Error(answer)
	}
	g.change(func(g *gateway) { g.up.refuse = errors.New("ask update service: EOF") })
	step("POST", updateCheckPath, "", "UpdateProblem", 503)
	g.change(func(g *gateway) { g.down[PartUpdate] = true })
	step("GET", updatePath, "", "ErrorModel", 503)
	step("GET", attemptsPath+"2", "", "ErrorModel", 503)
}

func TestUpdateSettingsAPI(t *testing.T) {
	g := sample()
	p := newPortal(t, g)
	put := func(body string) (int, string) {
		resp, answer := send(t, p, "PUT", updateSettingsPath, body, "", "Accept-Language", "de")
		return resp.StatusCode, answer
	}
	want := settings.Update{Server: "https://updates.example/cloudlink", Channel: settings.Beta, Automatic: true, NotDuringCalls: true,
		Window: settings.Window{From: "02:00", To: "05:00", Zone: "Europe/Berlin"}}
	body, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if code, answer := put(string(body)); code != 200 || strings.TrimSpace(answer) != string(body) || g.net.settings.Update != want {
		t.Errorf("%d %s: %+v", code, answer, g.net.settings.Update)
	}
	if _, answer := get(t, p, updateSettingsPath); strings.TrimSpace(answer) != string(body) {
		t.Error(answer)
	}
	for body, field := range map[string]string{
		`{"server": "ftp://x"}`:            "update.server",
		`{"channel": "nightly"}`:           "update.channel",
		`{"window": {"from": "25:00"}}`:    "update.window.from",
		`{"window": {"zone": "Atlantis"}}`: "update.window.zone",
		`{"automatic": "yes"}`:             "update.automatic",
		`{"servers": []}`:                  "update.servers",
		`{`:                                "update",
	} {
		code, answer := put(body)
		var got Problem
		if err := json.Unmarshal([]byte(answer), &got); err != nil || code != 422 || len(got.Fields) == 0 || got.Fields[0].Path != field || got.Fields[0].Cure == "" {
			t.Errorf("%s: %d %s", body, code, answer)
		}
	}
	if g.net.settings.Update != want {
		t.Errorf("changed: %+v", g.net.settings.Update)
	}
	g.change(func(g *gateway) { g.down[PartNetwork] = true })
	if code, answer := put(string(body)); code != 503 {
		t.Errorf("%d %s", code, answer)
	}
}

// No other site can have a browser of the LAN install something.
func TestOnlyOwnPagesAndProgramsUpdate(t *testing.T) {
	g := sample()
	p := newPortal(t, g)
	for _, c := range []struct{ method, path, kind, body string }{
		{"POST", updateCheckPath, "application/json", ""}, {"POST", updateInstallPath, "application/json", ""}, {"POST", updateUSBPath, "application/json", ""},
		{"POST", updateRollbackPath, "application/json", ""}, {"POST", updateDrillPath, "application/json", ""},
		{"POST", updateCancelPath, "application/json", ""}, {"POST", updateUploadPath, "application/octet-stream", "x"},
		{"PUT", updateSettingsPath, "application/json", "{}"},
	} {
		for _, header := range [][]string{
			{"Origin", "http://evil.test"}, {"Origin", "null"}, {"Sec-Fetch-Site", "cross-site"}, {"Origin", "http://192.0.2.1:8080"},
		} {
			if resp, body := send(t, p, c.method, c.path, c.body, "", append([]string{"Content-Type", c.kind}, header...)...); resp.StatusCode != http.StatusForbidden {
				t.Errorf("%s %s with %q: %s %s", c.method, c.path, header, resp.Status, body)
			}
		}
		for _, kind := range []string{"text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"} {
			if resp, body := send(t, p, c.method, c.path, c.body, "", "Content-Type", kind); resp.StatusCode != http.StatusUnsupportedMediaType {
				t.Errorf("%s %s as %q: %s %s", c.method, c.path, kind, resp.Status, body)
			}
		}
		if resp, body := send(t, p, c.method, c.path, c.body, "", "Content-Type", c.kind, "Host", "evil.test"); resp.StatusCode != http.StatusMisdirectedRequest {
			t.Errorf("%s %s under a foreign name: %s %s", c.method, c.path, resp.Status, body)
		}
		if resp, body := send(t, p, c.method, c.path+"?x=1", c.body, "", "Content-Type", c.kind); resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s %s with a query: %s %s", c.method, c.path, resp.Status, body)
		}
	}
	if len(g.up.orders)+len(g.net.asked) > 0 {
		t.Errorf("ordered %q, asked %+v", g.up.orders, g.net.asked)
	}
}

// endless is a bundle that does not end.
type endless struct{ n int64 }

func (e *endless) Read(b []byte) (int, error) {
	if e.n += int64(len(b)); e.n > maxUpload+1<<20 {
		return 0, errors.New("more was read than may be")
	}
	return len(b), nil
}

func TestUploadIsBounded(t *testing.T) {
	g := sample()
	p := newPortal(t, g, func(c *Config) { c.Update = discards{fakeUpdate{g}} })
	r, err := http.NewRequest("POST", updateUploadPath, &endless{})
	if err != nil {
		t.Fatal(err)
	}
	r.Host, r.RemoteAddr, r.RequestURI = "192.0.2.1", "192.0.2.9:5000", updateUploadPath
	r.Header.Set("Content-Type", "application/octet-stream")
	w := &header{h: http.Header{}}
	if p.ServeHTTP(w, r); w.code != http.StatusRequestEntityTooLarge {
		t.Errorf("%d", w.code)
	}
}

// A client that sends all of its bundle before it reads hears why it is not wanted, though that is known
// long before the bundle has come.
func TestARefusedUploadIsAnswered(t *testing.T) {
	for name, refused := range map[string]func(*gateway) Update{
		"at once":  func(g *gateway) Update { g.u.State = update.Writing; return fakeUpdate{g} },
		"half-way": func(g *gateway) Update { return refuses{fakeUpdate{g}} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := sample()
			server := httptest.NewServer(newPortal(t, g, func(c *Config) { c.Update = refused(g) }))
			defer server.Close()
			conn, err := net.Dial("tcp", server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			const chunks, chunk = 15, 1 << 20
			fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n", updateUploadPath, chunks*chunk)
			for n := range chunks {
				time.Sleep(100 * time.Millisecond) // the network is slower than the refusal
				if _, err := conn.Write(make([]byte, chunk)); err != nil {
					t.Fatalf("after %d chunks: %v", n, err)
				}
			}
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusConflict || !strings.Contains(string(body), busy) {
				t.Errorf("%s %s %v", resp.Status, body, err)
			}
		})
	}
}

// refuses is a service that is busy after all.
type refuses struct{ Update }

func (d refuses) Upload(_ context.Context, r update.Request, bundle io.Reader) (update.Status, error) {
	_, err := io.CopyN(io.Discard, bundle, 1<<20)
	return update.Status{}, errors.Join(err, &update.Refusal{Text: busy})
}

// discards is a service that keeps no bundle.
type discards struct{ Update }

func (d discards) Upload(_ context.Context, r update.Request, bundle io.Reader) (update.Status, error) {
	_, err := io.Copy(io.Discard, bundle)
	return update.Status{}, err
}

func TestReceiptsAreDownloaded(t *testing.T) {
	p := newPortal(t, returned())
	resp, text := get(t, p, attemptsPath+"3", "Accept-Language", "de")
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/plain; charset=utf-8" || resp.Header.Get("Content-Disposition") != `attachment; filename="cloudlink-update-3.txt"` {
		t.Errorf("%s %q", resp.Status, resp.Header)
	}
	for _, want := range []string{
		"Beleg über Update Nr. 3", "Update von 1.0.0 auf 1.1.0", "Zurückgekehrt", "nicht alles arbeitete wie zuvor", "192.168.178.23", "Update-Server",
		"Herunterladen", "4,0\u00a0Sek.", "FEHLER   Port eth0 hat seine Adressen wieder", "no DHCP server has answered", "init: restart requested by user 104",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("lacks %q:\n%s", want, text)
		}
	}
	if _, text := get(t, p, attemptsPath+"3?lang=en", "Accept-Language", "de"); !strings.Contains(text, "FAILED   Port eth0 has its addresses back") {
		t.Error(text)
	}
	resp, text = get(t, p, attemptsPath+"3.json")
	var a update.Attempt
	if err := json.Unmarshal([]byte(text), &a); err != nil || a.ID != 3 || a.Reason != update.CheckFailed || resp.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%v: %s", err, text)
	}
	for _, id := range []string{"9", "x", "3.xml", "-1", "3.json.json", "%2e%2e"} {
		if resp, body := get(t, p, attemptsPath+id); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s %s", id, resp.Status, body)
		}
	}
	// Texts from elsewhere are only texts.
	g := returned()
	g.u.Attempts[0].LastLog, g.u.Attempts[0].Detail, g.u.Attempts[0].By = []string{"\x1b[2J\u202e"}, "a\nb", "\x00"
	if _, text := get(t, newPortal(t, g), attemptsPath+"3"); strings.ContainsAny(text, "\x1b\x00\u202e") || strings.Contains(text, "a\nb") {
		t.Errorf("%q", text)
	}
}

func TestUpdateEvents(t *testing.T) {
	g := sample()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stop := serve(t, ln, g)
	resp, err := http.Get("http://" + ln.Addr().String() + updateEventsPath)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got := resp.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("content type %q", got)
	}
	lines := bufio.NewReader(resp.Body)
	next := func() (s update.Status) {
		t.Helper()
		for event := false; ; {
			line, err := lines.ReadBytes('\n')
			if err != nil {
				t.Fatal(err)
			}
			if string(line) == "event: update\n" {
				event = true
			}
			if data, ok := bytes.CutPrefix(line, []byte("data: ")); ok && event {
				if err := json.Unmarshal(data, &s); err != nil {
					t.Fatal(err)
				}
				return s
			}
		}
	}
	if s := next(); s.State != update.Confirmed || s.Version != "1.0.0" {
		t.Errorf("at once: %+v", s)
	}
	g.change(func(g *gateway) { g.begin(update.Update, "1.1.0", update.Checking, update.Downloading) })
	if s := next(); s.State != update.Downloading {
		t.Errorf("then: %+v", s)
	}
	stop() // the stream does not keep it waiting, and ends as a whole answer
	if rest, err := io.ReadAll(lines); err != nil {
		t.Errorf("at the end: %q, %v", rest, err)
	}
}

func TestEventsAreFollowedByFew(t *testing.T) {
	p := newPortal(t, sample())
	for range maxStreams {
		p.streams <- struct{}{}
	}
	if resp, body := get(t, p, updateEventsPath); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("%s %s", resp.Status, body)
	}
}
