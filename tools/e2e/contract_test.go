package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/tools/stack"
)

// document is the OpenAPI document that the gateway serves; every answer that a test gets is held against it.
var document = sync.OnceValues(func() (*contract, error) {
	content, err := os.ReadFile("../../services/gateway/openapi.json")
	if err != nil {
		return nil, err
	}
	loaded, err := openapi3.NewLoader().LoadFromData(content)
	if err != nil {
		return nil, fmt.Errorf("openapi.json: %w", err)
	}
	return &contract{document: loaded, broken: map[string]string{}}, nil
})

// contract remembers which answers broke the document, one for each operation and status.
type contract struct {
	document *openapi3.T

	mu      sync.Mutex
	checked int
	broken  map[string]string
}

// check holds one answer of the management API against the document. What a function answers is its own affair.
func (c *contract) check(req *http.Request, resp *http.Response, body []byte) {
	if req.Host != "" && req.Host != req.URL.Host || req.Header.Get("Function-Id") != "" || req.Method == http.MethodOptions || req.Method == http.MethodHead {
		return
	}
	path := c.pathOf(plainPath(req.URL.Path))
	if path == "" || strings.Contains(path, "/pexec/") {
		return
	}
	operation := c.document.Paths.Find(path).GetOperation(req.Method)
	if operation == nil {
		return
	}
	err := conforms(operation, resp, body)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.checked++
	if err != nil {
		c.broken[req.Method+" "+path+" "+strconv.Itoa(resp.StatusCode)] = fmt.Sprintf("%v in %.400s", err, body)
	}
}

// pathOf finds the documented path of an asked one: of those that match, that with the fewest parameters.
func (c *contract) pathOf(asked string) (found string) {
	fewest := len(asked)
	for path := range c.document.Paths.Map() {
		have, want := strings.Split(asked, "/"), strings.Split(path, "/")
		parameters := 0
		matches := len(have) == len(want)
		for i := 0; matches && i < len(want); i++ {
			switch {
			case strings.HasPrefix(want[i], "{"):
				parameters++
			case want[i] != have[i]:
				matches = false
			}
		}
		if matches && parameters < fewest {
			found, fewest = path, parameters
		}
	}
	return found
}

// plainPath undoes the organisation-prefixed aliases.
func plainPath(path string) string {
	rest, ok := strings.CutPrefix(path, "/v2/orgs/")
	if !ok {
		return path
	}
	_, rest, _ = strings.Cut(rest, "/")
	if team, ok := strings.CutPrefix(rest, "teams/"); ok {
		_, rest, _ = strings.Cut(team, "/")
	}
	if strings.HasPrefix(rest, "nvcf/") {
		return "/v2/" + rest
	}
	return path
}

func conforms(operation *openapi3.Operation, resp *http.Response, body []byte) error {
	documented := operation.Responses.Status(resp.StatusCode)
	if documented == nil {
		if resp.StatusCode < 400 {
			return fmt.Errorf("status %d is not in the document", resp.StatusCode)
		}
		documented = operation.Responses.Default()
	}
	content := documented.Value.Content
	if len(content) == 0 {
		if len(body) > 0 {
			return errors.New("a body where the document has none")
		}
		return nil
	}
	media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil {
		return fmt.Errorf("Content-Type %q: %w", resp.Header.Get("Content-Type"), err)
	}
	described := content.Get(media)
	if described == nil {
		return fmt.Errorf("Content-Type %q is not in the document", media)
	}
	if described.Schema == nil || described.Schema.Value == nil || !strings.HasSuffix(media, "json") {
		return nil
	}
	var value any
	if err := json.Unmarshal(body, &value); err != nil {
		return err
	}
	return described.Schema.Value.VisitJSON(value, openapi3.MultiErrors())
}

// verdict is what TestMain prints at the end.
func (c *contract) verdict() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.broken) == 0 {
		return nil
	}
	var lines []string
	for _, key := range slices.Sorted(maps.Keys(c.broken)) {
		lines = append(lines, key+": "+c.broken[key])
	}
	return fmt.Errorf("%d answers differ from the OpenAPI document:\n%s", len(lines), strings.Join(lines, "\n"))
}

// TestTheDocumentIsServedAndReadable: generators and people get it without a credential.
func TestTheDocumentIsServedAndReadable(t *testing.T) {
	u := user{t: t, url: common(t).URL}
	a := u.call("GET", "/v3/openapi")
	require.Equal(t, 200, a.status, a)
	loader := openapi3.NewLoader()
	served, err := loader.LoadFromData(a.body)
	require.NoError(t, err)
	require.NoError(t, served.Validate(loader.Context))
	require.Greater(t, served.Paths.Len(), 40)
	page := u.call("GET", "/docs")
	require.Equal(t, 200, page.status)
	require.Contains(t, page.header.Get("Content-Type"), "text/html")
}

// step is one call of the story that the document's examples tell.
type step struct {
	Operation string            `json:"operation"`
	Query     string            `json:"query"`
	Headers   map[string]string `json:"headers"`
	Request   any               `json:"request"`
	Response  any               `json:"response"`
	// Keep takes members out of the answer, by dotted path, for later steps.
	Keep map[string]string `json:"keep"`
	// Until repeats the call until a member, by dotted path, has a value.
	Until map[string]string `json:"until"`
}

// TestTheExamplesOfTheDocument replays every example from top to bottom, each with what earlier answers gave, and finds
// the members that the example shows in the answer.
func TestTheExamplesOfTheDocument(t *testing.T) {
	p := common(t)
	admin := p.administrator(t)
	content, err := os.ReadFile("../generate/examples.json")
	require.NoError(t, err)
	var story []step
	require.NoError(t, json.Unmarshal(content, &story))
	d, err := document()
	require.NoError(t, err)
	known := map[string]string{
		"tomorrow": tomorrow(), "rootPassword": remember(firstPassword), "service_id": stack.FunctionsService,
		"owner": "docs@sirocco.example", "namespace": "nvcf", "rule": "apikey.allow", "ncaId": "docs-team",
	}
	for _, s := range story {
		method, path, _ := strings.Cut(s.Operation, " ")
		item := d.document.Paths.Find(path)
		require.NotNil(t, item, "%s is in no document", s.Operation)
		operation := item.GetOperation(method)
		require.NotNil(t, operation, "%s is in no document", s.Operation)
		how := []asked{}
		if s.Request != nil {
			how = append(how, text(fill(t, s.Request, known)))
		}
		as := admin
		for name, value := range s.Headers {
			value = replace(value, known)
			if name == "Authorization" {
				as = as.with(strings.TrimPrefix(value, "Bearer "))
				continue
			}
			how = append(how, header(name, value))
		}
		target := replace(path, known)
		require.NotContains(t, target, "{", s.Operation)
		var a answer
		ask := func() bool {
			a = as.call(method, target+s.Query, how...)
			for at, want := range s.Until {
				if member(a.body, at) != want {
					return false
				}
			}
			return true
		}
		soon(t, patience, s.Operation, ask, func() string { return a.String() }) //nolint:gocritic // a changes with every try
		require.NotNil(t, operation.Responses.Status(a.status), "%s: %s", s.Operation, a)
		if s.Response != nil {
			sameShape(t, s.Operation, s.Response, decoded(t, a))
		}
		for name, at := range s.Keep {
			known[name] = member(a.body, at)
			require.NotEmpty(t, known[name], "%s has no %s: %s", s.Operation, at, a)
			if lower := strings.ToLower(at); strings.Contains(lower, "value") || strings.Contains(lower, "password") || strings.Contains(lower, "token") {
				remember(known[name])
			}
		}
	}
}

func fill(t *testing.T, request any, known map[string]string) string {
	t.Helper()
	b, err := json.Marshal(request)
	require.NoError(t, err)
	return replace(string(b), known)
}

func replace(s string, known map[string]string) string {
	for name, value := range known {
		s = strings.ReplaceAll(s, "{"+name+"}", value)
	}
	return s
}

func decoded(t *testing.T, a answer) any {
	t.Helper()
	var v any
	a.into(&v)
	return v
}

// member finds a text by its dotted path; a number is the place in an array.
func member(body []byte, at string) string {
	var v any
	if json.Unmarshal(body, &v) != nil {
		return ""
	}
	for name := range strings.SplitSeq(at, ".") {
		switch x := v.(type) {
		case map[string]any:
			v = x[name]
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i >= len(x) {
				return ""
			}
			v = x[i]
		}
	}
	s, _ := v.(string)
	return s
}

// sameShape requires the members that an example shows, with the same kind of value.
func sameShape(t *testing.T, where string, want, got any) {
	t.Helper()
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		require.True(t, ok, "%s: %v is no object", where, got)
		for name, v := range w {
			require.Contains(t, g, name, where)
			sameShape(t, where+"."+name, v, g[name])
		}
	case []any:
		g, ok := got.([]any)
		require.True(t, ok, "%s: %v is no array", where, got)
		for i, v := range w {
			require.Greater(t, len(g), i, where)
			sameShape(t, where+"["+strconv.Itoa(i)+"]", v, g[i])
		}
	default:
		require.IsType(t, want, got, where)
	}
}

func tomorrow() string { return time.Now().Add(24 * time.Hour).UTC().Format(time.RFC3339) }
