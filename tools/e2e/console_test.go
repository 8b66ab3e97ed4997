package e2e

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	firstAdmin    = "root@corp.example"
	firstPassword = "Tr0ub4dor&3"
)

// console is the host of the access API; any suffix will do.
var console = host("console.corp.example")

type tokens struct {
	AccessToken   string  `json:"accessToken"`
	IDToken       string  `json:"idToken"`
	RefreshToken  string  `json:"refreshToken"`
	ExternalToken *string `json:"externalToken"`
	ExpiresIn     int     `json:"expiresIn"`
}

// signIn asks for tokens with a grant, beside a credential that must be ignored.
func (u user) signIn(grant map[string]string) (tokens, answer) {
	u.t.Helper()
	a := u.with("bogus").call("POST", "/api/v1/token", console, body(grant))
	var got tokens
	if a.status == http.StatusOK {
		a.into(&got)
		remember(got.AccessToken)
		remember(got.RefreshToken)
		remember(got.IDToken)
	}
	return got, a
}

func (u user) signedIn(grant map[string]string) tokens {
	u.t.Helper()
	got, a := u.signIn(grant)
	require.Equal(u.t, 200, a.status, a)
	require.NotEmpty(u.t, got.RefreshToken)
	require.NotEmpty(u.t, got.IDToken)
	require.NotNil(u.t, got.ExternalToken)
	require.Equal(u.t, 3600, got.ExpiresIn)
	payload := strings.Split(got.AccessToken, ".")[1]
	decoded, err := base64.RawStdEncoding.DecodeString(payload)
	require.NoError(u.t, err, "a published client decodes with the standard alphabet")
	var claims struct {
		Expires int64 `json:"exp"`
	}
	require.NoError(u.t, json.Unmarshal(decoded, &claims))
	require.Positive(u.t, claims.Expires)
	return got
}

// consoleRefused asserts the error body of the access API.
func (a answer) consoleRefused(status int) {
	a.t.Helper()
	require.Equal(a.t, status, a.status, a)
	require.Contains(a.t, a.header.Get("Content-Type"), "application/json", a)
	var e struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	}
	a.into(&e)
	require.Equal(a.t, status, e.Code, a)
	require.NotEmpty(a.t, e.Message, a)
}

func passwordGrant(name, password string) map[string]string {
	return map[string]string{"grantType": "password", "username": name, "password": password}
}

// TestConsole is the flow of the published recipes, in their order (keys §13.9).
func TestConsole(t *testing.T) {
	for _, mode := range []string{"compat", "secured"} {
		t.Run(mode, func(t *testing.T) {
			p := up(t, []string{"--no-sample"}, "SIROCCO_TRUST_MODE="+mode, "SIROCCO_ADMIN_USER="+firstAdmin, "SIROCCO_ADMIN_PASSWORD="+firstPassword)
			remember(firstPassword)
			nobody := user{t: t, url: p.URL, dir: p.Dir}
			root := nobody.with(nobody.signedIn(passwordGrant(firstAdmin, firstPassword)).AccessToken)

			var app struct{ ID, Name, Secret, ClientID string }
			created := root.call("POST", "/api/v1/apps", console, body(map[string]string{"name": "app-123"}))
			require.Equal(t, 201, created.status, created)
			created.into(&app)
			remember(app.Secret)
			require.Equal(t, "app-123", app.Name)
			root.call("POST", "/api/v1/apps", console, body(map[string]string{"name": "app-123"})).consoleRefused(409)

			var first tokens
			for _, member := range []string{"clientID", "clientId"} {
				first = nobody.signedIn(map[string]string{"grantType": "client_credentials", member: app.ClientID, "clientSecret": app.Secret})
			}
			nobody.signedIn(map[string]string{"grantType": "app_token", "AppId": app.ClientID, "AppSecret": app.Secret})
			program := nobody.with(first.AccessToken)
			person := body(map[string]any{"email": "ops@corp.example", "resetPassword": true})
			if mode == "secured" {
				program.call("POST", "/api/v1/users", console, person).consoleRefused(403)
				rule := body(map[string]any{"subjectId": app.ClientID, "subjectType": "app", "roleId": 1, "scopeId": "1", "scopeType": "tenant"})
				require.Equal(t, 201, root.call("POST", "/api/v1/authorization/access-rules", console, rule).status)
			}
			var made struct{ ID, Email, TempPassword string }
			a := program.call("POST", "/api/v1/users", console, person)
			require.Equal(t, 201, a.status, a)
			a.into(&made)
			require.Equal(t, "ops@corp.example", made.Email)
			remember(made.TempPassword)
			program.call("POST", "/api/v1/users", console, person).consoleRefused(409)

			refresh := map[string]string{"grantType": "refresh_token", "refreshToken": first.RefreshToken, "clientID": app.ClientID}
			second := nobody.signedIn(refresh)
			nobody.with(second.AccessToken).must("GET", "/api/v1/authorization/me/access-rules", nil, console)
			_, replayed := nobody.signIn(refresh)
			replayed.consoleRefused(400)
			soon(t, propagation, "the chain of a replayed token is refused", func() bool {
				return nobody.with(second.AccessToken).call("GET", "/api/v1/apps", console).status == 401
			})

			live := nobody.signedIn(map[string]string{"grantType": "client_credentials", "clientID": app.ClientID, "clientSecret": app.Secret})
			program = nobody.with(live.AccessToken)
			program.must("GET", "/api/v1/apps", nil, console)
			program.must("GET", "/v2/nvcf/functions", nil)
			require.Equal(t, 204, root.call("DELETE", "/api/v1/apps/"+app.ID, console).status)
			soon(t, propagation, "the token of a deleted application is refused", func() bool {
				return program.call("GET", "/api/v1/apps", console).status == 401 && program.call("GET", "/v2/nvcf/functions").status == 401
			})
			_, gone := nobody.signIn(map[string]string{"grantType": "client_credentials", "clientID": app.ClientID, "clientSecret": app.Secret})
			gone.consoleRefused(400)

			// The temporary password is good for choosing another one, and that ends it.
			temporary := nobody.signedIn(passwordGrant(made.Email, made.TempPassword))
			ops := nobody.with(temporary.AccessToken)
			ops.call("GET", "/v2/nvcf/functions").refused(403)
			changed := ops.call("POST", "/api/v1/me/password", console, body(map[string]string{"currentPassword": made.TempPassword, "newPassword": remember("a better one")}))
			require.Equal(t, 200, changed.status, changed)
			nobody.signedIn(passwordGrant(made.Email, "a better one"))
			soon(t, propagation, "the token of before is refused", func() bool {
				return ops.call("GET", "/api/v1/access-keys", console).status == 401
			})

			// Everything is there again after a crash, and what was refused stays refused.
			p.Processes["sirocco"].Kill()
			p.start(t)
			program.call("GET", "/api/v1/apps", console).consoleRefused(401)
			root.must("GET", "/api/v1/users/"+made.ID, nil, console)
			nobody.signedIn(passwordGrant(firstAdmin, firstPassword))
		})
	}
}

// TestConsoleBrake asserts that guessing is slowed down, whether or not the name exists.
func TestConsoleBrake(t *testing.T) {
	p := up(t, []string{"--no-sample"}, "SIROCCO_ADMIN_USER="+firstAdmin, "SIROCCO_ADMIN_PASSWORD="+firstPassword)
	nobody := user{t: t, url: p.URL, dir: p.Dir}
	for _, name := range []string{firstAdmin, "nobody@corp.example"} {
		for range 5 {
			_, a := nobody.signIn(passwordGrant(name, "wrong"))
			a.consoleRefused(400)
			require.Empty(t, a.header.Get("Retry-After"))
		}
		_, a := nobody.signIn(passwordGrant(name, firstPassword))
		a.consoleRefused(400)
		require.NotEmpty(t, a.header.Get("Retry-After"))
	}
}

// TestOAuthClient is the command line's OAuth2 mode: a form, HTTP Basic, and scopes of which one is unknown.
func TestOAuthClient(t *testing.T) {
	p := up(t, []string{"--no-sample"}, "SIROCCO_ADMIN_USER="+firstAdmin, "SIROCCO_ADMIN_PASSWORD="+firstPassword)
	nobody := user{t: t, url: p.URL, dir: p.Dir}
	root := nobody.with(nobody.signedIn(passwordGrant(firstAdmin, firstPassword)).AccessToken)
	var account struct{ ID, ClientID, ClientSecret string }
	root.must("POST", "/api/v1/service-accounts", &account, console, body(map[string]string{"name": "my_robot"}))
	require.Equal(t, "my-robot", account.ClientID, "an id has no underscore")
	form := url.Values{"grant_type": {"client_credentials"}, "scope": {"deploy_function list_functions update_instance list_cluster_groups"}}
	a := nobody.call("POST", "/api/v2/token", console, text(form.Encode()), header("Content-Type", "application/x-www-form-urlencoded"), func(r *http.Request) {
		r.SetBasicAuth(account.ClientID, remember(account.ClientSecret))
	})
	require.Equal(t, 200, a.status, a)
	require.Equal(t, "no-store", a.header.Get("Cache-Control"))
	var got struct {
		AccessToken string `json:"access_token"`
		TokenType   string `json:"token_type"`
		ExpiresIn   int    `json:"expires_in"`
		Scope       string `json:"scope"`
	}
	a.into(&got)
	require.Equal(t, "Bearer", got.TokenType)
	require.Equal(t, 3600, got.ExpiresIn)
	require.ElementsMatch(t, []string{"deploy_function", "list_cluster_groups", "list_functions"}, strings.Fields(got.Scope))
	program := nobody.with(remember(got.AccessToken))
	program.must("GET", "/v2/nvcf/functions", nil)
	program.call("POST", "/v2/nvcf/functions", body(functionBody("narrow", "sample/echo"))).refused(403)
	wrong := nobody.call("POST", "/api/v2/token", console, text("grant_type=client_credentials&client_id=x&client_secret=y"), header("Content-Type", "application/x-www-form-urlencoded"))
	require.Equal(t, 401, wrong.status, wrong)
	require.Contains(t, string(wrong.body), `"error":"invalid_client"`)
}
