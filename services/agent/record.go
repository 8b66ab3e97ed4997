package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
	"github.com/sirocco-cloud/sirocco/services/agent/drivers"
)

// record is what the agent remembers of one instance, in <data>/agent/records/<id>.json. It holds no secret: those are
// asked for again when a start is repeated.
type record struct {
	Order    instances.LaunchOrder `json:"order"`
	Function *functionFacts        `json:"function,omitempty"`
	State    instances.State       `json:"state"`
	Phase    instances.Phase       `json:"phase,omitempty"`
	// Attempted is set before the driver is asked to start: from then on something may exist even without a handle.
	Attempted bool                      `json:"attempted,omitempty"`
	Handle    *drivers.Handle           `json:"handle,omitempty"`
	Stop      *instances.TerminateOrder `json:"stop,omitempty"`
	// End is set once the instance must end for a reason that is not an order.
	End      *end  `json:"end,omitempty"`
	Sequence int64 `json:"sequence"`
	// Unsent are reports that the bus may not have, oldest first. Until the end of an instance what is sent is not taken
	// out on the disk at once: a report that is published again is the same event.
	Unsent  []instances.Report `json:"unsent,omitempty"`
	EndedAt time.Time          `json:"endedAt,omitzero"`
}

// functionFacts is what serving and probing an instance needs to know of its function.
type functionFacts struct {
	Name   string           `json:"name"`
	Port   int              `json:"port"`
	Health functions.Health `json:"health"`
}

// end says why an instance is over.
type end struct {
	Cause   instances.Cause `json:"cause"`
	Message string          `json:"message"`
	Exit    *int            `json:"exit,omitempty"`
	Logs    []string        `json:"logs,omitempty"`
}

func (e *end) Error() string { return string(e.Cause) + ": " + e.Message }

// maxUnsent bounds the reports kept while the bus is away; the oldest phases go first.
const maxUnsent = 32

type records struct{ dir string }

func (r records) path(id string) string { return filepath.Join(r.dir, id+".json") }

// create writes a record whose order is about to be acknowledged, so it must outlive everything.
func (r records) create(rec *record) error { return writeJSON(r.path(rec.Order.InstanceID), rec, true) }

// save writes a record again. What a lost machine forgets of it was lost with the instance.
func (r records) save(rec *record) error { return writeJSON(r.path(rec.Order.InstanceID), rec, false) }

func (r records) remove(id string) error { return os.Remove(r.path(id)) }

// load reads every record. One that does not parse is set aside: the agent can do nothing for its instance but stop it
// as an orphan, and must not refuse all others because of it.
func (r records) load(log *zap.Logger) ([]*record, error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return nil, fmt.Errorf("instance records: %w", err)
	}
	var recs []*record
	for _, e := range entries {
		id, isRecord := strings.CutSuffix(e.Name(), ".json")
		if !isRecord {
			continue
		}
		path := r.path(id)
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("instance records: %w", err)
		}
		var rec record
		err = json.Unmarshal(b, &rec)
		if err == nil && rec.Order.InstanceID != id {
			err = errors.New("it is about another instance")
		}
		if err != nil {
			log.Error("record not understood, set aside as .broken", zap.String("file", path), zap.Error(err))
			if err := os.Rename(path, path+".broken"); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("instance records: %w", err)
			}
			continue
		}
		recs = append(recs, &rec)
	}
	return recs, nil
}
