package network

import (
	"slices"

	"cloudlink.local/gateway/internal/condition"
	"cloudlink.local/gateway/internal/network/ntp"
)

// AllConditions puts together what the owner is told of the whole gateway, most pressing first: own are
// process 1's, s is the network service's state, nil where it does not answer. Page, API and console
// all show this list.
//
// Process 1 only knows that the clock was wrong at boot. Whoever asks time servers knows better.
func AllConditions(own []condition.Condition, s *Status) []condition.Condition {
	list := slices.Clone(own)
	if s != nil {
		if s.Clock.Set() {
			list = slices.DeleteFunc(list, func(c condition.Condition) bool { return c.ID == condition.ClockFloor })
		}
		if s.Unsaved && !slices.ContainsFunc(list, func(c condition.Condition) bool { return c.ID == condition.DataReadOnly }) {
			list = append(list, condition.New(condition.DataReadOnly))
		}
		list = append(list, s.Conditions()...)
	}
	condition.Sort(list)
	return list
}

// Set says whether time servers have set the clock.
func (c Clock) Set() bool { return c.Source == ntp.NTP || c.Source == ntp.Verified }
