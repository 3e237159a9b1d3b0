package testvm

import (
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"cloudlink.local/gateway/internal/qemu"
)

// A Shell is the root shell of a development image, on its serial console.
type Shell struct {
	Console *qemu.Console
	Keys    io.Writer

	open     bool
	commands int // run so far
}

var (
	offer     = regexp.MustCompile(`(?i)root shell`)
	readyLine = regexp.MustCompile(`(?m)^shell is ready$`) // the shell's answer, not the command's echo
)

// Run opens the shell through the console's menu if need be, runs one command line and returns what
// it printed.
func (s *Shell) Run(command string) (string, error) {
	if !s.open {
		if err := s.enter(); err != nil {
			return "", err
		}
	}
	return s.run(command)
}

// Send opens the shell if need be and types a command line whose end is not seen: it takes the
// machine down.
func (s *Shell) Send(command string) error {
	if !s.open {
		if err := s.enter(); err != nil {
			return err
		}
	}
	return s.typeKeys(command + "\r")
}

func (s *Shell) run(command string) (string, error) {
	s.commands++
	mark := fmt.Sprintf("command-%d", s.commands)
	s.Console.Skip()
	// The quotes part the marks from their echo. The line's own status is of no interest.
	if err := s.typeKeys(fmt.Sprintf("echo begin'-'%s; %s; echo end'-'%s\r", mark, command, mark)); err != nil {
		return "", err
	}
	got, err := s.Console.Expect(regexp.MustCompile(`(?s)begin-`+mark+`\n(.*?)end-`+mark+`\n`), Patience)
	if err != nil {
		return "", fmt.Errorf("run %q: %w", command, err)
	}
	return strings.TrimSpace(got[1]), nil
}

func (s *Shell) enter() error {
	s.Console.Skip()
	// The console service may be about to start: Enter is pressed until the menu is there.
	if err := s.press("\r", offer); err != nil {
		return err
	}
	if err := s.typeKeys("9\r"); err != nil {
		return err
	}
	if err := s.press("echo shell is ready''\r", readyLine); err != nil {
		return err
	}
	s.open = true
	return nil
}

// press types keys again and again until the console answers.
func (s *Shell) press(keys string, answer *regexp.Regexp) (err error) {
	for deadline := time.Now().Add(Patience); time.Now().Before(deadline); {
		if err = s.typeKeys(keys); err != nil {
			return err
		}
		if _, err = s.Console.Expect(answer, 3*time.Second); err == nil {
			return nil
		}
	}
	return err
}

func (s *Shell) typeKeys(keys string) error {
	if _, err := io.WriteString(s.Keys, keys); err != nil {
		return fmt.Errorf("type on the console: %w", err)
	}
	return nil
}
