package disk

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"unicode/utf16"
)

// Sector is the only sector size we write images for.
const Sector = 512

// FirstPartition is where partitions may start: boards need the room before it for raw blobs.
const FirstPartition = 16 << 20

const (
	entryCount = 128
	entrySize  = 128
	tableSize  = entryCount * entrySize
	// TableEnd is the first byte behind the primary partition table.
	TableEnd = 2*Sector + tableSize
)

// A GUID is one in the order of bytes that its text has.
type GUID [16]byte

// Types of partitions.
var (
	typeESP   = GUID{0xc1, 0x2a, 0x73, 0x28, 0xf8, 0x1f, 0x11, 0xd2, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b}
	typeLinux = GUID{0x0f, 0xc6, 0x3d, 0xaf, 0x84, 0x83, 0x47, 0x72, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4}
)

// NewGUID returns the GUID of a thing, the same for the same names.
func NewGUID(names ...string) GUID {
	h := sha256.New()
	for _, n := range names {
		fmt.Fprintf(h, "%q", n)
	}
	g := GUID(h.Sum(nil)[:16])
	g[6] = g[6]&0x0f | 0x80 // version 8: made by an algorithm of one's own
	g[8] = g[8]&0x3f | 0x80
	return g
}

func (g GUID) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", g[:4], g[4:6], g[6:8], g[8:10], g[10:])
}

// wire returns the GUID as a partition table has it: the first three groups little-endian.
func (g GUID) wire() []byte {
	return []byte{g[3], g[2], g[1], g[0], g[5], g[4], g[7], g[6], g[8], g[9], g[10], g[11], g[12], g[13], g[14], g[15]}
}

// A partition is an entry of the table; its place and size are in bytes.
type partition struct {
	label        string
	kind         GUID
	id           GUID
	offset, size int64
}

// writeGPT writes protective MBR and both partition tables of a disk of size bytes.
func writeGPT(w io.WriterAt, size int64, disk GUID, parts []partition) error {
	last := size/Sector - 1
	table := make([]byte, tableSize)
	for i, p := range parts {
		e := table[i*entrySize:]
		copy(e, p.kind.wire())
		copy(e[16:], p.id.wire())
		binary.LittleEndian.PutUint64(e[32:], uint64(p.offset/Sector))
		binary.LittleEndian.PutUint64(e[40:], uint64((p.offset+p.size)/Sector-1))
		for j, c := range utf16.Encode([]rune(p.label)) {
			binary.LittleEndian.PutUint16(e[56+2*j:], c)
		}
	}
	header := func(at, other, tableAt int64) []byte {
		var b bytes.Buffer
		b.WriteString("EFI PART")
		le := binary.LittleEndian
		for _, v := range []any{
			uint32(0x00010000), uint32(92), uint32(0), uint32(0),
			uint64(at), uint64(other),
			uint64(TableEnd / Sector), uint64(last - tableSize/Sector - 1), // usable sectors
			disk.wire(),
			uint64(tableAt), uint32(entryCount), uint32(entrySize), crc32.ChecksumIEEE(table),
		} {
			binary.Write(&b, le, v) // a bytes.Buffer takes all
		}
		h := b.Bytes()
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h))
		return append(h, make([]byte, Sector-len(h))...)
	}
	mbr := make([]byte, Sector)
	e := mbr[446:] // one partition of type 0xee over the whole disk
	copy(e, []byte{0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff})
	binary.LittleEndian.PutUint32(e[8:], 1)
	binary.LittleEndian.PutUint32(e[12:], uint32(min(last, 0xffffffff)))
	mbr[510], mbr[511] = 0x55, 0xaa

	backup := last - tableSize/Sector
	for _, piece := range []struct {
		at int64
		b  []byte
	}{
		{0, mbr},
		{1, header(1, last, 2)},
		{2, table},
		{backup, table},
		{last, header(last, 1, backup)},
	} {
		if _, err := w.WriteAt(piece.b, piece.at*Sector); err != nil {
			return fmt.Errorf("write partition table: %w", err)
		}
	}
	return nil
}
