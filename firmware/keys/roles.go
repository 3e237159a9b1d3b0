package keys

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"
)

const (
	rootsFolder   = "roots"   // N.root.json: who has which role, signed by root's keys
	retiredFolder = "retired" // private keys that have been replaced
)

// rootYears is how long devices believe root metadata: the offline key need not be fetched often.
const rootYears = 5

// A Threshold says how many of a role's keys have to sign.
type Threshold struct{ Need, Keys int }

// ParseThreshold reads one like "2/3": two of three keys.
func ParseThreshold(s string) (Threshold, error) {
	need, keys, _ := strings.Cut(s, "/")
	n, err1 := strconv.Atoi(need)
	k, err2 := strconv.Atoi(keys)
	if err1 != nil || err2 != nil || n < 1 || k < n || k > 9 {
		return Threshold{}, errors.New("want a threshold like 2/3: two of three keys have to sign (at most 9 keys)")
	}
	return Threshold{n, k}, nil
}

// Updates are a set's keys for updates: those of the repository's roles.
type Updates struct {
	Dir   string
	Roots [][]byte // root metadata: version 1, 2, …

	root *metadata.Metadata[metadata.RootType] // the newest
}

// LoadUpdates reads the roles' keys in the set dir; neither boot key nor root's key has to be there.
func LoadUpdates(dir string) (*Updates, error) {
	u := &Updates{Dir: dir}
	for n := 1; ; n++ {
		name := filepath.Join(dir, rootsFolder, fmt.Sprintf("%d.root.json", n))
		b, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("key set: %w", err)
		}
		if err := u.add(b); err != nil {
			return nil, fmt.Errorf("key set: %s: %w: restore it from a copy", name, err)
		}
	}
	if len(u.Roots) > 0 {
		return u, nil
	}
	b, err := firstRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("key set: %w", err)
	}
	return u, u.add(b)
}

// add takes the next version of the root metadata, if the one before says that it may.
func (u *Updates) add(b []byte) error {
	if len(u.Roots) == 0 {
		t, err := trustedmetadata.New(b)
		if err != nil {
			return err
		}
		if t.Root.Signed.Version != 1 {
			return fmt.Errorf("version %d, want 1", t.Root.Signed.Version)
		}
		u.Roots, u.root = [][]byte{b}, t.Root
		return nil
	}
	t, err := trustedmetadata.New(u.Roots[len(u.Roots)-1])
	if err != nil {
		return err
	}
	root, err := t.UpdateRoot(b)
	if err != nil {
		return err
	}
	u.Roots, u.root = append(u.Roots, b), root
	return nil
}

// Factory is the root metadata that an image made now carries: devices believe whom it names.
func (u *Updates) Factory() []byte { return u.Roots[len(u.Roots)-1] }

// Expires says until when devices believe the newest root metadata.
func (u *Updates) Expires() time.Time { return u.root.Signed.Expires }

// Signers returns the keys of a role: so many as it needs, or an error.
func (u *Updates) Signers(role string) ([]signature.Signer, error) {
	return u.signers(role, []string{u.Dir})
}

func (u *Updates) signers(role string, dirs []string) ([]signature.Signer, error) {
	r := u.root.Signed.Roles[role]
	var signers []signature.Signer
	for id, k := range u.found(role, dirs) {
		if !slices.Contains(r.KeyIDs, id) {
			continue
		}
		s, err := signature.LoadED25519Signer(k.private)
		if err != nil {
			return nil, fmt.Errorf("key set: %s: %w", k.file, err)
		}
		signers = append(signers, s)
	}
	if len(signers) < r.Threshold {
		flag := "-keys"
		if role == metadata.ROOT {
			flag = "-root"
		}
		return nil, fmt.Errorf("key set: %d of the %d keys that %s needs: name the folder that has %s.key with %s",
			len(signers), r.Threshold, role, role, flag)
	}
	// In a fixed order: the same input gives the same bytes.
	slices.SortFunc(signers, func(a, b signature.Signer) int { return strings.Compare(signerID(a), signerID(b)) })
	return signers, nil
}

func signerID(s signature.Signer) string {
	public, err := s.PublicKey()
	if err != nil {
		return ""
	}
	return keyID(public)
}

type foundKey struct {
	file    string
	private ed25519.PrivateKey
}

// found returns the private keys of a role that lie in dirs, by their id.
func (u *Updates) found(role string, dirs []string) map[string]foundKey {
	keys := map[string]foundKey{}
	for _, dir := range dirs {
		files, _ := filepath.Glob(filepath.Join(dir, role+"*.key")) // fails only on a bad pattern
		for _, file := range files {
			if private, err := readKey(file); err == nil {
				keys[keyID(private.Public())] = foundKey{file, private}
			}
		}
	}
	return keys
}

func readKey(file string) (ed25519.PrivateKey, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("%s: no PEM key in it", file)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	private, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s: want an ed25519 key", file)
	}
	return private, nil
}

// keyID is how metadata name a key.
func keyID(public crypto.PublicKey) string {
	key, err := metadata.KeyFromPublicKey(public)
	if err != nil {
		return ""
	}
	id, _ := key.ID() // a key of ours is always encoded
	return id
}

// firstRoot makes root metadata for a set that was made before sets had any: always the same.
func firstRoot(dir string) ([]byte, error) {
	in, err := readInfo(dir)
	if err != nil {
		return nil, err
	}
	rootKey, err := readKey(filepath.Join(dir, Offline, "root.key"))
	if err != nil {
		return nil, fmt.Errorf("%s is missing, and so is the root key to make it: put the folder %s back and run go run ./firmware keys renew: %w",
			filepath.Join(dir, rootsFolder, "1.root.json"), filepath.Join(dir, Offline), err)
	}
	roles := map[string][]ed25519.PrivateKey{metadata.ROOT: {rootKey}}
	for _, role := range Roles {
		if role == metadata.ROOT {
			continue
		}
		key, err := readKey(filepath.Join(dir, role+".key"))
		if err != nil {
			return nil, err
		}
		roles[role] = []ed25519.PrivateKey{key}
	}
	return newRoot(roles, nil, in.Created)
}

func readInfo(dir string) (info, error) {
	var in info
	b, err := os.ReadFile(filepath.Join(dir, Info))
	if errors.Is(err, fs.ErrNotExist) {
		return in, fmt.Errorf("%s is missing: name the folder that has it with -keys, or make a new set: go run ./firmware keys init DIR", filepath.Join(dir, Info))
	}
	if err != nil {
		return in, err
	}
	if err := json.Unmarshal(b, &in); err != nil {
		return in, fmt.Errorf("%s: %w", filepath.Join(dir, Info), err)
	}
	return in, nil
}

// newRoot makes the first root metadata of a set.
func newRoot(roles map[string][]ed25519.PrivateKey, thresholds map[string]Threshold, now time.Time) ([]byte, error) {
	root := metadata.Root(now.UTC().Truncate(time.Second).AddDate(rootYears, 0, 0))
	for role, keys := range roles {
		if err := setKeys(root, role, keys, max(thresholds[role].Need, 1)); err != nil {
			return nil, err
		}
	}
	return signRoot(root, roles[metadata.ROOT])
}

// setKeys gives a role these keys and no others.
func setKeys(root *metadata.Metadata[metadata.RootType], role string, keys []ed25519.PrivateKey, need int) error {
	for _, id := range slices.Clone(root.Signed.Roles[role].KeyIDs) {
		if err := root.Signed.RevokeKey(id, role); err != nil {
			return err
		}
	}
	for _, k := range keys {
		key, err := metadata.KeyFromPublicKey(k.Public())
		if err != nil {
			return err
		}
		if err := root.Signed.AddKey(key, role); err != nil {
			return err
		}
	}
	slices.Sort(root.Signed.Roles[role].KeyIDs)
	root.Signed.Roles[role].Threshold = need
	return nil
}

func signRoot(root *metadata.Metadata[metadata.RootType], keys []ed25519.PrivateKey) ([]byte, error) {
	root.ClearSignatures()
	keys = slices.Clone(keys)
	slices.SortFunc(keys, func(a, b ed25519.PrivateKey) int { return strings.Compare(keyID(a.Public()), keyID(b.Public())) })
	for i, k := range keys {
		if i > 0 && k.Equal(keys[i-1]) {
			continue
		}
		s, err := signature.LoadED25519Signer(k)
		if err != nil {
			return nil, err
		}
		if _, err := root.Sign(s); err != nil {
			return nil, err
		}
	}
	return root.ToBytes(false)
}

// newKeys makes so many keys and the files that keep them: name → content. The first of a new set is
// just called after its role.
func newKeys(role string, n int, first bool) (keys []ed25519.PrivateKey, private, public map[string][]byte, err error) {
	private, public = map[string][]byte{}, map[string][]byte{}
	for i := range n {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, nil, nil, err
		}
		name := role
		if !first || i > 0 {
			name += "-" + keyID(key.Public())[:8]
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, nil, nil, err
		}
		private[name+".key"] = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
		if der, err = x509.MarshalPKIXPublicKey(key.Public()); err != nil {
			return nil, nil, nil, err
		}
		public[name+".pub"] = pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
		keys = append(keys, key)
	}
	return keys, private, public, nil
}

// A Change is what changing the root metadata needs.
type Change struct {
	Offline   []string  // folders with root's keys; none for the set's own folder
	Threshold Threshold // of the role, from now on; none for as before
	Now       time.Time
}

// Renew signs root metadata for another rootYears.
func Renew(dir string, c Change) (version int64, expires time.Time, err error) {
	return change(dir, "", c)
}

// Rotate gives a role new keys. Devices believe the old ones until they see the new root metadata,
// which comes with the next release or with repo renew.
func Rotate(dir, role string, c Change) (version int64, expires time.Time, err error) {
	if !slices.Contains(Roles, role) {
		return 0, time.Time{}, fmt.Errorf("unknown role %q: want %s", role, strings.Join(Roles, ", "))
	}
	return change(dir, role, c)
}

func change(dir, role string, c Change) (int64, time.Time, error) {
	fail := func(err error) (int64, time.Time, error) { return 0, time.Time{}, err }
	u, err := LoadUpdates(dir)
	if err != nil {
		return fail(err)
	}
	if len(c.Offline) == 0 {
		c.Offline = []string{filepath.Join(dir, Offline)}
	}
	signers := u.found(metadata.ROOT, c.Offline)
	if _, err := u.signers(metadata.ROOT, c.Offline); err != nil {
		return fail(err)
	}
	old := u.root.Signed.Roles
	var signing []ed25519.PrivateKey
	for id, k := range signers {
		if slices.Contains(old[metadata.ROOT].KeyIDs, id) {
			signing = append(signing, k.private)
		}
	}
	root, err := metadata.Root().FromBytes(u.Factory()) // a copy
	if err != nil {
		return fail(err)
	}
	root.Signed.Version++
	root.Signed.Expires = c.Now.UTC().Truncate(time.Second).AddDate(rootYears, 0, 0)

	home := dir // of the role's private keys
	var private, public map[string][]byte
	replaced := map[string]foundKey{}
	if role != "" {
		t := c.Threshold
		if t.Keys == 0 {
			t = Threshold{old[role].Threshold, len(old[role].KeyIDs)}
		}
		dirs := []string{dir}
		if role == metadata.ROOT {
			home, dirs = c.Offline[0], c.Offline
		}
		for id, k := range u.found(role, dirs) {
			if slices.Contains(old[role].KeyIDs, id) {
				replaced[id] = k
			}
		}
		var keys []ed25519.PrivateKey
		if keys, private, public, err = newKeys(role, t.Keys, false); err != nil {
			return fail(err)
		}
		if err := setKeys(root, role, keys, t.Need); err != nil {
			return fail(err)
		}
		if role == metadata.ROOT {
			signing = append(signing, keys...)
		}
	}
	b, err := signRoot(root, signing)
	if err != nil {
		return fail(err)
	}
	if err := u.add(b); err != nil {
		return fail(fmt.Errorf("sign root metadata: %w", err))
	}
	if err := u.save(home, private, public); err != nil {
		return fail(fmt.Errorf("write key set: %w", err))
	}
	if err := retire(dir, replaced, public); err != nil {
		return fail(fmt.Errorf("the new keys hold, but the old ones could not be put away: %w", err))
	}
	return root.Signed.Version, root.Signed.Expires, nil
}

// save writes new keys first and the root metadata that name them last: until then the old ones hold.
func (u *Updates) save(home string, private, public map[string][]byte) error {
	for name, b := range private {
		if err := renameio.WriteFile(filepath.Join(home, name), b, 0o600); err != nil {
			return err
		}
	}
	for name, b := range public {
		if err := renameio.WriteFile(filepath.Join(u.Dir, name), b, 0o600); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Join(u.Dir, rootsFolder), 0o700); err != nil {
		return err
	}
	for i, b := range u.Roots {
		name := filepath.Join(u.Dir, rootsFolder, fmt.Sprintf("%d.root.json", i+1))
		if exists(name) {
			continue
		}
		if err := renameio.WriteFile(name, b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// retire puts replaced private keys away, removes their public ones and has keyset.json tell of the new.
func retire(dir string, replaced map[string]foundKey, public map[string][]byte) error {
	if len(public) == 0 {
		return nil
	}
	in, err := readInfo(dir)
	if err != nil {
		return err
	}
	for id, k := range replaced {
		folder := filepath.Join(filepath.Dir(k.file), retiredFolder)
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return err
		}
		name := strings.TrimSuffix(filepath.Base(k.file), ".key")
		if err := os.Rename(k.file, filepath.Join(folder, name+"-until-"+id[:8]+".key")); err != nil {
			return err
		}
		if err := os.Remove(filepath.Join(dir, name+".pub")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		delete(in.Fingerprints, name+".pub")
	}
	for name, b := range public {
		in.Fingerprints[name] = fingerprint(b)
	}
	b, err := json.MarshalIndent(in, "", "  ")
	if err != nil {
		return err
	}
	return renameio.WriteFile(filepath.Join(dir, Info), append(b, '\n'), 0o600)
}

// fingerprint of a public key in PEM: the digest of its DER.
func fingerprint(b []byte) string {
	block, _ := pem.Decode(b)
	return fmt.Sprintf("%x", sha256.Sum256(block.Bytes))
}
