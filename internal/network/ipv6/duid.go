package ipv6

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/google/renameio/v2"
)

// duidUUID begins a DUID that is 16 bytes nobody else has (RFC 8415 §11.5). It says nothing about the
// ports, which may be exchanged.
var duidUUID = []byte{0, 4}

// DUID reads from path what DHCPv6 servers know this machine by, or makes it: it stays the same for
// the machine's life. A damaged file is replaced.
func DUID(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err == nil && len(b) == 18 && bytes.HasPrefix(b, duidUUID) {
		return b, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read DUID: %w", err)
	}
	var uuid [16]byte
	rand.Read(uuid[:])                                      // does not fail
	uuid[6], uuid[8] = uuid[6]&0x0f|0x40, uuid[8]&0x3f|0x80 // version 4: random (RFC 9562 §5.4)
	duid := append(bytes.Clone(duidUUID), uuid[:]...)
	if err := renameio.WriteFile(path, duid, 0o600); err != nil {
		return nil, fmt.Errorf("save DUID: %w", err)
	}
	return duid, nil
}
