package settings

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// A migration turns the settings of one version, as parse returns them, into those of the next. It
// must expect any key to be missing and any value to be of another type.
type migration func(settings map[string]any) error

// A format is a version of the settings' shape, and how to get there from the versions before it:
// the first migration leads from version 1 to 2.
type format struct {
	version    int
	migrations []migration
}

// current is what this firmware reads and writes. There was no shape before version 1.
var current = format{version: Version}

// load reads settings of any version and checks them. What a newer version has and we do not know is
// left out; what is no good to us has its default, and notes say where.
func (f format) load(b []byte) (s Settings, version int, notes Errors, err error) {
	doc, errs := parse("", b)
	if errs != nil {
		return Settings{}, 0, nil, errs
	}
	object, version, errs := versionOf(doc)
	if errs != nil {
		return Settings{}, 0, nil, errs
	}
	for v := version; v < f.version; v++ {
		if err := f.migrations[v-1](object); err != nil {
			return Settings{}, 0, nil, fmt.Errorf("migrate settings from version %d to %d: %w", v, v+1, err)
		}
		object["version"] = json.Number(strconv.Itoa(v + 1))
	}
	s = Default()
	assign(&errs, "", &s, object)
	s.Version = Version
	if version > f.version {
		notes = slices.DeleteFunc(errs, func(e *FieldError) bool { return e.Code == UnknownKey })
		s, notes = s.repaired(notes)
		return s, version, notes, nil
	}
	if errs == nil {
		s.check(&errs)
	}
	return s, version, nil, errs.orNil()
}

// repaired returns s with each part at its default that errs name, and then each that Check finds
// wrong; and errs with what Check has found.
func (s Settings) repaired(errs Errors) (Settings, Errors) {
	found := errs
	for range 20 { // each round resets one more part of 13, or all is well
		for _, e := range found {
			s.reset(e.Path)
		}
		found = nil
		if s.check(&found); found == nil {
			return s, errs
		}
		errs = append(errs, found...)
	}
	return Default(), errs
}

// reset sets the part of s to its default in which path lies: a port's VLAN or MTU, all of its
// IPv4 or IPv6, all its DNS servers or routes, or the time servers.
func (s *Settings) reset(path string) {
	d := Default()
	dst, def := reflect.ValueOf(s).Elem(), reflect.ValueOf(&d).Elem()
	path, _, _ = strings.Cut(path, "[")
	names := strings.Split(path, ".")
	for _, name := range names[:min(3, len(names))] {
		if dst.Kind() != reflect.Struct {
			break
		}
		i := slices.IndexFunc(reflect.VisibleFields(dst.Type()), func(f reflect.StructField) bool { return f.Tag.Get("json") == name })
		if i < 0 {
			return
		}
		dst, def = dst.Field(i), def.Field(i)
	}
	dst.Set(def)
}
