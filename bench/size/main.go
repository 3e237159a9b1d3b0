// Command size prints how big the firmware is: bytes of kernel, initramfs and update, and the memory
// in use with everything up in a 256 MB machine. The last line is a JSON object.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"cloudlink.local/gateway/internal/machine"
	"cloudlink.local/gateway/internal/portal"
	"cloudlink.local/gateway/internal/qemu"
	"cloudlink.local/gateway/internal/testvm"
)

const guestMB = 256

func main() {
	board := flag.String("board", "qemu-virt", "the board whose image is measured")
	flag.Parse()
	if err := bench(*board); err != nil {
		fmt.Fprintln(os.Stderr, "bench-size:", err)
		os.Exit(1)
	}
}

func bench(board string) error {
	cmd := exec.Command("go", "run", "./firmware", "image", "-board", board)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	out := filepath.Join("build", board)
	result := map[string]any{"bench": "size", "board": board}
	for name, files := range map[string][]string{
		"kernel_bytes":    {"firmware/kernel/vmlinuz.efi"},
		"initramfs_bytes": {filepath.Join(out, "initramfs.cpio.zst")},
		"bundle_bytes":    {filepath.Join(out, "linux.efi"), filepath.Join(out, "linux.efi.sig"), filepath.Join(out, "manifest.json")},
		"image_gz_bytes":  {filepath.Join(out, "cloudlink.img.gz")},
	} {
		var sum int64
		for _, f := range files {
			info, err := os.Stat(f)
			if err != nil {
				return err
			}
			sum += info.Size()
		}
		result[name] = sum
	}
	m, err := memory(filepath.Join(out, "cloudlink.img"))
	if err != nil {
		return fmt.Errorf("measure memory: %w", err)
	}
	// All that the machine cannot give to something else: the kernel, what it reserved at boot, and us.
	result["ram_mb"] = mb(guestMB<<20 - m["MemAvailable"])
	// Ours: memory of processes, and files that lie in memory (the unpacked initramfs, /run, /tmp).
	result["ram_ours_mb"] = mb(m["AnonPages"] + m["Shmem"] + m["Unevictable"])
	result["ram_processes_mb"] = mb(m["AnonPages"])
	fmt.Printf("limits: kernel 7 MiB, initramfs 8 MiB, bundle 16 MiB, ram 96 MB, of which ours 48 MB\n")
	return json.NewEncoder(os.Stdout).Encode(result)
}

func mb(bytes int64) float64 { return float64(bytes*10/(1<<20)) / 10 }

// memory boots the image, waits until every service runs and has been used, and returns
// /proc/meminfo in bytes.
func memory(image string) (map[string]int64, error) {
	dir, err := os.MkdirTemp("", "bench-size")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	disk := filepath.Join(dir, "disk.img")
	if err := qemu.CopyDisk(disk, image, 0); err != nil {
		return nil, err
	}
	port, err := qemu.FreePort()
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithTimeout(context.Background(), 5*time.Minute)
	defer stop()
	m, err := qemu.Start(ctx, qemu.Config{
		Firmware: qemu.UBoot, Disk: disk, Dir: dir, MemoryMB: guestMB, NICs: []qemu.NIC{{Forward: port}},
	})
	if err != nil {
		return nil, err
	}
	defer m.Kill()
	console := qemu.NewConsole()
	go console.Follow(m.Console) // ends with QEMU

	url := fmt.Sprintf("http://127.0.0.1:%d", port)
	if err := up(ctx, url); err != nil {
		return nil, err
	}
	for _, page := range []string{"/", "/log", "/licences", "/api/v1/status"} { // as its owner would
		for range 5 {
			if err := get(ctx, url+page, nil); err != nil {
				return nil, err
			}
		}
	}
	shell := testvm.Shell{Console: console, Keys: m.Console}
	out, err := shell.Run("cat /proc/meminfo")
	if err != nil {
		return nil, err
	}
	info := map[string]int64{}
	for line := range strings.Lines(out) {
		var name string
		var kib int64
		if n, _ := fmt.Sscanf(line, "%s %d kB", &name, &kib); n == 2 {
			info[strings.TrimSuffix(name, ":")] = kib << 10
		}
	}
	for _, name := range []string{"MemAvailable", "AnonPages", "Shmem", "Unevictable"} {
		if _, ok := info[name]; !ok {
			return nil, fmt.Errorf("/proc/meminfo has no %s:\n%s", name, out)
		}
	}
	return info, nil
}

// up waits until every service runs.
func up(ctx context.Context, url string) error {
	for {
		var s portal.Status
		err := get(ctx, url+"/api/v1/status", &s)
		running := 0
		for _, service := range s.Services {
			if service.State == machine.Running {
				running++
			}
		}
		if err == nil && running > 0 && running == len(s.Services) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the gateway does not come up: %w (%v)", ctx.Err(), err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func get(ctx context.Context, url string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	if into == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(into)
}
