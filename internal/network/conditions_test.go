package network

import (
	"slices"
	"testing"

	"cloudlink.local/gateway/internal/condition"
	"cloudlink.local/gateway/internal/network/ntp"
)

func TestTheClockIsNotCalledWrongOnceItIsSet(t *testing.T) {
	own := []condition.Condition{condition.New(condition.ClockFloor), condition.New(condition.DevelopmentKeys)}
	for source, want := range map[ntp.Source]bool{
		"": true, ntp.Unset: true, ntp.Floor: true, ntp.NTP: false, ntp.Verified: false,
	} {
		list := AllConditions(own, &Status{Clock: Clock{Source: source}})
		if got := slices.ContainsFunc(list, func(c condition.Condition) bool { return c.ID == condition.ClockFloor }); got != want {
			t.Errorf("%q: told %t", source, got)
		}
		if list[0].ID != condition.NoNetworkPort {
			t.Errorf("%q: first is %s", source, list[0].ID)
		}
	}
	if list := AllConditions(own, nil); len(list) != 2 || list[0].ID != condition.ClockFloor {
		t.Errorf("without network service: %v", list)
	}
	if len(own) != 2 || own[0].ID != condition.ClockFloor {
		t.Error("process 1's own list was changed")
	}
}
