package testvm

import (
	"fmt"
	"path/filepath"
	"testing"

	"cloudlink.local/gateway/internal/condition"
	"cloudlink.local/gateway/internal/machine"
	"cloudlink.local/gateway/internal/portal"
)

// Status is what the gateway says of itself at /api/v1/status.
func (vm *VM) Status() portal.Status {
	vm.t.Helper()
	var s portal.Status
	vm.JSON("/api/v1/status", &s)
	return s
}

// WaitUp waits until every service runs, the data partition is open and the portal says so.
func (vm *VM) WaitUp() portal.Status {
	vm.t.Helper()
	var s portal.Status
	vm.Until("every service runs", func() error {
		s = vm.Status()
		for _, service := range s.Services {
			if service.State != machine.Running {
				return fmt.Errorf("%s is %s (%s)", service.Name, service.State, service.LastExit)
			}
		}
		if len(s.Services) == 0 || s.Data.State == "" || len(s.Ports) == 0 {
			return fmt.Errorf("not all is known yet: %+v", s)
		}
		return nil
	})
	return s
}

// HasCondition tells whether the owner is told of it.
func HasCondition(s portal.Status, id condition.ID) bool {
	for _, c := range s.Conditions {
		if c.ID == id {
			return true
		}
	}
	return false
}

// Shell runs one command line in the root shell of a development image and returns what it printed.
func (vm *VM) Shell(command string) string {
	vm.t.Helper()
	out, err := vm.openShell().Run(command)
	if err != nil {
		vm.t.Fatal(err)
	}
	return out
}

// ShellEnds runs a command line that makes the machine restart.
func (vm *VM) ShellEnds(command string) {
	vm.t.Helper()
	if err := vm.openShell().Send(command); err != nil {
		vm.t.Fatal(err)
	}
	vm.shell = nil
}

func (vm *VM) openShell() *Shell {
	if vm.shell == nil {
		vm.shell = &Shell{Console: vm.console, Keys: vm.machine.Console}
	}
	return vm.shell
}

// SnakeoilKeys makes a key set whose Secure Boot key is Debian's snakeoil key, which the EDK2 of
// package qemu-efi-aarch64 has enrolled.
func SnakeoilKeys(t testing.TB) string {
	t.Helper()
	root := Root(t)
	dir := filepath.Join(t.TempDir(), "keys")
	plain := filepath.Join(t.TempDir(), "snakeoil.key")
	const snakeoil = "/usr/share/qemu-efi-aarch64/PkKek-1-snakeoil"
	mustRun(t, root, "openssl", "rsa", "-in", snakeoil+".key", "-passin", "pass:snakeoil", "-out", plain)
	mustRun(t, root, "go", "run", "./firmware", "keys", "init", "-kind", "development",
		"-secure-boot-key", plain, "-secure-boot-cert", snakeoil+".pem", dir)
	return dir
}
