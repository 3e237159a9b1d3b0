package image_test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/firmware/image"
	"cloudlink.local/gateway/firmware/keys"
	"cloudlink.local/gateway/internal/release"
	"cloudlink.local/gateway/internal/testvm"
)

var buildTime = time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)

// Two builds from the same inputs, in source trees at different places, are the same bytes; and the
// tools of the trade find nothing wrong with them.
func TestSameInputsSameBytes(t *testing.T) {
	keySet := newKeys(t)
	build := func() string {
		src := copyTree(t)
		out, err := image.Build(context.Background(), image.Options{
			Root: src, Board: "uefi-arm64", Keys: keySet, Version: "1.2.3", BuildTime: buildTime, Log: t.Logf,
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	a, b := build(), build()
	names, err := os.ReadDir(a)
	if err != nil || len(names) < 10 {
		t.Fatalf("output: %v, %v", names, err)
	}
	for _, n := range names {
		left, err := os.ReadFile(filepath.Join(a, n.Name()))
		if err != nil {
			t.Fatal(err)
		}
		right, err := os.ReadFile(filepath.Join(b, n.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(left, right) {
			t.Errorf("%s differs between two builds", n.Name())
		}
	}

	disk := filepath.Join(a, image.Disk)
	if out := tool(t, "sgdisk", "-v", disk); !strings.Contains(out, "No problems found") {
		t.Errorf("partition table: %s", out)
	}
	for _, label := range []string{"esp", "slot-a", "slot-b", "data"} {
		part := partition(t, disk, label)
		if label == "data" {
			tool(t, "e2fsck", "-fn", part)
		} else {
			tool(t, "fsck.fat", "-n", part)
		}
	}
	tool(t, "gpgv", "--keyring", filepath.Join(keySet, keys.BootPublic), filepath.Join(a, image.Signature), filepath.Join(a, image.UKI))
	for _, signed := range []string{image.Loader, image.UKI} {
		tool(t, "sbverify", "--cert", filepath.Join(keySet, keys.SecureBootCert), filepath.Join(a, signed))
	}
}

func TestBadInputGetsOneClearLineAndLeavesNothing(t *testing.T) {
	root := testvm.Root(t)
	good := newKeys(t)
	for _, c := range []struct {
		name  string
		want  []string // words of the error
		build func(t *testing.T, o *image.Options)
	}{
		{"unknown board", []string{"nonsense", "qemu-virt", "uefi-arm64"}, func(_ *testing.T, o *image.Options) {
			o.Board = "nonsense"
		}},
		{"board outside its folder", []string{"../../etc"}, func(_ *testing.T, o *image.Options) {
			o.Board = "../../etc"
		}},
		{"missing key", []string{keys.BootKey, "keys init"}, func(t *testing.T, o *image.Options) {
			o.Keys = filepath.Join(t.TempDir(), "keys")
			if err := os.CopyFS(o.Keys, os.DirFS(good)); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(filepath.Join(o.Keys, keys.BootKey)); err != nil {
				t.Fatal(err)
			}
		}},
		{"no key set", []string{"keys init"}, func(t *testing.T, o *image.Options) {
			o.Keys = filepath.Join(t.TempDir(), "none")
		}},
		{"missing program", []string{"no-such-init"}, func(_ *testing.T, o *image.Options) {
			o.Init = "no-such-init"
		}},
		{"full disk", []string{"no space left on device"}, func(t *testing.T, o *image.Options) {
			small := t.TempDir()
			if err := unix.Mount("none", small, "tmpfs", 0, "size=8m"); err != nil {
				t.Fatalf("mount a small disk (the tests run as root): %v", err)
			}
			t.Cleanup(func() { unix.Unmount(small, 0) })
			o.Out = filepath.Join(small, "out")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := image.Options{
				Root: root, Board: "qemu-virt", Keys: good, Version: "1.2.3", BuildTime: buildTime,
				Out: filepath.Join(t.TempDir(), "out"), Log: t.Logf,
			}
			c.build(t, &o)
			_, err := image.Build(context.Background(), o)
			if err == nil {
				t.Fatal("it was built")
			}
			if strings.Contains(strings.TrimSpace(err.Error()), "\n") {
				t.Errorf("more than one line: %v", err)
			}
			for _, word := range c.want {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("%v: %q is missing", err, word)
				}
			}
			if left, err := os.ReadDir(filepath.Dir(o.Out)); err != nil || len(left) != 0 {
				t.Errorf("left behind: %v %v", left, err)
			}
		})
	}
}

func newKeys(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "keys")
	if err := keys.Init(dir, keys.Options{Kind: release.Production, Now: buildTime}); err != nil {
		t.Fatal(err)
	}
	return dir
}

// copyTree copies the source tree, what git does not track left out, and the cache of packages that
// were downloaded.
func copyTree(t *testing.T) string {
	t.Helper()
	root, dst := testvm.Root(t), filepath.Join(t.TempDir(), "src")
	cmd := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	cmd.Dir = root
	list, err := cmd.Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	files := strings.Split(strings.TrimSuffix(string(list), "\x00"), "\x00")
	cache := filepath.Join(root, "build", "cache", "debian")
	err = filepath.WalkDir(cache, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(root, path)
		files = append(files, rel)
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, name := range files {
		info, err := os.Lstat(filepath.Join(root, name))
		if os.IsNotExist(err) {
			continue // deleted and not yet committed
		}
		if err != nil {
			t.Fatal(err)
		}
		if !info.Mode().IsRegular() {
			t.Fatalf("%s is no regular file", name)
		}
		b, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(dst, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, b, info.Mode().Perm()); err != nil {
			t.Fatal(err)
		}
	}
	return dst
}

func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Errorf("%s %s (scripts/setup test installs it): %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// partition copies a partition of the image into a file of its own.
func partition(t *testing.T, disk, label string) string {
	t.Helper()
	dump := tool(t, "sfdisk", "--dump", disk)
	for line := range strings.Lines(dump) {
		if !strings.Contains(line, fmt.Sprintf("name=%q", label)) {
			continue
		}
		var start, size int64
		fields := strings.NewReplacer("start=", "", "size=", "", ",", "").Replace(line[strings.Index(line, "start="):])
		if n, err := fmt.Sscan(fields, &start, &size); n != 2 {
			t.Fatalf("sfdisk: %q: %v", line, err)
		}
		f, err := os.Open(disk)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		b := make([]byte, size*512)
		if _, err := f.ReadAt(b, start*512); err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(t.TempDir(), label)
		if err := os.WriteFile(out, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return out
	}
	t.Fatalf("no partition %s:\n%s", label, dump)
	return ""
}
