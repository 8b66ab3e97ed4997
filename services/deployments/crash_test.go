package deployments

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// crashing arms the world: the service is about to die at a step, and hears nothing of it any more.
func (w *world) crashing(step string) (reached <-chan struct{}) {
	hit := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.interrupt = func(at string) error {
		if at != step {
			return nil
		}
		select {
		case hit <- struct{}{}:
		default:
		}
		return problem.New(problem.Unavailable, "the answer is lost")
	}
	return hit
}

// revive takes the interruption away and runs the service anew.
func (w *world) revive() {
	w.kill()
	w.mu.Lock()
	w.interrupt = nil
	w.mu.Unlock()
	w.start()
}

func await(t *testing.T, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(soon):
		require.Fail(t, "the step was never reached")
	}
}

// Whatever step of a deployment the service dies at, its next life finishes it, once.
func TestKilledAtEveryStepOfADeployment(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"status", "status told", "queue", "queue made", "launch", "report"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, node("n1", 2))
			w.start()
			f := w.version()
			reached := w.crashing(step)
			held := make(chan launched, 1)
			switch step {
			case "launch": // the node has the order and has not said a word
				w.behave(func(l launched) { held <- l }, nil)
			case "report": // it says that it starts, and nothing more
				w.behave(func(l launched) {
					w.report(l, instances.Starting)
					held <- l
				}, nil)
			}
			_, err := w.create(f, one(1, 1))
			require.NoError(t, err, "what is stored is promised")
			var l launched
			if step == "launch" || step == "report" {
				l = <-held
			} else {
				await(t, reached)
			}
			w.kill()
			if l.node != "" {
				w.comesUp(l)
			}
			w.revive()
			d := w.becomes(f, functions.Active)
			require.Len(t, d.Instances, 1)
			require.Equal(t, 1, w.count("deployments.devices"))
			require.Eventually(t, func() bool {
				w.mu.Lock()
				defer w.mu.Unlock()
				return w.queues[f.VersionID]
			}, soon, 5*time.Millisecond, "its queue is there")
			w.launch()
			w.quiet(f)
		})
	}
}

// Whatever step of an undeployment the service dies at, nothing is left in the end.
func TestKilledAtEveryStepOfAnUndeployment(t *testing.T) {
	t.Parallel()
	for _, gracefully := range []bool{false, true} {
		for _, step := range []string{"status", "status told", "end", "ended"} {
			t.Run(step, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, node("n1", 1))
				w.start()
				f := w.version()
				w.deploy(f, one(1, 1))
				w.becomes(f, functions.Active)
				held := make(chan ended, 4)
				reached := w.crashing(step)
				switch step {
				case "end": // the node has the order, and the instance still runs
					w.behave(nil, func(e ended) { held <- e })
				case "ended": // it is gone, and the service dies with the news
					w.behave(nil, func(e ended) { w.goesDown(e); held <- e })
				}
				_, err := w.undeploy(f, gracefully)
				require.NoError(t, err, "what is stored is promised")
				var e ended
				if step == "end" || step == "ended" {
					e = <-held
				} else {
					await(t, reached)
				}
				w.kill()
				if step == "end" {
					w.goesDown(e)
				}
				w.behave(nil, w.goesDown)
				w.revive()
				w.vanishes(f)
				require.Zero(t, w.count("deployments.instances"))
				require.Zero(t, w.count("deployments.devices"))
				require.Equal(t, functions.Inactive, w.status(f.VersionID))
				w.deploy(f, one(1, 1))
				w.becomes(f, functions.Active)
			})
		}
	}
}
