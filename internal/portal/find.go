package portal

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"rsc.io/qr"

	"cloudlink.local/gateway/internal/network"
)

// Paths of the page "Can this computer find me?" (M20-M26).
const (
	findPath  = "/find"
	tokenPath = findPath + "/token"
	qrPath    = findPath + "/qr.png"
)

// findPages adds that page and what belongs to it.
func (p *Portal) findPages(page func(pattern string, h http.HandlerFunc, params ...param)) {
	page("GET "+findPath, p.findPage, langQuery, param{"done", []string{"saved"}})
	page("GET "+findPath+"/live", p.findLive)
	page("POST "+namesFormPath, p.changeNames)
	page("GET "+tokenPath, p.tokenAnswer)
	page("GET "+qrPath, p.qrPicture, param{name: "address"})
}

// Find is under which names and addresses a browser finds the gateway, and what helps where it does not.
type Find struct {
	Names     []FindName    `json:"names" doc:"The name that is set, which another gateway may have instead, and the one that nobody else has"`
	Addresses []FindAddress `json:"addresses" doc:"Addresses under which a browser can open the gateway, the one that suits this client best first"`
	QR        string        `json:"qr,omitempty" doc:"Path of a picture (PNG): the first address as a QR code"`
	Token     string        `json:"token" doc:"What this gateway, and no other, answers with at each name's token address, until its portal is started anew"`
	Cures     []Cure        `json:"cures" doc:"What helps a computer that does not find the names, the client's own platform first"`
}

// A FindName is one of the gateway's names.
type FindName struct {
	Name     string `json:"name"`
	URL      string `json:"url"`
	TokenURL string `json:"token_url" doc:"Answers a page of this gateway with its token"`
	Unique   bool   `json:"unique" doc:"No other gateway has this name"`
	Here     bool   `json:"here" doc:"This request came under this name: the client finds it"`
}

// A FindAddress is one of the gateway's addresses.
type FindAddress struct {
	Address netip.Addr `json:"address"`
	URL     string     `json:"url"`
}

// A Cure is what helps on one platform.
type Cure struct {
	Platform string   `json:"platform"`
	Own      bool     `json:"own" doc:"As far as the client says, it is on this platform"`
	Steps    []string `json:"steps"`
}

// A FindToken says which gateway it comes from. It is all that pages of other origins may read.
type FindToken struct {
	Token string `json:"token"`
	Name  string `json:"name"` // the gateway's unique name
}

// find puts together what the page and the API say to r.
func (p *Portal) find(r *http.Request, v view) Find {
	name, _, _ := cutHost(r.Host)
	own := p.names(r.Context())
	f := Find{Names: []FindName{}, Addresses: []FindAddress{}, Token: p.token}
	for i, n := range own.list() {
		url := "http://" + n
		f.Names = append(f.Names, FindName{n, url + "/", url + tokenPath, i > 0, n == name})
	}
	for _, a := range p.openable(r) {
		f.Addresses = append(f.Addresses, FindAddress{a, "http://" + hostOf(a) + "/"})
	}
	if len(f.Addresses) > 0 {
		f.QR = qrPath + "?address=" + f.Addresses[0].Address.String()
	}
	f.Cures = cures(v, platformOf(r))
	return f
}

// openable are those of the gateway's addresses that r's client can use. Where the network service does
// not answer, that is the one that r came in on.
func (p *Portal) openable(r *http.Request) []netip.Addr {
	arrived := requestOf(r.Context(), r.RemoteAddr).ArrivedOn
	s, err := p.networkStatus(r.Context())
	if err != nil && arrived.IsValid() && !arrived.IsLoopback() {
		s.Ports = []network.Port{{Addresses: []network.Address{{Prefix: netip.PrefixFrom(arrived.WithZone(""), 0)}}}}
	}
	return openable(s, arrived.WithZone(""))
}

// openable are the addresses under which a browser can open the gateway. First is the one that the
// browser came in on, as others like it are likely to get there too; then those that stay, IPv4's
// before IPv6's, as they are shorter to type.
func openable(s network.Status, arrived netip.Addr) []netip.Addr {
	type address struct {
		netip.Addr
		rank int
	}
	var list []address
	for _, port := range s.Ports {
		for _, a := range port.Addresses {
			ip := a.Prefix.Addr()
			here := ip == arrived
			if port.Role == network.WAN && s.Change == nil && !here || ip.Is6() && ip.IsLinkLocalUnicast() {
				continue // the page is not offered there; a browser takes no zone
			}
			rank := 0
			switch {
			case here:
			case a.Former:
				rank = 4
			case ip.IsLinkLocalUnicast():
				rank = 3
			case ip.Is6():
				rank = 2
			default:
				rank = 1
			}
			list = append(list, address{ip, rank})
		}
	}
	slices.SortStableFunc(list, func(a, b address) int { return cmp.Compare(a.rank, b.rank) })
	var all []netip.Addr
	for _, a := range list {
		if !slices.Contains(all, a.Addr) {
			all = append(all, a.Addr)
		}
	}
	return all
}

// Platforms that there are cures for.
const (
	windows  = "windows"
	macOS    = "macos"
	iOS      = "ios"
	android  = "android"
	linux    = "linux"
	chromeOS = "chromeos"
)

var platforms = []string{windows, macOS, iOS, android, linux, chromeOS}

// platformOf returns the platform of r's browser, as far as it says: in its client hint, which few send
// over plain HTTP, or in its name. "" is for none of ours.
func platformOf(r *http.Request) string {
	for _, known := range []struct{ hint, agent, platform string }{ // the order matters: Android's names Linux, ...
		{"iOS", "iPhone", iOS},
		{"iOS", "iPad", iOS},
		{"Android", "Android", android},
		{"Chrome OS", "CrOS", chromeOS},
		{"Chromium OS", "CrOS", chromeOS},
		{"Windows", "Windows", windows},
		{"macOS", "Macintosh", macOS},
		{"Linux", "Linux", linux},
	} {
		if hint := r.Header.Get("Sec-CH-UA-Platform"); hint != "" {
			if hint == strconv.Quote(known.hint) {
				return known.platform
			}
		} else if strings.Contains(r.UserAgent(), known.agent) {
			return known.platform
		}
	}
	return ""
}

// cures are those for all platforms, own's first.
func cures(v view, own string) []Cure {
	list := []Cure{}
	for _, platform := range platforms {
		c := Cure{Platform: platform, Own: platform == own}
		for i := 1; ; i++ {
			step, err := v.T("cure." + platform + "." + strconv.Itoa(i))
			if err != nil {
				break
			}
			c.Steps = append(c.Steps, step)
		}
		list = append(list, c)
	}
	slices.SortStableFunc(list, func(a, b Cure) int {
		switch {
		case a.Own == b.Own:
			return 0
		case a.Own:
			return -1
		}
		return 1
	})
	return list
}

// newToken makes what tells this gateway from others of the same name. It is of chance and not the boot
// id, so that who reads it learns nothing by it.
func newToken() string { return rand.Text() }

// A findPage is the page.
type findPage struct {
	view
	Find
	namesLive
	Public  bool // opened under a public address, from which a browser may not ask the names
	Form    form
	Two     bool   // wan and lan are ports of their own
	Done    string // what the reader has just done
	Problem string // why what he wanted was not done: the text's name in the catalogue
}

// newFindPage puts the page together.
func (p *Portal) newFindPage(r *http.Request) findPage {
	fp := findPage{view: p.view(r, "find"), namesLive: p.newNamesLive(r.Context())}
	fp.Path = findPath // the page's, also where something was sent to
	fp.Find = p.find(r, fp.view)
	if _, ip, _ := cutHost(r.Host); ip.IsValid() {
		fp.Public = !ip.IsPrivate() && !ip.IsLoopback() && !ip.IsLinkLocalUnicast()
	}
	if fp.Unknown {
		return fp // nobody waits for one more answer that does not come
	}
	s, _ := p.networkStatus(r.Context())
	all, err := p.settings(r.Context())
	fp.Unknown = err != nil
	fp.Form, fp.Two = namesForm(fp.view, all.Names), twoPorts(s)
	return fp
}

func (p *Portal) findPage(w http.ResponseWriter, r *http.Request) {
	if switchLang(w, r) {
		return
	}
	fp := p.newFindPage(r)
	fp.Done = r.FormValue("done")
	fp.Query = "" // what is done is done, in every language
	p.writeFind(w, http.StatusOK, fp)
}

// writeFind answers with the page. Its script alone may ask elsewhere: for the token, under our names.
func (p *Portal) writeFind(w http.ResponseWriter, code int, fp findPage) {
	elsewhere := ""
	for _, n := range fp.Names {
		elsewhere += " http://" + n.Name
	}
	w.Header().Set("Content-Security-Policy", strings.Replace(contentPolicy, "connect-src 'self'", "connect-src 'self'"+elsewhere, 1))
	p.write(w, code, "find.html", fp)
}

// findLive answers with how the names are doing now.
func (p *Portal) findLive(w http.ResponseWriter, r *http.Request) {
	p.write(w, http.StatusOK, "names-live", findPage{view: p.view(r, "find"), namesLive: p.newNamesLive(r.Context())})
}

// tokenAnswer says which gateway this is, also to a page that was opened under another name or address
// of it. It is the only answer that pages of another origin may read, and only with GET.
func (p *Portal) tokenAnswer(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Vary", "Origin")
	own := p.names(r.Context())
	if origin := r.Header.Get("Origin"); origin != "" && r.Method == http.MethodGet {
		s, _ := p.networkStatus(r.Context())
		if ownOrigin(origin, own, s.Ports, requestOf(r.Context(), r.RemoteAddr).ArrivedOn) {
			h.Set("Access-Control-Allow-Origin", origin)
		}
	}
	h.Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(FindToken{p.token, own.Unique})
}

// qrPicture answers with an address of ours as a QR code.
func (p *Portal) qrPicture(w http.ResponseWriter, r *http.Request) {
	ip, err := netip.ParseAddr(r.FormValue("address"))
	if err != nil || !slices.Contains(p.openable(r), ip) {
		p.fail(w, r, http.StatusNotFound)
		return
	}
	code, err := qr.Encode("http://"+hostOf(ip)+"/", qr.M)
	if err != nil {
		p.log.Error("make QR code", "error", err)
		p.fail(w, r, http.StatusInternalServerError)
		return
	}
	b := code.PNG()
	w.Header().Set("Content-Type", "image/png")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.Write(b)
}

// hostOf writes a as it stands in a URL.
func hostOf(a netip.Addr) string {
	if a.Is6() {
		return "[" + a.String() + "]"
	}
	return a.String()
}
