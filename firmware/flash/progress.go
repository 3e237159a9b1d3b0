package flash

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// A progress tells how far a step is: on a terminal in one line, elsewhere in a line every 25 %.
type progress struct {
	w           io.Writer
	what        string
	total, done int64
	step        int64 // percent between two reports
	reported    int64 // percent
	terminal    bool
}

func newProgress(w io.Writer, what string, total int64) *progress {
	p := &progress{w: w, what: what, total: max(total, 1), step: 25, reported: -1}
	if f, ok := w.(*os.File); ok {
		if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err == nil {
			p.step, p.terminal = 1, true
		}
	}
	p.report()
	return p
}

// add counts n bytes and tells whether another syncEvery of them is full.
func (p *progress) add(n int) bool {
	before := p.done / syncEvery
	p.done += int64(n)
	p.report()
	return p.done/syncEvery > before
}

func (p *progress) report() {
	percent := p.done * 100 / p.total / p.step * p.step
	if percent <= p.reported {
		return
	}
	p.reported = percent
	if p.terminal {
		fmt.Fprintf(p.w, "\r%s: %3d %% of %s ", p.what, percent, human(p.total))
	} else {
		fmt.Fprintf(p.w, "%s: %d %% of %s\n", p.what, percent, human(p.total))
	}
}

// end leaves the line that a terminal is on.
func (p *progress) end() {
	if p.terminal {
		fmt.Fprintln(p.w)
	}
}
