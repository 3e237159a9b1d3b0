// Package kernel reads what is recorded about the committed kernel: its lock (kernel.lock) and its
// configuration (kernel.config).
// The kernel itself, vmlinuz.efi, is made by the script build beside this file.
package kernel

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A Lock tells what the committed kernel was made from and what came out.
type Lock struct {
	Package      string            `json:"package"`       // Debian's source package
	Version      string            `json:"version"`       // of the package
	SourceSHA256 string            `json:"source_sha256"` // of the tarball in it
	Upstream     string            `json:"upstream"`      // Linux version, from the source itself
	Toolchain    map[string]string `json:"toolchain"`     // package name → version
	Fragments    map[string]string `json:"fragments"`     // file in config/ → sha256
	Release      string            `json:"release"`       // what `uname -r` shows
	ConfigSHA256 string            `json:"config_sha256"`
	SHA256       string            `json:"sha256"` // of vmlinuz.efi
	Size         int64             `json:"size"`   // of vmlinuz.efi
}

// ReadLock reads kernel.lock in dir.
func ReadLock(dir string) (Lock, error) {
	f, err := os.Open(filepath.Join(dir, "kernel.lock"))
	if err != nil {
		return Lock{}, fmt.Errorf("read kernel lock: %w", err)
	}
	defer f.Close()
	d := json.NewDecoder(f)
	d.DisallowUnknownFields()
	var l Lock
	if err := d.Decode(&l); err != nil {
		return Lock{}, fmt.Errorf("read kernel lock: %w", err)
	}
	return l, nil
}

// ParseConfig reads a kernel configuration, such as /proc/config.gz unpacked, into symbol → value.
// Names keep their CONFIG_, values their quotes. "# CONFIG_X is not set" is recorded as "n".
func ParseConfig(r io.Reader) (map[string]string, error) {
	config := make(map[string]string)
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if name, ok := strings.CutPrefix(line, "# "); ok {
			if name, ok := strings.CutSuffix(name, " is not set"); ok && strings.HasPrefix(name, "CONFIG_") {
				config[name] = "n"
				continue
			}
		}
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if !ok || !strings.HasPrefix(name, "CONFIG_") {
			return nil, fmt.Errorf("parse kernel configuration: line %d: %q is no setting", n, line)
		}
		config[name] = value
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("parse kernel configuration: %w", err)
	}
	return config, nil
}

// CheckFragments returns an error that lists every setting of the fragments which does not hold in
// config. A symbol that config does not mention is off.
func CheckFragments(config map[string]string, fragments ...io.Reader) error {
	var wrong []error
	for _, r := range fragments {
		want, err := ParseConfig(r)
		if err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(want)) {
			have, ok := config[name]
			if !ok {
				have = "n"
			}
			if have != want[name] {
				wrong = append(wrong, fmt.Errorf("%s is %s, not %s", name, have, want[name]))
			}
		}
	}
	return errors.Join(wrong...)
}
