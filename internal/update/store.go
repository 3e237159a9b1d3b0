package update

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"cloudlink.local/gateway/internal/safefile"
)

const (
	maxAttempts = 20      // that are kept
	maxRecord   = 1 << 20 // bytes
)

// A record is what is kept on the data partition: the attempts, the newest last.
type record struct {
	Attempts []Attempt `json:"attempts"`
}

// A store keeps the record. Where the medium takes nothing the record goes on in memory.
type store struct {
	file string
	rec  record
	warn func(error)
}

// openStore reads the record. A damaged one is put aside: a system that is on trial proves itself without.
func openStore(dir string, warn func(error)) *store {
	s := &store{file: filepath.Join(dir, "attempts.json"), warn: warn}
	b, err := safefile.Read(s.file, maxRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return s
	}
	if err == nil {
		err = json.Unmarshal(b, &s.rec)
	}
	if err != nil {
		warn(fmt.Errorf("the record of updates is damaged and begun anew: %w", err))
		s.rec = record{}
		if err := os.Rename(s.file, s.file+".damaged"); err != nil {
			warn(errors.Join(err, os.RemoveAll(s.file)))
		}
	}
	return s
}

// last returns the newest attempt; the zero Attempt if there was none.
func (s *store) last() Attempt {
	if len(s.rec.Attempts) == 0 {
		return Attempt{State: Idle}
	}
	return clone(s.rec.Attempts[len(s.rec.Attempts)-1])
}

// add begins an attempt.
func (s *store) add(a Attempt) Attempt {
	a.ID = s.last().ID + 1
	s.rec.Attempts = append(s.rec.Attempts, a)
	if n := len(s.rec.Attempts); n > maxAttempts {
		s.rec.Attempts = slices.Delete(s.rec.Attempts, 0, n-maxAttempts)
	}
	return a
}

// save puts a in the place of the newest attempt, on the medium.
func (s *store) save(a Attempt) {
	s.rec.Attempts[len(s.rec.Attempts)-1] = clone(a)
	b, err := s.encode()
	if err == nil {
		err = safefile.Replace(s.file, b, 0o600) // it is on the medium before anything is armed
	}
	if err != nil {
		s.warn(fmt.Errorf("save the record of updates: %w", err))
	}
}

// encode returns the record as it can be read again: the last words of the oldest attempts go first.
func (s *store) encode() ([]byte, error) {
	for i := 0; ; i++ {
		b, err := json.Marshal(s.rec)
		if err != nil || len(b) <= maxRecord || i == len(s.rec.Attempts) {
			return b, err
		}
		s.rec.Attempts[i].LastLog = nil
	}
}

// all returns the attempts, the newest first.
func (s *store) all() []Attempt {
	list := make([]Attempt, 0, len(s.rec.Attempts))
	for _, a := range slices.Backward(s.rec.Attempts) {
		list = append(list, clone(a))
	}
	return list
}

func clone(a Attempt) Attempt {
	a.Steps, a.Checks, a.LastLog = slices.Clone(a.Steps), slices.Clone(a.Checks), slices.Clone(a.LastLog)
	return a
}

// gaveBack says whether version has been tried and did not prove itself: nobody tries it again unasked.
func (s *store) gaveBack(version string) bool {
	return slices.ContainsFunc(s.rec.Attempts, func(a Attempt) bool {
		return a.Kind == Update && a.State == RolledBack && a.To == version
	})
}

// inWindow says whether now is inside of a window, in its zone.
func inWindow(from, to, zone string, now time.Time) bool {
	if from == "" {
		return true
	}
	if loc, err := time.LoadLocation(zone); err == nil {
		now = now.In(loc)
	}
	at := now.Format("15:04")
	if from < to {
		return from <= at && at < to
	}
	return from <= at || at < to // over midnight
}
