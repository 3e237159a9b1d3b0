package portal

import (
	"context"
	"math"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"time"

	"cloudlink.local/gateway/internal/diary"
	"cloudlink.local/gateway/internal/network"
	"cloudlink.local/gateway/internal/network/ntp"
	"cloudlink.local/gateway/internal/portmap"
	"cloudlink.local/gateway/internal/settings"
)

// ethernetPath is the page of the Ethernet ports.
const ethernetPath = "/network"

// doneQuery says what the page was led back to after.
var doneQuery = param{"done", []string{"saved", "kept", "returned", "no-servers"}}

// networkPages adds the page of the Ethernet ports and what belongs to it.
func (p *Portal) networkPages(page func(pattern string, h http.HandlerFunc, params ...param)) {
	page("GET /probation", p.probation)
	page("GET "+ethernetPath, p.networkPage, langQuery, doneQuery)
	page("GET "+ethernetPath+"/live", p.networkLive)
	page("GET "+ethernetPath+"/diary", p.networkDiary)
	page("POST "+ethernetPath+"/wan", p.changePort("wan"))
	page("POST "+ethernetPath+"/lan", p.changePort("lan"))
	page("POST "+ethernetPath+"/clock", p.changeClock)
	page("POST "+ethernetPath+"/confirm", p.confirm)
	page("POST "+ethernetPath+"/return", p.takeBack)
	page("POST "+ethernetPath+"/selftest", p.runSelfTest)
}

// A banner is what every page says while a change is on probation.
type banner struct {
	Left  int     // seconds
	Here  bool    // the page was opened over an address that confirms
	Links []place // the page under such addresses
	None  bool    // the new settings have no address yet
	Ended string  // nothing is on probation any more: how it ended
}

// A place is this page under one address.
type place struct{ URL, Name string }

// placeAt is the page of this path under a name or an address.
func placeAt(host, path, lang string) place {
	u := url.URL{Scheme: "http", Host: host, Path: path, RawQuery: url.Values{langParam: {lang}}.Encode()} // there its cookie is not
	return place{u.String(), "http://" + host + "/"}
}

// bannerOf returns what a page says that was asked for by r; nil where nothing is on probation.
func bannerOf(r *http.Request, lang string, c *network.Change) *banner {
	if c == nil {
		return nil
	}
	on := requestOf(r.Context(), r.RemoteAddr).ArrivedOn
	return &banner{
		Left:  int(math.Ceil(max(0, c.SecondsLeft))),
		Here:  slices.Contains(c.Addresses, on),
		Links: places(c.Addresses, lang),
		None:  len(c.Addresses) == 0,
	}
}

// places are those of addresses that a browser can open, IPv4's first.
func places(addresses []netip.Addr, lang string) []place {
	var v4, v6 []place
	for _, a := range addresses {
		at := placeAt(hostOf(a), ethernetPath, lang)
		switch {
		case a.Is4():
			v4 = append(v4, at)
		case !a.IsLinkLocalUnicast(): // a browser takes no zone
			v6 = append(v6, at)
		}
	}
	return append(v4, v6...)
}

// probation answers with the banner's content as it is now.
func (p *Portal) probation(w http.ResponseWriter, r *http.Request) {
	s, err := p.networkStatus(r.Context())
	if err != nil {
		w.WriteHeader(http.StatusNoContent) // the page stays as it is and asks again
		return
	}
	v := p.view(r, "network")
	if v.Banner = bannerOf(r, v.Lang, s.Change); v.Banner == nil {
		v.Banner = &banner{Ended: p.outcome(r.Context(), v)}
	}
	p.write(w, http.StatusOK, "probation", v)
}

// outcome says how the last change on probation ended.
func (p *Portal) outcome(ctx context.Context, v view) string {
	list, _ := p.diary(ctx)
	for _, e := range slices.Backward(list) {
		switch e.Kind {
		case diary.CommitConfirmed, diary.CommitReturned, diary.CommitReturnedAtBoot, diary.CommitDamaged:
			return plain(e.Text(v.Lang))
		}
	}
	text, _ := v.T("probation.ended")
	return text
}

// A networkPage is the page of the Ethernet ports.
type networkPage struct {
	view
	networkLive
	Forms   []form // of the ports that there are
	Clock   form
	Diary   timeline
	Table   table
	Done    string // what the reader has just done
	Problem string // why what he wanted was not done: the text's name in the catalogue
}

// A networkLive is the part of it that moves.
type networkLive struct {
	State   network.Status
	Unknown bool // the network service does not answer
	Now     time.Time
}

// A timeline is the diary, the newest entry first.
type timeline struct {
	view
	Entries []diary.Entry
	Left    int // entries that are not shown
	Unknown bool
}

// shownDiary is how many entries of the diary the page has.
const shownDiary = 30

// A table is the table of ports.
type table struct {
	view
	Results []portmap.Result // not checked: without State
	Checked bool
	Failed  bool // the check did not come about
	Unknown bool
}

// Good is how many rows are as they should be.
func (t table) Good() int { return t.count(func(r portmap.Result) bool { return r.Good }) }

// Bad is how many are not.
func (t table) Bad() int { return len(t.Results) - t.Good() - t.Unsure() }

// Unsure is how many cannot be checked.
func (t table) Unsure() int {
	return t.count(func(r portmap.Result) bool { return r.State == portmap.Unknown })
}

func (t table) count(is func(portmap.Result) bool) int {
	n := 0
	for _, r := range t.Results {
		if is(r) {
			n++
		}
	}
	return n
}

// Doubtful says whether e happened while the clock could not be trusted, and it is not known when.
func (t timeline) Doubtful(e diary.Entry) bool {
	return e.Actual.IsZero() && !network.Clock{Source: ntp.Source(e.Clock)}.Set()
}

// When is when e happened, as far as is known.
func (t timeline) When(e diary.Entry) time.Time {
	if !e.Actual.IsZero() {
		return e.Actual
	}
	return e.Time
}

// newNetworkPage puts the page together.
func (p *Portal) newNetworkPage(r *http.Request) *networkPage {
	np := &networkPage{view: p.view(r, "network")}
	np.Path = ethernetPath // the page's, also where something was sent to
	var s settings.Settings
	var err error
	np.networkLive = p.newNetworkLive(r.Context())
	if !np.Unknown {
		s, err = p.settings(r.Context())
		np.Unknown = err != nil
	}
	np.Diary, np.Table = timeline{view: np.view, Unknown: true}, table{view: np.view, Unknown: true}
	if np.Unknown {
		return np // nobody waits for one more answer that does not come
	}
	np.Diary = p.newTimeline(r.Context(), np.view)
	np.Table = p.newTable(r.Context(), np.view)
	for _, port := range np.State.Ports {
		var f form
		switch port.Role {
		case network.WAN, network.Both:
			f = portForm(np.view, "wan", port, s.Network.WAN)
		case network.LAN:
			f = portForm(np.view, "lan", port, s.Network.LAN)
		default:
			continue
		}
		f.Locked = np.Banner != nil && np.Banner.Here
		np.Forms = append(np.Forms, f)
	}
	np.Clock = clockForm(np.view, s.Clock)
	return np
}

func (p *Portal) newNetworkLive(ctx context.Context) networkLive {
	s, err := p.networkStatus(ctx)
	return networkLive{State: s, Unknown: err != nil, Now: time.Now()}
}

func (p *Portal) newTimeline(ctx context.Context, v view) timeline {
	list, err := p.diary(ctx)
	list = slices.Clone(list)
	slices.Reverse(list)
	t := timeline{view: v, Unknown: err != nil, Left: len(list) - shownDiary}
	t.Entries = list[:min(len(list), shownDiary)]
	return t
}

func (p *Portal) newTable(ctx context.Context, v view) table {
	rows, err := p.table(ctx)
	t := table{view: v, Unknown: err != nil}
	for _, row := range rows {
		t.Results = append(t.Results, portmap.Result{Row: row})
	}
	return t
}

func (p *Portal) networkPage(w http.ResponseWriter, r *http.Request) {
	if switchLang(w, r) {
		return
	}
	np := p.newNetworkPage(r)
	np.Done = r.FormValue("done")
	np.Query = "" // what is done is done, in every language
	p.page(w, r, "network", np)
}

func (p *Portal) networkLive(w http.ResponseWriter, r *http.Request) {
	p.write(w, http.StatusOK, "network-live", &networkPage{view: p.view(r, "network"), networkLive: p.newNetworkLive(r.Context())})
}

func (p *Portal) networkDiary(w http.ResponseWriter, r *http.Request) {
	t := p.newTimeline(r.Context(), p.view(r, "network"))
	if t.Unknown {
		w.WriteHeader(http.StatusNoContent) // the page stays as it is and asks again
		return
	}
	p.write(w, http.StatusOK, "timeline", t)
}

// changePort takes a port's form.
func (p *Portal) changePort(key string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		values, ok := typed(r, portFields)
		if !ok {
			p.fail(w, r, http.StatusBadRequest)
			return
		}
		all, err := p.settings(r.Context())
		var n settings.Network
		if err == nil {
			n, err = withPort(all.Network, key, values)
		}
		p.propose(w, r, network.Proposal{Network: &n}, err, func(np *networkPage) *form {
			for i := range np.Forms {
				if np.Forms[i].Key == key {
					return &np.Forms[i]
				}
			}
			return nil
		}, values)
	}
}

// changeClock takes the clock's form.
func (p *Portal) changeClock(w http.ResponseWriter, r *http.Request) {
	values, ok := typed(r, clockFields)
	if !ok {
		p.fail(w, r, http.StatusBadRequest)
		return
	}
	c, err := clockOf(values)
	p.propose(w, r, network.Proposal{Clock: &c}, err, func(np *networkPage) *form { return &np.Clock }, values)
}

// propose asks the network service for a change that was typed into the form that find returns, unless
// err says what is wrong with it already.
func (p *Portal) propose(w http.ResponseWriter, r *http.Request, proposal network.Proposal, err error, find func(*networkPage) *form, values map[string]string) {
	var s network.Status
	if err == nil {
		proposal.Request = requestOf(r.Context(), r.RemoteAddr)
		s, err = p.change(r.Context(), func(ctx context.Context) (network.Status, error) { return p.network.Change(ctx, proposal) })
	}
	switch {
	case err != nil:
		np := p.newNetworkPage(r)
		f := find(np)
		if f == nil { // the port is gone
			np.Problem = "problem.silent"
			p.write(w, http.StatusServiceUnavailable, "network.html", np)
			return
		}
		f.Values = values
		if f.blame(err); f.Failed() {
			p.write(w, http.StatusUnprocessableEntity, "network.html", np)
			return
		}
		np.Problem = "problem.silent"
		p.write(w, http.StatusServiceUnavailable, "network.html", np)
	case s.Change != nil && proposal.Network != nil:
		http.Redirect(w, r, ethernetPath, http.StatusSeeOther) // whose banner says it all
	case proposal.Clock != nil && len(proposal.Clock.Servers) == 0:
		http.Redirect(w, r, ethernetPath+"?done=no-servers", http.StatusSeeOther)
	default:
		http.Redirect(w, r, ethernetPath+"?done=saved", http.StatusSeeOther)
	}
}

// confirm keeps the change on probation.
func (p *Portal) confirm(w http.ResponseWriter, r *http.Request) {
	if _, ok := typed(r, nil); !ok {
		p.fail(w, r, http.StatusBadRequest)
		return
	}
	_, err := p.change(r.Context(), func(ctx context.Context) (network.Status, error) {
		return p.network.Confirm(ctx, requestOf(r.Context(), r.RemoteAddr))
	})
	if err == nil {
		http.Redirect(w, r, ethernetPath+"?done=kept", http.StatusSeeOther)
		return
	}
	p.notDone(w, r, err)
}

// notDone answers that the change on probation was neither kept nor taken back.
func (p *Portal) notDone(w http.ResponseWriter, r *http.Request, err error) {
	np := p.newNetworkPage(r)
	code := http.StatusConflict
	switch {
	case refusalOf(err) == nil:
		code, np.Problem = http.StatusServiceUnavailable, "problem.silent"
	case np.Banner == nil:
		np.Problem = "problem.over"
	default:
		np.Problem = "problem.address"
	}
	p.write(w, code, "network.html", np)
}

// A returning page is the last one over an address that goes.
type returning struct {
	view
	Links []place // the page under the addresses that come back
}

// takeBack takes the change on probation back.
func (p *Portal) takeBack(w http.ResponseWriter, r *http.Request) {
	if _, ok := typed(r, nil); !ok {
		p.fail(w, r, http.StatusBadRequest)
		return
	}
	back := func() error {
		_, err := p.change(r.Context(), func(ctx context.Context) (network.Status, error) {
			return p.network.Return(ctx, requestOf(r.Context(), r.RemoteAddr))
		})
		return err
	}
	s, _ := p.networkStatus(r.Context())
	if b := bannerOf(r, "", s.Change); b != nil && b.Here {
		// The address of this very connection goes: no answer would come through afterwards.
		v := p.view(r, "returning")
		v.Banner, v.Path = nil, "/"
		var former []netip.Addr
		for _, port := range s.Ports {
			for _, a := range port.Addresses {
				if a.Former {
					former = append(former, a.Prefix.Addr())
				}
			}
		}
		p.write(w, http.StatusOK, "returning.html", returning{v, places(former, v.Lang)})
		http.NewResponseController(w).Flush()
		if err := back(); err != nil {
			p.log.Warn("take a change back", "error", err) // it returns by itself when its time is over
		}
		return
	}
	if err := back(); err != nil {
		p.notDone(w, r, err)
		return
	}
	http.Redirect(w, r, ethernetPath+"?done=returned", http.StatusSeeOther)
}

// runSelfTest answers with the table of ports, checked: as the table alone for htmx, as a whole page
// for a browser without script.
func (p *Portal) runSelfTest(w http.ResponseWriter, r *http.Request) {
	if _, ok := typed(r, nil); !ok {
		p.fail(w, r, http.StatusBadRequest)
		return
	}
	unhurried(w)
	results, err := p.selfTest(r.Context(), requestOf(r.Context(), r.RemoteAddr))
	np := p.newNetworkPage(r)
	if np.Table.Failed = err != nil; err == nil {
		np.Table.Results, np.Table.Checked = results, true
	}
	if r.Header.Get("HX-Request") == "true" {
		p.write(w, http.StatusOK, "table", np.Table)
		return
	}
	p.write(w, http.StatusOK, "network.html", np)
}
