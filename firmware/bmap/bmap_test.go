package bmap

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
)

// content is a file as block maps hate it: zeros amid data, and zeros at the end.
func content(seed byte) []byte {
	b := make([]byte, 300_000)
	r := rand.NewChaCha8([32]byte{seed})
	r.Read(b[:100_000])
	r.Read(b[200_000:250_000])
	return b
}

// Partitions of the test disk: one of each file system that an image may hold, and one of none.
var partitions = []struct {
	name          string
	start, megabs int64 // MiB
	mkfs          []string
}{
	{"fat12", 1, 4, []string{"mkfs.fat", "-F", "12"}},
	{"fat16", 5, 24, []string{"mkfs.fat", "-F", "16"}},
	{"fat32", 29, 40, []string{"mkfs.fat", "-F", "32"}},
	{"data", 69, 32, []string{"mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=0,lazy_journal_init=0"}},
	{"raw", 101, 1, nil},
}

// makeDisk builds a disk image with the real tools and returns its path.
func makeDisk(t testing.TB) string {
	t.Helper()
	disk := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 103<<20); err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	table.WriteString("label: gpt\n")
	for _, p := range partitions {
		fmt.Fprintf(&table, "start=%dMiB, size=%dMiB, name=%s\n", p.start, p.megabs, p.name)
	}
	run(t, table.String(), "sfdisk", "-q", disk)
	for _, p := range partitions {
		if p.mkfs == nil {
			continue
		}
		part := filepath.Join(t.TempDir(), "part")
		if err := os.WriteFile(part, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		size := p.megabs << 20
		if p.name == "data" {
			size = 8 << 20 // smaller than its partition, as in our images
		}
		if err := os.Truncate(part, size); err != nil {
			t.Fatal(err)
		}
		run(t, "", p.mkfs[0], append(p.mkfs[1:], part)...)
		for i, name := range []string{"one", "gone", "two"} {
			if p.name == "data" {
				src := filepath.Join(t.TempDir(), name)
				if err := os.WriteFile(src, content(byte(i)), 0o600); err != nil {
					t.Fatal(err)
				}
				run(t, "", "debugfs", "-w", "-R", "write "+src+" "+name, part)
			} else {
				run(t, string(content(byte(i))), "mcopy", "-i", part, "-", "::"+name)
			}
		}
		if p.name != "data" {
			run(t, "", "mdel", "-i", part, "::gone")
		}
		run(t, "", "dd", "if="+part, "of="+disk, "bs=1M", fmt.Sprintf("seek=%d", p.start), "conv=notrunc", "status=none")
	}
	return disk
}

func run(t testing.TB, input, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			out = append(out, exit.Stderr...)
		}
		t.Fatalf("%s (scripts/setup installs it): %v\n%s", name, err, out)
	}
	return out
}

// checkDisk compares what a disk holds with the image: mapped blocks are the image's, the others are
// still what was there, and every file system is sound with its files in it.
func checkDisk(t *testing.T, disk, image string, m *Map, old byte) {
	t.Helper()
	got, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	pos := int64(0)
	for _, r := range m.Ranges {
		start, end := m.Bytes(r)
		if !bytes.Equal(got[start:end], want[start:end]) {
			t.Errorf("bytes %d to %d are not the image's", start, end)
		}
		if sha256.Sum256(want[start:end]) != r.SHA256 {
			t.Errorf("bytes %d to %d have another checksum", start, end)
		}
		if bytes.Count(got[pos:start], []byte{old}) != int(start-pos) {
			t.Errorf("bytes %d to %d are not mapped and were written", pos, start)
		}
		pos = end
	}
	for _, p := range partitions {
		part := filepath.Join(t.TempDir(), p.name)
		if err := os.WriteFile(part, got[p.start<<20:(p.start+p.megabs)<<20], 0o600); err != nil {
			t.Fatal(err)
		}
		switch {
		case p.mkfs == nil:
			continue
		case p.name == "data":
			run(t, "", "e2fsck", "-fn", part)
		default:
			run(t, "", "fsck.fat", "-n", part)
		}
		for i, name := range []string{"one", "gone", "two"} {
			var b []byte
			if p.name == "data" {
				b = run(t, "", "debugfs", "-R", "cat "+name, part)
			} else if name != "gone" {
				b = run(t, "", "mtype", "-i", part, "::"+name)
			} else {
				continue
			}
			if !bytes.Equal(b, content(byte(i))) {
				t.Errorf("%s: file %s is not as it was written", p.name, name)
			}
		}
	}
}

// dirty makes a file full of old bytes.
func dirty(t testing.TB, size int64, old byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(name, bytes.Repeat([]byte{old}, int(size)), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// bmaptool writes the compressed image with our map onto a disk that holds something else.
func TestBmaptoolWritesASoundDisk(t *testing.T) {
	image := makeDisk(t)
	if err := Write(t.Context(), image); err != nil {
		t.Fatal(err)
	}
	encoded, err := os.ReadFile(image + ".bmap")
	if err != nil {
		t.Fatal(err)
	}
	m, err := Decode(encoded)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d of %d bytes mapped, in %d ranges", m.Mapped(), m.ImageSize, len(m.Ranges))
	if m.Mapped() > 20<<20 {
		t.Error("free blocks are mapped")
	}

	for _, kind := range []string{"file", "loop device"} {
		t.Run(kind, func(t *testing.T) {
			disk := dirty(t, m.ImageSize, 0xA5)
			target, old := disk, byte(0) // bmaptool empties a file first
			if kind == "loop device" {
				old = 0xA5
				target = strings.TrimSpace(string(run(t, "", "losetup", "-f", "--show", disk)))
				defer run(t, "", "losetup", "-d", target)
			}
			run(t, "", "bmaptool", "-q", "copy", image+".gz", target)
			run(t, "", "sync", target)
			checkDisk(t, disk, image, m, old)
		})
	}

	// What bmaptool does when a range is not what the map says.
	z, err := os.ReadFile(image + ".gz")
	if err != nil {
		t.Fatal(err)
	}
	changed := unzip(t, z)
	changed[69<<20+1024+120] ^= 1 // the name of the ext4 file system
	if err := os.WriteFile(image, changed, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("bmaptool", "-q", "copy", image, dirty(t, m.ImageSize, 0)).CombinedOutput()
	if err == nil || !bytes.Contains(out, []byte("checksum mismatch")) {
		t.Errorf("bmaptool took a changed image: %v\n%s", err, out)
	}
}

func unzip(t *testing.T, b []byte) []byte {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}

// The host's file system may keep zeros as data or as holes: neither shows in what we make.
func TestHolesOfTheHostDoNotMatter(t *testing.T) {
	image := makeDisk(t)
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	full := filepath.Join(t.TempDir(), "full.img")
	if err := os.WriteFile(full, b, 0o600); err != nil {
		t.Fatal(err)
	}
	var made [][]byte
	for _, file := range []string{image, full} {
		if err := Write(t.Context(), file); err != nil {
			t.Fatal(err)
		}
		for _, ext := range []string{".bmap", ".gz"} {
			b, err := os.ReadFile(file + ext)
			if err != nil {
				t.Fatal(err)
			}
			made = append(made, b)
		}
	}
	if !bytes.Equal(made[0], made[2]) || !bytes.Equal(made[1], made[3]) {
		t.Error("the two images' maps or compressed copies differ")
	}
	if !bytes.Equal(unzip(t, made[1]), b) {
		t.Error("the compressed copy is not the image")
	}
}

func TestAnInterruptedWriteLeavesNothing(t *testing.T) {
	image := makeDisk(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Write(ctx, image); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(image + ".gz"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a compressed copy is there: %v", err)
	}
}

func TestImagesThatAreNoDisksAreRefused(t *testing.T) {
	for _, size := range []int{0, 100, 1024, 1 << 20} {
		if _, err := Create(bytes.NewReader(make([]byte, size)), int64(size)); err == nil {
			t.Errorf("%d zeros were mapped", size)
		}
	}
}

func TestDamagedMapsAreRefused(t *testing.T) {
	good := (&Map{ImageSize: 3*4096 + 7, BlockSize: 4096, Ranges: []Range{{First: 0, Last: 1}, {First: 3, Last: 3}}}).Encode()
	m, err := Decode(good)
	if err != nil {
		t.Fatal(err)
	}
	if start, end := m.Bytes(m.Ranges[1]); start != 3*4096 || end != m.ImageSize || m.Mapped() != 2*4096+7 {
		t.Errorf("range from %d to %d, %d mapped", start, end, m.Mapped())
	}
	sum := bytes.Index(good, []byte("Checksum> ")) + len("Checksum> ")
	flipped := bytes.Clone(good)
	flipped[sum] ^= 1
	if _, err := Decode(flipped); !errors.Is(err, ErrDamaged) {
		t.Errorf("a wrong checksum: error %v", err)
	}
	for _, change := range [][2]string{
		{"2.0", "3.0"},
		{"sha256 ", "md5 "},
		{" 0-1 ", " 1-0 "},
		{" 0-1 ", " 0-3 "},
		{"3 </Range", "4 </Range"},
		{"3 </Range", "-3 </Range"},
		{"3 </Range", "3-x </Range"},
		{`chksum="00`, `chksum="`},
		{" 4096 ", " 0 "},
		{" 12295 ", " 99999999999999999999 "},
		{"</BlockMap>", ""},
	} {
		bad := bytes.Replace(good, []byte(change[0]), []byte(change[1]), 1)
		if bytes.Equal(bad, good) {
			t.Fatalf("%q changes nothing", change)
		}
		if _, err := Decode(bad); !errors.Is(err, ErrDamaged) {
			t.Errorf("%q: error %v", change, err)
		}
		if _, err := Decode(resum(bad)); !errors.Is(err, ErrDamaged) {
			t.Errorf("%q with its checksum put right: error %v", change, err)
		}
	}
}

// resum puts the checksum right, so that what it guards is looked at.
func resum(b []byte) []byte {
	before, after, ok := bytes.Cut(b, []byte("<BmapFileChecksum> "))
	if !ok || len(after) < len(noSum) {
		return b
	}
	b = bytes.Join([][]byte{before, []byte("<BmapFileChecksum> "), []byte(noSum), after[len(noSum):]}, nil)
	return bytes.Replace(b, []byte(noSum), fmt.Appendf(nil, "%x", sha256.Sum256(b)), 1)
}

func FuzzDecode(f *testing.F) {
	f.Add((&Map{ImageSize: 3*4096 + 7, BlockSize: 4096, Ranges: []Range{{First: 0, Last: 1}, {First: 3, Last: 3}}}).Encode())
	f.Add((&Map{ImageSize: 0, BlockSize: 512}).Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Decode(resum(b))
		if err != nil {
			return
		}
		end := int64(0)
		for _, r := range m.Ranges {
			from, to := m.Bytes(r)
			if from < end || to <= from || to > m.ImageSize {
				t.Fatalf("bytes %d to %d of %d, after %d", from, to, m.ImageSize, end)
			}
			end = to
		}
		if _, err := Decode(m.Encode()); err != nil {
			t.Fatal(err)
		}
	})
}

// smallFAT is a partition of 10 sectors: one for each of boot sector, table and root directory, then
// seven clusters, of which the first, the second and the fifth are taken.
func smallFAT() []byte {
	b := make([]byte, 10*sector)
	le.PutUint16(b[11:], sector)
	b[13], b[14], b[16], b[17] = 1, 1, 1, 16 // sectors: a cluster, reserved; tables; root entries
	le.PutUint16(b[19:], 10)
	b[22] = 1
	b[510], b[511] = 0x55, 0xAA
	copy(b[sector:], []byte{0xF8, 0xFF, 0xFF, 0x03, 0xF0, 0xFF, 0, 0, 0, 0xFF, 0x0F, 0})
	return b
}

// smallExt is a partition of 9 sectors with a file system in the first 8.
func smallExt() []byte {
	b := make([]byte, 9*sector)
	b[1024+4] = 4 // blocks of 1024
	le.PutUint16(b[1024+56:], 0xEF53)
	return b
}

func used(b []byte) ([]span, error) {
	return inUse(io.NewSectionReader(bytes.NewReader(b), 0, int64(len(b))))
}

func TestWhatAPartitionUses(t *testing.T) {
	for _, c := range []struct {
		what string
		b    []byte
		want []span
	}{
		{"FAT", smallFAT(), []span{{0, 5 * sector}, {7 * sector, 8 * sector}}},
		{"ext4", smallExt(), []span{{0, 8 * sector}}},
		{"neither", make([]byte, 5*sector), []span{{0, 5 * sector}}},
		{"short", make([]byte, sector), []span{{0, sector}}},
	} {
		if got, err := used(c.b); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, %v, want %v", c.what, got, err, c.want)
		}
	}
	for _, c := range []struct {
		what  string
		b     []byte
		at    int
		value byte
	}{
		{"no sectors a cluster", smallFAT(), 13, 0},
		{"nothing reserved", smallFAT(), 14, 0},
		{"no table", smallFAT(), 16, 0},
		{"tables that fill the partition", smallFAT(), 16, 9},
		{"empty table", smallFAT(), 22, 0},
		{"more sectors than the partition", smallFAT(), 19, 11},
		{"huge blocks", smallExt(), 1024 + 24, 7},
		{"more blocks than the partition", smallExt(), 1024 + 4, 5},
		{"no blocks", smallExt(), 1024 + 4, 0},
	} {
		c.b[c.at] = c.value
		if got, err := used(c.b); err == nil {
			t.Errorf("%s: %v, and no error", c.what, got)
		}
	}
}

func FuzzInUse(f *testing.F) {
	f.Add(smallFAT())
	f.Add(smallExt())
	f.Fuzz(func(t *testing.T, b []byte) {
		spans, err := used(b)
		if err != nil {
			return
		}
		end := int64(-1)
		for _, s := range merge(spans) {
			if s.start <= end || s.end <= s.start || s.end > int64(len(b)) {
				t.Fatalf("bytes %d to %d of %d, after %d", s.start, s.end, len(b), end)
			}
			end = s.end
		}
	})
}
