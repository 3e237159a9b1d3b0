// Package bootenv reads and writes the boot loader's environment block: which slot is confirmed,
// which one is on trial and how many tries it has left.
//
// The block is GRUB's: 1024 bytes, "# GRUB Environment Block\n", NAME=VALUE lines, '#' to the end.
// Every value is one byte wide and stands at a fixed place in the first 512-byte sector, so that
// a new block differs from the old one only in those bytes, and every mixture of old and new
// that a torn write can leave is itself a block that boots a good slot.
package bootenv

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Size of a block in bytes, fixed by GRUB.
const Size = 1024

// The two copies on the ESP. GRUB reads the first that is whole, and saves to both.
const (
	File   = "cloudlink/boot.env"
	Backup = "cloudlink/boot.bak"
)

// A Slot is one of the two places that hold an operating system; "" is none.
type Slot string

// The slots, as their partitions are called: slot-a, slot-b.
const (
	None Slot = ""
	A    Slot = "a"
	B    Slot = "b"
)

// Other returns the slot beside s.
func (s Slot) Other() Slot {
	switch s {
	case A:
		return B
	case B:
		return A
	}
	return None
}

// MaxTries is the most that fits the block's one digit.
const MaxTries = 9

// An Env is what the loader decides by.
type Env struct {
	Confirmed Slot // boots without a counter
	Trial     Slot // boots while Tries > 0; each try is counted down before it is loaded
	Tries     int  // 0 to MaxTries
}

const header = "# GRUB Environment Block\n"

// ErrNoBlock says that the bytes are not an environment block of ours: missing, torn or foreign.
var ErrNoBlock = errors.New("not an environment block")

// Encode returns the block for e.
func (e Env) Encode() ([]byte, error) {
	if e.Confirmed != A && e.Confirmed != B {
		return nil, fmt.Errorf("confirmed slot %q: want a or b", e.Confirmed)
	}
	if e.Trial != None && e.Trial != A && e.Trial != B {
		return nil, fmt.Errorf("trial slot %q: want a, b or none", e.Trial)
	}
	if e.Tries < 0 || e.Tries > MaxTries {
		return nil, fmt.Errorf("tries %d: want 0 to %d", e.Tries, MaxTries)
	}
	trial := e.Trial
	if trial == None {
		trial = "-"
	}
	b := fmt.Appendf(nil, "%sconfirmed=%s\ntrial=%s\ntries=%d\n", header, e.Confirmed, trial, e.Tries)
	return append(b, bytes.Repeat([]byte("#"), Size-len(b))...), nil
}

// Parse reads a block. It wants just what Encode writes, whatever the order of the lines.
func Parse(b []byte) (Env, error) {
	var e Env
	if len(b) != Size || !bytes.HasPrefix(b, []byte(header)) {
		return e, ErrNoBlock
	}
	seen := map[string]string{}
	for line := range bytes.Lines(b[len(header):]) {
		if line[0] == '#' { // padding has no line end
			break
		}
		name, value, ok := bytes.Cut(bytes.TrimSuffix(line, []byte("\n")), []byte("="))
		if _, again := seen[string(name)]; !ok || again || len(value) != 1 {
			return e, fmt.Errorf("%w: line %q", ErrNoBlock, line)
		}
		seen[string(name)] = string(value)
	}
	e.Confirmed = Slot(seen["confirmed"])
	if e.Trial = Slot(seen["trial"]); e.Trial == "-" {
		e.Trial = None
	} else if e.Trial == None {
		return Env{}, fmt.Errorf("%w: trial is missing", ErrNoBlock)
	}
	if n := seen["tries"]; len(n) == 1 && n[0] >= '0' && n[0] <= '9' {
		e.Tries = int(n[0] - '0')
	} else {
		return Env{}, fmt.Errorf("%w: tries %q", ErrNoBlock, n)
	}
	if _, err := e.Encode(); err != nil {
		return Env{}, fmt.Errorf("%w: %w", ErrNoBlock, err)
	}
	return e, nil
}

// ReadFile reads the block in the file at path.
func ReadFile(path string) (Env, error) { return readRecord(path, Size, Parse) }

// WriteFile writes e over the block at path, to the medium before it returns.
func WriteFile(path string, e Env) error {
	b, err := e.Encode()
	if err != nil {
		return err
	}
	return overwrite(path, b)
}

// readRecord reads the file at path, which should have size bytes, and has parse say what is in it.
func readRecord[T any](path string, size int64, parse func([]byte) (T, error)) (record T, err error) {
	f, err := os.Open(path)
	if err != nil {
		return record, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, size+1)) // a foreign file may be large
	if err != nil {
		return record, err
	}
	found, err := parse(b)
	if err != nil {
		return record, fmt.Errorf("%s: %w", path, err)
	}
	return found, nil
}

// overwrite makes b the content of the file at path: in place where the file has its size already (a FAT
// rename is not atomic, an overwritten sector is), and on the medium before it returns.
func overwrite(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(b, 0); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := f.Truncate(int64(len(b))); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := unix.Fdatasync(int(f.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	return f.Close()
}
