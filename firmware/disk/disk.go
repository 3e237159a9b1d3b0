// Package disk lays out a disk image: partition table, raw blobs before the first partition, ESP,
// two slots and the data partition. The file systems are made by the host's own tools, without
// mounting and without root; the same input gives the same bytes.
package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const mib = 1 << 20

// Sizes of the partitions in MiB.
type Sizes struct {
	ESP  int64 `toml:"esp"`
	Slot int64 `toml:"slot"`
	Data int64 `toml:"data"` // as shipped; the device grows it at its first boot
}

// Check says whether the file systems that we make fit the sizes: FAT16 has between 4,085 and
// 65,524 clusters, and the cluster sizes below keep well away from both ends.
func (s Sizes) Check() error {
	for _, p := range []struct {
		name     string
		mib      int64
		min, max int64
	}{{"esp", s.ESP, 32, 1024}, {"slot", s.Slot, 32, 1024}, {"data", s.Data, 32, 1 << 20}} {
		if p.mib < p.min || p.mib > p.max {
			return fmt.Errorf("%s is %d MiB: want %d to %d", p.name, p.mib, p.min, p.max)
		}
	}
	return nil
}

// A Blob is written raw, before the first partition.
type Blob struct {
	Name   string
	Offset int64 // bytes
	Data   []byte
}

// An Image is what Write writes.
type Image struct {
	Board string    // makes the disk's and partitions' ids
	Time  time.Time // of all files
	Sizes Sizes
	Blobs []Blob
	ESP   map[string][]byte // path → content
	SlotA map[string][]byte
	SlotB map[string][]byte
	Data  string // file with the ext4 of the data partition, from Data
}

// CheckBlobs says whether the blobs lie where they may: behind the partition table, before the
// first partition, apart from each other.
func CheckBlobs(blobs []Blob) error {
	sorted := slices.SortedFunc(slices.Values(blobs), func(a, b Blob) int { return int(a.Offset - b.Offset) })
	end, before := int64(TableEnd), "the partition table"
	for _, b := range sorted {
		if b.Offset < end {
			return fmt.Errorf("blob %s at byte %d overlaps %s, which ends at %d", b.Name, b.Offset, before, end)
		}
		end, before = b.Offset+int64(len(b.Data)), b.Name
		if end > FirstPartition {
			return fmt.Errorf("blob %s ends at byte %d, the first partition starts at %d", b.Name, end, FirstPartition)
		}
	}
	return nil
}

// Write writes the image to file; work is a folder for what is put together.
func Write(ctx context.Context, file, work string, im Image) error {
	if err := im.Sizes.Check(); err != nil {
		return fmt.Errorf("sizes: %w", err)
	}
	if err := CheckBlobs(im.Blobs); err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()

	var parts []partition
	at := int64(FirstPartition)
	add := func(label string, kind GUID, sizeMiB int64) partition {
		p := partition{label, kind, NewGUID(im.Board, label), at, sizeMiB * mib}
		parts = append(parts, p)
		at += p.size
		return p
	}
	for _, fat := range []struct {
		label    string
		kind     GUID
		size     int64
		contents map[string][]byte
	}{
		{"esp", typeESP, im.Sizes.ESP, im.ESP},
		{"slot-a", typeLinux, im.Sizes.Slot, im.SlotA},
		{"slot-b", typeLinux, im.Sizes.Slot, im.SlotB},
	} {
		p := add(fat.label, fat.kind, fat.size)
		tmp := filepath.Join(work, fat.label+".fat")
		if err := writeFAT(ctx, tmp, p, im.Time, fat.contents); err != nil {
			return fmt.Errorf("make %s: %w", fat.label, err)
		}
		if err := insert(f, tmp, p.offset); err != nil {
			return fmt.Errorf("write %s: %w", fat.label, err)
		}
		os.Remove(tmp)
	}
	p := add("data", typeLinux, im.Sizes.Data)
	if err := insert(f, im.Data, p.offset); err != nil {
		return fmt.Errorf("write data: %w", err)
	}
	for _, b := range im.Blobs {
		if _, err := f.WriteAt(b.Data, b.Offset); err != nil {
			return fmt.Errorf("write %s: %w", b.Name, err)
		}
	}
	size := at + mib // room for the second partition table
	if err := f.Truncate(size); err != nil {
		return err
	}
	if err := writeGPT(f, size, NewGUID(im.Board, "disk"), parts); err != nil {
		return err
	}
	return f.Close()
}

// writeFAT makes a FAT16 of the partition's size with the files in it.
func writeFAT(ctx context.Context, file string, p partition, when time.Time, contents map[string][]byte) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer os.Remove(file + ".part")
	if err := errors.Join(f.Truncate(p.size), f.Close()); err != nil {
		return err
	}
	cluster := int64(1) // sectors. GRUB reads a cluster at a time: the fewer the faster
	for p.size/Sector/cluster > 8192 && cluster < 128 {
		cluster *= 2
	}
	id := p.id.String()[:8]
	if _, err := run(ctx, when, nil, "mkfs.fat", "--invariant", "-F", "16", "-i", id, "-s", strconv.FormatInt(cluster, 10),
		"-n", strings.ToUpper(p.label), "-r", "256", file); err != nil {
		return err
	}
	made := map[string]bool{".": true}
	for _, name := range sortedKeys(contents) {
		var folders []string
		for d := path.Dir(name); !made[d]; d = path.Dir(d) {
			folders = append(folders, d)
			made[d] = true
		}
		slices.Reverse(folders)
		for _, d := range folders {
			if _, err := run(ctx, when, nil, "mmd", "-i", file, "::/"+d); err != nil {
				return err
			}
		}
		if err := os.WriteFile(file+".part", contents[name], 0o644); err != nil {
			return err
		}
		if err := os.Chtimes(file+".part", when, when); err != nil {
			return err
		}
		if _, err := run(ctx, when, nil, "mcopy", "-m", "-i", file, file+".part", "::/"+name); err != nil {
			return err
		}
	}
	return nil
}

func sortedKeys(m map[string][]byte) []string {
	var names []string
	for n := range m {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// Data makes the empty ext4 of the data partition. It can be grown online up to 1 TiB.
func Data(ctx context.Context, file string, sizeMiB int64, board string, when time.Time) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(sizeMiB*mib), f.Close()); err != nil {
		return err
	}
	id := NewGUID(board, "data", "ext4").String()
	// Everything is said here and nothing left to the host's mke2fs.conf.
	_, err = run(ctx, when, []string{"MKE2FS_CONFIG=/dev/null"}, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256",
		"-i", "65536", "-m", "5", "-J", "size=8", "-L", "data", "-U", id,
		"-O", "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,"+
			"large_file,huge_file,dir_nlink,extra_isize,metadata_csum",
		"-E", fmt.Sprintf("hash_seed=%s,root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,nodiscard,resize=%d", id, int64(1<<40/4096)),
		file)
	return err
}

// insert copies the file into w at an offset, leaving holes where there are zeros.
func insert(w *os.File, file string, offset int64) error {
	r, err := os.Open(file)
	if err != nil {
		return err
	}
	defer r.Close()
	fd := int(r.Fd())
	buf, zeros := make([]byte, 64<<10), make([]byte, 64<<10)
	for at := int64(0); ; {
		from, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // nothing but holes follows
		}
		if err != nil {
			return err
		}
		at = from &^ int64(len(buf)-1)
		n, err := r.ReadAt(buf, at)
		if err != nil && err != io.EOF {
			return err
		}
		if !bytes.Equal(buf[:n], zeros[:n]) {
			if _, err := w.WriteAt(buf[:n], offset+at); err != nil {
				return err
			}
		}
		at += int64(len(buf))
	}
}

// packages names what brings a tool.
var packages = map[string]string{"mkfs.fat": "dosfstools", "mcopy": "mtools", "mmd": "mtools", "mke2fs": "e2fsprogs"}

// run runs one of the host's tools at the time when.
func run(ctx context.Context, when time.Time, env []string, name string, args ...string) (string, error) {
	epoch := strconv.FormatInt(when.Unix(), 10)
	program := name
	if _, err := exec.LookPath(name); err != nil { // not on an ordinary user's PATH
		program = "/usr/sbin/" + name
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "TZ=UTC", "MTOOLSRC=/dev/null", "MTOOLS_SKIP_CHECK=0",
		"SOURCE_DATE_EPOCH="+epoch, "E2FSPROGS_FAKE_TIME="+epoch)
	cmd.Env = append(cmd.Env, env...)
	out, err := cmd.CombinedOutput()
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "", fmt.Errorf("%s is missing: install the package %s (scripts/setup run does)", name, packages[name])
	case err != nil:
		return "", fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}
