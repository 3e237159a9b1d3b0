package sandbox

import (
	"fmt"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// allowed are the system calls of a Go program that serves, keeps files, and speaks netlink. What
// is not here is refused with EPERM; among it: starting programs, ptrace, mounts, namespaces,
// modules, kexec, reboot, swap, bpf, perf, io_uring, userfaultfd, keys, others' memory.
var allowed = append([]uint32{
	// Memory, threads, signals, time: the runtime's own.
	unix.SYS_FUTEX, unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_CLOCK_GETTIME, unix.SYS_CLOCK_GETRES,
	unix.SYS_GETTIMEOFDAY, unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY, unix.SYS_SCHED_GETPARAM, unix.SYS_SCHED_GETSCHEDULER,
	unix.SYS_MUNMAP, unix.SYS_MREMAP, unix.SYS_MADVISE, unix.SYS_MINCORE, unix.SYS_MSYNC, unix.SYS_BRK, unix.SYS_MEMBARRIER,
	unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_RT_SIGTIMEDWAIT, unix.SYS_SIGALTSTACK,
	unix.SYS_TGKILL, unix.SYS_KILL, unix.SYS_RESTART_SYSCALL, unix.SYS_SET_ROBUST_LIST, unix.SYS_SET_TID_ADDRESS, unix.SYS_RSEQ,
	unix.SYS_SETITIMER, unix.SYS_TIMER_CREATE, unix.SYS_TIMER_SETTIME, unix.SYS_TIMER_DELETE,
	unix.SYS_TIMERFD_CREATE, unix.SYS_TIMERFD_SETTIME, unix.SYS_TIMERFD_GETTIME,
	unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_GETRANDOM, unix.SYS_GETCPU,
	unix.SYS_GETPID, unix.SYS_GETPPID, unix.SYS_GETTID, unix.SYS_GETUID, unix.SYS_GETEUID, unix.SYS_GETGID, unix.SYS_GETEGID,
	unix.SYS_GETGROUPS, unix.SYS_GETRUSAGE, unix.SYS_GETRLIMIT, unix.SYS_PRLIMIT64, unix.SYS_PRCTL, unix.SYS_CAPGET,
	unix.SYS_SYSINFO, unix.SYS_UNAME, unix.SYS_TIMES,
	// Files.
	unix.SYS_READ, unix.SYS_WRITE, unix.SYS_READV, unix.SYS_WRITEV, unix.SYS_PREAD64, unix.SYS_PWRITE64, unix.SYS_LSEEK,
	unix.SYS_OPENAT, unix.SYS_OPENAT2, unix.SYS_CLOSE, unix.SYS_CLOSE_RANGE, unix.SYS_DUP, unix.SYS_DUP3, unix.SYS_PIPE2,
	unix.SYS_FCNTL, unix.SYS_FLOCK, unix.SYS_FSTAT, unix.SYS_STATX, unix.SYS_STATFS, unix.SYS_FSTATFS,
	unix.SYS_FACCESSAT, unix.SYS_FACCESSAT2, unix.SYS_READLINKAT, unix.SYS_GETDENTS64, unix.SYS_GETCWD, unix.SYS_CHDIR,
	unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_SYNC_FILE_RANGE, unix.SYS_FTRUNCATE, unix.SYS_TRUNCATE, unix.SYS_FALLOCATE,
	unix.SYS_RENAMEAT2, unix.SYS_RENAMEAT, unix.SYS_MKDIRAT, unix.SYS_UNLINKAT, unix.SYS_LINKAT, unix.SYS_SYMLINKAT,
	unix.SYS_FCHMOD, unix.SYS_FCHMODAT, unix.SYS_FCHOWN, unix.SYS_FCHOWNAT, unix.SYS_UMASK, unix.SYS_UTIMENSAT, unix.SYS_FADVISE64,
	unix.SYS_SENDFILE, unix.SYS_SPLICE, unix.SYS_COPY_FILE_RANGE,
	unix.SYS_INOTIFY_INIT1, unix.SYS_INOTIFY_ADD_WATCH, unix.SYS_INOTIFY_RM_WATCH,
	// Waiting.
	unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_PWAIT2, unix.SYS_EVENTFD2,
	unix.SYS_PPOLL, unix.SYS_PSELECT6, unix.SYS_SIGNALFD4, unix.SYS_PIDFD_OPEN, unix.SYS_PIDFD_SEND_SIGNAL,
	// Sockets; socket itself is looked at below.
	unix.SYS_SOCKETPAIR, unix.SYS_BIND, unix.SYS_LISTEN, unix.SYS_CONNECT, unix.SYS_ACCEPT, unix.SYS_ACCEPT4,
	unix.SYS_SHUTDOWN, unix.SYS_GETSOCKNAME, unix.SYS_GETPEERNAME, unix.SYS_SETSOCKOPT, unix.SYS_GETSOCKOPT,
	unix.SYS_SENDTO, unix.SYS_RECVFROM, unix.SYS_SENDMSG, unix.SYS_RECVMSG, unix.SYS_SENDMMSG, unix.SYS_RECVMMSG,
}, allowedHere...)

// newest is the highest system call that this table knows about (Linux 6.12). A newer one does
// not exist as far as a service can tell, so that programs fall back to an older way.
const newest = 462

// Where a filter finds what it looks at: struct seccomp_data.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16 // six of eight bytes
)

// arg returns the offset of the lower half of argument n on a little-endian machine: what we look at
// has 32 bits.
func arg(n uint32) uint32 { return offArgs + 8*n }

// Verdicts.
var (
	allow      = bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}
	forbid     = bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)}
	unknown    = bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)}
	noFamily   = bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT)}
	noProtocol = bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.EPROTONOSUPPORT)}
	kill       = bpf.RetConstant{Val: unix.SECCOMP_RET_KILL_PROCESS}
)

// program returns the filter for a service that may open sockets of these families, and make these
// calls besides the usual ones. It is a binary
// tree: the kernel tries every number when it takes the filter, to remember what is always allowed.
func program(families, calls []uint32) []bpf.Instruction {
	return append([]bpf.Instruction{
		bpf.LoadAbsolute{Off: offArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: arch, SkipTrue: 1},
		kill, // another architecture's numbers mean other calls
		bpf.LoadAbsolute{Off: offNumber, Size: 4},
	}, tree(ranges(families, calls))...)
}

// A span is the system calls from one number up to the next span's, and what becomes of them.
type span struct {
	from uint32
	body []bpf.Instruction // ends in a verdict
}

// ranges returns the spans of all numbers, in order.
func ranges(families, calls []uint32) []span {
	always := func(verdict bpf.RetConstant) []bpf.Instruction { return []bpf.Instruction{verdict} }
	special := map[uint32][]bpf.Instruction{
		unix.SYS_CLONE3: always(unknown), // its flags lie in memory, out of a filter's sight
		// Threads, not processes.
		unix.SYS_CLONE: {
			bpf.LoadAbsolute{Off: arg(0), Size: 4},
			bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: unix.CLONE_THREAD, SkipTrue: 1},
			forbid, allow,
		},
		// Nobody types into a terminal for another.
		unix.SYS_IOCTL: {
			bpf.LoadAbsolute{Off: arg(1), Size: 4},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.TIOCSTI, SkipTrue: 1},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: tioclinux, SkipTrue: 1},
			forbid, allow,
		},
	}
	// Memory never becomes code.
	for _, call := range []uint32{unix.SYS_MMAP, unix.SYS_MPROTECT} {
		special[call] = []bpf.Instruction{
			bpf.LoadAbsolute{Off: arg(2), Size: 4},
			bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: unix.PROT_EXEC, SkipFalse: 1},
			forbid, allow,
		}
	}
	// Landlock's ports are those of TCP proper: net.Listen would try multipath TCP first.
	socket := []bpf.Instruction{
		bpf.LoadAbsolute{Off: arg(2), Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_MPTCP, SkipTrue: 1},
		noProtocol,
		bpf.LoadAbsolute{Off: arg(0), Size: 4},
	}
	for _, family := range families {
		socket = append(socket, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: family, SkipTrue: 1}, allow)
	}
	special[unix.SYS_SOCKET] = append(socket, noFamily)

	var list []span
	for call := range uint32(newest + 1) {
		body, ok := special[call]
		if !ok && (slices.Contains(allowed, call) || slices.Contains(calls, call)) {
			body = always(allow)
		} else if !ok {
			body = always(forbid)
		}
		if n := len(list); n > 0 && len(body) == 1 && slices.Equal(list[n-1].body, body) {
			continue // it goes on
		}
		list = append(list, span{call, body})
	}
	return append(list, span{newest + 1, always(unknown)}) // the x32 calls as well
}

// tree returns what finds the span of the loaded number.
func tree(list []span) []bpf.Instruction {
	if len(list) == 1 {
		return list[0].body
	}
	low, high := tree(list[:len(list)/2]), tree(list[len(list)/2:])
	branch := []bpf.Instruction{
		bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: list[len(list)/2].from, SkipFalse: 1},
		bpf.Jump{Skip: uint32(len(low))}, // farther than a condition's jump may reach
	}
	return slices.Concat(branch, low, high)
}

const tioclinux = 0x541c

// filterCalls applies the filter to all threads of this process.
func filterCalls(families, calls []uint32) error {
	raw, err := bpf.Assemble(program(families, calls))
	if err != nil {
		return err
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	runtime.LockOSThread() // the flag is a thread's own; TSYNC gives it to the others
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	stray, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return errno
	}
	if stray != 0 {
		return fmt.Errorf("thread %d has another filter", stray)
	}
	return nil
}
