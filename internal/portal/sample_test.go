package portal

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"cloudlink.local/gateway/internal/condition"
	"cloudlink.local/gateway/internal/machine"
	"cloudlink.local/gateway/internal/network"
	"cloudlink.local/gateway/internal/network/ntp"
	"cloudlink.local/gateway/internal/release"
	"cloudlink.local/gateway/internal/update"
)

var testRelease = release.Release{
	Product:   release.Product,
	Board:     "qemu-virt",
	Version:   "1.0.0",
	BuildTime: time.Date(2026, 11, 20, 9, 30, 0, 0, time.UTC),
	Keys:      release.Production,
}

// A gateway stands in for process 1, the network service and the update service. Tests change what it says.
type gateway struct {
	mu      sync.Mutex // guards what follows
	m       machine.Status
	n       network.Status
	u       update.Status
	entries []machine.Entry
	before  []machine.Entry
	down    map[Part]bool
	asked   int
	net     netState
	up      upState
}

var errDown = errors.New("connect: connection refused")

// change lets f change what the gateway says.
func (g *gateway) change(f func(g *gateway)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f(g)
}

// ask returns what get finds unless p is down.
func ask[T any](ctx context.Context, g *gateway, p Part, get func() T) (T, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked++
	var none T
	if err := ctx.Err(); err != nil {
		return none, err
	}
	if g.down[p] {
		return none, errDown
	}
	return get(), nil
}

type fakeMachine struct{ *gateway }

func (f fakeMachine) Status(ctx context.Context) (machine.Status, error) {
	return ask(ctx, f.gateway, PartMachine, func() machine.Status { return f.m })
}

func (f fakeMachine) Log(ctx context.Context, after uint64, level machine.Level) ([]machine.Entry, error) {
	return ask(ctx, f.gateway, PartMachine, func() []machine.Entry { return choose(f.entries, after, level) })
}

func (f fakeMachine) PreviousLog(ctx context.Context, level machine.Level) ([]machine.Entry, error) {
	return ask(ctx, f.gateway, PartMachine, func() []machine.Entry { return choose(f.before, 0, level) })
}

func choose(list []machine.Entry, after uint64, level machine.Level) []machine.Entry {
	return slices.DeleteFunc(slices.Clone(list), func(e machine.Entry) bool { return e.Seq <= after || e.Level > level })
}

type fakeNetwork struct{ *gateway }

// The rest of fakeNetwork is in network_test.go.
func (f fakeNetwork) Status(ctx context.Context) (network.Status, error) {
	return ask(ctx, f.gateway, PartNetwork, func() network.Status { return f.n })
}

// sample is a gateway that works, as after some days.
func sample() *gateway {
	start := time.Date(2026, 11, 22, 9, 14, 3, 0, time.UTC)
	g := &gateway{down: map[Part]bool{}, net: sampleNet(start)}
	g.m = machine.Status{
		Release:       testRelease,
		Serial:        "CLG-7F3A91",
		Slot:          "a",
		BootID:        "6b0f5f5e-3f0c-4a53-9d55-0c1c4ad2a1f7",
		UptimeSeconds: 187_432,
		Time:          start.Add(187_432 * time.Second),
		Data:          machine.Data{State: machine.DataOK, SizeBytes: 1 << 30, FreeBytes: 1<<30 - 61<<20},
		Memory:        machine.Memory{TotalBytes: 231 << 20, AvailableBytes: 156 << 20},
		Services: []machine.Service{
			{Name: "network", State: machine.Running, PID: 71, SinceSeconds: 187_430, MemoryBytes: 9 << 20},
			{Name: "portal", State: machine.Running, PID: 72, SinceSeconds: 187_430, MemoryBytes: 14 << 20},
			{Name: "console", State: machine.Running, PID: 73, SinceSeconds: 3_912, Restarts: 1, LastExit: "exit status 1", MemoryBytes: 6 << 20},
		},
	}
	g.n = network.Status{Ports: []network.Port{
		{
			Name: "eth0", Role: network.WAN, MAC: "52:54:00:7f:3a:91", Link: true, SpeedMbps: 1000, MTU: 1500,
			Addresses: []network.Address{
				{Prefix: netip.MustParsePrefix("192.168.178.40/24"), Source: network.DHCP, ValidSeconds: 791_400},
				{Prefix: netip.MustParsePrefix("fe80::5054:ff:fe7f:3a91/64"), Source: network.Kernel},
			},
			Gateway: netip.MustParseAddr("192.168.178.1"),
			DNS:     []netip.Addr{netip.MustParseAddr("192.168.178.1"), netip.MustParseAddr("9.9.9.9")},
		},
		{Name: "eth1", Role: network.LAN, MAC: "52:54:00:7f:3a:92", MTU: 1500},
	}, Clock: network.Clock{Source: ntp.Verified, Servers: []string{"192.168.178.1", "de.pool.ntp.org"}, OffsetSeconds: 0.0123, SyncedSeconds: 734}, Names: network.Names{Host: defaultHost, Unique: uniqueHost}}
	g.u = sampleUpdate(g.m.Time)
	for i, l := range []struct {
		source string
		level  machine.Level
		text   string
	}{
		{"kernel", machine.LevelInfo, "Linux version 6.12.57 (build@cloudlink) (aarch64-linux-gnu-gcc 12.2.0) #1 SMP"},
		{"kernel", machine.LevelDebug, "virtio_blk virtio1: 1/0/0 default/read/poll queues"},
		{"init", machine.LevelInfo, "CloudLink Gateway 1.0.0 on qemu-virt, slot a"},
		{"init", machine.LevelInfo, "data partition mounted: 1.0 GiB, 963 MiB free"},
		{"network", machine.LevelInfo, "eth0: link is up, 1000 Mbit/s"},
		{"network", machine.LevelInfo, "eth0: leased 192.168.178.40/24 from 192.168.178.1 for 10 days"},
		{"portal", machine.LevelInfo, "serving on port 80"},
		{"kernel", machine.LevelWarn, "random: crng reseeded due to virtual machine fork"},
		{"console", machine.LevelError, "read console: input/output error"},
		{"init", machine.LevelWarn, "service console ended: exit status 1; again in 1s"},
		{"console", machine.LevelInfo, "status screen on /dev/console"},
	} {
		g.entries = append(g.entries, machine.Entry{
			Seq: uint64(i + 1), Time: start.Add(time.Duration(i*i*41) * time.Millisecond), Source: l.source, Level: l.level, Text: l.text,
		})
	}
	g.before = []machine.Entry{
		{Seq: 901, Time: start.Add(-time.Minute), Source: "init", Level: machine.LevelInfo, Text: "restart requested by user 103, process 73"},
	}
	return g
}

// faulty is a gateway with much to say.
func faulty() *gateway {
	g := sample()
	g.m.Release.Keys = release.Development
	g.m.Data = machine.Data{State: machine.DataReadOnly, Detail: "mount /dev/vda4: read-only file system", SizeBytes: 1 << 30, FreeBytes: 61 << 20}
	g.m.Services[2] = machine.Service{Name: "console", State: machine.Waiting, SinceSeconds: 4, Restarts: 12, LastExit: "signal: killed"}
	g.m.Conditions = []condition.Condition{
		condition.New(condition.ServiceFailing, "service", "console"),
		condition.New(condition.DataReadOnly),
		condition.New(condition.FellBack, "wanted", "b", "booted", "a"),
		condition.New(condition.ClockFloor),
		condition.New(condition.DevelopmentKeys),
	}
	g.n.Ports[0] = network.Port{Name: "eth0", Role: network.WAN, MAC: g.n.Ports[0].MAC, MTU: 1500}
	g.n.Clock = network.Clock{Source: ntp.Floor, Reason: ntp.NoAnswer, Detail: "ask pool.ntp.org: i/o timeout"}
	return g
}

// newPortal returns a portal for g that keeps no answers, so that a change shows at once.
func newPortal(t testing.TB, g *gateway, change ...func(*Config)) *Portal {
	t.Helper()
	c := Config{
		Release: g.m.Release,
		Machine: fakeMachine{g},
		Network: fakeNetwork{g},
		Update:  fakeUpdate{g},
		Notices: "testdata/notices.txt.gz",
		Log:     slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	for _, f := range change {
		f(&c)
	}
	p := New(c)
	p.keep = 0
	return p
}
