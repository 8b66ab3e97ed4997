package gpus

import (
	"context"
	"slices"
	"time"

	"github.com/coder/quartz"

	"github.com/sirocco-cloud/sirocco/contracts/clusters"
)

// DefaultEvery is the time between two looks at the devices.
const DefaultEvery = 10 * time.Second

// failuresUntilSick is how often nvidia-smi may fail in a row before its
// devices are not offered any more; once can be a busy machine.
const failuresUntilSick = 2

// Watcher looks at the devices again and again and reports what changed.
type Watcher struct {
	Discoverer Discoverer
	// Owned says that an instance of this agent uses the device; then memory in
	// use is no sign of a stranger. It must not block.
	Owned func(uuid string) bool
	// Report gets the devices that changed, with Free meaning healthy and unused
	// by strangers. It is called from Run only.
	Report func(changed []clusters.Device)
	// Every defaults to DefaultEvery, Clock to the real one.
	Every time.Duration
	Clock quartz.Clock
}

// Run watches until ctx ends, starting from what Discover found. Simulated
// devices never change, so there is nothing to do for them.
func (w Watcher) Run(ctx context.Context, found Inventory) {
	if found.Simulated || len(found.Devices) == 0 {
		<-ctx.Done()
		return
	}
	clock, every := w.Clock, w.Every
	if clock == nil {
		clock = quartz.NewReal()
	}
	if every <= 0 {
		every = DefaultEvery
	}
	known := slices.Clone(found.Devices)
	failures := 0
	ticker := clock.NewTicker(every, "gpus", "watch")
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		readings, err := w.Discoverer.read(ctx)
		if ctx.Err() != nil {
			return
		}
		var now []clusters.Device
		if err != nil {
			if failures++; failures < failuresUntilSick {
				continue
			}
			now = allSick(known, err.Error())
		} else {
			failures = 0
			now = w.merge(known, readings)
		}
		if changed := difference(known, now); len(changed) > 0 && w.Report != nil {
			w.Report(changed)
		}
		known = now
	}
}

// merge is the known devices as they are now, and new ones after them. A device
// that vanished stays, sick, until it comes back: its instances still hold it.
func (w Watcher) merge(known []clusters.Device, readings []reading) []clusters.Device {
	seen := map[string]clusters.Device{}
	for _, r := range readings {
		if w.Owned != nil && w.Owned(r.uuid) {
			r.usedMiB = 0
		}
		seen[r.uuid] = w.Discoverer.device(r)
	}
	now := make([]clusters.Device, 0, len(known))
	for _, d := range known {
		if current, ok := seen[d.UUID]; ok {
			now = append(now, current)
			delete(seen, d.UUID)
			continue
		}
		d.State, d.Health = clusters.Sick, "the device vanished: nvidia-smi does not list it any more"
		now = append(now, d)
	}
	for _, r := range readings {
		if d, ok := seen[r.uuid]; ok {
			now = append(now, d)
			delete(seen, r.uuid)
		}
	}
	return now
}

func allSick(known []clusters.Device, why string) []clusters.Device {
	now := slices.Clone(known)
	for n := range now {
		now[n].State, now[n].Health = clusters.Sick, why
	}
	return now
}

// difference returns the devices of now that are new or not as before. How much
// a stranger uses varies all the time and is no news.
func difference(before, now []clusters.Device) []clusters.Device {
	old := map[string]clusters.Device{}
	for _, d := range before {
		old[d.UUID] = d
	}
	var changed []clusters.Device
	for _, d := range now {
		was, known := old[d.UUID]
		if d.State == clusters.Foreign && was.State == clusters.Foreign {
			was.Health = d.Health
		}
		if !known || was != d {
			changed = append(changed, d)
		}
	}
	return changed
}
