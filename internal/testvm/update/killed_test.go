package update

import (
	"fmt"
	"net/http"
	"testing"

	"cloudlink.local/gateway/internal/testvm"
	"cloudlink.local/gateway/internal/update"
)

// The service is killed in each state that lasts long enough to be met on a machine; the others are rows
// of the test of Resume. It goes on each time, and a trial in which it dies has failed.
func TestM5KilledInEveryState(t *testing.T) {
	t.Parallel()
	old, next := Release(t, "1.0.0"), Release(t, "1.1.0")
	repo := NewRepo(t)
	repo.Publish(next, nil)
	g := Boot(t, old, testvm.Options{})
	g.Use(repo.URL(), nil)
	first := true
	repo.Answer(func(good http.Handler) http.Handler {
		return targets(func(w http.ResponseWriter, r *http.Request) {
			if first { // it stalls on the way
				first = false
				w = &third{ResponseWriter: w, ended: r.Context().Done(), left: 1 << 20}
			}
			good.ServeHTTP(w, r)
		})(good)
	})
	g.Do("install")
	for _, state := range []update.State{update.Downloading, update.Writing, update.PendingReboot, update.Trial} {
		if state == update.Trial {
			g.Await("it is on trial", func(s update.Status) error {
				if s.State != update.Trial {
					return fmt.Errorf("it is %s", s.State)
				}
				return nil
			})
		}
		// Asked in the machine itself: from outside it would be over. An attempt's own state follows its steps.
		kill := fmt.Sprintf(`until grep -q '],"state":"%s"' /data/update/attempts.json; do :; done; kill -9 $(cat /sys/fs/cgroup/update*/cgroup.procs)`, state)
		if state == update.PendingReboot { // it restarts all the same
			g.ShellEnds(kill)
		} else {
			g.Shell(kill)
		}
	}
	for id, want := range map[int]update.Reason{1: update.Interrupted, 2: update.Interrupted, 3: update.CheckFailed} {
		if a := g.Ended(id); a.Reason != want {
			t.Errorf("attempt %d: %s %s %s; want %s", id, a.State, a.Reason, a.Detail, want)
		}
	}
	g.Running("1.0.0", "a")
	g.Idle()
	g.Do("check")
	g.Await("the update is offered again", func(s update.Status) error { return available(s, "1.1.0") })
}
