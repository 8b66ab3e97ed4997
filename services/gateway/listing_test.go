package gateway

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// list sends a GET with an administrator's token and returns the status and what came of the body.
func (s *site) list(t testing.TB, path string) (int, []byte, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+path, nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+s.token(t, nil))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

// pages serves a list of n elements, one to a page, and writes down what it was asked.
func (s *site) pages(n int, asked *[]functions.ListRequest) {
	s.answer(functions.List.Subject(), func(body []byte) any {
		var r functions.ListRequest
		_ = json.Unmarshal(body, &r)
		s.mu.Lock()
		*asked = append(*asked, r)
		s.mu.Unlock()
		at := 0
		_, _ = fmt.Sscanf(r.Cursor, "at-%d", &at)
		page := functions.ListResponse{Functions: []functions.Function{}}
		if at < n {
			page.Functions = append(page.Functions, functions.Function{ID: fmt.Sprint("f", at)})
		}
		if at+1 < n {
			page.NextCursor = fmt.Sprint("at-", at+1)
		}
		return page
	})
}

func (s *site) answer(subject string, with func([]byte) any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[subject] = with
}

func TestListsStreamPageByPage(t *testing.T) {
	s := newSite(t)
	for n := range 4 {
		var asked []functions.ListRequest
		s.pages(n, &asked)
		status, body, err := s.list(t, "/v2/nvcf/functions?visibility=private&tag=a&offset=3")
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, status)
		var got map[string][]functions.Function
		require.NoError(t, json.Unmarshal(body, &got), "%s", body)
		require.Len(t, got, 1, "nothing but the list: %s", body)
		require.Len(t, got["functions"], n)
		for i, fn := range got["functions"] {
			require.Equal(t, fmt.Sprint("f", i), fn.ID)
		}
		s.mu.Lock()
		questions := slices.Clone(asked)
		s.mu.Unlock()
		require.Len(t, questions, max(1, n))
		for i, r := range questions {
			require.Equal(t, []string{"private"}, r.Visibility)
			require.Equal(t, []string{"a"}, r.Tag, "every page is asked for with the same filters")
			require.Equal(t, i == 0, r.Offset == 3, "only the first page skips")
		}
	}

	var asked []functions.ListRequest
	s.pages(3, &asked)
	_, body, err := s.list(t, "/v2/nvcf/functions?limit=1")
	require.NoError(t, err)
	require.Contains(t, string(body), `"nextCursor":"at-1"`)
	s.mu.Lock()
	defer s.mu.Unlock()
	require.Len(t, asked, 1, "a limit asks for one page")
}

// A list that cannot be finished must not look like one that was.
func TestBrokenListsEndTheConnection(t *testing.T) {
	s := newSite(t)
	s.answer(functions.List.Subject(), func(body []byte) any {
		var r functions.ListRequest
		_ = json.Unmarshal(body, &r)
		if r.Cursor != "" {
			return map[string]string{"what": "is this"}
		}
		return functions.ListResponse{NextCursor: "next", Functions: []functions.Function{{ID: "f"}}}
	})
	_, body, err := s.list(t, "/v2/nvcf/functions")
	require.Error(t, err)
	require.False(t, json.Valid(body))

	s.answer(functions.List.Subject(), func([]byte) any { return map[string]string{"what": "is this"} })
	status, body, err := s.list(t, "/v2/nvcf/functions")
	require.NoError(t, err)
	require.Equal(t, http.StatusInternalServerError, status, "%s", body)
}

// Who may invoke a function of another account: those it is shared with, if their key says so; everybody, if it is public.
func TestRoutesToSharedVersions(t *testing.T) {
	s := newSite(t)
	fn, shared, public := uuid.NewString(), uuid.NewString(), uuid.NewString()
	s.mu.Lock()
	s.functions[fn] = functions.ResolveResponse{FunctionID: fn, Owner: "owner", Targets: []functions.Target{
		{VersionID: shared, Status: functions.Active}, {VersionID: public, Status: functions.Active, Public: true},
	}}
	s.mu.Unlock()
	key := func(account string, resources ...access.Resource) access.Caller {
		return access.Caller{Account: account, Kind: access.Key, Grants: []access.Grant{{access.InvokeFunction: resources}}}
	}
	own := access.Resource{Type: string(access.AllFunctions), ID: "*"}
	others := access.Resource{Type: string(access.SharedFunctions), ID: "*"}
	one := access.Resource{Type: string(access.Function), ID: fn + "/" + shared}
	for _, c := range []struct {
		caller  access.Caller
		version string
		code    problem.Code
	}{
		{key("friend", others), shared, ""},
		{key("friend", one), shared, ""},
		{key("friend", own), shared, problem.NotFound},
		{key("friend", own), public, ""},
		{key("friend", own), "", ""},
		{key("owner", own), shared, ""},
		{key("owner", others), shared, problem.ResourceNotCovered},
		{access.Caller{Account: "friend", Kind: access.JWT}, shared, ""},
	} {
		got, err := s.gw.versions.route(t.Context(), c.caller, fn, c.version)
		if c.code != "" {
			require.True(t, problem.HasCode(err, c.code), "%+v: %v", c, err)
			continue
		}
		require.NoError(t, err, "%+v", c)
		if c.version == "" {
			require.Equal(t, public, got.VersionID, "only covered versions are candidates")
		} else {
			require.Equal(t, c.version, got.VersionID)
		}
	}
}
