// Command device makes patches and applies them, as publisher and device do, in a process of its own:
//
//	device make OLD NEW PATCH
//	device apply OLD PATCH SCRATCH NEW
//
// It prints the most memory that it had, in KiB.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"cloudlink.local/gateway/internal/update/delta"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "device:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	var err error
	switch {
	case len(args) == 4 && args[0] == "make":
		err = makePatch(args[1], args[2], args[3])
	case len(args) == 5 && args[0] == "apply":
		err = apply(args[1], args[2], args[3], args[4])
	default:
		err = errors.New("neither make nor apply, or not so many files")
	}
	if err != nil {
		return err
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	_, most, _ := strings.Cut(string(status), "VmHWM:")
	fmt.Println(strings.Fields(most)[0])
	return nil
}

func makePatch(old, new, patch string) error {
	a, err := os.ReadFile(old)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(new)
	if err != nil {
		return err
	}
	var buf bytes.Buffer
	if err := delta.Make(a, b, &buf); err != nil {
		return err
	}
	return os.WriteFile(patch, buf.Bytes(), 0o644)
}

func apply(old, patch, scratch, new string) error {
	in, err := os.Open(old)
	if err != nil {
		return err
	}
	defer in.Close()
	p, err := os.Open(patch)
	if err != nil {
		return err
	}
	defer p.Close()
	out, err := os.Create(new)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := delta.Apply(context.Background(), in, p, scratch, out); err != nil {
		return err
	}
	return out.Close()
}
