package mdnstest

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/mdns"
	"cloudlink.local/gateway/internal/testnet"
)

// ours marks the process that is our responder.
const ours = "MDNSTEST_OURS"

// Main is what a package's TestMain calls instead of testnet.Main: our responder is the test binary,
// started again. Parallel tests are more than there are cores: they wait, mostly.
func Main(m *testing.M) {
	BeOurs()
	flag.Parse()
	if flag.Lookup("test.fuzz").Value.String() == "" { // fuzzing does not wait
		if err := flag.Set("test.parallel", "24"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	testnet.Main(m)
}

// BeOurs is what a program calls first that starts our responder: it is the program itself.
func BeOurs() {
	if os.Getenv(ours) == "" {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	if err := answer(ctx, os.Stdin); err != nil {
		fmt.Println("ours:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func (h *Host) startOurs() {
	h.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		h.t.Fatal(err)
	}
	defer r.Close()
	h.stdin = w
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), ours+"=1")
	cmd.Stdin = r
	h.process = h.Peer.Start(h.t, cmd)
	h.tell()
}

// tell tells our responder its names and waits until it has heard them.
func (h *Host) tell() {
	h.t.Helper()
	if err := json.NewEncoder(h.stdin).Encode(h.Names); err != nil {
		h.t.Fatal(err)
	}
	h.process.Wait(h.t, "told")
}

// Status is the newest one of our responder's.
func (h *Host) Status() mdns.Status {
	h.t.Helper()
	all := h.Statuses()
	if len(all) == 0 {
		return mdns.Status{}
	}
	return all[len(all)-1]
}

// Statuses are all that our responder has had.
func (h *Host) Statuses() (all []mdns.Status) {
	h.t.Helper()
	for _, line := range h.process.Lines() {
		if line, ok := strings.CutPrefix(line, "status "); ok {
			var s mdns.Status
			if err := json.Unmarshal([]byte(line), &s); err != nil {
				h.t.Fatal(err)
			}
			all = append(all, s)
		}
	}
	return all
}

// answer runs our responder, with the links of its namespace as they are and the names that are read.
func answer(ctx context.Context, names io.Reader) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	changed := make(chan struct{}, 1)
	r := mdns.New(mdns.Config{
		Log: slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Changed: func() {
			select {
			case changed <- struct{}{}:
			default:
			}
		},
	})
	wishes, ended := make(chan mdns.Wish), make(chan error, 1)
	go func() { ended <- wish(ctx, names, wishes) }()
	go func() { // ends with the process
		for range changed {
			s, err := json.Marshal(r.Status())
			if err != nil {
				panic(err) // there is nothing in it that JSON does not know
			}
			fmt.Printf("status %s\n", s)
		}
	}()
	err := r.Run(ctx, wishes)
	stop()
	if wishErr := <-ended; err == nil {
		err = wishErr
	}
	return err
}

// wish sends a wish for each change of the links and of the names, until ctx ends.
func wish(ctx context.Context, names io.Reader, wishes chan<- mdns.Wish) error {
	links, addrs := make(chan netlink.LinkUpdate), make(chan netlink.AddrUpdate)
	if err := netlink.LinkSubscribe(links, ctx.Done()); err != nil {
		return fmt.Errorf("watch the links: %w", err)
	}
	if err := netlink.AddrSubscribe(addrs, ctx.Done()); err != nil {
		return fmt.Errorf("watch the addresses: %w", err)
	}
	told := make(chan Names)
	go func() { // ends when the reader is closed, or with the process
		for lines := bufio.NewScanner(names); lines.Scan(); {
			var n Names
			if err := json.Unmarshal(lines.Bytes(), &n); err != nil {
				fmt.Println("names:", err)
				continue
			}
			told <- n
			fmt.Println("told")
		}
	}()
	var last, next mdns.Wish
	send := func(w mdns.Wish) {
		if w.Host == "" || reflect.DeepEqual(last, w) {
			return
		}
		select {
		case wishes <- w:
			last = w
		case <-ctx.Done():
		}
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case u := <-links:
			if u.IfInfomsg.Flags&unix.IFF_RUNNING == 0 { // it may be up again by now
				down := last
				down.Links = slices.DeleteFunc(slices.Clone(last.Links), func(l mdns.Link) bool { return l.Index == int(u.Index) })
				send(down)
			}
		case <-addrs:
		case n := <-told:
			next.Host, next.Unique, next.Services = n.Host, n.Unique, nil
			for _, s := range n.Services {
				next.Services = append(next.Services, mdns.Service(s))
			}
		}
		var err error
		if next.Links, err = usable(); err != nil {
			return err
		}
		send(next)
	}
}

// usable is all links that are up, with their usable addresses.
func usable() (all []mdns.Link, err error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list the links: %w", err)
	}
	for _, l := range links {
		a := l.Attrs()
		if a.RawFlags&unix.IFF_RUNNING == 0 || a.RawFlags&unix.IFF_LOOPBACK != 0 {
			continue
		}
		link := mdns.Link{Name: a.Name, Index: a.Index}
		addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return nil, fmt.Errorf("list the addresses of %s: %w", a.Name, err)
		}
		for _, x := range addrs {
			if x.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0 {
				link.Addresses = append(link.Addresses, prefix(x.IPNet))
			}
		}
		all = append(all, link)
	}
	return all, nil
}

func prefix(n *net.IPNet) netip.Prefix {
	addr, _ := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones)
}
