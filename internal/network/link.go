package network

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/google/renameio/v2"

	"cloudlink.local/gateway/internal/diary"
	"cloudlink.local/gateway/internal/network/dhcp4"
	"cloudlink.local/gateway/internal/network/ipv6"
	"cloudlink.local/gateway/internal/network/linklocal"
	"cloudlink.local/gateway/internal/network/reconcile"
	"cloudlink.local/gateway/internal/network/spec"
	"cloudlink.local/gateway/internal/safefile"
	"cloudlink.local/gateway/internal/settings"
)

// A link is a port or a VLAN with its clients. They run while it has a carrier; what they know stays
// until they know better. All fields belong to the goroutine of the service's run.
type link struct {
	name  string
	index int
	mac   net.HardwareAddr
	mtu   int

	lease       *dhcp4.Lease   // in use
	remembered  *dhcp4.Lease   // to be asked for first
	linkLocal   netip.Addr     // in use; the zero Addr is none
	lastLocal   netip.Addr     // to be tried first
	lease6      *ipv6.Lease    // in use
	remembered6 *ipv6.Lease    // to be asked for first
	routers     ipv6.Info      // what IPv6's routers say
	before      []netip.Prefix // the kernel's networks of IPv6 when the cable was out
	flooded     bool           // routers have said so much that the kernel is to forget some
	kept        bool           // the link has not been down since the leases
	unsaved     bool           // what is remembered is not on the medium yet
	since       time.Time      // when it has had a carrier and no lease from; zero: not now

	wants wants
	stop  context.CancelFunc // nil while no client runs
	done  sync.WaitGroup     // of the clients
	local *linklocal.Client
	again time.Time // when clients may be started after one that failed
}

// wants says which clients the settings want on a link.
type wants struct{ v4, v6 bool }

func (l *link) learned() learned { return learned{l.lease, l.linkLocal, l.lease6, l.routers} }

// stored is what is kept of a link, as a file.
type stored struct {
	Lease     *dhcp4.Stored `json:"lease,omitempty"`
	Lease6    *ipv6.Stored  `json:"lease6,omitempty"`
	LinkLocal netip.Addr    `json:"link_local,omitzero"`
}

func (s *service) leaseFile(name string) string {
	return filepath.Join(s.Data, "lease-"+name+".json")
}

// newLink makes a link with what is kept of it. A lease of this boot is on the port still.
func (s *service) newLink(have reconcile.Link) *link {
	l := &link{name: have.Name}
	b, err := safefile.Read(s.leaseFile(have.Name), 1<<20)
	if err != nil {
		return l
	}
	var st stored
	if err := json.Unmarshal(b, &st); err != nil {
		s.log.Warn(fmt.Sprintf("the lease kept of %s is damaged and not used: %v", have.Name, err))
		return l
	}
	l.lastLocal = st.LinkLocal
	now, err := dhcp4.Now()
	if err != nil {
		s.log.Warn(err.Error())
		return l
	}
	// What a former process of this boot leased is on the port still.
	if st.Lease != nil {
		if l.remembered, err = st.Lease.Restore(time.Now(), now); err != nil {
			s.log.Warn(err.Error())
		} else if st.Lease.Boot == now.ID {
			l.lease, l.kept = l.remembered, true
			s.log.Info(fmt.Sprintf("%v is on the port since the last process", l.lease.Prefix), "port", l.name)
		}
	}
	if st.Lease6 != nil {
		if l.remembered6, err = st.Lease6.Restore(time.Now(), now); err != nil {
			s.log.Warn(err.Error())
		} else if st.Lease6.Boot == now.ID {
			l.lease6, l.kept = l.remembered6, true
		}
	}
	return l
}

// save keeps what is known of l for the next start.
func (s *service) save(l *link) {
	st := stored{LinkLocal: l.lastLocal}
	now, err := dhcp4.Now()
	if err == nil && l.remembered != nil {
		lease := l.remembered.Store(time.Now(), now)
		st.Lease = &lease
	}
	if err == nil && l.remembered6 != nil {
		lease := l.remembered6.Store(time.Now(), now)
		st.Lease6 = &lease
	}
	b, err := json.Marshal(st)
	if err == nil {
		err = renameio.WriteFile(s.leaseFile(l.name), b, 0o600)
	}
	if err != nil {
		s.log.Warn("keep lease: " + err.Error())
	}
}

// runLinks has clients run on the links whose settings want them, and on no others.
func (s *service) runLinks(ctx context.Context, state reconcile.State, plans, former []portPlan) {
	wanted := map[string]wants{}
	for _, list := range [][]portPlan{plans, former} {
		for _, p := range list {
			w := wanted[p.link]
			wanted[p.link] = wants{
				v4: w.v4 || p.IPv4.Method == settings.DHCP,
				v6: w.v6 || p.IPv6.Method == settings.Automatic,
			}
		}
	}
	now := time.Now()
	for name, l := range s.links {
		w := wanted[name]
		if w != l.wants {
			s.give(l, w)
		}
		if w == (wants{}) {
			os.Remove(s.leaseFile(name)) // else the next start asks for it, which does no harm
			delete(s.links, name)
		}
	}
	found := map[string]bool{}
	for _, have := range state.Links {
		w := wanted[have.Name]
		if w == (wants{}) {
			continue
		}
		found[have.Name] = true
		l := s.links[have.Name]
		if l == nil {
			l = s.newLink(have)
			s.links[have.Name] = l
			if slices.ContainsFunc(state.Addresses, func(a reconcile.Address) bool {
				return a.Ours && a.Link == l.name && a.Prefix.Addr() == l.lastLocal
			}) {
				l.linkLocal = l.lastLocal
			}
		}
		l.wants = w
		if l.stop != nil && (l.index != have.Index || !bytes.Equal(l.mac, have.MAC) || !have.Carrier) {
			l.halt()
			l.kept = false
		}
		if !have.Carrier {
			l.before = networks(state, have.Name)
		}
		l.index, l.mac, l.mtu = have.Index, have.MAC, have.MTU
		if l.stop == nil && have.Carrier && !l.again.After(now) {
			s.startClients(ctx, l)
		}
		if l.flooded {
			if err := reconcile.Forget(l.name, nil, nil); err != nil {
				s.log.Warn(err.Error())
			}
		}
		if l.stop == nil && l.lease != nil && !l.lease.Expires.IsZero() && !now.Before(l.lease.Expires) {
			s.leased(l, nil)
		}
		if l.stop == nil && l.lease6 != nil && !l.lease6.Expires.IsZero() && !now.Before(l.lease6.Expires) {
			s.leased6(l, nil)
		}
		switch {
		case !have.Carrier || !w.v4 || l.lease != nil:
			l.since = time.Time{}
		case l.since.IsZero():
			l.since = now
		}
	}
	for name, l := range s.links {
		if !found[name] { // the port is gone
			l.halt()
			delete(s.links, name)
		}
	}
}

// give ends l's clients and gives back what the settings do not want any more.
func (s *service) give(l *link, w wants) {
	l.halt()
	if !w.v4 && l.lease != nil {
		if err := s.dhcp(l).Release(l.lease); err != nil {
			s.log.Debug(err.Error(), "port", l.name)
		}
		s.log.Info(fmt.Sprintf("address %v is returned to DHCP server %v", l.lease.Prefix, l.lease.Server), "port", l.name)
		s.diary.Add(diary.LeaseReturned, "port", l.name, "address", l.lease.Prefix.String(), "server", name(l.lease.Server))
		l.lease, l.kept = nil, false
	}
	if !w.v4 {
		l.remembered, l.linkLocal = nil, netip.Addr{}
	}
	if !w.v6 && l.lease6 != nil {
		if err := s.dhcp6(l).Release(l.lease6); err != nil {
			s.log.Debug(err.Error(), "port", l.name)
		}
		s.leased6(l, nil)
	}
	if !w.v6 {
		l.remembered6, l.routers = nil, ipv6.Info{}
	}
}

// halt ends l's clients. What they were telling is dropped.
func (l *link) halt() {
	if l.stop != nil {
		l.stop()
		l.done.Wait()
		l.stop, l.local = nil, nil
	}
}

func (s *service) stopLinks() {
	for _, l := range s.links {
		l.halt()
	}
}

func (s *service) dhcp(l *link) *dhcp4.Client {
	return &dhcp4.Client{
		Port:     &net.Interface{Index: l.index, Name: l.name, HardwareAddr: l.mac, MTU: l.mtu},
		Hostname: hostname(), Vendor: vendor, Log: s.log,
	}
}

func (s *service) dhcp6(l *link) *ipv6.Client {
	return &ipv6.Client{
		Port: &net.Interface{Index: l.index, Name: l.name, HardwareAddr: l.mac, MTU: l.mtu},
		DUID: s.duid, Hostname: hostname(), Log: s.log,
	}
}

// startClients starts the clients of l. Their callbacks are passed on to the goroutine of run.
func (s *service) startClients(ctx context.Context, l *link) {
	ctx, l.stop = context.WithCancel(ctx)
	tell := func(f func()) {
		s.post(ctx, func() {
			if ctx.Err() == nil {
				f()
			}
		})
	}
	run := func(client func(context.Context) error) {
		l.done.Go(func() {
			if err := client(ctx); err != nil {
				tell(func() {
					s.log.Warn(err.Error())
					l.again = time.Now().Add(time.Second)
					l.halt()
				})
			}
		})
	}
	if l.wants.v4 {
		s.start4(l, tell, run)
	}
	if l.wants.v6 {
		s.start6(ctx, l, tell)
	}
}

func (s *service) start4(l *link, tell func(func()), run func(func(context.Context) error)) {
	c := s.dhcp(l)
	c.Remembered, c.InUse, c.LinkKept = l.remembered, l.lease != nil, l.kept
	c.Changed = func(lease *dhcp4.Lease) { tell(func() { s.leased(l, lease) }) }
	c.Conflict = func(addr netip.Addr, mac net.HardwareAddr, kept bool) {
		tell(func() { s.conflict(l, addr, mac, kept) })
	}
	c.ServerChanged = func(from, to netip.Addr) {
		tell(func() { s.diary.Add(diary.ServerChanged, "port", l.name, "old", from.String(), "new", to.String()) })
	}
	c.Troubled = func(t dhcp4.Trouble) { tell(func() { s.serverTrouble(l, t) }) }

	local := linklocal.New(c.Port, s.log)
	local.Remembered, local.InUse = l.lastLocal, l.linkLocal.IsValid()
	local.Changed = func(addr netip.Addr) { tell(func() { s.localChanged(l, addr) }) }
	local.Conflict = c.Conflict
	l.local = local
	local.Need(l.lease == nil)
	run(c.Run)
	run(local.Run)
}

// start6 starts the client of IPv6, and again where it fails: what it lacks, IPv4 may do without.
func (s *service) start6(ctx context.Context, l *link, tell func(func())) {
	c := s.dhcp6(l)
	c.Remembered, c.LinkKept = l.remembered6, l.kept
	c.InUse = l.lease6 != nil && l.lease6 == l.remembered6 // and not one of information only
	c.Changed = func(lease *ipv6.Lease) { tell(func() { s.leased6(l, lease) }) }
	c.Advertised = func(info ipv6.Info) { tell(func() { s.advertised(l, info) }) }
	c.Networks = func(networks []netip.Prefix, routers []netip.Addr) { tell(func() { s.arrived(l, networks, routers) }) }
	c.Conflict = func(addr netip.Addr) { tell(func() { s.conflict(l, addr, nil, false) }) }
	c.ServerChanged = func(from, to netip.Addr) {
		tell(func() { s.diary.Add(diary.ServerChanged, "port", l.name, "old", from.String(), "new", to.String()) })
	}
	c.Troubled = func(t ipv6.Trouble) { tell(func() { s.serverTrouble6(l, t) }) }
	l.done.Go(func() {
		err := c.Run(ctx)
		if err == nil {
			return
		}
		s.log.Debug(err.Error(), "port", l.name)
		select {
		case <-time.After(time.Second):
			tell(func() { s.start6(ctx, l, tell) })
		case <-ctx.Done():
		}
	})
}

// networks is in which the kernel has made itself addresses on a link.
func networks(state reconcile.State, link string) (list []netip.Prefix) {
	for _, a := range state.Addresses {
		if a.Link == link && a.Source == spec.SLAAC && !slices.Contains(list, a.Prefix.Masked()) {
			list = append(list, a.Prefix.Masked())
		}
	}
	return list
}

// arrived takes what is advertised where the cable is now. If it is none of what was before, the cable
// is elsewhere, and the kernel would keep addresses and routers for as long as those said. Where no
// router says anything all stays: it may be the one that was switched off for a moment.
func (s *service) arrived(l *link, advertised []netip.Prefix, routers []netip.Addr) {
	before := l.before
	l.before = nil
	if len(before) == 0 || slices.ContainsFunc(before, func(p netip.Prefix) bool { return slices.Contains(advertised, p) }) {
		return
	}
	if err := reconcile.Forget(l.name, before, routers); err != nil {
		s.log.Warn(err.Error())
	}
	for _, p := range before {
		s.diary.Add(diary.PrefixGone, "port", l.name, "prefix", p.String())
	}
}
