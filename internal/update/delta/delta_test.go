package delta

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"

	"cloudlink.local/gateway/firmware/uki"
)

// Wrap returns a linux.efi of kernel and packed initramfs, with a signature behind them.
func Wrap(t testing.TB, kernel, packed []byte) []byte {
	t.Helper()
	le := binary.LittleEndian
	stub := make([]byte, 0x400)
	copy(stub, "MZ")
	le.PutUint32(stub[60:], 64)
	copy(stub[64:], "PE\x00\x00")
	le.PutUint16(stub[68:], 0xaa64)
	le.PutUint16(stub[84:], 160) // size of the optional header
	le.PutUint16(stub[88:], 0x20b)
	le.PutUint32(stub[88+32:], 0x1000)
	le.PutUint32(stub[88+36:], 0x200)
	le.PutUint32(stub[88+60:], 0x400)
	le.PutUint32(stub[88+108:], 6)
	file, err := uki.Build(stub, []uki.Section{{Name: ".linux", Data: kernel}, {Name: ".initrd", Data: packed}})
	if err != nil {
		t.Fatal(err)
	}
	return append(file, fmt.Sprintf("signature %x", sha256.Sum256(file))...)
}

// linux returns a linux.efi with this initramfs, and where all is.
func linux(t testing.TB, initramfs []byte) ([]byte, layout) {
	t.Helper()
	var packed bytes.Buffer
	z, err := NewCompressor(&packed)
	if err != nil {
		t.Fatal(err)
	}
	z.Write(initramfs)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	file := Wrap(t, code(1, 3000), packed.Bytes())
	at := bytes.Index(file, packed.Bytes())
	return file, layout{int64(len(file)), int64(at), int64(packed.Len()), int64(len(initramfs))}
}

// code returns bytes that compress about as well as a program.
func code(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 0))
	b := make([]byte, 0, n+8)
	for len(b) < n {
		b = binary.LittleEndian.AppendUint32(b, 0x94000000+uint32(r.ExpFloat64()*5000))
		b = append(b, byte(r.IntN(4)), 0x10, 0x40, 0xf9)
	}
	return b[:n]
}

// moved is code after something was put in: the rest lies further on and some addresses differ.
func moved(code []byte, at int, put []byte) []byte {
	b := bytes.Join([][]byte{code[:at], put, code[at:]}, nil)
	for i := at + len(put); i+4 < len(b); i += 256 {
		binary.LittleEndian.PutUint32(b[i:], binary.LittleEndian.Uint32(b[i:])+uint32(len(put)))
	}
	return b
}

func patchOf(t testing.TB, old, new []byte) []byte {
	t.Helper()
	var patch bytes.Buffer
	if err := Make(old, new, &patch); err != nil {
		t.Fatal(err)
	}
	return patch.Bytes()
}

// apply applies a patch and wants nothing left in the scratch folder.
func apply(t testing.TB, old, patch []byte) ([]byte, error) {
	t.Helper()
	dir := t.TempDir()
	var got bytes.Buffer
	err := Apply(t.Context(), bytes.NewReader(old), bytes.NewReader(patch), dir, &got)
	if left, readErr := os.ReadDir(dir); readErr != nil || len(left) != 0 {
		t.Errorf("left in the scratch folder: %v, %v", left, readErr)
	}
	return got.Bytes(), err
}

func TestNewComesOutOfOldAndPatch(t *testing.T) {
	base := code(2, 100_000)
	for name, plain := range map[string][]byte{
		"the same":          base,
		"a function":        moved(base, 30_000, code(3, 200)),
		"something gone":    append(bytes.Clone(base[:20_000]), base[25_000:]...),
		"other order":       append(bytes.Clone(base[50_000:]), base[:50_000]...),
		"all else":          code(4, 60_000),
		"less":              base[:10],
		"more":              append(bytes.Clone(base), base...),
		"zeros":             make([]byte, 100_000),
		"across the window": moved(bytes.Repeat(base, 25), 2_200_000, code(5, 1000)),
	} {
		t.Run(name, func(t *testing.T) {
			old, _ := linux(t, base)
			new, _ := linux(t, plain)
			patch := patchOf(t, old, new)
			got, err := apply(t, old, patch)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, new) {
				t.Error("the result is another")
			}
			if limit := len(new) / 20; (name == "the same" || name == "a function") && len(patch) > limit {
				t.Errorf("%d bytes of patch for %d, at most %d wanted", len(patch), len(new), limit)
			}
		})
	}
}

func TestMakeWantsWhatOurCompressorMade(t *testing.T) {
	good, l := linux(t, code(2, 10_000))
	other := bytes.Clone(good)
	e, err := zstd.NewWriter(nil, zstd.WithEncoderCRC(false))
	if err != nil {
		t.Fatal(err)
	}
	frame := e.EncodeAll(code(2, 8_000), nil)
	// Behind it a frame to be skipped, so that the section's size stays.
	rest := binary.LittleEndian.AppendUint32([]byte{0x50, 0x2a, 0x4d, 0x18}, uint32(l.packed)-uint32(len(frame))-8)
	if int64(len(frame)+8) > l.packed {
		t.Fatalf("%d bytes do not fit into %d", len(frame), l.packed)
	}
	section := other[l.at:][:l.packed]
	clear(section)
	copy(section[copy(section, frame):], rest)
	for _, pair := range [][2][]byte{{good, other}, {other, good}} {
		if err := Make(pair[0], pair[1], io.Discard); !errors.Is(err, ErrCompressor) {
			t.Errorf("error %v", err)
		}
	}
	if err := Make([]byte("MZ"), good, io.Discard); err == nil || !strings.Contains(err.Error(), "old linux.efi") {
		t.Errorf("error %v", err)
	}
	if err := Make(good, code(1, 500), io.Discard); err == nil || !strings.Contains(err.Error(), "new linux.efi") {
		t.Errorf("error %v", err)
	}
}

func TestAnotherOldFileIsToldFromADamagedPatch(t *testing.T) {
	base := code(2, 100_000)
	old, l := linux(t, base)
	new, _ := linux(t, moved(base, 5000, code(3, 100)))
	patch := patchOf(t, old, new)

	other, _ := linux(t, code(9, 100_000))
	flipped := bytes.Clone(old)
	flipped[l.at] ^= 1
	for name, old := range map[string][]byte{
		"another": other, "cut off": old[:l.at+100], "empty": nil, "flipped": flipped,
	} {
		if _, err := apply(t, old, patch); !errors.Is(err, ErrOld) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	for n := 0; n < len(patch); n += 1 + len(patch)/50 {
		if _, err := apply(t, old, patch[:n]); !errors.Is(err, ErrPatch) {
			t.Errorf("patch of %d bytes cut off at %d: error %v", len(patch), n, err)
		}
	}
	if _, err := apply(t, old, append(bytes.Clone(patch), "more"...)); !errors.Is(err, ErrPatch) {
		t.Errorf("bytes behind the patch: error %v", err)
	}
	for i := 0; i < len(patch); i += 1 + len(patch)/100 {
		bad := bytes.Clone(patch)
		bad[i] ^= 1 << (i % 8)
		got, err := apply(t, old, bad)
		if !errors.Is(err, ErrPatch) && !errors.Is(err, ErrOld) && !errors.Is(err, ErrCompressor) && !bytes.Equal(got, new) {
			t.Errorf("byte %d flipped: error %v and %d bytes", i, err, len(got))
		}
	}
}

// patchFrom returns a patch with these steps, whatever they are.
func patchFrom(t testing.TB, old, new layout, script []byte, o ...zstd.EOption) []byte {
	t.Helper()
	e, err := zstd.NewWriter(nil, append([]zstd.EOption{zstd.WithWindowSize(patchWindow)}, o...)...)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	h := header{Compressor, old, new}
	return e.EncodeAll(script, h.append(nil))
}

func TestHostilePatchesAreRefused(t *testing.T) {
	old, l := linux(t, code(2, 20_000))
	whole := appendStep(nil, step{0, l.length(), 0})
	whole = append(whole, make([]byte, l.length())...)
	other := l
	other.packed = 10
	other.size -= l.packed - 10
	huge := func(f func(*layout)) layout { l := l; f(&l); return l }
	for name, c := range map[string]struct {
		patch []byte
		want  error
	}{
		"no step":          {patchFrom(t, l, l, nil), ErrPatch},
		"steps of nothing": {patchFrom(t, l, l, bytes.Repeat(appendStep(nil, step{}), 1000)), ErrPatch},
		"before the file":  {patchFrom(t, l, l, appendStep(nil, step{-1, 1, 0})), ErrPatch},
		"behind the file":  {patchFrom(t, l, l, append(appendStep(nil, step{l.length(), 1, 0}), 0)), ErrPatch},
		"too much old":     {patchFrom(t, l, l, appendStep(nil, step{1, l.length(), 0})), ErrPatch},
		"too much new":     {patchFrom(t, l, l, appendStep(nil, step{0, 0, l.length() + 1})), ErrPatch},
		"sum too large":    {patchFrom(t, l, l, appendStep(nil, step{0, l.length(), 1})), ErrPatch},
		"far too much":     {patchFrom(t, l, l, appendStep(nil, step{0, 1 << 62, 1 << 62})), ErrPatch},
		"far away":         {patchFrom(t, l, l, appendStep(nil, step{-1 << 62, 1, 1})), ErrPatch},
		"endless number":   {patchFrom(t, l, l, bytes.Repeat([]byte{0xff}, 100)), ErrPatch},
		"more steps":       {patchFrom(t, l, l, append(bytes.Clone(whole), 0)), ErrPatch},
		"large window":     {patchFrom(t, l, l, append(bytes.Clone(whole), make([]byte, 1<<20)...), zstd.WithWindowSize(64<<20), zstd.WithSingleSegment(false)), ErrPatch},
		"another size":     {patchFrom(t, l, other, whole), ErrCompressor},
		"huge file":        {patchFrom(t, huge(func(l *layout) { l.size = maxFile + 1 }), l, whole), ErrPatch},
		"huge initramfs":   {patchFrom(t, huge(func(l *layout) { l.plain = maxPlain + 1 }), l, whole), ErrPatch},
		"outside":          {patchFrom(t, huge(func(l *layout) { l.at = l.size }), l, whole), ErrPatch},
		"negative":         {patchFrom(t, huge(func(l *layout) { l.at = -1 }), l, whole), ErrPatch},
		"no initramfs":     {patchFrom(t, huge(func(l *layout) { l.packed = 0 }), l, whole), ErrPatch},
		"longer than old":  {patchFrom(t, huge(func(l *layout) { l.plain-- }), l, whole), ErrOld},
		"shorter than old": {patchFrom(t, huge(func(l *layout) { l.plain++ }), l, whole), ErrOld},
		"does not pack so": {patchFrom(t, l, huge(func(l *layout) { l.packed, l.size = l.packed+1, l.size+1 }), whole), ErrCompressor},
		"other compressor": {(&header{"gzip", l, l}).append(nil), ErrCompressor},
		"not a patch":      {[]byte("linux.efi"), ErrPatch},
		"long name":        {append([]byte(magic), 255), ErrPatch},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := apply(t, old, c.patch)
			if !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
			if int64(len(got)) > l.size {
				t.Errorf("%d bytes written, the file has %d", len(got), l.size)
			}
		})
	}
}

type full struct{ room int }

func (f *full) Write(b []byte) (int, error) {
	if f.room -= len(b); f.room < 0 {
		return 0, errors.New("no space left")
	}
	return len(b), nil
}

type broken struct{ io.ReaderAt }

func (broken) ReadAt([]byte, int64) (int, error) { return 0, errors.New("input/output error") }

// What is wrong with disk or network is not blamed on the patch: the full file would meet it, too.
func TestErrorsOfFilesAreNoReasonToTakeTheFullOne(t *testing.T) {
	base := code(2, 100_000)
	old, _ := linux(t, base)
	new, _ := linux(t, moved(base, 5000, code(3, 100)))
	patch := patchOf(t, old, new)
	run := func(ctx context.Context, old io.ReaderAt, patch io.Reader, dir string, w io.Writer, want string) {
		t.Helper()
		err := Apply(ctx, old, patch, dir, w)
		if err == nil || !strings.Contains(err.Error(), want) || errors.Is(err, ErrOld) || errors.Is(err, ErrPatch) || errors.Is(err, ErrCompressor) {
			t.Errorf("error %v, want %s", err, want)
		}
	}
	dir := t.TempDir()
	for _, room := range []int{0, 2000, len(new) - 1} {
		run(t.Context(), bytes.NewReader(old), bytes.NewReader(patch), dir, &full{room}, "no space left")
	}
	run(t.Context(), bytes.NewReader(old), bytes.NewReader(patch), dir+"/absent", io.Discard, "unpack old initramfs")
	run(t.Context(), broken{}, bytes.NewReader(patch), dir, io.Discard, "read old linux.efi: input/output error")
	for _, n := range []int{0, 20, len(patch) / 2} {
		failing := io.MultiReader(bytes.NewReader(patch[:n]), iotest.ErrReader(errors.New("connection reset")))
		run(t.Context(), bytes.NewReader(old), failing, dir, io.Discard, "read patch: connection reset")
	}
	ctx, cancel := context.WithCancel(t.Context())
	stop := writerFunc(func(b []byte) (int, error) { cancel(); return len(b), nil })
	run(ctx, bytes.NewReader(old), bytes.NewReader(patch), dir, stop, "context canceled")
	run(ctx, bytes.NewReader(old), bytes.NewReader(patch), dir, io.Discard, "context canceled")
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// Whoever changes the compressor gives it another name, or devices would make other bytes than the builder.
func TestCompressorIsTheOneThatItsNameSays(t *testing.T) {
	mod, err := os.ReadFile("../../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`klauspost/compress (v\S+)`).FindSubmatch(mod)
	if version == nil || !strings.Contains(Compressor, " "+string(version[1])+" ") {
		t.Errorf("go.mod has klauspost/compress %s: is Compressor %q?", version, Compressor)
	}
	h := sha256.New()
	z, err := NewCompressor(h)
	if err != nil {
		t.Fatal(err)
	}
	b := code(7, 2_500_000)
	for len(b) > 0 { // in pieces that have nothing to do with its blocks
		n := min(len(b), 7777)
		z.Write(b[:n])
		b = b[n:]
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	const want = "7572b636a98e6817bc5ec1e3f1e550510b3237de20cab017522331397f46cedd"
	if got := fmt.Sprintf("%x", h.Sum(nil)); got != want {
		t.Errorf("%q gives other bytes than it did (%s): give it a new name", Compressor, got)
	}
}

func FuzzApply(f *testing.F) {
	old, _ := linux(f, code(2, 5000))
	new, _ := linux(f, moved(code(2, 5000), 1000, code(3, 100)))
	f.Add(patchOf(f, old, new))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, patch []byte) {
		w := &full{maxFile}
		if err := Apply(t.Context(), bytes.NewReader(old), bytes.NewReader(patch), dir, w); err != nil &&
			!errors.Is(err, ErrPatch) && !errors.Is(err, ErrOld) && !errors.Is(err, ErrCompressor) {
			t.Error(err)
		}
	})
}

// The steps alone: a fuzzer does not get through the compression around them.
func FuzzSteps(f *testing.F) {
	plain := code(2, 5000)
	file, l := linux(f, plain)
	f.Add(diff(nil, plain, moved(plain, 1000, code(3, 100))))
	f.Add(append(appendStep(nil, step{0, l.length(), 0}), make([]byte, l.length())...))
	f.Fuzz(func(t *testing.T, script []byte) {
		in := &source{ctx: t.Context(), r: bytes.NewReader(script), name: "patch", damaged: ErrPatch}
		old := unfolded{l, bytes.NewReader(file), bytes.NewReader(plain)}
		room := &full{int(l.size)}
		err := run(t.Context(), in, bufio.NewReader(in), old, &folder{layout: l, w: room})
		if err != nil && !errors.Is(err, ErrPatch) && !errors.Is(err, ErrCompressor) {
			t.Error(err)
		}
		if err == nil && room.room != 0 {
			t.Errorf("%d bytes too few", room.room)
		}
	})
}
