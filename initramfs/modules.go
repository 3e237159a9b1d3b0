package initramfs

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
)

// A Module is a Go module of which something is in the initramfs.
type Module struct {
	Path, Version string
	Sum           string   // as in go.sum: "h1:" and base64
	Dir           string   // its source in the module cache
	Packages      []string // folders of what is used of it
	UsedBy        []string // "init", "console commands", "root certificates"
}

// Modules lists what the initramfs is made of beside our own code and Go's standard library, sorted.
// A module may be there twice: init and the console's commands choose their versions apart.
func Modules(ctx context.Context) ([]Module, error) {
	src, err := findSource(ctx)
	if err != nil {
		return nil, err
	}
	found := make(map[[2]string]*Module)
	for _, part := range []struct {
		name, dir string
		args      []string
	}{
		{"init", src.dir, []string{"-deps", initPkg}},
		{"console commands", src.uroot(), []string{"-deps", "-tags", urootTag, "tool"}},
		// The one program is made of these beside the commands; the other is data.
		{"console commands", src.dir, []string{"github.com/u-root/gobusybox/src/pkg/bb/bbmain"}},
		{"root certificates", src.dir, []string{"golang.org/x/crypto/x509roots/fallback/bundle"}},
	} {
		out, err := goCommand(ctx, part.dir, append([]string{"list", "-json=Dir,Module"}, part.args...)...)
		if err != nil {
			return nil, fmt.Errorf("list modules: %w", err)
		}
		for d := json.NewDecoder(bytes.NewReader(out)); ; {
			var pkg struct {
				Dir    string
				Module *struct {
					Path, Version, Sum, Dir string
					Main                    bool
					Replace                 *struct{ Version string }
				}
			}
			if err := d.Decode(&pkg); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return nil, fmt.Errorf("list modules: %w", err)
			}
			if pkg.Module == nil || pkg.Module.Main { // the standard library; ours
				continue
			}
			if r := pkg.Module.Replace; r != nil && r.Version == "" { // ours, under another's name
				continue
			}
			key := [2]string{pkg.Module.Path, pkg.Module.Version}
			m := found[key]
			if m == nil {
				m = &Module{Path: key[0], Version: key[1], Sum: pkg.Module.Sum, Dir: pkg.Module.Dir}
				found[key] = m
			}
			if !slices.Contains(m.UsedBy, part.name) {
				m.UsedBy = append(m.UsedBy, part.name)
			}
			if !slices.Contains(m.Packages, pkg.Dir) {
				m.Packages = append(m.Packages, pkg.Dir)
			}
		}
	}
	var modules []Module
	for _, m := range found {
		modules = append(modules, *m)
	}
	slices.SortFunc(modules, func(a, b Module) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Version, b.Version))
	})
	return modules, nil
}
