package data

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestACopyKeepsSettingsBeforeLogsAndToItsBound(t *testing.T) {
	src, dst := t.TempDir(), t.TempDir()
	put := func(name string, size int) {
		t.Helper()
		path := filepath.Join(src, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, make([]byte, size), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	put("log/current.log", 600)
	put("portal/users", 300)
	put("portal/huge", 5000)
	put("zone/settings", 200)
	put(setAside+"/old/files/x", 10)
	put(lost+"/y", 10)
	if err := errors.Join(os.Symlink("/etc/passwd", filepath.Join(src, "portal/link")), unix.Mkfifo(filepath.Join(src, "portal/fifo"), 0o600)); err != nil {
		t.Fatal(err)
	}
	got := copyTree(src, dst, 1000)
	if want := (copied{files: 2, bytes: 500, left: 2}); got != want { // the log does not fit any more
		t.Errorf("copied %+v, want %+v", got, want)
	}
	var names []string
	filepath.Walk(dst, func(path string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() {
			names = append(names, strings.TrimPrefix(path, dst))
		}
		return err
	})
	if want := "/portal/users /zone/settings"; strings.Join(names, " ") != want {
		t.Errorf("copied %v, want %s", names, want)
	}
}
