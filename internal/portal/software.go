package portal

import (
	"context"
	"encoding/json"
	"errors"
	"mime/multipart"
	"net/http"
	"strings"
	"time"

	"cloudlink.local/gateway/internal/condition"
	"cloudlink.local/gateway/internal/network"
	"cloudlink.local/gateway/internal/settings"
	"cloudlink.local/gateway/internal/update"
	"cloudlink.local/gateway/internal/update/trust"
)

// softwarePath is the page of the updates.
const softwarePath = "/update"

// updatePages adds the page of the updates and what belongs to it.
func (p *Portal) updatePages(page func(pattern string, h http.HandlerFunc, params ...param)) {
	page("GET "+softwarePath, p.softwarePage, langQuery, param{"done", []string{"saved", "cancelling"}})
	page("GET "+softwarePath+"/live", p.softwareLive)
	page("GET "+softwarePath+"/attempts", p.softwareAttempts)
	page("GET "+softwarePath+"/help", p.simple("help"), langQuery)
	page("GET "+gatePath, p.serveGate, param{name: "boot"}, param{name: "slot"}, param{name: "version"}, param{name: "seen"}, param{name: "page"})
	page("POST "+softwarePath+"/check", p.orderForm(p.update.CheckNow, false, busy, ""))
	page("POST "+softwarePath+"/install", p.orderForm(p.update.Install, false, busy, ""))
	page("POST "+softwarePath+"/usb", p.orderForm(p.update.USB, true, busy, ""))
	page("POST "+softwarePath+"/cancel", p.orderForm(p.update.Cancel, false, notUnderWay, "?done=cancelling"))
	page("POST "+softwarePath+"/rollback", p.orderForm(p.update.Rollback, true, busy, ""))
	page("POST "+softwarePath+"/drill", p.orderForm(p.update.Drill, true, busy, ""))
	page("POST "+softwarePath+"/upload", p.uploadForm)
	page("POST "+softwarePath+"/settings", p.changeUpdate)
}

// A softwarePage is the page of the updates.
type softwarePage struct {
	view
	softwareNow
	Form     form // its values are there only where the settings are known
	Attempts attempts
	Done     string         // what the reader has just done
	Problem  *UpdateProblem // why what he wanted was not done
}

// A softwareNow is the part of it that moves.
type softwareNow struct {
	State   update.Status
	Unknown bool // the update service does not answer
	Now     time.Time
}

// attempts are what the gateway has done, the newest first.
type attempts struct {
	view
	List    []update.Attempt
	Unknown bool
}

// newSoftwareNow puts together how updates stand.
func (p *Portal) newSoftwareNow(ctx context.Context) softwareNow {
	s, err := p.updateStatus(ctx)
	return softwareNow{State: s, Unknown: err != nil, Now: time.Now()}
}

// newSoftwarePage puts the page together.
func (p *Portal) newSoftwarePage(r *http.Request) *softwarePage {
	sp := &softwarePage{view: p.view(r, "update"), softwareNow: p.newSoftwareNow(r.Context())}
	sp.Path = softwarePath // the page's, also where something was sent to
	sp.Form = form{view: sp.view, Key: "update"}
	if all, err := p.settings(r.Context()); err == nil {
		sp.Form = updateForm(sp.view, all.Update)
	}
	sp.Attempts = attempts{sp.view, sp.State.Attempts, sp.Unknown}
	return sp
}

// Newest is the newest attempt.
func (s softwareNow) Newest() update.Attempt {
	if len(s.State.Attempts) == 0 {
		return update.Attempt{}
	}
	return s.State.Attempts[0]
}

// Mood is what is to be said first: the text's name in the catalogue.
func (s softwareNow) Mood() string {
	check := s.State.Check
	for _, c := range update.AllConditions(nil, &s.State, s.Now) {
		switch c.ID {
		case condition.UpdateRunning:
			return "working"
		case condition.UpdateError:
			return "error"
		case condition.UpdateReturned:
			return "gone-back"
		case condition.UpdateAvailable:
			return "available"
		}
	}
	switch {
	case s.State.Checking:
		return "checking"
	case check == nil:
		return "unasked"
	case check.Reason == upToDate, check.Available != nil: // it is what runs
		return "current"
	case check.Reason == update.NoServer, check.Reason == update.Reason(trust.NotYet), check.Reason == update.Reason(trust.MinimumFrom):
		return "told"
	}
	return "failed"
}

// Tone is the colour of a mood, and the name of its icon.
func (s softwareNow) Tone() string {
	switch s.Mood() {
	case "working", "available", "told", "checking":
		return "info"
	case "error", "gone-back":
		return "error"
	case "failed":
		return "warning"
	case "current":
		return "ok"
	}
	return "unknown"
}

// Offer is the update that can be installed, nil for none.
func (s softwareNow) Offer() *update.Available {
	if c := s.State.Check; c != nil && c.Available != nil && c.Available.Version != s.State.Version {
		return c.Available
	}
	return nil
}

// Idle says whether something can be begun.
func (s softwareNow) Idle() bool {
	return !s.State.State.Working() && !s.State.Checking && !s.State.Busy
}

// Cancellable says whether what is on its way can still be ended.
func (s softwareNow) Cancellable() bool {
	return s.State.State.Working() && s.State.State != update.Trial || s.State.Checking
}

// Retry is where the newest attempt is asked for once more with one click.
func (s softwareNow) Retry() string { return retryOf(s.Newest()) }

// NotesIn are a release's notes in the reader's language, or in the one that there is, as lines.
func (v view) NotesIn(n update.Notes) []string {
	text := n.EN
	if v.Lang == "de" && n.DE != "" || text == "" {
		text = n.DE
	}
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(plain(strings.TrimRight(line, "\r\n"))); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// ResultTone is the colour of an attempt's result.
func (view) ResultTone(a update.Attempt) string {
	switch {
	case a.State == update.Confirmed:
		return "ok"
	case a.State.Working():
		return "starting"
	case a.Reason == update.Cancelled:
		return "off"
	}
	return "bad"
}

func (p *Portal) softwarePage(w http.ResponseWriter, r *http.Request) {
	if switchLang(w, r) {
		return
	}
	sp := p.newSoftwarePage(r)
	sp.Done = r.FormValue("done")
	sp.Query = "" // what is done is done, in every language
	p.page(w, r, "software", sp)
}

func (p *Portal) softwareLive(w http.ResponseWriter, r *http.Request) {
	p.write(w, http.StatusOK, "software-live", &softwarePage{view: p.view(r, "update"), softwareNow: p.newSoftwareNow(r.Context())})
}

func (p *Portal) softwareAttempts(w http.ResponseWriter, r *http.Request) {
	s, err := p.updateStatus(r.Context())
	if err != nil {
		w.WriteHeader(http.StatusNoContent) // the page stays as it is and asks again
		return
	}
	p.write(w, http.StatusOK, "attempts", attempts{p.view(r, "update"), s.Attempts, false})
}

// orderForm takes a button. sure has the form say that its reader knows what it does;
// idle is the word for when the update service refuses.
func (p *Portal) orderForm(do func(context.Context, update.Request) (update.Status, error), sure bool, idle, done string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		values, ok := typed(r, []string{"sure"})
		if !ok || sure && values["sure"] != "yes" {
			p.fail(w, r, http.StatusBadRequest)
			return
		}
		if _, err := p.order(r.Context(), requestOf(r.Context(), r.RemoteAddr), do); err != nil {
			p.notBegun(w, r, updateFailed(err, idle, chooseLang(r)))
			return
		}
		http.Redirect(w, r, softwarePath+done, http.StatusSeeOther)
	}
}

// notBegun answers that nothing was done, and why.
func (p *Portal) notBegun(w http.ResponseWriter, r *http.Request, why *UpdateProblem) {
	sp := p.newSoftwarePage(r)
	sp.Problem = why
	p.write(w, why.Status, "software.html", sp)
}

// bundleField is the field of the form that a bundle is uploaded with.
const bundleField = "bundle"

// uploadForm takes a bundle from a browser, as it comes in.
func (p *Portal) uploadForm(w http.ResponseWriter, r *http.Request) {
	lang := chooseLang(r)
	v := view{Lang: lang}
	refuse := func(code int, text, cure string) {
		why := &UpdateProblem{Code: bundleRefused, Cure: cure}
		why.Status, why.Detail = code, text
		p.notBegun(w, r, why)
	}
	part, err := bundlePart(r)
	if err != nil {
		p.fail(w, r, http.StatusBadRequest)
		return
	}
	if part.FileName() == "" {
		refuse(http.StatusUnprocessableEntity, v.Word("", "upload.none"), v.Word("", "upload.none.cure"))
		return
	}
	_, err = p.upload(w, r, part)
	switch _, long := errors.AsType[*http.MaxBytesError](err); {
	case long:
		tooLarge := update.Reason(trust.TooLarge)
		refuse(http.StatusRequestEntityTooLarge, v.Reason(tooLarge), v.ReasonCure(tooLarge))
	case err != nil:
		p.notBegun(w, r, updateFailed(err, busy, lang))
	default:
		http.Redirect(w, r, softwarePath, http.StatusSeeOther)
	}
}

// bundlePart returns the file of the form, which is all that is in it.
func bundlePart(r *http.Request) (*multipart.Part, error) {
	parts, err := r.MultipartReader()
	if err != nil {
		return nil, err
	}
	part, err := parts.NextPart()
	if err != nil {
		return nil, err
	}
	if part.FormName() != bundleField {
		return nil, errors.New("another field")
	}
	return part, nil
}

var updateFields = []string{"server", "channel", "automatic", "window.from", "window.to", "window.zone", "not_during_calls"}

func updateForm(v view, u settings.Update) form {
	f := form{view: v, Key: "update", Values: map[string]string{
		"server": u.Server, "channel": string(u.Channel), "window.from": u.Window.From, "window.to": u.Window.To, "window.zone": u.Window.Zone,
	}}
	for name, on := range map[string]bool{"automatic": u.Automatic, "not_during_calls": u.NotDuringCalls} {
		if on {
			f.Values[name] = "true"
		}
	}
	return f
}

// updateOf returns what was typed for the updates. Its error is settings.Errors.
func updateOf(values map[string]string) (settings.Update, error) {
	text := func(name string) string { return strings.TrimSpace(values[name]) }
	u := map[string]any{
		"server": text("server"), "channel": text("channel"),
		"window": map[string]string{"from": text("window.from"), "to": text("window.to"), "zone": text("window.zone")},
	}
	for _, name := range []string{"automatic", "not_during_calls"} {
		switch on := values[name]; on {
		case "", "true":
			u[name] = on == "true"
		default:
			u[name] = on // package settings says what is wrong with it
		}
	}
	b, err := json.Marshal(u)
	if err != nil {
		return settings.Update{}, err
	}
	return settings.DecodeUpdate(b)
}

// changeUpdate takes the form for the updates.
func (p *Portal) changeUpdate(w http.ResponseWriter, r *http.Request) {
	values, ok := typed(r, updateFields)
	if !ok {
		p.fail(w, r, http.StatusBadRequest)
		return
	}
	u, err := updateOf(values)
	if err == nil {
		_, err = p.change(r.Context(), func(ctx context.Context) (network.Status, error) {
			return p.network.Change(ctx, network.Proposal{Request: requestOf(r.Context(), r.RemoteAddr), Update: &u})
		})
	}
	if err == nil {
		http.Redirect(w, r, softwarePath+"?done=saved", http.StatusSeeOther)
		return
	}
	sp := p.newSoftwarePage(r)
	sp.Form.Values = values
	if sp.Form.blame(err); sp.Form.Failed() {
		p.write(w, http.StatusUnprocessableEntity, "software.html", sp)
		return
	}
	sp.Problem = &UpdateProblem{}
	sp.Problem.Detail = sp.Word("", "problem.silent")
	p.write(w, http.StatusServiceUnavailable, "software.html", sp)
}
