package portal

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"cloudlink.local/gateway/internal/mdns"
	"cloudlink.local/gateway/internal/network"
)

// A front is what a browser reaches at port 80 of the names: whatever the test puts there.
type front struct {
	addr  string
	there atomic.Pointer[http.HandlerFunc]
}

func newFront(t *testing.T) *front {
	f := &front{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*f.there.Load())(w, r) }))
	t.Cleanup(s.Close)
	f.addr = s.Listener.Addr().String()
	return f
}

func (f *front) put(h http.HandlerFunc) { f.there.Store(&h) }

// newFindTab opens a tab in a browser of its own, that finds the gateway's two names at the fronts.
func newFindTab(t *testing.T, shared, unique *front) context.Context {
	t.Helper()
	b, end, err := startBrowser(fmt.Sprintf("MAP cloudlink.local:80 %s, MAP %s:80 %s", shared.addr, uniqueHost, unique.addr))
	if end != nil {
		t.Cleanup(end)
	}
	if err != nil {
		t.Fatalf("start browser: %v", err)
	}
	return tabOf(t, b)
}

// numeric is the address of a page as somebody types it whom no name helps.
func (r *running) numeric(path string) string {
	_, port, _ := net.SplitHostPort(r.addr)
	return "http://127.0.0.1:" + port + path
}

// said waits for the check's end and returns what the page says of the two names.
func said(t *testing.T, ctx context.Context) (shared, unique string) {
	t.Helper()
	await(t, ctx, `document.querySelector("#again:not([hidden]):not(:disabled)") !== null`)
	rows := eval[[]string](t, ctx, `[...document.querySelectorAll(".condition")].map((e) => e.classList[1] + ": " + [...e.querySelectorAll("p")].filter((p) => p.checkVisibility()).map((p) => p.innerText).join(" | "))`)
	if len(rows) != 2 {
		t.Fatalf("rows: %q", rows)
	}
	return rows[0], rows[1]
}

// beside is another gateway in the same LAN.
func beside() *gateway {
	g := sited()
	g.m.Serial, g.n.Names.Unique = "CLG-000002", uniqueName("CLG-000002")
	return g
}

// What a person at a computer is told, whatever there is under the name.
func TestM20_FindInTheBrowser(t *testing.T) {
	g := sited()
	ours, another := newPortal(t, g), newPortal(t, beside())
	served := run(t, ours)
	shared, unique := newFront(t), newFront(t)
	unique.put(ours.ServeHTTP)
	ctx := newFindTab(t, shared, unique)
	complaints := watchConsole(t, ctx)
	speak(t, ctx, "en")
	hurry := `const timeout = AbortSignal.timeout.bind(AbortSignal); AbortSignal.timeout = (ms) => timeout(window.hurry ? ms / 20 : ms)`
	call(t, ctx, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: hurry})

	var asked atomic.Int32
	let := make(chan bool)
	hangs := func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		select {
		case <-let:
			ours.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	}
	hangUp := func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			c.Close()
		}
	}
	for _, c := range []struct {
		name, want string
		there      http.HandlerFunc
		meanwhile  func()
	}{
		{"found", "ok: Yes: this gateway answered under this name after 0.", ours.ServeHTTP, nil},
		{"other", "warning: The name is found, but another gateway answered, after 0.", another.ServeHTTP, nil},
		{"stranger", "warning: The name is found, but something else answered, after 0.", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "printer") }, nil},
		{"stranger who talks", "warning: The name is found, but something else answered, after 0.", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Access-Control-Allow-Origin", "*")
			fmt.Fprint(w, `{"token":7}`)
		}, nil},
		{"refused", "error: No: this computer does not find this gateway under this name.", hangUp, nil},
		{"slow", "warning: Yes, but late: this gateway answered under this name only after ", hangs, func() {
			await(t, ctx, `(() => { window.begun ??= performance.now(); return performance.now() - window.begun > 1100 })()`)
			let <- true
		}},
		{"silent", "error: No: nobody answered within 0.", hangs, nil},
	} {
		shared.put(c.there)
		if c.name == "found" {
			do(t, ctx, chromedp.Navigate(served.numeric("/find")))
		} else {
			eval[bool](t, ctx, `(window.hurry = `+strconv.FormatBool(c.name == "silent")+`) || true`)
			do(t, ctx, chromedp.Click(chromedp.CSS("#again")))
		}
		if c.meanwhile != nil {
			await(t, ctx, `document.querySelector(".condition").innerText.includes("Checking …")`)
			c.meanwhile()
		}
		first, second := said(t, ctx)
		if !strings.HasPrefix(first, c.want) || !strings.HasSuffix(first, "| The name to type. Where there are several gateways in a network, one of them has it.") {
			t.Errorf("%s: %s", c.name, first)
		}
		if c.name == "other" && !strings.Contains(first, "s: cloudlink-clg-000002.local | ") {
			t.Errorf("%s: which gateway? %s", c.name, first)
		}
		if !strings.HasPrefix(second, "ok: Yes: this gateway answered under this name after 0.") {
			t.Errorf("%s: the name with the serial number: %s", c.name, second)
		}
		for _, line := range complaints.take() {
			if !strings.Contains(line, "net::ERR_") && !strings.Contains(line, "cloudlink.local/find/token") { // the browser's own, of what it did not reach
				t.Errorf("%s: on the console: %s", c.name, line)
			}
		}
	}
	if asked.Load() == 0 {
		t.Error("nobody was asked")
	}

	// The portal is started anew, with a new token, while the page is open: still the same gateway.
	served.stop()
	do(t, ctx, chromedp.Click(chromedp.CSS("#again")))
	if first, _ := said(t, ctx); !strings.HasPrefix(first, "error: This cannot be told at present:") {
		t.Errorf("without the gateway: %s", first)
	}
	complaints.take()
	ours = newPortal(t, g)
	shared.put(ours.ServeHTTP)
	served.start(ours)
	do(t, ctx, chromedp.Click(chromedp.CSS("#again")))
	first, second := said(t, ctx)
	if !strings.HasPrefix(first, "ok: Yes:") || !strings.HasPrefix(second, "warning: The name is found, but another gateway") {
		t.Errorf("after a start: %s, %s", first, second)
	}

	// Opened under the name itself.
	do(t, ctx, chromedp.Navigate("http://cloudlink.local/find"))
	if first, _ := said(t, ctx); !strings.HasPrefix(first, "ok: Yes: you have opened this page under this name.") {
		t.Errorf("under the name: %s", first)
	}
	if lines := complaints.take(); len(lines) > 0 {
		t.Errorf("on the console: %q", lines)
	}
}

// From a typing error to a new name, as somebody does it who opened the page under the old one.
func TestM20_TheNameIsChangedInTheBrowser(t *testing.T) {
	g := sited()
	g.net.settings.Names.Host, g.n.Names.Host = "bureau", "bureau.local"
	p := newPortal(t, g)
	there := newFront(t)
	there.put(p.ServeHTTP)
	b, end, err := startBrowser(fmt.Sprintf("MAP *.local:80 %s", there.addr))
	if end != nil {
		t.Cleanup(end)
	}
	if err != nil {
		t.Fatalf("start browser: %v", err)
	}
	ctx := tabOf(t, b)
	complaints := watchConsole(t, ctx)
	speak(t, ctx, "en")
	screen(t, ctx, 360, "light")
	do(t, ctx, chromedp.Navigate("http://bureau.local/find"))
	follow(t, ctx, `a[hreflang=de]`)
	said(t, ctx)

	// What moves leaves alone what is typed.
	do(t, ctx, chromedp.SetValue(chromedp.CSS("#names-host"), "office.local"))
	g.change(func(g *gateway) {
		g.n.Names.Ports = []network.PortNames{{Port: "eth1", Names: []network.Name{{Name: "bureau.local", State: mdns.Lost, Rival: &network.Rival{Address: netip.MustParseAddr("192.168.10.77"), MAC: "52:54:00:00:00:77"}}}}}
	})
	await(t, ctx, `document.body.innerText.includes("Den Namen bureau.local hat ein anderes Gerät: Adresse 192.168.10.77, MAC-Adresse 52:54:00:00:00:77.")`)
	follow(t, ctx, `[action="/find/names"] button`)
	await(t, ctx, `document.activeElement.id === "names-host" && document.activeElement.value === "office.local"`)
	if got := eval[string](t, ctx, `document.getElementById("names-host-wrong").innerText`); !strings.HasSuffix(got, "zum Beispiel office.") {
		t.Errorf("beside the field: %q", got)
	}
	said(t, ctx)
	for _, v := range violations(t, ctx) {
		t.Error(v)
	}
	picture(t, ctx, chromedp.FullScreenshot(100), filepath.Join(screenshots, "find-wrong-de-light-360.png"))
	do(t, ctx, chromedp.SetValue(chromedp.CSS("#names-host"), "office"), chromedp.Click(chromedp.CSS("#names-on_wan")))
	follow(t, ctx, `[action="/find/names"] button`)
	await(t, ctx, `document.readyState === "complete" && document.body.innerText.includes("Dieses Gateway heißt jetzt office.local.")`)
	for _, v := range violations(t, ctx) {
		t.Error(v)
	}
	if got := eval[int64](t, ctx, "document.documentElement.scrollWidth"); got > 360 {
		t.Errorf("%d pixels wide", got)
	}
	picture(t, ctx, chromedp.FullScreenshot(100), filepath.Join(screenshots, "renamed-de-light-360.png"))
	g.change(func(g *gateway) {
		if got := g.net.settings.Names; got.Host != "office" || !got.OnWAN {
			t.Errorf("settings: %+v", got)
		}
	})
	follow(t, ctx, `main a`)
	if first, _ := said(t, ctx); !strings.HasPrefix(first, "ok: Ja: Sie haben diese Seite unter diesem Namen geöffnet.") {
		t.Errorf("under the new name: %s", first)
	}
	if got := eval[string](t, ctx, "location.href + ' ' + document.documentElement.lang"); got != "http://office.local/find de" {
		t.Errorf("at %s", got)
	}
	for _, line := range complaints.take() {
		if !strings.Contains(line, "422") { // the page with the mistake itself
			t.Errorf("on the console: %s", line)
		}
	}
}

// Nobody has the name: the browser's own resolver says so.
func TestM25_FindWithoutSuchAName(t *testing.T) {
	g := sited()
	g.n.Names.Host = "nobody.local"
	p := newPortal(t, g)
	served := run(t, p)
	ctx := newTab(t)
	speak(t, ctx, "de")
	do(t, ctx, chromedp.Navigate(served.numeric("/find")))
	first, second := said(t, ctx)
	for _, row := range []string{first, second} {
		if !strings.HasPrefix(row, "error: Nein: Dieser Computer findet dieses Gateway unter diesem Namen nicht.") || !strings.Contains(row, "Die IP-Adressen funktionieren in jedem Fall.") {
			t.Errorf("says %s", row)
		}
	}
	if got := eval[string](t, ctx, `document.querySelector("details[open] summary").innerText`); !strings.Contains(got, "Linux") || !strings.Contains(got, "dieser Computer") {
		t.Errorf("open is %q", got)
	}
	if got := eval[int](t, ctx, `document.querySelectorAll("details").length`); got != len(platforms) {
		t.Errorf("%d platforms", got)
	}
}

func TestM26_FindWithoutJavaScript(t *testing.T) {
	p := newPortal(t, sited())
	served := run(t, p)
	shared, unique := newFront(t), newFront(t)
	shared.put(p.ServeHTTP)
	ctx := newFindTab(t, shared, unique)
	call(t, ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
	speak(t, ctx, "en")
	do(t, ctx, chromedp.Navigate(served.numeric("/")))
	follow(t, ctx, `.card a[href="/find"]`)
	text := eval[string](t, ctx, "document.body.innerText")
	for _, want := range []string{"Without JavaScript this page cannot check.", "http://" + lanAddress + "/", "http://" + uniqueHost + "/", "ChromeOS"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if strings.Contains(text, "Check again") || strings.Contains(text, "Checking") {
		t.Error("a check is offered that cannot be")
	}
	await(t, ctx, `document.querySelector("figure img").naturalWidth > 100`)
	follow(t, ctx, `.condition a`)
	if got := eval[string](t, ctx, "location.href"); got != "http://cloudlink.local/" {
		t.Errorf("the link leads to %s", got)
	}
}

// The page in its looks, for axe and for people.
func TestFindLooks(t *testing.T) {
	g := sited()
	ours, another := newPortal(t, g), newPortal(t, beside())
	served := run(t, ours)
	shared, unique := newFront(t), newFront(t)
	unique.put(ours.ServeHTTP)
	ctx := newFindTab(t, shared, unique)
	i := 0
	for name, there := range map[string]http.HandlerFunc{"found": ours.ServeHTTP, "other": another.ServeHTTP, "unknown": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }} {
		shared.put(there)
		for _, scheme := range []string{"light", "dark"} {
			for _, width := range []int64{360, 1280} {
				lang := languages[i%2]
				i++
				speak(t, ctx, lang)
				screen(t, ctx, width, scheme)
				do(t, ctx, chromedp.Navigate(served.numeric("/find")))
				said(t, ctx)
				where := fmt.Sprintf("find-%s-%s-%s-%d", name, lang, scheme, width)
				for _, v := range violations(t, ctx) {
					t.Errorf("%s: %s", where, v)
				}
				if got := eval[int64](t, ctx, "document.documentElement.scrollWidth"); got > width {
					t.Errorf("%s: %d pixels wide", where, got)
				}
				picture(t, ctx, chromedp.FullScreenshot(100), filepath.Join(screenshots, where+".png"))
			}
		}
	}
}
