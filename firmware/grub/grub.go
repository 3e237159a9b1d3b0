// Package grub makes the boot loader: Debian's GRUB with our script, our public key and no more
// modules than the script needs, as one EFI program.
package grub

import (
	"archive/tar"
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// script is the loader's rules.
//
//go:embed grub.cfg
var script []byte

// early is run by GRUB's core, which knows neither conditions nor functions: it hands over to the
// script, and should that end it waits before it starts again.
//
//go:embed early.cfg
var early []byte

// Debian's package with GRUB's modules, and the folder in it.
const (
	Package    = "grub-efi-arm64-bin"
	ModulesDir = "usr/lib/grub/arm64-efi"
)

var modules = []string{
	"part_gpt", "fat", // the disk
	"memdisk", "tar", // where the script is
	"normal", "test", "true", "regexp", "echo", "sleep", "loadenv", // what it is written in
	"chain", "boot", "reboot", // what it ends in
	"pgp", "gcry_rsa", "gcry_sha512", // what a slot is checked with
}

// Build returns the loader, made from the modules in dir, which trusts the OpenPGP public key.
func Build(ctx context.Context, dir string, publicKey []byte) ([]byte, error) {
	tmp, err := os.MkdirTemp("", "grub")
	if err != nil {
		return nil, fmt.Errorf("make loader: %w", err)
	}
	defer os.RemoveAll(tmp)
	memdisk, err := archive(script)
	if err != nil {
		return nil, fmt.Errorf("make loader: %w", err)
	}
	for name, b := range map[string][]byte{"key": publicKey, "early.cfg": early, "memdisk": memdisk} {
		if err := os.WriteFile(filepath.Join(tmp, name), b, 0o600); err != nil {
			return nil, fmt.Errorf("make loader: %w", err)
		}
	}
	out := filepath.Join(tmp, "grub.efi")
	args := []string{
		"--format=arm64-efi", "--directory=" + dir, "--output=" + out, "--prefix=(memdisk)/",
		"--config=" + filepath.Join(tmp, "early.cfg"), "--memdisk=" + filepath.Join(tmp, "memdisk"),
		"--pubkey=" + filepath.Join(tmp, "key"),
		"--disable-shim-lock", // no shim: the firmware itself knows the key that signs us
	}
	cmd := exec.CommandContext(ctx, "grub-mkimage", append(args, modules...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	if msg, err := cmd.CombinedOutput(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return nil, errors.New("make loader: grub-mkimage is missing: install the package grub-common (scripts/setup run does)")
		}
		return nil, fmt.Errorf("make loader: grub-mkimage: %w: %s", err, strings.TrimSpace(string(msg)))
	}
	b, err := os.ReadFile(out)
	if err != nil {
		return nil, fmt.Errorf("make loader: %w", err)
	}
	return b, nil
}

// archive returns a tar file with the script in it, the same bytes every time.
func archive(script []byte) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	h := &tar.Header{Format: tar.FormatUSTAR, Typeflag: tar.TypeReg, Name: "grub.cfg", Mode: 0o644, Size: int64(len(script))}
	if err := w.WriteHeader(h); err != nil {
		return nil, err
	}
	if _, err := w.Write(script); err != nil {
		return nil, err
	}
	err := w.Close()
	return b.Bytes(), err
}
