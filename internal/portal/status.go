package portal

import (
	"context"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"cloudlink.local/gateway/internal/condition"
	"cloudlink.local/gateway/internal/diary"
	"cloudlink.local/gateway/internal/machine"
	"cloudlink.local/gateway/internal/network"
	"cloudlink.local/gateway/internal/portmap"
	"cloudlink.local/gateway/internal/settings"
	"cloudlink.local/gateway/internal/update"
)

// Machine is what the portal asks of process 1.
type Machine interface {
	Status(context.Context) (machine.Status, error)
	Log(ctx context.Context, after uint64, level machine.Level) ([]machine.Entry, error)
	PreviousLog(ctx context.Context, level machine.Level) ([]machine.Entry, error)
}

// Network is what the portal asks of the network service.
type Network interface {
	Status(context.Context) (network.Status, error)
	Settings(context.Context) (settings.Settings, error)
	Change(context.Context, network.Proposal) (network.Status, error)
	Confirm(context.Context, network.Request) (network.Status, error)
	Return(context.Context, network.Request) (network.Status, error)
	Diary(ctx context.Context, after uint64) ([]diary.Entry, error)
	PortMap(context.Context) ([]portmap.Row, error)
	SelfTest(context.Context) ([]portmap.Result, error)
}

// Update is what the portal asks of the update service.
type Update interface {
	Status(context.Context) (update.Status, error)
	CheckNow(context.Context, update.Request) (update.Status, error)
	Install(context.Context, update.Request) (update.Status, error)
	Rollback(context.Context, update.Request) (update.Status, error)
	Drill(context.Context, update.Request) (update.Status, error)
	USB(context.Context, update.Request) (update.Status, error)
	Cancel(context.Context, update.Request) (update.Status, error)
	Upload(ctx context.Context, r update.Request, bundle io.Reader) (update.Status, error)
}

// Status is the gateway as a whole: what the first page shows, and the API.
type Status struct {
	machine.Status
	Ports      []network.Port  `json:"ports" doc:"Ethernet ports, in the kernel's order"`
	Clock      network.Clock   `json:"clock" doc:"What is known about the system clock"`
	Change     *network.Change `json:"change,omitempty" doc:"The change of the network settings that is on probation"`
	Conditions []Condition     `json:"conditions" doc:"What the owner is told, most pressing first"`
	Unknown    []Part          `json:"unknown" doc:"Parts that do not answer; their values are empty"`
}

// A Condition is a condition with its text in the reader's language.
type Condition struct {
	condition.Condition
	condition.Text
}

// A Part is one of those that a Status is put together from.
type Part string

// The parts.
const (
	PartMachine Part = "machine" // process 1: all the rest
	PartNetwork Part = "network" // the network service: the ports and the clock
	PartUpdate  Part = "update"  // the update service: conditions of its own
)

var allParts = []Part{PartMachine, PartNetwork, PartUpdate}

// Knows tells whether p answered.
func (s Status) Knows(p Part) bool { return !slices.Contains(s.Unknown, p) }

const (
	askTime  = time.Second            // for one part to answer: a page must not wait for a hung one
	logTime  = 5 * time.Second        // for process 1 to answer with its log, which is longer
	keepTime = 500 * time.Millisecond // many viewers cost the others as much as one
	restTime = 10 * time.Second       // of silence before it is worth a line in the log: parts start, and start again
)

// A gatherer asks the parts and keeps their last answers for a moment.
type gatherer struct {
	machine Machine
	network Network
	update  Update
	log     *slog.Logger
	keep    time.Duration

	mu                     sync.Mutex // guards what follows, and lets one ask at a time
	mAsked, nAsked, uAsked time.Time
	m                      machine.Status
	n                      network.Status
	u                      update.Status
	mErr, nErr, uErr       error
	silent                 map[Part]*silence
	serial                 string   // the last one heard: it outlives an outage of process 1
	called                 ownNames // as heard last: they outlive an outage of the network service
	former                 string   // the name that was set before
}

// A silence is how long a part has not answered.
type silence struct {
	since time.Time
	told  bool
}

// status puts the parts together, the conditions in lang.
func (g *gatherer) status(ctx context.Context, lang string) Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refresh(ctx, allParts...)
	// In JSON a list is never null.
	n := whole(g.n)
	s := Status{Status: g.m, Ports: n.Ports, Clock: n.Clock, Change: n.Change, Conditions: []Condition{}, Unknown: []Part{}}
	s.Services = append([]machine.Service{}, s.Services...)
	if g.mErr != nil {
		s.Unknown = append(s.Unknown, PartMachine)
	}
	if g.nErr != nil {
		s.Unknown = append(s.Unknown, PartNetwork)
	}
	if g.uErr != nil {
		s.Unknown = append(s.Unknown, PartUpdate)
	}
	var known *network.Status
	if g.nErr == nil {
		known = &g.n
	}
	list := network.AllConditions(s.Status.Conditions, known)
	if g.uErr == nil {
		list = update.AllConditions(list, &g.u, time.Now())
	}
	s.Status.Conditions = nil // those of all parts are in s.Conditions
	for _, c := range list {
		s.Conditions = append(s.Conditions, Condition{c, inWords(c, lang)})
	}
	return s
}

// whole returns a copy of n whose lists are there.
func whole(n network.Status) network.Status {
	n.Ports = append([]network.Port{}, n.Ports...)
	for i := range n.Ports {
		n.Ports[i].Addresses = append([]network.Address{}, n.Ports[i].Addresses...)
	}
	n.Clock.Servers = append([]string{}, n.Clock.Servers...)
	n.Names.Ports = append([]network.PortNames{}, n.Names.Ports...)
	for i := range n.Names.Ports {
		n.Names.Ports[i].Names = append([]network.Name{}, n.Names.Ports[i].Names...)
	}
	if n.Change != nil {
		c := *n.Change
		c.Addresses = append([]netip.Addr{}, c.Addresses...)
		n.Change = &c
	}
	return n
}

// networkStatus returns what the network service says alone.
func (g *gatherer) networkStatus(ctx context.Context) (network.Status, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refresh(ctx, PartNetwork)
	return whole(g.n), g.nErr
}

// updateStatus returns what the update service says alone.
func (g *gatherer) updateStatus(ctx context.Context) (update.Status, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refresh(ctx, PartUpdate)
	return wholeUpdate(g.u), g.uErr
}

// A glance is what every page says beside its own matters.
type glance struct {
	machine      machine.Status
	network      network.Status
	update       update.Status
	noMachine    bool // process 1 does not answer
	updateSilent bool // the update service does not
}

// glance asks all parts at once.
func (g *gatherer) glance(ctx context.Context) glance {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refresh(ctx, allParts...)
	return glance{g.m, whole(g.n), wholeUpdate(g.u), g.mErr != nil, g.uErr != nil}
}

// wholeUpdate returns a copy of s whose lists are there.
func wholeUpdate(s update.Status) update.Status {
	s.Attempts = append([]update.Attempt{}, s.Attempts...)
	for i := range s.Attempts {
		a := &s.Attempts[i]
		a.Steps = append([]update.Step{}, a.Steps...)
		a.Expected.Services = append([]string{}, a.Expected.Services...)
		a.Expected.Ports = append([]update.ExpectedPort{}, a.Expected.Ports...)
		for j := range a.Expected.Ports {
			a.Expected.Ports[j].Static = append([]netip.Addr{}, a.Expected.Ports[j].Static...)
		}
	}
	return s
}

// inWords is c's text, which calls a service what the page calls it.
func inWords(c condition.Condition, lang string) condition.Text {
	if name, ok := c.Args["service"]; ok {
		c.Args = maps.Clone(c.Args)
		c.Args["service"] = view{Lang: lang}.Word("service.", name)
	}
	return c.Text(lang)
}

// forget has the next one ask, however fresh the last answers are.
func (g *gatherer) forget() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mAsked, g.nAsked, g.uAsked = time.Time{}, time.Time{}, time.Time{}
}

// refresh asks at once those of the parts that were not asked just now. It is called with mu held.
func (g *gatherer) refresh(ctx context.Context, parts ...Part) {
	asks := func(p Part, asked time.Time) bool { return slices.Contains(parts, p) && !g.fresh(asked) }
	machine, network, update := asks(PartMachine, g.mAsked), asks(PartNetwork, g.nAsked), asks(PartUpdate, g.uAsked)
	var others sync.WaitGroup
	defer others.Wait() // whatever happens below, nobody writes after mu is free
	ctx, cancel := g.patient(ctx)
	defer cancel()
	if network {
		others.Go(func() { g.n, g.nErr = g.network.Status(ctx) })
	}
	if update {
		others.Go(func() { g.u, g.uErr = g.update.Status(ctx) })
	}
	if machine {
		g.m, g.mErr = g.machine.Status(ctx)
	}
	others.Wait()
	if machine {
		g.heardMachine()
	}
	if network {
		g.heardNetwork()
	}
	if update {
		g.heardUpdate()
	}
}

func (g *gatherer) heardMachine() {
	g.mAsked = time.Now()
	g.tell(PartMachine, g.mAsked, g.mErr)
	if g.mErr != nil {
		g.m = machine.Status{}
	} else {
		g.serial = g.m.Serial
	}
}

func (g *gatherer) heardNetwork() {
	g.nAsked = time.Now()
	g.tell(PartNetwork, g.nAsked, g.nErr)
	if g.nErr != nil {
		g.n = network.Status{}
	} else {
		g.learnNames(g.n.Names)
	}
}

func (g *gatherer) heardUpdate() {
	g.uAsked = time.Now()
	g.tell(PartUpdate, g.uAsked, g.uErr)
	if g.uErr != nil {
		g.u = update.Status{}
	}
}

// fresh says whether a part was asked just now.
func (g *gatherer) fresh(asked time.Time) bool { return !asked.IsZero() && time.Since(asked) < g.keep }

// patient is for asking a part: others wait for its answer too, so it does not end with the first
// one's request.
func (g *gatherer) patient(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), askTime)
}

// tell logs that a part does not answer or does again, once, not at every viewer's every request.
// It is called with mu held, now that the part was asked.
func (g *gatherer) tell(p Part, now time.Time, err error) {
	s := g.silent[p]
	switch {
	case err == nil && s == nil:
	case err == nil:
		delete(g.silent, p)
		if s.told {
			g.log.Info("part answers again", "part", string(p))
		}
	case s == nil:
		g.silent[p] = &silence{since: now}
	case !s.told && now.Sub(s.since) >= restTime:
		s.told = true
		g.log.Warn("part does not answer", "part", string(p), "error", err)
	}
}
