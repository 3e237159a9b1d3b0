// Package logring keeps the newest lines of the services', process 1's and the kernel's output in
// memory within fixed bounds, and their tail on the data partition for the next run to read.
package logring

import (
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"cloudlink.local/gateway/internal/machine"
)

// MaxLine is the most bytes that an entry's text can have.
const MaxLine = 2048

// overhead is what an entry is counted for beside its text.
const overhead = 128

// A Ring holds the newest entries. Its methods may be called at the same time.
type Ring struct {
	now      func() time.Time
	maxBytes int

	mu      sync.Mutex // guards all below
	entries []entry    // as they came
	bytes   int
	seq     uint64        // of the newest entry
	urgent  chan struct{} // has one element after an error was added
}

// An entry is one of the log, and when it was written by a clock that is never set: a time.Time of
// this run has both.
type entry struct {
	machine.Entry
	at time.Time
}

// New returns an empty ring that holds up to maxBytes of text and bookkeeping.
func New(maxBytes int) *Ring {
	return &Ring{now: time.Now, maxBytes: maxBytes, urgent: make(chan struct{}, 1)}
}

// Add appends one line. Its text is made harmless and cut to MaxLine.
func (r *Ring) Add(source string, level machine.Level, text string) {
	r.addAt(time.Time{}, source, level, text)
}

// addAt appends a line that was written at a time; a zero time is now.
func (r *Ring) addAt(at time.Time, source string, level machine.Level, text string) {
	text = Clean(text)
	r.mu.Lock()
	defer r.mu.Unlock()
	if at.IsZero() { // read under the lock: what comes later is not older
		at = r.now()
	}
	r.seq++
	r.entries = append(r.entries, entry{machine.Entry{Seq: r.seq, Time: at.UTC().Truncate(time.Millisecond), Source: source, Level: level, Text: text}, at})
	r.bytes += len(text) + overhead
	drop := 0
	for ; r.bytes > r.maxBytes && drop < len(r.entries)-1; drop++ {
		r.bytes -= len(r.entries[drop].Text) + overhead
		r.entries[drop] = entry{} // lets go of the text
	}
	r.entries = r.entries[drop:] // append moves to a new array once this one's end is reached
	if level <= machine.LevelError {
		select {
		case r.urgent <- struct{}{}:
		default:
		}
	}
}

// Since returns the entries that came after sequence number after and are at least as grave as
// level, in the order in which they were written, whatever the clock was set to meanwhile. The
// kernel's first lines come late, after some of process 1's. Of what is returned at once the numbers
// always rise, so the last one says where to go on; a number does not stand for one entry for ever.
func (r *Ring) Since(after uint64, level machine.Level) []machine.Entry {
	list := []machine.Entry{}
	var found []entry
	r.mu.Lock()
	if len(r.entries) > 0 && after < r.seq {
		first := r.entries[0].Seq
		for _, e := range r.entries[max(after+1, first)-first:] {
			if e.Level <= level {
				found = append(found, e)
				list = append(list, machine.Entry{Seq: e.Seq})
			}
		}
	}
	r.mu.Unlock()
	slices.SortStableFunc(found, func(a, b entry) int { return a.at.Compare(b.at) })
	for i, e := range found {
		e.Entry.Seq = list[i].Seq
		list[i] = e.Entry
	}
	return list
}

// Clean returns text as one line of valid UTF-8 that no terminal takes for a command: control
// characters are spelled out, and characters that turn the direction of writing are dropped.
func Clean(text string) string {
	text = strings.TrimRight(text, "\r\n \t")
	if len(text) > MaxLine {
		text = text[:MaxLine]
	}
	clean := true
	for i := 0; i < len(text) && clean; i++ {
		clean = text[i] >= ' ' && text[i] < 0x7f
	}
	if clean {
		return strings.Clone(text) // not a slice of a large buffer
	}
	const hex = "0123456789abcdef"
	var b strings.Builder
	for _, c := range text {
		switch {
		case c == '\t':
			b.WriteByte(' ')
		case c < ' ' || c >= 0x7f && c < 0xa0:
			b.WriteString(`\x`)
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		case c >= 0x200b && c <= 0x200f, c >= 0x2028 && c <= 0x202e, c >= 0x2060 && c <= 0x206f, c == 0xfeff:
		default:
			b.WriteRune(c) // bytes that are not UTF-8 come as U+FFFD
		}
	}
	return cut(b.String(), MaxLine)
}

// cut shortens text to at most n bytes, between two characters.
func cut(text string, n int) string {
	if len(text) <= n {
		return text
	}
	for end := n; end > n-utf8.UTFMax && end > 0; end-- {
		if utf8.RuneStart(text[end]) {
			return text[:end]
		}
	}
	return text[:n] // it is not UTF-8 at all
}
