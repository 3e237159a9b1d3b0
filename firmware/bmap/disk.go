package bmap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"cloudlink.local/gateway/internal/boot/gpt"
)

var le = binary.LittleEndian

const sector = 512

// tables is where either copy of a GPT of 128 entries lies, at the disk's start with the protective
// MBR in addition: every tool makes it so.
const tables = 33 * sector

// meaningful returns the bytes of a GPT disk image that have to be on the disk as they are, zero or
// not: the partition tables, and of each file system what it uses.
func meaningful(image io.ReaderAt, size int64) ([]span, error) {
	table, err := gpt.Read(image, size, sector)
	if err != nil {
		return nil, err
	}
	spans := []span{{0, sector + tables}, {max(0, size-tables), size}}
	for _, p := range table.Partitions {
		start, length := int64(p.First)*sector, int64(p.Last-p.First+1)*sector
		used, err := inUse(io.NewSectionReader(image, start, length))
		if err != nil {
			return nil, fmt.Errorf("partition %s: %w", p.Name, err)
		}
		for _, s := range used {
			spans = append(spans, span{start + s.start, start + s.end})
		}
	}
	return merge(spans), nil
}

// inUse returns which bytes of a partition its file system uses: all of a kind that it does not know.
func inUse(part *io.SectionReader) ([]span, error) {
	head, err := read(part, 0, min(2048, part.Size()))
	if err != nil {
		return nil, err
	}
	switch {
	case len(head) == 2048 && le.Uint16(head[1024+56:]) == 0xEF53:
		return ext(head[1024:], part.Size())
	case len(head) >= 512 && head[510] == 0x55 && head[511] == 0xAA && le.Uint16(head[11:]) == sector:
		return fat(head, part)
	}
	return []span{{0, part.Size()}}, nil
}

// ext returns the whole file system: the image's one is small, it grows on the device.
func ext(super []byte, size int64) ([]span, error) {
	if bits := le.Uint32(super[24:]); bits > 6 {
		return nil, fmt.Errorf("ext4: block size 2^%d", 10+int64(bits))
	}
	length := int64(le.Uint32(super[4:])) << (10 + le.Uint32(super[24:]))
	if length == 0 || length > size {
		return nil, fmt.Errorf("ext4: a file system of %d bytes in a partition of %d", length, size)
	}
	return []span{{0, length}}, nil
}

// fat returns the tables, the root directory and the clusters that the first table says are taken.
// Where the layout comes from: Microsoft's FAT specification, chapters 3 and 4.
func fat(boot []byte, part *io.SectionReader) ([]span, error) {
	perCluster := int64(boot[13])
	reserved := int64(le.Uint16(boot[14:]))
	tables := int64(boot[16])
	rootSectors := (int64(le.Uint16(boot[17:]))*32 + sector - 1) / sector
	total := int64(le.Uint16(boot[19:]))
	if total == 0 {
		total = int64(le.Uint32(boot[32:]))
	}
	perTable := int64(le.Uint16(boot[22:]))
	if perTable == 0 {
		perTable = int64(le.Uint32(boot[36:]))
	}
	data := reserved + tables*perTable + rootSectors // where the clusters begin
	if perCluster == 0 || reserved == 0 || tables == 0 || perTable == 0 || data > total || total > part.Size()/sector {
		return nil, errors.New("FAT: the boot sector contradicts itself")
	}
	clusters := (total - data) / perCluster
	bits := int64(32)
	switch {
	case clusters < 4085:
		bits = 12
	case clusters < 65525:
		bits = 16
	}
	if (clusters+2)*bits > perTable*sector*8 {
		return nil, errors.New("FAT: the table is too short")
	}
	table, err := read(part, reserved*sector, perTable*sector)
	if err != nil {
		return nil, fmt.Errorf("FAT: %w", err)
	}
	spans := []span{{0, data * sector}}
	for n := int64(2); n < clusters+2; n++ {
		var next uint32
		switch bits {
		case 12:
			next = uint32(le.Uint16(table[n*3/2:])) >> (n % 2 * 4) & 0xFFF
		case 16:
			next = uint32(le.Uint16(table[n*2:]))
		case 32:
			next = le.Uint32(table[n*4:]) & 0x0FFFFFFF
		}
		if next == 0 {
			continue
		}
		start := (data + (n-2)*perCluster) * sector
		end := start + perCluster*sector
		if last := &spans[len(spans)-1]; last.end == start {
			last.end = end
		} else {
			spans = append(spans, span{start, end})
		}
	}
	return spans, nil
}

// read returns n bytes at off, which must all be there.
func read(r io.ReaderAt, off, n int64) ([]byte, error) {
	b := make([]byte, n)
	if got, err := r.ReadAt(b, off); int64(got) < n {
		return nil, fmt.Errorf("read %d bytes at %d: %w", n, off, err)
	}
	return b, nil
}
