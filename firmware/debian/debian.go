// Package debian fetches packages of another architecture with the host's own sources and keys:
// nothing is installed, no foreign architecture is added to the host, and root is not needed.
// Which version went into an image is written in a lock.
package debian

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Arch is Debian's name of the architecture we build for.
const Arch = "arm64"

// A Package is one version of one package.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Source  string `json:"source"` // the source package it was built from
	SHA256  string `json:"sha256"` // of the .deb
	Size    int64  `json:"size"`   // of the .deb
}

// A Lock lists the packages that images are made with.
type Lock struct {
	Packages []Package `json:"packages"`
}

// Find returns the locked version of a package.
func (l Lock) Find(name string) (Package, bool) {
	for _, p := range l.Packages {
		if p.Name == name {
			return p, true
		}
	}
	return Package{}, false
}

// ReadLock reads a lock file.
func ReadLock(file string) (Lock, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return Lock{}, fmt.Errorf("read lock: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	var l Lock
	if err := d.Decode(&l); err != nil {
		return Lock{}, fmt.Errorf("read lock %s: %w", file, err)
	}
	return l, nil
}

// Encode returns the lock as its file has it.
func (l Lock) Encode() []byte {
	slices.SortFunc(l.Packages, func(a, b Package) int { return strings.Compare(a.Name, b.Name) })
	b, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		panic(err) // strings and numbers only
	}
	return append(b, '\n')
}

// ErrGone says that the sources have no more what the lock names.
var ErrGone = errors.New("the package sources have it no more")

// A Store keeps fetched packages in Dir, under names that carry their hash.
type Store struct {
	Dir string
	Log func(format string, args ...any) // progress

	updated bool // package lists were renewed by this program
}

func (s *Store) file(p Package) string {
	return filepath.Join(s.Dir, fmt.Sprintf("%s_%s_%.16s.deb", p.Name, strings.ReplaceAll(p.Version, ":", "%3a"), p.SHA256))
}

// Get returns the file of just this package, from the store or from the network.
func (s *Store) Get(ctx context.Context, p Package) (string, error) {
	file := s.file(p)
	if sum, _, err := hash(file); err == nil && sum == p.SHA256 {
		return file, nil
	}
	if err := s.update(ctx); err != nil {
		return "", err
	}
	s.Log("fetching %s %s (%s)", p.Name, p.Version, Arch)
	tmp, err := s.download(ctx, p.Name+"="+p.Version)
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(filepath.Dir(tmp))
	sum, size, err := hash(tmp)
	if err != nil {
		return "", err
	}
	if sum != p.SHA256 || size != p.Size {
		return "", fmt.Errorf("%s %s: sha256 is %s, the lock wants %s", p.Name, p.Version, sum, p.SHA256)
	}
	return file, os.Rename(tmp, file)
}

// GetOrNewest returns the file of the locked package p or, where the sources have that version no
// more or the lock names none, the newest version and its file.
func (s *Store) GetOrNewest(ctx context.Context, p Package) (Package, string, error) {
	if p.SHA256 != "" {
		file, err := s.Get(ctx, p)
		if !errors.Is(err, ErrGone) {
			return p, file, err
		}
	}
	p, err := s.Newest(ctx, p.Name)
	if err != nil {
		return p, "", err
	}
	return p, s.file(p), nil
}

// Newest fetches the newest version there is.
func (s *Store) Newest(ctx context.Context, name string) (Package, error) {
	if err := s.update(ctx); err != nil {
		return Package{}, err
	}
	s.Log("fetching the newest %s (%s)", name, Arch)
	tmp, err := s.download(ctx, name)
	if err != nil {
		return Package{}, err
	}
	defer os.RemoveAll(filepath.Dir(tmp))
	p := Package{Name: name}
	if p.SHA256, p.Size, err = hash(tmp); err != nil {
		return Package{}, err
	}
	fields, err := s.fields(ctx, name)
	if err != nil {
		return Package{}, err
	}
	p.Version, p.Source = fields["Version"], fields["Source"]
	if p.Source == "" {
		p.Source = name
	}
	p.Source, _, _ = strings.Cut(p.Source, " ") // "grub2 (2.06-13)" where the versions differ
	if p.Version == "" {
		return Package{}, fmt.Errorf("%s: apt-cache names no version", name)
	}
	return p, os.Rename(tmp, s.file(p))
}

// fields reads the fields of the candidate version of a package.
func (s *Store) fields(ctx context.Context, name string) (map[string]string, error) {
	out, err := s.apt(ctx, "apt-cache", "show", "--no-all-versions", name)
	if err != nil {
		return nil, err
	}
	fields := map[string]string{}
	for lines := bufio.NewScanner(strings.NewReader(out)); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), ": "); ok && !strings.HasPrefix(name, " ") {
			fields[name] = value
		}
	}
	return fields, nil
}

// update renews the package lists, once.
func (s *Store) update(ctx context.Context) error {
	if s.updated {
		return nil
	}
	for _, d := range []string{"lists/partial", "archives/partial"} {
		if err := os.MkdirAll(filepath.Join(s.Dir, "apt", d), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(s.Dir, "apt", "status"), nil, 0o644); err != nil {
		return err
	}
	// Only what Debian itself released is taken, whatever else the host's sources name.
	const pins = "Package: *\nPin: release o=Debian\nPin-Priority: 900\n\nPackage: *\nPin: release *\nPin-Priority: -1\n"
	if err := os.WriteFile(filepath.Join(s.Dir, "apt", "preferences"), []byte(pins), 0o644); err != nil {
		return err
	}
	s.Log("renewing Debian's package lists for %s", Arch)
	// A source that fails (a third party's, say) need not matter: what is missing, download says.
	_, err := s.apt(ctx, "apt-get", "-q", "update")
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	s.updated = true
	return nil
}

// download fetches NAME or NAME=VERSION into a new directory of its own.
func (s *Store) download(ctx context.Context, spec string) (string, error) {
	dir, err := os.MkdirTemp(s.Dir, ".fetch")
	if err != nil {
		return "", err
	}
	if out, err := s.aptIn(ctx, dir, "apt-get", "-q", "download", spec); err != nil {
		os.RemoveAll(dir)
		switch {
		case ctx.Err() != nil:
			return "", ctx.Err()
		case strings.Contains(out, "was not found"), strings.Contains(out, "Unable to locate"),
			strings.Contains(out, "can only be downloaded"), strings.Contains(out, "no installation candidate"),
			strings.Contains(out, "404"):
			return "", fmt.Errorf("%s: %w", spec, ErrGone)
		}
		return "", fmt.Errorf("fetch %s: %w: is there a network, and a Debian source in /etc/apt?", spec, err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(files) != 1 {
		os.RemoveAll(dir)
		return "", fmt.Errorf("fetch %s: apt-get left %d files", spec, len(files))
	}
	return files[0], nil
}

func (s *Store) apt(ctx context.Context, name string, args ...string) (string, error) {
	return s.aptIn(ctx, "", name, args...)
}

// aptIn runs one of apt's programs on lists of our own, in dir. The text it returns is all that
// the program said.
func (s *Store) aptIn(ctx context.Context, dir, name string, args ...string) (string, error) {
	own, err := filepath.Abs(filepath.Join(s.Dir, "apt"))
	if err != nil {
		return "", err
	}
	var options []string
	for _, o := range []string{
		"APT::Architecture=" + Arch,
		"APT::Architectures=" + Arch,
		"APT::Sandbox::User=", // as whoever runs us: the directory need not be open to apt's user
		"Acquire::Languages=none",
		"Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
		"Acquire::Retries=3",
		"Dir::State=" + own,
		"Dir::State::Lists=" + filepath.Join(own, "lists"),
		"Dir::State::status=" + filepath.Join(own, "status"),
		"Dir::Cache=" + own,
		"Dir::Cache::archives=" + filepath.Join(own, "archives"),
		"Dir::Etc::preferences=" + filepath.Join(own, "preferences"),
		"Dir::Etc::preferencesparts=/dev/null",
	} {
		options = append(options, "-o", o)
	}
	cmd := exec.CommandContext(ctx, name, append(options, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	if err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return "", fmt.Errorf("%s is missing: install the package apt (scripts/setup run does)", name)
		}
		return string(out), fmt.Errorf("%s: %w: %s", name, err, lastLine(out))
	}
	return string(out), nil
}

func lastLine(b []byte) string {
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}

// hash returns a file's sha256 and size.
func hash(file string) (string, int64, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return fmt.Sprintf("%x", h.Sum(nil)), n, err
}

// Files reads the named files out of a package's file. Every one of them must be there.
func Files(file string, names ...string) (map[string][]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	found := map[string][]byte{}
	err = Walk(f, func(name string, content []byte) error {
		if slices.Contains(names, name) {
			found[name] = content
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	for _, name := range names {
		if _, ok := found[name]; !ok {
			return nil, fmt.Errorf("%s: no file %s in it: %w", file, name, fs.ErrNotExist)
		}
	}
	return found, nil
}

// Unpack writes the files of a package below prefix into dir, without their folders.
func Unpack(file, prefix, dir string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	err = Walk(f, func(name string, content []byte) error {
		if filepath.Dir(name) != prefix {
			return nil
		}
		return os.WriteFile(filepath.Join(dir, filepath.Base(name)), content, 0o644)
	})
	if err != nil {
		return fmt.Errorf("unpack %s: %w", file, err)
	}
	return nil
}
