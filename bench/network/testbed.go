package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A namespace is a machine's network.
type namespace struct {
	*netlink.Handle
	ns netns.NsHandle
}

// newNamespace makes a namespace with its loopback up.
func newNamespace() (n namespace, err error) {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			n.ns, err = netns.Get()
		}
		done <- err
	}()
	if err = <-done; err == nil {
		n.Handle, err = netlink.NewHandleAt(n.ns, unix.NETLINK_ROUTE)
	}
	if err == nil {
		err = n.up("lo")
	}
	if err != nil {
		return n, fmt.Errorf("make network namespace: %w", err)
	}
	return n, nil
}

func (n namespace) close() {
	n.Handle.Close()
	n.ns.Close()
}

// do runs f in n, on this goroutine: what f opens stays there.
func (n namespace) do(f func() error) error {
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.Close()
	defer func() {
		if netns.Set(home) == nil { // else the thread ends with its goroutine
			runtime.UnlockOSThread()
		}
	}()
	if err := netns.Set(n.ns); err != nil {
		return err
	}
	return f()
}

// set changes port name.
func (n namespace) set(name string, change func(netlink.Link) error) error {
	link, err := n.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	if err := change(link); err != nil {
		return fmt.Errorf("change %s: %w", name, err)
	}
	return nil
}

func (n namespace) up(name string) error { return n.set(name, n.LinkSetUp) }

// add gives port name an address.
func (n namespace) add(name, prefix string) error {
	return n.set(name, func(l netlink.Link) error {
		a, err := netlink.ParseAddr(prefix)
		if err != nil {
			return err
		}
		return n.AddrAdd(l, a)
	})
}

// A lan is a switch with a DHCP server.
type lan struct {
	namespace
	kea   *process
	hosts int // so far
}

const (
	bridge = "br0"
	port   = "lan0" // of every host
)

var (
	subnet = netip.MustParsePrefix("10.9.0.0/16")
	server = netip.MustParseAddr("10.9.0.1")
)

func newLAN() (*lan, error) {
	n, err := newNamespace()
	if err != nil {
		return nil, err
	}
	l := &lan{namespace: n}
	// A switch without spanning tree forwards from the first moment.
	if err := n.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridge}}); err != nil {
		return nil, fmt.Errorf("make switch: %w", err)
	}
	if err := errors.Join(n.add(bridge, "10.9.0.1/16"), n.up(bridge)); err != nil {
		return nil, err
	}
	// The leases last ten years: of one from before a restart the service only knows that it is older than
	// the machine's uptime, and this machine was not just switched on.
	config := filepath.Join(files, "kea.json")
	err = os.WriteFile(config, fmt.Appendf(nil, `{"Dhcp4": {
		"interfaces-config": {"interfaces": [%q]},
		"lease-database": {"type": "memfile", "persist": false},
		"valid-lifetime": 315360000, "authoritative": true,
		"subnet4": [{"subnet": "10.9.0.0/16", "pools": [{"pool": "10.9.1.0 - 10.9.9.255"}],
			"option-data": [{"name": "routers", "data": "10.9.0.1"}]}],
		"loggers": [{"name": "kea-dhcp4", "severity": "INFO", "output_options": [{"output": "stdout", "flush": true}]}]
	}}`, bridge), 0o644)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("kea-dhcp4", "-c", config)
	cmd.Env = append(os.Environ(), "KEA_PIDFILE_DIR="+files, "KEA_LOCKFILE_DIR=none")
	if l.kea, err = n.start(cmd); err != nil {
		return nil, err
	}
	return l, l.kea.await("DHCP4_STARTED")
}

// A host is a machine with a DHCP client, whose port lan0 has a cable to the switch.
type host struct {
	namespace
	lan    *lan
	far    string   // the switch's end of the cable
	client *process // nil before it is started
}

// newHost makes a host whose link is down as long as the switch's end is. Without a MAC address it
// gets one that nobody had before.
func (l *lan) newHost(mac net.HardwareAddr) (*host, error) {
	n, err := newNamespace()
	if err != nil {
		return nil, err
	}
	l.hosts++
	h := &host{namespace: n, lan: l, far: fmt.Sprintf("far%d", l.hosts)}
	if mac == nil {
		mac = net.HardwareAddr{2, 0, 0, 9, byte(l.hosts >> 8), byte(l.hosts)}
	}
	cable := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: h.far}, PeerName: port, PeerNamespace: netlink.NsFd(n.ns), PeerHardwareAddr: mac,
	}
	if err := l.LinkAdd(cable); err != nil {
		return nil, fmt.Errorf("lay cable: %w", err)
	}
	return h, l.set(h.far, func(far netlink.Link) error {
		return l.set(bridge, func(b netlink.Link) error { return l.LinkSetMaster(far, b) })
	})
}

func (h *host) mac() (mac net.HardwareAddr, err error) {
	err = h.set(port, func(l netlink.Link) error { mac = l.Attrs().HardwareAddr; return nil })
	return mac, err
}

// remove takes h away as if it had lost its power, with all that runs there: dhcpcd is several
// processes.
func (h *host) remove() error {
	defer h.close()
	for { // one may start another before its end
		pids, err := h.processes()
		if err != nil {
			return err
		}
		if len(pids) == 0 {
			break
		}
		for _, pid := range pids {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("end process %d: %w", pid, err)
			}
		}
		time.Sleep(time.Millisecond)
	}
	if h.client != nil {
		<-h.client.done
	}
	return h.lan.set(h.far, h.lan.LinkDel)
}

// processes is all that run in h.
func (h *host) processes() (pids []int, err error) {
	var own unix.Stat_t
	if err := unix.Fstat(int(h.ns), &own); err != nil {
		return nil, fmt.Errorf("look at network namespace: %w", err)
	}
	found, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return nil, err
	}
	for _, path := range found {
		var info unix.Stat_t
		if err := unix.Stat(path, &info); err != nil || info.Ino != own.Ino {
			continue // gone, or another's
		}
		pid, err := strconv.Atoi(strings.Split(path, "/")[2])
		if err != nil {
			return nil, fmt.Errorf("number of process %s: %w", path, err)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// reaches waits until the DHCP server answers a packet from addr: nothing listens, so it refuses.
func (h *host) reaches(ctx context.Context, addr netip.Addr) error {
	for {
		dialer := net.Dialer{
			LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)), Timeout: 300 * time.Millisecond,
		}
		err := h.do(func() error { // to one address, Dial works on this goroutine
			conn, err := dialer.DialContext(ctx, "tcp4", netip.AddrPortFrom(server, 9).String())
			if err == nil {
				conn.Close()
			}
			return err
		})
		switch {
		case errors.Is(err, unix.ECONNREFUSED):
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("reach the server from %v: %w", addr, err)
		}
	}
}

// A process is a program in a namespace.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}

	mu    sync.Mutex // guards what follows
	lines []string
	more  chan struct{} // closed when a line is added
}

// started is when the program was; what the clients print is shown with the time since.
var started = time.Now()

// start starts cmd in n.
func (n namespace) start(cmd *exec.Cmd) (*process, error) {
	if !filepath.IsAbs(cmd.Path) {
		path, err := lookPath(cmd.Path)
		if err != nil {
			return nil, err
		}
		cmd.Path, cmd.Err = path, nil
	}
	p := &process{cmd: cmd, done: make(chan struct{}), more: make(chan struct{})}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = cmd.Stdout
	if err := n.do(cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	go func() { // ends with the program
		defer close(p.done)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if *verbose {
				fmt.Fprintf(os.Stderr, "%10.4f %s: %s\n", time.Since(started).Seconds(), filepath.Base(cmd.Path), lines.Text())
			}
			p.mu.Lock()
			p.lines = append(p.lines, lines.Text())
			close(p.more)
			p.more = make(chan struct{})
			p.mu.Unlock()
		}
		cmd.Wait() // whoever awaits something from it notices
	}()
	return p, nil
}

// lookPath finds a program also where not everybody's PATH does.
func lookPath(name string) (string, error) {
	for _, dir := range []string{"", "/usr/sbin/", "/sbin/"} {
		if path, err := exec.LookPath(dir + name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is missing: run scripts/setup test", name)
}

// await waits until the program has printed a line that contains text.
func (p *process) await(text string) error {
	deadline := time.After(30 * time.Second)
	for seen := 0; ; {
		p.mu.Lock()
		lines, more := p.lines, p.more
		p.mu.Unlock()
		for ; seen < len(lines); seen++ {
			if strings.Contains(lines[seen], text) {
				return nil
			}
		}
		why := ""
		select {
		case <-more:
			continue
		case <-p.done:
			why = "ended"
		case <-deadline:
			why = "took more than 30 s"
		}
		return fmt.Errorf("%s %s before it printed %q; it printed:\n%s", p.cmd.Path, why, text, strings.Join(lines, "\n"))
	}
}
