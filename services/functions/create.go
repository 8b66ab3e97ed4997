package functions

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/store"
)

// creation is a version that is about to be stored.
type creation struct {
	caller access.Caller
	v      version
	// further is a version of a function that exists.
	further bool
	names   []string
	sealed  []sealedSecret
	// limit is how many functions the account may have, 0 for any number.
	limit int
	once  store.Key
	// rehearsed leaves nothing behind.
	rehearsed bool
}

// errRehearsed takes a transaction back in which everything went well.
var errRehearsed = errors.New("nothing is kept of a dry run")

// Create makes a function, or with a function id a further version of it (§3.1, §3.2). A dry run answers the same and
// stores nothing.
func (f *Functions) Create(ctx context.Context, r contract.CreateRequest) (contract.FunctionResponse, error) {
	var answer contract.FunctionResponse
	c, err := f.readCreation(ctx, r)
	if err != nil {
		return answer, err
	}
	found, err := f.idempotency.Recall(ctx, f.store.pool, c.once, f.now(), &answer)
	if found || err != nil {
		return answer, repeated(err)
	}
	if c.names, c.sealed, err = f.seal(ctx, c.v.id, r.Secrets); err != nil {
		return answer, err
	}
	if c.limit, err = f.functionsAllowed(ctx, c.caller, c.further); err != nil {
		return answer, err
	}
	err = f.artifactsFit(ctx, c.v, func(u unit) error {
		v := c.v
		_, err := f.admit(ctx, u, c.caller, &v, c.further)
		return err
	})
	if err != nil {
		return answer, err
	}
	err = f.store.change(ctx, func(u unit) error {
		return f.idempotency.Once(ctx, u.tx, c.once, f.now(), &answer, func() (err error) {
			answer, err = f.keepNew(ctx, u, c)
			return err
		})
	})
	if errors.Is(err, errRehearsed) {
		answer.ETag = "" // there is no revision that it could name
		return answer, nil
	}
	return answer, repeated(err)
}

// readCreation holds a request against every rule that needs no look at other data.
func (f *Functions) readCreation(ctx context.Context, r contract.CreateRequest) (creation, error) {
	caller, err := client(ctx)
	if err != nil {
		return creation{}, err
	}
	v := version{id: uuid.NewString(), functionID: uuid.NewString(), account: caller.Account, status: contract.Inactive, revision: 1}
	if r.FunctionID != "" {
		if v.functionID, err = id("functionId", r.FunctionID); err != nil {
			return creation{}, err
		}
	}
	v.spec = normalise(r.Spec)
	if err := validate(v.spec, r); err != nil {
		return creation{}, err
	}
	v.spec = complete(v.spec)
	if err := fits(v.spec, r.Secrets); err != nil {
		return creation{}, err
	}
	// Clients see milliseconds (§1.1); keeping more would order versions by what nobody can read.
	v.createdAt = f.moment()
	v.updatedAt = v.createdAt
	c := creation{caller: caller, v: v, further: r.FunctionID != "", rehearsed: r.DryRun, once: store.Key{Scope: "create " + caller.Account, Request: r}}
	if !r.DryRun && caller.CoversFunction(true, strings.ToLower(r.FunctionID), "") { // an answer is for those who might have made the request
		c.once.Key = r.IdempotencyKey
	}
	return c, nil
}

// keepNew stores a version that may be added, and tells of it. It works on a copy, because its transaction may run again.
func (f *Functions) keepNew(ctx context.Context, u unit, c creation) (contract.FunctionResponse, error) {
	none, v := contract.FunctionResponse{}, c.v
	siblings, err := f.admit(ctx, u, c.caller, &v, c.further)
	if err != nil {
		return none, err
	}
	if err := u.telemetriesFit(ctx, v.account, v.spec.Telemetries, keyShared); err != nil {
		return none, err
	}
	if err := u.insert(ctx, v, c.sealed); err != nil {
		return none, err
	}
	if err := tell(ctx, u, contract.Created, v, contract.Changed{Function: v.view()}); err != nil {
		return none, err
	}
	if c.further {
		err = f.spread(ctx, u, siblings, sharedBy(v.spec))
	} else {
		err = u.addFunction(ctx, v.account, c.limit)
	}
	if err == nil && c.rehearsed {
		err = errRehearsed
	}
	answer := v.answer()
	answer.Function.Secrets = c.names
	return answer, err
}

// repeated tells a client that its idempotency key stands for another request.
func repeated(err error) error {
	if errors.Is(err, store.ErrKeyReused) {
		return problem.New(problem.Unprocessable, "the Idempotency-Key was used for another request; choose a new one")
	}
	return err
}

// functionsAllowed is how many functions the account may have, 0 for any number. A further version needs no such look, and
// a keys service that is away does not stop whom it has let in before.
func (f *Functions) functionsAllowed(ctx context.Context, caller access.Caller, further bool) (int, error) {
	if further {
		return 0, nil
	}
	account, err := f.accounts(ctx, caller.Account)
	if problem.HasCode(err, problem.Unavailable) || problem.HasCode(err, problem.GatewayTimeout) {
		f.log.Warn("a function is created without a look at the account's limit", zap.String("account", caller.Account), zap.Error(err))
		return 0, nil
	}
	return account.MaxFunctionsAllowed, err
}

// admit decides whether the caller may add v: as a new function, or beside the versions of its function, which it returns.
// Then v has what it inherits: the parties of the function, and in a family the priorities.
func (f *Functions) admit(ctx context.Context, u unit, caller access.Caller, v *version, further bool) ([]version, error) {
	if !further {
		if !caller.CoversFunction(true, v.functionID, "") {
			return nil, access.NotCovered(access.CreateFunction, "new functions")
		}
		return nil, nil
	}
	siblings, err := u.lockFamily(ctx, v.account, v.functionID)
	switch {
	case err != nil:
		return nil, err
	case len(siblings) == 0:
		return nil, functionNotFound(v.account, v.functionID)
	case !caller.CoversFunction(true, v.functionID, ""):
		return nil, access.NotCovered(access.CreateVersion, "function "+v.functionID)
	case f.maxVersions > 0 && len(siblings) >= f.maxVersions:
		return nil, problem.New(problem.IllegalState, "the function has %d versions, and SIROCCO_FUNCTIONS_MAX_VERSIONS allows no more", len(siblings))
	}
	specs := make([]contract.Spec, len(siblings))
	for i, s := range siblings {
		if s.public() && !caller.CrossAccount {
			return nil, isPublic("add a version to")
		}
		specs[i] = s.spec
	}
	v.functionParties = siblings[0].functionParties
	if v.spec, err = joins(v.spec, specs); err != nil || v.spec.FunctionType != contract.LLM {
		return nil, err
	}
	return siblings, nil
}

// fits keeps a version within what the bus carries, in one message of its event or of its launch.
func fits(spec contract.Spec, secrets []contract.Secret) error {
	text, err := json.Marshal(contract.CreateRequest{Spec: spec, Secrets: secrets})
	if err != nil {
		return fmt.Errorf("encode specification: %w", err)
	}
	if len(text) > maxRequest {
		return problem.New(problem.TooLarge, "a specification with its secrets has %d bytes at most", maxRequest)
	}
	return nil
}

// seal encrypts secrets for one version and returns their names beside them.
func (f *Functions) seal(ctx context.Context, versionID string, secrets []contract.Secret) (names []string, sealed []sealedSecret, err error) {
	for _, s := range secrets {
		value, err := f.vault.Seal(ctx, place(versionID, s.Name), s.Value)
		if err != nil {
			return nil, nil, err
		}
		names = append(names, s.Name)
		sealed = append(sealed, sealedSecret{name: s.Name, value: value})
	}
	return names, sealed, nil
}
