package portal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/html"

	"cloudlink.local/gateway/internal/diary"
	"cloudlink.local/gateway/internal/network"
	"cloudlink.local/gateway/internal/network/ntp"
	"cloudlink.local/gateway/internal/portmap"
	"cloudlink.local/gateway/internal/settings"
)

// submit sends a form of ours, as a browser does that opened the page over the address on.
func submit(t *testing.T, h http.Handler, path string, values url.Values, on string, header ...string) (*http.Response, string) {
	t.Helper()
	header = append([]string{"Content-Type", "application/x-www-form-urlencoded", "Origin", "http://192.0.2.1"}, header...)
	return send(t, h, http.MethodPost, path, values.Encode(), on, header...)
}

// staticForm is the WAN port's form, filled in for newAddress.
func staticForm() url.Values {
	return url.Values{
		"ipv4.method": {"static"}, "ipv4.addresses": {newAddress + "/24\r\n"}, "ipv4.router": {" 192.168.178.1 "},
		"ipv6.method": {"automatic"}, "ipv6.addresses": {""}, "ipv6.router": {""},
		"dns": {"192.168.178.1, 9.9.9.9"}, "vlan": {""}, "mtu": {"1400"}, "routes": {"10.1.0.0/16 192.168.178.254\r\n\r\n"},
	}
}

func TestPortForm(t *testing.T) {
	g := sample()
	p := newPortal(t, g)
	resp, body := submit(t, p, "/network/wan", staticForm(), oldAddress)
	if resp.StatusCode != http.StatusSeeOther || resp.Header.Get("Location") != "/network" {
		t.Fatalf("%s to %q: %s", resp.Status, resp.Header.Get("Location"), body)
	}
	want := settings.Default().Network
	want.WAN.IPv4 = settings.IPv4{Method: settings.Static, Addresses: []netip.Prefix{netip.MustParsePrefix(newAddress + "/24")}, Router: netip.MustParseAddr("192.168.178.1")}
	want.WAN.DNS = []netip.Addr{netip.MustParseAddr("192.168.178.1"), netip.MustParseAddr("9.9.9.9")}
	want.WAN.MTU = 1400
	want.WAN.Routes = []settings.Route{{Destination: netip.MustParsePrefix("10.1.0.0/16"), Router: netip.MustParseAddr("192.168.178.254")}}
	if !g.net.settings.Network.Equal(want) {
		t.Errorf("settings: %+v", g.net.settings.Network)
	}
	if got := g.net.asked[0]; got.By != "portal" || got.From != netip.MustParseAddr("192.168.178.23") || got.ArrivedOn != netip.MustParseAddr(oldAddress) {
		t.Errorf("asked by %+v", got)
	}

	// What the form shows is what is sent back: nothing changes by that.
	f := portForm(view{}, "wan", g.n.Ports[0], want.WAN)
	values := url.Values{}
	for name, value := range f.Values {
		values.Set(name, value)
	}
	if resp, body := submit(t, p, "/network/wan", values, oldAddress); resp.StatusCode != http.StatusSeeOther || !g.net.settings.Network.Equal(want) {
		t.Errorf("the same again: %s %s, %+v", resp.Status, body, g.net.settings.Network)
	}
	// Back to DHCP: what is typed for a static address does not matter.
	values.Set("ipv4.method", "dhcp")
	values.Set("ipv4.addresses", "nonsense")
	values.Set("routes", "")
	submit(t, p, "/network/wan", values, oldAddress)
	if got := g.net.settings.Network.WAN.IPv4; got.Method != settings.DHCP || len(got.Addresses) != 0 || got.Router.IsValid() {
		t.Errorf("back to DHCP: %+v", got)
	}

	resp, _ = submit(t, p, "/network/clock", url.Values{"servers": {"192.168.178.1\r\nntp.example\r\n"}}, "")
	if resp.Header.Get("Location") != "/network?done=saved" || !slices.Equal(g.net.settings.Clock.Servers, []string{"192.168.178.1", "ntp.example"}) {
		t.Errorf("clock: %s, %q", resp.Status, g.net.settings.Clock.Servers)
	}
	if _, body := get(t, p, "/network?done=saved"); !strings.Contains(body, "The settings are saved.") {
		t.Error("the page does not say that it is saved")
	}
}

// Nobody empties the list of time servers without being told what that means.
func TestWithoutTimeServersThePageWarns(t *testing.T) {
	p := newPortal(t, sample())
	resp, _ := submit(t, p, "/network/clock", url.Values{"servers": {""}}, "")
	if resp.StatusCode != http.StatusSeeOther {
		t.Fatal(resp.Status)
	}
	for lang, want := range map[string]string{"de": "kein Zeitserver mehr eingetragen", "en": "no time server is entered any more"} {
		if _, body := get(t, p, resp.Header.Get("Location"), "Accept-Language", lang); !strings.Contains(body, want) || !strings.Contains(body, `class="note doubtful"`) {
			t.Errorf("%s: the page does not warn", lang)
		}
	}
}

// Each mistake is beside its field, what was typed stays, and nothing changes.
func TestMistakesAreBesideTheirFields(t *testing.T) {
	g := sample()
	g.net.settings.Network.LAN.IPv4 = settings.IPv4{Method: settings.Static, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}}
	p := newPortal(t, g)
	for _, c := range []struct{ path, field, typed, id, message string }{
		{"/network/wan", "ipv4.addresses", "192.168.1.10", "wan-ipv4-addresses", "Write for example 192.168.1.10/24."},
		{"/network/wan", "ipv4.addresses", "192.168.1.10/24\r\n10.0.0.0/8", "wan-ipv4-addresses", "10.0.0.0/8"},
		{"/network/wan", "ipv4.addresses", "10.0.2.20 255.255.255.0", "wan-ipv4-addresses", "Write 10.0.2.20/24."},
		{"/network/wan", "routes", "10.1.0.0 255.255.0.0 192.168.178.254", "wan-routes", "Write 10.1.0.0/16."},
		{"/network/wan", "ipv4.addresses", "", "wan-ipv4-addresses", "needs an address"},
		{"/network/wan", "ipv4.router", "10.9.9.9", "wan-ipv4-router", "10.9.9.9"},
		{"/network/wan", "ipv4.router", "<script>alert(1)</script>", "wan-ipv4-router", "is not an IP address"},
		{"/network/wan", "vlan", "4095", "wan-vlan", "4094"},
		{"/network/wan", "vlan", "1e3", "wan-vlan", "number"},
		{"/network/wan", "mtu", "99999999999999999999", "wan-mtu", "number"},
		{"/network/wan", "mtu", "-1", "wan-mtu", "1280"},
		{"/network/wan", "dns", "1.1.1.1 2.2.2.2 3.3.3.3 4.4.4.4", "wan-dns", "3"},
		{"/network/wan", "routes", "10.1.0.0/16", "wan-routes", "router"},
		{"/network/wan", "routes", "10.1.0.0/16 via 192.168.178.254", "wan-routes", "via 192.168.178.254"},
		{"/network/wan", "ipv4.method", "magic", "wan-ipv4-method", "magic"},
		{"/network/wan", "ipv6.method", "dhcp", "wan-ipv6-method", "dhcp"},
		{"/network/lan", "vlan", "x\x00\x1b[2J", "lan-vlan", "number"},
		{"/find/names", "host", "", "names-host", "empty"},
		{"/find/names", "host", "Büro.local", "names-host", "for example buero."},
		{"/find/names", "host", strings.Repeat("x", 41), "names-host", "at most 40"},
		{"/find/names", "host", "localhost", "names-host", "already means something else"},
		{"/find/names", "host", "<script>alert(1)</script>", "names-host", "cannot be a name in the LAN"},
		{"/find/names", "on_wan", "false", "names-on_wan", "True or false"},
		{"/network/clock", "servers", "ntp.example http://ntp.example", "clock-servers", "http://ntp.example"},
	} {
		values := staticForm()
		if c.path == "/network/clock" {
			values = url.Values{}
		}
		if c.path == "/find/names" {
			values = url.Values{"host": {"bureau"}}
		}
		values.Set(c.field, c.typed)
		resp, body := submit(t, p, c.path, values, oldAddress, "Accept-Language", "en")
		where := c.field + " " + c.typed
		checkHTML(t, where, body)
		if resp.StatusCode != http.StatusUnprocessableEntity {
			t.Errorf("%s: %s", where, resp.Status)
			continue
		}
		doc, err := html.Parse(strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		var shown, wrong string
		scripts := 0
		for n := range doc.Descendants() {
			switch {
			case n.Data == "script" && n.Type == html.ElementNode:
				scripts++
			case attribute(n, "id") == c.id && n.Data == "input":
				shown = attribute(n, "value")
			case attribute(n, "id") == c.id:
				shown = inner(n)
			case attribute(n, "id") == c.id+"-wrong":
				wrong = inner(n)
			}
		}
		if !strings.Contains(wrong, c.message) {
			t.Errorf("%s: beside the field: %q", where, wrong)
		}
		if typed := strings.NewReplacer("\r\n", "\n", "\x00", "\ufffd").Replace(c.typed); !strings.HasSuffix(c.field, "method") && c.field != "on_wan" && shown != typed {
			t.Errorf("%s: the field has %q", where, shown)
		}
		if want := map[bool]int{true: 3, false: 2}[c.path == "/find/names"]; scripts != want || !strings.Contains(body, "Nothing has been changed.") {
			t.Errorf("%s: %d scripts", where, scripts)
		}
	}
	// One that another port's settings do not go with is told as well.
	values := staticForm()
	values.Set("ipv4.addresses", "10.0.0.5/24")
	values.Set("ipv4.router", "")
	values.Set("routes", "")
	if resp, body := submit(t, p, "/network/wan", values, "", "Accept-Language", "de"); resp.StatusCode != 422 || !strings.Contains(body, "network.lan.ipv4.addresses[0]") {
		t.Errorf("overlap: %s", resp.Status)
	}
	if len(g.net.settings.Network.WAN.IPv4.Addresses) > 0 || g.net.settings.Names != settings.Default().Names || g.n.Change != nil {
		t.Errorf("changed: %+v", g.net.settings)
	}
}

func TestFormsThatAreNotOurs(t *testing.T) {
	g := sample()
	g.n.Change = &network.Change{SecondsLeft: 90, Addresses: g.net.moveTo}
	p := newPortal(t, g)
	paths := map[string]url.Values{
		"/network/wan": staticForm(), "/network/lan": staticForm(), "/network/clock": {"servers": {"evil.test"}},
		"/network/confirm": {}, "/network/return": {}, "/network/selftest": {}, "/find/names": {"host": {"evil"}},
	}
	for path, values := range paths {
		for _, header := range [][]string{
			{"Origin", "http://evil.test"}, {"Origin", "null"}, {"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"},
		} {
			if resp, body := submit(t, p, path, values, newAddress, header...); resp.StatusCode != http.StatusForbidden {
				t.Errorf("%s with %q: %s", path, header, resp.Status)
			} else {
				checkHTML(t, path, body)
			}
		}
		if resp, _ := submit(t, p, path, values, newAddress, "Host", "evil.test"); resp.StatusCode != http.StatusMisdirectedRequest {
			t.Errorf("%s under a foreign name: %s", path, resp.Status)
		}
		for _, kind := range []string{"text/plain", "application/json", "multipart/form-data; boundary=x", ""} {
			if resp, _ := submit(t, p, path, values, newAddress, "Content-Type", kind); resp.StatusCode != http.StatusBadRequest {
				t.Errorf("%s as %q: %s", path, kind, resp.Status)
			}
		}
		more := maps.Clone(values)
		more["surprise"] = []string{"1"}
		twice := url.Values{"vlan": {"1", "2"}}
		for _, v := range []url.Values{more, twice, {"x": {strings.Repeat("y", maxBody)}}} {
			if resp, _ := submit(t, p, path, v, newAddress); resp.StatusCode != http.StatusBadRequest {
				t.Errorf("%s, %.40s: %s", path, v.Encode(), resp.Status)
			}
		}
		if resp, _ := submit(t, p, path+"?x=1", values, newAddress); resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s with a query: %s", path, resp.Status)
		}
		if resp, _ := get(t, p, path); resp.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("GET %s: %s", path, resp.Status)
		}
	}
	if len(g.net.asked) > 0 {
		t.Errorf("asked: %+v", g.net.asked)
	}
}

// With a change on probation every page says what to do, by the address over which it was opened.
func TestBanner(t *testing.T) {
	g := sample()
	p := newPortal(t, g)
	read := func(path, on, lang string) string {
		t.Helper()
		resp, body := send(t, p, http.MethodGet, path, "", on, "Accept-Language", lang)
		if resp.StatusCode >= 500 {
			t.Errorf("%s: %s", path, resp.Status)
		}
		if path != "/probation" {
			checkHTML(t, path, body)
		}
		return body
	}
	for _, path := range pagePaths {
		if strings.Contains(read(path, oldAddress, "en"), `id="probation"`) {
			t.Errorf("%s: a banner without a change", path)
		}
	}
	g.change(func(g *gateway) {
		g.n.Change = &network.Change{SecondsLeft: 41.2, By: "portal", Addresses: []netip.Addr{
			netip.MustParseAddr("fe80::1%eth0"), netip.MustParseAddr("2001:db8::50"), netip.MustParseAddr(newAddress)}}
	})
	for _, path := range append(pagePaths, "/probation") {
		for _, c := range []struct {
			on, lang   string
			has, hasnt []string
		}{
			{oldAddress, "de", []string{"noch 42 Sekunden", `href="http://192.168.178.50/network?lang=de"`, "http://[2001:db8::50]/", "Jetzt zurücknehmen", "bestätigen Sie dort"}, []string{"/network/confirm", "fe80::1%"}},
			{newAddress, "en", []string{"42 seconds left", "Keep these settings", `action="/network/confirm"`, "Take back now"}, []string{`href="http://192.168.178.50/`}},
			{"::ffff:" + newAddress, "en", []string{"Keep these settings"}, nil},
			{"", "en", []string{"42 seconds left"}, []string{"Keep these settings"}},
		} {
			body := read(path, c.on, c.lang)
			for _, want := range c.has {
				if !strings.Contains(body, want) {
					t.Errorf("%s over %q lacks %q", path, c.on, want)
				}
			}
			for _, not := range c.hasnt {
				if strings.Contains(body, not) {
					t.Errorf("%s over %q has %q", path, c.on, not)
				}
			}
		}
	}
	if body := read("/network", newAddress, "en"); strings.Contains(body, ">Apply</button> <small>") || !strings.Contains(body, "Keep it or take it back") {
		t.Error("over an address that may go, a further change is offered")
	}
	g.change(func(g *gateway) { g.n.Change.Addresses = nil })
	if body := read("/", oldAddress, "en"); !strings.Contains(body, "no address yet") {
		t.Error("it is not told that there is no address yet")
	}
	g.change(func(g *gateway) { g.n.Change.Addresses = []netip.Addr{netip.MustParseAddr("fe80::1%eth0")} })
	if body := read("/", oldAddress, "en"); !strings.Contains(body, "No browser can open the new addresses.") {
		t.Error("it is not told that the addresses are of no use")
	}
	g.change(func(g *gateway) { g.n.Change = nil })
	if body := read("/probation", oldAddress, "en"); !strings.Contains(body, "The probation is over.") {
		t.Errorf("afterwards: %s", body)
	}
	g.change(func(g *gateway) {
		g.net.diary = append(g.net.diary, diary.Entry{ID: 99, Kind: diary.CommitReturned, Args: map[string]string{"reason": diary.ReasonTimeout}})
	})
	if body := read("/probation", oldAddress, "en"); !strings.Contains(body, "the change was not confirmed in time") {
		t.Errorf("when it went back: %s", body)
	}
	g.change(func(g *gateway) { g.down[PartNetwork] = true })
	if resp, _ := get(t, p, "/probation"); resp.StatusCode != http.StatusNoContent {
		t.Errorf("without network service: %s", resp.Status)
	}
}

func TestKeepAndTakeBack(t *testing.T) {
	g := sample()
	p := newPortal(t, g)
	begin := func() {
		t.Helper()
		if resp, body := submit(t, p, "/network/wan", staticForm(), oldAddress); resp.StatusCode != http.StatusSeeOther {
			t.Fatal(body)
		}
		g.change(func(g *gateway) { g.n.Ports[0].Addresses[0].Former = true })
	}
	begin()
	resp, body := submit(t, p, "/network/confirm", nil, oldAddress)
	if checkHTML(t, "old address", body); resp.StatusCode != http.StatusConflict || !strings.Contains(body, "Not confirmed: this page was not opened over a new address.") {
		t.Errorf("over the old address: %s", resp.Status)
	}
	resp, _ = submit(t, p, "/network/confirm", nil, newAddress)
	if resp.Header.Get("Location") != "/network?done=kept" || g.n.Change != nil {
		t.Errorf("over the new address: %s", resp.Status)
	}
	resp, body = submit(t, p, "/network/confirm", nil, newAddress)
	if checkHTML(t, "too late", body); resp.StatusCode != http.StatusConflict || !strings.Contains(body, "No change is on probation any more.") {
		t.Errorf("too late: %s", resp.Status)
	}

	values := staticForm()
	values.Set("ipv4.method", "dhcp")
	submit(t, p, "/network/wan", values, newAddress)
	g.change(func(g *gateway) { g.net.moveTo = []netip.Addr{netip.MustParseAddr(oldAddress)} })
	if resp, _ = submit(t, p, "/network/return", nil, "192.168.1.1"); resp.Header.Get("Location") != "/network?done=returned" || g.n.Change != nil {
		t.Errorf("take back: %s", resp.Status)
	}

	// Over an address that goes by that, the answer comes first and says where to go on.
	g.change(func(g *gateway) {
		g.net.settings = settings.Default()
		g.net.moveTo = []netip.Addr{netip.MustParseAddr(newAddress)}
	})
	begin()
	resp, body = submit(t, p, "/network/return", nil, newAddress, "Accept-Language", "de")
	if checkHTML(t, "returning", body); resp.StatusCode != http.StatusOK || !strings.Contains(body, `href="http://192.168.178.40/network?lang=de"`) || g.n.Change != nil {
		t.Errorf("take back over the new address: %s %s", resp.Status, body)
	}

	g.change(func(g *gateway) { g.down[PartNetwork] = true })
	for path, values := range map[string]url.Values{"/network/confirm": {}, "/network/return": {}, "/network/wan": staticForm(), "/network/clock": {"servers": {"a"}}, "/find/names": {"host": {"a"}}} {
		resp, body := submit(t, p, path, values, "")
		if checkHTML(t, path, body); resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, "The network service does not answer at present.") {
			t.Errorf("%s without network service: %s", path, resp.Status)
		}
	}
}

func TestM10_TableOfPortsIsShownAndChecked(t *testing.T) {
	g := sample()
	p := newPortal(t, g)
	_, body := get(t, p, "/network", "Accept-Language", "de")
	for _, row := range portmap.Table {
		for _, want := range []string{row.Ports.String(), html.EscapeString(row.Purpose.DE), html.EscapeString(row.Peer.DE)} {
			if !strings.Contains(body, want) {
				t.Errorf("%s: the page lacks %q", row.ID, want)
			}
		}
	}
	for _, header := range [][]string{nil, {"HX-Request", "true"}} {
		resp, body := submit(t, p, "/network/selftest", nil, "", append(header, "Accept-Language", "de")...)
		if header == nil {
			checkHTML(t, "checked", body)
		} else if strings.Contains(body, "<html") {
			t.Error("htmx gets a whole page")
		}
		for _, want := range []string{"Geprüft: 6 in Ordnung, 1 nicht in Ordnung,", `<span class="badge ok">offen</span>`, `<span class="badge bad">gesperrt</span>`, `<span class="badge ok">gesperrt</span>`, "pool.ntp.org hat geantwortet.",
			"Ein DHCP-Server hat die Adresse 192.168.178.40/24 zugeteilt.", "Ihre Anfrage von 192.168.178.23 kam über diesen Port."} {
			if resp.StatusCode != http.StatusOK || !strings.Contains(body, want) {
				t.Errorf("%q: %s, lacks %q", header, resp.Status, want)
			}
		}
	}
	g.change(func(g *gateway) { g.down[PartNetwork] = true })
	if _, body := submit(t, p, "/network/selftest", nil, "", "HX-Request", "true"); !strings.Contains(body, "The check did not come about.") {
		t.Error(body)
	}
}

// However many want a self-test, there is one: a second one would wait for ever here.
func TestOneSelfTestIsEnoughForAll(t *testing.T) {
	g := sample()
	g.net.testing = make(chan bool)
	p := newPortal(t, g)
	p.keep = time.Hour
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if resp, body := send(t, p, http.MethodPost, selfTestPath, "", ""); resp.StatusCode != http.StatusOK {
				t.Error(body)
			}
		})
	}
	g.net.testing <- true
	all.Wait()
}

func TestNetworkPageTellsTheState(t *testing.T) {
	g := sample()
	g.n.Ports[0].VLAN, g.n.Ports[1].SearchingSeconds = 7, 61
	g.n.Ports[0].Addresses = append(g.n.Ports[0].Addresses,
		network.Address{Prefix: netip.MustParsePrefix("10.0.0.7/24"), Source: network.Static, Former: true},
		network.Address{Prefix: netip.MustParsePrefix("169.254.7.7/16"), Source: network.LinkLocal},
		network.Address{Prefix: netip.MustParsePrefix("2001:db8::9/128"), Source: network.DHCP6, ValidSeconds: 60},
		network.Address{Prefix: netip.MustParsePrefix("10.9.9.9/32"), Source: "of a later version"})
	p := newPortal(t, g)
	for lang, texts := range map[string][]string{
		"de": {"eth0", "WAN", "LAN", "1\u00a0Gbit/s", "Keine Verbindung", "DHCP, noch 9\u00a0Tage", "fest, nur bis zur Bestätigung", "selbst gewählt", "DHCPv6, noch 1\u00a0Min.",
			"52:54:00:7f:3a:92", "1500 Byte", "antwortet seit 1\u00a0Min.", "Die Uhr geht richtig: Zeitserver haben sie gestellt", "vor 12\u00a0Min.", "Abweichung 12\u00a0ms", "de.pool.ntp.org",
			"Port eth0: Verbindung hergestellt, 1000 Mbit/s.", "22.11.2026, 09:14:07"},
		"en": {"static, until confirmed only", "self-chosen", "The clock is right: time servers have set it", "Port eth0: link up at 1000 Mbit/s.", "10.9.9.9/32"},
	} {
		for _, path := range []string{"/network", "/network/live"} {
			_, body := get(t, p, path, "Accept-Language", lang)
			for _, want := range texts {
				if !strings.Contains(body, want) && (path == "/network" || !strings.Contains(want, "link up") && !strings.Contains(want, "Verbindung hergestellt") && !strings.Contains(want, "09:14:07")) {
					t.Errorf("%s in %s lacks %q", path, lang, want)
				}
			}
		}
	}
	_, body := get(t, p, "/network/diary")
	if first, last := strings.Index(body, "Settings changed"), strings.Index(body, "link up"); first < 0 || first > last {
		t.Error("the newest entry is not the first")
	}
	g.change(func(g *gateway) {
		g.net.diary = slices.Repeat(g.net.diary, 20)
		for i := range g.net.diary {
			g.net.diary[i].ID = uint64(i + 1)
			g.net.diary[i].Actual = time.Time{}
		}
	})
	if _, body := get(t, p, "/network/diary"); strings.Count(body, "<li id=") != shownDiary || !strings.Contains(body, "70 older entries are not shown.") || !strings.Contains(body, "clock inaccurate") {
		t.Errorf("a long diary: %d entries", strings.Count(body, "<li id="))
	}
	for _, source := range []ntp.Source{"", ntp.Unset, ntp.Floor, ntp.NTP, ntp.Verified, "of a later version"} {
		for _, reason := range []ntp.Reason{"", ntp.CannotSet, ntp.TooFar, ntp.Disagree, ntp.Impossible, ntp.Unsynchronised, ntp.Refused, ntp.NoAnswer, ntp.Unresolved, ntp.NoServers} {
			g.change(func(g *gateway) { g.n.Clock = network.Clock{Source: source, Reason: reason, Detail: "\x1b[2J<b>"} })
			for _, lang := range languages {
				resp, body := get(t, p, "/network", "Accept-Language", lang)
				checkHTML(t, fmt.Sprint(source, reason, lang), body)
				if resp.StatusCode != 200 || reason != "" && strings.Contains(body, string(reason)+"<") || strings.Contains(body, "\x1b") {
					t.Errorf("%q %q %s: %s", source, reason, lang, resp.Status)
				}
			}
		}
	}
	g.change(func(g *gateway) { g.down[PartNetwork] = true })
	if _, body := get(t, p, "/network"); !strings.Contains(body, "The network service does not answer at present.") || strings.Contains(body, "/network/wan") {
		t.Error("without network service")
	}
	if resp, _ := get(t, p, "/network/diary"); resp.StatusCode != http.StatusNoContent {
		t.Error(resp.Status)
	}
}

// Page, API and console agree on what is told of the clock.
func TestTheClocksConditionGoesOnceItIsSet(t *testing.T) {
	g := faulty()
	p := newPortal(t, g)
	for source, told := range map[ntp.Source]bool{ntp.Floor: true, ntp.NTP: false, ntp.Verified: false} {
		g.change(func(g *gateway) { g.n.Clock.Source = source })
		_, page := get(t, p, "/", "Accept-Language", "de")
		_, api := get(t, p, statusPath)
		if strings.Contains(page, "Uhrzeit ungenau") != told || strings.Contains(api, `"clock-floor"`) != told {
			t.Errorf("%s: want %t", source, told)
		}
	}
}

// What anybody types is refused or becomes settings, and the page shows it as it was typed.
func FuzzPortForm(f *testing.F) {
	f.Add("static", "192.168.1.10/24\n10.0.0.5", "192.168.1.1", "7", "10.0.0.0/8 192.168.1.2")
	f.Add("dhcp", "<script>", "\x00", "1e9", "a b c d")
	f.Add("off", "{{.}}", "::1%eth0", "-0", "\u2028\u202e")
	f.Fuzz(func(t *testing.T, method, addresses, router, vlan, routes string) {
		values := map[string]string{"ipv4.method": method, "ipv4.addresses": addresses, "ipv4.router": router,
			"ipv6.method": "automatic", "vlan": vlan, "routes": routes}
		n, err := withPort(settings.Default().Network, "lan", values)
		if err == nil {
			if b, err := json.Marshal(n); err != nil {
				t.Errorf("%s: %v", b, err)
			}
			err = n.Check()
			if err == nil {
				return
			}
		}
		fm := portForm(view{Lang: "en"}, "lan", network.Port{}, settings.Default().Network.LAN)
		fm.Values = values
		if fm.blame(err); !fm.Failed() {
			t.Errorf("%q: no field is blamed for %v", values, err)
		}
	})
}

// A service that fails in its own way blames no field.
func TestBlameKnowsRefusals(t *testing.T) {
	f := portForm(view{Lang: "en"}, "wan", network.Port{}, settings.Default().Network.WAN)
	if f.blame(errors.New("connection refused")); f.Failed() {
		t.Error("a failed connection is a field's fault")
	}
	if f.blame(fmt.Errorf("ask: %w", &network.Refusal{Fields: []settings.FieldError{{Path: "clock.servers[0]", Code: settings.Empty}}})); len(f.Others) != 1 {
		t.Errorf("%+v", f.Others)
	}
	if refusalOf(context.Canceled) != nil {
		t.Error("a refusal out of nothing")
	}
}
