package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/boot/bootenv"
)

// A Loader is what the boot loader decides by, as it was found at boot.
type Loader struct {
	Env      bootenv.Env
	Repaired bool // a copy of the environment block was torn or missing
}

// CheckLoader reads both copies of the environment block from the ESP on device, mounted at dir
// meanwhile, and makes them whole: from each other or, both lost, from the slot that booted.
func CheckLoader(device, dir string, booted bootenv.Slot) (l Loader, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("check boot environment: %w", err)
		}
	}()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return l, err
	}
	const options = "umask=0077"
	if err := unix.Mount(device, dir, "vfat", noExec|unix.MS_RDONLY, options); err != nil {
		return l, fmt.Errorf("mount esp: %w", err)
	}
	defer func() {
		if e := Unmount(dir); err == nil && e != nil {
			err = fmt.Errorf("unmount esp: %w", e) // whoever writes it next could not mount it
		}
	}()
	writable := func() error { return unix.Mount(device, dir, "vfat", noExec|unix.MS_REMOUNT, options) }
	return checkEnv(dir, booted, writable)
}

// checkEnv does it in the ESP's files below dir. writable is called before anything is written.
func checkEnv(dir string, booted bootenv.Slot, writable func() error) (l Loader, err error) {
	paths := [2]string{filepath.Join(dir, bootenv.File), filepath.Join(dir, bootenv.Backup)}
	var envs [2]bootenv.Env
	var errs [2]error
	for i, path := range paths {
		envs[i], errs[i] = bootenv.ReadFile(path)
	}
	var write [2]bool
	l, write, err = judge(envs, errs, booted)
	if err != nil || write == [2]bool{} {
		return l, err
	}
	if err := writable(); err != nil {
		return l, fmt.Errorf("make esp writable: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(paths[0]), 0o700); err != nil {
		return l, err
	}
	for i, path := range paths {
		if !write[i] {
			continue
		}
		if err := bootenv.WriteFile(path, l.Env); err != nil {
			return l, err
		}
	}
	unix.Sync() // the directory as well, if a copy was missing
	return l, nil
}

// judge says which copies are to be written, and with what. Two whole copies that differ are what
// a power cut between the loader's two saves leaves: the first one counts, and nobody is told.
func judge(envs [2]bootenv.Env, errs [2]error, booted bootenv.Slot) (l Loader, write [2]bool, err error) {
	switch {
	case errs[0] == nil && errs[1] == nil:
		return Loader{Env: envs[0]}, [2]bool{false, envs[0] != envs[1]}, nil
	case errs[0] == nil:
		return Loader{envs[0], true}, [2]bool{false, true}, nil
	case errs[1] == nil:
		return Loader{envs[1], true}, [2]bool{true, false}, nil
	case booted == bootenv.None:
		return l, write, errors.Join(errs[0], errs[1], errors.New("which slot booted is not known either; both copies stay as they are"))
	}
	return Loader{bootenv.Env{Confirmed: booted}, true}, [2]bool{true, true}, nil
}

// FellBack returns the slot that the loader should have booted if it booted the other one.
func (l Loader) FellBack(booted bootenv.Slot) (wanted bootenv.Slot, fellBack bool) {
	wanted = l.Env.Confirmed
	if l.Env.Trial != bootenv.None {
		wanted = l.Env.Trial
	}
	return wanted, booted != bootenv.None && booted != wanted
}
