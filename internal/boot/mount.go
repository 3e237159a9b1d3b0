// Package boot is how process 1 brings the machine up and takes it down: mounts, kernel settings,
// the disk that we booted from, the boot environment, and the restart.
package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// A Mount is one row of the mount table.
type Mount struct {
	Target, Type string
	Flags        uintptr
	Data         string
	Optional     bool // the kernel may lack it
}

const (
	noExec = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	noDev  = unix.MS_NOSUID | unix.MS_NODEV
)

// Mounts is the mount table, in order. /data comes later: package boot/data.
var Mounts = []Mount{
	{"/proc", "proc", noExec, "hidepid=invisible", false}, // a service sees no other user's processes
	{"/sys", "sysfs", noExec, "", false},
	{"/dev", "devtmpfs", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0755", false},
	{"/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0600,ptmxmode=0666", false},
	{"/run", "tmpfs", noExec, "mode=0755,size=8m", false},
	{"/tmp", "tmpfs", noExec, "mode=1777,size=16m", false},
	{"/sys/fs/cgroup", "cgroup2", noExec, "favordynmods", false}, // without it every change waits for a grace period
}

// MoreMounts are those that no service waits for: efivarfs alone takes a slow firmware 0.2 s.
var MoreMounts = []Mount{
	{"/sys/firmware/efi/efivars", "efivarfs", noExec | unix.MS_RDONLY, "", true},
	{"/sys/fs/pstore", "pstore", noExec, "", true},
	{"/sys/fs/bpf", "bpf", noExec, "mode=0700", true},
	{"/sys/kernel/security", "securityfs", noExec, "", true},
}

// MountAll mounts the table. Only a missing row that is not optional is an error; all are tried.
func MountAll(table []Mount) error {
	var errs []error
	for _, m := range table {
		if err := m.mount(); err != nil && !m.Optional {
			errs = append(errs, fmt.Errorf("mount %s: %w", m.Target, err))
		}
	}
	return errors.Join(errs...)
}

func (m Mount) mount() error {
	if err := os.MkdirAll(m.Target, 0o755); err != nil {
		return err
	}
	err := unix.Mount(m.Type, m.Target, m.Type, m.Flags, m.Data)
	if errors.Is(err, unix.EBUSY) { // the kernel was first
		err = unix.Mount(m.Type, m.Target, m.Type, m.Flags|unix.MS_REMOUNT, m.Data)
	}
	return err
}

// Seal makes the root file system read-only.
func Seal() error {
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|noDev, ""); err != nil {
		return fmt.Errorf("make / read-only: %w", err)
	}
	return nil
}

// Settings are the kernel settings that close what we do not use. Those of the network belong to
// the network service.
var Settings = []struct{ Name, Value string }{
	{"kernel/kptr_restrict", "2"},             // nobody needs to know where the kernel lies
	{"kernel/dmesg_restrict", "1"},            // nor what it says: process 1 passes it on
	{"kernel/unprivileged_bpf_disabled", "1"}, // until the next boot
	{"net/core/bpf_jit_harden", "2"},
	{"kernel/perf_event_paranoid", "3"},
	{"kernel/yama/ptrace_scope", "2"},
	{"kernel/io_uring_disabled", "2"},
	{"user/max_user_namespaces", "0"},
	{"vm/unprivileged_userfaultfd", "0"},
	{"fs/protected_hardlinks", "1"},
	{"fs/protected_symlinks", "1"},
	{"fs/protected_fifos", "2"},
	{"fs/protected_regular", "2"},
	{"fs/suid_dumpable", "0"},
	{"kernel/core_pattern", "|/bin/false"},
	{"kernel/sysrq", "0"},                       // a break on the serial line is line noise
	{"net/netfilter/nf_conntrack_max", "16384"}, // a small machine's default is less than calls and forged connections need
	{"kernel/panic", "10"},
	{"kernel/panic_on_oops", "1"},
	{"kernel/ctrl-alt-del", "0"}, // ask process 1
}

// Harden applies the kernel settings below root, /proc/sys, and names those that did not work;
// one that this kernel lacks is not needed.
func Harden(root string) error {
	var errs []error
	for _, s := range Settings {
		f, err := os.OpenFile(filepath.Join(root, s.Name), os.O_WRONLY, 0)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			_, err = f.WriteString(s.Value)
			f.Close()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("set %s: %w", s.Name, err))
		}
	}
	return errors.Join(errs...)
}

// unmountLimit is far more than it takes to start a program.
const unmountLimit = 3 * time.Second

// Unmount unmounts what is at dir. A child that is just being started has copies of all files that process 1
// had open at that moment, until its own program runs; as long as that, a file system is busy of which
// process 1 itself has closed everything.
func Unmount(dir string) error {
	for deadline := time.Now().Add(unmountLimit); ; time.Sleep(time.Millisecond) {
		if err := unix.Unmount(dir, 0); !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return err
		}
	}
}
