package update

import (
	"slices"
	"testing"
	"time"
)

// Every power cut and every decision of the loader.
func TestResume(t *testing.T) {
	const old, fresh = "a", "b"
	attempt := func(s State, k Kind) Attempt {
		return Attempt{State: s, Kind: k, FromSlot: old, ToSlot: fresh, BootID: "1"}
	}
	for name, c := range map[string]struct {
		a      Attempt
		now    Booted
		want   State
		reason Reason
	}{
		"asking":                                     {attempt(Checking, Update), Booted{Slot: old, BootID: "2"}, Failed, Interrupted},
		"fetching":                                   {attempt(Downloading, Update), Booted{Slot: old, BootID: "2"}, Downloading, ""},
		"reading what was fetched":                   {attempt(Verifying, Update), Booted{Slot: old, BootID: "2"}, Verifying, ""},
		"writing":                                    {attempt(Writing, Update), Booted{Slot: old, BootID: "2"}, Verifying, ""},
		"writing, and only the process ended":        {attempt(Writing, Update), Booted{Slot: old, BootID: "1"}, Verifying, ""},
		"reading the other slot":                     {attempt(Verifying, Drill), Booted{Slot: old, BootID: "2"}, Failed, Interrupted},
		"waiting for the window, process":            {attempt(PendingReboot, Update), Booted{Slot: old, BootID: "1"}, PendingReboot, ""},
		"waiting for the window, power cut":          {attempt(PendingReboot, Update), Booted{Slot: old, BootID: "2"}, PendingReboot, ""},
		"armed, process":                             {attempt(PendingReboot, Update), Booted{Slot: old, BootID: "1", Trial: fresh, Tries: 1}, PendingReboot, ""},
		"armed, and not by the loader":               {attempt(PendingReboot, Update), Booted{Slot: old, BootID: "2", Trial: fresh, Tries: 1}, PendingReboot, ""},
		"the loader has tried it":                    {attempt(PendingReboot, Update), Booted{Slot: fresh, OnTrial: true, BootID: "2", Trial: fresh}, Trial, ""},
		"it did not start":                           {attempt(PendingReboot, Update), Booted{Slot: old, BootID: "3", Trial: fresh}, RolledBack, NotConfirmed},
		"on trial, process":                          {attempt(Trial, Update), Booted{Slot: fresh, OnTrial: true, BootID: "2", Trial: fresh}, Trial, ""},
		"on trial, power cut":                        {attempt(Trial, Update), Booted{Slot: old, BootID: "3", Trial: fresh}, RolledBack, NotConfirmed},
		"confirmed, and the cut was quicker":         {attempt(Trial, Update), Booted{Slot: fresh, BootID: "3"}, Confirmed, ""},
		"confirmed before it was saved that it runs": {attempt(PendingReboot, Update), Booted{Slot: fresh, BootID: "3"}, Confirmed, ""},
		"a drill's trial is cut":                     {attempt(Trial, Drill), Booted{Slot: old, BootID: "3", Trial: fresh}, RolledBack, NotConfirmed},
		"ended":                                      {attempt(Confirmed, Update), Booted{Slot: fresh, BootID: "2"}, Confirmed, ""},
		"nothing":                                    {attempt(Idle, Update), Booted{Slot: old, BootID: "2"}, Idle, ""},
	} {
		state, reason := Resume(c.a, c.now)
		if state != c.want || reason != c.reason {
			t.Errorf("%s: %s %s, want %s %s", name, state, reason, c.want, c.reason)
		}
	}
}

// Whatever state Resume gives can be gone to from the saved one, or is it.
func TestEveryStateIsReachedAndLeft(t *testing.T) {
	reached := map[State]bool{Idle: true}
	for from, list := range next {
		if len(list) == 0 {
			t.Errorf("%s is for ever", from)
		}
		for _, to := range list {
			reached[to] = true
			if _, ok := next[to]; !ok {
				t.Errorf("%s leads to %s, which there is not", from, to)
			}
		}
	}
	for s := range next {
		if !reached[s] {
			t.Errorf("nothing leads to %s", s)
		}
		if s.Working() && !s.May(Failed) && !s.May(RolledBack) {
			t.Errorf("%s cannot fail", s)
		}
	}
	if Trial.May(Failed) || Idle.May(Trial) || Confirmed.Working() {
		t.Error("the table is wrong")
	}
}

func TestTheReceiptHasEveryStepWithItsTime(t *testing.T) {
	var a Attempt
	begin := time.Date(2026, 11, 22, 1, 0, 0, 0, time.UTC)
	for i, s := range []State{Checking, Downloading, Verifying} {
		if err := a.begin(s, begin.Add(time.Duration(i)*time.Second), 3*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.begin(Trial, begin, 0); err == nil {
		t.Error("a trial of what was not written")
	}
	if len(a.Steps) != 3 || a.Steps[1].Seconds != 3 || a.Steps[2].Seconds != 0 || a.State != Verifying {
		t.Errorf("%+v", a.Steps)
	}
}

func TestD3Window(t *testing.T) {
	at := func(s string) time.Time {
		v, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, c := range []struct {
		from, to, zone, now string
		want                bool
	}{
		{"", "", "", "2026-11-22T12:00:00Z", true},
		{"02:00", "04:00", "", "2026-11-22T02:00:00Z", true},
		{"02:00", "04:00", "", "2026-11-22T04:00:00Z", false},
		{"02:00", "04:00", "Europe/Berlin", "2026-11-22T01:30:00Z", true},
		{"02:00", "04:00", "Europe/Berlin", "2026-07-22T01:30:00Z", true},
		{"02:00", "04:00", "Europe/Berlin", "2026-07-22T02:30:00Z", false},
		{"22:00", "04:00", "", "2026-11-22T23:00:00Z", true},
		{"22:00", "04:00", "", "2026-11-22T03:59:00Z", true},
		{"22:00", "04:00", "", "2026-11-22T12:00:00Z", false},
	} {
		if got := inWindow(c.from, c.to, c.zone, at(c.now)); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

func TestTheRecordIsKeptAndBounded(t *testing.T) {
	dir := t.TempDir()
	none := func(err error) { t.Error(err) }
	s := openStore(dir, none)
	if s.last().State != Idle {
		t.Error("an attempt before the first")
	}
	for range maxAttempts + 5 {
		a := s.add(Attempt{Kind: Update, To: "1.0.0", State: Checking})
		a.State = RolledBack
		s.save(a)
	}
	s = openStore(dir, none)
	all := s.all()
	if len(all) != maxAttempts || all[0].ID != maxAttempts+5 || !slices.IsSortedFunc(all, func(a, b Attempt) int { return b.ID - a.ID }) {
		t.Errorf("%d attempts, the newest %d", len(all), all[0].ID)
	}
	if !s.gaveBack("1.0.0") || s.gaveBack("1.0.1") {
		t.Error("it does not know what failed")
	}
}
