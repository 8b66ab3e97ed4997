package e2e

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/stretchr/testify/require"
)

// TestAssetsInS3 keeps an asset in an S3 service instead of the platform's own store.
func TestAssetsInS3(t *testing.T) {
	needBinaries(t)
	endpoint := os.Getenv("SIROCCO_TEST_S3_ENDPOINT")
	if endpoint == "" {
		t.Skip("SIROCCO_TEST_S3_ENDPOINT names no S3 service, nor SIROCCO_TEST_S3_ACCESS_KEY_ID and SIROCCO_TEST_S3_SECRET_ACCESS_KEY a key that may make buckets there")
	}
	id, secret := os.Getenv("SIROCCO_TEST_S3_ACCESS_KEY_ID"), remember(os.Getenv("SIROCCO_TEST_S3_SECRET_ACCESS_KEY"))
	region := cmp.Or(os.Getenv("SIROCCO_TEST_S3_REGION"), "us-east-1")
	bucket := "sirocco-e2e-" + uuid.NewString()
	at, err := url.Parse(endpoint)
	require.NoError(t, err)
	house, err := minio.New(at.Host, &minio.Options{
		Creds: credentials.NewStaticV4(id, secret, ""), Secure: at.Scheme == "https", Region: region, BucketLookup: minio.BucketLookupPath, Transport: client.Transport,
	})
	require.NoError(t, err)
	require.NoError(t, house.MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{Region: region}))

	p := up(t, []string{"--no-sample"}, "SIROCCO_S3_ENDPOINT="+endpoint, "SIROCCO_S3_BUCKET="+bucket, "SIROCCO_S3_REGION="+region,
		"SIROCCO_S3_ACCESS_KEY_ID="+id, "SIROCCO_S3_SECRET_ACCESS_KEY="+secret)
	u := p.administrator(t).caller()
	var made struct {
		AssetID   string `json:"assetId"`
		UploadURL string `json:"uploadUrl"`
	}
	const description = "weights of the north"
	u.must(http.MethodPost, "/v2/nvcf/assets", &made, body(map[string]string{"contentType": "application/x-weights", "description": description}))
	require.True(t, strings.HasPrefix(made.UploadURL, endpoint+"/"+bucket+"/"), made.UploadURL)
	require.NotContains(t, made.UploadURL, secret)

	content := bytes.Repeat([]byte("north\x00\xff"), 1<<18)
	put := func(description string) int {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, made.UploadURL, bytes.NewReader(content))
		require.NoError(t, err)
		r.Header.Set("Content-Type", "application/x-weights")
		r.Header.Set("X-Amz-Meta-Nvcf-Asset-Description", description)
		resp, err := client.Do(r)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		return resp.StatusCode
	}
	require.Equal(t, http.StatusForbidden, put("weights of the south"), "the address is signed for the description too")
	require.Equal(t, http.StatusOK, put(description))

	path := "/v2/nvcf/assets/" + made.AssetID
	var redirect struct {
		PresignedURL string `json:"presignedUrl"`
	}
	u.must(http.MethodGet, path+"/content-redirect", &redirect)
	require.True(t, strings.HasPrefix(redirect.PresignedURL, endpoint+"/"+bucket+"/"), redirect.PresignedURL)
	download := func() answer { return user{t: t}.call(http.MethodGet, redirect.PresignedURL) }
	got := download()
	require.Equal(t, http.StatusOK, got.status, got)
	require.Equal(t, sha256.Sum256(content), sha256.Sum256(got.body))
	require.Equal(t, "application/x-weights", got.header.Get("Content-Type"))
	require.Equal(t, description, got.header.Get("X-Amz-Meta-Nvcf-Asset-Description"))

	require.Equal(t, http.StatusNoContent, u.call(http.MethodDelete, path).status)
	u.call(http.MethodGet, path).refused(http.StatusNotFound)
	require.Eventually(t, func() bool { return download().status == http.StatusNotFound }, patience, 50*time.Millisecond, "a sweep deletes the bytes")
	require.NoError(t, house.RemoveBucket(t.Context(), bucket))
}
