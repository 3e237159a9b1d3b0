package portal

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/cdp/jsonv2"
	"github.com/chromedp/cdproto/emulation"
	cdpnetwork "github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"

	"cloudlink.local/gateway/internal/condition"
	"cloudlink.local/gateway/internal/machine"
)

var (
	renew   = flag.Bool("update", false, "write the pictures of docs/images anew")
	preview = flag.String("preview", "", "instead of testing, serve the pages with sample data at this `address`")
)

const screenshots = "../../build/screenshots" // looked at by people

//go:embed testdata/axe.min.js
var axe string

// browserTime is for one tab. It is there to end a test that hangs, not to measure.
const browserTime = 5 * time.Minute

var browser struct {
	once  sync.Once
	ctx   context.Context
	close func()
	err   error
}

func TestMain(m *testing.M) {
	if port := os.Getenv(listenEnv); port != "" {
		if err := listenInSandbox(port); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	flag.Parse()
	if *preview != "" {
		if err := servePreview(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	code := m.Run()
	if browser.close != nil {
		browser.close()
	}
	os.Exit(code)
}

// servePreview shows the pages on a desk: go test ./internal/portal -timeout 0 -preview localhost:8080
func servePreview() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ln, err := net.Listen("tcp", *preview)
	if err != nil {
		return err
	}
	g := faulty()
	p := New(Config{
		Release: g.m.Release, Machine: fakeMachine{g}, Network: fakeNetwork{g}, Update: fakeUpdate{g}, Notices: "testdata/notices.txt.gz", Log: slog.Default(),
	})
	return Serve(ctx, ln, func() { fmt.Println("http://" + *preview + "/") }, p)
}

// startBrowser starts a browser that looks names up by these rules and finds no others.
func startBrowser(rules string) (ctx context.Context, end func(), err error) {
	path, err := exec.LookPath("chromium")
	if err != nil {
		return nil, nil, fmt.Errorf("scripts/setup installs it: %w", err)
	}
	fonts, err := filepath.Abs("testdata/fonts.conf")
	if err != nil {
		return nil, nil, err
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path),
		chromedp.NoSandbox, // tests run as root
		chromedp.DisableGPU,
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("host-resolver-rules", rules+", MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"),
		chromedp.Flag("hide-scrollbars", true),
		chromedp.Env("FONTCONFIG_FILE="+fonts),
	)
	alloc, stopAlloc := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, stop := chromedp.NewContext(alloc)
	return ctx, func() { stop(); stopAlloc() }, chromedp.Do(ctx)
}

// newTab opens a tab of the one browser that all tests share, with cookies of its own. The tab
// reaches the gateway under its real name.
func newTab(t *testing.T) context.Context {
	t.Helper()
	browser.once.Do(func() { browser.ctx, browser.close, browser.err = startBrowser("MAP cloudlink.local 127.0.0.1") })
	if browser.err != nil {
		t.Fatalf("start browser: %v", browser.err)
	}
	return tabOf(t, browser.ctx)
}

func tabOf(t *testing.T, browser context.Context) context.Context {
	t.Helper()
	tab, closeTab := chromedp.NewContext(browser, chromedp.WithNewBrowserContext())
	t.Cleanup(closeTab)
	ctx, cancel := context.WithTimeout(tab, browserTime)
	t.Cleanup(cancel)
	// Else a tab behind another one counts as hidden, and a hidden page asks for nothing.
	call(t, ctx, emulation.SetFocusEmulationEnabled, emulation.SetFocusEmulationEnabledParams{Enabled: true})
	return ctx
}

func call[P, R any](t *testing.T, ctx context.Context, cmd cdp.Command[P, R], params P) {
	t.Helper()
	if _, err := chromedp.Call(ctx, cmd, params); err != nil {
		t.Fatalf("%s: %v", cmd.Method, err)
	}
}

func do(t *testing.T, ctx context.Context, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	if err := chromedp.Do(ctx, steps...); err != nil {
		t.Fatal(err)
	}
}

func eval[T any](t *testing.T, ctx context.Context, js string) T {
	t.Helper()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](js, chromedp.EvalAwaitPromise))
	if err != nil {
		t.Fatalf("%.80s: %v", js, err)
	}
	return v
}

// await waits until js holds in the page.
func await(t *testing.T, ctx context.Context, js string) {
	t.Helper()
	var err error
	for again := true; again; again = err != nil && ctx.Err() == nil && left(err) {
		err = chromedp.Do(ctx, chromedp.Poll[chromedp.Void](js, chromedp.WithPollingInterval(50*time.Millisecond), chromedp.WithPollingTimeout(browserTime)))
	}
	if err != nil {
		text, _ := chromedp.Run(ctx, chromedp.Evaluate[string]("document.body.innerText"))
		t.Fatalf("await %s: %v; the page says:\n%s", js, err, text)
	}
}

// left says whether the browser has left the page that was looked at: the next one is to be looked at.
func left(err error) bool {
	return strings.Contains(err.Error(), "Cannot find context with specified id") || strings.Contains(err.Error(), "Inspected target navigated or closed")
}

// follow clicks a link and waits for the page that it leads to.
func follow(t *testing.T, ctx context.Context, selector string) {
	t.Helper()
	if _, err := chromedp.RunResponse(ctx, chromedp.Click(chromedp.CSS(selector))); err != nil {
		t.Fatalf("follow %s: %v", selector, err)
	}
}

// visit opens url in a tab of its own, on a screen of that width and colour scheme, as somebody who
// reads lang.
func visit(t *testing.T, url, lang string, width int64, scheme string) (context.Context, *console) {
	t.Helper()
	ctx := newTab(t)
	complaints := watchConsole(t, ctx)
	speak(t, ctx, lang)
	screen(t, ctx, width, scheme)
	do(t, ctx, chromedp.Navigate(url))
	return ctx, complaints
}

func speak(t *testing.T, ctx context.Context, lang string) {
	t.Helper()
	call(t, ctx, cdpnetwork.SetExtraHTTPHeaders, cdpnetwork.SetExtraHTTPHeadersParams{
		Headers: cdpnetwork.Headers{"Accept-Language": jsonv2.Value(strconv.Quote(lang + ";q=0.9"))},
	})
}

func screen(t *testing.T, ctx context.Context, width int64, scheme string) {
	t.Helper()
	call(t, ctx, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
		Width: width, Height: 844, DeviceScaleFactor: 1, Mobile: width < 500,
	})
	call(t, ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	})
}

// A running portal serves on a port of its own; the test can stop it and start it again there.
type running struct {
	t    *testing.T
	addr string
	stop func()
}

func run(t *testing.T, p *Portal) *running {
	t.Helper()
	r := &running{t: t, addr: "127.0.0.1:0"}
	r.start(p)
	t.Cleanup(func() { r.stop() })
	return r
}

func (r *running) start(p *Portal) {
	r.t.Helper()
	ln, err := net.Listen("tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	r.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, ln, func() {}, p) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			r.t.Errorf("serve: %v", err)
		}
	})
}

// url is the address of a page as a person types it.
func (r *running) url(path string) string {
	_, port, _ := net.SplitHostPort(r.addr)
	return "http://cloudlink.local:" + port + path
}

// A console collects what the browser complains about.
type console struct {
	mu    sync.Mutex
	lines []string
}

func watchConsole(t *testing.T, ctx context.Context) *console {
	c := &console{}
	messages := chromedp.Console(ctx)
	go func() { // ends with ctx
		for m, err := range messages {
			if err != nil {
				return
			}
			c.mu.Lock()
			c.lines = append(c.lines, fmt.Sprintf("%s %s: %s", m.Source, m.Type, m.Text))
			c.mu.Unlock()
		}
	}()
	return c
}

// take returns the lines since the last time.
func (c *console) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	lines := c.lines
	c.lines = nil
	return lines
}

// Every page, in each language, colour scheme and size: nothing for axe to find, not a line on
// the browser's console, nothing that sticks out to the right.
func TestPagesInTheBrowser(t *testing.T) {
	silent := sample()
	silent.down[PartMachine], silent.down[PartNetwork], silent.down[PartUpdate] = true, true, true
	gateways := map[string]*running{
		"works":  run(t, newPortal(t, sample())),
		"faulty": run(t, newPortal(t, faulty())),
		"silent": run(t, newPortal(t, silent)),
		"trying": run(t, newPortal(t, trying())),
		"sited":  run(t, newPortal(t, sited())),

		"contested": run(t, newPortal(t, contested())),

		"offered":     run(t, newPortal(t, offered())),
		"downloading": run(t, newPortal(t, downloading())),
		"proving":     run(t, newPortal(t, proving())),
		"returned":    run(t, newPortal(t, returned())),
	}
	pages := []struct{ name, gateway, path string }{
		{"overview", "works", "/"},
		{"overview-faulty", "faulty", "/"},
		{"overview-silent", "silent", "/"},
		{"overview-probation", "trying", "/"},
		{"network", "works", "/network"},
		{"network-faulty", "faulty", "/network"},
		{"network-silent", "silent", "/network"},
		{"network-probation", "trying", "/network?done=saved"},
		{"find", "sited", "/find"},
		{"find-contested", "contested", "/find?done=saved"},
		{"find-silent", "silent", "/find"},
		{"update-offered", "offered", "/update?done=saved"},
		{"update-downloading", "downloading", "/update"},
		{"update-proving", "proving", "/update"},
		{"update-returned", "returned", "/update"},
		{"update-silent", "silent", "/update"},
		{"update-help", "downloading", "/update/help"},
		{"overview-returned", "returned", "/"},
		{"log", "works", "/log"},
		{"log-debug", "faulty", "/log?level=debug"},
		{"log-previous", "works", "/log?boot=previous"},
		{"log-silent", "silent", "/log"},
		{"licences", "works", "/licences"},
		{"browsers", "faulty", "/browsers"},
		{"missing", "works", "/nowhere"},
		{"refused", "works", "/log?level=all"},
	}
	for _, lang := range languages {
		for _, scheme := range []string{"light", "dark"} {
			for _, width := range []int64{360, 1280} {
				variant := fmt.Sprintf("%s-%s-%d", lang, scheme, width)
				t.Run(variant, func(t *testing.T) {
					ctx := newTab(t)
					complaints := watchConsole(t, ctx)
					speak(t, ctx, lang)
					screen(t, ctx, width, scheme)
					for _, page := range pages {
						do(t, ctx, chromedp.Navigate(gateways[page.gateway].url(page.path)))
						if got := eval[string](t, ctx, "document.documentElement.lang"); got != lang {
							t.Errorf("%s: language %q", page.name, got)
						}
						if got := eval[int64](t, ctx, "document.documentElement.scrollWidth"); got > width {
							t.Errorf("%s: %d pixels wide", page.name, got)
						}
						await(t, ctx, `document.readyState === "complete" && document.querySelector('#again:disabled, #again[hidden]') === null`)
						eval[bool](t, ctx, `document.querySelectorAll("details").forEach((d) => { d.removeAttribute("name"); d.open = true }) || true`)
						for _, v := range violations(t, ctx) {
							t.Errorf("%s: %s", page.name, v)
						}
						for _, line := range complaints.take() {
							if page.name == "missing" && strings.Contains(line, "404") || page.name == "refused" && strings.Contains(line, "400") {
								continue // the page itself
							}
							if strings.HasPrefix(page.name, "find") && strings.Contains(line, "net::ERR_NAME_NOT_RESOLVED") {
								continue // the name that this browser does not find
							}
							t.Errorf("%s: on the console: %s", page.name, line)
						}
						picture(t, ctx, chromedp.FullScreenshot(100), filepath.Join(screenshots, page.name+"-"+variant+".png"))
					}
				})
			}
		}
	}
}

// violations are what axe finds wrong with the page for people who see, hear or type less well.
func violations(t *testing.T, ctx context.Context) []string {
	t.Helper()
	do(t, ctx, chromedp.Evaluate[chromedp.Void](axe))
	return eval[[]string](t, ctx, `axe.run(document, {resultTypes: ["violations"]}).then((r) => r.violations.flatMap(
		(v) => v.nodes.map((n) => v.id + ": " + n.failureSummary + "\n" + n.html)))`)
}

func picture(t *testing.T, ctx context.Context, shot chromedp.Action[[]byte], path string) {
	t.Helper()
	b, err := chromedp.Run(ctx, shot)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o777), os.WriteFile(path, b, 0o666)); err != nil {
		t.Fatal(err)
	}
}

func TestPageFollowsTheGateway(t *testing.T) {
	g := sample()
	served := run(t, newPortal(t, g))
	ctx := newTab(t)
	complaints := watchConsole(t, ctx)
	speak(t, ctx, "de")
	do(t, ctx, chromedp.Navigate(served.url("/")))
	eval[bool](t, ctx, `(() => { const r = document.createRange(); r.selectNodeContents(document.querySelector("#device + dl .code"));
		getSelection().addRange(r); return true })()`)
	if got := eval[string](t, ctx, "document.querySelector('h1').textContent"); got != "Betriebsbereit" {
		t.Errorf("state %q", got)
	}

	g.change(func(g *gateway) {
		g.m.UptimeSeconds = 61
		g.m.Conditions = []condition.Condition{condition.New(condition.DataFull)}
		g.n.Ports[0].Link = false
	})
	await(t, ctx, `document.body.innerText.includes("1\u00a0Min. 1\u00a0Sek.")`)
	await(t, ctx, `document.querySelector("h1").textContent === "Bitte beachten"`)
	await(t, ctx, `document.querySelectorAll(".condition").length === 2 && document.body.innerText.includes("Datenspeicher fast voll")`)
	if got := eval[string](t, ctx, "getSelection().toString()"); got != g.m.Serial {
		t.Errorf("selected text is %q after an update", got)
	}

	g.change(func(g *gateway) { g.down[PartMachine] = true })
	await(t, ctx, `document.body.innerText.includes("Zustand unbekannt")`)
	g.change(func(g *gateway) { g.down[PartMachine] = false })
	await(t, ctx, `document.body.innerText.includes("Bitte beachten")`)
	if lines := complaints.take(); len(lines) > 0 {
		t.Errorf("on the console: %q", lines)
	}
}

func TestPageSaysThatTheGatewayIsLostAndReturns(t *testing.T) {
	g := sample()
	p := newPortal(t, g)
	served := run(t, p)
	ctx := newTab(t)
	speak(t, ctx, "de")
	screen(t, ctx, 1280, "light")
	do(t, ctx, chromedp.Navigate(served.url("/")))
	const lost = `!document.getElementById("lost").hidden && document.getElementById("lost").innerText.includes("Verbindung zum Gateway unterbrochen")`
	if eval[bool](t, ctx, lost) {
		t.Fatal("lost from the start")
	}
	served.stop()
	await(t, ctx, lost)
	for _, v := range violations(t, ctx) {
		t.Error(v)
	}
	picture(t, ctx, chromedp.FullScreenshot(100), filepath.Join(screenshots, "lost-de-light-1280.png"))

	served.start(p) // the portal alone was away: nothing to tell
	await(t, ctx, "!("+lost+")")
	await(t, ctx, `!document.documentElement.classList.contains("stale")`)
	if eval[bool](t, ctx, `document.body.innerText.includes("neu gestartet")`) {
		t.Error("the page tells of a restart that was none")
	}

	served.stop()
	await(t, ctx, lost)
	g.change(func(g *gateway) { g.m.BootID = "11111111-2222-3333-4444-555555555555" })
	served.start(p)
	await(t, ctx, `document.body.innerText.includes("Das Gateway wurde neu gestartet, während diese Seite geöffnet war. Es läuft dieselbe Version wie zuvor: 1.0.0")`)
	await(t, ctx, "!("+lost+")")

	served.stop()
	g.change(func(g *gateway) { g.m.Release.Version = "1.1.0" })
	served.start(newPortal(t, g))
	await(t, ctx, `document.body.innerText.includes("läuft jetzt mit Version 1.1.0")`)
	follow(t, ctx, "#gate a")
	await(t, ctx, `!document.body.innerText.includes("neu gestartet")`)
}

func TestLogFollowsTheGateway(t *testing.T) {
	g := sample()
	served := run(t, newPortal(t, g))
	ctx := newTab(t)
	complaints := watchConsole(t, ctx)
	speak(t, ctx, "en")
	do(t, ctx, chromedp.Navigate(served.url("/log?level=warn")))
	texts := func() []string {
		return eval[[]string](t, ctx, `[...document.querySelectorAll("#entries .text")].map((e) => e.textContent)`)
	}
	if got := texts(); len(got) != 3 || got[0] != "Warning service console ended: exit status 1; again in 1s" {
		t.Fatalf("at first: %q", got)
	}
	const script = `<script>document.title = "broken"</script><img src=x onerror="document.title='broken'">`
	g.change(func(g *gateway) {
		g.entries = append(g.entries,
			machine.Entry{Seq: 12, Source: "kernel", Level: machine.LevelDebug, Text: "not shown"},
			machine.Entry{Seq: 13, Source: "<b>", Level: machine.LevelError, Text: script})
	})
	await(t, ctx, `document.querySelectorAll("#entries .text").length === 4`)
	if got := texts()[0]; got != "Error "+script {
		t.Errorf("newest entry: %q", got)
	}
	g.change(func(g *gateway) {
		g.m.BootID = "11111111-2222-3333-4444-555555555555"
		g.entries = []machine.Entry{{Seq: 1, Source: "init", Level: machine.LevelWarn, Text: "after the restart"}}
	})
	await(t, ctx, `document.querySelectorAll("#entries .text").length === 5 && document.body.innerText.includes("The gateway was restarted.")`)
	g.change(func(g *gateway) {
		g.entries = append(g.entries, machine.Entry{Seq: 2, Source: "init", Level: machine.LevelWarn, Text: "and on"})
	})
	await(t, ctx, `document.querySelector("#entries .text").textContent === "Warning and on"`)
	if got := eval[string](t, ctx, "document.title"); got != "Log – CloudLink Gateway" {
		t.Errorf("title %q: a script in the log was run", got)
	}
	if lines := complaints.take(); len(lines) > 0 {
		t.Errorf("on the console: %q", lines)
	}
}

func TestPagesWorkWithoutJavaScript(t *testing.T) {
	served := run(t, newPortal(t, faulty()))
	ctx := newTab(t)
	call(t, ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
	speak(t, ctx, "en")
	do(t, ctx, chromedp.Navigate(served.url("/")))
	body := func() string { return eval[string](t, ctx, "document.body.innerText") }
	for _, want := range []string{"Without JavaScript", "Settings cannot be saved", "CLG-7F3A91", "52:54:00:7f:3a:92"} {
		if !strings.Contains(body(), want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	follow(t, ctx, `a[hreflang=de]`)
	if !strings.Contains(body(), "Einstellungen können nicht gespeichert werden") {
		t.Errorf("after the switch to German: %s", body())
	}
	follow(t, ctx, `a[href="/log"]`)
	if got := eval[string](t, ctx, "document.documentElement.lang"); got != "de" {
		t.Errorf("the choice of German is forgotten: %q", got)
	}
	follow(t, ctx, `a[href="/log?level=error"]`)
	if got := eval[int](t, ctx, `document.querySelectorAll("#entries .text").length`); got != 1 {
		t.Errorf("%d errors", got)
	}
}

// With -update: the pictures that the documents show.
func TestPicturesForTheDocuments(t *testing.T) {
	if !*renew {
		for _, name := range []string{"portal.png", "portal-phone-dark.png"} {
			if _, err := os.Stat("../../docs/images/" + name); err != nil {
				t.Errorf("go test ./internal/portal -run Pictures -update makes it: %v", err)
			}
		}
		return
	}
	served := run(t, newPortal(t, sample()))
	for _, p := range []struct {
		name, scheme string
		width        int64
	}{{"portal.png", "light", 1280}, {"portal-phone-dark.png", "dark", 390}} {
		ctx := newTab(t)
		speak(t, ctx, "en")
		screen(t, ctx, p.width, p.scheme)
		do(t, ctx, chromedp.Navigate(served.url("/")))
		shot := chromedp.FullScreenshot(100)
		if p.width < 500 {
			shot = chromedp.CaptureScreenshot() // the first screenful
		}
		picture(t, ctx, shot, "../../docs/images/"+p.name)
	}
}
