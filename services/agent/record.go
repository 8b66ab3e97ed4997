package agent

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
	"github.com/sirocco-cloud/sirocco/services/agent/drivers"
)

// record is what the agent remembers of one instance, in <data>/agent/records/<id>.json. It holds no secret: those are
// asked for again when a start is repeated.
type record struct {
	Order    instances.LaunchOrder     `json:"order"`
	Handle   *drivers.Handle           `json:"handle,omitempty"`
	Function *functionFacts            `json:"function,omitempty"`
	State    instances.State           `json:"state"`
	Stop     *instances.TerminateOrder `json:"stop,omitempty"`
	Sequence int64                     `json:"sequence"`
	// Unsent are reports that the bus has not acknowledged, oldest first.
	Unsent  []instances.Report `json:"unsent,omitempty"`
	EndedAt time.Time          `json:"endedAt,omitzero"`
}

// functionFacts is what serving and probing an instance needs to know of its function.
type functionFacts struct {
	Name   string           `json:"name"`
	Port   int              `json:"port"`
	Health functions.Health `json:"health"`
}

// remembered is how long a terminated instance is remembered, so that an order delivered late does not start it again.
const remembered = time.Hour

// maxUnsent bounds the reports kept while the bus is away; the oldest phases go first.
const maxUnsent = 32

type records struct{ dir string }

func (r records) path(id string) string { return filepath.Join(r.dir, id+".json") }

func (r records) save(rec *record) error { return writeJSON(r.path(rec.Order.InstanceID), rec) }

func (r records) remove(id string) error { return os.Remove(r.path(id)) }

// load reads every record; one that does not parse is reported and left alone.
func (r records) load() ([]*record, error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return nil, fmt.Errorf("instance records: %w", err)
	}
	var recs []*record
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		b, err := os.ReadFile(filepath.Join(r.dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("instance records: %w", err)
		}
		var rec record
		if err := json.Unmarshal(b, &rec); err != nil {
			return nil, fmt.Errorf("instance record %s: %w", e.Name(), err)
		}
		recs = append(recs, &rec)
	}
	return recs, nil
}
