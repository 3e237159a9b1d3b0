package portmap

import (
	"encoding/json"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestM10_TheReadmeShowsThisTable(t *testing.T) {
	have, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	want, err := Replace(have)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != string(want) {
		t.Error("README.md shows another table: run go generate ./internal/portmap")
	}
}

func TestMarksOfTheTableAreAskedForWhereTheyAreMissing(t *testing.T) {
	for _, file := range []string{"", Begin + "\n", End + "\n", End + "\n" + Begin + "\n"} {
		if _, err := Replace([]byte(file)); err == nil || !strings.Contains(err.Error(), Begin) {
			t.Errorf("file %q: error is %v, want one that names the marks", file, err)
		}
	}
}

func TestRequirementsStandInTheTable(t *testing.T) {
	type line struct {
		requirement string
		direction   Direction
		protocol    Protocol
		ports       string
		opened      Opening
	}
	want := []line{
		{"M11", Out, UDP, "123", ""},
		{"M12", Out, TCP, "443", ""},
		{"M13, M14", Out, TCP, "5061", ""},
		{"M13, M14", Out, TCP, "5061", ""},
		{"M13, M14", Out, TCP, "5061", ""},
		{"M15", Out, UDP, "3478-3479", ""},
		{"M16-M18", In, UDP, "65336-65534", HolePunching},
		{"M16-M18", In, UDP, "65336-65534", Static},
		{"M19", Inside, TCP, "5070-5071", ""},
		{"M19", Inside, TCP, "5080-5081", ""},
		{"M19", Inside, TCP, "19060-19061", ""},
	}
	var have []line
	var regions []Region
	for _, r := range Table {
		if strings.HasPrefix(r.Requirement, "M1") {
			have = append(have, line{r.Requirement, r.Direction, r.Protocol, r.Ports.String(), r.Opened})
		}
		if r.Region != "" {
			regions = append(regions, r.Region)
		}
	}
	if !slices.Equal(have, want) {
		t.Errorf("the table has\n%v\nwant\n%v", have, want)
	}
	if !slices.Equal(regions, []Region{US, EU, AP}) {
		t.Errorf("regions of the media services are %v", regions)
	}
}

func TestM19_InternalPortsAreTheseSixOnly(t *testing.T) {
	var have []int
	for port := range 1 << 16 {
		if Internal(uint16(port)) {
			have = append(have, port)
		}
	}
	if want := []int{5070, 5071, 5080, 5081, 19060, 19061}; !slices.Equal(have, want) {
		t.Errorf("internal ports are %v, want %v", have, want)
	}
}

func TestEveryRowIsCompleteInBothLanguages(t *testing.T) {
	seen := map[string]bool{}
	full := func(where string, text Text) {
		if text.DE == "" || text.EN == "" {
			t.Errorf("%s: text is %+v, want German and English", where, text)
		}
	}
	for _, r := range Table {
		if r.ID == "" || seen[r.ID] {
			t.Errorf("row %q: its ID is empty or there twice", r.ID)
		}
		seen[r.ID] = true
		full(r.ID+" peer", r.Peer)
		full(r.ID+" purpose", r.Purpose)
		full(r.ID+" needs", r.Needs.Text())
		full(r.ID+" direction", r.Direction.Text())
		if (r.Direction == In) != (r.Opened != "") {
			t.Errorf("%s: direction %s, opened %q", r.ID, r.Direction, r.Opened)
		}
		if r.Opened != "" {
			full(r.ID+" opened", r.Opened.Text())
		}
		if (r.Protocol == ICMP) != (r.Ports == Ports{}) || r.Ports.From > r.Ports.To {
			t.Errorf("%s: ports are %v", r.ID, r.Ports)
		}
		if Find(r.ID).ID != r.ID {
			t.Errorf("%s is not found", r.ID)
		}
	}
	for _, s := range []State{Open, Blocked, Unknown} {
		full(string(s), s.Text())
	}
}

func TestM10_RowsGoToTheAPIAndComeBack(t *testing.T) {
	b, err := json.Marshal(Table)
	if err != nil {
		t.Fatal(err)
	}
	var back []Row
	if err := json.Unmarshal(b, &back); err != nil || !reflect.DeepEqual(back, Table) {
		t.Errorf("came back as %+v, %v", back, err)
	}
	for _, key := range []string{`"id":"rtp"`, `"requirement":"M16-M18"`, `"ports":{"from":65336,"to":65534}`, `"opened":"hole-punching"`, `"peer":{"de":"Mediendienste","en":"media services"}`, `"region":"eu"`} {
		if !strings.Contains(string(b), key) {
			t.Errorf("JSON lacks %s:\n%s", key, b)
		}
	}
}
