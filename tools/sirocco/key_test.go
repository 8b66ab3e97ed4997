package main

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestCreateAKeyForACaller(t *testing.T) {
	t.Parallel()
	g := newStandIn(t, map[string]http.HandlerFunc{
		"POST /v1/keys": answer(`{"id":"key-1","value":"nvapi-new","owner_id":"ann@desk","expires_at":"2031-04-09T08:00:00Z"}`),
	})
	got := sirocco(t, g, []string{"key", "create", "--description", "laptop", "--ttl", "7d"})
	require.Zero(t, got.code, got.err)
	require.Equal(t, "nvapi-new\n", got.out, "the value alone, so that a shell can capture it")
	require.Contains(t, got.err, "key key-1 of ann@desk")
	made := g.asked()[0]
	require.Equal(t, "ann@desk", made.header.Get("Key-Owner-Id"))
	require.Equal(t, "nvidia-cloud-functions-ncp-service-id-aketm", made.header.Get("Key-Issuer-Id"))
	require.Equal(t, "nvcf-api", made.header.Get("Key-Issuer-Service"))
	require.JSONEq(t, `{"description":"laptop","expires_at":"2031-04-09T08:00:00.000Z","audience_service_ids":["nvidia-cloud-functions-ncp-service-id-aketm"],
		"authorizations":{"policies":[{"aud":"nvidia-cloud-functions-ncp-service-id-aketm","auds":["nvidia-cloud-functions-ncp-service-id-aketm"],
		"product":"nv-cloud-functions","resources":[{"id":"*","type":"account-functions"},{"id":"*","type":"authorized-functions"}],
		"scopes":["invoke_function","list_functions","queue_details","list_functions_details"]}]}}`, made.body)
}

func TestAKeyCanBeNarrowed(t *testing.T) {
	t.Parallel()
	g := newStandIn(t, map[string]http.HandlerFunc{
		"GET /v2/nvcf/functions": list(version("echo", echoID, echoVersion, "ACTIVE", "2031-04-02T08:00:00Z")),
		"POST /v1/keys":          answer(`{"id":"key-1","value":"nvapi-new"}`),
	})
	got := sirocco(t, g, []string{"key", "create", "--owner", "ci", "--scope", "invoke_function", "--function", "echo", "--function", otherID})
	require.Zero(t, got.code, got.err)
	made := g.asked()[1]
	require.Equal(t, "ci", made.header.Get("Key-Owner-Id"))
	require.Contains(t, made.body, `"resources":[{"id":"`+echoID+`/*","type":"function"},{"id":"`+otherID+`/*","type":"function"}],"scopes":["invoke_function"]`)
}

func TestRevokeSeveralKeys(t *testing.T) {
	t.Parallel()
	g := newStandIn(t, map[string]http.HandlerFunc{
		"DELETE /v1/keys/{id}": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
	})
	got := sirocco(t, g, []string{"key", "revoke", "key-1", "a/../b"})
	require.Zero(t, got.code, got.err)
	require.Equal(t, "/v1/keys/key-1", g.asked()[0].path)
	require.Equal(t, "/v1/keys/a%2F..%2Fb", g.asked()[1].path, "an id cannot leave its place in the path")
	require.Equal(t, "revoked key-1\nrevoked a/../b\n", got.out)
}

func TestLifetimes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{"90m": 90 * time.Minute, "24h": 24 * time.Hour, "30d": 720 * time.Hour, "2w": 336 * time.Hour} {
		got, err := lifetime(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{"", "d", "0s", "-1h", "-3d", "1.5d", "99999999999999999d", "200000d"} {
		_, err := lifetime(text)
		require.Error(t, err, text)
	}
}

func TestAnImageIsAddedWithTheProgramThatAShellWouldRun(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "serve"), []byte("#!/bin/sh\n"), 0o700))
	t.Chdir(dir)
	here, err := os.Getwd()
	require.NoError(t, err)
	g := newStandIn(t, map[string]http.HandlerFunc{"PUT /v2/nvcf/images": answer(`{"reference":"demo:1"}`)})
	got := sirocco(t, g, []string{"image", "add", "demo:1", "--dir", ".", "--", "./serve", "--port", "-x"})
	require.Zero(t, got.code, got.err)
	require.JSONEq(t, `{"reference":"demo:1","command":["`+here+`/serve","--port","-x"],"directory":"`+here+`"}`, g.asked()[0].body)

	got = sirocco(t, g, []string{"image", "add", "demo:1", "--", "sh", "-c", "exit"})
	require.Zero(t, got.code, got.err)
	require.Regexp(t, `"command":\["/[^"]*/sh","-c","exit"\]`, g.asked()[1].body)

	got = sirocco(t, g, []string{"image", "add", "demo:1", "--", "./absent"})
	require.Equal(t, exitFailed, got.code)
	require.Contains(t, got.err, "./absent")
	require.Equal(t, exitUsage, sirocco(t, g, []string{"image", "add", "demo:1", "sh"}).code)
	require.Len(t, g.asked(), 2)
}

func TestAnImageIsRemovedByItsReference(t *testing.T) {
	t.Parallel()
	g := newStandIn(t, map[string]http.HandlerFunc{
		"DELETE /v2/nvcf/images": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
	})
	got := sirocco(t, g, []string{"image", "remove", "reg.example:5000/a/b@sha256:0"})
	require.Zero(t, got.code, got.err)
	require.Equal(t, "/v2/nvcf/images?reference=reg.example%3A5000%2Fa%2Fb%40sha256%3A0", g.asked()[0].path)
}
