package reconcile

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/network/spec"
	"cloudlink.local/gateway/internal/testnet"
)

func TestMain(m *testing.M) { testnet.Main(m) }

var (
	subnet  = netip.MustParsePrefix
	ip      = netip.MustParseAddr
	everyv4 = subnet("0.0.0.0/0")
	everyv6 = subnet("::/0")
)

// A gateway is a namespace in which the reconciler runs as it does in the network service.
type gateway struct {
	*testnet.Peer
	t    *testing.T
	work chan func()
	Reconciler
}

func newGateway(t *testing.T) *gateway {
	t.Helper()
	return inside(t, testnet.New(t))
}

func inside(t *testing.T, peer *testnet.Peer) *gateway {
	t.Helper()
	g := &gateway{Peer: peer, t: t, work: make(chan func())}
	ready := make(chan error)
	done := make(chan struct{})
	go func() { // ends with the test; its thread with it, as Do cannot go back with so few rights
		defer close(done)
		g.Do(func() error {
			err := beService()
			ready <- err
			if err == nil {
				for f := range g.work {
					f()
				}
			}
			return nil
		})
	}()
	if err := <-ready; err != nil {
		t.Fatalf("become the network service: %v", err)
	}
	t.Cleanup(func() { close(g.work); <-done })
	return g
}

// beService gives this thread the network service's user and capabilities.
func beService() error {
	b, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return err
	}
	if f := strings.Fields(string(b)); f[2] != "1" { // else the kernel knows no other user here
		const user = 101
		if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
			return err
		}
		for _, call := range []uintptr{unix.SYS_SETRESGID, unix.SYS_SETRESUID} { // of this thread only
			if _, _, errno := unix.RawSyscall(call, user, user, user); errno != 0 {
				return errno
			}
		}
	}
	caps := uint32(1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_RAW | 1<<unix.CAP_NET_BIND_SERVICE)
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{{Effective: caps, Permitted: caps}}
	return unix.Capset(&head, &data[0])
}

// as runs f as the network service.
func (g *gateway) as(f func()) {
	done := make(chan struct{})
	g.work <- func() { defer close(done); f() }
	<-done
}

func (g *gateway) try(want spec.Spec) (writes int, err error) {
	g.as(func() { writes, err = g.Reconcile(want) })
	return writes, err
}

// make reconciles.
func (g *gateway) make(want spec.Spec) (writes int) {
	g.t.Helper()
	writes, err := g.try(want)
	if err != nil {
		g.t.Fatalf("reconcile: %v", err)
	}
	return writes
}

// settle reconciles until the kernel has tested its IPv6 addresses and nothing is to be done.
func (g *gateway) settle(want spec.Spec) {
	g.t.Helper()
	var last State
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		cable := g.cables()
		last = g.state()
		tested := !slices.ContainsFunc(last.Addresses, func(a Address) bool {
			return a.Tentative && cable[a.Link] // without one, the test waits
		})
		if n := g.make(want); n == 0 && tested {
			return
		}
	}
	g.t.Fatalf("does not settle: %+v", last)
}

func (g *gateway) state() (s State) {
	g.t.Helper()
	var err error
	g.as(func() { s, err = List() })
	if err != nil {
		g.t.Fatalf("list: %v", err)
	}
	return s
}

// run runs ip(8) with words, which may fail.
func (g *gateway) run(words string) (string, error) {
	var out []byte
	err := g.Do(func() (err error) {
		out, err = exec.Command("ip", strings.Fields(words)...).CombinedOutput()
		return err
	})
	return string(out), err
}

// ip runs ip(8) with words.
func (g *gateway) ip(words string, args ...any) string {
	g.t.Helper()
	return g.IP(strings.Fields(fmt.Sprintf(words, args...))...)
}

// ask runs ip -j with words, and returns the objects it prints.
func (g *gateway) ask(words string) []map[string]any {
	g.t.Helper()
	var list []map[string]any
	if out := strings.TrimSpace(g.ip("-j %s", words)); out != "" {
		if err := json.Unmarshal([]byte(out), &list); err != nil {
			g.t.Fatalf("ip -j %s: %v: %s", words, err, out)
		}
	}
	return list
}

// cables says which links there are, and which have a cable.
func (g *gateway) cables() map[string]bool {
	g.t.Helper()
	cable := map[string]bool{}
	for _, l := range g.ask("link") {
		cable[fmt.Sprint(l["ifname"])] = slices.Contains(l["flags"].([]any), any("LOWER_UP"))
	}
	return cable
}

func (g *gateway) has(address string) bool {
	return strings.Contains(g.ip("-o addr"), " "+address+" ")
}

// answers says whether the gateway's address to answers a peer that asks from its address from.
func answers(peer *testnet.Peer, from, to string) bool {
	err := peer.Do(func() error {
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip(from), 0)), Timeout: 2 * time.Second}
		conn, err := d.Dial("tcp", netip.AddrPortFrom(ip(to), 9).String())
		if err == nil {
			conn.Close()
		}
		return err
	})
	return errors.Is(err, unix.ECONNREFUSED) // nothing listens: the answer is a reset
}

func ports(names ...string) (links []spec.Link) {
	for _, n := range names {
		links = append(links, spec.Link{Name: n, MTU: 1500, IPv6: spec.IPv6Static})
	}
	return links
}

func address(link, p string) spec.Address {
	return spec.Address{Link: link, Prefix: subnet(p), Source: spec.Static}
}

func route(link, to, via string, metric int) spec.Route {
	r := spec.Route{Link: link, Destination: subnet(to), Metric: metric}
	if via != "" {
		r.Via = ip(via)
	}
	return r
}
