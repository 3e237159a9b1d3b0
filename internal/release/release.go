// Package release says what is running: product, board, version and whose keys signed it.
// The image builder writes it, every other program reads it.
package release

import (
	"encoding/json"
	"fmt"
	"os"
	"time"
)

// Product is the one product this repository makes; a slot made for another is refused.
const Product = "cloudlink-gateway"

// File is where the image builder puts the running system's Release inside the initramfs.
const File = "/etc/cloudlink/release.json"

// UpdateRoot is where it puts the update repository's root metadata: whose updates are believed.
const UpdateRoot = "/etc/cloudlink/update-root.json"

// A Release names one build of the firmware.
type Release struct {
	Product   string    `json:"product"`
	Board     string    `json:"board"`
	Version   string    `json:"version"`
	BuildTime time.Time `json:"build_time"` // UTC; also the floor of the device's clock
	Keys      Keys      `json:"keys"`
}

// Keys says which kind of key set signed the image.
type Keys string

// Development keys lie on a developer's disk: whoever has them can sign an image, so pages and
// console say so, and the console offers a root shell.
const (
	Development Keys = "development"
	Production  Keys = "production"
)

// A Manifest lies beside a slot's UKI and tells what the slot holds.
type Manifest struct {
	Release
	Files []ManifestFile `json:"files"`
}

// A ManifestFile is one file of a slot.
type ManifestFile struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`   // bytes
	SHA256 string `json:"sha256"` // lower-case hex
}

// Load reads a Release from path.
func Load(path string) (Release, error) {
	var r Release
	b, err := os.ReadFile(path)
	if err != nil {
		return r, fmt.Errorf("read release: %w", err)
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("read release: %s: %w", path, err)
	}
	return r, nil
}

// ParseManifest reads a slot's manifest.
func ParseManifest(b []byte) (Manifest, error) {
	var m Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("read manifest: %w", err)
	}
	return m, nil
}
