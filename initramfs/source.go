package initramfs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/u-root/gobusybox/src/pkg/golang"
	"github.com/u-root/mkuimage/cpio"
	"github.com/u-root/mkuimage/uimage"
)

const (
	module       = "cloudlink.local/gateway"
	initPkg      = module + "/cmd/init"
	commandsFlag = "-gcflags=all=-l" // without inlining they are a fifth smaller

	urootTag = "goshliner" // gosh edits lines plainly; its other editor redraws the screen, slow on a serial line
)

// target is what the gateway runs on. A person's own GOFLAGS or workspace must not change what is built.
var target = []string{
	"GOOS=linux", "GOARCH=arm64", "GOARM64=v8.0", "CGO_ENABLED=0", "GOFLAGS=-mod=readonly", "GOWORK=off",
}

// InitFlags are the flags of go build for init. Its HTTP servers and clients speak HTTP/1.1. It is not
// built without inlining: a million bytes fewer are loaded sooner, but take as much longer to come up.
func InitFlags() []string {
	return []string{"-trimpath", "-buildvcs=false", "-tags=nethttpomithttp2", "-ldflags=-s -w -buildid="}
}

// A source is the tree we are built from and the Go that builds it.
type source struct {
	dir               string // where the root go.mod lies
	goroot, goversion string
	gopath            string
}

func findSource(ctx context.Context) (source, error) {
	var env struct{ GOROOT, GOVERSION, GOPATH string }
	out, err := goCommand(ctx, "", "env", "-json", "GOROOT", "GOVERSION", "GOPATH")
	if err != nil {
		return source{}, err
	}
	if err := json.Unmarshal(out, &env); err != nil {
		return source{}, fmt.Errorf("go env: %w", err)
	}
	out, err = goCommand(ctx, "", "list", "-m", "-f", "{{.Dir}}", module)
	if err != nil {
		return source{}, fmt.Errorf("find the source tree (run this inside it): %w", err)
	}
	return source{strings.TrimSpace(string(out)), env.GOROOT, env.GOVERSION, env.GOPATH}, nil
}

// goCommand runs the go command for the target and returns what it prints.
func goCommand(ctx context.Context, dir string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), target...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go %s: %w: %s", args[0], err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}

func (s source) buildInit(ctx context.Context, out string) error {
	out, err := filepath.Abs(out) // go build runs in s.dir
	if err != nil {
		return fmt.Errorf("build init: %w", err)
	}
	_, err = goCommand(ctx, s.dir, append(append([]string{"build"}, InitFlags()...), "-o", out, initPkg)...)
	if err != nil {
		return fmt.Errorf("build init: %w", err)
	}
	return nil
}

// commands returns the u-root commands as records: one program, bin/bb, and a link for each name.
// Building them takes most of a minute, so the result is kept in cacheDir under a name that tells all
// that went into it.
func (s source) commands(ctx context.Context, cacheDir string, log func(string, ...any)) ([]cpio.Record, error) {
	key, err := s.commandsKey(ctx)
	if err != nil {
		return nil, err
	}
	kept := filepath.Join(cacheDir, "uroot-"+key+".cpio")
	if _, err := os.Stat(kept); err != nil {
		log("build the console's commands (a minute, once)")
		if err := s.buildCommands(ctx, kept); err != nil {
			return nil, fmt.Errorf("build u-root commands: %w", err)
		}
	}
	b, err := os.ReadFile(kept)
	if err != nil {
		return nil, fmt.Errorf("read u-root commands: %w", err)
	}
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(b)))
	if err != nil {
		return nil, fmt.Errorf("read u-root commands: remove %s and try again: %w", kept, err)
	}
	records = slices.DeleteFunc(records, func(r cpio.Record) bool { return r.Name == "bbin" })
	for i, r := range records {
		if r.Name == "bbin/bb" { // mkuimage knows one place for it, and the links expect it beside them
			records[i].Name = "bin/bb"
		}
		if kind := r.Mode & cpio.S_IFMT; kind != cpio.S_IFLNK {
			records[i].Mode = kind | 0o755 // not what the host's umask made of it
		}
	}
	return records, nil
}

// commandsKey is a hash of all that decides about the bytes of the u-root commands.
func (s source) commandsKey(ctx context.Context) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, s.goversion, urootTag, commandsFlag)
	for _, name := range []string{"go.mod", "go.sum"} {
		f, err := os.Open(filepath.Join(s.uroot(), name))
		if err != nil {
			return "", fmt.Errorf("read the list of u-root commands: %w", err)
		}
		_, err = io.Copy(h, f)
		f.Close()
		if err != nil {
			return "", fmt.Errorf("read the list of u-root commands: %w", err)
		}
	}
	// What rewrites the commands into one program, and the settings of the Go that it runs.
	tools, err := goCommand(ctx, s.dir, "list", "-m", "github.com/u-root/mkuimage", "github.com/u-root/gobusybox/src")
	if err != nil {
		return "", err
	}
	settings, err := exec.CommandContext(ctx, "go", "env", "GOFLAGS", "GOARM64", "GOEXPERIMENT").Output()
	if err != nil {
		return "", fmt.Errorf("go env: %w", err)
	}
	h.Write(append(tools, settings...))
	return fmt.Sprintf("%x", h.Sum(nil)[:8]), nil
}

func (s source) uroot() string { return filepath.Join(s.dir, "initramfs/uroot") }

func (s source) buildCommands(ctx context.Context, out string) error {
	list, err := goCommand(ctx, s.uroot(), "list", "tool")
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(out), "uroot-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	env := golang.Default(golang.WithGOROOT(s.goroot), golang.WithGOPATH(s.gopath), golang.WithWorkingDir(s.uroot()),
		golang.WithGOOS("linux"), golang.WithGOARCH("arm64"), golang.DisableCGO(), golang.WithGO111MODULE(""),
		golang.WithBuildTag(urootTag))
	built := filepath.Join(tmp, "uroot.cpio")
	err = uimage.Create(nil, uimage.WithReplaceEnv(env), uimage.WithTempDir(tmp),
		func(o *uimage.Opts) error {
			o.Commands = uimage.BusyboxCmds(strings.Fields(string(list))...)
			o.Commands[0].BinaryDir = "bin"
			o.Commands[0].BuildOpts = &golang.BuildOpts{ExtraArgs: []string{commandsFlag}}
			return nil
		},
		uimage.WithShell("gosh"), uimage.WithCPIOOutput(built))
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil { // mkuimage takes no context
		return err
	}
	return os.Rename(built, out)
}
