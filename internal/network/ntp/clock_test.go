package ntp

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestAStepIsWholeSecondsAndSomeNanosecondsMore(t *testing.T) {
	for by, want := range map[time.Duration][2]int64{
		0:                               {0, 0},
		1500 * time.Millisecond:         {1, 500_000_000},
		-1:                              {-1, 999_999_999},
		-time.Second:                    {-1, 0},
		-1500 * time.Millisecond:        {-2, 500_000_000},
		-5 * year:                       {-5 * 365 * 86400, 0},
		25*year + 999*time.Nanosecond:   {25 * 365 * 86400, 999},
		-(25*year + 1*time.Microsecond): {-25*365*86400 - 1, 999_999_000},
	} {
		got := stepped(by)
		if got.Modes != unix.ADJ_SETOFFSET|unix.ADJ_NANO || got.Time.Sec != want[0] || got.Time.Usec != want[1] {
			t.Errorf("%v: %d s %d ns, modes %#x", by, got.Time.Sec, got.Time.Usec, got.Modes)
		}
	}
}

func TestTheKernelIsAskedWhetherItsClockIsSynchronised(t *testing.T) {
	var x unix.Timex
	if _, err := unix.Adjtimex(&x); err != nil { // it reads: no mode is set
		t.Fatal(err)
	}
	if got, want := (System{}).Synchronised(), x.Status&unix.STA_UNSYNC == 0; got != want {
		t.Errorf("synchronised %v, the kernel says %v (status %#x)", got, want, x.Status)
	}
}
