package deployments

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/functions"
)

var noon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

func TestNextStatus(t *testing.T) {
	t.Parallel()
	const (
		deploying, active, degrading, degraded, failed = functions.Deploying, functions.Active, functions.Degrading, functions.Degraded, functions.Error
	)
	raised := noon.Add(time.Minute)
	for _, c := range []struct {
		name  string
		from  functions.Status
		specs []tally
		late  bool
		to    functions.Status
	}{
		{"nothing has started", deploying, []tally{{Min: 1}}, false, deploying},
		{"starting", deploying, []tally{{Min: 1, Starting: 1}}, false, deploying},
		{"running", deploying, []tally{{Min: 1, Running: 1}}, false, active},
		{"one of two", deploying, []tally{{Min: 2, Running: 1, Starting: 1}}, false, deploying},
		{"one specification of two", deploying, []tally{{Min: 1, Running: 1}, {Min: 1, Starting: 1}}, false, deploying},
		{"both specifications", deploying, []tally{{Min: 1, Running: 1}, {Min: 2, Running: 3}}, false, active},
		{"a minimum of zero asks nothing", deploying, []tally{{Min: 0}, {Min: 1, Running: 1}}, false, active},
		{"the only one failed", deploying, []tally{{Min: 1, Failed: 1}}, false, failed},
		{"one failed, one still starts", deploying, []tally{{Min: 2, Failed: 1, Starting: 1}}, false, deploying},
		{"one failed, one has no place yet", deploying, []tally{{Min: 2, Failed: 1}}, false, deploying},
		{"one failed, one runs", deploying, []tally{{Min: 2, Failed: 1, Running: 1}}, false, deploying},
		{"all failed over two specifications", deploying, []tally{{Min: 1, Failed: 1}, {Min: 2, Failed: 2}}, false, failed},
		{"too late", deploying, []tally{{Min: 1, Starting: 1}}, true, failed},
		{"late, but there", deploying, []tally{{Min: 1, Running: 1}}, true, active},

		{"stays", active, []tally{{Min: 1, Proven: 1, Running: 1}}, false, active},
		{"the only one is gone", active, []tally{{Min: 1, Proven: 1}}, false, degraded},
		{"the only one is being replaced", active, []tally{{Min: 1, Proven: 1, Starting: 1}}, false, degrading},
		{"one of two is gone", active, []tally{{Min: 2, Proven: 2, Running: 1}}, false, degrading},
		{"scaled to zero", active, []tally{{Min: 0}}, false, active},
		{"zero beside one that is gone", active, []tally{{Min: 0}, {Min: 1, Proven: 1}}, false, active},
		{"raised and starting", active, []tally{{Min: 3, Proven: 1, RaisedUntil: raised, Running: 1, Starting: 2}}, false, active},
		{"raised from zero", active, []tally{{Min: 1, Proven: 0, RaisedUntil: raised}}, false, active},
		{"raised, and one of the old is lost", active, []tally{{Min: 3, Proven: 2, RaisedUntil: raised, Running: 1, Starting: 2}}, false, degrading},
		{"raised too long ago", active, []tally{{Min: 3, Proven: 1, RaisedUntil: noon, Running: 1, Starting: 2}}, false, degrading},
		{"the other specification is hurt", active, []tally{{Min: 1, Proven: 1, Running: 1}, {Min: 1, Proven: 1, Starting: 1}}, false, degrading},

		{"recovers", degrading, []tally{{Min: 2, Proven: 2, Running: 2}}, false, active},
		{"falls further", degrading, []tally{{Min: 1, Proven: 1}}, false, degraded},
		{"stays hurt", degrading, []tally{{Min: 2, Proven: 2, Running: 1, Starting: 1}}, false, degrading},
		{"comes back", degraded, []tally{{Min: 1, Proven: 1, Starting: 1}}, false, degrading},
		{"is back", degraded, []tally{{Min: 1, Proven: 1, Running: 1}}, false, active},
		{"nothing comes", degraded, []tally{{Min: 1, Proven: 1, Failed: 9}}, true, degraded},
		{"zero does not excuse a degraded one", degraded, []tally{{Min: 0}, {Min: 1, Proven: 1}}, false, degraded},

		{"ERROR is left by clients only", failed, []tally{{Min: 1, Running: 1}}, false, failed},
		{"so is INACTIVE", functions.Inactive, []tally{{Min: 1, Running: 1}}, false, functions.Inactive},
	} {
		t.Run(string(c.from)+" "+c.name, func(t *testing.T) {
			t.Parallel()
			by := noon.Add(time.Hour)
			if c.late {
				by = noon.Add(-time.Second)
			}
			require.Equal(t, c.to, next(c.from, c.specs, noon, by))
		})
	}
}
