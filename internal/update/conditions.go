package update

import (
	"slices"
	"time"

	"cloudlink.local/gateway/internal/condition"
	"cloudlink.local/gateway/internal/update/trust"
)

// errorTime is how long an update that did not come about is worth a condition: nothing has changed,
// and who wants to know it later has the receipt.
const errorTime = 24 * time.Hour

// AllConditions adds to list what updates have to tell the owner, most pressing first (D6): s is nil
// where the update service does not answer.
func AllConditions(list []condition.Condition, s *Status, now time.Time) []condition.Condition {
	if s == nil {
		return list
	}
	own := s.conditions(now)
	if slices.ContainsFunc(own, func(c condition.Condition) bool { return c.ID == condition.UpdateReturned }) {
		list = slices.DeleteFunc(slices.Clone(list), func(c condition.Condition) bool { return c.ID == condition.FellBack }) // it is the same
	}
	list = slices.Concat(list, own)
	condition.Sort(list)
	return list
}

func (s Status) conditions(now time.Time) (list []condition.Condition) {
	if s.State.Working() {
		return []condition.Condition{condition.New(condition.UpdateRunning)}
	}
	if len(s.Attempts) > 0 {
		switch a := s.Attempts[0]; {
		case a.State == RolledBack:
			list = append(list, condition.New(condition.UpdateReturned, "version", a.To))
		case a.State == Failed && a.Reason != Cancelled && now.Sub(a.Ended()) < errorTime && !s.fineSince(a.Ended()):
			list = append(list, condition.New(condition.UpdateError))
		}
	}
	if s.Check != nil && s.Check.Available != nil && s.Check.Available.Version != s.Version {
		list = append(list, condition.New(condition.UpdateAvailable, "version", s.Check.Available.Version))
	}
	return list
}

// fineSince says whether the update server said later that there is nothing to be done.
func (s Status) fineSince(t time.Time) bool {
	return s.Check != nil && s.Check.Time.After(t) && s.Check.Reason == Reason(trust.UpToDate)
}

// Ended is when an attempt ended, or came as far as it is.
func (a Attempt) Ended() time.Time {
	if len(a.Steps) == 0 {
		return a.Began
	}
	return a.Steps[len(a.Steps)-1].Time
}
