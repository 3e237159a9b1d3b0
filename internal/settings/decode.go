package settings

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// maxSize bounds a file or a request. What Save writes is far below it.
const maxSize = 1 << 20

// Bounds of what is read into memory: how deep objects and lists lie in each other, and how many
// values there are. The settings need six and some two hundred.
const (
	maxDepth  = 16
	maxValues = 5000
)

// Decode reads settings of this version. Unknown keys, keys given twice and values of a wrong type
// are mistakes, returned as Errors; keys left out have their defaults. It does not Check, but where
// something is wrong already it tells what else is, as far as that does not follow from it.
func Decode(b []byte) (Settings, error) {
	doc, errs := parse("", b)
	if errs != nil {
		return Settings{}, errs
	}
	object, version, errs := versionOf(doc)
	if errs != nil {
		return Settings{}, errs
	}
	if version != Version {
		errs.add("version", BadVersion, "version", strconv.Itoa(Version))
		return Settings{}, errs
	}
	s := Default()
	if assign(&errs, "", &s, object); errs != nil {
		return Settings{}, errs.also(s.check)
	}
	return s, nil
}

// DecodeNetwork is Decode for the network settings alone. The paths of its errors are those of
// Decode and Check.
func DecodeNetwork(b []byte) (Network, error) {
	doc, errs := parse("network", b)
	if errs != nil {
		return Network{}, errs
	}
	n := Default().Network
	if wrapped(doc) {
		errs.add("network.settings", Wrapped)
		return Network{}, errs
	}
	if assign(&errs, "network", &n, doc); errs != nil {
		return Network{}, errs.also(n.check)
	}
	return n, nil
}

// DecodeNames is Decode for how the gateway is found alone.
func DecodeNames(b []byte) (Names, error) {
	doc, errs := parse("names", b)
	if errs != nil {
		return Names{}, errs
	}
	n := Default().Names
	if wrapped(doc) {
		errs.add("names.settings", Wrapped)
		return Names{}, errs
	}
	if assign(&errs, "names", &n, doc); errs != nil {
		return Names{}, errs.also(n.check)
	}
	return n, nil
}

// DecodeUpdate is Decode for how the gateway updates itself alone.
func DecodeUpdate(b []byte) (Update, error) {
	doc, errs := parse("update", b)
	if errs != nil {
		return Update{}, errs
	}
	u := Default().Update
	if assign(&errs, "update", &u, doc); errs != nil {
		return Update{}, errs.also(u.check)
	}
	return u, nil
}

// wrapped says whether doc is what GET answers with, which has the settings beside the state.
func wrapped(doc any) bool {
	object, _ := doc.(map[string]any)
	_, has := object["settings"]
	return has
}

// parse reads JSON into maps, slices, strings, json.Numbers, bools and nil. encoding/json alone lets
// the last of two equal keys win without a word. path is where what is read belongs in the settings.
func parse(path string, b []byte) (any, Errors) {
	var errs Errors
	if len(b) > maxSize {
		errs.add(path, TooLarge, "most", strconv.Itoa(maxSize))
		return nil, errs
	}
	// What follows may then trust the order of tokens.
	if err := json.Unmarshal(b, new(json.RawMessage)); err != nil {
		offset := len(b)
		if s, ok := errors.AsType[*json.SyntaxError](err); ok {
			offset = min(offset, int(s.Offset))
		}
		errs.add(path, NotJSON, "line", strconv.Itoa(1+bytes.Count(b[:offset], []byte("\n"))))
		return nil, errs
	}
	p := parser{tokens: json.NewDecoder(bytes.NewReader(b))}
	p.tokens.UseNumber()
	doc := p.value(path, 0)
	return doc, p.errs
}

type parser struct {
	tokens *json.Decoder
	errs   Errors
	values int  // so far
	ended  bool // too deep or too many: the rest is not read
}

func (p *parser) next() json.Token {
	token, err := p.tokens.Token()
	if err != nil {
		p.ended = true // cannot be: it is valid JSON
	}
	return token
}

func (p *parser) value(path string, depth int) any {
	if depth > maxDepth {
		p.errs.add(path, TooDeep)
		p.ended = true
		return nil
	}
	if p.values++; p.values > maxValues {
		p.errs.add(path, TooMany, "count", strconv.Itoa(p.values), "most", strconv.Itoa(maxValues))
		p.ended = true
		return nil
	}
	token := p.next()
	switch token {
	case json.Delim('{'):
		object := map[string]any{}
		for !p.ended && p.tokens.More() {
			key, _ := p.next().(string)
			within := join(path, key)
			if _, twice := object[key]; twice {
				p.errs.add(within, DuplicateKey)
			}
			object[key] = p.value(within, depth+1)
		}
		p.next()
		return object
	case json.Delim('['):
		list := []any{}
		for !p.ended && p.tokens.More() {
			list = append(list, p.value(entry(path, len(list)), depth+1))
		}
		p.next()
		return list
	}
	return token
}

// join returns the path of key in the object at path.
func join(path, key string) string {
	if path == "" {
		return printable(key)
	}
	return path + "." + printable(key)
}

// entry returns the path of an entry of the list at path.
func entry(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

// versionOf returns the object that doc is, and the version it states.
func versionOf(doc any) (map[string]any, int, Errors) {
	var errs Errors
	object, ok := doc.(map[string]any)
	if !ok {
		errs.add("", NotObject)
		return nil, 0, errs
	}
	number, _ := object["version"].(json.Number)
	version, err := strconv.Atoi(number.String())
	if err != nil || version < 1 {
		errs.add("version", BadVersion, "version", strconv.Itoa(Version))
	}
	return object, version, errs
}

// assign sets what dst points to from src, which parse has returned. What is wrong is added to errs
// and leaves what dst had.
func assign(errs *Errors, path string, dst, src any) {
	set(errs, path, reflect.ValueOf(dst).Elem(), src)
}

func set(errs *Errors, path string, dst reflect.Value, src any) {
	switch dst := dst.Addr().Interface().(type) {
	case *netip.Addr:
		setText(errs, path, dst, src, parseAddr)
		return
	case *netip.Prefix:
		setText(errs, path, dst, src, parsePrefix)
		return
	}
	switch dst.Kind() {
	case reflect.Struct:
		object, ok := src.(map[string]any)
		if !ok {
			errs.add(path, NotObject)
			return
		}
		known := map[string]bool{}
		for i := range dst.NumField() {
			name := dst.Type().Field(i).Tag.Get("json")
			known[name] = true
			if value, ok := object[name]; ok {
				set(errs, join(path, name), dst.Field(i), value)
			}
		}
		for _, key := range slices.Sorted(maps.Keys(object)) {
			if !known[key] {
				errs.add(join(path, key), UnknownKey)
			}
		}
	case reflect.Slice:
		values, ok := src.([]any)
		if !ok {
			errs.add(path, NotList)
			return
		}
		list := reflect.MakeSlice(dst.Type(), len(values), len(values))
		for i, value := range values {
			set(errs, entry(path, i), list.Index(i), value)
		}
		dst.Set(list)
	case reflect.String:
		text, ok := src.(string)
		if !ok {
			errs.add(path, NotText)
			return
		}
		dst.SetString(text)
	case reflect.Bool:
		yes, ok := src.(bool)
		if !ok {
			errs.add(path, NotBool)
			return
		}
		dst.SetBool(yes)
	case reflect.Int:
		number, _ := src.(json.Number)
		n, err := strconv.Atoi(number.String())
		if err != nil {
			errs.add(path, NotNumber)
			return
		}
		dst.SetInt(int64(n))
	default:
		panic("settings: no JSON for a " + dst.Type().String()) // a test decodes every field
	}
}

// setText sets dst to what parse makes of the text src; of "", to the zero value.
func setText[T any](errs *Errors, path string, dst *T, src any, parse func(*Errors, string, string) (T, bool)) {
	text, ok := src.(string)
	if !ok {
		errs.add(path, NotText)
		return
	}
	if text == "" {
		*dst = *new(T)
	} else if value, ok := parse(errs, path, text); ok {
		*dst = value
	}
}

func parseAddr(errs *Errors, path, text string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(text)
	if err == nil {
		return a, true
	}
	if p, err := netip.ParsePrefix(text); err == nil {
		errs.add(path, NeedlessLength, "value", text, "example", p.Addr().String())
	} else {
		errs.add(path, NotAddress, "value", text)
	}
	return netip.Addr{}, false
}

func parsePrefix(errs *Errors, path, text string) (netip.Prefix, bool) {
	p, err := netip.ParsePrefix(text)
	if err == nil {
		return p, true
	}
	before, after, slash := strings.Cut(text, "/")
	if !slash {
		before, after, _ = strings.Cut(text, " ") // as in "192.0.2.1 255.255.255.0"
	}
	a, err := netip.ParseAddr(before)
	if err != nil || after == "" && IsMask(before) {
		errs.add(path, NotSubnet, "value", text)
		return netip.Prefix{}, false
	}
	length := 64
	if a.Is4() {
		length = 24
	}
	code := NotSubnet
	if after == "" {
		code = NoLength
	} else if ones, ok := maskLength(strings.TrimSpace(after)); ok && a.Is4() {
		code, length = LengthAsMask, ones
	}
	if code == NotSubnet {
		errs.add(path, code, "value", text)
	} else {
		errs.add(path, code, "value", text, "example", netip.PrefixFrom(a.WithZone(""), length).String())
	}
	return netip.Prefix{}, false
}

// IsMask says whether text is an IPv4 subnet mask that no host could have as its address.
func IsMask(text string) bool {
	ones, ok := maskLength(text)
	return ok && ones >= 8
}

// maskLength returns the length of the subnet whose mask text is.
func maskLength(text string) (int, bool) {
	mask, err := netip.ParseAddr(text)
	if err != nil || !mask.Is4() {
		return 0, false
	}
	ones, bits := net.IPMask(mask.AsSlice()).Size()
	return ones, bits != 0
}
