package update

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/minio/selfupdate"
	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/machine"
	"cloudlink.local/gateway/internal/release"
	"cloudlink.local/gateway/internal/safefile"
	"cloudlink.local/gateway/internal/update/bundle"
)

// Slots is what process 1 does for this service: a machine.Client.
type Slots interface {
	Slots(context.Context) (machine.Slots, error)
	OpenSlot(context.Context) (machine.Slots, error)
	SealSlot(context.Context) (machine.Slots, error)
	LookSlot(context.Context) (machine.Slots, error)
	OpenRunning(context.Context) (machine.Slots, error)
	CloseSlot(context.Context) (machine.Slots, error)
	ArmSlot(ctx context.Context, tries int) (machine.Slots, error)
	ConfirmSlot(context.Context) (machine.Slots, error)
	Floor(context.Context) (string, error)
	RaiseFloor(ctx context.Context, version string) error
	OpenSticks(context.Context) (machine.Slots, error)
	CloseSticks(context.Context) (machine.Slots, error)
}

// verify reads an archive to its end and compares everything in it with what was signed.
func verify(path string, t bundle.Target) error {
	f, err := safefile.Open(path)
	if err != nil {
		return failure(err, MediumFailed)
	}
	defer f.Close()
	return each(f, t, func(f release.ManifestFile, r io.Reader) error {
		if f.Name == bundle.Manifest {
			return manifestIsOf(t, r)
		}
		_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r, make([]byte, copySize))
		return err
	})
}

// verifyCompared is verify for an archive whose digest was compared as it came: what its manifest says is
// left.
func verifyCompared(path string, t bundle.Target) error {
	return extents(path, t, func(e bundle.Extent, r *io.SectionReader) error {
		if e.Name != bundle.Manifest {
			return nil
		}
		return orNil(manifestIsOf(t, r), WrongFile)
	})
}

func manifestIsOf(t bundle.Target, r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	return bundle.CheckManifest(b, t)
}

// each calls do for every file of an archive, which do reads with its digest compared at its end.
func each(r io.Reader, t bundle.Target, do func(release.ManifestFile, io.Reader) error) error {
	archive := bundle.NewSlotReader(r, t)
	for {
		entry, err := archive.Next()
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = do(entry, archive)
		}
		if err != nil {
			return failure(err, WrongFile)
		}
	}
}

// extents calls do for every file of an archive that has been verified.
func extents(path string, t bundle.Target, do func(bundle.Extent, *io.SectionReader) error) error {
	f, err := safefile.Open(path)
	if err != nil {
		return failure(err, MediumFailed)
	}
	defer f.Close()
	list, _ := bundle.Layout(t.Slot)
	for _, e := range list {
		if err := do(e, io.NewSectionReader(f, e.Offset, e.Size)); err != nil {
			return err
		}
	}
	return nil
}

// write writes a verified archive into the slot that is not running: the system through selfupdate,
// with what it leaves to its caller, and its signature last, without which the loader starts nothing.
func write(ctx context.Context, slots Slots, path string, t bundle.Target) error {
	slot, err := slots.OpenSlot(ctx)
	if err != nil {
		return failure(err, MediumFailed)
	}
	var small []namedBytes
	err = extents(path, t, func(e bundle.Extent, r *io.SectionReader) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if e.Name == bundle.UKI {
			return writeUKI(slot.Dir, r)
		}
		b, err := io.ReadAll(r)
		small = append(small, namedBytes{e.Name, b})
		return orNil(err, MediumFailed)
	})
	for _, f := range small {
		if err == nil {
			err = orNil(writeSynced(filepath.Join(slot.Dir, f.name), bytes.NewReader(f.data)), MediumFailed)
		}
	}
	if err != nil {
		return errors.Join(err, closeSlot(slots))
	}
	return readBack(ctx, slots, t.Slot)
}

type namedBytes struct {
	name string
	data []byte
}

func closeSlot(slots Slots) error {
	_, err := slots.CloseSlot(context.Background()) // whatever ended the rest
	return err
}

// writeUKI has selfupdate write the system, which is a part of a file. It syncs nothing and hears of no
// error of closing: that is made up for before its renames. That the medium has what was signed is found
// out when the slot has been unmounted, before anything is armed.
func writeUKI(dir string, r *io.SectionReader) error {
	target := filepath.Join(dir, bundle.UKI)
	if err := os.WriteFile(target, nil, 0o600); err != nil { // it replaces a file, and makes none
		return failure(err, MediumFailed)
	}
	whole, unmap, err := mapped(r)
	if err != nil {
		return failure(err, MediumFailed)
	}
	options := selfupdate.Options{TargetPath: target, TargetMode: 0o600, Patcher: all(whole)}
	err = errors.Join(selfupdate.PrepareAndCheckBinary(nil, options), unmap())
	if err != nil {
		return failure(err, MediumFailed)
	}
	fresh := filepath.Join(dir, "."+bundle.UKI+".new")
	if err := syncFile(fresh); err != nil {
		return failure(err, MediumFailed)
	}
	if err := selfupdate.CommitBinary(options); err != nil {
		return failure(err, MediumFailed)
	}
	return orNil(syncFile(dir), MediumFailed)
}

// All is the patch that is all of the new file. Without a patch selfupdate reads into memory of its own,
// which grows, and is copied, in dozens of steps.
type all []byte

// Patch is that of selfupdate.Patcher.
func (a all) Patch(_ io.Reader, to io.Writer, _ io.Reader) error {
	if b, ok := to.(*bytes.Buffer); ok {
		*b = *bytes.NewBuffer(a)
		return nil
	}
	_, err := to.Write(a)
	return err
}

// mapped is a part of a file as the kernel has it in memory, until unmap is called. It is for system calls
// alone: where the medium fails, they return an error, and whoever else touches it dies.
func mapped(r *io.SectionReader) (data []byte, unmap func() error, err error) {
	from, offset, n := r.Outer()
	file, ok := from.(*os.File)
	if !ok || n == 0 {
		return nil, nil, fmt.Errorf("map %d bytes of %T: not a file", n, from)
	}
	before := offset % int64(os.Getpagesize())
	pages, err := unix.Mmap(int(file.Fd()), offset-before, int(before+n), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, os.NewSyscallError("mmap", err)
	}
	return pages[before:], func() error { return unix.Munmap(pages) }, nil
}

// orNil is failure, but nil stays nil.
func orNil(err error, otherwise Reason) error {
	if err == nil {
		return nil
	}
	return failure(err, otherwise)
}

// readBack has the medium give back what was written.
func readBack(ctx context.Context, slots Slots, files []release.ManifestFile) error {
	slot, err := slots.SealSlot(ctx)
	if err != nil {
		return failure(err, MediumFailed)
	}
	return holds(slot.Dir, files)
}

// holds says whether a folder has just these files.
func holds(dir string, files []release.ManifestFile) error {
	for _, f := range files {
		if err := same(filepath.Join(dir, f.Name), f); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return failure(err, MediumFailed)
	}
	for _, e := range entries {
		if !slices.ContainsFunc(files, func(f release.ManifestFile) bool { return f.Name == e.Name() }) {
			return fail(ReadBackDiffer, fmt.Errorf("the slot has a file %q that nobody wrote", e.Name()))
		}
	}
	return nil
}

// same says whether the file at path is f, as the medium has it.
func same(path string, f release.ManifestFile) error {
	file, err := openMedium(path)
	if err != nil {
		return failure(err, MediumFailed)
	}
	defer file.Close()
	n, sum, err := digest(file)
	if err != nil {
		return failure(err, MediumFailed)
	}
	if n != f.Size || sum != f.SHA256 {
		return fail(ReadBackDiffer, fmt.Errorf("%s: %d bytes were written and %d others are read back", f.Name, f.Size, n))
	}
	return nil
}

// writeSynced writes what r has to the medium: a restart does not lose it.
func writeSynced(path string, r io.Reader) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// look reads which system the slot that is not running holds, and checks it against its own manifest.
func look(ctx context.Context, slots Slots) (release.Manifest, error) {
	slot, err := slots.LookSlot(ctx)
	if err != nil {
		return release.Manifest{}, failure(err, NothingThere)
	}
	b, err := safefile.Read(filepath.Join(slot.Dir, bundle.Manifest), 1<<20)
	if err != nil {
		return release.Manifest{}, fail(NothingThere, err)
	}
	m, err := release.ParseManifest(b)
	if err != nil {
		return m, fail(NothingThere, err)
	}
	for _, f := range m.Files {
		if err := same(filepath.Join(slot.Dir, f.Name), f); err != nil {
			return m, err
		}
	}
	return m, nil
}
