package boards

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"cloudlink.local/gateway/firmware/disk"
	"cloudlink.local/gateway/internal/qemu"
)

const root = "../../board"

func TestEveryBoardIsWhole(t *testing.T) {
	names, err := List(root)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"qemu-virt", "uefi-arm64"}; !reflect.DeepEqual(names, want) {
		t.Errorf("boards %v, want %v", names, want)
	}
	folders, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range folders {
		if _, err := Load(root, f.Name()); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(root, f.Name(), "README.md")); err != nil {
			t.Errorf("no page on how to flash %s: %v", f.Name(), err)
		}
	}
}

func TestUnknownBoardListsThem(t *testing.T) {
	for _, name := range []string{"nonsense", "", "..", "../board/qemu-virt", "QEMU-VIRT"} {
		_, err := Load(root, name)
		if !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "qemu-virt, uefi-arm64") {
			t.Errorf("board %q: %v", name, err)
		}
	}
}

func TestDiskSizeIsTheImages(t *testing.T) {
	b := Board{Name: "test", Sizes: disk.Sizes{ESP: 32, Slot: 33, Data: 40}}
	dir, when := t.TempDir(), time.Unix(1_800_000_000, 0)
	data, file := filepath.Join(dir, "data.ext4"), filepath.Join(dir, "disk.img")
	if err := disk.Data(t.Context(), data, b.Sizes.Data, b.Name, when); err != nil {
		t.Fatal(err)
	}
	if err := disk.Write(t.Context(), file, dir, disk.Image{Board: b.Name, Time: when, Sizes: b.Sizes, Data: data}); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if b.DiskSize() != info.Size() {
		t.Errorf("DiskSize says %d, the image has %d bytes", b.DiskSize(), info.Size())
	}
}

const whole = `
description = "a board"
arch = "arm64"
command_line = "earlycon"
secure_boot = true
[sizes]
esp = 40
[[blob]]
package = "u-boot-rockchip"
file = "usr/lib/u-boot/x/idbloader.img"
offset = 0x8000
[[blob]]
file = "u-boot.itb"
offset = 0x800000
[qemu]
firmware = "edk2"
`

func TestParse(t *testing.T) {
	got, err := Parse([]byte(whole))
	if err != nil {
		t.Fatal(err)
	}
	want := Board{
		Description: "a board", Arch: "arm64", CommandLine: "earlycon", SecureBoot: true,
		Sizes: disk.Sizes{ESP: 40, Slot: 64, Data: 64},
		Blobs: []Blob{
			{Package: "u-boot-rockchip", File: "usr/lib/u-boot/x/idbloader.img", Offset: 0x8000},
			{File: "u-boot.itb", Offset: 0x800000},
		},
		QEMU: QEMU{qemu.EDK2},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestMistakesAreNamed(t *testing.T) {
	const least = "description = \"x\"\narch = \"arm64\"\n"
	for _, c := range []struct{ text, want string }{
		{"", "description is missing"},
		{"description = \"x\"", `arch ""`},
		{"description = \"x\"\narch = \"riscv\"", `arch "riscv"`},
		{least + "colour = \"red\"", "line 3: unknown key colour"},
		{least + "[qemu]\nfirmware = \"edk2\"\nspeed = 3", "line 5: unknown key qemu.speed"},
		{least + "[sizzes]\nesp = 3", "line 3: unknown key sizzes"},
		{least + "secure_boot = maybe", "line 3"},
		{least + "secure_boot = \"yes\"", "line 3"},
		{least + "command_line = \"a\\nb\"", "command_line"},
		{least + "command_line = \"ä\"", "command_line"},
		{least + "[sizes]\nesp = 1", "esp is 1 MiB"},
		{least + "[sizes]\nslot = -1", "slot is -1 MiB"},
		{least + "[[blob]]\noffset = 0x8000", "file is missing"},
		{least + "[[blob]]\nfile = \"../x\"\noffset = 0x8000", "inside of the board's folder"},
		{least + "[[blob]]\nfile = \"/etc/passwd\"\noffset = 0x8000", "inside of the board's folder"},
		{least + "[[blob]]\nfile = \"x\"\noffset = 512", "behind the partition table"},
		{least + "[[blob]]\nfile = \"x\"\noffset = 0x1000000", "before the first partition"},
		{least + "[[blob]]\nfile = \"x\"\noffset = 0x8000\npackage = \"-o=x\"", "no name of a Debian package"},
		{least + "[qemu]\nfirmware = \"bios\"", `qemu.firmware "bios"`},
	} {
		_, err := Parse([]byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v, want %q in one line", c.text, err, c.want)
		}
	}
}

func TestUnknownBoardListsTheBoards(t *testing.T) {
	for _, name := range []string{"toaster", "", "../board/qemu-virt", "."} {
		_, err := Load(root, name)
		if err == nil || !strings.Contains(err.Error(), "unknown board") || !strings.Contains(err.Error(), "qemu-virt, uefi-arm64") {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestErrorsNameTheFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "mine"), 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "mine", "board.toml")
	if err := os.WriteFile(file, []byte("arch = 3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir, "mine"); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("%v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(whole))
	f.Add([]byte("[[blob]]\noffset = -1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		board, err := Parse(b)
		if err != nil {
			return
		}
		for _, blob := range board.Blobs {
			if !filepath.IsLocal(blob.File) || blob.Offset < disk.TableEnd || blob.Offset >= disk.FirstPartition {
				t.Errorf("blob %+v is taken", blob)
			}
		}
		if board.Sizes.Check() != nil {
			t.Errorf("sizes %+v are taken", board.Sizes)
		}
	})
}
