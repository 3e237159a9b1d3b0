package bundle

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"cloudlink.local/gateway/internal/release"
)

var buildTime = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// slot returns the files of a small slot and the target that tells of them.
func slot(t testing.TB) (map[string][]byte, Target) {
	t.Helper()
	files := map[string][]byte{
		UKI:       bytes.Repeat([]byte("kernel "), 100),
		Signature: []byte("signature"),
	}
	m := release.Manifest{Release: release.Release{
		Product: release.Product, Board: "qemu-virt", Version: "1.2.3", BuildTime: buildTime, Keys: release.Development,
	}}
	describe := func(name string) release.ManifestFile {
		return release.ManifestFile{Name: name, Size: int64(len(files[name])), SHA256: fmt.Sprintf("%x", sha256.Sum256(files[name]))}
	}
	m.Files = []release.ManifestFile{describe(UKI), describe(Signature)}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	files[Manifest] = b
	target := Target{
		Product: m.Product, Board: m.Board, Version: m.Version, BuildTime: m.BuildTime, Kind: Full,
		Channels: []string{Stable}, Rollout: 100,
		Notes: map[string]string{"de": "Schneller.\nSicherer.", "en": "Faster."},
	}
	for _, name := range slotFiles {
		target.Slot = append(target.Slot, describe(name))
	}
	return files, target
}

func opener(files map[string][]byte) func(string) (io.ReadCloser, error) {
	return func(name string) (io.ReadCloser, error) {
		b, ok := files[name]
		if !ok {
			return nil, os.ErrNotExist
		}
		return io.NopCloser(bytes.NewReader(b)), nil
	}
}

func archive(t testing.TB, target Target, files map[string][]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := WriteSlot(&b, target.Slot, opener(files)); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func digest(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }

// readSlot reads all of an archive.
func readSlot(r io.Reader, target Target) (map[string][]byte, error) {
	files := map[string][]byte{}
	for s := NewSlotReader(r, target); ; {
		f, err := s.Next()
		if err == io.EOF {
			return files, nil
		}
		if err != nil {
			return files, err
		}
		b, err := io.ReadAll(s)
		if err != nil {
			return files, err
		}
		if int64(len(b)) != f.Size {
			return files, fmt.Errorf("%s: read %d bytes of %d", f.Name, len(b), f.Size)
		}
		files[f.Name] = b
	}
}

func TestSlotGoesRound(t *testing.T) {
	files, target := slot(t)
	b := archive(t, target, files)
	if again := archive(t, target, files); !bytes.Equal(b, again) {
		t.Error("two archives differ")
	}
	extents, length := Layout(target.Slot)
	if length != int64(len(b)) {
		t.Errorf("the archive has %d bytes, the layout says %d", len(b), length)
	}
	for _, e := range extents {
		if !bytes.Equal(b[e.Offset:e.Offset+e.Size], files[e.Name]) {
			t.Errorf("%s is not where the layout says", e.Name)
		}
	}
	for name, r := range map[string]io.Reader{
		"at once": bytes.NewReader(b), "by bytes": iotest.OneByteReader(bytes.NewReader(b)),
		"with its end": iotest.DataErrReader(bytes.NewReader(b)),
	} {
		got, err := readSlot(Verify(r, length, digest(b)), target)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, f := range target.Slot {
			if !bytes.Equal(got[f.Name], files[f.Name]) {
				t.Errorf("%s: %s has changed on the way", name, f.Name)
			}
		}
	}
	if err := CheckManifest(files[Manifest], target); err != nil {
		t.Error(err)
	}
	// Nobody has to read what he does not want; it is checked all the same.
	s := NewSlotReader(Verify(bytes.NewReader(b), length, digest(b)), target)
	for range target.Slot {
		if _, err := s.Next(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Next(); err != io.EOF {
		t.Errorf("after the last file: %v", err)
	}
}

func TestDeltaHasItsOwnFile(t *testing.T) {
	files, target := slot(t)
	target.Kind, target.From, target.FromVersion = Delta, digest([]byte("old")), "1.2.2"
	if err := target.Check(); err != nil {
		t.Fatal(err)
	}
	delta := []byte("what differs")
	entries := append([]release.ManifestFile{}, target.Slot...)
	entries[2] = release.ManifestFile{Name: DeltaFile, Size: int64(len(delta))}
	files[DeltaFile] = delta
	var b bytes.Buffer
	if err := WriteSlot(&b, entries, opener(files)); err != nil {
		t.Fatal(err)
	}
	got, err := readSlot(Verify(bytes.NewReader(b.Bytes()), int64(b.Len()), digest(b.Bytes())), target)
	if err != nil || !bytes.Equal(got[DeltaFile], delta) {
		t.Errorf("read %q: %v", got[DeltaFile], err)
	}
	if want := "qemu-virt/1.2.3-from-1.2.2.delta"; target.Path() != want {
		t.Errorf("it is called %s, want %s", target.Path(), want)
	}
}

// Whatever is wrong with an archive, no file of it is believed that is not the signed one.
func TestSlotIsRefused(t *testing.T) {
	files, target := slot(t)
	b := archive(t, target, files)
	tarOf := func(headers ...*tar.Header) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range headers {
			data := files[h.Name]
			if h.Size == 0 && h.Typeflag == tar.TypeReg {
				h.Size = int64(len(data))
			}
			if err := w.WriteHeader(h); err != nil {
				t.Fatal(err)
			}
			if h.Typeflag == tar.TypeReg {
				if _, err := w.Write(data); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	reg := func(name string) *tar.Header { return &tar.Header{Typeflag: tar.TypeReg, Name: name} }
	flipped := bytes.Clone(b)
	flipped[len(b)-1700]++
	files["other"] = []byte("x")
	for _, c := range []struct {
		name string
		b    []byte
		want error
	}{
		{"empty", nil, ErrTruncated},
		{"cut in a header", b[:100], ErrTruncated},
		{"cut in a file", b[:2000], ErrTruncated},
		{"cut before its end", b[:len(b)-1024], nil}, // the files are whole: Verify knows better
		{"a flipped bit", flipped, ErrDamaged},
		{"another order", tarOf(reg(UKI), reg(Signature), reg(Manifest)), ErrForeign},
		{"a file twice", tarOf(reg(Manifest), reg(Manifest)), ErrForeign},
		{"a file more", tarOf(reg(Manifest), reg(Signature), reg(UKI), reg("other")), ErrForeign},
		{"a file less", tarOf(reg(Manifest), reg(Signature)), ErrTruncated},
		{"a link", tarOf(&tar.Header{Typeflag: tar.TypeSymlink, Name: Manifest, Linkname: "/etc/passwd"}), ErrForeign},
		{"a folder", tarOf(&tar.Header{Typeflag: tar.TypeDir, Name: "a/"}), ErrForeign},
		{"extensions", tarOf(&tar.Header{Typeflag: tar.TypeReg, Name: Manifest, PAXRecords: map[string]string{"X.y": "z"}, Format: tar.FormatPAX}), ErrForeign},
		{"no archive", bytes.Repeat([]byte("<html>"), 1000), ErrForeign},
	} {
		_, err := readSlot(bytes.NewReader(c.b), target)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		if _, err := readSlot(Verify(bytes.NewReader(c.b), int64(len(b)), digest(b)), target); err == nil {
			t.Errorf("%s: verified", c.name)
		}
	}
}

func TestVerify(t *testing.T) {
	b := []byte("content")
	broken := errors.New("broken")
	for _, c := range []struct {
		name string
		r    io.Reader
		want error
	}{
		{"good", bytes.NewReader(b), nil},
		{"by bytes", iotest.OneByteReader(bytes.NewReader(b)), nil},
		{"with its end", iotest.DataErrReader(bytes.NewReader(b)), nil},
		{"short", bytes.NewReader(b[1:]), ErrTruncated},
		{"nothing", bytes.NewReader(nil), ErrTruncated},
		{"long", strings.NewReader("contents"), ErrDamaged},
		{"other", strings.NewReader("c0ntent"), ErrDamaged},
		{"endless", endless{}, ErrDamaged},
		{"broken", io.MultiReader(bytes.NewReader(b[:3]), iotest.ErrReader(broken)), broken},
		{"broken at its end", io.MultiReader(bytes.NewReader(b), iotest.ErrReader(broken)), broken},
	} {
		got, err := io.ReadAll(Verify(c.r, int64(len(b)), digest(b)))
		if !errors.Is(err, c.want) || len(got) > len(b) {
			t.Errorf("%s: %q, %v; want %v", c.name, got, err, c.want)
		}
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestTargetIsChecked(t *testing.T) {
	_, good := slot(t)
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for field, change := range map[string]func(*Target){
		"product":       func(x *Target) { x.Product = "" },
		"board":         func(x *Target) { x.Board = "../qemu-virt" },
		"version":       func(x *Target) { x.Version = "1.2" },
		"build_time":    func(x *Target) { x.BuildTime = time.Time{} },
		"kind":          func(x *Target) { x.Kind = "patch" },
		"from":          func(x *Target) { x.From = "abc" },
		"from_version":  func(x *Target) { x.Kind, x.From = Delta, strings.Repeat("a", 64) },
		"slot: 0 files": func(x *Target) { x.Slot = nil },
		"linux.efi.sig there": func(x *Target) {
			x.Slot = []release.ManifestFile{x.Slot[0], x.Slot[2], x.Slot[1]}
		},
		"slot: linux.efi has": func(x *Target) { x.Slot[2].Size = 1 << 40 },
		"manifest.json has":   func(x *Target) { x.Slot[0].Size = 0 },
		"sha256":              func(x *Target) { x.Slot[1].SHA256 = strings.Repeat("A", 64) },
		"channels":            func(x *Target) { x.Channels = nil },
		"channels:":           func(x *Target) { x.Channels = []string{"Stable"} },
		"minimum_from":        func(x *Target) { x.MinimumFrom = "1.2.3" },
		"minimum_from: ":      func(x *Target) { x.MinimumFrom = "old" },
		"security_floor":      func(x *Target) { x.SecurityFloor = "1.2.4" },
		"rollout":             func(x *Target) { x.Rollout = 101 },
		"notes.en":            func(x *Target) { x.Notes = map[string]string{"en": strings.Repeat("x", MaxNotes+1)} },
		"notes.en: ":          func(x *Target) { x.Notes = map[string]string{"en": "\x1b[2J"} },
		"notes.de: ":          func(x *Target) { x.Notes = map[string]string{"de": "\u202egpj.exe"} },
		"notes: language":     func(x *Target) { x.Notes = map[string]string{"": "x"} },
	} {
		_, bad := slot(t)
		change(&bad)
		if err := bad.Check(); err == nil || !strings.Contains(err.Error(), field) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func TestChannels(t *testing.T) {
	for _, c := range []struct {
		of      string
		channel string
		want    bool
	}{
		{"stable", Stable, true}, {"stable", Beta, true}, {"beta", Stable, false}, {"beta", Beta, true},
		{"stable beta", Stable, true}, {"nightly", Beta, false}, {"nightly", Stable, false},
	} {
		if got := (Target{Channels: strings.Fields(c.of)}).In(c.channel); got != c.want {
			t.Errorf("a device that takes %s is offered one of %s: %v", c.channel, c.of, got)
		}
	}
}

func TestBundleGoesRound(t *testing.T) {
	files, target := slot(t)
	inner := archive(t, target, files)
	name := HashedPath(target.Path(), digest(inner))
	if want := "qemu-virt/" + digest(inner) + ".1.2.3.slot"; name != want {
		t.Fatalf("the target is called %s, want %s", name, want)
	}
	metadata := []File{{"1.root.json", []byte("{1}")}, {"2.root.json", []byte("{2}")}, {"timestamp.json", []byte("{t}")}}
	var b bytes.Buffer
	err := Write(&b, metadata, name, int64(len(inner)), func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(inner)), nil })
	if err != nil {
		t.Fatal(err)
	}
	r, err := Open(iotest.HalfReader(bytes.NewReader(b.Bytes())))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range metadata {
		if got, ok := r.Metadata(f.Name); !ok || !bytes.Equal(got, f.Data) {
			t.Errorf("%s: %q", f.Name, got)
		}
	}
	if _, ok := r.Metadata("3.root.json"); ok {
		t.Error("there is a file that nobody wrote")
	}
	if r.Target != name || r.Size != int64(len(inner)) {
		t.Errorf("target %s, %d bytes", r.Target, r.Size)
	}
	if got, err := readSlot(Verify(r, r.Size, digest(inner)), target); err != nil || !bytes.Equal(got[UKI], files[UKI]) {
		t.Errorf("read target: %v", err)
	}
}

func TestBundleIsRefused(t *testing.T) {
	const target = "targets/qemu-virt/x.slot"
	type entry struct {
		name string
		size int
	}
	many := []entry{}
	for i := range maxMetadataFiles + 1 {
		many = append(many, entry{fmt.Sprintf("metadata/%d.root.json", i+1), 1})
	}
	for _, c := range []struct {
		name    string
		entries []entry
		cut     int
		want    error
	}{
		{"empty", nil, 0, ErrForeign},
		{"no target", []entry{{"metadata/1.root.json", 5}}, 0, ErrForeign},
		{"another file", []entry{{"metadata/readme.txt", 5}, {target, 5}}, 0, ErrForeign},
		{"out of its folder", []entry{{"metadata/../1.root.json", 5}, {target, 5}}, 0, ErrForeign},
		{"a target out of its folder", []entry{{"targets/../x", 5}}, 0, ErrForeign},
		{"an absolute name", []entry{{"/metadata/1.root.json", 5}}, 0, ErrForeign},
		{"twice", []entry{{"metadata/1.root.json", 5}, {"metadata/1.root.json", 5}}, 0, ErrForeign},
		{"large metadata", []entry{{"metadata/1.targets.json", maxMetadata - 5}, {"metadata/1.root.json", 6}, {target, 5}}, 0, ErrForeign},
		{"too many files", append(many, entry{target, 5}), 0, ErrForeign},
		{"cut", []entry{{"metadata/1.root.json", 5000}, {target, 5}}, 1000, ErrTruncated},
		{"as allowed", []entry{{"metadata/1.targets.json", maxMetadata}, {target, 5}}, 0, nil},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, e := range c.entries {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: e.name, Size: int64(e.size)}); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(make([]byte, e.size)); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		data := b.Bytes()
		if c.cut > 0 {
			data = data[:c.cut]
		}
		if _, err := Open(bytes.NewReader(data)); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

// What Parse takes is fit to be shown and used as a name, and stays what it is.
func FuzzParse(f *testing.F) {
	_, target := slot(f)
	b, err := json.Marshal(target)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"slot":null}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		target, err := Parse(b)
		if err != nil {
			return
		}
		if p := target.Path(); strings.Contains(p, "..") && !strings.Contains(target.Version+target.FromVersion, "..") ||
			strings.Count(p, "/") != 1 || strings.ContainsAny(p+target.FileName(), " \n\\%") {
			t.Errorf("it is called %q", p)
		}
		again, err := json.Marshal(target)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(again); err != nil && len(again) <= maxCustom {
			t.Errorf("it is written as %s: %v", again, err)
		}
	})
}

// Whatever comes, only the files that were signed are handed on as whole.
func FuzzSlot(f *testing.F) {
	files, target := slot(f)
	f.Add(archive(f, target, files))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := readSlot(bytes.NewReader(b), target)
		for name, content := range got {
			if !bytes.Equal(content, files[name]) {
				t.Errorf("%s is another", name)
			}
		}
		if err == nil && len(got) != len(target.Slot) {
			t.Errorf("%d files and no error", len(got))
		}
	})
}

// A bundle is of anybody's making.
func FuzzOpen(f *testing.F) {
	var b bytes.Buffer
	err := Write(&b, []File{{"1.root.json", []byte("{}")}}, "qemu-virt/x.1.2.3.slot", 3,
		func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("abc")), nil })
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Open(bytes.NewReader(b))
		if err != nil {
			return
		}
		total := 0
		for _, data := range r.metadata {
			total += len(data)
		}
		if total > maxMetadata || r.Target == "" || r.Size < 0 {
			t.Errorf("%d bytes of metadata, target %q of %d bytes", total, r.Target, r.Size)
		}
		if n, err := io.Copy(io.Discard, r); n > r.Size || err == nil && n != r.Size {
			t.Errorf("%d bytes of %d read: %v", n, r.Size, err)
		}
	})
}
