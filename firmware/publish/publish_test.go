package publish_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cloudlink.local/gateway/firmware/keys"
	"cloudlink.local/gateway/firmware/publish"
	"cloudlink.local/gateway/firmware/publish/publishtest"
	"cloudlink.local/gateway/internal/release"
	"cloudlink.local/gateway/internal/update/bundle"
	"cloudlink.local/gateway/internal/update/trust"
	"time"
)

func TestMain(m *testing.M) { publishtest.Main(m) }

// device asks a repository for updates.
func device(t *testing.T, repo *publishtest.Repo, url string) (*trust.Client, trust.Device) {
	t.Helper()
	source, err := trust.NewRepository(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(source.Close)
	c := &trust.Client{
		Root: repo.Root(), Dir: filepath.Join(t.TempDir(), "trust"), Source: source,
		Now: func() time.Time { return repo.Now }, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	return c, trust.Device{Product: release.Product, Board: "qemu-virt", Version: "1.0.0", Channel: bundle.Stable}
}

// files returns the files of a repository, by name.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		all[rel] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func names(all map[string]string) string {
	var short []string
	for name := range all {
		if folder, file, ok := strings.Cut(name, "/"); ok && folder == "targets" { // its digest is long
			board, file, _ := strings.Cut(file, "/")
			_, file, _ = strings.Cut(file, ".")
			name = folder + "/" + board + "/" + file
		}
		short = append(short, name)
	}
	slices.Sort(short)
	return strings.Join(short, " ")
}

func TestTheSameInputsGiveTheSameBytes(t *testing.T) {
	first, second := publishtest.New(t), publishtest.New(t)
	for _, r := range []*publishtest.Repo{first, second} {
		r.Delta = half
		r.Publish("1.0.0", nil)
		r.Publish("1.1.0", nil)
	}
	one, two := files(t, first.Dir), files(t, second.Dir)
	const want = "bundles/cloudlink-qemu-virt-1.0.0.bundle bundles/cloudlink-qemu-virt-1.1.0.bundle " +
		"metadata/1.root.json metadata/1.snapshot.json metadata/1.targets.json metadata/2.snapshot.json metadata/2.targets.json " +
		"metadata/timestamp.json targets/qemu-virt/1.0.0.slot targets/qemu-virt/1.1.0-from-1.0.0.delta targets/qemu-virt/1.1.0.slot"
	if got := names(one); got != want {
		t.Errorf("files:\n%s\nwant:\n%s", got, want)
	}
	for name, b := range one {
		if two[name] != b {
			t.Errorf("%s differs", name)
		}
	}
}

// half is a delta of half the size.
func half(_ context.Context, _, new []byte) ([]byte, error) { return new[:len(new)/2], nil }

func TestDeltas(t *testing.T) {
	r := publishtest.New(t)
	type pair struct{ old, new string }
	var made []pair
	name := func(b []byte) string {
		for _, v := range []string{"1.0.0", "1.1.0", "1.2.0", "1.3.0", "1.4.0", "1.3.1"} {
			if bytes.Equal(b, publishtest.UKI(v)) {
				return v
			}
		}
		return "?"
	}
	r.Delta = func(ctx context.Context, old, new []byte) ([]byte, error) {
		made = append(made, pair{name(old), name(new)})
		if name(old) == "1.2.0" {
			return append(new, 1), nil // larger than the whole
		}
		return half(ctx, old, new)
	}
	for _, v := range []string{"1.0.0", "1.1.0", "1.2.0", "1.3.0"} {
		r.Publish(v, nil)
	}
	made = nil
	r.Publish("1.4.0", nil)
	if want := []pair{{"1.3.0", "1.4.0"}, {"1.2.0", "1.4.0"}, {"1.1.0", "1.4.0"}}; !slices.Equal(made, want) {
		t.Errorf("made %v, want %v", made, want)
	}
	deltas := func() string {
		var listed []string
		for name := range files(t, r.Dir) {
			if strings.HasSuffix(name, ".delta") {
				_, name, _ = strings.Cut(filepath.Base(name), ".")
				listed = append(listed, strings.TrimSuffix(name, ".delta"))
			}
		}
		slices.Sort(listed)
		return strings.Join(listed, " ")
	}
	r.Renew() // then what led to older releases is fetched by nobody any more
	if got, want := deltas(), "1.4.0-from-1.1.0 1.4.0-from-1.3.0"; got != want {
		t.Errorf("deltas %s, want %s", got, want)
	}
	// A fix of an older release gets deltas, and those of the newest stay.
	r.Publish("1.3.1", nil)
	if got, want := deltas(), "1.3.1-from-1.1.0 1.3.1-from-1.3.0 1.4.0-from-1.1.0 1.4.0-from-1.3.0"; got != want {
		t.Errorf("deltas %s, want %s", got, want)
	}
	// A release does not wait for deltas that cannot be made.
	r.Delta = func(context.Context, []byte, []byte) ([]byte, error) { return nil, errors.New("broken") }
	r.Publish("1.5.0", nil)
	r.Renew()
	if got := deltas(); got != "" {
		t.Errorf("deltas to what is not the newest: %s", got)
	}
}

// What is published again gets another rollout, and nothing else may be called so.
func TestPublishedAgain(t *testing.T) {
	r := publishtest.New(t)
	server := httptest.NewServer(publish.Handler(r.Dir))
	defer server.Close()
	r.Publish("1.1.0", func(rel *publish.Release) { rel.Rollout = 0 })
	c, d := device(t, r, server.URL)
	if _, err := c.Check(t.Context(), d); trust.ReasonOf(err) != trust.NotYet {
		t.Errorf("before: %v", err)
	}
	r.Publish("1.1.0", func(rel *publish.Release) { rel.Notes = map[string]string{"de": "Jetzt", "en": "Now"} })
	offer, err := c.Check(t.Context(), d)
	if err != nil || offer.Full.Target.Notes["en"] != "Now" {
		t.Errorf("after: %+v, %v", offer, err)
	}
	image := r.Image("1.1.0", func(m *release.Manifest) { m.BuildTime = m.BuildTime.Add(time.Hour) })
	if err := r.TryPublish(image, nil); err == nil || !strings.Contains(err.Error(), "another content") {
		t.Errorf("the same version with another content: %v", err)
	}
	if err := r.TryPublish(r.Image("1.1.0+g123", nil), nil); err == nil || !strings.Contains(err.Error(), "neither is newer") {
		t.Errorf("a version that is as new: %v", err)
	}
}

func TestWithdrawn(t *testing.T) {
	r := publishtest.New(t)
	r.Delta = half
	server := httptest.NewServer(publish.Handler(r.Dir))
	defer server.Close()
	r.Publish("1.0.5", nil)
	r.Publish("1.1.0", nil)
	c, d := device(t, r, server.URL)
	withdraw := func(version string) error { return publish.Withdraw(t.Context(), r.Options(), "qemu-virt", version) }
	if err := withdraw("1.2.0"); err == nil || !strings.Contains(err.Error(), "repo list") {
		t.Errorf("what is not there: %v", err)
	}
	if err := withdraw("1.1.0"); err != nil {
		t.Fatal(err)
	}
	if offer, err := c.Check(t.Context(), d); err != nil || offer.Full.Target.Version != "1.0.5" {
		t.Errorf("it gets %+v, %v", offer, err)
	}
	r.Renew()
	const want = "bundles/cloudlink-qemu-virt-1.0.5.bundle metadata/1.root.json metadata/1.snapshot.json metadata/1.targets.json " +
		"metadata/2.snapshot.json metadata/2.targets.json metadata/3.snapshot.json metadata/3.targets.json metadata/timestamp.json targets/qemu-virt/1.0.5.slot"
	if got := names(files(t, r.Dir)); got != want {
		t.Errorf("files:\n%s\nwant:\n%s", got, want)
	}
}

// Devices ask all the time while releases are published, keys rotated and releases withdrawn.
func TestServedWhileItChanges(t *testing.T) {
	r := publishtest.New(t)
	server := httptest.NewServer(publish.Handler(r.Dir))
	defer server.Close()
	r.Publish("1.1.0", nil)
	c, d := device(t, r, server.URL)
	ctx, stop := context.WithCancel(t.Context())
	asked := make(chan int)
	go func() {
		n := 0
		for ; ctx.Err() == nil; n++ {
			offer, err := c.Check(ctx, d)
			if ctx.Err() != nil {
				break
			}
			if err != nil {
				t.Errorf("check %d: %v", n, err)
				continue
			}
			resp, err := http.Get(offer.Full.URL)
			if err != nil {
				t.Error(err)
				continue
			}
			if _, err := io.Copy(io.Discard, bundle.Verify(resp.Body, offer.Full.Size, offer.Full.SHA256)); err != nil {
				t.Errorf("fetch %s: %v (%s)", offer.Full.Path, err, resp.Status)
			}
			resp.Body.Close()
		}
		asked <- n
	}()
	for i := 2; i < 12; i++ {
		r.Publish(fmt.Sprintf("1.%d.0", i), nil)
		if i%3 == 0 {
			r.Rotate([]string{"timestamp", "targets", "snapshot"}[i/3-1])
			r.Renew()
		}
	}
	stop()
	t.Logf("%d checks", <-asked)
}

// However far a publication has come, the next one works, and devices see the old one or the new.
func TestInterrupted(t *testing.T) {
	r := publishtest.New(t)
	r.Publish("1.0.5", nil)
	before := files(t, r.Dir)
	r.Publish("1.1.0", nil)
	after := files(t, r.Dir)
	var changed []string
	for name := range after {
		if before[name] != after[name] && name != "metadata/timestamp.json" {
			changed = append(changed, name)
		}
	}
	whole := r.Dir
	for cut := 0; cut < 1<<len(changed); cut++ {
		r.Dir = filepath.Join(t.TempDir(), "repository")
		for _, folder := range []string{"metadata", "bundles", "targets/qemu-virt"} {
			if err := os.MkdirAll(filepath.Join(r.Dir, folder), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		put := func(name, content string) {
			if err := os.WriteFile(filepath.Join(r.Dir, name), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		for name, content := range before {
			put(name, content)
		}
		for i, name := range changed {
			if cut&(1<<i) != 0 {
				put(name, after[name])
			}
		}
		put("targets/qemu-virt/.1234567", "on its way")
		server := httptest.NewServer(publish.Handler(r.Dir))
		c, d := device(t, r, server.URL)
		if offer, err := c.Check(t.Context(), d); err != nil || offer.Full.Target.Version != "1.0.5" {
			t.Errorf("cut %b: it gets %v, %v", cut, offer.Full.Path, err)
		}
		r.Publish("1.1.0", nil)
		if offer, err := c.Check(t.Context(), d); err != nil || offer.Full.Target.Version != "1.1.0" {
			t.Errorf("cut %b, published again: it gets %v, %v", cut, offer.Full.Path, err)
		}
		server.Close()
		if got := files(t, r.Dir); names(got) != names(after) {
			t.Errorf("cut %b: files %s", cut, names(got))
		}
	}
	r.Dir = whole
}

func TestRenew(t *testing.T) {
	r := publishtest.New(t)
	r.Publish("1.1.0", nil)
	expires := func() string {
		l, err := publish.List(r.Options())
		if err != nil {
			t.Fatal(err)
		}
		var s []string
		for _, role := range keys.Roles {
			s = append(s, l.Expires[role].Format("06-01-02"))
		}
		return strings.Join(s, " ")
	}
	// root, targets, snapshot, timestamp
	if got, want := expires(), "31-03-01 27-03-01 26-08-28 26-03-31"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	r.Now = r.Now.AddDate(0, 0, 7)
	r.Renew()
	if got, want := expires(), "31-03-01 27-03-01 26-08-28 26-04-07"; got != want {
		t.Errorf("a week later: %s, want %s", got, want)
	}
	r.Now = publishtest.Began.AddDate(0, 0, 100)
	r.Renew()
	if got, want := expires(), "31-03-01 27-03-01 26-12-06 26-07-09"; got != want {
		t.Errorf("100 days later: %s, want %s", got, want)
	}
	// The timestamp's key alone is enough, where it can be.
	for _, name := range []string{"targets.key", "snapshot.key", "boot.key"} {
		if err := os.Remove(filepath.Join(r.KeyDir, name)); err != nil {
			t.Fatal(err)
		}
	}
	r.Now = r.Now.AddDate(0, 0, 7)
	r.Renew()
	r.Now = r.Now.AddDate(0, 0, 200)
	if err := publish.Renew(t.Context(), r.Options()); err == nil || !strings.Contains(err.Error(), "snapshot.key") && !strings.Contains(err.Error(), "targets.key") {
		t.Errorf("without the keys: %v", err)
	}
	r.Now = publishtest.Began.AddDate(6, 0, 0)
	if err := publish.Renew(t.Context(), r.Options()); err == nil {
		t.Error("the root metadata have expired, and nobody says so")
	}
}

func TestExpiredRootIsNamed(t *testing.T) {
	r := publishtest.New(t)
	r.Now = publishtest.Began.AddDate(6, 0, 0)
	if err := r.TryPublish(r.Image("1.0.0", nil), nil); err == nil || !strings.Contains(err.Error(), "keys renew") {
		t.Errorf("%v", err)
	}
	if _, _, err := keys.Renew(r.KeyDir, keys.Change{Now: r.Now}); err != nil {
		t.Fatal(err)
	}
	r.Publish("1.0.0", nil)
}

// Each mistake is named in one line that says what to do, and changes nothing.
func TestRefused(t *testing.T) {
	r := publishtest.New(t)
	foreign := publishtest.NewForeign(t)
	r.Publish("1.0.0", nil)
	before := files(t, r.Dir)
	damage := func(name string) func(string) {
		return func(image string) {
			if err := os.WriteFile(filepath.Join(image, name), []byte("{}"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		name   string
		image  func(string)
		change func(*publish.Release)
		want   []string
	}{
		{"no image", nil, func(rel *publish.Release) { rel.Image = "/nowhere" }, []string{"/nowhere/manifest.json", "make image"}},
		{"a file for the image", nil, func(rel *publish.Release) { rel.Image = os.Args[0] }, []string{"manifest.json", "make image"}},
		{"another kernel", damage(bundle.UKI), nil, []string{"linux.efi", "build the image again"}},
		{"another signature", damage(bundle.Signature), nil, []string{"linux.efi.sig", "build the image again"}},
		{"an empty manifest", damage(bundle.Manifest), nil, []string{"linux.efi.sig", "manifest.json"}},
		{"a manifest that is none", func(image string) {
			if err := os.WriteFile(filepath.Join(image, bundle.Manifest), []byte("x"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, nil, []string{"manifest.json", "build the image again"}},
		{"another set's image", nil, func(rel *publish.Release) { rel.Image = foreign.Image("1.1.0", nil) }, []string{"boot key", "-keys"}},
		{"production keys", nil, func(rel *publish.Release) {
			rel.Image = r.Image("1.1.0", func(m *release.Manifest) { m.Keys = release.Production })
		}, []string{"production", "-keys"}},
		{"another product", nil, func(rel *publish.Release) {
			rel.Image = r.Image("1.1.0", func(m *release.Manifest) { m.Product = "Toaster 3" })
		}, []string{"product", "Toaster 3"}},
		{"a version that is none", nil, func(rel *publish.Release) {
			rel.Image = r.Image("1.1", nil)
		}, []string{"version", `"1.1"`}},
		{"channel", nil, func(rel *publish.Release) { rel.Channels = []string{"nightly"} }, []string{"channel", "stable or beta"}},
		{"minimum", nil, func(rel *publish.Release) { rel.MinimumFrom = "1.1.0" }, []string{"minimum_from", "older"}},
		{"floor", nil, func(rel *publish.Release) { rel.SecurityFloor = "2.0.0" }, []string{"security_floor", "at most 1.1.0"}},
		{"rollout", nil, func(rel *publish.Release) { rel.Rollout = 200 }, []string{"rollout", "0 to 100"}},
		{"notes in one language", nil, func(rel *publish.Release) { rel.Notes = map[string]string{"de": "x"} }, []string{"-notes-en"}},
		{"long notes", nil, func(rel *publish.Release) { rel.Notes["de"] = strings.Repeat("x", 5000) }, []string{"notes.de", "4096"}},
		{"notes with colours", nil, func(rel *publish.Release) { rel.Notes["de"] = "\x1b[1mx" }, []string{"notes.de", "plain text"}},
	} {
		image := r.Image("1.1.0", nil)
		if c.image != nil {
			c.image(image)
		}
		err := r.TryPublish(image, c.change)
		if err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		for _, word := range c.want {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%s: %v: want %q in it", c.name, err, word)
			}
		}
	}
	if after := files(t, r.Dir); names(after) != names(before) {
		t.Errorf("the repository has changed:\n%s", names(after))
	}
	for _, c := range []struct {
		name string
		do   func() error
		want []string
	}{
		{"another key set", func() error {
			other := publishtest.NewForeign(t)
			other.Dir = r.Dir
			return other.TryPublish(other.Image("1.1.0", nil), nil)
		}, []string{"another key set", "-keys", "-repo"}},
		{"an old copy of the key set", func() error {
			old := *r
			old.KeyDir = filepath.Join(t.TempDir(), "keys")
			if err := os.CopyFS(old.KeyDir, os.DirFS(r.KeyDir)); err != nil {
				t.Fatal(err)
			}
			r.Rotate("snapshot")
			r.Renew()
			return old.TryPublish(r.Image("1.1.0", nil), nil)
		}, []string{"newer root metadata", "-keys"}},
		{"a folder of other things", func() error {
			other := *r
			other.Dir = t.TempDir()
			if err := os.WriteFile(filepath.Join(other.Dir, "letter.txt"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			return other.TryPublish(r.Image("1.1.0", nil), nil)
		}, []string{"letter.txt", "-repo"}},
		{"a file", func() error {
			other := *r
			other.Dir = os.Args[0]
			return other.TryPublish(r.Image("1.1.0", nil), nil)
		}, []string{os.Args[0]}},
		{"renew of nothing", func() error {
			o := r.Options()
			o.Dir = t.TempDir()
			return publish.Renew(t.Context(), o)
		}, []string{"no repository", "publish"}},
		{"list of nothing", func() error {
			o := r.Options()
			o.Dir = t.TempDir()
			_, err := publish.List(o)
			return err
		}, []string{"no repository", "publish"}},
		{"serve nothing", func() error { return publish.Serve(t.Context(), t.TempDir(), "127.0.0.1:0", nil) }, []string{"no repository", "-repo"}},
		{"serve nowhere", func() error { return publish.Serve(t.Context(), r.Dir, "192.0.2.1:99", nil) }, []string{"192.0.2.1:99", "-listen"}},
		{"torn metadata", func() error {
			if err := os.Truncate(filepath.Join(r.Dir, "metadata", "timestamp.json"), 100); err != nil {
				t.Fatal(err)
			}
			return publish.Renew(t.Context(), r.Options())
		}, []string{"timestamp", "copy"}},
	} {
		err := c.do()
		if err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		for _, word := range c.want {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%s: %v: want %q in it", c.name, err, word)
			}
		}
	}
}

// What a person reads on a device is limited; so is what devices read.
func TestTooManyReleases(t *testing.T) {
	r := publishtest.New(t)
	notes := map[string]string{}
	for _, language := range []string{"de", "en", "fr", "it", "pl"} {
		notes[language] = strings.Repeat("x", bundle.MaxNotes)
	}
	for n := range 100 {
		err := r.TryPublish(r.Image(fmt.Sprintf("1.%d.0", n), nil), func(rel *publish.Release) { rel.Notes = notes })
		if err == nil {
			continue
		}
		if !strings.Contains(err.Error(), "withdraw") || n < 20 {
			t.Errorf("release %d: %v", n, err)
		}
		// Devices can read the list as it is.
		server := httptest.NewServer(publish.Handler(r.Dir))
		defer server.Close()
		c, d := device(t, r, server.URL)
		if _, err := c.Check(t.Context(), d); err != nil {
			t.Error(err)
		}
		return
	}
	t.Error("there is no end")
}

func TestTwoAtOnce(t *testing.T) {
	r := publishtest.New(t)
	r.Delta = func(ctx context.Context, old, new []byte) ([]byte, error) {
		if err := publish.Renew(ctx, r.Options()); err == nil || !strings.Contains(err.Error(), "another command") {
			t.Errorf("a second one at the same time: %v", err)
		}
		return half(ctx, old, new)
	}
	r.Publish("1.0.0", nil)
	r.Publish("1.1.0", nil)
}

func TestServer(t *testing.T) {
	r := publishtest.New(t)
	r.Publish("1.0.0+g1", nil)
	if err := os.WriteFile(filepath.Join(r.Dir, "secret.key"), []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(r.Dir, "metadata", "9.root.json")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(r.Dir, "metadata", "8.root.json"), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	url, ended := make(chan string), make(chan error)
	go func() { ended <- publish.Serve(ctx, r.Dir, "127.0.0.1:0", func(u string) { url <- u }) }()
	base := <-url
	get := func(method, path, rangeHeader string) (*http.Response, []byte) {
		t.Helper()
		req, err := http.NewRequest(method, base+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if rangeHeader != "" {
			req.Header.Set("Range", rangeHeader)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, b
	}
	for path, want := range map[string]int{
		"": 404, "metadata/": 404, "metadata": 404, "secret.key": 404, "metadata/9.root.json": 404, "metadata/8.root.json": 404,
		"metadata/2.root.json": 404, "metadata/../secret.key": 404, "metadata/%2e%2e/secret.key": 404, "targets/../metadata/timestamp.json": 404,
		"metadata/timestamp.json": 200, "metadata/1.root.json": 200, "bundles/cloudlink-qemu-virt-1.0.0+g1.bundle": 200,
		"bundles/cloudlink-qemu-virt-1.0.0%2Bg1.bundle": 200,
	} {
		// The client would clean the path.
		if resp, _ := get("GET", path, ""); resp.StatusCode != want {
			t.Errorf("%s: %s, want %d", path, resp.Status, want)
		}
	}
	if resp, _ := get("PUT", "metadata/timestamp.json", ""); resp.StatusCode != 405 {
		t.Errorf("PUT: %s", resp.Status)
	}
	c, d := device(t, r, base)
	d.Version = "0.9.0"
	offer, err := c.Check(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	target := strings.TrimPrefix(offer.Full.URL, base)
	resp, b := get("GET", target, "bytes=500-")
	whole, err := os.ReadFile(filepath.Join(r.Dir, strings.ReplaceAll(target, "%2B", "+")))
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 206 || !bytes.Equal(b, whole[500:]) || !strings.Contains(resp.Header.Get("Cache-Control"), "immutable") || resp.Header.Get("ETag") == "" {
		t.Errorf("a range: %s, %d bytes, %v", resp.Status, len(b), resp.Header)
	}
	if resp, _ := get("GET", target, fmt.Sprintf("bytes=%d-", len(whole))); resp.StatusCode != 416 {
		t.Errorf("behind its end: %s", resp.Status)
	}
	if resp, b := get("HEAD", target, ""); resp.ContentLength != int64(len(whole)) || len(b) != 0 {
		t.Errorf("HEAD: %d bytes, %d sent", resp.ContentLength, len(b))
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// What a second publishing does not say stays, and a floor goes along to the releases after it.
func TestWhatIsNotSaidStays(t *testing.T) {
	r := publishtest.New(t)
	r.Publish("1.1.0", func(rel *publish.Release) {
		rel.Channels, rel.MinimumFrom, rel.SecurityFloor, rel.Rollout = []string{bundle.Beta}, "0.9.0", "1.0.0", 10
	})
	nothing := func(rel *publish.Release) { rel.Channels, rel.Notes = nil, nil }
	r.Publish("1.1.0", func(rel *publish.Release) { nothing(rel); rel.Rollout = 50 })
	r.Publish("1.2.0", nothing)
	l, err := publish.List(r.Options())
	if err != nil {
		t.Fatal(err)
	}
	for _, got := range l.Releases {
		switch got.Version {
		case "1.1.0":
			if !slices.Equal(got.Channels, []string{bundle.Beta}) || got.MinimumFrom != "0.9.0" || got.SecurityFloor != "1.0.0" || got.Rollout != 50 || got.Notes["de"] == "" {
				t.Errorf("published again: %+v", got)
			}
		case "1.2.0":
			if !slices.Equal(got.Channels, []string{bundle.Stable}) || got.MinimumFrom != "" || got.SecurityFloor != "1.0.0" || len(got.Notes) != 0 {
				t.Errorf("the next: %+v", got)
			}
		}
	}
	if len(l.Releases) != 2 {
		t.Errorf("%d releases", len(l.Releases))
	}
	err = r.TryPublish(r.Image("1.2.0", nil), func(rel *publish.Release) { rel.SecurityFloor = "0.9.0" })
	if err == nil || !strings.Contains(err.Error(), "1.0.0 since version 1.1.0") {
		t.Errorf("a floor that goes down: %v", err)
	}
}

// Custom data are what devices of today read, whatever comes later.
func TestFormOfCustomData(t *testing.T) {
	r := publishtest.New(t)
	r.Publish("1.0.0", func(rel *publish.Release) {
		rel.Channels, rel.MinimumFrom, rel.SecurityFloor, rel.Rollout = []string{bundle.Beta}, "0.9.0", "0.8.0", 5
	})
	b, err := os.ReadFile(filepath.Join(r.Dir, "metadata", "1.targets.json"))
	if err != nil {
		t.Fatal(err)
	}
	var m struct {
		Signed struct {
			Targets map[string]struct {
				Custom map[string]any `json:"custom"`
			} `json:"targets"`
		} `json:"signed"`
	}
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	custom := m.Signed.Targets["qemu-virt/1.0.0.slot"].Custom
	delete(custom, "slot")
	got, err := json.Marshal(custom)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"board":"qemu-virt","build_time":"2026-03-01T12:00:00Z","channels":["beta"],"kind":"full","minimum_from":"0.9.0",` +
		`"notes":{"de":"Neues","en":"News"},"product":"cloudlink-gateway","rollout":5,"security_floor":"0.8.0","version":"1.0.0"}`
	if string(got) != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}
