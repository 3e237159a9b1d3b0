package logring

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/machine"
)

// CopyKernel adds the kernel's messages, old and new, until ctx ends.
func (r *Ring) CopyKernel(ctx context.Context) error {
	f, err := os.OpenFile("/dev/kmsg", os.O_RDONLY|unix.O_NONBLOCK, 0) // non-blocking: Close ends a Read
	if err != nil {
		return err
	}
	defer f.Close()
	defer context.AfterFunc(ctx, func() { f.Close() })()
	started, err := sinceBoot()
	if err != nil {
		return err
	}
	budget := r.budget("kernel")
	defer budget.report()
	buf := make([]byte, 8192) // the kernel's longest record
	for {
		n, err := f.Read(buf)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, unix.EPIPE) { // the kernel overwrote what we had not read yet
			continue
		}
		if err != nil {
			return fmt.Errorf("read kernel log: %w", err)
		}
		level, since, text, ok := parseKernel(buf[:n])
		if !ok || !budget.take() {
			continue
		}
		// A line from before is older than what the ring has. A new one was just written: the kernel
		// counts its lines' time by a clock that nobody corrects, which is off after months.
		if since >= started {
			r.Add("kernel", level, text)
			continue
		}
		mono, err := sinceBoot()
		if err != nil {
			return err
		}
		r.addAt(r.now().Add(since-mono), "kernel", level, text)
	}
}

// sinceBoot is the time that the kernel's lines are stamped with, but for the corrections that the
// monotonic clock has seen.
func sinceBoot() (time.Duration, error) {
	var mono unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono); err != nil {
		return 0, fmt.Errorf("read monotonic clock: %w", err)
	}
	return time.Duration(mono.Nano()), nil
}

// parseKernel reads one record of /dev/kmsg, "PRIORITY,SEQ,MICROSECONDS,FLAGS;text\n KEY=value\n".
// It is not ok for a record that a process wrote: process 1's own lines are in the ring already.
func parseKernel(rec []byte) (level machine.Level, since time.Duration, text string, ok bool) {
	head, rest, found := bytes.Cut(rec, []byte(";"))
	fields := bytes.Split(head, []byte(","))
	if !found || len(fields) < 4 {
		return 0, 0, "", false
	}
	priority, err1 := strconv.ParseUint(string(fields[0]), 10, 16)
	micros, err2 := strconv.ParseUint(string(fields[2]), 10, 62)
	if err1 != nil || err2 != nil || priority>>3 != 0 {
		return 0, 0, "", false
	}
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	return machine.Level(priority & 7), min(time.Duration(micros), 1<<52) * time.Microsecond, unescape(line), true
}

// unescape returns a text of /dev/kmsg as it was written: the kernel spells a tab, a backslash and
// all beyond ASCII as "\xNN".
func unescape(text []byte) string {
	out := make([]byte, 0, len(text))
	for len(text) > 0 {
		if len(text) >= 4 && text[0] == '\\' && text[1] == 'x' {
			if n, err := strconv.ParseUint(string(text[2:4]), 16, 8); err == nil {
				out = append(out, byte(n))
				text = text[4:]
				continue
			}
		}
		out = append(out, text[0])
		text = text[1:]
	}
	return string(out)
}
