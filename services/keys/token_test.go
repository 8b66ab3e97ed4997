package keys

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

func TestAdminTokenLooksLikeTheRecipeExpects(t *testing.T) {
	t.Parallel()
	s := start(t)
	events := s.events(t)
	token := call(t, s, contract.MintAdminToken, rpc.None{})

	body, err := json.Marshal(token)
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(string(body), `"value"`))
	require.Equal(t, 1, strings.Count(string(body), `"value":"`))
	_, err = uuid.Parse(token.ID)
	require.NoError(t, err)
	scopes, err := json.Marshal(access.AdminDefaults())
	require.NoError(t, err)
	const aud = "nvidia-cloud-functions-ncp-service-id-aketm"
	require.Equal(t, `{"id":"`+token.ID+`","value":"`+token.Value+`","status":"ACTIVE","owner_type":"SYSTEM","owner_id":"ncp","issuer_service_id":"`+aud+`",`+
		`"audience_service_ids":["`+aud+`"],"description":"Admin token","created_at":"2031-05-01T08:00:00Z","expires_at":"2031-05-01T20:00:00Z",`+
		`"authorizations":{"policies":[{"aud":"`+aud+`","auds":["`+aud+`"],"product":"nv-cloud-functions",`+
		`"resources":[{"id":"*","type":"account-functions"},{"id":"*","type":"authorized-functions"}],"scopes":`+string(scopes)+`}]}}`, string(body))

	e := next(t, events)
	p, ok := bus.As[contract.TokenIssued](e, contract.Issued)
	require.True(t, ok)
	var claimed map[string]any
	parsed, _, err := jwt.NewParser().ParseUnverified(token.Value, jwt.MapClaims{})
	require.NoError(t, err)
	claimed = parsed.Claims.(jwt.MapClaims)
	require.Equal(t, contract.TokenIssued{
		JTI: claimed["jti"].(string), Subject: "ncp", Scopes: access.AdminDefaults(), ExpiresAt: token.ExpiresAt, KeyID: parsed.Header["kid"].(string),
	}, p)
	require.Equal(t, access.DefaultAccount, e.Account)
	require.NotEqual(t, token.Value, call(t, s, contract.MintAdminToken, rpc.None{}).Value)
}

func TestAdminTokenClaims(t *testing.T) {
	t.Parallel()
	s := start(t)
	seen := map[string]bool{}
	for range 20 {
		token := call(t, s, contract.MintAdminToken, rpc.None{}).Value
		require.Less(t, len(token), 1024)
		parts := strings.Split(token, ".")
		require.Len(t, parts, 3)
		require.NotContains(t, parts[1], "-", "a client decodes the payload with the standard alphabet")
		require.NotContains(t, parts[1], "_")
		payload, err := base64.RawURLEncoding.DecodeString(parts[1])
		require.NoError(t, err)
		require.NotContains(t, string(payload), ">")
		require.NotContains(t, string(payload), "?")
		require.NotContains(t, string(payload), "~")
		var c map[string]any
		require.NoError(t, json.Unmarshal(payload, &c))
		jti, _ := c["jti"].(string)
		require.Len(t, jti, 22)
		require.False(t, seen[jti])
		seen[jti] = true
		delete(c, "jti")
		var scopes []any
		for _, sc := range access.AdminDefaults() {
			scopes = append(scopes, sc)
		}
		now := float64(s.clock.Now().Unix())
		require.Equal(t, map[string]any{
			"iss": "http://api.nvcf.svc.cluster.local", "sub": "ncp", "azp": "ncp", "aud": []any{"ncp", "s:api"},
			"scopes": scopes, "iat": now, "nbf": now, "exp": now + 43200,
		}, c)
	}
}

func TestAdminTokenVerifiesWithTheFirstPublishedKey(t *testing.T) {
	t.Parallel()
	s := start(t)
	token := call(t, s, contract.MintAdminToken, rpc.None{}).Value
	set := call(t, s, contract.PublicKeys, rpc.None{})
	require.Len(t, set.Keys, 1)
	verify(t, s, token, set.Keys[0])
	b, err := json.Marshal(set)
	require.NoError(t, err)
	require.NotContains(t, string(b), `"d"`)
}

// verify checks a token with nothing but a published key, as a client would.
func verify(t *testing.T, s *site, token string, key contract.JWK) {
	t.Helper()
	require.Equal(t, []string{"EC", "P-256", "sig", "ES256"}, []string{key.KeyType, key.Curve, key.Use, key.Algorithm})
	require.Len(t, key.ID, 27)
	x, err := base64.RawURLEncoding.DecodeString(key.X)
	require.NoError(t, err)
	y, err := base64.RawURLEncoding.DecodeString(key.Y)
	require.NoError(t, err)
	require.Len(t, key.X, 43)
	require.Len(t, key.Y, 43)
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append(append([]byte{4}, x...), y...))
	require.NoError(t, err)
	parsed, err := jwt.Parse(token, func(tok *jwt.Token) (any, error) {
		require.Equal(t, key.ID, tok.Header["kid"])
		require.Equal(t, "JWT", tok.Header["typ"])
		return public, nil
	}, jwt.WithValidMethods([]string{"ES256"}), jwt.WithIssuer(contract.TokenIssuer), jwt.WithAudience("s:api"),
		jwt.WithTimeFunc(func() time.Time { return s.clock.Now() }))
	require.NoError(t, err)
	require.True(t, parsed.Valid)
}

func TestNothingIsSignedBeforeTheKeysAreLoaded(t *testing.T) {
	t.Parallel()
	signer := NewSigner(nil, nil)
	_, _, err := signer.Sign(jwt.MapClaims{})
	require.ErrorContains(t, err, "unavailable")
	_, err = signer.JWKS()
	require.ErrorContains(t, err, "unavailable")
}

func TestMintWaitsForItsServiceToBeRegistered(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.exec(t, `UPDATE keys.services SET name = 'renamed' WHERE name = 'nvcf-api'`)
	refused(t, s, 503, contract.MintAdminToken, rpc.None{})
}

func TestOperatorChoosesScopesAndLifeOfAdminTokens(t *testing.T) {
	t.Parallel()
	longest := make([]string, 0, 32)
	for i := range 32 {
		longest = append(longest, fmt.Sprintf("admin:scope_%04d", i)[:16])
	}
	for name, c := range map[string]struct {
		change func(*Config)
		extra  []access.Scope
		life   time.Duration
	}{
		"nothing": {func(*Config) {}, nil, contract.TokenLife},
		"scopes, each once": {func(c *Config) {
			c.AdminExtraScopes = []string{"account_setup", " admin:list_functions", "deploy_function", "account_setup"}
		}, []access.Scope{"account_setup", "admin:list_functions"}, contract.TokenLife},
		"secured mode":       {func(c *Config) { c.TrustMode = trustSecured }, []access.Scope{access.ManageKeys}, contract.TokenLife},
		"a short life":       {func(c *Config) { c.AdminTokenLife = 15 * time.Minute }, nil, 15 * time.Minute},
		"the most of scopes": {func(c *Config) { c.AdminExtraScopes = longest; c.TrustMode = trustSecured }, append(longest[:32:32], access.ManageKeys), contract.TokenLife},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			cfg := config(t)
			c.change(&cfg)
			testkit.Ready(t, s.replica(t, cfg))
			token := call(t, s, contract.MintAdminToken, rpc.None{})
			require.Equal(t, c.life, token.ExpiresAt.Sub(token.CreatedAt))
			var claimed struct {
				Scopes []access.Scope `json:"scopes"`
			}
			payload := strings.Split(token.Value, ".")[1]
			require.NotContains(t, payload, "-")
			require.NotContains(t, payload, "_")
			b, err := base64.StdEncoding.DecodeString(payload + strings.Repeat("=", -len(payload)&3))
			require.NoError(t, err)
			require.NoError(t, json.Unmarshal(b, &claimed))
			want := append(access.AdminDefaults(), c.extra...)
			require.Equal(t, want, claimed.Scopes)
			var authorizations struct {
				Policies []access.Policy `json:"policies"`
			}
			require.NoError(t, json.Unmarshal(token.Authorizations, &authorizations))
			require.Equal(t, want, authorizations.Policies[0].Scopes)
			require.Less(t, len(token.Value), 2048, "the cluster inventory reads no longer ones")
		})
	}
}

func TestAdminTokensAreNotMintedWithoutEnd(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	cfg := config(t)
	cfg.AdminTokenRate = 3
	testkit.Ready(t, s.replica(t, cfg))
	for range 3 {
		call(t, s, contract.MintAdminToken, rpc.None{})
	}
	p := refused(t, s, 429, contract.MintAdminToken, rpc.None{})
	require.Equal(t, 1, p.RetryAfterSeconds)
	s.clock.Advance(334 * time.Millisecond)
	call(t, s, contract.MintAdminToken, rpc.None{})
	refused(t, s, 429, contract.MintAdminToken, rpc.None{})
	s.clock.Advance(time.Hour)
	for range 3 {
		call(t, s, contract.MintAdminToken, rpc.None{})
	}
	refused(t, s, 429, contract.MintAdminToken, rpc.None{})
}

func TestTokensAndKeysAreCounted(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	r := s.rotator(t, nil)
	r.step(t)
	metrics := prometheus.NewRegistry()
	tokens := NewTokens(r.store, r.signer, config(t), s.clock, rand.Reader, metrics)
	for range 2 {
		_, err := tokens.Mint(t.Context(), rpc.None{})
		require.NoError(t, err)
	}
	_, err := r.Rotate(t.Context(), contract.RotateSigningKeysRequest{})
	require.NoError(t, err)
	families, err := metrics.Gather()
	require.NoError(t, err)
	got := map[string]float64{}
	for _, f := range families {
		got[f.GetName()] = f.GetMetric()[0].GetCounter().GetValue() + f.GetMetric()[0].GetGauge().GetValue()
	}
	require.Equal(t, map[string]float64{"admin_tokens_issued_total": 2, "jwks_keys": 2}, got)
}
