package image

import (
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
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"cloudlink.local/gateway/firmware/boards"
	"cloudlink.local/gateway/firmware/debian"
	"cloudlink.local/gateway/firmware/grub"
)

// tools are the host's programs whose versions can change the bytes of an image, by their packages.
var tools = []string{"grub-common", "dosfstools", "mtools", "e2fsprogs"}

// sources are the parts of the tree that images are made of, generously.
var sources = []string{"cmd", "internal", "initramfs", "firmware", "go.mod", "go.sum"}

// inputs returns a digest of all that an image depends on. The same digest, the same image.
func (b *builder) inputs(ctx context.Context) (string, error) {
	h := sha256.New()
	out, err := json.Marshal(b.release)
	if err != nil {
		return "", err
	}
	versions, err := toolVersions(ctx)
	if err != nil {
		return "", err
	}
	fmt.Fprintf(h, "%s\n%s\n%v\n%s\n", out, runtime.Version(), versions, b.board.CommandLine)
	paths := []string{b.board.Dir, b.kernel, b.keys.Dir}
	if b.Init != "" {
		paths = append(paths, b.Init)
	}
	for _, s := range sources {
		paths = append(paths, filepath.Join(b.Root, s))
	}
	for _, p := range paths {
		if err := hashTree(h, p); err != nil {
			return "", fmt.Errorf("read inputs: %w", err)
		}
	}
	return fmt.Sprintf("%x\n", h.Sum(nil)), nil
}

// hashTree adds a file, or the files below a folder, but no tests.
func hashTree(h io.Writer, root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if d.Name() == "testdata" || d.Name() == ".git" || d.Name() == "node_modules" {
				return fs.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		content, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // an editor's temporary file
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%s %x\n", rel, sha256.Sum256(content))
		return nil
	})
}

// toolVersions asks dpkg for the versions of the host's tools.
func toolVersions(ctx context.Context) (map[string]string, error) {
	args := append([]string{"-W", "-f", "${Package} ${db:Status-Status} ${Version}\n"}, tools...)
	out, err := exec.CommandContext(ctx, "dpkg-query", args...).Output()
	if errors.Is(err, exec.ErrNotFound) {
		return nil, errors.New("dpkg-query is missing: images are built on Debian")
	}
	versions := map[string]string{}
	for _, l := range strings.Split(string(out), "\n") {
		if f := strings.Fields(l); len(f) == 3 && f[1] == "installed" {
			versions[f[0]] = f[2]
		}
	}
	for _, t := range tools {
		if versions[t] == "" {
			return nil, fmt.Errorf("the package %s is not installed: scripts/setup run does it", t)
		}
	}
	return versions, nil
}

// needed returns the Debian packages that a board's image is made with.
func needed(board boards.Board) []string {
	names := []string{grub.Package, stubPackage}
	for _, blob := range board.Blobs {
		if blob.Package != "" && !slices.Contains(names, blob.Package) {
			names = append(names, blob.Package)
		}
	}
	return names
}

// fetch gets the packages: the locked versions or, where Debian has replaced them meanwhile and
// nobody insists, the newest.
func (b *builder) fetch(ctx context.Context) error {
	lock, err := debian.ReadLock(filepath.Join(b.Root, lockPath))
	if err != nil {
		return err
	}
	store, err := newStore(b.cache, b.Log)
	if err != nil {
		return err
	}
	const cure = "go run ./firmware lock update"
	for _, name := range needed(b.board) {
		p, locked := lock.Find(name)
		p.Name = name
		why := "is not in " + lockPath
		if locked {
			why = p.Version + " is in " + lockPath + ", but Debian has it no more"
		}
		got, file := p, ""
		switch {
		case !b.Locked:
			got, file, err = store.GetOrNewest(ctx, p)
		case locked:
			file, err = store.Get(ctx, p)
		}
		if b.Locked && (!locked || errors.Is(err, debian.ErrGone)) {
			return fmt.Errorf("%s %s: run: %s", name, why, cure)
		}
		if err != nil {
			return err
		}
		if got != p {
			b.Log("warning: %s %s: using %s; to keep it: %s", name, why, got.Version, cure)
		}
		b.packages[name], b.debs[name] = got, file
	}
	return nil
}

func newStore(cache string, log func(string, ...any)) (*debian.Store, error) {
	dir := filepath.Join(cache, "debian")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return &debian.Store{Dir: dir, Log: log}, nil
}

// grubModules returns the folder with GRUB's modules, unpacked once.
func (b *builder) grubModules() (string, error) {
	dir := filepath.Join(b.cache, "grub-"+b.packages[grub.Package].SHA256[:16])
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	tmp, err := os.MkdirTemp(b.cache, ".grub-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err := debian.Unpack(b.debs[grub.Package], grub.ModulesDir, tmp); err != nil {
		return "", err
	}
	return dir, os.Rename(tmp, dir)
}

// UpdateLock writes the newest versions of all packages that any board needs into the lock.
func UpdateLock(ctx context.Context, root string, log func(string, ...any)) error {
	names, err := boards.List(filepath.Join(root, boardsPath))
	if err != nil {
		return err
	}
	var packages []string
	for _, n := range names {
		board, err := boards.Load(filepath.Join(root, boardsPath), n)
		if err != nil {
			return err
		}
		packages = append(packages, needed(board)...)
	}
	slices.Sort(packages)
	store, err := newStore(filepath.Join(root, "build", "cache"), log)
	if err != nil {
		return err
	}
	var lock debian.Lock
	for _, name := range slices.Compact(packages) {
		p, err := store.Newest(ctx, name)
		if err != nil {
			return err
		}
		log("%s %s", p.Name, p.Version)
		lock.Packages = append(lock.Packages, p)
	}
	file := filepath.Join(root, lockPath)
	if err := os.WriteFile(file+".new", lock.Encode(), 0o644); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// gitVersion makes a version of `git describe`: v1.2.3 → 1.2.3. Four commits later it is
// 1.2.4-dev.4+gabc1234: newer than that tag, older than the next. Without any tag all commits count:
// 0.0.0-dev.250+gabc1234. What is not committed says .dirty.
func gitVersion(ctx context.Context, root string) string {
	git := func(args ...string) (string, error) {
		out, err := exec.CommandContext(ctx, "git", append([]string{"-C", root}, args...)...).Output()
		return strings.TrimSpace(string(out)), err
	}
	describe, err := git("describe", "--tags", "--long", "--always", "--dirty", "--match", "v[0-9]*")
	if err != nil {
		return "0.0.0-dev"
	}
	count, err := git("rev-list", "--count", "HEAD")
	if err != nil {
		return "0.0.0-dev"
	}
	return versionFrom(describe, count)
}

// described is a tag, the commits since and the last of them.
var described = regexp.MustCompile(`^v(([0-9]+\.[0-9]+\.)([0-9]+)(-[0-9A-Za-z.-]+)?)-([0-9]+)-(g[0-9a-f]+)$`)

func versionFrom(describe, count string) string {
	plain, dirty := strings.CutSuffix(describe, "-dirty")
	v := "0.0.0-dev." + count + "+g" + plain
	if m := described.FindStringSubmatch(plain); m != nil {
		tag, minor, patch, pre, since, commit := m[1], m[2], m[3], m[4], m[5], m[6]
		switch n, err := strconv.Atoi(patch); {
		case since == "0":
			v = tag
		case pre != "" || err != nil: // 1.3.0-rc.1.dev.4 is newer than 1.3.0-rc.1, older than 1.3.0-rc.2
			v = tag + ".dev." + since + "+" + commit
		default:
			v = minor + strconv.Itoa(n+1) + "-dev." + since + "+" + commit
		}
	}
	if dirty && strings.Contains(v, "+") {
		v += ".dirty"
	} else if dirty {
		v += "+dirty"
	}
	return v
}

// gitTime is the time of the last commit: the same for everybody who builds it.
func gitTime(ctx context.Context, root string) (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		out, err := exec.CommandContext(ctx, "git", "-C", root, "log", "-1", "--format=%ct").Output()
		if err != nil {
			return time.Time{}, errors.New("the time of the last commit is not to be had from git: give a time with -build-time 2026-01-31T00:00:00Z")
		}
		text = string(bytes.TrimSpace(out))
	}
	sec, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("build time %q: want seconds since 1970", text)
	}
	return time.Unix(sec, 0), nil
}
