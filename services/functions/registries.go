package functions

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/store"
)

// maxHostname is how long the host of a credential may be.
const maxHostname = 255

// registryPlace is what the secret of a registry credential is bound to.
func registryPlace(id string) string { return "registry-credential/" + id }

// CreateRegistryCredential adds a credential to the caller's account (§7).
func (f *Functions) CreateRegistryCredential(ctx context.Context, r contract.CreateRegistryCredentialRequest) (contract.RegistryCredentialResponse, error) {
	caller, err := client(ctx)
	if err != nil {
		return contract.RegistryCredentialResponse{}, err
	}
	return f.addCredential(ctx, caller.Account, contract.ByUser, r.NewRegistryCredential, false)
}

// AddRegistryCredential adds a credential to an account that the request names, for the service that owns accounts.
func (f *Functions) AddRegistryCredential(ctx context.Context, r contract.AddRegistryCredentialRequest) (contract.RegistryCredentialResponse, error) {
	c := newChecker("registryCredential")
	by := upper(r.ProvisionedBy)
	if by == "" {
		by = contract.ByUser
	}
	if r.Account == "" {
		c.refuse("account", "is required")
	}
	if by != contract.ByUser && by != contract.BySystem {
		c.refuse("provisionedBy", "must be SYSTEM or USER")
	}
	if err := c.Err(); err != nil {
		return contract.RegistryCredentialResponse{}, err
	}
	return f.addCredential(ctx, r.Account, by, r.NewRegistryCredential, r.CheckOnly)
}

func (f *Functions) addCredential(ctx context.Context, account, by string, r contract.NewRegistryCredential, checkOnly bool) (contract.RegistryCredentialResponse, error) {
	none := contract.RegistryCredentialResponse{}
	cred, secret, err := f.newCredential(r)
	if err != nil {
		return none, err
	}
	cred.NCAID, cred.ProvisionedBy = account, by
	cred.RegistryCredentialID, cred.CreatedAt = uuid.NewString(), f.moment()
	cred.LastUpdatedAt = cred.CreatedAt
	answer := contract.RegistryCredentialResponse{RegistryCredential: cred}
	if checkOnly {
		return answer, nil
	}
	owner, err := f.accounts(ctx, account)
	if err != nil {
		return none, err
	}
	room := func(db reads) error {
		all, err := db.credentials(ctx, account)
		switch {
		case err != nil:
			return err
		case slices.ContainsFunc(all, func(other contract.RegistryCredential) bool { return sameCredential(other, cred) }):
			return credentialTaken(cred)
		case len(all) >= owner.MaxRegistryCredentialsAllowed:
			return limitReached(account, len(all), "registry credentials", "maxRegistryCredentialsAllowed")
		}
		return nil
	}
	// Looked at twice: no registry is asked about what is refused anyway, and what counts is the look under the lock.
	if err := room(f.store.reads); err != nil {
		return none, err
	}
	if err := f.tryLogin(ctx, cred, secret); err != nil {
		return none, err
	}
	sealed, err := f.vault.Seal(ctx, registryPlace(cred.RegistryCredentialID), r.Secret.Value)
	if err != nil {
		return none, err
	}
	err = f.store.change(ctx, func(u unit) error {
		if err := u.lockAll(ctx, "registry-credentials", account); err != nil {
			return err
		}
		if err := room(u.reads); err != nil {
			return err
		}
		if err := u.insertCredential(ctx, cred, sealed); err != nil {
			return err
		}
		return announce(ctx, u, contract.RegistryCredentialCreated, account, cred.RegistryCredentialID, answer)
	})
	return answer, err
}

func sameCredential(a, b contract.RegistryCredential) bool {
	return strings.EqualFold(a.RegistryHostname, b.RegistryHostname) && a.RegistryCredentialName == b.RegistryCredentialName
}

func credentialTaken(cred contract.RegistryCredential) error {
	return problem.New(problem.Conflict, "Registry credential '%s' for '%s' already exists in account '%s'", cred.RegistryCredentialName, cred.RegistryHostname, cred.NCAID)
}

// newCredential holds a request against the rules of §7.
func (f *Functions) newCredential(r contract.NewRegistryCredential) (contract.RegistryCredential, login, error) {
	c := newChecker("registryCredential")
	host := strings.TrimSpace(r.RegistryHostname)
	cred := contract.RegistryCredential{
		RegistryHostname: host, ArtifactTypes: artifactTypes(c, "artifactTypes", r.ArtifactTypes),
		Tags: distinct(r.Tags), Description: unblank(r.Description),
	}
	switch {
	case host == "":
		c.refuse("registryHostname", "is required")
	case len(host) > maxHostname || !isHostname(host) && !f.recognized.lists(host):
		c.refuse("registryHostname", "must be a host name such as nvcr.io, without scheme, port and path; with a port only if the operator lists it")
	default:
		cred.RegistryName = f.recognizes(c, host, cred.ArtifactTypes)
	}
	if len(r.ArtifactTypes) == 0 {
		c.refuse("artifactTypes", fmt.Sprintf("is required: at least one of %v", contract.ArtifactTypes))
	}
	if len(cred.Tags) > maxTags {
		c.refuse("tags", "must have 64 entries at most")
	}
	checkTags(c, cred.Tags)
	if !isDescription(cred.Description) {
		c.refuse("description", "must have 256 characters at most, none of them NUL")
	}
	secret := readLogin(c, host, r.Secret)
	if r.Secret != nil {
		cred.RegistryCredentialName = r.Secret.Name
	}
	cred.KeyType = keyType(host, secret)
	return cred, secret, c.Err()
}

// recognizes refuses the types for which a host is not recognised, and names the registry it belongs to.
func (f *Functions) recognizes(c *checker, host string, kinds []contract.ArtifactType) (name string) {
	for _, kind := range kinds {
		found, ok := f.recognized.find(kind, host)
		if !ok {
			c.refuse("registryHostname", fmt.Sprintf("'%s' is not a recognized registry for %s artifacts; see /v2/nvcf/recognized-registries", short(host), kind))
		}
		if name == "" {
			name = found.name
		}
	}
	return name
}

// artifactTypes brings types to the spelling of answers, each once.
func artifactTypes(c *checker, field string, given []contract.ArtifactType) []contract.ArtifactType {
	var kinds []contract.ArtifactType
	for i, k := range given {
		kind := contract.ArtifactType(upper(string(k)))
		switch {
		case !slices.Contains(contract.ArtifactTypes, kind):
			c.refuse(fmt.Sprintf("%s[%d]", field, i), fmt.Sprintf("must be one of %v", contract.ArtifactTypes))
		case !slices.Contains(kinds, kind):
			kinds = append(kinds, kind)
		}
	}
	return kinds
}

// ListRegistryCredentials returns the credentials of the account, newest first.
func (f *Functions) ListRegistryCredentials(ctx context.Context, r contract.ListRegistryCredentialsRequest) (contract.RegistryCredentialsResponse, error) {
	answer := contract.RegistryCredentialsResponse{RegistryCredentials: []contract.RegistryCredential{}}
	caller, err := client(ctx)
	if err != nil {
		return answer, err
	}
	c := newChecker("query")
	var given []contract.ArtifactType
	for k := range strings.SplitSeq(strings.Join(r.ArtifactTypes, ","), ",") {
		if strings.TrimSpace(k) != "" {
			given = append(given, contract.ArtifactType(k))
		}
	}
	kinds, by := artifactTypes(c, "artifactType", given), upper(r.ProvisionedBy)
	if by != "" && by != contract.BySystem && by != contract.ByUser {
		c.refuse("provisionedBy", "must be SYSTEM or USER")
	}
	if err := c.Err(); err != nil {
		return answer, err
	}
	all, err := f.store.credentials(ctx, caller.Account)
	for _, cred := range all {
		serves := len(kinds) == 0 || slices.ContainsFunc(kinds, func(k contract.ArtifactType) bool { return slices.Contains(cred.ArtifactTypes, k) })
		if serves && (by == "" || by == cred.ProvisionedBy) {
			answer.RegistryCredentials = append(answer.RegistryCredentials, cred)
		}
	}
	return answer, err
}

// GetRegistryCredential returns one credential.
func (f *Functions) GetRegistryCredential(ctx context.Context, r contract.RegistryCredentialRequest) (contract.RegistryCredentialResponse, error) {
	none := contract.RegistryCredentialResponse{}
	caller, credentialID, err := credentialNamed(ctx, r.RegistryCredentialID)
	if err != nil {
		return none, err
	}
	cred, found, err := f.store.credential(ctx, caller.Account, credentialID, unlocked)
	if err == nil && !found {
		err = credentialNotFound(caller.Account, credentialID)
	}
	return contract.RegistryCredentialResponse{RegistryCredential: cred}, err
}

func credentialNamed(ctx context.Context, given string) (caller access.Caller, credentialID string, err error) {
	if caller, err = client(ctx); err != nil {
		return caller, "", err
	}
	credentialID, err = id("registryCredentialId", given)
	return caller, credentialID, err
}

// UpdateRegistryCredential replaces the secret of a credential, or adds types to it, or both.
func (f *Functions) UpdateRegistryCredential(ctx context.Context, r contract.UpdateRegistryCredentialRequest) (contract.RegistryCredentialResponse, error) {
	none := contract.RegistryCredentialResponse{}
	caller, credentialID, err := credentialNamed(ctx, r.RegistryCredentialID)
	if err != nil {
		return none, err
	}
	c := newChecker("registryCredential")
	if r.Secret == nil && len(r.ArtifactTypes) == 0 {
		c.refuse("body", "must have one of secret and artifactTypeEnums")
	}
	added := artifactTypes(c, "artifactTypeEnums", r.ArtifactTypes)
	if r.Secret != nil {
		readLogin(c, "", r.Secret)
	}
	if err := c.Err(); err != nil {
		return none, err
	}
	before, found, err := f.store.credential(ctx, caller.Account, credentialID, unlocked)
	if err == nil && !found {
		err = credentialNotFound(caller.Account, credentialID)
	}
	if err != nil {
		return none, err
	}
	sealed, err := f.resealed(ctx, before, r.Secret)
	if err != nil {
		return none, err
	}
	var answer contract.RegistryCredentialResponse
	err = f.store.change(ctx, func(u unit) error {
		cred, found, err := u.credential(ctx, caller.Account, credentialID, forUpdate)
		if err != nil {
			return err
		}
		if !found {
			return credentialNotFound(caller.Account, credentialID)
		}
		if err := f.amend(&cred, r.Secret, added); err != nil {
			return err
		}
		cred.LastUpdatedAt = f.moment()
		if err := u.saveCredential(ctx, cred, sealed); err != nil {
			return err
		}
		answer.RegistryCredential = cred
		return announce(ctx, u, contract.RegistryCredentialUpdated, caller.Account, credentialID, answer)
	})
	if store.IsUnique(err, "registry_credentials_host") {
		before.RegistryCredentialName = r.Secret.Name
		err = credentialTaken(before)
	}
	return answer, err
}

// resealed is the new secret of a credential as it is stored, after its registry was asked about it; nil without one.
func (f *Functions) resealed(ctx context.Context, cred contract.RegistryCredential, s *contract.Secret) ([]byte, error) {
	if s == nil {
		return nil, nil
	}
	c := newChecker("registryCredential")
	secret := readLogin(c, cred.RegistryHostname, s)
	if err := c.Err(); err != nil {
		return nil, err
	}
	if err := f.tryLogin(ctx, cred, secret); err != nil {
		return nil, err
	}
	return f.vault.Seal(ctx, registryPlace(cred.RegistryCredentialID), s.Value)
}

// amend applies an update to a credential.
func (f *Functions) amend(cred *contract.RegistryCredential, s *contract.Secret, added []contract.ArtifactType) error {
	c := newChecker("registryCredential")
	for _, kind := range added {
		if slices.Contains(cred.ArtifactTypes, kind) {
			c.refuse("artifactTypeEnums", fmt.Sprintf("'%s' is already among the types of this credential; the types given here are added", kind))
		}
	}
	f.recognizes(c, cred.RegistryHostname, added)
	if err := c.Err(); err != nil {
		return err
	}
	cred.ArtifactTypes = append(cred.ArtifactTypes, added...)
	slices.SortFunc(cred.ArtifactTypes, func(a, b contract.ArtifactType) int {
		return slices.Index(contract.ArtifactTypes, a) - slices.Index(contract.ArtifactTypes, b)
	})
	if s != nil {
		cred.RegistryCredentialName = s.Name
		secret, _ := parseLogin(s.Value)
		cred.KeyType = keyType(cred.RegistryHostname, secret)
	}
	return nil
}

// DeleteRegistryCredential removes a credential of the account's own that no function of it needs.
func (f *Functions) DeleteRegistryCredential(ctx context.Context, r contract.RegistryCredentialRequest) (rpc.None, error) {
	caller, credentialID, err := credentialNamed(ctx, r.RegistryCredentialID)
	if err != nil {
		return rpc.None{}, err
	}
	return rpc.None{}, f.store.change(ctx, func(u unit) error {
		cred, found, err := u.credential(ctx, caller.Account, credentialID, forUpdate)
		if err != nil {
			return err
		}
		if !found {
			return credentialNotFound(caller.Account, credentialID)
		}
		if cred.ProvisionedBy == contract.BySystem {
			return problem.New(problem.IllegalState, "Registry Credential '%s' was provided by the system and cannot be deleted", credentialID)
		}
		var user *pair
		var uses artifact
		err = u.eachSource(ctx, caller.Account, func(p pair, spec contract.Spec) bool {
			for _, a := range artifactsOf(spec) {
				if slices.Contains(cred.ArtifactTypes, a.kind) && under(a.host, cred.RegistryHostname) {
					user, uses = &p, a
					return false
				}
			}
			return true
		})
		if err != nil {
			return err
		}
		if user != nil {
			return problem.New(problem.IllegalState, "Registry Credential '%s' is used for the %s artifact of function id '%s', version '%s'; delete that first",
				credentialID, uses.kind, user.functionID, user.versionID)
		}
		if err := u.deleteCredential(ctx, credentialID); err != nil {
			return err
		}
		return announce(ctx, u, contract.RegistryCredentialDeleted, caller.Account, credentialID, contract.RegistryCredentialResponse{RegistryCredential: cred})
	})
}

func credentialNotFound(account, credentialID string) *problem.Problem {
	return problem.New(problem.NotFound, "Registry Credential '%s': Not found in account '%s'", credentialID, account)
}
