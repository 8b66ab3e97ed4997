package access

import "encoding/json"

// ExplainRequest is POST /v1/keys/explain (keys §4.6): may a credential make a request? Either Key or Authorizations is
// given; the second asks about a key that need not exist.
type ExplainRequest struct {
	// Key is an opaque key or a token.
	Key            string          `json:"key,omitempty" secret:"true"`
	Authorizations json.RawMessage `json:"authorizations,omitempty"`
	Method         string          `json:"method"`
	// Host matters only where it decides, as for invocations.
	Host string `json:"host,omitempty"`
	Path string `json:"path"`
	// ClientIP is where the request would come from; that of the one who asks when it is empty.
	ClientIP string `json:"client_ip,omitempty"`
}

// Explanation answers ExplainRequest. It is what the gateway would decide, without the request being made.
type Explanation struct {
	Allowed bool `json:"allowed"`
	// Status is that of the answer, as far as access decides it, and as it is known whether what the path names exists: 404
	// also when it belongs to another account.
	Status int `json:"status"`
	// RequiredScopes are all needed, with a resource of one of CompatibleResourceTypes.
	RequiredScopes          []Scope  `json:"required_scopes"`
	CompatibleResourceTypes []string `json:"compatible_resource_types"`
	Reason                  Reason   `json:"reason"`
	// Rule names the row of the matrix that decided; empty when none did.
	Rule string `json:"rule,omitempty"`
	// Detail is the decision in a sentence.
	Detail string `json:"detail"`
}
