package functions

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/store"
)

const (
	maxEndpoint = 2048
	// maxUsers bounds how many versions the refusal of a deletion lists.
	maxUsers = 20
	// maxDeployed bounds how many deployed versions hear of a new secret at once.
	maxDeployed = 10_000
)

// Accounts asks the keys service for an account with its limits.
type Accounts func(ctx context.Context, account string) (keys.Account, error)

// telemetryPlace is what the secret of a telemetry endpoint is bound to.
func telemetryPlace(id string) string { return "telemetry/" + id }

// CreateTelemetry adds a telemetry endpoint to the account (§6).
func (f *Functions) CreateTelemetry(ctx context.Context, r contract.CreateTelemetryRequest) (contract.TelemetryResponse, error) {
	none := contract.TelemetryResponse{}
	caller, err := client(ctx)
	if err != nil {
		return none, err
	}
	t, err := newTelemetry(r)
	if err != nil {
		return none, err
	}
	account, err := f.accounts(ctx, caller.Account)
	if err != nil {
		return none, err
	}
	t.TelemetryID, t.CreatedAt = uuid.NewString(), f.moment()
	sealed, err := f.vault.Seal(ctx, telemetryPlace(t.TelemetryID), r.Secret.Value)
	if err != nil {
		return none, err
	}
	answer := contract.TelemetryResponse{Telemetry: t}
	err = f.store.change(ctx, func(u unit) error {
		if err := u.lockAll(ctx, "telemetries", caller.Account); err != nil {
			return err
		}
		all, err := u.telemetries(ctx, caller.Account)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(all, func(other contract.Telemetry) bool { return other.Name == t.Name }) {
			return nameTaken(t.Name)
		}
		if len(all) >= account.MaxTelemetriesAllowed {
			return limitReached(caller.Account, len(all), "telemetry endpoints", "maxTelemetriesAllowed")
		}
		if err := u.insertTelemetry(ctx, caller.Account, t, sealed); err != nil {
			return err
		}
		return announce(ctx, u, contract.TelemetryCreated, caller.Account, t.TelemetryID, answer)
	})
	return answer, err
}

func nameTaken(name string) error {
	c := newChecker("telemetry")
	c.refuse("secret.name", fmt.Sprintf("another telemetry endpoint of this account has the name '%s'", name))
	return c.Err()
}

func limitReached(account string, have int, what, limit string) error {
	return problem.New(problem.BadRequest, "Account '%s' has %d %s, which is its limit (%s)", account, have, what, limit)
}

// newTelemetry holds a request against the rules of §6 and brings its enumerations to the spelling of answers.
func newTelemetry(r contract.CreateTelemetryRequest) (contract.Telemetry, error) {
	t := contract.Telemetry{
		Endpoint: strings.TrimSpace(r.Endpoint), Protocol: upper(r.Protocol), Provider: upper(r.Provider),
	}
	for _, kind := range r.Types {
		t.Types = append(t.Types, upper(kind))
	}
	t.Types = distinct(t.Types)
	c := newChecker("telemetry")
	apply(c, "", telemetryEndpointRules, t)
	for i, kind := range t.Types {
		if !slices.Contains(contract.TelemetryTypes, kind) {
			c.refuse(fmt.Sprintf("types[%d]", i), "must be one of "+strings.Join(contract.TelemetryTypes, ", "))
		}
	}
	checkSecret(c, r.Secret)
	if r.Secret != nil {
		t.Name = r.Secret.Name
	}
	return t, c.Err()
}

var telemetryEndpointRules = []rule[contract.Telemetry]{
	{"endpoint", fmt.Sprintf("is required: the URL or host of the sink, without spaces, %d characters at most", maxEndpoint), func(t contract.Telemetry) bool {
		return isURI(t.Endpoint) && len(t.Endpoint) <= maxEndpoint
	}},
	{"protocol", "is required: one of " + strings.Join(contract.TelemetryProtocols, ", "), func(t contract.Telemetry) bool {
		return slices.Contains(contract.TelemetryProtocols, t.Protocol)
	}},
	{"provider", "is required: one of " + strings.Join(contract.TelemetryProviders, ", "), func(t contract.Telemetry) bool {
		return slices.Contains(contract.TelemetryProviders, t.Provider)
	}},
	{"types", "is required: at least one of " + strings.Join(contract.TelemetryTypes, ", "), func(t contract.Telemetry) bool { return len(t.Types) > 0 }},
}

// checkSecret holds the secret of something that has exactly one against the rules of §2.5.
func checkSecret(c *checker, s *contract.Secret) {
	if s == nil {
		c.refuse("secret", "is required: an object with name and value")
		return
	}
	apply(c, "secret", secretRules, *s)
}

func upper(s string) string { return strings.ToUpper(strings.TrimSpace(s)) }

// moment is now as clients see it: in milliseconds.
func (f *Functions) moment() time.Time { return f.now().UTC().Truncate(time.Millisecond) }

// ListTelemetries returns the telemetry endpoints of the account, newest first.
func (f *Functions) ListTelemetries(ctx context.Context, _ rpc.None) (contract.TelemetriesResponse, error) {
	answer := contract.TelemetriesResponse{Telemetries: []contract.Telemetry{}}
	caller, err := client(ctx)
	if err != nil {
		return answer, err
	}
	all, err := f.store.telemetries(ctx, caller.Account)
	answer.Telemetries = append(answer.Telemetries, all...)
	return answer, err
}

// GetTelemetry returns one telemetry endpoint.
func (f *Functions) GetTelemetry(ctx context.Context, r contract.TelemetryRequest) (contract.TelemetryResponse, error) {
	none := contract.TelemetryResponse{}
	caller, err := client(ctx)
	if err != nil {
		return none, err
	}
	telemetryID, err := id("telemetryId", r.TelemetryID)
	if err != nil {
		return none, err
	}
	t, found, err := f.store.telemetry(ctx, caller.Account, telemetryID, unlocked)
	if err == nil && !found {
		err = telemetryNotFound(caller.Account, telemetryID)
	}
	return contract.TelemetryResponse{Telemetry: t}, err
}

// SetTelemetrySecret replaces the secret of a telemetry endpoint (§4). The endpoint is named after its secret, so a
// secret of another name renames it.
func (f *Functions) SetTelemetrySecret(ctx context.Context, r contract.TelemetrySecretRequest) (rpc.None, error) {
	caller, err := client(ctx)
	if err != nil {
		return rpc.None{}, err
	}
	telemetryID, err := id("telemetryId", r.TelemetryID)
	if err != nil {
		return rpc.None{}, err
	}
	c := newChecker("telemetry")
	checkSecret(c, r.Secret)
	if err := c.Err(); err != nil {
		return rpc.None{}, err
	}
	sealed, err := f.vault.Seal(ctx, telemetryPlace(telemetryID), r.Secret.Value)
	if err != nil {
		return rpc.None{}, err
	}
	err = f.store.change(ctx, func(u unit) error {
		t, found, err := u.telemetry(ctx, caller.Account, telemetryID, forUpdate)
		if err != nil {
			return err
		}
		if !found {
			return telemetryNotFound(caller.Account, telemetryID)
		}
		t.Name = r.Secret.Name
		if err := u.saveTelemetry(ctx, t, sealed); err != nil {
			return err
		}
		if err := u.tellUsers(ctx, caller.Account, t); err != nil {
			return err
		}
		return announce(ctx, u, contract.TelemetrySecretChanged, caller.Account, t.TelemetryID, contract.TelemetryResponse{Telemetry: t})
	})
	if store.IsUnique(err, "telemetries_name") {
		err = nameTaken(r.Secret.Name)
	}
	return rpc.None{}, err
}

// tellUsers says to whoever runs a version with this telemetry endpoint that there is a new secret.
func (u unit) tellUsers(ctx context.Context, account string, t contract.Telemetry) error {
	users, err := u.telemetryUsers(ctx, account, t.TelemetryID, ` AND status <> 'INACTIVE'`, maxDeployed)
	if err != nil {
		return err
	}
	for _, p := range users {
		changed := contract.SecretsChanged{FunctionID: p.functionID, VersionID: p.versionID, Telemetries: []string{t.Name}}
		if err := tell(ctx, u, contract.SecretsUpdated, version{id: p.versionID, functionID: p.functionID, account: account}, changed); err != nil {
			return err
		}
	}
	return nil
}

// launchTelemetries are the telemetry endpoints that a version names, each once, with the values of their secrets.
func (f *Functions) launchTelemetries(ctx context.Context, v version) ([]contract.LaunchTelemetry, error) {
	if v.spec.Telemetries == nil {
		return nil, nil
	}
	var all []contract.LaunchTelemetry
	named := []string{v.spec.Telemetries.Logs, v.spec.Telemetries.Metrics, v.spec.Telemetries.Traces}
	for _, telemetryID := range distinct(named) {
		if telemetryID == "" {
			continue
		}
		t, sealed, found, err := f.store.sealedTelemetry(ctx, v.account, telemetryID)
		if err != nil {
			return nil, err
		}
		if !found {
			continue // an endpoint in use cannot be deleted, so this one was never there
		}
		value, err := f.vault.Open(ctx, telemetryPlace(t.TelemetryID), sealed)
		if err != nil {
			return nil, err
		}
		all = append(all, contract.LaunchTelemetry{Telemetry: t, Secret: contract.Secret{Name: t.Name, Value: value}})
	}
	return all, nil
}

// DeleteTelemetry removes a telemetry endpoint that no version refers to.
func (f *Functions) DeleteTelemetry(ctx context.Context, r contract.TelemetryRequest) (rpc.None, error) {
	caller, err := client(ctx)
	if err != nil {
		return rpc.None{}, err
	}
	telemetryID, err := id("telemetryId", r.TelemetryID)
	if err != nil {
		return rpc.None{}, err
	}
	return rpc.None{}, f.store.change(ctx, func(u unit) error {
		t, found, err := u.telemetry(ctx, caller.Account, telemetryID, forUpdate)
		if err != nil {
			return err
		}
		if !found {
			return telemetryNotFound(caller.Account, telemetryID)
		}
		users, err := u.telemetryUsers(ctx, caller.Account, telemetryID, "", maxUsers+1)
		if err != nil {
			return err
		}
		if len(users) > 0 {
			return problem.New(problem.IllegalState, "Telemetry '%s' is used by %s; delete them first", telemetryID, listed(users))
		}
		if err := u.deleteTelemetry(ctx, telemetryID); err != nil {
			return err
		}
		return announce(ctx, u, contract.TelemetryDeleted, caller.Account, t.TelemetryID, contract.TelemetryResponse{Telemetry: t})
	})
}

// listed names versions in a refusal.
func listed(users []pair) string {
	texts := make([]string, 0, maxUsers)
	for _, p := range users[:min(len(users), maxUsers)] {
		texts = append(texts, fmt.Sprintf("function id '%s', version '%s'", p.functionID, p.versionID))
	}
	if len(users) > maxUsers {
		texts = append(texts, "and others")
	}
	return strings.Join(texts, "; ")
}

// CheckTelemetries holds slots against the telemetry endpoints of an account, for another service.
func (f *Functions) CheckTelemetries(ctx context.Context, r contract.TelemetrySlots) (rpc.None, error) {
	t := r.Telemetries
	c := newChecker("telemetries")
	apply(c, "telemetries", telemetryRules, t)
	if err := c.Err(); err != nil {
		return rpc.None{}, err
	}
	return rpc.None{}, f.store.telemetriesFit(ctx, r.Account, &t, unlocked)
}

// telemetriesFit reports which slot names a telemetry endpoint that the account does not have (404), or one that is not
// of the slot's type (400). With keyShared the endpoints stay until the transaction ends.
func (r reads) telemetriesFit(ctx context.Context, account string, t *contract.Telemetries, lock rowLock) error {
	if t == nil {
		return nil
	}
	c := newChecker("function")
	for _, slot := range []struct{ field, id, kind string }{
		{"telemetries.logsTelemetryId", t.Logs, contract.TelemetryLogs},
		{"telemetries.metricsTelemetryId", t.Metrics, contract.TelemetryMetrics},
		{"telemetries.tracesTelemetryId", t.Traces, contract.TelemetryTraces},
	} {
		if slot.id == "" {
			continue
		}
		found, exists, err := r.telemetry(ctx, account, slot.id, lock)
		if err != nil {
			return err
		}
		if !exists {
			return telemetryNotFound(account, slot.id)
		}
		if !slices.Contains(found.Types, slot.kind) {
			c.refuse(slot.field, fmt.Sprintf("must be a telemetry endpoint for %s; this one is for %s", slot.kind, strings.Join(found.Types, ", ")))
		}
	}
	return c.Err()
}

func telemetryNotFound(account, telemetryID string) *problem.Problem {
	return problem.New(problem.NotFound, "Account '%s' Telemetry '%s': Not found", account, telemetryID)
}
