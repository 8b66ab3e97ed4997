package objects

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

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

// S3 signs its addresses with version 4 of Amazon's signature, in the query.
type S3 struct {
	cfg              S3Config
	endpoint, public *url.URL
	client           *http.Client
	now              func() time.Time
}

var _ Store = (*S3)(nil)

const (
	// ownLife is how long the service's own requests are good.
	ownLife = time.Minute
	// patience bounds one of them.
	patience = 10 * time.Second
	// longest is what S3 allows for a signed address.
	longest = 7 * 24 * time.Hour
)

// NewS3 makes the store; an error names the setting that cannot be right.
func NewS3(cfg S3Config, client *http.Client, now func() time.Time) (*S3, error) {
	if cfg.PublicEndpoint == "" {
		cfg.PublicEndpoint = cfg.Endpoint
	}
	s := &S3{cfg: cfg, client: client, now: now}
	for setting, target := range map[string]struct {
		text string
		into **url.URL
	}{
		"SIROCCO_S3_ENDPOINT": {cfg.Endpoint, &s.endpoint}, "SIROCCO_S3_PUBLIC_ENDPOINT": {cfg.PublicEndpoint, &s.public},
	} {
		u, err := url.Parse(target.text)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || strings.Trim(u.Path, "/") != "" {
			return nil, fmt.Errorf("%s: want scheme://host[:port], such as http://minio:9000", setting)
		}
		*target.into = u
	}
	for setting, value := range map[string]string{
		"SIROCCO_S3_BUCKET": cfg.Bucket, "SIROCCO_S3_REGION": cfg.Region,
		"SIROCCO_S3_ACCESS_KEY_ID": cfg.AccessKeyID, "SIROCCO_S3_SECRET_ACCESS_KEY": cfg.SecretAccessKey,
	} {
		if value == "" {
			return nil, fmt.Errorf("%s: is required beside SIROCCO_S3_ENDPOINT", setting)
		}
	}
	return s, nil
}

// UploadURL implements [Store].
func (s *S3) UploadURL(_ context.Context, o Object, life time.Duration) (string, error) {
	return s.presign(http.MethodPut, s.public, o.Key, life, map[string]string{
		"content-type": o.ContentType, functions.AssetDescription: o.Description,
	}), nil
}

// DownloadURL implements [Store].
func (s *S3) DownloadURL(_ context.Context, o Object, life time.Duration) (string, error) {
	return s.presign(http.MethodGet, s.public, o.Key, life, nil), nil
}

// Has implements [Store].
func (s *S3) Has(ctx context.Context, key string) (bool, error) {
	switch code, err := s.do(ctx, http.MethodHead, key); {
	case err != nil:
		return false, err
	case code == http.StatusNotFound:
		return false, nil
	case code != http.StatusOK:
		return false, fmt.Errorf("look for object: S3 answered with status %d", code)
	}
	return true, nil
}

// Delete implements [Store].
func (s *S3) Delete(ctx context.Context, key string) error {
	code, err := s.do(ctx, http.MethodDelete, key)
	if err == nil && code >= http.StatusMultipleChoices && code != http.StatusNotFound {
		err = fmt.Errorf("delete object: S3 answered with status %d", code)
	}
	return err
}

func (s *S3) do(ctx context.Context, method, key string) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, s.presign(method, s.endpoint, key, ownLife, nil), nil)
	if err != nil {
		return 0, errors.New("ask S3: the address of the object is malformed")
	}
	resp, err := s.client.Do(r)
	if err != nil {
		if failed, ok := errors.AsType[*url.Error](err); ok {
			err = failed.Err // without the address, which is signed
		}
		return 0, fmt.Errorf("ask S3: %w", err)
	}
	return resp.StatusCode, resp.Body.Close()
}

// presign makes an address that stands for a request with these headers.
func (s *S3) presign(method string, endpoint *url.URL, key string, life time.Duration, headers map[string]string) string {
	host, path := endpoint.Host, "/"+escape(key, true)
	if s.cfg.PathStyle {
		path = "/" + escape(s.cfg.Bucket, false) + path
	} else {
		host = s.cfg.Bucket + "." + host
	}
	at := s.now().UTC()
	scope := at.Format("20060102") + "/" + s.cfg.Region + "/s3/aws4_request"
	signed := map[string]string{"host": host}
	for name, value := range headers {
		signed[strings.ToLower(name)] = strings.Join(strings.Fields(value), " ")
	}
	names := slices.Sorted(maps.Keys(signed))
	var lines strings.Builder
	for _, name := range names {
		lines.WriteString(name + ":" + signed[name] + "\n")
	}
	query := map[string]string{
		"X-Amz-Algorithm": "AWS4-HMAC-SHA256", "X-Amz-Credential": s.cfg.AccessKeyID + "/" + scope,
		"X-Amz-Date":    at.Format("20060102T150405Z"),
		"X-Amz-Expires": strconv.Itoa(int(min(life, longest) / time.Second)), "X-Amz-SignedHeaders": strings.Join(names, ";"),
	}
	if s.cfg.SessionToken != "" {
		query["X-Amz-Security-Token"] = s.cfg.SessionToken
	}
	pairs := make([]string, 0, len(query))
	for _, name := range slices.Sorted(maps.Keys(query)) {
		pairs = append(pairs, name+"="+escape(query[name], false))
	}
	canonical := strings.Join([]string{method, path, strings.Join(pairs, "&"), lines.String(), strings.Join(names, ";"), "UNSIGNED-PAYLOAD"}, "\n")
	digest := sha256.Sum256([]byte(canonical))
	text := strings.Join([]string{query["X-Amz-Algorithm"], query["X-Amz-Date"], scope, hex.EncodeToString(digest[:])}, "\n")
	secret := []byte("AWS4" + s.cfg.SecretAccessKey)
	for part := range strings.SplitSeq(scope, "/") {
		secret = authenticate(secret, part)
	}
	return endpoint.Scheme + "://" + host + path + "?" + strings.Join(pairs, "&") + "&X-Amz-Signature=" + hex.EncodeToString(authenticate(secret, text))
}

func authenticate(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	_, _ = mac.Write([]byte(text))
	return mac.Sum(nil)
}

// escape leaves what the signature leaves: letters, digits, and four signs; in a path the slash too.
func escape(s string, path bool) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("-._~", c) >= 0, path && c == '/':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
