package keys

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"cloudlink.local/gateway/internal/release"
)

func load(t *testing.T, dir string) *Updates {
	t.Helper()
	u, err := LoadUpdates(dir)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// signs says whether the set signs for a role what its newest root metadata believe.
func signs(t *testing.T, u *Updates, role string) bool {
	t.Helper()
	signers, err := u.Signers(role)
	if err != nil {
		t.Log(err)
		return false
	}
	m := metadata.Timestamp(now)
	for _, s := range signers {
		if _, err := m.Sign(s); err != nil {
			t.Fatal(err)
		}
	}
	return u.root.VerifyDelegate(role, m) == nil
}

func TestNewSetHasRootMetadata(t *testing.T) {
	dir := aSet(t)
	u := load(t, dir)
	if len(u.Roots) != 1 || !bytes.Equal(u.Factory(), u.Roots[0]) || !u.Expires().Equal(now.AddDate(5, 0, 0)) {
		t.Errorf("%d versions, good until %v", len(u.Roots), u.Expires())
	}
	for _, role := range Roles[1:] {
		if !signs(t, u, role) {
			t.Errorf("%s does not sign", role)
		}
	}
	// Its online part is enough.
	for _, name := range []string{Offline, BootKey, SecureBootKey} {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if u := load(t, dir); !signs(t, u, "targets") {
		t.Error("without the offline folder")
	}
}

// A set from before there was root metadata gets it, always the same.
func TestOldSetGetsItsRoot(t *testing.T) {
	dir := aSet(t)
	want := load(t, dir).Factory()
	if err := os.RemoveAll(filepath.Join(dir, rootsFolder)); err != nil {
		t.Fatal(err)
	}
	if got := load(t, dir).Factory(); !bytes.Equal(got, want) {
		t.Errorf("it gets\n%s\nand would have had\n%s", got, want)
	}
	if s, err := Load(dir); err != nil || !bytes.Equal(s.Updates.Factory(), want) {
		t.Errorf("load: %v", err)
	}
	if exists(filepath.Join(dir, rootsFolder)) {
		t.Error("reading has written")
	}
	if v, _, err := Rotate(dir, "targets", Change{Now: now}); err != nil || v != 2 {
		t.Fatalf("rotate: version %d, %v", v, err)
	}
	if u := load(t, dir); len(u.Roots) != 2 || !bytes.Equal(u.Roots[0], want) {
		t.Errorf("%d versions", len(u.Roots))
	}
	if err := os.RemoveAll(filepath.Join(dir, rootsFolder)); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, Offline)); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadUpdates(dir); err == nil || !strings.Contains(err.Error(), "1.root.json") || !strings.Contains(err.Error(), "keys renew") {
		t.Errorf("with neither: %v", err)
	}
}

func TestEveryRoleGetsNewKeys(t *testing.T) {
	dir := aSet(t)
	drawer := filepath.Join(t.TempDir(), "drawer")
	if err := os.Rename(filepath.Join(dir, Offline), drawer); err != nil {
		t.Fatal(err)
	}
	later := now.AddDate(1, 0, 0)
	c := Change{Offline: []string{drawer}, Now: later}
	for i, role := range []string{"timestamp", "snapshot", "targets", "root", "root", "targets"} {
		before := load(t, dir)
		ids := before.root.Signed.Roles[role].KeyIDs
		version, expires, err := Rotate(dir, role, c)
		if err != nil || version != int64(i+2) || !expires.Equal(later.AddDate(5, 0, 0)) {
			t.Fatalf("%s: version %d, until %v: %v", role, version, expires, err)
		}
		after := load(t, dir)
		if got := after.root.Signed.Roles[role].KeyIDs; len(got) != 1 || got[0] == ids[0] {
			t.Errorf("%s: keys %v, before %v", role, got, ids)
		}
		if len(after.root.Signed.Keys) != 4 {
			t.Errorf("%s: %d keys", role, len(after.root.Signed.Keys))
		}
		for _, role := range Roles[1:] {
			if !signs(t, after, role) {
				t.Errorf("%s does not sign", role)
			}
		}
	}
	// A device that knows only the first version comes to the last, step by step.
	u := load(t, dir)
	device, err := trustedmetadata.New(u.Roots[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range u.Roots[1:] {
		if _, err := device.UpdateRoot(b); err != nil {
			t.Fatal(err)
		}
	}
	if files, err := filepath.Glob(filepath.Join(drawer, "*.key")); err != nil || len(files) != 1 {
		t.Errorf("root keys in use: %v", files)
	}
	if files, err := filepath.Glob(filepath.Join(drawer, retiredFolder, "root*.key")); err != nil || len(files) != 2 {
		t.Errorf("retired root keys: %v", files)
	}
	if files, err := filepath.Glob(filepath.Join(dir, "targets*")); err != nil || len(files) != 2 {
		t.Errorf("targets: %v", files)
	}
	s, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Fingerprints) != 6 {
		t.Errorf("fingerprints %v", s.Fingerprints)
	}
	for name := range s.Fingerprints {
		if !exists(filepath.Join(dir, name)) {
			t.Errorf("fingerprint of %s, which is not there", name)
		}
	}
}

func TestRenewKeepsTheKeys(t *testing.T) {
	dir := aSet(t)
	before := load(t, dir)
	version, expires, err := Renew(dir, Change{Now: now.AddDate(4, 0, 0)})
	if err != nil || version != 2 || !expires.Equal(now.AddDate(9, 0, 0)) {
		t.Fatalf("version %d, until %v: %v", version, expires, err)
	}
	after := load(t, dir)
	for _, role := range Roles {
		if after.root.Signed.Roles[role].KeyIDs[0] != before.root.Signed.Roles[role].KeyIDs[0] {
			t.Errorf("%s has other keys", role)
		}
	}
}

func TestThresholds(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	err := Init(dir, Options{Kind: release.Development, Now: now, Thresholds: map[string]Threshold{"root": {2, 3}, "targets": {2, 2}}})
	if err != nil {
		t.Fatal(err)
	}
	u := load(t, dir)
	if signers, err := u.Signers("targets"); err != nil || len(signers) != 2 || !signs(t, u, "targets") {
		t.Fatalf("targets: %d keys, %v", len(signers), err)
	}
	// Root's three keys lie in three drawers; two of them do.
	files, err := filepath.Glob(filepath.Join(dir, Offline, "root*.key"))
	if err != nil || len(files) != 3 {
		t.Fatalf("root keys %v (%v)", files, err)
	}
	var drawers []string
	for _, f := range files {
		drawer := t.TempDir()
		if err := os.Rename(f, filepath.Join(drawer, filepath.Base(f))); err != nil {
			t.Fatal(err)
		}
		drawers = append(drawers, drawer)
	}
	_, _, err = Rotate(dir, "targets", Change{Offline: drawers[:1], Now: now})
	if err == nil || !strings.Contains(err.Error(), "1 of the 2 keys that root needs") || !strings.Contains(err.Error(), "-root") {
		t.Errorf("with one of root's keys: %v", err)
	}
	if u := load(t, dir); len(u.Roots) != 1 {
		t.Error("it has been changed")
	}
	if _, _, err := Rotate(dir, "targets", Change{Offline: drawers[1:], Threshold: Threshold{1, 2}, Now: now}); err != nil {
		t.Fatal(err)
	}
	u = load(t, dir)
	if r := u.root.Signed.Roles["targets"]; r.Threshold != 1 || len(r.KeyIDs) != 2 || !signs(t, u, "targets") {
		t.Errorf("targets needs %d of %d", r.Threshold, len(r.KeyIDs))
	}
	if err := os.Remove(filepath.Join(dir, "snapshot.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Signers("snapshot"); err == nil || !strings.Contains(err.Error(), "snapshot.key") || !strings.Contains(err.Error(), "-keys") {
		t.Errorf("without its key: %v", err)
	}
	for _, s := range []string{"", "2", "0/1", "3/2", "1/10", "a/b", "1/2/3", "-1/2"} {
		if _, err := ParseThreshold(s); err == nil {
			t.Errorf("threshold %q is taken", s)
		}
	}
}

// Wherever a rotation is cut, the set signs with the old keys or with the new ones.
func TestRotationThatIsCut(t *testing.T) {
	whole := aSet(t)
	before := list(t, whole)
	if _, _, err := Rotate(whole, "timestamp", Change{Now: now}); err != nil {
		t.Fatal(err)
	}
	if list(t, whole) == before {
		t.Fatal("nothing has changed")
	}
	// The new private key is there, the root metadata not yet.
	early := aSet(t)
	files, err := filepath.Glob(filepath.Join(whole, "timestamp-*.*"))
	if err != nil || len(files) != 2 {
		t.Fatalf("%v (%v)", files, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(early, filepath.Base(f)), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if u := load(t, early); len(u.Roots) != 1 || !signs(t, u, "timestamp") {
		t.Error("cut before the root metadata")
	}
	// The root metadata is there; the old key has not been put away.
	old, err := filepath.Glob(filepath.Join(whole, retiredFolder, "timestamp*"))
	if err != nil || len(old) != 1 {
		t.Fatalf("%v (%v)", old, err)
	}
	if err := os.Rename(old[0], filepath.Join(whole, "timestamp.key")); err != nil {
		t.Fatal(err)
	}
	if u := load(t, whole); len(u.Roots) != 2 || !signs(t, u, "timestamp") {
		t.Error("cut after the root metadata")
	}
}

func TestForeignRootIsRefused(t *testing.T) {
	dir, other := aSet(t), newSet(t)
	b, err := os.ReadFile(filepath.Join(other, rootsFolder, "1.root.json"))
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"foreign": b, "torn": b[:100]} {
		file := filepath.Join(dir, rootsFolder, "2.root.json")
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadUpdates(dir); err == nil || !strings.Contains(err.Error(), file) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := Rotate(dir, "mirror", Change{Now: now}); err == nil || !strings.Contains(err.Error(), "timestamp") {
		t.Errorf("an unknown role: %v", err)
	}
}
