package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
)

// A harness is what the packages for tests need of a test. It has the methods that they call, and no
// others.
type harness struct {
	testing.TB // nil

	mu       sync.Mutex // guards what follows
	failures []string
	cleanups []func()
}

// try runs f and what it has asked for after its end. What f fails with is returned.
func try(f func(*harness)) error {
	h := new(harness)
	done := make(chan struct{})
	go func() { // for Fatal
		defer close(done)
		defer h.clean()
		f(h)
	}()
	<-done
	if len(h.failures) > 0 {
		return errors.New(strings.Join(h.failures, "\n"))
	}
	return nil
}

func (h *harness) clean() {
	for _, f := range slices.Backward(h.cleanups) {
		f()
	}
}

func (h *harness) Helper() {}

func (h *harness) Cleanup(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cleanups = append(h.cleanups, f)
}

func (h *harness) Failed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.failures) > 0
}

func (h *harness) fail(text string) {
	h.mu.Lock()
	h.failures = append(h.failures, text)
	h.mu.Unlock()
	runtime.Goexit()
}

func (h *harness) Fatal(args ...any)                 { h.fail(fmt.Sprint(args...)) }
func (h *harness) Fatalf(format string, args ...any) { h.fail(fmt.Sprintf(format, args...)) }

// Logf shows what a program printed before it failed.
func (h *harness) Logf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

func (h *harness) TempDir() string {
	dir, err := os.MkdirTemp(files, "")
	if err != nil {
		h.Fatal(err)
	}
	return dir
}
