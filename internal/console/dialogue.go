package console

import (
	"fmt"
	"strings"
)

// A place is where in the dialogue the terminal is.
//
//	screen ─ Enter ─→ menu ─ 2 ─→ logs ─ 3 ─→ following
//	  ↑                │ │
//	  └─ Enter, 0 ─────┘ └─ 3, 4 ─→ asked ─ y ─→ the machine goes down
//
// At the screen a choice of the menu counts as well: whoever knows it need not see it first.
type place string

const (
	atScreen  place = "screen"
	inMenu    place = "menu"
	inLogs    place = "logs"
	following place = "following"
	asked     place = "asked"
)

// An action is what a line asks for beyond moving.
type action string

const (
	nothing       action = ""
	showScreen    action = "show screen"
	showAddresses action = "show addresses"
	showLog       action = "show log"
	showErrors    action = "show errors"
	showAll       action = "show all"
	startFollow   action = "follow"
	doRestart     action = "restart"
	doPowerOff    action = "power off"
	startShell    action = "shell"
)

// A dialogue is one terminal's way through the menu.
type dialogue struct {
	place  place
	lang   *language
	shell  bool   // a root shell is on offer
	answer action // what a yes does, when asked
}

// line takes a typed line. The terminal prints text, does what is asked for, and prints prompt.
func (d *dialogue) line(typed string) (text string, do action) {
	typed = strings.ToLower(strings.TrimSpace(typed))
	switch d.place {
	case inMenu:
		if text, do, ok := d.choose(typed); ok {
			return text, do
		}
		return d.unknown(typed) + d.menu(), nothing
	case inLogs:
		switch typed {
		case "1":
			return "", showLog
		case "2":
			return "", showErrors
		case "3":
			d.place = following
			return "  " + d.lang.followHint + "\n", startFollow
		case "4":
			return "", showAll
		case "", "0":
			d.place = inMenu
			return d.menu(), nothing
		}
		return d.unknown(typed) + d.logMenu(), nothing
	case asked:
		d.place = inMenu
		if typed == "y" || typed == d.lang.answerYes {
			return "", d.answer
		}
		return d.menu(), nothing
	case following:
		d.place = inLogs
		return d.logMenu(), nothing
	}
	d.place = inMenu
	if typed != "" && typed != "0" {
		if text, do, ok := d.choose(typed); ok {
			return text, do
		}
	}
	return d.menu(), nothing
}

// choose takes a choice of the menu; ok is false where there is none of this name.
func (d *dialogue) choose(typed string) (text string, do action, ok bool) {
	switch typed {
	case "", "0":
		d.place = atScreen
		return "", showScreen, true
	case "1":
		return "", showAddresses, true
	case "2":
		d.place = inLogs
		return d.logMenu(), nothing, true
	case "3":
		d.place, d.answer = asked, doRestart
		return "", nothing, true
	case "4":
		d.place, d.answer = asked, doPowerOff
		return "", nothing, true
	case "5":
		if d.lang == &german {
			d.lang = &english
		} else {
			d.lang = &german
		}
		return d.menu(), nothing, true
	case "9":
		return "", startShell, d.shell
	}
	return "", nothing, false
}

func (d *dialogue) unknown(typed string) string {
	return "  " + fmt.Sprintf(d.lang.unknown, typed) + "\n"
}

// prompt is what stands before what is typed; empty at the screen.
func (d *dialogue) prompt() string {
	switch d.place {
	case atScreen, following:
		return ""
	case asked:
		question := d.lang.askRestart
		if d.answer == doPowerOff {
			question = d.lang.askPowerOff
		}
		return fmt.Sprintf("  %s [%s/%s] ", question, d.lang.answerYes, d.lang.no)
	}
	return "> "
}

// choices is the menu that the terminal is in, to be printed again below what was shown.
func (d *dialogue) choices() string {
	if d.place == inLogs {
		return d.logMenu()
	}
	return d.menu()
}

func (d *dialogue) menu() string {
	l := d.lang
	text := "\n" + l.menu + "\n" + choice(1, l.addresses) + choice(2, l.log) + choice(3, l.restart) +
		choice(4, l.powerOff) + choice(5, l.other)
	if d.shell {
		text += choice(9, l.shell)
	}
	return text + choice(0, l.back)
}

func (d *dialogue) logMenu() string {
	l := d.lang
	return "\n" + l.logMenu + "\n" + choice(1, l.logTail) + choice(2, l.logErrors) + choice(3, l.follow) +
		choice(4, l.logAll) + choice(0, l.back)
}

func choice(key int, text string) string { return fmt.Sprintf("  %d  %s\n", key, text) }
