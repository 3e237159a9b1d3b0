// Command mdns measures our multicast DNS responder beside avahi-daemon and systemd-resolved: the time
// from link-up to the first answer that avahi-resolve gets, the time an answer takes, and which of the
// RFCs' scenarios each passes. Everything happens in namespaces that end with the program, however it
// ends. The last line is a JSON object.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"time"

	"cloudlink.local/gateway/bench/internal/harness"
	"cloudlink.local/gateway/internal/mdns/mdnstest"
)

// A namespace is made on a thread that ends then. Were it the first one, which cannot end, /proc would
// show this whole program there.
func init() { runtime.LockOSThread() }

func main() {
	mdnstest.BeOurs()
	runs := flag.Int("runs", 5, "link-ups of each responder")
	only := flag.String("only", "", "measure this alone: first, answer or conformance")
	service := flag.String("service", "", "be the network service, with its files in this folder (the program starts itself so)")
	flag.Parse()
	var err error
	switch {
	case *runs < 1 || *runs > 100:
		err = fmt.Errorf("-runs is %d: give 1 to 100", *runs)
	case !slices.Contains([]string{"", "first", "answer", "conformance"}, *only):
		err = fmt.Errorf("-only is %q: give first, answer or conformance", *only)
	case *service != "":
		err = beService(*service)
	case !harness.Inside():
		err = harness.Again()
	default:
		err = bench(*runs, *only)
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Exited() {
		os.Exit(exit.ExitCode()) // it has said why
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-mdns:", err)
		os.Exit(1)
	}
}

// files is where everything is kept: in memory, gone with the namespaces.
const files = "/mnt"

func bench(runs int, only string) error {
	if err := harness.Hide(map[string]string{"/proc": "proc", "/sys": "sysfs", files: "tmpfs"}); err != nil {
		return err
	}
	result := map[string]any{"bench": "mdns", "runs": runs}
	for _, m := range []struct {
		name    string
		measure func(*harness.T)
	}{
		{"first", func(h *harness.T) { measureFirstAnswer(h, runs, result) }},
		{"answer", func(h *harness.T) { measureAnswer(h, result) }},
		{"conformance", func(h *harness.T) { measureConformance(h, result) }},
	} {
		if only != "" && only != m.name {
			continue
		}
		if err := harness.Try(files, m.measure); err != nil {
			return err
		}
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

func quantile(of []time.Duration, q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(of))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}
