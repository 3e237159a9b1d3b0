package debian

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// deb makes a package with these files, its data compressed in that way.
func deb(t testing.TB, control, compression string, files map[string]string) []byte {
	t.Helper()
	archive := func(files map[string]string, compression string) []byte {
		var b bytes.Buffer
		var z io.WriteCloser
		var err error
		switch compression {
		case ".gz":
			z = gzip.NewWriter(&b)
		case ".xz":
			z, err = xz.NewWriter(&b)
		case ".zst":
			z, err = zstd.NewWriter(&b)
		default:
			z = plain{&b}
		}
		if err != nil {
			t.Fatal(err)
		}
		w := tar.NewWriter(z)
		for name, content := range files {
			w.WriteHeader(&tar.Header{Name: "./" + name, Mode: 0o644, Size: int64(len(content))})
			io.WriteString(w, content)
		}
		if err := errors.Join(w.Close(), z.Close()); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	var b bytes.Buffer
	b.WriteString("!<arch>\n")
	member := func(name string, content []byte) {
		fmt.Fprintf(&b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", name, 0, 0, 0, "100644", len(content))
		b.Write(content)
		if len(content)%2 == 1 {
			b.WriteByte('\n')
		}
	}
	member("debian-binary", []byte("2.0\n"))
	member("control.tar.gz", archive(map[string]string{"control": control}, ".gz"))
	member("data.tar"+compression, archive(files, compression))
	return b.Bytes()
}

type plain struct{ io.Writer }

func (plain) Close() error { return nil }

func TestReadsEveryCompression(t *testing.T) {
	want := map[string]string{"usr/lib/a": "first", "usr/lib/sub/b": "second", "usr/share/c": strings.Repeat("third", 1000)}
	for _, compression := range []string{"", ".gz", ".xz", ".zst"} {
		got := map[string]string{}
		err := Walk(bytes.NewReader(deb(t, "", compression, want)), func(name string, content []byte) error {
			got[name] = string(content)
			return nil
		})
		if err != nil {
			t.Fatalf("data.tar%s: %v", compression, err)
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("data.tar%s: got %v", compression, got)
		}
	}
}

func TestFilesAndUnpack(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.deb")
	content := map[string]string{"usr/lib/grub/a.mod": "a", "usr/lib/grub/sub/b.mod": "b", "usr/lib/other": "c"}
	if err := os.WriteFile(file, deb(t, "", ".xz", content), 0o600); err != nil {
		t.Fatal(err)
	}
	files, err := Files(file, "usr/lib/other")
	if err != nil || string(files["usr/lib/other"]) != "c" {
		t.Errorf("Files: %q, %v", files, err)
	}
	if _, err := Files(file, "usr/lib/missing"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "usr/lib/missing") {
		t.Errorf("a missing file: %v", err)
	}
	dir := t.TempDir()
	if err := Unpack(file, "usr/lib/grub", dir); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != "a.mod" {
		t.Errorf("unpacked %v, %v", entries, err)
	}
}

func TestDamagedPackagesAreRefused(t *testing.T) {
	good := deb(t, "", ".xz", map[string]string{"a": "content"})
	ignore := func(string, []byte) error { return nil }
	for name, b := range map[string][]byte{
		"empty": nil, "no archive": []byte("hello, this is text"), "cut": good[:len(good)-40],
		"header only": good[:8], "bad size": bytes.Replace(good, []byte("4         `"), []byte("-4        `"), 1),
	} {
		if err := Walk(bytes.NewReader(b), ignore); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func FuzzWalk(f *testing.F) {
	for _, c := range []string{"", ".gz", ".xz", ".zst"} {
		f.Add(deb(f, "", c, map[string]string{"a": "content"}))
	}
	f.Add([]byte("!<arch>\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = Walk(bytes.NewReader(b), func(name string, content []byte) error {
			if name == ".." || strings.HasPrefix(name, "../") || strings.HasPrefix(name, "/") {
				t.Errorf("name %q leads outside", name)
			}
			return nil
		})
	})
}

// A mirror is a folder that apt takes packages from, instead of this machine's sources.
type mirror struct {
	t      *testing.T
	dir    string
	origin string
	index  bytes.Buffer
}

func newMirror(t *testing.T, origin string) *mirror {
	return &mirror{t: t, dir: t.TempDir(), origin: origin}
}

func (m *mirror) add(name, version, source string, files map[string]string) Package {
	m.t.Helper()
	control := fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: %s\nMaintainer: nobody\nDescription: test\n", name, version, Arch)
	if source != "" {
		control += "Source: " + source + "\n"
	}
	b := deb(m.t, control, ".xz", files)
	file := name + "_" + version + ".deb"
	m.write(file, b)
	p := Package{Name: name, Version: version, Source: source, SHA256: fmt.Sprintf("%x", sha256.Sum256(b)), Size: int64(len(b))}
	fmt.Fprintf(&m.index, "%sFilename: ./%s\nSize: %d\nSHA256: %s\n\n", control, file, p.Size, p.SHA256)
	return p
}

// publish makes the index of what was added since the last one.
func (m *mirror) publish() {
	m.t.Helper()
	m.write("Packages", m.index.Bytes())
	m.write("Release", fmt.Appendf(nil, "Origin: %s\nSuite: stable\nCodename: test\nArchitectures: %s\nDate: Sun, 01 Mar 2026 00:00:00 UTC\nSHA256:\n %x %d Packages\n",
		m.origin, Arch, sha256.Sum256(m.index.Bytes()), m.index.Len()))
	m.index.Reset()
}

func (m *mirror) write(name string, b []byte) {
	m.t.Helper()
	if err := os.WriteFile(filepath.Join(m.dir, name), b, 0o644); err != nil {
		m.t.Fatal(err)
	}
}

// useMirrors lets apt see these and one broken third-party source, and nothing of this machine's.
func useMirrors(t *testing.T, mirrors ...*mirror) {
	t.Helper()
	dir := t.TempDir()
	list := "deb [trusted=yes] file:" + filepath.Join(dir, "third-party-that-is-gone") + " ./\n"
	for _, m := range mirrors {
		list += "deb [trusted=yes] file:" + m.dir + " ./\n"
	}
	config := fmt.Sprintf("Dir::Etc::sourcelist %q;\nDir::Etc::sourceparts \"/dev/null\";\nAcquire::Retries \"0\";\n", filepath.Join(dir, "list"))
	for name, text := range map[string]string{"list": list, "conf": config} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("APT_CONFIG", filepath.Join(dir, "conf"))
}

func TestStore(t *testing.T) {
	debian, other := newMirror(t, "Debian"), newMirror(t, "Somebody")
	old := debian.add("loader", "1.0-1", "loader-source", map[string]string{"usr/lib/x": "old"})
	debian.publish()
	other.add("loader", "9.0-1", "", map[string]string{"usr/lib/x": "not Debian's"})
	other.publish()
	useMirrors(t, other, debian)
	ctx, dir := context.Background(), t.TempDir()
	fresh := func() *Store { return &Store{Dir: dir, Log: t.Logf} }

	got, err := fresh().Newest(ctx, "loader")
	if err != nil {
		t.Fatal(err)
	}
	if got != old {
		t.Fatalf("newest is %+v, want Debian's %+v", got, old)
	}

	// From here on the mirror is gone: what is there needs no network.
	t.Setenv("APT_CONFIG", "/nowhere")
	file, err := fresh().Get(ctx, old)
	if err != nil {
		t.Fatal(err)
	}
	if files, err := Files(file, "usr/lib/x"); err != nil || string(files["usr/lib/x"]) != "old" {
		t.Fatalf("stored file: %q, %v", files, err)
	}
	if err := os.WriteFile(file, []byte("damaged"), 0o644); err != nil {
		t.Fatal(err)
	}
	useMirrors(t, debian)
	if _, err := fresh().Get(ctx, old); err != nil {
		t.Fatalf("a damaged file is not fetched again: %v", err)
	}

	wrong := old
	wrong.SHA256 = strings.Repeat("0", 64)
	if _, err := fresh().Get(ctx, wrong); err == nil || !strings.Contains(err.Error(), "sha256") {
		t.Errorf("another hash than the lock's: %v", err)
	}

	newer := debian.add("loader", "1.1-1", "loader-source", map[string]string{"usr/lib/x": "new"})
	debian.publish()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if _, err := fresh().Get(ctx, old); !errors.Is(err, ErrGone) {
		t.Errorf("a version that Debian has replaced: %v", err)
	}
	if got, err := fresh().Newest(ctx, "loader"); err != nil || got != newer {
		t.Errorf("newest is %+v (%v), want %+v", got, err, newer)
	}
	for _, p := range []Package{old, {Name: "loader"}} {
		if got, file, err := fresh().GetOrNewest(ctx, p); err != nil || got != newer || !strings.Contains(file, "1.1-1") {
			t.Errorf("%+v: instead of it %+v in %s (%v), want %+v", p, got, file, err, newer)
		}
	}
	if got, _, err := fresh().GetOrNewest(ctx, newer); err != nil || got != newer {
		t.Errorf("a version that is there: %+v (%v)", got, err)
	}
	if _, err := fresh().Newest(ctx, "no-such-package"); !errors.Is(err, ErrGone) {
		t.Errorf("a package that is not there: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".fetch*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	want := Lock{Packages: []Package{{Name: "b", Version: "2", Source: "b", SHA256: "x", Size: 1}, {Name: "a", Version: "1", Source: "a", SHA256: "y", Size: 2}}}
	file := filepath.Join(dir, "lock")
	if err := os.WriteFile(file, want.Encode(), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := ReadLock(file)
	if err != nil || got.Packages[0].Name != "a" {
		t.Errorf("lock came back as %+v, %v", got, err)
	}
	if p, ok := got.Find("b"); !ok || p.Version != "2" {
		t.Errorf("find b: %+v %v", p, ok)
	}
	if err := os.WriteFile(file, []byte(`{"packages": [], "more": 1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadLock(file); err == nil {
		t.Error("an unknown key is taken")
	}
}
