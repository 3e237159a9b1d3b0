// Package safefile reads files that somebody may have replaced: by a pipe, on which a reader waits for
// ever, by a link to elsewhere, or by something larger than memory. And it replaces files so that a power
// cut leaves the old or the new one, and, once that is done, the new one.
package safefile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// Open opens a regular file for reading; anything else is an error, and no link is followed.
func Open(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0) // a pipe opens at once then
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no file but %v: remove it", path, info.Mode().Type())
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Read reads a regular file of at most so many bytes.
func Read(path string, most int64) ([]byte, error) {
	f, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("%s has more than %d bytes: it is damaged", path, most)
	}
	if err != nil {
		return nil, err
	}
	return b, nil
}

// Replace puts a file with b at path. When it returns nil, the medium has it.
func Replace(path string, b []byte, perm fs.FileMode) error {
	dir := filepath.Dir(path)
	err := renameio.WriteFile(path, b, perm, renameio.WithTempDir(dir), renameio.WithStaticPermissions(perm))
	if err != nil {
		return err
	}
	return SyncDir(dir)
}

// SyncDir makes what was renamed, linked or removed in dir last.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Clear removes what is at path unless it is a regular file, or, if dir, a directory: it is in the way.
func Clear(path string, dir bool) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if dir && info.IsDir() || !dir && info.Mode().IsRegular() {
		return nil
	}
	return os.RemoveAll(path)
}
