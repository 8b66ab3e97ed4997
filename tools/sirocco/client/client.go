// Package client speaks to a gateway over HTTP as an operator does: it signs people in, or mints an administrator token
// where nobody is signed in, keeps either until shortly before it expires, and turns whatever goes wrong into one of two errors. An [Unreachable] says
// that nobody answered; a [Refusal] says that the gateway did, and holds its problem document.
//
// It knows paths and credentials, not the words of the API: requests and answers are bytes, and their types are those
// of the contracts.
package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	// answerTime bounds a management call from the first byte sent to the last one read.
	answerTime = 30 * time.Second
	// dialTime bounds the wait for a connection.
	dialTime = 5 * time.Second
	// maxAnswer is the largest management answer that is read, in bytes.
	maxAnswer = 64 << 20
)

// Options say who calls.
type Options struct {
	// Token is the bearer of every call. Without one, the login of CacheDir is used; without that, an administrator
	// token is minted.
	Token string
	// CacheDir keeps logins and minted tokens between runs; empty keeps minted ones in memory only.
	CacheDir string
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Client calls one gateway. It may be used by several goroutines.
type Client struct {
	base   string
	http   *http.Client
	tokens *tokens
}

// New makes a client for the gateway at base, such as http://127.0.0.1:8080; a missing scheme means http.
func New(base string, o Options) (*Client, error) {
	if !strings.Contains(base, "://") {
		base = "http://" + base
	}
	u, err := url.Parse(base)
	if err != nil {
		return nil, fmt.Errorf("gateway address: %w", err)
	}
	if u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("gateway address %q must look like http://127.0.0.1:8080", u.Redacted())
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	c := &Client{base: strings.TrimSuffix(u.String(), "/"), http: &http.Client{
		Transport: &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			DialContext:         (&net.Dialer{Timeout: dialTime}).DialContext,
			TLSHandshakeTimeout: dialTime,
			ForceAttemptHTTP2:   true,
			// Functions' answers are passed on as they are.
			DisableCompression: true,
		},
		// A redirect is an answer like any other: a credential must not follow it.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	c.tokens = &tokens{client: c, fixed: o.Token, dir: o.CacheDir, now: o.Now}
	if o.Token == "" {
		c.tokens.login = c.tokens.loadLogin()
	}
	return c, nil
}

// URL is the address of the gateway.
func (c *Client) URL() string { return c.base }

// Minting reports whether the client makes its own administrator tokens: it was given none, and nobody is signed in.
func (c *Client) Minting() bool {
	_, signedIn := c.SignedIn()
	return c.tokens.fixed == "" && !signedIn
}

// As returns a client of the same gateway with another bearer; it shares the connections.
func (c *Client) As(token string) *Client {
	return &Client{base: c.base, http: c.http, tokens: &tokens{fixed: token}}
}

// Close drops the idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Request is one call.
type Request struct {
	Method, Path string
	Query        url.Values
	Header       http.Header
	// Body is sent as JSON unless Header has another content type.
	Body []byte
	// Stream is sent instead of Body when it is set; such a call is never repeated. Length is its size, -1 if unknown.
	Stream io.Reader
	Length int64
	// Anonymous sends no credential.
	Anonymous bool
}

// Answer makes a management call and returns the body of its answer.
func (c *Client) Answer(ctx context.Context, r Request) ([]byte, error) {
	timed, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	resp, err := c.Open(timed, r)
	if err != nil {
		return nil, c.late(ctx, timed, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, c.late(ctx, timed, c.unreachable(timed, err))
	case len(body) > maxAnswer:
		return nil, fmt.Errorf("%s %s: the answer is larger than %d MiB", r.Method, r.Path, maxAnswer>>20)
	}
	return body, nil
}

// late tells the client's own limit of time from the caller's.
func (c *Client) late(ctx, timed context.Context, err error) error {
	if ctx.Err() == nil && timed.Err() != nil {
		return &Unreachable{URL: c.base, Err: fmt.Errorf("no answer within %s", answerTime)}
	}
	return err
}

// Open makes a call whose answer is read as it comes; the caller closes its body. A status that says no is a [Refusal].
func (c *Client) Open(ctx context.Context, r Request) (*http.Response, error) {
	resp, err := c.Exchange(ctx, r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		defer resp.Body.Close()
		return nil, ReadRefusal(r.Method, r.Path, resp)
	}
	return resp, nil
}

// Exchange is Open for callers to whom every status is an answer. A token that the client minted or signed in for, and
// that the gateway does not know any more, is replaced once.
func (c *Client) Exchange(ctx context.Context, r Request) (*http.Response, error) {
	if r.Anonymous {
		return c.once(ctx, r, "")
	}
	token, err := c.tokens.get(ctx)
	if err != nil {
		return nil, err
	}
	resp, err := c.once(ctx, r, token)
	if err != nil || resp.StatusCode != http.StatusUnauthorized || c.tokens.fixed != "" || r.Stream != nil {
		return resp, err
	}
	_ = resp.Body.Close()
	if token, err = c.tokens.renew(ctx, token); err != nil {
		return nil, err
	}
	return c.once(ctx, r, token)
}

// Signed makes a call without a credential to an address that carries its own permission: one below the gateway when it
// begins with a slash, else one of another object store. The caller closes the body of the answer.
func (c *Client) Signed(ctx context.Context, r Request, address string) (*http.Response, error) {
	u, err := url.Parse(address)
	if err != nil || u.Path == "" {
		return nil, errors.New("the gateway named no address for the bytes")
	}
	at := &Client{base: c.base, http: c.http}
	if u.Host != "" {
		at.base = u.Scheme + "://" + u.Host
	}
	r.Path, r.Query, r.Anonymous = u.EscapedPath(), u.Query(), true
	return at.Open(ctx, r)
}

func (c *Client) once(ctx context.Context, r Request, token string) (*http.Response, error) {
	target := c.base + r.Path
	if len(r.Query) > 0 {
		target += "?" + r.Query.Encode()
	}
	body := r.Stream
	if body == nil && r.Body != nil {
		body = bytes.NewReader(r.Body)
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, target, body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", r.Method, r.Path, err)
	}
	if r.Stream != nil {
		req.ContentLength = r.Length
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for name, values := range r.Header {
		req.Header[http.CanonicalHeaderKey(name)] = values
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	return resp, nil
}

// unreachable names the cause without the method and address that net/http puts in front.
func (c *Client) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err
	}
	return &Unreachable{URL: c.base, Err: err}
}
