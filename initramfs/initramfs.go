// Package initramfs packs what the kernel unpacks into RAM at boot: init, a few u-root commands for the
// console, root certificates, time zones, and what this build is called. The same sources and the same
// Go give the same bytes on any host.
package initramfs

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/u-root/mkuimage/cpio"
	"github.com/u-root/mkuimage/uimage"
	uinitramfs "github.com/u-root/mkuimage/uimage/initramfs"
	"golang.org/x/crypto/x509roots/fallback/bundle"

	"cloudlink.local/gateway/internal/release"
	"cloudlink.local/gateway/internal/update/delta"
)

// Options says what to pack and where to write it.
type Options struct {
	Release    release.Release
	UpdateRoot []byte // root metadata of the update repository
	EmptyData  []byte // gzipped empty ext4 image; init writes it over a damaged data partition
	Notices    []byte // gzipped third-party notices
	Out        string // path of the cpio.zst to write
	WorkDir    string // keeps the u-root commands from one build to the next
	Log        func(format string, args ...any)
}

// Build writes the initramfs of one release to o.Out; a failure leaves no file behind. It must run
// somewhere inside the source tree.
func Build(ctx context.Context, o Options) error {
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	src, err := findSource(ctx)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.WorkDir, 0o755); err != nil {
		return fmt.Errorf("create work directory: %w", err)
	}
	tmp, err := os.MkdirTemp(o.WorkDir, "initramfs-")
	if err != nil {
		return fmt.Errorf("create work directory: %w", err)
	}
	defer os.RemoveAll(tmp)

	o.Log("build init")
	initPath := filepath.Join(tmp, "init")
	if err := src.buildInit(ctx, initPath); err != nil {
		return err
	}
	init, err := os.ReadFile(initPath)
	if err != nil {
		return fmt.Errorf("read init: %w", err)
	}
	commands, err := src.commands(ctx, o.WorkDir, o.Log)
	if err != nil {
		return err
	}
	records := []cpio.Record{file("init", init, 0o755)}
	records = append(records, commands...)
	records = append(records, skeleton()...)
	zones, err := os.ReadFile(filepath.Join(src.goroot, "lib/time/zoneinfo.zip"))
	if err != nil {
		return fmt.Errorf("read Go's time zone data: %w", err)
	}
	rel, err := json.MarshalIndent(o.Release, "", "  ")
	if err != nil {
		return fmt.Errorf("encode release: %w", err)
	}
	records = append(records,
		file(release.File, append(rel, '\n'), 0o644),
		file(release.UpdateRoot, o.UpdateRoot, 0o644),
		file("etc/ssl/certs/ca-certificates.crt", rootCertificates(), 0o644),
		file("usr/share/zoneinfo.zip", zones, 0o644), // Go programs find it through ZONEINFO
		file("usr/share/cloudlink/data.ext4.gz", o.EmptyData, 0o644),
		file("usr/share/cloudlink/notices.txt.gz", o.Notices, 0o644),
	)
	o.Log("pack %s", o.Out)
	return pack(tmp, o.Out, records)
}

// BuildBare writes an initramfs that holds nothing but the given program as /init.
func BuildBare(ctx context.Context, initBinary, out string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	init, err := os.ReadFile(initBinary)
	if err != nil {
		return fmt.Errorf("read init: %w", err)
	}
	return pack(os.TempDir(), out, append(devices(), file("init", init, 0o755)))
}

// BuildInit cross-compiles cmd/init to out, byte for byte as it goes into the initramfs.
func BuildInit(ctx context.Context, out string) error {
	src, err := findSource(ctx)
	if err != nil {
		return err
	}
	return src.buildInit(ctx, out)
}

// The ids are part of the file system on the data partition: never give one to another service.
const (
	passwd = `root:x:0:0:root:/:/bin/sh
network:x:101:101:network service:/data/network:/bin/false
portal:x:102:102:portal service:/data/portal:/bin/false
console:x:103:103:console service:/data/console:/bin/false
update:x:104:104:update service:/data/update:/bin/false
`
	group = `root:x:0:
cloudlink:x:100:network,portal,console,update
network:x:101:
portal:x:102:
console:x:103:
update:x:104:
`
	hosts = "127.0.0.1 localhost\n::1 localhost\n"
)

// skeleton is what every root file system has: places to mount on and who is who.
func skeleton() []cpio.Record {
	records := devices()
	for _, dir := range []string{"boot", "data", "mnt", "proc", "run", "sys", "etc", "usr", "var"} {
		records = append(records, cpio.Directory(dir, 0o755))
	}
	return append(records,
		cpio.Directory("tmp", 0o1777),
		file("etc/passwd", []byte(passwd), 0o644),
		file("etc/group", []byte(group), 0o644),
		file("etc/hosts", []byte(hosts), 0o644),
		// The network service writes it: the root file system is read-only by then.
		cpio.Symlink("etc/resolv.conf", "/run/cloudlink/network/resolv.conf"),
		cpio.Symlink("etc/mtab", "/proc/self/mounts"),
		cpio.Symlink("var/run", "/run"),
	)
}

// devices are the nodes needed before devtmpfs is mounted: the kernel opens /dev/console for init.
func devices() []cpio.Record {
	return []cpio.Record{
		cpio.Directory("dev", 0o755),
		cpio.CharDev("dev/console", 0o600, 5, 1),
		cpio.CharDev("dev/null", 0o666, 1, 3),
	}
}

func file(name string, content []byte, mode uint64) cpio.Record {
	return cpio.StaticFile(strings.TrimPrefix(name, "/"), string(content), mode)
}

// rootCertificates is Mozilla's list as the Go team packs it: pinned by go.sum, so it depends on no
// host. Roots that Mozilla trusts only up to a date are left out: PEM cannot say so.
func rootCertificates() []byte {
	var b bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}) // a Buffer takes all
		}
	}
	return b.Bytes()
}

// pack writes records, in the order of their names and without times or owners, as cpio.zst to out.
func pack(tmp, out string, records []cpio.Record) error {
	archive := cpio.InMemArchive()
	for _, r := range records {
		if _, double := archive.Get(r.Name); double {
			return fmt.Errorf("pack %s: %s is there twice", out, r.Name)
		}
		if err := archive.WriteRecord(r); err != nil {
			return fmt.Errorf("pack %s: %w", out, err)
		}
	}
	f, err := renameio.NewPendingFile(out, renameio.WithPermissions(0o644))
	if err != nil {
		return fmt.Errorf("pack %s: %w", out, err)
	}
	defer f.Cleanup()
	err = uimage.Create(nil, uimage.WithTempDir(tmp), uimage.WithBaseArchive(archive), uimage.WithOutput(output{f}))
	if err != nil {
		return fmt.Errorf("pack %s: %w", out, err)
	}
	if err := f.CloseAtomicallyReplace(); err != nil {
		return fmt.Errorf("pack %s: %w", out, err)
	}
	return nil
}

// An output compresses what mkuimage writes.
type output struct{ w io.Writer }

// OpenWriter has the signature that mkuimage asks for.
func (o output) OpenWriter() (uinitramfs.Writer, error) {
	z, err := delta.NewCompressor(o.w) // with which a device makes the same bytes from a delta
	if err != nil {
		return nil, err
	}
	return writer{cpio.Newc.Writer(z), z}, nil
}

type writer struct {
	cpio.RecordWriter
	z io.Closer
}

// Finish ends the archive and the compressed stream.
func (w writer) Finish() error {
	return errors.Join(cpio.WriteTrailer(w), w.z.Close())
}
