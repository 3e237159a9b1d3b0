package ntp

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"cloudlink.local/gateway/internal/testnet"
)

// chronyd starts chrony's server at addr in peer, with further lines of configuration. It leaves the
// machine's clock alone (-x).
func chronyd(t *testing.T, peer *testnet.Peer, addr string, lines string) *testnet.Process {
	t.Helper()
	peer.IP("addr", "add", addr+"/24", "dev", "eth0")
	dir := t.TempDir()
	conf := filepath.Join(dir, "chrony.conf")
	lines += "\nallow all\nbindaddress " + addr + "\ncmdport 0\nbindcmdaddress /\npidfile " + dir + "/pid\n"
	if err := os.WriteFile(conf, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	p := peer.Start(t, exec.Command("chronyd", "-x", "-d", "-u", "root", "-f", conf))
	p.Wait(t, "Disabled control of system clock")
	return p
}

func TestChronyd(t *testing.T) {
	peer := testnet.Cable(t, "lan0")
	testnet.Home(t).IP("addr", "add", "192.0.2.1/24", "dev", "lan0")

	// The falseticker follows a server that is five years ahead.
	upstream := new(string)
	if err := peer.Do(func() error {
		*upstream = hostile(t, "127.0.0.1", func(conn *net.UDPConn, from netip.AddrPort, question []byte) {
			conn.WriteToUDPAddrPort(reply48(question, time.Now().Add(5*year)), from)
		})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	_, ahead, err := net.SplitHostPort(*upstream)
	if err != nil {
		t.Fatal(err)
	}
	falseticker := chronyd(t, peer, "192.0.2.5", "server 127.0.0.1 port "+ahead+" iburst")
	chronyd(t, peer, "192.0.2.6", "") // knows no time
	for _, addr := range []string{"192.0.2.2", "192.0.2.3", "192.0.2.4"} {
		chronyd(t, peer, addr, "local stratum 8")
	}
	falseticker.Wait(t, "System clock wrong by")

	for name, c := range map[string]struct {
		servers []string
		wall    time.Duration
		before  bool
		source  Source
		reason  Reason
		agree   int
	}{
		"three good ones":                           {servers: []string{"192.0.2.2", "192.0.2.3", "192.0.2.4"}, wall: -5 * year, before: true, source: Verified, agree: 3},
		"three, one a falseticker":                  {servers: []string{"192.0.2.5", "192.0.2.2", "192.0.2.3"}, wall: -day, source: NTP, agree: 2},
		"four, one a falseticker, the clock as it":  {servers: []string{"192.0.2.5", "192.0.2.2", "192.0.2.3", "192.0.2.4"}, wall: 5 * year, before: true, source: Verified, agree: 3},
		"three that differ by five years from here": {servers: []string{"192.0.2.5", "192.0.2.2", "192.0.2.3"}, wall: 5 * year, before: true, source: NTP, agree: 0, reason: TooFar},
		"a pool's addresses":                        {servers: []string{"pool.ntp.org"}, wall: -day, source: Verified, agree: 3},
		"one that knows no time":                    {servers: []string{"192.0.2.6"}, wall: -day, source: Floor, reason: Unsynchronised},
		"the falseticker, alone, later":             {servers: []string{"192.0.2.5"}, before: true, source: NTP, reason: TooFar},
	} {
		t.Run(name, func(t *testing.T) {
			clock := &clock{off: c.wall, synced: c.before}
			states := make(chan State, 64)
			client := Client{
				Build: time.Now().Add(-6 * year), Floor: time.Now().Add(-6 * year), Clock: clock, Log: slog.New(slog.DiscardHandler),
				Resolve: func(context.Context, string) ([]netip.Addr, error) {
					return []netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3"), netip.MustParseAddr("192.0.2.4")}, nil
				},
				Changed: func(s State) { states <- s },
			}
			ctx, stop := context.WithCancel(t.Context())
			wishes, ended := make(chan Wish), make(chan struct{})
			go func() { defer close(ended); client.Run(ctx, wishes) }()
			defer func() { stop(); <-ended }()
			<-states
			wishes <- Wish{Chosen: c.servers}
			deadline := time.After(30 * time.Second)
			for {
				var s State
				select {
				case s = <-states:
				case <-deadline:
					t.Fatal("nothing of the kind within 30 s")
				}
				if s.Source != c.source || s.Reason != c.reason || len(s.Servers) != c.agree {
					t.Logf("at first: %+v", s) // a server may not have served yet
					continue
				}
				if slices.ContainsFunc(s.Servers, func(s Server) bool { return s.Name == "192.0.2.5" }) {
					t.Errorf("the falseticker is believed: %v", s.Servers)
				}
				if d := time.Since(clock.Now()).Abs(); c.agree > 0 && d > time.Second {
					t.Errorf("wrong by %v", d)
				}
				return
			}
		})
	}
}
