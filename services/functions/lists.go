package functions

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// A list is answered page by page, however long it is, and each page is written from the rows without decoding them: an
// account with thirty thousand versions is one loop over an index, and no process ever holds the whole.

// pageBytes ends a page early, so that it fits into one message beside anything a row can hold.
const pageBytes = 1 << 20

// visibility is a part of a list (§3.3), in their order. A version is in one of them.
type visibility int

const (
	publicOnes visibility = iota
	ownOnes
	authorizedOnes
	visibilities
)

var visibilityNames = [visibilities]string{"public", "private", "authorized"}

// query is a list request that was checked, in the name of its caller.
type query struct {
	caller   access.Caller
	coverage coverage
	groups   [visibilities]bool
	// functionID narrows the list to one function.
	functionID string
	statuses   []string
	types      []string
	name       string
	tags       []string
	sort       order
	limit      int
	offset     int
	after      *cursor
	// counted asks for the number of elements.
	counted bool
}

// coverage is what the caller's resources reach, as sets that a query can use.
type coverage struct {
	own, shared         bool
	functions, versions []string
}

func coverageOf(caller access.Caller) coverage {
	c := coverage{
		own: caller.CoversFunction(true, "", ""), shared: caller.CoversFunction(false, "", ""),
		functions: []string{}, versions: []string{},
	}
	if c.own && c.shared {
		return c
	}
	for _, grant := range caller.Grants {
		for _, entries := range grant {
			for _, entry := range entries {
				functionID, versionID, _ := strings.Cut(strings.ToLower(entry.ID), "/")
				switch reach, ok := entry.Reach(); {
				case !ok:
				case reach == access.F && caller.CoversFunction(true, functionID, ""):
					c.functions = append(c.functions, functionID)
				case reach == access.V && caller.CoversFunction(true, functionID, versionID):
					c.versions = append(c.versions, versionID)
				}
			}
		}
	}
	return c
}

// order is how a list is sorted inside a group.
type order struct {
	byName, ascending bool
}

var orders = map[string]order{
	"": {}, "-createdat": {}, "createdat": {ascending: true}, "name": {byName: true, ascending: true}, "-name": {byName: true},
}

// queryOf checks a list request.
func queryOf(ctx context.Context, r contract.ListRequest) (query, error) {
	caller, err := client(ctx)
	if err != nil {
		return query{}, err
	}
	q := query{caller: caller, coverage: coverageOf(caller), name: r.Name, tags: r.Tag, limit: contract.MaxPage, offset: r.Offset}
	c := newChecker("query")
	q.groups = chosen(c, r.Visibility)
	for _, s := range r.Status {
		s = strings.ToUpper(s)
		if !slices.Contains(states, contract.Status(s)) {
			c.refuse("status", fmt.Sprintf("must be a list of %v", states))
		}
		q.statuses = append(q.statuses, s)
	}
	for _, t := range r.FunctionType {
		t = strings.ToUpper(t)
		if !slices.Contains(types, contract.Type(t)) {
			c.refuse("functionType", fmt.Sprintf("must be a list of %v", types))
		}
		q.types = append(q.types, t)
	}
	var known bool
	if q.sort, known = orders[strings.ToLower(r.Sort)]; !known {
		c.refuse("sort", "must be createdAt, -createdAt, name or -name")
	}
	if r.Limit != nil {
		q.counted, q.limit = true, min(*r.Limit, contract.MaxPage)
		if *r.Limit < 1 {
			c.refuse("limit", "must be 1 or more")
		}
	}
	if r.Offset < 0 {
		c.refuse("offset", "must be 0 or more")
	}
	if r.Cursor != "" {
		if q.after = parseCursor(r.Cursor, q.sort); q.after == nil {
			c.refuse("cursor", "must be the nextCursor of an earlier answer to the same question")
		}
		if r.Offset > 0 {
			c.refuse("offset", "excludes cursor")
		}
	}
	return q, c.Err()
}

// types are those of a function.
var types = []contract.Type{contract.Default, contract.Streaming, contract.LLM}

// chosen reads the query parameter of §3.3: repeated, comma separated, or both; none means all.
func chosen(c *checker, values []string) (some [visibilities]bool) {
	for v := range strings.SplitSeq(strings.Join(values, ","), ",") {
		v = strings.ToLower(strings.TrimSpace(v))
		if v == "" {
			continue
		}
		at := slices.Index(visibilityNames[:], v)
		if at < 0 {
			c.refuse("visibility", "must be a list of authorized, private, public")
			continue
		}
		some[at] = true
	}
	if some == [visibilities]bool{} {
		return [visibilities]bool{true, true, true}
	}
	return some
}

// List returns a page of every version the caller may see: public ones, then the account's own, then those that are shared
// with it, newest first in each group (§3.3).
func (f *Functions) List(ctx context.Context, r contract.ListRequest) (rpc.Rendered, error) {
	q, err := queryOf(ctx, r)
	if err != nil {
		return nil, err
	}
	return f.page(ctx, "functions", q)
}

// ListIDs returns a page of the distinct ids of the same functions in the same order (§3.4).
func (f *Functions) ListIDs(ctx context.Context, r contract.ListRequest) (rpc.Rendered, error) {
	q, err := queryOf(ctx, r)
	if err != nil {
		return nil, err
	}
	return f.page(ctx, "functionIds", q)
}

// ListVersions returns a page of the versions of one function that the caller may see (§3.5).
func (f *Functions) ListVersions(ctx context.Context, r contract.ListVersionsRequest) (rpc.Rendered, error) {
	q, err := queryOf(ctx, r.ListRequest)
	if err != nil {
		return nil, err
	}
	if q.functionID, err = id("functionId", r.FunctionID); err != nil {
		return nil, err
	}
	if r.Cursor == "" {
		own, seen, covered, err := f.store.reach(ctx, q)
		switch {
		case err != nil:
			return nil, err
		case covered:
		case own:
			return nil, access.NotCovered(access.ReadFunctions, "function "+q.functionID)
		case !seen, !covered:
			return nil, functionNotFound(q.caller.Account, q.functionID)
		}
	}
	return f.page(ctx, "functions", q)
}

// page collects one page and renders it.
func (f *Functions) page(ctx context.Context, member string, q query) (rpc.Rendered, error) {
	distinct := member == "functionIds"
	var head contract.PageHead
	var counts [visibilities]int
	if q.counted || q.offset > 0 {
		total := 0
		for g := range visibilities {
			if !q.groups[g] {
				continue
			}
			n, err := f.store.count(ctx, q, g, distinct)
			if err != nil {
				return nil, err
			}
			counts[g] = n
			total += n
		}
		if q.counted {
			head.Total = &total
		}
	}
	p := &pageWriter{caller: q.caller, left: q.limit, ids: distinct, elements: make([]byte, 0, min(pageBytes, 512*q.limit))}
	for g := range visibilities {
		if !q.groups[g] || q.after != nil && g < q.after.Group {
			continue
		}
		offset := 0
		if q.offset > 0 {
			if offset = min(q.offset, counts[g]); offset == counts[g] {
				q.offset -= offset
				continue
			}
			q.offset = 0
		}
		more, err := f.store.fill(ctx, q, g, offset, p)
		if err != nil {
			return nil, err
		}
		if more {
			head.NextCursor = p.last.text()
			break
		}
		q.after = nil
	}
	text, err := contract.RenderPage(member, head, p.elements)
	if err != nil {
		return nil, err
	}
	return text, nil
}

// pageWriter renders rows until the page is full.
type pageWriter struct {
	caller   access.Caller
	ids      bool
	elements []byte
	left     int
	last     cursor
	// account is the last account that was written as JSON, accountText its text.
	account, accountText string
}

// full reports whether another row has to wait for the next page.
func (p *pageWriter) full() bool { return p.left == 0 || len(p.elements) >= pageBytes }

// row adds one row.
func (p *pageWriter) row(r listRow) error {
	if len(p.elements) > 0 {
		p.elements = append(p.elements, ',')
	}
	p.left--
	if p.ids {
		p.elements = append(p.elements, '"')
		p.elements = appendUUID(p.elements, r.functionID)
		p.elements = append(p.elements, '"')
		return nil
	}
	if r.account == p.caller.Account {
		return p.own(r)
	}
	var spec contract.Spec
	if err := json.Unmarshal(r.spec, &spec); err != nil {
		return fmt.Errorf("list: decode version: %w", err)
	}
	v := version{
		id: string(appendUUID(nil, r.id)), functionID: string(appendUUID(nil, r.functionID)), account: r.account, status: contract.Status(r.status),
		spec: spec, createdAt: r.createdAt.UTC(), updatedAt: r.updatedAt.UTC(),
	}
	text, err := json.Marshal(v.sharedView())
	if err != nil {
		return fmt.Errorf("list: encode version: %w", err)
	}
	p.elements = append(p.elements, text...)
	return nil
}

// own writes what [version.view] encodes to. The specification is stored as the JSON that goes between the other members.
func (p *pageWriter) own(r listRow) error {
	if r.account != p.account {
		text, err := json.Marshal(r.account)
		if err != nil {
			return fmt.Errorf("list: encode account: %w", err)
		}
		p.account, p.accountText = r.account, string(text)
	}
	b := p.elements
	b = append(b, `{"id":"`...)
	b = appendUUID(b, r.functionID)
	b = append(b, `","ncaId":`...)
	b = append(b, p.accountText...)
	b = append(b, `,"versionId":"`...)
	b = appendUUID(b, r.id)
	b = append(b, `","status":"`...)
	b = append(b, r.status...)
	b = append(b, `",`...)
	b = append(b, r.spec[1:len(r.spec)-1]...)
	for _, member := range []string{`,"createdAt":"`, `","creationTime":"`} {
		b = append(b, member...)
		b = appendTime(b, r.createdAt)
	}
	b = append(b, `","lastUpdatedAt":"`...)
	b = appendTime(b, r.updatedAt)
	b = append(b, `"}`...)
	p.elements = b
	return nil
}
