package deployments

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	contract "github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	libstore "github.com/sirocco-cloud/sirocco/libs/store"
)

// Create deploys a version (§11.4); the checks come in the order written there. A request that comes again with its
// idempotency key has the answer of the first one, whatever became of the deployment.
func (u *Deployments) Create(ctx context.Context, req contract.CreateRequest) (contract.Response, error) {
	none := contract.Response{}
	if err := validIDs(map[string]string{"functionId": req.FunctionID, "versionId": req.VersionID}); err != nil {
		return none, err
	}
	specs := cleaned(req.Specifications)
	if err := validSpecs(specs); err != nil {
		return none, err
	}
	if earlier, found, err := u.answered(ctx, req); found || err != nil {
		return earlier, err
	}
	response, err := u.deploy(ctx, req, specs)
	if problem.HasCode(err, problem.IllegalState) && req.IdempotencyKey != "" { // perhaps occupied by the same request
		if earlier, found, again := u.answered(ctx, req); found || again != nil {
			return earlier, again
		}
	}
	return response, err
}

// deploy makes a deployment of specifications that are well formed.
func (u *Deployments) deploy(ctx context.Context, req contract.CreateRequest, specs []contract.Specification) (contract.Response, error) {
	none := contract.Response{}
	f, nodes, err := u.admissible(ctx, req, specs)
	if err != nil {
		return none, err
	}
	rules, err := u.quotaRules(ctx, f.NCAID)
	if err != nil {
		return none, err
	}
	if _, err := bus.Call(ctx, u.conn, functions.CheckArtifacts, functions.InternalRequest{VersionID: f.VersionID}); err != nil {
		return none, err
	}
	d := u.fresh(f, specs, nodes)
	response, err := u.occupy(ctx, req, d, rules)
	switch {
	case errors.Is(err, errTaken):
		return none, u.beaten(ctx, f)
	case errors.Is(err, libstore.ErrKeyReused):
		return none, keyReused()
	case err != nil:
		return none, err
	case response.Deployment.ID != d.ID: // the same request was quicker
		return response, nil
	}
	u.meters.moved(d, functions.Inactive, u.clock.Now())
	u.tell(ctx, d.ID)
	if u.vanished(ctx, d) { // undeployed by another request, or the version was deleted at the same time
		if _, err := u.function(ctx, req.FunctionID, req.VersionID); err != nil {
			return none, err
		}
	}
	u.awaitQuickStart(ctx, d)
	return response, nil
}

// admissible makes the checks of §11.4 that come before quota and artifacts, in their order.
func (u *Deployments) admissible(ctx context.Context, req contract.CreateRequest, specs []contract.Specification) (functions.Function, []clusters.Node, error) {
	f, err := u.deployable(ctx, req.FunctionID, req.VersionID)
	if err != nil {
		return f, nil, err
	}
	if err := covered(ctx, access.Deploy, f.ID, f.VersionID); err != nil {
		return f, nil, err
	}
	if err := u.vacant(ctx, req.VersionID); err != nil {
		return f, nil, err
	}
	answer, err := bus.Call(ctx, u.conn, clusters.Nodes, clusters.NodesRequest{Account: f.NCAID})
	if err != nil {
		return f, nil, err
	}
	return f, answer.Nodes, validAgainst(answer.Nodes, f, specs)
}

// occupy stores a deployment with its events, once per idempotency key; [errTaken] when the version has one by now.
func (u *Deployments) occupy(ctx context.Context, req contract.CreateRequest, d *deployment, rules []clusters.QuotaRule) (contract.Response, error) {
	response := respond(d)
	err := u.store.tx(ctx, func(t tx) error {
		return u.store.answers.Once(ctx, t, keyOf(ctx, req), u.clock.Now(), &response, func() error {
			taken, err := u.store.insert(ctx, t, d)
			if err != nil {
				return err
			}
			if taken { // by a request at the same time
				return errTaken
			}
			if err := u.admit(ctx, t, d, rules); err != nil {
				return err
			}
			if err := bus.Record(ctx, t, u.journal, contract.Created, d.fact(), contract.Changed{Deployment: answer(d)}); err != nil {
				return err
			}
			for _, s := range d.Specs {
				if err := scaled(ctx, t, u.journal, d, moved{s, 0}, becauseUser); err != nil {
					return err
				}
			}
			return u.store.poke(ctx, t, d.ID)
		})
	})
	return response, err
}

// fresh is a new deployment of a version.
func (u *Deployments) fresh(f functions.Function, specs []contract.Specification, nodes []clusters.Node) *deployment {
	now := u.clock.Now().Truncate(time.Microsecond) // what Postgres keeps, so that every answer says the same
	d := &deployment{
		ID: uuid.NewString(), Account: f.NCAID, FunctionID: f.ID, VersionID: f.VersionID, FunctionName: f.Name,
		Status: functions.Active, Grace: drainGraceful, StartingAt: now, CreatedAt: now, UpdatedAt: now,
	}
	for n, s := range specs {
		s.ID = uuid.NewString()
		s.MaxRequestConcurrency = orOne(s.MaxRequestConcurrency)
		s.PreferredOrder = orOne(s.PreferredOrder)
		if *s.MinInstances > 0 {
			d.Status = functions.Deploying
		}
		d.Specs = append(d.Specs, &specification{Specification: s, Position: n, Wanted: *s.MinInstances, GPUs: describe(&s, nodes)})
		d.Specs[n].Specification = s
	}
	d.Reason = explain(d)
	return d
}

func orOne(n *int) *int {
	if n == nil {
		one := 1
		return &one
	}
	return n
}

// vanished reports whether a deployment that was just made is gone, or going, already.
func (u *Deployments) vanished(ctx context.Context, d *deployment) bool {
	now, err := u.store.find(ctx, u.store.pool, `WHERE id = $1`, d.ID)
	return err == nil && (now == nil || !now.visible())
}

// quickStart is how long the answer to a deploy call waits for a start that is about to succeed. Public clients poll
// at once and then only every 10 or 60 s, so a start that takes a quarter of a second would cost them that.
const quickStart = time.Second

// quickStarts is how many deploy calls may wait at once, each with a look at the database every [awaitEvery]; whoever
// deploys more at a time than that has his answers at once.
const quickStarts = 16

// awaitQuickStart waits while the version deploys, for a moment. The answer still tells the state that the request made.
func (u *Deployments) awaitQuickStart(ctx context.Context, d *deployment) {
	if d.Status != functions.Deploying {
		return
	}
	select {
	case u.quick <- struct{}{}:
		defer func() { <-u.quick }()
	default:
		return
	}
	ctx, cancel := context.WithTimeout(ctx, quickStart)
	defer cancel()
	for ctx.Err() == nil {
		now, err := u.store.find(ctx, u.store.pool, `WHERE id = $1`, d.ID)
		if err != nil || now == nil || now.Status != functions.Deploying && !now.unreported() {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(awaitEvery):
		}
	}
}
