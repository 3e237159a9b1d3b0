package conformance

import (
	"net/netip"
	"testing"

	"cloudlink.local/gateway/internal/testnet"
)

// A Tap hears the multicast DNS of a port.
type Tap struct{ wire *wire }

// Listen makes a tap on a port of p. It is taken away when the test ends.
func Listen(t testing.TB, p *testnet.Peer, port string) *Tap {
	t.Helper()
	var tap Tap
	err := p.Do(func() (err error) {
		tap.wire, err = openWire(port)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tap.wire.close)
	return &tap
}

// A Claim is a record of a response that says which address a name has.
type Claim struct {
	Name    string
	Address netip.Addr
	Goodbye bool
}

// Claims are the addresses that a host has told of so far.
func (t *Tap) Claims(host netip.Addr) (all []Claim) {
	for _, p := range t.heard(host) {
		for _, r := range p.records() {
			if p.response() && (r.typ == typeA || r.typ == typeAAAA) {
				all = append(all, Claim{Name: r.name, Address: r.addr(), Goodbye: r.ttl == 0})
			}
		}
	}
	return all
}

// Packets is how many packets a host has sent so far.
func (t *Tap) Packets(host netip.Addr) int { return len(t.heard(host)) }

func (t *Tap) heard(host netip.Addr) (all []*packet) {
	t.wire.mu.Lock()
	defer t.wire.mu.Unlock()
	for _, p := range t.wire.all {
		if p.from.Addr() == host {
			all = append(all, p)
		}
	}
	return all
}
