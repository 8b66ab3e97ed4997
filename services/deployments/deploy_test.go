package deployments

import (
	"testing"

	"github.com/sirocco-cloud/sirocco/contracts/functions"
)

// A crowd of deploy calls does not wait: without a place nobody looks at the database, which this service does not have.
func TestDeployAnswersAtOnceWhenManyWait(t *testing.T) {
	t.Parallel()
	u := &Deployments{quick: make(chan struct{}, quickStarts)}
	for range quickStarts {
		u.quick <- struct{}{}
	}
	u.awaitQuickStart(t.Context(), &deployment{Status: functions.Deploying})
}
