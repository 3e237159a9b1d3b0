package harness

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// inside marks the process that is in the namespaces already.
const inside = "BENCH_INSIDE"

// Inside says whether this process is the one that Again has started.
func Inside() bool { return os.Getenv(inside) != "" }

// Again runs this program in namespaces of its own. It is process 1 there: when it ends, or when this
// process does, the kernel ends all that it started, and mounts, ports and files go with them.
func Again() error {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL, // when this thread ends: with the program
	}
	if uid, gid := os.Geteuid(), os.Getegid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: gid, Size: 1}}
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("make namespaces: %w: run it as root, or let everybody make them: "+
			"sysctl kernel.unprivileged_userns_clone=1 (in a container: --privileged)", err)
	}
	return cmd.Wait()
}

// Hide hides this machine from what is measured, and the other way round: in the namespaces it mounts
// file systems of their own, by folder: proc, sysfs or tmpfs.
func Hide(mounts map[string]string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts private: %w", err)
	}
	for dir, kind := range mounts {
		if err := unix.Mount(kind, dir, kind, unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
			return fmt.Errorf("mount %s on %s: %w (no such folder: run scripts/setup test)", kind, dir, err)
		}
	}
	return nil
}
