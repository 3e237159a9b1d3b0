package update

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"cloudlink.local/gateway/internal/condition"
	"cloudlink.local/gateway/internal/machine"
)

// arming is what the log says last before the restart into the other slot.
const arming = "restarting into slot "

// rolledBack notes that the loader has gone back, and what is known of why.
func (s *service) rolledBack(ctx context.Context, a *Attempt, now machine.Status, reason Reason) {
	previous, err := s.Machine.PreviousLog(ctx, machine.LevelDebug)
	if err != nil {
		s.Log.Warn(err.Error())
	}
	current, err := s.Machine.Log(ctx, 0, machine.LevelDebug)
	if err != nil {
		s.Log.Warn(err.Error())
	}
	var detail string
	reason, detail, a.LastLog = evidence(previous, current, now, a, reason)
	s.end(a, RolledBack, fail(reason, errors.New(detail)))
}

// gaveUp notes which checks this trial has not passed, and what the system said meanwhile.
func (s *service) gaveUp(ctx context.Context, a *Attempt) {
	current, err := s.Machine.Log(ctx, 0, machine.LevelDebug)
	if err != nil {
		s.Log.Warn(err.Error())
	}
	a.LastLog = lastLines(current)
	s.end(a, RolledBack, fail(CheckFailed, errors.New(strings.Join(badChecks(a.Checks), "; "))))
}

// badChecks are the checks that failed, in words.
func badChecks(list []Check) (bad []string) {
	for _, c := range list {
		if !c.OK {
			bad = append(bad, strings.Join(strings.Fields(fmt.Sprintf("%s %s", c.Name, c.Arg)), " ")+": "+c.Detail)
		}
	}
	return bad
}

func lastLines(log []machine.Entry) (lines []string) {
	for _, e := range log[max(0, len(log)-logLines):] {
		lines = append(lines, e.Source+": "+e.Text)
	}
	return lines
}

// evidence says why a trial came to nothing that could not say so itself: by the log that it has left
// (previous), and by what this start has found (current), with the kernel's last words among it.
func evidence(previous, current []machine.Entry, now machine.Status, a *Attempt, reason Reason) (Reason, string, []string) {
	// A trial that has saved no log leaves that of the run before it, which armed it.
	if slices.ContainsFunc(previous, func(e machine.Entry) bool {
		return e.Source == "update" && strings.HasPrefix(e.Text, arming)
	}) {
		previous = nil
	}
	var details []string
	crashed := slices.ContainsFunc(now.Conditions, func(c condition.Condition) bool { return c.ID == condition.WatchdogReset })
	words := slices.DeleteFunc(slices.Clone(current), func(e machine.Entry) bool { return e.Source != "pstore" })
	switch {
	case crashed && len(words) > 0:
		reason = Crashed
		details = append(details, "its kernel crashed: "+lastWord(words))
	case crashed:
		reason = Crashed
		details = append(details, "it hung, and the watchdog restarted the machine")
	case len(previous) == 0:
		details = append(details, "it was started and has not come so far as to write anything down")
	default:
		details = append(details, "it did not prove itself in time, or ended before")
	}
	details = append(details, badChecks(a.Checks)...)
	if free := now.Data.FreeBytes; now.Data.State == machine.DataOK && free < enough && a.Expected.DataFree >= enough {
		details = append(details, fmt.Sprintf("it has filled the data partition: %d bytes are free, and %d were", free, a.Expected.DataFree))
	}
	return reason, strings.Join(details, "; "), append(lastLines(previous), lastLines(words)...)
}

// lastWord returns the line of a crash record that says why.
func lastWord(words []machine.Entry) string {
	for _, mark := range []string{"Kernel panic", "Unable to handle", "Oops", "BUG"} {
		for _, e := range words {
			if strings.Contains(e.Text, mark) {
				return e.Text
			}
		}
	}
	return words[len(words)-1].Text
}
