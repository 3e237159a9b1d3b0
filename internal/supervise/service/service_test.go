package service

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/supervise"
	"cloudlink.local/gateway/internal/supervise/sandbox"
)

// role has the test binary be a service that ends in that way.
const role = "SERVICE_ROLE"

func TestMain(m *testing.M) {
	switch kind := os.Getenv(role); kind {
	case "":
		os.Exit(m.Run())
	default:
		os.Exit(Main(sandbox.Rules{Open: kind != "shut in"}, func(ctx context.Context, ready func(), log *slog.Logger) error {
			ready()
			ready() // the second time nothing happens
			log.Info("works", "as", kind)
			switch kind {
			case "fails":
				return errors.New("disk on fire")
			case "shut in":
				if err := exec.Command("/bin/true").Run(); err == nil {
					return errors.New("it is not shut in")
				}
			}
			<-ctx.Done()
			return nil
		}))
	}
}

func TestAServiceTellsThatItIsReadyAndStopsWhenAsked(t *testing.T) {
	for _, kind := range []string{"open", "shut in"} {
		t.Run(kind, func(t *testing.T) {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			var log bytes.Buffer
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), role+"="+kind, "CLOUDLINK_READY_FD=3")
			cmd.ExtraFiles, cmd.Stderr = []*os.File{w}, &log
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			w.Close()
			words := bufio.NewScanner(r)
			for _, want := range []string{supervise.Ready, supervise.Alive, supervise.Alive} {
				if !words.Scan() || words.Text() != want {
					t.Errorf("it says %q, %v, want %q", words.Text(), words.Err(), want)
				}
			}
			cmd.Process.Signal(unix.SIGTERM)
			if err := cmd.Wait(); err != nil {
				t.Errorf("it ends with %v\n%s", err, &log)
			}
			if !strings.Contains(log.String(), "<6>works as=") {
				t.Errorf("it logged %q", log.String())
			}
		})
	}
}

func TestAFailureIsLoggedAndIsTheExitStatus(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), role+"=fails") // nobody wants to know when it is ready
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 1 || !strings.HasSuffix(string(out), "<3>disk on fire\n") {
		t.Errorf("%v, it logged %q", err, out)
	}
}

func TestALogLineIsOneLine(t *testing.T) {
	var b bytes.Buffer
	log := Logger(&b)
	log.Error("two\nlines", "value", "a\x1bb")
	log.With("port", "eth0").WithGroup("lease").Warn("lost", "address", "192.0.2.7", slog.Group("dns", "first", ""))
	log.Debug("not kept")
	want := "<3>two\\x0alines value=a\\x1bb\n<4>lost port=eth0 lease.address=192.0.2.7 lease.dns.first=\"\"\n"
	if b.String() != want {
		t.Errorf("logged %q, want %q", b.String(), want)
	}
}
