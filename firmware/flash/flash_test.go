package flash

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/firmware/bmap"
)

const (
	imageSize = 24 << 20
	diskSize  = 32 << 20
	old       = 0xA5 // what the disk is full of before
)

// makeImage makes an image with one partition at 16 MiB, a loader's blob before it, and its block map.
func makeImage(t *testing.T) (image, blockMap string) {
	t.Helper()
	image = filepath.Join(t.TempDir(), "cloudlink.img")
	b := make([]byte, imageSize)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(b[32<<10:][:100_000])
	r.Read(b[16<<20:][:3<<20])
	if err := os.WriteFile(image, b, 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "label: gpt\nstart=16MiB, size=4MiB, name=esp\n", "sfdisk", "-q", image)
	return image, mapImage(t, image)
}

func mapImage(t *testing.T, image string) string {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := bmap.Create(f, imageSize)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(image+".bmap", m.Encode(), 0o600); err != nil {
		t.Fatal(err)
	}
	return image + ".bmap"
}

// loop makes a disk of size bytes, full of old ones, and returns the device and the file behind it.
func loop(t *testing.T, size int, flags ...string) (dev, file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, bytes.Repeat([]byte{old}, size), 0o600); err != nil {
		t.Fatal(err)
	}
	dev = strings.TrimSpace(run(t, "", "losetup", append(flags, "-f", "--show", file)...))
	t.Cleanup(func() { run(t, "", "losetup", "-d", dev) })
	return dev, file
}

func run(t *testing.T, input, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s (scripts/setup installs it; loop devices need root): %v\n%s", name, err, out)
	}
	return string(out)
}

// refused asserts that nothing was written and that the reason names every one of the words.
func refused(t *testing.T, err error, file string, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("it was written")
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the reason says nothing of %q: %v", word, err)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("the reason has several lines: %v", err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Count(b, []byte{old}) != len(b) {
		t.Error("the disk was written to")
	}
}

var yes = Options{Yes: true, Out: io.Discard}

func TestWritesAndChecks(t *testing.T) {
	image, blockMap := makeImage(t)
	dev, file := loop(t, diskSize)
	link := filepath.Join(t.TempDir(), "by-id")
	if err := os.Symlink(dev, link); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	name := filepath.Base(dev)
	if err := Write(t.Context(), image, blockMap, link, Options{In: strings.NewReader(name + "\n"), Out: &said}); err != nil {
		t.Fatal(err)
	}
	for _, words := range []string{dev + ": ", "33.6 MB", "Type " + name + " ", "writing: 100 %", "reading back: 100 %", "Next: "} {
		if !strings.Contains(said.String(), words) {
			t.Errorf("it never says %q:\n%s", words, &said)
		}
	}

	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got[:20<<20], want[:20<<20]) {
		t.Error("head and partition are not the image's")
	}
	if table := 33 * sectorSize; !bytes.Equal(got[imageSize-table:imageSize], want[imageSize-table:]) {
		t.Error("the backup of the partition table is not the image's")
	}
	if slices.Contains(got[diskSize-tail:], old) {
		t.Error("the old disk's last bytes are still there")
	}
	if got[21<<20] != old || got[imageSize] != old {
		t.Error("blocks were written that nothing needs")
	}
}

func TestAFlippedBitIsFound(t *testing.T) {
	image, blockMap := makeImage(t)
	dev, _ := loop(t, diskSize)
	if err := Write(t.Context(), image, blockMap, dev, yes); err != nil {
		t.Fatal(err)
	}
	src, m, err := open(image, blockMap)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := os.OpenFile(dev, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	w := writer{src: src, dst: dst, m: m, out: io.Discard}
	if err := w.verify(t.Context()); err != nil {
		t.Fatal(err)
	}
	at := int64(17 << 20)
	b := make([]byte, 1)
	if _, err := dst.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := dst.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
	if err := w.verify(t.Context()); err == nil || !strings.Contains(err.Error(), "does not hold what was written") {
		t.Errorf("a flipped bit: %v", err)
	}
}

func TestAnImageThatIsNotItsMapsIsNotPassedOff(t *testing.T) {
	image, blockMap := makeImage(t)
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("changed"), 18<<20); err != nil {
		t.Fatal(err)
	}
	dev, _ := loop(t, diskSize)
	err = Write(t.Context(), image, blockMap, dev, yes)
	if err == nil || !strings.Contains(err.Error(), "build it again") {
		t.Errorf("error %v", err)
	}
	b, err := os.ReadFile(dev)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) == 0 || bytes.Contains(b[:1<<20], []byte("EFI PART")) {
		t.Error("the disk has a partition table all the same")
	}

	for _, c := range []struct {
		what   string
		damage func() error
	}{
		{"the block map ends early", func() error { return os.Truncate(blockMap, 500) }},
		{"the image has another size", func() error { return errors.Join(os.Truncate(image, imageSize-1), os.WriteFile(blockMap, nil, 0o600)) }},
		{"the image is gone", func() error { return os.Remove(image) }},
		{"the block map is gone", func() error { return os.Remove(blockMap) }},
	} {
		if err := c.damage(); err != nil {
			t.Fatal(err)
		}
		dev, file := loop(t, diskSize)
		t.Log(c.what)
		refused(t, Write(t.Context(), image, blockMap, dev, yes), file, "build")
	}
}

func TestAnInterruptedDiskIsEmpty(t *testing.T) {
	image, blockMap := makeImage(t)
	dev, file := loop(t, diskSize)
	ctx, cancel := context.WithCancel(t.Context())
	err := Write(ctx, image, blockMap, dev, Options{Yes: true, Out: writerFunc(func(b []byte) {
		if bytes.HasPrefix(b, []byte("writing: 75 %")) {
			cancel()
		}
	})})
	if err == nil || !strings.Contains(err.Error(), "run the same command again") {
		t.Errorf("error %v", err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(b[:1<<20], func(c byte) bool { return c != 0 }) {
		t.Error("the disk begins with something")
	}
}

type writerFunc func([]byte)

func (f writerFunc) Write(b []byte) (int, error) { f(b); return len(b), nil }

func TestAnInterruptEndsTheQuestion(t *testing.T) {
	image, blockMap := makeImage(t)
	dev, file := loop(t, diskSize)
	silent, typist := io.Pipe()
	defer typist.Close() // ends the read of the answer
	ctx, cancel := context.WithCancel(t.Context())
	err := Write(ctx, image, blockMap, dev, Options{In: silent, Out: writerFunc(func(b []byte) {
		if bytes.Contains(b, []byte("to go on: ")) {
			cancel()
		}
	})})
	refused(t, err, file, "interrupted", dev+" is as it was")
}

func TestCheckAllowsAFreeDisk(t *testing.T) {
	dev, file := loop(t, diskSize)
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := Check(dev, imageSize); err != nil {
		t.Error(err)
	}
	if after, err := os.ReadFile(file); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the disk was written to (%v)", err)
	}
}

// Whatever stands in the way is told before the image is built, and again before it is written.
func TestRefusals(t *testing.T) {
	image, blockMap := makeImage(t)
	try := func(dev string) error {
		t.Helper()
		early, late := Check(dev, imageSize), Write(t.Context(), image, blockMap, dev, yes)
		if early == nil || late == nil || early.Error() != late.Error() {
			t.Errorf("before the build: %v; before writing: %v", early, late)
		}
		return late
	}

	t.Run("another answer", func(t *testing.T) {
		dev, file := loop(t, diskSize)
		for _, answer := range []string{"", "yes\n", "loop\n"} {
			err := Write(t.Context(), image, blockMap, dev, Options{In: strings.NewReader(answer), Out: io.Discard})
			refused(t, err, file, dev+" is as it was")
		}
	})
	t.Run("no such disk", func(t *testing.T) {
		_, file := loop(t, diskSize)
		refused(t, try("/dev/nonesuch"), file, "no disk /dev/nonesuch", "lsblk")
	})
	t.Run("a file", func(t *testing.T) {
		_, file := loop(t, diskSize)
		refused(t, try(file), file, "is not a disk", "lsblk")
	})
	t.Run("too small", func(t *testing.T) {
		dev, file := loop(t, imageSize-1<<20)
		refused(t, try(dev), file, "too small", "24.1 MB", "25.2 MB")
	})
	t.Run("write-protected", func(t *testing.T) {
		dev, file := loop(t, diskSize, "-r")
		refused(t, try(dev), file, "write-protected", "lock")
	})
	t.Run("large sectors", func(t *testing.T) {
		dev, file := loop(t, diskSize, "-b", "4096")
		refused(t, try(dev), file, "4096", "another disk")
	})
	t.Run("open elsewhere", func(t *testing.T) {
		dev, file := loop(t, diskSize)
		f, err := os.OpenFile(dev, os.O_RDWR|unix.O_EXCL, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		refused(t, try(dev), file, "in use by another program", "lsof")
	})
	t.Run("a partition", func(t *testing.T) {
		dev, file := loop(t, diskSize)
		addPartition(t, dev)
		refused(t, try(dev+"p1"), file, "is a partition", "name its disk, "+dev)
	})
	t.Run("mounted", func(t *testing.T) {
		dev, _ := loop(t, diskSize)
		run(t, "", "mke2fs", "-q", dev)
		place := mountOn(t, dev)
		if err := try(dev); err == nil || !strings.Contains(err.Error(), "umount "+place) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("a mounted partition", func(t *testing.T) {
		dev, _ := loop(t, diskSize)
		addPartition(t, dev)
		run(t, "", "mke2fs", "-q", dev+"p1")
		place := mountOn(t, dev+"p1")
		if err := try(dev); err == nil || !strings.Contains(err.Error(), "umount "+place) {
			t.Errorf("error %v", err)
		}
	})
}

// addPartition tells the kernel of a partition on its own: not every kernel reads tables itself.
func addPartition(t *testing.T, dev string) {
	t.Helper()
	run(t, "", "addpart", dev, "1", "2048", "16384")
	t.Cleanup(func() { run(t, "", "delpart", dev, "1") })
}

func mountOn(t *testing.T, dev string) string {
	t.Helper()
	place := filepath.Join(t.TempDir(), "a place")
	if err := os.Mkdir(place, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(dev, place, "ext2", 0, ""); err != nil {
		t.Fatalf("mount %s: %v", dev, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(place, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return place
}

// What this machine has no example of is told by files made up for it.
func TestRefusalsOfDisksThatASystemUses(t *testing.T) {
	dev, file := loop(t, diskSize)
	var st unix.Stat_t
	if err := unix.Stat(dev, &st); err != nil {
		t.Fatal(err)
	}
	id := number(st.Rdev)

	for _, c := range []struct {
		what          string
		mounts, swaps string
		sys           []string // files
		words         []string
	}{
		{"the root file system", "22 1 " + id + " / / rw - ext4 /dev/root rw\n", "", nil, []string{"runs from (/ is on it)", "lsblk"}},
		{"/boot on a partition", "22 1 9:99 / /boot/efi rw - vfat /dev/x rw\n", "", []string{"part1/partition=1", "part1/dev=9:99"}, []string{"runs from (/boot/efi"}},
		{"btrfs, with a number of its own", "22 1 0:44 / /media/x rw - btrfs " + dev + " rw\n", "", nil, []string{"umount /media/x"}},
		{"a name with a blank", "22 1 " + id + " / /media/my\\040card rw - ext4 " + dev + " rw\n", "", nil, []string{"umount /media/my card"}},
		{"swap", "", "Filename Type Size Used Priority\n" + dev + " partition 1 0 -2\n", nil, []string{"is swap", "swapoff "}},
		{"LVM on a partition", "", "", []string{"part1/partition=1", "part1/dev=9:99", "part1/holders/dm-0="}, []string{"/dev/part1 is part of dm-0"}},
		{"a volume", "", "", []string{"dm/name=root"}, []string{"volume made of other disks"}},
		{"an empty reader", "", "", []string{"size=0"}, []string{"empty", "put a card"}},
	} {
		t.Run(c.what, func(t *testing.T) {
			dir := t.TempDir()
			h := host{dir, filepath.Join(dir, "mountinfo"), filepath.Join(dir, "swaps")}
			sys := filepath.Join("dev/block", id)
			files := []string{"mountinfo=" + c.mounts, "swaps=" + c.swaps}
			for _, f := range append([]string{"dev=" + id, "ro=0", "size=65536", "queue/logical_block_size=512"}, c.sys...) {
				files = append(files, filepath.Join(sys, f))
			}
			for _, f := range files {
				name, content, _ := strings.Cut(f, "=")
				name = filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			_, err := h.inspect(dev, imageSize)
			refused(t, err, file, c.words...)
		})
	}
}
