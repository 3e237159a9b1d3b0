package network

import (
	"bytes"
	"os"
)

// maxDNS is what a resolver reads of resolv.conf.
const maxDNS = 3

// replaceFile writes path so that a reader sees all of it or what was there before.
func replaceFile(path string, content []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, content) {
		return nil
	}
	next := path + ".new"
	if err := os.WriteFile(next, content, 0o644); err != nil {
		return err
	}
	return os.Rename(next, path)
}
