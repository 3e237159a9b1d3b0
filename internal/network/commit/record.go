package commit

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/safefile"
)

// maxRecord is far more than two configurations need.
const maxRecord = 256 << 10

// A record is a Change as it is stored. The sum tells a bit that fell over from an address.
type record struct {
	SHA256 string          `json:"sha256"` // of change, in hexadecimal
	Change json.RawMessage `json:"change"`
}

func encode(c Change) []byte {
	change, err := json.Marshal(c)
	if err != nil {
		panic("commit: " + err.Error()) // a Change has nothing that cannot be encoded
	}
	sum := sha256.Sum256(change)
	b, err := json.Marshal(record{SHA256: hex.EncodeToString(sum[:]), Change: change})
	if err != nil {
		panic("commit: " + err.Error())
	}
	return append(b, '\n')
}

func decode(b []byte) (c Change, err error) {
	var r record
	if len(b) > maxRecord {
		return Change{}, errors.New("read record: it is too long")
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return Change{}, fmt.Errorf("read record: %w", err)
	}
	if sum := sha256.Sum256(r.Change); r.SHA256 != hex.EncodeToString(sum[:]) {
		return Change{}, errors.New("read record: the checksum is wrong")
	}
	if err := json.Unmarshal(r.Change, &c); err != nil {
		return Change{}, fmt.Errorf("read record: %w", err)
	}
	switch c.State {
	case Idle, Probation, Confirmed, Returned:
	default:
		return Change{}, fmt.Errorf("read record: no such state: %.20q", c.State)
	}
	if c.Ends < 0 {
		return Change{}, errors.New("read record: it ends before the boot")
	}
	return c, nil
}

// A medium holds the record. After a failed write, or one that a power cut ended, read returns what
// was there before or what was written.
type medium interface {
	read() ([]byte, error)
	write([]byte) error
}

// A file is the medium that is used.
type file string

func (f file) read() ([]byte, error) {
	// A link may lead elsewhere; a pipe would have us wait.
	in, err := os.OpenFile(string(f), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	if info, err := in.Stat(); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", f)
	}
	return io.ReadAll(io.LimitReader(in, maxRecord+1))
}

func (f file) write(b []byte) error {
	dir, name := filepath.Split(string(f))
	left, _ := filepath.Glob(filepath.Join(dir, "."+name+"*"))
	for _, path := range left { // by a process that was killed
		os.Remove(path)
	}
	return safefile.Replace(string(f), b, 0o600)
}
