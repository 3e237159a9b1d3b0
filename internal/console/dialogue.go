package console

import (
	"fmt"
	"strings"
)

// A place is where in the dialogue the terminal is.
//
//	screen ─ Enter ─→ menu ─ 2 ─→ logs ─ 3 ─→ following
//	  ↑                │ │          │
//	  └─ Enter, 0 ─────┘ └─ 3, 4 ─→ asked ─ y ─→ the machine goes down
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
		return d.menuLine(typed)
	case inLogs:
		switch typed {
		case "1":
			return "", showLog
		case "2":
			return "", showErrors
		case "3":
			d.place = following
			return "  " + d.lang.followHint + "\n", startFollow
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
	return d.menu(), nothing
}

func (d *dialogue) menuLine(typed string) (text string, do action) {
	switch typed {
	case "", "0":
		d.place = atScreen
		return "", showScreen
	case "1":
		return "", showAddresses
	case "2":
		d.place = inLogs
		return d.logMenu(), nothing
	case "3":
		d.place, d.answer = asked, doRestart
		return "", nothing
	case "4":
		d.place, d.answer = asked, doPowerOff
		return "", nothing
	case "5":
		if d.lang == &german {
			d.lang = &english
		} else {
			d.lang = &german
		}
		return d.menu(), nothing
	case "9":
		if d.shell {
			return "", startShell
		}
	}
	return d.unknown(typed) + d.menu(), nothing
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
	return "\n" + l.logMenu + "\n" + choice(1, l.logTail) + choice(2, l.logErrors) + choice(3, l.follow) + choice(0, l.back)
}

func choice(key int, text string) string { return fmt.Sprintf("  %d  %s\n", key, text) }
