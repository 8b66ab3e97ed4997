package functions

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/seal"
	"github.com/sirocco-cloud/sirocco/libs/store"
)

// instancesPatience is how long a reader of details waits for the deployments service; a version without its
// instances is more use than none.
const instancesPatience = time.Second

// Instances asks for the live instances of a version.
type Instances func(ctx context.Context, versionID string) ([]instances.Brief, error)

// Functions are the use cases of the service.
//
// Client-facing ones act for the caller of the context: what is not in its account does not exist (404), what is in
// its account but outside its key's resources is refused (403), and lists leave that out without a word.
type Functions struct {
	store     *versions
	instances Instances
	accounts  Accounts
	now       func() time.Time
	log       *zap.Logger
	// maxVersions bounds the versions of one function; 0 does not.
	maxVersions int
	idempotency *store.Idempotency
	vault       *seal.Vault
	*resources
}

// New makes the use cases. They serve once [Functions.Unlock] has found the key of the secrets.
func New(versions *versions, live Instances, accounts Accounts, now func() time.Time, log *zap.Logger) *Functions {
	return &Functions{
		store: versions, instances: live, accounts: accounts, now: now, log: log, idempotency: store.NewIdempotency(schema),
	}
}

// Unlock finds or makes the key that seals secrets. It must succeed before the first request.
func (f *Functions) Unlock(ctx context.Context, cfg Config) error {
	var err error
	if f.vault, err = newVault(cfg, f.store.pool, f.now); err != nil {
		return err
	}
	return f.vault.Load(ctx)
}

// Create makes a function, or with a function id a further version of it (§3.1, §3.2).
func (f *Functions) Create(ctx context.Context, r contract.CreateRequest) (contract.FunctionResponse, error) {
	none := contract.FunctionResponse{}
	caller, err := client(ctx)
	if err != nil {
		return none, err
	}
	v := version{id: uuid.NewString(), functionID: uuid.NewString(), account: caller.Account, status: contract.Inactive, revision: 1}
	further := r.FunctionID != ""
	if further {
		if v.functionID, err = id("functionId", r.FunctionID); err != nil {
			return none, err
		}
	}
	v.spec = normalise(r.Spec)
	if err := validate(v.spec, r); err != nil {
		return none, err
	}
	v.spec = complete(v.spec)
	if err := fits(v.spec, r.Secrets); err != nil {
		return none, err
	}
	var answer contract.FunctionResponse
	once := store.Key{Scope: "create " + caller.Account, Request: r}
	if caller.CoversFunction(true, strings.ToLower(r.FunctionID), "") { // an answer is for those who might have made the request
		once.Key = r.IdempotencyKey
	}
	found, err := f.idempotency.Recall(ctx, f.store.pool, once, f.now(), &answer)
	if found || err != nil {
		return answer, repeated(err)
	}
	// Clients see milliseconds (§1.1); keeping more would order versions by what nobody can read.
	v.createdAt = f.now().UTC().Truncate(time.Millisecond)
	v.updatedAt = v.createdAt
	names, sealed, err := f.seal(ctx, v.id, r.Secrets)
	if err != nil {
		return none, err
	}

	limit, err := f.functionsAllowed(ctx, caller, further)
	if err != nil {
		return none, err
	}
	err = f.artifactsFit(ctx, v, func(u unit) error {
		v := v
		_, err := f.admit(ctx, u, caller, &v, further)
		return err
	})
	if err != nil {
		return none, err
	}
	err = f.store.change(ctx, func(u unit) error {
		v := v // the transaction may run again
		return f.idempotency.Once(ctx, u.tx, once, f.now(), &answer, func() error {
			siblings, err := f.admit(ctx, u, caller, &v, further)
			if err != nil {
				return err
			}
			if err := u.telemetriesFit(ctx, v.account, v.spec.Telemetries, keyShared); err != nil {
				return err
			}
			if err := u.insert(ctx, v, sealed); err != nil {
				return err
			}
			if err := tell(ctx, u, contract.Created, v, contract.Changed{Function: v.view()}); err != nil {
				return err
			}
			answer = v.answer()
			answer.Function.Secrets = names
			if !further {
				return u.addFunction(ctx, v.account, limit)
			}
			return f.spread(ctx, u, siblings, sharedBy(v.spec))
		})
	})
	return answer, repeated(err)
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

// spread gives the locked versions of a family what one of them shares.
func (f *Functions) spread(ctx context.Context, u unit, family []version, s kinship) error {
	for _, sibling := range family {
		spec, changed := takes(sibling.spec, s)
		if !changed {
			continue
		}
		sibling.spec = spec
		if _, err := f.rewrite(ctx, u, sibling); err != nil {
			return err
		}
	}
	return nil
}

// rewrite stores a changed specification and tells of it.
func (f *Functions) rewrite(ctx context.Context, u unit, v version) (version, error) {
	v.updatedAt = f.now().UTC().Truncate(time.Millisecond)
	if err := u.save(ctx, v); err != nil {
		return v, err
	}
	v.revision++
	return v, tell(ctx, u, contract.Updated, v, contract.Changed{Function: v.view()})
}

// Get returns one version; instances and secret names only to who may see details (§3.6).
func (f *Functions) Get(ctx context.Context, r contract.VersionRequest) (contract.FunctionResponse, error) {
	none := contract.FunctionResponse{}
	caller, want, err := named(ctx, r.FunctionID, r.VersionID)
	if err != nil {
		return none, err
	}
	v, found, err := f.store.find(ctx, want.versionID)
	if err != nil {
		return none, err
	}
	if found && v.functionID == want.functionID && v.account != caller.Account && v.sharedWith(caller.Account) &&
		caller.CoversFunction(false, v.functionID, v.id) {
		return contract.FunctionResponse{Function: v.sharedView(), ETag: v.etag()}, nil
	}
	if err := permit(access.ReadFunctions, caller, want, v, found); err != nil {
		return none, err
	}
	response := v.answer()
	answer := &response.Function
	if !seesDetails(caller, v) {
		return response, nil
	}
	if r.IncludeSecrets == nil || *r.IncludeSecrets {
		sealed, err := f.store.secrets(ctx, v.id)
		if err != nil {
			return none, err
		}
		for _, s := range sealed {
			answer.Secrets = append(answer.Secrets, s.name)
		}
	}
	answer.ActiveInstances = f.live(ctx, v.id)
	return response, nil
}

// seesDetails reports whether the caller may see the instances and the names of the secrets of a version of its account.
func seesDetails(caller access.Caller, v version) bool {
	if caller.CrossAccount {
		return slices.Contains(caller.Scopes, access.AdminPrefix+access.ListFunctionDetails)
	}
	return caller.MayAlso(access.ListFunctionDetails, true, v.functionID, v.id)
}

// live returns the instances of a version, none when the deployments service does not answer.
func (f *Functions) live(ctx context.Context, versionID string) []instances.Brief {
	ctx, cancel := context.WithTimeout(ctx, instancesPatience)
	defer cancel()
	found, err := f.instances(ctx, versionID)
	if err != nil {
		f.log.Warn("instances left out of an answer", zap.String("version", versionID), zap.Error(err))
		return nil
	}
	return found
}

// Update changes the tags, description or limits of a version in any state (§3.7). An update that changes nothing
// writes nothing.
func (f *Functions) Update(ctx context.Context, r contract.UpdateRequest) (contract.FunctionResponse, error) {
	none := contract.FunctionResponse{}
	caller, want, err := named(ctx, r.FunctionID, r.VersionID)
	if err != nil {
		return none, err
	}
	if r.Description != nil && unblank(*r.Description) == "" {
		r.Description = nil
	}
	r.RateLimit, r.LLMInvocationConfig = normaliseRate(r.RateLimit), compact(r.LLMInvocationConfig)
	if err := validateUpdate(r); err != nil {
		return none, err
	}
	before, found, err := f.store.find(ctx, want.versionID)
	if err == nil {
		err = permit(access.WriteFunction, caller, want, before, found)
	}
	if err != nil {
		return none, err
	}
	var updated version
	touchesFamily := len(r.ModelUpdates) > 0 || r.LLMInvocationConfig != nil
	err = f.store.change(ctx, func(u unit) error {
		var family []version
		if touchesFamily {
			// Locked before the version itself, so that all who change a family wait in one order.
			if family, err = u.lockFamily(ctx, caller.Account, want.functionID); err != nil {
				return err
			}
		}
		v, found, err := u.lock(ctx, want.versionID)
		if err != nil {
			return err
		}
		if err := permit(access.WriteFunction, caller, want, v, found); err != nil {
			return err
		}
		if err := v.matches(r.IfMatch); err != nil {
			return err
		}
		spec, err := apart(v.spec, r)
		if err != nil {
			return err
		}
		if !reflect.DeepEqual(spec, v.spec) && !reflect.DeepEqual(before.spec, v.spec) {
			return problem.New(problem.Conflict, "another request changed version '%s' at the same time; read it and try again", v.id)
		}
		others := slices.DeleteFunc(family, func(s version) bool { return s.id == v.id })
		if err := f.spread(ctx, u, others, sharedByUpdate(r)); err != nil {
			return err
		}
		updated, err = f.keep(ctx, u, v, spec)
		return err
	})
	return updated.answer(), err
}

// keep stores another specification of a locked version and tells of it; an equal one changes nothing.
func (f *Functions) keep(ctx context.Context, u unit, v version, spec contract.Spec) (version, error) {
	if reflect.DeepEqual(spec, v.spec) {
		return v, nil
	}
	limited := !reflect.DeepEqual(spec.RateLimit, v.spec.RateLimit)
	v.spec = spec
	v, err := f.rewrite(ctx, u, v)
	if err != nil || !limited {
		return v, err
	}
	return v, tell(ctx, u, contract.RateLimitUpdated, v, contract.RateLimitChanged{
		FunctionID: v.functionID, VersionID: v.id, RateLimit: v.spec.RateLimit,
	})
}

// UpdateMetadata is Update for a client that leaves empty lists out: nothing at all means no tags (§3.8).
func (f *Functions) UpdateMetadata(ctx context.Context, r contract.MetadataRequest) (contract.FunctionResponse, error) {
	if changesNothing(r.UpdateRequest) {
		r.Tags = &[]string{}
	}
	return f.Update(ctx, r.UpdateRequest)
}

// RemoveRateLimit takes the limit of a version away (§4).
func (f *Functions) RemoveRateLimit(ctx context.Context, r contract.VersionRequest) (rpc.None, error) {
	caller, want, err := named(ctx, r.FunctionID, r.VersionID)
	if err != nil {
		return rpc.None{}, err
	}
	return rpc.None{}, f.store.change(ctx, func(u unit) error {
		v, found, err := u.lock(ctx, want.versionID)
		if err != nil {
			return err
		}
		if err := permit(access.WriteFunction, caller, want, v, found); err != nil {
			return err
		}
		if err := v.matches(r.IfMatch); err != nil {
			return err
		}
		spec := v.spec
		spec.RateLimit = nil
		_, err = f.keep(ctx, u, v, spec)
		return err
	})
}

// apart returns spec with the update applied.
func apart(spec contract.Spec, r contract.UpdateRequest) (contract.Spec, error) {
	if r.Tags != nil {
		spec.Tags = distinct(*r.Tags)
	}
	if r.Description != nil {
		spec.Description = *r.Description
	}
	if r.RateLimit != nil {
		spec.RateLimit = r.RateLimit
	}
	if len(r.ModelUpdates) == 0 && r.LLMInvocationConfig == nil {
		return spec, nil
	}
	if spec.FunctionType != contract.LLM {
		return spec, problem.New(problem.BadRequest, "modelUpdates and llmInvocationConfig are for LLM functions, and this is not one")
	}
	for _, u := range r.ModelUpdates {
		if model(spec, u.ModelName) == nil {
			return spec, problem.New(problem.NotFound, "Model '%s': Not found in this version", short(u.ModelName))
		}
	}
	spec, _ = takes(spec, sharedByUpdate(r))
	return spec, nil
}

// Delete removes a version in any state (§3.9). The deployments service hears of it and tears down what runs.
func (f *Functions) Delete(ctx context.Context, r contract.VersionRequest) (rpc.None, error) {
	caller, want, err := named(ctx, r.FunctionID, r.VersionID)
	if err != nil {
		return rpc.None{}, err
	}
	return rpc.None{}, f.store.change(ctx, func(u unit) error {
		// Who else adds or deletes a version of the function must know whether this one is the last.
		family, err := u.lockFamily(ctx, caller.Account, want.functionID)
		if err != nil {
			return err
		}
		at := slices.IndexFunc(family, func(v version) bool { return v.id == want.versionID })
		if at < 0 {
			return versionNotFound(caller.Account, want)
		}
		v := family[at]
		if err := permit(access.RemoveFunction, caller, want, v, true); err != nil {
			return err
		}
		if v.public() {
			return isPublic("delete")
		}
		if err := v.matches(r.IfMatch); err != nil {
			return err
		}
		if err := u.remove(ctx, v.id); err != nil {
			return err
		}
		if len(family) == 1 {
			if err := u.removeFunction(ctx, v.account); err != nil {
				return err
			}
		}
		return tell(ctx, u, contract.Deleted, v, contract.Changed{Function: v.view()})
	})
}

// Lookup returns one version to another service, whatever account it is in.
func (f *Functions) Lookup(ctx context.Context, r contract.InternalRequest) (contract.FunctionResponse, error) {
	v, err := f.internal(ctx, r)
	return contract.FunctionResponse{Function: v.view(), Public: v.public()}, err
}

// Launch returns one version with the values of its secrets, to the node that starts it. It refuses to act for a
// client: no route leads here, and none shall by mistake.
func (f *Functions) Launch(ctx context.Context, r contract.InternalRequest) (contract.Launchable, error) {
	if access.CallerFrom(ctx).Kind != "" {
		return contract.Launchable{}, problem.New(problem.Forbidden, "secrets are for the platform's own services")
	}
	v, err := f.internal(ctx, r)
	if err != nil {
		return contract.Launchable{}, err
	}
	sealed, err := f.store.secrets(ctx, v.id)
	if err != nil {
		return contract.Launchable{}, err
	}
	launchable := contract.Launchable{Function: v.view()}
	if launchable.RegistryAuth, err = f.registryAuth(ctx, v.account, v.spec.ContainerImage); err != nil {
		return contract.Launchable{}, err
	}
	if launchable.Telemetries, err = f.launchTelemetries(ctx, v); err != nil {
		return contract.Launchable{}, err
	}
	for _, s := range sealed {
		value, err := f.vault.Open(ctx, place(v.id, s.name), s.value)
		if err != nil {
			return contract.Launchable{}, err
		}
		launchable.Secrets = append(launchable.Secrets, contract.Secret{Name: s.name, Value: value})
	}
	return launchable, nil
}

func (f *Functions) internal(ctx context.Context, r contract.InternalRequest) (version, error) {
	versionID, err := id("versionId", r.VersionID)
	if err != nil {
		return version{}, err
	}
	functionID := ""
	if r.FunctionID != "" {
		if functionID, err = id("functionId", r.FunctionID); err != nil {
			return version{}, err
		}
	}
	v, found, err := f.store.find(ctx, versionID)
	if err != nil {
		return version{}, err
	}
	if !found || functionID != "" && functionID != v.functionID {
		return version{}, problem.New(problem.NotFound, "Function version '%s': Not found", versionID)
	}
	return v, nil
}

// states are those of §2.2 that a version can be in.
var states = []contract.Status{contract.Inactive, contract.Deploying, contract.Active, contract.Degrading, contract.Degraded, contract.Error}

// SetStatus takes over what the deployments service observed. Repeating a report changes nothing. The end of a
// deployment that is no longer the current one changes nothing either: a late report must not stop its successor.
func (f *Functions) SetStatus(ctx context.Context, r contract.SetStatusRequest) (rpc.None, error) {
	versionID, err := id("versionId", r.VersionID)
	if err != nil {
		return rpc.None{}, err
	}
	if !slices.Contains(states, r.Status) {
		c := newChecker("request")
		c.refuse("status", fmt.Sprintf("must be one of %v", states))
		return rpc.None{}, c.Err()
	}
	return rpc.None{}, f.store.change(ctx, func(u unit) error {
		v, found, err := u.lock(ctx, versionID)
		if err != nil {
			return err
		}
		if !found {
			return problem.New(problem.NotFound, "Function version '%s': Not found", versionID)
		}
		moved := v
		moved.status, moved.deploymentID, moved.reason = r.Status, r.DeploymentID, r.Reason
		if r.Status == contract.Inactive {
			if v.deploymentID != "" && r.DeploymentID != "" && v.deploymentID != r.DeploymentID {
				return nil
			}
			moved.deploymentID = ""
		}
		if moved.status == v.status && moved.deploymentID == v.deploymentID && moved.reason == v.reason {
			return nil
		}
		moved.updatedAt = f.now().UTC().Truncate(time.Millisecond)
		if err := u.move(ctx, moved); err != nil {
			return err
		}
		if moved.status == v.status {
			return nil
		}
		moved.deploymentID = r.DeploymentID // the event names the deployment that ended, too
		return tell(ctx, u, contract.StatusMoved, moved, contract.StatusChanged{
			FunctionID: v.functionID, VersionID: v.id, From: v.status, To: moved.status, DeploymentID: r.DeploymentID, Reason: r.Reason,
		})
	})
}

// Resolve returns the deployed versions of a function, or one of them, that an account may invoke.
func (f *Functions) Resolve(ctx context.Context, r contract.ResolveRequest) (contract.ResolveResponse, error) {
	none := contract.ResolveResponse{}
	functionID, err := id("functionId", r.FunctionID)
	if err != nil {
		return none, err
	}
	answer := contract.ResolveResponse{FunctionID: functionID, Owner: r.Account, Targets: []contract.Target{}}
	if r.VersionID != "" {
		versionID, err := id("versionId", r.VersionID)
		if err != nil {
			return none, err
		}
		v, found, err := f.store.find(ctx, versionID)
		if err != nil {
			return none, err
		}
		if !found || v.functionID != functionID || v.account != r.Account && !v.sharedWith(r.Account) {
			return none, versionNotFound(r.Account, pair{functionID, versionID})
		}
		answer.Owner = v.account
		if v.status != contract.Inactive {
			answer.Targets = append(answer.Targets, target(v))
		}
		return answer, nil
	}
	deployed, err := f.store.invocable(ctx, r.Account, functionID)
	if err != nil {
		return none, err
	}
	if len(deployed) == 0 {
		if answer.Owner, err = f.store.owner(ctx, r.Account, functionID); err != nil {
			return none, err
		}
		if answer.Owner == "" {
			return none, functionNotFound(r.Account, functionID)
		}
	}
	for _, v := range deployed {
		answer.Owner = v.account
		answer.Targets = append(answer.Targets, target(v))
	}
	return answer, nil
}

func target(v version) contract.Target {
	return contract.Target{VersionID: v.id, Name: v.spec.Name, Status: v.status, InferenceURL: v.spec.InferenceURL, Type: v.spec.FunctionType, Public: v.public()}
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

// client is the caller of a request that acts for an account.
func client(ctx context.Context) (access.Caller, error) {
	caller := access.CallerFrom(ctx)
	if caller.Account == "" {
		return caller, problem.New(problem.Unauthorized, "this request needs a credential")
	}
	return caller, nil
}

// named is the caller and the version that a path names.
func named(ctx context.Context, functionID, versionID string) (caller access.Caller, want pair, err error) {
	if caller, err = client(ctx); err != nil {
		return caller, want, err
	}
	if want.functionID, err = id("functionId", functionID); err != nil {
		return caller, want, err
	}
	want.versionID, err = id("versionId", versionID)
	return caller, want, err
}

// permit decides whether the caller may act on v, which it asked for as want.
func permit(row access.Row, caller access.Caller, want pair, v version, found bool) error {
	if !found || v.functionID != want.functionID || v.account != caller.Account {
		return versionNotFound(caller.Account, want)
	}
	if !caller.CoversFunction(true, v.functionID, v.id) {
		return access.NotCovered(row, fmt.Sprintf("version %s of function %s", v.id, v.functionID))
	}
	return nil
}

// Clients look for these texts (§1.2).

func versionNotFound(account string, want pair) *problem.Problem {
	return problem.New(problem.NotFound, "Function id '%s', version '%s': Not found in account '%s'", want.functionID, want.versionID, account)
}

func functionNotFound(account, functionID string) *problem.Problem {
	return problem.New(problem.NotFound, "Function id '%s': Not found in account '%s'", functionID, account)
}
