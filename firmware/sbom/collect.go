package sbom

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/CycloneDX/cyclonedx-go"

	"cloudlink.local/gateway/firmware/debian"
	"cloudlink.local/gateway/firmware/kernel"
	"cloudlink.local/gateway/initramfs"
)

// A Component is one thing in the image that others wrote.
type Component struct {
	Type          cyclonedx.ComponentType
	Name, Version string
	PURL          string // package URL
	SHA256        string // hex; of a module as go.sum has it, else of the file or package
	Licence       string // SPDX expression, or plain words
	Texts         []string
	UsedBy        []string
	Source        *Source // where its source is to be had, if the licence asks for that
}

// A Source is a Debian source package.
type Source struct{ Package, Version, Upstream string }

// A Deb is a Debian package that files of the image come from.
type Deb struct {
	debian.Package
	File string // the .deb
}

// ErrLicence says that a component cannot be shipped before a person has read its licence.
var ErrLicence = errors.New("read its licence and name it in firmware/sbom/known.toml")

//go:embed known.toml
var knownTOML string

// known is what known.toml says.
type known struct {
	Module map[string]knownLicence
	Debian map[string]knownLicence
}

type knownLicence struct {
	Licence, Upstream string
	Texts             []string
}

// Collect lists what is in an image: the source tree is in root, its Debian packages are debs.
func Collect(ctx context.Context, root string, debs []Deb) ([]Component, error) {
	var k known
	meta, err := toml.Decode(knownTOML, &k)
	if err != nil {
		return nil, fmt.Errorf("read known.toml: %w", err)
	}
	if u := meta.Undecoded(); len(u) > 0 {
		return nil, fmt.Errorf("read known.toml: unknown key %s", u[0])
	}
	var all []Component
	for _, part := range []func() ([]Component, error){
		func() ([]Component, error) { return goModules(ctx, k) },
		func() ([]Component, error) { return goItself(ctx) },
		func() ([]Component, error) { return linux(root, k) },
		func() ([]Component, error) { return debianPackages(debs, k) },
		func() ([]Component, error) { return webAssets(filepath.Join(root, "internal/portal/page")) },
	} {
		c, err := part()
		if err != nil {
			return nil, fmt.Errorf("list components: %w", err)
		}
		all = append(all, c...)
	}
	slices.SortFunc(all, func(a, b Component) int { return cmp.Compare(a.PURL, b.PURL) })
	return all, nil
}

func goModules(ctx context.Context, k known) ([]Component, error) {
	modules, err := initramfs.Modules(ctx)
	if err != nil {
		return nil, err
	}
	var all []Component
	for _, m := range modules {
		c := Component{
			Type: cyclonedx.ComponentTypeLibrary, Name: m.Path, Version: m.Version,
			PURL: purl("golang", m.Path, m.Version), UsedBy: m.UsedBy,
		}
		sum, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(m.Sum, "h1:"))
		if err != nil || len(sum) != sha256.Size {
			return nil, fmt.Errorf("%s %s: checksum %q in go.sum", m.Path, m.Version, m.Sum)
		}
		c.SHA256 = fmt.Sprintf("%x", sum)
		if err := c.readLicences(m, k.Module[m.Path]); err != nil {
			return nil, fmt.Errorf("%s %s: %w", m.Path, m.Version, err)
		}
		all = append(all, c)
	}
	return all, nil
}

var (
	licenceFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|unlicense)([.-].*)?$`)
	noticeFile  = regexp.MustCompile(`(?i)^notice([.-].*)?$`)
)

// readLicences reads the licence files of a module: in its root, and beside and above the packages
// that are used, where copied code keeps its own.
func (c *Component) readLicences(m initramfs.Module, known knownLicence) error {
	var ids []string
	for _, dir := range foldersOf(m) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			isLicence := licenceFile.MatchString(e.Name())
			if !e.Type().IsRegular() || !isLicence && !noticeFile.MatchString(e.Name()) || path.Ext(e.Name()) == ".go" {
				continue
			}
			b, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				return err
			}
			c.addText(string(b))
			if !isLicence || known.Licence != "" {
				continue
			}
			id, err := Detect(string(b))
			if err != nil {
				return fmt.Errorf("%s: %w: %w", e.Name(), err, ErrLicence)
			}
			ids = append(ids, strings.Split(id, " AND ")...)
		}
	}
	slices.Sort(ids)
	c.Licence = cmp.Or(known.Licence, strings.Join(slices.Compact(ids), " AND "))
	if c.Licence == "" || len(c.Texts) == 0 {
		return fmt.Errorf("no licence file in %s: %w", m.Path, ErrLicence)
	}
	return c.addKnown(known)
}

// foldersOf returns a module's root and the folders between it and its used packages, sorted.
func foldersOf(m initramfs.Module) []string {
	folders := []string{m.Dir}
	for _, dir := range m.Packages {
		for ; len(dir) > len(m.Dir); dir = filepath.Dir(dir) {
			folders = append(folders, dir)
		}
	}
	slices.Sort(folders)
	return slices.Compact(folders)
}

func (c *Component) addText(t string) {
	if t = tidy(t); !slices.Contains(c.Texts, t) {
		c.Texts = append(c.Texts, t)
	}
}

// addKnown adds texts that are committed beside this file.
func (c *Component) addKnown(k knownLicence) error {
	for _, name := range k.Texts {
		t, err := text(name)
		if err != nil {
			return fmt.Errorf("known.toml names the text %s: %w", name, err)
		}
		c.addText(t)
	}
	return nil
}

// tidy takes what no reader sees out of a text, so that the same text is there once.
func tidy(s string) string {
	var lines []string
	for line := range strings.Lines(strings.ReplaceAll(s, "\r", "")) {
		line = strings.TrimRight(line, " \t\n\f")
		if line == "" && (len(lines) == 0 || lines[len(lines)-1] == "") {
			continue
		}
		lines = append(lines, line)
	}
	return strings.TrimRight(strings.Join(lines, "\n"), "\n") + "\n"
}

// goItself returns Go's standard library, which is part of every Go program, and its time zones.
func goItself(ctx context.Context) ([]Component, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT", "GOVERSION").Output()
	if err != nil {
		return nil, fmt.Errorf("go env: %w", err)
	}
	goroot, version, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	version = strings.TrimPrefix(strings.Fields(version)[0], "go")
	licence, err := os.ReadFile(filepath.Join(goroot, "LICENSE"))
	if err != nil {
		return nil, fmt.Errorf("read Go's licence: %w", err)
	}
	id, err := Detect(string(licence))
	if err != nil {
		return nil, fmt.Errorf("licence of Go: %w", err)
	}
	script, err := os.ReadFile(filepath.Join(goroot, "lib/time/update.bash"))
	if err != nil {
		return nil, fmt.Errorf("read version of Go's time zones: %w", err)
	}
	zones := regexp.MustCompile(`(?m)^DATA=(\S+)$`).FindSubmatch(script)
	if zones == nil {
		return nil, errors.New("read version of Go's time zones: lib/time/update.bash names none")
	}
	return []Component{{
		Type: cyclonedx.ComponentTypeLibrary, Name: "std", Version: version, PURL: purl("golang", "std", version),
		Licence: id, Texts: []string{tidy(string(licence))}, UsedBy: []string{"init", "console commands"},
	}, {
		Type: cyclonedx.ComponentTypeData, Name: "tzdata", Version: string(zones[1]), PURL: purl("generic", "tzdata", string(zones[1])),
		Licence: "Public domain", Texts: []string{"The time zone database of IANA is in the public domain.\n"}, UsedBy: []string{"init"},
	}}, nil
}

func linux(root string, k known) ([]Component, error) {
	l, err := kernel.ReadLock(filepath.Join(root, "firmware/kernel"))
	if err != nil {
		return nil, err
	}
	source := strings.Replace(l.Package, "linux-source-", "linux-", 1) // the one is built from the other
	c := Component{
		Type: cyclonedx.ComponentTypeOS, Name: "linux", Version: l.Upstream, SHA256: l.SourceSHA256,
		PURL: purl("deb", "debian/"+l.Package, l.Version),
	}
	return []Component{c}, c.fromDebian(source, l.Version, k)
}

// fromDebian fills in what known.toml says of a source package.
func (c *Component) fromDebian(source, version string, k known) error {
	known, ok := k.Debian[source]
	if !ok {
		return fmt.Errorf("source package %s of Debian: %w", source, ErrLicence)
	}
	c.Licence = known.Licence
	c.Source = &Source{Package: source, Version: version, Upstream: known.Upstream}
	return c.addKnown(known)
}

// rebuilt is what Debian adds to a version when a package is built anew from the same source.
var rebuilt = regexp.MustCompile(`\+b[0-9]+$`)

func debianPackages(debs []Deb, k known) ([]Component, error) {
	var all []Component
	for _, d := range debs {
		c := Component{
			Type: cyclonedx.ComponentTypeFirmware, Name: d.Name, Version: d.Version, SHA256: d.SHA256,
			PURL: purl("deb", "debian/"+d.Name, d.Version) + "?arch=" + debian.Arch,
		}
		copyright := "usr/share/doc/" + d.Name + "/copyright"
		files, err := debian.Files(d.File, copyright)
		if err == nil {
			c.addText(string(files[copyright]))
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err := c.fromDebian(d.Package.Source, rebuilt.ReplaceAllString(d.Version, ""), k); err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

// webAssets returns what the portal's pages were made with, from the list beside them.
func webAssets(dir string) ([]Component, error) {
	b, err := os.ReadFile(filepath.Join(dir, "vendor.json"))
	if err != nil {
		return nil, err
	}
	var list []struct {
		Name, Version, License, Source, File, SHA256 string
		LicenseFile                                  string `json:"license_file"`
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&list); err != nil {
		return nil, fmt.Errorf("read vendor.json: %w", err)
	}
	var all []Component
	for _, a := range list {
		content, err := os.ReadFile(filepath.Join(dir, a.File))
		if err != nil {
			return nil, err
		}
		if sum := fmt.Sprintf("%x", sha256.Sum256(content)); sum != a.SHA256 {
			return nil, fmt.Errorf("%s: sha256 is %s, vendor.json says %s", a.File, sum, a.SHA256)
		}
		licence, err := os.ReadFile(filepath.Join(dir, a.LicenseFile))
		if err != nil {
			return nil, err
		}
		if id, err := Detect(string(licence)); err != nil || id != a.License {
			return nil, fmt.Errorf("%s: vendor.json says licence %s, the file is %q (%v)", a.Name, a.License, id, err)
		}
		all = append(all, Component{
			Type: cyclonedx.ComponentTypeLibrary, Name: a.Name, Version: a.Version, PURL: purl("npm", a.Name, a.Version),
			SHA256: a.SHA256, Licence: a.License, Texts: []string{tidy(string(licence))}, UsedBy: []string{"portal pages"},
		})
	}
	return all, nil
}

// purl is a package URL. A name keeps its slashes.
func purl(kind, name, version string) string {
	parts := strings.Split(name, "/")
	for i, p := range parts {
		parts[i] = url.QueryEscape(p) // "@" and "+" too, which PathEscape leaves
	}
	return "pkg:" + kind + "/" + strings.Join(parts, "/") + "@" + url.QueryEscape(version)
}
