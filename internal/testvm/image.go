package testvm

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

var built sync.Map // output folder → *sync.Once

// Image builds an image of the board with more of the builder's flags, once for the whole test
// run, and returns the folder it lies in: cloudlink.img and the parts of its slot.
func Image(t testing.TB, board, name string, flags ...string) string {
	t.Helper()
	root := Root(t)
	dir := filepath.Join(root, "build", "test", name)
	once, _ := built.LoadOrStore(dir, new(sync.Once))
	once.(*sync.Once).Do(func() {
		args := append([]string{"run", "./firmware", "image", "-board", board, "-o", dir}, flags...)
		run(t, root, nil, "go", args...)
	})
	if _, err := os.Stat(filepath.Join(dir, "cloudlink.img")); err != nil {
		t.Fatalf("the image %s was not built: %v", name, err)
	}
	return dir
}

// Binary builds a program of this module for the device and returns its path.
func Binary(t testing.TB, pkg string) string {
	t.Helper()
	root := Root(t)
	out := filepath.Join(root, "build", "test", "bin", filepath.Base(pkg))
	run(t, root, []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=arm64"},
		"go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, pkg)
	return out
}

// Root is the folder of go.mod.
func Root(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		t.Fatalf("go env: %v", err)
	}
	return filepath.Dir(strings.TrimSpace(string(out)))
}

func run(t testing.TB, dir string, env []string, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
}
