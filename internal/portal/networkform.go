package portal

import (
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"cloudlink.local/gateway/internal/network"
	"cloudlink.local/gateway/internal/settings"
)

// A form is a part of the settings as a person types them. Its fields are named as in the settings.
type form struct {
	view
	Key    string       // "wan" or "lan", "clock", "names" or "update"
	Port   network.Port // of a port's form
	Values map[string]string
	Wrong  map[string][]settings.Text // by field
	Others []otherField               // what is wrong elsewhere because of this form
	Locked bool                       // a change on probation is to be dealt with first
}

// An otherField is what is wrong with a field that the form does not have.
type otherField struct {
	Path string
	settings.Text
}

// The fields of a port's form, in its order.
var portFields = []string{
	"ipv4.method", "ipv4.addresses", "ipv4.router", "ipv6.method", "ipv6.addresses", "ipv6.router", "dns", "vlan", "mtu", "routes",
}

var clockFields = []string{"servers"}

// lists are the fields with an entry a line.
var lists = []string{"ipv4.addresses", "ipv6.addresses", "dns", "routes", "servers"}

// portForm is a port's settings as they would be typed.
func portForm(v view, key string, port network.Port, s settings.Port) form {
	number := func(n int) string {
		if n == 0 {
			return ""
		}
		return strconv.Itoa(n)
	}
	address := func(a netip.Addr) string {
		if !a.IsValid() {
			return ""
		}
		return a.String()
	}
	if s.IPv4.Method != settings.Static { // what the port has now is a good start
		s.IPv4.Addresses, s.IPv4.Router = nil, port.Gateway
		for _, a := range port.Addresses {
			if a.Source == network.DHCP && !a.Former {
				s.IPv4.Addresses = append(s.IPv4.Addresses, a.Prefix)
			}
		}
	}
	return form{view: v, Key: key, Port: port, Values: map[string]string{
		"ipv4.method": string(s.IPv4.Method), "ipv4.addresses": lines(s.IPv4.Addresses, netip.Prefix.String), "ipv4.router": address(s.IPv4.Router),
		"ipv6.method": string(s.IPv6.Method), "ipv6.addresses": lines(s.IPv6.Addresses, netip.Prefix.String), "ipv6.router": address(s.IPv6.Router),
		"dns": lines(s.DNS, netip.Addr.String), "vlan": number(s.VLAN), "mtu": number(s.MTU),
		"routes": lines(s.Routes, func(r settings.Route) string { return r.Destination.String() + " " + address(r.Router) }),
	}}
}

func clockForm(v view, c settings.Clock) form {
	return form{view: v, Key: "clock", Values: map[string]string{"servers": strings.Join(c.Servers, "\n")}}
}

func lines[T any](list []T, text func(T) string) string {
	var b strings.Builder
	for _, one := range list {
		b.WriteString(text(one) + "\n")
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// typed returns what stands in a form of these fields; not ok for what is no such form.
func typed(r *http.Request, fields []string) (map[string]string, bool) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/x-www-form-urlencoded" {
		return nil, false
	}
	if r.ParseForm() != nil {
		return nil, false
	}
	values := map[string]string{}
	for name, list := range r.PostForm {
		if !slices.Contains(fields, name) || len(list) != 1 {
			return nil, false
		}
		values[name] = strings.ReplaceAll(list[0], "\r\n", "\n")
	}
	return values, true
}

// entries takes a list apart: an entry a line, or with commas or spaces between them.
func entries(text string) []string {
	return append([]string{}, strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(" \t\n\r,;", r) })...)
}

// withMasks puts a subnet's mask or length, typed after a space, to the address before it: package
// settings knows what it stands for.
func withMasks(words []string) []string {
	whole := []string{}
	for _, word := range words {
		last := len(whole) - 1
		switch {
		case last >= 0 && strings.HasPrefix(word, "/"):
			whole[last] += word
		case last >= 0 && settings.IsMask(word) && !strings.ContainsAny(whole[last], "/ "):
			whole[last] += " " + word
		default:
			whole = append(whole, word)
		}
	}
	return whole
}

// portJSON is what was typed for a port, for package settings to read: it knows what is wrong with it.
func portJSON(values map[string]string) map[string]any {
	family := func(name string) map[string]any {
		f := map[string]any{"method": values[name+".method"]}
		if values[name+".method"] == string(settings.Static) { // else the page does not show them
			f["addresses"], f["router"] = withMasks(entries(values[name+".addresses"])), strings.TrimSpace(values[name+".router"])
		}
		return f
	}
	number := func(name string) any {
		text := strings.TrimSpace(values[name])
		if n, err := strconv.Atoi(text); err == nil {
			return n
		} else if text == "" {
			return 0
		}
		return text
	}
	routes := []map[string]string{}
	for line := range strings.Lines(values["routes"]) {
		words := withMasks(strings.Fields(line))
		if len(words) == 0 {
			continue
		}
		routes = append(routes, map[string]string{"destination": words[0], "router": strings.Join(words[1:], " ")})
	}
	return map[string]any{
		"ipv4": family("ipv4"), "ipv6": family("ipv6"),
		"dns": entries(values["dns"]), "vlan": number("vlan"), "mtu": number("mtu"), "routes": routes,
	}
}

// withPort returns n with what was typed for the port of this key. Its error is settings.Errors.
func withPort(n settings.Network, key string, values map[string]string) (settings.Network, error) {
	ports := map[string]any{"wan": n.WAN, "lan": n.LAN}
	ports[key] = portJSON(values)
	b, err := json.Marshal(ports)
	if err != nil {
		return n, err
	}
	return settings.DecodeNetwork(b)
}

// clockOf returns what was typed for the clock. Its error is settings.Errors.
func clockOf(values map[string]string) (settings.Clock, error) {
	b, err := json.Marshal(map[string]any{"servers": entries(values["servers"])})
	if err != nil {
		return settings.Clock{}, err
	}
	return decodeClock(b)
}

// blame puts each mistake beside its field.
func (f *form) blame(err error) {
	refusal := refusalOf(err)
	if list, ok := errors.AsType[settings.Errors](err); ok {
		refusal = wrong(list)
	}
	if refusal == nil {
		return
	}
	prefix, fields := "network."+f.Key+".", portFields
	switch f.Key {
	case "clock":
		prefix, fields = "clock.", clockFields
	case "names":
		prefix, fields = "names.", namesFields
	case "update":
		prefix, fields = "update.", updateFields
	}
	f.Wrong = map[string][]settings.Text{}
	for _, e := range refusal.Fields {
		text := e.Text(f.Lang)
		name, within := strings.CutPrefix(e.Path, prefix)
		name, _, _ = strings.Cut(name, "[")
		if name == "window" { // as a whole
			name = "window.from"
		}
		if !within || !slices.Contains(fields, name) {
			f.Others = append(f.Others, otherField{plain(e.Path), text})
		} else if !slices.Contains(f.Wrong[name], text) {
			f.Wrong[name] = append(f.Wrong[name], text)
		}
	}
}

// Failed says whether something is wrong with what was typed.
func (f form) Failed() bool { return len(f.Wrong)+len(f.Others) > 0 }

// Mistakes is how many fields are wrong.
func (f form) Mistakes() int { return len(f.Wrong) + len(f.Others) }

// A field is one of a form's, for the template.
type field struct {
	form
	Name  string // as in the settings
	ID    string
	Value string
	Texts []settings.Text // what is wrong with it
	Lines int             // 0 for a field of one line
	Focus bool            // it is the first that is wrong

	Suffix string // what is to be read after what is typed
}

// Field returns the field of this name.
func (f form) Field(name string) field {
	fd := field{form: f, Name: name, ID: f.Key + "-" + strings.ReplaceAll(name, ".", "-"), Value: f.Values[name], Texts: f.Wrong[name]}
	if slices.Contains(lists, name) {
		fd.Lines = max(2, 1+strings.Count(fd.Value, "\n"))
	}
	if name == "host" {
		fd.Suffix = local
	}
	fields := slices.Concat(portFields, clockFields, namesFields, updateFields)
	i := slices.IndexFunc(fields, func(n string) bool { return len(f.Wrong[n]) > 0 })
	fd.Focus = i >= 0 && fields[i] == name
	return fd
}

// Label is the name of the field's text in the catalogue: both versions of IP have the same.
func (f field) Label() string { return f.Name[strings.LastIndexByte(f.Name, '.')+1:] }

// Type is the kind of a field of one line.
func (f field) Type() string {
	if f.Name == "window.from" || f.Name == "window.to" {
		return "time"
	}
	return "text"
}

// Channels are the values of the channel.
func (field) Channels() []settings.Channel {
	return []settings.Channel{settings.Stable, settings.Beta}
}

// Describes lists the ids of what is said about the field.
func (f field) Describes() string {
	ids := f.ID + "-hint"
	if f.Suffix != "" {
		ids = f.ID + "-suffix " + ids
	}
	if len(f.Texts) > 0 {
		ids = f.ID + "-wrong " + ids
	}
	return ids
}

// Choices are the values of a method.
func (f field) Choices() []settings.Method {
	if strings.HasPrefix(f.Name, "ipv6") {
		return []settings.Method{settings.Automatic, settings.Static, settings.Off}
	}
	return []settings.Method{settings.DHCP, settings.Static, settings.Off}
}
