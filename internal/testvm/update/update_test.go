package update

import (
	"slices"
	"testing"

	"cloudlink.local/gateway/firmware/publish"
	"cloudlink.local/gateway/internal/settings"
	"cloudlink.local/gateway/internal/testvm"
	"cloudlink.local/gateway/internal/update"
)

// confirmed wants an attempt that has come to its end well.
func confirmed(t *testing.T, g *Gateway, id int) update.Attempt {
	t.Helper()
	a := g.Ended(id)
	if a.State != update.Confirmed {
		t.Fatalf("attempt %d is %s: %s %s\n%+v", id, a.State, a.Reason, a.Detail, a)
	}
	t.Logf("attempt %d: %s to %s, delta %v, %d bytes, memory %d", id, a.Kind, a.To, a.Delta, a.Bytes, a.PeakMemory)
	for _, s := range a.Steps {
		t.Logf("%-15s %6.1f s", s.State, s.Seconds)
	}
	return a
}

// From N-1 to N to N+1, the last by a delta, and back to N: the settings come along both ways.
func TestM4NewerNewerAndBack(t *testing.T) {
	t.Parallel()
	old, middle, newest := Release(t, "1.0.0"), Release(t, "1.1.0"), Release(t, "1.2.0")
	repo := NewRepo(t)
	repo.Deltas = true
	repo.Publish(middle, nil)
	g := Boot(t, old, testvm.Options{})
	set := settings.Update{Server: repo.URL(), Channel: settings.Stable, Window: settings.Window{From: "02:00", To: "04:00", Zone: "Europe/Berlin"}}
	g.Use(repo.URL(), func(s *settings.Update) { *s = set })
	carried := func() {
		t.Helper()
		var now settings.Update
		if g.JSON("/api/v1/update/settings", &now); now != set {
			t.Errorf("settings %+v, want %+v", now, set)
		}
	}
	g.Do("install")
	full := confirmed(t, g, 1)
	g.Running("1.1.0", "b")
	carried()

	repo.Publish(newest, nil)
	g.Do("check")
	g.Await("there is an update", func(s update.Status) error { return available(s, "1.2.0") })
	g.Do("install")
	small := confirmed(t, g, 2)
	g.Running("1.2.0", "a")
	carried()
	if !small.Delta || small.Bytes*5 > full.Bytes {
		t.Errorf("delta %v: %d bytes, and the whole update has %d", small.Delta, small.Bytes, full.Bytes)
	}
	for _, a := range []update.Attempt{full, small} {
		if most := int64(64 << 20); a.PeakMemory == 0 || a.PeakMemory > most {
			t.Errorf("to %s: %d bytes of memory, want at most %d", a.To, a.PeakMemory, most)
		}
	}

	set.Channel = settings.Beta
	g.Use(repo.URL(), func(s *settings.Update) { *s = set })
	g.Do("rollback")
	back := confirmed(t, g, 3)
	g.Running("1.1.0", "b")
	carried()
	if back.Kind != update.Rollback || back.From != "1.2.0" || back.To != "1.1.0" {
		t.Errorf("%+v", back)
	}
}

// A drill starts the other system and comes back by itself; then an update comes that nobody asked for.
func TestM7DrillThenUnasked(t *testing.T) {
	t.Parallel()
	old, next := Release(t, "1.0.0"), Release(t, "1.1.0")
	repo := NewRepo(t)
	repo.Publish(old, nil)
	g := Boot(t, old, testvm.Options{})
	g.Use(repo.URL(), nil)
	g.Do("drill")
	a := confirmed(t, g, 1)
	g.Running("1.0.0", "a")
	if a.Kind != update.Drill || a.ToSlot != "b" || !slices.ContainsFunc(a.Steps, func(s update.Step) bool { return s.State == update.Trial }) {
		t.Errorf("%+v", a)
	}

	repo.Publish(next, func(r *publish.Release) { r.SecurityFloor = "1.1.0" })
	g.Use(repo.URL(), func(s *settings.Update) { s.Automatic = true })
	a = confirmed(t, g, 2)
	g.Running("1.1.0", "b")
	if a.By != "" || a.Kind != update.Update {
		t.Errorf("it was asked for: %+v", a)
	}
	// It was the first that is safe: there is no way back, not even after a factory reset.
	g.Do("rollback")
	if a := g.Ended(3); a.State != update.Failed || a.Reason != "below-floor" {
		t.Errorf("rollback below the floor: %+v", a)
	}
	if got := string(g.Disk.ReadFile("esp", "cloudlink/floor")); !slices.Contains([]string{"1.1.0"}, floorIn(got)) {
		t.Errorf("beside the loader's environment: %q", got)
	}
}
