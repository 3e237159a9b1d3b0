package run

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/qemu"
)

func wantError(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("it says nothing of %q: %v", w, err)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("several lines: %v", err)
	}
}

func makeImage(t *testing.T) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "cloudlink.img")
	if err := os.WriteFile(image, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	return image
}

func TestCheck(t *testing.T) {
	port, err := qemu.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Image: makeImage(t), Port: port}
	if err := Check(o); err != nil {
		t.Errorf("nothing in the way: %v", err)
	}
	if _, err := os.Stat(o.dir()); err == nil {
		t.Error("looking made a folder")
	}

	if err := os.Mkdir(o.dir(), 0o700); err != nil {
		t.Fatal(err)
	}
	unlock, err := lock(o.dir())
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, Check(o), "running already", "Ctrl-C")
	unlock()
	if err := Check(o); err != nil {
		t.Errorf("after the other run: %v", err)
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	o.Port = l.Addr().(*net.TCPAddr).Port
	wantError(t, Check(o), "in use", "PORT=")
	wantError(t, Run(t.Context(), o), "in use", "PORT=")
}

// A second run must not touch the disk of the first.
func TestTheDiskOfARunningMachineIsLeftAlone(t *testing.T) {
	port, err := qemu.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Image: makeImage(t), Port: port}
	if err := os.Mkdir(o.dir(), 0o700); err != nil {
		t.Fatal(err)
	}
	unlock, err := lock(o.dir())
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	disk := filepath.Join(o.dir(), "disk.img")
	if err := os.WriteFile(disk, []byte("in use"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantError(t, Run(t.Context(), o), "running already")
	if b, err := os.ReadFile(disk); err != nil || string(b) != "in use" {
		t.Errorf("the disk has %d other bytes (%v)", len(b), err)
	}
}

func TestPrepareKeepsTheDiskUntilTheImageChanges(t *testing.T) {
	image := makeImage(t)
	dir := t.TempDir()
	disk := filepath.Join(dir, "disk.img")
	prepared := func() string {
		t.Helper()
		if err := prepare(dir, image); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(disk)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if got := prepared(); len(got) != 1<<20 {
		t.Errorf("the disk has %d bytes", len(got))
	}
	if err := os.WriteFile(disk, []byte("settings"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := prepared(); got != "settings" {
		t.Errorf("a second run made a new disk of %d bytes", len(got))
	}
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(image, later, later); err != nil {
		t.Fatal(err)
	}
	if got := prepared(); len(got) != 1<<20 {
		t.Errorf("a new image: the disk has %d bytes", len(got))
	}
}

func TestNoHalfDiskIsLeftWhereItIsFull(t *testing.T) {
	image := filepath.Join(t.TempDir(), "cloudlink.img")
	if err := os.WriteFile(image, []byte(strings.Repeat("data", 1<<18)), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatalf("mount (needs root): %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	wantError(t, prepare(dir, image), "copy the image", "no space left")
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v (%v)", entries, err)
	}
}
