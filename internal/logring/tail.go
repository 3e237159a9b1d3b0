package logring

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"cloudlink.local/gateway/internal/machine"
	"cloudlink.local/gateway/internal/safefile"
)

const (
	currentLog  = "current.log"
	previousLog = "previous.log"
	maxFile     = 512 << 10       // bytes of one run's log on the data partition
	soon        = 5 * time.Second // the first time: a boot that goes wrong may not last longer
	every       = 30 * time.Second
	gather      = time.Second      // after an error, for what follows it
	rest        = 10 * time.Second // between two saves for errors: a medium wears out
)

// A Tail keeps the newest part of a ring in a directory: current.log is this run's, previous.log
// that of the run before, one JSON entry a line.
type Tail struct {
	ring *Ring
	dir  string

	mu    sync.Mutex // guards what follows: Run and a last Save may meet
	saved uint64     // sequence number of the newest entry on disk
	size  int        // of current.log
	bad   bool       // the last save failed; that was said once
}

// NewTail returns a tail of ring in dir.
func NewTail(ring *Ring, dir string) *Tail { return &Tail{ring: ring, dir: dir} }

// Rotate makes what the last run left the previous log. It is called once, before Run.
func (t *Tail) Rotate() error {
	err := os.Rename(filepath.Join(t.dir, currentLog), filepath.Join(t.dir, previousLog))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Run saves new entries now and then, soon after an error, until ctx ends.
// A full or failing disk only means that they stay in memory and are tried again.
func (t *Tail) Run(ctx context.Context) {
	var urgent time.Time // when an error was saved last
	next := time.NewTimer(soon)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-next.C:
			t.Save(false)
			next.Reset(every)
		case <-t.ring.urgent:
			select {
			case <-ctx.Done():
				return
			case <-time.After(max(gather, rest-time.Since(urgent))):
			}
			t.Save(true)
			urgent = time.Now()
		}
	}
}

// Save writes the entries that are not on disk yet; with sync they are on the medium when it
// returns.
func (t *Tail) Save(sync bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	err := t.save(sync)
	if err != nil && !t.bad {
		t.ring.Add("init", machine.LevelWarn, fmt.Sprintf("save log: %v; it is kept in memory only", err))
	}
	t.bad = err != nil
	return err
}

func (t *Tail) save(sync bool) error {
	entries := t.ring.Since(t.saved, machine.LevelDebug)
	if len(entries) == 0 {
		return nil
	}
	path := filepath.Join(t.dir, currentLog)
	lines := encode(entries, maxFile)
	if t.size == 0 || t.size+len(lines) > maxFile { // first time, or full: begin again with the newest half
		lines = encode(t.ring.Since(0, machine.LevelDebug), maxFile/2)
		if err := replace(path, lines); err != nil {
			return err
		}
		t.size = len(lines)
	} else if err := appendTo(path, lines, sync); err != nil {
		t.size = 0 // what was appended is not known: write it anew next time
		return err
	} else {
		t.size += len(lines)
	}
	t.saved = entries[len(entries)-1].Seq
	return nil
}

// encode returns the newest entries as lines of together at most maxBytes.
func encode(entries []machine.Entry, maxBytes int) []byte {
	var lines [][]byte
	size := 0
	for i := len(entries) - 1; i >= 0; i-- {
		line, err := json.Marshal(entries[i])
		if err != nil || size+len(line)+1 > maxBytes { // a time after year 9999 has no JSON
			break
		}
		size += len(line) + 1
		lines = append(lines, line)
	}
	out := make([]byte, 0, size)
	for i := len(lines) - 1; i >= 0; i-- {
		out = append(append(out, lines[i]...), '\n')
	}
	return out
}

func appendTo(path string, b []byte, sync bool) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(b); err != nil {
		return err
	}
	if sync {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return f.Close()
}

// replace puts b at path in one step.
func replace(path string, b []byte) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(b); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// Previous returns the last run's tail as far as level asks for it, oldest first.
func (t *Tail) Previous(level machine.Level) ([]machine.Entry, error) {
	f, err := safefile.Open(filepath.Join(t.dir, previousLog))
	if errors.Is(err, fs.ErrNotExist) {
		return []machine.Entry{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return decode(io.LimitReader(f, maxFile), level), nil
}

// decode reads lines that a power cut may have torn: what is not an entry is left out.
func decode(r io.Reader, level machine.Level) []machine.Entry {
	list := []machine.Entry{}
	in := bufio.NewScanner(r)
	in.Buffer(make([]byte, 4096), 8*MaxLine) // JSON spells a byte with six
	for in.Scan() {
		var e machine.Entry
		if !bytes.HasPrefix(in.Bytes(), []byte("{")) || json.Unmarshal(in.Bytes(), &e) != nil || e.Level > level {
			continue
		}
		e.Source, e.Text = cut(Clean(e.Source), 32), Clean(e.Text)
		list = append(list, e)
	}
	return list
}
