// Command update measures an update of the built image in QEMU: the time to fetch, check, write and read
// back a system, beside a plain copy of as many bytes in the same machine; the memory it takes; what a
// delta of it weighs; how long the page is away, beside a cold boot; and how many power cuts it survives.
// The last line is a JSON object.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"cloudlink.local/gateway/bench/internal/harness"
	"cloudlink.local/gateway/internal/testvm"
	vm "cloudlink.local/gateway/internal/testvm/update"
	"cloudlink.local/gateway/internal/update"
	"cloudlink.local/gateway/internal/update/bundle"
)

// The releases: what runs, and one of which only our code is another.
const (
	before = "1.0.0"
	after  = "1.9.1"
	slotB  = "/dev/vda3"
)

// The machine ends at a reset and is switched on again at once. A real one starts afresh there; an
// emulator that goes on throws away what it had translated of the system before, piece by piece, which
// takes it a second of the loader and another of the kernel.
var machine = testvm.Options{MemoryMB: 256, Args: []string{"-no-reboot"}}

func main() {
	runs := flag.Int("runs", 3, "updates, copies and cold boots")
	points := flag.Int("points", 8, "power cuts; 0 for none")
	flag.Parse()
	result := map[string]any{"bench": "update", "runs": *runs}
	err := harness.Try("", func(t *harness.T) { measure(t, *runs, result) })
	if err == nil && *points > 0 {
		result["powercut"], err = powerCuts(*points)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-update:", err)
		os.Exit(1)
	}
	json.NewEncoder(os.Stdout).Encode(result)
}

func measure(t *harness.T, runs int, result map[string]any) {
	old := vm.Release(t, before)
	fresh := changed(t)
	full, deltas := vm.NewRepo(t), vm.NewRepo(t)
	full.Publish(fresh, nil)
	deltas.Deltas = true
	deltas.Publish(old, nil)
	deltas.Publish(fresh, nil)
	weigh(t, deltas.Dir, result)

	var updates, copies, colds, aways []float64
	var peak int64
	for i := range runs {
		g := vm.Boot(t, old, machine)
		g.Ready()
		plain := copySlot(t, g, old)
		g.PowerCut()
		cold := powerOnToPage(t, g)
		g.Use(full.URL(), nil)
		a, away := install(t, g)
		copies, colds = append(copies, plain), append(colds, cold)
		updates, aways = append(updates, seconds(a)), append(aways, away)
		peak = max(peak, a.PeakMemory)
		g.PowerCut()
		fmt.Printf("%d/%d  update %.2f s, copy %.2f s; page away for %.2f s, cold boot %.2f s; %d MB at most\n",
			i+1, runs, seconds(a), plain, away, cold, a.PeakMemory>>20)
	}
	g := vm.Boot(t, old, machine)
	g.Use(deltas.URL(), nil)
	a, _ := install(t, g)
	if !a.Delta {
		t.Fatal("the update was fetched as a whole, want the delta")
	}
	g.PowerCut()
	result["write_ratio"] = ratio(updates, copies)
	result["update_seconds"], result["copy_seconds"] = harness.Round(harness.Median(updates)), harness.Round(harness.Median(copies))
	result["downtime_ratio"] = ratio(aways, colds)
	result["downtime_seconds"], result["cold_boot_seconds"] = harness.Round(harness.Median(aways)), harness.Round(harness.Median(colds))
	result["peak_rss_mb"] = mb(max(peak, a.PeakMemory))
	result["peak_rss_full_mb"], result["peak_rss_delta_mb"] = mb(peak), mb(a.PeakMemory)
	result["delta_seconds"] = harness.Round(seconds(a))
}

// changed builds the image of a tree that has testdata/change.go in three packages of ours.
func changed(t *harness.T) string {
	root := testvm.Root(t)
	source, err := os.ReadFile(filepath.Join(root, "bench", "update", "testdata", "change.go"))
	if err != nil {
		t.Fatal(err)
	}
	tree, out := filepath.Join(t.TempDir(), "tree"), filepath.Join(root, "build", "bench", "changed")
	run := func(dir, name string, args ...string) {
		cmd := exec.Command(name, args...)
		cmd.Dir, cmd.Stderr = dir, os.Stderr
		if err := cmd.Run(); err != nil {
			t.Fatalf("%s: %v", strings.Join(cmd.Args, " "), err)
		}
	}
	run(root, "git", "clone", "-q", root, tree)
	for _, pkg := range []string{"network", "portal", "update"} {
		file := bytes.Replace(source, []byte("package change"), []byte("package "+pkg), 1)
		if err := os.WriteFile(filepath.Join(tree, "internal", pkg, "change.go"), file, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	err = errors.Join(os.Mkdir(filepath.Join(tree, "build"), 0o755),
		os.Symlink(filepath.Join(root, "build", "cache"), filepath.Join(tree, "build", "cache")))
	if err != nil {
		t.Fatal(err)
	}
	run(tree, "go", "run", "./firmware", "image", "-board", "qemu-virt", "-version", after, "-keys", filepath.Join(root, "build", "keys"), "-o", out)
	return out
}

// weigh compares what is fetched of a release: all of it, or the delta.
func weigh(t *harness.T, repository string, result map[string]any) {
	sizes := map[string]int64{}
	err := filepath.Walk(filepath.Join(repository, bundle.TargetsFolder), func(path string, info os.FileInfo, err error) error {
		if err == nil && strings.Contains(info.Name(), after) {
			sizes[filepath.Ext(path)] = info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if sizes[".slot"] == 0 || sizes[".delta"] == 0 {
		t.Fatalf("the repository has %v, want a .slot and a .delta", sizes)
	}
	result["full_bytes"], result["delta_bytes"] = sizes[".slot"], sizes[".delta"]
	result["delta_ratio"] = harness.Round(float64(sizes[".delta"]) / float64(sizes[".slot"]))
}

// copySlot copies as many bytes as a system has from memory to the slot that is not running, and reads
// them back. It returns the seconds.
func copySlot(t *harness.T, g *vm.Gateway, image string) float64 {
	info, err := os.Stat(filepath.Join(image, bundle.UKI))
	if err != nil {
		t.Fatal(err)
	}
	mebibytes := (info.Size() + 1<<20 - 1) >> 20
	g.Shell(fmt.Sprintf("dd if=/dev/urandom of=/tmp/copy bs=1048576 count=%d", mebibytes))
	out := g.Shell(fmt.Sprintf("cat /proc/uptime; dd if=/tmp/copy of=%s bs=1048576 2>/dev/null; sync; "+
		"echo 1 > /proc/sys/vm/drop_caches; dd if=%s of=/dev/null bs=1048576 count=%d 2>/dev/null; cat /proc/uptime; rm /tmp/copy",
		slotB, slotB, mebibytes))
	lines := strings.Split(strings.TrimSpace(out), "\n")
	var at []float64
	for _, line := range []string{lines[0], lines[len(lines)-1]} {
		up, _, _ := strings.Cut(line, " ")
		s, err := strconv.ParseFloat(up, 64)
		if err != nil {
			t.Fatalf("copy: %q", out)
		}
		at = append(at, s)
	}
	return at[1] - at[0]
}

// powerOnToPage switches the machine on and returns the seconds until its page opens.
func powerOnToPage(t *harness.T, g *vm.Gateway) float64 {
	began := time.Now()
	g.On()
	page := awaitPage(t, g)
	g.Ready()
	return page.Sub(began).Seconds()
}

// install installs the update and returns its receipt as it is when the new system is up, and for how
// long the gateway did not answer.
func install(t *harness.T, g *vm.Gateway) (update.Attempt, float64) {
	g.Ready()
	g.Do("install")
	gone := lastAnswer(t, g)
	g.WaitOff()
	g.On()
	back := awaitPage(t, g)
	st := g.Await("the new version is on trial", func(s update.Status) error {
		if s.Version != after || len(s.Attempts) == 0 || s.Attempts[0].State != update.Trial {
			return fmt.Errorf("%s runs: %s %+v", s.Version, s.State, s.Attempts)
		}
		return nil
	})
	return st.Attempts[0], back.Sub(gone).Seconds()
}

// lastAnswer asks how the update stands until the machine ends, and returns when it was told for the last
// time. It asks seldom until the system is written: that is done beside nothing, as the copy is.
func lastAnswer(t *harness.T, g *vm.Gateway) (last time.Time) {
	var s update.Status
	pause, deadline := 500*time.Millisecond, time.After(5*time.Minute)
	for {
		code, body, err := g.TryGet("/api/v1/update")
		if err == nil && code == http.StatusOK && json.Unmarshal(body, &s) == nil {
			last = time.Now()
		}
		switch s.State {
		case update.Writing:
			pause = 200 * time.Millisecond
		case update.PendingReboot:
			pause = 50 * time.Millisecond
		}
		select {
		case <-g.Machine().Done():
			return last
		case <-deadline:
			t.Fatalf("the gateway does not restart: it is %s: %+v", s.State, s.Attempts)
		case <-time.After(pause):
		}
	}
}

// seconds is how long it took from the first byte to the last that was read back.
func seconds(a update.Attempt) float64 {
	sum := 0.0
	for _, s := range a.Steps {
		switch s.State {
		case update.Downloading, update.Verifying, update.Writing:
			sum += s.Seconds
		}
	}
	return sum
}

// powerCuts cuts an update's power at some of its writes.
func powerCuts(points int) (any, error) {
	cmd := exec.Command("go", "test", "-count=1", "-timeout=60m", "-v", "-run=^TestM8_", "./internal/testvm/powercut",
		"-points", strconv.Itoa(points), "-report")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.MultiWriter(&out, os.Stderr), os.Stderr
	err := cmd.Run()
	for line := range strings.Lines(out.String()) {
		var said struct{ Survived, Points *int }
		if json.Unmarshal([]byte(line), &said) == nil && said.Points != nil {
			return map[string]int{"survived": *said.Survived, "points": *said.Points}, nil
		}
	}
	return nil, fmt.Errorf("power cuts: no result: %w", err)
}

func mb(bytes int64) float64 { return harness.Round(float64(bytes) / (1 << 20)) }

// ratio is the median of the runs' ratios.
func ratio(a, b []float64) float64 {
	var list []float64
	for i := range a {
		list = append(list, a[i]/b[i])
	}
	return harness.Round(harness.Median(list))
}
