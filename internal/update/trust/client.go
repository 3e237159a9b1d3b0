// Package trust decides what may be installed: the device's side of The Update Framework (TUF,
// theupdateframework.io). It is asked whether there is an update, and answers with what signed metadata
// say of it, or with the reason why not. Fetching the update is the caller's.
//
// The library checks signatures, versions and expiry; ours are the fetching, what is kept, and the
// choice. What lies on the data partition is believed no more than what comes over the network: the
// chain of root metadata begins with the image's each time, and the record of what was seen can only
// make us refuse more.
package trust

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"cloudlink.local/gateway/internal/release"
	"cloudlink.local/gateway/internal/safefile"
	"cloudlink.local/gateway/internal/update/bundle"
)

// A Client asks a source for updates. It is used by one goroutine at a time, and one client at a time
// has its folder.
type Client struct {
	Root   []byte           // root metadata of the image that runs
	Dir    string           // for what was seen; a factory reset keeps it
	Source Source           // to be asked
	Now    func() time.Time // no earlier than the clock's floor
	Log    *slog.Logger

	Kept string // a floor that is known from elsewhere; "" for none
}

// Check asks the source for an update for d.
func (c *Client) Check(ctx context.Context, d Device) (Offer, error) {
	tidy(c.Dir)
	rec := loadRecord(c.Dir, c.Log)
	trusted, err := c.refresh(ctx, &rec, d)
	if r := ReasonOf(err); c.Source.live() && (r == UnknownKeys || r == Mixed) {
		// Somebody may have published in between: new keys, then metadata that they have signed.
		trusted, err = c.refresh(ctx, &rec, d)
	}
	if err != nil {
		return Offer{}, err
	}
	files := c.files(trusted.Targets[metadata.TARGETS].Signed.Targets)
	if !c.Source.live() && len(files) == 0 {
		return Offer{}, failf(Mixed, "the file has something else than its list tells of")
	}
	return choose(files, d, higher(rec.Floor, c.Kept), !c.Source.live())
}

// files returns the targets that we understand and the source has.
func (c *Client) files(targets map[string]*metadata.TargetFiles) []File {
	var files []File
	for path, t := range targets {
		if t.Custom == nil {
			continue
		}
		target, err := bundle.Parse(*t.Custom)
		if err != nil || target.Path() != path {
			// It may be for firmware that knows more than this one.
			c.Log.Info("update: a target of the repository is passed over", "target", path, "error", err)
			continue
		}
		sum := t.Hashes["sha256"].String()
		url := c.Source.locate(path, t.Length, sum)
		if _, length := bundle.Layout(target.Slot); url == "" || target.Kind == bundle.Full && length != t.Length {
			continue
		}
		files = append(files, File{Path: path, URL: url, Size: t.Length, SHA256: sum, Target: target})
	}
	return files
}

// Floor is the oldest version that may be installed; "" for any.
func (c *Client) Floor() string { return higher(loadRecord(c.Dir, c.Log).Floor, c.Kept) }

// higher returns the higher of two floors, each a version or "".
func higher(a, b string) string {
	if a == "" {
		return b
	}
	if n, err := release.Compare(b, a); err == nil && n > 0 {
		return b
	}
	return a
}

// Allowed says whether the floor lets a version be installed or gone back to.
func (c *Client) Allowed(version string) error { return belowFloor(version, c.Floor()) }

// RaiseFloor has nothing older than version installed from now on: a release with this security floor
// has been confirmed. A lower floor than there is changes nothing.
func (c *Client) RaiseFloor(version string) error {
	if version == "" {
		return nil
	}
	if err := release.CheckVersion(version); err != nil {
		return fmt.Errorf("raise floor: %w", err)
	}
	rec := loadRecord(c.Dir, c.Log)
	if rec.Floor != "" {
		if n, err := release.Compare(version, rec.Floor); err != nil || n <= 0 {
			return err
		}
	}
	rec.Floor = version
	if err := rec.save(c.Dir); err != nil {
		return fmt.Errorf("raise floor to %s: %w", version, err)
	}
	return nil
}

// refresh fetches and checks the metadata and returns them. What was seen goes into rec, and is saved.
func (c *Client) refresh(ctx context.Context, rec *record, d Device) (*trustedmetadata.TrustedMetadata, error) {
	live := c.Source.live()
	trusted, err := c.roots(ctx)
	if err != nil {
		return nil, err
	}
	root := trusted.Root.Signed
	if root.Version < rec.Root {
		return nil, failf(RolledBack, "root metadata %d, and %d was seen", root.Version, rec.Root)
	}
	seen := *rec
	if k := onlineKeys(root); k != seen.Keys {
		// Whoever has stolen keys may have counted up to the last number there is; new keys begin anew.
		seen.Keys, seen.Timestamp, seen.Snapshot, seen.Targets = k, 0, 0, 0
	}
	trusted.RefTime = time.Time{} // for what lies in a drawer: nothing has expired then
	if live {
		trusted.RefTime = c.Now().UTC()
		if d.BuildTime.After(trusted.RefTime) { // a clock in 1970 would take everything for fresh
			trusted.RefTime = d.BuildTime.UTC()
		}
	} else {
		seen.Timestamp, seen.Snapshot, seen.Targets = 0, 0, 0
	}
	if err := c.online(ctx, trusted, seen); err != nil {
		return nil, err
	}
	if !live {
		seen = *rec
	} else {
		seen.Timestamp = trusted.Timestamp.Signed.Version
		seen.Snapshot = trusted.Snapshot.Signed.Version
		seen.Targets = trusted.Targets[metadata.TARGETS].Signed.Version
	}
	seen.Root = root.Version
	if seen != *rec {
		if err := seen.save(c.Dir); err != nil {
			// A full data partition must not keep us from the update that may help.
			c.Log.Warn("update: what was seen cannot be saved", "error", err)
		}
		*rec = seen
	}
	return trusted, nil
}

// roots follows the chain of root metadata: the image's, what is kept, what the source has.
func (c *Client) roots(ctx context.Context) (*trustedmetadata.TrustedMetadata, error) {
	if _, err := read(c.Root, checkRoot); err != nil {
		return nil, fmt.Errorf("root metadata of this image: %w", errors.Unwrap(err))
	}
	trusted, err := trustedmetadata.New(c.Root)
	if err != nil {
		return nil, fmt.Errorf("root metadata of this image: %w", err)
	}
	kept := true
	for range maxRoots {
		name := fmt.Sprintf("%d.root.json", trusted.Root.Signed.Version+1)
		if kept {
			file := filepath.Join(c.Dir, name)
			b, err := safefile.Read(file, maxRoot)
			if err == nil {
				if err = updateRoot(trusted, b); err == nil {
					continue
				}
			}
			if !errors.Is(err, fs.ErrNotExist) {
				c.Log.Warn("update: kept root metadata are damaged, and fetched again", "file", name, "error", err)
				quarantine(file)
			}
			kept = false
		}
		b, err := c.Source.metadata(ctx, name, maxRoot)
		if absent(err, true) {
			return trusted, nil
		}
		if err != nil {
			return nil, err
		}
		if err := updateRoot(trusted, b); err != nil {
			return nil, about(name, err)
		}
		if err := writeFile(filepath.Join(c.Dir, name), b); err != nil {
			c.Log.Warn("update: root metadata cannot be kept", "file", name, "error", err)
		}
	}
	return nil, failf(TooLarge, "more than %d versions of root metadata", maxRoots)
}

func updateRoot(trusted *trustedmetadata.TrustedMetadata, b []byte) error {
	if _, err := read(b, checkRoot); err != nil {
		return err
	}
	_, err := trusted.UpdateRoot(b)
	return err
}

// absent says whether err is a server's way to say that there is no such file. Storage services answer
// 403 for what is not there, to those who may not list it. Of root metadata, the next version of which
// is asked for, this is as good as 404: who can forge the one can forge the other, and the expiry of
// the other roles tells.
func absent(err error, root bool) bool {
	e := (*Error)(nil)
	if !errors.As(err, &e) || e.Reason != NoAnswer {
		return false
	}
	return e.Status == http.StatusNotFound || e.Status == http.StatusGone || root && e.Status == http.StatusForbidden
}

// online fetches and checks what the roles besides root have signed, none of it older than seen.
func (c *Client) online(ctx context.Context, trusted *trustedmetadata.TrustedMetadata, seen record) error {
	const timestamp = "timestamp.json"
	b, err := c.Source.metadata(ctx, timestamp, maxTimestamp)
	if absent(err, false) {
		return failf(NotRepository, "%w", errors.Unwrap(err))
	}
	if err != nil {
		return err
	}
	if _, err := read(b, checkTimestamp); err != nil {
		return about(timestamp, err)
	}
	_, err = trusted.UpdateTimestamp(b)
	if t := trusted.Timestamp; t != nil { // its signature is good, even if it has expired
		snapshot := t.Signed.Meta["snapshot.json"]
		if t.Signed.Version < seen.Timestamp {
			return failf(Frozen, "%s: version %d, and %d was seen", timestamp, t.Signed.Version, seen.Timestamp)
		}
		if snapshot.Version < seen.Snapshot {
			return failf(RolledBack, "%s: snapshot %d, and %d was seen", timestamp, snapshot.Version, seen.Snapshot)
		}
	}
	if err != nil {
		return c.expiry(timestamp, err, trusted)
	}

	info := trusted.Timestamp.Signed.Meta["snapshot.json"]
	name := fmt.Sprintf("%d.snapshot.json", info.Version)
	if b, err = c.signed(ctx, name, info); err != nil {
		return err
	}
	if _, err := read(b, checkSnapshot); err != nil {
		return about(name, err)
	}
	if _, err := trusted.UpdateSnapshot(b, false); err != nil {
		return c.expiry(name, err, trusted)
	}

	info = trusted.Snapshot.Signed.Meta["targets.json"]
	if info.Version < seen.Targets {
		return failf(RolledBack, "%s: targets %d, and %d was seen", name, info.Version, seen.Targets)
	}
	name = fmt.Sprintf("%d.targets.json", info.Version)
	if b, err = c.signed(ctx, name, info); err != nil {
		return err
	}
	if _, err := read(b, checkTargets); err != nil {
		return about(name, err)
	}
	if _, err := trusted.UpdateTargets(b); err != nil {
		return c.expiry(name, err, trusted)
	}
	return nil
}

// signed fetches a file whose length and digest are known.
func (c *Client) signed(ctx context.Context, name string, info *metadata.MetaFiles) ([]byte, error) {
	b, err := c.Source.metadata(ctx, name, info.Length)
	if absent(err, false) {
		return nil, failf(Mixed, "%w", errors.Unwrap(err))
	}
	if err != nil {
		return nil, err
	}
	if int64(len(b)) < info.Length {
		return nil, failf(Truncated, "%s: %d of %d bytes", name, len(b), info.Length)
	}
	if err := info.VerifyLengthHashes(b); err != nil {
		return nil, failf(Mixed, "%s: %w", name, err)
	}
	return b, nil
}

// expiry is about, but says of what has expired when that was.
func (c *Client) expiry(name string, err error, trusted *trustedmetadata.TrustedMetadata) error {
	err = about(name, err)
	if ReasonOf(err) != Expired {
		return err
	}
	return fmt.Errorf("%w; the clock says %s", err, trusted.RefTime.Format(time.DateOnly))
}

// about gives an error of the library or of a check a reason.
func about(name string, err error) error {
	reason := NotRepository
	e := (*Error)(nil)
	switch {
	case errors.As(err, &e):
		reason, err = e.Reason, e.Err
	case errors.Is(err, &metadata.ErrExpiredMetadata{}):
		reason = Expired
	case errors.Is(err, &metadata.ErrUnsignedMetadata{}):
		reason = UnknownKeys
	case errors.Is(err, &metadata.ErrBadVersionNumber{}), errors.Is(err, &metadata.ErrLengthOrHashMismatch{}):
		reason = Mixed
	}
	return failf(reason, "%s: %w", name, err)
}

// onlineKeys is a digest of who may sign for the roles besides root, and how many have to.
func onlineKeys(root metadata.RootType) string {
	h := sha256.New()
	for _, name := range []string{metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP} {
		role := root.Roles[name]
		keys := []string{}
		for _, id := range role.KeyIDs {
			keys = append(keys, root.Keys[id].Value.PublicKey)
		}
		slices.Sort(keys)
		if err := json.NewEncoder(h).Encode([]any{name, role.Threshold, keys}); err != nil {
			return "" // strings and numbers are always encoded
		}
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}
