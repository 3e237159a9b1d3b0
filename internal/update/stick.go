package update

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/release"
	"cloudlink.local/gateway/internal/safefile"
)

// fromSticks copies the bundle with the newest update on the USB sticks to where uploads lie. From there on
// it is one.
func (s *service) fromSticks(ctx context.Context) (err error) {
	slots, err := s.Machine.OpenSticks(ctx)
	if err != nil {
		return fail(MediumFailed, err)
	}
	defer func() {
		_, e := s.Machine.CloseSticks(context.WithoutCancel(ctx))
		err = errors.Join(err, orNil(e, MediumFailed))
	}()
	files := bundles(slots.Sticks, s.Release.Board)
	if len(files) == 0 {
		return fail(NoBundle, fmt.Errorf("%d USB sticks can be read, and none has a file *.bundle for %s", len(slots.Sticks), s.Release.Board))
	}
	in, err := safefile.Open(files[0])
	if err != nil {
		return failure(err, MediumFailed)
	}
	defer in.Close()
	s.Log.Info("update: from a USB stick", "file", filepath.Base(files[0]))
	return orNil(writeSynced(s.path(uploaded), io.LimitReader(in, maxUpload)), MediumFailed)
}

// bundles are the bundles in the folders, those first whose name has the board, and the newest first of them,
// by their names; what is in them is found out later.
func bundles(dirs []string, board string) []string {
	type named struct {
		path, version string
		ours          bool
	}
	var list []named
	for _, dir := range dirs {
		d, err := os.Open(dir)
		if err != nil {
			continue
		}
		names, _ := d.Readdirnames(1000) // as far as it can be read
		d.Close()
		for _, name := range names {
			stem, ok := strings.CutSuffix(name, ".bundle")
			if !ok || strings.HasPrefix(name, ".") {
				continue
			}
			n := named{path: filepath.Join(dir, name), ours: strings.Contains(name, "-"+board+"-")}
			if info, err := os.Lstat(n.path); err != nil || !info.Mode().IsRegular() {
				continue
			}
			for rest := stem; rest != "" && n.version == ""; { // behind any of the dashes
				if release.CheckVersion(rest) == nil {
					n.version = rest
				}
				_, rest, _ = strings.Cut(rest, "-")
			}
			list = append(list, n)
		}
	}
	slices.SortFunc(list, func(a, b named) int {
		if a.ours != b.ours {
			if a.ours {
				return -1
			}
			return 1
		}
		if n, err := release.Compare(b.version, a.version); err == nil && n != 0 {
			return n
		}
		return strings.Compare(b.version, a.version)
	})
	var paths []string
	for _, n := range list {
		if unix.Access(n.path, unix.R_OK) == nil {
			paths = append(paths, n.path)
		}
	}
	return paths
}
