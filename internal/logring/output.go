package logring

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"time"

	"cloudlink.local/gateway/internal/machine"
)

// A source may write this many lines at once, and then so many a second; what is more is dropped
// and counted, so that one service gone wild does not push everybody else's lines out.
const (
	burst     = 400
	perSecond = 20
)

// A budget is what a source may still write.
type budget struct {
	ring    *Ring
	source  string
	lines   float64
	filled  time.Time
	dropped int
}

func (r *Ring) budget(source string) *budget {
	return &budget{ring: r, source: source, lines: burst, filled: r.now()}
}

// take says whether one more line may be added, and counts it if not.
func (b *budget) take() bool {
	now := b.ring.now()
	b.lines = min(burst, b.lines+now.Sub(b.filled).Seconds()*perSecond)
	b.filled = now
	if b.lines < 1 {
		b.dropped++
		return false
	}
	b.lines--
	b.report()
	return true
}

// report tells what was dropped since the last time.
func (b *budget) report() {
	if b.dropped > 0 {
		b.ring.Add(b.source, machine.LevelWarn, fmt.Sprintf("%d more lines came too fast and were dropped", b.dropped))
	}
	b.dropped = 0
}

// Copy adds the lines that a service writes until from ends. A line may begin with "<N>", its
// level; one without is a crash report or a library's own word, and counts as a warning.
func (r *Ring) Copy(source string, from io.Reader) {
	in := bufio.NewReaderSize(from, MaxLine+16)
	budget := r.budget(source)
	defer budget.report()
	for {
		line, err := in.ReadSlice('\n')
		whole := !errors.Is(err, bufio.ErrBufferFull)
		if len(line) > 0 && budget.take() {
			level, text := parseLevel(line)
			if whole {
				r.Add(source, level, string(text))
			} else {
				r.Add(source, level, cut(string(text), MaxLine-len("…"))+"…")
			}
		}
		for !whole { // the rest of an overlong line
			_, err = in.ReadSlice('\n')
			whole = !errors.Is(err, bufio.ErrBufferFull)
		}
		if err != nil {
			return
		}
	}
}

// parseLevel splits "<N>text"; the facility, N/8, is not kept.
func parseLevel(line []byte) (machine.Level, []byte) {
	n := 0
	for i := 1; i < len(line) && i < 5 && line[0] == '<'; i++ {
		if line[i] == '>' && i > 1 {
			return machine.Level(n & 7), line[i+1:]
		}
		if line[i] < '0' || line[i] > '9' {
			break
		}
		n = n*10 + int(line[i]-'0')
	}
	return machine.LevelWarn, line
}
