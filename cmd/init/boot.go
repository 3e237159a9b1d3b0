package main

import (
	"context"
	"log/slog"
	"time"

	"cloudlink.local/gateway/internal/boot"
	"cloudlink.local/gateway/internal/boot/clock"
	"cloudlink.local/gateway/internal/boot/data"
	"cloudlink.local/gateway/internal/logring"
)

// openData finds the disk that we booted from and mounts its data partition.
func openData(ctx context.Context, st *state, log *slog.Logger) data.Result {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	loadedFrom, err := boot.LoadedFrom(boot.LoaderVariable)
	if err != nil {
		log.Warn(err.Error())
	}
	device := ""
	disk, err := boot.FindDisk(ctx, "/sys", "/dev", loadedFrom)
	if err != nil {
		log.Error(err.Error())
	} else {
		device, _ = disk.Device(boot.Data)
		st.mu.Lock()
		st.slot = string(disk.Slot)
		st.mu.Unlock()
	}
	result := data.Open(device, data.Dir)
	if result.Detail != "" {
		log.Error("data partition", "state", result.State, "why", result.Detail)
	}
	st.mu.Lock()
	st.data = result
	st.mu.Unlock()
	return result
}

// later does what can wait until the services run.
func later(ctx context.Context, st *state, result data.Result, log *slog.Logger) {}

// leave saves what the next run wants to know.
func leave(clk *clock.Clock, tail *logring.Tail) error {
	if err := clk.Save(); err != nil {
		return err
	}
	return tail.Save(true)
}
