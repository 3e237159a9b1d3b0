package portal

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"cloudlink.local/gateway/internal/update"
	"cloudlink.local/gateway/internal/update/trust"
)

// gatePath answers with what every page says of updates and restarts.
const gatePath = softwarePath + "/gate"

// An origin is what a page was made from. It comes back with each question after the gate, so that
// nothing is claimed only because something answers.
type origin struct {
	Boot, Slot, Version string
	Seen                int    // the newest attempt that had ended
	Page                string // its name in the menu, "" for another
}

// Query is the origin as the page sends it.
func (o origin) Query() string {
	return url.Values{"boot": {o.Boot}, "slot": {o.Slot}, "version": {o.Version}, "seen": {strconv.Itoa(o.Seen)}, "page": {o.Page}}.Encode()
}

// What the gate says.
type gateKind string

const (
	gateShut     gateKind = ""            // nothing
	gateWorking  gateKind = "working"     // M4: an update is on its way
	gateError    gateKind = "error"       // M6: it failed; nothing has changed
	gateReturns  gateKind = "returning"   // M6: the new version has not proved itself and is about to be left
	gateReturned gateKind = "gone-back"   // M6: it was left
	gateEnded    gateKind = "cancelled"   // a person ended it
	gateUpdated  gateKind = "updated"     // the new version runs and stays
	gateBack     gateKind = "back"        // the version before runs and stays: somebody wanted it
	gateDrilling gateKind = "drilling"    // the fire drill is passed; this version runs for the last moment
	gateDrilled  gateKind = "drilled"     // and the one from before it runs again
	gateRestart  gateKind = "restarted"   // the machine only
	gateOther    gateKind = "new-version" // and another version runs; nobody knows of an update
)

// A gate is what every page says of updates and restarts.
type gate struct {
	origin
	Kind     gateKind
	Attempt  update.Attempt // that Kind is about
	Progress *update.Progress
	Version  string // that runs
	Slot     string
}

// newGate compares what a page was made from with what is now. ok is false where nobody can say yet.
func newGate(then origin, now glance) (g gate, ok bool) {
	g = gate{origin: then, Version: now.machine.Release.Version, Slot: now.machine.Slot}
	working := !now.updateSilent && now.update.State.Working()
	if now.noMachine && !working {
		return g, false
	}
	restarted := then.Boot != "" && then.Boot != now.machine.BootID
	if now.updateSilent {
		if !restarted || now.machine.UptimeSeconds < settled {
			return g, false
		}
		g.Kind = g.onlyRestarted(then)
		return g, true
	}
	if len(now.update.Attempts) > 0 {
		g.Attempt = now.update.Attempts[0]
	}
	switch {
	case working:
		g.Kind, g.Progress = gateWorking, now.update.Progress
	case g.Attempt.ID > then.Seen:
		g.Kind = g.outcome()
	}
	if g.Kind == gateShut && restarted {
		g.Kind = g.onlyRestarted(then)
	}
	return g, true
}

// settled is how long the gateway has run, in seconds, when a service that does not answer is not just
// about to begin.
const settled = 60

func (g gate) onlyRestarted(then origin) gateKind {
	if then.Version != g.Version || then.Slot != g.Slot {
		return gateOther
	}
	return gateRestart
}

// outcome says how the attempt has ended, as far as what runs bears it out.
func (g gate) outcome() gateKind {
	a := g.Attempt
	there := g.Slot == a.ToSlot && g.Version == a.To
	switch {
	case a.State == update.Failed && a.Reason == update.Cancelled:
		return gateEnded
	case a.State == update.Failed:
		return gateError
	case a.State == update.RolledBack && there && a.ToSlot != a.FromSlot:
		return gateReturns
	case a.State == update.RolledBack:
		return gateReturned
	case a.State != update.Confirmed:
		return gateShut
	case a.Kind == update.Drill && there:
		return gateDrilling
	case a.Kind == update.Drill && g.Slot == a.FromSlot:
		return gateDrilled
	case a.Kind == update.Rollback && there:
		return gateBack
	case a.Kind == update.Update && there:
		return gateUpdated
	}
	return gateShut
}

// originOf is what a page that is made now is made from.
func originOf(now glance, page string) origin {
	o := origin{Page: page, Boot: now.machine.BootID, Slot: now.machine.Slot, Version: now.machine.Release.Version}
	if len(now.update.Attempts) > 0 {
		if o.Seen = now.update.Attempts[0].ID; now.update.State.Working() {
			o.Seen--
		}
	}
	return o
}

// Reload is where the page is made anew.
func (g gate) Reload() string {
	for _, item := range (view{}).Menu() {
		if item.Name == g.Page {
			return item.Path
		}
	}
	return "/"
}

// Failed says whether the gate tells of an error (M6).
func (g gate) Failed() bool {
	return g.Kind == gateError || g.Kind == gateReturns || g.Kind == gateReturned
}

// Icon is the icon of what the gate says.
func (g gate) Icon() string {
	switch {
	case g.Failed():
		return "error"
	case g.Kind == gateWorking:
		return "update"
	case g.Kind == gateRestart, g.Kind == gateOther, g.Kind == gateEnded:
		return "info"
	}
	return "ok"
}

// Tone is its colour.
func (g gate) Tone() string {
	if icon := g.Icon(); icon != "update" {
		return icon
	}
	return "info"
}

// Step is which step the attempt is at, from 1; 0 where that cannot be said.
func (g gate) Step() int { return slices.Index(g.steps(), g.Attempt.State) + 1 }

// Steps is how many there are.
func (g gate) Steps() int { return len(g.steps()) }

func (g gate) steps() []update.State {
	switch {
	case g.Attempt.Kind != update.Update:
		return []update.State{update.Verifying, update.PendingReboot, update.Trial}
	case g.Attempt.Source == update.FromRepository:
		return []update.State{update.Checking, update.Downloading, update.Verifying, update.Writing, update.PendingReboot, update.Trial}
	}
	return []update.State{update.Checking, update.Verifying, update.Writing, update.PendingReboot, update.Trial}
}

// Waits says whether the gateway waits for a good time to restart.
func (g gate) Waits() bool { return g.Attempt.State == update.PendingReboot && g.Attempt.By == "" }

// Retry is where another attempt is asked for with one click, "" where it takes more.
func (g gate) Retry() string { return retryOf(g.Attempt) }

func retryOf(a update.Attempt) string {
	switch {
	case a.State == update.RolledBack, a.Reason == update.NotSlots:
		return "" // it takes a decision; it is of no use
	case a.Kind == update.Update && a.Source == update.FromRepository:
		return softwarePath + "/install"
	}
	return ""
}

// serveGate answers with the gate as it is now for a page that was made some time ago.
func (p *Portal) serveGate(w http.ResponseWriter, r *http.Request) {
	seen, err := strconv.Atoi(r.FormValue("seen"))
	if err != nil || seen < 0 {
		p.refuse(w, r, &fault{"value", "seen", "0, 1, 2, …"})
		return
	}
	then := origin{Boot: r.FormValue("boot"), Slot: r.FormValue("slot"), Version: r.FormValue("version"), Seen: seen, Page: r.FormValue("page")}
	v := p.view(r, "update")
	g, ok := newGate(then, p.glance(r.Context()))
	if !ok {
		w.WriteHeader(http.StatusNoContent) // the page stays as it is and asks again
		return
	}
	v.Gate = g
	p.write(w, http.StatusOK, "gate", v)
}

// upToDate is what a check says when all is well.
const upToDate = update.Reason(trust.UpToDate)
