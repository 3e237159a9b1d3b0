package wire

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// unhex reads bytes as people write them; text in quotes stands for itself.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	var b []byte
	for i, part := range strings.Split(s, `"`) {
		if i%2 == 1 {
			b = append(b, part...)
			continue
		}
		raw, err := hex.DecodeString(strings.Join(strings.Fields(part), ""))
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, raw...)
	}
	return b
}

func must(name string, err error) string {
	if err != nil {
		panic(err)
	}
	return name
}

// A packet of macOS: QU, a known answer with a compressed name in its data.
func TestParsesAQuestionWithAKnownAnswer(t *testing.T) {
	m, err := Parse(unhex(t, `0000 0200 0001 0001 0000 0000
		05"_http" 04"_tcp" 05"local" 00 000c 8001
		c00c 000c 0001 00001194 0008 05"A.b" c3a4 c00c`))
	if err != nil {
		t.Fatal(err)
	}
	want := &Message{
		Truncated: true,
		Questions: []Question{{Name: "_http._tcp.local.", Type: PTR, Class: IN, Unicast: true}},
		Answers: []Record{{Name: "_http._tcp.local.", Type: PTR, Class: IN, TTL: 4500,
			Data: "\x05A.b\xc3\xa4\x05_http\x04_tcp\x05local\x00"}},
	}
	if !reflect.DeepEqual(m, want) {
		t.Errorf("read %+v\nwant %+v", m, want)
	}
	if target := m.Answers[0].Target(); target != `A\.b\195\164._http._tcp.local.` {
		t.Errorf("target is %s", target)
	}
}

func TestWritesByteForByte(t *testing.T) {
	host := must(Name("cloudlink", "local"))
	instance := must(Name("CloudLink Gateway (11af)", "_http", "_tcp", "local"))
	typ, data := HostData(netip.MustParseAddr("192.0.2.1"))
	srv := Record{Name: instance, Type: SRV, Class: IN, Flush: true, TTL: 120, Data: SRVData(80, host)}
	write := func(w *Writer) []byte {
		if !w.Question(Question{Name: host, Type: ANY, Class: IN, Unicast: true}) ||
			!w.Answers(Record{Name: host, Type: typ, Class: IN, Flush: true, TTL: 120, Data: data}, srv) ||
			!w.Additional(Record{Name: host, Type: NSEC, Class: IN, Flush: true, TTL: 120, Data: NSECData(host, A, AAAA)}) {
			t.Fatal("does not fit")
		}
		return w.Bytes()
	}
	for _, test := range []struct {
		name string
		got  []byte
		want string
	}{
		{"response", write(NewResponse(512, 0)), `0000 8400 0001 0002 0000 0001
			09"cloudlink" 05"local" 00 00ff 8001
			c00c 0001 8001 00000078 0004 c0000201
			18"CloudLink Gateway (11af)" 05"_http" 04"_tcp" c016 0021 8001 00000078 0008 0000 0000 0050 c00c
			c00c 002f 8001 00000078 0008 c00c 0004 40000008`},
		{"legacy", func() []byte { w := NewResponse(512, 0x1234); w.Legacy = true; return write(w) }(), `1234 8400 0001 0002 0000 0001
			09"cloudlink" 05"local" 00 00ff 8001
			c00c 0001 0001 00000078 0004 c0000201
			18"CloudLink Gateway (11af)" 05"_http" 04"_tcp" c016 0021 0001 00000078 0017 0000 0000 0050 09"cloudlink" 05"local" 00
			c00c 002f 0001 00000078 0008 c00c 0004 40000008`},
	} {
		if want := unhex(t, test.want); !bytes.Equal(test.got, want) {
			t.Errorf("%s:\n%x\nwant\n%x", test.name, test.got, want)
		}
	}
}

// RFC 6762 §18.3, §18.11: both are zero, or the packet is ignored.
func TestRFC6762_18_OpcodeAndRcode(t *testing.T) {
	for _, flags := range []string{"0800", "7800", "0001", "8403"} {
		if _, err := Parse(unhex(t, "0000"+flags+"0000 0000 0000 0000")); err != ErrForeign {
			t.Errorf("flags %s: %v, want %v", flags, err, ErrForeign)
		}
	}
	// The other bits say nothing (§18.5-§18.10): TC, RD, RA, Z, AD, CD, AA in a query.
	if _, err := Parse(unhex(t, "0000 07f0 0000 0000 0000 0000")); err != nil {
		t.Error(err)
	}
}

func TestRefusesWhatIsBroken(t *testing.T) {
	for name, packet := range map[string]string{
		"empty":                     ``,
		"half a header":             `0000 0000 0001`,
		"no question":               `0000 0000 0001 0000 0000 0000`,
		"pointer to itself":         `0000 0000 0001 0000 0000 0000 c00c 0001 0001`,
		"pointers in a circle":      `0000 0000 0001 0000 0000 0000 c00e c00c 0001 0001`,
		"label loop":                `0000 0000 0001 0000 0000 0000 01"a" c00c 0001 0001`,
		"pointer past the end":      `0000 0000 0001 0000 0000 0000 cfff 0001 0001`,
		"label past the end":        `0000 0000 0001 0000 0000 0000 3f"a"`,
		"reserved label type 40":    `0000 0000 0001 0000 0000 0000 41"a" 00 0001 0001`,
		"reserved label type 80":    `0000 0000 0001 0000 0000 0000 81"a" 00 0001 0001`,
		"name without an end":       `0000 0000 0001 0000 0000 0000 01"a"`,
		"question cut off":          `0000 0000 0001 0000 0000 0000 01"a" 00 0001 00`,
		"record cut off":            `0000 8400 0000 0001 0000 0000 01"a" 00 0001 0001 0000`,
		"data past the end":         `0000 8400 0000 0001 0000 0000 01"a" 00 0001 0001 00000078 0005 01020304`,
		"SRV of five bytes":         `0000 8400 0000 0001 0000 0000 01"a" 00 0021 0001 00000078 0005 0102030405`,
		"PTR beyond its data":       `0000 8400 0000 0001 0000 0000 01"a" 00 000c 0001 00000078 0002 01"b" 00`,
		"empty PTR":                 `0000 8400 0000 0001 0000 0000 01"a" 00 000c 0001 00000078 0000`,
		"more records than it says": `0000 8400 0000 ffff 0000 0000`,
		"name of 256 bytes":         `0000 0000 0001 0000 0000 0000` + strings.Repeat(`3f`+strings.Repeat("61", 63), 4) + `00 0001 0001`,
	} {
		if m, err := Parse(unhex(t, packet)); err == nil {
			t.Errorf("%s: read as %+v", name, m)
		}
	}
}

// What does not fit leaves no trace: neither in the packet, nor for a later pointer to go to.
func TestWriterAddsAllOrNothing(t *testing.T) {
	host := must(Name("cloudlink", "local"))
	long := must(Name(strings.Repeat("x", 60), "example", "local"))
	w := NewResponse(12+2*(17+14), 0)
	a := Record{Name: host, Type: A, Class: IN, TTL: 120, Data: "\x01\x02\x03\x04"}
	if !w.Answers(a) {
		t.Fatal("the first record does not fit")
	}
	before := slices.Clone(w.Bytes())
	b := a
	b.Name = long
	if w.Answers(a, b) {
		t.Fatal("a long name fits")
	}
	if !bytes.Equal(w.Bytes(), before) {
		t.Errorf("packet is now %x, was %x", w.Bytes(), before)
	}
	c := a
	c.Name = must(Name("example", "local"))
	if !w.Answers(c) {
		t.Fatal("the second record does not fit")
	}
	m, err := Parse(w.Bytes())
	if err != nil || len(m.Answers) != 2 || m.Answers[1].Name != "example.local." {
		t.Errorf("read back %+v, %v", m, err)
	}
}

func TestNames(t *testing.T) {
	for _, labels := range [][]string{{""}, {"a", ""}, {strings.Repeat("a", 64)}, {strings.Repeat("a", 63), strings.Repeat("b", 63), strings.Repeat("c", 63), strings.Repeat("d", 63)}} {
		if name, err := Name(labels...); err == nil {
			t.Errorf("labels %q make the name %s", labels, name)
		}
	}
	if Fold(must(Name("ÄcLoUd.Link", "LOCAL"))) != Fold(must(Name("Äcloud.link", "local"))) {
		t.Error("names that differ in case are different")
	}
	if Fold(must(Name("Ä"))) == Fold(must(Name("ä"))) { // §16: only ASCII letters
		t.Error("Ä and ä are the same")
	}
	for addr, want := range map[string]string{
		"192.0.2.1":   "1.2.0.192.in-addr.arpa.",
		"2001:db8::1": "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.",
	} {
		if got := ReverseName(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %s, want %s", addr, got, want)
		}
	}
	if got := Text(must(Name("Büro 1.5", "_http\x1b\xff"))); got != "Büro 1.5._http" {
		t.Errorf("as people write it: %q", got)
	}
	if got := TXTData(nil); got != "\x00" {
		t.Errorf("no text is %q", got)
	}
}

// The whole library reads what we write as we meant it.
func TestTheLibraryReadsOurs(t *testing.T) {
	host, instance := must(Name("cloudlink", "local")), must(Name("Größe 1.5 (a)", "_http", "_tcp", "local"))
	w := NewResponse(1472, 7)
	w.Answers(
		Record{Name: instance, Type: SRV, Class: IN, TTL: 120, Data: SRVData(8080, host)},
		Record{Name: instance, Type: TXT, Class: IN, TTL: 4500, Data: TXTData([]string{"path=/", "v=1"})},
		Record{Name: "_http._tcp.local.", Type: PTR, Class: IN, TTL: 4500, Data: PTRData(instance)},
		Record{Name: instance, Type: NSEC, Class: IN, TTL: 120, Data: NSECData(instance, TXT, SRV)})
	var m dns.Msg
	if err := m.Unpack(w.Bytes()); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{
		instance + "\t120\tIN\tSRV\t0 0 8080 cloudlink.local.",
		instance + "\t4500\tIN\tTXT\t\"path=/\" \"v=1\"",
		"_http._tcp.local.\t4500\tIN\tPTR\t" + instance,
		instance + "\t120\tIN\tNSEC\t" + instance + " TXT SRV",
	} {
		if got := m.Answer[i].String(); got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
}

// FuzzParse: whatever comes is read or refused, what is read can be written, and is the same when
// read again.
func FuzzParse(f *testing.F) {
	f.Add(unhex(f, `0000 0000 0001 0000 0000 0000 09"cloudlink" 05"local" 00 0001 0001`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if err != nil {
			return
		}
		w := NewQuery(1 << 20)
		if m.Response {
			w = NewResponse(1<<20, m.ID)
		}
		for _, q := range m.Questions {
			w.Question(q)
		}
		if !w.Answers(m.Answers...) || !w.Authority(m.Authority...) || !w.Additional(m.Additional...) {
			t.Fatalf("cannot write %+v", m)
		}
		again, err := Parse(w.Bytes())
		if err != nil {
			t.Fatalf("cannot read again %x: %v", w.Bytes(), err)
		}
		again.Truncated, again.ID = m.Truncated, m.ID
		if !reflect.DeepEqual(m, again) {
			t.Errorf("read %+v\nagain %+v", m, again)
		}
		for _, r := range slices.Concat(m.Answers, m.Authority, m.Additional) {
			r.Target()
			r.Addr()
		}
	})
}
