// Package keys makes, reads and uses a key set: what signs a firmware image and its updates.
//
// A set is a folder: the boot key (OpenPGP, RSA: GRUB checks slots with it), the Secure Boot key
// and certificate (the firmware checks GRUB with it) and the keys of the update repository's roles
// (ed25519). The root role's key lies in a folder of its own, to be taken offline.
package keys

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/release"
)

// The files of a set.
const (
	Info           = "keyset.json"
	BootKey        = "boot.key"        // OpenPGP private key, armored
	BootPublic     = "boot.pub"        // its public key, binary, as GRUB reads it
	SecureBootKey  = "secure-boot.key" // PEM
	SecureBootCert = "secure-boot.crt" // PEM
	SecureBootDER  = "secure-boot.cer" // the same, as firmware setup screens want it
	Offline        = "offline"         // folder with root.key
	OfflineNote    = "READ-ME-FIRST.txt"
)

// Roles are the update repository's roles. Each has ROLE.key (PEM, PKCS #8) and ROLE.pub (PEM), further
// keys and later ones have the start of their id in the name; root's private keys are in the folder
// Offline. Which of them hold is what the newest metadata in the folder roots say.
var Roles = []string{"root", "targets", "snapshot", "timestamp"}

// A Set is a key set's keys that building an image needs.
type Set struct {
	Dir          string
	Kind         release.Keys
	BootPublic   []byte // OpenPGP, binary
	Boot         *BootSigner
	SecureBoot   crypto.Signer
	Certificate  *x509.Certificate
	Fingerprints map[string]string
	Updates      *Updates
}

// info is keyset.json.
type info struct {
	Kind         release.Keys      `json:"kind"`
	Created      time.Time         `json:"created"`
	Fingerprints map[string]string `json:"fingerprints"` // file → OpenPGP fingerprint, or sha256 of the DER
}

// Options of Init.
type Options struct {
	Kind           release.Keys
	SecureBootKey  string               // PEM file of a key that the firmware knows already; "" makes one
	SecureBootCert string               // and its certificate
	Thresholds     map[string]Threshold // role → how many keys; one where nothing is said
	Now            time.Time
}

// ErrExists says that there is a set already.
var ErrExists = errors.New("there is a key set already; a lost key cannot be made again, so none is overwritten")

// Check says whether the options fit together.
func (o Options) Check() error {
	if o.Kind != release.Development && o.Kind != release.Production {
		return fmt.Errorf("kind %q: want %s or %s", o.Kind, release.Development, release.Production)
	}
	for role := range o.Thresholds {
		if !slices.Contains(Roles, role) {
			return fmt.Errorf("threshold: unknown role %q: want %s", role, strings.Join(Roles, ", "))
		}
	}
	if (o.SecureBootKey == "") != (o.SecureBootCert == "") {
		return errors.New("a Secure Boot key needs its certificate: give both -secure-boot-key and -secure-boot-cert")
	}
	return nil
}

// Init makes a new set in dir, which must be empty or not be there yet.
func Init(dir string, o Options) error {
	if err := o.Check(); err != nil {
		return err
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("make key set: %w", err)
	}
	if wd, err := os.Getwd(); err == nil && wd == dir {
		return fmt.Errorf("%s is the working directory: name a new folder", dir)
	}
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("%s is a file or below one: name a new folder", dir)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("make key set: %w", err)
	case len(entries) > 0:
		if _, err := os.Stat(filepath.Join(dir, Info)); err == nil {
			return fmt.Errorf("%s: %w", dir, ErrExists)
		}
		return fmt.Errorf("%s is not empty: name a new folder", dir)
	}
	if err := create(dir, o); err != nil {
		return fmt.Errorf("make key set: %w", err)
	}
	return nil
}

// create makes the set beside dir and renames it: the set is whole or not there.
func create(dir string, o Options) (err error) {
	parent := filepath.Dir(dir)
	var made []string // folders above dir that are not there yet, the deepest first
	for d := parent; !exists(d); d = filepath.Dir(d) {
		made = append(made, d)
	}
	defer func() {
		if err == nil {
			return
		}
		for _, d := range made {
			unix.Rmdir(d)
		}
	}()
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(parent, ".keys") // mode 0700
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := write(tmp, o); err != nil {
		return err
	}
	// An empty folder gives way. What else is there by now does not, be it a file.
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s cannot be replaced: %w: name a folder that is not there yet", dir, err)
	}
	return os.Rename(tmp, dir)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func write(dir string, o Options) error {
	now := o.Now.UTC().Truncate(time.Second)
	in := info{Kind: o.Kind, Created: now, Fingerprints: map[string]string{}}
	if err := os.Mkdir(filepath.Join(dir, Offline), 0o700); err != nil {
		return err
	}
	files := map[string][]byte{
		filepath.Join(Offline, OfflineNote): []byte(note),
	}

	boot, err := newBootKey(o.Kind, now)
	if err != nil {
		return err
	}
	if files[BootKey], files[BootPublic], err = boot.encode(); err != nil {
		return err
	}
	in.Fingerprints[BootPublic] = fmt.Sprintf("%X", boot.entity.PrimaryKey.Fingerprint)

	key, cert, err := secureBoot(o, now)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	files[SecureBootKey] = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	files[SecureBootCert] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
	files[SecureBootDER] = cert.Raw
	in.Fingerprints[SecureBootCert] = fmt.Sprintf("%x", sha256.Sum256(cert.Raw))

	roles := map[string][]ed25519.PrivateKey{}
	for _, role := range Roles {
		n := max(o.Thresholds[role].Keys, 1)
		keys, private, public, err := newKeys(role, n, true)
		if err != nil {
			return err
		}
		for name, b := range private {
			if role == "root" {
				name = filepath.Join(Offline, name)
			}
			files[name] = b
		}
		for name, b := range public {
			files[name] = b
			in.Fingerprints[name] = fingerprint(b)
		}
		roles[role] = keys
	}
	root, err := newRoot(roles, o.Thresholds, now)
	if err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(dir, rootsFolder), 0o700); err != nil {
		return err
	}
	files[filepath.Join(rootsFolder, "1.root.json")] = root

	b, err := json.MarshalIndent(in, "", "  ")
	if err != nil {
		return err
	}
	files[Info] = append(b, '\n')
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

const note = `root.key in this folder decides which other keys devices believe when they look for updates.
It is needed only to replace those keys (firmware keys rotate) and once in five years to renew what
it has signed (firmware keys renew). Move this folder to a medium that is kept offline, with a
second copy elsewhere, and delete it here. Who has it can take over every device; if it is lost,
devices in the field can never be given new keys.
`

// secureBoot returns the given key and certificate, or new ones.
func secureBoot(o Options, now time.Time) (crypto.Signer, *x509.Certificate, error) {
	if o.SecureBootKey != "" {
		return readSecureBoot(o.SecureBootKey, o.SecureBootCert)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048) // what every firmware can check
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber:       serial.Add(serial, big.NewInt(1)),
		Subject:            pkix.Name{CommonName: fmt.Sprintf("CloudLink Gateway Secure Boot (%s)", o.Kind)},
		NotBefore:          now.Add(-24 * time.Hour),
		NotAfter:           now.AddDate(30, 0, 0), // firmware does not look, tools do
		SignatureAlgorithm: x509.SHA256WithRSA,
		KeyUsage:           x509.KeyUsageDigitalSignature,
		ExtKeyUsage:        []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return key, cert, err
}

func readSecureBoot(keyFile, certFile string) (crypto.Signer, *x509.Certificate, error) {
	for _, file := range []string{keyFile, certFile} {
		if !exists(file) {
			return nil, nil, fmt.Errorf("there is no file %s: name a PEM file", file)
		}
	}
	b, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, nil, fmt.Errorf("%s: no PEM key in it (openssl pkey -in %s -out FILE makes one of other forms)", keyFile, keyFile)
	}
	if block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "" {
		return nil, nil, fmt.Errorf("%s is encrypted: decrypt it first (openssl pkey -in %s -out FILE)", keyFile, keyFile)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		if parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes); err != nil {
			return nil, nil, fmt.Errorf("%s: not an RSA private key", keyFile)
		}
	}
	key, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return nil, nil, fmt.Errorf("%s: want an RSA key, which every firmware can check", keyFile)
	}
	if b, err = os.ReadFile(certFile); err != nil {
		return nil, nil, err
	}
	if block, _ = pem.Decode(b); block == nil || block.Type != "CERTIFICATE" {
		return nil, nil, fmt.Errorf("%s: no PEM certificate in it (openssl x509 -in %s -out FILE makes one of a .cer)", certFile, certFile)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", certFile, err)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, nil, fmt.Errorf("%s is not the certificate of %s: name the two that belong together", certFile, keyFile)
	}
	return key, cert, nil
}

// Load reads the set in dir.
func Load(dir string) (*Set, error) {
	read := func(name string) ([]byte, error) {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
			return nil, fmt.Errorf("key set: %s is missing: name the folder that has it with -keys (make: KEYS=…), or make a new set: go run ./firmware keys init DIR",
				filepath.Join(dir, name))
		}
		if err != nil {
			return nil, fmt.Errorf("key set: %w", err)
		}
		return b, nil
	}
	b, err := read(Info)
	if err != nil {
		return nil, err
	}
	var in info
	if err := json.Unmarshal(b, &in); err != nil {
		return nil, fmt.Errorf("key set: %s: %w", filepath.Join(dir, Info), err)
	}
	if in.Kind != release.Development && in.Kind != release.Production {
		return nil, fmt.Errorf("key set: %s: kind %q: want %s or %s", filepath.Join(dir, Info), in.Kind, release.Development, release.Production)
	}
	s := &Set{Dir: dir, Kind: in.Kind, Fingerprints: in.Fingerprints}
	if s.BootPublic, err = read(BootPublic); err != nil {
		return nil, err
	}
	if b, err = read(BootKey); err != nil {
		return nil, err
	}
	if s.Boot, err = parseBootKey(b); err != nil {
		return nil, fmt.Errorf("key set: %s: %w", filepath.Join(dir, BootKey), err)
	}
	if public, err := s.Boot.public(); err != nil || !bytes.Equal(public, s.BootPublic) {
		return nil, fmt.Errorf("key set: %s is not the public key of %s", filepath.Join(dir, BootPublic), BootKey)
	}
	for _, name := range []string{SecureBootKey, SecureBootCert} {
		if _, err := read(name); err != nil {
			return nil, err
		}
	}
	s.SecureBoot, s.Certificate, err = readSecureBoot(filepath.Join(dir, SecureBootKey), filepath.Join(dir, SecureBootCert))
	if err != nil {
		return nil, fmt.Errorf("key set: %w", err)
	}
	if s.Updates, err = LoadUpdates(dir); err != nil {
		return nil, err
	}
	return s, nil
}

// A BootSigner makes the signatures that GRUB checks.
type BootSigner struct {
	entity *openpgp.Entity
}

func newBootKey(kind release.Keys, now time.Time) (*BootSigner, error) {
	e, err := openpgp.NewEntity("CloudLink Gateway boot", string(kind), "", &packet.Config{
		Algorithm: packet.PubKeyAlgoRSA, RSABits: 3072,
		Time:        func() time.Time { return now },
		DefaultHash: crypto.SHA512,
		V6Keys:      false,
	})
	if err != nil {
		return nil, err
	}
	e.Subkeys = nil // it only signs
	return &BootSigner{e}, nil
}

func parseBootKey(b []byte) (*BootSigner, error) {
	ring, err := openpgp.ReadArmoredKeyRing(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	if len(ring) != 1 || ring[0].PrivateKey == nil {
		return nil, errors.New("want one OpenPGP private key in it")
	}
	if ring[0].PrivateKey.Encrypted {
		return nil, errors.New("it is protected by a passphrase: remove it (gpg --edit-key … passwd)")
	}
	if _, ok := ring[0].PrivateKey.PrivateKey.(*rsa.PrivateKey); !ok || ring[0].PrivateKey.Version != 4 {
		return nil, errors.New("want an RSA key of version 4: GRUB reads no other")
	}
	return &BootSigner{ring[0]}, nil
}

// encode returns the private key armored and the public key binary.
func (s *BootSigner) encode() (private, public []byte, err error) {
	var b bytes.Buffer
	w, err := armor.Encode(&b, openpgp.PrivateKeyType, nil)
	if err != nil {
		return nil, nil, err
	}
	if err := s.entity.SerializePrivateWithoutSigning(w, nil); err != nil {
		return nil, nil, err
	}
	if err := w.Close(); err != nil {
		return nil, nil, err
	}
	public, err = s.public()
	return append(b.Bytes(), '\n'), public, err
}

// public returns the public key in the form that GRUB reads.
func (s *BootSigner) public() ([]byte, error) {
	var b bytes.Buffer
	if err := s.entity.Serialize(&b); err != nil {
		return nil, err
	}
	return reframe(&b)
}
