package conformance

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"cloudlink.local/gateway/internal/mdns/mdnstest"
)

// TestFloodLeavesOthersAnswered has one host ask 10,000 times a second; another one's few questions
// are all answered meanwhile.
func TestFloodLeavesOthersAnswered(t *testing.T) {
	t.Parallel()
	s := newScript(t, mdnstest.Ours, setup{})
	defer s.close()
	s.ready()
	var packets [][]byte
	for i := range 100 {
		asked := []question{q(s.name, typeA), q(s.service, typePTR), q(s.instance, typeANY), q(fmt.Sprintf("nobody-%d.local", i), typeA)}
		packets = append(packets, message{questions: asked[i%4 : i%4+1]}.bytes())
	}
	group := frame{
		toMAC: net.HardwareAddr{0x01, 0, 0x5e, 0, 0, 0xfb}, hops: 255,
		from: netip.AddrPortFrom(s.other, mdnsPort), to: netip.AddrPortFrom(s.group, mdnsPort),
	}
	ctx, stop := context.WithCancel(t.Context())
	var flooding sync.WaitGroup
	defer flooding.Wait()
	defer stop()
	sent := 0
	flooding.Go(func() {
		again := time.NewTicker(time.Millisecond)
		defer again.Stop()
		for begin := time.Now(); ctx.Err() == nil; <-again.C {
			for due := int(time.Since(begin).Milliseconds()) * 10; sent < due; sent++ {
				if err := s.wire.send(group, packets[sent%len(packets)]); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	for id := range uint16(10) {
		time.Sleep(300 * time.Millisecond)
		s.wire.send(frame{ // not with send, which waits for its own packet among all these
			toMAC: group.toMAC, hops: 255, from: netip.AddrPortFrom(s.us, 40000), to: group.to,
		}, message{id: id, questions: []question{q(s.name, s.addrType)}}.bytes())
		if s.find(5*time.Second, func(p *packet) bool { return p.to.Addr() == s.us && p.id == id && s.claims(s.name)(p) }) == nil {
			t.Errorf("question %d is not answered while another host floods", id)
		}
	}
	stop()
	flooding.Wait()
	t.Logf("%d packets were sent in the flood", sent)
}
