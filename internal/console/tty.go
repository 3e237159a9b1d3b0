package console

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ttys lists the terminals that the kernel has for consoles.
func ttys(active, dev string) []string {
	b, _ := os.ReadFile(active) // without it there is still /dev/console
	var list []string
	for _, name := range strings.Fields(string(b)) {
		if name == "tty0" { // whichever screen is in front; ours is the first, which process 1 gives to us
			name = "tty1"
		}
		path := filepath.Join(dev, name)
		if _, err := os.Stat(path); err == nil && !slices.Contains(list, path) {
			list = append(list, path)
		}
	}
	if len(list) == 0 {
		list = []string{filepath.Join(dev, "console")}
	}
	return list
}

// patience is how long a terminal may hold a portion of our output up (flow control, nobody at the
// other end of a virtual line) before the rest is dropped. Even 9600 baud take a portion in a second.
const (
	patience = 5 * time.Second
	portion  = 1 << 10 // bytes
)

// A tty is an open terminal.
type tty struct {
	file   *os.File
	chunks chan []byte // what is typed; closed when the terminal hangs up
	stop   chan struct{}
	err    error // why chunks is closed
}

// openTTY opens a terminal for our own line editor, and reads it until close.
func openTTY(path string) (*tty, error) {
	// Never our controlling terminal: no key is to end us. Not waiting for a modem's carrier.
	file, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if err := setMode(file, raw); err != nil {
		file.Close()
		return nil, fmt.Errorf("set up %s: %w", path, err)
	}
	t := &tty{file: file, chunks: make(chan []byte), stop: make(chan struct{})}
	go t.read() // ends at close
	return t, nil
}

func (t *tty) read() {
	defer close(t.chunks)
	for {
		buf := make([]byte, 256)
		n, err := t.file.Read(buf)
		if err != nil {
			t.err = err
			return
		}
		select {
		case t.chunks <- buf[:n]:
		case <-t.stop:
			t.err = os.ErrClosed
			return
		}
	}
}

// close closes the terminal and waits until nobody reads it any more.
func (t *tty) close() {
	close(t.stop)
	t.file.Close()
	for range t.chunks {
	}
}

// openPTY makes a pseudoterminal of like's size: a program at end finds it like any other terminal,
// and whoever has pty is its keyboard and screen.
func openPTY(like *os.File) (pty, end *os.File, err error) {
	pty, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	var number int
	err = control(pty, func(fd int) (err error) {
		if err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err == nil {
			number, err = unix.IoctlGetInt(fd, unix.TIOCGPTN)
		}
		return err
	})
	if err == nil {
		end, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		pty.Close()
		return nil, nil, err
	}
	var size *unix.Winsize
	err = control(like, func(fd int) (err error) {
		size, err = unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ)
		return err
	})
	if err == nil {
		err = control(end, func(fd int) error { return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, size) })
	}
	if err == nil {
		err = setMode(end, cooked)
	}
	if err != nil {
		pty.Close()
		end.Close()
		return nil, nil, err
	}
	return pty, end, nil
}

// print writes text. A terminal that does not take it gets none of the rest; one that hung up is
// an error.
func (t *tty) print(text string) error {
	for text != "" {
		n := min(len(text), portion)
		if err := t.file.SetWriteDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		_, err := t.file.WriteString(text[:n])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			// What the kernel still holds would keep us from closing the terminal.
			return control(t.file, func(fd int) error { return unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCOFLUSH) })
		}
		if err != nil {
			return err
		}
		text = text[n:]
	}
	return nil
}

// A mode is how a terminal treats bytes.
type mode int

const (
	raw     mode = iota // as they come: we echo and edit; no byte stops our output
	through             // as they come, and as they are written: a shell's terminal has seen to all
	cooked              // as programs expect it
)

// setMode leaves speed and character size alone: they are the firmware's choice.
func setMode(file *os.File, m mode) error {
	return control(file, func(fd int) error { return setModeOf(fd, m) })
}

// control calls f with the file's descriptor. File.Fd would make the file block.
func control(file *os.File, f func(fd int) error) error {
	conn, err := file.SyscallConn()
	if err != nil {
		return err
	}
	controlErr := conn.Control(func(fd uintptr) { err = f(int(fd)) })
	return errors.Join(controlErr, err)
}

func setModeOf(fd int, m mode) error {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	t.Iflag = unix.IGNBRK
	t.Oflag = unix.OPOST | unix.ONLCR
	t.Cflag |= unix.CREAD | unix.CLOCAL
	t.Cflag &^= unix.HUPCL
	t.Lflag = 0
	switch m {
	case through:
		t.Oflag = 0
	case cooked:
		t.Iflag = unix.BRKINT | unix.ICRNL | unix.IXON | unix.IXANY | unix.IMAXBEL | unix.IUTF8
		t.Lflag = unix.ISIG | unix.ICANON | unix.ECHO | unix.ECHOE | unix.ECHOK | unix.ECHOCTL | unix.ECHOKE | unix.IEXTEN
	}
	for i, c := range map[int]uint8{
		unix.VINTR: 3, unix.VQUIT: 28, unix.VERASE: 127, unix.VKILL: 21, unix.VEOF: 4, unix.VMIN: 1, unix.VTIME: 0,
		unix.VSTART: 17, unix.VSTOP: 19, unix.VSUSP: 26, unix.VREPRINT: 18, unix.VWERASE: 23, unix.VLNEXT: 22,
	} {
		t.Cc[i] = c
	}
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, t); err != nil {
		return err
	}
	if size, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ); err == nil && (size.Col == 0 || size.Row == 0) {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Col: 80, Row: 24}) // a serial line does not tell
	}
	return nil
}
