package sandbox

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// inside has the test binary enter a sandbox, try things and print what came of it, as JSON.
const inside = "SANDBOX_RULES"

func TestMain(m *testing.M) {
	if text := os.Getenv(inside); text != "" {
		var rules Rules
		if err := json.Unmarshal([]byte(text), &rules); err != nil {
			panic(err)
		}
		json.NewEncoder(os.Stdout).Encode(try(rules))
		os.Exit(0)
	}
	programs = append(programs, "/lib", "/lib64", "/usr/lib") // the race detector is not linked statically
	os.Exit(m.Run())
}

const fine = "fine"

// try enters a sandbox and tries everything, on a thread that was there before.
func try(rules Rules) map[string]string {
	asked, answered := make(chan func() error), make(chan error)
	go func() {
		runtime.LockOSThread()
		for do := range asked {
			answered <- do()
		}
	}()
	asked <- func() error { return nil } // the thread is there
	<-answered
	if err := rules.Enter(); err != nil {
		return map[string]string{"enter": err.Error()}
	}
	results := map[string]string{}
	for name, do := range attempts() {
		if only := os.Getenv("SANDBOX_ONLY"); only != "" && !strings.Contains(only, name) {
			continue
		}
		asked <- do
		results[name] = fine
		if err := <-answered; err != nil {
			var errno syscall.Errno
			if results[name] = err.Error(); errors.As(err, &errno) {
				results[name] = unix.ErrnoName(errno)
			}
		}
	}
	return results
}

func attempts() map[string]func() error {
	dir := os.Getenv("SANDBOX_DIR")
	call := func(number uintptr, args ...uintptr) func() error {
		return func() error {
			args := append(args, 0, 0, 0, 0, 0, 0)
			if _, _, errno := unix.RawSyscall6(number, args[0], args[1], args[2], args[3], args[4], args[5]); errno != 0 {
				return errno
			}
			return nil
		}
	}
	read := func(name string) func() error {
		return func() error { _, err := os.ReadFile(filepath.Join(dir, name)); return err }
	}
	write := func(name string) func() error {
		return func() error { return os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600) }
	}
	socket := func(family int) func() error {
		return func() error {
			fd, err := unix.Socket(family, unix.SOCK_DGRAM, 0)
			if err == nil {
				unix.Close(fd)
			}
			return err
		}
	}
	listen := func(port string) func() error {
		return func() error {
			l, err := net.Listen("tcp4", "127.0.0.1:"+port)
			if err == nil {
				l.Close()
			}
			return err
		}
	}
	const junk = 1 << 40 // an address where nothing is: a call that gets through fails with EFAULT or the like
	return map[string]func() error{
		"read what may be read":       read("read/file"),
		"read what may be written":    read("write/file"),
		"read another file":           read("other/file"),
		"read /etc/passwd":            func() error { _, err := os.ReadFile("/etc/passwd"); return err },
		"list another directory":      func() error { _, err := os.ReadDir(filepath.Join(dir, "other")); return err },
		"write what may be written":   write("write/new"),
		"write what may be read":      write("read/file"),
		"make a file where one reads": write("read/new"),
		"rename": func() error {
			return errors.Join(write("write/from")(), os.Rename(filepath.Join(dir, "write/from"), filepath.Join(dir, "write/to")))
		},
		"make a directory":   func() error { return os.Mkdir(filepath.Join(dir, "write/dir"), 0o700) },
		"write to /dev/null": func() error { return os.WriteFile("/dev/null", []byte("x"), 0) },
		"change mode and owner": func() error {
			f := filepath.Join(dir, "write/file")
			return errors.Join(os.Chmod(f, 0o640), os.Chown(f, os.Getuid(), os.Getgid()))
		},
		"serve HTTP on a socket": func() error { return serveHTTP(filepath.Join(dir, "write/sock")) },
		"many goroutines": func() error {
			done := make(chan int)
			for range 100 {
				go func() { runtime.LockOSThread(); time.Sleep(time.Millisecond); runtime.GC(); done <- 1 }()
			}
			for range 100 {
				<-done
			}
			return nil
		},

		"socket unix":   socket(unix.AF_UNIX),
		"socket inet":   socket(unix.AF_INET),
		"socket packet": socket(unix.AF_PACKET),
		"socket vsock":  socket(unix.AF_VSOCK),
		"socket alg":    socket(unix.AF_ALG),

		"listen on its port":     listen(os.Getenv("SANDBOX_PORT")),
		"listen on another port": listen("0"),
		"connect": func() error {
			c, err := net.Dial("tcp4", os.Getenv("SANDBOX_SERVER"))
			if err == nil {
				c.Close()
			}
			return err
		},

		"run a program": func() error { return exec.Command("/bin/true").Run() },
		"fork":          call(unix.SYS_CLONE, uintptr(unix.SIGCHLD)),
		"clone3":        call(unix.SYS_CLONE3, junk, 64),
		"code in memory": func() error {
			_, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_ANON|unix.MAP_PRIVATE)
			return err
		},
		"memory becomes code": func() error {
			b, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
			if err != nil {
				return nil // that is not what is tried
			}
			return unix.Mprotect(b, unix.PROT_READ|unix.PROT_EXEC)
		},
		"type into a terminal":      call(unix.SYS_IOCTL, 0, unix.TIOCSTI, junk),
		"a system call of tomorrow": call(900),

		"ptrace":            call(unix.SYS_PTRACE, unix.PTRACE_ATTACH, 0),
		"mount":             call(unix.SYS_MOUNT, junk, junk),
		"umount2":           call(unix.SYS_UMOUNT2, junk),
		"fsopen":            call(unix.SYS_FSOPEN, junk),
		"move_mount":        call(unix.SYS_MOVE_MOUNT),
		"open_tree":         call(unix.SYS_OPEN_TREE, 0, junk),
		"mount_setattr":     call(unix.SYS_MOUNT_SETATTR),
		"pivot_root":        call(unix.SYS_PIVOT_ROOT, junk, junk),
		"chroot":            call(unix.SYS_CHROOT, junk),
		"bpf":               call(unix.SYS_BPF, 0, junk, 1),
		"perf_event_open":   call(unix.SYS_PERF_EVENT_OPEN, junk),
		"keyctl":            call(unix.SYS_KEYCTL),
		"add_key":           call(unix.SYS_ADD_KEY, junk),
		"request_key":       call(unix.SYS_REQUEST_KEY, junk),
		"kexec_load":        call(unix.SYS_KEXEC_LOAD, 0, 99, junk),
		"kexec_file_load":   call(unix.SYS_KEXEC_FILE_LOAD, ^uintptr(0), ^uintptr(0)),
		"init_module":       call(unix.SYS_INIT_MODULE, junk, 1, junk),
		"finit_module":      call(unix.SYS_FINIT_MODULE, ^uintptr(0), junk),
		"delete_module":     call(unix.SYS_DELETE_MODULE, junk),
		"reboot":            call(unix.SYS_REBOOT),
		"swapon":            call(unix.SYS_SWAPON, junk),
		"swapoff":           call(unix.SYS_SWAPOFF, junk),
		"setns":             call(unix.SYS_SETNS, ^uintptr(0)),
		"unshare":           call(unix.SYS_UNSHARE, unix.CLONE_NEWUSER),
		"userfaultfd":       call(unix.SYS_USERFAULTFD, junk),
		"io_uring_setup":    call(unix.SYS_IO_URING_SETUP, 0, junk),
		"process_vm_readv":  call(unix.SYS_PROCESS_VM_READV, 0, junk, 1, junk, 1),
		"process_vm_writev": call(unix.SYS_PROCESS_VM_WRITEV, 0, junk, 1, junk, 1),
		"pidfd_getfd":       call(unix.SYS_PIDFD_GETFD, ^uintptr(0)),
		"settimeofday":      call(unix.SYS_SETTIMEOFDAY, junk),
		"clock_settime":     call(unix.SYS_CLOCK_SETTIME, unix.CLOCK_REALTIME, junk),
		"adjtimex":          call(unix.SYS_ADJTIMEX, junk),
		"sethostname":       call(unix.SYS_SETHOSTNAME, junk, 1),
		"personality":       call(unix.SYS_PERSONALITY, 0xffffffff),
		"acct":              call(unix.SYS_ACCT, junk),
		"quotactl":          call(unix.SYS_QUOTACTL, 0, junk),
		"open_by_handle_at": call(unix.SYS_OPEN_BY_HANDLE_AT, 0, junk),
		"fanotify_init":     call(unix.SYS_FANOTIFY_INIT, 0xffffffff),
		"syslog":            call(unix.SYS_SYSLOG, 99),
		"seccomp":           call(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, junk),
		"setuid":            call(unix.SYS_SETUID, uintptr(os.Getuid())),
		"capset":            call(unix.SYS_CAPSET, junk),
		"mknodat":           call(unix.SYS_MKNODAT, 0, junk),
		"memfd_create":      call(unix.SYS_MEMFD_CREATE, junk),
	}
}

func serveHTTP(path string) error {
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })}
	go srv.Serve(l)
	defer srv.Close()
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	resp, err := client.Get("http://x/")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "hello" {
		return fmt.Errorf("answered %q, %w", b, err)
	}
	return nil
}

// enter runs try, all of it or only these attempts, in a process of its own, and returns its
// results.
func enter(t *testing.T, rules func(dir string, port uint16) Rules, only ...string) map[string]string {
	t.Helper()
	dir := t.TempDir()
	for _, sub := range []string{"read", "write", "other"} {
		if err := errors.Join(os.Mkdir(filepath.Join(dir, sub), 0o700), os.WriteFile(filepath.Join(dir, sub, "file"), []byte("x"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	server, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	free, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := free.Addr().(*net.TCPAddr).Port
	free.Close()
	given := rules(dir, uint16(port))
	text, err := json.Marshal(given)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "SANDBOX_ONLY="+strings.Join(only, ","), inside+"="+string(text), "SANDBOX_DIR="+dir, fmt.Sprintf("SANDBOX_PORT=%d", port), "SANDBOX_SERVER="+server.Addr().String())
	var out, logged bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &logged
	started := make(chan error)
	go func() { // as the supervisor does
		runtime.LockOSThread()
		err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
		started <- errors.Join(err, given.Confine(), cmd.Start())
	}()
	if err := errors.Join(<-started, cmd.Wait()); err != nil {
		t.Fatalf("%v\n%s", err, &logged)
	}
	results := map[string]string{}
	if err := json.NewDecoder(&out).Decode(&results); err != nil {
		t.Fatalf("%v in %q", err, &out)
	}
	return results
}

func TestAServiceCanDoItsWorkAndLittleElse(t *testing.T) {
	results := enter(t, func(dir string, port uint16) Rules {
		return Rules{
			Read: []string{filepath.Join(dir, "read"), filepath.Join(dir, "missing")}, Write: []string{filepath.Join(dir, "write")},
			Listen: []uint16{port}, Sockets: []uint32{unix.AF_UNIX, unix.AF_INET},
		}
	})
	want := map[string]string{
		"read what may be read": fine, "read what may be written": fine, "write what may be written": fine, "rename": fine,
		"make a directory": fine, "write to /dev/null": fine, "change mode and owner": fine, "serve HTTP on a socket": fine, "many goroutines": fine,
		"socket unix": fine, "socket inet": fine, "listen on its port": fine,
		"read another file": "EACCES", "read /etc/passwd": "EACCES", "list another directory": "EACCES",
		"write what may be read": "EACCES", "make a file where one reads": "EACCES",
		"socket packet": "EAFNOSUPPORT", "socket vsock": "EAFNOSUPPORT", "socket alg": "EAFNOSUPPORT",
		"listen on another port": "EACCES", "connect": "EACCES",
		"clone3": "ENOSYS", "a system call of tomorrow": "ENOSYS",
	}
	for _, name := range slices.Sorted(maps.Keys(results)) {
		w := want[name]
		if w == "" {
			w = "EPERM"
		}
		if got := results[name]; got != w {
			t.Errorf("%s: %s, want %s", name, got, w)
		}
	}
	if len(results) < len(want) {
		t.Errorf("results of %d attempts: %v", len(results), results)
	}
}

func TestAnOpenServiceCanDoEverything(t *testing.T) {
	harmless := []string{"read another file", "run a program", "listen on another port", "connect", "code in memory"}
	results := enter(t, func(string, uint16) Rules { return Rules{Open: true} }, harmless...)
	for _, name := range harmless {
		if results[name] != fine {
			t.Errorf("%s: %s", name, results[name])
		}
	}
}

func TestTheFilterIsWithinTheKernelsBounds(t *testing.T) {
	p := program([]uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK, unix.AF_PACKET}, nil)
	if _, err := bpf.Assemble(p); err != nil || len(p) > 4096 {
		t.Errorf("%d instructions, %v", len(p), err)
	}
	seen := map[uint32]bool{}
	for _, call := range allowed {
		if seen[call] {
			t.Errorf("system call %d is allowed twice", call)
		}
		if call > newest {
			t.Errorf("system call %d is beyond the newest", call)
		}
		seen[call] = true
	}
}

func TestEveryCallHasItsVerdict(t *testing.T) {
	vm, err := bpf.NewVM(program([]uint32{unix.AF_UNIX}, nil))
	if err != nil {
		t.Fatal(err)
	}
	special := []uint32{unix.SYS_CLONE, unix.SYS_CLONE3, unix.SYS_MMAP, unix.SYS_MPROTECT, unix.SYS_IOCTL, unix.SYS_SOCKET}
	verdict := func(arch, call uint32) bpf.RetConstant {
		data := make([]byte, 64) // package bpf's machine reads a network's byte order
		binary.BigEndian.PutUint32(data[offNumber:], call)
		binary.BigEndian.PutUint32(data[offArch:], arch)
		got, err := vm.Run(data)
		if err != nil {
			t.Fatal(err)
		}
		return bpf.RetConstant{Val: uint32(got)}
	}
	for call := range uint32(newest + 50) {
		want := forbid
		switch {
		case slices.Contains(special, call):
			continue
		case call > newest:
			want = unknown
		case slices.Contains(allowed, call):
			want = allow
		}
		if got := verdict(arch, call); got != want {
			t.Errorf("call %d: verdict %#x, want %#x", call, got.Val, want.Val)
		}
	}
	for call, want := range map[uint32]bpf.RetConstant{
		unix.SYS_CLONE: forbid, unix.SYS_CLONE3: unknown, unix.SYS_MMAP: allow, unix.SYS_IOCTL: allow, unix.SYS_SOCKET: noFamily,
		1 << 30: unknown, 1<<32 - 1: unknown,
	} {
		if got := verdict(arch, call); got != want {
			t.Errorf("call %d: verdict %#x, want %#x", call, got.Val, want.Val)
		}
	}
	if got := verdict(0x40000028, unix.SYS_READ); got != kill { // 32-bit ARM
		t.Errorf("another architecture's call: verdict %#x", got.Val)
	}
}
