package data

import (
	"bytes"
	"os"
	"testing"

	"cloudlink.local/gateway/internal/testroot"
)

// fileSystem returns an empty file system of size bytes as mke2fs makes it.
func fileSystem(t testing.TB, size int64, options ...string) *os.File {
	t.Helper()
	path := testroot.File(t, size)
	testroot.Run(t, "mkfs.ext4", append(append([]string{"-q"}, options...), path)...)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestBackupsAreFoundWhateverTheBlockSize(t *testing.T) {
	for _, blockSize := range []string{"1024", "2048", "4096"} {
		t.Run(blockSize, func(t *testing.T) {
			f := fileSystem(t, 200*mib, "-b", blockSize)
			found, _ := backups(f, 200*mib)
			if len(found) == 0 {
				t.Fatal("none found")
			}
			primary, err := readSuper(f)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range found {
				again, err := parseSuper(s.asPrimary())
				if err != nil || again.group != 0 || again.blocks != primary.blocks || again.blockSize != primary.blockSize {
					t.Errorf("the backup of group %d makes %+v, %v; the primary is %+v", s.group, again, err, primary)
				}
			}
		})
	}
}

func TestABackupOfAnotherPlaceIsNotTaken(t *testing.T) {
	f := fileSystem(t, 200*mib, "-b", "4096")
	found, at := backups(f, 200*mib)
	if len(found) != 1 {
		t.Fatalf("%d backups", len(found))
	}
	disk := make([]byte, 200*mib)
	copy(disk[places(200 * mib)[2]:], found[0].raw[:]) // it belongs at at[0]
	if got, place := backups(bytes.NewReader(disk), 200*mib); len(got) != 0 {
		t.Errorf("found one at %v, which belongs at %v", place, at)
	}
	copy(disk[at[0]:], found[0].raw[:])
	if got, _ := backups(bytes.NewReader(disk), 100*mib); len(got) != 0 {
		t.Error("found one of a larger device")
	}
}

func FuzzSuperblock(f *testing.F) {
	f.Add(make([]byte, superSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseSuper(b)
		if err != nil {
			return
		}
		if s.blockSize < 1024 || s.blockSize > 64<<10 || s.blocks <= 0 || s.blocksPerGroup <= 0 {
			t.Fatalf("impossible sizes: %+v", s)
		}
		s.place()
		again, err := parseSuper(s.asPrimary())
		if err != nil || again.group != 0 || again.blocks != s.blocks {
			t.Fatalf("as primary: %+v, %v", again, err)
		}
	})
}
