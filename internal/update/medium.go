package update

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// A medium reads a file past the memory that the kernel keeps of it, which would answer for the medium:
// open(2), O_DIRECT. That is also the faster way to read it once.
type medium struct {
	file *os.File
	room []byte // where the device puts it: a page's multiple, at a page's start
	left []byte // of room, not given out yet
	at   int64
	end  bool
}

// openMedium opens a file of a slot. Where a file system cannot be read past memory (a test's may be in
// memory itself), memory is asked to forget the file first.
func openMedium(path string) (io.ReadCloser, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECT, 0)
	if errors.Is(err, unix.EINVAL) {
		file, err := os.Open(path)
		if err == nil {
			unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED)
		}
		return file, err
	}
	if err != nil {
		return nil, err
	}
	room, err := unix.Mmap(-1, 0, copySize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		file.Close()
		return nil, os.NewSyscallError("mmap", err)
	}
	return &medium{file: file, room: room}, nil
}

// Read is that of io.Reader.
func (m *medium) Read(b []byte) (int, error) {
	if len(m.left) == 0 {
		if m.end {
			return 0, io.EOF
		}
		n, err := unix.Pread(int(m.file.Fd()), m.room, m.at)
		if err != nil {
			return 0, &os.PathError{Op: "read", Path: m.file.Name(), Err: err}
		}
		m.left, m.at = m.room[:n], m.at+int64(n)
		m.end = n < len(m.room) // no device gives a part of a block before the end
		if n == 0 {
			return 0, io.EOF
		}
	}
	n := copy(b, m.left)
	m.left = m.left[n:]
	return n, nil
}

// Close is that of io.Closer.
func (m *medium) Close() error {
	return errors.Join(m.file.Close(), unix.Munmap(m.room))
}
