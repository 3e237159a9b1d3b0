package flash

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// sectorSize is the unit of our images' partition table.
const sectorSize = 512

// A host is where the kernel tells about disks and their use.
type host struct{ sys, mounts, swaps string }

var thisHost = host{"/sys", "/proc/self/mountinfo", "/proc/swaps"}

// A disk is one that may be written.
type disk struct {
	path, name string // /dev/sdb, sdb
	id         uint64 // device number
	model      string
	size       int64
	parts      int
}

func (d disk) String() string {
	return fmt.Sprintf("%s: %s, %s, %d partitions known to the kernel", d.path, d.model, human(d.size), d.parts)
}

// inspect returns the disk behind dev if nobody uses it and it has room for so many bytes. Every
// refusal tells the cure.
func (h host) inspect(dev string, need int64) (disk, error) {
	d, sys, err := h.find(dev)
	if err != nil {
		return disk{}, err
	}
	parts, err := partitions(sys)
	if err != nil {
		return disk{}, fmt.Errorf("look at %s: %w", d.path, err)
	}
	d.parts = len(parts)
	if err := h.inUse(d, append([]string{sys}, parts...)); err != nil {
		return disk{}, err
	}
	if attr(sys, "ro") == "1" {
		return disk{}, fmt.Errorf("%s is write-protected: slide the lock on the card or its adapter", d.path)
	}
	sectors, err := strconv.ParseInt(attr(sys, "size"), 10, 64) // of 512 bytes, whatever the disk's are
	if err != nil {
		return disk{}, fmt.Errorf("look at %s: size: %w", d.path, err)
	}
	d.size = sectors * 512
	switch {
	case d.size == 0:
		return disk{}, fmt.Errorf("%s is empty: put a card or disk in", d.path)
	case d.size < need:
		return disk{}, fmt.Errorf("%s is too small: it holds %s, the image needs %s; use a larger one", d.path, human(d.size), human(need))
	}
	if s := attr(sys, "queue/logical_block_size"); s != strconv.Itoa(sectorSize) {
		return disk{}, fmt.Errorf("%s has sectors of %s bytes, the image is for %d: use another disk", d.path, s, sectorSize)
	}
	d.model = strings.Join(strings.Fields(attr(sys, "device/vendor")+" "+attr(sys, "device/model")+" "+attr(sys, "device/name")), " ")
	if d.model == "" {
		d.model = "no model name"
	}
	return d, nil
}

// find returns what dev names, and its folder in sysfs.
func (h host) find(dev string) (disk, string, error) {
	path, err := filepath.EvalSymlinks(dev) // /dev/disk/by-id/...
	if err != nil {
		return disk{}, "", fmt.Errorf("there is no disk %s: lsblk -d lists those there are", dev)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return disk{}, "", fmt.Errorf("look at %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return disk{}, "", fmt.Errorf("%s is not a disk: lsblk -d lists those there are", path)
	}
	link := filepath.Join(h.sys, "dev/block", number(st.Rdev))
	sys, err := filepath.EvalSymlinks(link)
	if err != nil {
		return disk{}, "", fmt.Errorf("look at %s: %w", path, err)
	}
	if attr(sys, "partition") != "" {
		return disk{}, "", fmt.Errorf("%s is a partition: name its disk, /dev/%s", path, devName(filepath.Dir(sys)))
	}
	for _, kind := range []string{"dm", "md"} {
		if _, err := os.Stat(filepath.Join(sys, kind)); err == nil {
			return disk{}, "", fmt.Errorf("%s is a volume made of other disks: name a disk, lsblk -d lists them", path)
		}
	}
	return disk{path: path, name: filepath.Base(path), id: st.Rdev}, sys, nil
}

// partitions returns the sysfs folders of a disk's partitions.
func partitions(sys string) ([]string, error) {
	entries, err := os.ReadDir(sys)
	if err != nil {
		return nil, err
	}
	var parts []string
	for _, e := range entries {
		if part := filepath.Join(sys, e.Name()); attr(part, "partition") != "" {
			parts = append(parts, part)
		}
	}
	return parts, nil
}

// inUse returns an error if the disk or one of its partitions, whose sysfs folders are given, is part
// of something: a mounted file system, swap, a volume.
func (h host) inUse(d disk, folders []string) error {
	mounts, err := h.mounted()
	if err != nil {
		return fmt.Errorf("look for mounts of %s: %w", d.path, err)
	}
	swaps, err := h.swap()
	if err != nil {
		return fmt.Errorf("look for swap on %s: %w", d.path, err)
	}
	var places []string
	for _, sys := range folders {
		id, dev := attr(sys, "dev"), "/dev/"+devName(sys)
		for _, m := range mounts {
			if m.id == id {
				places = append(places, m.on)
			}
		}
		if slices.Contains(swaps, id) {
			return fmt.Errorf("%s is a disk of this system (%s is swap): name another, or run: swapoff %s", d.path, dev, dev)
		}
		holders, err := os.ReadDir(filepath.Join(sys, "holders"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("look at %s: %w", d.path, err)
		}
		if len(holders) > 0 {
			return fmt.Errorf("%s is in use: %s is part of %s (LVM, RAID or encryption); name another disk, or take that apart",
				d.path, dev, holders[0].Name())
		}
	}
	if i := slices.IndexFunc(places, ofSystem); i >= 0 {
		return fmt.Errorf("%s is the disk that this system runs from (%s is on it): name another; lsblk lists disks", d.path, places[i])
	}
	if len(places) > 0 {
		return fmt.Errorf("%s is mounted: run: umount %s", d.path, strings.Join(places, " "))
	}
	return nil
}

func ofSystem(place string) bool {
	for _, dir := range []string{"/boot", "/usr", "/var", "/home", "/etc", "/opt", "/srv"} {
		if place == dir || strings.HasPrefix(place, dir+"/") {
			return true
		}
	}
	return place == "/"
}

// open opens the disk so that nobody else can mount it meanwhile.
func (d disk) open(flag int) (*os.File, error) {
	f, err := os.OpenFile(d.path, flag|unix.O_EXCL, 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		return nil, fmt.Errorf("%s is in use by another program: end that (lsof %s names it) and try again", d.path, d.path)
	case errors.Is(err, os.ErrPermission):
		return nil, d.forRoot()
	case err != nil:
		return nil, fmt.Errorf("open disk: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Rdev != d.id {
		f.Close()
		return nil, fmt.Errorf("%s has become another disk: try again", d.path)
	}
	return f, nil
}

func (d disk) forRoot() error {
	return fmt.Errorf("%s may be written by root only: run the same command with sudo", d.path)
}

type mount struct{ id, on string } // "8:1", "/media/card"

// mounted reads /proc/self/mountinfo (proc_pid_mountinfo(5)).
func (h host) mounted() ([]mount, error) {
	b, err := os.ReadFile(h.mounts)
	if err != nil {
		return nil, err
	}
	var mounts []mount
	for line := range strings.Lines(string(b)) {
		before, after, _ := strings.Cut(line, " - ")
		f, fs := strings.Fields(before), strings.Fields(after)
		if len(f) < 5 {
			continue
		}
		on := unescape(f[4])
		mounts = append(mounts, mount{f[2], on})
		// btrfs and others tell a number of their own; the source is a device all the same.
		if len(fs) >= 2 && strings.HasPrefix(fs[1], "/") {
			if id := deviceOf(unescape(fs[1])); id != "" && id != f[2] {
				mounts = append(mounts, mount{id, on})
			}
		}
	}
	return mounts, nil
}

// swap reads /proc/swaps and returns the device numbers in it.
func (h host) swap() ([]string, error) {
	b, err := os.ReadFile(h.swaps)
	if errors.Is(err, os.ErrNotExist) { // a kernel without swap
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var ids []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 0 {
			if id := deviceOf(unescape(f[0])); id != "" {
				ids = append(ids, id)
			}
		}
	}
	return ids, nil
}

// deviceOf returns the number of the block device that path names, or "".
func deviceOf(path string) string {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return ""
	}
	return number(st.Rdev)
}

func number(id uint64) string { return fmt.Sprintf("%d:%d", unix.Major(id), unix.Minor(id)) }

// attr returns one value of a sysfs folder, or "".
func attr(sys, name string) string {
	b, err := os.ReadFile(filepath.Join(sys, name))
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(b))
}

// devName is the name in /dev of a device's sysfs folder, in which a / of the name is a !.
func devName(sys string) string { return strings.ReplaceAll(filepath.Base(sys), "!", "/") }

var octal = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

func unescape(s string) string { return octal.Replace(s) }

// human writes a size as it is printed on a card.
func human(n int64) string {
	if n < 1e9 {
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.1f GB", float64(n)/1e9)
}
