package portal

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// A param is something that an address may have after its "?".
type param struct {
	name string
	only []string // the values that there are; any where there are none
}

// What pages take. An empty value is as good as none.
var (
	langQuery  = param{langParam, languages}
	levelQuery = param{"level", levelNames}
	runQuery   = param{"boot", []string{runCurrent, runPrevious}}
)

// The runs of the gateway that there is a log of.
const (
	runCurrent  = "current"
	runPrevious = "previous"
)

// A fault is what is wrong with a query.
type fault struct {
	Kind  string // the text's name in the catalogue: "form", "unknown", "twice" or "value"
	Param string // fit to be shown
	Known string // parameters or values that there are
}

// checkQuery takes a query apart. What is not known, or there twice, is refused and not passed
// over: whoever wrote it believes that it has an effect.
func checkQuery(raw string, params []param) (url.Values, *fault) {
	q, err := url.ParseQuery(raw)
	if err != nil {
		return nil, &fault{Kind: "form"}
	}
	for _, name := range sortedKeys(q) {
		i := slices.IndexFunc(params, func(p param) bool { return p.name == name })
		switch {
		case i < 0:
			return nil, &fault{"unknown", short(name), names(params)}
		case len(q[name]) > 1:
			return nil, &fault{"twice", name, ""}
		case q.Get(name) != "" && len(params[i].only) > 0 && !slices.Contains(params[i].only, q.Get(name)):
			return nil, &fault{"value", name, strings.Join(params[i].only, ", ")}
		}
	}
	return q, nil
}

func names(params []param) string {
	var list []string
	for _, p := range params {
		list = append(list, p.name)
	}
	return strings.Join(list, ", ")
}

// parseAfter reads a sequence number of the log.
func parseAfter(s string) (uint64, *fault) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, &fault{"value", "after", "0, 1, 2, …"}
	}
	return n, nil
}

// sentence says for a program what is wrong, and what to do about it.
func (f *fault) sentence() string {
	switch f.Kind {
	case "unknown":
		if f.Known == "" {
			return fmt.Sprintf("query parameter %q is unknown; there are none here", f.Param)
		}
		return fmt.Sprintf("query parameter %q is unknown; known are %s", f.Param, f.Known)
	case "twice":
		return fmt.Sprintf("query parameter %q is given more than once; give it once", f.Param)
	case "value":
		return fmt.Sprintf("query parameter %q cannot have this value; want one of %s", f.Param, f.Known)
	}
	return "the query cannot be read; want name=value&name=value, percent-encoded"
}

// short makes a text from a request fit to be shown in a sentence.
func short(s string) string {
	r := []rune(plain(s))
	if len(r) > maxShown {
		return string(r[:maxShown]) + "…"
	}
	return string(r)
}

// maxShown is how many characters of somebody else's text a sentence takes.
const maxShown = 64
