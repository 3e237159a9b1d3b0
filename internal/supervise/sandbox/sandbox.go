// Package sandbox shuts a service in for good: Landlock says which files and TCP ports it may use,
// a seccomp filter which system calls. A service that hostile bytes took over can do its own work
// wrong, and little else.
//
// The supervisor calls Confine on the thread from which it starts the service: Landlock holds for one
// thread and what comes of it, and after its first instruction a Go program has several. The service
// calls Enter: by then it has no programs to start.
package sandbox

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Rules are what a service may do beyond computing, and talking to its open files.
type Rules struct {
	Open bool // no sandbox at all: a root shell runs inside

	Read    []string // files and directories, with all below; one that is missing stays forbidden
	Write   []string // directories: files in them may be made, changed and removed, sockets as well
	Devices []string // device files: read, write, ioctl
	Listen  []uint16 // TCP ports
	Connect []uint16 // TCP ports of others
	Any     bool     // to any TCP port of others: its owner says where
	Sockets []uint32 // address families, AF_…
	Calls   []uint32 // system calls besides the usual ones, SYS_…
}

// Enter restricts the system calls of this process, all its threads and children.
func (r Rules) Enter() error {
	if r.Open {
		return nil
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil { // memory holds secrets
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	if err := filterCalls(r.Sockets, r.Calls); err != nil {
		return fmt.Errorf("restrict system calls: %w", err)
	}
	return nil
}
