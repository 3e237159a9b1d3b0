package bundle

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"cloudlink.local/gateway/internal/release"
)

// What can be wrong with an archive.
var (
	ErrTruncated = errors.New("it ends too early")
	ErrDamaged   = errors.New("it is not what was signed")
	ErrForeign   = errors.New("it is no update")
)

const block = 512 // of a tar archive

// An Extent is where the content of a file lies in an archive.
type Extent struct {
	Name         string
	Offset, Size int64
}

// Layout says where a full target's archive has which file, and how long it is: it follows from the
// sizes alone.
func Layout(files []release.ManifestFile) (extents []Extent, length int64) {
	for _, f := range files {
		length += block
		extents = append(extents, Extent{f.Name, length, f.Size})
		length += (f.Size + block - 1) / block * block
	}
	return extents, length + 2*block
}

// WriteSlot archives a slot's files; open returns the content of each. With another name for one of
// them, as in a delta, the archive has that name.
func WriteSlot(w io.Writer, files []release.ManifestFile, open func(name string) (io.ReadCloser, error)) error {
	tw := tar.NewWriter(w)
	for _, f := range files {
		if err := writeFile(tw, f.Name, f.Size, func() (io.ReadCloser, error) { return open(f.Name) }); err != nil {
			return err
		}
	}
	return tw.Close()
}

func writeFile(tw *tar.Writer, name string, size int64, open func() (io.ReadCloser, error)) error {
	r, err := open()
	if err != nil {
		return err
	}
	defer r.Close()
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, Format: tar.FormatUSTAR}); err != nil {
		return fmt.Errorf("archive %s: %w", name, err)
	}
	if n, err := io.Copy(tw, r); err != nil || n != size {
		return fmt.Errorf("archive %s: %d of %d bytes: %w", name, n, size, cmpErr(err, ErrTruncated))
	}
	return nil
}

func cmpErr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

// nextFile returns the header of the archive's next file; anything but a plain file is refused.
func nextFile(tr *tar.Reader) (*tar.Header, error) {
	h, err := tr.Next()
	if err == io.EOF {
		return nil, io.EOF
	}
	if err != nil {
		return nil, streamError(err)
	}
	if h.Typeflag != tar.TypeReg || len(h.PAXRecords) > 0 || h.Format&(tar.FormatPAX|tar.FormatGNU) != 0 || h.Size < 0 {
		return nil, fmt.Errorf("%.100q is no plain file: %w", h.Name, ErrForeign)
	}
	return h, nil
}

// streamError gives an error of package tar one of our meanings; errors of the stream itself stay.
func streamError(err error) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return ErrTruncated
	case errors.Is(err, tar.ErrHeader), errors.Is(err, tar.ErrFieldTooLong), errors.Is(err, tar.ErrInsecurePath):
		return fmt.Errorf("%w: %w", ErrForeign, err)
	}
	return err
}

// A SlotReader reads a target's archive as a stream, and believes no file before it is read whole.
type SlotReader struct {
	r       io.Reader
	tr      *tar.Reader
	want    []release.ManifestFile
	current *release.ManifestFile
	hash    hash.Hash
	left    int64
}

// NewSlotReader returns a reader of t's archive in r, which should be a [Verify] where t is a delta: the
// patch has no digest of its own.
func NewSlotReader(r io.Reader, t Target) *SlotReader {
	s := &SlotReader{r: r, tr: tar.NewReader(r)}
	for _, f := range t.Slot {
		if f.Name == UKI && t.Kind == Delta {
			f = release.ManifestFile{Name: DeltaFile} // no size or digest of its own: the archive has them
		}
		s.want = append(s.want, f)
	}
	return s
}

// Next goes to the next file and returns its name, size and, but for a delta, digest. What is left of
// the last is read first. After the last file and the end of r it returns io.EOF.
func (s *SlotReader) Next() (release.ManifestFile, error) {
	if s.current != nil {
		if _, err := io.Copy(io.Discard, s); err != nil {
			return release.ManifestFile{}, err
		}
		s.current = nil
	}
	h, err := nextFile(s.tr)
	if err == io.EOF && len(s.want) == 0 {
		if _, err := io.Copy(io.Discard, s.r); err != nil { // a Verify tells at its end
			return release.ManifestFile{}, err
		}
		return release.ManifestFile{}, io.EOF
	}
	if err == io.EOF {
		return release.ManifestFile{}, fmt.Errorf("%s is missing: %w", s.want[0].Name, ErrTruncated)
	}
	if err != nil {
		return release.ManifestFile{}, err
	}
	if len(s.want) == 0 || h.Name != s.want[0].Name {
		return release.ManifestFile{}, fmt.Errorf("%.100q has no place in it: %w", h.Name, ErrForeign)
	}
	f := s.want[0]
	s.want = s.want[1:]
	switch {
	case f.SHA256 == "" && h.Size > maxUKI, f.SHA256 != "" && h.Size != f.Size:
		return release.ManifestFile{}, fmt.Errorf("%s has %d bytes, not %d: %w", f.Name, h.Size, f.Size, ErrDamaged)
	case f.SHA256 == "":
		f.Size = h.Size
	}
	s.current, s.hash, s.left = &f, sha256.New(), f.Size
	return f, nil
}

// Read reads the current file. It returns io.EOF only if the file was the one that was signed.
func (s *SlotReader) Read(p []byte) (int, error) {
	if s.current == nil {
		return 0, io.EOF
	}
	n, err := s.tr.Read(p)
	s.hash.Write(p[:n])
	s.left -= int64(n)
	if err == io.EOF && s.left > 0 {
		return n, ErrTruncated
	}
	if err == io.EOF && s.current.SHA256 != "" && sum(s.hash.Sum(nil)) != s.current.SHA256 {
		return n, fmt.Errorf("%s: %w", s.current.Name, ErrDamaged)
	}
	if err != nil && err != io.EOF {
		err = streamError(err)
	}
	return n, err
}

// Verify returns a reader of r that ends with an error unless r has so many bytes with that digest.
func Verify(r io.Reader, length int64, sha256hex string) io.Reader {
	return &verifier{r: r, left: length, want: sha256hex, hash: sha256.New()}
}

type verifier struct {
	r    io.Reader
	left int64
	want string
	hash hash.Hash
}

func (v *verifier) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if v.left == 0 {
		var more [1]byte
		n, err := io.ReadFull(v.r, more[:])
		switch {
		case n > 0:
			return 0, fmt.Errorf("it goes on after its end: %w", ErrDamaged)
		case err != io.EOF:
			return 0, err
		case sum(v.hash.Sum(nil)) != v.want:
			return 0, ErrDamaged
		}
		return 0, io.EOF
	}
	n, err := v.r.Read(p[:min(int64(len(p)), v.left)])
	v.hash.Write(p[:n])
	v.left -= int64(n)
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		if err = nil; v.left > 0 {
			err = ErrTruncated
		}
	}
	return n, err
}

// CheckManifest says whether a slot's manifest, whose digest has been checked, is that of t.
func CheckManifest(b []byte, t Target) error {
	m, err := release.ParseManifest(bytes.TrimSpace(b))
	if err != nil {
		return err
	}
	if m.Product != t.Product || m.Board != t.Board || m.Version != t.Version || !m.BuildTime.Equal(t.BuildTime) {
		return fmt.Errorf("%s is of %.80q %.80q for %.80q: %w", Manifest, m.Product, m.Version, m.Board, ErrDamaged)
	}
	for _, f := range m.Files {
		for _, signed := range t.Slot {
			if f.Name == signed.Name && f != signed {
				return fmt.Errorf("%s says otherwise of %s: %w", Manifest, f.Name, ErrDamaged)
			}
		}
	}
	return nil
}
