// Package slots gives the update service what only process 1 may do: access to the slot that is not
// running, and the loader's decision which slot to start. Process 1 looks into no file of a slot;
// whether what was written may be installed, the service has found out, and the loader finds out again.
//
// The discipline of a write is Open (an empty file system: what was in the slot cannot be started any
// more), Seal (everything on the medium, and read back from there, not from memory), Arm (the loader's
// environment last).
package slots

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/boot"
	"cloudlink.local/gateway/internal/boot/bootenv"
	"cloudlink.local/gateway/internal/machine"
	"cloudlink.local/gateway/internal/release"
)

// A Keeper keeps the slots of the disk that the system was started from.
type Keeper struct {
	running bootenv.Slot
	device  func(label string) (path string, ok bool)

	dir string // where the other slot is mounted
	own string // where the running one is, read-only
	esp string // where the ESP is mounted meanwhile
	fs  fileSystem

	block, dev string // of sysfs, and device files
	stickDir   string // where USB sticks are mounted
	stickKinds map[string]string

	mu       sync.Mutex // guards what follows, and all work on the slots
	env      bootenv.Env
	access   machine.SlotAccess
	onTrial  bool     // this system, since its start
	readable bool     // the running slot is mounted
	sticks   []string // where they are mounted
}

// A fileSystem is FAT; tests run on kernels that do not know it.
type fileSystem struct {
	kind, esp, slot string // and the options of mounting
	format          func(w io.WriterAt, size int64, label string, id uint32) error
}

// New returns the keeper of the slots beside the running one. device finds a partition's device by its
// label, env is what the loader decided by, user owns the files of the slots, which are mounted below
// dir; the ESP is mounted at esp while it is written.
func New(running bootenv.Slot, device func(label string) (path string, ok bool), env bootenv.Env, dir, esp string, user int) (*Keeper, error) {
	if running == bootenv.None {
		return nil, errors.New("slots: the loader did not say which slot runs")
	}
	own, other := filepath.Join(dir, "running"), filepath.Join(dir, "other")
	if err := errors.Join(os.MkdirAll(esp, 0o700), os.MkdirAll(own, 0o755), os.MkdirAll(other, 0o755)); err != nil {
		return nil, fmt.Errorf("slots: %w", err)
	}
	return &Keeper{
		running: running, device: device, dir: other, own: own, esp: esp, env: env, access: machine.SlotClosed,
		onTrial: env.Trial == running && env.Confirmed != running,
		block:   "/sys/class/block", dev: "/dev", stickDir: filepath.Join(dir, "usb"), stickKinds: stickKinds(user),
		fs: fileSystem{
			kind: "vfat", esp: "umask=0077", format: format,
			slot: fmt.Sprintf("uid=%d,gid=%[1]d,umask=0077,errors=remount-ro", user),
		},
	}, nil
}

// Status tells how things are.
func (k *Keeper) Status() machine.Slots {
	k.mu.Lock()
	defer k.mu.Unlock()
	return machine.Slots{
		Running: string(k.running), Confirmed: string(k.env.Confirmed), Trial: string(k.env.Trial), Tries: k.env.Tries,
		OnTrial: k.onTrial, Dir: k.dir, OwnDir: k.own, Access: k.access, Sticks: slices.Clone(k.sticks),
	}
}

// OnTrial says whether the system that runs still has to be confirmed.
func (k *Keeper) OnTrial() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.onTrial
}

func (k *Keeper) label() string {
	if k.running == bootenv.A {
		return boot.SlotB
	}
	return boot.SlotA
}

// Open empties the other slot and lets the service write there.
func (k *Keeper) Open() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.onTrial {
		return errors.New("open slot: the other slot is what a failed trial goes back to: confirm this one first")
	}
	if err := k.close(); err != nil {
		return fmt.Errorf("open slot: %w", err)
	}
	// Nothing half-written is ever tried, nor taken for confirmed: after a fall-back the slot that is about
	// to be emptied is the one that the loader would start without a counter.
	if err := k.onlyRunning(); err != nil {
		return fmt.Errorf("open slot: %w", err)
	}
	err := k.withDevice(k.label(), func(f *os.File) error {
		size, err := f.Seek(0, io.SeekEnd)
		if err != nil {
			return err
		}
		return k.fs.format(f, size, k.label(), crc32.ChecksumIEEE([]byte(k.label())))
	})
	if err == nil {
		err = k.mount(k.label(), k.dir, 0)
	}
	if err != nil {
		return fmt.Errorf("open slot: %w", err)
	}
	k.access = machine.SlotWritable
	return nil
}

// Look lets the service read the other slot, from the medium.
func (k *Keeper) Look() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.seal("look into slot")
}

// Seal puts on the medium what was written, and lets the service read it back from there.
func (k *Keeper) Seal() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.access != machine.SlotWritable {
		return errors.New("seal slot: it is not open for writing")
	}
	return k.seal("seal slot")
}

func (k *Keeper) seal(what string) error {
	err := k.close()
	if err == nil {
		err = k.mount(k.label(), k.dir, unix.MS_RDONLY)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	k.access = machine.SlotReadable
	return nil
}

// Arm has the loader try the other slot so many times.
func (k *Keeper) Arm(tries int) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case tries < 1 || tries > bootenv.MaxTries:
		return fmt.Errorf("arm trial: %d tries: want 1 to %d", tries, bootenv.MaxTries)
	case k.onTrial:
		return errors.New("arm trial: this slot is on trial itself: confirm it first")
	case k.access != machine.SlotReadable:
		return errors.New("arm trial: what is in the slot has not been read back")
	}
	if err := k.close(); err != nil {
		return fmt.Errorf("arm trial: %w", err)
	}
	if err := k.write(bootenv.Env{Confirmed: k.running, Trial: k.running.Other(), Tries: tries}); err != nil {
		return fmt.Errorf("arm trial: %w", err)
	}
	return nil
}

// Confirm makes the system that runs the one that the loader starts from now on. A trial of the other
// slot that has not begun is called off.
func (k *Keeper) Confirm() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.onlyRunning(); err != nil {
		return fmt.Errorf("confirm slot: %w", err)
	}
	k.onTrial = false
	return nil
}

// Floor returns the oldest version that may be installed, as it is kept beside the loader's environment;
// "" for any.
func (k *Keeper) Floor() (floor string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	err = k.onESP(unix.MS_RDONLY, func() error {
		floor, err = k.readFloor()
		return err
	})
	if err != nil {
		return "", fmt.Errorf("read floor: %w", err)
	}
	return floor, nil
}

// RaiseFloor has nothing older than version installed from now on. It never goes down.
func (k *Keeper) RaiseFloor(version string) error {
	if err := release.CheckVersion(version); err != nil {
		return fmt.Errorf("raise floor: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	err := k.onESP(0, func() error {
		if old, err := k.readFloor(); err == nil && old != "" {
			if n, err := release.Compare(version, old); err != nil || n <= 0 {
				return err
			}
		}
		for _, name := range []string{bootenv.FloorBackup, bootenv.FloorFile} { // one of them is whole
			if err := bootenv.WriteFloor(filepath.Join(k.esp, name), version); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("raise floor to %s: %w", version, err)
	}
	return nil
}

// readFloor reads the higher of the two records. An error says that both that are there are damaged.
func (k *Keeper) readFloor() (floor string, err error) {
	for _, name := range []string{bootenv.FloorFile, bootenv.FloorBackup} {
		v, e := bootenv.ReadFloor(filepath.Join(k.esp, name))
		switch {
		case errors.Is(e, fs.ErrNotExist):
		case e != nil:
			err = e
		case floor == "":
			floor = v
		default:
			if n, _ := release.Compare(v, floor); n > 0 { // both have been checked
				floor = v
			}
		}
	}
	if floor != "" {
		return floor, nil
	}
	return "", err
}

// Close takes the other slot away from the service.
func (k *Keeper) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.close(); err != nil {
		return fmt.Errorf("close slot: %w", err)
	}
	return nil
}

// OpenRunning lets the service read the slot that runs, for good: nobody writes there.
func (k *Keeper) OpenRunning() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.readable {
		return nil
	}
	label := boot.SlotA
	if k.running == bootenv.B {
		label = boot.SlotB
	}
	if err := k.mount(label, k.own, unix.MS_RDONLY); err != nil {
		return fmt.Errorf("read running slot: %w", err)
	}
	k.readable = true
	return nil
}

func (k *Keeper) mount(label, dir string, flags uintptr) error {
	device, ok := k.device(label)
	if !ok {
		return fmt.Errorf("the disk has no %s", label)
	}
	if err := unix.Mount(device, dir, k.fs.kind, flags|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, k.fs.slot); err != nil {
		return fmt.Errorf("mount %s: %w", label, err)
	}
	return nil
}

// close unmounts the slot. Afterwards the medium has all that was written, and memory nothing of it.
func (k *Keeper) close() error {
	if k.access == machine.SlotClosed {
		return nil
	}
	if k.access == machine.SlotWritable {
		if err := syncfs(k.dir); err != nil {
			return fmt.Errorf("write %s to the medium: %w", k.label(), err)
		}
	}
	if err := boot.Unmount(k.dir); err != nil {
		return fmt.Errorf("unmount %s: %w", k.label(), err)
	}
	k.access = machine.SlotClosed
	return k.withDevice(k.label(), func(f *os.File) error {
		return unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0)
	})
}

// onlyRunning has the loader start the slot that runs, and try no other.
func (k *Keeper) onlyRunning() error {
	want := bootenv.Env{Confirmed: k.running}
	if k.env == want {
		return nil
	}
	return k.write(want)
}

// write puts an environment block into both of its places. The one that counts comes last: if the other
// cannot be written, nothing has changed. After an error nobody knows what the loader will read, and
// whatever is wanted next is written.
func (k *Keeper) write(e bootenv.Env) error {
	k.env = bootenv.Env{}
	err := k.onESP(0, func() error {
		for _, name := range []string{bootenv.Backup, bootenv.File} {
			if err := bootenv.WriteFile(filepath.Join(k.esp, name), e); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		k.env = e
	}
	return err
}

// onESP does something while the ESP is mounted. Afterwards the medium has what was written.
func (k *Keeper) onESP(flags uintptr, do func() error) (err error) {
	device, ok := k.device(boot.ESP)
	if !ok {
		return errors.New("the disk has no esp")
	}
	if err := unix.Mount(device, k.esp, k.fs.kind, flags|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, k.fs.esp); err != nil {
		return fmt.Errorf("mount esp: %w", err)
	}
	defer func() {
		if e := boot.Unmount(k.esp); err == nil && e != nil {
			err = fmt.Errorf("unmount esp: %w", e)
		}
		if err == nil && flags&unix.MS_RDONLY == 0 {
			err = k.withDevice(boot.ESP, (*os.File).Sync)
		}
	}()
	return do()
}

// withDevice does something with a partition's device, and sees to it that the medium has it.
func (k *Keeper) withDevice(label string, do func(*os.File) error) error {
	path, ok := k.device(label)
	if !ok {
		return fmt.Errorf("the disk has no %s", label)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := do(f); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return f.Sync()
}

func syncfs(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}
