package delta

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// What a header may say at most, far above any image of ours.
const (
	magic         = "cldelta1"
	maxCompressor = 100       // bytes of a name
	maxFile       = 64 << 20  // of a linux.efi
	maxPlain      = 128 << 20 // of an unpacked initramfs
)

// A layout tells where in a file the compressed initramfs lies. Unfolded, the file has the unpacked
// initramfs in that place.
type layout struct {
	size   int64 // of the file
	at     int64 // of the initramfs
	packed int64 // its length
	plain  int64 // and unpacked
}

// length is that of the file unfolded.
func (l layout) length() int64 { return l.size - l.packed + l.plain }

func (l layout) check() error {
	if l.size > maxFile || l.plain > maxPlain || l.plain == 0 || l.packed == 0 || l.packed > l.size || l.at > l.size-l.packed {
		return fmt.Errorf("%d bytes with %d at %d that unpack to %d", l.size, l.packed, l.at, l.plain)
	}
	return nil
}

// A header begins a patch, uncompressed. The steps follow, compressed.
type header struct {
	compressor string
	old, new   layout
}

func (h *header) append(b []byte) []byte {
	b = append(b, magic...)
	b = append(b, byte(len(h.compressor)))
	b = append(b, h.compressor...)
	for _, l := range []layout{h.old, h.new} {
		for _, n := range []int64{l.size, l.at, l.packed, l.plain} {
			b = binary.AppendUvarint(b, uint64(n))
		}
	}
	return b
}

func readHeader(r *bufio.Reader) (header, error) {
	var h header
	begin := make([]byte, len(magic)+1)
	if _, err := io.ReadFull(r, begin); err != nil {
		return h, err
	}
	if string(begin[:len(magic)]) != magic {
		return h, errors.New("it does not begin as one")
	}
	name := make([]byte, begin[len(magic)])
	if len(name) > maxCompressor {
		return h, errors.New("the compressor's name is too long")
	}
	if _, err := io.ReadFull(r, name); err != nil {
		return h, err
	}
	h.compressor = string(name)
	for _, l := range []*layout{&h.old, &h.new} {
		for _, n := range []*int64{&l.size, &l.at, &l.packed, &l.plain} {
			v, err := binary.ReadUvarint(r)
			if err != nil {
				return h, err
			}
			if v > maxFile+maxPlain { // sums of such numbers fit
				return h, fmt.Errorf("size %d", v)
			}
			*n = int64(v)
		}
		if err := l.check(); err != nil {
			return h, err
		}
	}
	return h, nil
}
