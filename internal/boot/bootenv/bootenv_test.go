package bootenv

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var envs = []Env{
	{Confirmed: A}, {Confirmed: B},
	{Confirmed: A, Trial: B, Tries: 3}, {Confirmed: B, Trial: A}, {Confirmed: A, Trial: B, Tries: MaxTries},
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	for _, want := range envs {
		b, err := want.Encode()
		if err != nil || len(b) != Size {
			t.Fatalf("%+v: %d bytes, %v", want, len(b), err)
		}
		if got, err := Parse(b); got != want || err != nil {
			t.Errorf("%+v is read as %+v, %v", want, got, err)
		}
	}
}

func TestTheLoadersOwnOrderIsRead(t *testing.T) {
	b := []byte(header + "tries=2\nconfirmed=b\ntrial=a\n") // GRUB keeps the order, whatever it is
	b = append(b, bytes.Repeat([]byte("#"), Size-len(b))...)
	if got, err := Parse(b); got != (Env{B, A, 2}) || err != nil {
		t.Errorf("read as %+v, %v", got, err)
	}
}

func TestOtherBytesAreNoBlock(t *testing.T) {
	good, _ := Env{Confirmed: A, Trial: B, Tries: 1}.Encode()
	edit := func(old, new string) []byte {
		b := bytes.Replace(good, []byte(old), []byte(new), 1)
		return append(b, bytes.Repeat([]byte("#"), max(0, Size-len(b)))...)[:Size]
	}
	for name, b := range map[string][]byte{
		"empty": nil, "zeros": make([]byte, Size), "torn off": good[:512], "too long": append(bytes.Clone(good), '#'),
		"first half lost": append(make([]byte, 512), good[512:]...), "no header": edit("# GRUB", "# GRUX"),
		"slot c": edit("confirmed=a", "confirmed=c"), "no confirmed slot": edit("confirmed=a", "confirmed=-"),
		"confirmed missing": edit("confirmed=a\n", ""), "trial missing": edit("trial=b\n", ""), "tries missing": edit("tries=1\n", ""),
		"tries x": edit("tries=1", "tries=x"), "two digits": edit("tries=1", "tries=10"), "no value": edit("tries=1", "tries="),
		"twice": edit("tries=1\n", "tries=1\ntries=2\n"), "no name": edit("trial=b", "trial b"), "trial c": edit("trial=b", "trial=c"),
	} {
		if e, err := Parse(b); !errors.Is(err, ErrNoBlock) {
			t.Errorf("%s: read as %+v, %v", name, e, err)
		}
	}
}

func TestImpossibleEnvironmentsAreNotWritten(t *testing.T) {
	for _, e := range []Env{{}, {Confirmed: "c"}, {Confirmed: A, Trial: "x"}, {Confirmed: A, Tries: -1}, {Confirmed: A, Tries: MaxTries + 1}} {
		if _, err := e.Encode(); err == nil {
			t.Errorf("%+v was encoded", e)
		}
		if err := WriteFile(filepath.Join(t.TempDir(), "env"), e); err == nil {
			t.Errorf("%+v was written", e)
		}
	}
}

// A torn write leaves any mixture of old and new 512-byte sectors, and in the worst case of bytes.
func TestATornWriteLeavesAnEnvironmentThatBoots(t *testing.T) {
	for _, from := range envs {
		for _, to := range envs {
			before, _ := from.Encode()
			after, _ := to.Encode()
			var places []int
			for i := range before {
				if before[i] != after[i] {
					places = append(places, i)
				}
			}
			for mix := range 1 << len(places) {
				b := bytes.Clone(before)
				for bit, at := range places {
					if mix>>bit&1 == 1 {
						b[at] = after[at]
					}
				}
				got, err := Parse(b)
				if err != nil {
					t.Fatalf("between %+v and %+v: %v", from, to, err)
				}
				if got.Confirmed != from.Confirmed && got.Confirmed != to.Confirmed {
					t.Errorf("between %+v and %+v stands %+v", from, to, got)
				}
			}
			if len(places) > 0 && places[len(places)-1] >= 512 {
				t.Errorf("byte %d differs: beyond the first sector", places[len(places)-1])
			}
		}
	}
}

func TestAFileIsWrittenInPlace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "boot.env")
	if _, err := ReadFile(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file is read: %v", err)
	}
	if err := WriteFile(path, Env{Confirmed: A}); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(path, Env{Confirmed: A, Trial: B, Tries: 3}); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(path)
	if err != nil || !os.SameFile(before, after) || after.Size() != Size {
		t.Errorf("it became another file of %d bytes, %v", after.Size(), err)
	}
	if e, err := ReadFile(path); e != (Env{A, B, 3}) || err != nil {
		t.Errorf("read as %+v, %v", e, err)
	}
	if err := os.WriteFile(path, []byte(strings.Repeat("x", 5000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadFile(path); !errors.Is(err, ErrNoBlock) || !strings.Contains(err.Error(), path) {
		t.Errorf("garbage is read: %v", err)
	}
	if err := WriteFile(path, Env{Confirmed: B}); err != nil {
		t.Fatal(err)
	}
	if e, err := ReadFile(path); e != (Env{Confirmed: B}) || err != nil {
		t.Errorf("over garbage: %+v, %v", e, err)
	}
}

func TestTheOtherSlot(t *testing.T) {
	for s, want := range map[Slot]Slot{A: B, B: A, None: None, "x": None} {
		if got := s.Other(); got != want {
			t.Errorf("beside %q is %q, want %q", s, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, e := range envs {
		b, _ := e.Encode()
		f.Add(b)
	}
	f.Add([]byte(header))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := Parse(b)
		if err != nil {
			if !errors.Is(err, ErrNoBlock) || e != (Env{}) {
				t.Fatalf("%+v, %v", e, err)
			}
			return
		}
		again, err := e.Encode()
		if err != nil {
			t.Fatalf("%+v: %v", e, err)
		}
		if got, err := Parse(again); got != e || err != nil {
			t.Fatalf("%+v is read as %+v, %v", e, got, err)
		}
	})
}
