package portal

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"cloudlink.local/gateway/internal/update"
)

const anotherBoot = "11111111-2222-3333-4444-555555555555"

// boots is what is known once the machine has started from a slot.
func (g *gateway) boots(slot, version string) {
	g.m.BootID, g.m.UptimeSeconds, g.m.Slot, g.u.Slot, g.m.Release.Version, g.u.Version = anotherBoot, 9, slot, slot, version, version
}

// ends ends the newest attempt.
func (g *gateway) ends(state update.State, reason update.Reason) {
	g.u.State, g.u.Attempts[0].State, g.u.Attempts[0].Reason = state, state, reason
}

const lostNow = `!document.getElementById("lost").hidden`

// gateSays is whether the gate says a text.
func gateSays(text string) string {
	return `document.getElementById("gate").innerText.includes(` + strconv.Quote(text) + `)`
}

// An update as a browser on any page sees it, from its beginning to its end.
func TestM4_M5_GateInTheBrowser(t *testing.T) {
	for i, c := range []struct {
		name, kind string
		end        func(g *gateway)
		says       map[string]string
	}{
		{"updated", "update", func(g *gateway) { g.boots("b", "1.1.0"); g.ends(update.Confirmed, "") }, map[string]string{
			"de": "Das Gateway wurde auf Version 1.1.0 aktualisiert.", "en": "The gateway has been updated to version 1.1.0."}},
		{"rolled-back", "update", func(g *gateway) { g.boots("a", "1.0.0"); g.ends(update.RolledBack, update.CheckFailed) }, map[string]string{
			"de": "Update-Fehler", "en": "Update error"}},
		{"drilled", "drill", func(g *gateway) { g.boots("a", "1.0.0"); g.ends(update.Confirmed, "") }, map[string]string{
			"de": "Probealarm bestanden: Version 1.1.0 startet und arbeitet. Jetzt läuft wieder Version 1.0.0", "en": "Fire drill passed: version 1.1.0 starts and works. Now version 1.0.0 runs again"}},
	} {
		lang := []string{"de", "en"}[i%2]
		width, scheme := []int64{390, 1280}[i%2], []string{"light", "dark"}[i%2]
		t.Run(c.name, func(t *testing.T) {
			g := sample()
			p := newPortal(t, g)
			served := run(t, p)
			ctx := newTab(t)
			speak(t, ctx, lang)
			screen(t, ctx, width, scheme)
			look := func(name string) {
				t.Helper()
				for _, v := range violations(t, ctx) {
					t.Error(v)
				}
				if got := eval[int64](t, ctx, "document.documentElement.scrollWidth"); got > width {
					t.Errorf("%s: %d pixels wide", name, got)
				}
				picture(t, ctx, chromedp.FullScreenshot(100), filepath.Join(screenshots, fmt.Sprintf("gate-%s-%s-%s-%s-%d.png", c.name, name, lang, scheme, width)))
			}
			words := map[string]map[string]string{
				"de": {"working": "Systemupdate läuft", "step": "Schritt 2 von 6: Herunterladen", "bytes": "5,0\u00a0MiB von 12,0\u00a0MiB, noch 42", "lost": "Verbindung zum Gateway unterbrochen", "trial": "Probelauf der neuen Version"},
				"en": {"working": "System update in progress", "step": "Step 2 of 6: Downloading", "bytes": "5.0\u00a0MiB of 12.0\u00a0MiB, 42", "lost": "Connection to gateway lost", "trial": "Trial of the new version"},
			}[lang]
			do(t, ctx, chromedp.Navigate(served.url("/licences"))) // a page that says nothing of its own
			if eval[bool](t, ctx, gateSays(words["working"])) {
				t.Fatal("an update from the start")
			}
			g.change(func(g *gateway) {
				g.begin(update.Kind(c.kind), "1.1.0", update.Checking, update.Downloading)
				g.u.Progress = &update.Progress{Bytes: 5 << 20, Total: 12 << 20, SecondsLeft: 42}
			})
			await(t, ctx, gateSays(words["working"]))
			if c.kind == "update" {
				await(t, ctx, gateSays(words["step"])+" && "+gateSays(words["bytes"]))
			}
			look("working")

			served.stop()
			await(t, ctx, lostNow+` && document.getElementById("lost").innerText.includes(`+strconv.Quote(words["lost"])+`)`)
			await(t, ctx, `!document.querySelector('[data-lost="update"]').hidden && document.querySelector('[data-lost="plain"]').hidden`)
			look("lost")

			// It answers again, on trial: nothing has succeeded yet.
			g.change(func(g *gateway) {
				g.boots("b", "1.1.0")
				a := &g.u.Attempts[0]
				a.State, g.u.State, g.u.Progress = update.Trial, update.Trial, nil
				a.Steps = append(a.Steps, update.Step{State: update.Trial, Time: a.Began})
				g.down[PartUpdate] = true // the portal is there before it
			})
			served.start(p)
			await(t, ctx, "!("+lostNow+")")
			g.change(func(g *gateway) { g.down[PartUpdate] = false })
			await(t, ctx, gateSays(words["trial"]))
			if eval[bool](t, ctx, gateSays(c.says[lang])) {
				t.Error("success is claimed before it is there")
			}
			g.change(c.end)
			await(t, ctx, gateSays(c.says[lang]))
			await(t, ctx, "!"+gateSays(words["working"]))
			look("ended")
		})
	}
}

// A restart without an update, and no restart at all.
func TestM5_GateKnowsARestartFromALossOfTheNetwork(t *testing.T) {
	g := sample()
	p := newPortal(t, g)
	served := run(t, p)
	ctx := newTab(t)
	speak(t, ctx, "en")
	do(t, ctx, chromedp.Navigate(served.url("/find")))
	served.stop()
	await(t, ctx, lostNow)
	if eval[bool](t, ctx, `document.querySelector('[data-lost="plain"]').hidden`) {
		t.Error("without an update the page tells of one")
	}
	served.start(p)
	await(t, ctx, "!("+lostNow+")")
	if got := eval[string](t, ctx, `document.getElementById("gate").innerText.trim()`); got != "" {
		t.Errorf("after a loss of the network: %q", got)
	}
	served.stop()
	await(t, ctx, lostNow)
	g.change(func(g *gateway) { g.boots("a", "1.0.0") })
	served.start(p)
	await(t, ctx, gateSays("The gateway was restarted while this page was open. It runs the same version as before: 1.0.0 (slot A)."))
	follow(t, ctx, "#gate a")
	await(t, ctx, `location.pathname === "/find" && document.getElementById("gate").innerText.trim() === ""`)
}

func TestM6_ErrorAndRetryInTheBrowser(t *testing.T) {
	g := offered()
	served := run(t, newPortal(t, g))
	ctx, complaints := visit(t, served.url("/update"), "de", 390, "dark")
	do(t, ctx, chromedp.Click(chromedp.CSS("#attempt-2 summary"))) // what is open stays open
	follow(t, ctx, `[action="/update/install"] button`)
	await(t, ctx, gateSays("Systemupdate läuft")+` && document.querySelector('[action="/update/cancel"]') !== null`)
	do(t, ctx, chromedp.Click(chromedp.CSS("#attempt-2 summary")))
	g.change(func(g *gateway) { g.ends(update.Failed, update.NoSpace) })
	await(t, ctx, gateSays("Update-Fehler")+" && "+gateSays("Auf dem Datenspeicher ist kein Platz für das Update.")+" && "+gateSays("Starten Sie das Gateway neu"))
	await(t, ctx, `document.querySelector("#attempt-3 .badge").innerText === "Update-Fehler"`)
	if eval[bool](t, ctx, `document.querySelector("#live .state.error").checkVisibility()`) {
		t.Error("the page says the same twice")
	}
	if !eval[bool](t, ctx, `document.getElementById("attempt-2").open`) {
		t.Error("a receipt that is being read is closed")
	}
	for _, v := range violations(t, ctx) {
		t.Error(v)
	}
	picture(t, ctx, chromedp.FullScreenshot(100), filepath.Join(screenshots, "gate-error-de-dark-390.png"))
	follow(t, ctx, `#gate [action="/update/install"] button`)
	await(t, ctx, gateSays("Systemupdate läuft"))
	g.change(func(g *gateway) {
		if len(g.up.orders) != 2 || !strings.HasPrefix(g.up.orders[1], "install") {
			t.Errorf("ordered %q", g.up.orders)
		}
	})
	if lines := complaints.take(); len(lines) > 0 {
		t.Errorf("on the console: %q", lines)
	}
}

func TestBundleIsUploadedInTheBrowser(t *testing.T) {
	file := filepath.Join(t.TempDir(), "1.1.0.bundle")
	if err := os.WriteFile(file, make([]byte, 3<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, script := range []bool{true, false} {
		g := sample()
		served := run(t, newPortal(t, g))
		ctx := newTab(t)
		if !script {
			call(t, ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
		}
		speak(t, ctx, "de")
		do(t, ctx, chromedp.Navigate(served.url("/update")))
		send := func(leaves bool) {
			t.Helper()
			await(t, ctx, `document.readyState === "complete"`)
			eval[bool](t, ctx, `(document.querySelector(".upload").closest("details").open = true)`)
			do(t, ctx, chromedp.SetUploadFiles(chromedp.CSS("#bundle"), []string{file}))
			if leaves {
				follow(t, ctx, ".upload button")
			} else {
				do(t, ctx, chromedp.Click(chromedp.CSS(".upload button")))
			}
		}
		g.change(func(g *gateway) {
			g.up.refuse = &update.Refusal{Check: &update.LastCheck{Reason: "wrong-board", Detail: "it is for others"}}
		})
		send(!script)
		await(t, ctx, `document.querySelector(".note.failed")?.innerText.includes("Das Update ist für andere Geräte. (it is for others)")`)
		g.change(func(g *gateway) { g.up.refuse = nil })
		send(true)
		await(t, ctx, gateSays("Systemupdate läuft"))
		g.change(func(g *gateway) {
			if len(g.up.bundle) != 3<<20 {
				t.Errorf("script %v: %d bytes", script, len(g.up.bundle))
			}
		})
	}
}

// Both take two steps, and no script.
func TestRollbackAndDrillWithoutJavaScript(t *testing.T) {
	for _, name := range []string{"rollback", "drill"} {
		g := sample()
		served := run(t, newPortal(t, g))
		ctx := newTab(t)
		call(t, ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
		speak(t, ctx, "en")
		do(t, ctx, chromedp.Navigate(served.url("/update")))
		button := `[action="/update/` + name + `"] button`
		if eval[bool](t, ctx, `document.querySelector(`+strconv.Quote(button)+`).checkVisibility()`) {
			t.Errorf("%s begins with one click", name)
		}
		do(t, ctx, chromedp.Click(chromedp.CSS(`details:has([action="/update/`+name+`"]) summary`)))
		follow(t, ctx, button)
		await(t, ctx, gateSays("System update in progress")+" && "+gateSays("0.9.0"))
	}
}
