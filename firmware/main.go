// Firmware builds firmware images, makes their keys, writes them to disks and runs them in QEMU.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
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
  keys init DIR         make a key set
  lock update           take Debian's newest packages into the lock

Each command explains its flags with -h.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	err := command(ctx, os.Args[1:])
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return
	case ctx.Err() != nil:
		err = errors.New("interrupted")
	}
	var u usageError
	fmt.Fprintf(os.Stderr, "firmware: %v\n", err)
	if errors.As(err, &u) {
		os.Exit(2)
	}
	os.Exit(1)
}

// A usageError is a mistake on the command line.
type usageError string

func (e usageError) Error() string { return string(e) }

func command(ctx context.Context, args []string) error {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		return usageError("name a command")
	}
	root, err := findRoot()
	if err != nil {
		return err
	}
	name, args := args[0], args[1:]
	if (name == "keys" || name == "lock") && len(args) > 0 {
		name, args = name+" "+args[0], args[1:]
	}
	switch name {
	case "image":
		return buildImage(ctx, root, args)
	case "run":
		return runImage(ctx, root, args)
	case "flash":
		return flashImage(ctx, root, args)
	case "boards":
		return listBoards(root, os.Stdout)
	case "keys init":
		return initKeys(args)
	case "lock update":
		return image.UpdateLock(ctx, root, log)
	case "help", "-h", "-help", "--help":
		fmt.Print(usage)
		return nil
	}
	fmt.Fprint(os.Stderr, usage)
	return usageError(fmt.Sprintf("unknown command %q", name))
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

// parse reads the flags of a command. What is left over must be want arguments.
func parse(f *flag.FlagSet, args []string, want int, what string) error {
	f.SetOutput(io.Discard)
	f.Usage = func() {}
	err := f.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		f.SetOutput(os.Stdout)
		fmt.Printf("usage: go run ./firmware %s [flags] %s\n", f.Name(), what)
		f.PrintDefaults()
		return err
	}
	if err != nil {
		return usageError(fmt.Sprintf("%s: %v (see -h)", f.Name(), err))
	}
	if f.NArg() != want {
		return usageError(fmt.Sprintf("%s: want %d arguments, have %q (see -h)", f.Name(), want, f.Args()))
	}
	return nil
}

// needBoard says which boards there are if none is named.
func needBoard(root, board string) error {
	if board != "" {
		return nil
	}
	names, err := boards.List(filepath.Join(root, boardFolder))
	if err != nil {
		return err
	}
	return usageError("name a board with -board: " + strings.Join(names, ", "))
}

func buildImage(ctx context.Context, root string, args []string) error {
	f := flag.NewFlagSet("image", flag.ContinueOnError)
	o := image.Options{Root: root, Log: log}
	f.StringVar(&o.Board, "board", "", "the `board`'s name")
	f.StringVar(&o.Keys, "keys", "", "`folder` of the key set (default build/keys, made when needed, for development)")
	f.StringVar(&o.Out, "o", "", "`folder` for the result (default build/BOARD)")
	f.StringVar(&o.Version, "version", "", "the image's `version` (default from git)")
	when := f.String("build-time", "", "the image's `time`, such as 2026-01-31T00:00:00Z (default that of the last commit)")
	f.BoolVar(&o.Locked, "locked", false, "for releases: refuse packages that firmware/debian.lock does not name")
	f.StringVar(&o.Init, "init", "", "for tests: pack this static arm64 `program` as the whole user space")
	f.StringVar(&o.Kernel, "kernel", "", "for tests: this `file` instead of the committed kernel")
	f.StringVar(&o.Arguments, "arguments", "", "for tests: add these `words` to the kernel's command line")
	if err := parse(f, args, 0, ""); err != nil {
		return err
	}
	if err := needBoard(root, o.Board); err != nil {
		return err
	}
	if *when != "" {
		var err error
		if o.BuildTime, err = time.Parse(time.RFC3339, *when); err != nil {
			return usageError(fmt.Sprintf("-build-time %q: want a time like 2026-01-31T00:00:00Z", *when))
		}
	}
	out, err := image.Build(ctx, o)
	if err != nil {
		return err
	}
	fmt.Println(filepath.Join(out, image.Disk))
	return nil
}

func runImage(ctx context.Context, root string, args []string) error {
	f := flag.NewFlagSet("run", flag.ContinueOnError)
	board := f.String("board", "", "the `board`'s name")
	port := f.Int("port", 8080, "TCP `port` of this machine that leads to the portal")
	memory := f.Int("memory", 256, "the machine's memory in `MiB`")
	if err := parse(f, args, 0, ""); err != nil {
		return err
	}
	if err := needBoard(root, *board); err != nil {
		return err
	}
	b, err := boards.Load(filepath.Join(root, boardFolder), *board)
	if err != nil {
		return err
	}
	if b.QEMU.Firmware == "" {
		return fmt.Errorf("board %s does not run in QEMU: its board.toml has no [qemu]", b.Name)
	}
	// The run ends the machine in order when it is interrupted, so it is not given our context.
	return run.Run(context.WithoutCancel(ctx), run.Options{
		Image:    filepath.Join(root, "build", b.Name, image.Disk),
		Firmware: b.QEMU.Firmware, Port: *port, MemoryMB: *memory,
	})
}

func flashImage(ctx context.Context, root string, args []string) error {
	f := flag.NewFlagSet("flash", flag.ContinueOnError)
	board := f.String("board", "", "the `board`'s name")
	dev := f.String("dev", "", "the `disk` to write to, such as /dev/sdX; all on it is lost")
	yes := f.Bool("yes", false, "do not ask")
	if err := parse(f, args, 0, ""); err != nil {
		return err
	}
	if err := needBoard(root, *board); err != nil {
		return err
	}
	if *dev == "" {
		return usageError("name the disk with -dev /dev/sdX (lsblk lists disks)")
	}
	b, err := boards.Load(filepath.Join(root, boardFolder), *board)
	if err != nil {
		return err
	}
	disk := filepath.Join(root, "build", b.Name, image.Disk)
	if _, err := os.Stat(disk); err != nil {
		return fmt.Errorf("%s is missing: go run ./firmware image -board %s builds it", disk, b.Name)
	}
	return flash.Write(ctx, disk, disk+".bmap", *dev, flash.Options{Yes: *yes, In: os.Stdin, Out: os.Stdout})
}

func listBoards(root string, w io.Writer) error {
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
		fmt.Fprintf(w, "%-14s %s\n", b.Name, b.Description)
	}
	return nil
}

func initKeys(args []string) error {
	f := flag.NewFlagSet("keys init", flag.ContinueOnError)
	var o keys.Options
	kind := f.String("kind", string(release.Production), "`kind` of the set: development or production")
	f.StringVar(&o.SecureBootKey, "secure-boot-key", "", "PEM `file` with a Secure Boot key of your own (RSA)")
	f.StringVar(&o.SecureBootCert, "secure-boot-cert", "", "PEM `file` with its certificate")
	if err := parse(f, args, 1, "DIR"); err != nil {
		return err
	}
	o.Kind, o.Now = release.Keys(*kind), time.Now()
	dir := f.Arg(0)
	if err := keys.Init(dir, o); err != nil {
		return err
	}
	log("made %s keys in %s; take %s offline now: %s there says why", o.Kind, dir,
		filepath.Join(dir, keys.Offline), keys.OfflineNote)
	return nil
}
