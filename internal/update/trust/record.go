package trust

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"cloudlink.local/gateway/internal/release"
	"cloudlink.local/gateway/internal/safefile"
)

// A record is what nobody may get us below again. It is kept twice: of two files, one is whole whenever
// the power is cut, also on a medium that lies about what it has written.
type record struct {
	Serial    uint64 `json:"serial"` // grows with each save: of two good files the newer one holds
	Root      int64  `json:"root"`   // the highest versions that were seen
	Timestamp int64  `json:"timestamp"`
	Snapshot  int64  `json:"snapshot"`
	Targets   int64  `json:"targets"`
	Keys      string `json:"keys"`            // whose versions these are; other keys count anew
	Floor     string `json:"floor,omitempty"` // no version older than this may be installed
}

const (
	recordFile = "floors.json"
	recordCopy = "floors.copy.json"
	maxRecord  = 4 << 10
)

// encode writes r with a digest before it: a torn file is not taken for a good one.
func (r record) encode() ([]byte, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%x\n%s\n", sha256.Sum256(b), b), nil
}

func parseRecord(b []byte) (record, error) {
	var r record
	sum, body, _ := bytes.Cut(b, []byte("\n"))
	body = bytes.TrimSuffix(body, []byte("\n"))
	if len(b) > maxRecord || string(sum) != fmt.Sprintf("%x", sha256.Sum256(body)) {
		return r, errors.New("it is damaged")
	}
	if err := json.Unmarshal(body, &r); err != nil {
		return record{}, err
	}
	if min(r.Root, r.Timestamp, r.Snapshot, r.Targets) < 0 {
		return record{}, errors.New("a version is negative")
	}
	if r.Floor != "" {
		if err := release.CheckVersion(r.Floor); err != nil {
			return record{}, fmt.Errorf("floor: %w", err)
		}
	}
	return r, nil
}

// loadRecord reads the record in dir. What is damaged is set aside; a new device has none.
func loadRecord(dir string, log *slog.Logger) record {
	var best record
	for _, name := range []string{recordFile, recordCopy} {
		file := filepath.Join(dir, name)
		b, err := safefile.Read(file, maxRecord)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var r record
		if err == nil {
			r, err = parseRecord(b)
		}
		if err != nil {
			log.Warn("update: a record of floors is damaged, the other one counts", "file", name, "error", err)
			quarantine(file)
			continue
		}
		if r.Serial > best.Serial {
			best = r
		}
	}
	return best
}

// save writes r to the copy and then to the file: one of them is whole all the time.
func (r *record) save(dir string) error {
	r.Serial++
	b, err := r.encode()
	if err != nil {
		return err
	}
	for _, name := range []string{recordCopy, recordFile} {
		if err := writeFile(filepath.Join(dir, name), b); err != nil {
			return fmt.Errorf("save %s: %w", name, err)
		}
	}
	return nil
}

// quarantine sets a damaged file aside, for whoever looks into it.
func quarantine(file string) {
	if os.RemoveAll(file+".damaged") != nil || os.Rename(file, file+".damaged") != nil {
		os.RemoveAll(file) // a medium that fails this, too, fails whatever comes next
	}
}

// writeFile replaces a file so that it lasts, whenever the power is cut.
func writeFile(file string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	if err := safefile.Clear(file, false); err != nil {
		return err
	}
	return safefile.Replace(file, b, 0o600)
}

// tidy removes what a cut has left of files on their way.
func tidy(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}
