// Package supervise runs the services, each a process of its own with its own user, capabilities
// and cgroup, and starts again those that end.
//
// Package supervise/service is the other side, inside the service's process; supervise/sandbox
// is what that shuts itself in with; supervise/watchdog resets the machine when Supervisor.Run
// makes no progress.
package supervise
