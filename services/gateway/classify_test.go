package gateway

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

const (
	fid = "0f8fad5b-d9cb-469f-a165-70867728950e"
	vid = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
)

func TestClassify(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		host, function, version string
		want                    destination
		refused                 string
	}{
		{host: fid + ".invocation.example.com", want: destination{functionID: fid}},
		{host: fid + ".invocation.127.0.0.1:8080", want: destination{functionID: fid}},
		{host: strings.ToUpper(fid) + ".INVOCATION.localhost", want: destination{functionID: fid}},
		{host: vid + "." + fid + ".invocation.example.com:80", want: destination{functionID: fid, versionID: vid}},
		{host: fid + ".example.com", want: destination{functionID: fid}},
		{host: vid + "." + fid, want: destination{functionID: vid}},
		{host: fid, want: destination{}},
		{host: fid + ".", want: destination{}},
		{host: fid + ".invocation.example.com", function: strings.ToUpper(fid), want: destination{functionID: fid}},
		{host: fid + ".invocation.example.com", version: vid, want: destination{functionID: fid, versionID: vid}},
		{host: fid + ".invocation.example.com", function: vid, refused: "send one of them"},
		{host: fid + ".invocation.example.com", function: "x", refused: "function-id"},
		{host: vid + "." + fid + ".invocation.example.com", version: fid, refused: "send one of them"},
		{host: vid + "." + fid + ".invocation.example.com", function: fid, version: vid, want: destination{functionID: fid, versionID: vid}},
		{host: "invocation.example.com", want: destination{invocationHost: true}},
		{host: "invocation.example.com", function: fid, version: vid, want: destination{functionID: fid, versionID: vid, invocationHost: true}},
		{host: "invocation.example.com", function: fid, version: "1", refused: "function-version-id"},
		{host: "invocation.example.com", function: "1", refused: "function-id"},
		{host: "127.0.0.1:8080", function: fid, want: destination{functionID: fid}},
		{host: "api.example.com", function: "not-a-uuid", want: destination{}},
		{host: "api.example.com", version: "not-a-uuid", want: destination{}},
		{host: "api.example.com", want: destination{}},
		{host: "somewhere.else", want: destination{}},
		{host: "[::1]:8080", want: destination{}},
		{host: "[::1]", want: destination{}},
		{host: "", want: destination{}},
		{host: "{" + fid[1:] + ".invocation.x", want: destination{}},
	} {
		r := &http.Request{Host: tc.host, Header: http.Header{}}
		if tc.function != "" {
			r.Header.Set("function-id", tc.function)
		}
		if tc.version != "" {
			r.Header.Set("function-version-id", tc.version)
		}
		got, p := classify(r)
		if tc.refused != "" {
			require.NotNil(t, p, tc)
			require.Equal(t, problem.BadRequest, p.Code)
			require.Contains(t, p.Detail, tc.refused)
			continue
		}
		require.Nil(t, p, tc)
		require.Equal(t, tc.want, got, tc)
	}
}

func TestCanonicalPath(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"/v2/orgs/o/nvcf/functions":                       "/v2/nvcf/functions",
		"/v2/orgs//nvcf/functions":                        "/v2/nvcf/functions",
		"/v2/orgs/o/teams/t/nvcf/deployments/functions/f": "/v2/nvcf/deployments/functions/f",
		"/v2/orgs/o/nvct/tasks":                           "/v1/nvct/tasks",
		"/v2/orgs/teams/nvcf/x":                           "/v2/nvcf/x",
		"/v2/orgs/teams/teams/teams/nvcf/x":               "/v2/nvcf/x",
		"/v2/orgs/o/teams/t":                              "",
		"/v2/orgs/o":                                      "",
		"/v2/orgs/o/nvcfx/y":                              "",
		"/v2/nvcf/functions":                              "",
		"/v3/orgs/o/nvcf/functions":                       "",
	} {
		got, _, aliased := canonicalPath(path)
		require.Equal(t, want != "", aliased, path)
		if aliased {
			require.Equal(t, want, got)
		} else {
			require.Equal(t, path, got)
		}
	}
}
