package boot

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"

	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/boot/bootenv"
	"cloudlink.local/gateway/internal/boot/gpt"
)

// The partitions of our disk, by their GPT labels.
const (
	ESP   = "esp"
	SlotA = "slot-a"
	SlotB = "slot-b"
	Data  = "data"
)

// LoaderVariable is the EFI variable in which the kernel image's stub says which partition it was
// loaded from.
const LoaderVariable = "/sys/firmware/efi/efivars/LoaderDevicePartUUID-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"

// LoadedFrom returns the GUID, lower-case, of the partition that the kernel was loaded from.
func LoadedFrom(variable string) (string, error) {
	b, err := os.ReadFile(variable)
	if err != nil {
		return "", fmt.Errorf("ask loader for its partition: %w", err)
	}
	id, err := parseLoadedFrom(b)
	if err != nil {
		return "", fmt.Errorf("ask loader for its partition: %w", err)
	}
	return id, nil
}

// parseLoadedFrom reads the variable's file: four bytes of attributes, a GUID in UTF-16.
func parseLoadedFrom(b []byte) (string, error) {
	const length = 36
	if len(b) < 4+2*length || len(b) > 4+2*length+2 {
		return "", fmt.Errorf("%d bytes are no GUID in UTF-16", len(b))
	}
	units := make([]uint16, length)
	for i := range units {
		units[i] = binary.LittleEndian.Uint16(b[4+2*i:])
	}
	id := strings.ToLower(string(utf16.Decode(units)))
	for i, c := range id {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		if dash != (c == '-') || !dash && !strings.ContainsRune("0123456789abcdef", c) {
			return "", fmt.Errorf("%q is no GUID", id)
		}
	}
	return id, nil
}

// A Disk is the one that we booted from.
type Disk struct {
	Name  string // of the whole disk's device: "vda"
	Table *gpt.Table
	Slot  bootenv.Slot // that we booted from; None where the loader did not say
	dev   string       // directory of device files
	sys   string       // sysfs
}

// FindDisk waits until the disk with the partition that we were loaded from is there and its
// partitions have devices, or ctx ends. Where the loader did not say, loadedFrom is "" and the
// first disk with our four partitions is it.
func FindDisk(ctx context.Context, sys, dev, loadedFrom string) (*Disk, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		d, err := findDisk(sys, dev, loadedFrom)
		if err == nil {
			return d, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("find the disk that we booted from: %w", err)
		}
	}
}

func findDisk(sys, dev, loadedFrom string) (*Disk, error) {
	entries, err := os.ReadDir(filepath.Join(sys, "class/block"))
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, e := range entries {
		dir := filepath.Join(sys, "class/block", e.Name())
		if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
			continue
		}
		if size, err := os.ReadFile(filepath.Join(dir, "size")); err != nil || strings.TrimSpace(string(size)) == "0" {
			continue
		}
		d := &Disk{Name: e.Name(), dev: dev, sys: sys}
		if err := d.read(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", e.Name(), err))
			continue
		}
		if !d.ours(loadedFrom) {
			continue
		}
		for _, p := range d.Table.Partitions { // the kernel makes the devices one after the other
			if _, err := os.Stat(d.Partition(p)); err != nil {
				return nil, err
			}
		}
		return d, nil
	}
	return nil, errors.Join(append(errs, errors.New("no disk has our partitions"))...)
}

// read reads the disk's partition table.
func (d *Disk) read() error {
	f, err := os.Open(filepath.Join(d.dev, d.Name))
	if err != nil {
		return err
	}
	defer f.Close()
	sector, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET)
	if err != nil {
		return fmt.Errorf("ask for sector size: %w", err)
	}
	size, err := f.Seek(0, 2)
	if err != nil {
		return fmt.Errorf("ask for size: %w", err)
	}
	d.Table, err = gpt.Read(f, size, sector)
	return err
}

// ours says whether this is the disk, and notes the slot.
func (d *Disk) ours(loadedFrom string) bool {
	if loadedFrom == "" {
		return !slices.ContainsFunc([]string{ESP, SlotA, SlotB, Data}, func(label string) bool {
			_, ok := d.Table.ByName(label)
			return !ok
		})
	}
	for _, p := range d.Table.Partitions {
		if p.ID.String() == loadedFrom {
			switch p.Name {
			case SlotA:
				d.Slot = bootenv.A
			case SlotB:
				d.Slot = bootenv.B
			}
			return true
		}
	}
	return false
}

// Partition returns the path of a partition's device.
func (d *Disk) Partition(p gpt.Partition) string {
	name := d.Name
	if last := name[len(name)-1]; last >= '0' && last <= '9' {
		name += "p"
	}
	return filepath.Join(d.dev, name+strconv.Itoa(p.Number))
}

// Device returns the path of the device of the partition with this label.
func (d *Disk) Device(label string) (string, bool) {
	p, ok := d.Table.ByName(label)
	if !ok {
		return "", false
	}
	return d.Partition(p), true
}

// Grow lets the data partition reach to the disk's end, on the disk and in the kernel. The file
// system in it stays as it is. It says whether anything changed.
func (d *Disk) Grow() (bool, error) {
	p, ok := d.Table.ByName(Data)
	if !ok {
		return false, nil
	}
	if !d.Table.Grow(p.Number) {
		return false, nil
	}
	f, err := os.OpenFile(filepath.Join(d.dev, d.Name), os.O_RDWR, 0)
	if err != nil {
		return false, fmt.Errorf("grow data partition: %w", err)
	}
	defer f.Close()
	if err := d.Table.Write(f); err != nil {
		return false, fmt.Errorf("grow data partition: %w", err)
	}
	grown, _ := d.Table.ByName(Data)
	if grown.Last == p.Last {
		return true, nil
	}
	if err := resizePartition(int(f.Fd()), grown, d.Table.Sector); err != nil {
		return true, fmt.Errorf("grow data partition: tell the kernel: %w", err)
	}
	return true, nil
}
