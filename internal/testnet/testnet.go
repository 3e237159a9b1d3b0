// Package testnet gives a test its own network: Main runs the test binary in empty network and
// mount namespaces, Cable and Switch lead into further ones, where a real peer (dnsmasq, avahi, …)
// runs. It needs root, or a kernel that lets everybody make user namespaces.
package testnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// inside marks the test binary that runs in the namespaces already: made, then ready.
const (
	inside = "TESTNET_INSIDE"
	made   = "made"
	ready  = "ready"
)

// Main is what a package's TestMain calls: it runs the tests in empty namespaces and exits.
func Main(m *testing.M) {
	if os.Getenv(inside) == "" {
		os.Exit(again())
	}
	if os.Getenv(inside) != ready { // a fuzzing worker finds it done
		if err := prepare(); err != nil {
			fmt.Fprintf(os.Stderr, "testnet: %v\n", err)
			os.Exit(1)
		}
		os.Setenv(inside, ready)
	}
	os.Exit(m.Run())
}

// again runs this program with the same arguments in new namespaces and returns its exit code.
func again() int {
	runtime.LockOSThread() // Pdeathsig is sent when this thread ends
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), inside+"="+made)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS,
		Pdeathsig:  syscall.SIGKILL,
	}
	if uid, gid := os.Geteuid(), os.Getegid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: gid, Size: 1}}
	}
	if err := cmd.Start(); err != nil {
		fmt.Fprintf(os.Stderr, "testnet: make network namespace: %v\n"+
			"Run the tests as root, or let everybody make namespaces: "+
			"sysctl kernel.unprivileged_userns_clone=1 (in a container: --privileged).\n", err)
		return 1
	}
	// The go tool asks a test that takes too long for its goroutines; they are in the child.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGQUIT, syscall.SIGTERM)
	go func() {
		for s := range signals {
			cmd.Process.Signal(s)
		}
	}()
	err := cmd.Wait()
	signal.Stop(signals)
	close(signals)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Exited() {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "testnet: tests in their namespace: %v\n", err)
		return 1
	}
	return 0
}

// prepare makes /sys show the new network namespace and brings its loopback up.
func prepare() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts private: %w", err)
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount sysfs of the new network namespace: %w", err)
	}
	return up("lo")
}

func up(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring %s up: %w", name, err)
	}
	return nil
}

// A Peer is another network namespace: the machines at the far end of the cable.
type Peer struct {
	t  testing.TB
	ns netns.NsHandle
}

// New makes a namespace that no cable leads to yet.
func New(t testing.TB) *Peer {
	t.Helper()
	p := &Peer{t: t}
	err := onThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
		if p.ns, err = netns.Get(); err != nil {
			return fmt.Errorf("open network namespace: %w", err)
		}
		return up("lo")
	})
	if err != nil {
		t.Fatalf("testnet: %v", err)
	}
	t.Cleanup(func() { p.ns.Close() })
	return p
}

// Home is the test's own namespace.
func Home(t testing.TB) *Peer {
	t.Helper()
	ns, err := netns.Get()
	if err != nil {
		t.Fatalf("testnet: open own network namespace: %v", err)
	}
	t.Cleanup(func() { ns.Close() })
	return &Peer{t: t, ns: ns}
}

// Cable lays a cable from port name in the test's namespace to port eth0 of a new one. Both ends
// are up and without addresses.
func Cable(t testing.TB, name string) *Peer {
	t.Helper()
	p := New(t)
	Home(t).Plug(name, p, "eth0")
	return p
}

// Plug lays a cable from a new port of p to a new port of other.
func (p *Peer) Plug(name string, other *Peer, far string) {
	p.t.Helper()
	err := p.Do(func() error {
		err := netlink.LinkAdd(&netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: name},
			PeerName:      far,
			PeerNamespace: netlink.NsFd(other.ns),
		})
		if err != nil {
			return fmt.Errorf("lay cable from %s to %s: %w", name, far, err)
		}
		return up(name)
	})
	if err == nil {
		err = other.Do(func() error { return up(far) })
	}
	if err != nil {
		p.t.Fatalf("testnet: %v", err)
	}
	p.t.Cleanup(func() { p.Do(func() error { return unplug(name) }) })
}

// unplug takes a cable away; the test may have done so.
func unplug(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkDel(link)
}

// Do runs f in p's namespace, on this goroutine: what f opens stays there, what f starts with go
// does not.
func (p *Peer) Do(f func() error) error {
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("testnet: open own network namespace: %w", err)
	}
	defer home.Close()
	defer func() {
		// A thread that cannot go back stays locked and ends with its goroutine.
		if err := netns.Set(home); err == nil {
			runtime.UnlockOSThread()
		}
	}()
	if err := netns.Set(p.ns); err != nil {
		return fmt.Errorf("testnet: enter network namespace: %w", err)
	}
	return f()
}

// Dial connects from p's namespace to an address: names are not looked up there.
func (p *Peer) Dial(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	if _, err := netip.ParseAddrPort(addr); err != nil {
		return nil, fmt.Errorf("testnet: dial: %w", err)
	}
	err = p.Do(func() error {
		conn, err = new(net.Dialer).DialContext(ctx, network, addr) // with one address, on this goroutine
		return err
	})
	return conn, err
}

// IP runs ip(8) in p's namespace and returns what it printed.
func (p *Peer) IP(args ...string) string {
	p.t.Helper()
	return p.Run("ip", args...)
}

// Run runs a program in p's namespace to its end and returns what it printed.
func (p *Peer) Run(name string, args ...string) string {
	p.t.Helper()
	path := lookPath(p.t, name)
	var out []byte
	err := p.Do(func() (err error) {
		out, err = exec.Command(path, args...).CombinedOutput()
		return err
	})
	if err != nil {
		p.t.Fatalf("testnet: %s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// packages says where the tools that tests use come from.
var packages = map[string]string{
	"ip":        "iproute2",
	"dnsmasq":   "dnsmasq-base",
	"dhcpcd":    "dhcpcd-base",
	"dhcpd":     "isc-dhcp-server",
	"kea-dhcp4": "kea-dhcp4-server",
	"kea-dhcp6": "kea-dhcp6-server",
	"chronyd":   "chrony",
	"nft":       "nftables",
	"ping":      "iputils-ping",
}

func lookPath(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	for _, dir := range []string{"/usr/sbin/", "/sbin/"} { // not everybody's PATH has them
		if path, err := exec.LookPath(dir + name); err == nil {
			return path
		}
	}
	pkg := packages[name]
	if pkg == "" {
		pkg = name
	}
	t.Fatalf("testnet: %s is missing: apt-get install --no-install-recommends %s, or run scripts/setup", name, pkg)
	return ""
}

// onThread runs f on a thread that ends afterwards, whatever f did to it.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		done <- f()
	}()
	return <-done
}
