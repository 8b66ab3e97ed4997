// Package problem holds the one error shape of Sirocco: an RFC 9457 problem document with a stable code.
//
// Domain code returns a *Problem (it is an error); each edge maps it once: the gateway to an HTTP body, the bus to an
// error reply, the CLI to a sentence and an exit code. Everything else that reaches an edge is an internal error, whose
// text is logged there and never sent.
package problem

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Code is the stable machine name of a problem; clients and tests may rely on it. [Registry] lists all.
type Code string

// The codes. The HTTP status and the wire type of each are in [Registry].
const (
	BadRequest         Code = "bad_request"
	Validation         Code = "validation_failed"
	IllegalState       Code = "illegal_state"
	Unauthorized       Code = "unauthorized"
	PaymentRequired    Code = "payment_required"
	Forbidden          Code = "forbidden"
	ScopeMissing       Code = "scope_missing"
	ResourceType       Code = "resource_type_incompatible"
	ResourceNotCovered Code = "resource_not_covered"
	AudienceMismatch   Code = "audience_mismatch"
	AccountMismatch    Code = "account_mismatch"
	CIDRDenied         Code = "cidr_denied"
	NotFound           Code = "not_found"
	RouteNotFound      Code = "route_not_found"
	MethodNotAllowed   Code = "method_not_allowed"
	Timeout            Code = "request_timeout"
	Conflict           Code = "conflict"
	PreconditionFailed Code = "precondition_failed"
	TooLarge           Code = "too_large"
	UnsupportedMedia   Code = "unsupported_media_type"
	Unprocessable      Code = "unprocessable_entity"
	HeadersTooLarge    Code = "headers_too_large"
	TooManyRequests    Code = "too_many_requests"
	QueueFull          Code = "queue_full"
	RateLimited        Code = "rate_limited"
	Internal           Code = "internal"
	Upstream           Code = "upstream"
	Unavailable        Code = "unavailable"
	GatewayTimeout     Code = "gateway_timeout"
)

// Kind says how a code shows on the wire.
type Kind struct {
	Status int
	Slug   string
	Title  string
}

// typePrefix is what published clients expect in front of the slug (functions-deployments §1.2).
const typePrefix = "urn:nv-boot:problem-details:"

// Registry maps every code to its wire form. It is the source of docs/reference/problems.md.
var Registry = map[Code]Kind{
	BadRequest:         {400, "bad-request", "Bad Request"},
	Validation:         {400, "bad-request", "Bad Request"},
	IllegalState:       {400, "bad-request", "Bad Request"},
	Unauthorized:       {401, "unauthorized", "Unauthorized"},
	PaymentRequired:    {402, "payment-required", "Payment Required"},
	Forbidden:          {403, "forbidden", "Forbidden"},
	ScopeMissing:       {403, "forbidden", "Forbidden"},
	ResourceType:       {403, "forbidden", "Forbidden"},
	ResourceNotCovered: {403, "forbidden", "Forbidden"},
	AudienceMismatch:   {403, "forbidden", "Forbidden"},
	AccountMismatch:    {403, "forbidden", "Forbidden"},
	CIDRDenied:         {403, "forbidden", "Forbidden"},
	NotFound:           {404, "not-found", "Not Found"},
	RouteNotFound:      {404, "not-found", "Not Found"},
	MethodNotAllowed:   {405, "method-not-allowed", "Method Not Allowed"},
	Timeout:            {408, "request-timeout", "Request Timeout"},
	Conflict:           {409, "conflict", "Conflict"},
	PreconditionFailed: {412, "precondition-failed", "Precondition Failed"},
	TooLarge:           {413, "content-too-large", "Content Too Large"},
	UnsupportedMedia:   {415, "unsupported-media-type", "Unsupported Media Type"},
	Unprocessable:      {422, "unprocessable-entity", "Unprocessable Entity"},
	HeadersTooLarge:    {431, "request-header-fields-too-large", "Request Header Fields Too Large"},
	TooManyRequests:    {429, "too-many-requests", "Too Many Requests"},
	QueueFull:          {429, "too-many-requests", "Too Many Requests"},
	RateLimited:        {429, "too-many-requests", "Too Many Requests"},
	Internal:           {500, "internal-server-error", "Internal Server Error"},
	Upstream:           {502, "upstream", "Bad Gateway"},
	Unavailable:        {503, "service-unavailable", "Service Unavailable"},
	GatewayTimeout:     {504, "gateway-timeout", "Gateway Timeout"},
}

// Violation is one broken rule of a request body or parameter.
type Violation struct {
	// Object is what kind of thing was validated, such as function.
	Object string `json:"object,omitempty"`
	// Field is the path of the offending member, such as health.port or models[1].name.
	Field string `json:"field"`
	// Rejected is what the client sent there, at most 256 characters of it; [Hidden] for a secret. Only the edge that read the
	// request knows it (see [Problem.Quoting]).
	Rejected string `json:"rejected,omitempty"`
	// Rule is a sentence that says what would be accepted.
	Rule string `json:"rule"`
}

// Problem is an error with a code. Detail is for people; clients match only on the substrings that
// functions-deployments §1.2 names.
type Problem struct {
	Code                  Code        `json:"code"`
	Detail                string      `json:"detail"`
	Violations            []Violation `json:"errors,omitempty"`
	RequiredScopes        []string    `json:"required_scopes,omitempty"`
	RequiredResourceTypes []string    `json:"required_resource_types,omitempty"`
	// RetryAfterSeconds becomes the Retry-After header when positive.
	RetryAfterSeconds int `json:"retry_after_seconds,omitempty"`
}

// New makes a problem with a formatted detail.
func New(code Code, format string, args ...any) *Problem {
	return &Problem{Code: code, Detail: fmt.Sprintf(format, args...)}
}

// Error makes Problem an error.
func (p *Problem) Error() string { return string(p.Code) + ": " + p.Detail }

// Is lets errors.Is compare problems by code.
func (p *Problem) Is(target error) bool {
	var t *Problem
	return errors.As(target, &t) && t.Code == p.Code
}

// Kind returns the wire form of the code; an unknown code counts as internal.
func (p *Problem) Kind() Kind {
	if k, ok := Registry[p.Code]; ok {
		return k
	}
	return Registry[Internal]
}

// Status is the HTTP status of the code.
func (p *Problem) Status() int { return p.Kind().Status }

// From finds the problem in an error chain. Any other error becomes [Internal] with a fixed text, because its own text
// may hold what a client must not see; ok tells the caller to log it.
func From(err error) (p *Problem, ok bool) {
	if errors.As(err, &p) {
		return p, true
	}
	return &Problem{Code: Internal, Detail: "Internal Server Error"}, false
}

// HasCode reports whether err is a problem with that code.
func HasCode(err error, code Code) bool {
	var p *Problem
	return errors.As(err, &p) && p.Code == code
}

// Document is the JSON body of a problem on the HTTP side.
type Document struct {
	Type                  string      `json:"type"`
	Title                 string      `json:"title"`
	Status                int         `json:"status"`
	Detail                string      `json:"detail"`
	Instance              string      `json:"instance,omitempty"`
	Code                  Code        `json:"code"`
	RequestID             string      `json:"requestId,omitempty"`
	Violations            []Violation `json:"errors,omitempty"`
	RequiredScopes        []string    `json:"required_scopes,omitempty"`
	RequiredResourceTypes []string    `json:"required_resource_types,omitempty"`
	// RequestStatus repeats the detail for clients of the organisation-prefixed aliases (functions-deployments §13).
	RequestStatus *RequestStatus `json:"requestStatus,omitempty"`
}

// RequestStatus is the envelope that clients of /v2/orgs/… read first.
type RequestStatus struct {
	StatusCode        string `json:"statusCode"`
	StatusDescription string `json:"statusDescription"`
	RequestID         string `json:"requestId,omitempty"`
}

// Document renders p for one request.
func (p *Problem) Document(path, requestID string) Document {
	k := p.Kind()
	return Document{
		Type: typePrefix + k.Slug, Title: k.Title, Status: k.Status, Detail: p.Detail, Instance: path,
		Code: p.Code, RequestID: requestID, Violations: p.Violations,
		RequiredScopes: p.RequiredScopes, RequiredResourceTypes: p.RequiredResourceTypes,
	}
}

// ContentType is the media type of a [Document].
const ContentType = "application/problem+json"

// Parse reads a problem from the JSON that [Problem] marshals to, as the bus carries it.
func Parse(b []byte) (*Problem, error) {
	var p Problem
	if err := json.Unmarshal(b, &p); err != nil {
		return nil, fmt.Errorf("problem: %w", err)
	}
	if p.Code == "" {
		return nil, errors.New("problem: no code")
	}
	return &p, nil
}

// Hidden stands for a rejected value that nobody may read.
const Hidden = "[hidden]"

// maxRejected is how much of a rejected value is told, in characters (functions-deployments §1.2).
const maxRejected = 256

// Quoting returns p with what the client sent in place of every violation, as sent tells it for a field. A violation that
// says it already keeps what it says.
func (p *Problem) Quoting(sent func(field string) string) *Problem {
	if len(p.Violations) == 0 {
		return p
	}
	q := *p
	q.Violations = slices.Clone(p.Violations)
	for i, v := range q.Violations {
		if v.Rejected == "" {
			q.Violations[i].Rejected = cut(sent(v.Field))
		}
	}
	if p.Detail == describe(p.Violations) {
		q.Detail = describe(q.Violations)
	}
	return &q
}

func cut(s string) string {
	n := 0
	for i := range s {
		if n++; n > maxRejected {
			return s[:i]
		}
	}
	return s
}

// describe is the text that clients show to people: one group in brackets per violation (functions-deployments §1.2).
func describe(violations []Violation) string {
	var b strings.Builder
	b.WriteString("Validation failed:")
	for _, v := range violations {
		fmt.Fprintf(&b, " [object: %s, field: %s, ", v.Object, v.Field)
		if v.Rejected != "" {
			fmt.Fprintf(&b, "rejected: %s, ", v.Rejected)
		}
		fmt.Fprintf(&b, "message: %s]", v.Rule)
	}
	return b.String()
}

// maxViolations bounds an answer, for a client can break a rule in each of a million elements.
const maxViolations = 64

// Check collects violations while a request is validated, so that a client sees all of them at once, up to a number that
// an answer can hold.
type Check struct {
	object     string
	violations []Violation
}

// NewCheck starts a validation of the named kind of object, for example "function".
func NewCheck(object string) *Check { return &Check{object: object} }

// Require records a violation of rule by field unless ok.
func (c *Check) Require(ok bool, field, rule string, args ...any) {
	if !ok && !c.Full() {
		c.violations = append(c.violations, Violation{Object: c.object, Field: field, Rule: fmt.Sprintf(rule, args...)})
	}
}

// Full reports whether more violations would not be told.
func (c *Check) Full() bool { return len(c.violations) >= maxViolations }

// Err is nil when every rule held, else a [Validation] problem that names each field and rule.
func (c *Check) Err() error {
	if len(c.violations) == 0 {
		return nil
	}
	return &Problem{Code: Validation, Detail: describe(c.violations), Violations: c.violations}
}
