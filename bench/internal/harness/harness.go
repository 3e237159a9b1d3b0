// Package harness is what the benchmarks have in common: a stand-in for the test that the packages for
// tests ask for, and namespaces of one's own.
package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
)

// A T is what the packages for tests need of a test. It has the methods that they call, and no others.
type T struct {
	testing.TB // nil

	mu       sync.Mutex // guards what follows
	failures []string
	cleanups []func()
	dir      string // for TempDir
	ctx      context.Context
}

// Try runs f and what it has asked for after its end. What f fails with is returned. Folders of f are
// made in dir, "" for the usual place.
func Try(dir string, f func(*T)) error {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	h := &T{dir: dir, ctx: ctx}
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

func (h *T) clean() {
	for _, f := range slices.Backward(h.cleanups) {
		f()
	}
}

func (h *T) Helper() {}

func (h *T) Cleanup(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cleanups = append(h.cleanups, f)
}

func (h *T) Failed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.failures) > 0
}

func (h *T) fail(text string) {
	h.mu.Lock()
	h.failures = append(h.failures, text)
	h.mu.Unlock()
	runtime.Goexit()
}

func (h *T) Fatal(args ...any)                 { h.fail(fmt.Sprint(args...)) }
func (h *T) Fatalf(format string, args ...any) { h.fail(fmt.Sprintf(format, args...)) }

// Logf shows what a program printed before it failed.
func (h *T) Logf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

func (h *T) TempDir() string {
	dir, err := os.MkdirTemp(h.dir, "bench")
	if err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// Context ends with f.
func (h *T) Context() context.Context { return h.ctx }
