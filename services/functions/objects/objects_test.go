package objects

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

var noon = time.Date(2013, 5, 24, 0, 0, 0, 0, time.UTC)

// TestPresignedAddressOfAmazonsDocumentation holds the signature against the example that Amazon publishes.
func TestPresignedAddressOfAmazonsDocumentation(t *testing.T) {
	t.Parallel()
	s, err := NewS3(S3Config{
		Endpoint: "https://s3.amazonaws.com", Bucket: "examplebucket", Region: "us-east-1",
		AccessKeyID: "AKIAIOSFODNN7EXAMPLE", SecretAccessKey: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
	}, http.DefaultClient, func() time.Time { return noon })
	require.NoError(t, err)
	address, err := s.DownloadURL(t.Context(), Object{Key: "test.txt"}, 24*time.Hour)
	require.NoError(t, err)
	require.Equal(t, "https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256"+
		"&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400"+
		"&X-Amz-SignedHeaders=host&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404", address)
}

// house keeps objects as an S3 service would: an address must be the very one that its owner signs for the request.
type house struct {
	t     *testing.T
	owner *S3
	mu    sync.Mutex
	kept  map[string]string
}

func (h *house) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	life, err := strconv.Atoi(r.URL.Query().Get("X-Amz-Expires"))
	headers := map[string]string{}
	for name := range strings.SplitSeq(r.URL.Query().Get("X-Amz-SignedHeaders"), ";") {
		if name != "host" {
			headers[name] = r.Header.Get(name)
		}
	}
	key := strings.TrimPrefix(r.URL.Path, "/bucket/")
	right := h.owner.presign(r.Method, &url.URL{Scheme: "http", Host: r.Host}, key, time.Duration(life)*time.Second, headers)
	if err != nil || right != "http://"+r.Host+r.URL.RequestURI() {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	content, found := h.kept[key]
	switch {
	case r.Method == http.MethodPut:
		b, _ := io.ReadAll(r.Body)
		h.kept[key] = string(b)
	case !found:
		w.WriteHeader(http.StatusNotFound)
	case r.Method == http.MethodDelete:
		delete(h.kept, key)
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodGet:
		_, _ = io.WriteString(w, content)
	}
}

func TestS3(t *testing.T) {
	t.Parallel()
	h := &house{t: t, kept: map[string]string{}}
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	client := server.Client()
	t.Cleanup(client.CloseIdleConnections)
	now := time.Now()
	cfg := S3Config{
		Endpoint: server.URL, Bucket: "bucket", Region: "r", AccessKeyID: "id", SecretAccessKey: "canary-s3", SessionToken: "a/token=", PathStyle: true,
	}
	s, err := NewS3(cfg, client, func() time.Time { return now })
	require.NoError(t, err)
	h.owner = s
	object := Object{Key: "an account/ü/5e0c2a5c", ContentType: "text/plain; charset=utf-8", Description: "two  words"}

	put := func(address, description string) int {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, address, strings.NewReader("bytes"))
		require.NoError(t, err)
		r.Header.Set("Content-Type", object.ContentType)
		r.Header.Set(functions.AssetDescription, description)
		resp, err := client.Do(r)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		return resp.StatusCode
	}
	address, err := s.UploadURL(t.Context(), object, time.Hour)
	require.NoError(t, err)
	require.NotContains(t, address, "canary")
	require.Equal(t, http.StatusForbidden, put(address, "another"))
	found, err := s.Has(t.Context(), object.Key)
	require.NoError(t, err)
	require.False(t, found)
	require.Equal(t, http.StatusOK, put(address, object.Description))
	found, err = s.Has(t.Context(), object.Key)
	require.NoError(t, err)
	require.True(t, found)

	address, err = s.DownloadURL(t.Context(), object, time.Hour)
	require.NoError(t, err)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	require.NoError(t, err)
	resp, err := client.Do(r)
	require.NoError(t, err)
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, "bytes", string(b))

	require.NoError(t, s.Delete(t.Context(), object.Key))
	require.NoError(t, s.Delete(t.Context(), object.Key))
	h.owner = &S3{cfg: S3Config{Bucket: "bucket", SecretAccessKey: "other", PathStyle: true}, now: s.now}
	_, err = s.Has(t.Context(), object.Key)
	require.ErrorContains(t, err, "403")
	server.Close()
	err = s.Delete(t.Context(), object.Key)
	require.Error(t, err)
	require.NotContains(t, err.Error(), "X-Amz", "a signed address is a credential")
}

func TestS3Settings(t *testing.T) {
	t.Parallel()
	good := S3Config{Endpoint: "http://minio:9000", Bucket: "b", Region: "r", AccessKeyID: "i", SecretAccessKey: "s"}
	for setting, change := range map[string]func(*S3Config){
		"SIROCCO_S3_ENDPOINT":          func(c *S3Config) { c.Endpoint = "minio:9000" },
		"SIROCCO_S3_PUBLIC_ENDPOINT":   func(c *S3Config) { c.PublicEndpoint = "ftp://x" },
		"SIROCCO_S3_BUCKET":            func(c *S3Config) { c.Bucket = "" },
		"SIROCCO_S3_REGION":            func(c *S3Config) { c.Region = "" },
		"SIROCCO_S3_ACCESS_KEY_ID":     func(c *S3Config) { c.AccessKeyID = "" },
		"SIROCCO_S3_SECRET_ACCESS_KEY": func(c *S3Config) { c.SecretAccessKey = "" },
	} {
		cfg := good
		change(&cfg)
		_, err := NewS3(cfg, http.DefaultClient, time.Now)
		require.ErrorContains(t, err, setting)
	}
	good.PublicEndpoint = "https://objects.corp.example"
	s, err := NewS3(good, http.DefaultClient, time.Now)
	require.NoError(t, err)
	address, err := s.UploadURL(t.Context(), Object{Key: "k"}, time.Hour)
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(address, "https://b.objects.corp.example/k?"), "clients get the address that they can reach")
}

func TestSignedAddresses(t *testing.T) {
	t.Parallel()
	now := noon
	secret := func(context.Context) ([]byte, error) { return []byte("secret"), nil }
	e := NewEmbedded(nil, secret, func() time.Time { return now })
	const id = "5e0c2a5c-7f0e-4f5d-9f1c-2c6f3c3a1b10"
	sign := func(address string, err error) (signature string) {
		require.NoError(t, err)
		signature, found := strings.CutPrefix(address, functions.ObjectsPath+id+"?signature=")
		require.True(t, found, address)
		return signature
	}
	admits := func(method, id, signature string) bool {
		ok, err := e.Admits(t.Context(), method, id, signature)
		require.NoError(t, err)
		return ok
	}
	signature := sign(e.UploadURL(t.Context(), Object{Key: "account/" + id}, time.Hour))
	require.True(t, admits(http.MethodPut, id, signature))
	require.True(t, admits(http.MethodPut, strings.ToUpper(id), signature))
	require.False(t, admits(http.MethodGet, id, signature))
	require.False(t, admits(http.MethodPut, "6"+id[1:], signature))
	for _, forged := range []string{"", ".", "x", "9" + signature, strings.Replace(signature, ".", "0.", 1), signature + "A", "99999999999999999999." + signature} {
		require.False(t, admits(http.MethodPut, id, forged), forged)
	}
	now = noon.Add(time.Hour)
	require.False(t, admits(http.MethodPut, id, signature), "its time is over")

	signature = sign(e.DownloadURL(t.Context(), Object{Key: "account/" + id}, time.Hour))
	require.True(t, admits(http.MethodGet, id, signature))
	require.True(t, admits(http.MethodHead, id, signature))
	require.False(t, admits(http.MethodPut, id, signature))
}
