// Package network is the service that makes the gateway reachable: it configures the Ethernet ports as
// the settings say, keeps them so, and keeps the clock right. The parts are packages of their own that
// do not know each other; this one asks them what they know, makes one specification of it, and has
// the kernel's state made so. Addresses outlive the service: after a restart it goes on with what it
// finds.
package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/net/netutil"

	"cloudlink.local/gateway/internal/boot/clock"
	"cloudlink.local/gateway/internal/diary"
	"cloudlink.local/gateway/internal/localhttp"
	"cloudlink.local/gateway/internal/mdns"
	"cloudlink.local/gateway/internal/network/commit"
	"cloudlink.local/gateway/internal/network/dhcp4"
	"cloudlink.local/gateway/internal/network/firewall"
	"cloudlink.local/gateway/internal/network/ipv6"
	"cloudlink.local/gateway/internal/network/ntp"
	"cloudlink.local/gateway/internal/network/reconcile"
	"cloudlink.local/gateway/internal/network/spec"
	"cloudlink.local/gateway/internal/release"
	"cloudlink.local/gateway/internal/safefile"
	"cloudlink.local/gateway/internal/settings"
)

// dataDir is where the service keeps settings, leases and diary.
const dataDir = "/data/network"

// SureTime is the file with the last time of which the service was sure, for process 1 to know at the
// next start what it is at least.
const SureTime = dataDir + "/clock"

const (
	tick    = 30 * time.Second       // looks again, whatever was overheard
	recheck = 25 * time.Second       // and then at what takes long and nobody else changes
	settle  = 100 * time.Millisecond // one look in this time, however much changes,
	burst   = 10                     // but so many at once: a boot is a burst of changes
	vendor  = "cloudlink-gateway"    // DHCP option 60
	maxAsks = 16                     // at the same time, on our socket
)

// Run is the service network. It calls ready once it answers on Socket.
func Run(ctx context.Context, ready func(), log *slog.Logger) error {
	rel, _ := release.Load(release.File) // process 1 has told what is wrong with it
	return Config{
		Socket: Socket, ResolvConf: ResolvConf, Data: dataDir,
		IsPort: func(l reconcile.Link) bool { return l.Physical },
		Built:  rel.BuildTime, Clock: ntp.System{}, Log: log,
		Version: rel.Version,
	}.Run(ctx, ready)
}

// A Config is where the service works. Tests and benchmarks have others than the gateway's.
type Config struct {
	Socket, ResolvConf string
	Data               string // folder of settings, leases and diary
	IsPort             func(reconcile.Link) bool
	Built              time.Time // this firmware
	Version            string    // of it
	Unique             string    // host name that no other device has; "": the kernel's
	Clock              ntp.Clock
	Log                *slog.Logger
}

// Run runs the service until ctx ends. It calls ready once it answers on c.Socket.
func (c Config) Run(ctx context.Context, ready func()) error {
	if c.Unique == "" {
		c.Unique = hostname()
	}
	return (&service{Config: c, log: c.Log}).run(ctx, ready)
}

// A service owns the ports. What stands below events belongs to the goroutine of run.
type service struct {
	Config
	log *slog.Logger

	store  *settings.Store
	diary  *diary.Diary
	keeper *commit.Keeper
	boot   dhcp4.Boot // when the service began

	clockState atomic.Pointer[ntp.State]
	published  atomic.Pointer[Status]
	unsaved    atomic.Bool // settings are in effect that could not be saved
	changing   sync.Mutex  // held while settings are being changed, or kept for good

	mu        sync.Mutex       // guards what follows
	addresses commit.Addresses // of what is applied,
	number    uint64           // the change of this number
	policy    *firewall.Policy // applied last

	changed chan struct{} // has an element where something is to be applied
	events  chan func()   // what has happened, to be noted before the next look
	wishes  chan ntp.Wish

	responder     *mdns.Responder
	announcements chan mdns.Wish

	reconciler reconcile.Reconciler
	duid       []byte     // what DHCPv6 servers know us by, for life
	secret     netip.Addr // what the ports' own IPv6 addresses are made of
	links      map[string]*link
	seen       map[string]reconcile.Link // ports as they were at the last look
	static     map[netip.Prefix]bool     // addresses of the settings that the diary knows of
	wish       ntp.Wish                  // sent last
	announced  mdns.Wish                 // sent last
	lost       map[[2]string]bool        // names that others have, by port and name, as the diary knows
	guarded    time.Time                 // when the firewall was seen to be as it should be
	offers     string                    // what the firewall was said to let in
	trouble    string                    // what was logged last
	duplicate  reconcile.DuplicateError  // what the diary was told last
}

func (s *service) run(ctx context.Context, ready func()) error {
	if err := s.open(); err != nil {
		return err
	}
	defer s.closeDiary()
	ctx, cancel := context.WithCancelCause(ctx)
	var parts sync.WaitGroup
	defer parts.Wait()
	defer cancel(nil)
	part := func(run func(context.Context) error) {
		parts.Go(func() {
			if err := run(ctx); err != nil {
				cancel(err)
			}
		})
	}
	changed := make(chan struct{}, 1)
	part(func(ctx context.Context) error {
		return reconcile.Watch(ctx, func() {
			select {
			case changed <- struct{}{}:
			default: // it is known already
			}
		})
	})
	s.converge(ctx) // so that the first answer is true, and before anybody waits
	listener, err := localhttp.Listen(s.Socket)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    8 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	parts.Go(func() {
		err := server.Serve(netutil.LimitListener(listener, maxAsks))
		cancel(fmt.Errorf("serve %s: %w", s.Socket, err))
	})
	defer server.Close()
	defer s.stopLinks()
	part(s.diary.Run)
	part(s.keeper.Run)
	part(s.respond)
	part(func(ctx context.Context) error { return s.ntp().Run(ctx, s.wishes) })
	ready()
	return s.keep(ctx, changed)
}

// open reads what is kept on the data partition. Where that is damaged the service goes on without.
func (s *service) open() error {
	var err error
	if s.boot, err = dhcp4.Now(); err != nil {
		return err
	}
	s.changed = make(chan struct{}, 1)
	s.events = make(chan func())
	s.wishes = make(chan ntp.Wish, 1)
	s.responder = mdns.New(mdns.Config{Log: s.log, Changed: s.nudge})
	s.announcements = make(chan mdns.Wish, 1)
	s.links = map[string]*link{}
	s.seen = map[string]reconcile.Link{}
	s.static = map[netip.Prefix]bool{}
	s.clockState.Store(&ntp.State{Source: ntp.Floor})
	for _, name := range []string{"settings.json", "settings.json.good", "change.json", "secret", "duid", "clock"} {
		if err := safefile.Clear(filepath.Join(s.Data, name), false); err != nil { // what is in the way of saving
			s.log.Warn("make room for " + name + ": " + err.Error())
		}
	}
	s.diary = diary.Open(diary.Config{
		Dir: filepath.Join(s.Data, "diary"), BootID: s.boot.ID, Boottime: s.boottime,
		Clock: func() string { return string(s.clockState.Load().Source) }, Log: s.log,
	})
	var origin settings.Origin
	s.store, origin = settings.Open(s.Data)
	for _, p := range origin.Problems {
		s.log.Warn("settings: " + p.Error())
	}
	if len(origin.Problems) > 0 && origin.Source != settings.FromFile {
		s.diary.Add(diary.SettingsReplaced, "reason", string(origin.Source))
	}
	s.keeper = commit.Open(commit.Config{
		File: filepath.Join(s.Data, "change.json"), Store: s.store, BootID: s.boot.ID, Boottime: s.boottime,
		Changed: s.nudge, Note: s.diary.Add, Log: s.log,
	})
	s.reconciler.Recheck = recheck
	if s.duid, err = ipv6.DUID(filepath.Join(s.Data, "duid")); err != nil {
		s.log.Warn(err.Error())
	}
	if s.secret, err = secret(filepath.Join(s.Data, "secret")); err != nil {
		s.log.Warn(err.Error())
	}
	return nil
}

// boottime is the time since power-on.
func (s *service) boottime() time.Duration {
	now, err := dhcp4.Now()
	if err != nil {
		return 0
	}
	return now.Clock
}

func (s *service) closeDiary() {
	if err := s.diary.Close(); err != nil {
		s.log.Warn("save diary: " + err.Error())
	}
}

func (s *service) ntp() *ntp.Client {
	return &ntp.Client{
		Build: s.Built, Floor: s.Built, Clock: s.Clock, Log: s.log, Changed: s.clockChanged,
		Resolve: func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		},
	}
}

// clockChanged is called by the NTP client.
func (s *service) clockChanged(now ntp.State) {
	before := s.clockState.Swap(&now)
	if now.Source == ntp.Verified && now.Synced != before.Synced {
		if err := renameio.WriteFile(filepath.Join(s.Data, filepath.Base(SureTime)), clock.Format(time.Now()), 0o644); err != nil {
			s.log.Warn("keep the time: " + err.Error())
		}
	}
	server := ""
	if len(now.Servers) > 0 {
		server = now.Servers[0].Name
	}
	show := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	switch {
	case now.Stepped != 0:
		s.diary.Add(diary.ClockStepped, "from", show(time.Now().Add(-now.Stepped)), "to", show(time.Now()), "server", server)
	case now.Reason != "" && now.Reason != before.Reason && now.Reason != ntp.NoServers:
		s.diary.Add(diary.NTPRefused, "server", server, "reason", string(now.Reason))
	}
	if before.Synced.IsZero() && !now.Synced.IsZero() {
		s.diary.Add(diary.ClockSynchronised, "to", show(time.Now()), "server", server)
	}
}

// nudge has run look again, without waiting for it.
func (s *service) nudge() {
	select {
	case s.changed <- struct{}{}:
	default: // it is about to
	}
}

// post has run call f, and look again.
func (s *service) post(ctx context.Context, f func()) {
	select {
	case s.events <- f:
	case <-ctx.Done():
	}
}

// keep keeps the ports as they should be until ctx ends, which is no error.
func (s *service) keep(ctx context.Context, changed <-chan struct{}) error {
	next := time.NewTimer(tick)
	defer next.Stop()
	pending := false     // next is set for what has changed
	var spaced time.Time // when all looks so far would be over, one in each settle
	for {
		select {
		case <-ctx.Done():
			if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
				return err
			}
			return nil
		case <-changed:
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
		case <-s.changed:
			pending = true
			next.Reset(0)
		case f := <-s.events:
			f()
			pending = true
			next.Reset(0)
		case <-next.C:
			pending = false
			s.converge(ctx)
			next.Reset(tick)
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

// converge makes everything what it should be now, and publishes what it is.
func (s *service) converge(ctx context.Context) {
	state, err := reconcile.List()
	if err != nil {
		s.complain(err)
		return
	}
	var ports []reconcile.Link
	for _, l := range state.Links {
		if s.IsPort(l) {
			ports = append(ports, l)
		}
	}
	slices.SortFunc(ports, func(a, b reconcile.Link) int { return a.Index - b.Index })
	s.tellCables(ports)

	number := s.keeper.Status().Number // before: a change that comes in between is not taken for this one
	effective := s.keeper.Effective()
	plans := plan(ports, effective.Current)
	var former []portPlan
	if effective.Beside != nil {
		former = plan(ports, *effective.Beside)
	}
	if s.policy != nil { // the first time the firewall comes first
		s.announce(state, append(slices.Clone(plans), former...)) // whoever asks need not wait for the rest
	}
	s.runLinks(ctx, state, plans, former)
	specs := s.specs(state, plans, former)
	errs := []error{s.guard(plans, former)} // before the first port is switched on
	_, err = s.reconciler.Reconcile(specs.all)
	errs = append(errs, s.tellDuplicates(err))
	if err := replaceFile(s.ResolvConf, resolvConf(specs.current)); err != nil {
		errs = append(errs, fmt.Errorf("write DNS servers: %w", err))
	}
	s.complain(errors.Join(errs...))
	if after, err := reconcile.List(); err == nil {
		state = after
		s.runLinks(ctx, state, plans, former) // a port that has come up at once need not wait for the next look
	}
	s.tellStatic(specs.current)
	s.announce(state, append(slices.Clone(plans), former...))
	s.tellNames(s.names())
	s.publish(state, ports, plans, specs, number)
	for _, l := range s.links { // a medium takes its time: the address is in use by now
		if l.unsaved {
			l.unsaved = false
			s.save(l)
		}
	}
	s.wishTime(plans)
}

// specs are what is to be applied: all of it, and what of it is the current configuration's, and the
// former one's while that stands beside it.
type specs struct {
	all, current, former spec.Spec
}

func (s *service) specs(state reconcile.State, plans, former []portPlan) specs {
	sp := specs{current: s.layers(plans)}
	layers := []spec.Spec{state.Learned()}
	if former != nil {
		sp.former = s.layers(former)
		layers = append(layers, spec.Behind(sp.former))
	}
	sp.all = spec.Policy(spec.Merge(append(layers, sp.current)...))
	if former != nil { // what is new must not live on the old routers
		sp.all.Routes = slices.DeleteFunc(sp.all.Routes, func(r spec.Route) bool { return behind(r, sp.current) })
	}
	return sp
}

// layers merges what the settings of plans and their links' clients say.
func (s *service) layers(plans []portPlan) spec.Spec {
	all := []spec.Spec{base(plans, s.secret)}
	for _, p := range plans {
		l := s.links[p.link]
		if l != nil {
			all = append(all, automatic(p, l.learned()))
		}
	}
	for _, p := range plans {
		all = append(all, owner(p))
	}
	return spec.Merge(all...)
}

// guard makes the firewall what the plans need.
func (s *service) guard(plans, former []portPlan) error {
	if len(plans) == 0 {
		return nil
	}
	policy := s.policyOf(plans)
	if former != nil {
		policy = s.policyOf(append(slices.Clone(plans), former...)).Reachable()
	}
	if s.policy != nil && slices.Equal(s.policy.Ports, policy.Ports) && time.Since(s.guarded) < recheck {
		return nil
	}
	changed, err := firewall.Apply(policy)
	if err != nil {
		return err
	}
	if !changed { // else the next look reads it again
		s.guarded = time.Now()
	}
	s.mu.Lock()
	s.policy = &policy
	s.mu.Unlock()
	if offers := offersOf(policy); offers != s.offers || changed && s.offers != "" {
		s.diary.Add(diary.FirewallChanged, "offers", offers)
		s.offers = offers
	}
	return nil
}

// wishTime tells the NTP client whom to ask, at once where the network has changed.
func (s *service) wishTime(plans []portPlan) {
	wish := ntp.Wish{Chosen: s.store.Get().Clock.Servers}
	reachable := false
	for _, p := range plans {
		if l := s.links[p.link]; l != nil {
			if lease := l.learned().lease; lease != nil {
				for _, a := range lease.NTP {
					wish.Offered = append(wish.Offered, a.String())
				}
			}
			if lease := l.learned().lease6; lease != nil {
				for _, a := range lease.NTP {
					wish.Offered = append(wish.Offered, a.String())
				}
				wish.Offered = append(wish.Offered, lease.NTPNames...)
			}
		}
	}
	s.mu.Lock()
	ours := append(slices.Clone(s.addresses.New), s.addresses.Common...)
	s.mu.Unlock()
	for _, a := range ours {
		reachable = reachable || !a.IsLinkLocalUnicast()
	}
	key := wish
	key.Offered = append(slices.Clone(key.Offered), fmt.Sprint(ours))
	if !reachable || slices.Equal(key.Offered, s.wish.Offered) && slices.Equal(key.Chosen, s.wish.Chosen) {
		return
	}
	s.wish = key
	select {
	case <-s.wishes: // what has not been read yet is out of date
	default:
	}
	s.wishes <- wish // nobody else sends
}

// hostname is what we tell DHCP servers.
func hostname() string {
	name, err := os.Hostname()
	if err != nil || name == "" || name == "localhost" || slices.ContainsFunc([]rune(name), func(r rune) bool {
		return r != '-' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	}) {
		return "cloudlink" // the kernel's own is "(none)"
	}
	return name
}
