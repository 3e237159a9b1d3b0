package portal

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"cloudlink.local/gateway/internal/mdns"
	"cloudlink.local/gateway/internal/network"
	"cloudlink.local/gateway/internal/settings"
)

// namesFormPath takes the form for the name.
const namesFormPath = findPath + "/names"

// NamesState is how the gateway is to be found in the LAN and what became of that.
type NamesState struct {
	Settings settings.Names `json:"settings"`
	Names    network.Names  `json:"names" doc:"What the gateway answers to, by port, and which other device has one of its names"`
}

// namesState is as networkState.
func (p *Portal) namesState(ctx context.Context, s network.Status, lang string) (*namesOutput, error) {
	all, err := p.settings(ctx)
	if err != nil {
		return nil, silent(lang)
	}
	return &namesOutput{NamesState{Settings: all.Names, Names: s.Names}}, nil
}

// A namesLive is the part of the page that moves: how the names are doing on each port.
type namesLive struct {
	Unknown bool // the network service does not answer
	Ports   []portNames
}

// portNames are the names on one port. Where it has none, Mute says why: the text's name in the catalogue.
type portNames struct {
	network.PortNames
	Role   network.Role
	Unique string // the name that stays, or where there is none an address
	Mute   string
}

// newNamesLive puts together how the names are doing.
func (p *Portal) newNamesLive(ctx context.Context) namesLive {
	s, err := p.networkStatus(ctx)
	live := namesLive{Unknown: err != nil}
	for _, port := range s.Ports {
		if port.Role == "" {
			continue // nobody uses it
		}
		answered := false
		for _, names := range s.Names.Ports {
			if names.Port == port.Name || strings.HasPrefix(names.Port, port.Name+".") { // its VLAN
				live.Ports = append(live.Ports, portNames{PortNames: names, Role: port.Role, Unique: names.Where(s.Ports)})
				answered = true
			}
		}
		if !answered {
			live.Ports = append(live.Ports, portNames{PortNames: network.PortNames{Port: port.Name}, Role: port.Role, Mute: whyMute(port)})
		}
	}
	return live
}

// whyMute says why nothing is answered on a port.
func whyMute(port network.Port) string {
	switch {
	case !port.Link:
		return "network.nolink"
	case len(port.Addresses) == 0:
		return "names.noaddress"
	case port.Role == network.WAN:
		return "names.off"
	}
	return "names.beginning"
}

// Tone is the colour of a state.
func (portNames) Tone(s mdns.State) string {
	switch s {
	case mdns.Announced:
		return "ok"
	case mdns.Lost:
		return "waiting"
	case mdns.Probing:
		return "starting"
	}
	return "off"
}

// Kind is what became of a name that another device has: its texts are found by it.
func (portNames) Kind(n network.Name) string {
	if n.State == mdns.Lost {
		return "lost"
	}
	return "numbered" // only the short name is lost
}

// twoPorts says whether wan and lan are ports of their own: only then is there something to choose.
func twoPorts(s network.Status) bool {
	return slices.ContainsFunc(s.Ports, func(p network.Port) bool { return p.Role == network.LAN })
}

var namesFields = []string{"host", "on_wan"}

func namesForm(v view, n settings.Names) form {
	f := form{view: v, Key: "names", Values: map[string]string{"host": n.Host}}
	if n.OnWAN {
		f.Values["on_wan"] = "true"
	}
	return f
}

// namesOf returns what was typed for the names. Its error is settings.Errors.
func namesOf(values map[string]string) (settings.Names, error) {
	n := map[string]any{"host": strings.TrimSpace(values["host"]), "on_wan": false}
	switch on := values["on_wan"]; on {
	case "":
	case "true":
		n["on_wan"] = true
	default:
		n["on_wan"] = on // package settings says what is wrong with it
	}
	b, err := json.Marshal(n)
	if err != nil {
		return settings.Names{}, err
	}
	return settings.DecodeNames(b)
}

// changeNames takes the form for the name.
func (p *Portal) changeNames(w http.ResponseWriter, r *http.Request) {
	values, ok := typed(r, namesFields)
	if !ok {
		p.fail(w, r, http.StatusBadRequest)
		return
	}
	all, err := p.settings(r.Context())
	var n settings.Names
	if err == nil {
		n, err = namesOf(values)
	}
	before, _ := p.networkStatus(r.Context())
	if !twoPorts(before) {
		n.OnWAN = all.Names.OnWAN // the form did not ask
	}
	var s network.Status
	if err == nil {
		s, err = p.change(r.Context(), func(ctx context.Context) (network.Status, error) {
			return p.network.Change(ctx, network.Proposal{Request: requestOf(r.Context(), r.RemoteAddr), Names: &n})
		})
	}
	switch {
	case err != nil:
		fp := p.newFindPage(r)
		fp.Form.Values = values
		if fp.Form.blame(err); fp.Form.Failed() {
			p.writeFind(w, http.StatusUnprocessableEntity, fp)
			return
		}
		fp.Problem = "problem.silent"
		p.writeFind(w, http.StatusServiceUnavailable, fp)
	case s.Names.Host != before.Names.Host:
		p.write(w, http.StatusOK, "renamed.html", p.newRenamed(r, before.Names.Host))
	default:
		http.Redirect(w, r, findPath+"?done=saved", http.StatusSeeOther)
	}
}

// A renamed page says under which addresses the gateway is found now. It is the answer to the form
// itself: nothing may be left to lead the browser to under the former name.
type renamed struct {
	view
	Host  string
	Links []place
	Gone  bool // the page was opened under the former name
}

func (p *Portal) newRenamed(r *http.Request, before string) renamed {
	v := p.view(r, "renamed")
	v.Path = findPath
	own := p.names(r.Context())
	page := renamed{view: v, Host: own.Host}
	for _, name := range own.list() {
		page.Links = append(page.Links, placeAt(name, findPath, v.Lang))
	}
	for _, a := range p.openable(r) {
		page.Links = append(page.Links, placeAt(hostOf(a), findPath, v.Lang))
	}
	name, _, _ := cutHost(r.Host)
	page.Gone = name == before
	return page
}
