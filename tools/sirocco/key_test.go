package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/problem"
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

func TestWhatAKeyReaches(t *testing.T) {
	t.Parallel()
	for flags, resources := range map[string]string{
		"--entity":                       `[{"id":"*","type":"*"}]`,
		"--all-functions --all-clusters": `[{"id":"*","type":"account-functions"},{"id":"*","type":"account-clusters"}]`,
		"--function-version " + echoID + "/" + echoVersion: `[{"id":"` + echoID + `/` + echoVersion + `","type":"function"}]`,
		"--cluster c --scope x":                            `[{"id":"c","type":"cluster"}]`,
		"--for task":                                       `[{"id":"*","type":"account-tasks"}]`,
	} {
		g := newStandIn(t, map[string]http.HandlerFunc{"POST /v1/keys": answer(`{"id":"key-1","value":"nvapi-new"}`)})
		got := sirocco(t, g, append([]string{"key", "create"}, strings.Fields(flags)...))
		require.Zero(t, got.code, got.err)
		require.Contains(t, g.asked()[0].body, `"resources":`+resources, flags)
	}
	g := newStandIn(t, nil)
	require.Equal(t, exitUsage, sirocco(t, g, []string{"key", "create", "--for", "gpu"}).code)
	require.NotZero(t, sirocco(t, g, []string{"key", "create", "--function-version", "echo"}).code)
}

const keyOfOnePolicy = `{"id":"k","status":"ACTIVE","issuer_service_id":"nvidia-cloud-functions-ncp-service-id-aketm","authorizations":{"policies":[
	{"aud":"nvidia-cloud-functions-ncp-service-id-aketm","product":"nv-cloud-functions","resources":[{"id":"*","type":"account-functions"}],"scopes":["list_functions"]}]}}`

func TestAChangeOfRightsKeepsTheRest(t *testing.T) {
	t.Parallel()
	g := newStandIn(t, map[string]http.HandlerFunc{
		"GET /v1/keys/k": answer(keyOfOnePolicy), "PUT /v1/keys/k/authorizations": answer(keyOfOnePolicy), "PATCH /v1/keys/k": answer(keyOfOnePolicy),
	})
	got := sirocco(t, g, []string{"key", "update", "k", "--scope", "invoke_function", "--rate", "5", "--cidr", "", "--ttl", "1h"})
	require.Zero(t, got.code, got.err)
	asked := g.asked()
	require.Len(t, asked, 3)
	require.Contains(t, asked[1].body, `"resources":[{"id":"*","type":"account-functions"}],"scopes":["invoke_function"]`)
	require.JSONEq(t, `{"rate_limit":{"rps":5},"allowed_cidrs":[],"expires_at":"2031-04-02T09:00:00.000Z"}`, asked[2].body)
	require.Contains(t, got.out, "all functions")
}

// A key is looked for among the function keys first, and among the task keys when it is none of those.
func TestAKeyOfTasksIsFound(t *testing.T) {
	t.Parallel()
	g := newStandIn(t, map[string]http.HandlerFunc{"DELETE /v1/keys/k": func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Key-Issuer-Service") == "nvct-api" {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		refuse(problem.New(problem.NotFound, "Key: Not found"))(w, r)
	}})
	require.Zero(t, sirocco(t, g, []string{"key", "revoke", "k"}).code)
	require.Len(t, g.asked(), 2)
}

func TestExplainAKey(t *testing.T) {
	t.Parallel()
	g := newStandIn(t, map[string]http.HandlerFunc{"POST /v1/keys/explain": answer(
		`{"allowed":false,"required_scopes":["deploy_function","list_functions"],"compatible_resource_types":["account-functions/*"],"reason":"scope_missing","rule":"deployment.write","detail":"d"}`)})
	got := sirocco(t, g, []string{"key", "explain", "--method", "post", "--path", "/x", "--from", "10.0.0.9"}, env("SIROCCO_API_KEY", "nvapi-mine"))
	require.Equal(t, exitRefused, got.code)
	require.JSONEq(t, `{"key":"nvapi-mine","method":"POST","path":"/x","client_ip":"10.0.0.9"}`, g.asked()[0].body)
	require.Contains(t, got.out, "deployment.write")
	require.Contains(t, got.err, "--scope deploy_function --scope list_functions --all-functions")
	require.NotContains(t, got.out+got.err, "nvapi-mine")
	require.Equal(t, exitUsage, sirocco(t, g, []string{"key", "explain", "--path", "/x"}).code, "no key")
}
