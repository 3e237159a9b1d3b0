// Package sandbox shuts a service's process in for good: Landlock says which files and TCP ports it
// may use, a seccomp filter which system calls. A service that hostile bytes took over can do
// its own work wrong, and little else.
package sandbox

import (
	"fmt"
	"log/slog"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// Rules are what a service may do beyond computing, and talking to its open files.
type Rules struct {
	Open bool // no sandbox at all: a root shell runs inside

	Read    []string // files and directories, with all below; one that is missing stays forbidden
	Write   []string // directories: files in them may be made, changed and removed, sockets as well
	Devices []string // device files: read, write, ioctl
	Listen  []uint16 // TCP ports; no service opens TCP connections of its own yet
	Sockets []uint32 // address families, AF_…
}

// abi is the oldest Landlock that knows all that Rules ask for: files since 1, TCP since 4,
// ioctl since 5, signals and abstract sockets since 6. Our kernel has 6.
const abi = 6

// Enter applies rules to this process, all its threads and children.
func Enter(rules Rules, log *slog.Logger) error {
	if rules.Open {
		return nil
	}
	if got, err := ll.LandlockGetABIVersion(); err != nil || got < abi {
		log.Warn("this kernel shuts services in less than it should", "landlock", got, "want", abi)
	}
	list := []landlock.Rule{
		landlock.RODirs(rules.Read...).IgnoreIfMissing(),
		landlock.RWDirs(rules.Write...).IgnoreIfMissing(),
		landlock.RWFiles(rules.Devices...).WithIoctlDev().IgnoreIfMissing(),
		landlock.RWFiles("/dev/null"),
	}
	for _, port := range rules.Listen {
		list = append(list, landlock.BindTCP(port))
	}
	if err := landlock.V6.BestEffort().Restrict(list...); err != nil {
		return fmt.Errorf("restrict files: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil { // memory holds secrets
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	if err := filterCalls(rules.Sockets); err != nil {
		return fmt.Errorf("restrict system calls: %w", err)
	}
	return nil
}
