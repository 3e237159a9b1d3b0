package bmap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/google/renameio/v2"
	"github.com/klauspost/compress/gzip"
)

// Write makes IMAGE.bmap and IMAGE.gz beside an image; a failure leaves neither half-written.
// bmaptool finds the map beside the compressed image by these names. gzip, because every Debian has
// it and every flashing tool reads it; what fills an image is compressed already.
func Write(ctx context.Context, image string) error {
	f, err := os.Open(image)
	if err != nil {
		return fmt.Errorf("map blocks: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("map blocks: %w", err)
	}
	m, err := Create(f, info.Size())
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(image+".bmap", m.Encode(), 0o644); err != nil {
		return fmt.Errorf("write block map: %w", err)
	}
	if err := compress(ctx, io.NewSectionReader(f, 0, info.Size()), image+".gz"); err != nil {
		return fmt.Errorf("compress %s: %w", image, err)
	}
	return nil
}

func compress(ctx context.Context, r io.Reader, out string) error {
	f, err := renameio.NewPendingFile(out, renameio.WithPermissions(0o644))
	if err != nil {
		return err
	}
	defer f.Cleanup()
	z := gzip.NewWriter(f) // without name and time
	for err == nil {
		if err = ctx.Err(); err == nil {
			_, err = io.CopyN(z, r, 4<<20)
		}
	}
	if !errors.Is(err, io.EOF) {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return f.CloseAtomicallyReplace()
}
