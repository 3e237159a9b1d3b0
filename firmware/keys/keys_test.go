package keys

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/release"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// newSet makes a set in a folder that is not there yet.
func newSet(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "below", "keys")
	if err := Init(dir, Options{Kind: release.Development, Now: now}); err != nil {
		t.Fatal(err)
	}
	return dir
}

var made = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "keys")
	if err != nil {
		return "", err
	}
	return dir, Init(dir, Options{Kind: release.Development, Now: now})
})

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := made(); err == nil {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// aSet returns a copy of one set: making one takes a second or two.
func aSet(t *testing.T) string {
	t.Helper()
	from, err := made()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "keys")
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestSetIsForItsOwnerOnly(t *testing.T) {
	dir := newSet(t)
	var names []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		} else {
			rel, _ := filepath.Rel(dir, path)
			names = append(names, rel)
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	const want = "boot.key boot.pub keyset.json offline/READ-ME-FIRST.txt offline/root.key root.pub roots/1.root.json " +
		"secure-boot.cer secure-boot.crt secure-boot.key snapshot.key snapshot.pub targets.key targets.pub timestamp.key timestamp.pub"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("files:\n%s\nwant:\n%s", got, want)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(dir), ".keys*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestSetIsLoaded(t *testing.T) {
	dir := newSet(t)
	s, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if s.Kind != release.Development || s.Certificate.Subject.CommonName != "CloudLink Gateway Secure Boot (development)" {
		t.Errorf("loaded %s, %s", s.Kind, s.Certificate.Subject)
	}
	for _, role := range Roles {
		file := filepath.Join(dir, role+".key")
		if role == "root" {
			file = filepath.Join(dir, Offline, role+".key")
		}
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(b)
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if b, err = os.ReadFile(filepath.Join(dir, role+".pub")); err != nil {
			t.Fatal(err)
		}
		block, _ = pem.Decode(b)
		public, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if !key.(ed25519.PrivateKey).Public().(ed25519.PublicKey).Equal(public) {
			t.Errorf("%s: public and private key do not belong together", role)
		}
	}
	if out, err := exec.Command("openssl", "x509", "-in", filepath.Join(dir, SecureBootCert), "-noout", "-text").CombinedOutput(); err != nil {
		t.Errorf("openssl (scripts/setup test installs it): %v\n%s", err, out)
	}
}

func TestNoSetIsOverwritten(t *testing.T) {
	dir := aSet(t)
	before, err := os.ReadFile(filepath.Join(dir, BootKey))
	if err != nil {
		t.Fatal(err)
	}
	if err := Init(dir, Options{Kind: release.Production, Now: now}); !errors.Is(err, ErrExists) {
		t.Errorf("a second set: %v", err)
	}
	after, err := os.ReadFile(filepath.Join(dir, BootKey))
	if err != nil || !bytes.Equal(before, after) {
		t.Error("the set was changed")
	}
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "letter.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Init(other, Options{Kind: release.Production, Now: now}); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("a folder with other things: %v", err)
	}
	if err := Init(t.TempDir(), Options{Kind: release.Production, Now: now}); err != nil {
		t.Errorf("an empty folder: %v", err)
	}
}

// A folder that cannot be made into a set stays what it was, and whatever was made on the way goes.
func TestWhereNoSetCanBe(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "letter.txt")
	if err := os.WriteFile(file, []byte("dear"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink("nowhere", link); err != nil {
		t.Fatal(err)
	}
	readOnly, full := filepath.Join(dir, "read-only"), filepath.Join(dir, "full")
	for place, options := range map[string]string{readOnly: "ro", full: "size=8k"} {
		if err := os.Mkdir(place, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := mountTmpfs(t, place, options); err != nil {
			t.Fatalf("mount (needs root): %v", err)
		}
	}
	here := filepath.Join(dir, "here")
	if err := os.Mkdir(here, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Chdir(here)
	before := list(t, dir)

	for _, c := range []struct{ dir, want string }{
		{file, "new folder"},
		{filepath.Join(file, "keys"), "new folder"},
		{link, "not there yet"},
		{"/dev/null", "new folder"},
		{".", "working directory"},
		{filepath.Join(readOnly, "keys"), "read-only file system"},
		{filepath.Join(full, "a", "b", "keys"), "no space left on device"},
	} {
		err := Init(c.dir, Options{Kind: release.Development, Now: now})
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %q in it", c.dir, err, c.want)
		}
	}
	if after := list(t, dir); after != before {
		t.Errorf("there is now\n%s\nand was\n%s", after, before)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "dear" {
		t.Errorf("the file holds %q (%v)", b, err)
	}
}

func mountTmpfs(t *testing.T, dir, options string) error {
	var flags uintptr
	if options == "ro" {
		flags, options = unix.MS_RDONLY, ""
	}
	if err := unix.Mount("none", dir, "tmpfs", flags, options); err != nil {
		return err
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return nil
}

// list returns the names below dir.
func list(t *testing.T, dir string) string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		names = append(names, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(names, "\n")
}

func TestWhatIsMissingIsNamed(t *testing.T) {
	for _, name := range []string{Info, BootKey, BootPublic, SecureBootKey, SecureBootCert} {
		dir := aSet(t)
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		_, err := Load(dir)
		if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "keys init") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s missing: %v", name, err)
		}
	}
}

func TestAFileIsNoSet(t *testing.T) {
	file := filepath.Join(aSet(t), Info)
	if _, err := Load(file); err == nil || !strings.Contains(err.Error(), "name the folder") {
		t.Errorf("a file for a folder: %v", err)
	}
}

func TestForeignKeysAreRefused(t *testing.T) {
	a, b := aSet(t), newSet(t)
	for _, name := range []string{BootPublic, SecureBootCert} {
		content, err := os.ReadFile(filepath.Join(b, name))
		if err != nil {
			t.Fatal(err)
		}
		old, err := os.ReadFile(filepath.Join(a, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(a, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(a); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("another set's %s: %v", name, err)
		}
		if err := os.WriteFile(filepath.Join(a, name), old, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestBringYourOwnSecureBootKey(t *testing.T) {
	from := aSet(t)
	key, cert := filepath.Join(from, SecureBootKey), filepath.Join(from, SecureBootCert)
	dir := filepath.Join(t.TempDir(), "keys")
	if err := Init(dir, Options{Kind: release.Production, SecureBootKey: key, SecureBootCert: cert, Now: now}); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(filepath.Join(from, SecureBootDER))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, SecureBootDER)); err != nil || !bytes.Equal(got, want) {
		t.Errorf("another certificate (%v)", err)
	}

	ec := filepath.Join(t.TempDir(), "ec.key")
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(edKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(ec, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	stranger := filepath.Join(newSet(t), SecureBootCert)
	const snakeoil = "/usr/share/qemu-efi-aarch64/PkKek-1-snakeoil"
	for _, c := range []struct{ name, key, cert, want string }{
		{"no certificate", key, "", "-secure-boot-cert"},
		{"no such key", "/nowhere/key.pem", cert, "/nowhere/key.pem"},
		{"no such certificate", key, "/nowhere/cert.pem", "/nowhere/cert.pem"},
		{"no key in it", cert, cert, "not an RSA private key"},
		{"no certificate in it", key, key, "no PEM certificate"},
		{"no RSA key", ec, cert, "RSA"},
		{"another certificate", key, stranger, "is not the certificate of"},
		{"encrypted", snakeoil + ".key", snakeoil + ".pem", "openssl pkey"},
	} {
		dir := filepath.Join(t.TempDir(), "keys")
		err := Init(dir, Options{Kind: release.Production, SecureBootKey: c.key, SecureBootCert: c.cert, Now: now})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q in it", c.name, err, c.want)
		}
		if entries, _ := os.ReadDir(filepath.Dir(dir)); len(entries) > 0 {
			t.Errorf("%s: left behind: %v", c.name, entries)
		}
	}
	if err := Init(filepath.Join(t.TempDir(), "keys"), Options{Kind: "toy", Now: now}); err == nil {
		t.Error("an unknown kind is taken")
	}
}

// gpgv stands for GRUB here: the machine tests show that GRUB takes these signatures, too.
func TestSignaturesAreGoodToGpgv(t *testing.T) {
	s, err := Load(aSet(t))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	keyring, file, sigFile := filepath.Join(dir, "key"), filepath.Join(dir, "data"), filepath.Join(dir, "data.sig")
	if err := os.WriteFile(keyring, s.BootPublic, 0o600); err != nil {
		t.Fatal(err)
	}
	// Many, since a number with a leading zero byte comes once in 256.
	for i := range 40 {
		data := bytes.Repeat([]byte{byte(i)}, 1000*i)
		sig, err := s.Boot.Sign(data, now)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := s.Boot.Sign(data, now); err != nil || !bytes.Equal(again, sig) {
			t.Fatalf("a second signature differs (%v)", err)
		}
		ring := openpgp.EntityList{s.Boot.entity}
		if _, err := openpgp.CheckDetachedSignature(ring, bytes.NewReader(data), bytes.NewReader(sig), nil); err != nil {
			t.Fatalf("signature %d: %v", i, err)
		}
		if i > 0 {
			continue
		}
		for name, b := range map[string][]byte{file: data, sigFile: sig} {
			if err := os.WriteFile(name, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		verify := func() ([]byte, error) {
			return exec.Command("gpgv", "--keyring", keyring, sigFile, file).CombinedOutput()
		}
		if out, err := verify(); err != nil {
			t.Errorf("gpgv: %v\n%s", err, out)
		}
		if err := os.WriteFile(file, []byte("other"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := verify(); err == nil {
			t.Error("gpgv takes the signature for other data")
		}
	}
}

// GRUB 2.06 forgets to add 192 to a two-byte length; and it looks for the issuer in the unhashed part.
func TestPacketsAreAsGRUBReadsThem(t *testing.T) {
	s, err := Load(aSet(t))
	if err != nil {
		t.Fatal(err)
	}
	sig, err := s.Boot.Sign([]byte("x"), now)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"public key": s.BootPublic, "signature": sig} {
		for len(b) > 0 {
			if len(b) < 6 || b[1] != 255 {
				t.Fatalf("%s: a packet whose length has not five bytes: % x", name, b[:min(6, len(b))])
			}
			n := int(b[2])<<24 | int(b[3])<<16 | int(b[4])<<8 | int(b[5])
			b = b[6+n:]
		}
	}
	body := sig[6:]
	unhashed := body[6+int(body[5]):]
	if unhashed[1] != 10 || unhashed[3] != subpacketIssue {
		t.Errorf("the unhashed part has no issuer: % x", unhashed[:12])
	}
	if key := s.Boot.entity.PrivateKey.PrivateKey.(*rsa.PrivateKey); key.N.BitLen() != 3072 {
		t.Errorf("the boot key has %d bits", key.N.BitLen())
	}
}
