package portal

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/supervise/sandbox"
)

// listenEnv makes the test's program a portal that listens on this port in a sandbox like the
// device's, until its standard input ends.
const listenEnv = "CLOUDLINK_TEST_LISTEN"

func listenInSandbox(port string) error {
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return err
	}
	rules := sandbox.Rules{Listen: []uint16{uint16(n)}, Sockets: []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}}
	runtime.LockOSThread() // Landlock holds for this thread, and the ones that it starts
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	var old sandbox.TooOld
	if err := rules.Confine(); errors.As(err, &old) && old.Version < 4 || err != nil && !errors.As(err, &old) {
		return err // before version 4 it knows no ports, and the test would try nothing
	}
	if err := rules.Enter(); err != nil {
		return err
	}
	ln, err := listen(context.Background(), uint16(n))
	if err != nil {
		return err
	}
	defer ln.Close()
	fmt.Println("listening")
	os.Stdin.Read(make([]byte, 1))
	return nil
}

// In the sandbox a service may bind its one port and no other. The net package finds out with
// other ports whether there is IPv6.
func TestListensOnBothFamiliesInItsSandbox(t *testing.T) {
	free, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(free.Addr().String())
	free.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), listenEnv+"="+port)
	cmd.Stderr = t.Output()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer in.Close()
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	for _, host := range []string{"127.0.0.1", "::1"} {
		c, err := net.Dial("tcp", net.JoinHostPort(host, port))
		if err != nil {
			t.Error(err)
			continue
		}
		c.Close()
	}
}
