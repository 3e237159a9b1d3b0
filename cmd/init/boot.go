package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"cloudlink.local/gateway/internal/boot"
	"cloudlink.local/gateway/internal/boot/data"
	"cloudlink.local/gateway/internal/boot/slots"
	"cloudlink.local/gateway/internal/condition"
	"cloudlink.local/gateway/internal/logring"
	"cloudlink.local/gateway/internal/machine"
	"cloudlink.local/gateway/internal/safefile"
)

// How long the boot waits for the disk to appear, and then for its data partition.
const (
	slotsDir = runtimeDir + "/slots" // where the update service has the slots' files

	diskLimit = 10 * time.Second
	dataLimit = 40 * time.Second

	trialLimit = 10 * time.Minute // since power-on, for a new system to prove itself
)

// storage is what the machine keeps things on.
type storage struct {
	disk *boot.Disk // nil if there is none
	data data.Result
}

// openData finds the disk that we booted from, and mounts its data partition or what stands in for it.
func openData(ctx context.Context, log *slog.Logger) storage {
	if err := boot.MountAll(boot.MoreMounts); err != nil {
		log.Error(err.Error())
	}
	ctx, cancel := context.WithTimeout(ctx, diskLimit)
	defer cancel()
	loadedFrom, err := boot.LoadedFrom(boot.LoaderVariable)
	if err != nil {
		log.Warn(err.Error())
	}
	part := data.Partition{Empty: data.Empty, Work: workDir + "/data", Log: log}
	disk, err := boot.FindDisk(ctx, "/sys", "/dev", loadedFrom)
	if err != nil {
		log.Error(err.Error())
	} else {
		part.Device, _ = disk.Device(boot.Data)
	}
	result := part.Open(data.Dir, dataLimit)
	if result.Detail != "" {
		log.Error("data partition", "state", result.State, "why", result.Detail)
	}
	return storage{disk, result}
}

// awaitAddress waits until the gateway can be reached at an address, but not longer than limit.
func awaitAddress(ctx context.Context, limit time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for {
		list, _ := net.InterfaceAddrs()
		if slices.ContainsFunc(list, func(a net.Addr) bool {
			prefix, ok := a.(*net.IPNet)
			return ok && prefix.IP.IsGlobalUnicast()
		}) {
			return
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return
		}
	}
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// later does what can wait until the services run.
func later(ctx context.Context, st *state, disk *boot.Disk, tail *logring.Tail, words boot.LastWords, log *slog.Logger) {
	check := func(err error) {
		if err != nil {
			log.Error(err.Error())
		}
	}
	check(st.clock.Save())
	if st.result().Lasting() && len(words.Lines) > 0 && tail.Save(true) == nil {
		check(words.Forget()) // they are in the log on the data partition now
	}
	if disk == nil {
		return
	}
	if esp, ok := disk.Device(boot.ESP); ok {
		loader, err := boot.CheckLoader(esp, workDir+"/esp", disk.Slot)
		check(err)
		if err == nil {
			st.noteLoader(loader, disk, log)
			check(st.keepSlots(loader, disk))
		}
	}
	if !st.result().Lasting() {
		return
	}
	grown, err := disk.Grow()
	check(err)
	if grown {
		log.Info("the partition table reaches to the disk's end now")
	}
	device, _ := disk.Device(boot.Data)
	size, err := data.Grow(ctx, device, data.Dir)
	check(err)
	if size > 0 {
		log.Info("the data file system was grown", "bytes", size)
	}
}

// noteLoader tells what is to be told of the boot environment.
func (s *state) noteLoader(l boot.Loader, disk *boot.Disk, log *slog.Logger) {
	log.Info("boot environment", "confirmed", l.Env.Confirmed, "trial", l.Env.Trial, "tries", l.Env.Tries, "booted", disk.Slot)
	if l.Repaired {
		log.Warn("the boot environment was torn or missing; it was made again")
		s.note(condition.New(condition.BootEnvRepaired))
	}
	if wanted, fellBack := l.FellBack(disk.Slot); fellBack {
		log.Warn("the loader did not boot the slot that it should have", "wanted", wanted, "booted", disk.Slot)
		s.note(condition.New(condition.FellBack, "wanted", string(wanted), "booted", string(disk.Slot)))
	}
}

// keepSlots opens the slots to the update service.
func (s *state) keepSlots(l boot.Loader, disk *boot.Disk) error {
	keeper, err := slots.New(disk.Slot, disk.Device, l.Env, slotsDir, workDir+"/esp", updateUser)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slots = keeper
	return nil
}

// onTrial says whether the system that runs has still to be confirmed.
func (s *state) onTrial() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.slots != nil && s.slots.OnTrial()
}

// watchTrial restarts a system that has not been confirmed in time: the loader then starts the one
// before. Nothing that the system on trial brings along has to work for that.
func watchTrial(ctx context.Context, st *state, requests chan<- boot.Request) {
	select {
	case <-ctx.Done():
		return
	case <-time.After(trialLimit - uptime()):
	}
	if !st.onTrial() {
		return
	}
	select {
	case requests <- boot.Request{Ending: boot.Restart, By: "the trial's time is over and nobody has confirmed it"}:
	case <-ctx.Done():
	}
}

// lastRun finds out how the last run ended: by what the kernel and the watchdog remember of it, and by
// the mark that an orderly end leaves.
func lastRun(st *state, watchdogReset bool, ring *logring.Ring, log *slog.Logger) boot.LastWords {
	words, err := boot.ReadLastWords("/sys/fs/pstore")
	if err != nil {
		log.Warn(err.Error())
	}
	for _, line := range words.Lines {
		ring.Add("pstore", machine.LevelWarn, line)
	}
	mark, err := safefile.Read(cleanFile, 100)
	_, before := os.Stat(clockFile)
	switch {
	case watchdogReset || words.Crashed:
		log.Warn("the last run ended by the watchdog or a crash of the kernel", "watchdog", watchdogReset, "crash", words.Crashed)
		st.note(condition.New(condition.WatchdogReset))
	case err == nil:
		log.Info("the last run ended in order", "how", strings.TrimSpace(string(mark)))
	case errors.Is(before, fs.ErrNotExist):
		log.Info("this is the first run")
	default:
		log.Info("the last run ended without notice: the power failed, or the reset button was pressed")
	}
	if err == nil {
		if err := os.Remove(cleanFile); err != nil {
			log.Warn(err.Error())
		}
	}
	return words
}

// leave saves what the next run wants to know.
func leave(st *state, tail *logring.Tail, how boot.Ending) error {
	errs := []error{st.clock.Save()}
	if err := renameio.WriteFile(cleanFile, []byte(how+"\n"), 0o600); err != nil {
		errs = append(errs, fmt.Errorf("mark orderly end: %w", err))
	}
	return errors.Join(append(errs, tail.Save(true))...)
}
