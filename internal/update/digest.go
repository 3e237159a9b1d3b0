package update

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
)

// copySize is how much is read at once of files that are read whole.
const copySize = 256 << 10

// digest reads r to its end and returns how many bytes it has and their SHA-256, as lower-case hex.
func digest(r io.Reader) (n int64, sum string, err error) {
	h := &asideSHA256{}
	defer h.reset()
	if n, err = io.CopyBuffer(h, struct{ io.Reader }{r}, make([]byte, copySize)); err != nil {
		return n, "", err
	}
	return n, h.hex(), nil
}

// An asideSHA256 is the SHA-256 of what is written to it, computed on another processor while its user
// fetches more. Whoever has written to it ends it by hex or reset.
type asideSHA256 struct {
	filling    []byte
	full, free chan []byte
	sum        chan []byte
}

// asideBuffers are so many that neither side waits for the other at each of them.
const asideBuffers = 4

func (h *asideSHA256) Write(b []byte) (int, error) {
	if h.full == nil {
		h.full, h.free, h.sum = make(chan []byte, asideBuffers), make(chan []byte, asideBuffers), make(chan []byte)
		for range asideBuffers {
			h.free <- nil
		}
		go hashAside(h.full, h.free, h.sum)
	}
	for rest := b; len(rest) > 0; {
		if h.filling == nil {
			if h.filling = <-h.free; h.filling == nil {
				h.filling = make([]byte, 0, copySize)
			}
		}
		n := min(len(rest), cap(h.filling)-len(h.filling))
		h.filling, rest = append(h.filling, rest[:n]...), rest[n:]
		if len(h.filling) == cap(h.filling) {
			h.hand()
		}
	}
	return len(b), nil
}

// hashAside hashes what is full until that is closed.
func hashAside(full <-chan []byte, free, sum chan<- []byte) {
	s := sha256.New()
	for b := range full {
		s.Write(b)
		free <- b[:0]
	}
	sum <- s.Sum(nil)
}

func (h *asideSHA256) hand() {
	h.full <- h.filling
	h.filling = nil
}

// hex ends it and returns the digest in lower-case hex.
func (h *asideSHA256) hex() string {
	h.Write(nil)
	if h.filling != nil {
		h.hand()
	}
	close(h.full)
	h.full = nil
	return hex.EncodeToString(<-h.sum)
}

// reset forgets what was written.
func (h *asideSHA256) reset() {
	if h.full != nil {
		h.hex()
	}
}
