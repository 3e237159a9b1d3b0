// Package condition is the one ordered list of what the gateway tells its owner (D6). Portal,
// JSON API, console and, later, LED and metrics show the same list.
package condition

import "slices"

// Severity says how much a condition asks of the owner.
type Severity string

// From "nothing to do" to "does not do its work".
const (
	Info    Severity = "info"
	Warning Severity = "warning"
	Error   Severity = "error"
)

// An ID names a kind of condition; its texts, de and en, are found by it.
type ID string

// The conditions, most pressing first.
const (
	UpdateRunning   ID = "update-running"    // M4: it explains much of what follows
	StorageFailing  ID = "storage-failing"   // reads or writes of the data partition fail
	DataMissing     ID = "data-missing"      // no data partition: settings are lost at restart
	DataReadOnly    ID = "data-read-only"    // settings cannot be saved
	DataReplaced    ID = "data-replaced"     // it was damaged: set aside and replaced by an empty one
	DataFull        ID = "data-full"         // less than the reserve is free
	ServiceFailing  ID = "service-failing"   // args: service
	UpdateError     ID = "update-error"      // M6: the newest update did not come about
	UpdateReturned  ID = "update-returned"   // M6: it did, and did not prove itself: the version before runs again; args: version
	NoNetworkPort   ID = "no-network-port"   // the kernel knows no Ethernet port
	NoLink          ID = "no-link"           // args: port; no cable, or the other end is off
	NoAddress       ID = "no-address"        // args: port; link, but no DHCP server answered
	NameTaken       ID = "name-taken"        // args: name, port, address, mac, other; another device has our name
	BootEnvRepaired ID = "boot-env-repaired" // the loader's environment block was torn or missing
	FellBack        ID = "fell-back"         // args: wanted, booted; the loader took the other slot
	WatchdogReset   ID = "watchdog-reset"    // the last run ended by the watchdog or a kernel panic
	NoWatchdog      ID = "no-watchdog"       // the board has none, or it cannot be opened
	UpdateAvailable ID = "update-available"  // M48; args: version
	ClockFloor      ID = "clock-floor"       // the clock is only known to be no earlier than this
	DevelopmentKeys ID = "development-keys"  // signed with keys that anyone may have
)

// Order lists every ID as it is shown, with its severity and the arguments its text names.
var Order = []struct {
	ID       ID
	Severity Severity
	Args     []string
}{
	{UpdateRunning, Info, nil},
	{StorageFailing, Error, nil},
	{DataMissing, Error, nil},
	{NoNetworkPort, Error, nil},
	{ServiceFailing, Error, []string{"service"}},
	{DataReplaced, Warning, nil},
	{DataReadOnly, Error, nil},
	{DataFull, Warning, nil},
	{UpdateError, Warning, nil},
	{UpdateReturned, Warning, []string{"version"}},
	{NoLink, Warning, []string{"port"}},
	{NoAddress, Warning, []string{"port"}},
	{NameTaken, Warning, []string{"name", "port", "address", "mac", "other"}},
	{FellBack, Warning, []string{"wanted", "booted"}},
	{WatchdogReset, Warning, nil},
	{BootEnvRepaired, Info, nil},
	{NoWatchdog, Warning, nil},
	{UpdateAvailable, Info, []string{"version"}},
	{ClockFloor, Info, nil},
	{DevelopmentKeys, Warning, nil},
}

// A Condition is one thing the owner is told.
type Condition struct {
	ID       ID                `json:"id"`
	Severity Severity          `json:"severity"`
	Args     map[string]string `json:"args,omitempty"` // what the text names
}

// New returns the condition of kind id, its text's arguments as name, value pairs.
func New(id ID, args ...string) Condition {
	c := Condition{ID: id, Severity: Order[rank(id)].Severity}
	for i := 0; i+1 < len(args); i += 2 {
		if c.Args == nil {
			c.Args = map[string]string{}
		}
		c.Args[args[i]] = args[i+1]
	}
	return c
}

// Sort puts the most pressing first and keeps the order of equals.
func Sort(list []Condition) {
	slices.SortStableFunc(list, func(a, b Condition) int { return rank(a.ID) - rank(b.ID) })
}

// rank panics on an ID that Order lacks: a programming error that the package's test finds.
func rank(id ID) int {
	for i, o := range Order {
		if o.ID == id {
			return i
		}
	}
	panic("condition: no such kind: " + string(id))
}
