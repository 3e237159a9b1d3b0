package update

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"cloudlink.local/gateway/internal/release"
	"cloudlink.local/gateway/internal/safefile"
	"cloudlink.local/gateway/internal/update/bundle"
	"cloudlink.local/gateway/internal/update/delta"
	"cloudlink.local/gateway/internal/update/trust"
)

// rebuild makes the whole update's file at path of the file with the delta, which has been checked, and
// of the system that runs: the same bytes that the repository has.
func rebuild(ctx context.Context, patch string, d trust.File, running string, full trust.File, path string, tell func(Progress)) error {
	old, err := os.Open(running)
	if err != nil {
		return failure(err, MediumFailed)
	}
	defer old.Close()
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return failure(err, MediumFailed)
	}
	defer out.Close()
	sum := sha256.New()
	w := io.MultiWriter(out, sum, &meter{total: full.Size, tell: tell})
	small := map[string]string{}
	in, err := safefile.Open(patch)
	if err != nil {
		return failure(err, MediumFailed)
	}
	defer in.Close()
	signed := bundle.Verify(in, d.Size, d.SHA256) // the patch has no digest of its own
	err = each(signed, d.Target, func(f release.ManifestFile, r io.Reader) error {
		if f.Name != bundle.DeltaFile { // both of the others come before it
			b, err := io.ReadAll(r)
			small[f.Name] = string(b)
			return err
		}
		return bundle.WriteSlot(w, full.Target.Slot, func(name string) (io.ReadCloser, error) {
			if name != bundle.UKI {
				return io.NopCloser(strings.NewReader(small[name])), nil
			}
			return applied(ctx, old, r, filepath.Dir(path)), nil
		})
	})
	if err != nil {
		return err
	}
	if hex.EncodeToString(sum.Sum(nil)) != full.SHA256 {
		return fail(WrongFile, fmt.Errorf("the delta of %s makes something else", d.Target.FromVersion))
	}
	return orNil(out.Sync(), MediumFailed)
}

// applied reads what the patch makes of old.
func applied(ctx context.Context, old io.ReaderAt, patch io.Reader, scratch string) io.ReadCloser {
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.CloseWithError(delta.Apply(ctx, old, patch, scratch, w))
	}()
	return &reader{r, done}
}

// A reader ends what writes to it when it is closed.
type reader struct {
	*io.PipeReader
	done <-chan struct{}
}

func (r *reader) Close() error {
	err := r.PipeReader.Close()
	<-r.done
	return err
}

// A meter tells how much was written.
type meter struct {
	done, total int64
	tell        func(Progress)
}

func (m *meter) Write(b []byte) (int, error) {
	m.done += int64(len(b))
	m.tell(Progress{Bytes: m.done, Total: m.total})
	return len(b), nil
}

func sumFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	_, sum, err := digest(f)
	return sum, err
}

// peakMemory is the most memory that this process has had, 0 where the kernel does not say.
func peakMemory() int64 {
	b, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(b)) {
		if kb, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(kb), "kB")), 10, 64)
			return n << 10
		}
	}
	return 0
}
