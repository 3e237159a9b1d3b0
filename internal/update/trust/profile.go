package trust

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"cloudlink.local/gateway/internal/update/bundle"
)

// Bounds of the metadata. Decoding takes many times as much memory.
const (
	maxRoot      = 32 << 10
	maxTimestamp = 16 << 10
	maxSnapshot  = 16 << 10
	maxRoots     = 256 // further versions at one time
	maxDepth     = 16
)

// The library takes more than our repositories have, and goes through missing parts unasked: a null in
// the place of a target ends the program, before any signature was looked at. So metadata must first
// have the form that firmware publish gives them: no null, ed25519 keys, lengths and digests
// everywhere, no delegations.

// checkJSON wants one JSON object without null in it.
func checkJSON(b []byte) error {
	d := json.NewDecoder(bytes.NewReader(b))
	for depth, first := 0, true; ; first = false {
		token, err := d.Token()
		switch {
		case err == io.EOF && depth > 0, errors.Is(err, io.ErrUnexpectedEOF), err == io.EOF && first:
			return failf(Truncated, "it ends after %d bytes", len(b))
		case err == io.EOF:
			return nil
		case err != nil:
			return failf(NotRepository, "no JSON: %w", err)
		case token == nil:
			return failf(NotRepository, "null in it")
		case depth == 0 && (!first || token != json.Delim('{')):
			return failf(NotRepository, "no JSON object")
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			depth++
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		if depth > maxDepth {
			return failf(NotRepository, "nested too deeply")
		}
	}
}

// read decodes metadata of one role and checks its form.
func read[T metadata.Roles](b []byte, check func(T) error) (*metadata.Metadata[T], error) {
	if err := checkJSON(b); err != nil {
		return nil, err
	}
	m, err := new(metadata.Metadata[T]).FromBytes(b)
	if err != nil {
		return nil, failf(NotRepository, "%w", err)
	}
	if err := check(m.Signed); ReasonOf(err) != "" {
		return nil, err
	} else if err != nil {
		return nil, failf(NotRepository, "%w", err)
	}
	return m, nil
}

func checkRoot(r metadata.RootType) error {
	if !r.ConsistentSnapshot || r.Version < 1 || len(r.Keys) > 64 || len(r.Roles) != len(metadata.TOP_LEVEL_ROLE_NAMES) {
		return errors.New("root metadata of another kind of repository")
	}
	for _, name := range metadata.TOP_LEVEL_ROLE_NAMES {
		role := r.Roles[name]
		if role == nil || role.Threshold < 1 || len(role.KeyIDs) < role.Threshold || len(role.KeyIDs) > 16 {
			return fmt.Errorf("role %s: keys or threshold are missing", name)
		}
		for _, id := range role.KeyIDs {
			if r.Keys[id] == nil {
				return fmt.Errorf("role %s: key %.80q is missing", name, id)
			}
		}
	}
	for id, key := range r.Keys {
		if key.Type != metadata.KeyTypeEd25519 || key.Scheme != metadata.KeySchemeEd25519 || !isHex(key.Value.PublicKey, 32) {
			return fmt.Errorf("key %.80q: want ed25519", id)
		}
	}
	return nil
}

func isHex(s string, bytes int) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == bytes
}

// checkMeta wants one entry, of that name.
func checkMeta(meta map[string]*metadata.MetaFiles, name string, most int64) error {
	m := meta[name]
	if len(meta) != 1 || m == nil || m.Version < 1 || m.Length < 1 || len(m.Hashes) != 1 || len(m.Hashes["sha256"]) != 32 {
		return fmt.Errorf("want version, length and SHA-256 of %s, and of nothing else", name)
	}
	if m.Length > most {
		return failf(TooLarge, "%s: %d bytes, more than %d", name, m.Length, most)
	}
	return nil
}

func checkTimestamp(t metadata.TimestampType) error {
	return checkMeta(t.Meta, "snapshot.json", maxSnapshot)
}

func checkSnapshot(s metadata.SnapshotType) error {
	return checkMeta(s.Meta, "targets.json", bundle.MaxTargets)
}

func checkTargets(t metadata.TargetsType) error {
	if t.Delegations != nil {
		return errors.New("delegations in it")
	}
	for name, f := range t.Targets {
		if f == nil || f.Length < 1 || len(f.Hashes) != 1 || len(f.Hashes["sha256"]) != 32 {
			return fmt.Errorf("target %.100q: want length and SHA-256", name)
		}
	}
	return nil
}
