package powercut

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"cloudlink.local/gateway/internal/boot"
	"cloudlink.local/gateway/internal/boot/bootenv"
	"cloudlink.local/gateway/internal/boot/gpt"
	"cloudlink.local/gateway/internal/testvm/powercut/nbd"
)

// A Layout says what lies where on a disk.
type Layout struct {
	table *gpt.Table
	files map[string]int64 // by partition: where a FAT's files begin, after its tables and its directory

	cluster int64   // bytes, of the ESP
	env     []int64 // the copies of the loader's environment, the one that counts first
}

// NewLayout looks at a disk image.
func NewLayout(image string) (*Layout, error) {
	disk, err := os.Open(image)
	if err != nil {
		return nil, err
	}
	defer disk.Close()
	size, err := disk.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	l := &Layout{files: map[string]int64{}}
	if l.table, err = gpt.Read(disk, size, Sector); err != nil {
		return nil, err
	}
	for _, label := range []string{boot.SlotA, boot.SlotB, boot.ESP} { // its cluster is the last
		p, ok := l.table.ByName(label)
		if !ok {
			return nil, fmt.Errorf("the disk has no %s", label)
		}
		if l.files[label], l.cluster, err = files(disk, int64(p.First)*Sector); err != nil {
			return nil, fmt.Errorf("%s: %w", label, err)
		}
	}
	return l, l.findEnv(disk)
}

// files returns where the files of the FAT file system at an offset begin, and its clusters' size.
func files(disk io.ReaderAt, start int64) (first, cluster int64, err error) {
	b := make([]byte, Sector)
	if _, err := disk.ReadAt(b, start); err != nil {
		return 0, 0, err
	}
	le := binary.LittleEndian
	sector, reserved, copies, entries := int64(le.Uint16(b[11:])), int64(le.Uint16(b[14:])), int64(b[16]), int64(le.Uint16(b[17:]))
	table := int64(le.Uint16(b[22:]))
	if table == 0 { // FAT32
		table = int64(le.Uint32(b[36:]))
	}
	if sector != Sector || table == 0 {
		return 0, 0, errors.New("no FAT file system")
	}
	return start + (reserved+copies*table)*sector + entries*32, int64(b[13]) * sector, nil
}

// findEnv finds the copies of the environment block by their directory entries: they are overwritten in
// place, and stay where they are.
func (l *Layout) findEnv(disk io.ReaderAt) error {
	p, _ := l.table.ByName(boot.ESP)
	b := make([]byte, int64(p.Last+1)*Sector-l.files[boot.ESP])
	if _, err := disk.ReadAt(b, l.files[boot.ESP]); err != nil {
		return err
	}
	for _, name := range []string{bootenv.File, bootenv.Backup} {
		base, extension, _ := strings.Cut(path.Base(name), ".")
		entry := bytes.Index(b, fmt.Appendf(nil, "%-8s%-3s\x20", strings.ToUpper(base), strings.ToUpper(extension)))
		if entry < 0 {
			return fmt.Errorf("the esp has no %s", name)
		}
		cluster := int64(binary.LittleEndian.Uint16(b[entry+26:]))
		at := (cluster - 2) * l.cluster
		if at < 0 || at+bootenv.Size > int64(len(b)) {
			return fmt.Errorf("%s begins in cluster %d", name, cluster)
		}
		if _, err := bootenv.Parse(b[at : at+bootenv.Size]); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		l.env = append(l.env, l.files[boot.ESP]+at)
	}
	return nil
}

// backupTable is how many sectors the copy of the partition table at the disk's end has.
const backupTable = 33

// Class says what an operation changes: a partition, and of a slot the file system's tables or the files; on
// the ESP also the loader's environment.
func (l *Layout) Class(op nbd.Op) string {
	if op.Kind == nbd.Flush {
		return "flush"
	}
	for _, at := range l.env {
		if op.Offset < at+bootenv.Size && op.Offset+op.Length > at {
			return "environment"
		}
	}
	for _, p := range l.table.Partitions {
		last := int64(p.Last)
		if p.Name == boot.Data {
			last = int64(l.table.Sectors) - backupTable - 1 // it grows
		}
		if op.Offset < int64(p.First)*Sector || op.Offset > last*Sector {
			continue
		}
		switch first, fat := l.files[p.Name]; {
		case p.Name == boot.ESP: // the loader itself is never written, only tables and directories
			return p.Name
		case fat && op.Offset < first:
			return p.Name + " tables"
		case fat:
			return p.Name + " files"
		case op.Kind == nbd.Trim:
			return p.Name + " trim"
		}
		return p.Name
	}
	return "partition table"
}

// Slots returns the slots that the loader may start after a cut at the point.
func (l *Layout) Slots(r *Recording, p Point) ([]bootenv.Slot, error) {
	block := make([]byte, bootenv.Size)
	base, err := os.Open(r.base)
	if err != nil {
		return nil, err
	}
	defer base.Close()
	log, err := os.Open(r.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	at := l.env[0] // the copy that counts
	if _, err := base.ReadAt(block, at); err != nil {
		return nil, err
	}
	var slots []bootenv.Slot
	add := func() error {
		e, err := bootenv.Parse(block)
		if err != nil {
			return err
		}
		slot := e.Confirmed
		if e.Trial != bootenv.None && e.Tries > 0 {
			slot = e.Trial
		}
		if !slices.Contains(slots, slot) {
			slots = append(slots, slot)
		}
		return nil
	}
	first, end := r.reach(p)
	for i := range end {
		if i == first {
			if err := add(); err != nil {
				return nil, err
			}
		}
		op := r.Ops[i]
		if op.Offset >= at+Sector || op.Offset+op.Length <= at || op.Kind == nbd.Flush {
			continue // its second sector is padding for ever
		}
		if op.Kind != nbd.Write {
			return nil, fmt.Errorf("operation %d: a %v of the environment", i, op.Kind)
		}
		if _, err := log.ReadAt(block[:Sector], r.data[i]+at-op.Offset); err != nil {
			return nil, err
		}
		if op.FUA && i < p.After {
			slots = nil // what was there before is gone
		}
		if i >= first {
			if err := add(); err != nil {
				return nil, err
			}
		}
	}
	if first == end {
		err = add()
	}
	return slots, err
}
