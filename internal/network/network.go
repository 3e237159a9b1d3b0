// Package network is the service that makes the gateway reachable: it leases an address for the
// first Ethernet port by DHCP and keeps it, with the route and the DNS servers that come along.
// Addresses outlive the service: after a restart it goes on with what it finds on the port.
package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/netutil"
	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/network/dhcp4"
)

// Run is the service network. It calls ready once it answers on Socket.
func Run(ctx context.Context, ready func(), log *slog.Logger) error {
	s := &service{socket: Socket, resolvConf: ResolvConf, isPort: physical, log: log}
	return s.run(ctx, ready)
}

const (
	tick    = 30 * time.Second       // looks again, whatever was overheard
	settle  = 100 * time.Millisecond // one look in this time, however much changes,
	burst   = 10                     // but so many at once: a boot is a burst of changes
	vendor  = "cloudlink-gateway"    // DHCP option 60
	maxAsks = 16                     // at the same time, on our socket
)

// A service owns the ports. All but the published status belongs to run's goroutine.
type service struct {
	socket, resolvConf string
	isPort             func(netlink.Link) bool
	log                *slog.Logger

	set     map[int]bool // ports whose sysctls are set
	dhcp    *client      // runs while the first port has a link, else nil
	reports chan report  // from dhcp
	again   time.Time    // when a client may be started after one that failed
	port    int          // index of the port that has the lease
	lease   *dhcp4.Lease // nil for none
	search  time.Time    // since when there is a link and no lease; the zero time is not now
	trouble string       // what was logged last

	published atomic.Pointer[snapshot]
}

// A client is a running DHCP client.
type client struct {
	port port
	stop context.CancelFunc
	done chan struct{} // closed at its end
}

// A report is what a DHCP client has to say.
type report struct {
	from  *client
	lease *dhcp4.Lease
	err   error // it ended
}

func (s *service) run(ctx context.Context, ready func()) error {
	s.set = map[int]bool{}
	s.reports = make(chan report)
	changed, events, err := watch()
	if err != nil {
		return err
	}
	defer events.Close()
	s.complain(s.rise())
	if err := s.adopt(); err != nil {
		return err
	}
	if err := s.look(); err != nil { // so that the first answer is true
		return err
	}
	listener, err := listen(s.socket)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    8 << 10,
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var serving sync.WaitGroup
	serving.Go(func() {
		err := server.Serve(netutil.LimitListener(listener, maxAsks))
		cancel(fmt.Errorf("serve %s: %w", s.socket, err))
	})
	defer serving.Wait()
	defer server.Close()
	defer s.stopDHCP()
	ready()
	return s.keep(ctx, changed)
}

// keep keeps the ports as they should be until ctx ends, which is no error.
func (s *service) keep(ctx context.Context, changed <-chan struct{}) error {
	next := time.NewTimer(0)
	defer next.Stop()
	pending := true      // next is set for what has changed
	var spaced time.Time // when all looks so far would be over, one in each settle
	for {
		select {
		case <-ctx.Done():
			if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
				return err
			}
			return nil
		case _, ok := <-changed:
			if !ok {
				return errors.New("watch ports: the kernel's events ended")
			}
			if pending {
				continue
			}
			pending = true
			now := time.Now()
			if spaced.Before(now) {
				spaced = now
			}
			spaced = spaced.Add(settle)
			next.Reset(spaced.Sub(now) - burst*settle)
		case r := <-s.reports:
			s.hear(r)
			pending = true
			next.Reset(0)
		case <-next.C:
			pending = false
			s.complain(s.reconcile(ctx))
			next.Reset(max(settle, s.due(time.Now())))
		}
	}
}

// complain logs err once, not at every look.
func (s *service) complain(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != s.trouble {
		s.log.Warn(text)
	}
	s.trouble = text
}

// due is the time until something has to be done without an event.
func (s *service) due(now time.Time) time.Duration {
	d := tick
	if s.lease != nil && !s.lease.Expires.IsZero() {
		d = min(d, s.lease.Expires.Sub(now))
	}
	if s.dhcp == nil && s.again.After(now) {
		d = min(d, s.again.Sub(now))
	}
	return d
}

// rise switches the ports on: a link takes seconds to come up, and all else can be done meanwhile.
func (s *service) rise() error {
	ports, err := listPorts(s.isPort)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range ports {
		if !p.up {
			errs = append(errs, switchOn(p.name))
		}
	}
	return errors.Join(errs...)
}

// adopt takes over the lease that a former process left on the first port.
func (s *service) adopt() error {
	now := time.Now()
	ports, err := listPorts(s.isPort)
	if err != nil || len(ports) == 0 {
		return err
	}
	addrs, err := listAddrs(now)
	if err != nil {
		return err
	}
	routes, err := listRoutes()
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if !a.ours || a.port != ports[0].index || !a.prefix.Addr().Is4() {
			continue
		}
		s.port = a.port
		s.lease = &dhcp4.Lease{Prefix: a.prefix, Expires: a.expires}
		for _, r := range routes {
			if gw, ok := netip.AddrFromSlice(r.Gw.To4()); ok && r.LinkIndex == a.port {
				s.lease.Gateway = gw
			}
		}
		if b, err := os.ReadFile(s.resolvConf); err == nil {
			s.lease.DNS = nameservers(b)
		}
		s.log.Info(fmt.Sprintf("%v was on the port already", a.prefix), "port", ports[0].name)
		return nil
	}
	return nil
}

// reconcile looks at the kernel's state and changes what is not as it should be.
func (s *service) reconcile(ctx context.Context) error {
	now := time.Now()
	ports, err := listPorts(s.isPort)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range ports {
		if !s.set[p.index] {
			s.set[p.index] = true
			errs = append(errs, setSysctls(p.name))
		}
		if !p.up {
			errs = append(errs, switchOn(p.name))
		}
	}
	s.follow(ctx, ports, now)
	if !s.set[0] { // no port has this index
		s.set[0] = true
		errs = append(errs, switchOn("lo"), setSysctls("all"), setSysctls("default"))
	}
	errs = append(errs, s.apply(now), s.look())
	return errors.Join(errs...)
}

// follow runs a DHCP client for the first port while it has a link.
func (s *service) follow(ctx context.Context, ports []port, now time.Time) {
	var first port
	if len(ports) > 0 {
		first = ports[0]
	}
	if s.dhcp != nil {
		p := s.dhcp.port
		if p.index != first.index || !first.link || !bytes.Equal(p.mac, first.mac) {
			s.stopDHCP()
		}
	}
	if first.index != s.port {
		s.port, s.lease = first.index, nil
	}
	if s.lease != nil && !s.lease.Expires.IsZero() && s.lease.Expires.Sub(now) < time.Second {
		s.lease = nil // the kernel counts in seconds
	}
	if s.dhcp == nil && first.link && !s.again.After(now) {
		s.startDHCP(ctx, first)
	}
	switch {
	case !first.link || s.lease != nil:
		s.search = time.Time{}
	case s.search.IsZero():
		s.search = now
	}
}

func (s *service) startDHCP(ctx context.Context, p port) {
	ctx, stop := context.WithCancel(ctx)
	c := &client{port: p, stop: stop, done: make(chan struct{})}
	tell := func(r report) {
		r.from = c
		select {
		case s.reports <- r:
		case <-ctx.Done():
		}
	}
	dhcp := &dhcp4.Client{
		Port:       &net.Interface{Index: p.index, Name: p.name, HardwareAddr: p.mac},
		Hostname:   hostname(),
		Vendor:     vendor,
		Remembered: s.lease,
		InUse:      s.lease != nil,
		LinkKept:   true,
		Log:        s.log,
		Changed:    func(lease *dhcp4.Lease) { tell(report{lease: lease}) },
	}
	s.dhcp = c
	go func() { // stopDHCP waits for it
		defer close(c.done)
		if err := dhcp.Run(ctx); err != nil {
			tell(report{err: err})
		}
	}()
}

func (s *service) stopDHCP() {
	if s.dhcp == nil {
		return
	}
	s.dhcp.stop()
	<-s.dhcp.done
	s.dhcp = nil
}

// hear takes a DHCP client's report.
func (s *service) hear(r report) {
	if r.from != s.dhcp {
		return
	}
	if r.err != nil {
		s.log.Warn(r.err.Error())
		s.stopDHCP()
		s.again = time.Now().Add(time.Second)
		return
	}
	name := slog.String("port", r.from.port.name)
	switch {
	case r.lease == nil:
		s.log.Warn("no address any more: asking every DHCP server", name)
	case s.lease == nil || s.lease.Prefix != r.lease.Prefix || s.lease.Gateway != r.lease.Gateway:
		gateway := "no gateway"
		if r.lease.Gateway.IsValid() {
			gateway = "gateway " + r.lease.Gateway.String()
		}
		s.log.Info(fmt.Sprintf("address %v, %s, from DHCP server %v", r.lease.Prefix, gateway, r.lease.Server), name)
	default:
		s.log.Debug(fmt.Sprintf("DHCP server %v extended the lease of %v", r.lease.Server, r.lease.Prefix), name)
	}
	s.lease = r.lease
}

// apply makes the kernel's addresses and routes, where they are ours, and resolv.conf what the
// lease says. What is right already is left alone: each change is an event that brings us back.
func (s *service) apply(now time.Time) error {
	addrs, err := listAddrs(now)
	if err != nil {
		return err
	}
	routes, err := listRoutes()
	if err != nil {
		return err
	}
	var errs []error
	missing := s.lease != nil
	for _, a := range addrs {
		switch {
		case !a.ours:
		case s.lease != nil && a.port == s.port && a.prefix == s.lease.Prefix:
			missing = !sameTime(a.expires, s.lease.Expires)
		default:
			errs = append(errs, removeAddr(a))
		}
	}
	if missing {
		errs = append(errs, setAddr(s.port, s.lease, now))
	}

	var want *netlink.Route
	var dns []netip.Addr
	if s.lease != nil {
		dns = s.lease.DNS
		if s.lease.Gateway.IsValid() {
			want = defaultRoute(s.port, s.lease)
		}
	}
	for _, r := range routes {
		if want != nil && sameRoute(&r, want) {
			want = nil
		} else if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) { // it went with the address
			errs = append(errs, fmt.Errorf("remove route: %w", err))
		}
	}
	if want != nil {
		if err := netlink.RouteAdd(want); err != nil {
			errs = append(errs, fmt.Errorf("set gateway %v: %w", s.lease.Gateway, err))
		}
	}
	if err := replaceFile(s.resolvConf, resolvConf(dns)); err != nil {
		errs = append(errs, fmt.Errorf("write DNS servers: %w", err))
	}
	return errors.Join(errs...)
}

// sameTime says whether an address's end is the lease's, as far as the kernel's seconds tell.
func sameTime(a, b time.Time) bool {
	if a.IsZero() || b.IsZero() {
		return a.IsZero() && b.IsZero()
	}
	return a.Sub(b).Abs() < 3*time.Second
}

// hostname is what we tell DHCP servers.
func hostname() string {
	name, err := os.Hostname()
	if err != nil || name == "" || name == "localhost" || strings.ContainsFunc(name, func(r rune) bool {
		return r != '-' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	}) {
		return "cloudlink" // the kernel's own is "(none)"
	}
	return name
}
