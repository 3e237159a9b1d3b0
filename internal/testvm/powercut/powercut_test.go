package powercut

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"

	"cloudlink.local/gateway/internal/boot/bootenv"
	"cloudlink.local/gateway/internal/condition"
	"cloudlink.local/gateway/internal/machine"
	"cloudlink.local/gateway/internal/settings"
	"cloudlink.local/gateway/internal/testvm"
	vmupdate "cloudlink.local/gateway/internal/testvm/update"
	"cloudlink.local/gateway/internal/update"
)

// `make powercut` runs the test with more points than CI does.
var (
	points = flag.Int("points", 8, "power cuts to try; 0 for each that there is")
	seed   = flag.Uint64("seed", 1, "of the choice, and of what a cut leaves")
	keep   = flag.String("keep", "", "folder for the disks of points that fail")
	report = flag.Bool("report", false, "print a JSON object at the end")

	tried, survived atomic.Int64
)

func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	if *report {
		json.NewEncoder(os.Stdout).Encode(map[string]any{"bench": "powercut", "survived": survived.Load(), "points": tried.Load()})
	}
	os.Exit(code)
}

// The releases: the one that runs and the one it is updated to.
const before, after = "1.0.0", "1.1.0"

// one in so many points takes the update to its end.
const oneIn = 8

// A recorded update is cut at any of its writes: the gateway has to come up, from a slot that is good, and
// to go on.
func TestM8_PowerCutAtAnyWriteOfAnUpdate(t *testing.T) {
	old, fresh := vmupdate.Release(t, before), vmupdate.Release(t, after)
	repo := vmupdate.NewRepo(t)
	repo.Publish(fresh, nil)
	dir, err := os.MkdirTemp("", "powercut")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	var recorder *Recorder
	g := vmupdate.Boot(t, old, testvm.Options{Serve: func(path string) (string, error) {
		if recorder, err = Record(path, dir); err != nil {
			return "", err
		}
		t.Cleanup(func() { // when the machine is off
			if err := recorder.Close(); err != nil {
				t.Error(err)
			}
		})
		return recorder.URL(), nil
	}})
	c := &campaign{server: repo.URL()}
	if c.layout, err = NewLayout(recorder.Base); err != nil {
		t.Fatal(err)
	}
	g.Use(c.server, nil)
	c.told = recorder.Done()
	settled(g)
	g.Do("install")
	g.Reach(1, update.Trial)

	// While the trial lasts there is time for the cuts before it.
	c.try(t, "until the trial", recorder, 0, *points-*points/4)
	if a := g.Ended(1); a.State != update.Confirmed {
		t.Fatalf("the update that is recorded is %s: %s %s", a.State, a.Reason, a.Detail)
	}
	g.PowerButton()
	g.WaitOff()
	c.try(t, "from the trial on", recorder, c.until, *points/4)
	c.onlyTheOtherSlot(t)
}

// A campaign is what its points have in common.
type campaign struct {
	server string
	layout *Layout
	told   int // operations when the settings had been taken

	rec   *Recording
	until int          // operations that have had their cuts
	tried atomic.Int64 // points, of those that are tried now
}

// try tries n points from one operation to the last so far, or all if -points=0.
func (c *campaign) try(t *testing.T, name string, recorder *Recorder, from, n int) {
	rec, err := recorder.Recording()
	if err != nil {
		t.Fatal(err)
	}
	c.rec, c.until = rec, len(rec.Ops)
	list := rec.Points(from, c.until, *seed)
	t.Logf("%s: operations %d to %d, %d points", name, from, c.until, len(list))
	if *points > 0 {
		list = c.layout.Sample(rec, list, n, *seed)
	}
	c.tried.Store(0)
	t.Run(name, func(t *testing.T) {
		for i, p := range list {
			class := c.layout.ClassAt(rec, p)
			t.Run(fmt.Sprintf("%v %s", p, class), func(t *testing.T) {
				t.Parallel()
				tried.Add(1)
				defer progress(t, &c.tried, len(list))
				survives(t, c, rec, p, i%oneIn == 0) // the first: it lasts longest
				survived.Add(1)                      // only if nothing of that was fatal
			})
		}
	})
}

// progress tells whoever waits for many points how far they are.
func progress(t *testing.T, done *atomic.Int64, of int) {
	verdict := "survived"
	if t.Failed() {
		verdict = "FAILED"
	}
	if n := done.Add(1); *report {
		fmt.Printf("%d/%d %s %s\n", n, of, t.Name(), verdict)
	}
}

// harm is what no power cut may do.
var harm = []condition.ID{
	condition.StorageFailing, condition.DataMissing, condition.DataReadOnly, condition.DataReplaced, condition.DataFull,
	condition.ServiceFailing, condition.BootEnvRepaired, condition.WatchdogReset,
}

// survives cuts the power at the point.
func survives(t *testing.T, c *campaign, rec *Recording, p Point, finish bool) {
	dir, err := os.MkdirTemp("", "point")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := rec.Make(filepath.Join(dir, "cloudlink.img"), p); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() && *keep != "" {
			if err := rec.Make(filepath.Join(*keep, p.String()+".img"), p); err != nil {
				t.Error(err)
			}
		}
	})
	slots, err := c.layout.Slots(rec, p)
	if err != nil {
		t.Fatal(err)
	}
	g := vmupdate.Boot(t, dir, testvm.Options{})
	os.RemoveAll(dir)                                // the machine has its own
	loaded := g.Expect("CloudLink Gateway: (.*)")[1] // before an update that goes on can restart it
	if !slices.ContainsFunc(slots, func(s bootenv.Slot) bool { return loaded == "slot "+string(s) }) {
		t.Fatalf("the loader says %q, legal is %v", loaded, slots)
	}
	status := g.Status()
	if want := map[string]string{"a": before, "b": after}[status.Slot]; status.Release.Version != want {
		t.Fatalf("slot %s holds %s, want %s", status.Slot, status.Release.Version, want)
	}
	if status.Data.State != machine.DataOK {
		t.Fatalf("the data partition is %s: %s", status.Data.State, status.Data.Detail)
	}
	for _, id := range harm {
		if testvm.HasCondition(status, id) {
			t.Fatalf("the owner is told of %s: %+v", id, status.Conditions)
		}
	}
	var set settings.Update
	if g.JSON("/api/v1/update/settings", &set); set.Server != c.server && (set.Server != "" || p.After >= c.told) {
		t.Fatalf("the settings are lost: %+v", set)
	}
	goesOn(t, g)
	if !finish {
		g.PowerCut()
		return
	}
	finishes(t, c, g)
}

// goesOn waits until the update has ended or is seen to go on.
func goesOn(t *testing.T, g *vmupdate.Gateway) {
	var first *update.Status
	s := g.Await("the update goes on", func(s update.Status) error {
		if first == nil {
			first = &s
		}
		a := newest(s)
		switch b := newest(*first); {
		case !a.State.Working(), a.ID != b.ID, len(a.Steps) != len(b.Steps):
			return nil
		case s.Progress != nil && first.Progress != nil && s.Progress.Bytes > first.Progress.Bytes:
			return nil
		case a.State == update.Trial && len(s.Checks) > 0 && !slices.ContainsFunc(s.Checks, func(c update.Check) bool { return !c.OK }):
			return nil
		}
		return fmt.Errorf("it is %s still: %+v", a.State, s)
	})
	sound(t, s)
}

// sound says whether nothing but the cut itself was a reason to end an attempt.
func sound(t *testing.T, s update.Status) {
	for _, a := range s.Attempts {
		switch a.Reason {
		case "", update.Interrupted, update.NotConfirmed:
		default:
			t.Fatalf("attempt %d: %s: %s %s", a.ID, a.State, a.Reason, a.Detail)
		}
	}
}

func newest(s update.Status) update.Attempt {
	if len(s.Attempts) == 0 {
		return update.Attempt{State: update.Idle}
	}
	return s.Attempts[0]
}

// settled waits until nothing is on its way.
func settled(g *vmupdate.Gateway) update.Status {
	return g.Await("nothing is on its way", func(s update.Status) error {
		if a := newest(s); s.Busy || a.State.Working() {
			return fmt.Errorf("attempt %d is %s", a.ID, a.State)
		}
		return nil
	})
}

// finishes asks for the update, where it has not been begun anew, until the new system is confirmed.
func finishes(t *testing.T, c *campaign, g *vmupdate.Gateway) {
	for {
		s := settled(g)
		sound(t, s)
		if s.Version == after {
			break
		}
		if len(s.Attempts) > 5 {
			t.Fatalf("the update is begun again and again: %+v", s.Attempts)
		}
		g.Use(c.server, nil) // the cut may have come before it was told
		g.Do("install")
		g.Await("the next attempt begins", func(now update.Status) error {
			if newest(now).ID == newest(s).ID {
				return errors.New("it has not")
			}
			return nil
		})
	}
	g.PowerButton()
	g.WaitOff()
	for _, name := range []string{bootenv.File, bootenv.Backup} {
		if got, want := g.Disk.Env(name), (bootenv.Env{Confirmed: bootenv.B}); got != want {
			t.Fatalf("%s says %+v in the end, want %+v", name, got, want)
		}
	}
	if err := g.Disk.CheckData(); err != nil {
		t.Fatalf("data partition in the end: %v", err)
	}
}

// onlyTheOtherSlot: the slot that runs is never written.
func (c *campaign) onlyTheOtherSlot(t *testing.T) {
	for i, op := range c.rec.Ops {
		if class := c.layout.Class(op); class == "slot-a files" || class == "slot-a tables" {
			t.Errorf("operation %d of %d: a %v of %s", i, len(c.rec.Ops), op.Kind, class)
		}
	}
}
