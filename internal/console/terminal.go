package console

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"cloudlink.local/gateway/internal/machine"
)

// A terminal is one screen or serial line. All but views belongs to run's goroutine.
type terminal struct {
	*console
	path  string
	views chan View // the newest

	view     View
	dialogue dialogue
	news     announcer
	editor   editor
	guard    guard
	tty      *tty
	touched  time.Time // when somebody last typed
	seen     uint64    // of the log, while following
}

const (
	idle     = 2 * time.Minute // a menu stays open without typing
	logLines = 40              // of the log on a page
	allLines = 500             // of all that is in it: the kernel's start, and some seconds on a serial line
	newLines = 200             // of the log in a second, while following
)

// run serves the terminal until ctx ends, whatever becomes of the line.
func (t *terminal) run(ctx context.Context) {
	told := ""
	for ctx.Err() == nil {
		err := t.session(ctx)
		if ctx.Err() == nil && err != nil && err.Error() != told {
			told = err.Error()
			t.log.Warn("terminal: "+told, "path", t.path)
		}
		t.dialogue.place = atScreen
		t.editor = editor{}
		t.news = announcer{} // whoever opens the line again has seen nothing
		select {
		case <-time.After(period):
		case <-ctx.Done():
		}
	}
}

// session serves the terminal until it hangs up.
func (t *terminal) session(ctx context.Context) (err error) {
	if t.tty, err = openTTY(t.path); err != nil {
		return err
	}
	defer t.tty.close()
	defer context.AfterFunc(ctx, func() { t.tty.file.Close() })() // ends a write that the line holds up
	for {
		select {
		case <-ctx.Done():
			return nil
		case chunk, ok := <-t.tty.chunks:
			if !ok {
				return t.tty.err
			}
			t.touched = time.Now()
			err = t.typed(ctx, chunk)
		case t.view = <-t.views:
			t.dialogue.shell = t.view.development()
			err = t.refresh(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// refresh shows what is new, where that does not get into somebody's way.
func (t *terminal) refresh(ctx context.Context) error {
	switch now := time.Now(); {
	case t.dialogue.place == following:
		return t.follow(ctx)
	case t.dialogue.place != atScreen && now.Sub(t.touched) < idle:
		return nil
	case t.dialogue.place != atScreen: // whoever it was has gone
		t.dialogue.place = atScreen
		t.editor = editor{}
		return t.show()
	case t.news.announce(t.view, now):
		return t.show()
	}
	return nil
}

// show prints the screen, and below it what somebody is about to type.
func (t *terminal) show() error {
	t.news.shown(t.view)
	return t.tty.print(Screen(t.view, t.dialogue.lang.code) + string(t.editor.line))
}

// typed takes what came in.
func (t *terminal) typed(ctx context.Context, chunk []byte) error {
	out := ""
	for i, b := range chunk {
		echo, line, done := t.editor.feed(b)
		out += echo
		if !done {
			continue
		}
		if !t.guard.allow(time.Now()) {
			out = ""
			continue
		}
		text, do := t.dialogue.line(line)
		if err := t.tty.print(out + text); err != nil {
			return err
		}
		if do == startShell { // all that follows is typed for the shell
			return t.shell(ctx, bytes.TrimPrefix(chunk[i+1:], []byte("\n")))
		}
		if err := t.do(ctx, do); err != nil {
			return err
		}
		out = t.dialogue.prompt()
	}
	return t.tty.print(out)
}

// do does what a line asks for.
func (t *terminal) do(ctx context.Context, a action) error {
	l := t.dialogue.lang
	switch a {
	case showScreen:
		return t.show()
	case showAddresses:
		return t.printView(addressPage(t.view, l))
	case showLog:
		return t.printLog(ctx, machine.LevelInfo, ours, logLines)
	case showErrors:
		return t.printLog(ctx, machine.LevelWarn, all, logLines)
	case showAll:
		return t.printLog(ctx, machine.LevelDebug, all, allLines)
	case startFollow:
		t.seen = 0
		return t.follow(ctx)
	case doRestart:
		return t.goDown(ctx, t.machine.Restart, l.restarting)
	case doPowerOff:
		return t.goDown(ctx, t.machine.PowerOff, l.poweringOff)
	}
	return nil
}

// shell gives the terminal to a shell, which has typed to read first.
func (t *terminal) shell(ctx context.Context, typed []byte) error {
	l := t.dialogue.lang
	text := "\n  " + l.shellEnded + "\n"
	switch err := runShell(ctx, t.shells, t.tty, termOf(t.path), typed); {
	case errors.Is(err, errNoShell):
		text = "  " + l.noShell + "\n"
	case err != nil:
		text = "  " + fmt.Sprintf(l.failed, err) + "\n"
	}
	t.touched = time.Now()
	if err := t.printView(text); err != nil {
		return err
	}
	return t.tty.print(t.dialogue.prompt())
}

func (t *terminal) goDown(ctx context.Context, ask func(context.Context) error, text string) error {
	ctx, cancel := context.WithTimeout(ctx, logTime)
	defer cancel()
	if err := ask(ctx); err != nil {
		return t.printView("  " + fmt.Sprintf(t.dialogue.lang.failed, clean(err.Error())) + "\n")
	}
	return t.tty.print("  " + text + "\n")
}

// printView prints what was asked for, and below it the menu again.
func (t *terminal) printView(text string) error {
	return t.tty.print(text + t.dialogue.choices())
}

// all and ours say which entries of the log to show. The kernel says much that concerns nobody but
// its developers: of its lines, ours has the warnings and what is graver.
func all(machine.Entry) bool    { return true }
func ours(e machine.Entry) bool { return e.Source != "kernel" || e.Level <= machine.LevelWarn }

// printLog prints the last lines of what is wanted of the log.
func (t *terminal) printLog(ctx context.Context, level machine.Level, wanted func(machine.Entry) bool, lines int) error {
	ctx, cancel := context.WithTimeout(ctx, logTime)
	defer cancel()
	list, err := t.machine.Log(ctx, 0, level)
	if err != nil {
		return t.printView("  " + fmt.Sprintf(t.dialogue.lang.failed, clean(err.Error())) + "\n")
	}
	text := t.entries(list, wanted, lines)
	if text == "" {
		text = "  " + t.dialogue.lang.logEmpty + "\n"
	}
	return t.printView(text)
}

// follow prints what has come to the log since it last did.
func (t *terminal) follow(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, logTime)
	defer cancel()
	list, err := t.machine.Log(ctx, t.seen, machine.LevelInfo)
	if err != nil || len(list) == 0 { // process 1 is asked again in a second
		return nil
	}
	lines := newLines
	if t.seen == 0 {
		lines = logLines
	}
	t.seen = list[len(list)-1].Seq
	return t.tty.print(t.entries(list, ours, lines))
}

// entries is the last lines of what is wanted of list.
func (t *terminal) entries(list []machine.Entry, wanted func(machine.Entry) bool, lines int) string {
	list = slices.DeleteFunc(list, func(e machine.Entry) bool { return !wanted(e) })
	var b strings.Builder
	if left := len(list) - lines; left > 0 {
		fmt.Fprintf(&b, "  "+t.dialogue.lang.logSkipped+"\n", left)
		list = list[left:]
	}
	for _, e := range list {
		b.WriteString(entryLine(e))
	}
	return b.String()
}

// An announcer decides when a changed screen is printed again: a serial line is a log, not a canvas.
type announcer struct {
	key     string // of the screen that was last printed
	pending string // of one that was not yet
	first   time.Time
	since   time.Time     // pending is unchanged
	printed time.Time     // when the last was announced
	pause   time.Duration // before the next
	urls    string        // that were last printed
}

const (
	settled  = 2 * time.Second  // without a change: it is worth a screen
	unrest   = 10 * time.Second // of changes: it is time for one all the same
	minPause = 2 * time.Second
	maxPause = time.Minute // between screens where something flaps
)

// announce says whether v is to be printed now.
func (a *announcer) announce(v View, now time.Time) bool {
	k := key(v)
	if k == a.key {
		a.pending = ""
		return false
	}
	if a.pending == "" {
		a.first = now
	}
	if k != a.pending {
		a.pending, a.since = k, now
	}
	if now.Sub(a.printed) < a.pause {
		return false
	}
	newURL := len(urls(v.Network)) > 0 && fmt.Sprint(urls(v.Network)) != a.urls // what people wait for
	if !newURL && now.Sub(a.since) < settled && now.Sub(a.first) < unrest {
		return false
	}
	if a.pause == 0 || now.Sub(a.printed) > 2*maxPause {
		a.pause = minPause
	} else {
		a.pause = min(2*a.pause, maxPause)
	}
	a.printed = now
	return true
}

// shown notes that v was printed, for whatever reason.
func (a *announcer) shown(v View) {
	a.key, a.pending, a.urls = key(v), "", fmt.Sprint(urls(v.Network))
}

// A guard sees when lines come faster than anybody types: noise, or a device that sends our output
// back to us. Then it waits for silence.
type guard struct {
	start time.Time // of the second that is counted
	lines int
	last  time.Time
	deaf  bool
}

const maxRate = 30 // lines in a second: more than a script needs

// allow says whether a line that came at now is to be obeyed.
func (g *guard) allow(now time.Time) bool {
	quiet := now.Sub(g.last) >= time.Second
	g.last = now
	if g.deaf && !quiet {
		return false
	}
	if g.deaf || now.Sub(g.start) >= time.Second {
		g.deaf, g.start, g.lines = false, now, 0
	}
	g.lines++
	g.deaf = g.lines > maxRate
	return !g.deaf
}
