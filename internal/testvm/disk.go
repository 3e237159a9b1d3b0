package testvm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"cloudlink.local/gateway/internal/boot/bootenv"
	"cloudlink.local/gateway/internal/qemu"
)

// A Disk is a VM's disk, looked at and changed from outside with the host's tools (sfdisk, mtools,
// debugfs): they judge what our own code wrote. The machine must be off, or the reader know what
// it does.
type Disk struct {
	t    testing.TB
	path string
}

// Path is the raw image file.
func (d *Disk) Path() string { return d.path }

// Partition returns where the partition called label lies, in bytes.
func (d *Disk) Partition(label string) (offset, size int64) {
	d.t.Helper()
	var table struct {
		Partitiontable struct {
			Partitions []struct {
				Start, Size int64
				Name        string
			}
		}
	}
	if err := json.Unmarshal(d.run("sfdisk", "--json", d.path), &table); err != nil {
		d.t.Fatalf("sfdisk: %v", err)
	}
	for _, p := range table.Partitiontable.Partitions {
		if p.Name == label {
			return p.Start * 512, p.Size * 512
		}
	}
	d.t.Fatalf("the disk has no partition %q", label)
	return 0, 0
}

// fat names a FAT partition for mtools.
func (d *Disk) fat(label string) string {
	offset, _ := d.Partition(label)
	return fmt.Sprintf("%s@@%d", d.path, offset)
}

// ReadFile reads a file of a FAT partition (esp, slot-a, slot-b).
func (d *Disk) ReadFile(label, name string) []byte {
	d.t.Helper()
	return d.run("mtype", "-i", d.fat(label), "::/"+name)
}

// WriteFile writes a file of a FAT partition.
func (d *Disk) WriteFile(label, name string, b []byte) {
	d.t.Helper()
	d.runWith(b, "mcopy", "-o", "-i", d.fat(label), "-", "::/"+name)
}

// Remove removes a file of a FAT partition.
func (d *Disk) Remove(label, name string) {
	d.t.Helper()
	d.run("mdel", "-i", d.fat(label), "::/"+name)
}

// FlipByte changes one byte in the middle of a FAT partition's file, and nothing else on the disk.
func (d *Disk) FlipByte(label, name string) {
	d.t.Helper()
	old := d.ReadFile(label, name)
	changed := bytes.Clone(old)
	changed[len(changed)/2] ^= 1
	d.WriteFile(label, name, changed)
}

// Env reads one copy of the loader's environment block: bootenv.File or bootenv.Backup.
func (d *Disk) Env(name string) bootenv.Env {
	d.t.Helper()
	e, err := bootenv.Parse(d.ReadFile("esp", name))
	if err != nil {
		d.t.Fatalf("%s: %v", name, err)
	}
	return e
}

// SetEnv writes both copies of the environment block.
func (d *Disk) SetEnv(e bootenv.Env) {
	d.t.Helper()
	b, err := e.Encode()
	if err != nil {
		d.t.Fatal(err)
	}
	d.WriteFile("esp", bootenv.File, b)
	d.WriteFile("esp", bootenv.Backup, b)
}

// Overwrite writes b at offset bytes into the partition.
func (d *Disk) Overwrite(label string, offset int64, b []byte) {
	d.t.Helper()
	start, size := d.Partition(label)
	if offset+int64(len(b)) > size {
		d.t.Fatalf("%d bytes at %d are more than %s holds", len(b), offset, label)
	}
	f, err := os.OpenFile(d.path, os.O_WRONLY, 0)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, start+offset); err != nil {
		d.t.Fatal(err)
	}
}

// DataFile reads a file of the data partition, journal replayed or not.
func (d *Disk) DataFile(name string) []byte {
	d.t.Helper()
	return d.run("debugfs", "-R", "cat /"+name, d.data())
}

// FillData writes one file into the data partition that leaves no block free, not even root's.
func (d *Disk) FillData() {
	d.t.Helper()
	var free, block int
	for line := range strings.Lines(string(d.run("debugfs", "-R", "stats", d.data()))) {
		if v, ok := strings.CutPrefix(line, "Free blocks:"); ok {
			fmt.Sscan(v, &free)
		}
		if v, ok := strings.CutPrefix(line, "Block size:"); ok {
			fmt.Sscan(v, &block)
		}
	}
	if free == 0 || block == 0 {
		d.t.Fatal("debugfs does not say how much is free")
	}
	tmp, err := os.CreateTemp("", "fill")
	if err != nil {
		d.t.Fatal(err)
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	// An eighth of a per cent or so goes into the file's own block map.
	if _, err := tmp.Write(bytes.Repeat([]byte("full"), (free-free/500-8)*block/4)); err != nil {
		d.t.Fatal(err)
	}
	d.run("debugfs", "-w", "-R", "write "+tmp.Name()+" fill", d.data())
}

// DeletePartition takes the partition called label out of the table.
func (d *Disk) DeletePartition(label string) {
	d.t.Helper()
	for i, name := range []string{"esp", "slot-a", "slot-b", "data"} {
		if name == label {
			d.run("sgdisk", "--delete", fmt.Sprint(i+1), d.path)
			return
		}
	}
	d.t.Fatalf("no partition is called %q", label)
}

// CheckData runs e2fsck over the data partition without changing it and returns its verdict: nil
// for a file system that is clean and was unmounted in order.
func (d *Disk) CheckData() error {
	d.t.Helper()
	offset, size := d.Partition("data")
	tmp, err := os.CreateTemp("", "data")
	if err != nil {
		d.t.Fatal(err)
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	src, err := os.Open(d.path)
	if err != nil {
		d.t.Fatal(err)
	}
	defer src.Close()
	if err := qemu.CopySparse(tmp, src, offset, size); err != nil {
		d.t.Fatal(err)
	}
	state, err := exec.Command("dumpe2fs", "-h", tmp.Name()).Output()
	if err != nil {
		return fmt.Errorf("dumpe2fs: %w", err)
	}
	if !bytes.Contains(state, []byte("Filesystem state:         clean\n")) || bytes.Contains(state, []byte("needs_recovery")) {
		return errors.New("it was not unmounted")
	}
	if out, err := exec.Command("e2fsck", "-fn", tmp.Name()).CombinedOutput(); err != nil {
		return fmt.Errorf("e2fsck: %w\n%s", err, out)
	}
	return nil
}

func (d *Disk) data() string {
	offset, _ := d.Partition("data")
	return fmt.Sprintf("%s?offset=%d", d.path, offset)
}

func (d *Disk) run(name string, args ...string) []byte {
	d.t.Helper()
	return d.runWith(nil, name, args...)
}

func (d *Disk) runWith(input []byte, name string, args ...string) []byte {
	d.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = bytes.NewReader(input)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		d.t.Fatalf("%s %s (scripts/setup installs it): %v\n%s", name, strings.Join(args, " "), err, stderr.String())
	}
	return out
}
