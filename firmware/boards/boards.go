// Package boards reads board/NAME/board.toml: all that the image builder knows about a board.
package boards

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/BurntSushi/toml"

	"cloudlink.local/gateway/firmware/disk"
	"cloudlink.local/gateway/internal/qemu"
)

// A Board is what board.toml says.
type Board struct {
	Name        string `toml:"-"`
	Dir         string `toml:"-"`
	Description string `toml:"description"`
	Arch        string `toml:"arch"`
	CommandLine string `toml:"command_line"` // added to the kernel's command line
	SecureBoot  bool   `toml:"secure_boot"`  // loader and slots are signed for UEFI Secure Boot

	Sizes disk.Sizes `toml:"sizes"`
	Blobs []Blob     `toml:"blob"`
	QEMU  QEMU       `toml:"qemu"`
}

// A Blob is written raw before the first partition: a file of the board's folder, or one of a Debian
// package, which is fetched and locked like every other.
type Blob struct {
	File    string `toml:"file"`
	Package string `toml:"package"`
	Offset  int64  `toml:"offset"` // bytes from the start of the disk
}

// QEMU says how the board is run in QEMU; a board without firmware here is not.
type QEMU struct {
	Firmware qemu.Firmware `toml:"firmware"`
}

// Default sizes of the partitions in MiB.
var defaults = disk.Sizes{ESP: 32, Slot: 64, Data: 64}

var name = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*$`)

// List returns the names of the boards in root, the folder of all boards.
func List(root string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(root, "*", "board.toml"))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, f := range files {
		names = append(names, filepath.Base(filepath.Dir(f)))
	}
	slices.Sort(names)
	return names, nil
}

// ErrUnknown says that no board has this name.
var ErrUnknown = errors.New("unknown board")

// Load reads one board.
func Load(root, board string) (Board, error) {
	file := filepath.Join(root, board, "board.toml")
	b, err := os.ReadFile(file)
	if !name.MatchString(board) || errors.Is(err, fs.ErrNotExist) {
		names, err := List(root)
		if err != nil {
			return Board{}, err
		}
		return Board{}, fmt.Errorf("%w %q: there are %s", ErrUnknown, board, strings.Join(names, ", "))
	}
	if err != nil {
		return Board{}, fmt.Errorf("read board: %w", err)
	}
	parsed, err := Parse(b)
	if err != nil {
		return Board{}, fmt.Errorf("board %s: %s: %w", board, file, err)
	}
	parsed.Name, parsed.Dir = board, filepath.Dir(file)
	return parsed, nil
}

// Parse reads a board.toml.
func Parse(b []byte) (Board, error) {
	board := Board{Sizes: defaults}
	meta, err := toml.Decode(string(b), &board)
	var at toml.ParseError
	if errors.As(err, &at) {
		return Board{}, fmt.Errorf("line %d: %s", at.Position.Line, at.Message)
	}
	if err != nil {
		return Board{}, err
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return Board{}, fmt.Errorf("line %d: unknown key %s", line(b, unknown[0]), unknown[0])
	}
	if err := board.check(); err != nil {
		return Board{}, err
	}
	return board, nil
}

// DiskSize returns how many bytes the board's image has, as firmware/disk lays it out.
func (b Board) DiskSize() int64 {
	const tableCopy = 1 // MiB at the disk's end
	return disk.FirstPartition + (b.Sizes.ESP+2*b.Sizes.Slot+b.Sizes.Data+tableCopy)<<20
}

func (b Board) check() error {
	if b.Description == "" {
		return errors.New("description is missing")
	}
	if b.Arch != "arm64" {
		return fmt.Errorf("arch %q: want arm64, the only one there is", b.Arch)
	}
	for _, c := range b.CommandLine {
		if c > unicode.MaxASCII || unicode.IsControl(c) {
			return errors.New("command_line: want one line of ASCII")
		}
	}
	if err := b.Sizes.Check(); err != nil {
		return fmt.Errorf("sizes: %w", err)
	}
	for _, blob := range b.Blobs {
		if blob.File == "" {
			return errors.New("blob: file is missing")
		}
		if !filepath.IsLocal(blob.File) {
			return fmt.Errorf("blob %s: want a path inside of the board's folder or of the package", blob.File)
		}
		if blob.Offset < disk.TableEnd || blob.Offset >= disk.FirstPartition {
			return fmt.Errorf("blob %s: offset %d: want %d, behind the partition table, to %d, before the first partition",
				blob.File, blob.Offset, disk.TableEnd, disk.FirstPartition-1)
		}
		if strings.ContainsFunc(blob.Package, func(c rune) bool {
			return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789+-.", c)
		}) || strings.HasPrefix(blob.Package, "-") {
			return fmt.Errorf("blob %s: package %q is no name of a Debian package", blob.File, blob.Package)
		}
	}
	switch b.QEMU.Firmware {
	case "", qemu.UBoot, qemu.EDK2, qemu.SecureBoot:
		return nil
	}
	return fmt.Errorf("qemu.firmware %q: want %s, %s or %s", b.QEMU.Firmware, qemu.UBoot, qemu.EDK2, qemu.SecureBoot)
}

// line finds where a key stands: the library tells it for errors of syntax only.
func line(b []byte, key toml.Key) int {
	last := regexp.MustCompile(`^\s*\[*\s*(?:[\w.-]+\.)?["']?` + regexp.QuoteMeta(key[len(key)-1]) + `["']?\s*[]=.]`)
	for i, l := range strings.Split(string(b), "\n") {
		if last.MatchString(l) {
			return i + 1
		}
	}
	return 1
}
