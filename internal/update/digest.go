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
	in  *io.PipeWriter
	sum chan []byte
}

func (h *asideSHA256) Write(b []byte) (int, error) {
	if h.in == nil {
		r, w := io.Pipe()
		sum := make(chan []byte)
		h.in, h.sum = w, sum
		go func() {
			s := sha256.New()
			io.CopyBuffer(s, r, make([]byte, copySize))
			sum <- s.Sum(nil)
		}()
	}
	return h.in.Write(b) // comes back when the bytes are copied
}

// hex ends it and returns the digest in lower-case hex.
func (h *asideSHA256) hex() string {
	if h.in == nil {
		h.Write(nil)
	}
	h.in.Close()
	h.in = nil
	return hex.EncodeToString(<-h.sum)
}

// reset forgets what was written.
func (h *asideSHA256) reset() {
	if h.in != nil {
		h.hex()
	}
}
