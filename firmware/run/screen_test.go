package run

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const (
	chatter = "U-Boot 2023.01\r\nfatal: no kernel available\r\nWelcome to GRUB!\r\n"
	started = "CloudLink Gateway: slot a\r\nthe rest\r\n"
)

// Whatever pieces it comes in, what the firmware prints is hidden, after a restart as well.
func TestScreenHidesTheFirmware(t *testing.T) {
	const down = "[   12.4] reboot: Restarting system\r\n"
	all := chatter + started + down + chatter + started
	for size := 1; size <= len(all); size++ {
		var out bytes.Buffer
		s := newScreen(&out, time.Hour)
		for rest := all; rest != ""; {
			n := min(size, len(rest))
			if k, err := io.WriteString(s, rest[:n]); k != n || err != nil {
				t.Fatalf("wrote %d of %d: %v", k, n, err)
			}
			rest = rest[n:]
		}
		s.Close()
		if got, want := out.String(), started+down+"\r\n"+started; got != want {
			t.Fatalf("in pieces of %d bytes, it shows\n%q, want\n%q", size, got, want)
		}
	}
}

func TestScreenShowsAFirmwareThatFindsNoLoader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		s := newScreen(&out, time.Minute)
		defer s.Close()
		shown := func() string {
			s.mu.Lock()
			defer s.mu.Unlock()
			return out.String()
		}
		io.WriteString(s, chatter)
		time.Sleep(time.Minute - time.Second)
		synctest.Wait()
		if got := shown(); !s.Hiding() || got != "" {
			t.Errorf("before its time is over: %q", got)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if got := shown(); s.Hiding() || !strings.Contains(got, "has not started") || !strings.HasSuffix(got, chatter) {
			t.Errorf("after its time: %q", got)
		}
		io.WriteString(s, "=> ")
		if got := shown(); !strings.HasSuffix(got, "=> ") {
			t.Errorf("its prompt is not shown: %q", got)
		}
	})
}

func TestScreenThatIsToShowAll(t *testing.T) {
	var out bytes.Buffer
	s := newScreen(&out, 0)
	defer s.Close()
	io.WriteString(s, chatter)
	s.Reveal()
	if out.String() != chatter || s.Hiding() {
		t.Errorf("it shows %q", out.String())
	}
}

// A key would stop U-Boot from booting.
func TestKeysForTheFirmwareAreLost(t *testing.T) {
	s := newScreen(io.Discard, time.Hour)
	defer s.Close()
	keys := make(chan string, 1)
	k := keyboard{readerFunc(func(b []byte) (int, error) {
		text, ok := <-keys
		if !ok {
			return 0, io.EOF
		}
		return copy(b, text), nil
	}), s}
	read := func(typed string) string {
		keys <- typed
		b := make([]byte, 10)
		n, err := k.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	if got := read("\r"); got != "" {
		t.Errorf("the firmware gets %q", got)
	}
	io.WriteString(s, started)
	if got := read("a\x1d"); got != "a\x03" {
		t.Errorf("the system gets %q", got)
	}
	close(keys)
	if _, err := k.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }
