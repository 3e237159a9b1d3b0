package console

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"cloudlink.local/gateway/internal/condition"
	"cloudlink.local/gateway/internal/machine"
	"cloudlink.local/gateway/internal/network"
	"cloudlink.local/gateway/internal/release"
	"cloudlink.local/gateway/internal/update"
)

// A View is what is known of the gateway at a moment.
type View struct {
	Machine *machine.Status // nil where process 1 does not answer
	Network *network.Status // nil where the network service does not answer
	Update  *update.Status  // nil where the update service does not
}

const (
	width    = 79 // a terminal's 80 without the last, after which some break the line themselves
	maxPorts = 8  // on the screen
	maxValue = 64 // runes of a value from elsewhere
)

// Screen is the status screen in lang ("de" or "en"): what the owner needs to reach the gateway and
// to know what is wrong with it. It reads well in a log: no line is wider than a terminal, and
// nothing moves the cursor.
func Screen(v View, lang string) string {
	return screen(v, languageOf(lang), func(c condition.Condition) condition.Text { return c.Text(lang) })
}

// key differs when something does that matters to the owner: where the page is, a port's link and IPv4
// addresses, a service's trouble, what is wrong. IPv6 addresses come and go beside those. It costs little.
func key(v View) string {
	var b strings.Builder
	note := func(what ...any) { fmt.Fprintf(&b, "%q\n", fmt.Sprintln(what...)) }
	if n := v.Network; n != nil {
		note("network", urls(n))
		for _, p := range n.Ports[:min(len(n.Ports), maxPorts)] {
			note(p.Name, p.Link)
			for _, a := range p.Addresses {
				if a.Prefix.Addr().Is4() {
					note(a.Prefix)
				}
			}
		}
	}
	if m := v.Machine; m != nil {
		note("machine", title(v, &english), m.Serial)
		for _, s := range m.Services {
			note(serviceLine(s, &english))
		}
	}
	for _, c := range conditions(v) {
		note(c.ID, c.Args)
	}
	return b.String()
}

func screen(v View, l *language, words func(condition.Condition) condition.Text) string {
	p := &paper{}
	p.line("")
	p.line(strings.Repeat("-", width))
	p.fold("", "", title(v, l))
	for _, url := range urls(v.Network) {
		p.item(l.page, url)
	}
	switch {
	case v.Network == nil:
		p.item(l.port, l.noNetwork)
	case len(v.Network.Ports) == 0:
		p.item(l.port, l.noPort)
	default:
		for i, port := range v.Network.Ports[:min(len(v.Network.Ports), maxPorts)] {
			p.item(l.port, portLine(port, i == 0, l))
		}
	}
	if m := v.Machine; m != nil {
		if m.Serial != "" {
			p.item(l.serial, clean(m.Serial))
		}
		if m.UptimeSeconds > 0 {
			p.item(l.uptime, span(time.Duration(m.UptimeSeconds*float64(time.Second)), l))
		}
		for _, s := range m.Services {
			if text := serviceLine(s, l); text != "" {
				p.item(l.service, text)
			}
		}
	} else {
		p.item(l.machine, l.noMachine)
	}
	for _, c := range conditions(v) {
		text := words(c)
		p.item(l.severity[c.Severity], text.Title)
		p.item("", text.Cure)
	}
	p.line("  " + l.menuHint)
	return p.String()
}

func title(v View, l *language) string {
	name := "CloudLink Gateway"
	if v.Machine == nil {
		return name
	}
	r := v.Machine.Release
	name += " " + clean(r.Version) + ", " + clean(r.Board)
	if v.Machine.Slot != "" {
		name += ", " + fmt.Sprintf(l.slot, strings.ToUpper(clean(v.Machine.Slot)))
	}
	return name
}

// urls are where the portal answers: on every IPv4 address but wan's (D2), and where there is none on
// the IPv6 addresses that a browser takes.
func urls(n *network.Status) []string {
	if n == nil {
		return nil
	}
	var v4, v6 []string
	for _, p := range n.Ports {
		if p.Role == network.WAN {
			continue
		}
		for _, a := range p.Addresses {
			switch ip := a.Prefix.Addr(); {
			case !ip.IsValid() || ip.IsLinkLocalUnicast() && ip.Is6():
			case ip.Is4():
				v4 = append(v4, "http://"+ip.String()+"/")
			default:
				v6 = append(v6, "http://["+ip.String()+"]/")
			}
		}
	}
	list := v4
	if len(list) == 0 {
		list = v6
	}
	return list[:min(len(list), maxPorts)]
}

// portLine is a port's state and addresses; the main port is to have one.
func portLine(p network.Port, main bool, l *language) string {
	var list []string
	best := useless
	for _, a := range p.Addresses {
		best = min(best, useOf(a.Prefix.Addr()))
	}
	for _, a := range p.Addresses {
		if useOf(a.Prefix.Addr()) == best && len(list) < maxPorts {
			list = append(list, a.Prefix.String())
		}
	}
	if main && p.Link && !slices.ContainsFunc(p.Addresses, func(a network.Address) bool { return a.Source != network.Kernel }) {
		list = append(list, l.noAddress)
	}
	line := clean(p.Name) + ", " + linkState(p, l)
	if len(list) > 0 {
		line += ": " + strings.Join(list, ", ")
	}
	return line
}

// A use is what the owner can do with an address. The status screen has a port's most useful ones,
// the page of addresses has all.
type use int

const (
	useful     use = iota
	deprecated     // fec0::/10, given up by RFC 3879; some emulators still give it
	useless        // fe80::/10: no browser takes it
)

var siteLocal = netip.MustParsePrefix("fec0::/10")

func useOf(a netip.Addr) use {
	switch {
	case a.Is6() && a.IsLinkLocalUnicast():
		return useless
	case siteLocal.Contains(a):
		return deprecated
	}
	return useful
}

func linkState(p network.Port, l *language) string {
	switch {
	case !p.Link:
		return l.noLink
	case p.SpeedMbps > 0:
		return fmt.Sprintf("%d Mbit/s", p.SpeedMbps)
	}
	return l.link
}

// serviceLine says what is wrong with a service, if anything is.
func serviceLine(s machine.Service, l *language) string {
	var text string
	switch s.State {
	case machine.Running:
		return ""
	case machine.Waiting:
		text = fmt.Sprintf(l.waiting, clean(s.Name), clean(s.LastExit))
	case machine.Stopped:
		text = fmt.Sprintf(l.stopped, clean(s.Name))
	default:
		if s.Restarts == 0 { // it is being started for the first time, as it should be
			return ""
		}
		text = fmt.Sprintf(l.starting, clean(s.Name))
	}
	if s.Restarts > 1 {
		text += " (" + fmt.Sprintf(l.restarts, s.Restarts) + ")"
	}
	return text
}

func conditions(v View) []condition.Condition {
	var own []condition.Condition
	if v.Machine != nil {
		own = slices.DeleteFunc(slices.Clone(v.Machine.Conditions), func(c condition.Condition) bool { return !known(c.ID) })
	}
	return update.AllConditions(network.AllConditions(own, v.Network), v.Update, time.Now())
}

// known says whether there is a text for id: process 1 has the same list, unless it is damaged.
func known(id condition.ID) bool {
	for _, o := range condition.Order {
		if o.ID == id {
			return true
		}
	}
	return false
}

// development says whether a root shell is on offer.
func (v View) development() bool {
	return v.Machine != nil && v.Machine.Release.Keys == release.Development
}

// span is a duration in words, in its largest unit.
func span(d time.Duration, l *language) string {
	for _, u := range []struct {
		unit      time.Duration
		one, many string
	}{
		{24 * time.Hour, l.day, l.days},
		{time.Hour, l.hour, l.hours},
		{time.Minute, l.minute, l.minutes},
		{time.Second, l.second, l.seconds},
	} {
		if n := d / u.unit; n > 1 || n == 1 && u.one != "" {
			if n == 1 {
				return u.one
			}
			return fmt.Sprintf(u.many, n)
		}
	}
	return fmt.Sprintf(l.seconds, 0)
}

// addressPage is the menu's page of addresses.
func addressPage(v View, l *language) string {
	p := &paper{}
	if v.Network == nil {
		p.line("  " + l.noNetwork)
		return p.String()
	}
	if len(v.Network.Ports) == 0 {
		p.item(l.port, l.noPort)
	}
	for _, port := range v.Network.Ports {
		p.item(l.port, clean(port.Name)+", "+linkState(port, l)+", "+clean(port.MAC))
		for _, a := range port.Addresses {
			left := l.forever
			if a.ValidSeconds > 0 {
				left = fmt.Sprintf(l.fixed, span(time.Duration(a.ValidSeconds)*time.Second, l))
			}
			p.item("", fmt.Sprintf("%s %s (%s, %s)", l.address, a.Prefix, l.sources[string(a.Source)], left))
		}
		if port.Gateway.IsValid() {
			p.item("", l.router+" "+port.Gateway.String())
		}
		if len(port.DNS) > 0 {
			var list []string
			for _, a := range port.DNS {
				list = append(list, a.String())
			}
			p.item("", l.dns+" "+strings.Join(list, ", "))
		}
	}
	return p.String()
}

// entryLine is an entry of the log, folded to the terminal's width.
func entryLine(e machine.Entry) string {
	p := &paper{}
	level := " "
	switch {
	case e.Level <= machine.LevelError:
		level = "E"
	case e.Level <= machine.LevelWarn:
		level = "W"
	}
	head := fmt.Sprintf("%s %s %s: ", e.Time.UTC().Format("15:04:05"), level, printable(e.Source, 20))
	p.fold(head, strings.Repeat(" ", 11), printable(e.Text, 1000))
	return p.String()
}

// A paper collects lines that fit a terminal.
type paper struct{ strings.Builder }

func (p *paper) line(s string) {
	p.WriteString(s)
	p.WriteByte('\n')
}

// item writes a label and its value, which is folded.
func (p *paper) item(label, value string) {
	head := "  " + label + strings.Repeat(" ", max(1, labelWidth+1-utf8.RuneCountInString(label)))
	p.fold(head, strings.Repeat(" ", labelWidth+3), value)
}

// fold writes text in lines no wider than the terminal, the first after head, the others after
// indent. It breaks between words, and within one that is longer than a line.
func (p *paper) fold(head, indent, text string) {
	line, used := head, 0
	for word := range strings.FieldsSeq(text) {
		for {
			room := width - utf8.RuneCountInString(line) // more than 0: heads are short
			if used > 0 {
				room--
			}
			n := utf8.RuneCountInString(word)
			if n <= room {
				if used > 0 {
					line += " "
				}
				line += word
				used++
				break
			}
			if used == 0 { // longer than a line
				cut := runes(word, room)
				line += word[:cut]
				word = word[cut:]
			}
			p.line(line)
			line, used = indent, 0
		}
	}
	p.line(strings.TrimRight(line, " "))
}

// runes is the length in bytes of the first n runes of s.
func runes(s string, n int) int {
	for i := range s {
		if n == 0 {
			return i
		}
		n--
	}
	return len(s)
}

// clean makes a value from elsewhere fit for a terminal.
func clean(s string) string { return printable(s, maxValue) }

// printable is at most n runes of s, with "?" for what a terminal would obey.
func printable(s string, n int) string {
	var b strings.Builder
	for _, r := range s {
		if n--; n < 0 {
			b.WriteString("...")
			break
		}
		if !unicode.IsPrint(r) || startsSequence(r) {
			r = '?'
		}
		b.WriteRune(r)
	}
	return b.String()
}

// startsSequence says whether a terminal that knows no UTF-8 could take one of r's bytes for the
// start of a command, as ESC [ is one: Û is sent as 0xC3 0x9B, and 0x9B alone means the same.
func startsSequence(r rune) bool {
	return r >= utf8.RuneSelf && slices.ContainsFunc([]byte(string(r)), func(b byte) bool { return b >= 0x90 && b <= 0x9f })
}
