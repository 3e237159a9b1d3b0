package publish

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"
	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/release"
	"cloudlink.local/gateway/internal/safefile"
	"cloudlink.local/gateway/internal/update/bundle"
)

// How long devices believe what a role has signed. Whoever keeps a device from us can keep an update
// from it no longer than the timestamp lasts; whoever forgets repo renew has as long.
const (
	TimestampDays = 30
	snapshotDays  = 180
	targetsDays   = 365
)

// BundlesFolder has the files for upload and USB sticks.
const BundlesFolder = "bundles"

// keepVersions is how many former versions of metadata stay for devices that are just reading them.
const keepVersions = 4

const timestampFile = "timestamp.json"

// A repository is one that is being changed.
type repository struct {
	Options
	roots     int // versions of root metadata in it
	timestamp *metadata.Metadata[metadata.TimestampType]
	snapshot  *metadata.Metadata[metadata.SnapshotType]
	targets   *metadata.Metadata[metadata.TargetsType]
	parsed    map[string]bundle.Target // of targets, by path
	resign    map[string]bool          // roles that have to sign again
	rebundle  map[string]bool          // files for upload that have to be written again
}

// open reads the repository, or begins a new one. Nobody else changes it until unlock.
func open(o Options) (r *repository, unlock func(), err error) {
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, nil, fmt.Errorf("open repository: %w", err)
	}
	d, err := os.Open(o.Dir)
	if err != nil {
		return nil, nil, fmt.Errorf("open repository: %w", err)
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		d.Close()
		return nil, nil, fmt.Errorf("repository %s is being changed by another command: wait until it has ended", o.Dir)
	}
	r = &repository{Options: o, parsed: map[string]bundle.Target{}, resign: map[string]bool{}, rebundle: map[string]bool{}}
	if err := r.read(); err != nil {
		d.Close()
		return nil, nil, err
	}
	return r, func() { d.Close() }, nil
}

func (r *repository) metadataFile(name string) string {
	return filepath.Join(r.Dir, bundle.MetadataFolder, name)
}

// read reads what is there and wants all of it to be signed by the key set.
func (r *repository) read() error {
	b, err := os.ReadFile(r.metadataFile(timestampFile))
	if errors.Is(err, fs.ErrNotExist) {
		return r.begin()
	}
	if err != nil {
		return fmt.Errorf("read repository: %w", err)
	}
	for _, want := range r.Keys.Roots {
		got, err := os.ReadFile(r.metadataFile(fmt.Sprintf("%d.root.json", r.roots+1)))
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return fmt.Errorf("read repository: %w", err)
		}
		if !bytes.Equal(got, want) {
			return fmt.Errorf("repository %s belongs to another key set than %s: name its own with -keys, or another -repo", r.Dir, r.Keys.Dir)
		}
		r.roots++
	}
	if _, err := os.Stat(r.metadataFile(fmt.Sprintf("%d.root.json", len(r.Keys.Roots)+1))); err == nil {
		return fmt.Errorf("repository %s has newer root metadata than the key set %s: name the current key set with -keys", r.Dir, r.Keys.Dir)
	}
	if r.timestamp, err = signed[metadata.TimestampType](r, metadata.TIMESTAMP, b); err != nil {
		return err
	}
	version := r.timestamp.Signed.Meta["snapshot.json"].Version
	if b, err = os.ReadFile(r.metadataFile(fmt.Sprintf("%d.snapshot.json", version))); err != nil {
		return fmt.Errorf("read repository: %w", err)
	}
	if r.snapshot, err = signed[metadata.SnapshotType](r, metadata.SNAPSHOT, b); err != nil {
		return err
	}
	version = r.snapshot.Signed.Meta["targets.json"].Version
	if b, err = os.ReadFile(r.metadataFile(fmt.Sprintf("%d.targets.json", version))); err != nil {
		return fmt.Errorf("read repository: %w", err)
	}
	if r.targets, err = signed[metadata.TargetsType](r, metadata.TARGETS, b); err != nil {
		return err
	}
	for path, t := range r.targets.Signed.Targets {
		parsed, err := bundle.Parse(*t.Custom)
		if err != nil {
			return fmt.Errorf("read repository: %s: %w", path, err)
		}
		r.parsed[path] = parsed
	}
	return nil
}

// begin begins a new repository, where nothing else is.
func (r *repository) begin() error {
	entries, err := os.ReadDir(r.Dir)
	if err != nil {
		return fmt.Errorf("open repository: %w", err)
	}
	for _, e := range entries {
		// What an interrupted first publication has left is no other.
		if name := e.Name(); name != bundle.MetadataFolder && name != bundle.TargetsFolder && name != BundlesFolder {
			return fmt.Errorf("%s holds other files, %s among them: name a new or empty folder with -repo", r.Dir, name)
		}
	}
	r.timestamp, r.snapshot, r.targets = metadata.Timestamp(), metadata.Snapshot(), metadata.Targets()
	r.timestamp.Signed.Version, r.snapshot.Signed.Version, r.targets.Signed.Version = 0, 0, 0
	for _, role := range []string{metadata.SNAPSHOT, metadata.TARGETS} {
		r.resign[role] = true
	}
	return nil
}

// signed reads metadata that the role signs: with the keys it has now or, since the last time, had.
func signed[T metadata.Roles](r *repository, role string, b []byte) (*metadata.Metadata[T], error) {
	m, err := new(metadata.Metadata[T]).FromBytes(b)
	if err != nil {
		return nil, fmt.Errorf("repository %s: %s metadata: %w: restore them from a copy", r.Dir, role, err)
	}
	for i, b := range slices.Backward(r.Keys.Roots) {
		root, err := metadata.Root().FromBytes(b)
		if err != nil {
			return nil, err
		}
		if root.VerifyDelegate(role, m) == nil {
			r.resign[role] = i < len(r.Keys.Roots)-1
			return m, nil
		}
	}
	return nil, fmt.Errorf("repository %s: its %s metadata are not signed by the key set %s: name its own with -keys", r.Dir, role, r.Keys.Dir)
}

// put lists a target, or lists it anew.
func (r *repository) put(path string, f file, custom []byte) error {
	sum, err := hex.DecodeString(f.sha256)
	if err != nil {
		return err
	}
	raw := json.RawMessage(custom)
	r.targets.Signed.Targets[path] = &metadata.TargetFiles{
		Length: f.size, Hashes: metadata.Hashes{"sha256": sum}, Custom: &raw, Path: path,
	}
	r.resign[metadata.TARGETS] = true
	return nil
}

// drop lists a target no more. Its file stays for devices that are fetching it, until the next change.
func (r *repository) drop(path string) {
	delete(r.targets.Signed.Targets, path)
	delete(r.parsed, path)
	r.resign[metadata.TARGETS] = true
}

// commit signs what has changed and writes it, the timestamp last.
func (r *repository) commit(ctx context.Context) error {
	before := map[string]bool{} // files of targets that devices may be fetching
	if b, err := os.ReadFile(r.metadataFile(fmt.Sprintf("%d.targets.json", r.targets.Signed.Version))); err == nil {
		if old, err := metadata.Targets().FromBytes(b); err == nil {
			for path, t := range old.Signed.Targets {
				before[bundle.HashedPath(path, t.Hashes["sha256"].String())] = true
			}
		}
	}
	files, err := r.sign()
	if err != nil {
		return err
	}
	newRoots := r.roots < len(r.Keys.Roots)
	if err := os.MkdirAll(filepath.Join(r.Dir, bundle.MetadataFolder), 0o755); err != nil {
		return err
	}
	for _, f := range files {
		if strings.HasSuffix(f.Name, ".targets.json") || strings.HasSuffix(f.Name, ".snapshot.json") {
			if err := write(r.metadataFile(f.Name), f.Data); err != nil {
				return err
			}
		}
	}
	if err := r.bundles(ctx, files, newRoots); err != nil {
		return err
	}
	// Between the new root metadata and the timestamp devices may be told of keys that have not signed
	// yet: they ask again. So it is the two last that change, and nothing is done between them.
	for i, b := range r.Keys.Roots {
		if i >= r.roots {
			if err := write(r.metadataFile(fmt.Sprintf("%d.root.json", i+1)), b); err != nil {
				return err
			}
		}
	}
	if err := write(r.metadataFile(timestampFile), files[len(files)-1].Data); err != nil {
		return err
	}
	r.clean(before)
	return nil
}

// sign signs what has to be, and returns all metadata that hold from now on, the timestamp last.
func (r *repository) sign() ([]bundle.File, error) {
	var files []bundle.File
	for i, b := range r.Keys.Roots {
		files = append(files, bundle.File{Name: fmt.Sprintf("%d.root.json", i+1), Data: b})
	}
	if r.resign[metadata.TARGETS] {
		r.targets.Signed.Version++
		r.targets.Signed.Expires = r.days(targetsDays)
	}
	targets, err := encode(r, metadata.TARGETS, r.targets, fmt.Sprintf("%d.targets.json", r.targets.Signed.Version))
	if err != nil {
		return nil, err
	}
	if len(targets.Data) > bundle.MaxTargets {
		return nil, fmt.Errorf("the list of releases has %d bytes, devices read %d: withdraw old ones (go run ./firmware repo withdraw)", len(targets.Data), bundle.MaxTargets)
	}
	if r.resign[metadata.TARGETS] || r.resign[metadata.SNAPSHOT] {
		r.resign[metadata.SNAPSHOT] = true
		r.snapshot.Signed.Version++
		r.snapshot.Signed.Expires = r.days(snapshotDays)
		r.snapshot.Signed.Meta = map[string]*metadata.MetaFiles{"targets.json": meta(r.targets.Signed.Version, targets.Data)}
	}
	snapshot, err := encode(r, metadata.SNAPSHOT, r.snapshot, fmt.Sprintf("%d.snapshot.json", r.snapshot.Signed.Version))
	if err != nil {
		return nil, err
	}
	r.resign[metadata.TIMESTAMP] = true
	days := r.Days
	if days == 0 {
		days = TimestampDays
	}
	r.timestamp.Signed.Version++
	r.timestamp.Signed.Expires = r.days(days)
	r.timestamp.Signed.Meta = map[string]*metadata.MetaFiles{"snapshot.json": meta(r.snapshot.Signed.Version, snapshot.Data)}
	timestamp, err := encode(r, metadata.TIMESTAMP, r.timestamp, timestampFile)
	if err != nil {
		return nil, err
	}
	if err := r.verify(timestamp, snapshot, targets); err != nil {
		return nil, err
	}
	return append(files, targets, snapshot, timestamp), nil
}

func (r *repository) days(n int) time.Time { return r.Now.UTC().Truncate(time.Second).AddDate(0, 0, n) }

func meta(version int64, b []byte) *metadata.MetaFiles {
	sum := sha256.Sum256(b)
	return &metadata.MetaFiles{Version: version, Length: int64(len(b)), Hashes: metadata.Hashes{"sha256": sum[:]}}
}

// encode returns metadata as a file: signed anew, or as it is.
func encode[T metadata.Roles](r *repository, role string, m *metadata.Metadata[T], name string) (bundle.File, error) {
	if !r.resign[role] {
		b, err := os.ReadFile(r.metadataFile(name)) // the bytes that were signed
		return bundle.File{Name: name, Data: b}, err
	}
	signers, err := r.Keys.Signers(role)
	if err != nil {
		return bundle.File{}, err
	}
	m.ClearSignatures()
	for _, s := range signers {
		if _, err := m.Sign(s); err != nil {
			return bundle.File{}, fmt.Errorf("sign %s: %w", name, err)
		}
	}
	b, err := m.ToBytes(false)
	return bundle.File{Name: name, Data: b}, err
}

// verify checks the signed files as a device does.
func (r *repository) verify(timestamp, snapshot, targets bundle.File) error {
	t, err := trustedmetadata.New(r.Keys.Factory())
	if err != nil {
		return err
	}
	t.RefTime = r.Now.UTC()
	if _, err := t.UpdateTimestamp(timestamp.Data); err != nil {
		if errors.Is(err, &metadata.ErrExpiredMetadata{}) && t.Root.Signed.IsExpired(t.RefTime) {
			return fmt.Errorf("the root metadata of the key set %s have expired: go run ./firmware keys renew signs them again", r.Keys.Dir)
		}
		return fmt.Errorf("check what was signed: %w", err)
	}
	if _, err := t.UpdateSnapshot(snapshot.Data, false); err != nil {
		return fmt.Errorf("check what was signed: %w", err)
	}
	if _, err := t.UpdateTargets(targets.Data); err != nil {
		return fmt.Errorf("check what was signed: %w", err)
	}
	return nil
}

// bundles writes the files for upload and USB sticks: of releases that have changed, or of all, when
// the keys have.
func (r *repository) bundles(ctx context.Context, files []bundle.File, all bool) error {
	folder := filepath.Join(r.Dir, BundlesFolder)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	for p, t := range r.parsed {
		if err := ctx.Err(); err != nil {
			return err
		}
		if t.Kind != bundle.Full {
			continue
		}
		name := filepath.Join(folder, t.FileName())
		if _, err := os.Stat(name); err == nil && !all && !r.rebundle[t.FileName()] {
			continue
		}
		listed := r.targets.Signed.Targets[p]
		target := bundle.HashedPath(p, listed.Hashes["sha256"].String())
		out, err := renameio.NewPendingFile(name, renameio.WithTempDir(folder), renameio.WithPermissions(0o644))
		if err != nil {
			return err
		}
		err = bundle.Write(out, files, target, listed.Length, func() (io.ReadCloser, error) {
			return os.Open(filepath.Join(r.Dir, bundle.TargetsFolder, filepath.FromSlash(target)))
		})
		if err == nil {
			err = out.CloseAtomicallyReplace()
		}
		out.Cleanup()
		if err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	return nil
}

var numbered = regexp.MustCompile(`^([0-9]+)\.(targets|snapshot)\.json$`)

// clean removes what no device can be fetching any more. What stays does no harm.
func (r *repository) clean(before map[string]bool) {
	wanted := before
	bundles := map[string]bool{}
	for p, t := range r.targets.Signed.Targets {
		wanted[bundle.HashedPath(p, t.Hashes["sha256"].String())] = true
		if parsed := r.parsed[p]; parsed.Kind == bundle.Full {
			bundles[parsed.FileName()] = true
		}
	}
	files, _ := filepath.Glob(filepath.Join(r.Dir, bundle.TargetsFolder, "*", "*"))
	for _, f := range files {
		if name := path.Join(filepath.Base(filepath.Dir(f)), filepath.Base(f)); !wanted[name] {
			os.Remove(f)
		}
	}
	files, _ = filepath.Glob(filepath.Join(r.Dir, BundlesFolder, "*"))
	for _, f := range files {
		if !bundles[filepath.Base(f)] {
			os.Remove(f)
		}
	}
	current := map[string]int64{"targets": r.targets.Signed.Version, "snapshot": r.snapshot.Signed.Version}
	files, _ = filepath.Glob(filepath.Join(r.Dir, bundle.MetadataFolder, "*"))
	for _, f := range files {
		if m := numbered.FindStringSubmatch(filepath.Base(f)); m != nil {
			if n, err := strconv.ParseInt(m[1], 10, 64); err == nil && (n <= current[m[2]]-keepVersions || n > current[m[2]]) {
				os.Remove(f)
			}
		}
	}
}

// Renew signs again what would expire: the timestamp always, the rest when half of its time is over or
// its keys are others.
func Renew(ctx context.Context, o Options) error {
	if _, err := os.Stat(filepath.Join(o.Dir, bundle.MetadataFolder, timestampFile)); err != nil {
		return fmt.Errorf("%s is no repository: name one with -repo, or make it with go run ./firmware publish", o.Dir)
	}
	r, unlock, err := open(o)
	if err != nil {
		return err
	}
	defer unlock()
	for _, role := range []struct {
		name    string
		expires time.Time
		days    int
	}{{metadata.TARGETS, r.targets.Signed.Expires, targetsDays}, {metadata.SNAPSHOT, r.snapshot.Signed.Expires, snapshotDays}} {
		if role.expires.Before(r.days(role.days / 2)) {
			r.resign[role.name] = true
		}
	}
	if err := r.commit(ctx); err != nil {
		return err
	}
	o.Log("devices believe %s until %s", o.Dir, r.timestamp.Signed.Expires.Format(time.DateOnly))
	if o.Keys.Expires().Before(r.days(365)) {
		o.Log("warning: the root metadata expire on %s: go run ./firmware keys renew before", o.Keys.Expires().Format(time.DateOnly))
	}
	return nil
}

// A Listing is what a repository says.
type Listing struct {
	Releases []bundle.Target // newest first, by board
	Deltas   map[string][]string
	Expires  map[string]time.Time // role → until when devices believe it
}

// List reads a repository.
func List(o Options) (Listing, error) {
	l := Listing{Deltas: map[string][]string{}, Expires: map[string]time.Time{}}
	if _, err := os.Stat(filepath.Join(o.Dir, bundle.MetadataFolder, timestampFile)); err != nil {
		return l, fmt.Errorf("%s is no repository: name one with -repo, or make it with go run ./firmware publish", o.Dir)
	}
	r, unlock, err := open(o)
	if err != nil {
		return l, err
	}
	defer unlock()
	for _, t := range r.parsed {
		if t.Kind == bundle.Full {
			l.Releases = append(l.Releases, t)
		} else {
			key := bundle.Target{Board: t.Board, Version: t.Version, Kind: bundle.Full}.Path()
			l.Deltas[key] = append(l.Deltas[key], t.FromVersion)
		}
	}
	for _, from := range l.Deltas {
		slices.SortFunc(from, newestFirst)
	}
	slices.SortFunc(l.Releases, func(a, b bundle.Target) int {
		if a.Board != b.Board {
			return strings.Compare(a.Board, b.Board)
		}
		return newestFirst(a.Version, b.Version)
	})
	l.Expires[metadata.ROOT] = r.Keys.Expires()
	l.Expires[metadata.TARGETS] = r.targets.Signed.Expires
	l.Expires[metadata.SNAPSHOT] = r.snapshot.Signed.Expires
	l.Expires[metadata.TIMESTAMP] = r.timestamp.Signed.Expires
	return l, nil
}

func newestFirst(a, b string) int {
	n, _ := release.Compare(b, a) // what is in a repository has been checked
	return n
}

// write puts a file in place whole, for a server that is reading and for a power cut.
func write(name string, b []byte) error {
	if err := safefile.Replace(name, b, 0o644); err != nil {
		return fmt.Errorf("write repository: %w", err)
	}
	return nil
}
