package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// tokenPath is where a person or an application signs in (keys §9.1); it takes no credential.
const tokenPath = "/api/v1/token"

// LoginClient is the client id under which a person's login is made and renewed.
const LoginClient = "sirocco-cli"

// Grant is what a login is made from: a person's name and password, or an application's client id and secret.
type Grant struct {
	GrantType    string `json:"grantType"`
	Username     string `json:"username,omitempty"`
	Password     string `json:"password,omitempty"`
	ClientID     string `json:"clientID,omitempty"`
	ClientSecret string `json:"clientSecret,omitempty"`
	RefreshToken string `json:"refreshToken,omitempty"`
}

// Login is a login as it is kept on disk, readable by its owner alone.
type Login struct {
	URL          string    `json:"url"`
	Name         string    `json:"name"`
	ClientID     string    `json:"clientId"`
	AccessToken  string    `json:"accessToken"`
	RefreshToken string    `json:"refreshToken,omitempty"`
	ExpiresAt    time.Time `json:"expiresAt"`
}

// granted is the answer of the token endpoint.
type granted struct {
	AccessToken  string `json:"accessToken"`
	RefreshToken string `json:"refreshToken"`
	ExpiresIn    int64  `json:"expiresIn"`
}

// defaultLife is how long an access token is taken to be good when the answer does not say (keys §9.6).
const defaultLife = time.Hour

// ErrLoginEnded says that a login can be used no more.
var ErrLoginEnded = errors.New("your login has ended")

// SignIn makes a login and keeps it for the next runs.
func (c *Client) SignIn(ctx context.Context, g Grant) (Login, error) {
	if c.tokens.dir == "" {
		return Login{}, errors.New("there is no configuration directory to keep a login in; set HOME or XDG_CONFIG_HOME")
	}
	l, err := c.tokens.grant(ctx, g)
	if err != nil {
		return Login{}, err
	}
	if l.Name = g.Username; l.Name == "" {
		l.Name = g.ClientID
	}
	return l, c.tokens.keep(l)
}

// SignedIn returns the login that the calls are made with.
func (c *Client) SignedIn() (Login, bool) {
	c.tokens.mu.Lock()
	defer c.tokens.mu.Unlock()
	if c.tokens.login == nil {
		return Login{}, false
	}
	return *c.tokens.login, true
}

// SignOut forgets the login of this gateway. Without one it does nothing.
func (c *Client) SignOut() error {
	c.tokens.mu.Lock()
	defer c.tokens.mu.Unlock()
	c.tokens.login = nil
	if c.tokens.dir == "" {
		return nil
	}
	if err := os.Remove(c.tokens.loginFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("login: %w", err)
	}
	return nil
}

// Bearer is the credential that calls are made with at this moment.
func (c *Client) Bearer(ctx context.Context) (string, error) { return c.tokens.get(ctx) }

func (t *tokens) loginFile() string { return t.file("login") }

// loadLogin finds the login of this gateway; a damaged file counts as none.
func (t *tokens) loadLogin() *Login {
	if t.dir == "" {
		return nil
	}
	b, err := os.ReadFile(t.loginFile())
	if err != nil {
		return nil
	}
	var l Login
	if json.Unmarshal(b, &l) != nil || l.AccessToken == "" || l.URL != t.client.base {
		return nil
	}
	return &l
}

func (t *tokens) keep(l Login) error {
	b, err := json.Marshal(l) //nolint:gosec // the file is what keeps the login, and its owner alone reads it
	if err != nil {
		return fmt.Errorf("login: %w", err)
	}
	t.login = &l
	if err := writePrivate(t.dir, t.loginFile(), b); err != nil {
		return fmt.Errorf("login: %w", err)
	}
	return nil
}

func (t *tokens) grant(ctx context.Context, g Grant) (Login, error) {
	body, err := json.Marshal(g) //nolint:gosec // signing in is sending the password
	if err != nil {
		return Login{}, fmt.Errorf("login: %w", err)
	}
	raw, err := t.client.Answer(ctx, Request{Method: http.MethodPost, Path: tokenPath, Body: body, Anonymous: true})
	if err != nil {
		return Login{}, err
	}
	var answer granted
	if err := json.Unmarshal(raw, &answer); err != nil || answer.AccessToken == "" {
		return Login{}, fmt.Errorf("%s%s answered without a token; is this the address of a Sirocco gateway?", t.client.base, tokenPath)
	}
	life := time.Duration(answer.ExpiresIn) * time.Second
	if life <= 0 {
		life = defaultLife
	}
	return Login{URL: t.client.base, ClientID: g.ClientID, AccessToken: answer.AccessToken, RefreshToken: answer.RefreshToken, ExpiresAt: t.now().Add(life)}, nil
}

// refresh renews the login. A refresh token is good for one use, and using it twice ends the login, so processes that
// run side by side take turns: whoever comes second finds the login renewed.
func (t *tokens) refresh(ctx context.Context, refused string) (string, error) {
	unlock, err := t.lock()
	if err != nil {
		return "", err
	}
	defer unlock()
	if l := t.loadLogin(); l != nil {
		t.login = l
	}
	l := *t.login
	if l.AccessToken != refused && t.fresh(l.ExpiresAt) {
		return l.AccessToken, nil
	}
	if l.RefreshToken == "" {
		return "", ErrLoginEnded
	}
	renewed, err := t.grant(ctx, Grant{GrantType: "refresh_token", RefreshToken: l.RefreshToken, ClientID: l.ClientID})
	if err != nil {
		if refusal, ok := errors.AsType[*Refusal](err); ok && refusal.Status < http.StatusInternalServerError && refusal.Status != http.StatusTooManyRequests {
			return "", fmt.Errorf("%w: %w", ErrLoginEnded, err)
		}
		return "", err
	}
	renewed.Name = l.Name
	if renewed.RefreshToken == "" {
		renewed.RefreshToken = l.RefreshToken
	}
	return renewed.AccessToken, t.keep(renewed)
}

func (t *tokens) lock() (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(t.dir, "login.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("login: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("login: %w", err)
	}
	return func() { _ = f.Close() }, nil
}
