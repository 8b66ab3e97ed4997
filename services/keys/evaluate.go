package keys

import (
	"context"
	"regexp"
	"slices"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
)

// namespaces maps the namespaces of keys §4.9 to service ids.
var namespaces = map[string]string{
	"nvcf": access.FunctionsAudience, "nvct": access.TasksAudience, "event-ledger": access.EventsAudience,
}

var ruleShape = regexp.MustCompile(`^[\w-]+\.allow$`)

// Evaluate tells a service what a key may do there (keys §4.9). A key that is no good is an answer, not an error.
func (k *Keys) Evaluate(ctx context.Context, req contract.EvaluateRequest) (contract.EvaluateResponse, error) {
	audience, ok := namespaces[req.Namespace]
	switch {
	case !ok:
		return contract.EvaluateResponse{}, invalid("namespace", "must be one of nvcf, nvct and event-ledger")
	case !ruleShape.MatchString(req.Rule):
		return contract.EvaluateResponse{}, invalid("rule", "must be a name followed by .allow, such as apikey.allow")
	case req.Input.APIKey == "":
		return contract.EvaluateResponse{}, invalid("input.apiKey", "must be present")
	}
	answer := contract.EvaluateResponse{Namespace: req.Namespace, RuleName: req.Rule, CacheControl: "max-age=60"}
	now := k.now()
	hash, ok := k.format.Parse(req.Input.APIKey)
	if !ok {
		return answer, nil
	}
	r, err := k.store.byHash(ctx, hash)
	if err != nil {
		return contract.EvaluateResponse{}, err
	}
	if r == nil || !r.usable(now) || !slices.Contains(r.audiences, audience) {
		return answer, nil
	}
	matching := access.PoliciesFor(audience, []byte(r.authorizations))
	if len(matching) == 0 {
		return answer, nil
	}
	answer.Result = contract.Evaluation{
		Allowed: true, NCAID: r.account, OwnerID: r.ownerID, Policy: matching[0], Policies: matching,
		KeyID: r.id, Version: r.version, ExpiresAt: &r.expiresAt, AsOf: &now,
	}
	return answer, nil
}
