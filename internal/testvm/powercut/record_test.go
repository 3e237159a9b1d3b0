package powercut

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"cloudlink.local/gateway/internal/testvm/powercut/nbd"
)

// recorded plays commands of qemu-io to a disk of 64 sectors of 0xee and returns what was recorded, and
// the disk as it is then.
func recorded(t *testing.T, commands ...string) (*Recording, []byte) {
	t.Helper()
	dir, err := os.MkdirTemp("", "powercut")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "disk.img")
	if err := os.WriteFile(path, bytes.Repeat([]byte{0xee}, 64*Sector), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := Record(path, dir)
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-f", "raw", "-t", "none", "-d", "unmap"}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	if out, err := exec.Command("qemu-io", append(args, r.URL())...).CombinedOutput(); err != nil {
		t.Fatalf("qemu-io (package qemu-utils; scripts/setup installs it): %v\n%s", err, out)
	}
	rec, err := r.Recording()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	disk, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return rec, disk
}

// made returns the disk that a point leaves, one byte for a sector.
func made(t *testing.T, rec *Recording, p Point) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := rec.Make(path, p); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var sectors []byte
	for s := range slices.Chunk(b, Sector) {
		if !bytes.Equal(s, bytes.Repeat(s[:1], Sector)) {
			t.Fatalf("%v: a sector is torn", p)
		}
		sectors = append(sectors, s[0])
	}
	return sectors
}

var commands = []string{
	"write -P 1 0 4k", "write -P 2 8k 4k", "flush", // 0 1 2
	"write -P 3 0 4k", "write -P 4 2k 4k", "write -f -P 5 12k 1k", // 3 4 5
	"write -z -u 8k 1k", "discard 16k 1k", // 6 7
	"flush", "write -P 6 0 512", // 8 9
}

func TestAPrefixIsTheDiskAsItWas(t *testing.T) {
	rec, disk := recorded(t, commands...)
	if len(rec.Ops) < 10 {
		t.Fatalf("recorded %+v", rec.Ops)
	}
	path := filepath.Join(t.TempDir(), "disk")
	if err := rec.Make(path, Point{After: len(rec.Ops), Mode: Prefix}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, disk) {
		t.Errorf("all operations leave another disk than they left (%v)", err)
	}
	if got := made(t, rec, Point{After: 5, Mode: Prefix}); string(got[:13]) != "\x03\x03\x03\x03\x04\x04\x04\x04\x04\x04\x04\x04\xee" {
		t.Errorf("after five: % x", got)
	}
	if got := made(t, rec, Point{Mode: Prefix}); !bytes.Equal(got, bytes.Repeat([]byte{0xee}, 64)) {
		t.Errorf("before the first: % x", got)
	}
}

// Every sector has what one of the writes since the flush left there, and every legal content comes up.
func TestACutLeavesAnySectorOfWhatWasNotFlushed(t *testing.T) {
	rec, _ := recorded(t, commands...)
	for _, c := range []struct {
		after int
		mode  Mode
		want  map[int]string // by sector: what it may hold
	}{
		{8, Reordered, map[int]string{0: "\x01\x03", 4: "\x01\x03\x04", 8: "\xee\x04", 16: "\x02\x00", 18: "\x02", 24: "\x05", 32: "\xee\x00"}},
		{8, Torn, map[int]string{0: "\x01\x03", 4: "\x01\x03\x04", 8: "\xee\x04", 16: "\x02\x00", 24: "\x05", 33: "\xee\x00"}},
		{5, Torn, map[int]string{0: "\x01\x03", 24: "\xee\x05", 25: "\xee\x05", 16: "\x02"}}, // the synced write is under way
		{9, Torn, map[int]string{0: "\x03\x06", 1: "\x03", 4: "\x04", 16: "\x00", 24: "\x05"}},
		{2, Reordered, map[int]string{0: "\xee\x01", 16: "\xee\x02"}},
		{3, Reordered, map[int]string{0: "\x01", 16: "\x02"}},
	} {
		seen := map[int]map[byte]bool{}
		for seed := range uint64(100) {
			p := Point{c.after, c.mode, seed}
			got := made(t, rec, p)
			if !bytes.Equal(got, made(t, rec, p)) {
				t.Fatalf("%v leaves two disks", p)
			}
			for sector, may := range c.want {
				if bytes.IndexByte([]byte(may), got[sector]) < 0 {
					t.Fatalf("%v leaves %#x in sector %d, want one of % x", p, got[sector], sector, may)
				}
				if seen[sector] == nil {
					seen[sector] = map[byte]bool{}
				}
				seen[sector][got[sector]] = true
			}
		}
		for sector, may := range c.want {
			if len(seen[sector]) != len(may) {
				t.Errorf("%d %s: sector %d held %v, never all of % x", c.after, c.mode, sector, seen[sector], may)
			}
		}
	}
}

// A torn write leaves some sectors and not others.
func TestAWriteIsTornBetweenItsSectors(t *testing.T) {
	rec, _ := recorded(t, commands...)
	torn := 0
	for seed := range uint64(50) {
		got := made(t, rec, Point{3, Torn, seed})
		if n := bytes.Count(got[:8], []byte{3}); n > 0 && n < 8 {
			torn++
		}
	}
	if torn == 0 {
		t.Error("it is never torn")
	}
}

func TestWhatWasUnderWayBesideAFlushIsNotFlushed(t *testing.T) {
	rec := &Recording{Ops: []nbd.Op{{Kind: nbd.Write, Length: Sector}, {Kind: nbd.Write, Length: Sector, Settled: 1}, {Kind: nbd.Flush, Settled: 1}, {Kind: nbd.Write, Length: Sector, Settled: 3}}}
	for n, want := range []int{0, 0, 0, 1, 1} {
		if got := rec.flushed(n); got != want {
			t.Errorf("after %d operations %d are flushed, want %d", n, got, want)
		}
	}
}
