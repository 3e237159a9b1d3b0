package machine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"cloudlink.local/gateway/internal/condition"
)

// asked has the test binary ask the server at this socket for a restart, as whoever it is.
const asked = "MACHINE_SOCKET"

func TestMain(m *testing.M) {
	if path := os.Getenv(asked); path != "" {
		if err := newClient(path).Restart(context.Background()); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

var status = Status{
	Serial: "ABC123", Slot: "b", BootID: "id", UptimeSeconds: 12.5, Time: time.Date(2026, 11, 22, 1, 2, 3, 0, time.UTC),
	Data:       Data{State: DataReplaced, Detail: "damaged", SizeBytes: 1 << 30, FreeBytes: 1 << 20},
	Services:   []Service{{Name: "portal", State: Running, PID: 7, Restarts: 1, LastExit: "exit status 2"}},
	Conditions: []condition.Condition{condition.New(condition.ServiceFailing, "service", "portal")},
}

// serve starts a server and returns its socket and what is asked of it.
func serve(t *testing.T) (path string, stops chan string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "machine") // everybody may look into it, and the name is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, "init.sock")
	stops = make(chan string, 10)
	s := Server{
		Status: func() Status { return status },
		Log: func(after uint64, level Level) []Entry {
			return []Entry{{Seq: after + 1, Level: level, Text: "now"}}
		},
		Previous: func(level Level) ([]Entry, error) {
			if level == LevelError {
				return nil, errors.New("disk on fire")
			}
			return []Entry{{Level: level, Text: "then"}}, nil
		},
		Restart:  func(by string) { stops <- "restart by " + by },
		PowerOff: func(by string) { stops <- "power-off by " + by },
		MayStop:  []uint32{65002},
		Logger:   slog.New(slog.DiscardHandler),
	}
	for range 2 { // a socket that was left there is in nobody's way
		l, err := Listen(path, 65100)
		if err != nil {
			t.Fatal(err)
		}
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx, l) }()
		t.Cleanup(func() {
			stop()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	return path, stops
}

func TestTheClientHearsWhatTheServerKnows(t *testing.T) {
	path, stops := serve(t)
	c, ctx := newClient(path), t.Context()
	if got, err := c.Status(ctx); err != nil || !reflect.DeepEqual(got, status) {
		t.Errorf("status %+v, %v", got, err)
	}
	if got, err := c.Log(ctx, 41, LevelWarn); err != nil || len(got) != 1 || got[0].Seq != 42 || got[0].Level != LevelWarn || got[0].Text != "now" {
		t.Errorf("log %+v, %v", got, err)
	}
	if got, err := c.PreviousLog(ctx, LevelInfo); err != nil || len(got) != 1 || got[0].Level != LevelInfo || got[0].Text != "then" {
		t.Errorf("previous log %+v, %v", got, err)
	}
	if _, err := c.PreviousLog(ctx, LevelError); err == nil || !strings.Contains(err.Error(), "disk on fire") {
		t.Errorf("previous log: %v", err)
	}
	who := fmt.Sprintf("user %d, process %d", os.Getuid(), os.Getpid())
	if err := c.Restart(ctx); err != nil {
		t.Error(err)
	}
	if got := <-stops; got != "restart by "+who {
		t.Error(got)
	}
	if err := c.PowerOff(ctx); err != nil {
		t.Error(err)
	}
	if got := <-stops; got != "power-off by "+who {
		t.Error(got)
	}
}

func TestOnlyThoseWhoMayStopTheMachineDo(t *testing.T) {
	path, stops := serve(t)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o660 || info.Sys().(*syscall.Stat_t).Gid != 65100 {
		t.Fatalf("the socket is %+v, %v", info, err)
	}
	for _, c := range []struct {
		user   uint32
		groups []uint32
		want   string
	}{
		{65002, []uint32{65100}, ""},
		{65003, []uint32{65100}, "403 Forbidden"},
		{65002, nil, "permission denied"},
		{0, nil, ""},
	} {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = []string{asked + "=" + path}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: c.user, Gid: c.user, Groups: c.groups}}
		out, err := cmd.CombinedOutput()
		if (err == nil) != (c.want == "") || !strings.Contains(string(out), c.want) {
			t.Errorf("user %d of groups %v: %v, %q; want %q", c.user, c.groups, err, out, c.want)
		}
		if c.want == "" {
			<-stops
		}
	}
	if len(stops) != 0 {
		t.Errorf("somebody else stopped it: %s", <-stops)
	}
}

func TestWrongQuestionsAreRefused(t *testing.T) {
	path, _ := serve(t)
	for request, want := range map[string]string{
		"GET /log?level=loud HTTP/1.1\r\nHost: x\r\n\r\n":                                 "400 Bad Request",
		"GET /log?level=8 HTTP/1.1\r\nHost: x\r\n\r\n":                                    "400 Bad Request",
		"GET /log?after=-1 HTTP/1.1\r\nHost: x\r\n\r\n":                                   "400 Bad Request",
		"GET /log?boot=first HTTP/1.1\r\nHost: x\r\n\r\n":                                 "400 Bad Request",
		"GET /log?level=warn&after=7 HTTP/1.1\r\nHost: x\r\n\r\n":                         "200 OK",
		"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n":                                        "404 Not Found",
		"GET /restart HTTP/1.1\r\nHost: x\r\n\r\n":                                        "405 Method Not Allowed",
		"GET /status HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 9000) + "\r\n\r\n": "431 Request Header Fields Too Large",
		"\x00\xff\r\n\r\n": "400 Bad Request",
	} {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte(request)); err != nil {
			t.Error(err)
		}
		line, err := bufio.NewReader(c).ReadString('\n')
		if !strings.Contains(line, want) {
			t.Errorf("%.60q is answered with %q, %v; want %s", request, line, err, want)
		}
		c.Close()
	}
}

func TestWhoHoldsAllConnectionsDoesNotHoldThemForever(t *testing.T) {
	path, _ := serve(t)
	for range maxConns {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	c := newClient(path)
	for end := time.Now().Add(time.Minute); ; { // the silent ones are cut off
		if _, err := c.Status(t.Context()); err == nil {
			return
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func TestWithoutProcess1TheClientSaysSo(t *testing.T) {
	_, err := newClient(filepath.Join(t.TempDir(), "none")).Status(t.Context())
	if err == nil || !strings.Contains(err.Error(), "ask process 1") {
		t.Error(err)
	}
}
