package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Goals for the time until the platform is ready with its sample callable, of which the test tells, and for its memory.
// The test fails when they are grossly missed: its machine does other things too.
const (
	emptyGoal, existingGoal     = 10 * time.Second, 3 * time.Second
	residentGoal, residentLimit = 150, 300
)

// TestFirstLight is the first five minutes of the README on an empty directory, and a restart on what they left.
func TestFirstLight(t *testing.T) {
	began := time.Now()
	p := up(t, nil)
	took := time.Since(began)
	t.Logf("ready on an empty directory after %s (goal %s)", took.Round(10*time.Millisecond), emptyGoal)
	require.Less(t, took, lenient(emptyGoal))

	admin := p.administrator(t)
	sample := sampleOf(admin)
	key := firstKey(admin)
	t.Run("recipes", func(t *testing.T) { testRecipes(t, p, admin, key, sample) })
	t.Run("streams", func(t *testing.T) { testStreams(t, key, sample) })
	t.Run("bodies", func(t *testing.T) { testBodies(t, key, sample) })
	t.Run("full duplex", func(t *testing.T) { testPingPong(t, p, key, sample) })

	pause(2 * time.Second) // idle
	mib := resident(t, p.Processes["sirocco"].PID())
	t.Logf("idle: %d MiB resident (goal %d)", mib, residentGoal)
	require.LessOrEqual(t, mib, residentLimit)

	p.stop(t)
	require.Empty(t, processesOf(p.Dir), "processes after Ctrl-C")
	began = time.Now()
	p.start(t)
	took = time.Since(began)
	t.Logf("ready on an existing directory after %s (goal %s)", took.Round(10*time.Millisecond), existingGoal)
	require.Less(t, took, lenient(existingGoal))
	require.Equal(t, sample, sampleOf(admin), "the sample is the same function after a restart")
	var a answer
	soon(t, 10*time.Second, "the key works after a restart, and the sample, whose instance starts anew, answers", func() bool {
		a = key.call("POST", "/echo", sample.host(), text(`{"message":"again ","repeats":2}`))
		return string(a.body) == "again again "
	}, func() string { return a.String() }) //nolint:gocritic // a changes with every try
}

// sampleOf reads the first function id out of the list as the recipe does.
func sampleOf(u user) version {
	u.t.Helper()
	ids := u.must("GET", "/v2/nvcf/functions/ids", nil)
	id := regexp.MustCompile(`[0-9a-f-]{36}`).FindString(string(ids.body))
	var list struct {
		Functions []details `json:"functions"`
	}
	soon(u.t, 5*time.Second, "the sample is ACTIVE", func() bool { // after a restart its instance starts anew
		u.must("GET", "/v2/nvcf/functions/"+id+"/versions", &list)
		require.Len(u.t, list.Functions, 1)
		require.Equal(u.t, "sample-echo", list.Functions[0].Name)
		return list.Functions[0].Status == "ACTIVE"
	}, func() string { return list.Functions[0].Status })
	return version{function: id, id: list.Functions[0].VersionID}
}

// firstKey makes a key with the recipe's text search: "value":" exactly once, compact JSON.
func firstKey(u user) user {
	u.t.Helper()
	value := regexp.MustCompile(`"value":"([^"]*)"`)
	minted := u.with("").must("POST", "/v1/admin/keys", nil)
	require.Len(u.t, value.FindAllSubmatch(minted.body, -1), 1)
	remember(string(value.FindSubmatch(minted.body)[1]))
	made := u.with("").must("POST", "/v1/keys", nil, body(keyBody([]string{"invoke_function", "list_functions"}, everyFunction)), issuer("me@example.com"))
	found := value.FindAllSubmatch(made.body, -1)
	require.Len(u.t, found, 1)
	require.True(u.t, bytes.HasPrefix(found[0][1], []byte("nvapi-")))
	return u.with(remember(string(found[0][1])))
}

func testRecipes(t *testing.T, p *platform, admin, key user, sample version) {
	const echo = `{"message":"hello ","repeats":3}`
	pexec := "/v2/nvcf/pexec/functions/" + sample.function
	for _, c := range []struct {
		name, path string
		how        []asked
	}{
		{"function host", "/echo", []asked{sample.host()}},
		{"version and function host", "/echo", []asked{host(sample.id + "." + sample.function + ".invocation.localhost")}},
		{"host with some port", "/echo", []asked{host(sample.function + ".invocation.gateway.example:31337")}},
		{"function-id header", "/echo", []asked{host("invocation.localhost"), header("Function-Id", sample.function)}},
		{"both headers", "/echo", []asked{host("invocation.localhost"), header("function-id", sample.function), header("function-version-id", sample.id)}},
		{"header on the bare address", "/echo", []asked{header("function-id", sample.function)}},
		{"pexec", pexec, nil},
		{"pexec of a version", pexec + "/versions/" + sample.id, nil},
		{"pexec on the api host", pexec, []asked{host("api.localhost:8080")}},
		{"pexec on the invocation host", pexec, []asked{host("invocation.localhost")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := key
			u.t = t
			a := u.call("POST", c.path, append(c.how, text(echo))...)
			require.Equal(t, 200, a.status, a)
			require.Equal(t, "hello hello hello ", string(a.body))
			require.Equal(t, "fulfilled", a.header.Get("NVCF-STATUS"))
			require.Regexp(t, `^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`, a.header.Get("NVCF-REQID"))
		})
	}
	anyone := key.with("")
	anyone.t = t
	anyone.call("POST", "/echo", sample.host(), text(echo)).refused(401)
	anyone.call("POST", pexec, text(echo)).refused(401)
	unknown := "11111111-2222-4333-8444-555555555555"
	u := key
	u.t = t
	require.Contains(t, u.call("POST", "/echo", host(unknown+".invocation.localhost"), text(echo)).refused(404).Detail, "Not found")
	u.call("POST", pexec+"/versions/"+unknown, text(echo)).refused(404)
	u.call("POST", "/echo", host("invocation.localhost"), header("function-id", sample.function), header("function-version-id", "not-a-uuid"), text(echo)).refused(400)
	require.Equal(t, 200, anyone.call("GET", "/health").status)
	require.Equal(t, 200, anyone.call("GET", "/health", host("invocation.localhost")).status)

	var discovery struct {
		JWKS string `json:"jwks_uri"`
	}
	anyone.must("GET", "/.well-known/openid-configuration", &discovery, host("api-keys.localhost:"+strings.TrimPrefix(p.URL, "http://127.0.0.1:")))
	require.True(t, strings.HasSuffix(discovery.JWKS, "/.well-known/jwks.json"), discovery.JWKS)
	var set struct {
		Keys []struct {
			ID string `json:"kid"`
		} `json:"keys"`
	}
	anyone.must("GET", "/.well-known/jwks.json", &set)
	require.NotEmpty(t, set.Keys)
	require.NotEmpty(t, set.Keys[0].ID)

	// The organisation's aliases are the same API.
	admin.t = t
	var viaAlias struct {
		Function details `json:"function"`
	}
	admin.must("GET", "/v2/orgs/acme/teams/research/nvcf/functions/"+sample.function+"/versions/"+sample.id, &viaAlias)
	require.Equal(t, "sample-echo", viaAlias.Function.Name)
}

// testStreams asserts that events come one by one, not all at the end.
func testStreams(t *testing.T, key user, sample version) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	const events, every = 5, 500 * time.Millisecond
	req := key.request(ctx, "POST", "/echo", sample.host(), header("Accept", "text/event-stream"),
		text(fmt.Sprintf(`{"message":"tick","repeats":%d,"delay":%g,"stream":true}`, events, every.Seconds())))
	began := time.Now()
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, "text/event-stream", resp.Header.Get("Content-Type"))
	var at []time.Duration
	scan := bufio.NewScanner(resp.Body)
	for scan.Scan() {
		if scan.Text() == "data: tick" {
			at = append(at, time.Since(began))
		}
	}
	require.NoError(t, scan.Err())
	require.Len(t, at, events)
	require.Less(t, at[0], at[events-1]-2*every, "the first event did not wait for the last: %v", at)
}

// testBodies sends 20 MiB and gets them back, with a length and without.
func testBodies(t *testing.T, key user, sample version) {
	key.t = t
	const size = 20 << 20
	noise := make([]byte, size/2)
	_, _ = rand.Read(noise)
	message := fmt.Sprintf("%x", noise)
	for _, chunked := range []bool{false, true} {
		a := key.call("POST", "/echo", sample.host(), text(`{"message":"`+message+`","repeats":1}`), func(r *http.Request) {
			if chunked {
				r.ContentLength = -1
			}
		})
		require.Equal(t, 200, a.status)
		require.Len(t, a.body, size)
		require.Equal(t, sha256.Sum256([]byte(message)), sha256.Sum256(a.body), "20 MiB come back as they went")
		t.Logf("20 MiB there and back in %s (chunked: %v)", a.took.Round(time.Millisecond), chunked)
	}
}

// testPingPong writes a line, reads its answer, and goes on in the same request, over a bare connection.
func testPingPong(t *testing.T, p *platform, key user, sample version) {
	conn, err := net.Dial("tcp", strings.TrimPrefix(p.URL, "http://"))
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	fmt.Fprintf(conn, "POST /ping-pong HTTP/1.1\r\nHost: %s.invocation.localhost\r\nAuthorization: Bearer %s\r\nTransfer-Encoding: chunked\r\n\r\n", sample.function, key.credential)
	say := func(s string) { fmt.Fprintf(conn, "%x\r\n%s\r\n", len(s), s) }
	say("ping\n")
	read := bufio.NewReader(conn)
	resp, err := http.ReadResponse(read, nil)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, 200, resp.StatusCode)
	lines := bufio.NewReader(resp.Body)
	for range 3 {
		line, err := lines.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "pong\n", line)
		say("ping\n")
	}
	fmt.Fprint(conn, "0\r\n\r\n")
	rest, err := io.ReadAll(lines)
	require.NoError(t, err)
	require.Equal(t, "pong\n", string(rest))
}

// TestKeepInstances asserts that instances outlive the platform when asked to, and are found again.
func TestKeepInstances(t *testing.T) {
	p := up(t, []string{"--no-sample", "--keep-instances"})
	admin := p.administrator(t)
	v := admin.create("kept")
	admin.deploy(v, scale{min: 2, max: 2})
	caller := admin.caller()
	before := p.instances(v)
	require.Len(t, before, 2)

	p.stop(t)
	require.Equal(t, before, p.instances(v), "instances go on while the platform is away")
	p.start(t)
	require.Contains(t, sortedValues(before), caller.runs(v, 0).PID)
	require.Equal(t, before, p.instances(v))
	admin.remove(v)
}

// TestSecondPlatform asserts that two processes cannot share a directory, and that the error says what to do.
func TestSecondPlatform(t *testing.T) {
	p := common(t)
	second, err := newPlatform(nil, "SIROCCO_DATA_DIR="+p.Dir)
	require.NoError(t, err)
	defer os.RemoveAll(filepath.Dir(second.Dir))
	second.Env = append(second.Env, "SIROCCO_DATA_DIR="+p.Dir)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	require.Error(t, second.Start(ctx))
	require.Contains(t, string(second.log.read()), "SIROCCO_DATA_DIR")
	require.Equal(t, 200, p.administrator(t).call("GET", "/readyz").status, "the first one is untouched")
}
