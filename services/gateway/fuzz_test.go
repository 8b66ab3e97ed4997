package gateway

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// Whatever comes, a body becomes a value or a problem that names a field and a rule.
func FuzzDecodeBody(f *testing.F) {
	for _, seed := range []string{
		"", "{}", "[]", `{"name":"n","health":{"port":80},"models":[{"name":"m"}]}`, `{"a":1,"a":2}`, `{"a":{"b":[{"c":1}]}}`, `{"name":7}`, `{"tags":[1]}`,
		`{"deploymentSpecifications":[{"gpu":"H100","minInstances":1.5}]}`, `{"authorizations":{"policies":[]}}`, `{"x":"\u0000"}`, `{"a":"\ud800"}`, "{\"\xff\":1}", `{"health":null}`,
		strings.Repeat(`{"a":`, 70) + strings.Repeat("}", 70), strings.Repeat("[", 1000),
	} {
		f.Add([]byte(seed))
	}
	types := []reflect.Type{reflect.TypeFor[functions.CreateRequest](), reflect.TypeFor[functions.UpdateRequest](), reflect.TypeFor[deployments.CreateRequest](), reflect.TypeFor[keys.CreateRequest]()}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, typ := range types {
			into := reflect.New(typ)
			r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(string(body)))
			err := bindingOf(typ).fill(r, 1<<20, into.Interface())
			if err == nil {
				require.True(t, json.Valid(body))
				_, err := json.Marshal(into.Interface())
				require.NoError(t, err)
				continue
			}
			p, ok := problem.From(err)
			require.True(t, ok, err)
			require.Equal(t, 400, p.Status())
			require.NotEmpty(t, p.Violations)
			require.NotEmpty(t, p.Violations[0].Field)
			require.NotEmpty(t, p.Violations[0].Rule)
		}
	})
}

func FuzzClassify(f *testing.F) {
	f.Add(vid+"."+fid+".invocation.example.com:80", "", "")
	f.Add("invocation.x", fid, vid)
	f.Add("[::1]:80", "x", "y")
	f.Fuzz(func(t *testing.T, host, function, version string) {
		d, p := classify(&http.Request{Host: host, Header: http.Header{"Function-Id": {function}, "Function-Version-Id": {version}}})
		if p != nil {
			require.Equal(t, 400, p.Status())
			return
		}
		for _, id := range []string{d.functionID, d.versionID} {
			require.True(t, id == "" || isUUID(id) && id == strings.ToLower(id), id)
		}
		require.False(t, d.functionID == "" && d.versionID != "")
	})
}

func FuzzCanonicalPath(f *testing.F) {
	f.Add("/v2/orgs/o/teams/t/nvcf/functions")
	f.Add("/v2/orgs//nvcf/")
	f.Fuzz(func(t *testing.T, path string) {
		got, _, aliased := canonicalPath(path)
		if !aliased {
			require.Equal(t, path, got)
			return
		}
		require.True(t, strings.HasPrefix(got, "/v2/nvcf/") || strings.HasPrefix(got, "/v1/nvct/") || strings.Contains(got, "/orgs/-/"), got)
		again, _, twice := canonicalPath(got)
		require.False(t, twice)
		require.Equal(t, got, again)
	})
}

func FuzzPollWindow(f *testing.F) {
	f.Add("60")
	f.Add("3601")
	f.Fuzz(func(t *testing.T, seconds string) {
		got, p := pollWindow(http.Header{"Nvcf-Poll-Seconds": {seconds}}, true)
		if p != nil {
			require.NotEmpty(t, p.Violations)
			return
		}
		require.GreaterOrEqual(t, got.Seconds(), 1.0)
		require.LessOrEqual(t, got.Seconds(), 3600.0)
	})
}
