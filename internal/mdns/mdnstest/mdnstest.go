// Package mdnstest starts what answers multicast DNS questions in namespaces of testnet: our own
// responder, avahi-daemon and systemd-resolved, all told the same names, and the clients that come
// with the latter two.
package mdnstest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"cloudlink.local/gateway/internal/testnet"
)

// A Kind is a program that answers.
type Kind string

// What answers.
const (
	Ours     Kind = "ours"
	Avahi    Kind = "avahi"
	Resolved Kind = "resolved"
)

// Names is what a host answers for.
type Names struct {
	Host     string // first label of the name: "cloudlink"
	Unique   string // ours alone: first label of the name that is nobody else's
	Services []Service
}

// A Service is one that is announced.
type Service struct {
	Instance, Type string // "CloudLink Gateway (11af)", "_http._tcp"
	Port           uint16
	Text           []string
}

// Gateway is what a CloudLink gateway answers for.
var Gateway = Names{
	Host:   "cloudlink",
	Unique: "cloudlink-4711af",
	Services: []Service{{
		Instance: "CloudLink Gateway (11af)", Type: "_http._tcp", Port: 80,
		Text: []string{"path=/", "version=1.2.3", "serial=11af"},
	}},
}

// Options are what most hosts do without.
type Options struct {
	Bus     bool // D-Bus, which avahi's and resolved's clients need
	Reflect bool // avahi alone: repeats on each port what it hears on the others
}

// A Host is a machine with a program that answers. It has a file tree of its own as far as the
// program writes: /run is empty and in memory.
type Host struct {
	*testnet.Peer
	Kind  Kind
	Names Names

	t       testing.TB
	options Options
	dir     string // its files
	tree    int    // a process in its file tree
	process *testnet.Process
	stdin   *os.File // ours: takes new Names
}

// New makes a host of p, whose program does not run yet.
func New(t testing.TB, p *testnet.Peer, kind Kind, names Names, options Options) *Host {
	t.Helper()
	h := &Host{Peer: p, Kind: kind, Names: names, t: t, options: options, dir: t.TempDir()}
	if err := os.Chmod(h.dir, 0o755); err != nil { // resolved is not root
		t.Fatal(err)
	}
	if kind != Ours || options.Bus {
		h.plant()
	}
	return h
}

// plant makes the file tree and, where it is asked for, starts D-Bus there.
func (h *Host) plant() {
	h.t.Helper()
	holder := "sleep infinity"
	if h.options.Bus {
		holder = "dbus-daemon --nofork --nopidfile --config-file=" + h.write("bus.conf", busConfig)
	}
	// resolved's user is needed by the program, not by this machine.
	passwd, err := os.ReadFile("/etc/passwd")
	if err != nil {
		h.t.Fatal(err)
	}
	if !bytes.Contains(passwd, []byte("\nsystemd-resolve:")) {
		passwd = append(passwd, "systemd-resolve:x:65530:65534::/:/usr/sbin/nologin\n"...)
	}
	h.write("passwd", string(passwd))
	script := strings.NewReplacer("DIR", h.dir, "HOST", h.Names.Host, "HOLDER", holder).Replace(`set -e
		mount -t tmpfs tmpfs /run
		mkdir -p /run/dbus /run/avahi-daemon /run/systemd/resolved.conf.d /run/systemd/dnssd
		mkdir -p DIR/services
		[ ! -d /etc/avahi/services ] || mount --bind DIR/services /etc/avahi/services
		mount --bind DIR/passwd /etc/passwd
		echo HOST >/proc/sys/kernel/hostname
		echo "tree $$"
		exec HOLDER`)
	p := h.Peer.Start(h.t, exec.Command("unshare", "--mount", "--uts", "sh", "-c", script))
	p.Wait(h.t, "tree ")
	for _, line := range p.Lines() {
		if pid, ok := strings.CutPrefix(line, "tree "); ok {
			if h.tree, err = strconv.Atoi(pid); err != nil {
				h.t.Fatal(err)
			}
		}
	}
	if h.options.Bus {
		socket := fmt.Sprintf("/proc/%d/root/run/dbus/system_bus_socket", h.tree)
		Eventually(h.t, 20*time.Second, "D-Bus's socket", func() bool {
			_, err := os.Stat(socket)
			return err == nil
		})
	}
}

const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
  </policy>
</busconfig>
`

// write writes a file of the host's and returns its path.
func (h *Host) write(name, content string) string {
	h.t.Helper()
	path := filepath.Join(h.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		h.t.Fatal(err)
	}
	return path
}

// in makes a command that runs in the host's file tree.
func (h *Host) in(name string, args ...string) *exec.Cmd {
	if h.tree == 0 {
		return exec.Command(name, args...)
	}
	pid := strconv.Itoa(h.tree)
	return exec.Command("nsenter", append([]string{"--mount=/proc/" + pid + "/ns/mnt", "--uts=/proc/" + pid + "/ns/uts", "--", name}, args...)...)
}

// Start starts the program and returns when it is about to answer, if it is Avahi or Resolved, or
// has been told what to answer, if it is Ours.
func (h *Host) Start() {
	h.t.Helper()
	switch h.Kind {
	case Ours:
		h.startOurs()
	case Avahi:
		h.startAvahi()
	case Resolved:
		h.startResolved()
	default:
		h.t.Fatalf("mdnstest: there is no %q", h.Kind)
	}
}

// Stop asks the program to end and waits until it has.
func (h *Host) Stop() {
	if h.process != nil {
		h.process.Stop()
	}
	if h.stdin != nil {
		h.stdin.Close()
		h.stdin = nil
	}
}

// Kill ends the program as a power cut would.
func (h *Host) Kill() {
	h.process.Kill()
}

// Lines is what the program has printed.
func (h *Host) Lines() []string { return h.process.Lines() }

// Await waits until the program has printed a line that contains text, after the last awaited one.
func (h *Host) Await(text string) {
	h.t.Helper()
	h.process.Wait(h.t, text)
}

// Serve has the host announce other services than before.
func (h *Host) Serve(services ...Service) {
	h.t.Helper()
	h.Names.Services = services
	switch h.Kind {
	case Ours:
		h.tell()
	case Avahi:
		h.writeAvahiServices()
		if out, err := h.Command(10*time.Second, "avahi-daemon", "--reload"); err != nil {
			h.t.Fatalf("mdnstest: avahi-daemon --reload: %v\n%s", err, out)
		}
	case Resolved: // it reads them when it starts, and then no more
		h.Stop()
		h.Start()
	}
}

// Command runs a program in the host's file tree and returns what it printed within the time given.
func (h *Host) Command(within time.Duration, name string, args ...string) (string, error) {
	ctx, stop := context.WithTimeout(context.Background(), within)
	defer stop()
	cmd := h.in(name, args...)
	cmd = exec.CommandContext(ctx, cmd.Path, cmd.Args[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second
	if err := h.Do(cmd.Start); err != nil {
		return "", err
	}
	err := cmd.Wait()
	if ctx.Err() != nil {
		err = errors.Join(ctx.Err(), err)
	}
	return out.String(), err
}

// Eventually waits until it holds.
func Eventually(t testing.TB, within time.Duration, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}
