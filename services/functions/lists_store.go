package functions

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// listRow is a row of a list. spec is valid until the next row is read.
type listRow struct {
	id, functionID       [16]byte
	account, status      string
	spec                 []byte
	createdAt, updatedAt time.Time
	position             int64
}

func appendUUID(b []byte, id [16]byte) []byte {
	for i, bounds := range [][2]int{{0, 4}, {4, 6}, {6, 8}, {8, 10}, {10, 16}} {
		if i > 0 {
			b = append(b, '-')
		}
		b = hex.AppendEncode(b, id[bounds[0]:bounds[1]])
	}
	return b
}

func appendTime(b []byte, t time.Time) []byte { return t.UTC().AppendFormat(b, time.RFC3339Nano) }

// cursor is the place of a row in a list: where the next page begins.
type cursor struct {
	Group    visibility `json:"g"`
	Sort     string     `json:"s,omitempty"`
	Name     string     `json:"n,omitempty"`
	Created  int64      `json:"c"` // microseconds, as the database keeps them
	Position int64      `json:"p"`
}

func (c cursor) text() string {
	b, _ := json.Marshal(c) //nolint:errchkjson // numbers and a valid text
	return base64.RawURLEncoding.EncodeToString(b)
}

func parseCursor(text string, sort order) *cursor {
	b, err := base64.RawURLEncoding.DecodeString(text)
	var c cursor
	if err != nil || json.Unmarshal(b, &c) != nil || c.Group < 0 || c.Group >= visibilities || c.Sort != sort.sign() {
		return nil
	}
	return &c
}

// sign tells cursors of different orders apart.
func (o order) sign() string {
	sign := ""
	if o.byName {
		sign = "name"
	}
	if o.ascending {
		sign += "+"
	}
	return sign
}

// keys are the columns that a list is ordered by, in the table of this alias.
func (o order) keys(alias string) []string {
	keys := []string{alias + ".created_at", alias + ".position"}
	if o.byName {
		keys = append([]string{alias + ".spec->>'name'"}, keys...)
	}
	return keys
}

// sql builds a statement: each value becomes a numbered parameter.
type sql struct {
	strings.Builder
	args    []any
	account string
	me      string
}

func (s *sql) arg(v any) string {
	s.args = append(s.args, v)
	return fmt.Sprintf("$%d", len(s.args))
}

// caller is the parameter that holds the caller's account.
func (s *sql) caller() string {
	if s.me == "" {
		s.me = s.arg(s.account)
	}
	return s.me
}

// conditions says which rows of the table with this alias are in a group and asked for; a group of groups means any.
func (s *sql) conditions(q query, g visibility, alias string) {
	switch g {
	case publicOnes:
		fmt.Fprintf(s, "%s.public", alias)
	case ownOnes:
		fmt.Fprintf(s, "%[1]s.account = %[2]s AND NOT %[1]s.public", alias, s.caller())
	case authorizedOnes:
		fmt.Fprintf(s, "%[1]s.authorized @> ARRAY[%[2]s] AND %[1]s.authorized <> '{}' AND NOT %[1]s.public AND %[1]s.account <> %[2]s", alias, s.caller())
	case visibilities:
		fmt.Fprintf(s, "(%[1]s.account = %[2]s OR %[1]s.public OR %[1]s.authorized @> ARRAY[%[2]s])", alias, s.caller())
	}
	if q.functionID != "" {
		fmt.Fprintf(s, " AND %s.function_id = %s", alias, s.arg(q.functionID))
	}
	if len(q.statuses) > 0 {
		fmt.Fprintf(s, " AND %s.status = ANY(%s)", alias, s.arg(q.statuses))
	}
	if len(q.types) > 0 {
		fmt.Fprintf(s, " AND %s.function_type = ANY(%s)", alias, s.arg(q.types))
	}
	if q.name != "" {
		fmt.Fprintf(s, " AND %s.spec->>'name' = %s", alias, s.arg(q.name))
	}
	if len(q.tags) > 0 {
		fmt.Fprintf(s, " AND (%s.spec->'tags')::jsonb ?& %s", alias, s.arg(q.tags))
	}
	if cover := s.coverage(q, alias); cover != "" {
		s.WriteString(" AND " + cover)
	}
}

// coverage is the condition for the caller's resources, empty when they reach everything.
func (s *sql) coverage(q query, alias string) string {
	c := q.coverage
	if c.own && c.shared {
		return ""
	}
	return fmt.Sprintf("(CASE WHEN %[1]s.account = %[2]s THEN %[3]s ELSE %[4]s END OR %[1]s.function_id = ANY(%[5]s::uuid[]) OR %[1]s.version_id = ANY(%[6]s::uuid[]))",
		alias, s.caller(), s.arg(c.own)+"::boolean", s.arg(c.shared)+"::boolean", s.arg(c.functions), s.arg(c.versions))
}

// firsts keeps of each function the row that comes first in the whole list. It is a sub-query of its own for each row, by
// the index on functions: an anti-join would leave PostgreSQL the choice, which for a prepared statement of which it knows
// no values is to compare every row with every other.
func (s *sql) firsts(q query) {
	rank := fmt.Sprintf("CASE WHEN w.public THEN 0 WHEN w.account = %s THEN 1 ELSE 2 END", s.caller())
	var asked []string
	for g, wanted := range q.groups {
		if wanted {
			asked = append(asked, fmt.Sprint(g))
		}
	}
	direction := " DESC"
	if q.sort.ascending {
		direction = " ASC"
	}
	s.WriteString(" AND v.version_id = (SELECT w.version_id FROM functions.versions w WHERE w.function_id = v.function_id AND ")
	s.conditions(q, visibilities, "w")
	fmt.Fprintf(s, " AND %[1]s IN (%[2]s) ORDER BY %[1]s, %[3]s LIMIT 1)", rank, strings.Join(asked, ", "), strings.Join(q.sort.keys("w"), direction+", ")+direction)
}

// fill writes rows of a group into the page, and reports whether there are more than fitted.
func (r reads) fill(ctx context.Context, q query, g visibility, offset int, p *pageWriter) (more bool, err error) {
	s := &sql{account: q.caller.Account}
	direction, beyond := " DESC", "<"
	if q.sort.ascending {
		direction, beyond = " ASC", ">"
	}
	name := "''"
	if q.sort.byName {
		name = "v.spec->>'name'"
	}
	keys := q.sort.keys("v")
	sorted := strings.Join(keys, direction+", ") + direction
	// The sizes of what comes before a row keep the server from sending much that does not fit.
	fmt.Fprintf(s, `SELECT version_id, function_id, account, status, created_at, updated_at, position, name, spec FROM (
		SELECT v.version_id, v.function_id, v.account, v.status, v.created_at, v.updated_at, v.position, v.spec, %s AS name,
			sum(pg_column_size(v.spec)) OVER (ORDER BY %s ROWS UNBOUNDED PRECEDING) - pg_column_size(v.spec) AS before
		FROM functions.versions v WHERE `, name, sorted)
	s.conditions(q, g, "v")
	if q.after != nil && q.after.Group == g {
		values := []string{s.arg(time.UnixMicro(q.after.Created)), s.arg(q.after.Position)}
		if q.sort.byName {
			values = append([]string{s.arg(q.after.Name)}, values...)
		}
		fmt.Fprintf(s, " AND (%s) %s (%s)", strings.Join(keys, ", "), beyond, strings.Join(values, ", "))
	}
	if p.ids {
		s.firsts(q)
	}
	fmt.Fprintf(s, " ORDER BY %s LIMIT %s OFFSET %s) v WHERE before < %d ORDER BY %s", sorted, s.arg(p.left+1), s.arg(offset), 2*pageBytes+maxRequest,
		strings.ReplaceAll(sorted, "v.spec->>'name'", "v.name"))
	rows, err := r.db.Query(ctx, s.String(), s.args...)
	if err != nil {
		return false, fmt.Errorf("list: %w", err)
	}
	defer rows.Close()
	var row listRow
	var rowName string
	for rows.Next() {
		if p.full() {
			return true, nil
		}
		if err := rows.Scan(&row.id, &row.functionID, &row.account, &row.status, &row.createdAt, &row.updatedAt, &row.position, &rowName, nil); err != nil {
			return false, fmt.Errorf("list: %w", err)
		}
		row.spec = rows.RawValues()[8]
		if err := p.row(row); err != nil {
			return false, err
		}
		p.last = cursor{Group: g, Sort: q.sort.sign(), Name: rowName, Created: row.createdAt.UnixMicro(), Position: row.position}
	}
	if err := rows.Err(); err != nil {
		return false, fmt.Errorf("list: %w", err)
	}
	return false, nil
}

// count returns how many rows, or distinct functions, a group has.
func (r reads) count(ctx context.Context, q query, g visibility, distinct bool) (n int, err error) {
	s := &sql{account: q.caller.Account}
	s.WriteString("SELECT count(*) FROM functions.versions v WHERE ")
	s.conditions(q, g, "v")
	if distinct {
		s.firsts(q)
	}
	if err := r.db.QueryRow(ctx, s.String(), s.args...).Scan(&n); err != nil {
		return 0, fmt.Errorf("count versions: %w", err)
	}
	return n, nil
}

// reach tells of the function of a query: whether the caller's account owns it, may see it at all, and whether the caller's
// resources cover some version of what it may see.
func (r reads) reach(ctx context.Context, q query) (own, seen, covered bool, err error) {
	s := &sql{account: q.caller.Account}
	cover := s.coverage(q, "v")
	if cover == "" {
		cover = "true"
	}
	fmt.Fprintf(s, `SELECT coalesce(bool_or(v.account = %[1]s), false), count(*) > 0, coalesce(bool_or(%[2]s), false) FROM functions.versions v
		WHERE v.function_id = %[3]s AND (v.account = %[1]s OR v.public OR v.authorized @> ARRAY[%[1]s])`, s.caller(), cover, s.arg(q.functionID))
	if err := r.db.QueryRow(ctx, s.String(), s.args...).Scan(&own, &seen, &covered); err != nil {
		return false, false, false, fmt.Errorf("find function: %w", err)
	}
	return own, seen, covered, nil
}
