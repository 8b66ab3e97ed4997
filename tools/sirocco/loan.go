package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/tools/sirocco/client"
)

// loan is what a key may do that is made for one call and revoked after it: a minted token does not reach everywhere.
type loan struct {
	scopes   []access.Scope
	resource access.Resource
}

// Whole accounts, as the resource of a loan.
var (
	everyFunction = access.Resource{ID: "*", Type: string(access.AllFunctions)}
	everything    = access.Resource{ID: "*", Type: string(access.AllEntity)}
)

const (
	// loanTime is how long such a key would be good if nobody revoked it.
	loanTime = 15 * time.Minute
	// afterword bounds what is still done for a person who has pressed Ctrl-C.
	afterword = 5 * time.Second
)

// answer makes a call as the person, or with a key of its own where the minted token does not reach.
func (s *session) answer(ctx context.Context, needs *loan, r client.Request) ([]byte, error) {
	c, err := s.connect()
	if err != nil {
		return nil, err
	}
	if needs != nil && c.Minting() {
		value, giveBack, err := s.borrow(ctx, c, "sirocco command line", *needs)
		if err != nil {
			return nil, err
		}
		defer giveBack()
		c = c.As(value)
	}
	return c.Answer(ctx, r)
}

// borrow makes a key for what follows. The returned function revokes it, also for a person who has pressed Ctrl-C.
func (s *session) borrow(ctx context.Context, c *client.Client, why string, l loan) (value string, giveBack func(), err error) {
	key, _, err := createKey(ctx, c, keyOrder{
		product: products[0], owner: s.owner, description: why, scopes: l.scopes, resources: []access.Resource{l.resource}, expires: s.now().Add(loanTime),
	})
	if err != nil {
		var refusal *client.Refusal
		if errors.As(err, &refusal) && refusal.Status == http.StatusBadRequest {
			err = next(fmt.Errorf("no key could be made for this call: %w", err), "bring one with --key or SIROCCO_API_KEY, or make room: `sirocco key list`, `sirocco key revoke`")
		}
		return "", nil, err
	}
	return key.Value, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterword)
		defer cancel()
		if _, err := aboutKey(ctx, c, s.owner, client.Request{Method: http.MethodDelete, Path: keysPath + "/" + escape(key.ID)}); err != nil {
			fmt.Fprintf(s.err, "sirocco: the key %s of this call was not revoked (%s); it expires at %s\n", key.ID, printable(err.Error()), shown(key.ExpiresAt))
		}
	}, nil
}
