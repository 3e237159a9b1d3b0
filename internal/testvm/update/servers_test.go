package update

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloudlink.local/gateway/internal/boot/bootenv"
	"cloudlink.local/gateway/internal/condition"
	"cloudlink.local/gateway/internal/testvm"
	"cloudlink.local/gateway/internal/update"
)

func available(s update.Status, version string) error {
	if s.Check == nil || s.Check.Available == nil || s.Check.Available.Version != version {
		return fmt.Errorf("the last check: %+v", s.Check)
	}
	return nil
}

// floorIn is the version in a record of the floor.
func floorIn(record string) string {
	v, err := bootenv.ParseFloor([]byte(record))
	if err != nil {
		return err.Error()
	}
	return v
}

// targets answers requests for targets by f, and others well.
func targets(f http.HandlerFunc) func(http.Handler) http.Handler {
	return func(good http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/targets/") {
				f(w, r)
				return
			}
			good.ServeHTTP(w, r)
		})
	}
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(code) }
}

// noise sends as much as is promised, of something else.
func noise(length int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(length))
		w.Write(bytes.Repeat([]byte("other"), length/5+1)[:length])
	}
}

// One gateway, and everything around it that can be wrong while it fetches and writes. It ends with an
// uploaded bundle that goes through.
func TestM5WhatCanBeWrong(t *testing.T) {
	t.Parallel()
	old, next := Release(t, "1.0.0"), Release(t, "1.1.0")
	repo := NewRepo(t)
	repo.Publish(next, nil)
	g := Boot(t, old, testvm.Options{})
	g.Use(repo.URL(), nil)
	g.Do("check")
	size := int(g.Await("there is an update", func(s update.Status) error { return available(s, "1.1.0") }).Check.Available.Bytes)
	id := 0
	step := func(name string, f func(t *testing.T)) {
		t.Run(name, func(t *testing.T) {
			g.In(t)
			defer repo.Answer(nil)
			f(t)
		})
	}
	failed := func(t *testing.T, want update.Reason) {
		t.Helper()
		id++
		if a := g.Ended(id); a.State != update.Failed || a.Reason != want {
			t.Errorf("it is %s, %s: %s; want %s, %s", a.State, a.Reason, a.Detail, update.Failed, want)
		}
	}
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   update.Reason
	}{
		"403":           {status(http.StatusForbidden), update.ServerAnswer},
		"404":           {status(http.StatusNotFound), update.ServerAnswer},
		"wrong length":  {noise(1000), update.WrongFile},
		"another file":  {noise(size), update.WrongFile},
		"no good range": {status(http.StatusRequestedRangeNotSatisfiable), update.ServerAnswer},
	} {
		step(name, func(t *testing.T) {
			repo.Answer(targets(c.answer))
			g.Do("install")
			failed(t, c.want)
		})
	}
	step("500 for long: it goes on asking, refuses a second update, and can be cancelled", func(t *testing.T) {
		repo.Answer(targets(status(http.StatusInternalServerError)))
		g.Do("install")
		g.Reach(id+1, update.Downloading)
		if code := g.Ask("install"); code != http.StatusConflict {
			t.Errorf("a second update at the same time: %d", code)
		}
		if code, answer := g.Upload(repo.Bundle("1.1.0")); code != http.StatusConflict {
			t.Errorf("an upload at the same time: %d %s", code, answer)
		}
		g.Do("cancel")
		failed(t, update.Cancelled)
	})
	step("a trickle is shown as progress", func(t *testing.T) {
		repo.Answer(targets(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(size))
			for r.Context().Err() == nil {
				w.Write(make([]byte, 2000))
				w.(http.Flusher).Flush()
				time.Sleep(100 * time.Millisecond) // this is the fault, not a wait
			}
		}))
		g.Do("install")
		g.Await("progress is told", func(s update.Status) error {
			if p := s.Progress; p == nil || p.Bytes == 0 || p.Bytes == p.Total || p.SecondsLeft == 0 {
				return fmt.Errorf("%+v", p)
			}
			return nil
		})
		g.Do("cancel")
		failed(t, update.Cancelled)
	})
	step("the data partition is full", func(t *testing.T) {
		g.Shell("dd if=/dev/zero of=/data/filled bs=1048576")
		g.Do("install")
		failed(t, update.NoSpace)
		g.Shell("rm /data/filled; sync")
	})
	step("what is kept of the repository is torn", func(t *testing.T) {
		g.Shell("for f in /data/update/trust/*; do echo torn > $f; done")
		g.Do("check")
		g.Await("it is checked", func(s update.Status) error {
			if s.Busy {
				return fmt.Errorf("it is being checked")
			}
			return available(s, "1.1.0")
		})
	})
	step("foreign bundles are refused", func(t *testing.T) {
		g.Idle()
		g.Upload(bytes.Repeat([]byte("no bundle "), 1000))
		failed(t, "not-a-repository")
		g.Idle()
		b := repo.Bundle("1.1.0")
		g.Upload(b[:len(b)/2])
		failed(t, update.WrongFile) // its list is whole, and what it promises is not
		g.Idle()
		b[len(b)-5000] ^= 1
		g.Upload(b)
		failed(t, update.WrongFile)
	})
	step("it stalls, the process is killed, the slot is damaged: it goes on and comes through", func(t *testing.T) {
		g.Shell("dd if=/dev/urandom of=/dev/vda3 bs=65536 count=64")
		asked := make(chan string, 100)
		first := true
		repo.Answer(func(good http.Handler) http.Handler {
			return targets(func(w http.ResponseWriter, r *http.Request) { // one after the other
				asked <- r.Header.Get("Range")
				if first { // a third, and then nothing more
					first = false
					w = &third{ResponseWriter: w, ended: r.Context().Done(), left: size / 3}
				}
				good.ServeHTTP(w, r)
			})(good)
		})
		g.Do("install")
		id++
		g.Await("a third is there", func(s update.Status) error {
			if s.Progress == nil || s.Progress.Bytes < int64(size/4) {
				return fmt.Errorf("%+v", s.Progress)
			}
			return nil
		})
		for _, s := range g.Status().Services {
			if s.Name == "update" {
				g.Shell(fmt.Sprintf("kill -9 %d", s.PID))
			}
		}
		failed := g.Ended(id)
		if failed.Reason != update.Interrupted {
			t.Errorf("killed: %+v", failed)
		}
		id++
		g.Reach(id, update.PendingReboot)
		var ranges []string
		for range len(asked) {
			ranges = append(ranges, <-asked)
		}
		if len(ranges) != 2 || ranges[0] != "" || !strings.HasPrefix(ranges[1], "bytes=") {
			t.Errorf("it was asked for %q; want all of it, and then the rest", ranges)
		}
		// The power fails while it is on trial.
		g.Await("it is on trial", func(s update.Status) error {
			if s.State != update.Trial {
				return fmt.Errorf("it is %s", s.State)
			}
			return nil
		})
		g.PowerCut()
		g.On()
		if a := g.Ended(id); a.State != update.RolledBack || a.Reason != update.NotConfirmed {
			t.Errorf("cut on trial: %s %s %s", a.State, a.Reason, a.Detail)
		}
		g.Running("1.0.0", "a")
	})
	step("a bundle is uploaded, and an older one refused", func(t *testing.T) {
		g.Idle()
		if code, answer := g.Upload(repo.Bundle("1.1.0")); code != http.StatusAccepted {
			t.Fatalf("%d %s", code, answer)
		}
		id++
		if a := confirmed(t, g, id); a.Source != update.FromUpload {
			t.Errorf("%+v", a)
		}
		g.Running("1.1.0", "b")
		older := NewRepo(t)
		older.Publish(Release(t, "1.0.0"), nil)
		g.Idle()
		g.Upload(older.Bundle("1.0.0"))
		failed(t, "downgrade")
	})
}

// A third passes on so many bytes, and then waits until nobody listens any more.
type third struct {
	http.ResponseWriter
	ended <-chan struct{}
	left  int
}

func (h *third) Write(b []byte) (int, error) {
	n, err := h.ResponseWriter.Write(b[:min(len(b), h.left)])
	h.left -= n
	if err == nil && n < len(b) {
		h.ResponseWriter.(http.Flusher).Flush()
		<-h.ended
		err = io.ErrShortWrite
	}
	return n, err
}

// A clock that is wrong by decades lets no expired repository in, and does not brick the way out.
func TestM5WrongClocks(t *testing.T) {
	t.Parallel()
	old, next := Release(t, "1.0.0"), Release(t, "1.1.0")
	repo := NewRepo(t)
	repo.Publish(next, nil)
	for _, year := range []string{"1970", "2099"} {
		t.Run(year+" is not believed: the floor of the clock is used", func(t *testing.T) {
			g := Boot(t, old, testvm.Options{Args: []string{"-rtc", "base=" + year + "-01-01T00:00:00"}})
			g.Use(repo.URL(), nil)
			g.Do("check")
			g.Await("there is an update", func(s update.Status) error { return available(s, "1.1.0") })
			if !testvm.HasCondition(g.Status(), condition.ClockFloor) {
				t.Error("the owner is not told of the clock")
			}
		})
	}
	t.Run("2050: everything has expired and a USB stick helps", func(t *testing.T) {
		g := Boot(t, old, testvm.Options{Args: append(stick(t, repo.Bundle("1.1.0")), "-rtc", "base=2050-01-01T00:00:00")})
		g.Use(repo.URL(), nil)
		g.Do("check")
		g.Await("it has expired", func(s update.Status) error {
			if s.Check == nil || s.Check.Reason != "expired" {
				return fmt.Errorf("%+v", s.Check)
			}
			return nil
		})
		g.Do("usb")
		g.Reach(1, update.Trial)
		s := g.Await("it tells of the attempt", func(s update.Status) error { return nil })
		if a := s.Attempts[0]; a.Source != update.FromUSB || a.To != "1.1.0" {
			t.Errorf("%+v", a)
		}
	})
}

// stick returns QEMU's arguments for a USB stick with one partition, which has the bundle.
func stick(t *testing.T, bundle []byte) []string {
	t.Helper()
	dir := t.TempDir()
	image, file := filepath.Join(dir, "stick.img"), filepath.Join(dir, "cloudlink-qemu-virt-1.1.0.bundle")
	if err := errors.Join(os.WriteFile(file, bundle, 0o644), os.WriteFile(image, nil, 0o644), os.Truncate(image, 64<<20)); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][]string{
		{"sfdisk", "-q", image}, {"mformat", "-F", "-i", image + "@@1M"}, {"mcopy", "-i", image + "@@1M", file, "::/"},
	} {
		cmd := exec.Command(c[0], c[1:]...)
		cmd.Stdin = strings.NewReader("2048,,c\n") // one partition of FAT, for sfdisk
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%q (scripts/setup installs it): %v\n%s", c, err, out)
		}
	}
	return []string{"-device", "qemu-xhci", "-drive", "if=none,id=stick,format=raw,file=" + image, "-device", "usb-storage,drive=stick,removable=on"}
}

// The medium of the slot gives errors: the update says so, and the system that runs is not touched.
func TestM5TheMediumFails(t *testing.T) {
	t.Parallel()
	old, next := Release(t, "1.0.0"), Release(t, "1.1.0")
	repo := NewRepo(t)
	repo.Publish(next, nil)
	conf := filepath.Join(t.TempDir(), "blkdebug.conf")
	g := Boot(t, old, testvm.Options{Serve: func(path string) (string, error) {
		// QEMU's blkdebug fails each write to the one sector in the middle of slot b.
		const startB, middle = 112 << 20 / 512, 4 << 20 / 512
		rule := fmt.Sprintf("[inject-error]\nevent = \"none\"\niotype = \"write\"\nerrno = \"5\"\nsector = \"%d\"\n", startB+middle)
		return "blkdebug:" + conf + ":" + path, os.WriteFile(conf, []byte(rule), 0o600)
	}})
	if at, _ := g.Disk.Partition("slot-b"); at != 112<<20 {
		t.Fatalf("slot-b begins at %d", at)
	}
	g.Use(repo.URL(), nil)
	g.Do("install")
	if a := g.Ended(1); a.State != update.Failed || a.Reason != update.MediumFailed {
		t.Errorf("it is %s: %s %s", a.State, a.Reason, a.Detail)
	}
	g.Running("1.0.0", "a")
}
