// Command network measures the network service beside two other DHCP clients, dhcpcd and udhcpc: how
// long a port takes from its link's coming up to an address that works, what the service costs while
// calls pass the port, and whether a second look at a configured network changes anything. Everything
// happens in namespaces that end with the program, however it ends. The last line is a JSON object.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"

	"cloudlink.local/gateway/bench/internal/harness"
)

var verbose = flag.Bool("v", false, "show what the clients print")

// A namespace is made on a thread that ends then. Were it the first one, which cannot end, /proc would
// show this whole program there.
func init() { runtime.LockOSThread() }

func main() {
	runs := flag.Int("runs", 5, "link-ups of each client")
	service := flag.String("service", "", "be the network service, with its files in this folder (the program starts itself so)")
	flag.Parse()
	var err error
	switch {
	case *runs < 1 || *runs > 100:
		err = fmt.Errorf("-runs is %d: give 1 to 100", *runs)
	case *service != "":
		err = beService(*service)
	case !harness.Inside():
		err = harness.Again()
	default:
		err = bench(*runs)
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Exited() {
		os.Exit(exit.ExitCode()) // it has said why
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-network:", err)
		os.Exit(1)
	}
}

// files is where everything is kept: in memory, gone with the namespaces.
const files = "/run"

func bench(runs int) error {
	if err := harness.Hide(map[string]string{"/proc": "proc", "/sys": "sysfs", files: "tmpfs", dhcpcdDir: "tmpfs"}); err != nil {
		return err
	}
	result := map[string]any{"bench": "network", "runs": runs}
	lan, err := newLAN()
	if err != nil {
		return err
	}
	for _, measure := range []func() error{
		func() error { return measureConverge(result) },
		func() error { return measureLeases(lan, runs, result) },
		func() error { return measureIdle(lan, result) },
	} {
		if err := measure(); err != nil {
			return err
		}
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}
