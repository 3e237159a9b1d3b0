// Package logring keeps the newest lines of the services', process 1's and the kernel's output in
// memory within fixed bounds, and their tail on the data partition for the next run to read.
package logring

import (
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
	entries []machine.Entry
	bytes   int
	seq     uint64        // of the newest entry
	urgent  chan struct{} // has one element after an error was added
}

// New returns an empty ring that holds up to maxBytes of text and bookkeeping.
func New(maxBytes int) *Ring {
	return &Ring{now: time.Now, maxBytes: maxBytes, urgent: make(chan struct{}, 1)}
}

// Add appends one line. Its text is made harmless and cut to MaxLine.
func (r *Ring) Add(source string, level machine.Level, text string) {
	r.addAt(r.now(), source, level, text)
}

func (r *Ring) addAt(at time.Time, source string, level machine.Level, text string) {
	text = Clean(text)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seq++
	r.entries = append(r.entries, machine.Entry{Seq: r.seq, Time: at.UTC().Truncate(time.Millisecond), Source: source, Level: level, Text: text})
	r.bytes += len(text) + overhead
	drop := 0
	for ; r.bytes > r.maxBytes && drop < len(r.entries)-1; drop++ {
		r.bytes -= len(r.entries[drop].Text) + overhead
		r.entries[drop] = machine.Entry{} // lets go of the text
	}
	r.entries = r.entries[drop:] // append moves to a new array once this one's end is reached
	if level <= machine.LevelError {
		select {
		case r.urgent <- struct{}{}:
		default:
		}
	}
}

// Since returns the entries after sequence number after that are at least as grave as level,
// oldest first.
func (r *Ring) Since(after uint64, level machine.Level) []machine.Entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := []machine.Entry{}
	if len(r.entries) == 0 || after >= r.seq {
		return list
	}
	first := r.entries[0].Seq
	for _, e := range r.entries[max(after+1, first)-first:] {
		if e.Level <= level {
			list = append(list, e)
		}
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
