package delta

import (
	"io"

	"github.com/klauspost/compress/zstd"
)

// Compressor names what compresses the initramfs of this build, to the byte. It changes with the
// library's version and with the settings below: a device makes a new initramfs only if it has the very
// compressor that made it.
const Compressor = "klauspost/compress v1.20.3 zstd best 2MiB"

// window is how far back the initramfs refers to itself. Kernel and Apply keep so much of it in memory.
const window = 2 << 20

// NewCompressor compresses an initramfs to w; Close ends it and leaves w open. The same bytes give the
// same bytes on every machine: the image builder's and the device's.
func NewCompressor(w io.Writer) (io.WriteCloser, error) {
	return zstd.NewWriter(w,
		zstd.WithEncoderConcurrency(1), // or the bytes would depend on the number of cores
		zstd.WithEncoderLevel(zstd.SpeedBestCompression),
		zstd.WithWindowSize(window),
		zstd.WithEncoderCRC(false), // the loader has checked a signature
		zstd.WithLowerEncoderMem(true))
}

// newDecompressor reads zstd with no more memory than the window and a little.
func newDecompressor(r io.Reader, window uint64) (*zstd.Decoder, error) {
	return zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(window))
}
