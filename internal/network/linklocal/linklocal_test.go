package linklocal

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"cloudlink.local/gateway/internal/network/arp"
	"cloudlink.local/gateway/internal/testnet"
)

func TestMain(m *testing.M) { testnet.Main(m) }

var (
	mac   = net.HardwareAddr{0x52, 0x54, 0, 0x12, 0x34, 0x56}
	other = net.HardwareAddr{0x52, 0x54, 0, 0x65, 0x43, 0x21}
)

// A bubble is a client in a test's bubble; the test says what its watches find.
type bubble struct {
	*Client
	t         *testing.T
	watches   chan *arp.Watch
	changes   chan netip.Addr
	conflicts chan bool
	stop      context.CancelFunc
	ended     chan error
}

func run(t *testing.T, remembered netip.Addr, change ...func(*Client)) *bubble {
	ctx, stop := context.WithCancel(t.Context())
	b := &bubble{
		Client: New(&net.Interface{Name: "lan0", HardwareAddr: mac}, slog.New(slog.DiscardHandler)),
		t:      t, watches: make(chan *arp.Watch), changes: make(chan netip.Addr, 16), conflicts: make(chan bool, 64),
		stop: stop, ended: make(chan error, 1),
	}
	b.Remembered = remembered
	b.Changed = func(a netip.Addr) { b.changes <- a }
	b.Conflict = func(_ netip.Addr, _ net.HardwareAddr, kept bool) { b.conflicts <- kept }
	b.watch = func(ctx context.Context, w *arp.Watch) error {
		select {
		case b.watches <- w:
		case <-ctx.Done():
		}
		<-ctx.Done()
		return nil
	}
	for _, f := range change {
		f(b.Client)
	}
	go func() { b.ended <- b.Run(ctx) }()
	return b
}

func (b *bubble) end() {
	b.t.Helper()
	b.stop()
	if err := <-b.ended; err != nil {
		b.t.Error(err)
	}
}

// quiet sees that nothing happens for d.
func (b *bubble) quiet(d time.Duration) {
	b.t.Helper()
	select {
	case w := <-b.watches:
		b.t.Errorf("looks for %v", w.Addr)
	case a := <-b.changes:
		b.t.Errorf("address is %v", a)
	case <-time.After(d):
	}
}

func TestComesWithoutALeaseAndGoesWithOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, netip.Addr{})
		start := time.Now()
		w := <-b.watches
		if time.Since(start) != patience || w.Timing != arp.Standard || !Is(w.Addr) {
			t.Errorf("after %v looks for %v", time.Since(start), w.Addr)
		}
		w.Report(arp.Free, nil)
		if a := <-b.changes; a != w.Addr {
			t.Errorf("address is %v, want %v", a, w.Addr)
		}
		b.Need(false)
		b.quiet(linger - time.Second)
		b.Need(true) // the lease did not last: the address stays
		b.quiet(time.Hour)
		start = time.Now()
		b.Need(false)
		if a := <-b.changes; a.IsValid() || time.Since(start) != linger {
			t.Errorf("after %v the address is %v", time.Since(start), a)
		}
		b.quiet(time.Hour)
		b.Need(true)
		if again := <-b.watches; again.Addr != w.Addr {
			t.Errorf("looks for %v, had %v", again.Addr, w.Addr)
		}
		b.end()
	})
}

// TestAnAddressThatIsOnThePortStaysAndGoes has the cable out for a moment, or the process started anew.
func TestAnAddressThatIsOnThePortStaysAndGoes(t *testing.T) {
	first := netip.MustParseAddr("169.254.7.7")
	inUse := func(c *Client) { c.InUse = true }
	t.Run("without a lease it stays, and is looked after at once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			b := run(t, first, inUse)
			w := <-b.watches
			if w.Addr != first || w.Timing != arp.Held || time.Since(start) != 0 {
				t.Errorf("after %v looks for %v with %+v", time.Since(start), w.Addr, w.Timing)
			}
			w.Report(arp.Free, nil)
			b.quiet(time.Hour)
			b.end()
		})
	})
	t.Run("with a lease it goes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			b := run(t, first, inUse)
			b.Need(false)
			(<-b.watches).Report(arp.Free, nil)
			if a := <-b.changes; a.IsValid() || time.Since(start) != linger {
				t.Errorf("after %v the address is %v", time.Since(start), a)
			}
			b.end()
		})
	})
	t.Run("another device of the new link has it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := run(t, first, inUse)
			w := <-b.watches
			w.Report(arp.Free, nil)
			w.Report(arp.Taken, other)
			<-b.conflicts
			if a := <-b.changes; a.IsValid() {
				t.Errorf("address is %v, want none", a)
			}
			w = <-b.watches
			if w.Addr == first || w.Timing != arp.Standard {
				t.Errorf("looks for %v with %+v", w.Addr, w.Timing)
			}
			w.Report(arp.Free, nil)
			if a := <-b.changes; a != w.Addr {
				t.Errorf("address is %v", a)
			}
			b.end()
		})
	})
}

func TestALeaseInTimeLeavesNothingToDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, netip.Addr{})
		time.Sleep(patience / 2)
		b.Need(false)
		b.quiet(time.Hour)
		b.end()
	})
}

func TestGoesOnToTheNextAddressAndSlowsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, netip.MustParseAddr("169.254.7.7"))
		seen := map[netip.Addr]bool{}
		for i := range maxConflicts + 5 {
			last := time.Now()
			w := <-b.watches
			if i == 0 && w.Addr.String() != "169.254.7.7" {
				t.Errorf("begins with %v", w.Addr)
			}
			if paused := time.Since(last) == rateLimit; paused != (i >= maxConflicts) {
				t.Errorf("try %d came after %v", i, time.Since(last))
			}
			if seen[w.Addr] {
				t.Errorf("tries %v again", w.Addr)
			}
			seen[w.Addr] = true
			w.Report(arp.Taken, other)
			if kept := <-b.conflicts; kept {
				t.Error("says it keeps the address")
			}
		}
		b.end()
	})
}

func TestDefendsAndGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, netip.Addr{})
		w := <-b.watches
		w.Report(arp.Free, nil)
		<-b.changes
		w.Report(arp.Defended, other)
		if kept := <-b.conflicts; !kept {
			t.Error("says it gives the address up")
		}
		w.Report(arp.Lost, other)
		if kept := <-b.conflicts; kept {
			t.Error("says it keeps the address")
		}
		if a := <-b.changes; a.IsValid() {
			t.Errorf("address is %v, want none", a)
		}
		if next := <-b.watches; next.Addr == w.Addr {
			t.Error("tries the same address again")
		}
		b.end()
	})
}

func TestCandidatesAreLinkLocalAndTheDevicesOwn(t *testing.T) {
	third := map[byte]bool{}
	for n := range uint64(5000) {
		a := candidate(mac, n)
		if !Is(a) {
			t.Fatalf("candidate %d is %v", n, a)
		}
		if a != candidate(mac, n) {
			t.Fatalf("candidate %d changes", n)
		}
		third[a.As4()[2]] = true
	}
	if len(third) != 254 {
		t.Errorf("candidates spread over %d of 254 networks", len(third))
	}
	if candidate(mac, 0) == candidate(other, 0) {
		t.Error("two devices begin with the same address")
	}
}

func TestIsLinkLocal(t *testing.T) {
	for a, want := range map[string]bool{
		"169.254.1.0": true, "169.254.254.255": true,
		"169.254.0.1": false, "169.254.255.1": false, "169.253.1.1": false, "fe80::1": false,
	} {
		if got := Is(netip.MustParseAddr(a)); got != want {
			t.Errorf("Is(%s) = %v", a, got)
		}
	}
	if Is(netip.Addr{}) {
		t.Error("no address is link-local")
	}
}

// TestTakesTheNextAddressWhenAnotherDeviceHasTheFirst has a far end that has our first address.
func TestTakesTheNextAddressWhenAnotherDeviceHasTheFirst(t *testing.T) {
	peer := testnet.Cable(t, "lan0")
	port, err := net.InterfaceByName("lan0")
	if err != nil {
		t.Fatal(err)
	}
	first := candidate(port.HardwareAddr, 0)
	peer.IP("addr", "add", first.String()+"/16", "dev", "eth0")
	ctx, stop := context.WithCancel(t.Context())
	changes, conflicts, ended := make(chan netip.Addr, 1), make(chan string, 1), make(chan error, 1)
	c := New(port, slog.New(slog.DiscardHandler))
	c.Changed = func(a netip.Addr) { changes <- a }
	c.Conflict = func(a netip.Addr, mac net.HardwareAddr, _ bool) { conflicts <- a.String() + " " + mac.String() }
	go func() { ended <- c.Run(ctx) }()
	var far string
	err = peer.Do(func() error {
		eth0, err := net.InterfaceByName("eth0")
		if err == nil {
			far = eth0.HardwareAddr.String()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := <-conflicts; got != first.String()+" "+far {
		t.Errorf("conflict is %q", got)
	}
	if a := <-changes; a != candidate(port.HardwareAddr, 1) {
		t.Errorf("address is %v", a)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
