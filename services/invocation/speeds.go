package invocation

import (
	"math"
	"sync"
	"time"
)

const (
	// maxSpeeds bounds the versions whose queues are remembered; when there are more, all are forgotten.
	maxSpeeds = 10_000
	// oldSpeed is how long ago the last look at a queue may be to say something about it.
	oldSpeed = 10 * time.Minute
)

// speeds estimates how long a request will wait from how fast a queue shrank between two looks at it. It is a guess for
// people, so each replica makes its own.
type speeds struct {
	mu   sync.Mutex
	seen map[string]look
}

type look struct {
	waiting int64
	at      time.Time
	// perSecond is the last speed that was seen; 0 means none.
	perSecond float64
}

// wait notes how many requests wait now and estimates the seconds until a new one is taken; nil when nothing is known.
func (s *speeds) wait(version string, waiting int64, now time.Time) *int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen == nil || len(s.seen) > maxSpeeds {
		s.seen = map[string]look{}
	}
	before, known := s.seen[version]
	after := look{waiting: waiting, at: now}
	if elapsed := now.Sub(before.at).Seconds(); known && elapsed > 0 && now.Sub(before.at) < oldSpeed {
		after.perSecond = before.perSecond
		if before.waiting > waiting {
			after.perSecond = float64(before.waiting-waiting) / elapsed
		}
	}
	s.seen[version] = after
	var seconds int64
	switch {
	case waiting == 0:
	case after.perSecond == 0:
		return nil
	default:
		seconds = int64(math.Ceil(min(float64(waiting)/after.perSecond, float64(time.Hour/time.Second))))
	}
	return &seconds
}
