package qemu

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// CopyDisk copies an image without filling its holes and enlarges it to size bytes if that is more.
func CopyDisk(dst, src string, size int64) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.Create(dst)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := CopySparse(out, in, 0, info.Size()); err != nil {
		return err
	}
	return out.Truncate(max(size, info.Size()))
}

// CopySparse copies size bytes at offset of src to the start of dst, holes as holes.
func CopySparse(dst, src *os.File, offset, size int64) error {
	if err := dst.Truncate(size); err != nil {
		return err
	}
	for pos := offset; pos < offset+size; {
		start, err := unix.Seek(int(src.Fd()), pos, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) || start >= offset+size {
			return nil
		} else if err != nil {
			return fmt.Errorf("find data: %w", err)
		}
		end, err := unix.Seek(int(src.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			return fmt.Errorf("find hole: %w", err)
		}
		end = min(end, offset+size)
		if _, err := src.Seek(start, io.SeekStart); err != nil {
			return err
		}
		if _, err := dst.Seek(start-offset, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.CopyN(dst, src, end-start); err != nil {
			return err
		}
		pos = end
	}
	return nil
}
