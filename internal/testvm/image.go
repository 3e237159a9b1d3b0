package testvm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

var built sync.Map // output folder → what builds it once

// Image builds an image of the board with more of the builder's flags, once for the whole test
// run, and returns the folder it lies in: cloudlink.img and the parts of its slot.
func Image(t testing.TB, board, name string, flags ...string) string {
	t.Helper()
	dir, err := BuildImage(board, name, flags...)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// BuildImage is Image for where there is no test yet.
func BuildImage(board, name string, flags ...string) (dir string, err error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	dir = filepath.Join(root, "build", "test", name)
	build, _ := built.LoadOrStore(dir, sync.OnceValue(func() error {
		args := append([]string{"run", "./firmware", "image", "-board", board, "-o", dir}, flags...)
		return run(root, nil, "go", args...)
	}))
	return dir, build.(func() error)()
}

// Binary builds a program of this module for the device and returns its path.
func Binary(t testing.TB, pkg string) string {
	t.Helper()
	root := Root(t)
	out := filepath.Join(root, "build", "test", "bin", filepath.Base(pkg))
	if err := run(root, []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=arm64"},
		"go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, pkg); err != nil {
		t.Fatal(err)
	}
	return out
}

// Root is the folder of go.mod.
func Root(t testing.TB) string {
	t.Helper()
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func moduleRoot() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(out))), nil
}

func mustRun(t testing.TB, dir, name string, args ...string) {
	t.Helper()
	if err := run(dir, nil, name, args...); err != nil {
		t.Fatal(err)
	}
}

func run(dir string, env []string, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return nil
}
