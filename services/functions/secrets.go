package functions

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// PutSecrets merges secrets into a version by name; a null value deletes one (§4). A version without secrets gets its first
// ones only while it is INACTIVE, because its instances were started without a place for them.
func (f *Functions) PutSecrets(ctx context.Context, r contract.SecretsRequest) (rpc.None, error) {
	caller, want, err := named(ctx, r.FunctionID, r.VersionID)
	if err != nil {
		return rpc.None{}, err
	}
	put, deleted, err := readSecrets(r.Secrets)
	if err != nil {
		return rpc.None{}, err
	}
	_, sealed, err := f.seal(ctx, want.versionID, put)
	if err != nil {
		return rpc.None{}, err
	}
	return rpc.None{}, f.changeSecrets(ctx, caller, want, r.IfMatch, sealed, deleted)
}

// readSecrets parts the secrets to be put from the names of those to be deleted.
func readSecrets(given []contract.Secret) (put []contract.Secret, deleted []string, err error) {
	c := newChecker("secrets")
	if len(given) == 0 {
		c.refuse("secrets", "is required: one secret or more")
	}
	if !allDiffer(given, func(s contract.Secret) string { return s.Name }) {
		c.refuse("secrets", "must have names that differ")
	}
	for i, s := range given {
		if string(s.Value) != "null" {
			apply(c, fmt.Sprintf("secrets[%d]", i), secretRules, s)
			put = append(put, s)
			continue
		}
		if !secretPattern.MatchString(s.Name) {
			c.refuse(fmt.Sprintf("secrets[%d].name", i), secretRules[0].text)
		}
		deleted = append(deleted, s.Name)
	}
	return put, deleted, c.Err()
}

// DeleteSecret deletes one secret.
func (f *Functions) DeleteSecret(ctx context.Context, r contract.SecretRequest) (rpc.None, error) {
	caller, want, err := named(ctx, r.FunctionID, r.VersionID)
	if err != nil {
		return rpc.None{}, err
	}
	if !secretPattern.MatchString(r.Name) {
		c := newChecker("path")
		c.refuse("name", secretRules[0].text)
		return rpc.None{}, c.Err()
	}
	return rpc.None{}, f.changeSecrets(ctx, caller, want, r.IfMatch, nil, []string{r.Name})
}

// changeSecrets writes values that are sealed already. The event names what changed; the values stay here until an
// instance asks for them.
func (f *Functions) changeSecrets(ctx context.Context, caller access.Caller, want pair, ifMatch string, put []sealedSecret, deleted []string) error {
	return f.store.change(ctx, func(u unit) error {
		v, err := u.lockFor(ctx, access.WriteSecrets, caller, want, ifMatch)
		if err != nil {
			return err
		}
		have, err := u.secrets(ctx, v.id)
		if err != nil {
			return err
		}
		if len(have) == 0 && v.status != contract.Inactive && len(put) > 0 {
			return problem.New(problem.IllegalState,
				"version '%s' has no secrets yet and is %s; its first secrets can be set only while it is INACTIVE", v.id, v.status)
		}
		for _, name := range deleted {
			if !slices.ContainsFunc(have, func(s sealedSecret) bool { return s.name == name }) {
				return problem.New(problem.NotFound, "Secret '%s': Not found in version '%s'", name, v.id)
			}
		}
		if err := fitsWith(v.spec, have, put, deleted); err != nil {
			return err
		}
		v.updatedAt = f.moment()
		if err := u.touch(ctx, v); err != nil {
			return err
		}
		if err := u.putSecrets(ctx, v, put); err != nil {
			return err
		}
		if err := u.dropSecrets(ctx, v, deleted); err != nil {
			return err
		}
		changed := contract.SecretsChanged{FunctionID: v.functionID, VersionID: v.id, Deleted: deleted}
		for _, s := range put {
			changed.Changed = append(changed.Changed, s.name)
		}
		return tell(ctx, u, contract.SecretsUpdated, v, changed)
	})
}

// fitsWith keeps a version with all its secrets within one message to the node that starts it.
func fitsWith(spec contract.Spec, have, put []sealedSecret, deleted []string) error {
	text, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("encode specification: %w", err)
	}
	size := len(text)
	for _, s := range put {
		size += len(s.name) + len(s.value)
	}
	for _, s := range have {
		replaced := slices.Contains(deleted, s.name) || slices.ContainsFunc(put, func(p sealedSecret) bool { return p.name == s.name })
		if !replaced {
			size += len(s.name) + len(s.value)
		}
	}
	if size > maxRequest {
		return problem.New(problem.TooLarge, "a specification with its secrets has %d bytes at most", maxRequest)
	}
	return nil
}

// ListSecrets names the secrets of a version.
func (f *Functions) ListSecrets(ctx context.Context, r contract.VersionRequest) (contract.SecretNamesResponse, error) {
	answer := contract.SecretNamesResponse{Secrets: []contract.SecretName{}}
	caller, want, err := named(ctx, r.FunctionID, r.VersionID)
	if err != nil {
		return answer, err
	}
	v, err := f.store.findFor(ctx, access.WriteSecrets, caller, want)
	if err != nil {
		return answer, err
	}
	all, err := f.store.secrets(ctx, v.id)
	for _, s := range all {
		answer.Secrets = append(answer.Secrets, contract.SecretName{Name: s.name, LastUpdatedAt: s.updatedAt.UTC()})
	}
	return answer, err
}
