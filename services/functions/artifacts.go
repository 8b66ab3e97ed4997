package functions

import (
	"context"
	"crypto/tls"
	"encoding"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"go.uber.org/zap"

	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// validationMode says what becomes of an artifact that its registry does not have (§2.7, docs/decisions/0012).
type validationMode string

const (
	// throwMode refuses the request.
	throwMode validationMode = "throw"
	// logMode lets it pass and writes the finding down. No request waits for a registry.
	logMode validationMode = "log"
	// offMode looks at nothing.
	offMode validationMode = "off"
)

var _ encoding.TextUnmarshaler = (*validationMode)(nil)

// UnmarshalText reads SIROCCO_ARTIFACT_VALIDATION.
func (m *validationMode) UnmarshalText(text []byte) error {
	switch mode := validationMode(strings.ToLower(strings.TrimSpace(string(text)))); mode {
	case throwMode, logMode, offMode:
		*m = mode
		return nil
	}
	return fmt.Errorf("%q is not throw, log or off", text)
}

const (
	// askPatience bounds all questions to registries that one request waits for; it is shorter than the caller's own.
	askPatience = 6 * time.Second
	// maxQuestions is how many questions of log mode wait; more are dropped, because they only make log lines.
	maxQuestions = 64
	userAgent    = "sirocco"
)

// artifact is one thing that a version takes from a registry.
type artifact struct {
	kind contract.ArtifactType
	host string
	// image is a reference as registries understand it, address the URL of a chart outside of one; a model or a resource
	// has neither, because no open protocol tells whether it exists.
	image, address string
}

func (a artifact) String() string {
	if a.image != "" {
		return a.image
	}
	return a.address
}

// artifactsOf lists what a version takes from registries.
func artifactsOf(s contract.Spec) []artifact {
	var list []artifact
	if host, ok := imageHost(s.ContainerImage); ok {
		list = append(list, artifact{kind: contract.ContainerArtifact, host: host, image: s.ContainerImage})
	}
	if s.HelmChart != "" {
		list = append(list, chart(s.HelmChart))
	}
	add := func(kind contract.ArtifactType, all []contract.Artifact) {
		for _, a := range all {
			if u, err := url.Parse(a.URI); err == nil && u.Host != "" {
				list = append(list, artifact{kind: kind, host: u.Host})
			}
		}
	}
	add(contract.ModelArtifact, s.Models)
	add(contract.ResourceArtifact, s.Resources)
	return list
}

// imageHost is the registry of an image; one without a host is Docker's.
func imageHost(image string) (host string, ok bool) {
	if image == "" {
		return "", false
	}
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return "", false
	}
	return reference.Domain(named), true
}

// packedChart is the last part of a chart's path that names the file: echo-1.2.3.tgz is version 1.2.3 of echo.
var packedChart = regexp.MustCompile(`^(.+?)-(\d[^/]*)\.tgz$`)

func chart(uri string) artifact {
	scheme, rest, _ := strings.Cut(uri, "://")
	host, _, _ := strings.Cut(rest, "/")
	a := artifact{kind: contract.HelmArtifact, host: host}
	if scheme != "oci" {
		a.address = uri
		return a
	}
	if m := packedChart.FindStringSubmatch(rest); m != nil {
		rest = m[1] + ":" + m[2]
	}
	// A tag has no plus sign; charts write an underscore for it.
	a.image = strings.ReplaceAll(rest, "+", "_")
	return a
}

// CheckArtifacts looks again before a version is deployed (§2.7).
func (f *Functions) CheckArtifacts(ctx context.Context, r contract.InternalRequest) (rpc.None, error) {
	v, err := f.internal(ctx, r)
	if err != nil {
		return rpc.None{}, err
	}
	return rpc.None{}, f.validateArtifacts(ctx, v)
}

// artifactsFit validates the artifacts of a version that is about to be made. Registries are asked only for somebody who
// may make it, which admit finds out, and never within a transaction that keeps something.
func (f *Functions) artifactsFit(ctx context.Context, v version, admit func(unit) error) error {
	if f.registry.Validation == throwMode {
		if err := f.store.change(ctx, admit); err != nil {
			return err
		}
	}
	return f.validateArtifacts(ctx, v)
}

// validateArtifacts holds what a version takes from registries against the account's credentials and, where there is
// something to ask, against the registries. Only throw mode waits for an answer, or makes an error of it.
func (f *Functions) validateArtifacts(ctx context.Context, v version) error {
	if f.registry.Validation == offMode {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	for _, a := range artifactsOf(v.spec) {
		question, err := f.admitArtifact(ctx, v, a)
		if err == nil && question != nil {
			if f.registry.Validation != throwMode {
				f.enqueue(question)
				continue
			}
			err = question(ctx)
		}
		if err == nil {
			continue
		}
		if f.registry.Validation == throwMode {
			return err
		}
		var p *problem.Problem
		if !errors.As(err, &p) {
			return err
		}
		// Debug: on a machine without a way out this is how every version looks.
		f.log.Debug("artifact would be refused in throw mode", zap.String("version", v.id), zap.String("reason", p.Detail))
	}
	return nil
}

// question asks a registry about one artifact.
type question func(ctx context.Context) error

// admitArtifact decides what can be decided here, and returns what is to be asked of the registry, if anything.
func (f *Functions) admitArtifact(ctx context.Context, v version, a artifact) (question, error) {
	prefix := fmt.Sprintf("Account '%s', function id '%s', version '%s'", v.account, v.functionID, v.id)
	known, ok := f.recognized.find(a.kind, a.host)
	if !ok {
		return nil, problem.New(problem.BadRequest, "%s: '%s' is not a recognized registry for %s artifacts", prefix, short(a.host), a.kind)
	}
	if known.origin == declared {
		return nil, nil
	}
	secret, found, err := f.loginFor(ctx, v.account, a.kind, a.host)
	if err != nil {
		return nil, err
	}
	if !found && known.origin == builtIn {
		return nil, problem.New(problem.BadRequest, "%s: no registry credential for %s artifacts of '%s'", prefix, a.kind, short(a.host))
	}
	if a.image == "" && a.address == "" {
		return nil, nil
	}
	return func(ctx context.Context) error { return verdict(prefix, a, look(ctx, a, secret)) }, nil
}

// verdict turns what a registry said into what the client hears.
func verdict(prefix string, a artifact, err error) error {
	if err == nil {
		return nil
	}
	refused, ok := errors.AsType[*transport.Error](err)
	if !ok {
		return problem.New(problem.Upstream, "%s: registry '%s' cannot be asked about the %s artifact: %s", prefix, a.host, a.kind, silence(err))
	}
	code, text := problem.Upstream, fmt.Sprintf("registry '%s' answered with status %d", a.host, refused.StatusCode)
	switch refused.StatusCode {
	case http.StatusUnauthorized:
		code, text = problem.Unauthorized, fmt.Sprintf("registry '%s' refused the credential", a.host)
	case http.StatusForbidden:
		code, text = problem.Forbidden, fmt.Sprintf("registry '%s' denies access to %s artifact '%s'", a.host, a.kind, a)
	case http.StatusNotFound:
		code, text = problem.NotFound, fmt.Sprintf("%s artifact '%s': Not found in registry '%s'", a.kind, a, a.host)
	case http.StatusTooManyRequests:
		code, text = problem.TooManyRequests, fmt.Sprintf("registry '%s' takes no more requests for now", a.host)
	}
	return problem.New(code, "%s: %s", prefix, text)
}

// silence says in words of ours why a registry gave no verdict; the error itself may hold addresses that are nobody's business.
func silence(err error) string {
	_, noName := errors.AsType[*net.DNSError](err)
	_, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
	switch {
	case noName:
		return "its name is not known here"
	case untrusted:
		return "its certificate is not trusted here"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "it refuses the connection"
	case errors.Is(err, context.DeadlineExceeded):
		return "it gave no answer in time"
	}
	return "its answer was not understood"
}

// look asks for an artifact in its registry.
func look(ctx context.Context, a artifact, secret login) error {
	through := oneShot()
	if a.address != "" {
		return askAddress(ctx, through, a.address, secret)
	}
	ref, err := name.ParseReference(a.image)
	if err != nil {
		return &transport.Error{StatusCode: http.StatusNotFound}
	}
	_, err = remote.Head(ref, remote.WithContext(ctx), remote.WithAuth(secret.authenticator()), remote.WithTransport(through),
		remote.WithUserAgent(userAgent), remote.WithRetryBackoff(remote.Backoff{Steps: 1}))
	return err
}

// oneShot is a transport that keeps no connection for later.
func oneShot() *http.Transport {
	return &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, TLSHandshakeTimeout: askPatience, ResponseHeaderTimeout: askPatience}
}

func askAddress(ctx context.Context, through http.RoundTripper, address string, secret login) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodHead, address, nil)
	if err != nil {
		return err
	}
	r.Header.Set("User-Agent", userAgent)
	if secret.user != "" {
		r.SetBasicAuth(secret.user, secret.password)
	}
	return status((&http.Client{Transport: through}).Do(r))
}

func status(resp *http.Response, err error) error {
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	if resp.StatusCode >= http.StatusMultipleChoices {
		return &transport.Error{StatusCode: resp.StatusCode}
	}
	return nil
}

func (l login) authenticator() authn.Authenticator {
	if l.user == "" {
		return authn.Anonymous
	}
	return &authn.Basic{Username: l.user, Password: l.password}
}

// tryLogin asks the registry of a credential whether it is good, where that can be asked (§7).
func (f *Functions) tryLogin(ctx context.Context, cred contract.RegistryCredential, secret login) error {
	if f.registry.Validation == offMode {
		return nil
	}
	asked := false
	for _, kind := range cred.ArtifactTypes {
		known, ok := f.recognized.find(kind, cred.RegistryHostname)
		images := kind == contract.ContainerArtifact || kind == contract.HelmArtifact && known.hostname != "helm.ngc.nvidia.com"
		asked = asked || ok && images && known.origin != declared
	}
	if !asked {
		return nil
	}
	q := func(ctx context.Context) error {
		return loginVerdict(cred.RegistryHostname, knock(ctx, cred.RegistryHostname, secret))
	}
	if f.registry.Validation != throwMode {
		f.enqueue(q)
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	return q(ctx)
}

func loginVerdict(host string, err error) error {
	if err == nil {
		return nil
	}
	refused, ok := errors.AsType[*transport.Error](err)
	if !ok {
		return problem.New(problem.Upstream, "registry '%s' cannot be asked about the credential: %s", host, silence(err))
	}
	switch refused.StatusCode {
	case http.StatusBadRequest:
		return problem.New(problem.BadRequest, "secret.value: registry '%s' does not understand the credential", host)
	case http.StatusUnauthorized:
		return problem.New(problem.Unauthorized, "registry '%s' refused the credential", host)
	case http.StatusForbidden:
		return problem.New(problem.Forbidden, "registry '%s' denies access with the credential", host)
	}
	return problem.New(problem.Upstream, "registry '%s' answered with status %d", host, refused.StatusCode)
}

// knock logs in at a registry without asking for anything in it.
func knock(ctx context.Context, host string, secret login) error {
	reg, err := name.NewRegistry(canonicalHost(host))
	if err != nil {
		return err
	}
	through, err := transport.NewWithContext(ctx, reg, secret.authenticator(), oneShot(), nil)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, reg.Scheme()+"://"+reg.RegistryStr()+"/v2/", nil)
	if err != nil {
		return err
	}
	return status((&http.Client{Transport: through}).Do(r))
}

// enqueue leaves a question of log mode to [Functions.AskRegistries].
func (f *Functions) enqueue(q question) {
	select {
	case f.questions <- q:
	default:
		f.log.Debug("registry not asked: too many questions wait")
	}
}

// AskRegistries asks what log mode wants to know and writes down what it hears, until ctx ends.
func (f *Functions) AskRegistries(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case q := <-f.questions:
			limited, cancel := context.WithTimeout(ctx, askPatience)
			err := q(limited)
			cancel()
			if p, ok := problem.From(err); err != nil && ok {
				f.log.Warn("registry would make throw mode refuse this", zap.String("reason", p.Detail))
			}
		}
	}
}
