package portal

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"

	"cloudlink.local/gateway/internal/network"
	"cloudlink.local/gateway/internal/settings"
)

// send asks h as a program does: with a body, over a connection between from and on.
func send(t *testing.T, h http.Handler, method, path, body, on string, header ...string) (*http.Response, string) {
	t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Host, r.RemoteAddr = "192.0.2.1", "[::ffff:192.168.178.23]:50123"
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
		if header[i] == "Host" {
			r.Host = header[i+1]
		}
	}
	if on != "" {
		local := net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(on), 80))
		r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, local))
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result(), w.Body.String()
}

const (
	oldAddress = "192.168.178.40"
	newAddress = "192.168.178.50"

	staticNetwork = `{"wan": {"ipv4": {"method": "static", "addresses": ["192.168.178.50/24"], "router": "192.168.178.1"}}}`
)

func TestNetworkAPI(t *testing.T) {
	g := sample()
	p := newPortal(t, g)
	_, description := get(t, p, "/api/openapi.json")
	var doc struct {
		Components struct{ Schemas map[string]*huma.Schema }
	}
	if err := json.Unmarshal([]byte(description), &doc); err != nil {
		t.Fatal(err)
	}
	step := func(method, path, body, on, schema string, want int) string {
		t.Helper()
		resp, answer := send(t, p, method, path, body, on, "Accept-Language", "de")
		kind := "application/json"
		if want >= 400 {
			kind, schema = "application/problem+json", "Problem"
		}
		if resp.StatusCode != want || resp.Header.Get("Content-Type") != kind {
			t.Errorf("%s %s: %s %s", method, path, resp.Status, answer)
		}
		for _, fault := range validate(t, doc.Components.Schemas, schema, answer) {
			t.Errorf("%s %s: %v: %s", method, path, fault, answer)
		}
		return answer
	}
	step("GET", networkPath, "", "", "NetworkState", 200)
	step("GET", clockPath, "", "", "ClockState", 200)
	step("GET", namesPath, "", "", "NamesState", 200)
	step("GET", portsPath, "", "", "PortTable", 200)
	step("POST", selfTestPath, "", "", "SelfTest", 200)
	if answer := step("GET", diaryPath+"?after=4", "", "", "Diary", 200); strings.Count(answer, `"id"`) != 1 || !strings.Contains(answer, "Einstellungen geändert (auf der Seite des Gateways, Rechner 192.168.178.23): Zeitserver.") {
		t.Error(answer)
	}

	answer := step("PUT", networkPath, staticNetwork, oldAddress, "NetworkState", 200)
	var state NetworkState
	if err := json.Unmarshal([]byte(answer), &state); err != nil || state.Change == nil || state.Change.SecondsLeft != 90 ||
		state.Settings.WAN.IPv4.Method != settings.Static || state.Settings.LAN.IPv4.Method != settings.DHCP {
		t.Errorf("%v: %s", err, answer)
	}
	if answer := step("GET", statusPath, "", "", "Status", 200); !strings.Contains(answer, `"seconds_left":90`) || !strings.Contains(answer, `"source":"verified"`) {
		t.Errorf("status: %s", answer)
	}
	step("POST", confirmPath, "", oldAddress, "", 409)
	step("POST", confirmPath, " {} ", newAddress, "NetworkState", 200)
	step("POST", confirmPath, "", newAddress, "", 409) // a second time
	step("PUT", networkPath, "{}", newAddress, "NetworkState", 200)
	step("POST", returnPath, "{}", oldAddress, "NetworkState", 200)
	step("POST", returnPath, "{}", oldAddress, "", 409)
	if got := g.net.settings.Network.WAN.IPv4.Method; got != settings.Static {
		t.Errorf("after the return: %s", got)
	}
	if answer := step("PUT", clockPath, `{"servers": ["192.168.178.1"]}`, "", "ClockState", 200); !strings.Contains(answer, `"servers":["192.168.178.1"]`) {
		t.Error(answer)
	}
	if answer := step("PUT", namesPath, `{"host": "Bureau"}`, "", "NamesState", 200); !strings.Contains(answer, `{"settings":{"host":"Bureau","on_wan":false},"names":{"host":"bureau.local","unique":"`+uniqueHost+`",`) {
		t.Error(answer)
	}
	if answer := step("PUT", namesPath, `{"on_wan": true}`, "", "NamesState", 200); !strings.Contains(answer, `{"host":"cloudlink","on_wan":true}`) {
		t.Error(answer)
	}
	from := netip.MustParseAddr("192.168.178.23")
	for i, on := range []string{oldAddress, oldAddress, newAddress, newAddress, newAddress, oldAddress, oldAddress, "", "", ""} {
		var want network.Request
		want.By, want.From = "portal", from
		if on != "" {
			want.ArrivedOn = netip.MustParseAddr(on)
		}
		if got := g.net.asked[i]; got != want {
			t.Errorf("request %d: %+v, want %+v", i, got, want)
		}
	}

	g.change(func(g *gateway) { g.net.refuseAll = errors.New("ask network service: connection refused") })
	step("PUT", networkPath, "{}", "", "", 503)
	step("PUT", namesPath, "{}", "", "", 503)
	g.change(func(g *gateway) { g.down[PartNetwork] = true })
	for _, path := range []string{networkPath, clockPath, namesPath, portsPath, diaryPath} {
		step("GET", path, "", "", "", 503)
	}
	for _, path := range []string{confirmPath, returnPath, selfTestPath} {
		step("POST", path, "", "", "", 503)
	}
}

// What is wrong is named by its path, in the reader's language, and changes nothing.
func TestNetworkAPIRefusesWithThePath(t *testing.T) {
	g := sample()
	p := newPortal(t, g)
	for _, c := range []struct{ path, body, field, code, text string }{
		{networkPath, `{"wan": {"ipv4": {"method": "static", "addresses": ["10.0.0.5/24", "10.0.0.6"]}}}`, "network.wan.ipv4.addresses[1]", "no-length", "Schreiben Sie zum Beispiel 10.0.0.6/24."},
		{networkPath, `{"lan": {"vlan": 4095}}`, "network.lan.vlan", "vlan-range", ""},
		{networkPath, `{"lan": {"vlan": "7"}}`, "network.lan.vlan", "not-number", ""},
		{networkPath, `{"lan": {"vlan": 7, "vlan": 8}}`, "network.lan.vlan", "duplicate-key", ""},
		{networkPath, `{"wan": {"colour": "red"}}`, "network.wan.colour", "unknown-key", ""},
		{networkPath, `{"settings": {}, "ports": []}`, "network.settings", "wrapped", ""},
		{networkPath, `{"wan": []}`, "network.wan", "not-object", ""},
		{networkPath, `{"wan": {`, "network", "not-json", ""},
		{networkPath, `{} {}`, "network", "not-json", ""},
		{networkPath, "\x00\x1b[2J", "network", "not-json", ""},
		{networkPath, `{"\u001b[2J<script>": 1}`, "network.\ufffd[2J<script>", "unknown-key", ""},
		{networkPath, strings.Repeat(`[`, 30000), "network", "not-json", ""},
		{networkPath, strings.Repeat(`[`, 5000) + strings.Repeat(`]`, 5000), "network", "too-deep", ""},
		{namesPath, `{"host": ""}`, "names.host", "name-empty", ""},
		{namesPath, `{"host": "Büro 2.local"}`, "names.host", "name-label", ""},
		{namesPath, `{"host": "WPAD"}`, "names.host", "name-taken", ""},
		{namesPath, `{"host": "cloudlink", "on_wan": "yes"}`, "names.on_wan", "not-bool", ""},
		{namesPath, `{"hosts": []}`, "names.hosts", "unknown-key", ""},
		{namesPath, `{}, "network": {}`, "names", "not-json", ""},
		{clockPath, `{"servers": ["http://ntp.example"]}`, "clock.servers[0]", "host-scheme", ""},
		{clockPath, `{"servers": "ntp.example"}`, "clock.servers", "not-list", ""},
		{clockPath, `{"servers": []}, "network": {"wan": {"vlan": 7}}, "clock": {"servers": []}`, "clock", "not-json", ""},
		{clockPath, `{}, "network": {}`, "clock", "not-json", ""},
		{clockPath, `{"servers": ["a"]`, "clock", "not-json", ""},
		{clockPath, `{"zone": 1}`, "clock.zone", "unknown-key", ""},
	} {
		resp, body := send(t, p, "PUT", c.path, c.body, "", "Accept-Language", "de")
		var got Problem
		if err := json.Unmarshal([]byte(body), &got); err != nil || resp.StatusCode != 422 || resp.Header.Get("Content-Type") != "application/problem+json" || len(got.Fields) == 0 {
			t.Errorf("%.60s: %s %s", c.body, resp.Status, body)
			continue
		}
		f := got.Fields[0]
		if !strings.HasPrefix(f.Path, c.field) || string(f.Code) != c.code || f.Message == "" || f.Cure == "" || c.text != "" && f.Cure != c.text {
			t.Errorf("%.60s: %+v", c.body, f)
		}
	}
	if !g.net.settings.Network.Equal(settings.Default().Network) || len(g.net.settings.Clock.Servers) != 1 || g.net.settings.Names != settings.Default().Names {
		t.Errorf("changed: %+v", g.net.settings)
	}
}

// No other site can have a browser of the LAN change something.
func TestOnlyOwnPagesAndProgramsChangeTheNetwork(t *testing.T) {
	g := sample()
	p := newPortal(t, g)
	writes := []struct{ method, path, body string }{
		{"PUT", networkPath, staticNetwork}, {"PUT", clockPath, `{"servers": ["evil.test"]}`}, {"PUT", namesPath, `{"host": "evil"}`},
		{"POST", confirmPath, ""}, {"POST", returnPath, ""}, {"POST", selfTestPath, ""},
	}
	for _, c := range writes {
		for _, header := range [][]string{
			{"Origin", "http://evil.test"},
			{"Origin", "null"},
			{"Origin", "http://192.0.2.1:8080"},
			{"Origin", "http://192.0.2.1.evil.test"},
			{"Sec-Fetch-Site", "cross-site"},
			{"Sec-Fetch-Site", "same-site", "Origin", "http://192.0.2.1"},
		} {
			if resp, body := send(t, p, c.method, c.path, c.body, "", header...); resp.StatusCode != http.StatusForbidden {
				t.Errorf("%s %s with %q: %s %s", c.method, c.path, header, resp.Status, body)
			}
		}
		// What a form can send without that the browser asks first is not JSON.
		kinds := []string{"text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/json, text/plain", "application/jsonp"}
		if c.body != "" {
			kinds = append(kinds, "") // without a body there is nothing to have a type
		}
		for _, kind := range kinds {
			if resp, body := send(t, p, c.method, c.path, c.body, "", "Content-Type", kind); resp.StatusCode != http.StatusUnsupportedMediaType {
				t.Errorf("%s %s as %q: %s %s", c.method, c.path, kind, resp.Status, body)
			}
		}
		if resp, body := send(t, p, c.method, c.path, c.body, "", "Host", "evil.test"); resp.StatusCode != http.StatusMisdirectedRequest {
			t.Errorf("%s %s under a foreign name: %s %s", c.method, c.path, resp.Status, body)
		}
		if resp, body := send(t, p, c.method, c.path+"?x=1", c.body, ""); resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s %s with a query: %s %s", c.method, c.path, resp.Status, body)
		}
		if resp, body := send(t, p, c.method, c.path, strings.Repeat(" ", maxBody+1), ""); resp.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("%s %s, too long: %s %s", c.method, c.path, resp.Status, body)
		}
		if resp, body := send(t, p, c.method, c.path, `{"surprise": 1}`, ""); resp.StatusCode != http.StatusUnprocessableEntity {
			t.Errorf("%s %s with something else: %s %s", c.method, c.path, resp.Status, body)
		}
	}
	if len(g.net.asked) > 0 {
		t.Errorf("asked: %+v", g.net.asked)
	}
	// A header does not say over which address a request came.
	g.change(func(g *gateway) { g.n.Change = &network.Change{Addresses: g.net.moveTo} })
	for _, header := range []string{"X-Forwarded-For", "X-Forwarded-Host", "Forwarded", "X-Real-Ip", "Host"} {
		if resp, _ := send(t, p, "POST", confirmPath, "", oldAddress, header, newAddress); resp.StatusCode != http.StatusConflict {
			t.Errorf("%s: %s", header, resp.Status)
		}
	}
	if resp, body := send(t, p, "PUT", clockPath, `{"servers": []}`, "", "Content-Type", "application/json; charset=utf-8", "Origin", "http://192.0.2.1"); resp.StatusCode != 200 {
		t.Errorf("our own page: %s %s", resp.Status, body)
	}
}

// curl -X POST sends neither a body nor its type.
func TestAPITakesAPostThatSaysNothing(t *testing.T) {
	g := sample()
	p := newPortal(t, g)
	if resp, body := request(t, p, "POST", selfTestPath); resp.StatusCode != http.StatusOK {
		t.Errorf("%s %s", resp.Status, body)
	}
	if resp, body := request(t, p, "POST", selfTestPath, "Sec-Fetch-Site", "cross-site"); resp.StatusCode != http.StatusForbidden {
		t.Errorf("of another site: %s %s", resp.Status, body)
	}
	if resp, body := request(t, p, "PUT", networkPath); resp.StatusCode != http.StatusUnsupportedMediaType {
		t.Errorf("settings without a type: %s %s", resp.Status, body)
	}
}

// What is wrong is said in whole sentences of the reader's language.
func TestAPISaysWhatIsWrongInTheReadersLanguage(t *testing.T) {
	g := sample()
	p := newPortal(t, g)
	for _, c := range []struct{ method, path, body, lang, want string }{
		{"PUT", networkPath, `{"wan": {"vlan": 5000, "mtu": 9}}`, "de", "network.wan.vlan: 5000 ist keine VLAN-Nummer. Geben Sie eine Zahl von 1 bis 4094 ein, oder 0 für kein VLAN. " +
			"network.wan.mtu: Eine MTU von 9 Byte ist für den Port nicht möglich. Geben Sie eine Zahl von 1280 (so viel braucht IPv6) bis 9000 ein, oder 0 für die übliche MTU."},
		{"PUT", clockPath, `{"servers": ["a b", "x:1"]}`, "en", "clock.servers[0]: “a b” has a space in it. Remove it; enter several servers one by one. " +
			"clock.servers[1]: “x:1” has a port number, which is fixed. Write x."},
		{"POST", confirmPath, "", "de", "Es ist keine Änderung auf Probe: Zu bestätigen gibt es nichts."},
		{"POST", returnPath, "", "en", "Nothing is on probation: there is nothing to take back."},
	} {
		resp, body := send(t, p, c.method, c.path, c.body, oldAddress, "Accept-Language", c.lang)
		var got Problem
		if err := json.Unmarshal([]byte(body), &got); err != nil || resp.StatusCode < 400 || got.Detail != c.want {
			t.Errorf("%s %s: %s %q, want %q", c.method, c.path, resp.Status, got.Detail, c.want)
		}
	}
	g.change(func(g *gateway) { g.n.Change = &network.Change{Addresses: g.net.moveTo} })
	if _, body := send(t, p, "POST", confirmPath, "", oldAddress, "Accept-Language", "de"); !strings.Contains(body, "kam nicht über eine neue Adresse") {
		t.Error(body)
	}
	g.change(func(g *gateway) { g.down[PartNetwork] = true })
	for _, path := range []string{networkPath, clockPath, namesPath, portsPath, diaryPath} {
		if _, body := send(t, p, "GET", path, "", "", "Accept-Language", "de"); !strings.Contains(body, "Der Netzwerkdienst antwortet nicht.") {
			t.Errorf("%s: %s", path, body)
		}
	}
}

func FuzzClockJSON(f *testing.F) {
	f.Add([]byte(`{"servers": ["ntp.example"]}`))
	f.Add([]byte(`{}, "network": {"wan": {"vlan": 7}}`))
	f.Add([]byte(`{"servers": []}} {"x": {`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := decodeClock(b)
		if err == nil && !json.Valid(b) {
			t.Errorf("took %q as %v", b, c)
		}
		if err != nil && len(wrong(err).Fields) == 0 {
			t.Errorf("%q: no field is named: %v", b, err)
		}
	})
}
