package bootenv

import (
	"bytes"
	"errors"
	"io/fs"
	"path/filepath"
	"testing"
)

func TestTheFloorIsReadAsItWasWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "floor")
	if _, err := ReadFloor(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of none: %v", err)
	}
	for _, v := range []string{"1.0.0", "2.10.3-dev.5+gabc1234", "1.0.0"} {
		if err := WriteFloor(path, v); err != nil {
			t.Fatal(err)
		}
		if got, err := ReadFloor(path); got != v || err != nil {
			t.Errorf("%s is read as %q, %v", v, got, err)
		}
	}
	if err := WriteFloor(path, "no version"); err == nil {
		t.Error("what is no version is written")
	}
}

func FuzzParseFloor(f *testing.F) {
	good, err := EncodeFloor("1.2.3")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:100])
	f.Add(bytes.Replace(good, []byte("1.2.3"), []byte("1.2.4"), 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := ParseFloor(b)
		if err != nil {
			return
		}
		if again, err := EncodeFloor(v); err != nil || !bytes.Equal(again, b) {
			t.Errorf("%q is taken for the record of %q, %v", b, v, err)
		}
	})
}
