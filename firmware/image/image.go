// Package image builds a board's firmware image: it calls everything that has a part in it, in order.
package image

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/firmware/bmap"
	"cloudlink.local/gateway/firmware/boards"
	"cloudlink.local/gateway/firmware/debian"
	"cloudlink.local/gateway/firmware/disk"
	"cloudlink.local/gateway/firmware/grub"
	"cloudlink.local/gateway/firmware/kernel"
	"cloudlink.local/gateway/firmware/keys"
	"cloudlink.local/gateway/firmware/notices"
	"cloudlink.local/gateway/firmware/sbom"
	"cloudlink.local/gateway/firmware/uki"
	"cloudlink.local/gateway/initramfs"
	"cloudlink.local/gateway/internal/boot/bootenv"
	"cloudlink.local/gateway/internal/release"
)

// Files of the output folder. The parts of a slot are what an update downloads.
const (
	Disk       = "cloudlink.img"
	SBOM       = "cloudlink.sbom.json"
	Lock       = "cloudlink.lock.json"
	Loader     = "grub.efi"
	Initramfs  = "initramfs.cpio.zst"
	UKI        = "linux.efi"
	Signature  = "linux.efi.sig"
	Manifest   = "manifest.json"
	stamp      = "inputs.sha256" // last to be written: with it the folder is whole
	kernelPath = "firmware/kernel/vmlinuz.efi"
	boardsPath = "board"
	lockPath   = "firmware/debian.lock"
)

// commandLine starts every kernel; a board may add to it. No console= here: the firmware's tables
// say which port is the console. Lockdown holds even root off the kernel.
//
// Without init= a kernel whose /init cannot be executed starts /bin/sh in its place: a root shell on the
// console of a machine that never goes back to its good slot. With gpt it reads the partition table's copy at
// the disk's end where a power cut has torn the first one.
const commandLine = "quiet lockdown=integrity init=/init gpt"

// systemd's EFI stub, which becomes the unified kernel image, and the package that has it.
const (
	stubPackage = "systemd-boot-efi"
	stubPath    = "usr/lib/systemd/boot/efi/linuxaa64.efi.stub"
)

// Options say what to build.
type Options struct {
	Root      string // the source tree
	Board     string
	Keys      string // folder of the key set; "" for the development keys, made if there are none
	Out       string // folder for the result; "" for build/BOARD
	Version   string // "" for one from git
	BuildTime time.Time
	Locked    bool   // refuse packages that are not in the lock
	Init      string // a static arm64 program that is the whole user space instead of ours
	Kernel    string // a kernel to try instead of the committed one
	Arguments string // added to the kernel's command line, after the board's
	Log       func(format string, args ...any)
}

// Build builds the image unless it is there already, and returns the folder it is in.
func Build(ctx context.Context, o Options) (string, error) {
	b, err := prepare(ctx, o)
	if err != nil {
		return "", err
	}
	unlock, err := b.lockCache()
	if err != nil {
		return "", err
	}
	defer unlock()
	if err := b.loadKeys(); err != nil {
		return "", err
	}
	inputs, err := b.inputs(ctx)
	if err != nil {
		return "", err
	}
	if old, err := os.ReadFile(filepath.Join(b.out, stamp)); err == nil && string(old) == inputs && b.complete() {
		b.Log("%s is up to date", filepath.Join(b.out, Disk))
		return b.out, nil
	}
	parent := filepath.Dir(b.out)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", err
	}
	b.tmp, err = os.MkdirTemp(parent, ".image-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(b.tmp)
	if err := b.build(ctx); err != nil {
		return "", err
	}
	if err := b.publish(inputs); err != nil {
		return "", err
	}
	return b.out, nil
}

// A builder is one build under way.
type builder struct {
	Options
	board   boards.Board
	keys    *keys.Set
	release release.Release
	kernel  string
	cache   string
	out     string
	tmp     string // the output folder to be
	work    string // in tmp, for what is not kept

	packages   map[string]debian.Package // that went into the image
	debs       map[string]string         // their files
	components []sbom.Component          // all that is in the image
}

// prepare checks all that can be checked before anything is made.
func prepare(ctx context.Context, o Options) (*builder, error) {
	b := &builder{
		Options: o, cache: filepath.Join(o.Root, "build", "cache"), out: o.Out,
		packages: map[string]debian.Package{}, debs: map[string]string{},
	}
	var err error
	if b.board, err = boards.Load(filepath.Join(o.Root, boardsPath), o.Board); err != nil {
		return nil, err
	}
	b.board.CommandLine = strings.TrimSpace(b.board.CommandLine + " " + o.Arguments)
	if b.out == "" {
		b.out = filepath.Join(o.Root, "build", o.Board)
	}
	if err := b.checkOut(); err != nil {
		return nil, err
	}
	if b.kernel = o.Kernel; b.kernel == "" {
		b.kernel = filepath.Join(o.Root, kernelPath)
	}
	if err := checkKernel(b.kernel, o.Kernel == ""); err != nil {
		return nil, err
	}
	if o.Init != "" {
		if err := checkInit(o.Init); err != nil {
			return nil, err
		}
	}
	b.release = release.Release{Product: release.Product, Board: o.Board, Version: o.Version, BuildTime: o.BuildTime}
	if b.release.Version == "" {
		b.release.Version = gitVersion(ctx, o.Root)
	}
	if b.release.BuildTime.IsZero() {
		if b.release.BuildTime, err = gitTime(ctx, o.Root); err != nil {
			return nil, err
		}
	}
	b.release.BuildTime = b.release.BuildTime.UTC().Truncate(time.Second)
	if err := release.CheckVersion(b.release.Version); err != nil {
		return nil, err
	}
	return b, nil
}

// checkKernel wants an EFI program and, if it is the committed kernel, the one that its lock describes.
func checkKernel(file string, committed bool) error {
	content, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is missing: make kernel builds it", file)
	}
	if err != nil {
		return fmt.Errorf("read kernel: %w", err)
	}
	if _, err := uki.Sections(content); err != nil {
		return fmt.Errorf("kernel %s: %w", file, err)
	}
	if !committed {
		return nil
	}
	l, err := kernel.ReadLock(filepath.Dir(file))
	if err != nil {
		return err
	}
	if fmt.Sprintf("%x", sha256.Sum256(content)) != l.SHA256 {
		return fmt.Errorf("%s is not the kernel that kernel.lock beside it describes: make kernel builds that one", file)
	}
	return nil
}

// checkInit wants a program that runs without anything else.
func checkInit(file string) error {
	const cure = "build it with CGO_ENABLED=0 GOARCH=arm64 go build"
	f, err := elf.Open(file)
	if err != nil {
		return fmt.Errorf("init: %w: %s", err, cure)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("init: %s is not static: %s", file, cure)
		}
	}
	if f.Machine != elf.EM_AARCH64 {
		return fmt.Errorf("init: %s is not for arm64: %s", file, cure)
	}
	return nil
}

// checkOut refuses a folder that holds other things: it may be somebody's home.
func (b *builder) checkOut() error {
	entries, err := os.ReadDir(b.out)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("output folder: %w", err)
	}
	if len(entries) == 0 || b.Out == "" {
		return nil
	}
	for _, e := range entries {
		if e.Name() == stamp || e.Name() == Disk {
			return nil
		}
	}
	return fmt.Errorf("output folder %s holds other files: name a new or empty one", b.out)
}

// lockCache keeps two builds in one tree apart: they share the cache.
func (b *builder) lockCache() (unlock func(), err error) {
	if err := os.MkdirAll(b.cache, 0o755); err != nil {
		return nil, err
	}
	d, err := os.Open(b.cache)
	if err != nil {
		return nil, err
	}
	if unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		b.Log("waiting for another build in this tree to end")
		for {
			if err = unix.Flock(int(d.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
				break
			}
		}
		if err != nil {
			d.Close()
			return nil, fmt.Errorf("lock %s: %w", b.cache, err)
		}
	}
	return func() { d.Close() }, nil
}

// loadKeys reads the key set. Without -keys it is the development keys, which are made when needed.
func (b *builder) loadKeys() error {
	dir := b.Keys
	if dir == "" {
		dir = filepath.Join(b.Root, "build", "keys")
		if _, err := os.Stat(filepath.Join(dir, keys.Info)); errors.Is(err, fs.ErrNotExist) {
			b.Log("making development keys in %s (for trying out only: the image says so)", dir)
			if err := keys.Init(dir, keys.Options{Kind: release.Development, Now: time.Now()}); err != nil {
				return err
			}
		}
	}
	var err error
	if b.keys, err = keys.Load(dir); err != nil {
		return err
	}
	b.release.Keys = b.keys.Kind
	return nil
}

// build makes every file of the output folder in b.tmp.
func (b *builder) build(ctx context.Context) error {
	b.Log("building %s %s with %s keys", b.board.Name, b.release.Version, b.keys.Kind)
	b.work = filepath.Join(b.tmp, ".work")
	if err := os.Mkdir(b.work, 0o755); err != nil {
		return err
	}
	if err := b.fetch(ctx); err != nil {
		return err
	}
	data := filepath.Join(b.work, "data.ext4")
	if err := disk.Data(ctx, data, b.board.Sizes.Data, b.board.Name, b.release.BuildTime); err != nil {
		return fmt.Errorf("make data: %w", err)
	}
	if err := b.initramfs(ctx); err != nil {
		return fmt.Errorf("make initramfs: %w", err)
	}
	slot, err := b.slot()
	if err != nil {
		return err
	}
	esp, err := b.esp(ctx)
	if err != nil {
		return err
	}
	blobs, err := b.blobs()
	if err != nil {
		return err
	}
	b.Log("writing the disk image")
	err = disk.Write(ctx, filepath.Join(b.tmp, Disk), b.work, disk.Image{
		Board: b.board.Name, Time: b.release.BuildTime, Sizes: b.board.Sizes, Blobs: blobs,
		ESP: esp, SlotA: slot, SlotB: slot, // two good slots from the first day: one may go bad
		Data: data,
	})
	if err != nil {
		return fmt.Errorf("write disk image: %w", err)
	}
	if err := bmap.Write(ctx, filepath.Join(b.tmp, Disk)); err != nil {
		return err
	}
	if err := b.describe(ctx); err != nil {
		return err
	}
	return os.RemoveAll(b.work)
}

// initramfs makes the initramfs: ours, or just the one program that Options.Init names.
func (b *builder) initramfs(ctx context.Context) error {
	out := filepath.Join(b.tmp, Initramfs)
	if b.Init != "" {
		return initramfs.BuildBare(ctx, b.Init, out)
	}
	// A device with a damaged data partition writes this one in its place. It is the smallest one:
	// the device grows it to whatever room there is.
	small := filepath.Join(b.work, "empty.ext4")
	if err := disk.Data(ctx, small, 32, b.board.Name, b.release.BuildTime); err != nil {
		return err
	}
	empty, err := os.ReadFile(small)
	if err != nil {
		return err
	}
	if empty, err = compress(empty); err != nil {
		return err
	}
	var debs []sbom.Deb
	for name, p := range b.packages {
		debs = append(debs, sbom.Deb{Package: p, File: b.debs[name]})
	}
	if b.components, err = sbom.Collect(ctx, b.Root, debs); err != nil {
		return err
	}
	notices, err := notices.Write(b.components)
	if err != nil {
		return err
	}
	return initramfs.Build(ctx, initramfs.Options{
		Release: b.release, UpdateRoot: b.keys.Updates.Factory(), EmptyData: empty, Notices: notices,
		Out: out, WorkDir: filepath.Join(b.cache, "initramfs"), Log: b.Log,
	})
}

func compress(data []byte) ([]byte, error) {
	var buf bytes.Buffer
	z, err := gzip.NewWriterLevel(&buf, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := z.Write(data); err != nil {
		return nil, err
	}
	err = z.Close()
	return buf.Bytes(), err
}

// slot makes the files of a slot: unified kernel image, its signature and the manifest.
func (b *builder) slot() (map[string][]byte, error) {
	stub, err := debian.Files(b.debs[stubPackage], stubPath)
	if err != nil {
		return nil, err
	}
	kernel, err := os.ReadFile(b.kernel)
	if err != nil {
		return nil, err
	}
	cpio, err := os.ReadFile(filepath.Join(b.tmp, Initramfs))
	if err != nil {
		return nil, err
	}
	osrel := fmt.Sprintf("ID=%s\nNAME=\"CloudLink Gateway\"\nVERSION_ID=%q\nVARIANT_ID=%s\n",
		release.Product, b.release.Version, b.board.Name)
	linux, err := uki.Build(stub[stubPath], []uki.Section{
		{Name: ".osrel", Data: []byte(osrel)},
		{Name: ".cmdline", Data: []byte(strings.TrimSpace(commandLine + " " + b.board.CommandLine))},
		{Name: ".linux", Data: kernel},
		{Name: ".initrd", Data: cpio},
	})
	if err != nil {
		return nil, fmt.Errorf("make %s: %w", UKI, err)
	}
	if linux, err = b.secure(linux); err != nil {
		return nil, fmt.Errorf("sign %s: %w", UKI, err)
	}
	if room := b.board.Sizes.Slot << 20; int64(len(linux))*3 > room*2 {
		return nil, fmt.Errorf("%s has %d bytes, too many for a slot of %d MiB: an update must fit beside it", UKI, len(linux), b.board.Sizes.Slot)
	}
	signature, err := b.keys.Boot.Sign(linux, b.release.BuildTime)
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", UKI, err)
	}
	manifest := release.Manifest{Release: b.release}
	files := map[string][]byte{UKI: linux, Signature: signature}
	for _, name := range []string{UKI, Signature} {
		manifest.Files = append(manifest.Files, release.ManifestFile{
			Name: name, Size: int64(len(files[name])), SHA256: fmt.Sprintf("%x", sha256.Sum256(files[name])),
		})
	}
	if files[Manifest], err = json.MarshalIndent(manifest, "", "  "); err != nil {
		return nil, err
	}
	files[Manifest] = append(files[Manifest], '\n')
	return files, b.write(files)
}

// esp makes the files of the EFI system partition.
func (b *builder) esp(ctx context.Context) (map[string][]byte, error) {
	modules, err := b.grubModules()
	if err != nil {
		return nil, err
	}
	loader, err := grub.Build(ctx, modules, b.keys.BootPublic)
	if err != nil {
		return nil, err
	}
	if loader, err = b.secure(loader); err != nil {
		return nil, fmt.Errorf("sign %s: %w", Loader, err)
	}
	env, err := bootenv.Env{Confirmed: bootenv.A}.Encode()
	if err != nil {
		return nil, err
	}
	esp := map[string][]byte{
		"EFI/BOOT/BOOTAA64.EFI": loader,
		bootenv.File:            env,
		bootenv.Backup:          env,
	}
	if b.board.SecureBoot {
		esp["cloudlink/"+keys.SecureBootDER] = b.keys.Certificate.Raw // to be enrolled at the firmware's setup screen
	}
	return esp, b.write(map[string][]byte{Loader: loader})
}

// secure signs an EFI program where the board may have Secure Boot.
func (b *builder) secure(program []byte) ([]byte, error) {
	if !b.board.SecureBoot {
		return program, nil
	}
	return uki.Sign(program, b.keys.SecureBoot, b.keys.Certificate)
}

// blobs reads the board's blobs.
func (b *builder) blobs() ([]disk.Blob, error) {
	var blobs []disk.Blob
	for _, blob := range b.board.Blobs {
		var data []byte
		var err error
		if blob.Package == "" {
			data, err = os.ReadFile(filepath.Join(b.board.Dir, blob.File))
		} else {
			var files map[string][]byte
			files, err = debian.Files(b.debs[blob.Package], filepath.ToSlash(blob.File))
			data = files[filepath.ToSlash(blob.File)]
		}
		if err != nil {
			return nil, fmt.Errorf("board %s: blob: %w", b.board.Name, err)
		}
		blobs = append(blobs, disk.Blob{Name: blob.File, Offset: blob.Offset, Data: data})
	}
	return blobs, nil
}

// write writes files of the output folder.
func (b *builder) write(files map[string][]byte) error {
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(b.tmp, name), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// publish moves the finished files to the output folder, the stamp last: a folder without it is not
// whole and is built again. Other things in the folder (a running machine's disk) stay.
func (b *builder) publish(inputs string) error {
	if err := os.MkdirAll(b.out, 0o755); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(b.out, stamp)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	files, err := os.ReadDir(b.tmp)
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := os.Rename(filepath.Join(b.tmp, f.Name()), filepath.Join(b.out, f.Name())); err != nil {
			return err
		}
	}
	tmp := filepath.Join(b.tmp, stamp)
	if err := os.WriteFile(tmp, []byte(inputs), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(b.out, stamp))
}

// complete says whether the output folder has every file.
func (b *builder) complete() bool {
	files := []string{Disk, Disk + ".gz", Disk + ".bmap", Lock, Loader, Initramfs, UKI, Signature, Manifest}
	if b.Init == "" {
		files = append(files, SBOM)
	}
	for _, f := range files {
		if _, err := os.Stat(filepath.Join(b.out, f)); err != nil {
			return false
		}
	}
	return true
}
