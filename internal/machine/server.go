package machine

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// A Server answers on process 1's socket out of these functions. They may be called at the same
// time; Restart and PowerOff only start what is asked.
type Server struct {
	Status   func() Status
	Log      func(after uint64, level Level) []Entry
	Previous func(level Level) ([]Entry, error)
	Restart  func(by string)
	PowerOff func(by string)

	// Slots keeps the slots, nil until they are known.
	Slots func() SlotKeeper

	Group     int      // may connect
	MayStop   []uint32 // users beside root that may restart and power off
	MayUpdate []uint32 // users beside root that may write a slot
	Logger    *slog.Logger
}

// slotLimit is how long work on a slot may take.
const slotLimit = 2 * time.Minute

// A SlotKeeper is package slots' Keeper.
type SlotKeeper interface {
	Status() Slots
	Open() error
	Look() error
	Seal() error
	OpenRunning() error
	Arm(tries int) error
	Confirm() error
	Close() error
	Floor() (string, error)
	RaiseFloor(version string) error
	OpenSticks() error
	CloseSticks() error
}

// Listen opens the socket at path for group, in place of one that was left there.
func Listen(path string, group int) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("open socket: %w", err)
	}
	if err := errors.Join(os.Chown(path, 0, group), os.Chmod(path, 0o660)); err != nil {
		l.Close()
		return nil, fmt.Errorf("open socket: %w", err)
	}
	return l, nil
}

// Run serves on l until ctx ends.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) { reply(w, s.Status()) })
	mux.HandleFunc("GET /log", s.log)
	mux.HandleFunc("POST /restart", func(w http.ResponseWriter, r *http.Request) { s.stop(w, r, s.Restart) })
	mux.HandleFunc("POST /power-off", func(w http.ResponseWriter, r *http.Request) { s.stop(w, r, s.PowerOff) })
	s.handleSlots(mux)
	srv := &http.Server{
		Handler:        http.MaxBytesHandler(mux, 4096),
		ReadTimeout:    5 * time.Second,
		WriteTimeout:   10 * time.Second,
		IdleTimeout:    30 * time.Second,
		MaxHeaderBytes: 4096,
		ErrorLog:       slog.NewLogLogger(s.Logger.Handler(), slog.LevelWarn),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, peerKey{}, peer(c))
		},
	}
	defer context.AfterFunc(ctx, func() { srv.Close() })()
	err := srv.Serve(&limited{Listener: l, free: make(chan struct{}, maxConns)})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (s *Server) log(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	level, ok := parseLevel(q.Get("level"))
	if !ok {
		http.Error(w, "level: want error, warn, info, debug or a number from 0 to 7", http.StatusBadRequest)
		return
	}
	switch q.Get("boot") {
	case "":
		after, err := strconv.ParseUint(cmp.Or(q.Get("after"), "0"), 10, 64)
		if err != nil {
			http.Error(w, "after: want a sequence number", http.StatusBadRequest)
			return
		}
		reply(w, s.Log(after, level))
	case "previous":
		list, err := s.Previous(level)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		reply(w, list)
	default:
		http.Error(w, "boot: want previous or none", http.StatusBadRequest)
	}
}

func parseLevel(s string) (Level, bool) {
	switch s {
	case "error":
		return LevelError, true
	case "warn":
		return LevelWarn, true
	case "info":
		return LevelInfo, true
	case "debug", "":
		return LevelDebug, true
	}
	n, err := strconv.Atoi(s)
	return Level(n), err == nil && n >= 0 && n <= 7
}

// handleSlots answers what is asked of the slots.
func (s *Server) handleSlots(mux *http.ServeMux) {
	handle := func(pattern string, do func(k SlotKeeper, r *http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			var k SlotKeeper
			if s.Slots != nil {
				k = s.Slots()
			}
			switch {
			case r.Method != http.MethodGet && asker(r, s.MayUpdate) == nil:
				http.Error(w, "this user may not write slots", http.StatusForbidden)
				return
			case k == nil:
				http.Error(w, "the slots are not known: the system was not started by our loader, or has just started", http.StatusServiceUnavailable)
				return
			}
			http.NewResponseController(w).SetWriteDeadline(time.Now().Add(slotLimit)) // media can be slow
			if err := do(k, r); err != nil {
				http.Error(w, err.Error(), http.StatusConflict)
				return
			}
			reply(w, k.Status())
		})
	}
	handle("GET /slots", func(SlotKeeper, *http.Request) error { return nil })
	handle("POST /slots/open", func(k SlotKeeper, _ *http.Request) error { return k.Open() })
	handle("POST /slots/seal", func(k SlotKeeper, _ *http.Request) error { return k.Seal() })
	handle("POST /slots/look", func(k SlotKeeper, _ *http.Request) error { return k.Look() })
	handle("POST /slots/running", func(k SlotKeeper, _ *http.Request) error { return k.OpenRunning() })
	handle("POST /slots/confirm", func(k SlotKeeper, _ *http.Request) error { return k.Confirm() })
	handle("POST /slots/sticks", func(k SlotKeeper, _ *http.Request) error { return k.OpenSticks() })
	handle("POST /slots/unplug", func(k SlotKeeper, _ *http.Request) error { return k.CloseSticks() })
	handle("POST /slots/close", func(k SlotKeeper, _ *http.Request) error { return k.Close() })
	mux.HandleFunc("GET /slots/floor", func(w http.ResponseWriter, r *http.Request) {
		var k SlotKeeper
		if s.Slots != nil {
			k = s.Slots()
		}
		if k == nil {
			http.Error(w, "the slots are not known", http.StatusServiceUnavailable)
			return
		}
		floor, err := k.Floor()
		if err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		reply(w, Floor{floor})
	})
	handle("POST /slots/floor", func(k SlotKeeper, r *http.Request) error { return k.RaiseFloor(r.URL.Query().Get("version")) })
	handle("POST /slots/arm", func(k SlotKeeper, r *http.Request) error {
		tries, err := strconv.Atoi(r.URL.Query().Get("tries"))
		if err != nil {
			return errors.New("tries: want a number")
		}
		return k.Arm(tries)
	})
}

// asker returns the process that asks, nil where it is neither root nor one of users: the kernel says
// who it is.
func asker(r *http.Request, users []uint32) *unix.Ucred {
	cred, _ := r.Context().Value(peerKey{}).(*unix.Ucred)
	if cred == nil || cred.Uid != 0 && !slices.Contains(users, cred.Uid) {
		return nil
	}
	return cred
}

// stop does what is asked if the process that asks may.
func (s *Server) stop(w http.ResponseWriter, r *http.Request, do func(by string)) {
	cred := asker(r, s.MayStop)
	if cred == nil {
		http.Error(w, "this user may not stop the machine", http.StatusForbidden)
		return
	}
	w.WriteHeader(http.StatusAccepted)
	http.NewResponseController(w).Flush() // the answer leaves before the machine goes
	do(fmt.Sprintf("user %d, process %d", cred.Uid, cred.Pid))
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	json.NewEncoder(w).Encode(v) // who hung up does not miss it
}

type peerKey struct{}

// peer returns who is at the other end of a Unix socket, nil where the kernel does not say.
func peer(c net.Conn) *unix.Ucred {
	lc, ok := c.(*limitedConn)
	if !ok {
		return nil
	}
	uc, ok := lc.Conn.(*net.UnixConn)
	if !ok {
		return nil
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return nil
	}
	var cred *unix.Ucred
	raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err != nil {
		return nil
	}
	return cred
}
