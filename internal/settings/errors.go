package settings

import (
	"embed"
	"slices"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/nicksnyder/go-i18n/v2/i18n"
	"golang.org/x/text/language"
)

// A FieldError says what is wrong with one field. It travels as it is over sockets and in the API;
// its words are made where they are shown.
type FieldError struct {
	Path string            `json:"path"` // as in network.wan.ipv4.addresses[1]; empty for the whole
	Code Code              `json:"code"` // stable
	Args map[string]string `json:"args,omitempty"`
}

// A Code names a kind of mistake; its texts, de and en, are found by it.
type Code string

// Mistakes in the JSON.
const (
	TooLarge       Code = "too-large"
	TooDeep        Code = "too-deep"
	NotJSON        Code = "not-json"
	BadVersion     Code = "bad-version"
	UnknownKey     Code = "unknown-key"
	Wrapped        Code = "wrapped" // the whole of what GET shows
	DuplicateKey   Code = "duplicate-key"
	NotObject      Code = "not-object"
	NotList        Code = "not-list"
	NotText        Code = "not-text"
	NotNumber      Code = "not-number"
	NotBool        Code = "not-bool"
	NotAddress     Code = "not-address"
	NotSubnet      Code = "not-subnet"      // neither address nor network with its length
	NoLength       Code = "no-length"       // an address where its subnet's length belongs to it
	NeedlessLength Code = "needless-length" // a length where there is none
	LengthAsMask   Code = "length-as-mask"  // 255.255.255.0
)

// Mistakes in the values.
const (
	Empty              Code = "empty"
	TooMany            Code = "too-many"
	Duplicate          Code = "duplicate"
	VLANRange          Code = "vlan-range"
	MTURange           Code = "mtu-range"
	UnknownMethod      Code = "unknown-method"
	AddressesMissing   Code = "addresses-missing"
	AddressesNotStatic Code = "addresses-not-static"
	RouterNotStatic    Code = "router-not-static"
	NotIPv4            Code = "not-ipv4"
	NotIPv6            Code = "not-ipv6"
	MappedAddress      Code = "mapped-address" // ::ffff:192.0.2.1
	ZoneInAddress      Code = "zone-in-address"
	Unspecified        Code = "unspecified"
	Loopback           Code = "loopback"
	Multicast          Code = "multicast"
	Reserved           Code = "reserved"
	LinkLocal          Code = "link-local"
	LengthRange        Code = "length-range"
	NetworkAddress     Code = "network-address"
	BroadcastAddress   Code = "broadcast-address"
	OtherPortsAddress  Code = "other-ports-address"
	SubnetsOverlap     Code = "subnets-overlap"
	RouterOutside      Code = "router-outside"
	RouterOwnAddress   Code = "router-own-address"
	RouterMissing      Code = "router-missing"
	RouteHostBits      Code = "route-host-bits"
	RouteDefault       Code = "route-default"
	RouteOwnSubnet     Code = "route-own-subnet"
	RouteFamily        Code = "route-family"
	RouteFamilyOff     Code = "route-family-off"
	HostSpace          Code = "host-space"
	HostScheme         Code = "host-scheme"
	HostPort           Code = "host-port"
	HostSyntax         Code = "host-syntax"
	NameEmpty          Code = "name-empty"
	NameLabel          Code = "name-label"
	NameLength         Code = "name-length"
	NameTaken          Code = "name-taken"
	ServerURL          Code = "server-url"
	UnknownChannel     Code = "unknown-channel"
	NotTimeOfDay       Code = "not-time-of-day"
	WindowHalf         Code = "window-half"
	WindowEmpty        Code = "window-empty"
	UnknownZone        Code = "unknown-zone"
	PortRange          Code = "port-range"
	PortInternal       Code = "port-internal"
)

// codes lists every Code with the arguments its texts name.
var codes = map[Code][]string{
	TooLarge:           {"most"},
	TooDeep:            nil,
	NotJSON:            {"line"},
	BadVersion:         {"version"},
	UnknownKey:         nil,
	Wrapped:            nil,
	DuplicateKey:       nil,
	NotObject:          nil,
	NotList:            nil,
	NotText:            nil,
	NotNumber:          nil,
	NotBool:            nil,
	NotAddress:         {"value"},
	NotSubnet:          {"value"},
	NoLength:           {"value", "example"},
	NeedlessLength:     {"value", "example"},
	LengthAsMask:       {"value", "example"},
	Empty:              nil,
	TooMany:            {"count", "most"},
	Duplicate:          {"value"},
	VLANRange:          {"value"},
	MTURange:           {"value"},
	UnknownMethod:      {"value", "choices"},
	AddressesMissing:   nil,
	AddressesNotStatic: nil,
	RouterNotStatic:    nil,
	NotIPv4:            {"value"},
	NotIPv6:            {"value"},
	MappedAddress:      {"value", "example"},
	ZoneInAddress:      {"value", "example"},
	Unspecified:        {"value"},
	Loopback:           {"value"},
	Multicast:          {"value"},
	Reserved:           {"value"},
	LinkLocal:          {"value"},
	LengthRange:        {"value", "least", "most"},
	NetworkAddress:     {"value", "example"},
	BroadcastAddress:   {"value", "example"},
	OtherPortsAddress:  {"value", "port"},
	SubnetsOverlap:     {"value", "other", "port"},
	RouterOutside:      {"value", "subnet"},
	RouterOwnAddress:   {"value"},
	RouterMissing:      nil,
	RouteHostBits:      {"value", "example"},
	RouteDefault:       {"value"},
	RouteOwnSubnet:     {"value"},
	RouteFamily:        {"value", "destination"},
	RouteFamilyOff:     {"family"},
	HostSpace:          {"value"},
	HostScheme:         {"value"},
	HostPort:           {"value", "example"},
	HostSyntax:         {"value"},
	NameEmpty:          {"example"},
	NameLabel:          {"value", "example"},
	NameLength:         {"value", "most"},
	NameTaken:          {"value"},
	ServerURL:          {"value"},
	UnknownChannel:     {"value", "choices"},
	NotTimeOfDay:       {"value"},
	WindowHalf:         nil,
	WindowEmpty:        nil,
	UnknownZone:        {"value"},
	PortRange:          {"value"},
	PortInternal:       {"value"},
}

// A Text is a mistake in words: whole sentences of plain text, which a page still has to escape.
type Text struct {
	Message string `json:"message"` // what is wrong
	Cure    string `json:"cure"`    // what to do
}

// Error is the English text: path: what is wrong: what to do.
func (e *FieldError) Error() string {
	text := e.Text("en")
	path := e.Path
	if path == "" {
		path = "settings"
	}
	return path + ": " + clause(text.Message) + ": " + clause(text.Cure)
}

// clause makes an English sentence a part of a longer one.
func clause(sentence string) string {
	first, size := utf8.DecodeRuneInString(sentence)
	return string(unicode.ToLower(first)) + strings.TrimSuffix(sentence[size:], ".")
}

// Text returns e in words, in lang ("de" or "en"; English for any other).
func (e *FieldError) Text(lang string) Text {
	l := i18n.NewLocalizer(texts(), lang)
	args := map[string]string{}
	for _, name := range codes[e.Code] {
		args[name] = printable(e.Args[name])
	}
	part := func(name string) string {
		s, err := l.Localize(&i18n.LocalizeConfig{MessageID: string(e.Code) + "." + name, TemplateData: args})
		if err != nil {
			return printable(string(e.Code)) // one that has come over a socket and is none of ours
		}
		return s
	}
	return Text{Message: part("message"), Cure: part("cure")}
}

// Errors is what Decode, Check and Save return for settings that are wrong, so that each can be
// shown beside its field. It has maxErrors entries at most.
type Errors []*FieldError

// maxErrors bounds what a hostile file can make us say.
const maxErrors = 100

// Error has a line for each mistake.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, one := range e {
		lines[i] = one.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap lets errors.As find a *FieldError.
func (e Errors) Unwrap() []error {
	errs := make([]error, len(e))
	for i, one := range e {
		errs[i] = one
	}
	return errs
}

// add adds a mistake, its text's arguments as name, value pairs.
func (e *Errors) add(path string, code Code, args ...string) {
	if len(*e) < maxErrors {
		*e = append(*e, fieldError(path, code, args...))
	}
}

// also adds what check finds in settings of which e could not be read, without what follows from e.
func (e Errors) also(check func(*Errors)) Errors {
	var more Errors
	check(&more)
	for _, m := range more {
		if !slices.ContainsFunc(e, func(read *FieldError) bool { return within(read.Path, m.basis()) || within(m.Path, read.Path) }) && len(e) < maxErrors {
			e = append(e, m)
		}
	}
	return e
}

// basis is the path of all that e was found from.
func (e *FieldError) basis() string {
	parts := strings.Split(e.Path, ".")
	switch e.Code {
	case AddressesMissing, AddressesNotStatic, RouterNotStatic, RouterOutside:
		if !strings.Contains(e.Path, ".routes[") {
			return strings.Join(parts[:len(parts)-1], ".") // the port's IPv4 or IPv6
		}
		return strings.Join(parts[:2], ".") // the port
	case RouteFamilyOff:
		return strings.Join(parts[:2], ".")
	case SubnetsOverlap:
		return parts[0] // both ports
	}
	return e.Path
}

// within says whether path is that of outer or of something in it.
func within(path, outer string) bool {
	rest, ok := strings.CutPrefix(path, outer)
	return ok && (rest == "" || outer == "" || rest[0] == '.' || rest[0] == '[')
}

// orNil is nil for no mistake at all.
func (e Errors) orNil() error {
	if len(e) == 0 {
		return nil
	}
	return e
}

func fieldError(path string, code Code, args ...string) *FieldError {
	e := &FieldError{Path: path, Code: code}
	for i := 0; i+1 < len(args); i += 2 {
		if e.Args == nil {
			e.Args = map[string]string{}
		}
		e.Args[args[i]] = printable(args[i+1])
	}
	return e
}

//go:embed de.json en.json
var catalogues embed.FS

// texts is read at first use: most processes of the one binary never show a text.
var texts = sync.OnceValue(func() *i18n.Bundle {
	b := i18n.NewBundle(language.English)
	for _, name := range []string{"en.json", "de.json"} {
		if _, err := b.LoadMessageFileFS(catalogues, name); err != nil {
			panic("settings: " + err.Error()) // embedded, so a test would have seen it
		}
	}
	return b
})

// maxArg bounds an argument's runes. The longest of ours is two addresses with their lengths.
const maxArg = 96

// printable makes what somebody has typed fit for a line of a page or a terminal: it may have
// control characters in it, or be a novel.
func printable(arg string) string {
	var b strings.Builder
	n := 0
	for _, r := range arg {
		if n++; n > maxArg {
			b.WriteRune('…')
			break
		}
		if !unicode.IsPrint(r) {
			r = unicode.ReplacementChar
		}
		b.WriteRune(r)
	}
	if n == 0 {
		return "?"
	}
	return b.String()
}
