package slots

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"
)

const sector = 512

// FAT16 has so many clusters; with fewer it would be read as FAT12, with more as FAT32.
const (
	minClusters = 4085
	maxClusters = 65524
)

// format writes an empty FAT16 file system of size bytes, as `firmware image` makes a slot's: what was
// there before, whole or damaged, is gone. Whoever reads a half-written one finds none.
func format(w io.WriterAt, size int64, label string, id uint32) error {
	sectors := size / sector
	perCluster := int64(1)
	for sectors/perCluster > 8192 && perCluster < 128 {
		perCluster *= 2
	}
	const reserved, copies, rootEntries = 1, 2, 256
	const rootSectors = rootEntries * 32 / sector
	table := int64(1) // sectors of one table: as many as its entries for all clusters need
	for {
		clusters := (sectors - reserved - copies*table - rootSectors) / perCluster
		if need := ((clusters+2)*2 + sector - 1) / sector; need <= table {
			if clusters < minClusters || clusters > maxClusters {
				return fmt.Errorf("format slot: %d bytes do not fit FAT16", size)
			}
			break
		}
		table++
	}
	name := []byte(fmt.Sprintf("%-11.11s", strings.ToUpper(label)))

	boot := make([]byte, sector)
	copy(boot, "\xeb\x3c\x90CLOUDLNK")
	le := binary.LittleEndian
	le.PutUint16(boot[11:], sector)
	boot[13] = byte(perCluster)
	le.PutUint16(boot[14:], reserved)
	boot[16] = copies
	le.PutUint16(boot[17:], rootEntries)
	if sectors < 1<<16 {
		le.PutUint16(boot[19:], uint16(sectors))
	} else {
		le.PutUint32(boot[32:], uint32(sectors))
	}
	boot[21] = 0xf8 // a fixed disk
	le.PutUint16(boot[22:], uint16(table))
	le.PutUint16(boot[24:], 32) // sectors and heads: nobody uses them any more
	le.PutUint16(boot[26:], 64)
	boot[36], boot[38] = 0x80, 0x29 // first disk; what follows is there
	le.PutUint32(boot[39:], id)
	copy(boot[43:], name)
	copy(boot[54:], "FAT16   ")
	boot[510], boot[511] = 0x55, 0xaa

	tables := make([]byte, (copies*table+rootSectors)*sector)
	for i := range int64(copies) {
		copy(tables[i*table*sector:], "\xf8\xff\xff\xff")
	}
	root := tables[copies*table*sector:]
	copy(root, name)
	root[11] = 0x08 // a volume's label
	for _, part := range []struct {
		at   int64
		data []byte
	}{{0, make([]byte, sector)}, {reserved * sector, tables}, {0, boot}} { // the boot sector last
		if _, err := w.WriteAt(part.data, part.at); err != nil {
			return fmt.Errorf("format slot: %w", err)
		}
	}
	return nil
}
