package boot

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// LastWords are what the kernel could save before the last run ended badly.
type LastWords struct {
	Lines   []string // as the kernel printed them, "<N>[time] text", oldest first
	Crashed bool     // it was a panic or an oops
	files   []string
}

// maxWords bounds what is read of the records, in bytes.
const maxWords = 128 << 10

// ReadLastWords reads the records that pstore shows below dir.
func ReadLastWords(dir string) (LastWords, error) {
	var w LastWords
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return w, nil
	}
	if err != nil {
		return w, fmt.Errorf("read crash records: %w", err)
	}
	var records []record
	left := int64(maxWords)
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		path := filepath.Join(dir, e.Name())
		b, err := readSome(path, left)
		if err != nil {
			return w, fmt.Errorf("read crash records: %w", err)
		}
		left -= int64(len(b))
		w.files = append(w.files, path)
		records = append(records, parseRecord(e.Name(), b))
	}
	slices.SortStableFunc(records, func(a, b record) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(b.part, a.part)) // part 1 is the newest
	})
	for _, r := range records {
		w.Lines = append(w.Lines, r.lines...)
		w.Crashed = w.Crashed || r.kind == "Oops" || r.kind == "Panic"
	}
	return w, nil
}

func readSome(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, most))
}

// Forget removes the records, so that the next ones find room.
func (w LastWords) Forget() error {
	var errs []error
	for _, path := range w.files {
		errs = append(errs, os.Remove(path))
	}
	return errors.Join(errs...)
}

// A record is one file of pstore. One of the kernel's log begins with a line "Panic#1 Part3".
type record struct {
	kind  string // "Panic", "Oops" or the file's name
	part  int
	lines []string
}

func parseRecord(name string, b []byte) record {
	r := record{kind: name}
	if strings.HasSuffix(name, ".enc.z") {
		r.lines = []string{"crash record " + name + " is compressed in a way that this kernel does not know"}
		return r
	}
	head, rest, _ := bytes.Cut(b, []byte("\n"))
	var kind string
	var count, part int
	if n, err := fmt.Sscanf(string(bytes.ReplaceAll(head, []byte("#"), []byte(" "))), "%s %d Part%d", &kind, &count, &part); err == nil && n == 3 {
		r.kind, r.part, b = kind, part, rest
	}
	for line := range bytes.Lines(b) {
		if line = bytes.TrimSpace(line); len(line) > 0 {
			r.lines = append(r.lines, string(line))
		}
	}
	return r
}
