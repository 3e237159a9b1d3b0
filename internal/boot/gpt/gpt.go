// Package gpt reads a disk's GUID partition table and lets its last partition grow to the disk's
// end, so that a power cut at any moment leaves one whole table.
package gpt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"unicode/utf16"
)

// A GUID is as it stands on disk: the first three fields little-endian.
type GUID [16]byte

// String writes g as the kernel does: lower-case, with dashes.
func (g GUID) String() string {
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x",
		binary.LittleEndian.Uint32(g[0:]), binary.LittleEndian.Uint16(g[4:]), binary.LittleEndian.Uint16(g[6:]), g[8:10], g[10:])
}

// A Partition is one used entry.
type Partition struct {
	Number      int // counted from 1, as in a device's name
	Type, ID    GUID
	First, Last uint64 // sectors, both included
	Name        string
}

// A Table is a whole partition table.
type Table struct {
	Disk       GUID
	Sector     int // bytes
	Sectors    uint64
	Partitions []Partition

	primary header
	entries []byte // of both copies
	damaged bool   // one copy was not whole
}

// ErrNoTable says that the disk has no whole partition table.
var ErrNoTable = errors.New("no GUID partition table")

// A header is the table's header on disk (UEFI 2.10, 5.3.2).
type header struct {
	Signature           [8]byte
	Revision            uint32
	Size                uint32
	CRC                 uint32
	_                   uint32
	MyLBA, AlternateLBA uint64
	FirstUsable         uint64
	LastUsable          uint64
	Disk                GUID
	EntriesLBA          uint64
	EntryCount          uint32
	EntrySize           uint32
	EntriesCRC          uint32
}

const (
	headerSize = 92
	maxEntries = 1 << 20 // bytes of all entries: 8192 of the usual size
)

var signature = [8]byte([]byte("EFI PART"))

// Read reads the table of a disk of so many bytes in sectors of that size. A damaged primary copy
// is read from the backup at the disk's end.
func Read(disk io.ReaderAt, size int64, sector int) (*Table, error) {
	if sector < 512 || sector > 64<<10 || sector&(sector-1) != 0 || size < int64(sector)*8 {
		return nil, fmt.Errorf("%w: %d bytes in sectors of %d", ErrNoTable, size, sector)
	}
	sectors := uint64(size) / uint64(sector)
	damaged := false
	h, entries, err := readCopy(disk, 1, sectors, sector)
	switch {
	case errors.Is(err, ErrNoTable):
		damaged = true
		var backupErr error
		if h, entries, backupErr = readCopy(disk, sectors-1, sectors, sector); backupErr != nil {
			return nil, errors.Join(err, backupErr)
		}
		h.MyLBA, h.AlternateLBA, h.EntriesLBA = 1, h.MyLBA, 2
		if h.EntriesLBA+uint64(len(entries)-1)/uint64(sector) >= h.FirstUsable {
			return nil, fmt.Errorf("%w, and the backup's entries do not fit where the primary's belong", err)
		}
	case err != nil:
		return nil, err
	default:
		_, backup, err := readCopy(disk, h.AlternateLBA, sectors, sector)
		damaged = err != nil || !bytes.Equal(backup, entries)
	}
	t := &Table{Disk: h.Disk, Sector: sector, Sectors: sectors, primary: h, entries: entries, damaged: damaged}
	for i := range int(h.EntryCount) {
		e := entries[i*int(h.EntrySize):][:h.EntrySize]
		p := Partition{
			Number: i + 1, Type: GUID(e[0:16]), ID: GUID(e[16:32]),
			First: binary.LittleEndian.Uint64(e[32:]), Last: binary.LittleEndian.Uint64(e[40:]), Name: name(e[56:128]),
		}
		if p.Type == (GUID{}) {
			continue
		}
		if p.First < h.FirstUsable || p.Last < p.First || p.Last > h.LastUsable {
			return nil, fmt.Errorf("%w: partition %d reaches from %d to %d", ErrNoTable, p.Number, p.First, p.Last)
		}
		t.Partitions = append(t.Partitions, p)
	}
	return t, nil
}

// readCopy reads the copy whose header is at lba.
func readCopy(disk io.ReaderAt, lba, sectors uint64, sector int) (h header, entries []byte, err error) {
	if lba >= sectors {
		return h, nil, fmt.Errorf("%w: sector %d is beyond the disk's end", ErrNoTable, lba)
	}
	raw := make([]byte, sector)
	if _, err := disk.ReadAt(raw, int64(lba)*int64(sector)); err != nil {
		return h, nil, fmt.Errorf("read partition table at sector %d: %w", lba, err)
	}
	if _, err := binary.Decode(raw, binary.LittleEndian, &h); err != nil {
		return h, nil, err
	}
	bad := func(what string) (header, []byte, error) {
		return header{}, nil, fmt.Errorf("%w at sector %d: %s", ErrNoTable, lba, what)
	}
	switch entriesSize := uint64(h.EntryCount) * uint64(h.EntrySize); {
	case h.Signature != signature:
		return bad("signature is missing")
	case h.Size < headerSize || h.Size > uint32(sector):
		return bad("size of header")
	case h.CRC != headerCRC(raw[:h.Size]):
		return bad("checksum of header")
	case h.MyLBA != lba:
		return bad("header is of another place")
	case h.EntrySize < 128 || h.EntrySize%8 != 0 || h.EntryCount == 0 || entriesSize > maxEntries:
		return bad("size of entries")
	case h.EntriesLBA < 2 || h.EntriesLBA >= sectors || (entriesSize-1)/uint64(sector) >= sectors-h.EntriesLBA:
		return bad("place of entries")
	case h.FirstUsable < 2 || h.LastUsable >= sectors || h.LastUsable < h.FirstUsable:
		return bad("usable sectors")
	default:
		entries = make([]byte, entriesSize)
	}
	if _, err := disk.ReadAt(entries, int64(h.EntriesLBA)*int64(sector)); err != nil {
		return h, nil, fmt.Errorf("read partition entries at sector %d: %w", h.EntriesLBA, err)
	}
	if crc32.ChecksumIEEE(entries) != h.EntriesCRC {
		return bad("checksum of entries")
	}
	return h, entries, nil
}

// headerCRC is the checksum over a header with its own field zero.
func headerCRC(raw []byte) uint32 {
	c := crc32.ChecksumIEEE(raw[:16])
	c = crc32.Update(c, crc32.IEEETable, make([]byte, 4))
	return crc32.Update(c, crc32.IEEETable, raw[20:])
}

func name(b []byte) string {
	var units []uint16
	for ; len(b) >= 2; b = b[2:] {
		u := binary.LittleEndian.Uint16(b)
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return string(utf16.Decode(units))
}

// ByName returns the partition called name, the first one if there are several.
func (t *Table) ByName(name string) (Partition, bool) {
	for _, p := range t.Partitions {
		if p.Name == name {
			return p, true
		}
	}
	return Partition{}, false
}

// ByID returns the partition with this GUID.
func (t *Table) ByID(id GUID) (Partition, bool) {
	for _, p := range t.Partitions {
		if p.ID == id {
			return p, true
		}
	}
	return Partition{}, false
}

// align is the boundary, in bytes, that a grown partition ends at.
const align = 1 << 20

// Grow moves the backup copy to the disk's end and lets partition number reach there, if it is
// the last one on the disk. It says whether there is something to Write; calling it on a table
// that fills its disk already changes nothing.
func (t *Table) Grow(number int) bool {
	h, s := &t.primary, uint64(t.Sector)
	entrySectors := (uint64(len(t.entries)) + s - 1) / s
	if t.Sectors < entrySectors+2 || h.LastUsable > t.Sectors-2-entrySectors {
		return false // a partition may lie where the backup belongs
	}
	changed := t.damaged || h.AlternateLBA != t.Sectors-1
	h.AlternateLBA = t.Sectors - 1
	if last := t.Sectors - 2 - entrySectors; last > h.LastUsable {
		h.LastUsable = last
		changed = true
	}
	end := (h.LastUsable + 1) / (align / s) * (align / s)
	for i, p := range t.Partitions {
		if p.Number != number || p.Last+1 >= end || t.follows(p) {
			continue
		}
		t.Partitions[i].Last = end - 1
		binary.LittleEndian.PutUint64(t.entries[(number-1)*int(h.EntrySize)+40:], end-1)
		changed = true
	}
	return changed
}

// follows says whether another partition lies behind p.
func (t *Table) follows(p Partition) bool {
	for _, other := range t.Partitions {
		if other.First > p.First {
			return true
		}
	}
	return false
}

// A Disk can be written and brought to the medium.
type Disk interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// Write writes both copies, the backup first: until it is on the medium the old primary stands,
// and while the primary is written the backup does.
func (t *Table) Write(disk Disk) error {
	s := int64(t.Sector)
	entries := make([]byte, (int64(len(t.entries))+s-1)/s*s)
	copy(entries, t.entries)
	primary, backup := t.primary, t.primary
	backup.MyLBA, backup.AlternateLBA = t.primary.AlternateLBA, 1
	backup.EntriesLBA = backup.MyLBA - uint64(len(entries))/uint64(s)

	if err := t.put(disk, entries, int64(backup.EntriesLBA)); err != nil {
		return err
	}
	if err := t.put(disk, t.encode(backup), int64(backup.MyLBA)); err != nil {
		return err
	}
	if err := disk.Sync(); err != nil {
		return fmt.Errorf("sync backup partition table: %w", err)
	}
	if primary.EntriesLBA == 2 { // the usual place: one write, as near to at once as a disk can
		if err := t.put(disk, append(t.encode(primary), entries...), 1); err != nil {
			return err
		}
	} else if err := errors.Join(t.put(disk, entries, int64(primary.EntriesLBA)), t.put(disk, t.encode(primary), 1)); err != nil {
		return err
	}
	if err := t.protect(disk); err != nil {
		return err
	}
	if err := disk.Sync(); err != nil {
		return fmt.Errorf("sync partition table: %w", err)
	}
	t.damaged = false
	return nil
}

func (t *Table) put(disk Disk, b []byte, lba int64) error {
	if _, err := disk.WriteAt(b, lba*int64(t.Sector)); err != nil {
		return fmt.Errorf("write partition table at sector %d: %w", lba, err)
	}
	return nil
}

func (t *Table) encode(h header) []byte {
	raw := make([]byte, t.Sector)
	h.Size, h.CRC, h.EntriesCRC = headerSize, 0, crc32.ChecksumIEEE(t.entries)
	binary.Encode(raw, binary.LittleEndian, h) // fits: a header is 92 bytes
	binary.LittleEndian.PutUint32(raw[16:], headerCRC(raw[:headerSize]))
	return raw
}

// protect has the protective MBR, if there is one, tell the disk's size.
func (t *Table) protect(disk Disk) error {
	raw := make([]byte, t.Sector)
	if _, err := disk.ReadAt(raw, 0); err != nil {
		return fmt.Errorf("read protective MBR: %w", err)
	}
	const entry = 446
	size := uint32(min(t.Sectors-1, 0xffffffff))
	if !bytes.Equal(raw[510:512], []byte{0x55, 0xaa}) || raw[entry+4] != 0xee || binary.LittleEndian.Uint32(raw[entry+12:]) == size {
		return nil
	}
	binary.LittleEndian.PutUint32(raw[entry+12:], size)
	return t.put(disk, raw, 0)
}
