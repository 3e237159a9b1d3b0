// Package update holds the tests of updates on the built image in QEMU, and what they are made of: releases
// of the image, good ones and broken ones, a repository of them on this host, and a gateway that is asked
// over its page's API.
package update

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/u-root/mkuimage/cpio"

	"cloudlink.local/gateway/firmware/keys"
	"cloudlink.local/gateway/firmware/publish"
	"cloudlink.local/gateway/firmware/uki"
	"cloudlink.local/gateway/initramfs"
	"cloudlink.local/gateway/internal/qemu"
	"cloudlink.local/gateway/internal/release"
	"cloudlink.local/gateway/internal/settings"
	"cloudlink.local/gateway/internal/testvm"
	"cloudlink.local/gateway/internal/update"
	"cloudlink.local/gateway/internal/update/bundle"
	"cloudlink.local/gateway/internal/update/delta"
)

const board = "qemu-virt"

// Release builds the image as that version, once, and returns its folder.
func Release(t testing.TB, version string, flags ...string) string {
	t.Helper()
	return testvm.Image(t, board, "update-"+version, append([]string{"-version", version}, flags...)...)
}

// keySet is what the image builder signs with by default.
func keySet(t testing.TB) string { return filepath.Join(testvm.Root(t), "build", "keys") }

var (
	faultyInit sync.Once
	faultyRAM  []byte // compressed initramfs with a faulty init, laid over that of a good image
	faultyErr  error
)

// NoProgram is the fault of a release whose init is no program.
const NoProgram = "no-program"

// Faulty makes the release of that version a broken one: its init is the real one, built together with
// testdata/fault/fault.go, which does the harm that is named.
func Faulty(t testing.TB, good, version, fault string) string {
	t.Helper()
	faultyInit.Do(func() { faultyRAM, faultyErr = buildFaulty(t) })
	if faultyErr != nil {
		t.Fatal(faultyErr)
	}
	b, err := os.ReadFile(filepath.Join(good, bundle.Manifest))
	if err != nil {
		t.Fatal(err)
	}
	m, err := release.ParseManifest(b)
	if err != nil {
		t.Fatal(err)
	}
	m.Version = version
	rel, err := json.Marshal(m.Release)
	if err != nil {
		t.Fatal(err)
	}
	files := []cpio.Record{
		cpio.StaticFile(release.File[1:], string(rel), 0o644),
		cpio.StaticFile("etc/fault", fault, 0o644),
	}
	if fault == NoProgram {
		files = append(files, cpio.StaticFile("init", "damaged", 0o755))
	}
	over, err := archive(files...)
	if err != nil {
		t.Fatal(err)
	}
	linux, err := os.ReadFile(filepath.Join(good, bundle.UKI))
	if err != nil {
		t.Fatal(err)
	}
	if linux, err = layOver(linux, faultyRAM, over); err != nil {
		t.Fatal(err)
	}
	return Sign(t, m.Release, linux)
}

// Sign returns a folder like that of an image, with linux as the system.
func Sign(t testing.TB, rel release.Release, linux []byte) string {
	t.Helper()
	set, err := keys.Load(keySet(t))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{bundle.UKI: linux}
	if files[bundle.Signature], err = set.Boot.Sign(linux, rel.BuildTime); err != nil {
		t.Fatal(err)
	}
	m := release.Manifest{Release: rel}
	for _, name := range []string{bundle.UKI, bundle.Signature} {
		m.Files = append(m.Files, release.ManifestFile{
			Name: name, Size: int64(len(files[name])), SHA256: fmt.Sprintf("%x", sha256.Sum256(files[name])),
		})
	}
	if files[bundle.Manifest], err = json.Marshal(m); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// buildFaulty builds cmd/init with the fault in it, and packs it.
func buildFaulty(t testing.TB) ([]byte, error) {
	root := testvm.Root(t)
	dir := filepath.Join(root, "build", "test", "fault")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{
		filepath.Join(root, "cmd/init/fault.go"): filepath.Join(root, "internal/testvm/update/testdata/fault/fault.go"),
	}})
	if err != nil {
		return nil, err
	}
	list, out := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "init")
	if err := os.WriteFile(list, overlay, 0o644); err != nil {
		return nil, err
	}
	cmd := exec.Command("go", append(append([]string{"build", "-overlay", list}, initramfs.InitFlags()...), "-o", out, "./cmd/init")...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=arm64")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the faulty init: %w\n%s", err, out)
	}
	program, err := os.ReadFile(out)
	if err != nil {
		return nil, err
	}
	plain, err := archive(cpio.StaticFile("init", string(program), 0o755))
	if err != nil {
		return nil, err
	}
	var packed bytes.Buffer
	z, err := delta.NewCompressor(&packed)
	if err != nil {
		return nil, err
	}
	if _, err := z.Write(plain); err != nil {
		return nil, err
	}
	err = z.Close()
	return packed.Bytes(), err
}

func archive(records ...cpio.Record) ([]byte, error) {
	var b bytes.Buffer
	w := cpio.Newc.Writer(&b)
	for _, r := range records {
		if err := w.WriteRecord(r); err != nil {
			return nil, err
		}
	}
	err := cpio.WriteTrailer(w)
	return b.Bytes(), err
}

// layOver returns a linux.efi with more archives behind its initramfs: the kernel unpacks them in their
// order, and files of the last stay.
func layOver(linux []byte, archives ...[]byte) ([]byte, error) {
	const initrd = ".initrd" // the last of the sections
	sections, err := uki.Sections(linux)
	if err != nil {
		return nil, err
	}
	last := sections[len(sections)-1]
	if last.Name != initrd {
		return nil, fmt.Errorf("the last section is %s, want %s", last.Name, initrd)
	}
	all := bytes.Clone(last.Data)
	for _, a := range archives {
		all = append(all, make([]byte, -len(all)&3)...) // each begins at a multiple of four
		all = append(all, a...)
	}
	stub := bytes.Clone(linux)
	header := binary.LittleEndian.Uint32(stub[0x3c:])
	count := stub[header+6:]
	binary.LittleEndian.PutUint16(count, binary.LittleEndian.Uint16(count)-1)
	at := bytes.LastIndex(stub[:4096], []byte(initrd)) // its header
	stub = stub[:binary.LittleEndian.Uint32(stub[at+20:])]
	clear(stub[at : at+40])
	return uki.Build(stub, []uki.Section{{Name: initrd, Data: all}})
}

// A Repo is an update repository on this host.
type Repo struct {
	Dir    string
	Deltas bool // are published, too

	t      testing.TB
	server *httptest.Server
	answer atomic.Pointer[func(http.Handler) http.Handler]
}

// NewRepo returns an empty repository, served until the test ends.
func NewRepo(t testing.TB) *Repo {
	t.Helper()
	r := &Repo{Dir: filepath.Join(t.TempDir(), "repository"), t: t}
	good := publish.Handler(r.Dir)
	r.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		h := good
		if f := r.answer.Load(); f != nil {
			h = (*f)(good)
		}
		h.ServeHTTP(w, req)
	}))
	t.Cleanup(func() {
		r.server.CloseClientConnections()
		r.server.Close()
	})
	return r
}

// URL is its address, as seen by a guest on the user-mode network.
func (r *Repo) URL() string {
	_, port, _ := bytes.Cut([]byte(r.server.Listener.Addr().String()), []byte(":"))
	return "http://10.0.2.2:" + string(port) + "/"
}

// Answer has another handler answer from now on, which may leave it to the good one; nil for that one.
func (r *Repo) Answer(f func(good http.Handler) http.Handler) {
	if f == nil {
		r.answer.Store(nil)
		return
	}
	r.answer.Store(&f)
}

// Publish adds the release in the folder image for all devices, or as change has it.
func (r *Repo) Publish(image string, change func(*publish.Release)) {
	r.t.Helper()
	r.PublishAt(image, time.Now(), change)
}

// PublishAt is Publish at another time.
func (r *Repo) PublishAt(image string, now time.Time, change func(*publish.Release)) {
	r.t.Helper()
	set, err := keys.Load(keySet(r.t))
	if err != nil {
		r.t.Fatal(err)
	}
	updates, err := keys.LoadUpdates(keySet(r.t))
	if err != nil {
		r.t.Fatal(err)
	}
	o := publish.Options{Dir: r.Dir, Keys: updates, Now: now, Deltas: 1, Log: r.t.Logf}
	if r.Deltas {
		o.Delta = func(_ context.Context, old, new []byte) ([]byte, error) {
			var b bytes.Buffer
			err := delta.Make(old, new, &b)
			return b.Bytes(), err
		}
	}
	rel := publish.Release{
		Image: image, Boot: set, Channels: []string{bundle.Stable}, Rollout: 100,
		Notes: map[string]string{"de": "Neues aus dem Test", "en": "News of the test"},
	}
	if change != nil {
		change(&rel)
	}
	if err := publish.Add(r.t.Context(), o, rel); err != nil {
		r.t.Fatal(err)
	}
}

// Bundle returns the file with the whole update to version.
func (r *Repo) Bundle(version string) []byte {
	r.t.Helper()
	b, err := os.ReadFile(filepath.Join(r.Dir, publish.BundlesFolder, bundle.Target{Board: board, Version: version}.FileName()))
	if err != nil {
		r.t.Fatal(err)
	}
	return b
}

// A Gateway is a machine with the image, asked over its API.
type Gateway struct {
	*testvm.VM
	t testing.TB
}

// Boot starts a gateway from the image in a folder, and waits until it is up.
func Boot(t testing.TB, image string, o testvm.Options) *Gateway {
	t.Helper()
	o.Image = filepath.Join(image, "cloudlink.img")
	if o.Size == 0 {
		o.Size = 512 << 20
	}
	if o.Firmware == "" {
		o.Firmware = qemu.UBoot
	}
	g := &Gateway{testvm.Boot(t, o), t}
	g.Ready()
	return g
}

// In makes t, a subtest that shares the machine, the one that fails.
func (g *Gateway) In(t testing.TB) {
	g.VM.In(t)
	outer := g.t
	g.t = t
	t.Cleanup(func() { g.t = outer })
}

// Ready waits until the gateway is up and its update service knows the slots.
func (g *Gateway) Ready() update.Status {
	g.t.Helper()
	g.WaitUp()
	return g.Await("the update service knows the slots", func(s update.Status) error {
		if s.Slot == "" || s.Version == "" {
			return fmt.Errorf("slot %q, version %q", s.Slot, s.Version)
		}
		return nil
	})
}

// Use names the update server; change may change the other settings. Nothing is automatic but what
// change makes so.
func (g *Gateway) Use(server string, change func(*settings.Update)) {
	g.t.Helper()
	set := settings.Update{Server: server, Channel: settings.Stable}
	if change != nil {
		change(&set)
	}
	g.put("/api/v1/update/settings", set)
}

func (g *Gateway) put(path string, v any) {
	g.t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		g.t.Fatal(err)
	}
	g.Until("settings are taken", func() error {
		code, answer, err := g.ask(http.MethodPut, path, "application/json", bytes.NewReader(b))
		if err == nil && code != http.StatusOK {
			err = fmt.Errorf("%d %s", code, answer)
		}
		return err
	})
}

// Ask asks for something: check, install, rollback, drill or cancel. It returns the answer's code.
func (g *Gateway) Ask(what string) int {
	g.t.Helper()
	code, answer, err := g.ask(http.MethodPost, "/api/v1/update/"+what, "application/json", bytes.NewReader([]byte("{}")))
	if err != nil {
		g.t.Fatalf("%s: %v", what, err)
	}
	if code != http.StatusAccepted {
		g.t.Logf("%s: %d %s", what, code, answer)
	}
	return code
}

// Do asks for something that has to be accepted, once nothing else is on its way.
func (g *Gateway) Do(what string) {
	g.t.Helper()
	if what != "cancel" {
		g.Idle()
	}
	if code := g.Ask(what); code != http.StatusAccepted {
		g.t.Fatalf("%s: %d, want 202", what, code)
	}
}

// Idle waits until nothing is on its way, and returns the number of the last attempt.
func (g *Gateway) Idle() (last int) {
	g.t.Helper()
	g.Await("nothing is on its way", func(s update.Status) error {
		if s.Busy || s.Slot == "" {
			return fmt.Errorf("it is %s, checking %v", s.State, s.Checking)
		}
		if len(s.Attempts) > 0 {
			last = s.Attempts[0].ID
		}
		return nil
	})
	return last
}

// Upload uploads a bundle.
func (g *Gateway) Upload(b []byte) (code int, answer string) {
	g.t.Helper()
	code, answer, err := g.ask(http.MethodPost, "/api/v1/update/upload", "application/octet-stream", bytes.NewReader(b))
	if err != nil {
		g.t.Fatalf("upload: %v", err)
	}
	return code, answer
}

func (g *Gateway) ask(method, path, kind string, body io.Reader) (int, string, error) {
	req, err := http.NewRequest(method, g.URL(path), body)
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Content-Type", kind)
	c := http.Client{Timeout: testvm.Patience, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// long is how long an attempt may take, with the minutes of a trial that fails.
const long = 10 * time.Minute

// Await asks how updates stand until good returns nil.
func (g *Gateway) Await(what string, good func(update.Status) error) update.Status {
	g.t.Helper()
	deadline := time.Now().Add(long)
	for {
		s, err := g.update()
		if err == nil {
			if err = good(s); err == nil {
				return s
			}
		}
		if time.Now().After(deadline) {
			g.t.Fatalf("wait until %s: %v", what, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// update is how updates stand now; a gateway that restarts does not answer.
func (g *Gateway) update() (s update.Status, err error) {
	code, body, err := g.TryGet("/api/v1/update")
	if err != nil {
		return s, err
	}
	if code != http.StatusOK {
		return s, fmt.Errorf("%d %s", code, body)
	}
	return s, json.Unmarshal(body, &s)
}

// Ended waits until the attempt with that number has ended and returns it. Another may have begun.
func (g *Gateway) Ended(id int) (ended update.Attempt) {
	g.t.Helper()
	g.Await(fmt.Sprintf("attempt %d has ended", id), func(s update.Status) error {
		for _, a := range s.Attempts {
			if a.ID == id && !a.State.Working() {
				ended = a
				return nil
			}
		}
		return fmt.Errorf("attempts: %+v, check: %+v", s.Attempts, s.Check)
	})
	return ended
}

// Reach waits until the attempt with that number is in a state, or behind it.
func (g *Gateway) Reach(id int, state update.State) {
	g.t.Helper()
	g.Await(fmt.Sprintf("attempt %d is %s", id, state), func(s update.Status) error {
		for _, a := range s.Attempts {
			if a.ID != id {
				continue
			}
			for _, step := range a.Steps {
				if step.State == state {
					return nil
				}
			}
			return fmt.Errorf("it is %s: %+v", a.State, a)
		}
		return fmt.Errorf("there is none: %+v", s.Check)
	})
}

// Running waits until that version runs in that slot, with all its services.
func (g *Gateway) Running(version, slot string) {
	g.t.Helper()
	g.Await(version+" runs in slot "+slot, func(s update.Status) error {
		if s.Version != version || s.Slot != slot {
			return fmt.Errorf("%q runs in slot %q", s.Version, s.Slot)
		}
		return nil
	})
	g.WaitUp()
}
