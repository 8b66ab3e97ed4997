package agent

import (
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/instances"
)

// An instance without work is told to the control plane, which decides whether it is still wanted. Only this node knows at
// every moment whether a request is in flight, so an order to end an idle instance is a question: it is carried out if
// there is still no request, and what slips in meanwhile is finished.

// begin notes that a slot carries a request. It is called with the lock of the pool.
func (m *member) begin() {
	m.working++
	m.rouse()
}

// rouse ends a rest that was told, so that the next one is told as well. It is called with the lock of the pool.
func (m *member) rouse() {
	if !m.restTold {
		return
	}
	m.restTold = false
	select {
	case m.roused <- struct{}{}:
	default:
	}
}

// rest notes that it does not any more. It is called with the lock of the pool.
func (m *member) rest() {
	if m.working--; m.working == 0 {
		m.restsFrom = time.Now()
	}
}

// rested reports whether the instance has had no request for so long, and how long at most it has to be waited for.
func (m *member) rested(enough time.Duration) (d, left time.Duration, yes bool) {
	m.pool.mu.Lock()
	defer m.pool.mu.Unlock()
	if m.working > 0 || m.paused {
		return 0, enough, false
	}
	d = time.Since(m.restsFrom)
	m.restTold = d >= enough
	return d, enough - d, m.restTold
}

// retire takes an instance without work out of service; false when it has a request, or its queue may have one for it.
func (m *member) retire() bool {
	m.pool.mu.Lock()
	defer m.pool.mu.Unlock()
	if m.working > 0 || m.pool.queued.Load() {
		m.rouse() // what waits in the queue may go to another instance, and this one go on resting
		return false
	}
	m.paused = true
	return true
}

// tell reports what a running instance does.
func (i *instance) tell(a instances.Activity, idle time.Duration) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.rec.State != instances.Running || i.rec.Stop != nil {
		return
	}
	i.active(a, idle)
	i.save()
}

// active adds a report of an activity to the record. It is called with the lock.
func (i *instance) active(a instances.Activity, idle time.Duration) {
	r := i.draft()
	r.Activity, r.IdleSeconds = a, int(idle/time.Second)
	i.leave(r)
	i.agent.reports.notify(i)
}

// watchRest tells when the instance idles and when it works again.
type watchRest struct {
	instance *instance
	member   *member
	enough   time.Duration
	timer    *time.Timer
	// C fires when it may be time to look.
	C <-chan time.Time
}

// newWatchRest watches as the order says; without a word of it, nothing is told.
func newWatchRest(i *instance, m *member) *watchRest {
	w := &watchRest{instance: i, member: m, enough: time.Duration(i.rec.Order.IdleSeconds) * time.Second}
	if w.enough > 0 {
		w.timer = time.NewTimer(w.enough)
		w.C = w.timer.C
	}
	return w
}

// look tells of a rest that is long enough, again if it was told before: an instance that was not well in between does
// not count as resting any more.
func (w *watchRest) look() {
	if w.timer == nil {
		return
	}
	d, left, yes := w.member.rested(w.enough)
	if !yes {
		w.timer.Reset(left)
		return
	}
	w.instance.tell(instances.Idle, d)
}

func (w *watchRest) roused() {
	w.instance.tell(instances.Busy, 0)
	w.timer.Reset(w.enough)
}

func (w *watchRest) stop() {
	if w.timer != nil {
		w.timer.Stop()
	}
}
