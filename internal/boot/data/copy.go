package data

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// A copied says what copyTree did.
type copied struct {
	files int
	bytes int64
	left  int // files that could not be read, or were too much
}

// String is part of what the owner is told.
func (c copied) String() string {
	text := fmt.Sprintf("%d files of %d bytes", c.files, c.bytes)
	if c.left > 0 {
		text += fmt.Sprintf("; %d more could not be kept", c.left)
	}
	return text
}

// Where files were set aside, and what the kernel makes.
const (
	setAside = "set-aside"
	logs     = "log"
	lost     = "lost+found"
)

// maxFiles is the most files that copyTree copies.
const maxFiles = 10000

// copyTree copies the files below src to dst with their owners and modes, logs last, as far as they
// can be read and up to maxBytes. Links and special files are left out, earlier set-aside files
// as well.
func copyTree(src, dst string, maxBytes int64) copied {
	var c copied
	entries, err := os.ReadDir(src)
	if err != nil {
		c.left++
	}
	slices.SortStableFunc(entries, func(a, b fs.DirEntry) int { // settings before logs
		return rank(a.Name()) - rank(b.Name())
	})
	for _, e := range entries {
		if e.Name() == setAside || e.Name() == lost {
			continue
		}
		top := filepath.Join(src, e.Name())
		filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
			to := filepath.Join(dst, strings.TrimPrefix(path, src))
			switch {
			case err != nil:
				c.left++
				return nil // of a directory: as much as was read
			case e.IsDir():
				if err := copyDir(path, to); err != nil {
					c.left++
					return fs.SkipDir
				}
			case e.Type().IsRegular():
				if c.files >= maxFiles {
					c.left++
					return nil
				}
				n, err := copyFile(path, to, maxBytes-c.bytes)
				if err != nil {
					os.Remove(to)
					c.left++
					return nil
				}
				c.files++
				c.bytes += n
			}
			return nil
		})
	}
	return c
}

func rank(name string) int {
	if name == logs {
		return 1
	}
	return 0
}

func copyDir(from, to string) error {
	info, err := os.Lstat(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	return own(to, info)
}

func copyFile(from, to string, most int64) (int64, error) {
	in, err := os.Open(from)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return 0, err
	}
	if info.Size() > most {
		return 0, errors.New("no room")
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, err
	}
	defer out.Close()
	n, err := io.Copy(out, io.LimitReader(in, most))
	if err != nil {
		return 0, err
	}
	if err := own(to, info); err != nil {
		return 0, err
	}
	return n, out.Close()
}

// own gives a copy the owner and mode of what it was made from.
func own(path string, info fs.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("no owner")
	}
	if err := os.Lchown(path, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	return os.Chmod(path, info.Mode().Perm())
}
