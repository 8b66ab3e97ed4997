package deployments

import (
	"context"
	"errors"
	"strings"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	libstore "github.com/sirocco-cloud/sirocco/libs/store"
)

// answered finds the answer of an earlier request with the same idempotency key, if there was one.
func (u *Deployments) answered(ctx context.Context, req contract.CreateRequest) (earlier contract.Response, found bool, err error) {
	if req.IdempotencyKey == "" {
		return earlier, false, nil
	}
	check := problem.NewCheck("deployment")
	check.Require(len(req.IdempotencyKey) <= maxName && !strings.ContainsRune(req.IdempotencyKey, 0), "Idempotency-Key", "must be at most %d bytes", maxName)
	if err := check.Err(); err != nil {
		return earlier, false, err
	}
	found, err = u.store.answers.Recall(ctx, u.store.pool, keyOf(ctx, req), u.clock.Now(), &earlier)
	switch {
	case errors.Is(err, libstore.ErrKeyReused):
		return earlier, false, keyReused()
	case err != nil || !found:
		return earlier, false, err
	}
	return earlier, true, covered(ctx, access.Deploy, earlier.Deployment.FunctionID, earlier.Deployment.VersionID)
}

func keyReused() error {
	return problem.New(problem.Unprocessable, "Idempotency-Key: was used for another request; use a new one")
}

// keyOf names a deploy call: whose it is, of which version, and what it says.
func keyOf(ctx context.Context, req contract.CreateRequest) libstore.Key {
	said := req
	said.IdempotencyKey = ""
	return libstore.Key{Scope: "deploy/" + access.CallerFrom(ctx).Account + "/" + strings.ToLower(req.VersionID), Key: req.IdempotencyKey, Request: said}
}
