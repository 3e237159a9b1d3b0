// Package diary is the network's timeline: what happened on the ports, to the clock and to the
// settings, in plain words, German and English. Package condition tells how things are now; the diary
// tells how they came to be so. It is bounded in memory and on the medium, and no event, however
// often it comes, wears the medium out.
package diary

import "time"

// A Kind names what happened; its text, de and en, is found by it.
type Kind string

// The kinds. The arguments that each text names are in Order.
const (
	CablePlugged   Kind = "cable-plugged"
	CableUnplugged Kind = "cable-unplugged"

	LeaseObtained    Kind = "lease-obtained"
	LeaseChanged     Kind = "lease-changed" // renewed, and not as it was: changes names what is new
	LeaseLost        Kind = "lease-lost"    // given up before its end
	LeaseExpired     Kind = "lease-expired"
	LeaseReturned    Kind = "lease-returned" // the settings do not want it any more
	ServerChanged    Kind = "server-changed"
	ServerRefused    Kind = "server-refused" // a NAK
	OfferRejected    Kind = "offer-rejected" // by us
	DuplicateAddress Kind = "duplicate-address"
	AddressGivenBack Kind = "address-given-back" // a DECLINE after a conflict
	LinkLocalUsed    Kind = "link-local-used"
	LinkLocalLeft    Kind = "link-local-left"

	PrefixAppeared  Kind = "prefix-appeared"
	PrefixGone      Kind = "prefix-gone"
	RouterAppeared  Kind = "router-appeared" // IPv6, as RouterGone
	RouterGone      Kind = "router-gone"
	PrefixesIgnored Kind = "prefixes-ignored" // more than limit

	StaticSet Kind = "static-set"

	NameLost     Kind = "name-lost"     // another device has it
	NameRegained Kind = "name-regained" // it is ours again

	ClockStepped      Kind = "clock-stepped"
	ClockSynchronised Kind = "clock-synchronised" // for the first time since power-on
	NTPRefused        Kind = "ntp-refused"

	FirewallChanged Kind = "firewall-changed" // offers: "tcp/80 lan, udp/5353 lan"

	SettingsChanged  Kind = "settings-changed"  // fields: their paths
	SettingsReplaced Kind = "settings-replaced" // reason: ReasonCopy or ReasonDefault

	CommitProbation      Kind = "commit-probation"
	CommitConfirmed      Kind = "commit-confirmed"
	CommitReturned       Kind = "commit-returned"
	CommitReturnedAtBoot Kind = "commit-returned-at-boot"
	CommitDamaged        Kind = "commit-damaged" // the record of a change on probation

	ServiceRestarted Kind = "service-restarted"

	DiaryDamaged Kind = "diary-damaged" // lines could not be read
	DiaryUnsaved Kind = "diary-unsaved" // the medium takes no more: memory only
)

// Order lists every kind with the arguments its text names. An argument without a value reads "–".
var Order = []struct {
	Kind Kind
	Args []string
}{
	{CablePlugged, []string{"port", "speed"}}, // Mbit/s
	{CableUnplugged, []string{"port"}},
	{LeaseObtained, []string{"port", "address", "server", "router", "options"}},
	{LeaseChanged, []string{"port", "address", "server", "router", "changes"}},
	{LeaseLost, []string{"port", "address", "server"}},
	{LeaseExpired, []string{"port", "address", "server"}},
	{LeaseReturned, []string{"port", "address", "server"}},
	{ServerChanged, []string{"port", "old", "new", "mac"}},
	{ServerRefused, []string{"port", "address", "server"}},
	{OfferRejected, []string{"port", "server", "reason"}},
	{DuplicateAddress, []string{"port", "address", "mac"}},
	{AddressGivenBack, []string{"port", "address", "server"}},
	{LinkLocalUsed, []string{"port", "address"}},
	{LinkLocalLeft, []string{"port", "address"}},
	{PrefixAppeared, []string{"port", "prefix", "router"}},
	{PrefixGone, []string{"port", "prefix"}},
	{RouterAppeared, []string{"port", "router"}},
	{RouterGone, []string{"port", "router"}},
	{PrefixesIgnored, []string{"port", "limit"}},
	{StaticSet, []string{"port", "address"}},
	{NameLost, []string{"port", "name", "address", "mac"}},
	{NameRegained, []string{"port", "name"}},
	{ClockStepped, []string{"from", "to", "server"}},
	{ClockSynchronised, []string{"to", "server"}},
	{NTPRefused, []string{"server", "reason"}},
	{FirewallChanged, []string{"offers"}},
	{SettingsChanged, []string{"by", "from", "fields"}},
	{SettingsReplaced, []string{"reason"}},
	{CommitProbation, []string{"by", "from", "fields", "seconds"}},
	{CommitConfirmed, []string{"by", "from", "address"}},
	{CommitReturned, []string{"reason"}},
	{CommitReturnedAtBoot, nil},
	{CommitDamaged, nil},
	{ServiceRestarted, []string{"service"}},
	{DiaryDamaged, []string{"lines"}},
	{DiaryUnsaved, nil},
}

// Reasons are the values of an argument "reason" that have a text of their own. Any other value is
// shown as it is.
const (
	// of OfferRejected
	ReasonMalformed   = "malformed"    // not to be read
	ReasonBadAddress  = "bad-address"  // none that a host may have
	ReasonBadMask     = "bad-mask"     // no or an impossible subnet mask
	ReasonBadLease    = "bad-lease"    // no or an impossible duration
	ReasonInUse       = "in-use"       // another device has the address
	ReasonOwnNetwork  = "own-network"  // the other port is in that subnet already
	ReasonBadServerID = "bad-server"   // does not say who it is
	ReasonBadRouter   = "bad-router"   // outside of the subnet
	ReasonTooManyOpts = "too-many-opt" // more options or routes than we take

	// of NTPRefused: ntp's reasons
	ReasonCannotSet      = "cannot-set"
	ReasonTooFar         = "too-far"
	ReasonDisagree       = "disagree"
	ReasonImpossible     = "impossible"
	ReasonUnsynchronised = "unsynchronised"
	ReasonRefused        = "refused"
	ReasonNoAnswer       = "no-answer"
	ReasonUnresolved     = "unresolved"
	ReasonNoServers      = "no-servers"

	// of CommitReturned
	ReasonTimeout   = "timeout"    // nobody confirmed
	ReasonTakenBack = "taken-back" // by the owner

	// of SettingsReplaced: where the settings were read from instead, as settings names it
	ReasonCopy    = "copy"
	ReasonDefault = "default"
)

// An Entry is one line of the timeline. The clock may have been wrong when it was written: Clock tells,
// and Boottime, which is never wrong, orders the entries of one BootID.
type Entry struct {
	ID       uint64            `json:"id"`               // growing
	Time     time.Time         `json:"time"`             // UTC, as the clock showed it
	Clock    string            `json:"clock"`            // the clock's state: "unset", "floor", "ntp", "verified"
	Boottime float64           `json:"boottime_seconds"` // since power-on
	BootID   string            `json:"boot_id"`
	Kind     Kind              `json:"kind"`
	Args     map[string]string `json:"args,omitempty"` // what the text names

	// Repeats are counted, not added.
	Count        int       `json:"count,omitempty"`                 // how often altogether; 0 for once
	Omitted      int       `json:"omitted,omitempty"`               // others of this kind that came too often
	Last         time.Time `json:"last,omitzero"`                   // when it was counted last
	LastBoottime float64   `json:"last_boottime_seconds,omitempty"` // the same by the boot-time clock

	// Actual is the time it really was: List works it out for an entry of a wrong clock once an entry
	// of the same boot knows the time. It is not stored.
	Actual time.Time `json:"actual,omitzero"`
}

// Time returns t as an argument of an entry.
func Time(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// arguments returns the names of kind's arguments; not ok for a kind that Order lacks.
func arguments(kind Kind) (names []string, ok bool) {
	for _, o := range Order {
		if o.Kind == kind {
			return o.Args, true
		}
	}
	return nil, false
}
