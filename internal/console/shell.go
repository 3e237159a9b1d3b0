package console

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// shells are where an image has one; the first that is there is taken.
var shells = []string{"/bin/gosh", "/bbin/gosh", "/bin/sh"}

var errNoShell = errors.New("no shell")

// runShell runs a shell on the terminal until it ends, or ctx does. The kernel hangs the terminal
// up when it ends, so whoever had it open has to open it again.
func runShell(ctx context.Context, shells []string, path string) error {
	shell := ""
	for _, s := range shells {
		if _, err := exec.LookPath(s); err == nil {
			shell = s
			break
		}
	}
	if shell == "" {
		return errNoShell
	}
	file, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := setMode(file, cooked); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, shell)
	cmd.Env = []string{
		"PATH=/bin:/sbin:/usr/bin:/usr/sbin:/bbin", "HOME=/tmp", "TERM=" + termOf(path),
		"ZONEINFO=" + os.Getenv("ZONEINFO"),
	}
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = file, file, file
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Pdeathsig: unix.SIGKILL}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGHUP) }
	cmd.WaitDelay = 2 * time.Second
	done := make(chan error)
	go func() {
		// Pdeathsig is sent when the thread that started the shell ends: it stays until then.
		runtime.LockOSThread()
		done <- cmd.Run()
	}()
	err = <-done
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil // its last command's status is nobody's concern
	}
	return err
}

// termOf is what kind of terminal path is: the kernel's own screen, or who knows what at the end
// of a line.
func termOf(path string) string {
	number, ok := strings.CutPrefix(filepath.Base(path), "tty")
	if _, err := strconv.Atoi(number); ok && err == nil {
		return "linux"
	}
	return "vt220"
}
