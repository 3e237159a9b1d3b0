package trust

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cloudlink.local/gateway/firmware/publish/publishtest"
	"cloudlink.local/gateway/internal/release"
	"cloudlink.local/gateway/internal/update/bundle"
)

// A fuzzSource is a repository in memory.
type fuzzSource map[string][]byte

func (s fuzzSource) metadata(_ context.Context, name string, most int64) ([]byte, error) {
	b, ok := s[name]
	if !ok {
		return nil, &Error{Reason: NoAnswer, Status: http.StatusNotFound, Err: os.ErrNotExist}
	}
	if int64(len(b)) > most {
		return nil, failf(TooLarge, "%s", name)
	}
	return b, nil
}

func (fuzzSource) locate(path string, _ int64, _ string) string { return path }
func (fuzzSource) live() bool                                   { return true }

// fuzzed is a repository with one release, and the device that wants it.
type fuzzed struct {
	root   []byte
	files  map[string][]byte
	sum    string
	device Device
	now    func() time.Time
}

func fuzzWorld(f *testing.F) fuzzed {
	f.Helper()
	repo := publishtest.New(f)
	w := fuzzed{
		root: repo.Root(), files: map[string][]byte{},
		device: Device{Product: release.Product, Board: "qemu-virt", Version: "1.0.0", Channel: bundle.Stable},
		now:    func() time.Time { return publishtest.Began },
	}
	repo.Rotate("timestamp")
	repo.Publish("1.1.0", nil)
	names, err := filepath.Glob(filepath.Join(repo.Dir, "metadata", "*.json"))
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		w.files[filepath.Base(name)] = b
	}
	c := &Client{Root: w.root, Dir: f.TempDir(), Source: fuzzSource(w.files), Now: w.now, Log: quiet}
	offer, err := c.Check(f.Context(), w.device)
	if err != nil {
		f.Fatal(err)
	}
	w.sum = offer.Full.SHA256
	return w
}
