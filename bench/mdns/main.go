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
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/mdns/mdnstest"
)

// inside marks the process that is in the namespaces already.
const inside = "BENCH_MDNS_INSIDE"

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
	case os.Getenv(inside) == "":
		err = again()
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

// again runs this program in namespaces of its own. It is process 1 there: when it ends, or when this
// process does, the kernel ends all that it started, and mounts, ports and files go with them.
func again() error {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL, // when this thread ends: with the program
	}
	if uid, gid := os.Geteuid(), os.Getegid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: gid, Size: 1}}
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("make namespaces: %w: run it as root, or let everybody make them: "+
			"sysctl kernel.unprivileged_userns_clone=1 (in a container: --privileged)", err)
	}
	return cmd.Wait()
}

// files is where everything is kept: in memory, gone with the namespaces.
const files = "/mnt"

// prepare hides this machine from what is measured, and the other way round.
func prepare() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts private: %w", err)
	}
	for _, m := range []struct{ kind, dir string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"tmpfs", files}} {
		if err := unix.Mount(m.kind, m.dir, m.kind, unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.dir, err)
		}
	}
	return nil
}

func bench(runs int, only string) error {
	if err := prepare(); err != nil {
		return err
	}
	result := map[string]any{"bench": "mdns", "runs": runs}
	for _, m := range []struct {
		name    string
		measure func(*harness)
	}{
		{"first", func(h *harness) { measureFirstAnswer(h, runs, result) }},
		{"answer", func(h *harness) { measureAnswer(h, result) }},
		{"conformance", func(h *harness) { measureConformance(h, result) }},
	} {
		if only != "" && only != m.name {
			continue
		}
		if err := try(m.measure); err != nil {
			return err
		}
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

func median(of []time.Duration) time.Duration { return quantile(of, 0.5) }

func quantile(of []time.Duration, q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(of))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func round(x float64) float64 { return float64(int(x*1000+0.5)) / 1000 }
