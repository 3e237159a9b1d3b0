package firewall

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/portmap"
)

const (
	tableName = "cloudlink"
	loopback  = "lo"
)

// A chain is one of ours, with its rules.
type chain struct {
	name     string
	hook     nftables.ChainHook
	priority nftables.ChainPriority
	policy   nftables.ChainPolicy
	rules    []rule
}

// A rule counts what it matches. Its comment names the counter.
type rule struct {
	comment string
	exprs   []expr.Any
}

// Bounds a second. A ping a second is one person; the rest is room for tools. The responder gives each
// host its share (package mdns): what is dropped here is dropped of all alike, and only what would cost
// too much to read.
const (
	echoes      = 50 // of each IP version
	tooBig      = 50 // words about the way's packet size, of each IP version
	mdnsPackets = 30000
	adverts     = 20 // the kernel makes a route of each prefix in a flood, without end
)

// rules returns the whole table for p.
func rules(p Policy) []chain {
	input := []rule{
		// Voice: one look, whatever else stands below.
		{"voice and other answers", match(udp(), state(expr.CtStateBitESTABLISHED), accept)},
		{"the gateway itself", match(from(loopback), accept)},
		// The page's connections are not tracked (below): these belong to nothing known, and the kernel
		// looks for itself whether they are about something that it sent.
		{"packet too big", match(ipv4(), icmp4(3), limit(tooBig), accept)},
		{"packet too big", match(ipv6(), icmp6(2, 2), limit(tooBig), accept)},
		{"broken", match(state(expr.CtStateBitINVALID), drop)},
		// Nothing of ourselves comes from outside. What we send to ourselves is not tracked (below):
		// so nobody can pass for a part of such a connection either.
		{"own source from outside", match(ownSource(), drop)},
		{"loopback source from outside", match(ipv4(), network(12, []byte{127}), drop)},
		{"loopback destination from outside", match(ipv4(), network(16, []byte{127}), drop)},
		// Echo requests that follow an answered one are established: limited before those are let in.
		{"ping", match(ipv4(), icmp4(8), limit(echoes), accept)},
		{"ping", match(ipv6(), icmp6(128, 128), limit(echoes), accept)},
		{"ping flood", match(ipv4(), icmp4(8), drop)},
		{"ping flood", match(ipv6(), icmp6(128, 128), drop)},
		{"answers", match(state(expr.CtStateBitESTABLISHED), accept)},
		{"errors about what we sent", match(state(expr.CtStateBitRELATED), accept)},
	}
	for _, row := range portmap.Table {
		if row.Direction == portmap.Inside {
			input = append(input,
				rule{"internal " + row.Ports.String(), match(tcp(), to(row.Ports), drop)},
				rule{"internal " + row.Ports.String(), match(udp(), to(row.Ports), drop)},
			)
		}
	}
	// RFC 4890 §4.4.1: what IPv6 cannot live without. Neighbours' and routers' words come from this
	// very link: nobody can forge the hop limit from farther away. Redirects are not listened to.
	const router, multicast = 134, 143
	input = append(input,
		rule{"neighbours", match(ipv6(), icmp6(135, 136), hopLimit(255), accept)},
		rule{"routers", match(ipv6(), icmp6(router, router), hopLimit(255), sourceOnLink(), limit(adverts), accept)},
		rule{"multicast listeners", match(ipv6(), icmp6(130, 132), sourceOnLink(), accept)},
		rule{"multicast listeners", match(ipv6(), icmp6(multicast, multicast), sourceOnLink(), accept)},
	)
	for _, port := range p.Ports {
		input = append(input, port.rules()...)
	}
	input = append(input, rule{"everything else", match(drop)})

	const raw, filter = -300, 0
	page, mdns := portmap.Find("portal").Ports, portmap.Find("mdns").Ports
	return []chain{
		{"prerouting", unix.NF_INET_PRE_ROUTING, raw, nftables.ChainPolicyAccept, []rule{
			{"the gateway itself", match(from(loopback), untracked)},
			// What anybody may send at will must not fill the table that calls need: sixty forged
			// connections a second would. The kernel's SYN cookies and the portal bound these.
			{"the page", match(tcp(), to(page), untracked)},
			{"mdns", match(udp(), to(mdns), untracked)},
		}},
		{"output", unix.NF_INET_LOCAL_OUT, raw, nftables.ChainPolicyAccept, []rule{
			{"the gateway itself", match(out(loopback), untracked)},
			{"the page", match(tcp(), by(page), untracked)},
			{"mdns", match(udp(), by(mdns), untracked)},
		}},
		{"input", unix.NF_INET_LOCAL_IN, filter, nftables.ChainPolicyDrop, input},
		{"forward", unix.NF_INET_FORWARD, filter, nftables.ChainPolicyDrop, []rule{
			{"everything", match(drop)},
		}},
	}
}

// rules returns what port lets in.
func (p Port) rules() []rule {
	var list []rule
	offer := func(id string, parts ...[]expr.Any) {
		if p.offers(id) {
			list = append(list, rule{p.Link + ": " + id, match(append([][]expr.Any{from(p.Link)}, parts...)...)})
		}
	}
	ports := func(id string) []expr.Any { return to(portmap.Find(id).Ports) }
	offer("portal", tcp(), ports("portal"), accept)
	offer("rtp", udp(), ports("rtp"), accept)
	offer("mdns", udp(), ports("mdns"), limit(mdnsPackets), accept)
	// The switch's question who listens to a group: unanswered, it stops sending us mDNS.
	offer("mdns", ipv4(), protocol(unix.IPPROTO_IGMP), accept)
	offer("dhcp", ipv4(), udp(), ports("dhcp"), accept)
	// A server answers a question to a group, so the answer is nobody's: only to our own link's address.
	offer("dhcpv6", ipv6(), destinationOnLink(), udp(), ports("dhcpv6"), accept)
	return list
}

// match returns one rule's expressions, its counter before the verdict, which is the last part.
func match(parts ...[]expr.Any) []expr.Any {
	var list []expr.Any
	for i, part := range parts {
		if i == len(parts)-1 {
			list = append(list, &expr.Counter{})
		}
		list = append(list, part...)
	}
	return list
}

// Verdicts.
var (
	accept    = []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}
	drop      = []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}
	untracked = []expr.Any{&expr.Notrack{}}
)

const register = unix.NFT_REG_1

func equal(data []byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: data}
}

func between(low, high []byte) expr.Any {
	return &expr.Range{Op: expr.CmpOpEq, Register: register, FromData: low, ToData: high}
}

func meta(key expr.MetaKey, value []byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: register}, equal(value)}
}

// name is a link's as the kernel compares it.
func name(link string) []byte { return append([]byte(link), make([]byte, unix.IFNAMSIZ-len(link))...) }

func from(link string) []expr.Any { return meta(expr.MetaKeyIIFNAME, name(link)) }
func out(link string) []expr.Any  { return meta(expr.MetaKeyOIFNAME, name(link)) }

func ipv4() []expr.Any                { return meta(expr.MetaKeyNFPROTO, []byte{unix.NFPROTO_IPV4}) }
func ipv6() []expr.Any                { return meta(expr.MetaKeyNFPROTO, []byte{unix.NFPROTO_IPV6}) }
func protocol(number byte) []expr.Any { return meta(expr.MetaKeyL4PROTO, []byte{number}) }
func tcp() []expr.Any                 { return protocol(unix.IPPROTO_TCP) }
func udp() []expr.Any                 { return protocol(unix.IPPROTO_UDP) }
func icmp4(kind byte) []expr.Any {
	return append(protocol(unix.IPPROTO_ICMP), transport(0, []byte{kind})...)
}
func hopLimit(limit byte) []expr.Any { return network(7, []byte{limit}) }
func destinationOnLink() []expr.Any  { return addressOnLink(24) }
func sourceOnLink() []expr.Any       { return addressOnLink(8) }

func icmp6(first, last byte) []expr.Any {
	if first == last {
		return append(protocol(unix.IPPROTO_ICMPV6), transport(0, []byte{first})...)
	}
	return append(protocol(unix.IPPROTO_ICMPV6),
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Len: 1},
		between([]byte{first}, []byte{last}))
}

// state matches packets that are in this state and no other.
func state(bit uint32) []expr.Any {
	return []expr.Any{&expr.Ct{Key: expr.CtKeySTATE, Register: register}, equal(binaryutil.NativeEndian.PutUint32(bit))}
}

// ownSource matches packets whose source is one of our addresses.
func ownSource() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: register, ResultADDRTYPE: true, FlagSADDR: true},
		equal(binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)),
	}
}

// limit matches no more than so many packets a second, and as many at once.
func limit(rate uint32) []expr.Any {
	return []expr.Any{&expr.Limit{Type: expr.LimitTypePkts, Rate: uint64(rate), Unit: expr.LimitTimeSecond, Burst: rate}}
}

// network matches bytes of the IP header.
func network(offset uint32, data []byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(len(data))},
		equal(data),
	}
}

// transport matches bytes of the header above IP's.
func transport(offset uint32, data []byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: uint32(len(data))},
		equal(data),
	}
}

// addressOnLink matches an address of fe80::/10 at offset of the IPv6 header.
func addressOnLink(offset uint32) []expr.Any {
	first, last := netip.MustParseAddr("fe80::").As16(), netip.MustParseAddr("febf::").As16()
	return []expr.Any{
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 2},
		between(first[:2], last[:2]),
	}
}

// by matches source ports, to matches destination ports.
func by(p portmap.Ports) []expr.Any { return atPort(0, p) }
func to(p portmap.Ports) []expr.Any { return atPort(2, p) }

func atPort(offset uint32, p portmap.Ports) []expr.Any {
	if p.From == p.To {
		return transport(offset, binaryutil.BigEndian.PutUint16(p.From))
	}
	return []expr.Any{
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2},
		between(binaryutil.BigEndian.PutUint16(p.From), binaryutil.BigEndian.PutUint16(p.To)),
	}
}
