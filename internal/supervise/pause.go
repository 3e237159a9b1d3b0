package supervise

import "time"

// A service writes these words, a line each, to the file that CLOUDLINK_READY_FD numbers.
const (
	Ready = "ready"         // once: it does its work from now on
	Alive = "alive"         // then every Beat
	Beat  = 5 * time.Second // less often, and it counts as hung
)

const (
	healthy      = time.Minute      // after so long without an end all is forgiven
	maxPause     = time.Minute      // between an end and the next start
	startLimit   = time.Minute      // a service that is not ready by then is killed
	startSlow    = 30 * time.Second // and by then the owner is told
	silenceLimit = 4 * Beat         // one that has not said for so long that it lives is killed
	paused       = Beat             // where Run comes round so late, the whole machine stood still
	stopLimit    = 5 * time.Second  // a service that was asked to stop and has not by then is killed
	killLimit    = 2 * time.Second  // one that was killed and has not ended by then is left behind
	manyEnds     = 3                // so many ends in a row and the owner is told
)

// A history counts a service's ends in a row, none with a healthy time before it.
type history int

// ended returns the history after an end, and how long to wait before the next start: the first
// time not at all, so that a service killed once is back at once, then 1, 2, 4 … 60 seconds.
// ready is how long the service had been running.
func (h history) ended(ready time.Duration) (history, time.Duration) {
	if ready >= healthy {
		h = 0
	}
	h++
	if h == 1 {
		return h, 0
	}
	return h, min(time.Second<<min(h-2, 10), maxPause)
}

// failing says whether the owner should be told.
func (h history) failing() bool { return h >= manyEnds }
