package deployments

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// maxPage is the largest limit of a list.
const maxPage = 1000

// listed are the states that a list may be narrowed to; INACTIVE ones are those that still drain.
var listed = map[functions.Status]bool{
	functions.Active: true, functions.Deploying: true, functions.Degrading: true, functions.Degraded: true,
	functions.Error: true, functions.Inactive: true,
}

// List answers with the account's deployments that are busy or failed, the newest first (§11.5); what the key does not
// cover is left out. A page ends at the limit, and its cursor names the last one looked at, so that a page may be
// shorter than its limit and still have one behind it.
func (u *Deployments) List(ctx context.Context, req contract.ListRequest) (contract.ListResponse, error) {
	none := contract.ListResponse{}
	caller := access.CallerFrom(ctx)
	where := `WHERE account = $1 AND teardown <> $2`
	args := []any{caller.Account, forced}
	also := func(condition string, values ...any) {
		marks := make([]any, len(values))
		for n, v := range values {
			args = append(args, v)
			marks[n] = len(args)
		}
		where += ` AND ` + fmt.Sprintf(condition, marks...)
	}
	check := problem.NewCheck("list")
	if len(req.Status) == 0 {
		also(`status <> $%d`, functions.Inactive)
	} else {
		var wanted []string
		for _, s := range req.Status {
			s = strings.ToUpper(s)
			check.Require(listed[functions.Status(s)], "status", "must be ACTIVE, DEPLOYING, DEGRADING, DEGRADED, ERROR or INACTIVE, not '%s'", s)
			wanted = append(wanted, s)
		}
		also(`status = ANY($%d)`, wanted)
	}
	if req.FunctionID != "" {
		check.Require(isUUID(req.FunctionID), "functionId", "must be a UUID")
		also(`function_id::text = $%d`, strings.ToLower(req.FunctionID))
	}
	check.Require(req.Limit == nil || *req.Limit >= 1 && *req.Limit <= maxPage, "limit", "must be between 1 and %d", maxPage)
	if req.Cursor != "" {
		at, id, ok := parseCursor(req.Cursor)
		check.Require(ok, "cursor", "must be the cursor of the page before")
		also(`(created_at < $%[1]d OR created_at = $%[1]d AND id::text > $%[2]d)`, at, id)
	}
	if err := check.Err(); err != nil {
		return none, err
	}
	tail := ` ORDER BY created_at DESC, id::text`
	if req.Limit != nil {
		tail += fmt.Sprintf(` LIMIT %d`, *req.Limit)
	}
	all, err := u.store.list(ctx, u.store.pool, where+tail, args...)
	if err != nil {
		return none, err
	}
	out := contract.ListResponse{Deployments: []contract.Deployment{}}
	for _, d := range all {
		if caller.CoversFunction(true, d.FunctionID, d.VersionID) {
			out.Deployments = append(out.Deployments, answer(d))
		}
	}
	if req.Limit != nil && len(all) == *req.Limit {
		out.NextCursor = cursorAfter(all[len(all)-1])
	}
	return out, nil
}

// A cursor is where a page ended: the time and the id of its last deployment.
func cursorAfter(d *deployment) string {
	return base64.RawURLEncoding.EncodeToString([]byte(d.CreatedAt.UTC().Format(time.RFC3339Nano) + " " + d.ID))
}

func parseCursor(text string) (at time.Time, id string, ok bool) {
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return at, "", false
	}
	moment, id, found := strings.Cut(string(b), " ")
	at, err = time.Parse(time.RFC3339Nano, moment)
	return at, id, found && err == nil && isUUID(id)
}
