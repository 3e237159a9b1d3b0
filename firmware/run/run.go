// Package run starts a built image in QEMU for a person: the portal on a local port, the serial
// console on the terminal, Ctrl-C for an orderly power-off.
package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/qemu"
)

// Options say what to run.
type Options struct {
	Image    string // the built image; its copy is the machine's disk
	Firmware qemu.Firmware
	Port     int // of 127.0.0.1, leads to the portal
	MemoryMB int
	Verbose  bool // show what the firmware prints, and let it have the keyboard
}

const (
	patience  = time.Minute     // with the firmware, before we show what it says
	pressNext = 5 * time.Second // between presses of the power button: one pressed too early is lost
)

// dir returns the folder of the machine's disk.
func (o Options) dir() string { return filepath.Join(filepath.Dir(o.Image), "run") }

// Check says whether the image could be run, so that one learns of an obstacle before it is built.
func Check(o Options) error {
	if err := checkPort(o.Port); err != nil {
		return err
	}
	if _, err := os.Stat(o.dir()); errors.Is(err, fs.ErrNotExist) {
		return nil // it has not been run yet
	}
	unlock, err := lock(o.dir())
	if err != nil {
		return err
	}
	unlock()
	return nil
}

func checkPort(port int) error {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		other := 18080
		if port == other {
			other++
		}
		return fmt.Errorf("port %d is in use: end what listens there, or choose another, such as make run PORT=%d (-port %[2]d)", port, other)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("port %d is for root only: choose one from 1024 up, such as make run PORT=8080 (-port 8080)", port)
	case err != nil:
		return fmt.Errorf("try port %d: %w", port, err)
	}
	return l.Close()
}

// Run boots the image and returns when the machine is off; an interrupt presses its power button.
// Its disk is kept beside the image and used again until the image changes, so that settings outlive
// a run as on a real device.
func Run(ctx context.Context, o Options) error {
	if err := checkPort(o.Port); err != nil {
		return err
	}
	dir := o.dir()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the machine's folder: %w", err)
	}
	unlock, err := lock(dir)
	if err != nil {
		return err
	}
	defer unlock()
	if err := prepare(dir, o.Image); err != nil {
		return err
	}

	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer signal.Stop(interrupts)

	if ctx.Err() != nil {
		return errors.New("interrupted: nothing was started")
	}

	fmt.Printf(`Booting %s in QEMU, started by %s.
The gateway's page will be at http://localhost:%d/ in some seconds. Its serial console
follows: Enter opens the menu, Ctrl-] interrupts a command in the shell, Ctrl-C powers it off.

`, o.Image, o.Firmware, o.Port)
	// An interrupt is the power button's to handle: the machine does not end with our context.
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	m, err := qemu.Start(ctx, qemu.Config{
		Firmware: o.Firmware, Disk: filepath.Join(dir, "disk.img"), Dir: dir,
		MemoryMB: o.MemoryMB, NICs: []qemu.NIC{{Forward: o.Port}},
	})
	if err != nil {
		return err
	}
	defer terminal()()
	wait := patience
	if o.Verbose {
		wait = 0
	}
	scr := newScreen(os.Stdout, wait)
	defer scr.Close()
	shown := make(chan struct{})
	go func() { // ends when QEMU closes its output
		io.Copy(scr, m.Console)
		close(shown)
	}()
	go io.Copy(m.Console, keyboard{os.Stdin, scr}) // a read of the terminal cannot be ended: it ends with the program
	go announce(ctx, o.Port, scr)

	var again <-chan time.Time // to press the power button; nil while nobody wants it off
	for {
		select {
		case <-m.Done():
			<-shown
			if again == nil {
				scr.Reveal()
			}
			if err := m.Err(); err != nil {
				return fmt.Errorf("QEMU failed: %w: its own words are above", err)
			}
			scr.Say("The machine is off.")
			return nil
		case <-interrupts:
			if again != nil || scr.Hiding() { // its firmware knows no power button
				scr.Say("Cutting the machine's power.")
				m.Kill()
				return nil
			}
			scr.Say("Powering the machine off in order; Ctrl-C again cuts its power.")
		case <-again:
		}
		again = time.After(pressNext)
		if err := m.PowerButton(); err != nil {
			scr.Say("The power button does not work: %v", err)
		}
	}
}

// announce prints the portal's URL once it answers.
func announce(ctx context.Context, port int, scr *screen) {
	url := fmt.Sprintf("http://localhost:%d/", port)
	client := http.Client{Timeout: 5 * time.Second}
	for {
		if resp, err := client.Get(url); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				scr.Say(">>> The gateway's page is open at %s <<<\n", url)
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// prepare makes the machine's disk from the image, unless it was made from this very image before.
func prepare(dir, image string) error {
	info, err := os.Stat(image)
	if err != nil {
		return fmt.Errorf("look at the image: %w", err)
	}
	disk, stamp := filepath.Join(dir, "disk.img"), filepath.Join(dir, "made-from")
	from := fmt.Sprintln(info.Size(), info.ModTime().UnixNano())
	if b, err := os.ReadFile(stamp); err == nil && string(b) == from {
		if _, err := os.Stat(disk); err == nil {
			return nil
		}
	}
	os.Remove(stamp)
	os.Remove(filepath.Join(dir, "vars.fd"))
	if err := qemu.CopyDisk(disk, image, 0); err != nil {
		os.Remove(disk)
		return fmt.Errorf("copy the image: %w", err)
	}
	if err := os.WriteFile(stamp, []byte(from), 0o644); err != nil {
		os.Remove(stamp)
		return fmt.Errorf("note what the disk was made from: %w", err)
	}
	return nil
}

// lock keeps two machines off one disk.
func lock(dir string) (unlock func(), err error) {
	f, err := os.Create(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("lock the machine's disk: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.New("this image is running already: end that one first, with Ctrl-C in its terminal")
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return func() { f.Close() }, nil
}

// A keyboard turns Ctrl-] into the Ctrl-C that the terminal keeps for us. What is typed while the
// firmware has the console is lost: any key would stop U-Boot from booting.
type keyboard struct {
	io.Reader
	scr *screen
}

func (k keyboard) Read(b []byte) (int, error) {
	n, err := k.Reader.Read(b)
	if k.scr.Hiding() {
		return 0, err
	}
	for i, c := range b[:n] {
		if c == 0x1d {
			b[i] = 0x03
		}
	}
	return n, err
}

// terminal hands keys to the guest as they are typed and leaves echoing to it; Ctrl-C stays ours.
// It returns what puts the terminal back.
func terminal() (restore func()) {
	fd := int(os.Stdin.Fd())
	old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return func() {} // not a terminal
	}
	t := *old
	t.Lflag &^= unix.ICANON | unix.ECHO
	t.Iflag &^= unix.ICRNL
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	unix.IoctlSetTermios(fd, unix.TCSETS, &t)
	return func() { unix.IoctlSetTermios(fd, unix.TCSETS, old) }
}
