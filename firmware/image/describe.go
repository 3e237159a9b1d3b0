package image

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"cloudlink.local/gateway/firmware/debian"
	"cloudlink.local/gateway/firmware/sbom"
	"cloudlink.local/gateway/internal/release"
)

// A lockFile is what cloudlink.lock.json says: what this very image was made from.
type lockFile struct {
	Release      release.Release   `json:"release"`
	Go           string            `json:"go"`
	KernelSHA256 string            `json:"kernel_sha256"`
	Debian       []debian.Package  `json:"debian"`     // unpacked into the image
	HostTools    map[string]string `json:"host_tools"` // ran on the build machine: package → version
	Keys         map[string]string `json:"keys"`       // public key → fingerprint
}

// describe writes what the image was made from.
func (b *builder) describe(ctx context.Context) error {
	versions, err := toolVersions(ctx)
	if err != nil {
		return err
	}
	kernel, err := os.ReadFile(b.kernel)
	if err != nil {
		return err
	}
	l := lockFile{
		Release: b.release, Go: runtime.Version(), KernelSHA256: fmt.Sprintf("%x", sha256.Sum256(kernel)),
		HostTools: versions, Keys: b.keys.Fingerprints,
	}
	for _, p := range b.packages {
		l.Debian = append(l.Debian, p)
	}
	slices.SortFunc(l.Debian, func(a, b debian.Package) int { return strings.Compare(a.Name, b.Name) })
	text, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return err
	}
	files := map[string][]byte{Lock: append(text, '\n')}
	if b.Init == "" {
		if files[SBOM], err = sbom.Encode(b.release, b.components); err != nil {
			return fmt.Errorf("write bill of materials: %w", err)
		}
	}
	return b.write(files)
}
