package supervise

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// CgroupRoot is where the unified hierarchy is mounted.
const CgroupRoot = "/sys/fs/cgroup"

// SetUpCgroups lets the services' groups below root have limits. What the kernel does not offer is
// left out, and named in the error.
func SetUpCgroups(root string) error {
	control := filepath.Join(root, "cgroup.subtree_control")
	if write(control, "+memory +pids") == nil {
		return nil
	}
	if err := errors.Join(write(control, "+memory"), write(control, "+pids")); err != nil {
		return fmt.Errorf("set up cgroups: %w", err)
	}
	return nil
}

// JoinCgroup moves this process into a group of its own below root, where its memory is counted.
func JoinCgroup(root string) error {
	own := filepath.Join(root, "init")
	if err := os.Mkdir(own, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("join own cgroup: %w", err)
	}
	if err := write(filepath.Join(own, "cgroup.procs"), "0"); err != nil {
		return fmt.Errorf("join own cgroup: %w", err)
	}
	return nil
}

// A cgroup is the directory of a service's group.
type cgroup string

// newGroup makes the group of a service's next process below root. It is a new one each time: a
// process that is started right in a group whose cgroup.kill was ever used is killed as well (seen
// with Linux 6.18; its kill_seq is compared with the parent's group's). Where the old one still
// holds processes that take their time to die, the new one's name is longer.
func newGroup(root, name string, run int) (cgroup, error) {
	old, _ := filepath.Glob(filepath.Join(root, name+".*")) // the pattern is well-formed
	for _, dir := range old {
		unix.Rmdir(dir) // next time, then
	}
	dir := filepath.Join(root, name)
	if err := unix.Rmdir(dir); err == unix.EBUSY {
		dir = fmt.Sprintf("%s.%d", dir, run)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	return cgroup(dir), nil
}

// open sets the group's limits and returns a file descriptor for processes to be started in it, -1
// if there is none. It does what it can: an error may come with either.
func (g cgroup) open(memory int64, processes int) (int, error) {
	var errs []error
	for name, value := range map[string]string{
		"memory.max":       strconv.FormatInt(memory, 10),
		"memory.high":      strconv.FormatInt(memory/8*7, 10), // slows down and takes page cache back first
		"memory.oom.group": "1",
		"pids.max":         strconv.Itoa(processes),
	} {
		// Controls are missing on a kernel without the controller, which SetUpCgroups has reported.
		if err := write(filepath.Join(string(g), name), value); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	fd, err := unix.Open(string(g), unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	return fd, errors.Join(append(errs, err)...)
}

// kill ends all processes in the group.
func (g cgroup) kill() error { return write(filepath.Join(string(g), "cgroup.kill"), "1") }

// memory returns the bytes that the group uses, 0 where the kernel does not count.
func (g cgroup) memory() int64 {
	if g == "" { // there is none yet
		return 0
	}
	b, err := os.ReadFile(filepath.Join(string(g), "memory.current"))
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	return n
}

func write(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0) // never creates: a missing control is an error
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(value)
	return err
}
