package delta

import (
	"encoding/binary"
	"fmt"
	"io"
)

// A step makes the next stretch of the new data. From where the last one ended in the old data it seeks to
// another place, and takes add bytes there. In the patch it is followed by add bytes, each to be added to
// one of those, then copy bytes that are new.
type step struct{ seek, add, copy int64 }

func appendStep(b []byte, s step) []byte {
	b = binary.AppendVarint(b, s.seek)
	b = binary.AppendUvarint(b, uint64(s.add))
	return binary.AppendUvarint(b, uint64(s.copy))
}

func readStep(r io.ByteReader) (s step, err error) {
	if s.seek, err = binary.ReadVarint(r); err != nil {
		return s, err
	}
	add, err := binary.ReadUvarint(r)
	if err != nil {
		return s, err
	}
	copy, err := binary.ReadUvarint(r)
	if err != nil {
		return s, err
	}
	const most = maxFile + maxPlain // sums of such numbers fit
	if s.seek > most || s.seek < -most || add > most || copy > most {
		return s, fmt.Errorf("step by %d of %d and %d bytes", s.seek, add, copy)
	}
	s.add, s.copy = int64(add), int64(copy)
	return s, nil
}
