package portal

import (
	"bytes"
	"context"
	"encoding/json"
	"image/png"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"rsc.io/qr"

	"cloudlink.local/gateway/internal/mdns"
	"cloudlink.local/gateway/internal/network"
)

const (
	lanAddress = "192.168.10.20"
	uniqueHost = "cloudlink-clg-7f3a91.local" // of sample's serial number
	instance   = "CloudLink Gateway (3A91)._http._tcp.local"
)

// sited is a gateway with two ports in use.
func sited() *gateway {
	g := sample()
	lan := &g.n.Ports[1]
	lan.Link, lan.SpeedMbps, lan.Role = true, 1000, network.LAN
	lan.Addresses = []network.Address{
		{Prefix: netip.MustParsePrefix("fe80::5054:ff:fe7f:3a92/64"), Source: network.Kernel},
		{Prefix: netip.MustParsePrefix("fd12:3456:789a::20/64"), Source: network.Kernel},
		{Prefix: netip.MustParsePrefix("2001:db8:10::20/64"), Source: network.Kernel},
		{Prefix: netip.MustParsePrefix(lanAddress + "/24"), Source: network.DHCP, ValidSeconds: 3000},
	}
	g.n.Names.Ports = []network.PortNames{{Port: lan.Name, Reachable: uniqueHost, Names: []network.Name{
		{Name: uniqueHost, State: mdns.Announced},
		{Name: defaultHost, State: mdns.Announced},
		{Name: instance, State: mdns.Announced},
	}}}
	return g
}

// contested is a gateway beside others that have its names.
func contested() *gateway {
	g := sited()
	g.net.settings.Names.OnWAN = true
	names := g.n.Names.Ports[0].Names
	names[1].State = mdns.Lost
	names[1].Rival = &network.Rival{Address: netip.MustParseAddr("192.168.10.77"), MAC: "52:54:00:00:00:77", SecondsSince: 3_700}
	names[2] = network.Name{Name: "CloudLink Gateway (3A91) (2)._http._tcp.local", State: mdns.Probing, Rival: &network.Rival{Address: netip.MustParseAddr("fe80::77%eth1")}}
	g.n.Names.Ports = append(g.n.Names.Ports, network.PortNames{Port: "eth0.7", Trouble: "send: network is unreachable", Names: []network.Name{}})
	return g
}

// arriving returns a request that came in on our address local.
func arriving(method, path, host, local string) *http.Request {
	r := httptest.NewRequest(method, path, nil)
	r.Host = host
	on := net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(local), 80))
	return r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, on))
}

func TestM20_FindNamesAndAddresses(t *testing.T) {
	p := newPortal(t, sited())
	_, body := get(t, p, "/api/v1/find", "Accept-Language", "de", "User-Agent", "Mozilla/5.0 (Windows NT 10.0; Win64; x64)")
	var f Find
	if err := json.Unmarshal([]byte(body), &f); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	if want := []FindName{
		{"cloudlink.local", "http://cloudlink.local/", "http://cloudlink.local/find/token", false, false},
		{uniqueHost, "http://" + uniqueHost + "/", "http://" + uniqueHost + "/find/token", true, false},
	}; !slices.Equal(f.Names, want) {
		t.Errorf("names: %+v", f.Names)
	}
	// No address of wan, where the page is not offered, and none that needs a zone.
	if want := []FindAddress{
		{netip.MustParseAddr(lanAddress), "http://192.168.10.20/"},
		{netip.MustParseAddr("fd12:3456:789a::20"), "http://[fd12:3456:789a::20]/"},
		{netip.MustParseAddr("2001:db8:10::20"), "http://[2001:db8:10::20]/"},
	}; !slices.Equal(f.Addresses, want) {
		t.Errorf("addresses: %+v", f.Addresses)
	}
	if f.QR != "/find/qr.png?address="+lanAddress || f.Token != p.token {
		t.Errorf("QR code %q, token %q", f.QR, f.Token)
	}
	if c := f.Cures[0]; c.Platform != windows || !c.Own || len(f.Cures) != len(platforms) || !strings.Contains(strings.Join(c.Steps, " "), "Bonjour-Druckdienste") {
		t.Errorf("cures: %+v", f.Cures)
	}
	_, page := get(t, p, "/find", "Accept-Language", "de", "User-Agent", "Mozilla/5.0 (Windows NT 10.0; Win64; x64)")
	wanted := []string{"Findet mich dieser Computer?", `src="/find/qr.png?address=` + lanAddress + `"`, `data-check="http://cloudlink.local/find/token"`}
	for _, n := range f.Names {
		wanted = append(wanted, `href="`+n.URL+`"`)
	}
	for _, a := range f.Addresses {
		wanted = append(wanted, `href="`+a.URL+`"`)
	}
	for _, c := range f.Cures {
		for _, step := range c.Steps {
			wanted = append(wanted, strings.NewReplacer(`"`, "&#34;", "&", "&amp;", ">", "&gt;").Replace(step))
		}
	}
	for _, want := range wanted {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	for _, lang := range languages {
		if got := cures(view{Lang: lang}, ""); slices.ContainsFunc(got, func(c Cure) bool { return len(c.Steps) < 2 || c.Own }) {
			t.Errorf("%s: %+v", lang, got)
		}
	}
}

func TestFindAddressesInTheirOrder(t *testing.T) {
	addr := netip.MustParseAddr
	both := func(addresses ...network.Address) network.Status {
		return network.Status{Ports: []network.Port{{Role: network.Both, Addresses: addresses}}}
	}
	at := func(prefix string) network.Address { return network.Address{Prefix: netip.MustParsePrefix(prefix)} }
	former := at("10.0.0.1/8")
	former.Former = true
	changing := sited().n
	changing.Change = &network.Change{}
	for name, c := range map[string]struct {
		s       network.Status
		arrived string
		want    []netip.Addr
	}{
		"none":               {both(), "", nil},
		"only a link's own":  {both(at("fe80::1/64")), "", nil},
		"no server answers":  {both(at("fe80::1/64"), at("169.254.7.7/16")), "", []netip.Addr{addr("169.254.7.7")}},
		"one port":           {both(at("2001:db8::1/64"), at("169.254.7.7/16"), former, at("192.0.2.1/24")), "", []netip.Addr{addr("192.0.2.1"), addr("2001:db8::1"), addr("169.254.7.7"), addr("10.0.0.1")}},
		"came in on IPv6":    {both(at("2001:db8::1/64"), at("192.0.2.1/24")), "2001:db8::1", []netip.Addr{addr("2001:db8::1"), addr("192.0.2.1")}},
		"came in on wan":     {sited().n, "192.168.178.40", []netip.Addr{addr("192.168.178.40"), addr(lanAddress), addr("fd12:3456:789a::20"), addr("2001:db8:10::20")}},
		"came in on no port": {sited().n, "127.0.0.1", []netip.Addr{addr(lanAddress), addr("fd12:3456:789a::20"), addr("2001:db8:10::20")}},
		"on both for a time": {changing, "", []netip.Addr{addr("192.168.178.40"), addr(lanAddress), addr("fd12:3456:789a::20"), addr("2001:db8:10::20")}},
		"the same on both":   {network.Status{Ports: append(both(at("192.0.2.1/24")).Ports, both(at("192.0.2.1/24")).Ports...)}, "", []netip.Addr{addr("192.0.2.1")}},
	} {
		arrived, _ := netip.ParseAddr(c.arrived)
		if got := openable(c.s, arrived); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// Who opened the page by a name is told at once that the computer finds it.
func TestFindUnderTheNameItself(t *testing.T) {
	g := sited()
	g.n.Names.Host = "bureau.local"
	p := newPortal(t, g)
	for host, want := range map[string]string{"bureau.local": "bureau.local", "Bureau.Local.:8080": "bureau.local", uniqueHost: uniqueHost, lanAddress: "", "cloudlink.local": ""} {
		_, body := get(t, p, "/find", "Host", host)
		if got := strings.Count(body, "Yes: you have opened this page under this name."); (got == 1) != (want != "") {
			t.Errorf("%s: told %d times", host, got)
		}
		for _, name := range []string{"bureau.local", uniqueHost} {
			if checked := strings.Contains(body, `data-check="http://`+name+`/find/token"`); checked == (name == want) {
				t.Errorf("%s: %s is checked: %t", host, name, checked)
			}
		}
	}
}

// A browser may keep a page of a public address from asking in the LAN; a failure says little then.
func TestFindUnderAPublicAddress(t *testing.T) {
	p := newPortal(t, sited())
	for host, want := range map[string]bool{
		"192.168.10.20": false, "169.254.1.1": false, "[fd12::1]": false, "[fe80::1]": false, "127.0.0.1:8080": false, "localhost": false, "cloudlink.local": false,
		"203.0.113.5": true, "[2001:db8:10::20]": true,
	} {
		if _, body := get(t, p, "/find", "Host", host); strings.Contains(body, "opened under a public address") != want {
			t.Errorf("%s: %t", host, !want)
		}
	}
}

func TestFindPolicyNamesOurNamesAlone(t *testing.T) {
	g := sited()
	p := newPortal(t, g)
	policy := func(p *Portal) string {
		resp, _ := get(t, p, "/find")
		return resp.Header.Get("Content-Security-Policy")
	}
	const frame = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'%; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
	want := strings.Replace(frame, "%", " http://cloudlink.local http://"+uniqueHost, 1)
	if got := policy(p); got != want {
		t.Errorf("policy %q", got)
	}
	for _, serial := range []string{"x; script-src *", "x http://evil.test", "x\r\nSet-Cookie: a=b", "x.evil", "ü", "-", strings.Repeat("x", 64)} {
		for _, down := range []bool{false, true} {
			g.change(func(g *gateway) {
				g.m.Serial, g.n.Names = serial, network.Names{Host: "cloudlink.local", Unique: "cloudlink-" + serial + ".local"}
				g.down[PartNetwork] = down
			})
			if got := policy(newPortal(t, g)); got != strings.Replace(frame, "%", " http://cloudlink.local", 1) {
				t.Errorf("serial %q: policy %q", serial, got)
			}
			g.change(func(g *gateway) { g.n.Names.Host = serial + ".local" })
			if got := policy(newPortal(t, g)); got != strings.Replace(frame, "%", " http://cloudlink.local", 1) {
				t.Errorf("host name %q: policy %q", serial, got)
			}
		}
	}
	g = sited()
	p = newPortal(t, g)
	for _, path := range append(pagePaths, "/find/token", "/find/qr.png?address="+lanAddress) {
		if resp, _ := get(t, p, path); path != "/find" && resp.Header.Get("Content-Security-Policy") != strings.Replace(frame, "%", "", 1) {
			t.Errorf("%s: policy %q", path, resp.Header.Get("Content-Security-Policy"))
		}
	}
}

// The token is read by pages of the gateway itself and of one beside it, and by nobody else.
func TestFindTokenAcrossOrigins(t *testing.T) {
	p := newPortal(t, sited())
	for origin, want := range map[string]bool{
		"http://192.168.10.20":               true,
		"http://192.168.10.20:8080":          true,
		"http://192.168.178.40":              true,
		"http://192.168.10.77":               true, // a gateway beside this one
		"http://[2001:db8:10::20]":           true,
		"http://[2001:db8:10::77]":           true,
		"http://[fd12:3456:789a::20]":        true,
		"http://[::ffff:192.168.10.20]":      true,
		"http://cloudlink.local":             true,
		"http://cloudlink.local:8080":        true,
		"http://" + uniqueHost:               true,
		"http://localhost:8080":              true,
		"http://127.0.0.1:8080":              true,
		"http://[::1]":                       true,
		"http://198.51.100.9":                true, // where the request comes in, below
		"":                                   false,
		"null":                               false,
		"http://":                            false,
		"https://192.168.10.20":              false,
		"http://192.168.11.20":               false,
		"http://8.8.8.8":                     false,
		"http://[2001:db8:11::20]":           false,
		"http://evil.test":                   false,
		"http://cloudlink.local.evil.test":   false,
		"http://192.168.10.20.evil.test":     false,
		"http://192.168.10.20@evil.test":     false,
		"http://evil.test#192.168.10.20":     false,
		"http://192.168.10.20/":              false,
		"http://192.168.10.20, http://x":     false,
		"http://cloudlink-other.local":       false,
		"http://cloudlink.local\\.evil.test": false,
		"*":                                  false,
		"192.168.10.20":                      false,
		"chrome-extension://cloudlink.local": false,
	} {
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPost} {
			r := arriving(method, tokenPath, "cloudlink.local", "198.51.100.9")
			r.Header.Set("Origin", origin)
			r.Header.Set("Access-Control-Request-Method", http.MethodGet)
			w := httptest.NewRecorder()
			p.ServeHTTP(w, r)
			allowed := ""
			if want && method == http.MethodGet {
				allowed = origin
			}
			if got := w.Header().Get("Access-Control-Allow-Origin"); got != allowed {
				t.Errorf("%s from %q: allowed %q", method, origin, got)
			}
			for name := range w.Header() {
				if name != "Access-Control-Allow-Origin" && strings.HasPrefix(name, "Access-Control-") {
					t.Errorf("%s from %q: %s", method, origin, name)
				}
			}
			if method == http.MethodGet && (w.Code != http.StatusOK || w.Header().Get("Vary") != "Origin") {
				t.Errorf("GET from %q: %d, Vary %q", origin, w.Code, w.Header().Get("Vary"))
			}
		}
	}
	resp, body := get(t, p, tokenPath)
	if want := `{"token":"` + p.token + `","name":"` + uniqueHost + `"}` + "\n"; body != want || resp.Header.Get("Content-Type") != "application/json" {
		t.Errorf("says %s", body)
	}
	if other := newPortal(t, sited()); other.token == p.token || len(p.token) < 26 {
		t.Errorf("two gateways have the token %q", p.token)
	}
	// No other answer may be read from another origin, and a foreign name gets none (DNS rebinding).
	for _, path := range append(pagePaths, "/find", "/find/qr.png?address="+lanAddress, "/api/v1/find", "/api/v1/status", "/live") {
		if resp, _ := get(t, p, path, "Origin", "http://"+lanAddress); resp.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s may be read from another origin", path)
		}
	}
	resp, body = get(t, p, tokenPath, "Host", "evil.test", "Origin", "http://cloudlink.local")
	if resp.StatusCode != http.StatusMisdirectedRequest || resp.Header.Get("Access-Control-Allow-Origin") != "" || strings.Contains(body, p.token) {
		t.Errorf("under a foreign name: %s %s", resp.Status, body)
	}
}

// The token is answered without the other parts: a page can still tell whether the name works.
func TestFindTokenWithoutTheParts(t *testing.T) {
	g := sited()
	g.down[PartMachine], g.down[PartNetwork] = true, true
	p := newPortal(t, g)
	r := arriving(http.MethodGet, tokenPath, "cloudlink.local", lanAddress)
	r.Header.Set("Origin", "http://"+lanAddress)
	w := httptest.NewRecorder()
	p.ServeHTTP(w, r)
	if w.Code != http.StatusOK || w.Header().Get("Access-Control-Allow-Origin") != "http://"+lanAddress || !strings.Contains(w.Body.String(), p.token) {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	// And the address that the page was opened under is known in any case.
	for local, want := range map[string]bool{lanAddress: true, "127.0.0.1": false, "fe80::1": false} {
		w := httptest.NewRecorder()
		p.ServeHTTP(w, arriving(http.MethodGet, findPath, "cloudlink.local", local))
		if body := w.Body.String(); strings.Contains(body, `href="http://`+local+`/"`) != want || !strings.Contains(body, "The network service does not answer at present.") ||
			strings.Contains(body, "has no address") {
			t.Errorf("on %s: %s", local, body)
		}
	}
}

func FuzzOwnOrigin(f *testing.F) {
	f.Add("http://192.168.10.20:80")
	f.Add("http://[2001:db8:10::77]")
	f.Add("http://cloudlink.local")
	f.Add("http://192.168.10.20@evil.test")
	f.Add("http://cloudlink.local\x00.evil.test")
	own := ownNames{Host: defaultHost, Unique: uniqueHost}
	ports := sited().n.Ports
	f.Fuzz(func(t *testing.T, origin string) {
		if !ownOrigin(origin, own, ports, netip.Addr{}) {
			return
		}
		host := strings.ToLower(strings.TrimPrefix(origin, "http://"))
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		host = strings.Trim(strings.TrimSuffix(host, "."), "[]")
		address, _, _ := strings.Cut(host, "%")
		if host != "cloudlink.local" && host != uniqueHost && host != "localhost" && net.ParseIP(address) == nil {
			t.Errorf("let in: %q", origin)
		}
	})
}

func TestFindQRCode(t *testing.T) {
	p := newPortal(t, sited())
	for address, want := range map[string]string{lanAddress: "http://192.168.10.20/", "2001:db8:10::20": "http://[2001:db8:10::20]/"} {
		resp, body := get(t, p, "/find/qr.png?address="+address)
		picture, err := png.Decode(bytes.NewReader([]byte(body)))
		if err != nil || resp.Header.Get("Content-Type") != "image/png" {
			t.Fatalf("%s: %s %v", address, resp.Header.Get("Content-Type"), err)
		}
		code, err := qr.Encode(want, qr.M)
		if err != nil {
			t.Fatal(err)
		}
		scale := picture.Bounds().Dx() / (code.Size + 8) // four modules of quiet zone on each side
		for y := -4; y < code.Size+4; y++ {
			for x := -4; x < code.Size+4; x++ {
				r, _, _, _ := picture.At((x+4)*scale+scale/2, (y+4)*scale+scale/2).RGBA()
				if (r == 0) != code.Black(x, y) {
					t.Fatalf("%s: wrong at %d, %d", address, x, y)
				}
			}
		}
	}
	for query, want := range map[string]int{
		"":                            http.StatusNotFound,
		"?address=":                   http.StatusNotFound,
		"?address=192.168.10.21":      http.StatusNotFound,
		"?address=192.168.178.40":     http.StatusNotFound, // the page is not offered there
		"?address=evil.test":          http.StatusNotFound,
		"?address=fe80::1%25eth0":     http.StatusNotFound,
		"?text=x":                     http.StatusBadRequest,
		"?address=1.1.1.1&address=::": http.StatusBadRequest,
	} {
		if resp, _ := get(t, p, "/find/qr.png"+query); resp.StatusCode != want {
			t.Errorf("%s: %s", query, resp.Status)
		}
	}
}

func TestPlatformOf(t *testing.T) {
	for agent, want := range map[string]string{
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36 Edg/140.0.0.0":           windows,
		"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 Safari/605.1.15":                   macOS,
		"Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 Mobile/15E148 Safari/604.1": iOS,
		"Mozilla/5.0 (iPad; CPU OS 12_5 like Mac OS X) AppleWebKit/605.1.15":                                                                      iOS,
		"Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Mobile Safari/537.36":                         android,
		"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0":                                                                  linux,
		"Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36":                          chromeOS,
		"curl/8.5": "",
		"":         "",
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("User-Agent", agent)
		if got := platformOf(r); got != want {
			t.Errorf("%s: %q", agent, got)
		}
	}
	for hint, want := range map[string]string{`"Windows"`: windows, `"macOS"`: macOS, `"Android"`: android, `"Linux"`: linux, `"Chrome OS"`: chromeOS, `"Chromium OS"`: chromeOS, `"iOS"`: iOS, `"Unknown"`: "", `Windows`: ""} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("User-Agent", "Mozilla/5.0 (X11; Linux x86_64)")
		r.Header.Set("Sec-CH-UA-Platform", hint)
		if got := platformOf(r); got != want {
			t.Errorf("hint %s: %q", hint, got)
		}
	}
}
