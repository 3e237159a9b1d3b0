// Package peers tries our responder with the programs that people have: as clients, and as rivals for
// its name.
package peers

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"cloudlink.local/gateway/internal/mdns"
	"cloudlink.local/gateway/internal/mdns/mdnstest"
	"cloudlink.local/gateway/internal/testnet"
)

func TestMain(m *testing.M) { mdnstest.Main(m) }

// A lan is a switch.
type lan struct {
	*testnet.Peer
	ports int
}

func newLAN(t *testing.T) *lan { return &lan{Peer: testnet.Switch(t)} }

// join lays a cable from a new port of p, with these addresses, to the switch.
func (l *lan) join(p *testnet.Peer, port string, addrs ...string) {
	l.ports++
	far := fmt.Sprintf("far%d", l.ports)
	p.Plug(port, l.Peer, far)
	l.IP("link", "set", far, "master", testnet.Bridge)
	for _, a := range addrs {
		if strings.Contains(a, ":") {
			p.IP("addr", "add", a, "dev", port, "nodad")
		} else {
			p.IP("addr", "add", a, "dev", port)
		}
	}
}

// machine makes a machine with one port.
func (l *lan) machine(t *testing.T, addrs ...string) *testnet.Peer {
	p := testnet.New(t)
	l.join(p, port, addrs...)
	return p
}

const (
	port    = "lan0"
	patient = 40 * time.Second // a busy machine; what is waited for takes a few seconds
)

// gateway makes our responder, and starts it.
func gateway(t *testing.T, p *testnet.Peer) *mdnstest.Host {
	h := mdnstest.New(t, p, mdnstest.Ours, mdnstest.Gateway, mdnstest.Options{})
	h.Start()
	return h
}

// client makes avahi-daemon and its D-Bus, for its clients.
func client(t *testing.T, p *testnet.Peer) *mdnstest.Host {
	h := mdnstest.New(t, p, mdnstest.Avahi, mdnstest.Names{Host: "client"}, mdnstest.Options{Bus: true})
	h.Start()
	return h
}

// name is how a name of our responder's is doing on a port.
func name(h *mdnstest.Host, port, name string) mdns.Name {
	for _, l := range h.Status().Links {
		for _, n := range l.Names {
			if l.Name == port && n.Name == name {
				return n
			}
		}
	}
	return mdns.Name{}
}

// becomes waits until a name on a port is in a state.
func becomes(t *testing.T, h *mdnstest.Host, port, of string, state mdns.State) mdns.Name {
	t.Helper()
	mdnstest.Eventually(t, patient, fmt.Sprintf("%s on %s is %s", of, port, state), func() bool { return name(h, port, of).State == state })
	return name(h, port, of)
}

// says waits until a program prints all of the words.
func says(t *testing.T, h *mdnstest.Host, words []string, program string, args ...string) string {
	t.Helper()
	var out string
	var err error
	deadline := time.Now().Add(patient)
	for {
		out, err = h.Command(15*time.Second, program, args...)
		missing := ""
		for _, w := range words {
			if !strings.Contains(out, w) {
				missing = w
			}
		}
		if missing == "" {
			return out
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s %q does not say %q; it says (%v):\n%s", program, args, missing, err, out)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
