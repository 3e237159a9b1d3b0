package data

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// A super is what we need of an ext4 superblock.
type super struct {
	raw            [superSize]byte
	blockSize      int64
	blocks         int64
	blocksPerGroup int64
	group          int // in which this copy lies; 0 is the primary
}

const (
	superSize  = 1024
	superStart = 1024 // of the primary, in bytes
)

// Places in a superblock (fs/ext4/ext4.h).
const (
	atBlocksLow      = 0x04
	atLogBlockSize   = 0x18
	atBlocksPerGroup = 0x20
	atMagic          = 0x38
	atGroup          = 0x5a
	atCompat         = 0x5c
	atIncompat       = 0x60
	atReadOnlyCompat = 0x64
	atBlocksHigh     = 0x150
	atChecksum       = 0x3fc
)

const (
	magic           = 0xef53
	hasJournal      = 0x4   // compat
	needsRecovery   = 0x4   // incompat
	has64Bit        = 0x80  // incompat
	hasMetadataCsum = 0x400 // read-only compat
)

var errNoSuper = errors.New("no superblock")

// parseSuper reads a superblock and checks all of it that can be.
func parseSuper(b []byte) (super, error) {
	var s super
	if len(b) < superSize {
		return s, fmt.Errorf("%w: %d bytes", errNoSuper, len(b))
	}
	copy(s.raw[:], b)
	u16 := func(at int) uint16 { return binary.LittleEndian.Uint16(b[at:]) }
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }
	if u16(atMagic) != magic {
		return s, fmt.Errorf("%w: its magic number is missing", errNoSuper)
	}
	if u32(atReadOnlyCompat)&hasMetadataCsum != 0 && u32(atChecksum) != s.checksum() {
		return s, fmt.Errorf("%w: its checksum is wrong", errNoSuper)
	}
	if u32(atLogBlockSize) > 6 {
		return s, fmt.Errorf("%w: its block size is impossible", errNoSuper)
	}
	s.blockSize = 1024 << u32(atLogBlockSize)
	s.blocks = int64(u32(atBlocksLow))
	if u32(atIncompat)&has64Bit != 0 {
		s.blocks |= int64(u32(atBlocksHigh)&0xffff) << 32
	}
	s.blocksPerGroup = int64(u32(atBlocksPerGroup))
	if s.blocks == 0 || s.blocksPerGroup == 0 || s.blocksPerGroup > 8*s.blockSize {
		return s, fmt.Errorf("%w: its sizes are impossible", errNoSuper)
	}
	s.group = int(u16(atGroup))
	return s, nil
}

// checksum returns what the last four bytes should be.
func (s *super) checksum() uint32 {
	return ^crc32.Checksum(s.raw[:atChecksum], crc32.MakeTable(crc32.Castagnoli))
}

// asPrimary returns the bytes that belong at superStart, made from a backup. A backup does not know
// whether the journal has to be replayed; it is, for without that the kernel would clear it. On
// a clean file system that is harmless.
func (s super) asPrimary() []byte {
	binary.LittleEndian.PutUint16(s.raw[atGroup:], 0)
	if binary.LittleEndian.Uint32(s.raw[atCompat:])&hasJournal != 0 {
		incompat := binary.LittleEndian.Uint32(s.raw[atIncompat:])
		binary.LittleEndian.PutUint32(s.raw[atIncompat:], incompat|needsRecovery)
	}
	if binary.LittleEndian.Uint32(s.raw[atReadOnlyCompat:])&hasMetadataCsum != 0 {
		binary.LittleEndian.PutUint32(s.raw[atChecksum:], s.checksum())
	}
	return s.raw[:]
}

// places returns where backups of superblocks may lie, in bytes, on a device of that size.
func places(size int64) []int64 {
	var list []int64
	for _, blockSize := range []int64{4096, 1024, 2048} {
		perGroup := 8 * blockSize * blockSize // bytes
		for _, group := range []int64{1, 3, 5, 7, 9, 25, 27, 49, 81, 125} {
			at := group * perGroup
			if blockSize == 1024 {
				at += 1024
			}
			if at+superSize <= size {
				list = append(list, at)
			}
		}
	}
	return list
}

// place returns where this copy should lie, in bytes.
func (s super) place() int64 {
	at := int64(s.group) * s.blocksPerGroup * s.blockSize
	if s.blockSize == 1024 {
		at += 1024 // block 0 is the boot block
	}
	return at
}

// backups returns the good backups on a device of that size.
func backups(device io.ReaderAt, size int64) (list []super, at []int64) {
	buf := make([]byte, superSize)
	for _, place := range places(size) {
		if _, err := device.ReadAt(buf, place); err != nil {
			continue
		}
		s, err := parseSuper(buf)
		if err != nil || s.group == 0 || s.blocks > size/s.blockSize || s.place() != place {
			continue
		}
		list, at = append(list, s), append(at, place)
	}
	return list, at
}
