package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/bench/internal/harness"
	"cloudlink.local/gateway/internal/mdns/mdnstest"
	"cloudlink.local/gateway/internal/network"
	"cloudlink.local/gateway/internal/network/reconcile"
	"cloudlink.local/gateway/internal/settings"
	"cloudlink.local/gateway/internal/testnet"
)

const (
	port    = "lan0" // of the host that is measured
	address = "192.0.2.1/24"
	name    = "cloudlink.local"
	answer  = name + "\t192.0.2.1\n"
)

// atATime is how many link-ups of each there are at the same time, on a LAN each: all begin with a
// random pause of up to 250 ms, so that many are needed, and they wait, mostly.
const atATime = 4

// measureFirstAnswer measures the time from link-up to the moment at which avahi-resolve, called again
// and again on another machine, prints the right address: of a gateway whose service runs and waits
// for the link, and of a host with avahi-daemon that does. Either has its address from its settings.
// avahi-daemon is told to heed whether a cable is plugged in: else it takes the link for up from the
// beginning, and answers without having probed.
func measureFirstAnswer(h *harness.T, runs int, result map[string]any) {
	var mu sync.Mutex // guards took and failed
	took, failed := map[mdnstest.Kind][]time.Duration{}, []error(nil)
	for i := range runs {
		var measuring sync.WaitGroup
		for range atATime {
			for _, kind := range []mdnstest.Kind{mdnstest.Ours, mdnstest.Avahi} {
				measuring.Go(func() {
					err := harness.Try(files, func(h *harness.T) {
						d := firstAnswer(h, kind)
						mu.Lock()
						defer mu.Unlock()
						took[kind] = append(took[kind], d)
					})
					if err != nil {
						mu.Lock()
						defer mu.Unlock()
						failed = append(failed, fmt.Errorf("%s: %w", kind, err))
					}
				})
			}
		}
		measuring.Wait()
		if len(failed) > 0 {
			h.Fatal(errors.Join(failed...))
		}
		fmt.Printf("link-up to first answer %d/%d", i+1, runs)
		for _, kind := range []mdnstest.Kind{mdnstest.Ours, mdnstest.Avahi} {
			fmt.Printf("  %s", kind)
			for _, d := range took[kind][i*atATime:] {
				fmt.Printf(" %.3f", d.Seconds())
			}
		}
		fmt.Println(" s")
	}
	ours, avahi := harness.Median(took[mdnstest.Ours]).Seconds(), harness.Median(took[mdnstest.Avahi]).Seconds()
	result["first_answer_ratio"] = harness.Round(ours / avahi)
	result["first_answer_seconds"] = map[string]float64{"ours": harness.Round(ours), "avahi": harness.Round(avahi)}
}

func firstAnswer(h *harness.T, kind mdnstest.Kind) time.Duration {
	lan := testnet.Switch(h)
	asks, answers := testnet.New(h), testnet.New(h)
	lan.Plug("far0", asks, port)
	lan.Plug("far1", answers, port)
	lan.IP("link", "set", "far0", "master", testnet.Bridge)
	lan.IP("link", "set", "far1", "master", testnet.Bridge)
	lan.IP("link", "set", "far1", "down") // the cable is not plugged in yet
	asks.IP("addr", "add", "192.0.2.2/24", "dev", port)
	client := mdnstest.New(h, asks, mdnstest.Avahi, mdnstest.Names{Host: "client"}, mdnstest.Options{Bus: true})
	client.Start()
	client.Await("Server startup complete")

	if kind == mdnstest.Ours {
		startService(h, answers)
	} else {
		answers.IP("addr", "add", address, "dev", port)
		host := mdnstest.New(h, answers, kind, mdnstest.Gateway, mdnstest.Options{})
		host.Start()
		host.Await("Network interface enumeration completed")
	}
	time.Sleep(3 * time.Second) // whoever has something to do without a link has done it

	up, err := linkUp(answers)
	if err != nil {
		h.Fatal(err)
	}
	asked := make(chan time.Time, 1)
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	go func() { // ends with the first answer, or ctx
		defer close(asked)
		for ctx.Err() == nil {
			// It gives up after five seconds, and an answer that comes meanwhile is printed at once.
			if out, _ := client.Command(10*time.Second, "avahi-resolve", "-4", "-n", name); out == answer {
				asked <- time.Now()
				return
			}
		}
	}()
	lan.IP("link", "set", "far1", "up")
	var began time.Time
	select {
	case began = <-up:
	case <-ctx.Done():
		h.Fatal("the link has not come up in a minute")
	}
	ended, ok := <-asked
	if !ok {
		h.Fatal("avahi-resolve has not found the name in a minute")
	}
	return ended.Sub(began)
}

// linkUp tells when the kernel has told everybody in p that there is a link.
func linkUp(p *testnet.Peer) (<-chan time.Time, error) {
	links, up := make(chan netlink.LinkUpdate), make(chan time.Time, 1)
	err := p.Do(func() error { return netlink.LinkSubscribe(links, nil) })
	if err != nil {
		return nil, fmt.Errorf("watch the port: %w", err)
	}
	go func() { // ends with the program
		told := false
		for u := range links {
			if !told && u.Attrs().Name == port && u.IfInfomsg.Flags&unix.IFF_RUNNING != 0 {
				up <- time.Now()
				told = true
			}
		}
	}()
	return up, nil
}

// startService starts the gateway's network service, with an address in its settings.
func startService(h *harness.T, p *testnet.Peer) {
	dir := h.TempDir()
	set := settings.Default()
	set.Network.WAN.IPv4 = settings.IPv4{Method: settings.Static, Addresses: []netip.Prefix{netip.MustParsePrefix(address)}}
	b, err := json.Marshal(set)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "settings.json"), b, 0o600)
	}
	if err != nil {
		h.Fatal(err)
	}
	p.Start(h, exec.Command("/proc/self/exe", "-service", dir)).Wait(h, "ready")
}

// beService runs the whole network service until SIGTERM.
func beService(dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	return network.Config{
		Socket:     filepath.Join(dir, "network.sock"),
		ResolvConf: filepath.Join(dir, "resolv.conf"),
		Data:       dir,
		IsPort:     func(l reconcile.Link) bool { return l.Name == port },
		Built:      time.Now().Add(-time.Hour),
		Unique:     mdnstest.Gateway.Unique,
		Clock:      noClock{},
		Log:        slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}.Run(ctx, func() { fmt.Println("ready") })
}

// noClock stands for the system clock, which is everybody's on this machine.
type noClock struct{}

func (noClock) Now() time.Time           { return time.Now() }
func (noClock) Step(time.Duration) error { return unix.EPERM }
func (noClock) Slew(time.Duration) error { return unix.EPERM }
func (noClock) Synchronised() bool       { return false }
