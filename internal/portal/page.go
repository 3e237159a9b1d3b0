package portal

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"cloudlink.local/gateway/internal/machine"
	"cloudlink.local/gateway/internal/release"
)

// A Config is what the portal is made from.
type Config struct {
	Release release.Release
	Machine Machine
	Network Network
	Update  Update
	Notices string // file of the third-party notices, gzip
	Log     *slog.Logger
}

// A Portal answers for the gateway's pages and API. It is an http.Handler.
type Portal struct {
	gatherer
	release release.Release
	notices string
	mux     *http.ServeMux
	params  map[string][]param // of each pattern of mux
	origin  *http.CrossOriginProtection
	api     func() http.Handler // built at first use
	turns   chan struct{}       // has one element for each who reads the log
	streams chan struct{}       // and for each who follows the events
	token   string              // tells this gateway from another of the same name
	answers answers
}

// maxReaders is how many may read the log at a time. Process 1 has 32 connections for all services,
// and a log takes up to a few MiB of our memory until the last of it is on its way: a crowd, or one
// who asks a hundred times and takes no answer in, must not have all of either.
const maxReaders = 8

// New returns a portal; it does nothing before it is asked.
func New(c Config) *Portal {
	p := &Portal{
		gatherer: gatherer{machine: c.Machine, network: c.Network, update: c.Update, log: c.Log, keep: keepTime, silent: map[Part]*silence{}},
		release:  c.Release,
		notices:  c.Notices,
		mux:      http.NewServeMux(),
		params:   map[string][]param{},
		origin:   http.NewCrossOriginProtection(),
		turns:    make(chan struct{}, maxReaders),
		streams:  make(chan struct{}, maxStreams),
		token:    newToken(),
	}
	p.api = sync.OnceValue(p.newAPI)
	page := func(pattern string, h http.HandlerFunc, params ...param) {
		p.mux.HandleFunc(pattern, h)
		p.params[pattern] = params
	}
	page("GET /{$}", p.overview, langQuery)
	page("GET /live", p.live)
	page("GET /log", p.logPage, langQuery, levelQuery, runQuery)
	page("GET /log/live", p.logLive, levelQuery, param{name: "boot"}, param{name: "after"})
	page("GET /log.txt", p.logText, runQuery)
	page("GET /licences", p.simple("licences"), langQuery)
	page("GET /licences/notices.txt", p.noticesText)
	page("GET /browsers", p.simple("browsers"), langQuery)
	page("GET /assets/{fingerprint}/{name}", p.asset)
	p.networkPages(page)
	p.findPages(page)
	p.updatePages(page)
	p.mux.HandleFunc(apiPath, func(w http.ResponseWriter, r *http.Request) { p.api().ServeHTTP(w, r) }) // checks its own
	return p
}

// No page has anything inline, so nothing inline is ever run or applied.
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; " +
	"connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// ServeHTTP answers a request.
func (p *Portal) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", contentPolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")        // for browsers older than frame-ancestors
	h.Set("Referrer-Policy", "same-origin") // "no-referrer" has browsers keep the origin of our own forms from us
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	defer p.recover(w, r)
	limit := int64(maxBody)
	if isUpload(r) {
		limit = maxUpload
	}
	r.Body = http.MaxBytesReader(w, r.Body, limit)
	switch {
	case !ownHost(r.Host, ownNames{}) && !ownHost(r.Host, p.names(r.Context())):
		p.fail(w, r, http.StatusMisdirectedRequest)
	case p.origin.Check(r) != nil:
		p.fail(w, r, http.StatusForbidden)
	case r.RequestURI == "*" && r.Method == http.MethodOptions: // asks about the server as a whole
		h.Set("Allow", "GET, HEAD")
		w.WriteHeader(http.StatusNoContent)
	case r.RequestURI == "*":
		p.fail(w, r, http.StatusBadRequest)
	default:
		p.route(w, r)
	}
}

// warm makes ready what else the first page and the first question to the API would wait for.
func (p *Portal) warm() {
	if r, err := http.NewRequest(http.MethodGet, "http://localhost/", http.NoBody); err == nil {
		p.ServeHTTP(&header{h: http.Header{}}, r)
		p.forget() // a part that was not up yet may be by now
	}
	p.api()
}

// route finds the handler. Where there is none, the answer is a page of ours, not the mux's line.
func (p *Portal) route(w http.ResponseWriter, r *http.Request) {
	none, pattern := p.mux.Handler(r)
	if pattern == "" {
		p.fail(w, r, answerless(w, r, none))
		return
	}
	if params, ok := p.params[pattern]; ok {
		if _, f := checkQuery(r.URL.RawQuery, params); f != nil {
			p.refuse(w, r, f)
			return
		}
	}
	p.mux.ServeHTTP(w, r)
}

// answerless returns the code that the mux has for a request without handler: 404, or 405 with the
// header that says what is allowed. Where it would lead to a tidier path, there is nothing either.
func answerless(w http.ResponseWriter, r *http.Request, none http.Handler) int {
	found := &header{h: http.Header{}}
	none.ServeHTTP(found, r)
	if allow := found.h.Get("Allow"); allow != "" {
		w.Header().Set("Allow", allow)
		return http.StatusMethodNotAllowed
	}
	return http.StatusNotFound
}

// A header takes in an answer's header and status alone.
type header struct {
	h    http.Header
	code int
}

func (h *header) Header() http.Header         { return h.h }
func (h *header) Write(b []byte) (int, error) { return len(b), nil }
func (h *header) WriteHeader(code int)        { h.code = code }

// recover turns a panic into a page: one bad request must not be the end of all others.
func (p *Portal) recover(w http.ResponseWriter, r *http.Request) {
	switch cause := recover(); cause {
	case nil:
	case http.ErrAbortHandler:
		panic(cause) // the server's own way to hang up
	default:
		p.log.Error("answer failed", "path", plain(r.URL.Path), "cause", fmt.Sprint(cause), "stack", string(debug.Stack()))
		p.fail(w, r, http.StatusInternalServerError) // a header already sent stays as it is
	}
}

func (p *Portal) view(r *http.Request, name string) view {
	q := r.URL.Query()
	q.Del(langParam)
	v := view{Lang: chooseLang(r), Path: r.URL.Path, Query: q.Encode(), Name: name, Release: p.release}
	now := p.peek(r.Context())
	v.Banner = bannerOf(r, v.Lang, now.network.Change)
	v.Gate, _ = newGate(originOf(now, name), now)
	return v
}

// peek is glance for a page that has other matters, such as an error: it comes about whatever happens here.
func (p *Portal) peek(ctx context.Context) (now glance) {
	defer func() {
		if cause := recover(); cause != nil {
			p.log.Error("ask the parts", "cause", fmt.Sprint(cause), "stack", string(debug.Stack()))
			now = glance{noMachine: true, updateSilent: true}
		}
	}()
	return p.glance(ctx)
}

// fail answers with an error page, or a program with a problem.
func (p *Portal) fail(w http.ResponseWriter, r *http.Request, code int) {
	if strings.HasPrefix(r.URL.Path, apiPath) {
		problem(w, code, "")
		return
	}
	f := p.failure(r, code)
	if code == http.StatusMisdirectedRequest {
		f.Here = "http://" + defaultHost + "/"
		if on := requestOf(r.Context(), r.RemoteAddr).ArrivedOn; on.Is4() || on.Is6() && !on.IsLinkLocalUnicast() {
			f.Here = "http://" + hostOf(on) + "/" // whoever asks has it already; our names are not for everybody
		}
		p.write(w, code, "misdirected.html", f) // no more than plain text: whoever asks is not our page
		return
	}
	if !f.Has("error." + strconv.Itoa(code)) {
		f.Code = http.StatusInternalServerError
	}
	p.write(w, code, "error.html", f)
}

// refuse answers with a page that says what is wrong with the address.
func (p *Portal) refuse(w http.ResponseWriter, r *http.Request, wrong *fault) {
	f := p.failure(r, http.StatusBadRequest)
	f.Fault = wrong
	p.write(w, f.Code, "error.html", f)
}

func (p *Portal) failure(r *http.Request, code int) failure {
	v := p.view(r, "error")
	v.Path, v.Query = "/", "" // there is no page here to come back to
	return failure{view: v, Code: code}
}

// turn waits until the request may read the log. leave is nil where that takes too long.
func (p *Portal) turn(w http.ResponseWriter, r *http.Request) (leave func()) {
	ctx, cancel := context.WithTimeout(r.Context(), logTime)
	defer cancel()
	select {
	case p.turns <- struct{}{}:
		http.NewResponseController(w).SetWriteDeadline(time.Now().Add(turnTime)) // there is none in tests
		return func() { <-p.turns }
	case <-ctx.Done():
		return nil
	}
}

// write answers with a template, or, if that fails, with a plain line.
func (p *Portal) write(w http.ResponseWriter, code int, name string, data any) {
	var b bytes.Buffer
	if err := templates().ExecuteTemplate(&b, name, data); err != nil {
		p.log.Error("render page", "template", name, "error", err)
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(b.Len()))
	w.WriteHeader(code)
	w.Write(b.Bytes())
}

var templates = sync.OnceValue(func() *template.Template {
	return template.Must(template.New("").ParseFS(files, "page/*.html"))
})

// page answers with a whole page, unless the reader wants another language or has a browser that
// could not show it.
func (p *Portal) page(w http.ResponseWriter, r *http.Request, name string, data any) {
	if !supported(r.UserAgent()) {
		name = "unsupported"
	}
	p.write(w, http.StatusOK, name+".html", data)
}

// supported tells whether a browser can show the pages, as far as its name gives away. Internet
// Explorer cannot, and is still found on the desks of telephone systems.
func supported(agent string) bool {
	return !strings.Contains(agent, "MSIE ") && !strings.Contains(agent, "Trident/")
}

func (p *Portal) simple(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !switchLang(w, r) {
			p.page(w, r, name, p.view(r, name))
		}
	}
}

func (p *Portal) overview(w http.ResponseWriter, r *http.Request) {
	if !switchLang(w, r) {
		v := p.view(r, "overview")
		p.page(w, r, "overview", overview{view: v, Status: p.status(r.Context(), v.Lang), Host: p.names(r.Context()).Host})
	}
}

// live answers with what changes on the first page.
func (p *Portal) live(w http.ResponseWriter, r *http.Request) {
	v := p.view(r, "overview")
	o := overview{view: v, Status: p.status(r.Context(), v.Lang), Host: p.names(r.Context()).Host}
	p.write(w, http.StatusOK, "live", o)
}

func (p *Portal) noticesText(w http.ResponseWriter, r *http.Request) {
	f, err := os.Open(p.notices)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			p.log.Error("open notices", "error", err)
		}
		p.fail(w, r, http.StatusNotFound)
		return
	}
	defer f.Close()
	var text io.Reader = f
	if takesGzip(r) {
		w.Header().Set("Content-Encoding", "gzip")
	} else if text, err = gzip.NewReader(f); err != nil {
		p.log.Error("read notices", "error", err)
		p.fail(w, r, http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Vary", "Accept-Encoding")
	source := &watched{Reader: text}
	io.Copy(w, source) // who hangs up does not miss the rest
	if source.err != nil {
		p.log.Error("read notices", "error", source.err)
	}
}

// A watched reader remembers its error: that of the other end, which io.Copy returns as well, can be
// caused by any client.
type watched struct {
	io.Reader
	err error
}

// Read reads.
func (r *watched) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}

// shownEntries is how many lines of the log one page has.
const shownEntries = 500

var levels = map[string]machine.Level{
	"error": machine.LevelError, "warn": machine.LevelWarn, "info": machine.LevelInfo, "debug": machine.LevelDebug,
}

var levelNames = []string{"error", "warn", "info", "debug"}

// levelName returns the name of the choice that shows entries of level l first.
func levelName(l machine.Level) string {
	for _, name := range levelNames {
		if l <= levels[name] {
			return name
		}
	}
	return "debug"
}

// readLog fills in the page's entries, those after lp.After.
func (p *Portal) readLog(ctx context.Context, r *http.Request, lp *logPage) {
	lp.Level = cmp.Or(r.FormValue("level"), "info")
	var list []machine.Entry
	var err error
	if lp.Previous {
		list, err = p.machine.PreviousLog(ctx, levels[lp.Level])
	} else {
		list, err = p.machine.Log(ctx, lp.After, levels[lp.Level])
	}
	if err != nil {
		p.log.Debug("read log", "error", err)
		lp.Unknown = true
		return
	}
	if len(list) > 0 {
		lp.After = list[len(list)-1].Seq
	}
	if lp.Left = len(list) - shownEntries; lp.Left > 0 {
		list = list[lp.Left:]
	}
	slices.Reverse(list)
	lp.Entries = list
}

func (p *Portal) logPage(w http.ResponseWriter, r *http.Request) {
	if switchLang(w, r) {
		return
	}
	leave := p.turn(w, r)
	if leave == nil {
		p.fail(w, r, http.StatusServiceUnavailable)
		return
	}
	defer leave()
	lp := logPage{view: p.view(r, "log"), Previous: r.FormValue("boot") == runPrevious}
	ctx, cancel := context.WithTimeout(r.Context(), logTime)
	defer cancel()
	lp.Boot = p.status(ctx, lp.Lang).BootID // before its log: an entry between is then shown twice, not lost
	p.readLog(ctx, r, &lp)
	p.page(w, r, "log", lp)
}

// logLive answers with the entries that came since, and with where to go on from them.
func (p *Portal) logLive(w http.ResponseWriter, r *http.Request) {
	after, wrong := parseAfter(r.FormValue("after"))
	if wrong != nil {
		p.refuse(w, r, wrong)
		return
	}
	leave := p.turn(w, r)
	if leave == nil {
		w.WriteHeader(http.StatusNoContent) // as below
		return
	}
	defer leave()
	lp := logPage{view: p.view(r, "log")}
	ctx, cancel := context.WithTimeout(r.Context(), logTime)
	defer cancel()
	s := p.status(ctx, lp.Lang)
	lp.Boot = s.BootID
	if boot := r.FormValue("boot"); boot != "" && boot != lp.Boot {
		lp.Missed = true // numbers start again
	} else {
		lp.After = after
	}
	p.readLog(ctx, r, &lp)
	if !s.Knows(PartMachine) || lp.Unknown || len(lp.Entries) == 0 && !lp.Missed {
		w.WriteHeader(http.StatusNoContent) // the page stays as it is and asks again
		return
	}
	p.write(w, http.StatusOK, "entries", lp)
}

// logText answers with the whole log of a run as a file.
func (p *Portal) logText(w http.ResponseWriter, r *http.Request) {
	leave := p.turn(w, r)
	if leave == nil {
		p.fail(w, r, http.StatusServiceUnavailable)
		return
	}
	defer leave()
	ctx, cancel := context.WithTimeout(r.Context(), logTime)
	defer cancel()
	name := "cloudlink-log.txt"
	var list []machine.Entry
	var err error
	if r.FormValue("boot") == runPrevious {
		name = "cloudlink-log-previous.txt"
		list, err = p.machine.PreviousLog(ctx, machine.LevelDebug)
	} else {
		list, err = p.machine.Log(ctx, 0, machine.LevelDebug)
	}
	if err != nil {
		p.fail(w, r, http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Content-Disposition", `attachment; filename="`+name+`"`)
	for _, e := range list {
		fmt.Fprintf(w, "%s %-5s %s: %s\n", e.Time.UTC().Format("2006-01-02T15:04:05.000Z"), levelName(e.Level), plain(e.Source), plain(e.Text))
	}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
