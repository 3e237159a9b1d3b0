package gpt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const mib = 1 << 20

// disk makes an image of size bytes with our four partitions, as another program writes it.
func disk(t testing.TB, size int64) string {
	t.Helper()
	return partitioned(t, size, `start=16MiB, size=8MiB, type=uefi, name=esp
size=24MiB, type=uefi, name=slot-a
size=24MiB, type=uefi, name=slot-b
size=32MiB, type=linux, name=data
`)
}

func partitioned(t testing.TB, size int64, partitions string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, size)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sfdisk", "-q", path)
	cmd.Stdin = strings.NewReader("label: gpt\n" + partitions)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v\n%s", err, out)
	}
	return path
}

// verify has another program check both copies of the table.
func verify(t *testing.T, path string) {
	t.Helper()
	out, err := exec.Command("sgdisk", "-v", path).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "No problems found") {
		t.Errorf("sgdisk -v: %v\n%s", err, out)
	}
}

func open(t *testing.T, path string) (*os.File, int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return f, info.Size()
}

func read(t *testing.T, path string) *Table {
	t.Helper()
	f, size := open(t, path)
	table, err := Read(f, size, 512)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestTheTableIsReadAsOthersWriteIt(t *testing.T) {
	path := disk(t, 128*mib)
	table := read(t, path)
	var names []string
	for _, p := range table.Partitions {
		names = append(names, fmt.Sprintf("%d %s %d-%d", p.Number, p.Name, p.First, p.Last))
		out, err := exec.Command("sfdisk", "--part-uuid", path, fmt.Sprint(p.Number)).Output()
		if err != nil || strings.ToLower(strings.TrimSpace(string(out))) != p.ID.String() {
			t.Errorf("partition %d is %v, sfdisk says %s, %v", p.Number, p.ID, out, err)
		}
		if got, ok := table.ByID(p.ID); !ok || got != p {
			t.Errorf("by its GUID it is %+v", got)
		}
	}
	want := "1 esp 32768-49151, 2 slot-a 49152-98303, 3 slot-b 98304-147455, 4 data 147456-212991"
	if got := strings.Join(names, ", "); got != want {
		t.Errorf("partitions %s, want %s", got, want)
	}
	if _, ok := table.ByName("none"); ok {
		t.Error("found a partition that is not there")
	}
	if _, ok := table.ByID(GUID{}); ok {
		t.Error("found a partition that is not there")
	}
	table.Grow(4)
	if table.Grow(4) {
		t.Error("grew twice")
	}
}

func TestTheLastPartitionGrowsToTheDisksEnd(t *testing.T) {
	path := disk(t, 128*mib)
	if err := os.Truncate(path, 1024*mib+512*7); err != nil { // not on a boundary
		t.Fatal(err)
	}
	table := read(t, path)
	if !table.Grow(4) {
		t.Fatal("nothing to do")
	}
	f, _ := open(t, path)
	if err := table.Write(f); err != nil {
		t.Fatal(err)
	}
	verify(t, path)
	data, _ := read(t, path).ByName("data")
	if end := (data.Last + 1) * 512; end != 1023*mib {
		t.Errorf("it ends at %d", end)
	}
	if read(t, path).Grow(4) {
		t.Error("there is still something to do")
	}
}

func TestOnlyTheLastPartitionGrows(t *testing.T) {
	path := disk(t, 128*mib)
	if err := os.Truncate(path, 256*mib); err != nil {
		t.Fatal(err)
	}
	table := read(t, path)
	before, _ := table.ByName("slot-b")
	if !table.Grow(before.Number) { // the backup moves nevertheless
		t.Error("nothing to do")
	}
	if after, _ := table.ByName("slot-b"); after != before {
		t.Errorf("%+v became %+v", before, after)
	}
}

func TestADamagedCopyIsMadeAgainFromTheOther(t *testing.T) {
	for name, at := range map[string]int64{"primary header": 512, "primary entries": 1024, "backup header": 128*mib - 512, "backup entries": 128*mib - 33*512} {
		t.Run(name, func(t *testing.T) {
			path := disk(t, 128*mib)
			f, size := open(t, path)
			if _, err := f.WriteAt([]byte("damage"), at+20); err != nil {
				t.Fatal(err)
			}
			table, err := Read(f, size, 512)
			if err != nil {
				t.Fatal(err)
			}
			if !table.Grow(0) {
				t.Fatal("nothing to do")
			}
			if err := table.Write(f); err != nil {
				t.Fatal(err)
			}
			verify(t, path)
		})
	}
}

// A recorder is a disk that remembers its writes, in the order in which they were made.
type recorder struct {
	b      []byte
	writes []write
}

type write struct {
	at   int64
	b    []byte
	sync bool
}

func (r *recorder) ReadAt(p []byte, at int64) (int, error) { return bytes.NewReader(r.b).ReadAt(p, at) }

func (r *recorder) WriteAt(p []byte, at int64) (int, error) {
	copy(r.b[at:], p)
	for len(p) > 0 { // a power cut can fall between any two sectors
		r.writes = append(r.writes, write{at: at, b: bytes.Clone(p[:512])})
		p, at = p[512:], at+512
	}
	return len(p), nil
}

func (r *recorder) Sync() error {
	r.writes = append(r.writes, write{sync: true})
	return nil
}

func TestAPowerCutLeavesAWholeTable(t *testing.T) {
	path := partitioned(t, 6*mib, "start=1MiB, size=1MiB, name=esp\nsize=1MiB, name=slot-a\nsize=1MiB, name=slot-b\nsize=1MiB, name=data\n")
	if err := os.Truncate(path, 12*mib); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rec := &recorder{b: bytes.Clone(before)}
	table, err := Read(rec, 12*mib, 512)
	if err != nil {
		t.Fatal(err)
	}
	table.Grow(4)
	if err := table.Write(rec); err != nil {
		t.Fatal(err)
	}
	// All writes before a sync are on the medium; of those after it any may be.
	synced := 0
	for cut := range rec.writes {
		if rec.writes[cut].sync {
			synced = cut
		}
		for _, only := range []func(i int) bool{
			func(i int) bool { return i < cut },
			func(i int) bool { return i < synced || i == cut },
			func(i int) bool { return i < synced || i < cut && i%2 == 0 },
		} {
			b := bytes.Clone(before)
			for i, w := range rec.writes {
				if !w.sync && only(i) {
					copy(b[w.at:], w.b)
				}
			}
			after, err := Read(bytes.NewReader(b), 12*mib, 512)
			if err != nil {
				t.Fatalf("after %d of %d writes: %v", cut, len(rec.writes), err)
			}
			if len(after.Partitions) != 4 {
				t.Fatalf("after %d writes there are %d partitions", cut, len(after.Partitions))
			}
			after.Grow(4)
			if data, _ := after.ByName("data"); (data.Last+1)*512 != 11*mib {
				t.Errorf("after %d writes it can grow to %d only", cut, (data.Last+1)*512)
			}
		}
	}
}

func FuzzTable(f *testing.F) {
	image := make([]byte, 40*512)
	path := disk(f, 128*mib)
	in, err := os.Open(path)
	if err != nil {
		f.Fatal(err)
	}
	defer in.Close()
	if _, err := in.ReadAt(image, 0); err != nil {
		f.Fatal(err)
	}
	f.Add(image[512:1024], image[1024:1536])
	f.Fuzz(func(t *testing.T, header, entries []byte) {
		const size = 128 * mib
		b := make([]byte, 64*512)
		copy(b[512:1024], header)
		copy(b[1024:], entries)
		seal(b)
		table, err := Read(sparse(b), size, 512)
		if err != nil {
			return
		}
		grown := false
		for _, p := range table.Partitions {
			if p.Last < p.First || p.Last >= size/512 {
				t.Fatalf("partition beyond the disk: %+v", p)
			}
			grown = table.Grow(p.Number) || grown
		}
		if !grown {
			return
		}
		rec := discard{sparse(b)}
		if err := table.Write(rec); err != nil {
			t.Fatal(err)
		}
	})
}

// seal puts the right checksums in, so that fuzzing gets past them.
func seal(b []byte) {
	le := binary.LittleEndian
	entries := uint64(le.Uint32(b[512+80:])) * uint64(le.Uint32(b[512+84:]))
	if lba := le.Uint64(b[512+72:]); lba == 2 && entries <= uint64(len(b)-1024) {
		le.PutUint32(b[512+88:], crc32.ChecksumIEEE(b[1024:1024+entries]))
	}
	if size := le.Uint32(b[512+12:]); size >= headerSize && size <= 512 {
		le.PutUint32(b[512+16:], headerCRC(b[512:512+size]))
	}
}

// A sparse disk is zero beyond its bytes.
type sparse []byte

func (s sparse) ReadAt(p []byte, at int64) (int, error) {
	clear(p)
	if at < int64(len(s)) {
		copy(p, s[at:])
	}
	return len(p), nil
}

type discard struct{ sparse }

func (discard) WriteAt(p []byte, at int64) (int, error) {
	if at < 0 || at+int64(len(p)) > 128*mib {
		return 0, fmt.Errorf("%d bytes at %d", len(p), at)
	}
	return len(p), nil
}

func (discard) Sync() error { return nil }
