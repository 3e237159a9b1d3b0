package initramfs

import (
	"bytes"
	"compress/gzip"
	"crypto/x509"
	"debug/buildinfo"
	"debug/elf"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/mkuimage/cpio"

	"cloudlink.local/gateway/internal/release"
)

var testRelease = release.Release{
	Product: release.Product, Board: "qemu-virt", Version: "1.2.3",
	BuildTime: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC), Keys: release.Development,
}

func build(t *testing.T, workDir string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "initramfs.cpio.zst")
	err := Build(t.Context(), Options{
		Release: testRelease, UpdateRoot: []byte("{}"), EmptyData: gz("data"), Notices: gz("notices"), Out: out, WorkDir: workDir, Log: t.Logf,
	})
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func gz(s string) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	io.WriteString(w, s)
	w.Close()
	return b.Bytes()
}

// unpack reads the archive as the kernel does, which allots no more than 8 MiB to the window.
func unpack(t *testing.T, b []byte) (names []string, files map[string]cpio.Record, size int) {
	t.Helper()
	z, err := zstd.NewReader(bytes.NewReader(b), zstd.WithDecoderMaxWindow(8<<20))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	plain, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(plain)))
	if err != nil {
		t.Fatal(err)
	}
	files = make(map[string]cpio.Record)
	for _, r := range records {
		names = append(names, r.Name)
		files[r.Name] = r
	}
	return names, files, len(plain)
}

func content(t *testing.T, r cpio.Record) []byte {
	t.Helper()
	b, err := io.ReadAll(io.NewSectionReader(r, 0, int64(r.FileSize)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Both builds start without a kept copy of the commands, and in different places.
func TestTwoBuildsAreTheSameBytes(t *testing.T) {
	one, two := build(t, t.TempDir()), build(t, t.TempDir())
	if !bytes.Equal(one, two) {
		t.Fatalf("two builds differ: %d and %d bytes", len(one), len(two))
	}

	names, files, size := unpack(t, one)
	t.Logf("%d bytes packed, %d unpacked", len(one), size)
	for _, name := range names {
		if r := files[name]; r.FileSize > 4096 {
			t.Logf("%9d %s", r.FileSize, name)
		}
	}
	if len(one) > 8<<20 {
		t.Errorf("%d bytes packed, at most 8 MiB wanted", len(one))
	}
	if size > 24_000_000 {
		t.Errorf("%d bytes unpacked, which stay in RAM; at most 24 MB wanted", size)
	}
	checkTree(t, names, files)
	checkInit(t, content(t, files["init"]))
}

func checkTree(t *testing.T, names []string, files map[string]cpio.Record) {
	modes := map[string]uint64{
		"init":                               cpio.S_IFREG | 0o755,
		"bin/bb":                             cpio.S_IFREG | 0o755,
		"bin/sh":                             cpio.S_IFLNK | 0o777,
		"bin/ip":                             cpio.S_IFLNK | 0o777,
		"dev/console":                        cpio.S_IFCHR | 0o600,
		"dev/null":                           cpio.S_IFCHR | 0o666,
		"etc/passwd":                         cpio.S_IFREG | 0o644,
		"etc/group":                          cpio.S_IFREG | 0o644,
		"etc/resolv.conf":                    cpio.S_IFLNK | 0o777,
		"etc/cloudlink/release.json":         cpio.S_IFREG | 0o644,
		"etc/cloudlink/update-root.json":     cpio.S_IFREG | 0o644,
		"etc/ssl/certs/ca-certificates.crt":  cpio.S_IFREG | 0o644,
		"usr/share/zoneinfo.zip":             cpio.S_IFREG | 0o644,
		"usr/share/cloudlink/data.ext4.gz":   cpio.S_IFREG | 0o644,
		"usr/share/cloudlink/notices.txt.gz": cpio.S_IFREG | 0o644,
		"proc":                               cpio.S_IFDIR | 0o755,
		"sys":                                cpio.S_IFDIR | 0o755,
		"run":                                cpio.S_IFDIR | 0o755,
		"data":                               cpio.S_IFDIR | 0o755,
		"tmp":                                cpio.S_IFDIR | 0o1777,
	}
	for name, mode := range modes {
		if r, ok := files[name]; !ok || r.Mode != mode {
			t.Errorf("%s: mode %o, want %o", name, r.Mode, mode)
		}
	}
	if got := content(t, files["etc/cloudlink/update-root.json"]); string(got) != "{}" {
		t.Errorf("the update repository's root metadata are %q", got)
	}
	dirs := map[string]bool{".": true}
	for _, name := range names {
		r := files[name]
		if r.UID != 0 || r.GID != 0 || r.MTime != 0 || r.Ino != 0 {
			t.Errorf("%s carries something of the host: %v", name, r.Info)
		}
		if r.Mode&0o6000 != 0 || r.Mode&0o022 != 0 && r.Mode&cpio.S_IFMT == cpio.S_IFREG {
			t.Errorf("%s: mode %o", name, r.Mode)
		}
		if !dirs[filepath.Dir(name)] { // the kernel makes no parents
			t.Errorf("%s comes before its directory", name)
		}
		dirs[name] = r.Mode&cpio.S_IFMT == cpio.S_IFDIR
	}
	for _, command := range strings.Fields("gosh ip ping dmesg ps mount umount cat ls cp mv rm mkdir ln grep head " +
		"tail more df free kill date hexdump sync echo uname id wc sort tee") {
		if r := files["bin/"+command]; r.Mode&cpio.S_IFMT != cpio.S_IFLNK || string(content(t, r)) != "bb" {
			t.Errorf("no command %s", command)
		}
	}

	var got release.Release
	if err := json.Unmarshal(content(t, files["etc/cloudlink/release.json"]), &got); err != nil || got != testRelease {
		t.Errorf("release.json: %+v, %v", got, err)
	}
	if !bytes.Equal(content(t, files["usr/share/cloudlink/data.ext4.gz"]), gz("data")) ||
		!bytes.Equal(content(t, files["usr/share/cloudlink/notices.txt.gz"]), gz("notices")) {
		t.Error("data image or notices are not what was handed in")
	}
	if pool := x509.NewCertPool(); !pool.AppendCertsFromPEM(content(t, files["etc/ssl/certs/ca-certificates.crt"])) {
		t.Error("no root certificates")
	}
	zones := filepath.Join(t.TempDir(), "zoneinfo.zip")
	if err := os.WriteFile(zones, content(t, files["usr/share/zoneinfo.zip"]), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("ZONEINFO", zones)
	if _, err := time.LoadLocation("Europe/Berlin"); err != nil {
		t.Error(err)
	}
}

func checkInit(t *testing.T, init []byte) {
	f, err := elf.NewFile(bytes.NewReader(init))
	if err != nil {
		t.Fatal(err)
	}
	if f.Machine != elf.EM_AARCH64 {
		t.Errorf("init is for %v", f.Machine)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("init needs a dynamic linker")
		}
	}
	info, err := buildinfo.Read(bytes.NewReader(init))
	if err != nil {
		t.Fatal(err)
	}
	if info.Path != initPkg {
		t.Errorf("init is %s", info.Path)
	}
	if cwd, err := os.Getwd(); err != nil || bytes.Contains(init, []byte(filepath.Dir(cwd))) {
		t.Errorf("init names the directory it was built in (%v)", err)
	}
}

func TestBareHoldsOneProgram(t *testing.T) {
	program := filepath.Join(t.TempDir(), "floor")
	if err := os.WriteFile(program, []byte("program"), 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "bare.cpio.zst")
	if err := BuildBare(t.Context(), program, out); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	names, files, _ := unpack(t, b)
	if got := strings.Join(names, " "); got != "dev dev/console dev/null init" {
		t.Errorf("it holds %s", got)
	}
	if string(content(t, files["init"])) != "program" || files["init"].Mode != cpio.S_IFREG|0o755 {
		t.Errorf("init: %v", files["init"].Info)
	}
}

func TestAFailureLeavesNoFile(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out.cpio.zst")
	twice := append(devices(), devices()...)
	if err := pack(t.TempDir(), out, twice); err == nil || !strings.Contains(err.Error(), "dev is there twice") {
		t.Errorf("error %v", err)
	}
	if err := BuildBare(t.Context(), filepath.Join(t.TempDir(), "absent"), out); err == nil {
		t.Error("a bare initramfs without init")
	}
	left, err := os.ReadDir(filepath.Dir(out))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
