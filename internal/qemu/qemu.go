// Package qemu runs the firmware image in an emulated arm64 machine: `make run`, the tests and the
// benchmarks start theirs here, so all of them see the same board.
package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// A Firmware is what the machine starts with, before our loader.
type Firmware string

// The firmwares, as board.toml names them.
const (
	UBoot      Firmware = "u-boot"
	EDK2       Firmware = "edk2"
	SecureBoot Firmware = "edk2-secure-boot" // EDK2 with Debian's snakeoil key enrolled, enforcing
)

// A NIC is one virtio network card. With no Tap it is QEMU's user-mode network: a DHCP server at
// 10.0.2.2 gives 10.0.2.15, and 127.0.0.1:Forward on this host leads to the guest's port 80.
type NIC struct {
	Tap     *os.File // an open tap, in whatever namespace it is
	Forward int      // 0 for none
	MAC     string   // "" for one by the card's place: give one where two machines share a LAN
}

// Config is a machine.
type Config struct {
	Firmware Firmware
	Disk     string // raw image, or the address of a server of one; written to
	MemoryMB int    // 256 if 0
	CPUs     int    // 2 if 0
	CPU      string // QEMU's name of it; DefaultCPU if ""
	NICs     []NIC
	ReadOnly bool     // the disk refuses writes
	Args     []string // more of QEMU's own
	Dir      string   // for the control socket and the firmware's variables; kept between starts
}

// DefaultCPU is the newest that QEMU emulates, less what is slow to emulate. On an older one, without
// E0PD and PAN, the kernel changes address spaces at each system call to guard itself. A real one does
// that with a register; QEMU forgets all its translations each time, and is three times as slow.
const DefaultCPU = "max,pauth=off,lpa2=off"

// A Machine is a running QEMU. Console carries its first serial port.
type Machine struct {
	Console io.ReadWriteCloser
	Started time.Time

	cmd  *exec.Cmd
	qmp  *control
	done chan struct{} // closed when QEMU has ended and err is set
	err  error
}

// files names each firmware's code and, where it keeps any, its pristine variables, by the Debian
// package that brings them.
var files = map[Firmware]struct{ pkg, code, vars string }{
	UBoot:      {"u-boot-qemu", "/usr/lib/u-boot/qemu_arm64/u-boot.bin", ""},
	EDK2:       {"qemu-efi-aarch64", "/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"},
	SecureBoot: {"qemu-efi-aarch64", "/usr/share/AAVMF/AAVMF_CODE.snakeoil.fd", "/usr/share/AAVMF/AAVMF_VARS.snakeoil.fd"},
}

// Start starts the machine. It ends with ctx at the latest.
func Start(ctx context.Context, c Config) (*Machine, error) {
	args, taps, err := c.args()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "qemu-system-aarch64", args...)
	cmd.ExtraFiles = taps
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:   true,            // Ctrl-C is ours to handle, not QEMU's
		Pdeathsig: syscall.SIGKILL, // a killed test leaves no machine behind
	}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, w, err := os.Pipe() // not StdoutPipe: Wait would close it before the last line is read
	if err != nil {
		return nil, err
	}
	cmd.Stdout = w
	m := &Machine{Console: console{out, in}, Started: time.Now(), cmd: cmd, done: make(chan struct{})}
	err = cmd.Start()
	w.Close()
	if err != nil {
		out.Close()
		return nil, fmt.Errorf("start qemu-system-aarch64 (scripts/setup installs it): %w", err)
	}
	go func() {
		m.err = cmd.Wait()
		close(m.done)
	}()
	if m.qmp, err = dial(ctx, filepath.Join(c.Dir, "qmp"), m.done); err != nil {
		m.Kill()
		return nil, fmt.Errorf("control qemu: %w", err)
	}
	return m, nil
}

// console joins QEMU's standard output and input.
type console struct {
	io.ReadCloser
	in io.WriteCloser
}

func (c console) Write(b []byte) (int, error) { return c.in.Write(b) }
func (c console) Close() error                { return errors.Join(c.ReadCloser.Close(), c.in.Close()) }

// args returns QEMU's arguments and the taps among them, which it finds at file 3 and up.
func (c Config) args() (args []string, taps []*os.File, err error) {
	fw, ok := files[c.Firmware]
	if !ok {
		return nil, nil, fmt.Errorf("firmware %q: want %s, %s or %s", c.Firmware, UBoot, EDK2, SecureBoot)
	}
	for _, f := range []string{fw.code, fw.vars} {
		if _, err := os.Stat(f); f != "" && err != nil {
			return nil, nil, fmt.Errorf("firmware %s: %w: install the package %s (scripts/setup does)", c.Firmware, err, fw.pkg)
		}
	}
	memory, cpus := c.MemoryMB, c.CPUs
	if memory == 0 {
		memory = 256
	}
	if cpus == 0 {
		cpus = 2
	}
	cpu := c.CPU
	if cpu == "" {
		cpu = DefaultCPU
	}
	readOnly := "off"
	if c.ReadOnly {
		readOnly = "on"
	}
	board := "virt"
	if c.Firmware == UBoot {
		// It hands the device tree on and knows no ACPI. With ACPI on, QEMU leaves the power button
		// out of the tree.
		board = "virt,acpi=off"
	}
	args = []string{
		"-M", board, "-cpu", cpu, "-smp", strconv.Itoa(cpus), "-m", strconv.Itoa(memory),
		"-display", "none", "-monitor", "none", "-serial", "stdio", "-nodefaults",
		"-qmp", "unix:" + filepath.Join(c.Dir, "qmp") + ",server=on,wait=off",
		"-drive", "if=none,id=disk,format=raw,discard=unmap,file=" + c.Disk + ",readonly=" + readOnly,
		"-device", "virtio-blk-pci,drive=disk,bootindex=0",
		"-device", "virtio-rng-pci",
		"-device", "i6300esb", "-action", "watchdog=reset",
	}
	if fw.vars == "" {
		args = append(args, "-bios", fw.code)
	} else {
		vars := filepath.Join(c.Dir, "vars.fd")
		if _, err := os.Stat(vars); errors.Is(err, os.ErrNotExist) {
			if err := copyFile(vars, fw.vars); err != nil {
				return nil, nil, err
			}
		}
		args = append(args,
			"-drive", "if=pflash,unit=0,format=raw,readonly=on,file="+fw.code,
			"-drive", "if=pflash,unit=1,format=raw,file="+vars)
	}
	for i, n := range c.NICs {
		id := fmt.Sprintf("net%d", i)
		backend := "user,id=" + id
		switch {
		case n.Tap != nil:
			backend = fmt.Sprintf("tap,id=%s,fd=%d", id, 3+len(taps))
			taps = append(taps, n.Tap)
		case n.Forward != 0:
			backend += fmt.Sprintf(",hostfwd=tcp:127.0.0.1:%d-:80", n.Forward)
		}
		mac := n.MAC
		if mac == "" {
			mac = fmt.Sprintf("52:54:00:c1:0d:%02x", i)
		}
		args = append(args, "-netdev", backend, "-device", "virtio-net-pci,netdev="+id+",mac="+mac+",romfile=")
	}
	return append(args, c.Args...), taps, nil
}

func copyFile(dst, src string) error {
	b, err := os.ReadFile(src)
	if err != nil {
		return err
	}
	return os.WriteFile(dst, b, 0o600)
}

// PowerButton presses the machine's power button.
func (m *Machine) PowerButton() error { return m.qmp.execute("system_powerdown", nil) }

// Execute runs one command of the QEMU machine protocol.
func (m *Machine) Execute(command string, arguments any) error {
	return m.qmp.execute(command, arguments)
}

// SetLink puts the cable of the i-th network card in or takes it out.
func (m *Machine) SetLink(i int, up bool) error {
	return m.qmp.execute("set_link", map[string]any{"name": fmt.Sprintf("net%d", i), "up": up})
}

// Kill cuts the power and returns when the machine is off.
func (m *Machine) Kill() {
	m.cmd.Process.Kill()
	<-m.done
}

// Done is closed when the machine is off.
func (m *Machine) Done() <-chan struct{} { return m.done }

// Err says how QEMU ended, once Done is closed: nil after an orderly power-off.
func (m *Machine) Err() error { return m.err }

// PID is QEMU's process, for measuring it.
func (m *Machine) PID() int { return m.cmd.Process.Pid }

// FreePort returns a TCP port of the loopback address that nobody listens on now.
func FreePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
