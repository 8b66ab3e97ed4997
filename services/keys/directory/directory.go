// Package directory keeps people and programs: the local users, applications and access keys of the access API, the
// rules that give them roles, and what they sign in with (keys §9). It is part of the keys service and lives in its schema.
//
// A secret that somebody chose or was given is stored as an Argon2id hash ([hasher]); a refresh token, which is 32
// random bytes, as its SHA-256. Wrong credentials are answered with one text and one amount of work, whether or not the
// name exists, and with growing delays after the fifth failure in five minutes.
//
// Tokens are JWTs that the gateway verifies by itself. What ends them early is written down as a revocation in the
// transaction that ends the right: a disabled or deleted subject, a logout, a changed password, a rule taken away. The
// access API itself goes further and judges administrators by the rules of the moment, not by what their token says.
package directory

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/coder/quartz"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/directory"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// Bounds of what is stored, in bytes where nothing else is said.
const (
	maxDomain   = 200
	maxPassword = 1024
	minPassword = 8   // characters, of a password that a user chooses
	maxName     = 255 // characters, of a first or last name
	minEmail    = 5
	maxEmail    = 254
	maxID       = 256 // characters, of an id that a client writes
)

// Signer signs the claims of a token with the deployment's current key.
type Signer interface {
	Sign(claims jwt.Claims) (token, kid string, err error)
}

// Directory is the use cases of the access API.
type Directory struct {
	cfg    Config
	store  *Store
	signer Signer
	hasher *hasher
	clock  quartz.Clock
	random io.Reader
	log    *zap.Logger
	grants *prometheus.CounterVec
}

// New makes the directory over its store. It refuses a configuration that could never work.
func New(cfg Config, store *Store, signer Signer, clock quartz.Clock, random io.Reader, metrics prometheus.Registerer, log *zap.Logger) (*Directory, error) {
	cfg = cfg.completed()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	grants := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "token_grants_total", Help: "Tokens of the access API asked for, by grant and result.",
	}, []string{"grant", "result"})
	if err := metrics.Register(grants); err != nil {
		return nil, fmt.Errorf("directory: %w", err)
	}
	return &Directory{
		cfg: cfg, store: store, signer: signer, hasher: newHasher(), clock: clock, random: random, log: log.Named("directory"), grants: grants,
	}, nil
}

// now has the precision of the wire: milliseconds.
func (d *Directory) now() time.Time { return d.clock.Now().UTC().Truncate(time.Millisecond) }

// Standing tells what a subject may do now.
func (d *Directory) Standing(ctx context.Context, req contract.StandingRequest) (contract.StandingResponse, error) {
	s, err := d.subject(ctx, req.Subject)
	if err != nil || s == nil || !s.enabled {
		return contract.StandingResponse{}, err
	}
	return contract.StandingResponse{Known: true, Account: s.account, Scopes: scopesOf(s.roles)}, nil
}

// subject finds a user or application with its roles, nil when there is none with that id.
func (d *Directory) subject(ctx context.Context, id string) (*subject, error) {
	if !isUUID(id) {
		return nil, nil
	}
	return d.store.subject(ctx, id)
}

// mayManage decides whether the caller may manage people. A subject of the directory, whose id is a UUID, is judged by its
// rules of this moment, so that a rule holds from the moment it is made until the moment it is taken away, whatever a
// token says, and one that is gone may nothing; any other token by its scopes, and the platform itself may.
func (d *Directory) mayManage(ctx context.Context) error {
	caller := access.CallerFrom(ctx)
	if caller.Kind == "" {
		return nil
	}
	scopes := caller.Scopes
	s, err := d.subject(ctx, caller.Subject)
	if err != nil {
		return err
	}
	if isUUID(caller.Subject) {
		scopes = nil
		if s != nil && s.enabled {
			scopes = scopesOf(s.roles)
		}
	}
	if slices.Contains(scopes, access.ManageAccess) {
		return nil
	}
	_, p := access.Decide(access.ManagePeople, access.Credential{Kind: access.JWT, Scopes: scopes})
	return p
}

// creator names the caller for people who read who made something.
func (d *Directory) creator(ctx context.Context) (name string, s *subject, err error) {
	caller := access.CallerFrom(ctx)
	s, err = d.subject(ctx, caller.Subject)
	switch {
	case err != nil:
		return "", nil, err
	case s != nil:
		return s.name, s, nil
	case caller.Subject != "":
		return caller.Subject, nil, nil
	}
	return "system", nil, nil
}

// account of what the caller creates.
func account(ctx context.Context) string {
	if a := access.CallerFrom(ctx).Account; a != "" {
		return a
	}
	return access.DefaultAccount
}

var emailShape = regexp.MustCompile(`^[a-zA-Z0-9._%+-]+@[a-zA-Z0-9.-]+\.[a-zA-Z]{2,}$`)

func isEmail(s string) bool {
	return len(s) >= minEmail && len(s) <= maxEmail && emailShape.MatchString(s)
}

func isUUID(s string) bool { return len(s) == 36 && uuid.Validate(s) == nil }

// writable holds for a text that the database takes and a log shows: at most limit characters, none of them for control.
func writable(s string, limit int) bool {
	return utf8.ValidString(s) && utf8.RuneCountInString(s) <= limit && !slices.ContainsFunc([]rune(s), unicode.IsControl)
}

func invalid(field, rule string, args ...any) error {
	check := problem.NewCheck("request")
	check.Require(false, field, rule, args...)
	return check.Err()
}

// notFound does not repeat the id: what was put there by mistake must not come back.
func notFound(what string) error { return problem.New(problem.NotFound, "%s: Not found", what) }

// gone turns the loss of a row between reading and changing it into what it means.
func gone(err error, what string) error {
	if errors.Is(err, errGone) {
		return notFound(what)
	}
	return err
}
