package objects

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/s3utils"

	"github.com/sirocco-cloud/sirocco/contracts/functions"
)

// S3Config names a bucket of a service that speaks S3.
type S3Config struct {
	// Endpoint is the service, such as https://s3.eu-central-1.amazonaws.com or http://minio:9000; empty means that the
	// platform keeps the bytes itself.
	Endpoint string `env:"SIROCCO_S3_ENDPOINT"`
	// PublicEndpoint is the same service as clients reach it; empty means that Endpoint is.
	PublicEndpoint string `env:"SIROCCO_S3_PUBLIC_ENDPOINT"`
	// Bucket must exist; assets lie in it under <account>/<assetId>.
	Bucket string `env:"SIROCCO_S3_BUCKET"`
	// Region is what requests are signed for.
	Region string `env:"SIROCCO_S3_REGION" envDefault:"us-east-1"`
	// AccessKeyID names the key whose holder may read, write and delete the objects of the bucket.
	AccessKeyID string `env:"SIROCCO_S3_ACCESS_KEY_ID"`
	// SecretAccessKey and SessionToken are taken out of the environment as they are read.
	SecretAccessKey string `env:"SIROCCO_S3_SECRET_ACCESS_KEY,unset"`
	SessionToken    string `env:"SIROCCO_S3_SESSION_TOKEN,unset"`
	// PathStyle puts the bucket into the path, as most services other than Amazon's want it.
	PathStyle bool `env:"SIROCCO_S3_PATH_STYLE" envDefault:"true"`
}

// S3 keeps objects in the bucket of a service that speaks S3.
type S3 struct {
	bucket string
	// own asks the service itself; public signs what clients will ask of it, and never connects.
	own, public *minio.Client
	patience    time.Duration
}

var _ Store = (*S3)(nil)

const (
	// patience bounds one question to the service, its repetitions included, where the HTTP client sets no limit.
	patience = 10 * time.Second
	// attempts is how often a question is put before its failure counts.
	attempts = 3
	// longest is what S3 allows for a signed address.
	longest = 7 * 24 * time.Hour
)

// NewS3 makes the store; an error names the setting that cannot be right. The client lends its transport and its time
// limit. Addresses are dated by the clock of the machine, as services compare it with theirs.
func NewS3(cfg S3Config, client *http.Client) (*S3, error) {
	for setting, value := range map[string]string{
		"SIROCCO_S3_BUCKET": cfg.Bucket, "SIROCCO_S3_REGION": cfg.Region,
		"SIROCCO_S3_ACCESS_KEY_ID": cfg.AccessKeyID, "SIROCCO_S3_SECRET_ACCESS_KEY": cfg.SecretAccessKey,
	} {
		if value == "" {
			return nil, fmt.Errorf("%s: is required beside SIROCCO_S3_ENDPOINT", setting)
		}
	}
	if err := s3utils.CheckValidBucketName(cfg.Bucket); err != nil {
		return nil, fmt.Errorf("SIROCCO_S3_BUCKET: %w", err)
	}
	s := &S3{bucket: cfg.Bucket, patience: cmp.Or(client.Timeout, patience)}
	var err error
	if s.own, err = cfg.connect(cfg.Endpoint, client.Transport); err != nil {
		return nil, fmt.Errorf("SIROCCO_S3_ENDPOINT: %w", err)
	}
	if s.public, err = cfg.connect(cmp.Or(cfg.PublicEndpoint, cfg.Endpoint), client.Transport); err != nil {
		return nil, fmt.Errorf("SIROCCO_S3_PUBLIC_ENDPOINT: %w", err)
	}
	return s, nil
}

// connect makes a client of the service at an endpoint. It opens no connection yet.
func (c S3Config) connect(endpoint string, transport http.RoundTripper) (*minio.Client, error) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || strings.Trim(u.Path, "/") != "" {
		return nil, errors.New("want scheme://host[:port], such as http://minio:9000")
	}
	lookup := minio.BucketLookupDNS
	if c.PathStyle {
		lookup = minio.BucketLookupPath
	}
	client, err := minio.New(u.Host, &minio.Options{
		Creds: credentials.NewStaticV4(c.AccessKeyID, c.SecretAccessKey, c.SessionToken), Secure: u.Scheme == "https",
		// With a region nothing is asked before an address is signed.
		Region: c.Region, BucketLookup: lookup, Transport: transport, MaxRetries: attempts,
	})
	if err != nil {
		return nil, err
	}
	// Addresses name Amazon's host as the operator knows it, and as firewalls do.
	client.SetS3EnableDualstack(false)
	return client, nil
}

// UploadURL implements [Store].
func (s *S3) UploadURL(ctx context.Context, o Object, life time.Duration) (string, error) {
	return s.address(ctx, http.MethodPut, o.Key, life, http.Header{
		"Content-Type": {o.ContentType}, functions.AssetDescription: {o.Description},
	})
}

// DownloadURL implements [Store].
func (s *S3) DownloadURL(ctx context.Context, o Object, life time.Duration) (string, error) {
	return s.address(ctx, http.MethodGet, o.Key, life, nil)
}

// address signs a request that must come with these headers.
func (s *S3) address(ctx context.Context, method, key string, life time.Duration, headers http.Header) (string, error) {
	u, err := s.public.PresignHeader(ctx, method, s.bucket, key, min(life, longest), nil, headers)
	if err != nil {
		return "", fmt.Errorf("sign address of object: %w", err)
	}
	return u.String(), nil
}

// Has implements [Store].
func (s *S3) Has(ctx context.Context, key string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	_, err := s.own.StatObject(ctx, s.bucket, key, minio.StatObjectOptions{})
	if missing(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for object: %w", err)
	}
	return true, nil
}

// Delete implements [Store].
func (s *S3) Delete(ctx context.Context, key string) error {
	ctx, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	if err := s.own.RemoveObject(ctx, s.bucket, key, minio.RemoveObjectOptions{}); err != nil && !missing(err) {
		return fmt.Errorf("delete object: %w", err)
	}
	return nil
}

// missing tells an object that is not there from a bucket that is not.
func missing(err error) bool { return minio.ToErrorResponse(err).Code == minio.NoSuchKey }
