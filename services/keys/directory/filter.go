package directory

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	contract "github.com/sirocco-cloud/sirocco/contracts/directory"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// Bounds of a filter.
const (
	maxComparisons = 20
	maxOffset      = 1 << 30
)

// columnType says how the text of a comparison is read.
type columnType int

const (
	text columnType = iota
	number
	moment
	truth
)

// column is a member that lists can be filtered and sorted by, with the SQL that reads it.
type column struct {
	sql string
	typ columnType
}

// listing is what a list may be asked for.
type listing struct {
	columns map[string]column
	// filters and sorts are the names that may be used, as a refusal shows them.
	filters, sorts []string
	operators      []string
	// sort is the order without sortBy, limit the page without limit, most the longest page.
	sort        string
	limit, most int
	// tie makes the order total.
	tie string
}

// query is the part of a statement that a list request becomes: conditions with their arguments, and the page.
type query struct {
	where []string
	args  []any
	order string
	page  string
}

// arg adds an argument and returns its place.
func (q *query) arg(v any) string {
	q.args = append(q.args, v)
	return "$" + strconv.Itoa(len(q.args))
}

// condition is the WHERE clause.
func (q *query) condition() string {
	if len(q.where) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(q.where, " AND ")
}

// comparison is name, operator and value; the operators are tried longest first, and each has two characters.
var comparison = regexp.MustCompile(`(?s)^([A-Za-z]{1,64})(==|!=|<=|>=|=@|!@|=\^|=\$)(.*)$`)

// filter adds the comparisons of one parameter, all of which must hold.
func (l listing) filter(q *query, field string, comparisons []string) error {
	if len(comparisons) > maxComparisons {
		return invalid(field, "must hold at most %d comparisons", maxComparisons)
	}
	for _, c := range comparisons {
		m := comparison.FindStringSubmatch(strings.TrimSpace(c))
		if len(m) == 0 || !slices.Contains(l.operators, m[2]) {
			return invalid(field, "must be comparisons such as %s==value, with one of %s", l.filters[0], strings.Join(l.operators, " "))
		}
		if !slices.Contains(l.filters, m[1]) {
			return invalid(field, "must compare one of %s", strings.Join(l.filters, ", "))
		}
		sql, rule := l.columns[m[1]].compare(q, m[2], strings.TrimSpace(m[3]))
		if rule != "" {
			return invalid(field, "%s %s", m[1], rule)
		}
		q.where = append(q.where, sql)
	}
	return nil
}

// compare makes the SQL of one comparison; the rule is empty when the operator and the value fit the column.
func (c column) compare(q *query, operator, value string) (sql, rule string) {
	if !writable(value, maxID) {
		return "", fmt.Sprintf("must be compared with at most %d characters, none of them for control", maxID)
	}
	plain := map[string]string{"==": "=", "!=": "<>", "<=": "<=", ">=": ">="}[operator]
	if c.typ == text {
		left := "lower(" + c.sql + ")"
		right := "lower(" + q.arg(value) + "::text)"
		switch operator {
		case "=@":
			return "position(" + right + " in " + left + ") > 0", ""
		case "!@":
			return "position(" + right + " in " + left + ") = 0", ""
		case "=^":
			return "starts_with(" + left + ", " + right + ")", ""
		case "=$":
			return "right(" + left + ", length(" + right + ")) = " + right, ""
		}
		return left + " " + plain + " " + right, ""
	}
	if plain == "" {
		return "", "can be compared with == != <= >= only"
	}
	switch c.typ {
	case number:
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return "", "must be compared with a whole number"
		}
		return c.sql + " " + plain + " " + q.arg(n), ""
	case moment:
		t, err := time.Parse(time.RFC3339, value)
		if err != nil || t.Year() < 1 {
			return "", "must be compared with an RFC 3339 timestamp"
		}
		// What clients see has milliseconds, so that is what they compare with.
		return "coalesce(date_trunc('milliseconds', " + c.sql + ") " + plain + " " + q.arg(t) + ", " + strconv.FormatBool(operator == "!=") + ")", ""
	case truth:
		if value != "true" && value != "false" {
			return "", "must be compared with true or false"
		}
		return c.sql + " " + plain + " " + q.arg(value == "true") + "::boolean", ""
	case text:
	}
	return "", "cannot be compared"
}

// paged adds order and page.
func (l listing) paged(q *query, p contract.Page) error {
	check := problem.NewCheck("request")
	sortBy, direction := l.sort, "ASC"
	if p.SortBy != "" {
		check.Require(slices.Contains(l.sorts, p.SortBy), "sortBy", "must be one of %s", strings.Join(l.sorts, ", "))
		sortBy = p.SortBy
	}
	switch strings.ToLower(p.SortOrder) {
	case "", "asc":
	case "desc":
		direction = "DESC"
	default:
		check.Require(false, "sortOrder", "must be asc or desc")
	}
	offset, limit := 0, l.limit
	if p.Offset != nil {
		offset = *p.Offset
		check.Require(offset >= 0 && offset <= maxOffset, "offset", "must be between 0 and %d", maxOffset)
	}
	if p.Limit != nil {
		limit = *p.Limit
		check.Require(limit >= 1 && limit <= l.most, "limit", "must be between 1 and %d", l.most)
	}
	if err := check.Err(); err != nil {
		return err
	}
	q.order = " ORDER BY " + l.columns[sortBy].sql + " " + direction + " NULLS LAST, " + l.tie
	q.page = fmt.Sprintf(" LIMIT %d OFFSET %d", limit, offset)
	return nil
}
