package reconcile

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/network/spec"
)

func TestPlanOfVLANs(t *testing.T) {
	eth0 := Link{Index: 2, Name: "eth0", Kind: "device", MTU: 1500, Up: true}
	vlan := func(name, parent string, id int, ours, marked bool) Link {
		return Link{Index: 3, Name: name, Kind: "vlan", MTU: 1500, Up: true, Parent: parent, VLAN: id, Ours: ours, marked: marked}
	}
	wantVLAN := spec.Merge(spec.Spec{
		Links:     []spec.Link{{Name: "eth0", MTU: 1500}, {Name: "eth0.5", Parent: "eth0", VLAN: 5, MTU: 1400}},
		Addresses: []spec.Address{address("eth0.5", "10.5.0.5/24")},
		Routes:    []spec.Route{route("eth0.5", "10.6.0.0/16", "10.5.0.1", 100)},
	})
	for _, c := range []struct {
		name  string
		want  spec.Spec
		have  []Link
		ops   []string
		error string
	}{
		{"made where its parent is there", wantVLAN, []Link{eth0},
			[]string{"make link eth0.5: VLAN 5 on eth0"}, ""},
		{"waits for its parent", wantVLAN, nil, nil, ""},
		{"configured once it is there, marked first", wantVLAN, []Link{eth0, {Index: 3, Name: "eth0.5", Kind: "vlan", MTU: 1500, Parent: "eth0", VLAN: 5, Ours: true}},
			[]string{"mark link eth0.5", "set MTU of eth0.5 to 1400", "switch eth0.5 on", "set address 10.5.0.5/24 on eth0.5",
				"set route to 10.6.0.0/16 via 10.5.0.1 on eth0.5, metric 100"}, ""},
		{"another program's will do", spec.Merge(spec.Spec{Links: wantVLAN.Links[:1]}, spec.Spec{Links: []spec.Link{{Name: "eth0.5", Parent: "eth0", VLAN: 5}}}),
			[]Link{eth0, vlan("eth0.5", "eth0", 5, false, false)}, nil, ""},
		{"another program's is never deleted", spec.Spec{Links: wantVLAN.Links[:1]},
			[]Link{eth0, vlan("eth0.5", "eth0", 5, false, false), vlan("eth0.6", "eth0", 6, true, true)},
			[]string{"delete link eth0.6"}, ""},
		{"another program's number in our name", wantVLAN, []Link{eth0, vlan("eth0.5", "eth0", 6, false, false)}, nil,
			"another program has a link eth0.5: remove it with ip link delete eth0.5"},
		{"deleted to be made again with another number", wantVLAN, []Link{eth0, vlan("eth0.5", "eth0", 6, true, true)},
			[]string{"delete link eth0.5"}, ""},
		{"deleted to be made again on another parent", wantVLAN, []Link{eth0, vlan("eth0.5", "eth1", 5, true, true)},
			[]string{"delete link eth0.5"}, ""},
		{"unwanted, but not marked yet", spec.Spec{}, []Link{vlan("eth0.5", "eth0", 5, true, false)},
			[]string{"delete link eth0.5"}, ""},
	} {
		ops, err := plan(c.want, State{Links: c.have}, time.Now())
		if got := texts(ops); !slices.Equal(got, c.ops) {
			t.Errorf("%s: plan is\n%s\nwant\n%s", c.name, strings.Join(got, "\n"), strings.Join(c.ops, "\n"))
		}
		if c.error == "" && err != nil || c.error != "" && (err == nil || !strings.Contains(err.Error(), c.error)) {
			t.Errorf("%s: error is %v, want %q", c.name, err, c.error)
		}
	}
}

func texts(ops []op) (what []string) {
	for _, o := range ops {
		what = append(what, o.what)
	}
	return what
}

func TestPlanSetsBeforeItDeletes(t *testing.T) {
	have := State{
		Links: []Link{{Index: 1, Name: "lan0", Up: true}, {Index: 2, Name: "lan0.7", Kind: "vlan", Ours: true, marked: true}},
		Addresses: []Address{
			{Address: address("lan0", "10.1.0.5/24"), Ours: true},
			{Address: address("lan0", "10.7.0.5/24")},
		},
		Routes: []Route{{Route: spec.Route{Link: "lan0", Destination: everyv4, Via: ip("10.1.0.1"), Table: spec.Main}, Ours: true}},
		Rules: []Rule{{Rule: spec.Rule{Priority: 6700, From: subnet("10.1.0.5/32"), Table: 7}, Ours: true},
			{Rule: spec.Rule{Priority: 5, From: subnet("10.1.0.0/24"), Table: 9}}},
	}
	want := spec.Policy(spec.Merge(spec.Spec{
		Links:     []spec.Link{{Name: "lan0"}},
		Addresses: []spec.Address{address("lan0", "10.2.0.5/24")},
		Routes:    []spec.Route{{Link: "lan0", Destination: everyv4, Via: ip("10.2.0.1"), PreferredSource: ip("10.2.0.5")}},
	}))
	ops, err := plan(want, have, time.Now())
	if err != nil {
		t.Error(err)
	}
	if got, want := texts(ops), []string{
		"set address 10.2.0.5/24 on lan0",
		"set route to 10.2.0.0/24 on lan0, metric 0, table 67000",
		"set route to 0.0.0.0/0 via 10.2.0.1 on lan0, metric 0",
		"set route to 0.0.0.0/0 via 10.2.0.1 on lan0, metric 0, table 67000",
		"set rule 6700: from 10.2.0.5/32 to table 67000",
		"delete rule 6700: from 10.1.0.5/32 to table 7",
		"delete route to 0.0.0.0/0 via 10.1.0.1 on lan0, metric 0",
		"delete address 10.1.0.5/24 from lan0",
		"delete link lan0.7",
	}; !slices.Equal(got, want) {
		t.Errorf("plan is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// message builds what the kernel says of an address.
func message(family, bits uint8, index uint32, attrs ...*nl.RtAttr) []byte {
	head := nl.NewIfAddrmsg(int(family))
	head.Prefixlen, head.Index = bits, index
	m := head.Serialize()
	for _, a := range attrs {
		m = append(m, a.Serialize()...)
	}
	return m
}

func lifetimes(preferred, valid uint32) *nl.RtAttr {
	b := make([]byte, 16)
	binary.NativeEndian.PutUint32(b, preferred)
	binary.NativeEndian.PutUint32(b[4:], valid)
	return nl.NewRtAttr(unix.IFA_CACHEINFO, b)
}

func messages() [][]byte {
	v4, other := ip("192.0.2.5").AsSlice(), ip("192.0.2.6").AsSlice()
	v6, link := ip("2001:db8::5").AsSlice(), ip("fe80::5").AsSlice()
	flags := func(f uint32) *nl.RtAttr { return nl.NewRtAttr(unix.IFA_FLAGS, nl.Uint32Attr(f)) }
	proto := func(p byte) *nl.RtAttr { return nl.NewRtAttr(ifaProto, []byte{p}) }
	address, local := func(b []byte) *nl.RtAttr { return nl.NewRtAttr(unix.IFA_ADDRESS, b) },
		func(b []byte) *nl.RtAttr { return nl.NewRtAttr(unix.IFA_LOCAL, b) }
	return [][]byte{
		message(unix.AF_INET, 24, 3, address(other), local(v4), proto(protocol), lifetimes(1800, 3600)),
		message(unix.AF_INET, 24, 3, address(v4), local(v4), lifetimes(forever, forever)),
		message(unix.AF_INET6, 64, 4, address(v6), proto(2), lifetimes(60, 120), flags(unix.IFA_F_NOPREFIXROUTE)),
		message(unix.AF_INET6, 64, 4, address(v6), proto(protocol), flags(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED)),
		message(unix.AF_INET6, 64, 4, address(link), proto(3), flags(unix.IFA_F_TENTATIVE|unix.IFA_F_PERMANENT)),
		message(unix.AF_INET, 33, 3, local(v4)),
		message(unix.AF_INET, 24, 3),
		{unix.AF_INET, 24},
	}
}

func TestParsesAddresses(t *testing.T) {
	now := time.Now()
	after := func(s int) time.Time { return now.Add(time.Duration(s) * time.Second) }
	want := []Address{
		{Address: spec.Address{Prefix: subnet("192.0.2.5/24"), Source: spec.DHCP, Preferred: after(1800), Valid: after(3600)}, Ours: true},
		{Address: spec.Address{Prefix: subnet("192.0.2.5/24"), Source: spec.Manual}},
		{Address: spec.Address{Prefix: subnet("2001:db8::5/64"), Source: spec.SLAAC, Preferred: after(60), Valid: after(120), NoPrefixRoute: true}},
		{Address: spec.Address{Prefix: subnet("2001:db8::5/64"), Source: spec.Static}, Ours: true, Duplicate: true},
		{Address: spec.Address{Prefix: subnet("fe80::5/64"), Source: spec.LinkLocal}, Tentative: true},
	}
	for i, m := range messages() {
		index, a, ok := parseAddress(m, now)
		if i >= len(want) {
			if ok {
				t.Errorf("%d: is taken for %+v", i, a)
			}
			continue
		}
		if !ok || a != want[i] || index != 3+min(1, i/2) {
			t.Errorf("%d: index %d, %+v, %t, want %+v", i, index, a, ok, want[i])
		}
	}
}

func FuzzAddress(f *testing.F) {
	for _, m := range messages() {
		f.Add(m)
	}
	now := time.Now()
	f.Fuzz(func(t *testing.T, m []byte) {
		_, a, ok := parseAddress(m, now)
		if ok != a.Prefix.IsValid() || a.Duplicate && a.Tentative || a.Source == "" && ok {
			t.Errorf("%+v, %t", a, ok)
		}
	})
}
