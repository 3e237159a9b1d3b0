package safefile

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOnlyRegularFilesOfASizeAreRead(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(path("good"), []byte("seven b"), 0o600))
	must(os.WriteFile(path("long"), []byte("eight by"), 0o600))
	must(os.WriteFile(path("huge"), nil, 0o600))
	must(os.Truncate(path("huge"), 1<<40))
	must(unix.Mkfifo(path("pipe"), 0o600))
	must(os.Symlink(path("good"), path("link")))
	must(os.Mkdir(path("dir"), 0o700))
	if b, err := Read(path("good"), 7); err != nil || string(b) != "seven b" {
		t.Errorf("%q, %v", b, err)
	}
	for _, name := range []string{"long", "huge", "pipe", "link", "dir", "none"} {
		if b, err := Read(path(name), 7); err == nil {
			t.Errorf("%s was read: %q", name, b)
		}
	}
	for name, want := range map[string][2]bool{ // whether it is there after Clear as a file, and as a directory
		"good": {true, false}, "pipe": {false, false}, "link": {false, false}, "dir": {false, true}, "none": {false, false},
	} {
		for i, dirWanted := range []bool{false, true} {
			if name == "good" && dirWanted || name == "dir" && !dirWanted {
				continue // it would be gone for the other
			}
			must(Clear(path(name), dirWanted))
			if _, err := os.Lstat(path(name)); (err == nil) != want[i] {
				t.Errorf("%s, wanted as a directory %v: %v", name, dirWanted, err)
			}
		}
	}
	must(Clear(path("good"), true))
	must(Clear(path("dir"), false))
	for _, name := range []string{"good", "dir"} {
		if _, err := os.Lstat(path(name)); err == nil {
			t.Errorf("%s is in the way still", name)
		}
	}
}

func TestReplaceLeavesOneFileAsItWasAskedFor(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "record")
	for _, want := range []string{"old", "new", ""} {
		if err := Replace(path, []byte(want), 0o640); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o640 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err := Replace(filepath.Join(dir, "none", "record"), nil, 0o600); err == nil {
		t.Error("in a folder that is not there")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
}
