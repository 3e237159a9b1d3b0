package update

import (
	"strings"
	"testing"

	"cloudlink.local/gateway/internal/condition"
	"cloudlink.local/gateway/internal/machine"
)

func TestM6TheReceiptOfATrialThatSaidNothing(t *testing.T) {
	said := func(lines ...string) (list []machine.Entry) {
		for _, l := range lines {
			source, text, _ := strings.Cut(l, ": ")
			list = append(list, machine.Entry{Source: source, Text: text})
		}
		return list
	}
	crashed := machine.Status{Conditions: []condition.Condition{condition.New(condition.WatchdogReset)}}
	full := machine.Status{Data: machine.Data{State: machine.DataOK, FreeBytes: 4096}}
	for name, c := range map[string]struct {
		previous, current []machine.Entry
		now               machine.Status
		reason            Reason
		detail, log       string
	}{
		"a panic that the firmware has kept": {
			said("update: restarting into slot b"), said("init: up", "pstore: <4>[1.0] before", "pstore: <0>[1.1] Kernel panic - not syncing: no root", "pstore: <4>[1.2] after"), crashed,
			Crashed, "its kernel crashed: <0>[1.1] Kernel panic - not syncing: no root", "pstore: <4>[1.2] after",
		},
		"a hang": {said("init: process 1 is up", "network: here"), said("init: up"), crashed, Crashed, "the watchdog restarted the machine", "network: here"},
		"it has written nothing, and the log is that of the run before": {
			said("portal: busy", "update: restarting into slot b", "init: the machine goes down"), nil, machine.Status{},
			NotConfirmed, "has not come so far as to write anything down", "",
		},
		"it ended somehow":                   {said("init: process 1 is up", "network: here"), nil, machine.Status{}, NotConfirmed, "did not prove itself in time", "network: here"},
		"it has filled the data partition":   {said("init: process 1 is up"), nil, full, NotConfirmed, "4096 bytes are free, and 1000000 were", "init: process 1 is up"},
		"no log at all, and no last words":   {nil, nil, machine.Status{}, NotConfirmed, "has not come so far", ""},
		"last words that tell of no mistake": {nil, said("pstore: <6>[9.9] the end"), crashed, Crashed, "its kernel crashed: <6>[9.9] the end", "the end"},
	} {
		a := Attempt{Expected: Expected{DataFree: 1_000_000}}
		reason, detail, log := evidence(c.previous, c.current, c.now, &a, NotConfirmed)
		if reason != c.reason || !strings.Contains(detail, c.detail) || !strings.Contains(strings.Join(log, "\n"), c.log) {
			t.Errorf("%s: %s: %s\n%s", name, reason, detail, strings.Join(log, "\n"))
		}
		if c.log == "" && len(log) != 0 {
			t.Errorf("%s: somebody else's words: %q", name, log)
		}
	}
}

func TestM6ChecksThatCannotGetWell(t *testing.T) {
	e := Expected{Version: "1.1.0", Services: []string{"portal", "media"}, Data: machine.DataOK, DataFree: 1 << 30}
	well := machine.Status{
		Data:     machine.Data{State: machine.DataOK, FreeBytes: 1 << 20},
		Services: []machine.Service{{Name: "portal", State: machine.Running}}, // and media is done without
	}
	for name, c := range map[string]struct {
		change func(*Health)
		bad    CheckName
		final  bool
	}{
		"all is well":      {func(*Health) {}, "", false},
		"another version":  {func(h *Health) { h.Version = "" }, VersionRuns, true},
		"a service starts": {func(h *Health) { h.Machine.Services = []machine.Service{{Name: "portal", State: machine.Starting}} }, ServiceRuns, false},
		"a service has ended": {func(h *Health) {
			h.Machine.Services = []machine.Service{{Name: "portal", State: machine.Running, LastExit: "exit status 1"}}
		}, ServiceRuns, true},
		"data are not open yet":        {func(h *Health) { h.Machine.Data = machine.Data{} }, DataKept, false},
		"data were replaced":           {func(h *Health) { h.Machine.Data.State = machine.DataReplaced }, DataKept, true},
		"the data partition is filled": {func(h *Health) { h.Machine.Data.FreeBytes = 0 }, DataKept, false},
	} {
		h := Health{Version: "1.1.0", Machine: well}
		c.change(&h)
		bad, failing := failed(e.checks(h))
		if failing != (c.bad != "") || bad.Name != c.bad || bad.Final != c.final {
			t.Errorf("%s: %+v, want %s, final %v", name, bad, c.bad, c.final)
		}
	}
}
