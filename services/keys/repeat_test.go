package keys

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

func TestRepeatedCreationGetsTheFirstAnswer(t *testing.T) {
	t.Parallel()
	s := start(t)
	req := s.wanted()
	req.IdempotencyKey = "retry-1"
	first := call(t, s, contract.Create, req)
	require.Regexp(t, `^nvapi-nvcf-stg-[A-Za-z0-9_-]{64}$`, first.Value)
	require.True(t, s.grants(t, first.Value).Known)
	s.clock.Advance(time.Hour)
	require.Equal(t, first, call(t, s, contract.Create, req))
	for range 7 { // every slot is taken, and still the answer is the same
		s.create(t)
	}
	require.Equal(t, first, call(t, s, contract.Create, req))
	require.Len(t, call(t, s, contract.List, contract.ListRequest{Issuer: functionsIssuer()}).Keys, 8)

	other := req
	other.Description = "another"
	require.Equal(t, problem.Unprocessable, refused(t, s, 422, contract.Create, other).Code)

	// Another owner or service has its own names.
	stranger := req
	stranger.OwnerID = "team-b@corp.example"
	require.NotEqual(t, first.Value, call(t, s, contract.Create, stranger).Value)
	task := req
	task.Issuer, task.Audiences = tasksIssuer(), nil
	require.NotEqual(t, first.Value, call(t, s, contract.Create, task).Value)

	require.NotContains(t, s.dump(t), first.Value)
	for _, bad := range []string{strings.Repeat("x", 257), "a\x01"} {
		req := s.wanted()
		req.IdempotencyKey = bad
		require.Equal(t, "Idempotency-Key", refused(t, s, 400, contract.Create, req).Violations[0].Field)
	}
}

// Whoever lost the answer to a rotation has lost the old key as well, unless asking again gets the new one.
func TestRepeatedRotationGetsTheFirstAnswer(t *testing.T) {
	t.Parallel()
	s := start(t)
	old := s.create(t)
	req := contract.RotateRequest{KeyRequest: keyRequest(old.ID), IdempotencyKey: "retry-1"}
	first := call(t, s, contract.Rotate, req)
	require.NotEqual(t, old.Value, first.Value)
	require.True(t, s.grants(t, first.Value).Known)
	s.clock.Advance(time.Minute)
	require.Equal(t, first, call(t, s, contract.Rotate, req))
	require.Len(t, call(t, s, contract.List, contract.ListRequest{Issuer: functionsIssuer()}).Keys, 2)
	require.NotContains(t, s.dump(t), first.Value)

	other := req
	other.GraceSeconds = new(int64(60))
	refused(t, s, 422, contract.Rotate, other)
	other.IdempotencyKey = "a\x01"
	require.Equal(t, "Idempotency-Key", refused(t, s, 400, contract.Rotate, other).Violations[0].Field)
	refused(t, s, 400, contract.Rotate, contract.RotateRequest{KeyRequest: keyRequest(old.ID), IdempotencyKey: "retry-2"}) // the old key has ended

	// What was refused is not remembered.
	missing := contract.RotateRequest{KeyRequest: keyRequest(uuid.NewString()), IdempotencyKey: "retry-3"}
	refused(t, s, 404, contract.Rotate, missing)
	refused(t, s, 404, contract.Rotate, missing)
	creation := s.wanted()
	creation.IdempotencyKey = "retry-1"
	require.NotEqual(t, first.ID, call(t, s, contract.Create, creation).ID, "the names of rotations are no names of creations")
}

func TestRefusedCreationIsNotRemembered(t *testing.T) {
	t.Parallel()
	s := start(t)
	req := s.wanted()
	req.IdempotencyKey = "retry-1"
	req.Description = ""
	refused(t, s, 400, contract.Create, req)
	req.Description = "good"
	call(t, s, contract.Create, req)
}

func TestRepeatIsForgottenAfterADay(t *testing.T) {
	t.Parallel()
	s := start(t)
	req := s.wanted()
	req.IdempotencyKey, req.ExpiresAt = "retry-1", s.clock.Now().Add(9*day).Format(time.RFC3339)
	first := call(t, s, contract.Create, req)
	s.clock.Advance(day)
	require.NotEqual(t, first.ID, call(t, s, contract.Create, req).ID)
	s.clock.Advance(day)
	_, err := NewReaper(newKeys(t, s, nil).store, s.clock, config(t), s.log).Reap(t.Context())
	require.NoError(t, err)
	var kept int
	require.NoError(t, s.pool.QueryRow(t.Context(), `SELECT count(*) FROM keys.idempotency`).Scan(&kept))
	require.Zero(t, kept)
}

func TestConcurrentRepeatsMakeOneKey(t *testing.T) {
	t.Parallel()
	s := start(t)
	req := s.wanted()
	req.IdempotencyKey = "retry-1"
	values := make(chan string, 8)
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			key, err := bus.Call(t.Context(), s.conn, contract.Create, req)
			if err != nil {
				t.Error(err)
			}
			values <- key.Value
		})
	}
	clients.Wait()
	close(values)
	first := <-values
	for v := range values {
		require.Equal(t, first, v)
	}
	require.Len(t, call(t, s, contract.List, contract.ListRequest{Issuer: functionsIssuer()}).Keys, 1)
}

func TestOwnerOfATokenOfAnotherAccount(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.exec(t, `INSERT INTO keys.accounts SELECT 'acme', 'acme-corp', max_functions, max_tasks, 25, 25 FROM keys.accounts`)
	ctx := access.WithCaller(t.Context(), access.Caller{Kind: access.JWT, Account: "acme", Subject: "acme-admin"})
	req := s.wanted()
	req.OwnerID = "wile@acme.example"
	made, err := bus.Call(ctx, s.conn, contract.Create, req)
	require.NoError(t, err)
	require.Equal(t, "acme", s.grants(t, made.Value).Credential.Account)
	require.Equal(t, "acme", s.evaluate(t, made.Value).Result.NCAID)
	s.exec(t, `DELETE FROM keys.accounts WHERE id = 'acme'`)
	require.False(t, s.grants(t, made.Value).Known, "without its account a key is dead")
}
