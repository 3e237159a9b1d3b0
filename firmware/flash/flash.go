// Package flash writes a disk image to a disk, checks every block it wrote, and refuses a disk that
// somebody uses.
package flash

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/firmware/bmap"
	"cloudlink.local/gateway/internal/boot/gpt"
)

// Options say how to talk with whoever flashes.
type Options struct {
	Yes bool      // do not ask
	In  io.Reader // the answer
	Out io.Writer // questions and progress
}

const (
	chunk     = 1 << 20
	syncEvery = 32 << 20 // bytes; so that progress is what has reached the disk
	tail      = 1 << 20  // bytes at a disk's end where old tables and RAID labels lie
)

// Check says whether need bytes can be written to the disk dev, so that one learns of an obstacle
// before the image is built. It opens the disk for reading only: the end of a writer would have the
// desktop look at the disk anew, and perhaps mount it.
func Check(dev string, need int64) error {
	d, err := thisHost.inspect(dev, need)
	if err != nil {
		return err
	}
	if unix.Access(d.path, unix.W_OK) != nil {
		return d.forRoot()
	}
	f, err := d.open(os.O_RDONLY)
	if err != nil {
		return err
	}
	return f.Close()
}

// Write writes image to the disk dev and reads it back. blockMap is the image's block map: what it
// leaves out keeps what the disk holds, but for old signatures outside the partitions.
func Write(ctx context.Context, image, blockMap, dev string, o Options) error {
	src, m, err := open(image, blockMap)
	if err != nil {
		return err
	}
	defer src.Close()
	table, err := gpt.Read(src, m.ImageSize, sectorSize)
	if err != nil {
		return fmt.Errorf("read image %s: %w: build it again", image, err)
	}
	d, err := thisHost.inspect(dev, m.ImageSize)
	if err != nil {
		return err
	}
	fmt.Fprintf(o.Out, "%s\n", d)
	if !o.Yes {
		if err := confirm(ctx, d, o); err != nil {
			return err
		}
	}
	dst, err := d.open(os.O_RDWR)
	if err != nil {
		return err
	}
	defer dst.Close()

	w := writer{src: src, dst: dst, m: m, out: o.Out}
	if err := w.write(ctx, table, d.size); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("interrupted: what %s holds does not boot; run the same command again", d.path)
		}
		return err
	}
	if err := w.verify(ctx); err != nil {
		return err
	}
	// The kernel still knows the old partitions. Where it cannot look anew it does once the disk is
	// plugged in again, as the next lines ask for.
	unix.IoctlSetInt(int(dst.Fd()), unix.BLKRRPART, 0)
	if err := dst.Close(); err != nil {
		return fmt.Errorf("close %s: %w", d.path, err)
	}
	fmt.Fprintf(o.Out, "%s holds the image; every block was read back and is right.\n"+
		"Next: take it out, put it into the machine it is for, join that to the network, switch on.\n"+
		"After about a minute its page answers at its address, which its console and your router show.\n", d.path)
	return nil
}

func open(image, blockMap string) (*os.File, *bmap.Map, error) {
	encoded, err := os.ReadFile(blockMap)
	if err != nil {
		return nil, nil, fmt.Errorf("read block map: %w: build the image first", err)
	}
	m, err := bmap.Decode(encoded)
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", blockMap, err)
	}
	src, err := os.Open(image)
	if err != nil {
		return nil, nil, fmt.Errorf("read image: %w: build it first", err)
	}
	info, err := src.Stat()
	if err == nil && info.Size() != m.ImageSize {
		err = fmt.Errorf("%s has %d bytes, its block map says %d: build the image again", image, info.Size(), m.ImageSize)
	}
	if err != nil {
		src.Close()
		return nil, nil, err
	}
	return src, m, nil
}

// confirm has the disk's name typed: "yes" is typed too easily.
func confirm(ctx context.Context, d disk, o Options) error {
	fmt.Fprintf(o.Out, "All that is on it will be lost. Type %s to go on: ", d.name)
	type line struct {
		text string
		err  error
	}
	answer := make(chan line, 1)
	go func() { // a read of the terminal cannot be ended: it ends with the program
		text, err := bufio.NewReader(o.In).ReadString('\n')
		answer <- line{text, err}
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(o.Out)
		return fmt.Errorf("interrupted: %s is as it was", d.path)
	case a := <-answer:
		if a.err != nil { // no line end was typed
			fmt.Fprintln(o.Out)
		}
		if a.err != nil && !errors.Is(a.err, io.EOF) {
			return fmt.Errorf("read answer: %w", a.err)
		}
		if strings.TrimSpace(a.text) != d.name {
			return fmt.Errorf("%s is as it was: the answer was not %q", d.path, d.name)
		}
		return nil
	}
}

type writer struct {
	src io.ReaderAt
	dst *os.File
	m   *bmap.Map
	out io.Writer
}

// write puts the image onto the disk. The old partition table goes first and the new one comes last:
// an interrupted disk is empty, not half of something.
func (w *writer) write(ctx context.Context, table *gpt.Table, size int64) error {
	head := w.m.ImageSize
	for _, p := range table.Partitions {
		head = min(head, int64(p.First)*sectorSize)
	}
	end := max(w.m.ImageSize, size-tail)
	p := newProgress(w.out, "writing", head+(size-end)+w.m.Mapped())
	defer p.end()
	if err := w.wipe(ctx, 0, head, p); err != nil {
		return err
	}
	if err := w.wipe(ctx, end, size, p); err != nil {
		return err
	}
	for _, r := range slices.Backward(w.m.Ranges) {
		if err := w.copy(ctx, r, p); err != nil {
			return err
		}
	}
	return w.sync()
}

func (w *writer) wipe(ctx context.Context, start, end int64, p *progress) error {
	zeros := make([]byte, chunk)
	for pos := start; pos < end; pos += chunk {
		if err := w.writeAt(ctx, zeros[:min(chunk, end-pos)], pos, p); err != nil {
			return err
		}
	}
	return w.sync()
}

func (w *writer) copy(ctx context.Context, r bmap.Range, p *progress) error {
	start, end := w.m.Bytes(r)
	h := sha256.New()
	buf := make([]byte, chunk)
	for pos := start; pos < end; pos += chunk {
		b := buf[:min(chunk, end-pos)]
		if _, err := w.src.ReadAt(b, pos); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read image: %w", err)
		}
		h.Write(b)
		if err := w.writeAt(ctx, b, pos, p); err != nil {
			return err
		}
	}
	if [sha256.Size]byte(h.Sum(nil)) != r.SHA256 {
		return errors.New("the image is not the one its block map was made of: build it again")
	}
	return nil
}

func (w *writer) writeAt(ctx context.Context, b []byte, pos int64, p *progress) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, err := w.dst.WriteAt(b, pos); err != nil {
		return failing("write", w.dst, err)
	}
	if p.add(len(b)) {
		return w.sync()
	}
	return nil
}

func (w *writer) sync() error {
	if err := w.dst.Sync(); err != nil {
		return failing("write", w.dst, err)
	}
	return nil
}

// verify reads back what was written, from the disk and not from the kernel's copy of it.
func (w *writer) verify(ctx context.Context) error {
	if err := unix.IoctlSetInt(int(w.dst.Fd()), unix.BLKFLSBUF, 0); err != nil {
		return fmt.Errorf("read back %s: empty the kernel's buffers: %w", w.dst.Name(), err)
	}
	p := newProgress(w.out, "reading back", w.m.Mapped())
	defer p.end()
	buf := make([]byte, chunk)
	for _, r := range w.m.Ranges {
		start, end := w.m.Bytes(r)
		h := sha256.New()
		for pos := start; pos < end; pos += chunk {
			if ctx.Err() != nil {
				return fmt.Errorf("interrupted: %s is written, but not checked; run the same command again", w.dst.Name())
			}
			b := buf[:min(chunk, end-pos)]
			if _, err := w.dst.ReadAt(b, pos); err != nil {
				return failing("read back", w.dst, err)
			}
			h.Write(b)
			p.add(len(b))
		}
		if [sha256.Size]byte(h.Sum(nil)) != r.SHA256 {
			return fmt.Errorf("%s does not hold what was written to it (bytes %d to %d): it is worn out or a fake; use another",
				w.dst.Name(), start, end)
		}
	}
	return nil
}

func failing(step string, f *os.File, err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	return fmt.Errorf("%s %s: %w: is it still plugged in? If so it is failing: use another", step, f.Name(), err)
}
