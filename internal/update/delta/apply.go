package delta

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
)

// With any of these the full linux.efi still does it.
var (
	// ErrCompressor says that the new initramfs needs another compressor than this build has.
	ErrCompressor = errors.New("the initramfs is made with another compressor")
	// ErrOld says that the file to be patched is not the one that the patch was made for.
	ErrOld = errors.New("the patch is not for this linux.efi")
	// ErrPatch says that the patch is cut off, damaged or not one at all.
	ErrPatch = errors.New("damaged patch")
)

const chunk = 64 << 10 // bytes that are handled at once

// Apply writes to w what patch makes of the linux.efi old. It is the caller's to check the result's SHA-256;
// that of old, too, if an ErrOld in time matters. A file in the folder scratch, without a name, takes the
// unpacked old initramfs. Errors other than those above are of the files, the disk, or ctx.
func Apply(ctx context.Context, old io.ReaderAt, patch io.Reader, scratch string, w io.Writer) error {
	in := &source{ctx: ctx, r: patch, name: "patch", damaged: ErrPatch}
	head := bufio.NewReader(in)
	h, err := readHeader(head)
	if err != nil {
		return in.blame(err)
	}
	if h.compressor != Compressor {
		return fmt.Errorf("%w: %q, ours is %q", ErrCompressor, h.compressor, Compressor)
	}
	plain, err := unpack(ctx, old, h.old, scratch)
	if err != nil {
		return err
	}
	defer plain.Close()
	debug.FreeOSMemory() // the window of the old initramfs, before that of the new one is allocated

	steps, err := newDecompressor(head, patchWindow)
	if err != nil {
		return in.blame(err)
	}
	defer steps.Close()
	from := unfolded{h.old, old, plain}
	return run(ctx, in, bufio.NewReader(steps), from, &folder{layout: h.new, w: w})
}

// run carries the steps out.
func run(ctx context.Context, in *source, steps *bufio.Reader, old unfolded, new *folder) error {
	buf, with := make([]byte, chunk), make([]byte, chunk)
	from := int64(0) // place in the old data
	for left := new.length(); left > 0; {
		s, err := readStep(steps)
		if err != nil {
			return in.blame(err)
		}
		if s.add > left || s.copy > left-s.add || s.add+s.copy == 0 {
			return fmt.Errorf("%w: step of %d and %d bytes with %d left", ErrPatch, s.add, s.copy, left)
		}
		if from += s.seek; from < 0 || from > old.length()-s.add {
			return fmt.Errorf("%w: step of %d old bytes from %d", ErrPatch, s.add, from)
		}
		left -= s.add + s.copy
		for s.add+s.copy > 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
			part := &s.add
			if s.add == 0 {
				part = &s.copy
			}
			n := min(*part, chunk)
			if _, err := io.ReadFull(steps, buf[:n]); err != nil {
				return in.blame(err)
			}
			if part == &s.add {
				if err := old.read(with[:n], from); err != nil {
					return err
				}
				for i := range n {
					buf[i] += with[i]
				}
				from += n
			}
			if _, err := new.Write(buf[:n]); err != nil {
				return err
			}
			*part -= n
		}
	}
	switch _, err := steps.ReadByte(); err {
	case io.EOF:
		return nil
	case nil:
		return fmt.Errorf("%w: more behind the last step", ErrPatch)
	default:
		return in.blame(err)
	}
}

// unpack writes the old initramfs to a file in dir that goes away when it is closed.
func unpack(ctx context.Context, old io.ReaderAt, l layout, dir string) (_ *os.File, err error) {
	f, err := unlinked(dir)
	if err != nil {
		return nil, fmt.Errorf("unpack old initramfs: %w", err)
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	in := &source{ctx: ctx, r: io.NewSectionReader(old, l.at, l.packed), name: "old linux.efi", damaged: ErrOld}
	z, err := newDecompressor(in, window)
	if err != nil {
		return nil, in.blame(err)
	}
	defer z.Close()
	buf := make([]byte, chunk)
	for left := l.plain; ; {
		n, err := z.Read(buf)
		if int64(n) > left {
			return nil, fmt.Errorf("%w: its initramfs is too long", ErrOld)
		}
		left -= int64(n)
		if _, err := f.Write(buf[:n]); err != nil {
			return nil, fmt.Errorf("unpack old initramfs: %w", err)
		}
		switch {
		case err == io.EOF && left == 0:
			return f, nil
		case err == io.EOF:
			return nil, fmt.Errorf("%w: its initramfs is too short", ErrOld)
		case err != nil:
			return nil, in.blame(err)
		}
	}
}

// A source is read until ctx ends, and tells a file that cannot be read from one that is wrong.
type source struct {
	ctx     context.Context
	r       io.Reader
	name    string
	damaged error // what a reader of the content says when it makes no sense
	err     error // of r or ctx
}

func (s *source) Read(b []byte) (int, error) {
	if s.err = s.ctx.Err(); s.err != nil {
		return 0, s.err
	}
	n, err := s.r.Read(b)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// blame returns what the error err of someone who read from s means.
func (s *source) blame(err error) error {
	if s.err != nil {
		return fmt.Errorf("read %s: %w", s.name, s.err)
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%w: %w", s.damaged, err)
}
