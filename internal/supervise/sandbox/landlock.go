package sandbox

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Rights on files, as Landlock names them.
const (
	onFile = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE |
		unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV // all that make sense on a single file

	read  = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	write = read | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_REFER |
		unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_SYM |
		unix.LANDLOCK_ACCESS_FS_MAKE_SOCK | unix.LANDLOCK_ACCESS_FS_MAKE_FIFO |
		unix.LANDLOCK_ACCESS_FS_REMOVE_FILE | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR
	device = read | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	start  = read | unix.LANDLOCK_ACCESS_FS_EXECUTE

	everything = 1<<16 - 1 // all rights of version 5 and later
)

// programs may be started: only this one, as the service.
var programs = []string{"/proc/self/exe"}

// version is the oldest Landlock that knows all that we ask for: files since 1, TCP since 4, ioctl
// since 5, signals and abstract sockets since 6. Our kernel has 6.
const version = 6

// A TooOld error says that this kernel's Landlock shuts services in less than it should, or not.
type TooOld struct{ Version int }

func (e TooOld) Error() string {
	return fmt.Sprintf("this kernel's Landlock has version %d, not %d: services are shut in less than they should be", e.Version, version)
}

// Confine restricts the files and ports of this thread, and of the processes that are started from
// it, to what the rules give them. The thread must be locked and have no new privileges. On an old
// kernel it does what it can, and returns a TooOld error.
func (r Rules) Confine() error {
	if r.Open {
		return nil
	}
	n, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	have := int(n)
	if errno != 0 {
		return TooOld{0}
	}
	attr := unix.LandlockRulesetAttr{
		Handled_access_fs:  everything,
		Handled_access_net: unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP,
		Scoped:             unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL,
	}
	if r.Any {
		attr.Handled_access_net &^= unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
	}
	if have < version { // rights that a kernel does not know are an error
		attr.Handled_access_fs &= []uint64{0, 1<<13 - 1, 1<<14 - 1, 1<<15 - 1, 1<<15 - 1, 1<<16 - 1}[have]
		attr.Scoped = 0
		if have < 4 {
			attr.Handled_access_net = 0
		}
	}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return fmt.Errorf("make ruleset: %w", errno)
	}
	defer unix.Close(int(fd))
	rules := ruleset{int(fd), attr}
	errs := []error{rules.path("/dev/null", device)}
	for _, path := range programs {
		errs = append(errs, rules.path(path, start))
	}
	for _, path := range r.Read {
		errs = append(errs, rules.path(path, read))
	}
	for _, path := range r.Write {
		errs = append(errs, rules.path(path, write))
	}
	for _, path := range r.Devices {
		errs = append(errs, rules.path(path, device))
	}
	for _, port := range r.Listen {
		errs = append(errs, rules.port(port, unix.LANDLOCK_ACCESS_NET_BIND_TCP))
	}
	for _, port := range r.Connect {
		errs = append(errs, rules.port(port, unix.LANDLOCK_ACCESS_NET_CONNECT_TCP))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); errno != 0 {
		return fmt.Errorf("enter ruleset: %w", errno)
	}
	if have < version {
		return TooOld{have}
	}
	return nil
}

// A ruleset is one that is being made.
type ruleset struct {
	fd   int
	attr unix.LandlockRulesetAttr
}

// path allows these rights on what is at path and below. What is not there stays forbidden.
func (r ruleset) path(path string, rights uint64) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("look at %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		rights &= onFile
	}
	attr := unix.LandlockPathBeneathAttr{Allowed_access: rights & r.attr.Handled_access_fs, Parent_fd: int32(fd)}
	return r.add(unix.LANDLOCK_RULE_PATH_BENEATH, unsafe.Pointer(&attr), path)
}

const ruleNetPort = 2 // LANDLOCK_RULE_NET_PORT

// port allows a service these rights on a TCP port.
func (r ruleset) port(port uint16, rights uint64) error {
	if r.attr.Handled_access_net == 0 {
		return nil
	}
	attr := struct{ rights, port uint64 }{rights, uint64(port)} // struct landlock_net_port_attr
	return r.add(ruleNetPort, unsafe.Pointer(&attr), fmt.Sprint("port ", port))
}

func (r ruleset) add(kind uintptr, attr unsafe.Pointer, what string) error {
	if _, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(r.fd), kind, uintptr(attr), 0, 0, 0); errno != 0 {
		return fmt.Errorf("allow %s: %w", what, errno)
	}
	return nil
}
