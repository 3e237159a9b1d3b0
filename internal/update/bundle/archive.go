package bundle

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"path"
	"strings"
)

// Bounds of a bundle's metadata, all together: they are held in memory.
const (
	maxMetadata      = 2 << 20
	maxMetadataFiles = 300
)

// Folders of a repository, and of the archive that is a small one.
const (
	MetadataFolder = "metadata"
	TargetsFolder  = "targets"
)

// A File is a file of the repository's metadata.
type File struct {
	Name string // without folder
	Data []byte
}

var metadataName = lazy(`^([1-9][0-9]{0,9}\.(root|targets|snapshot)|timestamp)\.json$`)

// Write writes the file with a whole update: the repository's metadata and the one target, whose
// name below the folder of targets is given.
func Write(w io.Writer, metadata []File, target string, size int64, open func() (io.ReadCloser, error)) error {
	tw := tar.NewWriter(w)
	for _, f := range metadata {
		data := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(f.Data)), nil }
		if err := writeFile(tw, MetadataFolder+"/"+f.Name, int64(len(f.Data)), data); err != nil {
			return err
		}
	}
	if err := writeFile(tw, TargetsFolder+"/"+target, size, open); err != nil {
		return err
	}
	return tw.Close()
}

// A Reader reads the file with a whole update as a stream.
type Reader struct {
	metadata map[string][]byte
	Target   string // name of the one target below the folder of targets
	Size     int64  // its bytes

	tr *tar.Reader
}

// Open reads the metadata of the file in r, and goes to the target. Reading it is the caller's, with
// a [Verify]; what comes behind it is not read.
func Open(r io.Reader) (*Reader, error) {
	b := &Reader{metadata: map[string][]byte{}, tr: tar.NewReader(r)}
	for room := int64(maxMetadata); ; {
		h, err := nextFile(b.tr)
		if err == io.EOF {
			return nil, fmt.Errorf("open bundle: no target in it: %w", ErrForeign)
		}
		if err != nil {
			return nil, fmt.Errorf("open bundle: %w", err)
		}
		folder, name, _ := strings.Cut(h.Name, "/")
		switch {
		case folder == TargetsFolder && name == path.Clean(name) && !strings.HasPrefix(name, "."):
			b.Target, b.Size = name, h.Size
			return b, nil
		case folder != MetadataFolder || !metadataName().MatchString(name):
			return nil, fmt.Errorf("open bundle: %.100q has no place in it: %w", h.Name, ErrForeign)
		case b.metadata[name] != nil:
			return nil, fmt.Errorf("open bundle: %s is there twice: %w", name, ErrForeign)
		case h.Size > room || len(b.metadata) == maxMetadataFiles:
			return nil, fmt.Errorf("open bundle: more than %d files or %d bytes of metadata: %w", maxMetadataFiles, maxMetadata, ErrForeign)
		}
		room -= h.Size
		data, err := io.ReadAll(b.tr)
		if err != nil {
			return nil, fmt.Errorf("open bundle: %s: %w", name, streamError(err))
		}
		b.metadata[name] = data
	}
}

// Metadata returns the metadata file of that name, which has no folder.
func (b *Reader) Metadata(name string) ([]byte, bool) {
	data, ok := b.metadata[name]
	return data, ok
}

// Read reads the target.
func (b *Reader) Read(p []byte) (int, error) {
	n, err := b.tr.Read(p)
	if err != nil && err != io.EOF {
		err = streamError(err)
	}
	return n, err
}
