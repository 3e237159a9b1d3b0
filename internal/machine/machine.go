// Package machine is what process 1 tells the other services and does for them: status, log,
// restart. Process 1 serves it as HTTP and JSON on Socket:
//
//	GET  /status                      → Status
//	GET  /log?after=SEQ&level=warn    → []Entry of this run, oldest first
//	GET  /log?boot=previous           → []Entry that were saved of the run before
//	POST /restart, POST /power-off    → 202; the machine goes down in order
//	GET  /slots                       → Slots
//	POST /slots/open                  → Slots: the slot that is not running is empty and writable
//	POST /slots/seal, /slots/look     → Slots: it is readable, from the medium
//	POST /slots/arm?tries=N           → Slots: the loader tries it so often
//	POST /slots/confirm               → Slots: what runs is what the loader starts
//	POST /slots/running               → Slots: the one that runs is readable, too
//	POST /slots/close                 → Slots: it is not mounted
//	POST /slots/sticks                → Slots: what USB sticks hold is readable
//	POST /slots/unplug                → Slots: they may be pulled out
//	GET  /slots/floor                 → Floor
//	POST /slots/floor?version=V       → Slots: nothing older than V is installed from now on
//
// What is asked of slots is done for the update service only; 409 says why it was not done.
package machine

import (
	"time"

	"cloudlink.local/gateway/internal/condition"
	"cloudlink.local/gateway/internal/release"
)

// Socket is process 1's Unix socket.
const Socket = "/run/cloudlink/init.sock"

// Status is the machine as process 1 sees it.
type Status struct {
	Release       release.Release       `json:"release"`
	Serial        string                `json:"serial"`
	Slot          string                `json:"slot"` // "a", "b" or "" where the loader did not say
	BootID        string                `json:"boot_id"`
	UptimeSeconds float64               `json:"uptime_seconds"` // boot-time clock
	InitSeconds   float64               `json:"init_seconds"`   // boot-time clock when process 1 began
	Time          time.Time             `json:"time"`
	Data          Data                  `json:"data"`
	Memory        Memory                `json:"memory"`
	Services      []Service             `json:"services"`
	Conditions    []condition.Condition `json:"conditions"` // process 1's own, most pressing first
}

// Slots is how the two systems on the disk are, for the update service.
type Slots struct {
	Running   string     `json:"running"`         // "a" or "b"
	Confirmed string     `json:"confirmed"`       // what the loader starts
	Trial     string     `json:"trial,omitempty"` // what it tries before, while there are
	Tries     int        `json:"tries"`           // left
	OnTrial   bool       `json:"on_trial"`        // what runs has not been confirmed; process 1 restarts soon
	Dir       string     `json:"dir"`             // where the slot that is not running is mounted
	OwnDir    string     `json:"own_dir"`         // where the running one is, once that was asked for
	Access    SlotAccess `json:"access"`
	Sticks    []string   `json:"sticks,omitempty"` // where USB sticks are mounted
}

// A Floor is the oldest version that may be installed, "" for any. A factory reset leaves it.
type Floor struct {
	Version string `json:"version"`
}

// SlotAccess says what can be done with the files of the slot that is not running.
type SlotAccess string

// A slot is read back before it is tried.
const (
	SlotClosed   SlotAccess = "closed"
	SlotWritable SlotAccess = "writable"
	SlotReadable SlotAccess = "readable"
)

// DataState says what became of the data partition at boot.
type DataState string

// The states of the data partition.
const (
	DataOK       DataState = "ok"
	DataReplaced DataState = "replaced"  // was damaged; now an empty one
	DataReadOnly DataState = "read-only" // /data is a copy in memory
	DataMissing  DataState = "missing"   // /data is in memory
	DataFailing  DataState = "failing"   // /data is in memory; the medium gives errors
)

// Data is the data partition.
type Data struct {
	State     DataState `json:"state"`            // "" until it is known
	Detail    string    `json:"detail,omitempty"` // the error behind the state
	SizeBytes int64     `json:"size_bytes"`
	FreeBytes int64     `json:"free_bytes"`
}

// Memory is the machine's memory.
type Memory struct {
	TotalBytes     int64 `json:"total_bytes"`
	AvailableBytes int64 `json:"available_bytes"`
}

// ServiceState says where a service stands.
type ServiceState string

// A service that ended is started again after a growing pause; meanwhile it is waiting.
const (
	Starting ServiceState = "starting" // its process runs and has not said that it is ready
	Running  ServiceState = "running"
	Waiting  ServiceState = "waiting"
	Stopped  ServiceState = "stopped"
)

// A Service is one supervised process.
type Service struct {
	Name         string       `json:"name"`
	State        ServiceState `json:"state"`
	PID          int          `json:"pid,omitempty"`
	SinceSeconds float64      `json:"since_seconds"` // how long it has been in State
	Restarts     int          `json:"restarts"`
	LastExit     string       `json:"last_exit,omitempty"` // why it last ended, in words
	MemoryBytes  int64        `json:"memory_bytes"`        // of its cgroup, page cache included
}

// Level of a log entry, as syslog(3) counts: 0 emergency … 7 debug.
type Level int

// The levels that are used.
const (
	LevelError Level = 3
	LevelWarn  Level = 4
	LevelInfo  Level = 6
	LevelDebug Level = 7
)

// An Entry is one line of the log.
type Entry struct {
	Seq    uint64    `json:"seq"` // counts up by one from 1 at each boot
	Time   time.Time `json:"time"`
	Source string    `json:"source"` // service's name, "init" or "kernel"
	Level  Level     `json:"level"`
	Text   string    `json:"text"` // one line, valid UTF-8, bounded
}
