package portmap

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A State is what SelfTest found out about a row.
type State string

// The states. Unknown is an honest answer: what cannot be checked from here is not guessed.
const (
	Open    State = "open"
	Blocked State = "blocked"
	Unknown State = "unknown"
)

// A Result is a row and what was found out about it.
type Result struct {
	Row
	State  State `json:"state"`
	Good   bool  `json:"good"`   // as it should be; false for Unknown
	Detail Text  `json:"detail"` // how we know, or why we do not
}

// Targets are whom SelfTest asks. What is empty is not known: its rows are unknown.
type Targets struct {
	NTP      []string            // hosts
	Accounts []string            // hosts
	Media    map[Region][]string // hosts
	STUN     []string            // hosts
	Own      []netip.Addr        // the gateway's own addresses on its ports
	Firewall func() error        // nil error: our rules stand; nil function: not known
}

// A Dialer opens connections to others, as net.Dialer does; those of UDP come from port local where
// it is not 0.
type Dialer interface {
	Dial(ctx context.Context, network, address string, local uint16) (net.Conn, error)
}

// Net is the Dialer of this machine.
type Net struct{}

// Dial connects to address.
func (Net) Dial(ctx context.Context, network, address string, local uint16) (net.Conn, error) {
	var d net.Dialer
	if local != 0 {
		d.LocalAddr = &net.UDPAddr{Port: int(local)}
	}
	return d.DialContext(ctx, network, address)
}

// patience is how long one question waits for its answer.
const patience = 3 * time.Second

// SelfTest checks all rows at the same time and returns their results in the table's order. It ends
// early with ctx.
func SelfTest(ctx context.Context, t Targets, d Dialer) []Result {
	results := make([]Result, len(Table))
	test := tester{ctx, t, d}
	var checks sync.WaitGroup
	for i, row := range Table {
		checks.Go(func() {
			state, detail := test.check(row)
			want := Open
			if row.Direction == Inside {
				want = Blocked
			}
			results[i] = Result{Row: row, State: state, Good: state == want, Detail: detail}
		})
	}
	checks.Wait()
	return results
}

type tester struct {
	ctx     context.Context
	targets Targets
	dialer  Dialer
}

func (t tester) check(r Row) (State, Text) {
	switch r.ID {
	case "ntp":
		return t.ask(r, t.targets.NTP, t.udp(askNTP, 0))
	case "stun":
		return t.ask(r, t.targets.STUN, t.udp(askSTUN, 0))
	case "accounts":
		return t.ask(r, t.targets.Accounts, t.connect)
	case "sip-us", "sip-eu", "sip-ap":
		return t.ask(r, t.targets.Media[r.Region], t.connect)
	case "rtp":
		return t.holePunching(r)
	}
	if r.Direction == Inside {
		return t.inside(r)
	}
	return Unknown, reasons[r.ID]
}

// reasons say why a row cannot be checked by the gateway alone.
var reasons = map[string]Text{
	"rtp-static": {
		"Ob der Betreiber den Bereich fest geöffnet hat, kann nur ein Rechner außerhalb prüfen.",
		"Whether the operator has opened the range can only be checked by a machine outside.",
	},
	"portal": {
		"Nur ein anderer Computer im LAN kann das prüfen: wer die Seite von dort aufrufen kann, hat es getan.",
		"Only another computer in the LAN can check this: whoever can open the page from there has done so.",
	},
	"mdns": {
		"Nur ein anderer Computer im LAN kann das prüfen: rufen Sie dort http://cloudlink.local/ auf.",
		"Only another computer in the LAN can check this: open http://cloudlink.local/ there.",
	},
	"dhcp": {
		"Das zeigt sich, wenn ein Port eine Adresse von einem DHCP-Server hat.",
		"It shows in a port having an address from a DHCP server.",
	},
	"dhcpv6": {
		"Das zeigt sich, wenn ein Port eine Adresse von einem DHCPv6-Server hat.",
		"It shows in a port having an address from a DHCPv6 server.",
	},
	"ping": {
		"Nur ein anderer Computer kann das prüfen, mit dem Befehl ping.",
		"Only another computer can check this, with the command ping.",
	},
}

var (
	notYet = Text{
		"Dieser Dienst kommt mit einer späteren Version. Bis dahin ist niemand da, der gefragt werden könnte.",
		"This service comes with a later version. Until then there is nobody to ask.",
	}
	noServer = Text{
		"Es ist kein Zeitserver eingetragen, der gefragt werden könnte. Tragen Sie einen ein.",
		"No time server is entered that could be asked. Enter one.",
	}
)

// Evidence is what somebody else than SelfTest knows about the rows that it leaves Unknown.
type Evidence struct {
	DHCP, DHCPv6 netip.Prefix // an address that such a server has given, if any
	Visitor      netip.Addr   // whose request came over the portal's port, if anyone's
}

// With returns results with what e proves.
func With(results []Result, e Evidence) []Result {
	proved := map[string]Text{}
	if e.DHCP.IsValid() {
		proved["dhcp"] = say("Ein DHCP-Server hat die Adresse %s zugeteilt.", "A DHCP server has given the address %s.", e.DHCP)
	}
	if e.DHCPv6.IsValid() {
		proved["dhcpv6"] = say("Ein DHCPv6-Server hat die Adresse %s zugeteilt.", "A DHCPv6 server has given the address %s.", e.DHCPv6)
	}
	if e.Visitor.IsValid() && !e.Visitor.Unmap().IsLoopback() {
		proved["portal"] = say("Ihre Anfrage von %s kam über diesen Port.", "Your request from %s came over this port.", e.Visitor)
	}
	list := append([]Result{}, results...)
	for i, r := range list {
		if detail, ok := proved[r.ID]; ok && r.State == Unknown {
			list[i].State, list[i].Good, list[i].Detail = Open, true, detail
		}
	}
	return list
}

// ask asks every host on every port of the row. It is open once one host has answered on all of them.
func (t tester) ask(r Row, hosts []string, question func(address string) error) (State, Text) {
	state, detail := Unknown, notYet
	if r.ID == "ntp" {
		detail = noServer
	}
	for i, host := range hosts {
		s, d := t.askHost(r, host, question)
		if s == Open {
			return s, d
		}
		if i == 0 || state == Unknown { // what is known for sure is told
			state, detail = s, d
		}
	}
	return state, detail
}

func (t tester) askHost(r Row, host string, question func(address string) error) (State, Text) {
	for port := int(r.Ports.From); port <= int(r.Ports.To); port++ {
		address := net.JoinHostPort(strings.Trim(host, "[]"), strconv.Itoa(port))
		if err := question(address); err != nil {
			return t.blame(address, err)
		}
	}
	return Open, say("%s hat geantwortet.", "%s answered.", host)
}

// blame says what an error tells about the way to address.
func (t tester) blame(address string, err error) (State, Text) {
	if t.ctx.Err() != nil {
		return Unknown, Text{"Die Prüfung wurde abgebrochen.", "The check was broken off."}
	}
	var timeout net.Error
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return Unknown, say("Der Name %s ließ sich nicht auflösen. Prüfen Sie, ob er richtig geschrieben ist und ob die DNS-Server der Ethernet-Ports antworten.",
			"The name %s could not be resolved. Check its spelling, and whether the DNS servers of the Ethernet ports answer.", dns.Name)
	}
	switch {
	case errors.Is(err, errForeign):
		return Blocked, say("%s: es antwortet jemand, aber nicht der erwartete Dienst.", "%s: somebody answers, but not the expected service.", address)
	case errors.Is(err, syscall.ECONNREFUSED):
		return Blocked, say("%s: abgelehnt. Dort läuft der Dienst nicht, oder eine Firewall lehnt ab.", "%s: refused. The service does not run there, or a firewall refuses.", address)
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.EADDRNOTAVAIL):
		return Unknown, say("%s: kein Weg dorthin. Prüfen Sie Kabel, Adresse und Router der Ethernet-Ports.", "%s: no route there. Check cable, address and router of the Ethernet ports.", address)
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return Blocked, say("%s: keine Antwort in %d s. Eine Firewall auf dem Weg verwirft die Pakete, oder der Dienst ist aus.", "%s: no answer within %d s. A firewall on the way drops the packets, or the service is off.", address, int(patience/time.Second))
	}
	return Unknown, say("%s: %v", "%s: %v", address, err)
}

// connect is TCP's question.
func (t tester) connect(address string) error {
	ctx, cancel := context.WithTimeout(t.ctx, patience)
	defer cancel()
	conn, err := t.dialer.Dial(ctx, "tcp", address, 0)
	if err != nil {
		return err
	}
	return conn.Close()
}

// udp returns the question that ask puts, from port local.
func (t tester) udp(ask func(net.Conn) error, local uint16) func(address string) error {
	return func(address string) error {
		ctx, cancel := context.WithTimeout(t.ctx, patience)
		defer cancel()
		conn, err := t.dialer.Dial(ctx, "udp", address, local)
		if err != nil {
			return err
		}
		defer conn.Close()
		defer context.AfterFunc(t.ctx, func() { conn.Close() })() // ends a read
		return ask(conn)
	}
}

// holePunching sends from a port of the range: an answer that comes back is one through a hole that
// we punched.
func (t tester) holePunching(r Row) (State, Text) {
	if len(t.targets.STUN) == 0 {
		return Unknown, notYet
	}
	primary := Row{Ports: Ports{Find("stun").Ports.From, Find("stun").Ports.From}}
	const tries = 8 // a port that carries a call is left alone
	for i := range uint16(tries) {
		local := r.Ports.To - i
		busy := false
		state, detail := t.ask(primary, t.targets.STUN, func(address string) error {
			err := t.udp(askSTUN, local)(address)
			busy = errors.Is(err, syscall.EADDRINUSE)
			return err
		})
		if busy {
			continue
		}
		if state == Open {
			detail = say("Eine Antwort kam auf Port %d zurück, von dem das Gateway zuerst gesendet hatte.", "An answer came back to port %d, from which the gateway had sent first.", local)
		}
		return state, detail
	}
	return Unknown, Text{"Die Ports sind durch Gespräche belegt.", "The ports are in use by calls."}
}

// inside checks that an internal port cannot be reached from outside: nothing listens on our own
// addresses, or the firewall stands before it.
func (t tester) inside(r Row) (State, Text) {
	if len(t.targets.Own) == 0 {
		return Unknown, Text{"Kein Port hat eine Adresse.", "No port has an address."}
	}
	for _, addr := range t.targets.Own {
		for port := int(r.Ports.From); port <= int(r.Ports.To); port++ {
			address := net.JoinHostPort(addr.String(), strconv.Itoa(port))
			err := t.connect(address)
			if errors.Is(err, syscall.ECONNREFUSED) {
				continue
			}
			if err != nil {
				return t.blameInside(address, err)
			}
			switch {
			case t.targets.Firewall == nil:
				return Unknown, say("%s antwortet dem Gateway selbst; ob die Firewall davor steht, ist nicht bekannt.", "%s answers the gateway itself; whether the firewall stands before it is not known.", address)
			case t.targets.Firewall() != nil:
				return Open, say("%s antwortet, und die Firewall steht nicht davor.", "%s answers, and the firewall does not stand before it.", address)
			}
			return Blocked, say("%s antwortet nur dem Gateway selbst: die Firewall steht davor.", "%s answers the gateway itself only: the firewall stands before it.", address)
		}
	}
	return Blocked, Text{"Auf den Adressen der Ports lauscht dort niemand.", "Nobody listens there on the addresses of the ports."}
}

// blameInside: silence of our own address is no proof of a firewall.
func (t tester) blameInside(address string, err error) (State, Text) {
	if t.ctx.Err() == nil {
		return Unknown, say("%s: %v", "%s: %v", address, err)
	}
	return t.blame(address, err)
}

func say(de, en string, args ...any) Text {
	return Text{fmt.Sprintf(de, args...), fmt.Sprintf(en, args...)}
}
