package directory

import (
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// The kinds of subject of an access rule.
const (
	UserSubject           = "user"
	ApplicationSubject    = "app"
	ServiceAccountSubject = "service-account"
	GroupSubject          = "group"
)

// Rule is an access rule: it gives a role to a subject within a scope. SubjectID and ScopeID are as the client wrote them.
type Rule struct {
	ID          int64      `json:"id"`
	SubjectID   string     `json:"subjectId"`
	SubjectType string     `json:"subjectType"`
	RoleID      int        `json:"roleId"`
	RoleName    string     `json:"roleName"`
	ScopeID     string     `json:"scopeId"`
	ScopeType   string     `json:"scopeType"`
	ScopeName   string     `json:"scopeName"`
	ClusterID   string     `json:"clusterId,omitempty"`
	TenantID    int        `json:"tenantId"`
	CreatedBy   string     `json:"createdBy"`
	CreatedAt   time.Time  `json:"createdAt"`
	UpdatedAt   time.Time  `json:"updatedAt"`
	DeletedAt   Moment     `json:"deletedAt"`
	Status      RuleStatus `json:"status"`
}

// RuleStatus says whether a rule takes effect, and if not, why.
type RuleStatus struct {
	// Phase is Creating, Ready, NotReady or Deleting.
	Phase   string `json:"phase"`
	Message string `json:"message"`
	Details string `json:"details"`
}

// RuleGrant is what a rule joins.
type RuleGrant struct {
	SubjectID   string `json:"subjectId"`
	SubjectType string `json:"subjectType"`
	RoleID      int    `json:"roleId"`
	ScopeID     string `json:"scopeId"`
	ScopeType   string `json:"scopeType"`
	ClusterID   string `json:"clusterId,omitempty"`
}

// CreateRuleRequest is POST /api/v1/authorization/access-rules.
type CreateRuleRequest struct{ RuleGrant }

// RuleFilter selects access rules by comparisons such as subjectType==app, of which all must hold.
type RuleFilter struct {
	FilterBy       []string `json:"filterBy,omitempty" query:"filterBy"`
	IncludeDeleted bool     `json:"includeDeleted,omitempty" query:"includeDeleted"`
}

// ListRulesRequest is GET /api/v1/authorization/access-rules.
type ListRulesRequest struct {
	RuleFilter
	Page
}

// RulesResponse is one page of access rules. TotalRecords counts all that the filter selects.
type RulesResponse struct {
	TotalRecords   int    `json:"totalRecords"`
	DisplayRecords int    `json:"displayRecords"`
	AccessRules    []Rule `json:"accessRules"`
}

// RuleRequest names an access rule.
type RuleRequest struct {
	ID int64 `json:"id" path:"id"`
}

// RuleBatchRequest is POST /api/v1/authorization/access-rules/batch. Action is delete or validate_delete.
type RuleBatchRequest struct {
	IDs    []int64 `json:"ids"`
	Action string  `json:"action"`
}

// RuleBatchResponse tells what became of each rule.
type RuleBatchResponse struct {
	Succeeded []int64      `json:"succeeded"`
	Failed    []FailedRule `json:"failed"`
}

// FailedRule is a rule of a batch that was refused.
type FailedRule struct {
	ID      int64      `json:"id,omitempty"`
	Rule    *RuleGrant `json:"rule,omitempty"`
	Code    int        `json:"code"`
	Message string     `json:"message"`
}

// CreateRulesRequest is POST /api/v1/authorization/access-rules/batch-create: one rule for each subject in each scope.
type CreateRulesRequest struct {
	Payload RulesPayload `json:"payload"`
}

// RulesPayload is what the rules of a batch have in common, and where they differ.
type RulesPayload struct {
	RoleID    int        `json:"roleId"`
	ClusterID string     `json:"clusterId,omitempty"`
	Subjects  []RuleEnd  `json:"subjects"`
	Scopes    []RuleSpan `json:"scopes"`
}

// RuleEnd names a subject, by either spelling.
type RuleEnd struct {
	ID          string `json:"id,omitempty"`
	Type        string `json:"type,omitempty"`
	SubjectID   string `json:"subjectId,omitempty"`
	SubjectType string `json:"subjectType,omitempty"`
}

// RuleSpan names a scope, by either spelling.
type RuleSpan struct {
	ID        string `json:"id,omitempty"`
	Type      string `json:"type,omitempty"`
	ScopeID   string `json:"scopeId,omitempty"`
	ScopeType string `json:"scopeType,omitempty"`
}

// CreateRulesResponse tells what became of each rule.
type CreateRulesResponse struct {
	Succeeded []Rule       `json:"succeeded"`
	Failed    []FailedRule `json:"failed"`
}

// Role is a named set of permissions, which are scopes of package access.
type Role struct {
	ID          int      `json:"id"`
	Name        string   `json:"name"`
	Description string   `json:"description"`
	Enabled     bool     `json:"enabled"`
	ScopeType   string   `json:"scopeType"`
	Permissions []string `json:"permissions"`
}

// Permission is one scope, with the roles that hold it.
type Permission struct {
	Name  string `json:"name"`
	Roles []int  `json:"roles"`
}

// The endpoints of access rules, roles and permissions.
var (
	CreateRule      = rpc.Endpoint[CreateRuleRequest, Rule]{Service: "keys", Resource: "access-rule", Verb: "create", Doc: "Gives a role to a user or an application."}
	ListRules       = rpc.Endpoint[ListRulesRequest, RulesResponse]{Service: "keys", Resource: "access-rule", Verb: "list", Doc: "Lists access rules."}
	CountRules      = rpc.Endpoint[RuleFilter, CountResponse]{Service: "keys", Resource: "access-rule", Verb: "count", Doc: "Counts access rules."}
	GetRule         = rpc.Endpoint[RuleRequest, Rule]{Service: "keys", Resource: "access-rule", Verb: "get", Doc: "One access rule."}
	DeleteRule      = rpc.Endpoint[RuleRequest, rpc.None]{Service: "keys", Resource: "access-rule", Verb: "delete", Doc: "Takes a role away; tokens that carry its scopes are refused at once."}
	DeleteRules     = rpc.Endpoint[RuleBatchRequest, RuleBatchResponse]{Service: "keys", Resource: "access-rule", Verb: "delete-batch", Doc: "Deletes several access rules, or tells whether they could be."}
	CreateRules     = rpc.Endpoint[CreateRulesRequest, CreateRulesResponse]{Service: "keys", Resource: "access-rule", Verb: "create-batch", Doc: "Gives a role to several subjects in several scopes."}
	MyRules         = rpc.Endpoint[ListRulesRequest, RulesResponse]{Service: "keys", Resource: "me", Verb: "access-rules", Doc: "Lists the caller's own access rules."}
	ListRoles       = rpc.Endpoint[rpc.None, []Role]{Service: "keys", Resource: "role", Verb: "list", Doc: "Lists the roles of the install."}
	ListPermissions = rpc.Endpoint[rpc.None, []Permission]{Service: "keys", Resource: "permission", Verb: "list", Doc: "Lists the permissions that roles hold."}
)
