# What people type. `make help` lists it; each target is a line or two, the work is in Go and scripts/.
BOARD ?= qemu-virt
PORT ?= 8080
KEYS ?=
SECONDS ?= 60
RUNS ?= 5
POINTS ?= 0
SEED ?= 1
FIRMWARE = build/bin/firmware
IMAGE = $(FIRMWARE) image -board '$(BOARD)' $(if $(KEYS),-keys '$(KEYS)')
SUDO = $(shell [ "$$(id -u)" = 0 ] || command -v sudo) # only root writes to disks; the build is ours
RUN = $(FIRMWARE) run -board '$(BOARD)' -port '$(PORT)'
FLASH = $(SUDO) $(FIRMWARE) flash -board '$(BOARD)' -dev '$(DEV)'

.PHONY: help run image test check unit vmtest fuzz flash kernel powercut bench-boot bench-size bench-network bench-mdns bench-update clean FORCE

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

run: ## build the image and boot it in QEMU; the page opens at http://localhost:8080/ (PORT=…, BOARD=…)
	@scripts/setup run
	@$(MAKE) -s $(FIRMWARE)
	@$(RUN) -check # before the build: a busy port is told at once
	@$(IMAGE) >/dev/null
	@$(RUN)

image: ## build build/BOARD/cloudlink.img (BOARD=qemu-virt or uefi-arm64; KEYS=folder of a key set)
	@scripts/setup run
	@$(MAKE) -s $(FIRMWARE)
	@$(IMAGE)

test: ## everything: checks, unit tests with the race detector, the image in QEMU
	@scripts/setup test
	@$(MAKE) -s check unit vmtest

check: # gofmt, vet, staticcheck, shellcheck
	@scripts/check

unit: # every package but the machines
	@go test -race -timeout 20m $$(go list ./... | grep -v /internal/testvm)

vmtest: # the built image in QEMU
	@go test -v -p 1 -timeout 45m ./internal/testvm/...

fuzz: ## every fuzz target for a minute each (SECONDS=…)
	@scripts/fuzz $(SECONDS)s

flash: ## write the image to a disk: make flash BOARD=uefi-arm64 DEV=/dev/sdX (KEYS=…)
	@test '$(origin BOARD)' != file || { echo "flash: name the board: make flash BOARD=uefi-arm64 DEV=/dev/sdX (ls board lists them)" >&2; exit 2; }
	@test -n '$(DEV)' || { echo "flash: name the disk: make flash BOARD=$(BOARD) DEV=/dev/sdX (lsblk -d lists disks)" >&2; exit 2; }
	@scripts/setup run
	@$(MAKE) -s $(FIRMWARE)
	@$(FLASH) -check # before the build: a wrong disk is told at once
	@$(IMAGE) >/dev/null
	@$(FLASH)

kernel: ## rebuild firmware/kernel/vmlinuz.efi from Debian's source and compare (15 minutes)
	@scripts/setup kernel
	@firmware/kernel/build

powercut: ## cut an update's power at each of its writes, or at POINTS=n of them (SEED=…), and boot
	@scripts/setup test
	@mkdir -p build/powercut
	@go test -c -o build/bin/powercut ./internal/testvm/powercut
	@build/bin/powercut -test.run '^TestM8_' -test.timeout 0 -points '$(POINTS)' -seed '$(SEED)' -keep build/powercut -report

bench-boot: ## time from power-on to the page, beside a do-nothing init
	@scripts/setup test
	@go run ./bench/boot -runs $(RUNS)

bench-size: ## bytes of kernel, initramfs and update; memory in use
	@scripts/setup test
	@go run ./bench/size

bench-network: ## link-up to address beside dhcpcd and udhcpc; CPU time while calls pass (RUNS=…)
	@scripts/setup test
	@go run ./bench/network -runs $(RUNS)

bench-mdns: ## mDNS answers beside avahi-daemon's; the RFCs' scenarios, systemd-resolved too (RUNS=…)
	@scripts/setup test
	@go run ./bench/mdns -runs $(RUNS)

bench-update: ## an update beside a plain copy; memory, delta, downtime, power cuts survived (RUNS=…, POINTS=…)
	@scripts/setup test
	@go run ./bench/update -runs $(RUNS) $(if $(filter-out 0,$(POINTS)),-points '$(POINTS)')

clean: ## remove build/ but the keys made in it
	@if [ -d build ]; then find build -mindepth 1 -maxdepth 1 ! -name keys -exec rm -rf {} +; fi

$(FIRMWARE): FORCE
	@mkdir -p build/bin
	@go build -o $@ ./firmware
