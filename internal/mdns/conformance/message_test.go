package conformance

import (
	"reflect"
	"testing"
)

// FuzzParse reads anything, and what it has read it writes and reads again.
func FuzzParse(f *testing.F) {
	f.Add(message{
		id: 1, flags: flagResponse, questions: []question{qu("cloudlink.local", typeANY)},
		answers:     []record{srv(`a\.b._http._tcp.local`, 80, "cloudlink.local", 120).flushing(), ptr("_http._tcp.local", `a\.b._http._tcp.local`, 4500)},
		additionals: []record{{"cloudlink.local", typeNSEC, classIN, 120, append(appendName(nil, "cloudlink.local"), 0, 1, 0x40)}},
	}.bytes())
	f.Add(append(inClass(appendName(header(0, 2, 0), "a.local"), typeA), 0xc0, 14, 0, 1, 0, 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parse(b)
		if err != nil {
			return
		}
		_ = m.String()
		again, err := parse(m.bytes())
		if err != nil || !reflect.DeepEqual(m, again) {
			t.Errorf("%v\nis read as (%v)\n%v", m, err, again)
		}
	})
}
