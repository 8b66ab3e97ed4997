package gateway

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/directory"
	"github.com/sirocco-cloud/sirocco/contracts/invocation"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// tokenPath is where clients of the access API get their tokens.
const tokenPath = "/api/v1/token"

// oauthPath is the one console route whose refusals are those of RFC 6749.
const oauthPath = "/api/v2/token"

// maxTokenBody is the largest body of a token request, in bytes.
const maxTokenBody = 16 << 10

// consoleError is the error body of the access API (keys §9). Code repeats the HTTP status.
type consoleError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
	Details string `json:"details,omitempty"`
}

func consoleErrorOf(p *problem.Problem) consoleError {
	e := consoleError{Code: p.Status(), Message: p.Detail}
	if len(p.Violations) > 0 {
		var rules []string
		for _, v := range p.Violations {
			rules = append(rules, v.Field+" "+v.Rule)
		}
		e.Message = strings.Join(rules, "; ")
	}
	if len(p.RequiredScopes) > 0 {
		e.Details = "required scopes: " + strings.Join(p.RequiredScopes, " ")
	}
	return e
}

// oauthError is the error body of RFC 6749, section 5.2.
type oauthError struct {
	Error       string `json:"error"`
	Description string `json:"error_description,omitempty"`
}

// oauthErrorOf names a problem as RFC 6749 does. A client that did not prove itself is an unauthorized problem; a person
// or a refresh token that did not is a bad request; a grant that is not offered an illegal state.
func oauthErrorOf(p *problem.Problem) oauthError {
	e := oauthError{Error: "invalid_request", Description: asciiOnly(consoleErrorOf(p).Message)}
	switch {
	case p.Code == problem.Unauthorized:
		e.Error = "invalid_client"
	case p.Code == problem.IllegalState:
		e.Error = "unsupported_grant_type"
	case p.Code == problem.BadRequest && len(p.Violations) == 0:
		e.Error = "invalid_grant"
	case p.Status() == http.StatusServiceUnavailable || p.Status() == http.StatusGatewayTimeout:
		e.Error = "temporarily_unavailable"
	case p.Status() >= http.StatusInternalServerError:
		e.Error = "server_error"
	}
	return e
}

// asciiOnly leaves out what an error_description must not hold.
func asciiOnly(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || r == '"' || r == '\\' {
			return -1
		}
		return r
	}, s)
}

// consoleBody is the refusal of a console route, and the headers that go with it.
func consoleBody(r *http.Request, p *problem.Problem, h http.Header) any {
	h.Set("Content-Type", "application/json")
	if p.RetryAfterSeconds > 0 {
		h.Set("Retry-After", strconv.Itoa(p.RetryAfterSeconds))
	}
	if r.URL.Path != oauthPath {
		return consoleErrorOf(p)
	}
	if p.Code == problem.Unauthorized {
		h.Set("WWW-Authenticate", `Basic realm="sirocco"`)
	}
	return oauthErrorOf(p)
}

func writeEmpty(w http.ResponseWriter, requestID string) error {
	h := w.Header()
	h.Set(invocation.HeaderRequestID, requestID)
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", "0")
	w.WriteHeader(http.StatusOK)
	return nil
}

// grant asks for tokens. Whatever credential the request carries beside its grant is ignored (keys §9.1).
func (g *Gateway) grant(r *http.Request, requestID string, req directory.GrantRequest) (directory.GrantResponse, error) {
	caller := nobody()
	caller.RequestID, caller.Address = requestID, remoteHost(r)
	ctx := access.WithCaller(r.Context(), caller)
	if tp := r.Header.Get("Traceparent"); tp != "" {
		ctx = bus.WithTraceParent(ctx, tp)
	}
	return bus.Call(ctx, g.conn, directory.Grant, req)
}

// readToken reads the body of a token request, whatever its declared type.
func readToken(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyPatience))
	b, err := io.ReadAll(io.LimitReader(r.Body, maxTokenBody+1))
	switch {
	case err != nil:
		return nil, badBody("could not be read")
	case len(b) > maxTokenBody:
		return nil, badBody("is larger than " + strconv.Itoa(maxTokenBody) + " bytes")
	}
	return b, nil
}

// consoleToken is POST /api/v1/token. It answers wrong credentials with 400: a published client takes 401 for a reason to
// try again (keys §9.1).
func (g *Gateway) consoleToken(w http.ResponseWriter, r *http.Request) {
	id := newRequestID()
	b, err := readToken(w, r)
	var req directory.GrantRequest
	if err == nil {
		req, err = decodeGrant(b)
	}
	var answer directory.GrantResponse
	if err == nil {
		answer, err = g.grant(r, id, req)
	}
	if err == nil {
		err = writeJSON(w, id, http.StatusOK, answer.Tokens)
	}
	if p, is := errors.AsType[*problem.Problem](err); is && p.Code == problem.Unauthorized {
		refused := *p
		refused.Code = problem.BadRequest
		err = &refused
	}
	if err != nil {
		g.refuse(w, r, id, err)
	}
}

// grantMembers are the members of a token request in lower case, and where each goes.
var grantMembers = map[string]func(*directory.GrantRequest) *string{
	"granttype":    func(g *directory.GrantRequest) *string { return &g.GrantType },
	"username":     func(g *directory.GrantRequest) *string { return &g.Username },
	"password":     func(g *directory.GrantRequest) *string { return &g.Password },
	"clientid":     func(g *directory.GrantRequest) *string { return &g.ClientID },
	"clientsecret": func(g *directory.GrantRequest) *string { return &g.ClientSecret },
	"refreshtoken": func(g *directory.GrantRequest) *string { return &g.RefreshToken },
}

// decodeGrant reads a token request, whose members are matched without regard to case. The application of an app_token
// grant is a client like any other.
func decodeGrant(b []byte) (directory.GrantRequest, error) {
	var req directory.GrantRequest
	if err := checkObject(b); err != nil {
		return req, err
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(b, &members); err != nil {
		return req, badBody("is not valid JSON")
	}
	texts := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		lower := strings.ToLower(name)
		if grantMembers[lower] == nil && lower != "appid" && lower != "appsecret" {
			continue
		}
		var text *string
		if err := json.Unmarshal(members[name], &text); err != nil {
			return req, violation(name, "must be a string")
		}
		if _, twice := texts[lower]; twice {
			return req, violation(name, "appears twice, in another case")
		}
		if text != nil {
			texts[lower] = *text
		}
	}
	for member, field := range grantMembers {
		*field(&req) = texts[member]
	}
	if req.GrantType == directory.AppTokenGrant {
		if id := texts["appid"]; id != "" {
			req.ClientID = id
		}
		if secret := texts["appsecret"]; secret != "" {
			req.ClientSecret = secret
		}
	}
	return req, nil
}

// oauthAnswer is the answer of RFC 6749, section 5.1.
type oauthAnswer struct {
	AccessToken  string `json:"access_token"`
	TokenType    string `json:"token_type"`
	ExpiresIn    int    `json:"expires_in"`
	RefreshToken string `json:"refresh_token,omitempty"`
	IDToken      string `json:"id_token,omitempty"`
	Scope        string `json:"scope"`
}

// oauthToken is POST /api/v2/token (keys §9.2).
func (g *Gateway) oauthToken(w http.ResponseWriter, r *http.Request) {
	id := newRequestID()
	w.Header().Set("Pragma", "no-cache")
	req, err := oauthGrant(w, r)
	var answer directory.GrantResponse
	if err == nil {
		answer, err = g.grant(r, id, req)
	}
	if err == nil {
		err = writeJSON(w, id, http.StatusOK, oauthAnswer{
			AccessToken: answer.AccessToken, TokenType: "Bearer", ExpiresIn: answer.ExpiresIn,
			RefreshToken: answer.RefreshToken, IDToken: answer.IDToken, Scope: strings.Join(answer.Scopes, " "),
		})
	}
	if err != nil {
		g.refuse(w, r, id, err)
	}
}

func oauthGrant(w http.ResponseWriter, r *http.Request) (directory.GrantRequest, error) {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != "application/x-www-form-urlencoded" {
		return directory.GrantRequest{}, badBody("must be of type application/x-www-form-urlencoded")
	}
	b, err := readToken(w, r)
	if err != nil {
		return directory.GrantRequest{}, err
	}
	user, password, basic := r.BasicAuth()
	return decodeOAuth(string(b), user, password, basic)
}

// decodeOAuth reads the form of RFC 6749. A client names itself by HTTP Basic or in the form, not by both; a parameter
// without a value counts as absent, and one that comes twice is refused.
func decodeOAuth(body, user, password string, basic bool) (directory.GrantRequest, error) {
	form, err := url.ParseQuery(body)
	if err != nil {
		return directory.GrantRequest{}, badBody("is not a form")
	}
	for _, name := range slices.Sorted(maps.Keys(form)) {
		if len(form[name]) > 1 {
			return directory.GrantRequest{}, violation(name, "appears twice")
		}
	}
	req := directory.GrantRequest{
		GrantType: form.Get("grant_type"), Username: form.Get("username"), Password: form.Get("password"),
		ClientID: form.Get("client_id"), ClientSecret: form.Get("client_secret"), RefreshToken: form.Get("refresh_token"),
	}
	if scope := strings.Fields(form.Get("scope")); len(scope) > 0 {
		req.Scopes = scope
	}
	if basic {
		id, ierr := url.QueryUnescape(user)
		secret, serr := url.QueryUnescape(password)
		switch {
		case ierr != nil || serr != nil:
			return req, problem.New(problem.Unauthorized, "the Basic credentials are not form-urlencoded")
		case req.ClientSecret != "" || req.ClientID != "" && req.ClientID != id:
			return req, violation("client_id", "must be given by HTTP Basic or in the form, not by both")
		}
		req.ClientID, req.ClientSecret = id, secret
	}
	return req, oauthNeeds(req)
}

// oauthNeeds checks what each grant needs, in the spelling of the form.
func oauthNeeds(req directory.GrantRequest) error {
	switch req.GrantType {
	case "":
		return violation("grant_type", "must be present")
	case directory.PasswordGrant:
		if req.Username == "" {
			return violation("username", "must be present")
		}
		if req.Password == "" {
			return violation("password", "must be present")
		}
	case directory.RefreshGrant:
		if req.RefreshToken == "" {
			return violation("refresh_token", "must be present")
		}
	case directory.ClientGrant:
		if req.ClientID == "" || req.ClientSecret == "" {
			return problem.New(problem.Unauthorized, "client_id and client_secret are needed")
		}
	default:
		return problem.New(problem.IllegalState, "grant_type must be one of client_credentials, password, refresh_token")
	}
	return nil
}
