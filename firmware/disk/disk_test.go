package disk

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cloudlink.local/gateway/internal/boot/gpt"
)

var when = time.Date(2026, 3, 1, 12, 34, 56, 0, time.UTC)

func testImage(t *testing.T, dir string) Image {
	t.Helper()
	data := filepath.Join(dir, "data.ext4")
	if err := Data(context.Background(), data, 32, "test", when); err != nil {
		t.Fatal(err)
	}
	slot := map[string][]byte{"linux.efi": bytes.Repeat([]byte("system"), 1<<20), "manifest.json": []byte("{}")}
	return Image{
		Board: "test", Time: when, Sizes: Sizes{ESP: 32, Slot: 33, Data: 32},
		Blobs: []Blob{{"u-boot", 8 << 20, bytes.Repeat([]byte("U"), 5000)}, {"idbloader", 64 * Sector, bytes.Repeat([]byte("I"), 700)}},
		ESP:   map[string][]byte{"EFI/BOOT/BOOTAA64.EFI": bytes.Repeat([]byte("grub"), 50000), "cloudlink/boot.env": []byte("env")},
		SlotA: slot, SlotB: slot, Data: data,
	}
}

func write(t *testing.T) (file string, im Image) {
	t.Helper()
	dir := t.TempDir()
	im = testImage(t, dir)
	file = filepath.Join(dir, "disk.img")
	if err := Write(context.Background(), file, dir, im); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("left in the work folder: %v", entries)
	}
	return file, im
}

// tool runs one of the host's tools, which judge what ours wrote.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	program := name
	if _, err := exec.LookPath(name); err != nil {
		program = "/usr/sbin/" + name
	}
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s (scripts/setup test installs it): %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestDiskIsGoodToTheHostsTools(t *testing.T) {
	file, im := write(t)
	if out := tool(t, "sgdisk", "-v", file); !strings.Contains(out, "No problems found") {
		t.Errorf("sgdisk: %s", out)
	}
	out := tool(t, "sfdisk", "--dump", file)
	for _, want := range []string{
		`start=       32768, size=       65536, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, uuid=` + strings.ToUpper(NewGUID("test", "esp").String()) + `, name="esp"`,
		`name="slot-a"`, `name="slot-b"`, `name="data"`,
	} {
		if !strings.Contains(out, want) {
			t.Errorf("sfdisk has no %s:\n%s", want, out)
		}
	}

	disk, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	info, err := disk.Stat()
	if err != nil {
		t.Fatal(err)
	}
	table, err := gpt.Read(disk, info.Size(), Sector)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range table.Partitions {
		part := filepath.Join(t.TempDir(), p.Name)
		f, err := os.Create(part)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(f, io.NewSectionReader(disk, int64(p.First)*Sector, int64(p.Last-p.First+1)*Sector))
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		if p.Name == "data" {
			tool(t, "e2fsck", "-fn", part)
			continue
		}
		tool(t, "fsck.fat", "-n", part)
		for name, want := range map[string]map[string][]byte{"esp": im.ESP, "slot-a": im.SlotA, "slot-b": im.SlotB}[p.Name] {
			got, err := exec.Command("mtype", "-i", part, "::/"+name).Output()
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %s has %d bytes (%v), want %d", p.Name, name, len(got), err, len(want))
			}
		}
	}
	for _, b := range im.Blobs {
		got := make([]byte, len(b.Data))
		if _, err := disk.ReadAt(got, b.Offset); err != nil || !bytes.Equal(got, b.Data) {
			t.Errorf("blob %s is not where it belongs (%v)", b.Name, err)
		}
	}
	if blocks := info.Sys().(*syscall.Stat_t).Blocks * 512; blocks > 32<<20 {
		t.Errorf("the file takes %d bytes of the host's disk: not sparse", blocks)
	}
}

func TestFATTypeIsSafe(t *testing.T) {
	for _, size := range []int64{32, 33, 63, 64, 65, 129, 257, 512, 513, 1024} {
		file := filepath.Join(t.TempDir(), "fat")
		p := partition{label: "esp", id: NewGUID("x"), size: size * mib}
		if err := writeFAT(context.Background(), file, p, when, nil); err != nil {
			t.Fatalf("%d MiB: %v", size, err)
		}
		out := tool(t, "fsck.fat", "-nv", file)
		var clusters int
		for _, line := range strings.Split(out, "\n") {
			if i := strings.Index(line, "data clusters"); i >= 0 {
				fmt.Sscan(line, &clusters)
			}
		}
		if !strings.Contains(out, "FATs, 16 bit entries") || clusters < 4085+16 || clusters > 65524-16 {
			t.Errorf("%d MiB: %d clusters:\n%s", size, clusters, out)
		}
	}
}

// The device grows the data partition while it is mounted, to whatever disk it finds.
func TestDataHasRoomToGrow(t *testing.T) {
	file := filepath.Join(t.TempDir(), "data.ext4")
	if err := Data(context.Background(), file, 64, "test", when); err != nil {
		t.Fatal(err)
	}
	out := tool(t, "dumpe2fs", "-h", file)
	// A block of 4096 bytes holds 64 group descriptors of 128 MiB each, so 128 blocks are 1 TiB.
	var reserved int
	for _, line := range strings.Split(out, "\n") {
		if v, ok := strings.CutPrefix(line, "Reserved GDT blocks:"); ok {
			fmt.Sscan(v, &reserved)
		}
	}
	if reserved < 127 {
		t.Errorf("%d reserved descriptor blocks", reserved)
	}
	for _, want := range []string{"metadata_csum", "resize_inode", "64bit", "has_journal", "Filesystem volume name:   data", "Sun Mar  1 12:34:56 2026"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
}

func TestSameInputSameBytes(t *testing.T) {
	sum := func(file string) string {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%x", sha256.Sum256(b))
	}
	a, _ := write(t)
	b, _ := write(t)
	if sum(a) != sum(b) {
		out, _ := exec.Command("cmp", a, b).CombinedOutput()
		t.Errorf("two images differ: %s", out)
	}
}

func TestRefuses(t *testing.T) {
	dir := t.TempDir()
	for name, change := range map[string]func(*Image){
		"esp is 8 MiB":          func(im *Image) { im.Sizes.ESP = 8 },
		"slot is 4096 MiB":      func(im *Image) { im.Sizes.Slot = 4096 },
		"data is 0 MiB":         func(im *Image) { im.Sizes.Data = 0 },
		"overlaps the partitio": func(im *Image) { im.Blobs = []Blob{{"x", 512, []byte("x")}} },
		"overlaps one":          func(im *Image) { im.Blobs = []Blob{{"two", 99999, []byte("x")}, {"one", 99900, make([]byte, 100)}} },
		"first partition":       func(im *Image) { im.Blobs = []Blob{{"x", FirstPartition - 1, []byte("xx")}} },
		"make slot-b":           func(im *Image) { im.SlotB = map[string][]byte{"big": make([]byte, 34<<20)} },
	} {
		im := testImage(t, dir)
		change(&im)
		if err := Write(context.Background(), filepath.Join(dir, "disk.img"), dir, im); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v: want %q in it", err, name)
		}
	}
}

func TestMissingToolIsNamedWithItsPackage(t *testing.T) {
	packages["no-such-tool"] = "its-package"
	defer delete(packages, "no-such-tool")
	if _, err := run(context.Background(), when, nil, "no-such-tool"); err == nil || !strings.Contains(err.Error(), "its-package") {
		t.Errorf("%v", err)
	}
}

func TestGUIDs(t *testing.T) {
	if NewGUID("a", "b") == NewGUID("ab") {
		t.Error("different names have the same GUID")
	}
	if got := NewGUID("qemu-virt", "slot-a").String(); got != "d42486ea-72e1-8e3e-b44d-426832b909dd" {
		t.Errorf("GUID of qemu-virt's slot-a changed to %s", got)
	}
	if got := typeESP.String(); got != "c12a7328-f81f-11d2-ba4b-00a0c93ec93b" {
		t.Errorf("type of the ESP is %s", got)
	}
}
