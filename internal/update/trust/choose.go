package trust

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"cloudlink.local/gateway/internal/release"
	"cloudlink.local/gateway/internal/update/bundle"
)

// A Device is who asks for an update.
type Device struct {
	Product, Board, Version string
	BuildTime               time.Time // of what runs: it is not earlier than that
	Serial                  string    // decides with the version when it is its turn
	Channel                 string    // bundle.Stable or bundle.Beta
	UKI                     string    // SHA-256 of the linux.efi that runs; "" for no deltas
	Asked                   bool      // by a person: the rollout does not count
}

// A File is one of the repository's targets, as signed.
type File struct {
	Path   string // its name in the metadata
	URL    string // of a repository; of a bundle: its name there
	Size   int64
	SHA256 string
	Target bundle.Target
}

// An Offer is an update that may be installed.
type Offer struct {
	Full  File
	Delta *File // leads to the same, and is smaller; nil if there is none for what runs
}

// choose returns the best of files for d. The files are known to be signed; floor is the oldest version
// that may be installed ("" for any). With picked, a person has picked this one file.
func choose(files []File, d Device, floor string, picked bool) (Offer, error) {
	if err := release.CheckVersion(d.Version); err != nil {
		return Offer{}, fmt.Errorf("what runs: %w", err)
	}
	full, err := candidates(files, d, picked)
	if err != nil {
		return Offer{}, err
	}
	var first error // why not the newest
	for _, f := range full {
		if err := refuse(f.Target, d, floor, picked); err != nil {
			if first == nil {
				first = err
			}
			continue
		}
		return Offer{Full: f, Delta: delta(files, f, d)}, nil
	}
	return Offer{}, first
}

// candidates returns the full targets that are newer than what runs and meant for d, newest first.
func candidates(files []File, d Device, picked bool) ([]File, error) {
	var full, others []File
	reason := UpToDate
	for _, f := range files {
		switch {
		case f.Target.Kind != bundle.Full:
			continue
		case f.Target.Product != d.Product:
			others = append(others, f)
			if reason == UpToDate {
				reason = WrongProduct
			}
		case f.Target.Board != d.Board:
			others = append(others, f)
			reason = WrongBoard
		default:
			full = append(full, f)
		}
	}
	if len(full) == 0 && len(others) > 0 {
		t := others[0].Target
		return nil, failf(reason, "it has %s for %s, and this is %s on %s", t.Product, names(others), d.Product, d.Board)
	}
	slices.SortFunc(full, func(a, b File) int {
		n, _ := release.Compare(b.Target.Version, a.Target.Version) // both have been checked
		return cmp.Or(n, b.Target.BuildTime.Compare(a.Target.BuildTime), strings.Compare(a.Path, b.Path))
	})
	newer := slices.DeleteFunc(slices.Clone(full), func(f File) bool {
		n, err := release.Compare(f.Target.Version, d.Version)
		return err != nil || n <= 0 || !picked && !f.Target.In(d.Channel)
	})
	if len(newer) > 0 {
		return newer, nil
	}
	if picked && len(full) > 0 {
		if n, _ := release.Compare(full[0].Target.Version, d.Version); n < 0 {
			return nil, failf(Downgrade, "%s is older than %s, which runs", full[0].Target.Version, d.Version)
		}
	}
	return nil, failf(UpToDate, "there is nothing newer than %s", d.Version)
}

func names(files []File) string {
	boards := map[string]bool{}
	for _, f := range files {
		boards[f.Target.Board] = true
	}
	return strings.Join(slices.Sorted(maps.Keys(boards)), ", ")
}

// refuse says why a newer release may not be installed on d now.
func refuse(t bundle.Target, d Device, floor string, picked bool) error {
	if err := belowFloor(t.Version, floor); err != nil {
		return err
	}
	if t.MinimumFrom != "" {
		if n, err := release.Compare(d.Version, t.MinimumFrom); err != nil || n < 0 {
			e := failf(MinimumFrom, "%s can follow %s and newer, and %s runs", t.Version, t.MinimumFrom, d.Version)
			e.Version = t.MinimumFrom
			return e
		}
	}
	if !picked && !d.Asked && turn(d.Serial, t.Version) >= t.Rollout {
		e := failf(NotYet, "%s goes to %d %% of the devices so far", t.Version, t.Rollout)
		e.Version = t.Version
		return e
	}
	return nil
}

func belowFloor(version, floor string) error {
	if floor == "" {
		return nil
	}
	n, err := release.Compare(version, floor)
	if err != nil {
		return err
	}
	if n < 0 {
		e := failf(BelowFloor, "%s is older than %s, the oldest that is safe", version, floor)
		e.Version = floor
		return e
	}
	return nil
}

// turn is when it is a device's turn to get a version, from 0 (first) to 99: another one each time.
func turn(serial, version string) int {
	h := sha256.Sum256([]byte(serial + "\n" + version))
	return int(binary.BigEndian.Uint64(h[:8]) % 100)
}

// delta returns the smallest of files that makes full of what d runs.
func delta(files []File, full File, d Device) *File {
	var best *File
	for _, f := range files {
		t := f.Target
		if t.Kind != bundle.Delta || t.Product != d.Product || t.Board != d.Board || t.Version != full.Target.Version ||
			t.From != d.UKI || f.Size >= full.Size || !slices.Equal(t.Slot, full.Target.Slot) {
			continue
		}
		if best == nil || f.Size < best.Size {
			best = &f
		}
	}
	return best
}
