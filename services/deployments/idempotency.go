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

// errUnanswered ends the transaction of a look at an idempotency key that nobody has used.
var errUnanswered = errors.New("no answer yet")

// answered finds the answer of an earlier request with the same idempotency key; nil when there is none.
func (u *Deployments) answered(ctx context.Context, req contract.CreateRequest) (*contract.Response, error) {
	if req.IdempotencyKey == "" {
		return nil, nil
	}
	check := problem.NewCheck("deployment")
	check.Require(len(req.IdempotencyKey) <= maxName && !strings.ContainsRune(req.IdempotencyKey, 0), "Idempotency-Key", "must be at most %d bytes", maxName)
	if err := check.Err(); err != nil {
		return nil, err
	}
	var earlier contract.Response
	err := u.store.tx(ctx, func(t tx) error {
		return u.store.answers.Once(ctx, t, keyOf(ctx, req), u.clock.Now(), &earlier, func() error { return errUnanswered })
	})
	switch {
	case errors.Is(err, errUnanswered):
		return nil, nil
	case errors.Is(err, libstore.ErrKeyReused):
		return nil, keyReused()
	case err != nil:
		return nil, err
	}
	return &earlier, covered(ctx, access.Deploy, earlier.Deployment.FunctionID, earlier.Deployment.VersionID)
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
