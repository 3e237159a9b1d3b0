package diary

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/safefile"
)

// The two segments: lines of JSON, each an Entry. A line repeats the ID of a former one to replace it.
// When current is full it becomes old, and what old held is forgotten.
const (
	current = "diary.jsonl"
	old     = "diary.old.jsonl"
)

const (
	segmentBytes = maxBytes / 2
	segmentLines = maxEntries / 2
	maxLine      = 8 << 10
	maxID        = 1 << 48 // a number that JavaScript can tell apart, and far from the end
)

// files are the segments on the medium.
type files struct {
	dir         string
	f           *os.File // current, nil until it is needed
	size, lines int      // of current
	torn        bool     // one ends in the middle of a line, or holds what is not ours: write both anew
}

// open reads both segments in dir, which it makes if need be. damaged is how many lines could not be
// read; err is why a segment could not be read at all.
func (s *files) open(dir string) (entries []Entry, damaged int, err error) {
	s.dir = dir
	os.Mkdir(dir, 0o700) // what is wrong with it, write will say
	// What a process that was killed left of a file it was about to rename.
	for _, name := range []string{old, current} {
		left, _ := filepath.Glob(filepath.Join(dir, "."+name+"*"))
		for _, path := range left {
			os.Remove(path)
		}
	}
	var segments [2][]byte
	var errs []error
	for i, name := range []string{old, current} {
		b, whole, err := readSegment(filepath.Join(dir, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		segments[i] = b
		s.torn = s.torn || !whole
	}
	entries, damaged, whole := merge(segments[0], segments[1])
	s.torn = s.torn || !whole
	s.size, s.lines = len(segments[1]), bytes.Count(segments[1], []byte{'\n'})
	return entries, damaged, errors.Join(errs...)
}

// merge reads two segments: of the lines of one ID the last counts. What is no entry is left out and
// counted. whole says that the segments can be appended to.
func merge(old, current []byte) (entries []Entry, damaged int, whole bool) {
	latest := map[uint64]Entry{}
	whole = true
	for _, b := range [][]byte{old, current} {
		list, bad, ended := parse(b)
		for _, e := range list {
			latest[e.ID] = e
		}
		damaged += bad
		whole = whole && bad == 0 && ended
	}
	for _, e := range latest {
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b Entry) int { return cmp.Compare(a.ID, b.ID) })
	if n := len(entries); n > 0 && entries[n-1].ID == maxID { // not ours: we would have to go on beyond it
		return nil, damaged + n, false
	}
	return entries, damaged, whole
}

// readSegment returns a segment's content; of one that is too long, which is not ours, the end.
func readSegment(path string) (b []byte, whole bool, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, true, err
	}
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, false, err
	}
	if !info.Mode().IsRegular() {
		return nil, false, fmt.Errorf("%s is not a file", filepath.Base(path))
	}
	whole = info.Size() <= segmentBytes
	if !whole {
		if _, err := f.Seek(-segmentBytes, io.SeekEnd); err != nil {
			return nil, false, err
		}
	}
	b, err = io.ReadAll(io.LimitReader(f, segmentBytes))
	if err != nil {
		return b, false, fmt.Errorf("read %s: %w", filepath.Base(path), err)
	}
	return b, whole, nil
}

// parse reads a segment's lines. What is no entry is counted and left out. ended says that the last
// line is complete.
func parse(b []byte) (entries []Entry, bad int, ended bool) {
	ended = len(b) == 0 || b[len(b)-1] == '\n'
	for line := range bytes.Lines(b) {
		line = bytes.TrimSuffix(line, []byte{'\n'})
		var e Entry
		if len(line) > maxLine || json.Unmarshal(line, &e) != nil || !e.tidy() {
			bad++
			continue
		}
		entries = append(entries, e)
	}
	return entries, bad, ended
}

// tidy says whether a line that was read can be an entry, and makes its values fit to be shown: the
// file may be damaged, or somebody else's.
func (e *Entry) tidy() bool {
	e.Time, e.Last, e.Actual = e.Time.UTC(), e.Last.UTC(), time.Time{}
	if e.ID == 0 || e.ID > maxID || !isName(string(e.Kind)) || len(e.Args) > 8 ||
		e.Clock != "" && !isName(e.Clock) || len(e.BootID) > 64 || e.BootID != "" && e.BootID != printable(e.BootID) ||
		!sane(e.Time) || !sane(e.Last) || e.Count < 0 || e.Omitted < 0 || e.Count > math.MaxInt32 || e.Omitted > math.MaxInt32 ||
		e.Boottime < 0 || e.Boottime > maxBoottime || e.LastBoottime < 0 || e.LastBoottime > maxBoottime {
		return false
	}
	for name, value := range e.Args {
		switch {
		case !isName(name):
			return false
		case value == "": // as if it were not there
			delete(e.Args, name)
		default:
			e.Args[name] = printable(value)
		}
	}
	if len(e.Args) == 0 {
		e.Args = nil
	}
	return true
}

const maxBoottime = 1e9 // seconds: thirty years

// sane says whether a time can be shown and written again.
func sane(t time.Time) bool { return t.IsZero() || t.Year() >= 1970 && t.Year() < 10000 }

// isName says whether s is a name like those of the kinds.
func isName(s string) bool {
	return s != "" && len(s) <= 40 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// line returns e as a segment has it.
func (e Entry) line() []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(e); err != nil {
		return nil // a time beyond year 9999: the entry is kept in memory
	}
	return b.Bytes()
}

// size estimates the length of e's line.
func (e Entry) size() int {
	n := 120 + len(e.BootID) + len(e.Kind)
	for name, value := range e.Args {
		n += len(name) + len(value) + 6
	}
	return n
}

// write appends entries, and returns once they are on the medium. Where the segments are torn they are
// replaced: then entries have to be all there are.
func (s *files) write(entries []Entry) error {
	if s.torn {
		return s.replace(entries)
	}
	var b []byte
	lines := 0
	put := func() error {
		if err := s.append(b, lines); err != nil {
			return err
		}
		b, lines = b[:0], 0
		return nil
	}
	for _, e := range entries {
		line := e.line()
		if s.size+len(b)+len(line) > segmentBytes || s.lines+lines+1 > segmentLines {
			if err := put(); err != nil {
				return err
			}
			if err := s.rotate(); err != nil {
				return err
			}
		}
		b = append(b, line...)
		lines++
	}
	return put()
}

// append writes whole lines to the end of current.
func (s *files) append(b []byte, lines int) error {
	if len(b) == 0 {
		return nil
	}
	if s.f == nil {
		f, err := os.OpenFile(filepath.Join(s.dir, current), os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
		if err != nil {
			return err
		}
		s.f = f
		if err := safefile.SyncDir(s.dir); err != nil {
			return err
		}
	}
	_, err := s.f.Write(b)
	if err == nil {
		err = unix.Fdatasync(int(s.f.Fd()))
	}
	if err != nil {
		s.torn = true // perhaps
		s.close()
		return fmt.Errorf("append to %s: %w", current, err)
	}
	s.size += len(b)
	s.lines += lines
	return nil
}

// rotate makes current old. The next append begins a new one.
func (s *files) rotate() error {
	if err := s.close(); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(s.dir, current), filepath.Join(s.dir, old)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s.size, s.lines = 0, 0
	return safefile.SyncDir(s.dir)
}

// replace makes both segments anew, of all entries.
func (s *files) replace(entries []Entry) error {
	s.close()
	newest, newestLines, rest := pack(entries)
	older, _, _ := pack(rest)
	// In this order a power cut in between leaves entries twice, which open takes for one.
	for _, segment := range []struct {
		name string
		b    []byte
	}{{old, older}, {current, newest}} {
		if err := safefile.Replace(filepath.Join(s.dir, segment.name), segment.b, 0o600); err != nil {
			return fmt.Errorf("replace %s: %w", segment.name, err)
		}
	}
	s.torn, s.size, s.lines = false, len(newest), newestLines
	return nil
}

// pack returns a segment of the newest entries, how many lines it has, and the entries that did not
// find room in it.
func pack(entries []Entry) (b []byte, lines int, rest []Entry) {
	first, size := len(entries), 0
	for first > 0 && lines < segmentLines {
		n := len(entries[first-1].line())
		if size+n > segmentBytes {
			break
		}
		first--
		size += n
		lines++
	}
	for _, e := range entries[first:] {
		b = append(b, e.line()...)
	}
	return b, lines, entries[:first]
}

func (s *files) close() error {
	if s.f == nil {
		return nil
	}
	err := s.f.Close()
	s.f = nil
	return err
}
