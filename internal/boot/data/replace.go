package data

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// replace writes the prepared empty file system over device, which has size bytes. The primary
// superblock goes last: a power cut before that leaves what is replaced again at the next boot.
func replace(device *os.File, size int64, empty io.Reader) error {
	// No backup of the old file system's superblock may outlive it: a later repair would take it
	// for this one's.
	for _, at := range append([]int64{0}, places(size)...) {
		if err := zero(device, at&^4095, 4096); err != nil {
			return fmt.Errorf("wipe superblock: %w", err)
		}
	}
	if err := device.Sync(); err != nil {
		return fmt.Errorf("wipe superblock: %w", err)
	}
	image, err := gzip.NewReader(empty)
	if err != nil {
		return fmt.Errorf("read empty file system: %w", err)
	}
	const chunk = 64 << 10
	buf, zeros := make([]byte, chunk), make([]byte, chunk)
	first := make([]byte, chunk)
	for at := int64(0); ; at += chunk {
		n, err := io.ReadFull(image, buf)
		if err == io.EOF {
			break
		}
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("read empty file system: %w", err)
		}
		if at+int64(n) > size {
			return fmt.Errorf("the data partition, %d bytes, is too small", size)
		}
		b := buf[:n]
		if at == 0 {
			first = append([]byte(nil), b...)
			continue
		}
		if bytes.Equal(b, zeros[:n]) {
			err = zero(device, at, int64(n))
		} else {
			_, err = device.WriteAt(b, at)
		}
		if err != nil {
			return fmt.Errorf("write empty file system: %w", err)
		}
	}
	if err := device.Sync(); err != nil {
		return fmt.Errorf("write empty file system: %w", err)
	}
	if _, err := device.WriteAt(first, 0); err != nil {
		return fmt.Errorf("write empty file system: %w", err)
	}
	if err := device.Sync(); err != nil {
		return fmt.Errorf("write empty file system: %w", err)
	}
	return nil
}

// zero writes zeros, leaving it to the device where that has a way of its own.
func zero(device *os.File, at, length int64) error {
	span := [2]uint64{uint64(at), uint64(length)}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, device.Fd(), unix.BLKZEROOUT, uintptr(unsafe.Pointer(&span)))
	if errno == 0 {
		return nil
	}
	_, err := device.WriteAt(make([]byte, length), at)
	return err
}

// deviceSize returns the size of a block device in bytes.
func deviceSize(device *os.File) (int64, error) { return device.Seek(0, io.SeekEnd) }
