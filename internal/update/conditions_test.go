package update

import (
	"slices"
	"testing"
	"time"

	"cloudlink.local/gateway/internal/condition"
	"cloudlink.local/gateway/internal/update/trust"
)

func TestD6_WhatUpdatesTellTheOwner(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	attempt := func(state State, reason Reason, ago time.Duration) Status {
		return Status{State: state, Version: "1.0.0", Attempts: []Attempt{
			{ID: 2, To: "1.1.0", State: state, Reason: reason, Steps: []Step{{State: Checking, Time: now.Add(-ago - time.Minute)}, {State: state, Time: now.Add(-ago)}}},
			{ID: 1, State: RolledBack, To: "0.9.0"},
		}}
	}
	with := func(s Status, c LastCheck) *Status { s.Check = &c; return &s }
	plain := func(s Status) *Status { return &s }
	offer := &Available{Version: "1.1.0"}
	fellBack := condition.New(condition.FellBack, "wanted", "b", "booted", "a")
	for name, c := range map[string]struct {
		s    *Status
		want []condition.ID
	}{
		"no answer":                {nil, []condition.ID{condition.FellBack}},
		"nothing yet":              {&Status{State: Idle}, []condition.ID{condition.FellBack}},
		"M4: on its way":           {plain(attempt(Downloading, "", 0)), []condition.ID{condition.UpdateRunning, condition.FellBack}},
		"on its way, and offered":  {with(attempt(Trial, "", 0), LastCheck{Available: offer}), []condition.ID{condition.UpdateRunning, condition.FellBack}},
		"M6: failed":               {plain(attempt(Failed, NoSpace, time.Hour)), []condition.ID{condition.UpdateError, condition.FellBack}},
		"failed long ago":          {plain(attempt(Failed, NoSpace, errorTime)), []condition.ID{condition.FellBack}},
		"ended by a person":        {plain(attempt(Failed, Cancelled, time.Hour)), []condition.ID{condition.FellBack}},
		"failed, needed no more":   {with(attempt(Failed, NoSpace, time.Hour), LastCheck{Time: now, Reason: Reason(trust.UpToDate)}), []condition.ID{condition.FellBack}},
		"failed, still to be had":  {with(attempt(Failed, NoSpace, time.Hour), LastCheck{Time: now, Available: offer}), []condition.ID{condition.UpdateError, condition.FellBack, condition.UpdateAvailable}},
		"M6: gone back":            {plain(attempt(RolledBack, CheckFailed, 9*errorTime)), []condition.ID{condition.UpdateReturned}},
		"confirmed":                {plain(attempt(Confirmed, "", 0)), []condition.ID{condition.FellBack}},
		"M48: there is one":        {with(Status{Version: "1.0.0"}, LastCheck{Time: now, Available: offer}), []condition.ID{condition.FellBack, condition.UpdateAvailable}},
		"what was offered, it has": {with(Status{Version: "1.1.0"}, LastCheck{Time: now, Available: offer}), []condition.ID{condition.FellBack}},
	} {
		var got []condition.ID
		for _, c := range AllConditions([]condition.Condition{fellBack}, c.s, now) {
			got = append(got, c.ID)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
