// Package bundle says what an update is, for the publisher, who writes it, and for the device, which
// reads it: what the repository's metadata tell of a release, the archive with a slot's files, and
// the one file that holds a whole update, for upload and USB sticks.
//
// What comes from outside is read as a stream and with bounds. Nothing here decides whom to believe:
// that is package trust's part.
package bundle

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"cloudlink.local/gateway/internal/release"
)

// The files of a slot, in the order in which they are archived: what says what the rest is comes first.
const (
	Manifest  = "manifest.json"
	Signature = "linux.efi.sig"
	UKI       = "linux.efi"
	DeltaFile = "linux.efi.delta" // in a delta, in place of UKI
)

var slotFiles = []string{Manifest, Signature, UKI}

// Bounds of what is read.
const (
	maxCustom  = 24 << 10  // of a Target as JSON
	MaxNotes   = 4 << 10   // of the notes in one language
	MaxTargets = 512 << 10 // of the signed list of all targets
	maxSmall   = 64 << 10  // of manifest and signature
	maxUKI     = 256 << 20 // no slot is larger
)

// A Kind says what a target of the repository holds.
type Kind string

// The kinds of targets.
const (
	Full  Kind = "full"  // a slot's files
	Delta Kind = "delta" // the same, but of linux.efi only how it differs from another
)

// The channels. A device that takes beta releases takes the stable ones, too.
const (
	Stable = "stable"
	Beta   = "beta"
)

// Languages are those that a release's notes are written in.
var Languages = []string{"de", "en"}

// A Target is what signed metadata say of one target: the custom data of a TUF target.
type Target struct {
	Product   string    `json:"product"`
	Board     string    `json:"board"`
	Version   string    `json:"version"`
	BuildTime time.Time `json:"build_time"`
	Kind      Kind      `json:"kind"`

	From        string `json:"from,omitempty"`         // delta: SHA-256 of the linux.efi that it applies to
	FromVersion string `json:"from_version,omitempty"` // delta: and its version

	Slot          []release.ManifestFile `json:"slot"`                     // what the slot holds afterwards, in archive order
	Channels      []string               `json:"channels"`                 // who is offered it
	MinimumFrom   string                 `json:"minimum_from,omitempty"`   // the oldest version that may update to it; "" any
	SecurityFloor string                 `json:"security_floor,omitempty"` // once it is confirmed, nothing older may be installed; "" as before
	Rollout       int                    `json:"rollout"`                  // percent of the devices that take it unasked
	Notes         map[string]string      `json:"notes,omitempty"`          // language → plain text
}

// Parse reads the custom data of a target. Fields that it does not know are for newer firmware.
func Parse(b []byte) (Target, error) {
	var t Target
	if len(b) > maxCustom {
		return t, fmt.Errorf("target: %d bytes, at most %d wanted", len(b), maxCustom)
	}
	if err := json.Unmarshal(b, &t); err != nil {
		return t, fmt.Errorf("target: %w", err)
	}
	return t, t.Check()
}

var (
	nameForm = lazy(`^[a-z0-9][a-z0-9-]{0,63}$`)
	sumForm  = lazy(`^[0-9a-f]{64}$`)
)

// lazy compiles an expression when it is first needed: this package is in every process of the
// gateway, and most never see a target.
func lazy(form string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(form) })
}

// Check says what is wrong with t; each error names the field.
func (t Target) Check() error {
	for _, f := range []struct{ field, value string }{{"product", t.Product}, {"board", t.Board}} {
		if !nameForm().MatchString(f.value) {
			return fmt.Errorf("%s %.70q: want small letters, digits and minus", f.field, f.value)
		}
	}
	for _, f := range []struct {
		field, value string
		needed       bool
	}{
		{"version", t.Version, true}, {"minimum_from", t.MinimumFrom, false},
		{"security_floor", t.SecurityFloor, false}, {"from_version", t.FromVersion, t.Kind == Delta},
	} {
		if f.value == "" && !f.needed {
			continue
		}
		if err := release.CheckVersion(f.value); err != nil {
			return fmt.Errorf("%s: %w", f.field, err)
		}
	}
	if n, _ := compare(t.SecurityFloor, t.Version); n > 0 {
		return fmt.Errorf("security_floor %s is newer than the release itself: want at most %s", t.SecurityFloor, t.Version)
	}
	if n, _ := compare(t.MinimumFrom, t.Version); t.MinimumFrom != "" && n >= 0 {
		return fmt.Errorf("minimum_from %s: nothing may update to %s then; want an older version", t.MinimumFrom, t.Version)
	}
	if t.BuildTime.IsZero() {
		return errors.New("build_time is missing")
	}
	switch {
	case t.Kind != Full && t.Kind != Delta:
		return fmt.Errorf("kind %.20q: want %s or %s", t.Kind, Full, Delta)
	case t.Kind == Full && (t.From != "" || t.FromVersion != ""):
		return errors.New("from, from_version: a full update applies to anything, leave them empty")
	case t.Kind == Delta && !sumForm().MatchString(t.From):
		return fmt.Errorf("from %.70q: want the SHA-256 of a %s in small hex digits", t.From, UKI)
	}
	if err := t.checkSlot(); err != nil {
		return err
	}
	if len(t.Channels) == 0 || len(t.Channels) > 8 {
		return fmt.Errorf("channels: %d of them, want %s or %s", len(t.Channels), Stable, Beta)
	}
	for _, c := range t.Channels {
		if !nameForm().MatchString(c) {
			return fmt.Errorf("channels: %.70q: want small letters, digits and minus", c)
		}
	}
	if t.Rollout < 0 || t.Rollout > 100 {
		return fmt.Errorf("rollout %d: want percent, 0 to 100", t.Rollout)
	}
	return t.checkNotes()
}

func (t Target) checkSlot() error {
	if len(t.Slot) != len(slotFiles) {
		return fmt.Errorf("slot: %d files, want %s", len(t.Slot), strings.Join(slotFiles, ", "))
	}
	for i, f := range t.Slot {
		most := int64(maxSmall)
		if f.Name == UKI {
			most = maxUKI
		}
		switch {
		case f.Name != slotFiles[i]:
			return fmt.Errorf("slot: file %.70q, want %s there", f.Name, slotFiles[i])
		case f.Size < 1 || f.Size > most:
			return fmt.Errorf("slot: %s has %d bytes, want 1 to %d", f.Name, f.Size, most)
		case !sumForm().MatchString(f.SHA256):
			return fmt.Errorf("slot: %s: sha256 %.70q, want 64 small hex digits", f.Name, f.SHA256)
		}
	}
	return nil
}

func (t Target) checkNotes() error {
	if len(t.Notes) > 8 {
		return fmt.Errorf("notes in %d languages, want %s", len(t.Notes), strings.Join(Languages, " and "))
	}
	for language, text := range t.Notes {
		if !nameForm().MatchString(language) {
			return fmt.Errorf("notes: language %.70q, want one like %s", language, Languages[0])
		}
		if len(text) > MaxNotes {
			return fmt.Errorf("notes.%s: %d bytes, want at most %d", language, len(text), MaxNotes)
		}
		if !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool {
			return r != '\n' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r))
		}) {
			return fmt.Errorf("notes.%s: want plain text in UTF-8, without tabs and other control characters", language)
		}
	}
	return nil
}

// compare compares two versions that are valid or empty; an empty one is the oldest.
func compare(a, b string) (int, error) {
	if a == "" || b == "" {
		return strings.Compare(a, b), nil
	}
	return release.Compare(a, b)
}

// Path is the name of t in the repository.
func (t Target) Path() string {
	if t.Kind == Delta {
		return fmt.Sprintf("%s/%s-from-%s.delta", t.Board, t.Version, t.FromVersion)
	}
	return fmt.Sprintf("%s/%s.slot", t.Board, t.Version)
}

// UKI returns what t says of linux.efi.
func (t Target) UKI() release.ManifestFile {
	i := slices.IndexFunc(t.Slot, func(f release.ManifestFile) bool { return f.Name == UKI })
	if i < 0 {
		return release.ManifestFile{}
	}
	return t.Slot[i]
}

// In says whether a device that takes releases of channel is offered t.
func (t Target) In(channel string) bool {
	return slices.Contains(t.Channels, Stable) || channel == Beta && slices.Contains(t.Channels, Beta)
}

// HashedPath is where the file of target p lies below a repository's folder of targets: a new one
// never takes the place of another (TUF's consistent snapshots).
func HashedPath(p, sha256 string) string {
	return path.Join(path.Dir(p), sha256+"."+path.Base(p))
}

// FileName is the name of the file with the whole update to t.
func (t Target) FileName() string {
	return fmt.Sprintf("cloudlink-%s-%s.bundle", t.Board, t.Version)
}

// sum writes a digest as the metadata have it.
func sum(b []byte) string { return hex.EncodeToString(b) }
