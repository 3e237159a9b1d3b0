package slots

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/boot"
)

// maxSticks is how many file systems of USB sticks are looked at.
const maxSticks = 4

// stickKinds are the file systems that a stick may have, with the options of mounting: the update service
// may read all, and nothing is written, not even a journal replayed.
func stickKinds(user int) map[string]string {
	fat := fmt.Sprintf("uid=%d,gid=%[1]d,umask=0277", user)
	return map[string]string{"vfat": fat, "exfat": fat, "ext4": "noload"}
}

// OpenSticks lets the service read what USB sticks hold. Somebody who stands there has to have asked for
// it: the kernel reads file systems that anybody may have made.
func (k *Keeper) OpenSticks() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.closeSticks(); err != nil {
		return err
	}
	names, err := k.usbDisks()
	if err != nil {
		return fmt.Errorf("look for USB sticks: %w", err)
	}
	for _, name := range names {
		if len(k.sticks) == maxSticks {
			break
		}
		dir := filepath.Join(k.stickDir, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("look for USB sticks: %w", err)
		}
		for kind, options := range k.stickKinds { // at most one of them takes it
			const flags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOSYMFOLLOW
			if unix.Mount(filepath.Join(k.dev, name), dir, kind, flags, options) == nil {
				k.sticks = append(k.sticks, dir)
				break
			}
		}
	}
	return nil
}

// CloseSticks has them free to be pulled out.
func (k *Keeper) CloseSticks() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.closeSticks()
}

func (k *Keeper) closeSticks() error {
	var errs []error
	for _, dir := range k.sticks {
		// One that was pulled out meanwhile goes when its last file is closed.
		errs = append(errs, unix.Unmount(dir, unix.MNT_DETACH), os.Remove(dir))
	}
	k.sticks = nil
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close USB sticks: %w", err)
	}
	return nil
}

// usbDisks are the names of block devices on USB, partitions too, but not of the disk that we run from.
func (k *Keeper) usbDisks() ([]string, error) {
	own := ""
	if device, ok := k.device(boot.ESP); ok {
		path, err := filepath.EvalSymlinks(filepath.Join(k.block, filepath.Base(device)))
		if err != nil {
			return nil, err
		}
		own = filepath.Dir(path) // a partition lies in its disk
	}
	entries, err := os.ReadDir(k.block)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		path, err := filepath.EvalSymlinks(filepath.Join(k.block, e.Name()))
		if err != nil || !strings.Contains(path, "/usb") || own != "" && (path == own || strings.HasPrefix(path, own+"/")) {
			continue
		}
		names = append(names, e.Name())
	}
	slices.SortFunc(names, func(a, b string) int { return len(b) - len(a) }) // partitions before their disks
	return names, nil
}
