package objects

import (
	"cmp"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/minio/minio-go/v7"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/functions"
)

var good = S3Config{
	Endpoint: "http://minio:9000", Bucket: "bucket", Region: "eu-central-1",
	AccessKeyID: "id", SecretAccessKey: "canary-s3", SessionToken: "a/token=", PathStyle: true,
}

func TestS3Settings(t *testing.T) {
	t.Parallel()
	for setting, changes := range map[string][]func(*S3Config){
		"SIROCCO_S3_ENDPOINT": {
			func(c *S3Config) { c.Endpoint = "minio:9000" },
			func(c *S3Config) { c.Endpoint = "http://minio:9000/path" },
			func(c *S3Config) { c.Endpoint = "http://name:canary-s3@minio:9000" },
		},
		"SIROCCO_S3_PUBLIC_ENDPOINT": {func(c *S3Config) { c.PublicEndpoint = "ftp://x" }},
		"SIROCCO_S3_BUCKET": {
			func(c *S3Config) { c.Bucket = "" },
			func(c *S3Config) { c.Bucket = "a/path" },
		},
		"SIROCCO_S3_REGION":            {func(c *S3Config) { c.Region = "" }},
		"SIROCCO_S3_ACCESS_KEY_ID":     {func(c *S3Config) { c.AccessKeyID = "" }},
		"SIROCCO_S3_SECRET_ACCESS_KEY": {func(c *S3Config) { c.SecretAccessKey = "" }},
	} {
		for _, change := range changes {
			cfg := good
			change(&cfg)
			_, err := NewS3(cfg, http.DefaultClient)
			require.ErrorContains(t, err, setting+": ")
			require.NotContains(t, err.Error(), "canary")
		}
	}
}

// TestS3Addresses reads what an address promises; TestS3Server holds it against a service.
func TestS3Addresses(t *testing.T) {
	t.Parallel()
	object := Object{Key: "an account/ü/5e0c2a5c", ContentType: "text/plain", Description: "two words"}
	for name, c := range map[string]struct {
		change func(*S3Config)
		put    bool
		life   time.Duration
		begin  string
		want   map[string]string
	}{
		"upload": {
			put: true, life: time.Hour, begin: "http://minio:9000/bucket/an%20account/%C3%BC/5e0c2a5c?",
			want: map[string]string{
				"X-Amz-Expires": "3600", "X-Amz-SignedHeaders": "content-type;host;" + functions.AssetDescription,
				"X-Amz-Security-Token": "a/token=", "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
			},
		},
		"download": {
			life: time.Minute, begin: "http://minio:9000/bucket/an%20account/%C3%BC/5e0c2a5c?",
			want: map[string]string{"X-Amz-Expires": "60", "X-Amz-SignedHeaders": "host"},
		},
		"no session": {
			change: func(c *S3Config) { c.SessionToken = "" }, life: time.Minute, begin: "http://minio:9000/bucket/",
			want: map[string]string{"X-Amz-Security-Token": ""},
		},
		"longer than S3 allows": {life: 30 * 24 * time.Hour, begin: "http://", want: map[string]string{"X-Amz-Expires": "604800"}},
		"clients get the address that they can reach": {
			change: func(c *S3Config) { c.PublicEndpoint, c.PathStyle = "https://objects.corp.example", false },
			put:    true, life: time.Hour, begin: "https://bucket.objects.corp.example/an%20account/%C3%BC/5e0c2a5c?",
		},
		"Amazon's": {
			change: func(c *S3Config) { c.Endpoint, c.PathStyle = "https://s3.eu-central-1.amazonaws.com", false },
			life:   time.Hour, begin: "https://bucket.s3.eu-central-1.amazonaws.com/an%20account/",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := good
			if c.change != nil {
				c.change(&cfg)
			}
			s, err := NewS3(cfg, http.DefaultClient)
			require.NoError(t, err)
			sign := s.DownloadURL
			if c.put {
				sign = s.UploadURL
			}
			address, err := sign(t.Context(), object, c.life)
			require.NoError(t, err)
			require.True(t, strings.HasPrefix(address, c.begin), address)
			require.NotContains(t, address, "canary")
			u, err := url.Parse(address)
			require.NoError(t, err)
			for parameter, value := range c.want {
				require.Equal(t, value, u.Query().Get(parameter), parameter)
			}
			require.True(t, strings.HasPrefix(u.Query().Get("X-Amz-Credential"), "id/"+u.Query().Get("X-Amz-Date")[:8]+"/eu-central-1/"))
		})
	}
}

// TestS3Answers is about answers that are hard to get out of a sound service.
func TestS3Answers(t *testing.T) {
	t.Parallel()
	const xml = `<?xml version="1.0"?><Error><Code>`
	for name, c := range map[string]struct {
		answers []int
		body    string
		found   bool
		has     string
		deleted string
	}{
		"there":       {answers: []int{http.StatusOK, http.StatusNoContent}, found: true},
		"not there":   {answers: []int{http.StatusNotFound, http.StatusNotFound}, body: xml + "NoSuchKey</Code></Error>"},
		"no bucket":   {answers: []int{http.StatusNotFound, http.StatusNotFound}, body: xml + "NoSuchBucket</Code></Error>", deleted: "delete object: "},
		"not allowed": {answers: []int{http.StatusForbidden, http.StatusForbidden}, has: "look for object: ", deleted: "delete object: "},
		"busy once": {
			answers: []int{http.StatusServiceUnavailable, http.StatusOK, http.StatusServiceUnavailable, http.StatusNoContent}, found: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			answers := make(chan int, len(c.answers))
			for _, status := range c.answers {
				answers <- status
			}
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Last-Modified", "Fri, 24 May 2013 00:00:00 GMT")
				w.WriteHeader(<-answers)
				_, _ = io.WriteString(w, c.body)
			}))
			t.Cleanup(server.Close)
			cfg := good
			cfg.Endpoint = server.URL
			s, err := NewS3(cfg, server.Client())
			require.NoError(t, err)
			check := func(want string, err error) {
				if want == "" {
					require.NoError(t, err)
				} else {
					require.ErrorContains(t, err, want)
					require.NotContains(t, err.Error(), "canary")
				}
			}
			found, err := s.Has(t.Context(), "account/asset")
			check(c.has, err)
			require.Equal(t, c.found, found)
			check(c.deleted, s.Delete(t.Context(), "account/asset"))
			require.Empty(t, answers)
			server.Close()
			_, err = s.Has(t.Context(), "account/asset")
			check("look for object: ", err)
		})
	}
}

// endpointVariable names a service for TestS3Server; two more hold its credentials.
const endpointVariable = "SIROCCO_TEST_S3_ENDPOINT"

// TestS3Server lets clients use addresses at a real service, in a bucket of its own.
func TestS3Server(t *testing.T) {
	t.Parallel()
	cfg := S3Config{
		Endpoint: os.Getenv(endpointVariable), Bucket: "sirocco-test-" + uuid.NewString(), Region: cmp.Or(os.Getenv("SIROCCO_TEST_S3_REGION"), "us-east-1"),
		AccessKeyID: os.Getenv("SIROCCO_TEST_S3_ACCESS_KEY_ID"), SecretAccessKey: os.Getenv("SIROCCO_TEST_S3_SECRET_ACCESS_KEY"), PathStyle: true,
	}
	if cfg.Endpoint == "" {
		t.Skip(endpointVariable + " names no S3 service, nor SIROCCO_TEST_S3_ACCESS_KEY_ID and SIROCCO_TEST_S3_SECRET_ACCESS_KEY a key that may make buckets there")
	}
	client := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(client.CloseIdleConnections)
	s, err := NewS3(cfg, client)
	require.NoError(t, err)
	require.NoError(t, s.own.MakeBucket(t.Context(), cfg.Bucket, minio.MakeBucketOptions{Region: cfg.Region}))
	object := Object{Key: "an account/ü/" + uuid.NewString(), ContentType: "text/plain; charset=utf-8", Description: "two  words"}
	content := strings.Repeat("bytes of an asset\x00", 10_000)

	ask := func(method, address string, o Object) *http.Response {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(content))
		require.NoError(t, err)
		if method != http.MethodPut {
			r.Body, r.ContentLength = http.NoBody, 0
		} else {
			r.Header.Set("Content-Type", o.ContentType)
			r.Header.Set(functions.AssetDescription, o.Description)
		}
		resp, err := client.Do(r)
		require.NoError(t, err)
		t.Cleanup(func() { _ = resp.Body.Close() })
		return resp
	}
	status := func(method, address string, o Object) int { t.Helper(); return ask(method, address, o).StatusCode }
	has := func(want bool) {
		t.Helper()
		found, err := s.Has(t.Context(), object.Key)
		require.NoError(t, err)
		require.Equal(t, want, found)
	}

	has(false)
	require.NoError(t, s.Delete(t.Context(), object.Key), "what is not there is deleted already")
	upload, err := s.UploadURL(t.Context(), object, time.Hour)
	require.NoError(t, err)
	download, err := s.DownloadURL(t.Context(), object, time.Hour)
	require.NoError(t, err)
	require.Equal(t, http.StatusNotFound, status(http.MethodGet, download, object))

	other := object
	other.ContentType = "text/html"
	require.Equal(t, http.StatusForbidden, status(http.MethodPut, upload, other))
	other = object
	other.Description = "another"
	require.Equal(t, http.StatusForbidden, status(http.MethodPut, upload, other))
	require.Equal(t, http.StatusForbidden, status(http.MethodPut, download, object), "an address is good for one method")
	require.Equal(t, http.StatusForbidden, status(http.MethodPut, strings.Replace(upload, "X-Amz-Expires=3600", "X-Amz-Expires=7200", 1), object))
	has(false)
	require.Equal(t, http.StatusOK, status(http.MethodPut, upload, object))
	has(true)

	resp := ask(http.MethodGet, download, object)
	require.Equal(t, http.StatusOK, resp.StatusCode)
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, content, string(b))
	require.Equal(t, object.ContentType, resp.Header.Get("Content-Type"))
	require.Equal(t, "two words", strings.Join(strings.Fields(resp.Header.Get(functions.AssetDescription)), " "))

	brief, err := s.DownloadURL(t.Context(), object, time.Second)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return status(http.MethodGet, brief, object) == http.StatusForbidden }, time.Minute, 200*time.Millisecond)

	wrong := cfg
	wrong.SecretAccessKey = "canary-s3"
	stranger, err := NewS3(wrong, client)
	require.NoError(t, err)
	_, err = stranger.Has(t.Context(), object.Key)
	require.Error(t, err)
	require.NotContains(t, err.Error(), "canary")
	require.Error(t, stranger.Delete(t.Context(), object.Key))
	forged, err := stranger.UploadURL(t.Context(), object, time.Hour)
	require.NoError(t, err)
	require.Equal(t, http.StatusForbidden, status(http.MethodPut, forged, object))

	require.NoError(t, s.Delete(t.Context(), object.Key))
	require.NoError(t, s.Delete(t.Context(), object.Key))
	has(false)
	require.Equal(t, http.StatusNotFound, status(http.MethodGet, download, object))
	require.NoError(t, s.own.RemoveBucket(t.Context(), cfg.Bucket))
	require.ErrorContains(t, s.Delete(t.Context(), object.Key), "bucket")
}
