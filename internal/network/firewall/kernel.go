package firewall

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// patience is how long the kernel may take to do what it is told: it does so before send returns.
const patience = 10 * time.Second

// write replaces the rules of our table by those of want in one transaction. Where our chains are not
// sound, it makes the whole table anew; else the chains stay, so that no packet passes between.
func write(want []chain, sound bool) error {
	conn, err := nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error {
		// The kernel says every rule back before we read. The library counts what comes back, and would
		// wait for ever for what the kernel had no memory to say.
		return errors.Join(c.SetReadBuffer(1<<20), c.SetDeadline(time.Now().Add(patience)))
	}))
	if err != nil {
		return err
	}
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: tableName}
	if sound {
		conn.FlushTable(table)
	} else {
		conn.AddTable(table) // or there is none to delete
		conn.DelTable(table)
		conn.AddTable(table)
	}
	for _, c := range want {
		chain := &nftables.Chain{
			Table: table, Name: c.name, Type: nftables.ChainTypeFilter,
			Hooknum: &c.hook, Priority: &c.priority, Policy: &c.policy,
		}
		if !sound {
			conn.AddChain(chain)
		}
		for _, r := range c.rules {
			conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: r.exprs, UserData: comment(r.comment)})
		}
	}
	return conn.Flush()
}

// comment is what nft(8) shows beside the rule.
func comment(text string) []byte { return userdata.AppendString(nil, userdata.TypeComment, text) }

// A table is what the kernel holds under our name.
type table struct {
	exists bool
	flags  uint32
	others int // sets, objects, flow tables: we have none
	chains map[string]held
	counts map[string]uint64 // packets, by the rules' comments
}

// A held chain is as the kernel holds it. Rules are in the form of canonical.
type held struct {
	hook     uint32
	priority uint32
	policy   uint32
	kind     string
	flags    uint32
	rules    []string
}

// What x/sys/unix lacks.
const (
	chainFlags     = 10 // NFTA_CHAIN_FLAGS
	chainIsBase    = 1  // NFT_CHAIN_BASE
	flowtableTable = 1  // NFTA_FLOWTABLE_TABLE
)

// sound says whether table and chains are ours to the point that only rules may have to be replaced.
func (t table) sound() bool {
	return t.exists && t.shape(rules(Policy{})) == ""
}

// shape says in what, but the rules, t differs from want.
func (t table) shape(want []chain) string {
	switch {
	case !t.exists:
		return "there is no table"
	case t.flags != 0:
		return fmt.Sprintf("the table's flags are %#x", t.flags)
	case t.others != 0:
		return fmt.Sprintf("%d sets, objects or flow tables are not ours", t.others)
	case len(t.chains) != len(want):
		return fmt.Sprintf("%d chains, not %d", len(t.chains), len(want))
	}
	for _, c := range want {
		h, ok := t.chains[c.name]
		if !ok || h.kind != string(nftables.ChainTypeFilter) || h.hook != uint32(c.hook) ||
			int32(h.priority) != int32(c.priority) || h.policy != policyVerdict(c.policy) || h.flags&^chainIsBase != 0 {
			return "chain " + c.name + " is missing or changed"
		}
	}
	return ""
}

func policyVerdict(p nftables.ChainPolicy) uint32 {
	if p == nftables.ChainPolicyAccept {
		return 1 // NF_ACCEPT
	}
	return 0
}

// differs says in what t differs from want; empty: in nothing.
func (t table) differs(want []chain) string {
	if difference := t.shape(want); difference != "" {
		return difference
	}
	for _, c := range want {
		have := t.chains[c.name].rules
		if len(have) != len(c.rules) {
			return fmt.Sprintf("chain %s has %d rules, not %d", c.name, len(have), len(c.rules))
		}
		for i, r := range c.rules {
			text, err := canonicalRule(r)
			if err != nil {
				return err.Error() // never so: the tests marshal all
			}
			if have[i] != text {
				return fmt.Sprintf("chain %s, rule %d (%s): %s, not %s", c.name, i+1, r.comment, have[i], text)
			}
		}
	}
	return ""
}

// canonicalRule returns r as it will be read back.
func canonicalRule(r rule) (string, error) {
	list := make([][]byte, len(r.exprs))
	for i, e := range r.exprs {
		b, err := expr.Marshal(unix.NFPROTO_INET, e)
		if err != nil {
			return "", fmt.Errorf("rule %s: %w", r.comment, err)
		}
		list[i] = b
	}
	return canonical(comment(r.comment), list)
}

// canonical returns a rule's comment and expressions as text in which equal rules are equal: the
// attributes in order, without the counters' values. It knows no expression, so that it overlooks none.
func canonical(comment []byte, exprs [][]byte) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "%q", comment)
	for _, e := range exprs {
		attrs, err := attributes(e)
		if err != nil {
			return "", err
		}
		name := text(attrs[unix.NFTA_EXPR_NAME])
		fmt.Fprintf(&b, " %s", name)
		if name == "counter" {
			continue
		}
		if err := canonicalAttributes(&b, attrs[unix.NFTA_EXPR_DATA], nested[name]); err != nil {
			return "", err
		}
	}
	return b.String(), nil
}

// counted returns how many packets a rule's counter has seen.
func counted(exprs [][]byte) (packets uint64, err error) {
	for _, e := range exprs {
		attrs, err := attributes(e)
		if err != nil {
			return 0, err
		}
		if text(attrs[unix.NFTA_EXPR_NAME]) != "counter" {
			continue
		}
		counter, err := attributes(attrs[unix.NFTA_EXPR_DATA])
		if err != nil {
			return 0, err
		}
		if n := counter[unix.NFTA_COUNTER_PACKETS]; len(n) == 8 {
			packets += binary.BigEndian.Uint64(n)
		}
	}
	return packets, nil
}

// A nesting says which attributes hold attributes: the kernel does not.
type nesting map[uint16]nesting

var (
	nested = map[string]nesting{
		"cmp":       {unix.NFTA_CMP_DATA: {}},
		"range":     {unix.NFTA_RANGE_FROM_DATA: {}, unix.NFTA_RANGE_TO_DATA: {}},
		"immediate": {unix.NFTA_IMMEDIATE_DATA: {unix.NFTA_DATA_VERDICT: {}}},
	}
)

func canonicalAttributes(b *strings.Builder, data []byte, inner nesting) error {
	attrs, err := attributes(data)
	if err != nil {
		return err
	}
	kinds := make([]uint16, 0, len(attrs))
	for kind := range attrs {
		kinds = append(kinds, kind)
	}
	slices.Sort(kinds)
	b.WriteByte('{')
	for _, kind := range kinds {
		fmt.Fprintf(b, "%d:", kind)
		if deeper, ok := inner[kind]; ok {
			if err := canonicalAttributes(b, attrs[kind], deeper); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintf(b, "%x ", attrs[kind])
	}
	b.WriteByte('}')
	return nil
}

// attributes returns a message's attributes by their kind. Of a kind that is there twice, both
// values are kept, one after the other.
func attributes(b []byte) (map[uint16][]byte, error) {
	list, err := netlink.UnmarshalAttributes(b)
	if err != nil {
		return nil, fmt.Errorf("decode attributes: %w", err)
	}
	attrs := make(map[uint16][]byte, len(list))
	for _, a := range list {
		kind := a.Type &^ (netlink.Nested | netlink.NetByteOrder)
		attrs[kind] = append(attrs[kind], a.Data...)
	}
	return attrs, nil
}

// elements returns the values of all attributes of b, in order.
func elements(b []byte) ([][]byte, error) {
	list, err := netlink.UnmarshalAttributes(b)
	if err != nil {
		return nil, fmt.Errorf("decode list: %w", err)
	}
	data := make([][]byte, len(list))
	for i, a := range list {
		data[i] = a.Data
	}
	return data, nil
}

func text(b []byte) string { return string(bytes.TrimRight(b, "\x00")) }

// number is 0 where there is none.
func number(b []byte) uint32 {
	if len(b) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

// errInterrupted: somebody changed the rules while we read them.
var errInterrupted = errors.New("the rules changed again and again while they were read")

// read returns what the kernel holds under our name.
func read() (table, error) {
	const tries = 10
	for range tries {
		t, err := readOnce()
		if !errors.Is(err, errInterrupted) {
			return t, err
		}
	}
	return table{}, errInterrupted
}

func readOnce() (table, error) {
	var t table
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return t, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return t, err
	}
	err = dump(conn, unix.NFT_MSG_GETTABLE, unix.NFTA_TABLE_NAME, func(attrs map[uint16][]byte) error {
		t.exists = true
		t.flags = number(attrs[unix.NFTA_TABLE_FLAGS])
		return nil
	})
	if err != nil || !t.exists {
		return t, err
	}
	t.chains, t.counts = map[string]held{}, map[string]uint64{}
	err = dump(conn, unix.NFT_MSG_GETCHAIN, unix.NFTA_CHAIN_TABLE, func(attrs map[uint16][]byte) error {
		hook, err := attributes(attrs[unix.NFTA_CHAIN_HOOK])
		if err != nil {
			return err
		}
		t.chains[text(attrs[unix.NFTA_CHAIN_NAME])] = held{
			hook:     number(hook[unix.NFTA_HOOK_HOOKNUM]),
			priority: number(hook[unix.NFTA_HOOK_PRIORITY]),
			policy:   number(attrs[unix.NFTA_CHAIN_POLICY]),
			kind:     text(attrs[unix.NFTA_CHAIN_TYPE]),
			flags:    number(attrs[chainFlags]),
		}
		return nil
	})
	if err != nil {
		return t, err
	}
	for _, other := range []struct {
		call uint16
		name uint16
	}{
		{unix.NFT_MSG_GETSET, unix.NFTA_SET_TABLE},
		{unix.NFT_MSG_GETOBJ, unix.NFTA_OBJ_TABLE},
		{unix.NFT_MSG_GETFLOWTABLE, flowtableTable},
	} {
		err := dump(conn, other.call, other.name, func(map[uint16][]byte) error { t.others++; return nil })
		if err != nil {
			return t, err
		}
	}
	return t, dump(conn, unix.NFT_MSG_GETRULE, unix.NFTA_RULE_TABLE, func(attrs map[uint16][]byte) error {
		exprs, err := elements(attrs[unix.NFTA_RULE_EXPRESSIONS])
		if err != nil {
			return err
		}
		rule, err := canonical(attrs[unix.NFTA_RULE_USERDATA], exprs)
		if err != nil {
			return err
		}
		packets, err := counted(exprs)
		if err != nil {
			return err
		}
		said, _ := userdata.GetString(attrs[unix.NFTA_RULE_USERDATA], userdata.TypeComment)
		t.counts[said] += packets
		name := text(attrs[unix.NFTA_RULE_CHAIN])
		c := t.chains[name]
		c.rules = append(c.rules, rule)
		t.chains[name] = c
		return nil
	})
}

// dump asks for all things of a kind and calls found for those of our table, which attribute table names.
func dump(conn *netlink.Conn, call, table uint16, found func(attrs map[uint16][]byte) error) error {
	head := []byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}
	ours := netlink.Attribute{Type: table, Data: []byte(tableName + "\x00")}
	filter, err := netlink.MarshalAttributes([]netlink.Attribute{ours})
	if err != nil {
		return err
	}
	replies, err := conn.Execute(netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | call),
			Flags: netlink.Request | netlink.Dump,
		},
		Data: append(head, filter...),
	})
	if err != nil {
		return err
	}
	for _, r := range replies {
		if r.Header.Flags&netlink.DumpInterrupted != 0 {
			return errInterrupted
		}
		if len(r.Data) < len(head) || r.Data[0] != unix.NFPROTO_INET {
			continue
		}
		attrs, err := attributes(r.Data[len(head):])
		if err != nil {
			return err
		}
		if text(attrs[table]) != tableName {
			continue
		}
		if err := found(attrs); err != nil {
			return err
		}
	}
	return nil
}
