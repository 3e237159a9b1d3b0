package run

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"time"
)

// The lines between which the board's firmware has the console.
const (
	loaderLine  = "CloudLink Gateway"         // begins whatever firmware/grub/grub.cfg prints
	restartLine = "reboot: Restarting system" // the kernel's last
)

// A screen shows what the machine prints, but for what its firmware prints before the loader starts:
// U-Boot and EDK2 tell of all that they look for in vain as if it had failed. If the loader does not
// come, everything is shown, for then it tells why.
type screen struct {
	patience time.Duration // with the firmware; 0 for showing all from the start

	mu     sync.Mutex // guards what follows
	w      io.Writer
	hiding bool
	buf    []byte // what is hidden; else the end of what was printed, where restartLine may begin
	shown  int    // bytes of buf, while it is not hidden
	timer  *time.Timer
}

func newScreen(w io.Writer, patience time.Duration) *screen {
	s := &screen{w: w, patience: patience}
	s.hide(nil)
	return s
}

// hide hides buf and what follows until the loader starts or patience ends. The caller holds mu, or
// is alone.
func (s *screen) hide(buf []byte) {
	if s.patience == 0 {
		return
	}
	s.hiding, s.buf = true, buf
	s.timer = time.AfterFunc(s.patience, s.Reveal)
}

// Write takes in what the machine prints.
func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buf = append(s.buf, b...)
	for {
		if s.hiding {
			i := bytes.Index(s.buf, []byte(loaderLine))
			if i < 0 {
				return len(b), nil
			}
			s.timer.Stop()
			s.hiding, s.buf, s.shown = false, s.buf[i:], 0
		}
		i := bytes.Index(s.buf, []byte(restartLine))
		if i < 0 || s.patience == 0 {
			s.w.Write(s.buf[s.shown:])
			s.buf = bytes.Clone(s.buf[max(0, len(s.buf)-len(restartLine)):])
			s.shown = len(s.buf)
			return len(b), nil
		}
		end := i + len(restartLine)
		fmt.Fprintf(s.w, "%s\r\n\r\n", s.buf[s.shown:end])
		s.hide(s.buf[end:])
	}
}

// Close ends the waiting for the loader.
func (s *screen) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timer != nil {
		s.timer.Stop()
	}
}

// Reveal shows what is hidden and what follows, until the next restart.
func (s *screen) Reveal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hiding {
		s.timer.Stop()
		fmt.Fprintf(s.w, "The gateway's loader has not started. What the machine's firmware printed:\r\n%s", s.buf)
		s.hiding, s.buf, s.shown = false, nil, 0
	}
}

// Hiding says whether the firmware has the console.
func (s *screen) Hiding() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hiding
}

// Say prints a line of ours between the machine's.
func (s *screen) Say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.w, "\n"+format+"\n", args...)
}
