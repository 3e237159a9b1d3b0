// Firmware builds firmware images, makes their keys, writes them to disks and runs them in QEMU.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/firmware/boards"
	"cloudlink.local/gateway/firmware/flash"
	"cloudlink.local/gateway/firmware/image"
	"cloudlink.local/gateway/firmware/keys"
	"cloudlink.local/gateway/firmware/run"
	"cloudlink.local/gateway/internal/release"
)

// boardFolder holds a folder for each board.
const boardFolder = "board"

const usage = `usage: go run ./firmware COMMAND

  image -board NAME     build build/NAME/cloudlink.img and what belongs to it
  run -board NAME       run the built image in QEMU
  flash -board NAME -dev /dev/X
                        write the built image to a disk
  boards                list the boards
  keys init DIR         make a key set in the new folder DIR: production keys, or with
                        -kind development keys for trials
  keys rotate ROLE      give a role of the update repository new keys: targets, snapshot,
                        timestamp or root
  keys renew            sign again who has which role, for another five years
  publish -board NAME   add the built image to the update repository
  repo list             show the releases, and until when devices believe them
  repo renew            sign again what would expire: run it every week
  repo withdraw -board NAME VERSION
                        offer a release no more
  serve                 serve the repository over HTTP, for trials and small sites
  lock update           take Debian's newest packages into the lock

Each command explains its flags with -h. The exit status is 2 after a mistake on the command
line and 1 after another failure.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second interrupt ends us at once
	err := command(ctx, os.Args[1:])
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return
	}
	fmt.Fprintf(os.Stderr, "firmware: %v%s\n", err, cure(err))
	var u usageError
	if errors.As(err, &u) || errors.Is(err, boards.ErrUnknown) {
		os.Exit(2)
	}
	os.Exit(1)
}

// A usageError is a mistake on the command line.
type usageError string

func (e usageError) Error() string { return string(e) }

func usagef(format string, args ...any) error { return usageError(fmt.Sprintf(format, args...)) }

// cure says what to do about the errors that any step can meet.
func cure(err error) string {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return ": make room there (df -h shows how full each disk is)"
	case errors.Is(err, unix.ENOTDIR):
		return ": a folder in this path is a file: name another"
	case errors.Is(err, unix.EROFS):
		return ": name a folder on another disk"
	case errors.Is(err, fs.ErrPermission):
		return ": run the same command with sudo, or name a folder of your own"
	}
	return ""
}

func command(ctx context.Context, args []string) error {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage+"\n")
		return usageError("name a command")
	}
	if isHelp(args[0]) || len(args) > 1 && isGroup(args[0]) && isHelp(args[1]) {
		fmt.Print(usage)
		return nil
	}
	name, args := args[0], args[1:]
	if isGroup(name) && len(args) > 0 {
		name, args = name+" "+args[0], args[1:]
	}
	switch name {
	case "image":
		return buildImage(ctx, args)
	case "run":
		return runImage(ctx, args)
	case "flash":
		return flashImage(ctx, args)
	case "boards":
		return listBoards(args)
	case "keys init":
		return initKeys(args)
	case "keys rotate":
		return rotateKeys(args)
	case "keys renew":
		return renewKeys(args)
	case "publish":
		return publishImage(ctx, args)
	case "repo list":
		return listRepository(args)
	case "repo renew":
		return renewRepository(ctx, args)
	case "repo withdraw":
		return withdraw(ctx, args)
	case "serve":
		return serve(ctx, args)
	case "lock update":
		return updateLock(ctx, args)
	}
	return usagef("unknown command %q: want image, run, flash, boards, keys init, keys rotate, keys renew, publish, repo list, repo renew, repo withdraw, serve or lock update (go run ./firmware help explains them)", name)
}

// isGroup says whether a command has a second word.
func isGroup(name string) bool { return name == "keys" || name == "repo" || name == "lock" }

func isHelp(arg string) bool {
	return slices.Contains([]string{"help", "-h", "-help", "--help"}, arg)
}

// log shows the progress of long steps.
func log(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "firmware: "+format+"\n", args...)
}

// findRoot returns the source tree that the working directory lies in.
func findRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for d := dir; ; d = filepath.Dir(d) {
		if b, err := os.ReadFile(filepath.Join(d, "go.mod")); err == nil && strings.HasPrefix(string(b), "module cloudlink.local/gateway\n") {
			return d, nil
		}
		if d == filepath.Dir(d) {
			return "", errors.New("this is not the gateway's source tree: change to it first")
		}
	}
}

// parse reads the flags of a command. What is left over must be the arguments that are named.
func parse(f *flag.FlagSet, args []string, names ...string) error {
	line := "go run ./firmware " + f.Name()
	help := line + " -h"
	f.SetOutput(io.Discard)
	err := f.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Println("usage:", strings.Join(append([]string{line, "[flags]"}, names...), " "))
		f.SetOutput(os.Stdout)
		f.PrintDefaults()
		return err
	case err != nil && strings.HasPrefix(err.Error(), "invalid value"): // which says what is wanted
		return usagef("%s: %v", f.Name(), err)
	case err != nil:
		return usagef("%s: %v (%s lists the flags)", f.Name(), err, help)
	case f.NArg() > len(names) && len(names) > 0 && strings.HasPrefix(f.Arg(len(names)), "-"):
		return usagef("%s: put %s before %s (%s lists the flags)", f.Name(), f.Arg(len(names)), names[len(names)-1], help)
	case f.NArg() > len(names):
		return usagef("%s: what is %q? A value follows its flag, and blanks need quotes (%s lists the flags)", f.Name(), f.Arg(len(names)), help)
	}
	for i, name := range names {
		if f.Arg(i) == "" {
			return usagef("%s: %s is missing: %s %s", f.Name(), name, line, strings.Join(names, " "))
		}
	}
	return nil
}

// number defines a flag for a number from low to high.
func number(f *flag.FlagSet, name string, value, low, high int, what, example string) *int {
	f.Func(name, fmt.Sprintf("%s (default %d)", what, value), func(s string) error {
		n, err := strconv.Atoi(s)
		if err != nil || n < low || n > high {
			return fmt.Errorf("want a number from %d to %d, such as %s", low, high, example)
		}
		value = n
		return nil
	})
	return &value
}

// boardFlag defines the flag -board.
func boardFlag(f *flag.FlagSet) *string {
	return f.String("board", "", "`NAME` of the board; go run ./firmware boards lists them")
}

// load reads the board that -board names.
func load(root, name string) (boards.Board, error) {
	dir := filepath.Join(root, boardFolder)
	if name == "" {
		names, err := boards.List(dir)
		if err != nil {
			return boards.Board{}, err
		}
		return boards.Board{}, usagef("name a board with -board (make: BOARD=…): %s", strings.Join(names, ", "))
	}
	return boards.Load(dir, name)
}

// built returns the board's image.
func built(root string, b boards.Board) (string, error) {
	disk := filepath.Join(root, "build", b.Name, image.Disk)
	_, err := os.Stat(disk)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%s is missing: make image BOARD=%s builds it", disk, b.Name)
	}
	return disk, err
}

func buildImage(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("image", flag.ContinueOnError)
	board := boardFlag(f)
	o := image.Options{Log: log}
	f.StringVar(&o.Keys, "keys", "", "`FOLDER` of the key set (default build/keys, made when needed, for development)")
	f.StringVar(&o.Out, "o", "", "`FOLDER` for the result (default build/BOARD)")
	f.StringVar(&o.Version, "version", "", "the image's `VERSION` (default from git)")
	f.Func("build-time", "the image's `TIME`, such as 2026-01-31T00:00:00Z (default that of the last commit)", func(s string) (err error) {
		if o.BuildTime, err = time.Parse(time.RFC3339, s); err != nil {
			return errors.New("want a time like 2026-01-31T00:00:00Z")
		}
		return nil
	})
	f.BoolVar(&o.Locked, "locked", false, "for releases: refuse packages that firmware/debian.lock does not name")
	f.StringVar(&o.Init, "init", "", "for tests: pack this static arm64 `PROGRAM` as the whole user space")
	f.StringVar(&o.Kernel, "kernel", "", "for tests: this `FILE` instead of the committed kernel")
	f.StringVar(&o.Arguments, "arguments", "", "for tests: add these `WORDS` to the kernel's command line")
	if err := parse(f, args); err != nil {
		return err
	}
	for name, file := range map[string]string{"-init": o.Init, "-kernel": o.Kernel} {
		if info, err := os.Stat(file); file != "" && (err != nil || !info.Mode().IsRegular()) {
			return fmt.Errorf("image: there is no file %s: name one with %s", file, name)
		}
	}
	var err error
	if o.Root, err = findRoot(); err != nil {
		return err
	}
	b, err := load(o.Root, *board)
	if err != nil {
		return err
	}
	o.Board = b.Name
	out, err := image.Build(ctx, o)
	if err != nil {
		return interrupted(ctx, err)
	}
	fmt.Println(filepath.Join(out, image.Disk))
	return nil
}

// interrupted returns err unless it only tells how an interrupt ended a step.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errors.New("interrupted: run the same command again")
	}
	return err
}

func runImage(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("run", flag.ContinueOnError)
	board := boardFlag(f)
	port := number(f, "port", 8080, 1, 65535, "TCP `PORT` of this machine that leads to the gateway's page", "make run PORT=8080 (-port 8080)")
	memory := number(f, "memory", 256, 128, 4096, "the machine's memory in `MiB`", "-memory 256")
	verbose := f.Bool("verbose", false, "show what the board's firmware prints before the gateway's loader starts, and hand it keys")
	check := f.Bool("check", false, "only look whether it could run: the board is known, the port free")
	if err := parse(f, args); err != nil {
		return err
	}
	root, err := findRoot()
	if err != nil {
		return err
	}
	b, err := load(root, *board)
	if err != nil {
		return err
	}
	if b.QEMU.Firmware == "" {
		return fmt.Errorf("board %s does not run in QEMU, as its board.toml has no [qemu]: flash it, or name another", b.Name)
	}
	o := run.Options{
		Image:    filepath.Join(root, "build", b.Name, image.Disk),
		Firmware: b.QEMU.Firmware, Port: *port, MemoryMB: *memory, Verbose: *verbose,
	}
	if *check {
		return run.Check(o)
	}
	if _, err := built(root, b); err != nil {
		return err
	}
	return run.Run(ctx, o)
}

func flashImage(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("flash", flag.ContinueOnError)
	board := boardFlag(f)
	dev := f.String("dev", "", "the `DISK` to write to, such as /dev/sdX; all on it is lost")
	yes := f.Bool("yes", false, "do not ask")
	check := f.Bool("check", false, "only look whether the disk could be written")
	if err := parse(f, args); err != nil {
		return err
	}
	root, err := findRoot()
	if err != nil {
		return err
	}
	b, err := load(root, *board)
	if err != nil {
		return err
	}
	if *dev == "" {
		return usageError("name the disk with -dev /dev/sdX (lsblk -d lists disks)")
	}
	if err := flash.Check(*dev, b.DiskSize()); err != nil || *check {
		return err
	}
	disk, err := built(root, b)
	if err != nil {
		return err
	}
	return flash.Write(ctx, disk, disk+".bmap", *dev, flash.Options{Yes: *yes, In: os.Stdin, Out: os.Stdout})
}

func listBoards(args []string) error {
	if err := parse(flag.NewFlagSet("boards", flag.ContinueOnError), args); err != nil {
		return err
	}
	root, err := findRoot()
	if err != nil {
		return err
	}
	dir := filepath.Join(root, boardFolder)
	names, err := boards.List(dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		b, err := boards.Load(dir, n)
		if err != nil {
			return err
		}
		fmt.Printf("%-14s %s\n", b.Name, b.Description)
	}
	return nil
}

func initKeys(args []string) error {
	f := flag.NewFlagSet("keys init", flag.ContinueOnError)
	o := keys.Options{Now: time.Now()}
	kind := f.String("kind", string(release.Production),
		"`KIND` of the set: production, for devices in operation, or development, for trials:\nsuch an image says so on its page and offers a root shell on its console")
	f.StringVar(&o.SecureBootKey, "secure-boot-key", "", "PEM `FILE` with a Secure Boot key of your own (RSA)")
	f.StringVar(&o.SecureBootCert, "secure-boot-cert", "", "PEM `FILE` with its certificate")
	f.Func("threshold", "`ROLE=NEED/KEYS`, such as root=2/3: two of three root keys have to sign; may be repeated", func(s string) error {
		role, numbers, _ := strings.Cut(s, "=")
		t, err := keys.ParseThreshold(numbers)
		if err != nil {
			return err
		}
		if o.Thresholds == nil {
			o.Thresholds = map[string]keys.Threshold{}
		}
		o.Thresholds[role] = t
		return nil
	})
	if err := parse(f, args, "DIR"); err != nil {
		return err
	}
	o.Kind = release.Keys(*kind)
	if err := o.Check(); err != nil {
		return usagef("keys init: %v", err)
	}
	dir := f.Arg(0)
	if err := keys.Init(dir, o); err != nil {
		return err
	}
	if o.Kind == release.Production {
		log("made production keys in %s (for trials: -kind development)", dir)
	} else {
		log("made development keys in %s: for trials only, an image says so and offers a root shell", dir)
	}
	log("take %s offline now: %s there says why", filepath.Join(dir, keys.Offline), keys.OfflineNote)
	return nil
}

func updateLock(ctx context.Context, args []string) error {
	if err := parse(flag.NewFlagSet("lock update", flag.ContinueOnError), args); err != nil {
		return err
	}
	root, err := findRoot()
	if err != nil {
		return err
	}
	if err := image.UpdateLock(ctx, root, log); err != nil {
		return interrupted(ctx, err)
	}
	return nil
}
