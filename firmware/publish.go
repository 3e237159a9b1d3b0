package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cloudlink.local/gateway/firmware/keys"
	"cloudlink.local/gateway/firmware/publish"
	"cloudlink.local/gateway/internal/safefile"
	"cloudlink.local/gateway/internal/update/bundle"
	"cloudlink.local/gateway/internal/update/delta"
)

// keysFlag defines the flag -keys of commands that sign.
func keysFlag(f *flag.FlagSet) *string {
	return f.String("keys", "", "`FOLDER` of the key set (default build/keys)")
}

// repoFlag defines the flag -repo.
func repoFlag(f *flag.FlagSet) *string {
	return f.String("repo", "", "`FOLDER` of the update repository (default build/repository)")
}

// in returns dir, or by default the folder of that name in build.
func in(dir, name string) (string, error) {
	if dir != "" {
		return dir, nil
	}
	root, err := findRoot()
	return filepath.Join(root, "build", name), err
}

// rootFlag defines the flag -root, which may be repeated.
func rootFlag(f *flag.FlagSet) *[]string {
	var dirs []string
	f.Func("root", "`FOLDER` with the root key, which is kept offline (default: offline in the key set); may be repeated", func(s string) error {
		if info, err := os.Stat(s); err != nil || !info.IsDir() {
			return errors.New("there is no such folder")
		}
		dirs = append(dirs, s)
		return nil
	})
	return &dirs
}

func rotateKeys(args []string) error {
	f := flag.NewFlagSet("keys rotate", flag.ContinueOnError)
	dir, offline := keysFlag(f), rootFlag(f)
	c := keys.Change{Now: time.Now()}
	f.Func("threshold", "`NEED/KEYS` from now on, such as 2/3 (default as before)", func(s string) (err error) {
		c.Threshold, err = keys.ParseThreshold(s)
		return err
	})
	if err := parse(f, args, "ROLE"); err != nil {
		return err
	}
	role := f.Arg(0)
	if !slices.Contains(keys.Roles, role) {
		return usagef("keys rotate: unknown role %q: want %s", role, strings.Join(keys.Roles, ", "))
	}
	set, err := in(*dir, "keys")
	if err != nil {
		return err
	}
	c.Offline = *offline
	version, _, err := keys.Rotate(set, role, c)
	if err != nil {
		return err
	}
	log("%s has new keys, root metadata %d say so; go run ./firmware repo renew or the next release tells devices", role, version)
	log("the old ones are in the folder retired beside them")
	return nil
}

func renewKeys(args []string) error {
	f := flag.NewFlagSet("keys renew", flag.ContinueOnError)
	dir, offline := keysFlag(f), rootFlag(f)
	if err := parse(f, args); err != nil {
		return err
	}
	set, err := in(*dir, "keys")
	if err != nil {
		return err
	}
	version, expires, err := keys.Renew(set, keys.Change{Offline: *offline, Now: time.Now()})
	if err != nil {
		return err
	}
	log("root metadata %d are good until %s; go run ./firmware repo renew or the next release tells devices", version, expires.Format(time.DateOnly))
	return nil
}

// repository returns the options of commands that sign a repository.
func repository(set, repo string) (publish.Options, error) {
	o := publish.Options{Now: time.Now(), Log: log}
	var err error
	if o.Dir, err = in(repo, "repository"); err != nil {
		return o, err
	}
	if set, err = in(set, "keys"); err != nil {
		return o, err
	}
	o.Keys, err = keys.LoadUpdates(set)
	return o, err
}

// maxNotes is more than any notes have that are accepted, in bytes.
const maxNotes = 1 << 20

func publishImage(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("publish", flag.ContinueOnError)
	board, set, repo := boardFlag(f), keysFlag(f), repoFlag(f)
	rel := publish.Release{Notes: map[string]string{}}
	f.StringVar(&rel.Image, "image", "", "`FOLDER` with the built image (default build/BOARD)")
	channel := f.String("channel", "", "`CHANNEL` of devices that are offered it: stable, or beta for those that try it first (default as before, of a new version stable)")
	f.StringVar(&rel.MinimumFrom, "minimum-from", "", "the oldest `VERSION` that may update to it (default as before, of a new version any)")
	f.StringVar(&rel.SecurityFloor, "security-floor", "", "once it is confirmed, nothing older than this `VERSION` may be installed (default as before)")
	rollout := number(f, "rollout", 100, 0, 100, "`PERCENT` of the devices that take it unasked; publish it again with more", "-rollout 10")
	deltas := number(f, "deltas", 3, 0, 20, "make deltas from so many `RELEASES` before it", "-deltas 3")
	for _, language := range bundle.Languages {
		f.Func("notes-"+language, fmt.Sprintf("`FILE` that says what is new, in %q, plain text", language), func(s string) error {
			b, err := safefile.Read(s, maxNotes)
			if errors.Is(err, fs.ErrNotExist) {
				return errors.New("there is no such file")
			}
			rel.Notes[language] = strings.TrimSpace(strings.ReplaceAll(string(b), "\r\n", "\n"))
			return err
		})
	}
	if err := parse(f, args); err != nil {
		return err
	}
	if rel.Rollout = *rollout; *channel != "" {
		rel.Channels = []string{*channel}
	}
	if rel.Image == "" {
		root, err := findRoot()
		if err != nil {
			return err
		}
		b, err := load(root, *board)
		if err != nil {
			return err
		}
		rel.Image = filepath.Join(root, "build", b.Name)
	} else if *board != "" {
		return usagef("publish: give -board or -image, not both")
	}
	o, err := repository(*set, *repo)
	if err != nil {
		return err
	}
	o.Deltas, o.Delta = *deltas, makeDelta
	if rel.Boot, err = keys.Load(o.Keys.Dir); err != nil {
		return err
	}
	if err := publish.Add(ctx, o, rel); err != nil {
		return interrupted(ctx, fmt.Errorf("publish: %w", err))
	}
	return nil
}

// makeDelta makes what turns one linux.efi into another.
func makeDelta(_ context.Context, old, new []byte) ([]byte, error) {
	var b bytes.Buffer
	if err := delta.Make(old, new, &b); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func listRepository(args []string) error {
	f := flag.NewFlagSet("repo list", flag.ContinueOnError)
	set, repo := keysFlag(f), repoFlag(f)
	if err := parse(f, args); err != nil {
		return err
	}
	o, err := repository(*set, *repo)
	if err != nil {
		return err
	}
	l, err := publish.List(o)
	if err != nil {
		return err
	}
	for _, t := range l.Releases {
		line := fmt.Sprintf("%-14s %-30s %s %3d %%", t.Board, t.Version, strings.Join(t.Channels, ","), t.Rollout)
		for _, more := range []struct{ what, version string }{
			{"from", t.MinimumFrom}, {"floor", t.SecurityFloor}, {"deltas from", strings.Join(l.Deltas[t.Path()], ", ")},
		} {
			if more.version != "" {
				line += fmt.Sprintf(", %s %s", more.what, more.version)
			}
		}
		fmt.Println(line)
	}
	var expired []string
	for _, role := range keys.Roles {
		said := "is good until"
		if !l.Expires[role].After(o.Now) {
			said, expired = "HAS EXPIRED on", append(expired, role)
		}
		fmt.Printf("%s %s %s\n", role, said, l.Expires[role].Format(time.DateOnly))
	}
	if len(expired) > 0 {
		return fmt.Errorf("no device takes anything from this repository, %s expired: go run ./firmware repo renew (root: keys renew before)",
			strings.Join(expired, " and "))
	}
	return nil
}

func renewRepository(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("repo renew", flag.ContinueOnError)
	set, repo := keysFlag(f), repoFlag(f)
	days := number(f, "days", publish.TimestampDays, 1, 365, "devices believe it for so many `DAYS`, and one kept from us notices as late", "-days 30")
	if err := parse(f, args); err != nil {
		return err
	}
	o, err := repository(*set, *repo)
	if err != nil {
		return err
	}
	o.Days = *days
	if err := publish.Renew(ctx, o); err != nil {
		return interrupted(ctx, err)
	}
	return nil
}

func withdraw(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("repo withdraw", flag.ContinueOnError)
	board, set, repo := boardFlag(f), keysFlag(f), repoFlag(f)
	if err := parse(f, args, "VERSION"); err != nil {
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
	o, err := repository(*set, *repo)
	if err != nil {
		return err
	}
	if err := publish.Withdraw(ctx, o, b.Name, f.Arg(0)); err != nil {
		return interrupted(ctx, err)
	}
	return nil
}

func serve(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("serve", flag.ContinueOnError)
	repo := repoFlag(f)
	listen := f.String("listen", "127.0.0.1:8090", "`ADDRESS` to listen at; :8090 for all of this machine's")
	if err := parse(f, args); err != nil {
		return err
	}
	dir, err := in(*repo, "repository")
	if err != nil {
		return err
	}
	return publish.Serve(ctx, dir, *listen, func(url string) { fmt.Println(url) })
}
