package portal

import (
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"cloudlink.local/gateway/internal/network"
	"cloudlink.local/gateway/internal/settings"
)

// loopback is the gateway's address as the test's browser sees it.
var loopback = netip.MustParseAddr("127.0.0.1")

// trying is a gateway with a change on probation.
func trying() *gateway {
	g := sample()
	g.n.Change = &network.Change{SecondsLeft: 73.2, Addresses: []netip.Addr{netip.MustParseAddr(newAddress), netip.MustParseAddr("2001:db8::50")}}
	g.n.Ports[0].Addresses[0].Former = true
	return g
}

// From a typing error to new settings that are kept, as somebody at a desk does it.
func TestPortsAreSetInTheBrowser(t *testing.T) {
	g := sample()
	served := run(t, newPortal(t, g))
	ctx, complaints := visit(t, served.url("/network"), "en", 1280, "light")
	follow(t, ctx, `a[hreflang=de]`)

	do(t, ctx, chromedp.Click(chromedp.CSS("details summary")))
	const visible = `document.getElementById("wan-ipv4-addresses").checkVisibility()`
	if eval[bool](t, ctx, visible) {
		t.Error("with DHCP, fields for static addresses are shown")
	}
	do(t, ctx, chromedp.Click(chromedp.CSS(`[action="/network/wan"] [name="ipv4.method"][value=static]`)))
	if !eval[bool](t, ctx, visible) {
		t.Error("fields for static addresses are not shown")
	}
	if got := eval[string](t, ctx, `document.getElementById("wan-ipv4-addresses").value`); got != "192.168.178.40/24" {
		t.Errorf("the present address is not offered: %q", got)
	}
	typeIn := func(id, text string) {
		t.Helper()
		await(t, ctx, `document.readyState === "complete" && document.getElementById(`+strconv.Quote(id)+`) !== null`)
		eval[bool](t, ctx, `(document.getElementById(`+strconv.Quote(id)+`).value = `+strconv.Quote(text)+`) !== null`)
	}
	typeIn("wan-ipv4-addresses", "192.168.178.50")
	typeIn("wan-vlan", "5000")
	// What moves leaves alone what is typed.
	g.change(func(g *gateway) { g.n.Ports[0].SpeedMbps = 100 })
	await(t, ctx, `document.body.innerText.includes("100\u00a0Mbit/s")`)
	if got := eval[string](t, ctx, `document.getElementById("wan-vlan").value`); got != "5000" {
		t.Errorf("typed: %q", got)
	}
	follow(t, ctx, `[action="/network/wan"] button`)
	await(t, ctx, `document.activeElement.id === "wan-ipv4-addresses"`)
	if got := eval[string](t, ctx, `document.getElementById("wan-ipv4-addresses-wrong").innerText`); got != "Bei „192.168.178.50“ fehlt die Länge des Subnetzes. Schreiben Sie zum Beispiel 192.168.178.50/24." {
		t.Errorf("beside the field: %q", got)
	}
	for _, v := range violations(t, ctx) {
		t.Error(v)
	}
	picture(t, ctx, chromedp.FullScreenshot(100), filepath.Join(screenshots, "network-wrong-de-light-1280.png"))
	typeIn("wan-ipv4-addresses", "192.168.178.50/24")
	follow(t, ctx, `[action="/network/wan"] button`)
	await(t, ctx, `document.getElementById("wan-vlan-wrong")?.innerText.includes("4094") && document.getElementById("wan-vlan").value === "5000"`)
	typeIn("wan-vlan", "")
	follow(t, ctx, `[action="/network/wan"] button`)

	await(t, ctx, `document.getElementById("probation").innerText.includes("noch 90 Sekunden")`)
	if got := eval[string](t, ctx, `document.querySelector("#probation .places a").href`); got != "http://192.168.178.50/network?lang=de" {
		t.Errorf("leads to %q", got)
	}
	eval[bool](t, ctx, `document.querySelector('[action="/network/return"] button').focus() || true`)
	g.change(func(g *gateway) { g.n.Change.SecondsLeft = 41.5 })
	await(t, ctx, `document.getElementById("probation").innerText.includes("noch 42 Sekunden")`)
	if !eval[bool](t, ctx, `document.activeElement.innerText === "Jetzt zurücknehmen"`) {
		t.Error("the countdown takes the focus away")
	}
	// The page under the new address, as far as this browser has one.
	g.change(func(g *gateway) { g.n.Change.Addresses = []netip.Addr{loopback} })
	await(t, ctx, `document.querySelector('[action="/network/confirm"] button') !== null`)
	picture(t, ctx, chromedp.FullScreenshot(100), filepath.Join(screenshots, "network-keep-de-light-1280.png"))
	follow(t, ctx, `[action="/network/confirm"] button`)
	await(t, ctx, `document.body.innerText.includes("Die neuen Einstellungen sind bestätigt und bleiben.") && document.getElementById("probation") === null`)
	g.change(func(g *gateway) {
		if got := g.net.settings.Network.WAN.IPv4; got.Method != settings.Static || g.net.asked[len(g.net.asked)-1].ArrivedOn != loopback {
			t.Errorf("%+v, asked %+v", got, g.net.asked)
		}
	})
	for _, line := range complaints.take() {
		if !strings.Contains(line, "422") { // the page with the mistakes itself
			t.Errorf("on the console: %s", line)
		}
	}
}

func TestBannerTellsHowItEnded(t *testing.T) {
	g := trying()
	served := run(t, newPortal(t, g))
	ctx := newTab(t)
	speak(t, ctx, "en")
	g.change(func(g *gateway) { g.net.former = &g.net.settings.Network })
	do(t, ctx, chromedp.Navigate(served.url("/licences")))
	await(t, ctx, `document.getElementById("probation").innerText.includes("74 seconds left")`)
	if _, err := (fakeNetwork{g}).Return(t.Context(), network.Request{}); err != nil {
		t.Fatal(err)
	}
	await(t, ctx, `document.getElementById("probation").innerText.includes("The previous network settings are in effect again: the change was taken back.")`)
	follow(t, ctx, "#probation a")
	await(t, ctx, `document.getElementById("probation") === null && document.title.startsWith("Ethernet ports")`)
}

func TestM10_SelfTestInTheBrowser(t *testing.T) {
	g := sample()
	g.net.testing = make(chan bool)
	served := run(t, newPortal(t, g))
	ctx, complaints := visit(t, served.url("/network"), "de", 390, "dark")
	do(t, ctx, chromedp.Click(chromedp.CSS(`.check button`)))
	await(t, ctx, `document.querySelector(".check button").disabled && document.querySelector(".busy span").checkVisibility()`)
	g.net.testing <- true
	await(t, ctx, `document.getElementById("table").innerText.includes("Geprüft: 5 in Ordnung, 1 nicht in Ordnung,")`)
	await(t, ctx, `!document.querySelector(".check button").disabled`)
	for _, v := range violations(t, ctx) {
		t.Error(v)
	}
	if got := eval[int64](t, ctx, "document.documentElement.scrollWidth"); got > 390 {
		t.Errorf("%d pixels wide", got)
	}
	picture(t, ctx, chromedp.FullScreenshot(100), filepath.Join(screenshots, "network-checked-de-dark-390.png"))
	if lines := complaints.take(); len(lines) > 0 {
		t.Errorf("on the console: %q", lines)
	}
}

func TestPortsAreSetWithoutJavaScript(t *testing.T) {
	g := sample()
	served := run(t, newPortal(t, g))
	ctx := newTab(t)
	call(t, ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
	speak(t, ctx, "en")
	do(t, ctx, chromedp.Navigate(served.url("/network")))
	says := func(text string) {
		t.Helper()
		await(t, ctx, `document.body.innerText.includes(`+strconv.Quote(text)+`)`)
	}
	says("Without JavaScript")
	do(t, ctx, chromedp.Click(chromedp.CSS("details summary")))
	do(t, ctx, chromedp.Click(chromedp.CSS(`[action="/network/wan"] [name="ipv4.method"][value=static]`)))
	do(t, ctx, chromedp.SetValue(chromedp.CSS("#wan-ipv4-router"), "10.0.0.1"))
	follow(t, ctx, `[action="/network/wan"] button`)
	says("10.0.0.1")
	says("One entry is not right. Nothing has been changed.")
	await(t, ctx, `document.readyState === "complete"`)
	do(t, ctx, chromedp.SetValue(chromedp.CSS("#wan-ipv4-router"), "192.168.178.1"))
	follow(t, ctx, `[action="/network/wan"] button`)
	says("90 seconds left")
	follow(t, ctx, `[action="/network/return"] button`)
	says("The change is taken back.")
	follow(t, ctx, `.check button`)
	says("Checked: 5 as they should be, 1 not,")
}
