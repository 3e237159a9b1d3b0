package trust

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"cloudlink.local/gateway/firmware/keys"
	"cloudlink.local/gateway/firmware/publish"
	"cloudlink.local/gateway/firmware/publish/publishtest"
	"cloudlink.local/gateway/internal/release"
	"cloudlink.local/gateway/internal/update/bundle"
)

func TestMain(m *testing.M) {
	if os.Getenv(asWriter) != "" {
		writeFloors()
		return
	}
	publishtest.Main(m)
}

// A world has a repository behind a real server, somebody in between, and a device that runs 1.0.0.
type world struct {
	*testing.T
	repo   *publishtest.Repo
	server *httptest.Server
	// attack may answer in the server's place, and says whether it has.
	attack func(w http.ResponseWriter, req *http.Request) bool
	client *Client
	device Device
	now    time.Time
	thief  map[string]*keys.Updates // role → keys to sign with instead of its own
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, repo: publishtest.New(t), now: publishtest.Began.Add(time.Hour)}
	w.server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		if w.attack == nil || !w.attack(rw, req) {
			publish.Handler(w.repo.Dir).ServeHTTP(rw, req)
		}
	}))
	t.Cleanup(w.server.Close)
	w.repo.Publish("1.0.0", nil)
	source := w.at(w.server.URL)
	w.client = &Client{
		Root: w.repo.Root(), Dir: filepath.Join(t.TempDir(), "trust"), Source: source,
		Now: func() time.Time { return w.now }, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	w.device = Device{
		Product: release.Product, Board: "qemu-virt", Version: "1.0.0", BuildTime: publishtest.Began,
		Serial: "ABC", Channel: bundle.Stable, UKI: w.uki("1.0.0"),
	}
	return w
}

func (w *world) at(url string) *Repository {
	w.Helper()
	r, err := NewRepository(url)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(r.Close)
	return r
}

func (w *world) uki(version string) string {
	return fmt.Sprintf("%x", sum256(publishtest.UKI(version)))
}

// gets wants the device to get a version, or the reason why not.
func (w *world) gets(want string) Offer {
	w.Helper()
	return w.getsWithin(w.Context(), want)
}

func (w *world) getsWithin(ctx context.Context, want string) Offer {
	w.Helper()
	offer, err := w.client.Check(ctx, w.device)
	got := offer.Full.Target.Version
	if err != nil {
		if got = string(ReasonOf(err)); got == "" {
			got = err.Error()
		}
		if strings.Contains(err.Error(), "\n") {
			w.Errorf("an error of several lines: %v", err)
		}
	}
	if got != want {
		w.Fatalf("it gets %q, want %q: %v", got, want, err)
	}
	return offer
}

// upload has the device be given a bundle.
func (w *world) upload(b []byte, want string) {
	w.Helper()
	source, err := OpenBundle(bytes.NewReader(b))
	if err != nil {
		if got := string(ReasonOf(err)); got != want {
			w.Fatalf("it gets %q, want %q: %v", got, want, err)
		}
		return
	}
	online := w.client.Source
	w.client.Source = source
	defer func() { w.client.Source = online }()
	w.gets(want)
}

func (w *world) metadataFile(name string) string { return filepath.Join(w.repo.Dir, "metadata", name) }

func (w *world) readMetadata(name string) []byte {
	w.Helper()
	b, err := os.ReadFile(w.metadataFile(name))
	if err != nil {
		w.Fatal(err)
	}
	return b
}

// sends has the attacker answer requests for a file so.
func (w *world) sends(name string, answer http.HandlerFunc) {
	next := w.attack
	w.attack = func(rw http.ResponseWriter, req *http.Request) bool {
		if strings.HasSuffix(req.URL.Path, "/"+name) {
			answer(rw, req)
			return true
		}
		return next != nil && next(rw, req)
	}
}

func body(b []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.Write(b) }
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// TestUpdateIsFound is the whole way: published, asked for, fetched and unpacked.
func TestUpdateIsFound(t *testing.T) {
	w := newWorld(t)
	w.repo.Delta = func(_ context.Context, old, new []byte) ([]byte, error) { return []byte("a delta"), nil }
	w.gets("up-to-date")
	w.repo.Publish("1.1.0+g1234", func(r *publish.Release) { r.SecurityFloor = "1.0.0" })
	offer := w.gets("1.1.0+g1234")
	if offer.Full.Target.Notes["de"] != "Neues" || offer.Full.Target.SecurityFloor != "1.0.0" {
		t.Errorf("offer %+v", offer.Full.Target)
	}
	if offer.Delta == nil || offer.Delta.Target.From != w.uki("1.0.0") || offer.Delta.Size >= offer.Full.Size {
		t.Errorf("delta %+v", offer.Delta)
	}
	for _, f := range []File{offer.Full, *offer.Delta} {
		if !strings.Contains(f.URL, "%2B") { // some servers take a plus for a blank
			t.Errorf("%s", f.URL)
		}
		resp, err := http.Get(f.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		got := map[string][]byte{}
		for s := bundle.NewSlotReader(bundle.Verify(resp.Body, f.Size, f.SHA256), f.Target); ; {
			entry, err := s.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if got[entry.Name], err = io.ReadAll(s); err != nil {
				t.Fatal(err)
			}
		}
		if err := bundle.CheckManifest(got[bundle.Manifest], f.Target); err != nil {
			t.Error(err)
		}
		if uki := got[bundle.UKI]; f.Target.Kind == bundle.Full && !bytes.Equal(uki, publishtest.UKI("1.1.0+g1234")) {
			t.Error("linux.efi is another")
		}
		if f.Target.Kind == bundle.Delta && string(got[bundle.DeltaFile]) != "a delta" {
			t.Errorf("the delta is %q", got[bundle.DeltaFile])
		}
	}
	w.device.UKI = w.uki("0.9.0")
	if offer := w.gets("1.1.0+g1234"); offer.Delta != nil {
		t.Error("a delta for something else")
	}
}

// What somebody on the way, or with some of the keys, can do: each is told by its reason, and nothing
// is offered that was not signed to be.
func TestAttacks(t *testing.T) {
	old := func(w *world) map[string][]byte { // the repository as it was before 1.1.0
		files := map[string][]byte{}
		for _, name := range []string{"timestamp.json", "1.snapshot.json", "1.targets.json"} {
			files[name] = w.readMetadata(name)
		}
		return files
	}
	for _, c := range []struct {
		name string
		want Reason
		do   func(w *world)
	}{
		{"nobody there", NoConnection, func(w *world) { w.server.Close() }},
		{"no such name", NoConnection, func(w *world) { w.client.Source = w.at("http://updates.invalid/") }},
		{"another kind of server", NoConnection, func(w *world) { w.hijack("timestamp.json", "SSH-2.0-OpenSSH\r\n\r\n") }},
		{"a certificate of nobody", Certificate, func(w *world) {
			tls := httptest.NewTLSServer(publish.Handler(w.repo.Dir))
			w.Cleanup(tls.Close)
			w.client.Source = w.at(tls.URL)
		}},
		{"another folder of the server", NotRepository, func(w *world) { w.client.Source = w.at(w.server.URL + "/elsewhere") }},
		{"403", NoAnswer, func(w *world) { w.sends("timestamp.json", status(403)) }},
		{"404", NotRepository, func(w *world) { w.sends("timestamp.json", status(404)) }},
		{"416", NoAnswer, func(w *world) { w.sends("timestamp.json", status(416)) }},
		{"500", NoAnswer, func(w *world) { w.sends("timestamp.json", status(500)) }},
		{"500 for root metadata", NoAnswer, func(w *world) { w.sends("2.root.json", status(500)) }},
		{"503 for the list", NoAnswer, func(w *world) { w.sends("2.targets.json", status(503)) }},
		{"no content", NoAnswer, func(w *world) { w.sends("timestamp.json", status(204)) }},
		{"a sign-in page", NotRepository, func(w *world) {
			w.attack = func(rw http.ResponseWriter, _ *http.Request) bool {
				io.WriteString(rw, "<!DOCTYPE html><title>Hotel</title>")
				return true
			}
		}},
		{"sent to another server", Redirected, func(w *world) {
			w.sends("timestamp.json", func(rw http.ResponseWriter, req *http.Request) {
				http.Redirect(rw, req, "http://192.0.2.1/metadata/timestamp.json", http.StatusFound)
			})
		}},
		{"sent round in circles", Redirected, func(w *world) {
			w.sends("timestamp.json", func(rw http.ResponseWriter, req *http.Request) {
				http.Redirect(rw, req, req.URL.Path, http.StatusFound)
			})
		}},
		{"nothing comes", TooSlow, func(w *world) {
			w.sends("timestamp.json", func(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() })
		}},
		{"hardly anything comes", TooSlow, func(w *world) {
			w.sends("timestamp.json", func(rw http.ResponseWriter, req *http.Request) {
				for req.Context().Err() == nil {
					io.WriteString(rw, " ")
					rw.(http.Flusher).Flush()
					select {
					case <-time.After(time.Millisecond):
					case <-req.Context().Done():
					}
				}
			})
		}},
		{"endless root metadata", TooLarge, func(w *world) { w.sends("2.root.json", endless) }},
		{"endless timestamp", TooLarge, func(w *world) { w.sends("timestamp.json", endless) }},
		{"endless snapshot", TooLarge, func(w *world) { w.sends("2.snapshot.json", endless) }},
		{"endless list", TooLarge, func(w *world) { w.sends("2.targets.json", endless) }},
		{"a length that is too large", TooLarge, func(w *world) {
			w.sends("timestamp.json", func(rw http.ResponseWriter, _ *http.Request) {
				rw.Header().Set("Content-Length", "9223372036854775807")
			})
		}},
		{"a wrong length", Truncated, func(w *world) {
			w.hijack("timestamp.json", "HTTP/1.1 200 OK\r\nContent-Length: 500\r\nConnection: close\r\n\r\n{\"signed\":")
		}},
		{"half a timestamp", Truncated, func(w *world) {
			b := w.readMetadata("timestamp.json")
			w.sends("timestamp.json", body(b[:len(b)/2]))
		}},
		{"an empty timestamp", Truncated, func(w *world) { w.sends("timestamp.json", body(nil)) }},
		{"half a snapshot", Truncated, func(w *world) {
			b := w.readMetadata("2.snapshot.json")
			w.sends("2.snapshot.json", body(b[:len(b)/2]))
		}},
		{"half a list", Truncated, func(w *world) {
			b := w.readMetadata("2.targets.json")
			w.sends("2.targets.json", body(b[:len(b)-1]))
		}},
		{"a longer list", TooLarge, func(w *world) {
			w.sends("2.targets.json", body(append(w.readMetadata("2.targets.json"), ' ')))
		}},
		{"another list", Mixed, func(w *world) {
			w.sends("2.targets.json", body(bytes.Replace(w.readMetadata("2.targets.json"), []byte("1.1.0"), []byte("1.2.0"), 1)))
		}},
		{"mix and match: the former snapshot", Mixed, func(w *world) {
			b := w.readMetadata("1.snapshot.json")
			w.sends("2.snapshot.json", body(b))
			if len(b) != len(w.readMetadata("2.snapshot.json")) {
				w.Fatal("the attack shows by its length")
			}
		}},
		{"a mirror that is half done", Mixed, func(w *world) { w.sends("2.targets.json", status(404)) }},
		{"a changed timestamp", UnknownKeys, func(w *world) {
			w.sends("timestamp.json", body(bytes.Replace(w.readMetadata("timestamp.json"), []byte(`"version":2}},"spec`), []byte(`"version":9}},"spec`), 1)))
		}},
		{"somebody else's repository", UnknownKeys, func(w *world) {
			w.repo = publishtest.NewForeign(w.T)
			w.repo.Publish("1.1.0", nil)
		}},
		{"somebody else's root metadata", UnknownKeys, func(w *world) {
			foreign := publishtest.NewForeign(w.T)
			foreign.Rotate("targets")
			w.sends("2.root.json", body(foreign.Root()))
		}},
		{"arbitrary software, with the online keys", UnknownKeys, func(w *world) {
			targets := parse[metadata.TargetsType](w, "2.targets.json")
			targets.Signed.Targets["qemu-virt/1.1.0.slot"].Length++
			w.publishAs(targets, "timestamp", "snapshot", "timestamp")
		}},
		{"freeze: the timestamp of before", Frozen, func(w *world) {
			before := w.readMetadata("timestamp.json")
			w.repo.Renew()
			w.gets("1.1.0")
			w.sends("timestamp.json", body(before))
		}},
		{"freeze: the whole repository of before", Frozen, func(w *world) {
			w.gets("1.1.0")
			for name, b := range old(w) {
				w.sends(name, body(b))
			}
			b, err := os.ReadFile(filepath.Join(w.Dir(), "timestamp.json"))
			if err != nil {
				w.Fatal(err)
			}
			w.sends("timestamp.json", body(b))
		}},
		{"freeze: for ever", Expired, func(w *world) { w.now = w.now.AddDate(0, 0, publish.TimestampDays) }},
		{"rollback, with the timestamp's key", RolledBack, func(w *world) {
			w.gets("1.1.0")
			timestamp := parse[metadata.TimestampType](w, "timestamp.json")
			b := w.readMetadata("1.snapshot.json")
			timestamp.Signed.Version += 5
			timestamp.Signed.Meta["snapshot.json"] = info(1, b)
			w.sends("timestamp.json", body(sign(w, timestamp, "timestamp")))
		}},
		{"rollback, with the online keys", RolledBack, func(w *world) {
			w.gets("1.1.0")
			snapshot := parse[metadata.SnapshotType](w, "2.snapshot.json")
			snapshot.Signed.Version = 3
			snapshot.Signed.Meta["targets.json"] = info(1, w.readMetadata("1.targets.json"))
			b := sign(w, snapshot, "snapshot")
			timestamp := parse[metadata.TimestampType](w, "timestamp.json")
			timestamp.Signed.Version++
			timestamp.Signed.Meta["snapshot.json"] = info(3, b)
			w.sends("3.snapshot.json", body(b))
			w.sends("timestamp.json", body(sign(w, timestamp, "timestamp")))
		}},
		{"rollback of root metadata", RolledBack, func(w *world) {
			w.repo.Rotate("root")
			w.repo.Renew()
			w.gets("1.1.0")
			if err := os.Remove(filepath.Join(w.client.Dir, "2.root.json")); err != nil {
				w.Fatal(err)
			}
			w.sends("2.root.json", status(404))
		}},
		{"a clock in 2099", Expired, func(w *world) { w.now = time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC) }},
		{"a clock in 1970, and nobody has vouched since this firmware was built", Expired, func(w *world) {
			w.now = time.Unix(0, 0)
			w.device.BuildTime = publishtest.Began.AddDate(0, 3, 0)
		}},
		{"for another product", WrongProduct, func(w *world) { w.device.Product = "toaster" }},
		{"for another board", WrongBoard, func(w *world) { w.device.Board = "uefi-arm64" }},
		{"older than what runs", UpToDate, func(w *world) { w.device.Version = "1.2.0" }},
		{"below the floor", BelowFloor, func(w *world) {
			if err := w.client.RaiseFloor("1.2.0"); err != nil {
				w.Fatal(err)
			}
		}},
		{"too large a step", MinimumFrom, func(w *world) {
			w.repo.Publish("1.1.0", func(r *publish.Release) { r.MinimumFrom = "1.0.1" })
		}},
		{"not its turn", NotYet, func(w *world) {
			w.repo.Publish("1.1.0", func(r *publish.Release) { r.Rollout = 0 })
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.keep("timestamp.json")
			w.repo.Publish("1.1.0", nil)
			c.do(w)
			ctx := t.Context()
			if c.want == TooSlow {
				var cancel func()
				ctx, cancel = context.WithTimeout(ctx, 300*time.Millisecond)
				defer cancel()
			}
			w.getsWithin(ctx, string(c.want))
		})
	}
}

// Dir is where keep keeps.
func (w *world) Dir() string { return filepath.Join(w.repo.Dir, "..", "kept") }

// keep keeps a metadata file as it is now.
func (w *world) keep(name string) {
	w.Helper()
	if err := os.MkdirAll(w.Dir(), 0o755); err != nil {
		w.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.Dir(), name), w.readMetadata(name), 0o644); err != nil {
		w.Fatal(err)
	}
}

func endless(w http.ResponseWriter, _ *http.Request) {
	for {
		if _, err := io.WriteString(w, strings.Repeat(`{"signed":`, 100)); err != nil {
			return
		}
	}
}

// hijack answers with bytes, and closes the connection.
func (w *world) hijack(name, answer string) {
	w.sends(name, func(rw http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		defer conn.Close()
		io.WriteString(conn, answer)
	})
}

func parse[T metadata.Roles](w *world, name string) *metadata.Metadata[T] {
	w.Helper()
	m, err := new(metadata.Metadata[T]).FromBytes(w.readMetadata(name))
	if err != nil {
		w.Fatal(err)
	}
	return m
}

// sign signs with a role's keys.
func sign[T metadata.Roles](w *world, m *metadata.Metadata[T], role string) []byte {
	w.Helper()
	u := w.thief[role]
	if u == nil {
		u = w.repo.Keys()
	}
	signers, err := u.Signers(role)
	if err != nil {
		w.Fatal(err)
	}
	m.ClearSignatures()
	for _, s := range signers {
		if _, err := m.Sign(s); err != nil {
			w.Fatal(err)
		}
	}
	b, err := m.ToBytes(false)
	if err != nil {
		w.Fatal(err)
	}
	return b
}

func info(version int64, b []byte) *metadata.MetaFiles {
	sum := sum256(b)
	return &metadata.MetaFiles{Version: version, Length: int64(len(b)), Hashes: metadata.Hashes{"sha256": sum[:]}}
}

// publishAs has the server send targets, and a snapshot and timestamp that fit, signed by these roles.
func (w *world) publishAs(targets *metadata.Metadata[metadata.TargetsType], signsTargets, signsSnapshot, signsTimestamp string) {
	w.Helper()
	targets.Signed.Version = 9
	b := sign(w, targets, signsTargets)
	w.sends("9.targets.json", body(b))
	snapshot := parse[metadata.SnapshotType](w, "2.snapshot.json")
	snapshot.Signed.Version = 9
	snapshot.Signed.Meta["targets.json"] = info(9, b)
	b = sign(w, snapshot, signsSnapshot)
	w.sends("9.snapshot.json", body(b))
	timestamp := parse[metadata.TimestampType](w, "timestamp.json")
	timestamp.Signed.Version = 9
	timestamp.Signed.Meta["snapshot.json"] = info(9, b)
	w.sends("timestamp.json", body(sign(w, timestamp, signsTimestamp)))
}

// What is signed by the right keys and is still not as it should be ends no program.
func TestSignedNonsense(t *testing.T) {
	for name, do := range map[string]func(w *world){
		"a target that is null": func(w *world) {
			targets := parse[metadata.TargetsType](w, "2.targets.json")
			targets.Signed.Targets["qemu-virt/1.2.0.slot"] = nil
			w.publishAs(targets, "targets", "snapshot", "timestamp")
		},
		"a timestamp of nothing": func(w *world) {
			timestamp := parse[metadata.TimestampType](w, "timestamp.json")
			timestamp.Signed.Meta = map[string]*metadata.MetaFiles{}
			w.sends("timestamp.json", body(sign(w, timestamp, "timestamp")))
		},
		"a timestamp without digest": func(w *world) {
			timestamp := parse[metadata.TimestampType](w, "timestamp.json")
			timestamp.Signed.Meta["snapshot.json"].Hashes = nil
			w.sends("timestamp.json", body(sign(w, timestamp, "timestamp")))
		},
		"a snapshot of null": func(w *world) {
			snapshot := parse[metadata.SnapshotType](w, "2.snapshot.json")
			snapshot.Signed.Meta["targets.json"] = nil
			b := sign(w, snapshot, "snapshot")
			timestamp := parse[metadata.TimestampType](w, "timestamp.json")
			timestamp.Signed.Meta["snapshot.json"] = info(2, b)
			timestamp.Signed.Version++
			w.sends("2.snapshot.json", body(b))
			w.sends("timestamp.json", body(sign(w, timestamp, "timestamp")))
		},
		"delegations": func(w *world) {
			targets := parse[metadata.TargetsType](w, "2.targets.json")
			targets.Signed.Delegations = &metadata.Delegations{Keys: map[string]*metadata.Key{}, Roles: []metadata.DelegatedRole{}}
			w.publishAs(targets, "targets", "snapshot", "timestamp")
		},
		"a snapshot in the timestamp's place": func(w *world) { w.sends("timestamp.json", body(w.readMetadata("2.snapshot.json"))) },
		"root metadata with a short key": func(w *world) {
			b := bytes.Replace(w.repo.Root(), []byte(`"public":"`), []byte(`"public":"00`), 1)
			w.sends("2.root.json", body(b))
		},
		"root metadata with null for a key": func(w *world) {
			m, err := metadata.Root().FromBytes(w.repo.Root())
			if err != nil {
				w.Fatal(err)
			}
			for id := range m.Signed.Keys {
				m.Signed.Keys[id] = nil
			}
			b, err := m.ToBytes(false)
			if err != nil {
				w.Fatal(err)
			}
			w.sends("2.root.json", body(b))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.repo.Publish("1.1.0", nil)
			do(w)
			w.gets(string(NotRepository))
		})
	}
}

// A target that newer firmware understands keeps nobody from the others.
func TestUnknownTargetsArePassedOver(t *testing.T) {
	w := newWorld(t)
	w.repo.Publish("1.1.0", nil)
	targets := parse[metadata.TargetsType](w, "2.targets.json")
	good := targets.Signed.Targets["qemu-virt/1.1.0.slot"]
	for path, change := range map[string][2]string{
		"qemu-virt/1.2.0.slot": {`"kind":"full"`, `"kind":"chunks"`},
		"qemu-virt/1.3.0.slot": {`"rollout"`, `"phase":1,"rollout"`}, // its name is not what it says
		"qemu-virt/1.4.0.slot": {`"version":"1.1.0"`, `"version":"1.4"`},
	} {
		other := *good
		custom := []byte(strings.Replace(string(*good.Custom), change[0], change[1], 1))
		other.Custom = (*jsonRaw)(&custom)
		targets.Signed.Targets[path] = &other
	}
	targets.Signed.Targets["readme.txt"] = &metadata.TargetFiles{Length: 1, Hashes: good.Hashes}
	// A length that is not what the files need.
	longer := *good
	longer.Length += 512
	custom := []byte(strings.ReplaceAll(string(*good.Custom), "1.1.0", "1.5.0"))
	longer.Custom = (*jsonRaw)(&custom)
	targets.Signed.Targets["qemu-virt/1.5.0.slot"] = &longer
	w.publishAs(targets, "targets", "snapshot", "timestamp")
	w.gets("1.1.0")
}

// What is not an attack passes.
func TestHarmless(t *testing.T) {
	for name, do := range map[string]func(w *world){
		"403 for root metadata that are not there": func(w *world) { w.sends("2.root.json", status(403)) },
		"410 for them": func(w *world) { w.sends("2.root.json", status(410)) },
		"a redirection on the same server": func(w *world) {
			next := w.readMetadata("timestamp.json")
			w.sends("timestamp.json", func(rw http.ResponseWriter, req *http.Request) {
				http.Redirect(rw, req, "/other/t.json", http.StatusMovedPermanently)
			})
			w.sends("t.json", body(next))
		},
		"a clock in 1970":        func(w *world) { w.now = time.Unix(0, 0) },
		"the last day":           func(w *world) { w.now = publishtest.Began.AddDate(0, 0, publish.TimestampDays) },
		"a folder for the trust": func(w *world) { w.mkdir(w.client.Dir) },
		"no folder, and no way to one": func(w *world) {
			file := filepath.Join(w.TempDir(), "file")
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				w.Fatal(err)
			}
			w.client.Dir = filepath.Join(file, "trust") // as full or read-only as can be
			if err := w.client.RaiseFloor("1.0.0"); err == nil {
				w.Error("the floor was raised, and nowhere kept")
			}
		},
		"new keys in the middle of it": func(w *world) {
			// The device has found no second root metadata; the timestamp is signed by its keys.
			w.repo.Rotate("timestamp")
			w.repo.Renew()
			first := true
			next := w.attack
			w.attack = func(rw http.ResponseWriter, req *http.Request) bool {
				if strings.HasSuffix(req.URL.Path, "/2.root.json") && first {
					first = false
					rw.WriteHeader(404)
					return true
				}
				return next != nil && next(rw, req)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.repo.Publish("1.1.0", nil)
			do(w)
			w.gets("1.1.0")
			w.gets("1.1.0")
		})
	}
	t.Run("a service that stops", func(t *testing.T) {
		w := newWorld(t)
		ctx, cancel := context.WithCancel(t.Context())
		w.sends("timestamp.json", func(_ http.ResponseWriter, req *http.Request) {
			cancel()
			<-req.Context().Done()
		})
		if _, err := w.client.Check(ctx, w.device); !errors.Is(err, context.Canceled) || ReasonOf(err) != "" {
			t.Errorf("%v", err)
		}
	})
}

func (w *world) mkdir(dir string) {
	w.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		w.Fatal(err)
	}
}

func TestAddresses(t *testing.T) {
	for _, address := range []string{
		"", "updates.example.com", "ftp://updates.example.com/", "https://", "https:///x", "http://a b/", "https://u:p@example.com/",
		"https://example.com/?x=1", "https://example.com/#x", "file:///etc/passwd", "https://example.com:port/",
	} {
		if _, err := NewRepository(address); err == nil || !strings.Contains(err.Error(), "update server") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", address, err)
		}
	}
	r, err := NewRepository("https://example.com/a b")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := r.locate("qemu-virt/1.0.0+g1.slot", 1, "abc"), "https://example.com/a%20b/targets/qemu-virt/abc.1.0.0%2Bg1.slot"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestNewKeys(t *testing.T) {
	for _, role := range []string{"timestamp", "snapshot", "targets", "root"} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.gets("up-to-date")
			copied := t.TempDir()
			if err := os.CopyFS(copied, os.DirFS(w.repo.KeyDir)); err != nil {
				t.Fatal(err)
			}
			stolen, err := keys.LoadUpdates(copied)
			if err != nil {
				t.Fatal(err)
			}
			w.repo.Rotate(role)
			w.repo.Renew()
			w.gets("up-to-date")
			w.repo.Publish("1.1.0", nil)
			w.gets("1.1.0")
			if role == "root" {
				return
			}
			// What the old keys sign is believed no more.
			w.thief = map[string]*keys.Updates{role: stolen}
			targets := parse[metadata.TargetsType](w, "2.targets.json")
			if role == "targets" {
				targets = parse[metadata.TargetsType](w, "3.targets.json") // it was signed again in between
			}
			w.publishAs(targets, "targets", "snapshot", "timestamp")
			w.gets(string(UnknownKeys))
		})
	}
	// It has been in a drawer for a long time.
	t.Run("several steps behind", func(t *testing.T) {
		w := newWorld(t)
		for range 3 {
			for _, role := range []string{"root", "targets", "timestamp", "snapshot"} {
				w.repo.Rotate(role)
			}
			w.repo.Now = w.repo.Now.AddDate(4, 0, 0)
			w.repo.Renew()
		}
		w.repo.Publish("1.1.0", nil)
		w.now = w.repo.Now
		w.gets("1.1.0")
		// The chain is kept: the server may lose its beginning.
		for n := 2; n < 13; n++ {
			w.sends(fmt.Sprintf("%d.root.json", n), status(404))
		}
		w.gets("1.1.0")
		// New firmware has the newest root metadata in it; what is kept is older.
		w.client.Root = w.repo.Root()
		w.gets("1.1.0")
	})
	t.Run("several steps behind, and a step is missing", func(t *testing.T) {
		w := newWorld(t)
		w.repo.Rotate("root")
		w.repo.Rotate("timestamp")
		w.repo.Renew()
		w.sends("2.root.json", status(404))
		w.gets(string(UnknownKeys))
	})
	// Whoever had the keys may have signed the last number there is.
	t.Run("after somebody has counted to the end", func(t *testing.T) {
		w := newWorld(t)
		w.repo.Publish("1.1.0", nil)
		timestamp := parse[metadata.TimestampType](w, "timestamp.json")
		timestamp.Signed.Version = math.MaxInt64
		w.sends("timestamp.json", body(sign(w, timestamp, "timestamp")))
		w.gets("1.1.0")
		w.attack = nil
		w.gets(string(Frozen))
		w.repo.Rotate("timestamp")
		w.repo.Renew()
		w.gets("1.1.0")
		w.repo.Renew()
		w.gets("1.1.0")
	})
	t.Run("the root metadata themselves are damaged", func(t *testing.T) {
		w := newWorld(t)
		w.client.Root = w.client.Root[:100]
		if _, err := w.client.Check(t.Context(), w.device); err == nil || ReasonOf(err) != "" || !strings.Contains(err.Error(), "of this image") {
			t.Errorf("%v", err)
		}
	})
}

func TestBundles(t *testing.T) {
	w := newWorld(t)
	w.repo.Publish("1.1.0", func(r *publish.Release) { r.Channels, r.Rollout = []string{bundle.Beta}, 0 })
	b := w.repo.Bundle("1.1.0")
	run := func(name string, test func(t *testing.T)) {
		t.Run(name, func(t *testing.T) {
			w.T = t
			test(t)
		})
	}

	run("is taken, and checked while it is read", func(t *testing.T) {
		source, err := OpenBundle(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		c := *w.client
		c.Source = source
		offer, err := c.Check(t.Context(), w.device)
		if err != nil {
			t.Fatal(err)
		}
		s := bundle.NewSlotReader(source.Target(offer.Full), offer.Full.Target)
		for {
			f, err := s.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(s); err != nil || f.Name == bundle.UKI && !bytes.Equal(got, publishtest.UKI("1.1.0")) {
				t.Errorf("%s: %v", f.Name, err)
			}
		}
	})
	run("does not expire", func(t *testing.T) {
		now := w.now
		defer func() { w.now = now }()
		w.now = time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC)
		w.upload(b, "1.1.0")
		w.gets(string(Expired))
	})
	run("may be older than what was seen", func(t *testing.T) {
		w.repo.Renew()
		w.repo.Publish("1.2.0", nil)
		w.gets("1.2.0")
		w.upload(b, "1.1.0")
		w.gets("1.2.0")
	})
	for name, want := range map[string]string{"1.0.0": "up-to-date", "1.2.0": "downgrade"} {
		run("downgrade from "+name, func(t *testing.T) {
			version := w.device.Version
			defer func() { w.device.Version = version }()
			if name == "1.0.0" {
				w.device.Version = "1.1.0"
			} else {
				w.device.Version = name
			}
			w.upload(b, want)
		})
	}
	run("for another board", func(t *testing.T) {
		w.device.Board = "uefi-arm64"
		defer func() { w.device.Board = "qemu-virt" }()
		w.upload(b, string(WrongBoard))
	})
	run("of another key set", func(t *testing.T) {
		foreign := publishtest.NewForeign(t)
		foreign.Publish("1.1.0", nil)
		w.upload(foreign.Bundle("1.1.0"), string(UnknownKeys))
	})
	run("with a target of other metadata", func(t *testing.T) {
		in, err := bundle.Open(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		var files []bundle.File
		for _, name := range []string{"1.root.json", "timestamp.json", "2.snapshot.json", "2.targets.json"} {
			data, ok := in.Metadata(name)
			if !ok {
				t.Fatalf("no %s", name)
			}
			files = append(files, bundle.File{Name: name, Data: data})
		}
		var out bytes.Buffer
		err = bundle.Write(&out, files, "qemu-virt/"+strings.Repeat("a", 64)+".1.1.0.slot", 7,
			func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("malware")), nil })
		if err != nil {
			t.Fatal(err)
		}
		w.upload(out.Bytes(), string(Mixed))
	})
	run("with another target", func(t *testing.T) {
		changed := bytes.Clone(b)
		i := bytes.Index(changed, publishtest.UKI("1.1.0")[:100])
		changed[i]++
		w.upload(changed, "1.1.0") // the metadata are good
		source, err := OpenBundle(bytes.NewReader(changed))
		if err != nil {
			t.Fatal(err)
		}
		c := *w.client
		c.Source = source
		offer, err := c.Check(t.Context(), w.device)
		if err != nil {
			t.Fatal(err)
		}
		s := bundle.NewSlotReader(source.Target(offer.Full), offer.Full.Target)
		for err == nil {
			_, err = s.Next()
		}
		if !errors.Is(err, bundle.ErrDamaged) {
			t.Errorf("it ends with %v", err)
		}
	})
	run("cut anywhere", func(t *testing.T) {
		metadataEnd := bytes.Index(b, []byte("targets/qemu-virt/"))
		for n := 0; n < metadataEnd; n += 97 {
			source, err := OpenBundle(bytes.NewReader(b[:n]))
			if err == nil || ReasonOf(err) != Truncated && ReasonOf(err) != NotRepository {
				t.Fatalf("cut after %d bytes: %v, %v", n, source, err)
			}
		}
		for n := metadataEnd + 512; n < len(b)-2048; n += 1999 {
			source, err := OpenBundle(bytes.NewReader(b[:n]))
			if err != nil {
				t.Fatal(err)
			}
			c := *w.client
			c.Source = source
			offer, err := c.Check(t.Context(), w.device)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, source.Target(offer.Full)); !errors.Is(err, bundle.ErrTruncated) {
				t.Fatalf("cut after %d bytes: %v", n, err)
			}
		}
	})
	run("below the floor", func(t *testing.T) {
		if err := w.client.RaiseFloor("1.2.0"); err != nil {
			t.Fatal(err)
		}
		w.upload(b, string(BelowFloor))
	})
	run("brings new keys, and what the old ones signed is refused from then on", func(t *testing.T) {
		w := newWorld(t)
		w.repo.Publish("1.1.0", nil)
		old := w.repo.Bundle("1.1.0")
		w.upload(old, "1.1.0")
		w.repo.Rotate("targets")
		w.repo.Publish("1.2.0", nil)
		w.upload(w.repo.Bundle("1.2.0"), "1.2.0")
		w.upload(old, string(UnknownKeys))
		w.upload(w.repo.Bundle("1.1.0"), "1.1.0") // it was written again
	})
}

// Whatever happens to what is kept, the next check works; the floors hold as long as one copy is whole.
func TestWhatIsKeptIsDamaged(t *testing.T) {
	damages := map[string]func(t *testing.T, file string){
		"empty":   func(t *testing.T, file string) { write(t, file, nil) },
		"torn":    func(t *testing.T, file string) { b := readFile(t, file); write(t, file, b[:len(b)/2]) },
		"zeros":   func(t *testing.T, file string) { write(t, file, make([]byte, len(readFile(t, file)))) },
		"flipped": func(t *testing.T, file string) { b := readFile(t, file); b[len(b)/2] ^= 1; write(t, file, b) },
		"huge":    func(t *testing.T, file string) { truncate(t, file, 1<<30) },
		"gone":    remove,
		"a folder": func(t *testing.T, file string) {
			remove(t, file)
			if err := os.MkdirAll(filepath.Join(file, "x"), 0o700); err != nil {
				t.Fatal(err)
			}
		},
		"a link": func(t *testing.T, file string) {
			remove(t, file)
			if err := os.Symlink("/etc/passwd", file); err != nil {
				t.Fatal(err)
			}
		},
	}
	w := newWorld(t)
	w.repo.Rotate("root")
	w.repo.Publish("1.1.0", nil)
	w.gets("1.1.0")
	if err := w.client.RaiseFloor("1.0.5"); err != nil {
		t.Fatal(err)
	}
	whole := w.client.Dir
	entries, err := os.ReadDir(whole)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if got, want := strings.Join(names, " "), "2.root.json floors.copy.json floors.json"; got != want {
		t.Fatalf("kept: %s, want %s", got, want)
	}
	for what, damage := range damages {
		for _, files := range append([][]string{names}, []string{names[0]}, []string{names[1]}, []string{names[2]}) {
			t.Run(fmt.Sprintf("%s: %s", strings.Join(files, ", "), what), func(t *testing.T) {
				w.client.Dir = filepath.Join(t.TempDir(), "trust")
				if err := os.CopyFS(w.client.Dir, os.DirFS(whole)); err != nil {
					t.Fatal(err)
				}
				for _, name := range files {
					damage(t, filepath.Join(w.client.Dir, name))
				}
				before := loadRecord(whole, w.client.Log)
				w.T = t
				w.gets("1.1.0")
				w.gets("1.1.0")
				after := loadRecord(w.client.Dir, w.client.Log)
				if len(files) == 1 && (after.Floor != "1.0.5" || after.Timestamp != before.Timestamp || after.Root != 2) {
					t.Errorf("the record is %+v, and was %+v", after, before)
				}
				if len(files) > 1 && after.Timestamp != before.Timestamp {
					t.Errorf("the record is %+v, and was %+v", after, before)
				}
				for _, name := range names {
					if info, err := os.Lstat(filepath.Join(w.client.Dir, name)); err == nil && !info.Mode().IsRegular() {
						t.Errorf("%s is %v still", name, info.Mode())
					}
				}
			})
		}
	}
}

func readFile(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t *testing.T, file string, b []byte) {
	t.Helper()
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func truncate(t *testing.T, file string, n int64) {
	t.Helper()
	if err := os.Truncate(file, n); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, file string) {
	t.Helper()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
}
