package clock

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var (
	build = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	day   = 24 * time.Hour
)

func TestTheClockIsNeverBehindWhatIsKnownToHavePassed(t *testing.T) {
	never := time.Time{}
	for name, c := range map[string]struct {
		saved, rtc time.Time
		want       time.Time
		source     Source
	}{
		"nothing known":                     {never, never, build, Floor},
		"good board clock":                  {never, build.Add(9 * day), build.Add(9 * day), RTC},
		"board clock at the build":          {never, build, build, RTC},
		"flat battery":                      {never, time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), build, Floor},
		"epoch":                             {never, time.Unix(0, 0), build, Floor},
		"board clock mad":                   {never, build.Add(life + day), build, Floor},
		"saved":                             {build.Add(3 * day), never, build.Add(3 * day), Floor},
		"saved, board clock ahead":          {build.Add(3 * day), build.Add(5 * day), build.Add(5 * day), RTC},
		"saved, board clock behind":         {build.Add(3 * day), build.Add(2 * day), build.Add(3 * day), Floor},
		"saved, board clock flat":           {build.Add(3 * day), time.Unix(0, 0), build.Add(3 * day), Floor},
		"saved before this firmware":        {build.Add(-9 * day), never, build, Floor},
		"saved before, board clock good":    {build.Add(-9 * day), build.Add(day), build.Add(day), RTC},
		"saved by a mad clock":              {build.Add(life + day), never, build, Floor},
		"saved by a mad clock, board's not": {build.Add(life + day), build.Add(day), build.Add(day), RTC},
	} {
		if got, source := decide(build, c.saved, c.rtc); !got.Equal(c.want) || source != c.source {
			t.Errorf("%s: %v by %s, want %v by %s", name, got, source, c.want, c.source)
		}
	}
}

func TestTheTimeIsSavedEveryHour(t *testing.T) {
	file := filepath.Join(t.TempDir(), "clock")
	synctest.Test(t, func(t *testing.T) {
		c := &Clock{build: build, floor: build, at: time.Now(), file: file}
		ctx, stop := context.WithCancel(t.Context())
		done, failed := make(chan struct{}), 0
		go func() { c.Run(ctx, func(error) { failed++ }); close(done) }()
		for hour := range 3 {
			time.Sleep(time.Hour + time.Minute)
			synctest.Wait()
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			saved, err := parse(b)
			if want := build.Add(time.Duration(hour+1) * time.Hour); err != nil || !saved.Equal(want) { // whatever the clock shows
				t.Errorf("saved %v, %v, want %v", saved, err, want)
			}
		}
		stop()
		<-done
		if failed != 0 {
			t.Errorf("%d times it failed", failed)
		}
	})
}

func TestADiskThatFailsIsToldOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "none", "clock")
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithTimeout(t.Context(), 5*time.Hour+time.Minute)
		defer stop()
		failed := 0
		(&Clock{build: build, file: file}).Run(ctx, func(error) { failed++ })
		if failed != 1 {
			t.Errorf("told %d times", failed)
		}
	})
}

func TestASavedTimeThatIsGarbageIsToldAndNothingElse(t *testing.T) {
	dir := t.TempDir()
	file, sure := filepath.Join(dir, "clock"), filepath.Join(dir, "sure")
	build := time.Now().Add(-9 * day).Truncate(time.Second)
	c := &Clock{build: build, floor: build, at: time.Now(), source: RTC}
	if err := c.Save(); err != nil {
		t.Errorf("before there is a place: %v", err)
	}
	if err := c.Resume(file, sure); err != nil {
		t.Errorf("a first run: %v", err)
	}
	for _, content := range []string{"", "\x00\x00", "yesterday", "2026-13-01T00:00:00Z", strings.Repeat("2026", 1000)} {
		for _, name := range []string{file, sure} {
			if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Resume(file, sure); err == nil {
			t.Errorf("%q was read", content)
		}
	}
	// The time of which somebody was sure counts although the other is damaged; it is past, nothing to set.
	want := build.Add(3 * day)
	if err := os.WriteFile(sure, Format(want), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.Resume(file, sure); err == nil || c.Source() != RTC {
		t.Errorf("%v, %s", err, c.Source())
	}
	if err := c.Save(); err != nil {
		t.Fatal(err)
	}
	if saved, err := read(file); err != nil || saved.Before(want) || saved.After(want.Add(time.Hour)) {
		t.Errorf("saved again: %v, %v, want %v", saved, err, want)
	}
}

func TestABoardWithoutAClockIsNoError(t *testing.T) {
	if rtc, err := readRTC(filepath.Join(t.TempDir(), "rtc0")); !errors.Is(err, os.ErrNotExist) || !rtc.IsZero() {
		t.Errorf("%v, %v", rtc, err)
	}
	if _, err := readRTC("/dev/null"); err == nil {
		t.Error("/dev/null shows a time")
	}
}

func FuzzSaved(f *testing.F) {
	f.Add([]byte("2026-11-22T01:02:03Z\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		saved, err := parse(b)
		if err != nil {
			return
		}
		if got, _ := decide(build, saved, time.Time{}); got.Before(build) || got.After(build.Add(life)) {
			t.Fatalf("%q sets %v", b, got)
		}
	})
}
