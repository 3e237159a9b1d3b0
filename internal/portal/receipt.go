package portal

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"cloudlink.local/gateway/internal/update"
)

// Reason says why there is no update.
func (v view) Reason(r update.Reason) string { return v.Word("why.", r) }

// ReasonCure says what to do about it.
func (v view) ReasonCure(r update.Reason) string {
	if id := "why." + string(r) + ".cure"; v.Has(id) {
		return v.Word("", id)
	}
	return v.Word("", "why.unknown.cure")
}

// Check says what a check of a trial is about.
func (v view) Check(c update.Check) string {
	id := "proof." + string(c.Name)
	arg := plain(c.Arg)
	if c.Name == update.ServiceRuns {
		arg = v.Word("service.", c.Arg)
	}
	if text, err := v.T(id, "arg", arg); err == nil {
		return text
	}
	return strings.TrimSpace(plain(string(c.Name)) + " " + arg)
}

// Attempt says what an attempt is or was.
func (v view) Attempt(a update.Attempt) (string, error) {
	id := "attempt." + string(a.Kind)
	switch {
	case a.To == "":
		return v.T("attempt.untold")
	case !v.Has(id):
		return plain(string(a.Kind)) + " " + plain(a.To), nil
	}
	return v.T(id, "from", plain(a.From), "to", plain(a.To))
}

// Result says how an attempt ended, in a word.
func (v view) Result(a update.Attempt) string {
	switch {
	case a.Kind == update.Drill && a.State == update.Confirmed:
		return v.Word("", "result.drilled")
	case a.Kind == update.Rollback && a.State == update.Confirmed:
		return v.Word("", "result.returned")
	case a.State == update.Failed && a.Reason == update.Cancelled:
		return v.Word("", "result.cancelled")
	case a.State.Working():
		return v.Word("", "result.working")
	}
	return v.Word("result.", a.State)
}

// Asker says who wanted an attempt.
func (v view) Asker(a update.Attempt) string {
	if a.By == "" {
		return v.Word("", "receipt.itself")
	}
	return plain(a.By)
}

// Took says how long a step took.
func (v view) Took(s update.Step) string {
	if s.Seconds < 10 {
		return v.Number(s.Seconds, 1) + nbsp + v.Word("", "receipt.seconds")
	}
	text, err := v.Duration(s.Seconds)
	if err != nil {
		return ""
	}
	return text
}

// receipt writes what an attempt did, as a text to keep or to send on.
func receipt(w io.Writer, v view, a update.Attempt) error {
	var errs []error
	t := func(id string, args ...any) string {
		text, err := v.T(id, args...)
		errs = append(errs, err)
		return text
	}
	line := func(format string, args ...any) {
		_, err := fmt.Fprintf(w, format+"\n", args...)
		errs = append(errs, err)
	}
	fact := func(id, value string) {
		if value != "" {
			line("%-24s %s", t(id)+":", value)
		}
	}
	title, err := v.Attempt(a)
	errs = append(errs, err)
	line("CloudLink Gateway – %s", t("receipt.title", "id", a.ID))
	line("")
	fact("receipt.what", title)
	fact("receipt.result", v.Result(a))
	if a.Reason != "" {
		fact("receipt.reason", v.Reason(a.Reason))
		fact("receipt.cure", v.ReasonCure(a.Reason))
	}
	fact("receipt.detail", plain(a.Detail))
	fact("receipt.began", v.Time(a.Began)+" UTC")
	fact("receipt.by", v.Asker(a))
	fact("receipt.source", v.Word("source.", a.Source))
	if a.FromSlot != "" {
		fact("receipt.slots", v.Upper(plain(a.FromSlot))+" → "+v.Upper(plain(a.ToSlot)))
	}
	if a.Bytes > 0 {
		size := v.Bytes(a.Bytes)
		if a.Delta {
			size += " (" + t("software.delta") + ")"
		}
		fact("receipt.size", size)
	}
	line("\n%s", t("receipt.steps"))
	for _, s := range a.Steps {
		took := ""
		if s.Seconds > 0 {
			took = v.Took(s)
		}
		line("  %s  %-34s %s", v.Time(s.Time), v.Word("step.", s.State), took)
	}
	if len(a.Checks) > 0 {
		line("\n%s", t("receipt.checks"))
	}
	for _, c := range a.Checks {
		mark := t("receipt.good")
		if !c.OK {
			mark = t("receipt.bad")
		}
		line("  %-8s %s", mark, v.Check(c))
		if c.Detail != "" {
			line("           %s", plain(c.Detail))
		}
	}
	if len(a.LastLog) > 0 {
		line("\n%s", t("receipt.log"))
	}
	for _, l := range a.LastLog {
		line("  %s", plain(l))
	}
	return errors.Join(errs...)
}
