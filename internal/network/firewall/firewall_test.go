package firewall

import (
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/testnet"
)

func TestBadPolicyIsRefusedWithItsField(t *testing.T) {
	for _, c := range []struct {
		links []string
		says  string
	}{
		{[]string{""}, `ports[0].link: ""`},
		{[]string{"eth0", "eth0"}, "ports[1].link: eth0 is there twice"},
		{[]string{"lo"}, "ports[0].link: lo is not an Ethernet port"},
		{[]string{"eth0", "sixteen-letters-"}, "ports[1].link"},
		{[]string{"eth*"}, "ports[0].link"},
		{[]string{"a b"}, "ports[0].link"},
		{[]string{"a/b"}, "ports[0].link"},
		{[]string{"a", "b", "c", "d", "e", "f", "g", "h", "i"}, "9 are too many"},
	} {
		var p Policy
		for _, link := range c.links {
			p.Ports = append(p.Ports, Port{Link: link})
		}
		_, err := Apply(p)
		if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v, want %q", c.links, err, c.says)
		}
		if Verify(p) == nil {
			t.Errorf("%q: verified", c.links)
		}
	}
}

// generation is the kernel's count of changes to its rules.
func generation(t testing.TB) string {
	t.Helper()
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	replies, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, Flags: netlink.Request},
		Data:   make([]byte, 4),
	})
	if err != nil || len(replies) != 1 {
		t.Fatalf("%d replies, %v", len(replies), err)
	}
	attrs, err := attributes(replies[0].Data[4:])
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(number(attrs[unix.NFTA_GEN_ID]))
}

func TestSecondApplyWritesNothing(t *testing.T) {
	p := ForPorts("wan", "lan")
	apply(t, p)
	before := generation(t)
	if apply(t, p) {
		t.Error("says that it changed something")
	}
	if after := generation(t); after != before {
		t.Errorf("the kernel's generation went from %s to %s", before, after)
	}
}

// TestChainsStayWhenRulesChange: a chain that goes and comes back leaves a moment between.
func TestChainsStayWhenRulesChange(t *testing.T) {
	home := testnet.Home(t)
	chains := func() []string {
		return regexp.MustCompile(`chain \w+ \{ # handle \d+`).FindAllString(home.Run("nft", "-a", "list", "table", "inet", "cloudlink"), -1)
	}
	apply(t, ForPorts("wan", "lan"))
	before := chains()
	if !apply(t, ForPorts("wan", "")) {
		t.Error("nothing changed")
	}
	if after := chains(); len(before) != 4 || !slices.Equal(after, before) {
		t.Errorf("chains were %q and are %q", before, after)
	}
}

func randomPolicy(r *rand.Rand) Policy {
	var p Policy
	for _, link := range r.Perm(maxPorts)[:r.IntN(maxPorts+1)] {
		bits := r.Uint32()
		p.Ports = append(p.Ports, Port{
			Link:   []string{"wan", "lan", "eth0", "eth1.4094", "fifteen-letters", "x", "end0", "enp1s0"}[link],
			DHCPv4: bits&1 != 0, DHCPv6: bits&2 != 0, Portal: bits&4 != 0, MDNS: bits&8 != 0, Media: bits&16 != 0,
		})
	}
	return p
}

func TestAnyPolicyIsReadBackAsItWasWanted(t *testing.T) {
	home := testnet.Home(t)
	seed := uint64(os.Getpid())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	offering := func(p Policy) []Port { // a port that offers nothing needs no rule
		return slices.DeleteFunc(slices.Clone(p.Ports), func(p Port) bool { return p == Port{Link: p.Link} })
	}
	var last Policy
	apply(t, last)
	for range 60 {
		p := randomPolicy(r)
		if changed := apply(t, p); changed == slices.Equal(offering(p), offering(last)) {
			t.Fatalf("%+v after %+v: changed is %v", p, last, changed)
		}
		last = p
		if err := Verify(p); err != nil {
			t.Fatalf("%+v: %v", p, err)
		}
		if apply(t, p) {
			t.Fatalf("%+v: a second time changed something", p)
		}
		// What somebody else reads.
		list := home.Run("nft", "list", "table", "inet", "cloudlink")
		for _, port := range p.Ports {
			for _, c := range []struct {
				offered bool
				rule    string
			}{
				{port.Portal, `tcp dport 80 counter`},
				{port.MDNS, `udp dport 5353`},
				{port.MDNS, `meta nfproto ipv4 meta l4proto igmp`},
				{port.DHCPv4, `meta nfproto ipv4 udp dport 68`},
				{port.DHCPv6, `meta nfproto ipv6 @nh,192,16 0xfe80-0xfebf udp dport 546`},
				{port.Media, `udp dport 65336-65534`},
			} {
				if have := strings.Contains(list, fmt.Sprintf("iifname %q %s", port.Link, c.rule)); have != c.offered {
					t.Fatalf("%+v: rule %q is there: %v\n%s", port, c.rule, have, list)
				}
			}
		}
		lines := 0
		for _, port := range p.Ports {
			for _, n := range []struct {
				on    bool
				lines int
			}{{port.Portal, 1}, {port.MDNS, 2}, {port.DHCPv4, 1}, {port.DHCPv6, 1}, {port.Media, 1}} {
				if n.on {
					lines += n.lines
				}
			}
		}
		if have := len(regexp.MustCompile(`(?m)^\s*iifname "[^l][^o]?[^"]*"|^\s*iifname "lan"`).FindAllString(list, -1)); have != lines {
			t.Fatalf("%+v: %d rules of ports, want %d\n%s", p, have, lines, list)
		}
	}
}

func TestWhatOthersDidToOurTableIsRepaired(t *testing.T) {
	home := testnet.Home(t)
	p := ForPorts("wan", "lan")
	apply(t, p)
	handle := func(text string) string {
		for line := range strings.Lines(home.Run("nft", "-a", "list", "table", "inet", "cloudlink")) {
			if strings.Contains(line, text) {
				return strings.TrimSpace(line[strings.LastIndex(line, " "):])
			}
		}
		t.Fatalf("no rule with %q", text)
		return ""
	}
	for name, does := range map[string]func() []string{
		"table deleted": func() []string { return []string{"delete table inet cloudlink"} },
		"all deleted":   func() []string { return []string{"flush ruleset"} },
		"rules deleted": func() []string { return []string{"flush table inet cloudlink"} },
		"rule deleted":  func() []string { return []string{"delete rule inet cloudlink input handle " + handle("broken")} },
		"rule added":    func() []string { return []string{"insert rule inet cloudlink input tcp dport 22 accept"} },
		"comment dropped": func() []string {
			return []string{"replace rule inet cloudlink input handle " + handle("broken") + " ct state invalid counter drop"}
		},
		"rule of a kind we do not know": func() []string {
			return []string{"replace rule inet cloudlink input handle " + handle(`"lan: mdns"`) +
				` iifname "lan" udp dport 5353 limit rate 1000/second burst 1000 packets numgen random mod 2 0 counter accept comment "lan: mdns"`}
		},
		"policy changed": func() []string { return []string{"chain inet cloudlink input { policy accept ; }"} },
		"chain deleted": func() []string {
			return []string{"flush chain inet cloudlink forward", "delete chain inet cloudlink forward"}
		},
		"chain added": func() []string {
			return []string{"add chain inet cloudlink early { type filter hook input priority -10 ; }"}
		},
		"jump added": func() []string {
			return []string{"add chain inet cloudlink side", "insert rule inet cloudlink input jump side"}
		},
		"set added":     func() []string { return []string{"add set inet cloudlink s { type ipv4_addr ; }"} },
		"counter added": func() []string { return []string{"add counter inet cloudlink c"} },
		"put to sleep":  func() []string { return []string{"add table inet cloudlink { flags dormant ; }"} },
	} {
		t.Run(name, func(t *testing.T) {
			for _, command := range does() {
				home.Run("nft", command)
			}
			if Verify(p) == nil {
				t.Error("it was not noticed")
			}
			if !apply(t, p) {
				t.Error("nothing was repaired")
			}
			if err := Verify(p); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestForeignTablesAreLeftAlone(t *testing.T) {
	home := testnet.Home(t)
	foreign := []string{"inet other", "ip cloudlink", "ip6 cloudlink", "netdev cloudlink"}
	for _, table := range foreign {
		home.Run("nft", "add table "+table)
		home.Run("nft", "add chain "+table+" side")
		home.Run("nft", "add rule "+table+` side meta mark 7 drop comment "theirs"`)
		home.Run("nft", "add set "+table+" s { type inet_service ; elements = { 22 } ; }")
	}
	list := func() (all string) {
		for _, table := range foreign {
			all += home.Run("nft", "-a", "list", "table", strings.Fields(table)[0], strings.Fields(table)[1])
		}
		return all
	}
	before := list()
	apply(t, ForPorts("wan", "lan"))
	home.Run("nft", "delete table inet cloudlink")
	apply(t, ForPorts("wan", ""))
	apply(t, ForPorts("wan", "lan"))
	if apply(t, ForPorts("wan", "lan")) {
		t.Error("tables of our name in other families were taken for ours")
	}
	if after := list(); after != before {
		t.Errorf("they were\n%s\nand are\n%s", before, after)
	}
	for _, table := range foreign {
		home.Run("nft", "delete table "+table)
	}
}
