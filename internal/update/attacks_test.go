package update

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/boot/bootenv"
	"cloudlink.local/gateway/internal/machine"
	"cloudlink.local/gateway/internal/settings"
)

// idle waits until the service knows the slots and has nothing to do.
func idle(t *testing.T, r *run) Status {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		st, err := r.Status(t.Context())
		if err == nil && st.Slot != "" && !st.Busy {
			return st
		}
	}
	t.Fatal("never idle")
	return Status{}
}

// A cancel that is accepted while the health before the restart is asked for ends the attempt, also for
// the next start of the service.
func TestM5CancelledJustBeforeTheRestart(t *testing.T) {
	s := newSite(t)
	b := start(t, s.disk, 1)
	asked := make(chan struct{}, 9)
	r := s.runWith(t, aware{b, nil}, b, func(c *Config) {
		c.Health = func(ctx context.Context) Health {
			asked <- struct{}{}
			<-ctx.Done() // the page takes up to ten seconds
			return Health{}
		}
	})
	ask(t, r.Install)
	<-asked
	if _, err := r.Cancel(t.Context(), Request{By: "owner"}); err != nil {
		t.Fatal(err)
	}
	st := idle(t, r)
	if st.State != Failed || st.Attempts[0].Reason != Cancelled {
		t.Errorf("cancelled, and the attempt is %s %s, busy %v", st.State, st.Attempts[0].Reason, st.Busy)
	}
	r.stop()
	s.runWith(t, b, b, func(c *Config) {})
	select {
	case <-b.restarts:
		t.Errorf("it was cancelled, and the restarted service has armed it: %+v", b.disk.env)
	case <-time.After(300 * time.Millisecond):
	}
}

// aware is a box whose calls end with their context, as machine.Client's do.
type aware struct {
	*box
	hook func(what string)
}

func (a aware) c(ctx context.Context, what string, f func(context.Context) (machine.Slots, error)) (machine.Slots, error) {
	if a.hook != nil {
		a.hook(what)
	}
	if ctx.Err() != nil {
		return machine.Slots{}, fmt.Errorf("ask process 1: %w", ctx.Err())
	}
	return f(ctx)
}
func (a aware) OpenSlot(ctx context.Context) (machine.Slots, error) {
	return a.c(ctx, "open", a.box.OpenSlot)
}
func (a aware) SealSlot(ctx context.Context) (machine.Slots, error) {
	return a.c(ctx, "seal", a.box.SealSlot)
}
func (a aware) LookSlot(ctx context.Context) (machine.Slots, error) {
	return a.c(ctx, "look", a.box.LookSlot)
}
func (a aware) ArmSlot(ctx context.Context, n int) (machine.Slots, error) {
	return a.c(ctx, "arm", func(ctx context.Context) (machine.Slots, error) { return a.box.ArmSlot(ctx, n) })
}

// A leaving is a box that goes down, or not, and whose answer to that is lost.
type leaving struct {
	*box
	restart func(context.Context) error
}

func (l leaving) Restart(ctx context.Context) error { return l.restart(ctx) }

// Process 1 goes down before it has answered: the trial stays armed. If it does not go down, no start in
// some weeks tries what has failed.
func TestM5TheAnswerToTheRestartIsLost(t *testing.T) {
	for name, c := range map[string]struct {
		down     bool
		farewell time.Duration
		trial    bootenv.Slot
	}{"and it goes down": {true, time.Minute, bootenv.B}, "it stays": {false, time.Millisecond, bootenv.None}} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			b := start(t, s.disk, 1)
			asked := make(chan struct{}, 1)
			lost := leaving{b, func(ctx context.Context) error {
				asked <- struct{}{}
				if c.down {
					<-ctx.Done()
				}
				return io.ErrUnexpectedEOF
			}}
			r := s.runWith(t, lost, b, func(set *Config) { set.Farewell = c.farewell })
			ask(t, r.Install)
			<-asked
			if !c.down {
				if st := idle(t, r); st.State != Failed || st.Attempts[0].Reason != NotArmed {
					t.Errorf("the attempt is %s %s", st.State, st.Attempts[0].Reason)
				}
			}
			r.stop()
			if b.disk.env.Trial != c.trial {
				t.Errorf("armed is %q, want %q", b.disk.env.Trial, c.trial)
			}
		})
	}
}

// What the owner is told who cancels while the slot is written or looked at.
func TestM5WhoCancelsIsToldSo(t *testing.T) {
	for _, c := range []struct {
		at    string
		drill bool
	}{{"open", false}, {"seal", false}, {"look", true}} {
		s := newSite(t)
		b := start(t, s.disk, 1)
		var r *run
		var armed atomic.Bool
		r = s.runWith(t, aware{b, func(what string) {
			if what == c.at && armed.CompareAndSwap(true, false) {
				if _, err := r.Cancel(context.Background(), Request{By: "owner"}); err != nil {
					t.Error(err)
				}
			}
		}}, b, func(*Config) {})
		idle(t, r)
		armed.Store(true)
		what := r.Install
		if c.drill {
			what = r.Drill
		}
		if _, err := what(t.Context(), Request{By: "owner"}); err != nil {
			t.Fatal(err)
		}
		st := idle(t, r)
		if a := st.Attempts[0]; a.Reason != Cancelled {
			t.Errorf("cancelled at %s: the owner is told %q (%s)", c.at, a.Reason, a.Detail)
		}
		r.stop()
	}
}

func tiny(t *testing.T, dir string, size string) {
	t.Helper()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatalf("mount a small file system: %v (run the tests as root)", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
}

// The data partition has no room for the update. What was there before is less than half of it.
func TestM5AFullMediumKeepsTheReceipt(t *testing.T) {
	for _, how := range []string{"repository", "upload"} {
		for k := 24; k <= 80; k += 8 {
			t.Run(fmt.Sprint(how, k), func(t *testing.T) {
				s := newSite(t)
				tiny(t, s.disk.data(), fmt.Sprint(k, "k"))
				b := start(t, s.disk, 1)
				r := s.run(t, b)
				idle(t, r)
				if how == "upload" {
					r.Upload(t.Context(), Request{By: "x"}, strings.NewReader(string(s.repo.Bundle("1.1.0"))))
				} else {
					ask(t, r.Install)
				}
				if restart, _ := s.await(t, b, r); restart {
					return // it had room
				}
				st := idle(t, r)
				r.stop()
				if len(st.Attempts) == 0 {
					return // the upload itself was refused
				}
				told := st.Attempts[0].Reason
				var fs unix.Statfs_t
				unix.Statfs(s.disk.data(), &fs)
				names := ""
				list, _ := os.ReadDir(s.disk.data())
				for _, e := range list {
					i, _ := e.Info()
					names += fmt.Sprint(" ", e.Name(), ":", i.Size())
				}
				got := openStore(s.disk.data(), func(error) {}).last()
				_, left := os.Stat(filepath.Join(s.disk.data(), "fetched"))
				if fs.Bfree == 0 || got.Reason != told || how == "upload" && left == nil {
					t.Errorf("told %s, check %v; on the medium %s %s; %d blocks of %d free;%s", told, st.Check, got.State, got.Reason, fs.Bfree, fs.Blocks, names)
				}
			})
		}
	}
}

// What a power cut right after save leaves is a copy of the disk without what is in memory.
func TestM5TheRecordIsOnTheMediumBeforeTheSlotIsArmed(t *testing.T) {
	dir := t.TempDir()
	img, mnt := filepath.Join(dir, "img"), filepath.Join(dir, "mnt")
	sh := func(c string) string {
		out, err := exec.Command("sh", "-c", c).CombinedOutput()
		if err != nil {
			t.Fatalf("%s (scripts/setup installs it): %v\n%s", c, err, out)
		}
		return string(out)
	}
	os.Mkdir(mnt, 0o755)
	sh("truncate -s 64M " + img + " && /sbin/mke2fs -q -t ext4 " + img)
	loop := strings.TrimSpace(sh("losetup -f --show " + img))
	defer sh("losetup -d " + loop)
	if err := unix.Mount(loop, mnt, "ext4", 0, ""); err != nil {
		t.Fatalf("mount a file system: %v (run the tests as root)", err)
	}
	defer unix.Unmount(mnt, 0)
	s := openStore(mnt, func(err error) { t.Error(err) })
	a := s.add(Attempt{Kind: Drill, State: Verifying})
	s.save(a)
	unix.Sync()
	a.State = PendingReboot
	s.save(a) // tryOther: and then the slot is armed, on the medium
	a.BootID = "armed by"
	s.save(a)
	sh("cp " + img + " " + img + ".cut; /sbin/e2fsck -fy " + img + ".cut || [ $? = 1 ]") // 1: it was cut
	got := sh("/sbin/debugfs -R 'cat /attempts.json' " + img + ".cut 2>/dev/null")
	if !strings.Contains(got, "armed by") {
		t.Errorf("after the cut the record says %s", got)
	}
}

// The settings cannot be asked just now.
func TestM5AnUploadIsNotForgotten(t *testing.T) {
	s := newSite(t)
	b := start(t, s.disk, 1)
	r := s.runWith(t, b, b, func(c *Config) {
		c.Settings = func(context.Context) (settings.Update, error) {
			return settings.Update{}, errors.New("network restarts")
		}
	})
	idle(t, r)
	if _, err := r.Upload(t.Context(), Request{By: "owner"}, strings.NewReader(string(s.repo.Bundle("1.1.0")))); err != nil {
		t.Fatal(err)
	}
	st := idle(t, r)
	_, err := os.Stat(filepath.Join(b.disk.data(), uploaded))
	if len(st.Attempts) == 0 {
		t.Errorf("accepted with 202, and there is no receipt; last check %v; file there: %v", st.Check, err == nil)
	}
}

// A technician's stick with the bundles of several boards, and with what is no file.
func TestM5AStickWithMuchOnIt(t *testing.T) {
	s := newSite(t)
	stick := filepath.Join(s.disk.dir, "stick")
	os.Mkdir(stick, 0o755)
	os.WriteFile(filepath.Join(stick, "cloudlink-qemu-virt-1.1.0.bundle"), s.repo.Bundle("1.1.0"), 0o644)
	os.WriteFile(filepath.Join(stick, "cloudlink-rock-5-1.2.0.bundle"), []byte("another board's"), 0o644)
	b, st := s.settle(t, start(t, s.disk, 1), func(r *run) { ask(t, r.USB) })
	if b.version() != "1.1.0" {
		t.Errorf("the bundle for this board is on the stick: %s %s", st.Attempts[0].State, st.Attempts[0].Reason)
	}
	for _, in := range []string{"dir", "fifo", "link"} {
		s := newSite(t)
		stick := filepath.Join(s.disk.dir, "stick")
		os.Mkdir(stick, 0o755)
		os.WriteFile(filepath.Join(stick, "cloudlink-qemu-virt-1.1.0.bundle"), s.repo.Bundle("1.1.0"), 0o644)
		p := filepath.Join(stick, "z-9.9.9.bundle")
		switch in {
		case "dir":
			os.Mkdir(p, 0o755)
		case "fifo":
			unix.Mkfifo(p, 0o644)
		case "link":
			os.Symlink("/dev/zero", p)
		}
		b := start(t, s.disk, 1)
		r := s.run(t, b)
		ask(t, r.USB)
		select {
		case <-b.restarts:
		case <-time.After(3 * time.Second):
			st, _ := r.Status(t.Context())
			t.Errorf("%s: %v", in, st.Attempts[0].Detail)
		}
		r.stop()
	}
}

// A record with long last words can be read again.
func TestM5LongLastWords(t *testing.T) {
	dir := t.TempDir()
	s := openStore(dir, func(err error) { t.Error(err) })
	for range 5 {
		a := s.add(Attempt{Kind: Update, State: RolledBack})
		for range 120 {
			a.LastLog = append(a.LastLog, "portal: "+strings.Repeat("x", 2048))
		}
		s.save(a)
	}
	if n := len(openStore(dir, func(err error) { t.Error(err) }).all()); n != 5 {
		t.Errorf("%d receipts are left", n)
	}
}

// The record is lost during a drill of a version below the floor.
func TestM7ADrillWhoseRecordIsLostIsNoDowngrade(t *testing.T) {
	s := newSite(t)
	b, _ := s.settle(t, start(t, s.disk, 1), install(t)) // 1.1.0, floor 1.0.5
	if b.disk.floor != "1.0.5" {
		t.Fatal(b.disk.floor)
	}
	r := s.run(t, b)
	ask(t, r.Drill)
	<-b.restarts
	r.stop()
	os.WriteFile(filepath.Join(b.disk.data(), "attempts.json"), []byte("torn"), 0o600)
	b, st := s.settle(t, start(t, b.disk, b.boot+1), nil)
	if b.version() == "1.0.0" && b.disk.env.Confirmed == b.running {
		t.Errorf("%s is confirmed for good, the floor is %s: %s %s", b.version(), b.disk.floor, st.Attempts[0].Kind, st.Attempts[0].State)
	}
}

// Process 1 does not take the restart after arming.
func TestM7ADrillThatCouldNotRestart(t *testing.T) {
	s := newSite(t)
	b, _ := s.settle(t, start(t, s.disk, 1), install(t))
	r := s.runWith(t, leaving{b, func(context.Context) error { return errors.New("i/o timeout") }}, b, func(*Config) {})
	ask(t, r.Drill)
	st := idle(t, r)
	r.stop()
	if st.State == Failed && b.disk.env.Trial != bootenv.None {
		t.Errorf("failed (%s), and the trial stays armed: %+v", st.Attempts[0].Reason, b.disk.env)
	}
	b, st = s.settle(t, start(t, b.disk, b.boot+1), nil) // weeks later
	if b.version() == "1.0.0" && b.disk.env.Confirmed == b.running {
		t.Errorf("a drill that failed has become a downgrade below the floor: %s, %+v", b.version(), b.disk.env)
	}
}

// Many orders at once leave the service idle.
func TestM5ManyAtOnce(t *testing.T) {
	s := newSite(t)
	b := start(t, s.disk, 1)
	r := s.run(t, b)
	whole := string(s.repo.Bundle("1.1.0"))
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			for k := range 25 {
				switch (i + k) % 6 {
				case 0:
					r.Upload(t.Context(), Request{By: "x"}, strings.NewReader(whole[:len(whole)*k/25]))
				case 1:
					r.Cancel(t.Context(), Request{By: "x"})
				case 2:
					r.CheckNow(t.Context(), Request{By: "x"})
				case 3:
					r.USB(t.Context(), Request{By: "x"})
				default:
					r.Status(t.Context())
				}
			}
		})
	}
	wg.Wait()
	r.Cancel(t.Context(), Request{By: "x"})
	idle(t, r)
}

// The record on the medium is some saves behind when the trial starts, and another version runs.
func TestM6ATrialWithAnOldRecord(t *testing.T) {
	for _, state := range []State{PendingReboot, Writing, Downloading, Checking} {
		t.Run(string(state), func(t *testing.T) {
			s := newSite(t)
			b := start(t, s.disk, 1)
			r := s.run(t, b)
			ask(t, r.Install)
			<-b.restarts
			r.stop()
			st := openStore(b.disk.data(), func(error) {})
			a := st.last()
			a.State, a.Expected, a.BootID = state, Expected{}, ""
			if state != PendingReboot {
				a.ToSlot, a.FromSlot = "", ""
			}
			st.save(a)
			b = start(t, b.disk, 2)
			if !b.onTrial {
				t.Fatal("no trial")
			}
			r = s.runWith(t, b, b, func(c *Config) { c.Release.Version = "6.6.6" }) // another version runs
			now := idle(t, r)
			t.Logf("%s, on trial %v, environment %+v, checks %+v", now.State, b.onTrial, b.disk.env, now.Attempts[0].Checks)
			if b.onTrial && len(b.restarts) == 0 {
				t.Errorf("on trial, and nobody proves it: ten minutes later it is gone")
			}
			if !b.onTrial {
				t.Errorf("confirmed, and nothing of what was expected was looked at")
			}
		})
	}
}

// The clock was put back between two steps.
func TestM5TheClockIsPutBack(t *testing.T) {
	a := Attempt{}
	a.Steps = []Step{{State: Downloading, Time: time.Now().Add(time.Hour)}}
	a.State = Downloading
	s := &service{Config: Config{Log: slog.New(slog.DiscardHandler)}, store: openStore(t.TempDir(), func(error) {})}
	a = s.store.add(a)
	s.enter(&a, Verifying)
	if a.Steps[0].Seconds < 0 {
		t.Errorf("the step took %v seconds", a.Steps[0].Seconds)
	}
}
