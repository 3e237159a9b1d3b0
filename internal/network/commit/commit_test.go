package commit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/diary"
	"cloudlink.local/gateway/internal/settings"
)

// statics are the networks whose first port has the address 10.0.0.n.
var statics = func() (list [10]settings.Network) {
	for n := range list {
		list[n] = settings.Default().Network
		list[n].WAN.IPv4 = settings.IPv4{
			Method:    settings.Static,
			Addresses: []netip.Prefix{netip.PrefixFrom(address(n), 24)},
			Router:    netip.MustParseAddr("10.0.0.254"),
		}
	}
	return list
}()

func static(n int) settings.Network { return statics[n].Clone() }

// address is static(n)'s.
func address(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}) }

// moved are our addresses while static(to) is on probation and static(from) beside it.
func moved(from, to int) Addresses {
	return Addresses{New: []netip.Addr{address(to)}, Old: []netip.Addr{address(from)}}
}

// name returns n's number, or "?" for a mixture.
func name(n settings.Network) string {
	for i := range statics {
		switch {
		case n.Equal(statics[i]):
			return fmt.Sprint(i)
		case len(n.WAN.DNS) > 0 && n.Equal(withDNS(statics[i])):
			return fmt.Sprint(i, "+dns")
		}
	}
	return "?"
}

func withDNS(n settings.Network) settings.Network {
	n = n.Clone()
	n.WAN.DNS = append(n.WAN.DNS, netip.MustParseAddr("9.9.9.9"))
	return n
}

func TestFieldsNamesEveryField(t *testing.T) {
	one, two := settings.Default().Network, settings.Default().Network
	fill(reflect.ValueOf(&two.LAN).Elem())
	var want []string
	var walk func(reflect.Type, string)
	walk = func(typ reflect.Type, path string) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			path := path + "." + f.Tag.Get("json")
			if f.Type == reflect.TypeFor[settings.IPv4]() || f.Type == reflect.TypeFor[settings.IPv6]() {
				walk(f.Type, path)
			} else {
				want = append(want, path)
			}
		}
	}
	walk(reflect.TypeFor[settings.Port](), "network.lan")
	if got := Fields(one, two); !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))) {
		t.Errorf("got  %q\nwant %q: Fields, and so Risky, has to know every field", got, want)
	}
	if got := Fields(two, two.Clone()); len(got) != 0 {
		t.Errorf("of the same: %q", got)
	}
}

// fill gives every field a value that is not the default.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[netip.Addr]() {
			v.Set(reflect.ValueOf(netip.MustParseAddr("192.0.2.9")))
			return
		}
		if v.Type() == reflect.TypeFor[netip.Prefix]() {
			v.Set(reflect.ValueOf(netip.MustParsePrefix("192.0.2.9/24")))
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.String:
		v.SetString("other")
	default:
		v.SetInt(7)
	}
}

func TestRisky(t *testing.T) {
	base := static(1)
	base.LAN.IPv6.Method = settings.Static
	base.LAN.IPv6.Addresses = []netip.Prefix{netip.MustParsePrefix("2001:db8::1/64")}
	for _, test := range []struct {
		name   string
		change func(*settings.Network)
		risky  bool
	}{
		{"nothing", func(*settings.Network) {}, false},
		{"DNS", func(n *settings.Network) { n.LAN.DNS = []netip.Addr{address(9)} }, false},
		{"another address", func(n *settings.Network) { n.WAN.IPv4.Addresses[0] = netip.MustParsePrefix("10.0.0.2/24") }, true},
		{"one address more", func(n *settings.Network) {
			n.WAN.IPv4.Addresses = append(n.WAN.IPv4.Addresses, netip.MustParsePrefix("10.0.0.2/24"))
		}, true},
		{"another length", func(n *settings.Network) { n.WAN.IPv4.Addresses[0] = netip.MustParsePrefix("10.0.0.1/25") }, true},
		{"DHCP", func(n *settings.Network) { n.WAN.IPv4.Method = settings.DHCP }, true},
		{"router", func(n *settings.Network) { n.WAN.IPv4.Router = address(253) }, true},
		{"no router", func(n *settings.Network) { n.WAN.IPv4.Router = netip.Addr{} }, true},
		{"VLAN", func(n *settings.Network) { n.LAN.VLAN = 20 }, true},
		{"MTU", func(n *settings.Network) { n.LAN.MTU = 1280 }, true},
		{"route", func(n *settings.Network) {
			n.LAN.Routes = []settings.Route{{Destination: netip.MustParsePrefix("0.0.0.0/0"), Router: address(3)}}
		}, true},
		{"IPv6 off", func(n *settings.Network) { n.WAN.IPv6.Method = settings.Off }, true},
		{"IPv6 address", func(n *settings.Network) { n.LAN.IPv6.Addresses[0] = netip.MustParsePrefix("2001:db8::2/64") }, true},
		{"IPv6 router", func(n *settings.Network) { n.LAN.IPv6.Router = netip.MustParseAddr("2001:db8::9") }, true},
		{"a router that DHCP does not use", func(n *settings.Network) { n.LAN.IPv4.Router = address(3) }, false},
		{"an address that is not used", func(n *settings.Network) {
			n.WAN.IPv6.Addresses = []netip.Prefix{netip.MustParsePrefix("2001:db8::2/64")}
		}, false},
	} {
		other := base.Clone()
		test.change(&other)
		if got := Risky(base, other); got != test.risky {
			t.Errorf("%s: risky %v, want %v", test.name, got, test.risky)
		}
		if got := Risky(other, base); got != test.risky {
			t.Errorf("%s, back: risky %v, want %v", test.name, got, test.risky)
		}
	}
}

func TestWhatConfirms(t *testing.T) {
	a := func(s ...string) (list []netip.Addr) {
		for _, one := range s {
			list = append(list, netip.MustParseAddr(one))
		}
		return list
	}
	for _, test := range []struct {
		name    string
		arrived string
		ours    Addresses
		refusal Refusal // "" for none
	}{
		{"moved, over the new", "10.0.0.2", Addresses{New: a("10.0.0.2"), Old: a("10.0.0.1")}, ""},
		{"moved, over the new as IPv6 sees it", "::ffff:10.0.0.2", Addresses{New: a("10.0.0.2"), Old: a("10.0.0.1")}, ""},
		{"moved, over the old", "10.0.0.1", Addresses{New: a("10.0.0.2"), Old: a("10.0.0.1")}, OldAddress},
		{"moved, over another that stays", "fe80::1%eth0", Addresses{New: a("10.0.0.2"), Old: a("10.0.0.1"), Common: a("fe80::1%eth0")}, NotNew},
		{"moved, over none of ours", "10.0.0.3", Addresses{New: a("10.0.0.2"), Old: a("10.0.0.1")}, NotOurs},
		{"moved to another VLAN, over the old one's link-local", "fe80::1%eth0", Addresses{New: a("fe80::1%eth0.20"), Old: a("fe80::1%eth0")}, OldAddress},
		{"moved to another VLAN, over its link-local", "fe80::1%eth0.20", Addresses{New: a("fe80::1%eth0.20"), Old: a("fe80::1%eth0")}, ""},
		{"moved, no address yet, over the old", "10.0.0.1", Addresses{Old: a("10.0.0.1")}, NoNewAddress},
		{"added, over the one that stays", "10.0.0.1", Addresses{New: a("10.0.0.2"), Common: a("10.0.0.1")}, ""},
		{"added, over the new", "10.0.0.2", Addresses{New: a("10.0.0.2"), Common: a("10.0.0.1")}, ""},
		{"removed, over the one that stays", "10.0.0.1", Addresses{Old: a("10.0.0.2"), Common: a("10.0.0.1")}, ""},
		{"removed, over the one that goes", "10.0.0.2", Addresses{Old: a("10.0.0.2"), Common: a("10.0.0.1")}, OldAddress},
		{"the same, only the router is another", "10.0.0.1", Addresses{Common: a("10.0.0.1")}, ""},
		{"the other port's, on which alone we answer", "192.168.1.1", Addresses{Common: a("192.168.1.1")}, ""},
		{"no address at all", "10.0.0.1", Addresses{}, NoNewAddress},
	} {
		at := moment{"x", time.Hour}
		c := Change{}.begin(static(1), static(2), "", "", at)
		got, err := c.confirm(0, netip.MustParseAddr(test.arrived), test.ours, at)
		refused, _ := errors.AsType[*RefusedError](err)
		switch {
		case test.refusal == "":
			if err != nil || got.State != Confirmed {
				t.Errorf("%s: %s, %v", test.name, got.State, err)
			}
		case refused == nil || refused.Refusal != test.refusal || got.State != Probation:
			t.Errorf("%s: %s, %v, want %s", test.name, got.State, err, test.refusal)
		case err.Error() == "" || refused.Refusal != NoNewAddress && len(refused.Over) == 0:
			t.Errorf("%s: %q does not tell what to do", test.name, err)
		}
	}
}

func TestARestartGoesOnAndABootReturns(t *testing.T) {
	c := Change{}.begin(static(1), static(2), "", "", moment{"x", time.Hour})
	for _, test := range []struct {
		at     moment
		state  State
		reason string
		left   time.Duration
	}{
		{moment{"x", time.Hour}, Probation, "", Period},
		{moment{"x", time.Hour + 30*time.Second}, Probation, "", Period - 30*time.Second},
		{moment{"x", time.Hour + Period}, Returned, diary.ReasonTimeout, 0},
		{moment{"x", 1000 * time.Hour}, Returned, diary.ReasonTimeout, 0},
		{moment{"x", time.Second}, Probation, "", Period}, // cannot be; but never longer than the period
		{moment{"y", time.Hour + time.Second}, Returned, atBoot, 0},
		{moment{"", time.Hour + time.Second}, Returned, atBoot, 0}, // we cannot tell
	} {
		got := c.expire(test.at)
		if got.State != test.state || got.Reason != test.reason || got.remaining(test.at) != test.left {
			t.Errorf("%+v: %s, reason %q, %v left", test.at, got.State, got.Reason, got.remaining(test.at))
		}
	}
}

// A flash holds record and settings, and fails at one of the writes to them.
type flash struct {
	record []byte // nil: none
	saved  settings.Settings

	writes int   // so far
	failAt int   // at which of them, from 1
	fault  fault // and how
}

// A fault is how a write fails.
type fault int

// The power fails before or after the write; a write gives an error and did nothing, or did what it
// should; the medium loses part of the record that it said it had written (the settings have a test of
// that of their own), and the power fails.
const (
	cutBefore fault = iota
	cutAfter
	errorBefore
	errorAfter
	torn
	faults
)

// powerCut is panicked with: nothing that comes after it in the process happens.
type powerCut struct{}

var errFlash = errors.New("input/output error")

func (f *flash) put(write, tear func()) error {
	f.writes++
	if f.writes != f.failAt {
		write()
		return nil
	}
	switch f.fault {
	case cutBefore:
		panic(powerCut{})
	case cutAfter:
		write()
		panic(powerCut{})
	case errorAfter:
		write()
	case torn:
		tear()
		panic(powerCut{})
	}
	return errFlash
}

func (f *flash) read() ([]byte, error) {
	if f.record == nil {
		return nil, fs.ErrNotExist
	}
	return f.record, nil
}

func (f *flash) write(b []byte) error {
	return f.put(func() { f.record = bytes.Clone(b) }, func() { f.record = bytes.Clone(b[:len(b)/2]) })
}

// A flashStore is the settings on a flash, as settings.Store keeps them.
type flashStore struct {
	*flash
	current settings.Settings
}

func (s *flashStore) Get() settings.Settings { return s.current.Clone() }

func (s *flashStore) Save(n settings.Settings) error {
	write := func() { s.saved = n.Clone() }
	if err := s.put(write, write); err != nil {
		return err
	}
	s.current = n.Clone()
	return nil
}

// A machine runs one keeper after another on a flash.
type machine struct {
	flash    *flash
	bootID   string
	boottime time.Duration
	keeper   *Keeper
	notes    []diary.Kind
	changed  int
}

func newMachine() *machine {
	f := &flash{saved: settings.Default()}
	f.saved.Network = static(1)
	m := &machine{flash: f, bootID: "boot 1", boottime: time.Hour}
	m.start()
	return m
}

// start starts the process, after kill -9 or at a boot.
func (m *machine) start() {
	m.keeper = open(m.config(&flashStore{m.flash, m.flash.saved.Clone()}), m.flash)
}

func (m *machine) config(s Store) Config {
	return Config{
		Store:    s,
		BootID:   m.bootID,
		Boottime: func() time.Duration { return m.boottime },
		Changed:  func() { m.changed++ },
		Note:     func(k diary.Kind, _ ...string) { m.notes = append(m.notes, k) },
		Log:      slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
}

func (m *machine) reboot() {
	m.bootID, m.boottime = m.bootID+"'", 10*time.Second
	m.start()
}

func (m *machine) pass(d time.Duration) {
	m.boottime += d
	m.keeper.tick()
}

// state tells in short what is applied.
func (m *machine) state() string {
	e := m.keeper.Effective()
	s := name(e.Current)
	if e.Beside != nil {
		s += " beside " + name(*e.Beside)
	}
	return s
}

func (m *machine) expect(t *testing.T, step, state string, last State) {
	t.Helper()
	if got, s := m.state(), m.keeper.Status().State; got != state || s != last {
		t.Errorf("%s: %s, %s, want %s, %s", step, got, s, state, last)
	}
}

func TestAChangeIsConfirmedOrReturns(t *testing.T) {
	m := newMachine()
	k := m.keeper
	m.expect(t, "start", "1", Idle)

	if s, err := k.Begin(static(2), "anna", "10.0.0.77"); err != nil || s.RemainingSeconds != 90 || s.By != "anna" {
		t.Fatalf("%+v, %v", s, err)
	}
	m.expect(t, "begin", "2 beside 1", Probation)
	m.pass(60 * time.Second)
	k.Begin(static(3), "anna", "")
	m.expect(t, "begin again", "3 beside 1", Probation)
	m.pass(89 * time.Second)
	m.expect(t, "time not over", "3 beside 1", Probation)
	m.pass(time.Second)
	m.expect(t, "time over", "1", Returned)
	if s := k.Status(); s.Reason != diary.ReasonTimeout || name(s.New) != "3" {
		t.Errorf("%+v", s)
	}

	var refused *RefusedError
	if _, err := k.Confirm(0, address(3), moved(1, 3), "", ""); !errors.As(err, &refused) || refused.Refusal != NoProbation {
		t.Errorf("too late: %v", err)
	}
	s, _ := k.Begin(static(4), "", "")
	if _, err := k.Confirm(s.Number-1, address(4), moved(1, 4), "", ""); !errors.As(err, &refused) || refused.Refusal != OtherChange {
		t.Errorf("another change: %v", err)
	}
	if _, err := k.Confirm(s.Number, address(4), moved(1, 4), "", ""); err != nil {
		t.Error(err)
	}
	m.expect(t, "confirmed", "4", Confirmed)
	m.pass(2 * Period)
	m.expect(t, "later", "4", Confirmed)

	k.Begin(withDNS(static(4)), "", "")
	m.expect(t, "not risky", "4+dns", Confirmed)

	k.Begin(static(5), "", "")
	k.TakeBack()
	m.expect(t, "taken back", "4+dns", Returned)
	k.Begin(static(5), "", "")
	k.Begin(withDNS(static(4)), "", "")
	m.expect(t, "as before", "4+dns", Returned)
	k.Begin(static(5), "", "")
	k.Begin(static(4), "", "")
	m.expect(t, "not risky by what was confirmed", "4", Confirmed)

	bad := static(6)
	bad.WAN.MTU = 3
	if _, err := k.Begin(bad, "", ""); err == nil {
		t.Error("wrong settings are taken")
	}
	m.expect(t, "wrong settings", "4", Confirmed)
	m.reboot()
	m.expect(t, "boot", "4", Confirmed)

	if m.changed != 12 {
		t.Errorf("%d calls of Changed", m.changed)
	}
	want := []diary.Kind{
		diary.CommitProbation, diary.CommitProbation, diary.CommitReturned,
		diary.CommitProbation, diary.CommitConfirmed,
		diary.CommitProbation, diary.CommitReturned,
		diary.CommitProbation, diary.CommitReturned,
		diary.CommitProbation, diary.CommitReturned,
	}
	if !slices.Equal(m.notes, want) {
		t.Errorf("diary: %q\nwant   %q", m.notes, want)
	}
}

func TestRunReturnsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var suspended atomic.Int64 // how long
		booted := time.Now()
		changed := make(chan struct{}, 10)
		m := newMachine()
		c := m.config(&flashStore{m.flash, m.flash.saved})
		c.Boottime = func() time.Duration { return time.Since(booted) + time.Duration(suspended.Load()) }
		c.Changed = func() { changed <- struct{}{} }
		k := open(c, m.flash)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- k.Run(ctx) }()

		k.Begin(static(2), "", "")
		<-changed
		began := time.Now()
		<-changed
		if took := time.Since(began); took != Period || k.Status().State != Returned {
			t.Errorf("%s after %v", k.Status().State, took)
		}

		k.Begin(static(2), "", "")
		<-changed
		time.Sleep(time.Minute)
		k.Begin(static(3), "", "")
		<-changed
		began = time.Now()
		<-changed
		if took := time.Since(began); took != Period || k.Status().State != Returned {
			t.Errorf("begun anew: %s after %v", k.Status().State, took)
		}

		k.Begin(static(2), "", "")
		<-changed
		time.Sleep(10 * time.Second)
		synctest.Wait()
		suspended.Store(int64(time.Hour)) // the host slept
		began = time.Now()
		<-changed
		if took := time.Since(began); took > time.Second || k.Status().State != Returned {
			t.Errorf("after a suspension: %s after %v", k.Status().State, took)
		}

		k.Begin(static(2), "", "")
		<-changed
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if s := k.Status(); s.State != Probation {
			t.Errorf("the end of the process ends the probation: %s", s.State)
		}
	})
}

func TestAProcessThatIsStartedAnewGoesOn(t *testing.T) {
	m := newMachine()
	m.keeper.Begin(static(2), "anna", "10.0.0.77")
	m.boottime += 40 * time.Second
	m.start()
	m.expect(t, "kill", "2 beside 1", Probation)
	if s := m.keeper.Status(); s.RemainingSeconds != 50 || s.By != "anna" || s.From != "10.0.0.77" || s.Number != 1 {
		t.Errorf("%+v", s)
	}
	m.pass(50 * time.Second)
	m.expect(t, "time over", "1", Returned)
	m.start()
	m.expect(t, "kill", "1", Returned)

	m.keeper.Begin(static(2), "", "")
	m.boottime += 2 * Period
	m.start()
	m.expect(t, "killed for long", "1", Returned)

	m.keeper.Begin(static(2), "", "")
	m.reboot()
	m.expect(t, "boot", "1", Returned)
	if last := m.notes[len(m.notes)-1]; last != diary.CommitReturnedAtBoot {
		t.Errorf("the diary says %s", last)
	}
	notes := len(m.notes)
	m.start()
	if len(m.notes) != notes {
		t.Error("a return is told twice")
	}
}

// Whatever becomes of the record, what was confirmed last counts, and nothing in between.
func TestADamagedRecordIsAsNone(t *testing.T) {
	m := newMachine()
	m.keeper.Begin(static(2), "", "")
	good := m.flash.record
	try := func(what string, b []byte) {
		m.notes = nil
		m.flash.record = b
		m.start()
		switch state := m.state(); {
		case state == "1" && slices.Equal(m.notes, []diary.Kind{diary.CommitDamaged}):
			m.start()
			if len(m.notes) != 1 {
				t.Errorf("%s: told twice", what)
			}
		case state == "2 beside 1": // white space
		default:
			t.Errorf("%s: %s, diary %q", what, state, m.notes)
		}
	}
	for n := range good {
		if n < len(good)-1 {
			try(fmt.Sprint(n, " bytes"), bytes.Clone(good[:n]))
		}
		b := bytes.Clone(good)
		b[n] ^= 1 << (n % 8)
		try(fmt.Sprintf("a bit of byte %d", n), b)
	}
	try("foreign", []byte("{}"))
	try("garbage", bytes.Repeat([]byte{0xff}, 1000))
	try("oversized", append(bytes.Repeat([]byte{' '}, maxRecord), good...))
}

func TestARecordThatIsOutOfDateIsAsNone(t *testing.T) {
	m := newMachine()
	m.keeper.Begin(static(2), "", "")
	for n, want := range map[int]State{3: Idle, 2: Confirmed} { // another, or the new was saved and the record not
		record := m.flash.record
		m.flash.saved.Network = static(n)
		m.start()
		m.expect(t, "start", fmt.Sprint(n), want)
		m.flash.record = record
	}
	m.flash.saved.Network = static(2)
	m.start()
	m.flash.saved.Network = static(1) // the file was damaged, and there was a good copy
	m.start()
	m.expect(t, "older settings", "1", Idle)
}

// The power fails, the process is killed or the medium gives errors at every write of a long story:
// what is in effect afterwards is what was confirmed before that step or after it.
func TestACrashAnywhereLeavesOldOrNew(t *testing.T) {
	confirm := func(from, to int) func(k *Keeper) (Status, error) {
		return func(k *Keeper) (Status, error) { return k.Confirm(0, address(to), moved(from, to), "", "") }
	}
	begin := func(n settings.Network) func(k *Keeper) (Status, error) {
		return func(k *Keeper) (Status, error) { return k.Begin(n, "", "") }
	}
	story := []struct {
		do   func(k *Keeper) (Status, error)
		then string // what is confirmed after it
	}{
		{begin(static(2)), "1"},
		{confirm(1, 2), "2"},
		{begin(static(3)), "2"},
		{begin(static(4)), "2"}, // in its place
		{confirm(2, 4), "4"},
		{begin(static(5)), "4"},
		{(*Keeper).TakeBack, "4"},
		{begin(withDNS(static(4))), "4+dns"}, // not risky
		{begin(static(6)), "4+dns"},
		{nil, "4+dns"}, // its time passes
		{begin(static(7)), "4+dns"},
		{begin(static(4)), "4"}, // not risky by what was confirmed
		{begin(static(8)), "4"},
		{confirm(4, 8), "8"},
	}
	// play tells the story on a flash that fails, and returns what may be in effect afterwards.
	play := func(m *machine) (allowed []string) {
		allowed = []string{"1"}
		defer func() {
			if r := recover(); r != nil {
				if _, ok := r.(powerCut); !ok {
					panic(r)
				}
			}
		}()
		for _, step := range story {
			was := allowed[0]
			allowed = []string{step.then, was}
			if step.do == nil {
				m.pass(Period)
			} else if _, err := step.do(m.keeper); err != nil {
				if _, ok := errors.AsType[*SaveError](err); !ok {
					t.Fatal(err)
				}
				// In effect until the next start. What is begun now is from there.
				if got := name(m.keeper.Effective().Current); got != step.then {
					t.Errorf("could not be saved: %s in effect, want %s", got, step.then)
				}
				return allowed
			}
			allowed = allowed[:1]
		}
		return allowed
	}
	perfect := newMachine()
	if got := play(perfect); got[0] != "8" {
		t.Fatal(got)
	}
	for at := 1; at <= perfect.flash.writes; at++ {
		for how := range faults {
			for _, reboot := range []bool{false, true} {
				m := newMachine()
				m.flash.failAt, m.flash.fault = at, how
				allowed := play(m)
				m.flash.failAt = 0
				what := fmt.Sprintf("write %d, fault %d, reboot %v, allowed %q", at, how, reboot, allowed)
				if reboot {
					m.reboot()
					if got := m.state(); !slices.Contains(allowed, got) {
						t.Errorf("%s: %s after the boot", what, got)
					}
				} else {
					m.start()
					e := m.keeper.Effective()
					if e.Beside != nil && !slices.Contains(allowed, name(*e.Beside)) ||
						e.Beside == nil && !slices.Contains(allowed, name(e.Current)) || name(e.Current) == "?" {
						t.Errorf("%s: %s after the kill", what, m.state())
					}
				}
				if s := m.keeper.Status(); s.State == Confirmed && name(s.New) != m.state() {
					t.Errorf("%s: %s is said to be confirmed, in effect is %s", what, name(s.New), m.state())
				}
				m.pass(Period)
				settled := m.state()
				if !slices.Contains(allowed, settled) {
					t.Errorf("%s: %s in the end", what, settled)
				}
				m.reboot()
				if got := m.state(); got != settled {
					t.Errorf("%s: %s, after a boot %s", what, settled, got)
				}
			}
		}
	}
}

// Random events end in what was confirmed last.
func TestRandomEventsEndInWhatWasConfirmed(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 0))
		m := newMachine()
		confirmed, on := 1, 0 // numbers of the configurations
		var story []string
		left := time.Duration(0)
		for range 40 {
			n := 1 + r.IntN(8)
			switch event := r.IntN(7); event {
			case 0, 1:
				story = append(story, fmt.Sprint("begin ", n))
				m.keeper.Begin(static(n), "", "")
				switch {
				case n != confirmed:
					on, left = n, Period
				default:
					on = 0
				}
			case 2, 3:
				story = append(story, fmt.Sprint("confirm over ", n))
				_, err := m.keeper.Confirm(0, address(n), moved(confirmed, on), "", "")
				if want := on != 0 && n == on; (err == nil) != want {
					t.Fatalf("seed %d, %q: %v", seed, story, err)
				}
				if err == nil {
					confirmed, on = on, 0
				}
			case 4:
				d := time.Duration(r.IntN(60)) * time.Second
				story = append(story, d.String())
				m.pass(d)
				if left -= d; left <= 0 {
					on = 0
				}
			case 5:
				story = append(story, "kill")
				m.start()
			case 6:
				story = append(story, "boot")
				m.reboot()
				on = 0
			}
			want := fmt.Sprint(confirmed)
			if on != 0 {
				want = fmt.Sprintf("%d beside %d", on, confirmed)
			}
			if got := m.state(); got != want {
				t.Fatalf("seed %d, %q: %s, want %s", seed, story, got, want)
			}
		}
		m.pass(Period)
		if got := m.state(); got != fmt.Sprint(confirmed) {
			t.Fatalf("seed %d, %q: ends in %s, want %d", seed, story, got, confirmed)
		}
	}
}

// The record in a real file, with the real settings beside it.
func TestFile(t *testing.T) {
	dir := t.TempDir()
	m := newMachine()
	path := filepath.Join(dir, "change.json")
	start := func() *Keeper {
		store, _ := settings.Open(dir)
		c := m.config(store)
		c.File = path
		return Open(c)
	}
	if err := os.WriteFile(filepath.Join(dir, ".change.json123"), nil, 0o600); err != nil { // of a process that was killed
		t.Fatal(err)
	}
	k := start()
	if _, err := k.Begin(static(2), "", ""); err != nil {
		t.Fatal(err)
	}
	k = start()
	if _, err := k.Confirm(0, address(2), moved(1, 2), "", ""); err != nil {
		t.Fatal(err)
	}
	k = start()
	if got := name(k.Effective().Current); got != "2" || k.Status().State != Confirmed {
		t.Errorf("%s, %s", got, k.Status().State)
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if strings.HasPrefix(f.Name(), ".") {
			t.Errorf("%s is left", f.Name())
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}

	for what, put := range map[string]func() error{
		"pipe":      func() error { return unix.Mkfifo(path, 0o600) },
		"directory": func() error { return os.Mkdir(path, 0o700) },
		"link":      func() error { return os.Symlink("/proc/self/mem", path) },
	} {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		if err := put(); err != nil {
			t.Fatal(err)
		}
		m.notes = nil
		k := start()
		if !slices.Equal(m.notes, []diary.Kind{diary.CommitDamaged}) || name(k.Effective().Current) != "2" {
			t.Errorf("%s in the record's place: %s, diary %q", what, name(k.Effective().Current), m.notes)
		}
	}
}

// Without a medium a change can be made all the same, and counts until the next start.
func TestWithoutAMediumAChangeCountsUntilTheNextStart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "missing")
	m := newMachine()
	store, _ := settings.Open(dir)
	c := m.config(store)
	c.File = filepath.Join(dir, "change.json")
	k := Open(c)
	if _, err := k.Begin(static(2), "", ""); err != nil {
		t.Fatal(err)
	}
	_, err := k.Confirm(0, address(2), moved(1, 2), "", "")
	if _, ok := errors.AsType[*SaveError](err); !ok {
		t.Errorf("it is not told that nothing was saved: %v", err)
	}
	if got := name(k.Effective().Current); got != "2" || k.Effective().Beside != nil {
		t.Errorf("%s in effect", got)
	}
	k.Begin(static(3), "", "")
	m.boottime += Period
	k.tick()
	if got := name(k.Effective().Current); got != "2" {
		t.Errorf("%s in effect after a return", got)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(Change{}.begin(static(1), static(2), "anna", "10.0.0.77", moment{"x", time.Hour})))
	f.Add([]byte(`{"sha256":"44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","change":{}}`))
	f.Add([]byte(`{"state":"probation","boot_id":"x","ends_ns":9223372036854775807}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := decode(b)
		if err != nil && json.Valid(b) { // what would be in it
			sum := sha256.Sum256(b)
			c, err = decode(fmt.Appendf(nil, `{"sha256":"%x","change":%s}`, sum, b))
		}
		if err != nil {
			return
		}
		again, err := decode(encode(c))
		if err != nil || again.State != c.State || !again.New.Equal(c.New) || !again.Old.Equal(c.Old) || again.Ends != c.Ends {
			t.Errorf("%+v becomes %+v, %v", c, again, err)
		}
		for _, at := range []moment{{c.BootID, 0}, {c.BootID, time.Hour}, {"another", 0}} {
			e := c.expire(at)
			if left := e.remaining(at); left < 0 || left > Period || e.State == Probation && left == 0 {
				t.Errorf("%v left of %+v", left, e)
			}
			at.boottime += Period
			if e = e.expire(at); e.State == Probation {
				t.Errorf("%+v never ends", c)
			}
		}
	})
}

func TestWhatChangesNothingIsNotWritten(t *testing.T) {
	dir := t.TempDir()
	store, _ := settings.Open(dir)
	k := Open(Config{
		File: filepath.Join(dir, "change.json"), Store: store, BootID: "a", Boottime: func() time.Duration { return 0 },
		Changed: func() { t.Error("has it applied again") }, Note: func(diary.Kind, ...string) { t.Error("noted") },
		Log: slog.New(slog.DiscardHandler),
	})
	for range 10 {
		if s, err := k.Begin(settings.Default().Network, "test", "10.0.0.9"); err != nil || s.State != Idle {
			t.Fatalf("%+v, %v", s, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "change.json")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("there is a record: %v", err)
	}
}
