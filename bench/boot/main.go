// Command boot measures power-on to the portal's first page, beside power-on to a process 1 that
// does nothing, on the same kernel, loader and machine, taking turns. The last line is a JSON object.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/bench/internal/harness"
	"cloudlink.local/gateway/internal/portal"
	"cloudlink.local/gateway/internal/qemu"
)

func main() {
	runs := flag.Int("runs", 5, "starts of each")
	firmware := flag.String("firmware", string(qemu.UBoot), "u-boot or edk2")
	flag.Parse()
	if err := bench(*runs, qemu.Firmware(*firmware)); err != nil {
		fmt.Fprintln(os.Stderr, "bench-boot:", err)
		os.Exit(1)
	}
}

// A sample is one start, in seconds.
type sample struct {
	total              float64 // power-on to the page, or to the floor's process 1
	loader, kernel, up float64 // its parts: to the kernel, to process 1, to the page
}

func bench(runs int, firmware qemu.Firmware) error {
	dir, err := os.MkdirTemp("", "bench-boot")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	nothing := filepath.Join(dir, "nothing")
	if err := goRun("go", "build", "-trimpath", "-ldflags=-s -w", "-o", nothing, "./bench/nothing"); err != nil {
		return err
	}
	if err := goRun("go", "run", "./firmware", "image", "-board", "qemu-virt"); err != nil {
		return err
	}
	floorDir := "build/bench/floor"
	if err := goRun("go", "run", "./firmware", "image", "-board", "qemu-virt", "-init", nothing, "-o", floorDir); err != nil {
		return err
	}
	var ours, floor []sample
	for i := range runs {
		o, err := start(dir, "build/qemu-virt/cloudlink.img", firmware, page)
		if err != nil {
			return fmt.Errorf("our image: %w", err)
		}
		f, err := start(dir, filepath.Join(floorDir, "cloudlink.img"), firmware, nothingUp)
		if err != nil {
			return fmt.Errorf("the floor: %w", err)
		}
		fmt.Printf("%d/%d  page after %.2f s (loader %.2f, kernel %.2f, process 1 to page %.2f); floor %.2f s; ratio %.2f\n",
			i+1, runs, o.total, o.loader, o.kernel, o.up, f.total, o.total/f.total)
		ours, floor = append(ours, o), append(floor, f)
	}
	median := func(of []sample, pick func(sample) float64) float64 {
		var values []float64
		for _, s := range of {
			values = append(values, pick(s))
		}
		return harness.Median(values)
	}
	var ratios []float64
	for i := range ours {
		ratios = append(ratios, ours[i].total/floor[i].total)
	}
	slices.Sort(ratios)
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"bench": "boot", "firmware": firmware, "runs": runs,
		"boot_ratio":           harness.Round(median(ours, func(s sample) float64 { return s.total }) / median(floor, func(s sample) float64 { return s.total })),
		"boot_ratio_pairs":     []float64{harness.Round(ratios[0]), harness.Round(ratios[len(ratios)/2]), harness.Round(ratios[len(ratios)-1])},
		"page_seconds":         harness.Round(median(ours, func(s sample) float64 { return s.total })),
		"floor_seconds":        harness.Round(median(floor, func(s sample) float64 { return s.total })),
		"loader_seconds":       harness.Round(median(ours, func(s sample) float64 { return s.loader })),
		"kernel_seconds":       harness.Round(median(ours, func(s sample) float64 { return s.kernel })),
		"init_to_page_seconds": harness.Round(median(ours, func(s sample) float64 { return s.up })),
	})
}

// start boots a fresh copy of the image and measures until arrived returns.
func start(dir, image string, firmware qemu.Firmware, arrived func(ctx context.Context, m *qemu.Machine, g guest, port int, s *sample) error) (sample, error) {
	disk := filepath.Join(dir, "disk.img")
	if err := qemu.CopyDisk(disk, image, 0); err != nil {
		return sample{}, err
	}
	port, err := qemu.FreePort()
	if err != nil {
		return sample{}, err
	}
	ctx, stop := context.WithTimeout(context.Background(), 3*time.Minute)
	defer stop()
	packets, file, err := fifo(dir)
	if err != nil {
		return sample{}, err
	}
	leased, taken := make(chan error, 1), make(chan struct{})
	var watching sync.WaitGroup
	defer watching.Wait()
	defer packets.Close()
	watching.Go(func() {
		in := bufio.NewReader(packets)
		leased <- awaitLease(in)
		if awaitPort(in) == nil {
			close(taken)
		}
		io.Copy(io.Discard, in) // QEMU is not held up; ends when packets is closed
	})
	m, err := qemu.Start(ctx, qemu.Config{
		Firmware: firmware, Disk: disk, Dir: dir, NICs: []qemu.NIC{{Forward: port}},
		Args: []string{"-object", "filter-dump,id=packets,netdev=net0,maxlen=1024,file=" + file},
	})
	if err != nil {
		return sample{}, err
	}
	defer m.Kill()
	var s sample
	err = arrived(ctx, m, guest{leased, taken}, port, &s)
	return s, err
}

// fifo makes a pipe with a name in dir, for QEMU to write to.
func fifo(dir string) (*os.File, string, error) {
	path := filepath.Join(dir, "packets")
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, "", err
	}
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return nil, "", fmt.Errorf("make pipe: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0) // with a writer of our own, opening waits for none
	return f, path, err
}

// A guest is what its packets tell of it.
type guest struct {
	leased <-chan error    // it uses its address now, or will never
	taken  <-chan struct{} // closed when it has taken a connection to its page
}

const toUDP = 14 + 20 // Ethernet, IPv4 without options

// awaitLease reads packets, in the format of libpcap, until the guest uses the address that a DHCP
// server has leased it: it tells its neighbours so, once it knows that nobody else has it. What QEMU
// sends before is lost, and sent again only after seconds.
func awaitLease(in *bufio.Reader) error {
	const (
		fileHeader = 24
		toDHCP     = toUDP + 8
		arpSender  = 14 + 14
	)
	if _, err := in.Discard(fileHeader); err != nil {
		return err
	}
	var leased net.IP
	for {
		frame, err := readFrame(in)
		if err != nil {
			return err
		}
		if len(frame) < toDHCP {
			continue
		}
		if msg, err := dhcpv4.FromBytes(frame[toDHCP:]); err == nil && msg.MessageType() == dhcpv4.MessageTypeAck {
			leased = msg.YourIPAddr.To4()
		}
		arp := frame[12] == 0x08 && frame[13] == 0x06
		if arp && leased != nil && bytes.Equal(frame[arpSender:][:4], leased) {
			return nil
		}
	}
}

// awaitPort reads packets until the guest has taken a connection to its page.
func awaitPort(in *bufio.Reader) error {
	const tcp, protocol, flags, synAck = 6, 14 + 9, toUDP + 13, 0x12
	for {
		frame, err := readFrame(in)
		if err != nil {
			return err
		}
		ipv4 := len(frame) > flags && frame[12] == 0x08 && frame[13] == 0x00
		if ipv4 && frame[protocol] == tcp && binary.BigEndian.Uint16(frame[toUDP:]) == 80 && frame[flags] == synAck {
			return nil
		}
	}
}

// readFrame returns the next packet.
func readFrame(in *bufio.Reader) ([]byte, error) {
	var head [16]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return nil, err
	}
	frame := make([]byte, binary.NativeEndian.Uint32(head[8:]))
	_, err := io.ReadFull(in, frame)
	return frame, err
}

// page waits for the portal's first page; the parts are what the gateway says of its own clock.
func page(ctx context.Context, m *qemu.Machine, g guest, port int, s *sample) error {
	go io.Copy(io.Discard, m.Console) // ends with QEMU
	url := fmt.Sprintf("http://127.0.0.1:%d", port)
	if err := firstAnswer(ctx, m, g, url+"/"); err != nil {
		return err
	}
	s.total = time.Since(m.Started).Seconds()
	resp, err := http.Get(url + "/api/v1/status")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	asked := time.Since(m.Started).Seconds()
	var status portal.Status
	if err := json.NewDecoder(resp.Body).Decode(&status); err != nil {
		return fmt.Errorf("status: %w", err)
	}
	s.loader = asked - status.UptimeSeconds
	s.kernel = status.InitSeconds
	s.up = s.total - s.loader - s.kernel
	return nil
}

// firstAnswer returns when the page has been delivered once. Nothing is asked before the guest has its
// address: QEMU's user-mode network goes on asking for it on behalf of each attempt, on the cores that
// boot the guest. From then on it asks every 50 ms, since an attempt that comes a moment too early is
// repeated by nobody, until the guest has taken a connection: it answers one browser, not many.
func firstAnswer(ctx context.Context, m *qemu.Machine, g guest, url string) error {
	select {
	case err := <-g.leased:
		if err != nil {
			return fmt.Errorf("watch for the lease: %w", err)
		}
	case <-ctx.Done():
		return fmt.Errorf("no lease: %w", ctx.Err())
	case <-m.Done():
		return fmt.Errorf("the machine went off: %w", m.Err())
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	ctx, stop := context.WithCancel(ctx)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer stop()
	answered := make(chan struct{}, 1)
	ask := func() {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return
		}
		resp, err := client.Do(req)
		if err != nil {
			return
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err == nil && resp.StatusCode == http.StatusOK {
			select {
			case answered <- struct{}{}:
			default:
			}
		}
	}
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for taken := g.taken; ; {
		if taken != nil {
			asking.Go(ask)
		}
		select {
		case <-taken:
			taken = nil
		case <-answered:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("no page: %w", ctx.Err())
		case <-m.Done():
			return fmt.Errorf("the machine went off: %w", m.Err())
		case <-again.C:
		}
	}
}

func nothingUp(_ context.Context, m *qemu.Machine, _ guest, _ int, s *sample) error {
	lines := bufio.NewScanner(m.Console)
	for lines.Scan() {
		if strings.Contains(lines.Text(), "nothing: process 1 is up") {
			s.total = time.Since(m.Started).Seconds()
			return nil
		}
	}
	return fmt.Errorf("the console ended without it: %w", lines.Err())
}

func goRun(name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if args[0] == "build" {
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=arm64")
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	return nil
}
