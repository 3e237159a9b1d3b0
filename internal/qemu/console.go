package qemu

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"sync"
	"time"
)

// A Console keeps what a machine's serial port has printed and waits for more.
type Console struct {
	mu      sync.Mutex
	all     []byte        // without carriage returns
	matched int           // all[:matched] has been consumed by Expect or Skip
	more    chan struct{} // closed and replaced when all grows
}

// NewConsole returns a console that has printed nothing.
func NewConsole() *Console { return &Console{more: make(chan struct{})} }

// Follow takes in what r prints until it ends.
func (c *Console) Follow(r io.Reader) {
	buf := make([]byte, 4096)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			c.mu.Lock()
			c.all = append(c.all, bytes.ReplaceAll(buf[:n], []byte("\r"), nil)...)
			close(c.more)
			c.more = make(chan struct{})
			c.mu.Unlock()
		}
		if err != nil {
			return
		}
	}
}

// Expect waits for what matches re, after what has been consumed, and returns the match and its
// groups.
func (c *Console) Expect(re *regexp.Regexp, patience time.Duration) ([]string, error) {
	timeout := time.After(patience)
	for {
		c.mu.Lock()
		rest, more := c.all[c.matched:], c.more
		if loc := re.FindSubmatchIndex(rest); loc != nil {
			var groups []string
			for i := 0; i < len(loc); i += 2 {
				group := ""
				if loc[i] >= 0 {
					group = string(rest[loc[i]:loc[i+1]])
				}
				groups = append(groups, group)
			}
			c.matched += loc[1]
			c.mu.Unlock()
			return groups, nil
		}
		c.mu.Unlock()
		select {
		case <-more:
		case <-timeout:
			return nil, fmt.Errorf("the console does not print %q; it last printed:\n%s", re, c.Tail(3000))
		}
	}
}

// Skip consumes all that has been printed: what an Expect matches must come later.
func (c *Console) Skip() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.matched = len(c.all)
}

// Rest returns what has been printed and not consumed.
func (c *Console) Rest() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.all[c.matched:])
}

// Tail returns the last n bytes of all that has been printed.
func (c *Console) Tail(n int) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Clone(c.all[max(0, len(c.all)-n):])
}
