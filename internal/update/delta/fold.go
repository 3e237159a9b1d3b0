package delta

import (
	"fmt"
	"io"
	"os"
)

// An unfolded file is a linux.efi with its initramfs unpacked.
type unfolded struct {
	layout
	file, initramfs io.ReaderAt
}

// read fills b, which lies within the file.
func (u unfolded) read(b []byte, at int64) error {
	for len(b) > 0 {
		r, from, end := u.file, at, u.at
		switch {
		case at >= u.at+u.plain:
			from, end = at-u.plain+u.packed, u.length()
		case at >= u.at:
			r, from, end = u.initramfs, at-u.at, u.at+u.plain
		}
		n := min(int64(len(b)), end-at)
		switch got, err := r.ReadAt(b[:n], from); {
		case int64(got) == n: // with io.EOF or without
		case err == io.EOF:
			return fmt.Errorf("%w: it is too short", ErrOld)
		default:
			return fmt.Errorf("read old linux.efi: %w", err)
		}
		b, at = b[n:], at+n
	}
	return nil
}

// A folder is written an unfolded file and writes the file: it packs the initramfs.
type folder struct {
	layout
	w      io.Writer
	done   int64 // bytes of the unfolded file
	room   int64 // bytes that the packed initramfs may still take
	packer io.WriteCloser
}

// Write takes the next bytes, no more than the file has.
func (f *folder) Write(b []byte) (int, error) {
	total := len(b)
	for len(b) > 0 {
		w, end := f.w, f.at
		switch {
		case f.done >= f.at+f.plain:
			end = f.length()
		case f.done >= f.at:
			end = f.at + f.plain
			if f.packer == nil {
				var err error
				if f.packer, err = NewCompressor((*packed)(f)); err != nil {
					return 0, err
				}
				f.room = f.layout.packed
			}
			w = f.packer
		}
		n := min(int64(len(b)), end-f.done)
		if _, err := w.Write(b[:n]); err != nil {
			return 0, err
		}
		f.done += n
		b = b[n:]
		if f.done == f.at+f.plain && f.packer != nil {
			if err := f.finish(); err != nil {
				return 0, err
			}
		}
	}
	return total, nil
}

// finish ends the packed initramfs.
func (f *folder) finish() error {
	if err := f.packer.Close(); err != nil {
		return err
	}
	f.packer = nil
	if f.room != 0 {
		return fmt.Errorf("%w: %d bytes less than there should be", ErrCompressor, f.room)
	}
	return nil
}

// packed is the folder as its packer's writer.
type packed folder

func (p *packed) Write(b []byte) (int, error) {
	if int64(len(b)) > p.room {
		return 0, fmt.Errorf("%w: more bytes than there should be", ErrCompressor)
	}
	p.room -= int64(len(b))
	return p.w.Write(b)
}

// unlinked makes a file in dir that goes away when it is closed, or with the process.
func unlinked(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "initramfs-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
