package delta

import (
	"bytes"
	"context"
	"debug/pe"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
)

// patchWindow is how far back a patch refers to itself. Eight times as much makes it half a percent smaller.
const patchWindow = 256 << 10

// Make writes the patch that makes the linux.efi new of old to w. It has tried it: Apply of this build
// gives new. ErrCompressor says that one of the two was made by a build with another compressor: there is
// no patch between them.
func Make(old, new []byte, w io.Writer) error {
	h := header{compressor: Compressor}
	plainOld, err := unfold(old, &h.old)
	if err != nil {
		return fmt.Errorf("old linux.efi: %w", err)
	}
	plainNew, err := unfold(new, &h.new)
	if err != nil {
		return fmt.Errorf("new linux.efi: %w", err)
	}
	var patch bytes.Buffer
	patch.Write(h.append(nil))
	z, err := zstd.NewWriter(&patch, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(patchWindow),
		zstd.WithEncoderLevel(zstd.SpeedBestCompression))
	if err != nil {
		return err
	}
	if _, err := z.Write(diff(nil, plainOld, plainNew)); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	var got bytes.Buffer
	err = Apply(context.Background(), bytes.NewReader(old), bytes.NewReader(patch.Bytes()), os.TempDir(), &got)
	if err == nil && !bytes.Equal(got.Bytes(), new) {
		err = errors.New("the result is another")
	}
	if err != nil {
		return fmt.Errorf("try the patch: %w", err)
	}
	_, err = w.Write(patch.Bytes())
	return err
}

// unfold returns the file with its initramfs unpacked, and fills in where that is. It wants an initramfs
// that NewCompressor makes again from what is in it: the init in the old file has the compressor that made
// the old file, so the device has ours only if ours makes that one, too.
func unfold(file []byte, l *layout) ([]byte, error) {
	p, err := pe.NewFile(bytes.NewReader(file))
	if err != nil {
		return nil, err
	}
	s := p.Section(".initrd")
	if s == nil {
		return nil, errors.New("it has no initramfs")
	}
	l.size, l.at, l.packed = int64(len(file)), int64(s.Offset), int64(s.VirtualSize)
	if l.size > maxFile || l.at+l.packed > l.size {
		return nil, fmt.Errorf("%d bytes with an initramfs of %d at %d", l.size, l.packed, l.at)
	}
	packed := file[l.at:][:l.packed]
	z, err := newDecompressor(bytes.NewReader(packed), window)
	if err != nil {
		return nil, err
	}
	defer z.Close()
	plain, err := io.ReadAll(io.LimitReader(z, maxPlain+1))
	if err != nil {
		return nil, fmt.Errorf("unpack initramfs: %w", err)
	}
	l.plain = int64(len(plain))
	if err := l.check(); err != nil {
		return nil, err
	}
	var again bytes.Buffer
	c, err := NewCompressor(&again)
	if err != nil {
		return nil, err
	}
	if _, err := c.Write(plain); err != nil {
		return nil, err
	}
	if err := c.Close(); err != nil {
		return nil, err
	}
	if !bytes.Equal(again.Bytes(), packed) {
		return nil, ErrCompressor
	}
	return bytes.Join([][]byte{file[:l.at], plain, file[l.at+l.packed:]}, nil), nil
}
