package keys

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/app"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/store"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

const keyLife = 30 * day

// rotator is the part of a replica that looks after the signing keys; the test decides when it looks.
type rotator struct {
	*Rotation
	s  *site
	tx func(context.Context, func(pgx.Tx) error) error
}

// rotator makes one. beforeCommit, when there is one, is asked whether its process is alive at each commit.
func (s *site) rotator(t *testing.T, beforeCommit func() error) rotator {
	t.Helper()
	vault, err := newVault(func() Config { c := config(t); c.DataDir = ""; return c }(), s.pool, func() time.Time { return s.clock.Now() })
	require.NoError(t, err)
	require.NoError(t, vault.Load(t.Context()))
	outbox := store.NewOutbox("keys")
	tx := func(ctx context.Context, fn func(pgx.Tx) error) error {
		return store.InTx(ctx, s.pool, func(tx pgx.Tx) error {
			if err := fn(tx); err != nil || beforeCommit == nil {
				return err
			}
			return beforeCommit()
		}, outbox)
	}
	st := NewStore(s.pool, tx, bus.NewJournal("keys", outbox, func() time.Time { return s.clock.Now() }))
	return rotator{Rotation: NewRotation(st, NewSigner(st, vault), s.clock, keyLife, s.log), s: s, tx: tx}
}

// states looks at the keys as clients and operators do.
func (r rotator) states(t *testing.T) map[contract.SigningState][]string {
	t.Helper()
	answer, err := r.Keys(t.Context(), rpc.None{})
	require.NoError(t, err)
	states := map[contract.SigningState][]string{}
	var ids []string
	for _, k := range answer.Keys {
		states[k.State] = append(states[k.State], k.ID)
		ids = append(ids, k.ID)
		require.True(t, k.Until.After(k.Since))
	}
	set, err := r.signer.JWKS()
	require.NoError(t, err)
	require.Len(t, set.Keys, len(ids))
	for i, k := range set.Keys {
		require.Equal(t, ids[i], k.ID)
	}
	require.Len(t, states[contract.SigningCurrent], 1)
	require.Equal(t, states[contract.SigningCurrent][0], ids[0], "the current key comes first")
	require.LessOrEqual(t, len(states[contract.SigningNext]), 1)
	return states
}

func (r rotator) step(t *testing.T) map[contract.SigningState][]string {
	t.Helper()
	require.NoError(t, r.Step(t.Context()))
	return r.states(t)
}

// token is a token that lives as long as one may.
func (r rotator) token(t *testing.T) string {
	t.Helper()
	now := r.s.clock.Now()
	token, _, err := r.signer.Sign(jwt.RegisteredClaims{
		Issuer: contract.TokenIssuer, Audience: jwt.ClaimStrings{contract.TokenAudience}, IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(contract.TokenLife)),
	})
	require.NoError(t, err)
	return token
}

// listed tells whether the key of a token is published.
func (r rotator) listed(t *testing.T, token string) bool {
	t.Helper()
	parsed, _, err := jwt.NewParser().ParseUnverified(token, jwt.MapClaims{})
	require.NoError(t, err)
	set, err := r.signer.JWKS()
	require.NoError(t, err)
	for _, k := range set.Keys {
		if k.ID == parsed.Header["kid"] {
			verify(t, r.s, token, k)
			return true
		}
	}
	return false
}

func TestSigningKeysWalkThroughTheirStates(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	r := s.rotator(t, nil)
	first := r.step(t)[contract.SigningCurrent][0]
	require.Len(t, r.states(t), 1)

	s.clock.Advance(keyLife - publishAhead - time.Second)
	require.Len(t, r.step(t), 1, "nothing happens before its time")
	s.clock.Advance(time.Second)
	states := r.step(t)
	require.Equal(t, first, states[contract.SigningCurrent][0], "the next key is published and does not sign")
	second := states[contract.SigningNext][0]

	s.clock.Advance(publishAhead - time.Second)
	last := r.token(t)
	require.Equal(t, first, r.step(t)[contract.SigningCurrent][0])
	s.clock.Advance(time.Second)
	states = r.step(t)
	require.Equal(t, []string{second}, states[contract.SigningCurrent])
	require.Equal(t, []string{first}, states[contract.SigningPrevious])
	require.Empty(t, states[contract.SigningNext])

	s.clock.Advance(contract.TokenLife - 2*time.Second)
	r.step(t)
	require.True(t, r.listed(t, last), "a token outlives the rotation")
	s.clock.Advance(tokenMemory - contract.TokenLife + time.Second)
	require.Equal(t, []string{first}, r.step(t)[contract.SigningPrevious])
	s.clock.Advance(time.Second)
	require.Empty(t, r.step(t)[contract.SigningPrevious])
	require.False(t, r.listed(t, last))
}

func TestRotationOnRequestFailsNoToken(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	// Two replicas; the other one looks only now and then.
	r, other := s.rotator(t, nil), s.rotator(t, nil)
	r.step(t)
	first := other.step(t)[contract.SigningCurrent][0]

	answer, err := r.Rotate(t.Context(), contract.RotateSigningKeysRequest{})
	require.NoError(t, err)
	require.Len(t, answer.Keys, 2)
	require.Equal(t, contract.SigningNext, answer.Keys[1].State)
	require.Equal(t, s.clock.Now().Add(publishAhead).Truncate(time.Millisecond).UTC(), answer.Keys[1].Until.Truncate(time.Millisecond))
	again, err := other.Rotate(t.Context(), contract.RotateSigningKeysRequest{})
	require.NoError(t, err)
	require.Equal(t, answer, again, "a rotation under way is not begun again")

	verifier := map[string]contract.JWK{} // what a gateway that read the keys five minutes ago knows
	for minute := range 20 {
		if minute%5 == 0 {
			set, err := r.signer.JWKS()
			require.NoError(t, err)
			clear(verifier)
			for _, k := range set.Keys {
				verifier[k.ID] = k
			}
		}
		for _, token := range []string{r.token(t), other.token(t)} {
			parsed, _, err := jwt.NewParser().ParseUnverified(token, jwt.MapClaims{})
			require.NoError(t, err)
			kid, _ := parsed.Header["kid"].(string)
			require.Contains(t, verifier, kid, "minute %d", minute)
			verify(t, s, token, verifier[kid])
		}
		s.clock.Advance(time.Minute)
		r.step(t)
		if minute%3 == 0 {
			other.step(t)
		}
	}
	states := other.step(t)
	require.Equal(t, []string{first}, states[contract.SigningPrevious])
	require.Equal(t, answer.Keys[1].ID, states[contract.SigningCurrent][0])
}

func TestReplicasMakeOneFirstKeyAndOneNextKey(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	replicas := make([]rotator, 5)
	for i := range replicas {
		replicas[i] = s.rotator(t, nil)
	}
	for range 3 {
		failed := make(chan error, len(replicas))
		for _, r := range replicas {
			go func() { failed <- r.Step(t.Context()) }()
		}
		for range replicas {
			require.NoError(t, <-failed)
		}
		s.clock.Advance(keyLife)
	}
	want := replicas[0].step(t)
	for _, r := range replicas {
		require.Equal(t, want, r.step(t))
	}
}

// A process that dies at any commit leaves a state from which the next one goes on.
func TestRotationSurvivesDeathAtEveryCommit(t *testing.T) {
	t.Parallel()
	killed := errors.New("killed")
	for doomed := 1; ; doomed++ {
		s := newSite(t)
		survivor := s.rotator(t, nil)
		commits := 0
		dying := s.rotator(t, func() error {
			if commits++; commits >= doomed {
				return killed
			}
			return nil
		})
		alive := true
		live := func(err error) {
			if alive = alive && err == nil; err != nil {
				require.ErrorIs(t, err, killed)
			}
		}
		live(dying.Step(t.Context()))
		for range 4 {
			if alive {
				_, err := dying.Rotate(t.Context(), contract.RotateSigningKeysRequest{})
				live(err)
			}
			s.clock.Advance(publishAhead)
			if alive {
				live(dying.Step(t.Context()))
			}
			survivor.step(t)
		}
		_, err := survivor.Rotate(t.Context(), contract.RotateSigningKeysRequest{})
		require.NoError(t, err)
		s.clock.Advance(publishAhead)
		require.NotEmpty(t, survivor.step(t)[contract.SigningPrevious])
		if alive {
			require.Greater(t, doomed, 5)
			return
		}
	}
}

func TestCompromisedKeyIsDroppedWithItsTokens(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	r := s.rotator(t, nil)
	first := r.step(t)[contract.SigningCurrent][0]
	token := r.token(t)
	answer, err := r.Rotate(t.Context(), contract.RotateSigningKeysRequest{Compromised: true})
	require.NoError(t, err)
	require.Len(t, answer.Keys, 1)
	require.NotEqual(t, first, answer.Keys[0].ID)
	require.False(t, r.listed(t, token))
	require.True(t, r.listed(t, r.token(t)))
	list, err := r.store.revocations(t.Context(), s.clock.Now())
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.Equal(t, first, list[0].SigningKey)
	require.False(t, list[0].ExpiresAt.Before(s.clock.Now().Add(contract.TokenLife+contract.TokenLeeway)))

	// With a successor published, that one takes over; a previous key can be dropped by its name.
	_, err = r.Rotate(t.Context(), contract.RotateSigningKeysRequest{})
	require.NoError(t, err)
	next := r.states(t)[contract.SigningNext][0]
	_, err = r.Rotate(t.Context(), contract.RotateSigningKeysRequest{Compromised: true})
	require.NoError(t, err)
	require.Equal(t, []string{next}, r.states(t)[contract.SigningCurrent])
	_, err = r.Rotate(t.Context(), contract.RotateSigningKeysRequest{})
	require.NoError(t, err)
	s.clock.Advance(publishAhead)
	require.Equal(t, []string{next}, r.step(t)[contract.SigningPrevious])
	_, err = r.Rotate(t.Context(), contract.RotateSigningKeysRequest{Compromised: true, ID: next})
	require.NoError(t, err)
	require.Empty(t, r.states(t)[contract.SigningPrevious])

	_, err = r.Rotate(t.Context(), contract.RotateSigningKeysRequest{Compromised: true, ID: next})
	require.True(t, problem.HasCode(err, problem.NotFound), "%v", err)
	_, err = r.Rotate(t.Context(), contract.RotateSigningKeysRequest{ID: next})
	p, ok := problem.From(err)
	require.True(t, ok)
	require.Equal(t, 400, p.Status())
	require.Contains(t, p.Error(), "kid")

	// What has expired is forgotten.
	s.clock.Advance(tokenMemory)
	r.step(t)
	list, err = r.store.revocations(t.Context(), time.Time{})
	require.NoError(t, err)
	require.Empty(t, list)
}

// Replicas learn of a compromise from its event, and nobody signs with the lost key after that.
func TestCompromiseReachesEveryReplica(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	cfg := config(t)
	for _, svc := range []*app.Service{s.replica(t, cfg), s.replica(t, cfg), s.replica(t, cfg)} {
		testkit.Ready(t, svc)
	}
	events := s.everyEvent(t)
	lost := call(t, s, contract.SigningKeys, rpc.None{}).Keys[0].ID
	kept := call(t, s, contract.RotateSigningKeys, contract.RotateSigningKeysRequest{Compromised: true}).Keys[0].ID
	var revoked contract.TokenRevocation
	var rotated contract.JWKS
	for revoked.SigningKey == "" || len(rotated.Keys) == 0 {
		e := next(t, events)
		if p, ok := bus.As[contract.TokenRevocation](e, contract.TokenRevoked); ok {
			revoked = p
		}
		if p, ok := bus.As[contract.JWKS](e, contract.KeysRotated); ok {
			rotated = p
			require.Equal(t, access.DefaultAccount, e.Account)
		}
	}
	require.Equal(t, lost, revoked.SigningKey)
	require.Equal(t, kept, rotated.Keys[0].ID)
	require.Eventually(t, func() bool {
		for range 30 { // whichever replica answers
			if call(t, s, contract.PublicKeys, rpc.None{}).Keys[0].ID != kept {
				return false
			}
		}
		return true
	}, waitUp, poll)
	for range 10 {
		verify(t, s, call(t, s, contract.MintAdminToken, rpc.None{}).Value, rotated.Keys[0])
	}
	require.Equal(t, []contract.TokenRevocation{revoked}, call(t, s, contract.Revocations, rpc.None{}).Revocations)
}

func TestOneTokenIsRevoked(t *testing.T) {
	t.Parallel()
	s := start(t)
	events := s.events(t)
	require.Empty(t, call(t, s, contract.Revocations, rpc.None{}).Revocations)
	body, err := json.Marshal(call(t, s, contract.Revocations, rpc.None{}))
	require.NoError(t, err)
	require.JSONEq(t, `{"revocations":[]}`, string(body))
	const jti = "AAECAwQFBgcICQoLDA0ODw"
	answer := call(t, s, contract.RevokeToken, contract.RevokeTokenRequest{JTI: jti, Reason: "laptop lost"})
	require.Equal(t, contract.TokenRevocation{JTI: jti, ExpiresAt: answer.ExpiresAt, Reason: "laptop lost"}, answer)
	p, ok := bus.As[contract.TokenRevocation](next(t, events), contract.TokenRevoked)
	require.True(t, ok)
	require.Equal(t, answer, p)
	require.Equal(t, answer, call(t, s, contract.RevokeToken, contract.RevokeTokenRequest{JTI: jti, Reason: "laptop lost"}), "twice is harmless")
	require.Equal(t, []contract.TokenRevocation{answer}, call(t, s, contract.Revocations, rpc.None{}).Revocations)
	s.clock.Advance(tokenMemory)
	require.Empty(t, call(t, s, contract.Revocations, rpc.None{}).Revocations)

	for field, bad := range map[string]contract.RevokeTokenRequest{
		"jti":    {},
		"reason": {JTI: jti, Reason: strings.Repeat("x", 257)},
	} {
		require.Contains(t, refused(t, s, 400, contract.RevokeToken, bad).Detail, field)
	}
	for _, bad := range []string{strings.Repeat("a", 65), "a.b", "a b", "a*", ">"} {
		require.Contains(t, refused(t, s, 400, contract.RevokeToken, contract.RevokeTokenRequest{JTI: bad}).Detail, "jti")
	}
}

// Of a subject only the latest moment counts, and it never moves back.
func TestSubjectsAreRevokedUpToAMoment(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	r := s.rotator(t, nil)
	now := s.clock.Now().UTC().Truncate(time.Millisecond)
	revoke := func(before time.Time) {
		require.NoError(t, r.tx(t.Context(), func(tx pgx.Tx) error {
			return RecordRevocation(t.Context(), tx, r.store.journal, contract.TokenRevocation{Subject: "user", IssuedBefore: before, ExpiresAt: before.Add(day)})
		}))
	}
	revoke(now)
	revoke(now.Add(-time.Hour))
	list, err := r.store.revocations(t.Context(), now)
	require.NoError(t, err)
	require.Equal(t, []contract.TokenRevocation{{Subject: "user", IssuedBefore: now, ExpiresAt: now.Add(day)}}, list)
}
