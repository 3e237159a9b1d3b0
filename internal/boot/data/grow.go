package data

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// resizeFS is EXT4_IOC_RESIZE_FS, _IOW('f', 16, __u64).
const resizeFS = 0x40086610

const (
	step  = 2 << 30  // how much the file system grows at a time, between looks at ctx
	least = 16 << 20 // less is not worth growing for
)

// Grow lets the file system that is mounted at dir fill its device, while it is in use. It steps
// back for everybody else, and returns the new size in bytes, 0 if it filled its device already.
func Grow(ctx context.Context, device, dir string) (int64, error) {
	type result struct {
		size int64
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // its low priority ends with the thread
		unix.Setpriority(unix.PRIO_PROCESS, 0, 19)
		const thisThread, idle = 1, 3 << 13 // IOPRIO_WHO_PROCESS, IOPRIO_CLASS_IDLE
		unix.Syscall(unix.SYS_IOPRIO_SET, thisThread, 0, idle)
		size, err := grow(ctx, device, dir)
		done <- result{size, err}
	}()
	r := <-done
	if r.err != nil {
		return 0, fmt.Errorf("grow data file system: %w", r.err)
	}
	return r.size, nil
}

func grow(ctx context.Context, device, dir string) (int64, error) {
	f, err := os.Open(device)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	size, err := deviceSize(f)
	if err != nil {
		return 0, err
	}
	start, last := int64(0), int64(-1)
	for {
		have, err := enlarge(dir, f, 0)
		if err != nil {
			return 0, err
		}
		if start == 0 {
			start = have
		}
		// A rest that is not worth a block group is left, and one that the kernel does not want.
		if ctx.Err() != nil || size-have < least || have == last {
			if have == start {
				return 0, nil
			}
			return have, nil
		}
		last = have
		if _, err := enlarge(dir, f, min(size, have+step)); err != nil {
			return 0, err
		}
	}
}

// enlarge has the file system on device, mounted at dir, be at least so many bytes long, and
// returns how long it is.
func enlarge(dir string, device *os.File, want int64) (int64, error) {
	s, err := readSuper(device)
	if err != nil {
		return 0, err
	}
	if want/s.blockSize <= s.blocks {
		return s.blocks * s.blockSize, nil
	}
	mounted, err := os.Open(dir)
	if err != nil {
		return 0, err
	}
	defer mounted.Close()
	blocks := uint64(want / s.blockSize)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, mounted.Fd(), resizeFS, uintptr(unsafe.Pointer(&blocks))); errno != 0 {
		return 0, errno
	}
	return want, nil
}

func readSuper(f *os.File) (super, error) {
	buf := make([]byte, superSize)
	if _, err := f.ReadAt(buf, superStart); err != nil {
		return super{}, err
	}
	return parseSuper(buf)
}
