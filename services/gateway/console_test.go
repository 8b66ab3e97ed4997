package gateway

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/directory"
	"github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// consoleSite is a site whose keys service signs everybody in, unless the test makes it refuse.
func consoleSite(t *testing.T) *site {
	t.Helper()
	s := newSite(t)
	tokens, err := json.Marshal(directory.GrantResponse{
		Tokens: directory.Tokens{AccessToken: "access", IDToken: "id", RefreshToken: "refresh", ExpiresIn: 3600}, Scopes: []string{"list_functions", "deploy_function"},
	})
	require.NoError(t, err)
	subject := directory.Grant.Subject()
	_, err = s.conn.NATS().QueueSubscribe(subject, "test", func(m *nats.Msg) {
		q := question{subject: subject, body: string(m.Data)}
		_ = json.Unmarshal([]byte(m.Header.Get("Sirocco-Caller")), &q.caller)
		s.mu.Lock()
		s.asked = append(s.asked, q)
		refusal := s.problems[subject]
		s.mu.Unlock()
		if refusal == nil {
			_ = m.Respond(tokens)
			return
		}
		b, _ := json.Marshal(refusal)
		_ = m.RespondMsg(&nats.Msg{Data: b, Header: nats.Header{micro.ErrorCodeHeader: {strconv.Itoa(refusal.Status())}}})
	})
	require.NoError(t, err)
	require.NoError(t, s.conn.Flush(t.Context()))
	return s
}

// refuse makes an endpoint answer with a problem.
func (s *site) refuse(_ *testing.T, subject string, p *problem.Problem) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.problems[subject] = p
}

// consoleToken is an access token of the access API.
func (s *site) consoleToken(t *testing.T, scopes ...string) string {
	t.Helper()
	return s.token(t, func(_ *jwt.Token, c jwt.MapClaims) {
		c["iss"], c["sub"], c["ncaId"], c["scopes"] = keys.ConsoleIssuer(keys.ConsoleDomain), uuid.NewString(), access.DefaultAccount, scopes
	})
}

func consoleRefusal(t *testing.T, r reply, status int) consoleError {
	t.Helper()
	require.Equal(t, status, r.StatusCode, r.body)
	require.Equal(t, "application/json", r.Header.Get("Content-Type"))
	var members map[string]any
	require.NoError(t, json.Unmarshal([]byte(r.body), &members), r.body)
	for name := range members {
		require.Contains(t, []string{"code", "message", "details"}, name)
	}
	var e consoleError
	require.NoError(t, json.Unmarshal([]byte(r.body), &e))
	require.Equal(t, status, e.Code)
	require.NotEmpty(t, e.Message)
	return e
}

func TestConsoleTokenIgnoresEveryCredentialAndEveryCase(t *testing.T) {
	t.Parallel()
	s := consoleSite(t)
	c := client(t, false)
	for body, want := range map[string]directory.GrantRequest{
		`{"grantType":"password","username":"u","password":"p"}`:                     {GrantType: "password", Username: "u", Password: "p"},
		`{"GRANTTYPE":"client_credentials","clientId":"a","CLIENTSECRET":"s","x":1}`: {GrantType: "client_credentials", ClientID: "a", ClientSecret: "s"},
		`{"grantType":"client_credentials","clientID":"a","clientSecret":"s"}`:       {GrantType: "client_credentials", ClientID: "a", ClientSecret: "s"},
		`{"grantType":"app_token","AppId":"a","AppSecret":"s"}`:                      {GrantType: "app_token", ClientID: "a", ClientSecret: "s"},
		`{"grantType":"app_token","appID":"a","appSecret":"s","clientID":null}`:      {GrantType: "app_token", ClientID: "a", ClientSecret: "s"},
		`{"grantType":"refresh_token","refreshtoken":"r","clientID":"a"}`:            {GrantType: "refresh_token", RefreshToken: "r", ClientID: "a"},
	} {
		for _, headers := range [][]string{
			nil,
			{"Authorization", "Bearer bogus"},
			{"Authorization", "Basic !!!"},
			{"Authorization", "nonsense", "Host", "console.corp.example"},
			{"Content-Type", "application/x-www-form-urlencoded"},
		} {
			r := do(t, c, request(t, "POST", s.url+"/api/v1/token", strings.NewReader(body), headers...))
			require.Equal(t, 200, r.StatusCode, r.body)
			require.JSONEq(t, `{"accessToken":"access","idToken":"id","refreshToken":"refresh","externalToken":"","expiresIn":3600}`, r.body)
			require.Equal(t, "no-store", r.Header.Get("Cache-Control"))
			asked := s.lastAsked(t)
			var got directory.GrantRequest
			require.NoError(t, json.Unmarshal([]byte(asked.body), &got))
			require.Equal(t, want, got)
			require.Equal(t, access.Kind("anonymous"), asked.caller.Kind)
		}
	}
}

func TestBadConsoleTokenRequests(t *testing.T) {
	t.Parallel()
	s := consoleSite(t)
	c := client(t, false)
	for body, names := range map[string]string{
		"": "body", "null": "body", "[]": "body", `"x"`: "body", `{"grantType":"password",}`: "body", `{"grantType":"password"} x`: "body",
		`{"grantType":1}`: "grantType must be a string", `{"username":["u"]}`: "username", `{"clientID":"a","clientId":"b"}`: "twice",
		`{"username":"a","username":"b"}`: "twice", `{"username":"a\u0000"}`: "U+0000", strings.Repeat(" ", maxTokenBody+1): "larger", "{\"a\":" + strings.Repeat("[", 100): "deeper",
	} {
		e := consoleRefusal(t, do(t, c, request(t, "POST", s.url+"/api/v1/token", strings.NewReader(body))), 400)
		require.Contains(t, e.Message, names, body)
	}
	s.refuse(t, directory.Grant.Subject(), problem.New(problem.Unauthorized, "wrong credentials"))
	e := consoleRefusal(t, do(t, c, request(t, "POST", s.url+"/api/v1/token", strings.NewReader(`{}`))), 400)
	require.Equal(t, "wrong credentials", e.Message)
	throttled := problem.New(problem.BadRequest, "too many")
	throttled.RetryAfterSeconds = 7
	s.refuse(t, directory.Grant.Subject(), throttled)
	r := do(t, c, request(t, "POST", s.url+"/api/v1/token", strings.NewReader(`{}`)))
	consoleRefusal(t, r, 400)
	require.Equal(t, "7", r.Header.Get("Retry-After"))
}

func TestConsoleRefusalsHaveOneShape(t *testing.T) {
	t.Parallel()
	s := consoleSite(t)
	c := client(t, false)
	opaque, _ := s.key([]string{access.ListFunctions}, allFunctions)
	for _, tt := range []struct {
		method, path, bearer string
		status               int
	}{
		{"GET", "/api/v1/users", "", 401},
		{"GET", "/api/v1/users", "Bearer ", 401},
		{"GET", "/api/v1/users", "Bearer x.y.z", 401},
		{"GET", "/api/v1/users", "Basic eDp5", 401},
		{"GET", "/api/v1/users", "Bearer nvapi-unknown", 401},
		{"GET", "/api/v1/users", auth(opaque), 403},
		{"GET", "/api/v1/access-keys", auth(opaque), 403},
		{"GET", "/api/v1/nothing", "", 404},
		{"GET", "/api/v1/apps/", "", 404},
		{"PUT", "/api/v1/apps", "", 405},
		{"GET", "/api/v1/token", "", 405},
		{"POST", "/api/v1/users", auth(s.consoleToken(t)), 400},
	} {
		headers := []string{"Host", "console.corp.example"}
		if tt.bearer != "" {
			headers = append(headers, "Authorization", tt.bearer)
		}
		r := do(t, c, request(t, tt.method, s.url+tt.path, nil, headers...))
		consoleRefusal(t, r, tt.status)
		require.Equal(t, tt.status == 405, r.Header.Get("Allow") != "")
		if tt.status == http.StatusUnauthorized {
			require.Equal(t, "Bearer", r.Header.Get("WWW-Authenticate"))
		}
	}
	s.refuse(t, directory.CreateUser.Subject(), &problem.Problem{
		Code: problem.Validation, Detail: "Validation failed: …", Violations: []problem.Violation{{Field: "email", Rule: "must be good"}, {Field: "x", Rule: "must not be"}},
	})
	r := do(t, c, request(t, "POST", s.url+"/api/v1/users", strings.NewReader(`{}`), "Authorization", auth(s.consoleToken(t))))
	require.Equal(t, "email must be good; x must not be", consoleRefusal(t, r, 400).Message)
	s.refuse(t, directory.ListUsers.Subject(), &problem.Problem{Code: problem.ScopeMissing, Detail: "no", RequiredScopes: []string{"access:manage"}})
	r = do(t, c, request(t, "GET", s.url+"/api/v1/users", nil, "Authorization", auth(s.consoleToken(t))))
	require.Equal(t, "required scopes: access:manage", consoleRefusal(t, r, 403).Details)

	// A function may have such paths too; they are no API of ours.
	fid := uuid.NewString()
	r = do(t, c, request(t, "GET", s.url+"/api/v1/users", nil, "Host", direct(fid)))
	refused(t, r, 401)
}

func TestConsoleRoutesTranslate(t *testing.T) {
	t.Parallel()
	s := consoleSite(t)
	c := client(t, false)
	bearer := auth(s.consoleToken(t, access.ManageAccess))
	id := uuid.NewString()
	for _, rt := range consoleRoutes() {
		path := strings.ReplaceAll(rt.path, "{id}", id)
		if strings.Contains(rt.path, "access-rules") {
			path = strings.ReplaceAll(rt.path, "{id}", "17")
		}
		r := do(t, c, request(t, rt.method, s.url+path, strings.NewReader(`{}`), "Authorization", bearer))
		require.Equal(t, rt.status, r.StatusCode, "%s %s: %s", rt.method, path, r.body)
		asked := s.lastAsked(t)
		require.Equal(t, rt.endpoint.Subject, asked.subject)
		require.Equal(t, access.JWT, asked.caller.Kind)
		require.Equal(t, access.DefaultAccount, asked.caller.Account)
		if strings.HasSuffix(rt.path, "{id}") && rt.method == "PATCH" {
			require.Empty(t, r.body, "200 without a body")
			require.Contains(t, asked.body, id)
		}
		consoleRefusal(t, do(t, c, request(t, rt.method, s.url+path, nil)), 401)
		if !takesBody(rt) || !bindingOf(rt.endpoint.Input).hasBody {
			continue
		}
		for body, rule := range map[string]string{
			"": "empty", "[]": "object", "null": "object", "{": "not valid JSON", `{"a":1,"a":2}`: "twice", `{"a":"\u0000"}`: "U+0000", `{"a":1,}`: "not valid JSON",
		} {
			r := do(t, c, request(t, rt.method, s.url+path, strings.NewReader(body), "Authorization", bearer))
			require.Contains(t, consoleRefusal(t, r, 400).Message, rule, "%s %s: %q", rt.method, path, body)
		}
		large := `{"x":"` + strings.Repeat("x", maxKeysBody) + `"}`
		consoleRefusal(t, do(t, c, request(t, rt.method, s.url+path, strings.NewReader(large), "Authorization", bearer)), 413)
	}
	do(t, c, request(t, "GET", s.url+"/api/v1/users?filterBy=username=@a,isLocal==true&offset=3&limit=5&sortBy=username&sortOrder=desc&search=x", nil, "Authorization", bearer))
	var asked directory.ListUsersRequest
	require.NoError(t, json.Unmarshal([]byte(s.lastAsked(t).body), &asked))
	require.Equal(t, []string{"username=@a", "isLocal==true"}, asked.FilterBy)
	require.Equal(t, 3, *asked.Offset)
	require.Equal(t, 5, *asked.Limit)
	require.Equal(t, "x", asked.Search)
	r := do(t, c, request(t, "GET", s.url+"/api/v1/users?limit=many", nil, "Authorization", bearer))
	require.Contains(t, consoleRefusal(t, r, 400).Message, "limit must be a whole number")
}

func TestOAuthToken(t *testing.T) {
	t.Parallel()
	s := consoleSite(t)
	c := client(t, false)
	post := func(body string, headers ...string) reply {
		headers = append([]string{"Content-Type", "application/x-www-form-urlencoded"}, headers...)
		return do(t, c, request(t, "POST", s.url+"/api/v2/token", strings.NewReader(body), headers...))
	}
	basic := func(user, password string) string {
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/", nil)
		r.SetBasicAuth(user, password)
		return r.Header.Get("Authorization")
	}
	for _, tt := range []struct {
		body, authorization string
		want                directory.GrantRequest
	}{
		{
			"grant_type=client_credentials&client_id=a&client_secret=s&scope=deploy_function%20update_instance", "",
			directory.GrantRequest{GrantType: "client_credentials", ClientID: "a", ClientSecret: "s", Scopes: []string{"deploy_function", "update_instance"}},
		},
		{"grant_type=client_credentials", basic("a%20b", "s%2Bs"), directory.GrantRequest{GrantType: "client_credentials", ClientID: "a b", ClientSecret: "s+s"}},
		{"grant_type=client_credentials&client_id=a&client_secret=s", "Bearer bogus", directory.GrantRequest{GrantType: "client_credentials", ClientID: "a", ClientSecret: "s"}},
		{"grant_type=password&username=u&password=p&scope=", "", directory.GrantRequest{GrantType: "password", Username: "u", Password: "p"}},
		{"grant_type=refresh_token&refresh_token=r", "", directory.GrantRequest{GrantType: "refresh_token", RefreshToken: "r"}},
	} {
		r := post(tt.body, "Authorization", tt.authorization)
		require.Equal(t, 200, r.StatusCode, r.body)
		require.JSONEq(t, `{"access_token":"access","token_type":"Bearer","expires_in":3600,"refresh_token":"refresh","id_token":"id","scope":"list_functions deploy_function"}`, r.body)
		require.Equal(t, "no-store", r.Header.Get("Cache-Control"))
		var got directory.GrantRequest
		require.NoError(t, json.Unmarshal([]byte(s.lastAsked(t).body), &got))
		require.Equal(t, tt.want, got)
	}
	denied := func(r reply, status int, code string) {
		t.Helper()
		require.Equal(t, status, r.StatusCode, r.body)
		require.Equal(t, "application/json", r.Header.Get("Content-Type"))
		require.Equal(t, "no-store", r.Header.Get("Cache-Control"))
		var e map[string]string
		require.NoError(t, json.Unmarshal([]byte(r.body), &e))
		require.Equal(t, code, e["error"], r.body)
		require.NotEmpty(t, e["error_description"])
		require.Len(t, e, 2)
		require.Equal(t, status == 401, strings.HasPrefix(r.Header.Get("WWW-Authenticate"), "Basic"))
	}
	denied(post(""), 400, "invalid_request")
	denied(post("grant_type=%zz"), 400, "invalid_request")
	denied(post("grant_type=authorization_code&code=x"), 400, "unsupported_grant_type")
	denied(post("grant_type=implicit"), 400, "unsupported_grant_type")
	denied(post("grant_type=password&username=u"), 400, "invalid_request")
	denied(post("grant_type=password&password=u"), 400, "invalid_request")
	denied(post("grant_type=refresh_token"), 400, "invalid_request")
	denied(post("grant_type=password&username=u&username=v&password=p"), 400, "invalid_request")
	denied(post("grant_type=client_credentials&client_id=a"), 401, "invalid_client")
	denied(post("grant_type=client_credentials&client_id=a&client_secret=s", "Authorization", basic("a", "s")), 400, "invalid_request")
	denied(post("grant_type=client_credentials&client_id=b", "Authorization", basic("a", "s")), 400, "invalid_request")
	denied(post("grant_type=client_credentials", "Authorization", basic("%zz", "s")), 401, "invalid_client")
	denied(post(strings.Repeat("x", maxTokenBody+1)), 400, "invalid_request")
	denied(do(t, c, request(t, "POST", s.url+"/api/v2/token", strings.NewReader(`{}`), "Content-Type", "application/json")), 400, "invalid_request")
	denied(do(t, c, request(t, "GET", s.url+"/api/v2/token", nil)), 405, "invalid_request")
	for p, want := range map[*problem.Problem]struct {
		status int
		code   string
	}{
		problem.New(problem.Unauthorized, "wrong credentials"): {401, "invalid_client"},
		problem.New(problem.BadRequest, "wrong credentials"):   {400, "invalid_grant"},
		problem.New(problem.Unavailable, "later"):              {503, "temporarily_unavailable"},
		problem.New(problem.Internal, "broken"):                {500, "server_error"},
	} {
		s.refuse(t, directory.Grant.Subject(), p)
		denied(post("grant_type=password&username=u&password=p"), want.status, want.code)
	}
}

// FuzzGrant asserts that any body of a token request is refused with the field and the rule, or read.
func FuzzGrant(f *testing.F) {
	for _, seed := range []string{`{"grantType":"password","username":"u","password":"p"}`, `{"GrantType":"app_token","AppId":"a","AppSecret":"s"}`, `{"a":`, `{"clientID":"a","clientId":"b"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		req, err := decodeGrant(body)
		if err != nil {
			p, expected := problem.From(err)
			require.True(t, expected)
			require.Equal(t, 400, p.Status())
			require.NotEmpty(t, p.Violations)
			require.NotEmpty(t, consoleErrorOf(p).Message)
			return
		}
		require.True(t, json.Valid(body))
		again, err := json.Marshal(req)
		require.NoError(t, err)
		second, err := decodeGrant(again)
		require.NoError(t, err)
		if req.GrantType != directory.AppTokenGrant {
			require.Equal(t, req, second)
		}
	})
}

// FuzzOAuthForm asserts that any form is refused as RFC 6749 says, or read.
func FuzzOAuthForm(f *testing.F) {
	f.Add("grant_type=client_credentials&client_id=a&client_secret=s", "", "", false)
	f.Add("grant_type=password&username=u&password=p&scope=a+b", "%41", "x", true)
	f.Fuzz(func(t *testing.T, body, user, password string, basic bool) {
		req, err := decodeOAuth(body, user, password, basic)
		if err != nil {
			p, expected := problem.From(err)
			require.True(t, expected)
			require.Less(t, p.Status(), 500)
			e := oauthErrorOf(p)
			require.NotEmpty(t, e.Error)
			for _, r := range e.Description {
				require.True(t, r >= ' ' && r <= '~' && r != '"' && r != '\\')
			}
			return
		}
		form, err := url.ParseQuery(body)
		require.NoError(t, err)
		require.Equal(t, form.Get("grant_type"), req.GrantType)
	})
}

// TestATokenOfTheAccessAPIIsACredentialEverywhere asserts its scopes on another API, and that an ID token opens nothing.
func TestATokenOfTheAccessAPIIsACredentialEverywhere(t *testing.T) {
	t.Parallel()
	s := consoleSite(t)
	c := client(t, false)
	good := do(t, c, request(t, "GET", s.url+"/v2/nvcf/functions", nil, "Authorization", auth(s.consoleToken(t, access.ListFunctions))))
	require.Equal(t, http.StatusOK, good.StatusCode, good.body)
	none := do(t, c, request(t, "GET", s.url+"/v2/nvcf/functions", nil, "Authorization", auth(s.consoleToken(t))))
	require.Equal(t, problem.ScopeMissing, refused(t, none, 403).Code)
	identity := s.token(t, func(_ *jwt.Token, claims jwt.MapClaims) {
		claims["iss"], claims["aud"], claims["exp"] = keys.ConsoleIssuer(keys.ConsoleDomain), []string{"cli"}, time.Now().Add(time.Hour).Unix()
	})
	consoleRefusal(t, do(t, c, request(t, "GET", s.url+"/api/v1/access-keys", nil, "Authorization", auth(identity))), 401)
}
