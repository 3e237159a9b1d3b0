package settings

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/safefile"
)

// The store's files. The copy has the settings that were valid before those in the file: a medium
// that lies about what it has written hurts the newest first.
const (
	fileName = "settings.json"
	copyName = "settings.json.good"
	linkName = ".settings.json.good" // on its way to copyName
)

// A Store keeps the settings in a folder. One process has it; its methods may be called by several
// goroutines at once.
type Store struct {
	dir     string
	saving  sync.Mutex               // one Save at a time
	current atomic.Pointer[Settings] // never changed, only replaced: Get does not wait for the medium
}

// A Source says which settings Open took.
type Source string

// From best to worst.
const (
	FromFile    Source = "file"    // those saved last
	FromCopy    Source = "copy"    // the file is damaged: those saved before it
	FromDefault Source = "default" // there are none, or all are damaged
)

// An Origin says where the settings came from.
type Origin struct {
	Source   Source
	Version  int     // of the shape that was read; 0 where nothing was
	Problems []error // what was wrong with what is better; with a newer version, what has its default
}

// Open returns the store in the folder dir, which has to be there by the first Save. It never fails:
// where nothing can be read the settings are the defaults. A new device has those and no Problems.
// Files are left as they are until Save.
func Open(dir string) (*Store, Origin) {
	s := &Store{dir: dir}
	var origin Origin
	for _, from := range []struct {
		name   string
		source Source
	}{{fileName, FromFile}, {copyName, FromCopy}} {
		settings, version, notes, err := read(filepath.Join(dir, from.name))
		if err != nil {
			origin.Problems = append(origin.Problems, fmt.Errorf("read %s: %w", from.name, err))
			continue
		}
		for _, note := range notes {
			origin.Problems = append(origin.Problems, note)
		}
		origin.Source, origin.Version = from.source, version
		s.current.Store(&settings)
		return s, origin
	}
	if missing(origin.Problems) {
		origin.Problems = nil
	}
	settings := Default()
	s.current.Store(&settings)
	origin.Source = FromDefault
	return s, origin
}

// missing says whether the folder is there and the files, which gave problems, are not.
func missing(problems []error) bool {
	for _, err := range problems {
		if !errors.Is(err, fs.ErrNotExist) {
			return false
		}
	}
	return true
}

// read reads one of the store's files.
func read(path string) (s Settings, version int, notes Errors, err error) {
	// A link may lead out of the folder; a pipe would have us wait.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) {
		return s, 0, nil, errors.New("it is a symbolic link: put the file itself in its place")
	}
	if err != nil {
		return s, 0, nil, cause(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return s, 0, nil, cause(err)
	}
	if !info.Mode().IsRegular() {
		return s, 0, nil, errors.New("it is no regular file: remove it")
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSize+1)) // parse refuses what is larger
	if err != nil {
		return s, 0, nil, cause(err)
	}
	return current.load(b)
}

// Get returns a copy of the settings: the caller's own.
func (s *Store) Get() Settings { return s.current.Load().Clone() }

// Save checks settings, writes them to the medium, unless it has just these, and has Get return them
// from then on. Errors say what is wrong with them. After an error Get returns what the file has: the settings as they were,
// but in the one case that the new file could not be made to last.
func (s *Store) Save(settings Settings) error {
	if err := settings.Check(); err != nil {
		return err
	}
	settings = settings.Clone()
	b, err := json.MarshalIndent(settings, "", "\t")
	if err != nil {
		return fmt.Errorf("encode settings: %w", err)
	}
	b = append(b, '\n')
	s.saving.Lock()
	defer s.saving.Unlock()
	if !s.has(b) {
		if err := s.write(b); err != nil {
			return fmt.Errorf("save settings, the old ones stay: %w", err)
		}
	}
	s.current.Store(&settings)
	if err := safefile.SyncDir(s.dir); err != nil {
		return fmt.Errorf("save settings, a power cut may undo it: %w", cause(err))
	}
	return nil
}

// has says whether the file is b already: saving the same again and again would wear the medium out.
func (s *Store) has(b []byte) bool {
	have, err := safefile.Read(filepath.Join(s.dir, fileName), maxSize)
	return err == nil && bytes.Equal(have, b)
}

// write puts b in place of the file, which becomes the copy if it is good.
func (s *Store) write(b []byte) error {
	s.tidy()
	file := filepath.Join(s.dir, fileName)
	// First all that needs space, then what only renames.
	next, err := renameio.NewPendingFile(file, renameio.WithTempDir(s.dir))
	if err != nil {
		return fmt.Errorf("create %s: %w", fileName, cause(err))
	}
	defer next.Cleanup()
	if _, err := next.Write(b); err != nil {
		return fmt.Errorf("write %s: %w", fileName, cause(err))
	}
	if err := next.Sync(); err != nil {
		return fmt.Errorf("write %s: %w", fileName, cause(err))
	}
	if _, _, _, err := read(file); err == nil {
		if err := s.keep(); err != nil {
			return fmt.Errorf("keep the settings before as %s: %w", copyName, cause(err))
		}
	}
	if err := next.CloseAtomicallyReplace(); err != nil {
		return fmt.Errorf("replace %s: %w", fileName, cause(err))
	}
	return nil
}

// keep gives the file its second name: no space is needed, and there is no moment without either.
func (s *Store) keep() error {
	link := filepath.Join(s.dir, linkName)
	if err := os.Link(filepath.Join(s.dir, fileName), link); err != nil {
		return err
	}
	if err := os.Rename(link, filepath.Join(s.dir, copyName)); err != nil {
		return err
	}
	// The kernel does nothing where both names were of this file already: after a Save that went no further.
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// tidy removes what Saves have left that a power cut ended. What stays does no harm.
func (s *Store) tidy() {
	entries, _ := os.ReadDir(s.dir)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "."+fileName) {
			os.Remove(filepath.Join(s.dir, e.Name()))
		}
	}
}

// cause strips the paths, random names among them, off a file's error.
func cause(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	if e, ok := errors.AsType[*os.LinkError](err); ok {
		return e.Err
	}
	return err
}
