package debian

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// maxFile bounds one unpacked file: what we take out of packages is far smaller.
const maxFile = 256 << 20

// ErrNotDeb says that the bytes are not a Debian package.
var ErrNotDeb = errors.New("not a Debian package")

// Walk calls f for every regular file of the package read from r. The name has no leading slash.
func Walk(r io.Reader, f func(name string, content []byte) error) error {
	data, err := dataMember(r)
	if err != nil {
		return err
	}
	for t := tar.NewReader(data); ; {
		h, err := t.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrNotDeb, err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if h.Size > maxFile {
			return fmt.Errorf("%w: %s has %d bytes", ErrNotDeb, h.Name, h.Size)
		}
		var content bytes.Buffer
		if _, err := io.Copy(&content, t); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrNotDeb, h.Name, err)
		}
		if err := f(strings.TrimPrefix(path.Clean("/"+h.Name), "/"), content.Bytes()); err != nil {
			return err
		}
	}
}

// dataMember returns the tar file inside the package: the member data.tar.* of an ar archive.
func dataMember(r io.Reader) (io.Reader, error) {
	magic := make([]byte, 8)
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != "!<arch>\n" {
		return nil, ErrNotDeb
	}
	for {
		// name 16, time 12, uid 6, gid 6, mode 8, size 10, end 2
		header := make([]byte, 60)
		if _, err := io.ReadFull(r, header); err != nil || string(header[58:]) != "`\n" {
			return nil, fmt.Errorf("%w: no data.tar in it", ErrNotDeb)
		}
		name := strings.TrimSuffix(strings.TrimRight(string(header[:16]), " "), "/")
		size, err := strconv.ParseInt(strings.TrimRight(string(header[48:58]), " "), 10, 64)
		if err != nil || size < 0 {
			return nil, fmt.Errorf("%w: member %q has size %q", ErrNotDeb, name, header[48:58])
		}
		member := io.LimitReader(r, size)
		switch name {
		case "data.tar":
			return member, nil
		case "data.tar.gz":
			return gzip.NewReader(member)
		case "data.tar.xz":
			return xz.NewReader(member)
		case "data.tar.zst":
			return zstd.NewReader(member, zstd.WithDecoderConcurrency(1))
		}
		if _, err := io.CopyN(io.Discard, r, size+size%2); err != nil {
			return nil, fmt.Errorf("%w: member %q is cut short", ErrNotDeb, name)
		}
	}
}
