package portal

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"cloudlink.local/gateway/internal/network"
	"cloudlink.local/gateway/internal/settings"
)

// Whoever opened the page by the name that goes is told where to go on.
func TestM20_TheNameIsChanged(t *testing.T) {
	for host, gone := range map[string]bool{"bureau.local": true, "Bureau.local:80": true, uniqueHost: false, "192.0.2.1": false} {
		g := sited()
		g.net.settings.Names.Host, g.n.Names.Host = "bureau", "bureau.local"
		p := newPortal(t, g)
		resp, body := submit(t, p, "/find/names", url.Values{"host": {" Office "}, "on_wan": {"true"}}, lanAddress, "Accept-Language", "de", "Host", host, "Origin", "http://"+host)
		checkHTML(t, host, body)
		if resp.StatusCode != http.StatusOK || g.net.settings.Names != (settings.Names{Host: "Office", OnWAN: true}) {
			t.Fatalf("%s: %s, %+v", host, resp.Status, g.net.settings.Names)
		}
		for _, want := range []string{"Dieses Gateway heißt jetzt office.local.", `<a href="http://office.local/find?lang=de">http://office.local/</a>`,
			`<a href="http://` + uniqueHost + `/find?lang=de">`, `<a href="http://192.168.10.20/find?lang=de">`, `<a href="http://[2001:db8:10::20]/find?lang=de">`} {
			if !strings.Contains(body, want) {
				t.Errorf("%s: lacks %q", host, want)
			}
		}
		if strings.Contains(body, "wird nicht mehr beantwortet") != gone || strings.Contains(body, "Unter dieser Adresse weitermachen") == gone || strings.Contains(body, "http://bureau.local") {
			t.Errorf("%s: %s", host, body)
		}
		// The page's styles, and other pages open under that name, are still answered.
		for name, want := range map[string]int{"bureau.local": 200, "office.local": 200, uniqueHost: 200, "cloudlink.local": 200, "other.local": 421} {
			if resp, _ := get(t, p, "/", "Host", name); resp.StatusCode != want {
				t.Errorf("afterwards under %s: %s", name, resp.Status)
			}
		}
		if _, body := get(t, p, "/", "Host", "office.local"); !strings.Contains(body, `<a href="http://office.local/">`) {
			t.Error("the first page does not have the new name")
		}
	}
}

func TestNamesForm(t *testing.T) {
	g := sited()
	p := newPortal(t, g)
	shown := func(lang string) string {
		t.Helper()
		_, body := get(t, p, "/find", "Accept-Language", lang)
		checkHTML(t, lang, body)
		return body
	}
	const box = `id="names-on_wan" name="on_wan" value="true"`
	for lang, words := range map[string][]string{"de": {"Name im LAN", "Auch an WAN"}, "en": {"Name in the LAN", "Also on WAN"}} {
		body := shown(lang)
		for _, want := range append(words, `<input id="names-host" name="host" value="cloudlink"`, `<span id="names-host-suffix">.local</span>`, box+" aria-") {
			if !strings.Contains(body, want) {
				t.Errorf("%s: lacks %q", lang, want)
			}
		}
	}
	// The switch alone: the page stays where it is.
	resp, _ := submit(t, p, "/find/names", url.Values{"host": {"cloudlink"}, "on_wan": {"true"}}, "")
	if resp.StatusCode != http.StatusSeeOther || resp.Header.Get("Location") != "/find?done=saved" || !g.net.settings.Names.OnWAN {
		t.Errorf("%s to %q: %+v", resp.Status, resp.Header.Get("Location"), g.net.settings.Names)
	}
	if body := shown("en"); !strings.Contains(body, box+" checked") {
		t.Error("the switch is not on")
	}
	if _, body := get(t, p, "/find?done=saved"); !strings.Contains(body, "The settings are saved.") || strings.Contains(body, "done=saved") {
		t.Error("the page does not say that it is saved")
	}
	submit(t, p, "/find/names", url.Values{"host": {"CloudLink"}}, "")
	if got := g.net.settings.Names; got != (settings.Names{Host: "CloudLink"}) {
		t.Errorf("switched off: %+v", got)
	}
	if got := g.net.asked[0]; got.By != byPortal || !got.From.IsValid() {
		t.Errorf("asked by %+v", got)
	}

	// With one port there is nothing to choose, and what was chosen stays.
	g.change(func(g *gateway) {
		g.n.Ports = g.n.Ports[:1]
		g.n.Ports[0].Role = network.Both
		g.net.settings.Names.OnWAN = true
	})
	if body := shown("en"); strings.Contains(body, "on_wan") || !strings.Contains(body, "names-host") {
		t.Error("a switch for the one port")
	}
	if submit(t, p, "/find/names", url.Values{"host": {"bureau"}}, ""); g.net.settings.Names != (settings.Names{Host: "bureau", OnWAN: true}) {
		t.Errorf("with one port: %+v", g.net.settings.Names)
	}
	g.change(func(g *gateway) { g.down[PartNetwork] = true })
	if body := shown("en"); strings.Contains(body, "names-host") || !strings.Contains(body, "http://bureau.local/") {
		t.Error("without network service")
	}
}

// How the names are doing, on each port, and who else has them.
func TestM20_NamesOfAnotherDeviceAreTold(t *testing.T) {
	p := newPortal(t, contested())
	for lang, texts := range map[string][]string{
		"en": {`<span class="badge ok">answered</span>`, `<span class="badge waiting">lost</span>`, `<span class="badge starting">being checked</span>`,
			"Another device has the name cloudlink.local: address 192.168.10.77, MAC address 52:54:00:00:00:77.",
			"On this port the gateway goes on under " + uniqueHost + ".",
			"Another device has this name without the number: address fe80::77, MAC address unknown.",
			"goes on as CloudLink Gateway (3A91) (2)._http._tcp.local.",
			"eth0.7 <small>WAN</small>", "This port cannot answer at present: send: network is unreachable"},
		"de": {">wird beantwortet<", ">verloren<", ">wird geprüft<",
			"Den Namen cloudlink.local hat ein anderes Gerät: Adresse 192.168.10.77, MAC-Adresse 52:54:00:00:00:77.",
			"An diesem Port ist das Gateway weiter unter " + uniqueHost + " zu finden.", "MAC-Adresse unbekannt"},
	} {
		for _, path := range []string{"/find", "/find/live"} {
			_, body := get(t, p, path, "Accept-Language", lang)
			for _, want := range texts {
				if !strings.Contains(body, want) {
					t.Errorf("%s in %s lacks %q", path, lang, want)
				}
			}
		}
	}
	if _, body := get(t, p, "/api/v1/names"); !strings.Contains(body, `"state":"lost","rival":{"address":"192.168.10.77","mac":"52:54:00:00:00:77","seconds_since":3700}`) {
		t.Error(body)
	}

	// Even the name that stays has a number: it is a name of ours as well.
	g := contested()
	const numbered = "cloudlink-clg-7f3a91-2.local"
	g.n.Names.Ports[0].Names[0].Name, g.n.Names.Ports[0].Reachable = numbered, numbered
	p = newPortal(t, g)
	if _, body := get(t, p, "/find", "Host", numbered); !strings.Contains(body, "goes on under "+numbered) {
		t.Error(body)
	}
	if resp, _ := get(t, p, "/", "Host", instance); resp.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("a service is no host: %s", resp.Status)
	}
}

// Who comes under a name that is none is led to an address, and learns no name: it may be a page of
// the internet that asks (DNS rebinding).
func TestForeignNameLearnsNoName(t *testing.T) {
	g := sited()
	g.n.Names.Host = "bureau.local"
	p := newPortal(t, g)
	for on, want := range map[string]string{lanAddress: "http://192.168.10.20/", "2001:db8:10::20": "http://[2001:db8:10::20]/", "169.254.7.7": "http://169.254.7.7/", "fe80::1": "http://cloudlink.local/", "": "http://cloudlink.local/"} {
		resp, body := send(t, p, http.MethodGet, "/find", "", on, "Host", "former.local")
		if checkHTML(t, on, body); resp.StatusCode != http.StatusMisdirectedRequest || !strings.Contains(body, `<a href="`+want+`">`+want+`</a>`) ||
			strings.Contains(body, "bureau") || strings.Contains(body, uniqueHost) {
			t.Errorf("on %q: %s %s", on, resp.Status, body)
		}
	}
}

// A port without a name says why.
func TestPortsWithoutNames(t *testing.T) {
	for i, c := range []struct {
		change func(p *network.Port)
		want   string
	}{
		{func(p *network.Port) { p.Link = false }, "No link"},
		{func(p *network.Port) { p.Addresses = nil }, "The port has no address yet."},
		{func(*network.Port) {}, "The check begins."},
		{func(p *network.Port) { p.Role = network.WAN }, "Not answered here: “Also on WAN” is off."},
		{func(p *network.Port) { p.Role = "" }, ""},
	} {
		g := sited()
		g.n.Names.Ports = nil
		g.n.Ports = g.n.Ports[1:]
		c.change(&g.n.Ports[0])
		_, body := get(t, newPortal(t, g), "/find/live")
		if got := strings.Contains(body, "<p>"+c.want+"</p>"); got != (c.want != "") {
			t.Errorf("%d: %s", i, body)
		}
	}
}

func FuzzNamesForm(f *testing.F) {
	f.Add("cloudlink", "true")
	f.Add("cloudlink.local", "")
	f.Add("<script>", "false")
	f.Fuzz(func(t *testing.T, host, onWAN string) {
		values := map[string]string{"host": host, "on_wan": onWAN}
		n, err := namesOf(values)
		if err == nil {
			all := settings.Default()
			all.Names = n
			if err = all.Check(); err == nil {
				if name := strings.ToLower(n.Host) + local; !isLocal(name) {
					t.Errorf("%q is let in and no name", name)
				}
				return
			}
			err = wrong(err)
		}
		fm := namesForm(view{Lang: "en"}, settings.Default().Names)
		if fm.blame(err); !fm.Failed() || len(fm.Others) > 0 {
			t.Errorf("%q: %v is not beside a field: %v", fmt.Sprint(values), err, fm.Others)
		}
	})
}
