// Package publish keeps an update repository: a folder of static files, signed as The Update Framework
// has it, that any web server serves. It adds releases, signs again what would expire, and withdraws.
//
// A repository may be served while it changes. New files never take the place of others, but for
// timestamp.json, which is written last and says which of them hold.
package publish

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/firmware/keys"
	"cloudlink.local/gateway/internal/release"
	"cloudlink.local/gateway/internal/update/bundle"
)

// Options say which repository, and who signs.
type Options struct {
	Dir  string
	Keys *keys.Updates
	Now  time.Time
	Days int // how long devices believe the timestamp; 0 for TimestampDays

	// Delta makes what turns old into new, two of bundle.UKI. Nil makes none.
	Delta  func(ctx context.Context, old, new []byte) ([]byte, error)
	Deltas int // from so many releases before a new one

	Log func(format string, args ...any)
}

// A Release is what is to be published, and who is to have it. What it leaves empty stays as it was
// published before; a floor also as in the releases before it.
type Release struct {
	Image         string // folder that firmware image has written
	Boot          *keys.Set
	Channels      []string // of a new one: bundle.Stable
	MinimumFrom   string
	SecurityFloor string
	Rollout       int
	Notes         map[string]string
}

// Add publishes a release. One that is there already gets the channels, rollout and so on of this one.
func Add(ctx context.Context, o Options, rel Release) error {
	target, files, err := readImage(rel)
	if err != nil {
		return err
	}
	r, unlock, err := open(o)
	if err != nil {
		return err
	}
	defer unlock()
	if err := r.inherit(&target); err != nil {
		return err
	}
	if err := check(target, rel.Boot.Kind); err != nil {
		return err
	}
	if err := r.fits(target); err != nil {
		return err
	}
	full, err := r.store(target, target.Slot, files)
	if err != nil {
		return err
	}
	if err := r.list(target, full); err != nil {
		return err
	}
	if err := r.deltas(ctx, target, files); err != nil {
		return err
	}
	if err := r.commit(ctx); err != nil {
		return err
	}
	o.Log("%s %s is published to %s, %d %% of the devices", target.Board, target.Version, strings.Join(target.Channels, " and "), target.Rollout)
	return nil
}

// readImage reads the slot that firmware image has left in rel.Image, and checks all of it.
func readImage(rel Release) (bundle.Target, map[string][]byte, error) {
	var t bundle.Target
	files := map[string][]byte{}
	for _, name := range []string{bundle.Manifest, bundle.Signature, bundle.UKI} {
		b, err := os.ReadFile(filepath.Join(rel.Image, name))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
			return t, nil, fmt.Errorf("%s is missing: make image builds it", filepath.Join(rel.Image, name))
		}
		if err != nil {
			return t, nil, fmt.Errorf("read image: %w", err)
		}
		files[name] = b
	}
	m, err := release.ParseManifest(files[bundle.Manifest])
	if err != nil {
		return t, nil, fmt.Errorf("%s: %w: build the image again", filepath.Join(rel.Image, bundle.Manifest), err)
	}
	t = bundle.Target{
		Product: m.Product, Board: m.Board, Version: m.Version, BuildTime: m.BuildTime.UTC(), Kind: bundle.Full,
		Channels: rel.Channels, MinimumFrom: rel.MinimumFrom, SecurityFloor: rel.SecurityFloor,
		Rollout: rel.Rollout, Notes: rel.Notes,
	}
	for _, name := range []string{bundle.Manifest, bundle.Signature, bundle.UKI} {
		t.Slot = append(t.Slot, release.ManifestFile{Name: name, Size: int64(len(files[name])), SHA256: digest(files[name])})
	}
	for _, name := range []string{bundle.Signature, bundle.UKI} {
		i := slices.IndexFunc(m.Files, func(f release.ManifestFile) bool { return f.Name == name })
		if i < 0 || m.Files[i].SHA256 != digest(files[name]) {
			return t, nil, fmt.Errorf("%s is not what %s says: build the image again", filepath.Join(rel.Image, name), bundle.Manifest)
		}
	}
	if m.Keys != rel.Boot.Kind {
		return t, nil, fmt.Errorf("%s: the image is signed with %s keys, and those in %s are %s keys: name the image's own with -keys",
			rel.Image, m.Keys, rel.Boot.Dir, rel.Boot.Kind)
	}
	if err := rel.Boot.Boot.Verify(files[bundle.UKI], files[bundle.Signature]); err != nil {
		return t, nil, fmt.Errorf("%s: it is not signed with the boot key in %s, no device would start it: name the image's own key set with -keys",
			filepath.Join(rel.Image, bundle.Signature), rel.Boot.Dir)
	}
	if m.Keys == release.Production && strings.Contains(m.Version, "dirty") {
		return t, nil, fmt.Errorf("version %s: the image is of files that are not committed: commit them and build it again", m.Version)
	}
	return t, files, nil
}

// check says what is wrong with a target, in the words of the command line.
func check(t bundle.Target, kind release.Keys) error {
	if err := t.Check(); err != nil {
		return err
	}
	for _, c := range t.Channels {
		if c != bundle.Stable && c != bundle.Beta {
			return fmt.Errorf("channel %q: want %s or %s", c, bundle.Stable, bundle.Beta)
		}
	}
	if len(t.Notes) == 0 && kind == release.Production {
		return errors.New("notes are missing: say with -notes-de FILE and -notes-en FILE what is new")
	}
	for _, language := range bundle.Languages {
		if len(t.Notes) > 0 && strings.TrimSpace(t.Notes[language]) == "" {
			return fmt.Errorf("notes: none in %q: name a file with -notes-%s", language, language)
		}
	}
	return nil
}

// inherit gives t what its release does not say.
func (r *repository) inherit(t *bundle.Target) error {
	highest, of := "", ""
	err := r.releases(*t, func(other bundle.Target, n int) error {
		if n == 0 {
			if len(t.Channels) == 0 {
				t.Channels = other.Channels
			}
			if len(t.Notes) == 0 {
				t.Notes = other.Notes
			}
			t.MinimumFrom = cmp.Or(t.MinimumFrom, other.MinimumFrom)
		}
		if n < 0 || other.SecurityFloor == "" {
			return nil
		}
		above, err := release.Compare(other.SecurityFloor, cmp.Or(highest, other.SecurityFloor))
		if err == nil && (above > 0 || highest == "") {
			highest, of = other.SecurityFloor, other.Version
		}
		return err
	})
	if err != nil {
		return err
	}
	if len(t.Channels) == 0 {
		t.Channels = []string{bundle.Stable}
	}
	if t.SecurityFloor == "" {
		t.SecurityFloor = highest
	}
	if highest == "" {
		return nil
	}
	n, err := release.Compare(t.SecurityFloor, highest)
	if err == nil && n < 0 {
		err = fmt.Errorf("security floor %s: it is %s since version %s, and devices that have it never go below: leave -security-floor out or name a newer one",
			t.SecurityFloor, highest, of)
	}
	return err
}

// fits says whether t may be added to what is there.
func (r *repository) fits(t bundle.Target) error {
	return r.releases(t, func(other bundle.Target, n int) error {
		switch {
		case n != 0:
			return nil
		case t.Version != other.Version:
			return fmt.Errorf("version %s: %s is published, and neither is newer: give the image another version", t.Version, other.Version)
		case !slices.Equal(t.Slot, other.Slot):
			return fmt.Errorf("version %s is published already with another content: give the image a new version, or withdraw that one (go run ./firmware repo withdraw)", t.Version)
		}
		return nil
	})
}

// releases calls do for each release of t's board that is there, the oldest first, with how t's version
// compares to its.
func (r *repository) releases(t bundle.Target, do func(other bundle.Target, n int) error) error {
	list := slices.SortedFunc(maps.Values(r.parsed), func(a, b bundle.Target) int { return newestFirst(b.Version, a.Version) })
	for _, other := range list {
		if other.Board != t.Board || other.Kind != bundle.Full {
			continue
		}
		n, err := release.Compare(t.Version, other.Version)
		if err != nil {
			return fmt.Errorf("%s: %w", other.Path(), err)
		}
		if err := do(other, n); err != nil {
			return err
		}
	}
	return nil
}

// store puts a target's archive into the folder of targets and returns its length and digest.
func (r *repository) store(t bundle.Target, entries []release.ManifestFile, files map[string][]byte) (file, error) {
	var b bytes.Buffer
	open := func(name string) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files[name])), nil }
	if err := bundle.WriteSlot(&b, entries, open); err != nil {
		return file{}, err
	}
	f := file{int64(b.Len()), digest(b.Bytes())}
	name := filepath.Join(r.Dir, bundle.TargetsFolder, filepath.FromSlash(bundle.HashedPath(t.Path(), f.sha256)))
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return file{}, err
	}
	return f, write(name, b.Bytes())
}

// deltas adds what leads to t from the releases before it, and leaves off what led to older ones.
func (r *repository) deltas(ctx context.Context, t bundle.Target, files map[string][]byte) error {
	older, newer := []bundle.Target{}, 0
	for _, other := range r.parsed {
		if other.Board != t.Board || other.Kind != bundle.Full {
			continue
		}
		switch n, _ := release.Compare(other.Version, t.Version); { // all of them have been checked
		case n < 0:
			older = append(older, other)
		case n > 0:
			newer++
		}
	}
	slices.SortFunc(older, func(a, b bundle.Target) int { return newestFirst(a.Version, b.Version) })
	for path, other := range r.parsed {
		if other.Board == t.Board && other.Kind == bundle.Delta && (other.Version == t.Version || newer == 0) {
			r.drop(path)
		}
	}
	if r.Delta == nil {
		return nil
	}
	_, full := bundle.Layout(t.Slot)
	for _, old := range older[:min(len(older), r.Deltas)] {
		if err := ctx.Err(); err != nil {
			return err
		}
		from, err := r.readUKI(old)
		if err != nil {
			return fmt.Errorf("make delta from %s: %w", old.Version, err)
		}
		patch, err := r.Delta(ctx, from, files[bundle.UKI])
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil { // there is the whole update; a release does not wait for less
			r.Log("no delta from %s: %v", old.Version, err)
			continue
		}
		d := t
		d.Kind, d.From, d.FromVersion = bundle.Delta, old.UKI().SHA256, old.Version
		d.Notes = nil // those of the full target hold
		entries := slices.Clone(t.Slot)
		entries[len(entries)-1] = release.ManifestFile{Name: bundle.DeltaFile, Size: int64(len(patch))}
		with := maps.Clone(files)
		with[bundle.DeltaFile] = patch
		if _, size := bundle.Layout(entries); size >= full {
			r.Log("no delta from %s: it would not be smaller", old.Version)
			continue
		}
		f, err := r.store(d, entries, with)
		if err != nil {
			return err
		}
		if err := r.list(d, f); err != nil {
			return err
		}
		r.Log("delta from %s: %d bytes, %d %% of the full update", old.Version, f.size, f.size*100/full)
	}
	return nil
}

// readUKI reads the linux.efi of a release in the repository.
func (r *repository) readUKI(t bundle.Target) ([]byte, error) {
	listed := r.targets.Signed.Targets[t.Path()]
	sum := listed.Hashes["sha256"].String()
	f, err := os.Open(filepath.Join(r.Dir, bundle.TargetsFolder, filepath.FromSlash(bundle.HashedPath(t.Path(), sum))))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for s := bundle.NewSlotReader(bundle.Verify(f, listed.Length, sum), t); ; {
		entry, err := s.Next()
		if err != nil {
			return nil, err
		}
		if entry.Name == bundle.UKI {
			return io.ReadAll(s)
		}
	}
}

// Withdraw takes a release off the repository: no device is offered it any more.
func Withdraw(ctx context.Context, o Options, board, version string) error {
	r, unlock, err := open(o)
	if err != nil {
		return err
	}
	defer unlock()
	path := bundle.Target{Board: board, Version: version, Kind: bundle.Full}.Path()
	if _, ok := r.parsed[path]; !ok {
		return fmt.Errorf("%s is not in %s: go run ./firmware repo list shows what is", path, o.Dir)
	}
	for path, t := range r.parsed {
		if t.Board == board && (t.Version == version || t.FromVersion == version) {
			r.drop(path)
		}
	}
	if err := r.commit(ctx); err != nil {
		return err
	}
	o.Log("%s %s is withdrawn; devices that run it keep it until there is a newer one", board, version)
	return nil
}

// list has the metadata tell of a target.
func (r *repository) list(t bundle.Target, f file) error {
	custom, err := json.Marshal(t)
	if err != nil {
		return err
	}
	if _, err := bundle.Parse(custom); err != nil { // as devices do
		return err
	}
	r.parsed[t.Path()] = t
	if t.Kind == bundle.Full {
		r.rebundle[t.FileName()] = true
	}
	return r.put(t.Path(), f, custom)
}

type file struct {
	size   int64
	sha256 string
}

func digest(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }
