package portal

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/nicksnyder/go-i18n/v2/i18n"

	"cloudlink.local/gateway/internal/condition"
	"cloudlink.local/gateway/internal/machine"
	"cloudlink.local/gateway/internal/network"
	"cloudlink.local/gateway/internal/portmap"
	"cloudlink.local/gateway/internal/release"
)

// A view is what every page has: its language, and the words and numbers in it.
type view struct {
	Lang    string
	Path    string // of the page, for the links that lead back to it
	Query   string // of the page, without the language
	Name    string // of the page, in the catalogue
	Release release.Release
	Banner  *banner // nil where no change is on probation
	Gate    gate
}

// A menuItem is a page that every page leads to.
type menuItem struct{ Path, Name string }

// Menu is what the main menu has.
func (view) Menu() []menuItem {
	return []menuItem{{"/", "overview"}, {ethernetPath, "network"}, {findPath, "find"}, {softwarePath, "update"}, {"/log", "log"}}
}

// T returns a text of the catalogue. Its arguments are pairs of name and value.
func (v view) T(id string, args ...any) (string, error) {
	data := map[string]any{}
	for i := 0; i+1 < len(args); i += 2 {
		data[args[i].(string)] = args[i+1]
	}
	return localizers()[v.Lang].Localize(&i18n.LocalizeConfig{MessageID: id, TemplateData: data})
}

// N returns a text that says how many; the catalogue has one for each plural form.
func (v view) N(id string, n int) (string, error) {
	return localizers()[v.Lang].Localize(&i18n.LocalizeConfig{
		MessageID: id, PluralCount: n, TemplateData: map[string]any{"n": v.Number(float64(n), 0)},
	})
}

// Has tells whether the catalogue has a text of this name.
func (v view) Has(id string) bool {
	_, err := v.T(id)
	return err == nil
}

// Word returns the text named prefix and value, or value itself where there is none: a state or a
// service that these pages do not know yet.
func (v view) Word(prefix string, value any) string {
	if s, err := v.T(prefix + fmt.Sprint(value)); err == nil {
		return s
	}
	return plain(fmt.Sprint(value))
}

// Assets is where the page's scripts, styles and icons lie.
func (v view) Assets() string { return "/assets/" + fingerprint() }

// Development tells whether anyone could have signed what is running.
func (v view) Development() bool { return v.Release.Keys == release.Development }

// Icon names one of icons.svg.
func (v view) Icon(name string) string { return v.Assets() + "/icons.svg#" + name }

// LangLink returns the link to this page in another language.
func (v view) LangLink(lang string) string {
	q := langParam + "=" + lang
	if v.Query != "" {
		q = v.Query + "&" + q
	}
	return v.Path + "?" + q
}

// Number writes x as people who read this language do.
func (v view) Number(x float64, decimals int) string {
	s := strconv.FormatFloat(x, 'f', decimals, 64)
	whole, fraction, _ := strings.Cut(s, ".")
	group, point := ",", "."
	if v.Lang == "de" {
		group, point = ".", ","
	}
	for i := len(whole) - 3; i > 0 && whole[i-1] != '-'; i -= 3 {
		whole = whole[:i] + group + whole[i:]
	}
	if fraction != "" {
		whole += point + fraction
	}
	return whole
}

// Bytes writes an amount of memory, in three digits.
func (v view) Bytes(n int64) string {
	x, unit := float64(n), "B"
	for _, u := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if x < 1000 {
			break
		}
		x, unit = x/1024, u
	}
	decimals := 0
	if unit != "B" && x < 100 {
		decimals = 1
	}
	return v.Number(x, decimals) + nbsp + unit
}

const nbsp = "\u00a0" // between a number and its unit

// Duration writes a time span by its two largest units.
func (v view) Duration(seconds float64) (string, error) {
	s := int(max(seconds, 0))
	part := func(n int, unit string) (string, error) { return v.N("duration."+unit, n) }
	units := []struct {
		name string
		n    int
	}{{"days", s / 86400}, {"hours", s / 3600 % 24}, {"minutes", s / 60 % 60}, {"seconds", s % 60}}
	for i, u := range units {
		if u.n == 0 && i < len(units)-1 {
			continue
		}
		first, err := part(u.n, u.name)
		if err != nil || i == len(units)-1 {
			return first, err
		}
		second, err := part(units[i+1].n, units[i+1].name)
		return first + " " + second, err
	}
	return "", nil // not reached: the seconds are always written
}

// Span is Duration for whole seconds.
func (v view) Span(seconds int64) (string, error) { return v.Duration(float64(seconds)) }

// Lease writes what is left of a lease, "" for an address that stays.
func (v view) Lease(seconds int64) (string, error) {
	if seconds <= 0 {
		return "", nil
	}
	d, err := v.Duration(float64(seconds))
	if err != nil {
		return "", err
	}
	return v.T("network.lease", "left", d)
}

// Origin says where an address comes from, how long it stays and what for.
func (v view) Origin(a network.Address) (string, error) {
	var parts []string
	for _, part := range []func() (string, error){
		func() (string, error) { return v.Source(a.Source), nil },
		func() (string, error) { return v.Lease(a.ValidSeconds) },
		func() (string, error) {
			if !a.Former {
				return "", nil
			}
			return v.T("network.former")
		},
	} {
		text, err := part()
		if err != nil {
			return "", err
		}
		if text != "" {
			parts = append(parts, text)
		}
	}
	return strings.Join(parts, ", "), nil
}

// Source says where an address comes from, "" for a source of a later version.
func (v view) Source(s network.Source) string {
	if id := "network." + string(s); v.Has(id) {
		return v.Word("network.", s)
	}
	return ""
}

// In returns a text of package portmap in the reader's language.
func (v view) In(t portmap.Text) string {
	if v.Lang == "de" {
		return plain(t.DE)
	}
	return plain(t.EN)
}

// Milliseconds writes how far a clock was off.
func (v view) Milliseconds(seconds float64) string {
	if math.Abs(seconds) < 1 {
		return v.Number(math.Abs(seconds)*1000, 0) + nbsp + "ms"
	}
	return v.Number(math.Abs(seconds), 1) + nbsp + "s"
}

// Time writes a moment to the second. The gateway knows no time zone but UTC.
func (v view) Time(t time.Time) string {
	if v.Lang == "de" {
		return t.UTC().Format("02.01.2006, 15:04:05")
	}
	return t.UTC().Format("2 Jan 2006, 15:04:05")
}

// Date writes a day.
func (v view) Date(t time.Time) string {
	if v.Lang == "de" {
		return t.UTC().Format("02.01.2006")
	}
	return t.UTC().Format("2 Jan 2006")
}

// Stamp writes a moment for programs.
func (v view) Stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Speed writes a port's speed, "" where the driver does not say.
func (v view) Speed(mbps int) string {
	switch {
	case mbps <= 0:
		return ""
	case mbps < 1000:
		return fmt.Sprint(mbps) + nbsp + "Mbit/s"
	}
	decimals := 0
	if mbps%1000 != 0 {
		decimals = 1
	}
	return v.Number(float64(mbps)/1000, decimals) + nbsp + "Gbit/s"
}

// MAC writes another device's MAC address, as far as it is known.
func (v view) MAC(address string) (string, error) {
	if address == "" {
		return v.T("unknown.value")
	}
	return plain(address), nil
}

// Upper writes a slot's letter.
func (v view) Upper(s string) string { return strings.ToUpper(s) }

// Plain makes a text from elsewhere safe to look at: no control characters, nothing that turns
// the direction of what follows.
func (v view) Plain(s string) string { return plain(s) }

func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// An overview is the first page.
type overview struct {
	view
	Status
	Host string // the gateway's name
}

// Worst returns the highest severity among the conditions, "" without one.
func (o overview) Worst() condition.Severity {
	var worst condition.Severity
	rank := map[condition.Severity]int{condition.Info: 1, condition.Warning: 2, condition.Error: 3}
	for _, c := range o.Conditions {
		if rank[c.Severity] > rank[worst] {
			worst = c.Severity
		}
	}
	return worst
}

// OfUpdate says whether a condition is about updates: its page helps (M8).
func (overview) OfUpdate(id condition.ID) bool { return strings.HasPrefix(string(id), "update-") }

// Used returns how much of the whole is not free.
func (o overview) Used(whole, free int64) int64 { return max(whole-free, 0) }

// A logPage is the log, newest entry first.
type logPage struct {
	view
	Entries  []machine.Entry
	Level    string
	Previous bool // the log of the run before this one
	Unknown  bool // process 1 does not answer
	Left     int  // entries that are not shown
	Boot     string
	After    uint64 // the newest entry that the reader has
	Missed   bool   // a restart lies between what the reader has and Entries
}

// Class returns the class of an entry's line: the name of the level.
func (logPage) Class(l machine.Level) string { return levelName(l) }

// Mark returns the word that says that an entry is grave: colour alone does not.
func (lp logPage) Mark(l machine.Level) (string, error) {
	switch levelName(l) {
	case "error":
		return lp.T("severity.error")
	case "warn":
		return lp.T("severity.warning")
	}
	return "", nil
}

// Levels are the choices of the log page, from few lines to many.
func (logPage) Levels() []string { return levelNames }

// A failure is an error page.
type failure struct {
	view
	Code  int
	Fault *fault // with the address, if that is what is wrong
	Here  string // for who came under a foreign name: where the gateway answers
}
