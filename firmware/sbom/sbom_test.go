package sbom_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/CycloneDX/cyclonedx-go"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"cloudlink.local/gateway/firmware/debian"
	"cloudlink.local/gateway/firmware/notices"
	"cloudlink.local/gateway/firmware/sbom"
	"cloudlink.local/gateway/initramfs"
	"cloudlink.local/gateway/internal/release"
)

const root = "../.."

// deb makes a Debian package that holds just these files.
func deb(t *testing.T, p debian.Package, files map[string]string) sbom.Deb {
	t.Helper()
	var data bytes.Buffer
	z := gzip.NewWriter(&data)
	w := tar.NewWriter(z)
	for name, content := range files {
		if err := w.WriteHeader(&tar.Header{Name: "./" + name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	b := fmt.Appendf(nil, "!<arch>\n%-16s%-12d%-6d%-6d%-8s%-10d`\n%s", "data.tar.gz", 0, 0, 0, "100644", data.Len(), data.Bytes())
	file := filepath.Join(t.TempDir(), p.Name+".deb")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return sbom.Deb{Package: p, File: file}
}

func collect(t *testing.T) []sbom.Component {
	t.Helper()
	sum := strings.Repeat("0123456789abcdef", 4)
	components, err := sbom.Collect(t.Context(), root, []sbom.Deb{
		deb(t, debian.Package{Name: "systemd-boot-efi", Version: "252.39-1~deb12u2+b1", Source: "systemd", SHA256: sum},
			map[string]string{"usr/share/doc/systemd-boot-efi/copyright": "systemd's copyright file"}),
		deb(t, debian.Package{Name: "grub-efi-arm64-bin", Version: "2.06-13+deb12u2", Source: "grub2", SHA256: sum}, nil),
	})
	if err != nil {
		t.Fatal(err)
	}
	return components
}

var testRelease = release.Release{
	Product: release.Product, Board: "qemu-virt", Version: "1.2.3",
	BuildTime: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC), Keys: release.Development,
}

func TestListsEverything(t *testing.T) {
	components := collect(t)
	byName := make(map[string]sbom.Component)
	for _, c := range components {
		byName[c.Name] = c
		if c.Version == "" || c.Licence == "" || len(c.Texts) == 0 || c.PURL == "" {
			t.Errorf("incomplete: %s %q, licence %q, %d texts, %q", c.Name, c.Version, c.Licence, len(c.Texts), c.PURL)
		}
		t.Logf("%-60s %s", c.PURL, c.Licence)
	}
	for name, licence := range map[string]string{
		"std":                                    "BSD-3-Clause",
		"tzdata":                                 "Public domain",
		"linux":                                  "GPL-2.0-only WITH Linux-syscall-note",
		"grub-efi-arm64-bin":                     "GPL-3.0-or-later",
		"systemd-boot-efi":                       "LGPL-2.1-or-later AND BSD-3-Clause AND BSD-2-Clause",
		"github.com/u-root/u-root":               "BSD-3-Clause",
		"github.com/google/renameio/v2":          "Apache-2.0",
		"htmx.org":                               "0BSD",
		"golang.org/x/crypto/x509roots/fallback": "BSD-3-Clause AND MPL-2.0",
	} {
		if got := byName[name]; got.Licence != licence {
			t.Errorf("%s has licence %q, want %q", name, got.Licence, licence)
		}
	}
	stub := byName["systemd-boot-efi"]
	if *stub.Source != (sbom.Source{Package: "systemd", Version: "252.39-1~deb12u2", Upstream: stub.Source.Upstream}) {
		t.Errorf("the stub's source: %+v", stub.Source)
	}
	if !slices.Contains(stub.Texts, "systemd's copyright file\n") {
		t.Error("the package's own copyright file is not among the texts")
	}
	if s := byName["linux"].Source; s == nil || !strings.HasPrefix(s.Package, "linux") || strings.Contains(s.Package, "source") {
		t.Errorf("the kernel's source: %+v", s)
	}
}

// What go list says must be what the linker did.
func TestListsJustWhatInitIsLinkedOf(t *testing.T) {
	init := filepath.Join(t.TempDir(), "init")
	if err := initramfs.BuildInit(t.Context(), init); err != nil {
		t.Fatal(err)
	}
	info, err := buildinfo.ReadFile(init)
	if err != nil {
		t.Fatal(err)
	}
	var linked, listed []string
	for _, m := range info.Deps {
		if m.Replace != nil && m.Replace.Version == "(devel)" {
			continue // ours, in the place of another
		}
		linked = append(linked, m.Path+" "+m.Version)
	}
	for _, c := range collect(t) {
		if slices.Contains(c.UsedBy, "init") && strings.HasPrefix(c.PURL, "pkg:golang/") && c.Name != "std" {
			listed = append(listed, c.Name+" "+c.Version)
		}
	}
	slices.Sort(linked)
	slices.Sort(listed)
	if len(linked) == 0 || !slices.Equal(linked, listed) {
		t.Errorf("linked: %q\nlisted: %q", linked, listed)
	}
}

func TestIsValidCycloneDX(t *testing.T) {
	components := collect(t)
	one, err := sbom.Encode(testRelease, components)
	if err != nil {
		t.Fatal(err)
	}
	two, err := sbom.Encode(testRelease, components)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one, two) {
		t.Error("the second time it is another text")
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(one))
	if err != nil {
		t.Fatal(err)
	}
	if err := schema(t).Validate(doc); err != nil {
		t.Errorf("%v\n%s", err, one)
	}

	var bom cyclonedx.BOM
	if err := cyclonedx.NewBOMDecoder(bytes.NewReader(one), cyclonedx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	if bom.Metadata.Timestamp != "2026-11-01T12:00:00Z" || bom.Metadata.Component.Version != "1.2.3" || len(*bom.Components) != len(components) {
		t.Errorf("decoded: %+v with %d components", bom.Metadata, len(*bom.Components))
	}
	other := testRelease
	other.Version = "1.2.4"
	three, err := sbom.Encode(other, components)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(three, []byte(bom.SerialNumber)) {
		t.Error("another release has the same serial number")
	}
}

// schema is CycloneDX's own, out of its Go module.
func schema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/CycloneDX/cyclonedx-go").Output()
	if err != nil {
		t.Fatal(err)
	}
	const base = "http://cyclonedx.org/schema/"
	c := jsonschema.NewCompiler()
	for name, file := range map[string]string{
		"bom-1.6.schema.json":  "bom-1.6.schema.json",
		"spdx.schema.json":     "spdx.schema.json",
		"jsf-0.82.schema.json": "jsf-0.82.schemax.json",
	} {
		f, err := os.Open(filepath.Join(strings.TrimSpace(string(dir)), "schema", file))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		doc, err := jsonschema.UnmarshalJSON(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.AddResource(base+name, doc); err != nil {
			t.Fatal(err)
		}
	}
	s, err := c.Compile(base + "bom-1.6.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestNoticesOfItAreSmall(t *testing.T) {
	components := collect(t)
	b, err := notices.Write(components)
	if err != nil {
		t.Fatal(err)
	}
	text := notices.Text(components)
	t.Logf("%d bytes, %d compressed", len(text), len(b))
	if len(b) > 150<<10 {
		t.Errorf("%d bytes compressed, at most 150 KiB wanted", len(b))
	}
	for _, want := range []string{"GNU GENERAL PUBLIC LICENSE", "apt-get source grub2=2.06-13+deb12u2", "apt-get source linux", "Linus Torvalds"} {
		if !strings.Contains(text, want) {
			t.Errorf("it does not say %q", want)
		}
	}
	for i, line := range strings.Split(text, "\n") {
		if strings.Contains(line, filepath.Dir(t.TempDir())) || strings.Contains(line, "/pkg/mod/") {
			t.Errorf("line %d names a place on this machine: %s", i+1, line)
		}
	}
}
