package directory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/directory"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// The types of scope. A rule about the system or its one tenant is about the whole install; the narrower ones are kept
// and shown, but a token carries no resources, so they grant nothing rather than too much.
const (
	systemScope     = "system"
	tenantScope     = "tenant"
	clusterScope    = "cluster"
	departmentScope = "department"
	projectScope    = "project"
)

// installScope is the id of the system and of the tenant.
const installScope = "1"

// maxBatch bounds the rules of one batch.
const maxBatch = 500

var scopeNames = map[string]string{systemScope: "System", tenantScope: "Tenant " + installScope}

// rule is a stored access rule.
type rule struct {
	contract.Rule

	account string
	// subject is whom SubjectID means, nil for a group.
	subject *string
}

// installRule gives a subject a role in the whole install.
func installRule(who subject, role int, by string, now time.Time) *rule {
	return &rule{account: who.account, subject: &who.id, Rule: contract.Rule{
		SubjectID: who.id, SubjectType: string(who.kind), RoleID: role, ScopeID: installScope, ScopeType: systemScope,
		CreatedBy: by, CreatedAt: now, UpdatedAt: now,
	}}
}

// ruleListing is what GET /api/v1/authorization/access-rules may be asked for (keys §9.5).
var ruleListing = listing{
	columns: map[string]column{
		"id": {sql: "r.id", typ: number}, "subjectId": {sql: "r.subject_id"}, "subjectType": {sql: "r.subject_type"},
		"roleId": {sql: "r.role_id", typ: number}, "roleName": {sql: roleNameSQL()}, "scopeId": {sql: "r.scope_id"},
		"scopeType": {sql: "r.scope_type"}, "scopeName": {sql: scopeNameSQL()}, "clusterId": {sql: "r.cluster_id"},
		"createdBy": {sql: "r.created_by"}, "createdAt": {sql: "r.created_at", typ: moment}, "updatedAt": {sql: "r.updated_at", typ: moment},
		"deletedAt": {sql: "r.deleted_at", typ: moment},
	},
	filters: ruleMembers, sorts: ruleMembers,
	operators: []string{"==", "!=", "<=", ">=", "=@", "!@", "=^", "=$"},
	sort:      "id", limit: 50, most: maxBatch, tie: "r.id",
}

var ruleMembers = []string{
	"subjectId", "subjectType", "roleId", "roleName", "scopeId", "scopeType", "scopeName", "clusterId", "createdBy", "createdAt",
	"updatedAt", "deletedAt", "id",
}

func roleNameSQL() string {
	var b strings.Builder
	b.WriteString("(CASE r.role_id")
	for _, r := range roles {
		fmt.Fprintf(&b, " WHEN %d THEN '%s'", r.ID, r.Name)
	}
	b.WriteString(" ELSE '' END)")
	return b.String()
}

func scopeNameSQL() string {
	return "(CASE r.scope_type WHEN 'system' THEN '" + scopeNames[systemScope] + "' WHEN 'tenant' THEN '" + scopeNames[tenantScope] + "' ELSE r.scope_id END)"
}

// shown completes what follows from the stored members.
func (r rule) shown() contract.Rule {
	v := r.Rule
	v.TenantID, v.Status = contract.TenantID, contract.RuleStatus{Phase: "Ready"}
	if role := roleOf(v.RoleID); role != nil {
		v.RoleName = role.Name
	}
	if v.ScopeName = scopeNames[v.ScopeType]; v.ScopeName == "" {
		v.ScopeName = v.ScopeID
		v.Status = contract.RuleStatus{Phase: "NotReady", Message: "takes no effect: roles hold for the whole install, with scope type system or tenant"}
	}
	if v.SubjectType == contract.GroupSubject {
		v.Status = contract.RuleStatus{Phase: "NotReady", Message: "takes no effect: no identity provider is configured, so nobody is in a group"}
	}
	if v.DeletedAt != nil {
		v.Status = contract.RuleStatus{Phase: "Deleting", Message: "deleted; kept for the record for 30 days"}
	}
	return v
}

// CreateRule gives a role to a subject.
func (d *Directory) CreateRule(ctx context.Context, req contract.CreateRuleRequest) (contract.Rule, error) {
	if err := d.mayManage(ctx); err != nil {
		return contract.Rule{}, err
	}
	by, _, err := d.creator(ctx)
	if err != nil {
		return contract.Rule{}, err
	}
	return d.createRule(ctx, req.RuleGrant, by)
}

func (d *Directory) createRule(ctx context.Context, g contract.RuleGrant, by string) (contract.Rule, error) {
	if err := checkRule(&g); err != nil {
		return contract.Rule{}, err
	}
	now := d.now()
	r := rule{account: account(ctx), Rule: contract.Rule{
		SubjectID: g.SubjectID, SubjectType: g.SubjectType, RoleID: g.RoleID, ScopeID: g.ScopeID, ScopeType: g.ScopeType, ClusterID: g.ClusterID,
		CreatedBy: by, CreatedAt: now, UpdatedAt: now,
	}}
	if g.SubjectType != contract.GroupSubject {
		k, what := program, "an application"
		if g.SubjectType == contract.UserSubject {
			k, what = person, "a user"
		}
		who, err := d.ruled(ctx, k, g.SubjectID)
		if err != nil {
			return contract.Rule{}, err
		}
		if who == nil {
			return contract.Rule{}, invalid("subjectId", "must be the id or the name of %s", what)
		}
		r.subject = &who.id
	}
	switch err := d.store.createRule(ctx, &r); {
	case errors.Is(err, errTaken):
		return contract.Rule{}, problem.New(problem.Conflict, "this subject already has this role in this scope")
	case errors.Is(err, errGone):
		return contract.Rule{}, invalid("subjectId", "must be the id of a subject that is not deleted")
	case err != nil:
		return contract.Rule{}, err
	}
	return r.shown(), nil
}

// ruled finds whom a subject id means: an id, or the name that the subject signs in with.
func (d *Directory) ruled(ctx context.Context, k kind, id string) (*subject, error) {
	if who, err := d.subject(ctx, id); err != nil || who != nil && who.kind == k {
		return who, err
	}
	return d.store.named(ctx, k, id)
}

// checkRule checks what a client asks to join, and fills in the one id that the system and the tenant have.
func checkRule(g *contract.RuleGrant) error {
	check := problem.NewCheck("access rule")
	text := func(field, value string, required bool) {
		check.Require(writable(value, maxID) && (value != "" || !required), field, "must be present, with at most %d characters and none for control", maxID)
	}
	text("subjectId", g.SubjectID, true)
	check.Require(slices.Contains([]string{contract.UserSubject, contract.ApplicationSubject, contract.ServiceAccountSubject, contract.GroupSubject}, g.SubjectType),
		"subjectType", "must be one of user, app, service-account, group")
	check.Require(roleOf(g.RoleID) != nil, "roleId", "must be the id of a role, 1 to %d", len(roles))
	switch g.ScopeType {
	case systemScope:
		text("scopeId", g.ScopeID, false)
	case tenantScope:
		check.Require(slices.Contains([]string{"", installScope, access.DefaultAccount}, g.ScopeID), "scopeId", "must be %s, the tenant of this install", installScope)
	case clusterScope, departmentScope, projectScope:
		text("scopeId", g.ScopeID, true)
	default:
		check.Require(false, "scopeType", "must be one of system, tenant, cluster, department, project")
	}
	text("clusterId", g.ClusterID, false)
	if g.ScopeID == "" {
		g.ScopeID = installScope
	}
	return check.Err()
}

// ListRules lists the access rules that a filter selects.
func (d *Directory) ListRules(ctx context.Context, req contract.ListRulesRequest) (contract.RulesResponse, error) {
	if err := d.mayManage(ctx); err != nil {
		return contract.RulesResponse{}, err
	}
	return d.rules(ctx, query{}, req)
}

// MyRules lists the access rules that the caller acts by: its own ones, and for an access key those of its owner.
func (d *Directory) MyRules(ctx context.Context, req contract.ListRulesRequest) (contract.RulesResponse, error) {
	who, err := d.subject(ctx, access.CallerFrom(ctx).Subject)
	if err != nil {
		return contract.RulesResponse{}, err
	}
	if who == nil {
		return contract.RulesResponse{AccessRules: []contract.Rule{}}, nil
	}
	q := query{}
	q.where = append(q.where, "r.subject::text IN ("+q.arg(who.id)+", "+q.arg(who.owner)+")")
	return d.rules(ctx, q, req)
}

func (d *Directory) rules(ctx context.Context, q query, req contract.ListRulesRequest) (contract.RulesResponse, error) {
	if err := ruleQuery(&q, req.RuleFilter); err != nil {
		return contract.RulesResponse{}, err
	}
	if err := ruleListing.paged(&q, req.Page); err != nil {
		return contract.RulesResponse{}, err
	}
	found, total, err := d.store.rules(ctx, q)
	answer := contract.RulesResponse{TotalRecords: total, DisplayRecords: len(found), AccessRules: make([]contract.Rule, 0, len(found))}
	for _, r := range found {
		answer.AccessRules = append(answer.AccessRules, r.shown())
	}
	return answer, err
}

func ruleQuery(q *query, f contract.RuleFilter) error {
	if !f.IncludeDeleted {
		q.where = append(q.where, "r.deleted_at IS NULL")
	}
	return ruleListing.filter(q, "filterBy", f.FilterBy)
}

// CountRules counts the access rules that a filter selects.
func (d *Directory) CountRules(ctx context.Context, req contract.RuleFilter) (contract.CountResponse, error) {
	if err := d.mayManage(ctx); err != nil {
		return contract.CountResponse{}, err
	}
	var q query
	if err := ruleQuery(&q, req); err != nil {
		return contract.CountResponse{}, err
	}
	n, err := d.store.countRules(ctx, q)
	return contract.CountResponse{Count: n}, err
}

// GetRule is one access rule, also a deleted one.
func (d *Directory) GetRule(ctx context.Context, req contract.RuleRequest) (contract.Rule, error) {
	if err := d.mayManage(ctx); err != nil {
		return contract.Rule{}, err
	}
	r, err := d.store.rule(ctx, req.ID)
	if err != nil {
		return contract.Rule{}, err
	}
	if r == nil {
		return contract.Rule{}, notFound("Access rule")
	}
	return r.shown(), nil
}

// DeleteRule takes a role away.
func (d *Directory) DeleteRule(ctx context.Context, req contract.RuleRequest) (rpc.None, error) {
	if err := d.mayManage(ctx); err != nil {
		return rpc.None{}, err
	}
	return rpc.None{}, gone(d.store.deleteRule(ctx, req.ID, d.now()), "Access rule")
}

// DeleteRules takes several roles away, each by itself, or tells whether each could be.
func (d *Directory) DeleteRules(ctx context.Context, req contract.RuleBatchRequest) (contract.RuleBatchResponse, error) {
	if err := d.mayManage(ctx); err != nil {
		return contract.RuleBatchResponse{}, err
	}
	check := problem.NewCheck("request")
	check.Require(len(req.IDs) >= 1 && len(req.IDs) <= maxBatch, "ids", "must hold 1 to %d ids of access rules", maxBatch)
	check.Require(req.Action == "delete" || req.Action == "validate_delete", "action", "must be delete or validate_delete")
	if err := check.Err(); err != nil {
		return contract.RuleBatchResponse{}, err
	}
	answer := contract.RuleBatchResponse{Succeeded: []int64{}, Failed: []contract.FailedRule{}}
	for _, id := range req.IDs {
		err := d.deleteOne(ctx, id, req.Action == "delete")
		p, expected := problem.From(err)
		switch {
		case err == nil:
			answer.Succeeded = append(answer.Succeeded, id)
		case !expected:
			return answer, err
		default:
			answer.Failed = append(answer.Failed, contract.FailedRule{ID: id, Code: p.Status(), Message: p.Detail})
		}
	}
	return answer, nil
}

func (d *Directory) deleteOne(ctx context.Context, id int64, really bool) error {
	if really {
		return gone(d.store.deleteRule(ctx, id, d.now()), "Access rule")
	}
	r, err := d.store.rule(ctx, id)
	if err == nil && (r == nil || r.DeletedAt != nil) {
		return notFound("Access rule")
	}
	return err
}

// CreateRules gives one role to several subjects in several scopes, each rule by itself.
func (d *Directory) CreateRules(ctx context.Context, req contract.CreateRulesRequest) (contract.CreateRulesResponse, error) {
	if err := d.mayManage(ctx); err != nil {
		return contract.CreateRulesResponse{}, err
	}
	p := req.Payload
	if n := len(p.Subjects) * len(p.Scopes); n < 1 || n > maxBatch {
		return contract.CreateRulesResponse{}, invalid("payload", "must hold subjects and scopes that make 1 to %d rules", maxBatch)
	}
	by, _, err := d.creator(ctx)
	if err != nil {
		return contract.CreateRulesResponse{}, err
	}
	answer := contract.CreateRulesResponse{Succeeded: []contract.Rule{}, Failed: []contract.FailedRule{}}
	for _, subject := range p.Subjects {
		for _, scope := range p.Scopes {
			g := contract.RuleGrant{
				RoleID: p.RoleID, ClusterID: p.ClusterID,
				SubjectID: either(subject.SubjectID, subject.ID), SubjectType: either(subject.SubjectType, subject.Type),
				ScopeID: either(scope.ScopeID, scope.ID), ScopeType: either(scope.ScopeType, scope.Type),
			}
			made, err := d.createRule(ctx, g, by)
			p, expected := problem.From(err)
			switch {
			case err == nil:
				answer.Succeeded = append(answer.Succeeded, made)
			case !expected:
				return answer, err
			default:
				answer.Failed = append(answer.Failed, contract.FailedRule{Rule: &g, Code: p.Status(), Message: p.Detail})
			}
		}
	}
	return answer, nil
}

func either(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
