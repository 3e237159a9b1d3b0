// Package run starts a built image in QEMU for a person: the portal on a local port, the serial
// console on the terminal, Ctrl-C for an orderly power-off.
package run

import (
	"context"
	"errors"
	"fmt"
	"io"
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
}

// Run boots the image and returns when the machine is off. The machine's disk is kept beside the
// image and used again until the image changes, so that settings outlive a run as on a real device.
func Run(ctx context.Context, o Options) error {
	if o.Port < 1 || o.Port > 65535 {
		return fmt.Errorf("port %d: want 1 to 65535", o.Port)
	}
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", o.Port))
	if err != nil {
		return fmt.Errorf("port %d is in use: end what listens there, or choose another with PORT=…", o.Port)
	}
	l.Close()
	dir := filepath.Join(filepath.Dir(o.Image), "run")
	if err := prepare(dir, o.Image); err != nil {
		return err
	}
	unlock, err := lock(dir)
	if err != nil {
		return err
	}
	defer unlock()

	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer signal.Stop(interrupts)

	fmt.Printf(`Booting %s with %s in QEMU.
The gateway's page will be at http://localhost:%d/ in some seconds; what the firmware
complains about until then is normal. Here is the machine's serial console:
Enter opens its menu, Ctrl-] interrupts a command in its shell, Ctrl-C powers it off.

`, o.Image, o.Firmware, o.Port)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	m, err := qemu.Start(ctx, qemu.Config{
		Firmware: o.Firmware, Disk: filepath.Join(dir, "disk.img"), Dir: dir,
		MemoryMB: o.MemoryMB, NICs: []qemu.NIC{{Forward: o.Port}},
	})
	if err != nil {
		return err
	}
	defer terminal()()
	shown := make(chan struct{})
	go func() { // ends when QEMU closes its output
		io.Copy(os.Stdout, m.Console)
		close(shown)
	}()
	go io.Copy(m.Console, keyboard{os.Stdin}) // a read of the terminal cannot be ended: it ends with the program
	go announce(ctx, o.Port)

	for pressed := false; ; {
		select {
		case <-m.Done():
			<-shown
			fmt.Print("\nThe machine is off.\n")
			return m.Err()
		case <-interrupts:
			if pressed {
				fmt.Print("\nCutting its power.\n")
				m.Kill()
				return nil
			}
			pressed = true
			fmt.Print("\nPowering the machine off in order; Ctrl-C again cuts its power.\n")
			if err := m.PowerButton(); err != nil {
				return fmt.Errorf("press the power button: %w", err)
			}
		}
	}
}

// announce prints the portal's URL once it answers.
func announce(ctx context.Context, port int) {
	url := fmt.Sprintf("http://localhost:%d/", port)
	client := http.Client{Timeout: 5 * time.Second}
	for {
		if resp, err := client.Get(url); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				fmt.Printf("\n>>> The gateway's page is open at %s <<<\n\n", url)
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
		return fmt.Errorf("no image to run: %w: make image builds it", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
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
		return fmt.Errorf("copy the image: %w", err)
	}
	return os.WriteFile(stamp, []byte(from), 0o644)
}

// lock keeps two machines off one disk.
func lock(dir string) (unlock func(), err error) {
	f, err := os.Create(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.New("this image is running already: end that one first")
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return func() { f.Close() }, nil
}

// A keyboard turns Ctrl-] into the Ctrl-C that the terminal keeps for us.
type keyboard struct{ io.Reader }

func (k keyboard) Read(b []byte) (int, error) {
	n, err := k.Reader.Read(b)
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
