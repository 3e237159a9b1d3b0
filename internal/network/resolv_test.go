package network

import (
	"os"
	"path/filepath"
	"testing"
)

func TestReplacesAFileWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	for _, content := range []string{"one", "a longer one", "", "one"} {
		if err := replaceFile(path, []byte(content)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != content {
			t.Errorf("read %q, %v, want %q", got, err, content)
		}
	}
	if err := replaceFile(filepath.Join(path, "below", "a", "file"), nil); err == nil {
		t.Error("no error where there is no folder")
	}
}
