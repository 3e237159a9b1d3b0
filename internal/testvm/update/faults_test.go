package update

import (
	"fmt"
	"strings"
	"testing"

	"cloudlink.local/gateway/firmware/publish"
	"cloudlink.local/gateway/internal/qemu"
	"cloudlink.local/gateway/internal/settings"
	"cloudlink.local/gateway/internal/testvm"
	"cloudlink.local/gateway/internal/update"
)

// A fault is a release that does not hold what it promises, and what its receipt has to say.
type fault struct {
	name   string
	image  func(t *testing.T, good, version string) string
	reason update.Reason
	detail string
	log    string                                        // in what the trial said last
	after  func(t *testing.T, g *Gateway, back Settings) // of the old version, which is back
}

// Settings are those that the gateway had before, and has now.
type Settings struct{ Before, After settings.Update }

func faulty(fault string) func(*testing.T, string, string) string {
	return func(t *testing.T, good, version string) string { return Faulty(t, good, version, fault) }
}

// Each release is broken in earnest: the gateway is back in the old one by itself, and knows why.
func TestM6BrokenReleases(t *testing.T) {
	t.Parallel()
	crashing := []fault{
		{
			name: "the kernel panics at once", reason: update.Crashed, detail: "Kernel panic", log: "Unable to mount root fs",
			image: func(t *testing.T, _, version string) string {
				return Release(t, version, "-init", testvm.Binary(t, "./internal/testvm/testdata/panic"), "-arguments", "rdinit=/nowhere")
			},
		},
		{name: "init cannot be executed", image: faulty(NoProgram), reason: update.Crashed, detail: "Requested init /init failed"},
		{name: "init exits", image: faulty("exits"), reason: update.Crashed, detail: "Attempted to kill init"},
		{name: "init hangs", image: faulty("hangs"), reason: update.Crashed, detail: "watchdog"},
	}
	for name, c := range map[string]struct {
		firmware qemu.Firmware
		faults   []fault
	}{
		"where the firmware keeps the last words": {qemu.EDK2, crashing},
		"services": {qemu.UBoot, []fault{
			{name: "no portal", image: faulty("no-portal"), reason: update.CheckFailed, detail: "service-runs portal", log: "the portal ends"},
			{name: "a fault after a minute", image: faulty("late"), reason: update.CheckFailed, detail: "service-runs portal", log: "after a minute"},
			{name: "settings that the old version cannot read", image: faulty("settings"), reason: update.CheckFailed, detail: "service-runs network", after: keptSettings},
		}},
		"no network": {qemu.UBoot, []fault{
			{name: "no network", image: faulty("no-network"), reason: update.CheckFailed, detail: "port-address eth0"},
		}},
		"a full data partition": {qemu.UBoot, []fault{
			{name: "it fills the data partition", image: faulty("fills"), detail: "bytes are free"},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			good := Release(t, "1.0.0")
			g := Boot(t, good, testvm.Options{Firmware: c.firmware})
			for i, f := range c.faults {
				t.Run(f.name, func(t *testing.T) {
					g.In(t)
					f.test(t, g, good, fmt.Sprintf("1.2.%d", i+1))
				})
			}
		})
	}
}

func (f fault) test(t *testing.T, g *Gateway, good, version string) {
	repo := NewRepo(t)
	repo.Publish(f.image(t, good, version), func(r *publish.Release) { r.MinimumFrom = "1.0.0" })
	g.Use(repo.URL(), nil)
	var had Settings
	g.JSON("/api/v1/update/settings", &had.Before)
	id := g.Idle() + 1
	g.Do("install")
	a := g.Ended(id)
	t.Logf("%s: %s\nlast: %s", a.Reason, a.Detail, strings.Join(a.LastLog[max(0, len(a.LastLog)-15):], "\n      "))
	g.Running("1.0.0", "a")
	if a.State != update.RolledBack || f.reason != "" && a.Reason != f.reason || a.To != version {
		t.Errorf("%s: it is %s, reason %s, want %s, reason %s", a.To, a.State, a.Reason, update.RolledBack, f.reason)
	}
	if !strings.Contains(a.Detail, f.detail) {
		t.Errorf("the receipt does not say %q: %s", f.detail, a.Detail)
	}
	if log := strings.Join(a.LastLog, "\n"); !strings.Contains(log, f.log) {
		t.Errorf("what it said last does not have %q:\n%s", f.log, log)
	}
	g.JSON("/api/v1/update/settings", &had.After)
	if f.after != nil {
		f.after(t, g, had)
	}
}

// keptSettings wants of settings of a newer shape all that this version knows.
func keptSettings(t *testing.T, g *Gateway, s Settings) {
	if s.After != s.Before || s.Before.Server == "" {
		t.Errorf("settings after %+v, before %+v", s.After, s.Before)
	}
}
