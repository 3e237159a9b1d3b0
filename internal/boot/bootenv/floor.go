package bootenv

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"

	"cloudlink.local/gateway/internal/release"
)

// The record of the floor, the oldest version that may be installed, lies beside the environment block
// because a factory reset erases the data partition. GRUB does not read it.
const (
	FloorFile   = "cloudlink/floor"
	FloorBackup = "cloudlink/floor.bak"
)

// FloorSize is a record's, in bytes: one sector, which a power cut leaves old or new.
const FloorSize = 512

const floorHeader = "# CloudLink floor\n"

// EncodeFloor returns the record of a version.
func EncodeFloor(version string) ([]byte, error) {
	if err := release.CheckVersion(version); err != nil {
		return nil, err
	}
	b := fmt.Appendf(nil, "%s%08x %s\n", floorHeader, crc32.ChecksumIEEE([]byte(version)), version)
	if len(b) > FloorSize {
		return nil, fmt.Errorf("version %.50q… is too long", version)
	}
	return append(b, bytes.Repeat([]byte("#"), FloorSize-len(b))...), nil
}

// ParseFloor reads a record.
func ParseFloor(b []byte) (version string, err error) {
	line, ok := bytes.CutPrefix(b, []byte(floorHeader))
	if !ok || len(b) != FloorSize {
		return "", errors.New("not a record of a floor")
	}
	line, _, _ = bytes.Cut(line, []byte("\n"))
	_, v, _ := bytes.Cut(line, []byte(" "))
	if want, err := EncodeFloor(string(v)); err != nil || !bytes.Equal(b, want) {
		return "", errors.New("a damaged record of a floor")
	}
	return string(v), nil
}

// ReadFloor reads the record in the file at path.
func ReadFloor(path string) (string, error) { return readRecord(path, FloorSize, ParseFloor) }

// WriteFloor writes the record over that at path, to the medium before it returns.
func WriteFloor(path, version string) error {
	b, err := EncodeFloor(version)
	if err != nil {
		return err
	}
	return overwrite(path, b)
}
