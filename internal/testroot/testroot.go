// Package testroot gives tests of process 1's work the kernel's own means: Main runs the test binary in
// mount and process namespaces of its own, as their process 1; Loop makes block devices of
// files. It needs root.
package testroot

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// inside marks the test binary that runs in the namespaces already: made, then ready.
const (
	inside = "TESTROOT_INSIDE"
	made   = "made"
	ready  = "ready"
)

// Main is what a package's TestMain calls: it runs the tests as process 1 of new namespaces and exits.
func Main(m *testing.M) {
	if os.Getenv(inside) == "" {
		os.Exit(again())
	}
	if os.Getenv(inside) == made { // a fuzzing worker finds it done
		if err := prepare(); err != nil {
			fmt.Fprintf(os.Stderr, "testroot: %v\n", err)
			os.Exit(1)
		}
		os.Setenv(inside, ready)
	}
	os.Exit(m.Run())
}

// again runs this program with the same arguments in new namespaces and returns its exit code.
func again() int {
	runtime.LockOSThread() // Pdeathsig is sent when this thread ends
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), inside+"="+made)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	signal.Ignore(syscall.SIGINT, syscall.SIGQUIT) // go test passes them on to the one inside as well
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintf(os.Stderr, "testroot: make namespaces: %v (these tests need root)\n", err)
		return 1
	}
	return cmd.ProcessState.ExitCode()
}

// prepare keeps mounts inside, and shows the processes of the new namespace.
func prepare() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return nil
}
