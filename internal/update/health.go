package update

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"cloudlink.local/gateway/internal/machine"
	"cloudlink.local/gateway/internal/network"
)

// Expected is how the system was before an update: what the trial has to bring back.
type Expected struct {
	Version  string            `json:"version,omitempty"` // that comes to run
	Services []string          `json:"services"`          // that ran
	Ports    []ExpectedPort    `json:"ports"`             // with an address
	Data     machine.DataState `json:"data"`
	DataFree int64             `json:"data_free"` // bytes
}

// enough is what has to be free on the data partition: settings and receipts are kept there.
const enough = 256 << 10

// An ExpectedPort is a port that had addresses.
type ExpectedPort struct {
	Name   string       `json:"name"`
	Static []netip.Addr `json:"static"` // these have to be back
	Leased bool         `json:"leased"` // one of a server has to be back, whichever it is
}

// A Check is one thing that a trial has to prove.
type Check struct {
	Name   CheckName `json:"name"`
	Arg    string    `json:"arg,omitempty"` // which service or port
	OK     bool      `json:"ok"`
	Detail string    `json:"detail,omitempty"` // in a technician's words
	Final  bool      `json:"final,omitempty"`  // it cannot get well again in this run
}

// A final error is one that does not go away before the next start.
type final struct{ error }

// A CheckName names a kind of check; its texts, de and en, are found by it.
type CheckName string

// The checks.
const (
	VersionRuns CheckName = "version-runs" // Arg: which
	ServiceRuns CheckName = "service-runs" // Arg: its name
	PortAddress CheckName = "port-address" // Arg: its name
	PageOpens   CheckName = "page-opens"
	DataKept    CheckName = "data-kept" // the data partition is as it was
)

// Health is what is known of the system that runs.
type Health struct {
	Version string
	Machine machine.Status
	Network *network.Status // nil: it does not answer
	Page    error           // why the page does not open
}

// expect notes how the system is now.
func expect(h Health) Expected {
	e := Expected{Services: []string{}, Ports: []ExpectedPort{}, Data: h.Machine.Data.State, DataFree: h.Machine.Data.FreeBytes}
	for _, s := range h.Machine.Services {
		if s.State == machine.Running {
			e.Services = append(e.Services, s.Name)
		}
	}
	if h.Network == nil {
		return e
	}
	for _, p := range h.Network.Ports {
		port := ExpectedPort{Name: p.Name}
		for _, a := range p.Addresses {
			switch a.Source {
			case network.Static:
				port.Static = append(port.Static, a.Prefix.Addr())
			case network.DHCP, network.DHCP6:
				port.Leased = true
			}
		}
		if p.Link && (port.Leased || len(port.Static) > 0) {
			e.Ports = append(e.Ports, port)
		}
	}
	return e
}

// checks compares the system with what is expected of it.
func (e Expected) checks(h Health) []Check {
	var list []Check
	add := func(name CheckName, arg string, err error) {
		c := Check{Name: name, Arg: arg, OK: err == nil}
		if err != nil {
			c.Detail = err.Error()
			_, c.Final = err.(final)
		}
		list = append(list, c)
	}
	if e.Version != "" { // in records of older versions
		add(VersionRuns, e.Version, e.isVersion(h.Version))
	}
	for _, name := range e.Services {
		add(ServiceRuns, name, runs(h.Machine.Services, name))
	}
	for _, p := range e.Ports {
		add(PortAddress, p.Name, p.back(h.Network))
	}
	add(PageOpens, "", h.Page)
	add(DataKept, "", e.kept(h.Machine.Data))
	return list
}

// isVersion says why the system that runs is not the one that was meant to.
func (e Expected) isVersion(running string) error {
	if running != e.Version {
		return final{fmt.Errorf("version %q runs", running)}
	}
	return nil
}

// kept says why the data partition is not as it was.
func (e Expected) kept(d machine.Data) error {
	switch {
	case d.State != e.Data && e.Data != "" && d.State != "":
		return final{fmt.Errorf("the data partition is %s and was %s", d.State, e.Data)}
	case d.State != e.Data && e.Data != "":
		return fmt.Errorf("the data partition is not open yet")
	case d.FreeBytes < enough && e.DataFree >= enough:
		return fmt.Errorf("the data partition is full: %d bytes are free, and %d were", d.FreeBytes, e.DataFree)
	}
	return nil
}

// runs says why a service does not.
func runs(services []machine.Service, name string) error {
	i := slices.IndexFunc(services, func(s machine.Service) bool { return s.Name == name })
	switch {
	case i < 0:
		return nil // this firmware does without it
	case services[i].LastExit != "": // it may run again; until when?
		return final{fmt.Errorf("it has ended: %s", services[i].LastExit)}
	case services[i].State != machine.Running:
		return fmt.Errorf("it is %s", services[i].State)
	}
	return nil
}

// back says why a port is not as it was.
func (p ExpectedPort) back(s *network.Status) error {
	if s == nil {
		return fmt.Errorf("the network service does not answer")
	}
	i := slices.IndexFunc(s.Ports, func(have network.Port) bool { return have.Name == p.Name })
	if i < 0 {
		return fmt.Errorf("the port is not there")
	}
	leased := false
	var have []netip.Addr
	for _, a := range s.Ports[i].Addresses {
		leased = leased || a.Source == network.DHCP || a.Source == network.DHCP6
		have = append(have, a.Prefix.Addr())
	}
	for _, a := range p.Static {
		if !slices.Contains(have, a) {
			return fmt.Errorf("address %v is not back", a)
		}
	}
	if p.Leased && !leased {
		return fmt.Errorf("no DHCP server has answered")
	}
	return nil
}

// failed returns the first check that failed.
func failed(list []Check) (Check, bool) {
	for _, c := range list {
		if !c.OK {
			return c, true
		}
	}
	return Check{}, false
}

// A trial proves itself when all checks have been good for steady without a break; it has failed when
// limit has passed before, or a check says that it cannot get well again.
type trial struct {
	every, steady, limit time.Duration
	look                 func(context.Context) Health
}

var realTrial = trial{every: 2 * time.Second, steady: 90 * time.Second, limit: 3 * time.Minute}

// run returns the checks as they were last, and whether the trial has proved itself.
func (t trial) run(ctx context.Context, e Expected, tell func([]Check)) ([]Check, bool) {
	began := time.Now()
	var good time.Time // since when; zero: not now
	tick := time.NewTicker(t.every)
	defer tick.Stop()
	for {
		list := e.checks(t.look(ctx))
		if ctx.Err() != nil {
			return list, false
		}
		tell(list)
		now := time.Now()
		switch _, bad := failed(list); {
		case bad && now.Sub(began) >= t.limit, slices.ContainsFunc(list, func(c Check) bool { return c.Final }):
			return list, false
		case bad:
			good = time.Time{}
		case good.IsZero():
			good = now
		}
		if !good.IsZero() && now.Sub(good) >= t.steady {
			return list, true
		}
		select {
		case <-ctx.Done():
			return list, false
		case <-tick.C:
		}
	}
}
