package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"cloudlink.local/gateway/firmware/keys"
	"cloudlink.local/gateway/internal/release"
)

var when = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func newKeys(t *testing.T, kind release.Keys) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "keys")
	if err := keys.Init(dir, keys.Options{Kind: kind, Now: when}); err != nil {
		t.Fatal(err)
	}
	return dir
}

// command runs the firmware program in a source tree and returns what it says.
func command(t *testing.T, tree string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command("go", append([]string{"run", "./firmware"}, args...)...)
	cmd.Dir = tree
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func sha(t *testing.T, file string) string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// copyTree copies what git knows or would add, and the packages fetched already.
func copyTree(t *testing.T) string {
	t.Helper()
	from, to := root(t), filepath.Join(t.TempDir(), "tree")
	list := exec.Command("git", "-C", from, "ls-files", "-z", "-c", "-o", "--exclude-standard")
	out, err := list.Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	names := strings.Split(strings.TrimRight(string(out), "\x00"), "\x00")
	packages, err := filepath.Glob(filepath.Join(from, "build", "cache", "debian", "*.deb"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range packages {
		rel, err := filepath.Rel(from, p)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, rel)
	}
	for _, name := range names {
		info, err := os.Lstat(filepath.Join(from, name))
		if err != nil || !info.Mode().IsRegular() {
			continue // removed but not committed so, or a link
		}
		b, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			t.Fatal(err)
		}
		dst := filepath.Join(to, name)
		if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dst, b, info.Mode().Perm()); err != nil {
			t.Fatal(err)
		}
	}
	return to
}

// Everything about a whole image that needs no machine to run it. It is built in two copies of the
// tree at different places, so that no path can be in it; copies hold still while somebody edits.
func TestImage(t *testing.T) {
	set := newKeys(t, release.Production)
	build := func(t *testing.T, tree, out string) string {
		t.Helper()
		said, err := command(t, tree, "image", "-board", "uefi-arm64", "-keys", set, "-o", out,
			"-version", "1.2.3", "-build-time", when.Format(time.RFC3339))
		if err != nil {
			t.Fatalf("build: %v\n%s", err, said)
		}
		return said
	}
	tree, elsewhere := copyTree(t), filepath.Join(t.TempDir(), "elsewhere")
	if err := os.CopyFS(elsewhere, os.DirFS(tree)); err != nil {
		t.Fatal(err)
	}
	// One of them need not build the console's commands again; the other shares nothing.
	const commands = "build/cache/initramfs"
	if cached := filepath.Join(root(t), commands); isDir(cached) {
		if err := os.CopyFS(filepath.Join(tree, commands), os.DirFS(cached)); err != nil {
			t.Fatal(err)
		}
	}
	first, second := filepath.Join(t.TempDir(), "out"), filepath.Join(t.TempDir(), "out")
	build(t, tree, first)

	t.Run("what is up to date is not built again", func(t *testing.T) {
		before, err := os.Stat(filepath.Join(first, Disk))
		if err != nil {
			t.Fatal(err)
		}
		if said := build(t, tree, first); !strings.Contains(said, "up to date") {
			t.Errorf("it says:\n%s", said)
		}
		after, err := os.Stat(filepath.Join(first, Disk))
		if err != nil || !after.ModTime().Equal(before.ModTime()) {
			t.Errorf("it was written again (%v)", err)
		}
	})
	t.Run("no half-built folder is taken for whole", func(t *testing.T) {
		if err := os.Remove(filepath.Join(first, Signature)); err != nil {
			t.Fatal(err)
		}
		if said := build(t, tree, first); strings.Contains(said, "up to date") {
			t.Errorf("it says:\n%s", said)
		}
	})
	t.Run("the same inputs give the same bytes", func(t *testing.T) {
		build(t, elsewhere, second)
		entries, err := os.ReadDir(first)
		if err != nil {
			t.Fatal(err)
		}
		names := []string{}
		for _, e := range entries {
			names = append(names, e.Name())
			if sha(t, filepath.Join(first, e.Name())) != sha(t, filepath.Join(second, e.Name())) {
				t.Errorf("%s differs", e.Name())
			}
		}
		const want = "cloudlink.img cloudlink.img.bmap cloudlink.img.gz cloudlink.lock.json cloudlink.sbom.json " +
			"grub.efi initramfs.cpio.zst inputs.sha256 linux.efi linux.efi.sig manifest.json"
		if got := strings.Join(names, " "); got != want {
			t.Errorf("files:\n%s\nwant:\n%s", got, want)
		}
	})
	t.Run("the manifest tells the truth", func(t *testing.T) {
		b, err := os.ReadFile(filepath.Join(first, Manifest))
		if err != nil {
			t.Fatal(err)
		}
		var m release.Manifest
		if err := json.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		want := release.Release{Product: release.Product, Board: "uefi-arm64", Version: "1.2.3", BuildTime: when, Keys: release.Production}
		if m.Release != want || len(m.Files) != 2 {
			t.Errorf("manifest %+v", m)
		}
		for _, f := range m.Files {
			info, err := os.Stat(filepath.Join(first, f.Name))
			if err != nil || info.Size() != f.Size || sha(t, filepath.Join(first, f.Name)) != f.SHA256 {
				t.Errorf("%s is not as the manifest says (%v)", f.Name, err)
			}
		}
	})
	t.Run("the device learns whose updates to believe", func(t *testing.T) {
		s, err := keys.Load(set)
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(filepath.Join(first, Initramfs))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		z, err := zstd.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		defer z.Close()
		if plain, err := io.ReadAll(z); err != nil || !bytes.Contains(plain, s.Updates.Factory()) {
			t.Errorf("the initramfs has not the set's root metadata (%v)", err)
		}
	})
	t.Run("signatures are good", func(t *testing.T) {
		s, err := keys.Load(set)
		if err != nil {
			t.Fatal(err)
		}
		pub, cert := filepath.Join(t.TempDir(), "pub"), filepath.Join(t.TempDir(), "cert")
		certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate.Raw})
		if err := os.WriteFile(pub, s.BootPublic, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(cert, certPEM, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{
			{"gpgv", "--keyring", pub, filepath.Join(first, Signature), filepath.Join(first, UKI)},
			{"sbverify", "--cert", cert, filepath.Join(first, UKI)},
			{"sbverify", "--cert", cert, filepath.Join(first, Loader)},
		} {
			if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil || bytes.Contains(out, []byte("warning")) {
				t.Errorf("%s (scripts/setup test installs it): %v\n%s", strings.Join(args, " "), err, out)
			}
		}
	})
	t.Run("the disk holds what lies beside it", func(t *testing.T) {
		for place, file := range map[string]string{
			"16777216 EFI/BOOT/BOOTAA64.EFI": Loader,
			"50331648 " + UKI:                UKI, "50331648 " + Signature: Signature, "50331648 " + Manifest: Manifest,
			"117440512 " + UKI: UKI, "117440512 " + Signature: Signature, "117440512 " + Manifest: Manifest,
		} {
			offset, name, _ := strings.Cut(place, " ")
			got, err := exec.Command("mtype", "-i", filepath.Join(first, Disk)+"@@"+offset, "::/"+name).Output()
			want, readErr := os.ReadFile(filepath.Join(first, file))
			if err != nil || readErr != nil || !bytes.Equal(got, want) {
				t.Errorf("%s at %s differs from %s (%v, %v)", name, offset, file, err, readErr)
			}
		}
	})
	t.Run("the lock names the inputs", func(t *testing.T) {
		b, err := os.ReadFile(filepath.Join(first, Lock))
		if err != nil {
			t.Fatal(err)
		}
		var l lockFile
		if err := json.Unmarshal(b, &l); err != nil {
			t.Fatal(err)
		}
		if len(l.Debian) != 2 || l.Debian[0].Name != "grub-efi-arm64-bin" || l.Debian[1].Name != "systemd-boot-efi" ||
			l.KernelSHA256 != sha(t, filepath.Join(tree, kernelPath)) || len(l.HostTools) != len(tools) {
			t.Errorf("lock:\n%s", b)
		}
		if bytes.Contains(b, []byte(tree)) {
			t.Error("a path of this machine is in it")
		}
	})
}

func TestBadInputIsNamedInOneLine(t *testing.T) {
	set := newKeys(t, release.Development)
	damaged := newKeys(t, release.Development)
	if err := os.Remove(filepath.Join(damaged, keys.BootKey)); err != nil {
		t.Fatal(err)
	}
	letters := t.TempDir()
	if err := os.WriteFile(filepath.Join(letters, "letter.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change func(*Options)
		want   []string
	}{
		{"unknown board", func(o *Options) { o.Board = "toaster" }, []string{`"toaster"`, "qemu-virt", "uefi-arm64"}},
		{"board outside of its folder", func(o *Options) { o.Board = "../../etc" }, []string{`"../../etc"`, "qemu-virt"}},
		{"no keys", func(o *Options) { o.Keys = "/nowhere/keys" }, []string{"/nowhere/keys/keyset.json", "keys init"}},
		{"one key is missing", func(o *Options) { o.Keys = damaged }, []string{keys.BootKey, "keys init"}},
		{"no kernel", func(o *Options) { o.Kernel = "/nowhere/vmlinuz" }, []string{"/nowhere/vmlinuz", "make kernel"}},
		{"no init", func(o *Options) { o.Init = "/nowhere/init" }, []string{"/nowhere/init", "GOARCH=arm64"}},
		{"init of another machine", func(o *Options) { o.Init = os.Args[0] }, []string{os.Args[0], "GOARCH=arm64"}},
		{"kernel that is none", func(o *Options) { o.Kernel = "image_test.go" }, []string{"not an EFI program"}},
		{"output folder in use", func(o *Options) { o.Out = letters }, []string{letters, "holds other files"}},
		{"output folder is a file", func(o *Options) { o.Out = filepath.Join(letters, "letter.txt") }, []string{"letter.txt"}},
		{"version", func(o *Options) { o.Version = "one\ntwo" }, []string{"version"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			parent := t.TempDir()
			o := Options{
				Root: root(t), Board: "qemu-virt", Keys: set, Out: filepath.Join(parent, "out"),
				Version: "1.0.0", BuildTime: when, Log: t.Logf,
			}
			c.change(&o)
			_, err := Build(context.Background(), o)
			if err == nil {
				t.Fatal("built")
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%v: want %q in it", err, w)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %v", err)
			}
			if left, _ := os.ReadDir(parent); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// testInit builds a program that can be the whole user space.
func testInit(t *testing.T) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "init")
	cmd := exec.Command("go", "build", "-trimpath", "-o", out, "./testdata/init")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=arm64")
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, said)
	}
	return out
}

// The disk is a small tmpfs in a mount namespace of the program's own.
func TestFullDiskLeavesNothing(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "firmware")
	if said, err := exec.Command("go", "build", "-o", bin, "..").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, said)
	}
	const script = `mount -t tmpfs -o size=12m small "$1" && shift && "$@"; status=$?; ls -A "$DIR"; exit $status`
	dir := t.TempDir()
	cmd := exec.Command("sh", "-c", script, "sh", dir, bin, "image", "-board", "qemu-virt", "-keys", newKeys(t, release.Development),
		"-init", testInit(t), "-o", filepath.Join(dir, "out"), "-version", "1.0.0")
	cmd.Dir = root(t)
	cmd.Env = append(os.Environ(), "DIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err == nil {
		t.Fatal("an image was built on a full disk")
	}
	lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
	last := lines[len(lines)-1]
	if !strings.Contains(strings.ToLower(last), "no space left on device") || !strings.HasPrefix(last, "firmware: ") {
		t.Errorf("it says:\n%s", stderr.String())
	}
	if stdout.Len() > 0 {
		t.Errorf("left behind:\n%s", stdout.String())
	}
}

func TestBareImageHasNoMore(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	init := testInit(t)
	_, err := Build(context.Background(), Options{
		Root: root(t), Board: "qemu-virt", Keys: newKeys(t, release.Development), Out: out, Init: init,
		Version: "1.0.0", BuildTime: when, Log: t.Logf,
	})
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(out, Initramfs)); err != nil || info.Size() > 2<<20 {
		t.Errorf("initramfs: %v, %v", info, err)
	}
	if _, err := os.Stat(filepath.Join(out, SBOM)); err == nil {
		t.Error("a bare image has a bill of materials")
	}
}

func TestLockedBuildsTakeNothingElse(t *testing.T) {
	tree := t.TempDir()
	if err := os.MkdirAll(filepath.Join(tree, filepath.Dir(lockPath)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, lockPath), []byte(`{"packages": []}`), 0o600); err != nil {
		t.Fatal(err)
	}
	b := &builder{Options: Options{Root: tree, Locked: true, Log: t.Logf}, cache: t.TempDir()}
	if err := b.fetch(context.Background()); err == nil || !strings.Contains(err.Error(), "lock update") || !strings.Contains(err.Error(), "grub-efi-arm64-bin") {
		t.Errorf("a package that the lock does not name: %v", err)
	}
}

func TestVersions(t *testing.T) {
	for describe, want := range map[string]string{
		"v1.2.3-0-gabc1234":            "1.2.3",
		"v1.2.3-0-gabc1234-dirty":      "1.2.3+dirty",
		"v1.2.3-4-gabc1234":            "1.2.4-dev.4+gabc1234",
		"v1.2.3-4-gabc1234-dirty":      "1.2.4-dev.4+gabc1234.dirty",
		"v1.3.0-rc.1-0-gabc1234":       "1.3.0-rc.1",
		"v1.3.0-rc.1-4-gabc1234-dirty": "1.3.0-rc.1.dev.4+gabc1234.dirty",
		"abc1234":                      "0.0.0-dev.250+gabc1234",
		"abc1234-dirty":                "0.0.0-dev.250+gabc1234.dirty",
	} {
		got := versionFrom(describe, "250")
		if got != want {
			t.Errorf("%s becomes %s, want %s", describe, got, want)
		}
		if err := release.CheckVersion(got); err != nil {
			t.Error(err)
		}
	}
}
