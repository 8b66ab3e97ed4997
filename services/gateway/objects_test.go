package gateway

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// storehouse is a site whose functions service admits whoever has the signature "good".
type storehouse struct {
	*site
	t *testing.T
	// id is the asset that exists; deleted takes it away.
	id      string
	deleted atomic.Bool
	bucket  *bus.Objects
}

const smallAsset = 200 << 10

func newStorehouse(t *testing.T) *storehouse {
	t.Helper()
	h := &storehouse{site: newSite(t), t: t, id: uuid.NewString()}
	h.bucket = h.conn.Objects(functions.ObjectsBucket, 16<<20)
	require.NoError(t, h.bucket.Declare(t.Context()))
	serve(t, h.conn, "functions", func(srv *bus.Server) {
		bus.Serve(srv, functions.AdmitObject, func(_ context.Context, r functions.AdmitObjectRequest) (functions.AdmittedObject, error) {
			switch {
			case r.Signature != "good" || r.Method == http.MethodDelete:
				return functions.AdmittedObject{}, problem.New(problem.Forbidden, "this address is not signed for the request")
			case r.AssetID != h.id || h.deleted.Load():
				return functions.AdmittedObject{}, problem.New(problem.NotFound, "Asset '%s': Not found", r.AssetID)
			}
			return functions.AdmittedObject{Key: "account/" + h.id, ContentType: "text/plain; charset=utf-8", Description: "two words", MaxBytes: smallAsset}, nil
		})
	})
	return h
}

func (h *storehouse) address() string {
	return h.url + functions.ObjectsPath + h.id + "?signature=good"
}

func (h *storehouse) do(method, address string, body io.Reader, headers ...string) (*http.Response, []byte) {
	h.t.Helper()
	r, err := http.NewRequestWithContext(h.t.Context(), method, address, body)
	require.NoError(h.t, err)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
	require.NoError(h.t, err)
	b, err := io.ReadAll(resp.Body)
	require.NoError(h.t, err)
	require.NoError(h.t, resp.Body.Close())
	return resp, b
}

func itsHeaders() []string {
	return []string{"Content-Type", "text/plain;charset=utf-8", functions.AssetDescription, "two words"}
}

func TestObjectsGoInAndComeOut(t *testing.T) {
	t.Parallel()
	h := newStorehouse(t)
	resp, _ := h.do(http.MethodGet, h.address(), nil)
	require.Equal(t, http.StatusNotFound, resp.StatusCode, "nothing was uploaded yet")

	content := bytes.Repeat([]byte("0123456789abcdef"), smallAsset/16)
	resp, b := h.do(http.MethodPut, h.address(), io.MultiReader(bytes.NewReader(content)), itsHeaders()...)
	require.Equal(t, http.StatusOK, resp.StatusCode, string(b))
	require.Empty(t, b)
	resp, b = h.do(http.MethodGet, h.address(), nil)
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.True(t, bytes.Equal(content, b))
	require.Equal(t, strconv.Itoa(len(content)), resp.Header.Get("Content-Length"))
	require.Equal(t, "text/plain; charset=utf-8", resp.Header.Get("Content-Type"))
	require.Equal(t, "attachment", resp.Header.Get("Content-Disposition"), "no browser shows a stranger's page in our name")
	require.Equal(t, "nosniff", resp.Header.Get("X-Content-Type-Options"))
	resp, b = h.do(http.MethodHead, h.address(), nil)
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Empty(t, b)

	resp, _ = h.do(http.MethodPut, h.address(), strings.NewReader("other"), itsHeaders()...)
	require.Equal(t, http.StatusOK, resp.StatusCode)
	_, b = h.do(http.MethodGet, h.address(), nil)
	require.Equal(t, "other", string(b))
}

func TestObjectsThatAreRefused(t *testing.T) {
	t.Parallel()
	h := newStorehouse(t)
	large := bytes.Repeat([]byte("x"), smallAsset+1)
	for name, c := range map[string]struct {
		method, address string
		body            io.Reader
		headers         []string
		status          int
		text            string
	}{
		"not signed":        {http.MethodPut, h.url + functions.ObjectsPath + h.id, strings.NewReader("b"), itsHeaders(), 403, "not signed"},
		"signed wrongly":    {http.MethodGet, h.address() + "x", nil, nil, 403, "not signed"},
		"no id":             {http.MethodGet, h.url + functions.ObjectsPath + "x?signature=good", nil, nil, 400, "assetId"},
		"another asset":     {http.MethodGet, h.url + functions.ObjectsPath + uuid.NewString() + "?signature=good", nil, nil, 404, "Not found"},
		"other type":        {http.MethodPut, h.address(), strings.NewReader("b"), []string{"Content-Type", "image/png", functions.AssetDescription, "two words"}, 400, "Content-Type"},
		"other description": {http.MethodPut, h.address(), strings.NewReader("b"), []string{"Content-Type", "text/plain; charset=utf-8", functions.AssetDescription, "x"}, 400, functions.AssetDescription},
		"no headers":        {http.MethodPut, h.address(), strings.NewReader("b"), nil, 400, functions.AssetDescription},
		"too large":         {http.MethodPut, h.address(), bytes.NewReader(large), itsHeaders(), 413, strconv.Itoa(smallAsset)},
		"too large, unsaid": {http.MethodPut, h.address(), io.MultiReader(bytes.NewReader(large)), itsHeaders(), 413, strconv.Itoa(smallAsset)},
		"other method":      {http.MethodDelete, h.address(), nil, nil, 405, "PUT"},
	} {
		resp, b := h.do(c.method, c.address, c.body, c.headers...)
		require.Equal(t, c.status, resp.StatusCode, name)
		require.Equal(t, problem.ContentType, resp.Header.Get("Content-Type"), name)
		require.Contains(t, string(b), c.text, name)
	}
	there, err := h.bucket.Has(t.Context(), "account/"+h.id)
	require.NoError(t, err)
	require.False(t, there, "nothing stays of what was refused")
}

func TestAnObjectWhoseAssetIsDeletedMeanwhile(t *testing.T) {
	t.Parallel()
	h := newStorehouse(t)
	body := readerFunc(func(p []byte) (int, error) {
		h.deleted.Store(true)
		return copy(p, "late"), io.EOF
	})
	resp, _ := h.do(http.MethodPut, h.address(), body, itsHeaders()...)
	require.Equal(t, http.StatusNotFound, resp.StatusCode)
	there, err := h.bucket.Has(t.Context(), "account/"+h.id)
	require.NoError(t, err)
	require.False(t, there, "no bytes without an asset")
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestOriginOfARequest(t *testing.T) {
	t.Parallel()
	r := httptest.NewRequest(http.MethodGet, "http://api.corp.example/x", nil)
	require.Equal(t, "http://api.corp.example", origin(r))
	r.Header.Set("X-Forwarded-Proto", "https")
	require.Equal(t, "https://api.corp.example", origin(r))
}

func TestResourceRoutesAnswer(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	bearer := s.token(t, nil)
	id := uuid.NewString()
	for _, c := range []struct {
		method, path, body string
		status             int
	}{
		{"POST", "/v2/nvcf/telemetries", "{}", 200},
		{"GET", "/v2/nvcf/telemetries", "", 200},
		{"GET", "/v2/nvcf/telemetries/" + id, "", 200},
		{"DELETE", "/v2/nvcf/telemetries/" + id, "", 204},
		{"PUT", "/v2/nvcf/secrets/telemetries/" + id, "{}", 204},
		{"POST", "/v2/nvcf/registry-credentials", "{}", 200},
		{"GET", "/v2/nvcf/registry-credentials?artifactType=HELM,MODEL", "", 200},
		{"PATCH", "/v2/nvcf/registry-credentials/" + id, "{}", 200},
		{"DELETE", "/v2/nvcf/registry-credentials/" + id, "", 204},
		{"GET", "/v2/nvcf/recognized-registries", "", 200},
		{"POST", "/v2/orgs/o/teams/t/nvcf/telemetries", "{}", 200},
		{"POST", "/v2/nvcf/assets", "{}", 200},
		{"GET", "/v2/nvcf/assets", "", 200},
		{"GET", "/v2/nvcf/assets/" + id + "/content-redirect", "", 200},
		{"DELETE", "/v2/nvcf/assets/" + id, "", 204},
		{"GET", "/v2/nvcf/assets/x", "", 400},
	} {
		h := &storehouse{site: s, t: t}
		resp, b := h.do(c.method, s.url+c.path, strings.NewReader(c.body), "Authorization", "Bearer "+bearer)
		require.Equal(t, c.status, resp.StatusCode, "%s %s: %s", c.method, c.path, b)
	}
	require.Equal(t, s.url, s.lastAsked(t).caller.Origin)
}
