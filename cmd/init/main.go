// Command init is process 1 of the gateway and, started again with a service's name, that service.
//
// As process 1 it parses nothing from the network, and ends only with the machine.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/boot"
	"cloudlink.local/gateway/internal/boot/clock"
	"cloudlink.local/gateway/internal/boot/data"
	"cloudlink.local/gateway/internal/condition"
	"cloudlink.local/gateway/internal/logring"
	"cloudlink.local/gateway/internal/network"
	"cloudlink.local/gateway/internal/release"
	"cloudlink.local/gateway/internal/supervise"
	"cloudlink.local/gateway/internal/supervise/sandbox"
	"cloudlink.local/gateway/internal/supervise/service"
	"cloudlink.local/gateway/internal/supervise/watchdog"
)

func init() {
	if os.Getpid() == 1 {
		runtime.LockOSThread() // package supervise changes the threads that it starts services from
	} else if len(os.Args) == 2 {
		// So that ps tells the services apart. The name is the main thread's, which this still is.
		if name, err := unix.BytePtrFromString(os.Args[1]); err == nil {
			unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(name)), 0, 0, 0)
		}
	}
}

func main() {
	if os.Getpid() == 1 { // whatever its arguments: they may be the kernel's unknown ones
		end := run()
		fmt.Fprintln(os.Stderr, "init:", boot.End(end)) // the kernel refused
		os.Exit(1)                                      // it panics, and resets
	}
	rel, _ := release.Load(release.File) // process 1 has told what is wrong with it
	for _, row := range services(rel.Keys) {
		if len(os.Args) == 2 && os.Args[1] == row.Name {
			os.Exit(service.Main(row.rules, row.run))
		}
	}
	fmt.Fprintf(os.Stderr, "usage: init SERVICE\nThe services are %s; process 1 starts them.\n", strings.Join(names(services("")), ", "))
	os.Exit(2)
}

// run brings the machine up, supervises until somebody asks for its end, and takes it down.
func run() boot.Ending {
	began := uptime()
	signals := boot.CatchSignals()
	ring := logring.New(256 << 10)
	mounted := boot.MountAll(boot.Mounts)
	log := newLog(ring)
	check := func(err error) { // what fails is told; the gateway comes up as far as it can
		if err != nil {
			log.Error(err.Error())
		}
	}
	check(mounted)
	rel, err := release.Load(release.File)
	check(err)
	clk, err := clock.Set(rel.BuildTime, "/dev/rtc0")
	check(err)
	check(makeDirs(rel.Keys))
	check(supervise.SetUpCgroups(supervise.CgroupRoot))

	ctx, stop := context.WithCancel(context.Background())
	var helpers sync.WaitGroup // all that runs beside this, until stop
	children := supervise.NewChildren()
	helpers.Go(func() { children.Reap(ctx) })
	opened := make(chan storage, 1)
	go func() { opened <- openData(ctx, log) }() // beside what follows; it ends in any case
	sup := supervise.New(children, specs(services(rel.Keys), log), supervise.CgroupRoot, ring, log)
	supCtx, stopServices := context.WithCancel(ctx)
	stopped := make(chan struct{})
	go func() { sup.Run(supCtx); close(stopped) }()

	check(boot.Harden("/proc/sys"))
	check(boot.Seal())
	log.Info("process 1 is up", "version", rel.Version, "board", rel.Board, "time", time.Now().UTC().Format(time.RFC3339), "clock", clk.Source())
	st := newState(began, rel, clk, sup)
	tail := logring.NewTail(ring, logDir)
	requests := make(chan boot.Request)
	helpers.Go(func() { check(serve(ctx, st, ring, tail, requests, log)) })
	helpers.Go(func() { boot.Signals(ctx, signals, requests) })
	var booted atomic.Bool
	wd, err := watchdog.Open("/dev/" + watchdog.Find("/sys"))
	if err != nil {
		log.Warn(err.Error())
		st.note(condition.New(condition.NoWatchdog))
	} else {
		alive := func() bool { return sup.Alive(15*time.Second) && (booted.Load() || uptime() < 3*time.Minute) }
		helpers.Go(func() { wd.Run(ctx, alive, log) })
	}

	disk := st.keep(<-opened)
	check(clk.Resume(clockFile, network.SureTime))
	check(makeDataDirs(services(rel.Keys)))
	serial, fresh := st.findSerial()
	check(unix.Sethostname([]byte(network.UniqueName(serial))))
	sup.Start("network") // it finds its settings and leases
	sup.Settle(ctx, 2*time.Second)
	sup.Start("portal") // while network waits for an address
	awaitAddress(ctx, 2*time.Second)
	pause(ctx, time.Second) // the owner may be waiting: what follows would slow the first page down
	sup.Start("console")
	sup.Start("update")
	booted.Store(true)
	if fresh {
		check(boot.KeepSerial(serialFile, serial))
	}
	check(supervise.JoinCgroup(supervise.CgroupRoot))
	helpers.Go(func() { boot.Buttons(ctx, "/dev/input", requests, log) })
	helpers.Go(func() { check(ring.CopyKernel(ctx)) })
	check(tail.Rotate())
	words := lastRun(st, wd != nil && wd.ResetLast(), ring, log)
	helpers.Go(func() { tail.Run(ctx) })
	helpers.Go(func() { clk.Run(ctx, check) })
	helpers.Go(func() { watchTrial(ctx, st, requests) })
	helpers.Go(func() { later(ctx, st, disk, tail, words, log) })

	req := <-requests
	log.Info("the machine goes down", "how", req.Ending, "by", req.By)
	helpers.Go(func() { // asked again, it goes down faster
		select {
		case <-requests:
			sup.Hurry()
		case <-ctx.Done():
		}
	})
	stopServices()
	<-stopped
	check(boot.Bounded("save log and clock", func() error { return leave(st, tail, req.Ending) }))
	stop()
	wait := boot.Bounded("wait for the rest", func() error { helpers.Wait(); return nil })
	if wd != nil {
		wd.Feed() // for the last time: should the rest hang, the board resets
	}
	if err := errors.Join(wait, boot.Down(data.Dir)); err != nil {
		fmt.Fprintln(os.Stderr, "init:", err) // the log is closed
	}
	if wd != nil && req.Ending == boot.PowerOff {
		wd.Disarm()
	}
	return req.Ending
}

func names(rows []row) []string {
	var list []string
	for _, r := range rows {
		list = append(list, r.Name)
	}
	return list
}

// specs returns how the services are run, each shut in by its rules.
func specs(rows []row, log *slog.Logger) []supervise.Spec {
	var list []supervise.Spec
	for _, r := range rows {
		r.Confine = func() error {
			if r.waits {
				if err := giveWay(); err != nil {
					log.Warn(err.Error(), "service", r.Name)
				}
			}
			err := r.rules.Confine()
			if tooOld := (sandbox.TooOld{}); errors.As(err, &tooOld) {
				log.Warn(err.Error(), "service", r.Name)
				return nil
			}
			return err
		}
		list = append(list, r.Spec)
	}
	return list
}

// giveWay gives the calling thread, and what is started from it, the lowest priority.
func giveWay() error {
	const thread, idle = 1, 3 << 13 // linux/ioprio.h: IOPRIO_WHO_PROCESS, IOPRIO_CLASS_IDLE
	if _, _, e := unix.Syscall(unix.SYS_IOPRIO_SET, thread, 0, idle); e != 0 {
		return fmt.Errorf("lower priority of I/O: %w", e)
	}
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, 19); err != nil {
		return fmt.Errorf("lower priority: %w", err)
	}
	return nil
}
