// Package publishtest makes update repositories for tests, signed with a key set of their own.
package publishtest

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"cloudlink.local/gateway/firmware/keys"
	"cloudlink.local/gateway/firmware/publish"
	"cloudlink.local/gateway/internal/release"
	"cloudlink.local/gateway/internal/update/bundle"
)

// Began is when the repositories' key sets are made, and their time until it is changed.
var Began = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// sets are made once: RSA keys take a second or two.
var sets [2]func() (string, error)

func init() {
	for i := range sets {
		sets[i] = sync.OnceValues(func() (string, error) {
			dir, err := os.MkdirTemp("", "keys")
			if err != nil {
				return "", err
			}
			return dir, keys.Init(dir, keys.Options{Kind: release.Development, Now: Began})
		})
	}
}

// Main is for TestMain: it removes what was made once.
func Main(m *testing.M) {
	code := m.Run()
	for _, set := range sets {
		if dir, err := set(); err == nil {
			os.RemoveAll(dir)
		}
	}
	os.Exit(code)
}

// A Repo is a repository that a test publishes to.
type Repo struct {
	Dir    string
	KeyDir string
	Now    time.Time
	Delta  func(ctx context.Context, old, new []byte) ([]byte, error)

	t testing.TB
}

// New returns an empty repository with a key set: always the same, until a test rotates keys.
func New(t testing.TB) *Repo { return newRepo(t, 0) }

// NewForeign returns one with another key set than New's.
func NewForeign(t testing.TB) *Repo { return newRepo(t, 1) }

func newRepo(t testing.TB, set int) *Repo {
	t.Helper()
	from, err := sets[set]()
	if err != nil {
		t.Fatal(err)
	}
	r := &Repo{Dir: filepath.Join(t.TempDir(), "repository"), KeyDir: filepath.Join(t.TempDir(), "keys"), Now: Began, t: t}
	if err := os.CopyFS(r.KeyDir, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return r
}

// Keys returns the key set's keys of the repository.
func (r *Repo) Keys() *keys.Updates {
	r.t.Helper()
	u, err := keys.LoadUpdates(r.KeyDir)
	if err != nil {
		r.t.Fatal(err)
	}
	return u
}

// Root is the root metadata that an image made now carries.
func (r *Repo) Root() []byte {
	r.t.Helper()
	return r.Keys().Factory()
}

// Options are those of package publish for this repository.
func (r *Repo) Options() publish.Options {
	r.t.Helper()
	return publish.Options{Dir: r.Dir, Keys: r.Keys(), Now: r.Now, Delta: r.Delta, Deltas: 3, Log: r.t.Logf}
}

// UKI is the linux.efi of a version: not to be compressed, and another for each version.
func UKI(version string) []byte {
	var seed [32]byte
	copy(seed[:], version)
	b := make([]byte, 20_000)
	rand.NewChaCha8(seed).Read(b) // it never fails
	return b
}

// Image returns a folder as firmware image leaves it; change may alter what the manifest says.
func (r *Repo) Image(version string, change func(*release.Manifest)) string {
	r.t.Helper()
	set, err := keys.Load(r.KeyDir)
	if err != nil {
		r.t.Fatal(err)
	}
	m := release.Manifest{Release: release.Release{
		Product: release.Product, Board: "qemu-virt", Version: version, BuildTime: Began, Keys: release.Development,
	}}
	files := map[string][]byte{bundle.UKI: UKI(version)}
	if files[bundle.Signature], err = set.Boot.Sign(files[bundle.UKI], Began); err != nil {
		r.t.Fatal(err)
	}
	for _, name := range []string{bundle.UKI, bundle.Signature} {
		m.Files = append(m.Files, release.ManifestFile{
			Name: name, Size: int64(len(files[name])), SHA256: fmt.Sprintf("%x", sha256.Sum256(files[name])),
		})
	}
	if change != nil {
		change(&m)
	}
	if files[bundle.Manifest], err = json.Marshal(m); err != nil {
		r.t.Fatal(err)
	}
	dir := r.t.TempDir()
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			r.t.Fatal(err)
		}
	}
	return dir
}

// Publish adds a release to the stable channel, or as change has it.
func (r *Repo) Publish(version string, change func(*publish.Release)) {
	r.t.Helper()
	if err := r.TryPublish(r.Image(version, nil), change); err != nil {
		r.t.Fatal(err)
	}
}

// TryPublish adds the release in the folder image.
func (r *Repo) TryPublish(image string, change func(*publish.Release)) error {
	r.t.Helper()
	set, err := keys.Load(r.KeyDir)
	if err != nil {
		r.t.Fatal(err)
	}
	rel := publish.Release{
		Image: image, Boot: set, Channels: []string{bundle.Stable}, Rollout: 100,
		Notes: map[string]string{"de": "Neues", "en": "News"},
	}
	if change != nil {
		change(&rel)
	}
	return publish.Add(r.t.Context(), r.Options(), rel)
}

// Rotate gives a role new keys. The repository gets them with the next Publish or Renew.
func (r *Repo) Rotate(role string) {
	r.t.Helper()
	if _, _, err := keys.Rotate(r.KeyDir, role, keys.Change{Now: r.Now}); err != nil {
		r.t.Fatal(err)
	}
}

// Renew has all sign again what would expire.
func (r *Repo) Renew() {
	r.t.Helper()
	if err := publish.Renew(r.t.Context(), r.Options()); err != nil {
		r.t.Fatal(err)
	}
}

// Bundle returns the file with the whole update to version.
func (r *Repo) Bundle(version string) []byte {
	r.t.Helper()
	name := bundle.Target{Board: "qemu-virt", Version: version}.FileName()
	b, err := os.ReadFile(filepath.Join(r.Dir, publish.BundlesFolder, name))
	if err != nil {
		r.t.Fatal(err)
	}
	return b
}
