package trust

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"cloudlink.local/gateway/internal/release"
	"cloudlink.local/gateway/internal/update/bundle"
)

// file returns the target of a version, with options like "beta min=1.0.0 floor=1.0.0 rollout=5 board=x".
func file(version, options string) File {
	t := bundle.Target{
		Product: release.Product, Board: "qemu-virt", Version: version, Kind: bundle.Full, Rollout: 100,
		Channels: []string{bundle.Stable}, BuildTime: time.Unix(1e9, 0),
		Slot: []release.ManifestFile{{Name: bundle.UKI, SHA256: version}},
	}
	f := File{Size: 1000}
	for _, o := range strings.Fields(options) {
		name, value, _ := strings.Cut(o, "=")
		switch name {
		case "beta":
			t.Channels = []string{bundle.Beta}
		case "min":
			t.MinimumFrom = value
		case "rollout":
			fmt.Sscan(value, &t.Rollout)
		case "board":
			t.Board = value
		case "product":
			t.Product = value
		case "from":
			t.Kind, t.From, t.FromVersion = bundle.Delta, value, "1.0.0"
		case "size":
			fmt.Sscan(value, &f.Size)
		case "slot":
			t.Slot = []release.ManifestFile{{Name: bundle.UKI, SHA256: value}}
		}
	}
	f.Target, f.Path, f.SHA256 = t, t.Path(), version+options
	return f
}

func TestChoice(t *testing.T) {
	for _, c := range []struct {
		name   string
		files  []File
		device string // options of the device
		floor  string
		want   string // version, with " delta" if there is one, or reason
	}{
		{"nothing there", nil, "", "", "up-to-date"},
		{"what runs", []File{file("1.0.0", "")}, "", "", "up-to-date"},
		{"older than what runs", []File{file("0.9.0", "")}, "", "", "up-to-date"},
		{"a newer one", []File{file("1.1.0", "")}, "", "", "1.1.0"},
		{"the newest", []File{file("1.2.0", ""), file("1.10.0", ""), file("1.9.0", "")}, "", "", "1.10.0"},
		{"another build of what runs", []File{file("1.0.0+g123", "")}, "", "", "up-to-date"},
		{"stable takes no beta", []File{file("1.2.0", "beta"), file("1.1.0", "")}, "", "", "1.1.0"},
		{"stable takes no beta, and there is no other", []File{file("1.2.0", "beta")}, "", "", "up-to-date"},
		{"beta takes beta", []File{file("1.2.0", "beta"), file("1.1.0", "")}, "beta", "", "1.2.0"},
		{"beta takes stable", []File{file("1.2.0", ""), file("1.1.0", "beta")}, "beta", "", "1.2.0"},
		{"for another product", []File{file("1.2.0", "product=toaster")}, "", "", "wrong-product"},
		{"for another board", []File{file("1.2.0", "board=uefi-arm64")}, "", "", "wrong-board"},
		{"for other boards, too", []File{file("1.3.0", "board=uefi-arm64"), file("1.2.0", ""), file("1.4.0", "product=toaster")}, "", "", "1.2.0"},
		{"a stepping stone", []File{file("3.0.0", "min=2.0.0"), file("2.0.0", "")}, "", "", "2.0.0"},
		{"no stepping stone", []File{file("3.0.0", "min=2.0.0")}, "", "", "minimum-from 2.0.0"},
		{"after the stepping stone", []File{file("3.0.0", "min=1.0.0")}, "", "", "3.0.0"},
		{"below the floor", []File{file("1.1.0", "")}, "", "1.2.0", "below-floor 1.2.0"},
		{"at the floor", []File{file("1.2.0", "")}, "", "1.2.0", "1.2.0"},
		{"one of them below the floor", []File{file("1.1.0", ""), file("1.3.0", "min=1.2.0")}, "", "1.2.0", "minimum-from 1.2.0"},
		{"its turn comes", []File{file("1.1.0", "rollout=0")}, "", "", "not-yet 1.1.0"},
		{"its turn comes, the one before is there", []File{file("1.2.0", "rollout=0"), file("1.1.0", "")}, "", "", "1.1.0"},
		{"somebody asks", []File{file("1.1.0", "rollout=0")}, "asked", "", "1.1.0"},
		{"a delta for it", []File{file("1.1.0", ""), file("1.1.0", "from=uki size=10")}, "", "", "1.1.0 delta"},
		{"a delta for another", []File{file("1.1.0", ""), file("1.1.0", "from=other size=10")}, "", "", "1.1.0"},
		{"a delta that is larger", []File{file("1.1.0", ""), file("1.1.0", "from=uki size=1000")}, "", "", "1.1.0"},
		{"a delta to something else", []File{file("1.1.0", ""), file("1.1.0", "from=uki size=10 slot=x")}, "", "", "1.1.0"},
		{"a delta of another board", []File{file("1.1.0", ""), file("1.1.0", "from=uki size=10 board=x")}, "", "", "1.1.0"},
		{"only a delta", []File{file("1.1.0", "from=uki size=10")}, "", "", "up-to-date"},

		{"picked: newer", []File{file("1.1.0", "beta rollout=0")}, "picked", "", "1.1.0"},
		{"picked: what runs", []File{file("1.0.0", "")}, "picked", "", "up-to-date"},
		{"picked: older", []File{file("0.9.0", "")}, "picked", "", "downgrade"},
		{"picked: below the floor", []File{file("1.1.0", "")}, "picked", "1.2.0", "below-floor 1.2.0"},
		{"picked: too large a step", []File{file("3.0.0", "min=2.0.0")}, "picked", "", "minimum-from 2.0.0"},
		{"picked: for another board", []File{file("3.0.0", "board=x")}, "picked", "", "wrong-board"},
		{"picked: for another product", []File{file("3.0.0", "product=x")}, "picked", "", "wrong-product"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := Device{
				Product: release.Product, Board: "qemu-virt", Version: "1.0.0", Serial: "ABC", UKI: "uki",
				Channel: bundle.Stable, Asked: c.device == "asked",
			}
			if c.device == "beta" {
				d.Channel = bundle.Beta
			}
			offer, err := choose(c.files, d, c.floor, c.device == "picked")
			got := offer.Full.Target.Version
			if e, ok := err.(*Error); ok {
				got = strings.TrimSpace(string(e.Reason) + " " + e.Version)
			} else if err != nil {
				t.Fatal(err)
			}
			if offer.Delta != nil {
				got += " delta"
			}
			if got != c.want {
				t.Errorf("it gets %q, want %q (%v)", got, c.want, err)
			}
		})
	}
	if _, err := choose(nil, Device{Version: "unknown"}, "", false); err == nil || ReasonOf(err) != "" {
		t.Errorf("a device without a version: %v", err)
	}
}

// So many percent mean so many devices, the first are not always the same, and a device that was asked
// once stays in.
func TestTurns(t *testing.T) {
	const devices = 5000
	first := map[string]int{}
	for _, version := range []string{"1.1.0", "1.2.0"} {
		in := 0
		for i := range devices {
			serial := fmt.Sprintf("SN%06d", i)
			if turn(serial, version) < 10 {
				in++
				first[serial]++
			}
		}
		if in < devices*8/100 || in > devices*12/100 {
			t.Errorf("%s: %d of %d devices with 10 %%", version, in, devices)
		}
	}
	twice := 0
	for _, n := range first {
		if n == 2 {
			twice++
		}
	}
	if twice > devices*2/100 {
		t.Errorf("%d of %d devices are among the first each time", twice, devices)
	}
	for i := range 100 {
		if n := turn(fmt.Sprint(i), "1.0.0"); n < 0 || n > 99 {
			t.Errorf("turn %d", n)
		}
	}
}
