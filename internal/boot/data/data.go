// Package data brings the data partition up at boot, whatever state it is in: mounted; repaired from
// a backup of its superblock; set aside and replaced by an empty one; or, where the medium
// fails or is not there, by memory. The gateway always comes up, and the owner is told.
package data

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/boot"
	"cloudlink.local/gateway/internal/condition"
	"cloudlink.local/gateway/internal/machine"
)

// Dir is where the data partition is mounted.
const Dir = "/data"

// Empty is the prepared empty file system, in the initramfs.
const Empty = "/usr/share/cloudlink/data.ext4.gz"

const (
	flags   = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME
	options = "errors=remount-ro,commit=15"
	memory  = "mode=0755,size=16m" // of the file system in memory that stands in
	keep    = 32 << 20             // most bytes that are carried over from a damaged file system
	room    = 4 * keep             // size of the new file system before they are put back
	copies  = 12 << 20             // most bytes that are copied from a read-only one
)

// A Result is what became of the data partition.
type Result struct {
	State  machine.DataState
	Detail string // the error behind the state

	device string // the kernel's name of it
	errors int    // that the file system had when it was mounted
}

// Lasting says whether what is written to the directory outlives a restart.
func (r Result) Lasting() bool { return r.State == machine.DataOK || r.State == machine.DataReplaced }

// A Partition is the data partition.
type Partition struct {
	Device string // "" where there is none
	Empty  string // file with the prepared empty file system, gzipped
	Work   string // an empty directory of ours, for mounts on the way
	Log    *slog.Logger
}

// Open has the data partition, or what stands in for it, mounted at dir when it returns, which is
// after limit at the latest.
func (p Partition) Open(dir string, limit time.Duration) Result {
	done := make(chan Result, 1)
	at, err := p.mountPoint("mount")
	if err != nil {
		return p.standIn(dir, Result{State: machine.DataFailing, Detail: err.Error()})
	}
	go func() { done <- p.open(at) }() // ends with the machine if the medium hangs
	select {
	case r := <-done:
		if r.State == machine.DataMissing || r.State == machine.DataFailing {
			return p.standIn(dir, r)
		}
		if err := unix.Mount(at, dir, "", unix.MS_MOVE, ""); err != nil {
			return p.standIn(dir, Result{State: machine.DataFailing, Detail: fmt.Sprintf("move mount to %s: %v", dir, err)})
		}
		r.device = filepath.Base(p.Device)
		r.errors = errorsOf(r.device)
		return r
	case <-time.After(limit):
		go func() { // should it answer after all, it is not left mounted out of sight
			<-done
			unix.Unmount(at, unix.MNT_DETACH)
		}()
		return p.standIn(dir, Result{State: machine.DataFailing, Detail: fmt.Sprintf("the medium does not answer within %v", limit)})
	}
}

// standIn mounts memory at dir.
func (p Partition) standIn(dir string, r Result) Result {
	if err := unix.Mount("tmpfs", dir, "tmpfs", flags, memory); err != nil {
		p.Log.Error("mount memory in place of the data partition", "error", err)
	}
	return r
}

func (p Partition) mountPoint(name string) (string, error) {
	dir := filepath.Join(p.Work, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make mount point: %w", err)
	}
	return dir, nil
}

// open has a file system mounted at the directory at, unless the state is missing or failing.
func (p Partition) open(at string) Result {
	if p.Device == "" {
		return Result{State: machine.DataMissing, Detail: "the disk has no partition called data"}
	}
	mountErr := unix.Mount(p.Device, at, "ext4", flags, options)
	if mountErr == nil {
		return Result{State: machine.DataOK}
	}
	mountErr = fmt.Errorf("mount data partition: %w", mountErr)
	device, err := os.OpenFile(p.Device, os.O_RDWR, 0)
	if errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) {
		device, err = os.Open(p.Device)
	}
	if err != nil {
		return Result{State: machine.DataFailing, Detail: errors.Join(mountErr, err).Error()}
	}
	defer device.Close()
	size, err := deviceSize(device)
	if err != nil {
		return Result{State: machine.DataFailing, Detail: errors.Join(mountErr, err).Error()}
	}
	start, err := examine(device, size)
	if err != nil { // never erase a medium for what may be a loose cable
		return Result{State: machine.DataFailing, Detail: errors.Join(mountErr, err).Error()}
	}
	if readOnly(device) {
		return p.copyReadOnly(at, mountErr)
	}
	if p.repair(device, size, at) {
		return Result{State: machine.DataOK}
	}
	return p.startAgain(device, size, at, start, mountErr)
}

// examined is how much is read to tell a failing medium from a damaged file system. The prepared
// file system, and so its journal and first tables, lies within, whatever it has grown to.
const examined = 64 << 20

// examine reads what lies at the start of device, and returns its first MiB gzipped.
func examine(device io.ReaderAt, size int64) (start []byte, err error) {
	var kept bytes.Buffer
	z := gzip.NewWriter(&kept)
	buf := make([]byte, 1<<20)
	for at := int64(0); at < min(size, examined); at += int64(len(buf)) {
		n, err := device.ReadAt(buf, at)
		if err != nil && err != io.EOF {
			return nil, fmt.Errorf("read data partition: %w", err)
		}
		if at == 0 {
			z.Write(buf[:n]) // into memory: it takes all
		}
	}
	z.Close()
	return kept.Bytes(), nil
}

func readOnly(device *os.File) bool {
	ro, err := unix.IoctlGetInt(int(device.Fd()), unix.BLKROGET)
	return err == nil && ro != 0
}

// copyReadOnly mounts memory with a copy of what is on a medium that takes no writes.
func (p Partition) copyReadOnly(at string, mountErr error) Result {
	err := p.look(p.Device, nil, func(files string) error {
		if err := unix.Mount("tmpfs", at, "tmpfs", flags, memory); err != nil {
			return err
		}
		p.Log.Warn("the data partition is read-only; copied to memory", "copied", copyTree(files, at, copies))
		return nil
	})
	if err != nil {
		return Result{State: machine.DataFailing, Detail: errors.Join(mountErr, err).Error()}
	}
	return Result{State: machine.DataReadOnly, Detail: mountErr.Error()}
}

// look has device mounted read-only, as it stands, while do runs: with its own superblock or, if
// that does not work, with the backups that lie at these places.
func (p Partition) look(device string, places []int64, do func(files string) error) error {
	files, err := p.mountPoint("look")
	if err != nil {
		return err
	}
	err = unix.Mount(device, files, "ext4", flags|unix.MS_RDONLY, "noload")
	for _, place := range places {
		if err == nil {
			break
		}
		err = unix.Mount(device, files, "ext4", flags|unix.MS_RDONLY, fmt.Sprintf("noload,sb=%d", place/1024))
	}
	if err != nil {
		return fmt.Errorf("mount data partition read-only: %w", err)
	}
	return errors.Join(do(files), boot.Unmount(files))
}

// repair puts a backup in the place of a damaged primary superblock and mounts the file system.
func (p Partition) repair(device *os.File, size int64, at string) bool {
	if _, err := readSuper(device); err == nil {
		return false // that is not what is wrong
	}
	found, _ := backups(device, size)
	if len(found) == 0 {
		return false
	}
	if _, err := device.WriteAt(found[0].asPrimary(), superStart); err != nil {
		return false
	}
	if err := device.Sync(); err != nil {
		return false
	}
	if err := unix.Mount(p.Device, at, "ext4", flags, options); err != nil {
		p.Log.Warn("mount data partition with the backup of its superblock", "error", err)
		return false
	}
	p.Log.Warn("the data partition's superblock was damaged; a backup took its place", "group", found[0].group)
	return true
}

// startAgain replaces a damaged file system by an empty one, after setting aside what can be read
// of it: its files or, where it cannot be mounted at all, its start as it is.
func (p Partition) startAgain(device *os.File, size int64, at string, start []byte, mountErr error) Result {
	failing := func(err error) Result {
		return Result{State: machine.DataFailing, Detail: errors.Join(mountErr, err).Error()}
	}
	kept, err := p.mountPoint("kept")
	if err != nil {
		return failing(err)
	}
	if err := unix.Mount("tmpfs", kept, "tmpfs", flags, fmt.Sprintf("mode=0700,size=%d", keep+8<<20)); err != nil {
		return failing(fmt.Errorf("mount memory for what is set aside: %w", err))
	}
	defer func() {
		if err := boot.Unmount(kept); err != nil {
			p.Log.Warn("free the memory for what was set aside", "error", err)
		}
	}()
	_, sb := backups(device, size)
	var saved string
	files := filepath.Join(kept, "files")
	if err := os.Mkdir(files, 0o700); err != nil {
		return failing(err)
	}
	if err := p.look(p.Device, sb, func(from string) error {
		saved = copyTree(from, files, keep).String()
		return nil
	}); err != nil {
		saved = "no file could be read; the first MiB"
		if err := os.WriteFile(filepath.Join(kept, "start.gz"), start, 0o600); err != nil {
			saved = "nothing"
		}
	}

	empty, err := os.Open(p.Empty)
	if err != nil {
		return failing(err)
	}
	defer empty.Close()
	if err := replace(device, size, empty); err != nil {
		return failing(err)
	}
	if err := unix.Mount(p.Device, at, "ext4", flags, options); err != nil {
		return failing(fmt.Errorf("mount the new file system: %w", err))
	}
	if size, err := enlarge(at, device, min(size, room)); err != nil {
		p.Log.Warn("make room for what is set aside", "size", size, "error", err)
	}
	name := filepath.Join(setAside, time.Now().UTC().Format("20060102-150405"))
	dir := filepath.Join(at, name)
	detail := fmt.Sprintf("%v; set aside in %s: %s", mountErr, name, saved)
	err = errors.Join(
		os.MkdirAll(dir, 0o700),
		os.WriteFile(filepath.Join(dir, "why.txt"), []byte(detail+"\n"), 0o600),
	)
	if err != nil {
		detail += fmt.Sprintf(", but: %v", err)
	} else if c := copyTree(kept, dir, 2*keep); c.left > 0 {
		detail += fmt.Sprintf(", of which %d did not fit", c.left)
	}
	unix.Sync()
	return Result{State: machine.DataReplaced, Detail: detail}
}

// Status returns the file system at dir as it is now, and what the owner should be told of it.
func (r Result) Status(dir string) (machine.Data, []condition.Condition) {
	d := machine.Data{State: r.State, Detail: r.Detail}
	var list []condition.Condition
	switch r.State {
	case machine.DataMissing:
		list = append(list, condition.New(condition.DataMissing))
	case machine.DataFailing:
		list = append(list, condition.New(condition.StorageFailing))
	case machine.DataReadOnly:
		list = append(list, condition.New(condition.DataReadOnly))
	case machine.DataReplaced:
		list = append(list, condition.New(condition.DataReplaced))
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return d, list
	}
	d.SizeBytes, d.FreeBytes = int64(fs.Blocks)*fs.Bsize, int64(fs.Bavail)*fs.Bsize
	if d.FreeBytes < min(d.SizeBytes/20, reserve) {
		list = append(list, condition.New(condition.DataFull))
	}
	// The kernel found damage while it ran and writes no more. Linux 6.12 does not show that in the flags.
	if (fs.Flags&unix.ST_RDONLY != 0 || errorsOf(r.device) > r.errors) && r.Lasting() {
		d.State = machine.DataReadOnly
		list = append(list, condition.New(condition.DataReadOnly))
	}
	return d, list
}

// errorsOf is how many errors the kernel has found in the ext4 of a device; 0 where it does not say.
func errorsOf(device string) int {
	b, err := os.ReadFile("/sys/fs/ext4/" + device + "/errors_count")
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return n
}

// reserve is how many bytes should be free, on a partition that is not small.
const reserve = 16 << 20
