package console

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// shells are where an image has one; the first that is there is taken.
var shells = []string{"/bin/gosh", "/bbin/gosh", "/bin/sh"}

var errNoShell = errors.New("no shell")

// runShell runs a shell until it ends, ctx does, or the terminal hangs up. The shell has a
// pseudoterminal of its own, between which and the terminal its words go back and forth: so we
// see the keys that end a command, and can spare the shell. What was typed already comes first.
func runShell(ctx context.Context, shells []string, terminal *tty, term string, typed []byte) error {
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
	pty, end, err := openPTY(terminal.file)
	if err != nil {
		return fmt.Errorf("make a terminal for the shell: %w", err)
	}
	defer pty.Close()
	if err := setMode(terminal.file, through); err != nil {
		end.Close()
		return err
	}
	defer setMode(terminal.file, raw) // fails where the terminal has hung up, and then does not matter
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, shell)
	cmd.Env = []string{
		"PATH=/bin:/sbin:/usr/bin:/usr/sbin:/bbin", "HOME=/tmp", "TERM=" + term,
		"ZONEINFO=" + os.Getenv("ZONEINFO"),
	}
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = end, end, end
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Pdeathsig: unix.SIGKILL}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGHUP) }
	cmd.WaitDelay = 2 * time.Second
	done := make(chan error)
	go func() {
		// Pdeathsig is sent when the thread that started the shell ends: it stays until then.
		runtime.LockOSThread()
		err := cmd.Start()
		end.Close() // only the shell and its children have it from now on: pty sees when they end
		if err == nil {
			err = cmd.Wait()
		}
		done <- err
	}()
	var output sync.WaitGroup
	output.Go(func() { show(terminal, pty) })
	k := keys{pty: pty}
	k.typed(typed)
	for chunks := terminal.chunks; ; {
		select {
		case chunk, ok := <-chunks:
			if !ok { // nobody is there any more
				cancel()
				chunks = nil
			}
			k.typed(chunk)
		case err := <-done:
			pty.SetReadDeadline(time.Now().Add(lastWords)) // a child that stays may still have the other end
			output.Wait()
			if _, ok := errors.AsType[*exec.ExitError](err); ok || ctx.Err() != nil {
				return nil // its last command's status is nobody's concern
			}
			return err
		}
	}
}

const (
	lastWords = time.Second // for what the shell wrote before it ended
	typeTime  = time.Second // for a program to take what is typed
)

// show prints what comes from pty until its other end is closed.
func show(terminal *tty, pty *os.File) {
	buf := make([]byte, portion)
	for {
		n, err := pty.Read(buf)
		if err != nil || terminal.print(string(buf[:n])) != nil {
			return
		}
	}
}

// signals are what a terminal's keys send to the program in front.
var signals = map[byte]unix.Signal{keyInterrupt: unix.SIGINT, keyQuit: unix.SIGQUIT}

// insist is how often within insistTime a key has to be pressed to mean the shell as well: a loop
// in its own language ends in no other way.
const (
	insist     = 5
	insistTime = 2 * time.Second
	rounds     = 5 // of looking who is to get the signal
)

// keys hands what is typed to a shell.
type keys struct {
	pty     *os.File
	first   time.Time // when a key for a signal was first pressed
	pressed int       // since then
}

func (k *keys) typed(chunk []byte) {
	for len(chunk) > 0 {
		n := bytes.IndexFunc(chunk, func(r rune) bool { return r < utf8.RuneSelf && signals[byte(r)] != 0 })
		switch {
		case n < 0:
			n = len(chunk)
		case n == 0:
			n = 1
			if k.signal(chunk[0]) {
				chunk = chunk[1:]
				continue
			}
		}
		k.pty.SetWriteDeadline(time.Now().Add(typeTime))
		k.pty.Write(chunk[:n]) // what no program takes is lost, as on any terminal
		chunk = chunk[n:]
	}
}

// signal says whether it has seen to a key that stands for a signal. The kernel would send that to
// all of the group in front, and gosh does without job control: it and its commands are one group,
// and the signal would end it too.
func (k *keys) signal(key byte) bool {
	now := time.Now()
	if now.Sub(k.first) > insistTime {
		k.first, k.pressed = now, 0
	}
	if k.pressed++; k.pressed >= insist {
		return false
	}
	seen := false
	err := control(k.pty, func(fd int) error {
		mode, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err != nil || mode.Lflag&unix.ISIG == 0 { // a line editor or the like wants the key itself
			return err
		}
		shell, err := unix.IoctlGetUint32(fd, unix.TIOCGSID)
		if err != nil {
			return err
		}
		front, err := unix.IoctlGetUint32(fd, unix.TIOCGPGRP)
		if err != nil || front != shell { // a shell with job control: the signal does not meet it
			return err
		}
		others := group(int(front))
		told := map[int]bool{}
		for range rounds { // one that was just being started is in none of the first lists
			fresh := false
			for _, pid := range group(int(front)) {
				if !told[pid] {
					told[pid], fresh = true, true
					unix.Kill(pid, signals[key]) // one that has ended meanwhile is no loss
				}
			}
			if !fresh {
				break
			}
		}
		// Alone, gosh is between two commands, and would be ended. Others read a line, and drop it.
		seen = len(others) > 0 || mode.Lflag&unix.ICANON == 0
		return nil
	})
	return seen && err == nil
}

// group lists the processes of a group, without its leader.
func group(leader int) []int {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is good
	var list []int
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil { // it has ended
			continue
		}
		// "PID (NAME) STATE PARENT GROUP …", where the name may have any character.
		fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err == nil && pid != leader && len(fields) > 2 && string(fields[2]) == strconv.Itoa(leader) {
			list = append(list, pid)
		}
	}
	return list
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
