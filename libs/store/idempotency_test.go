package store_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/libs/store"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

var idempotent = fstest.MapFS{
	"0001_idempotency.up.sql": {Data: []byte(`CREATE TABLE answers.idempotency (scope text NOT NULL, key text NOT NULL, digest bytea NOT NULL,
		answer bytea NOT NULL DEFAULT '', expires_at timestamptz NOT NULL, PRIMARY KEY (scope, key))`)},
	"0001_idempotency.down.sql": {Data: []byte(`DROP TABLE answers.idempotency`)},
}

func TestARequestWithAKeyHappensOnce(t *testing.T) {
	t.Parallel()
	pool := testkit.Database(t, "answers", idempotent)
	memory := store.NewIdempotency("answers")
	now := time.Date(2026, 5, 4, 10, 0, 0, 0, time.UTC)
	var mu sync.Mutex
	done := 0
	once := func(k store.Key, at time.Time, fail error) (answer int, err error) {
		err = store.InTx(t.Context(), pool, func(tx pgx.Tx) error {
			return memory.Once(t.Context(), tx, k, at, &answer, func() error {
				mu.Lock()
				defer mu.Unlock()
				done++
				answer = done
				return fail
			})
		})
		return answer, err
	}
	k := store.Key{Scope: "create a", Key: "k", Request: map[string]string{"name": "x"}}
	recall := func(k store.Key, at time.Time) (answer int, found bool, err error) {
		found, err = memory.Recall(t.Context(), pool, k, at, &answer)
		return answer, found, err
	}

	_, found, err := recall(k, now)
	require.NoError(t, err)
	require.False(t, found)
	failed := errors.New("failed")
	_, err = once(k, now, failed)
	require.ErrorIs(t, err, failed)
	done = 0

	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			answer, err := once(k, now, nil)
			if err != nil || answer != 1 {
				t.Errorf("answer %d, %v", answer, err)
			}
		})
	}
	all.Wait()
	require.Equal(t, 1, done, "what failed is not remembered, what succeeded is done once")
	answer, found, err := recall(k, now.Add(store.IdempotencyLife-time.Second))
	require.NoError(t, err)
	require.True(t, found)
	require.Equal(t, 1, answer)

	other := k
	other.Request = map[string]string{"name": "y"}
	_, err = once(other, now, nil)
	require.ErrorIs(t, err, store.ErrKeyReused)
	_, _, err = recall(other, now)
	require.ErrorIs(t, err, store.ErrKeyReused)
	elsewhere := other
	elsewhere.Scope = "create b"
	answer, err = once(elsewhere, now, nil)
	require.NoError(t, err)
	require.Equal(t, 2, answer)
	for range 2 {
		_, err = once(store.Key{Scope: "create a"}, now, nil)
		require.NoError(t, err)
	}
	require.Equal(t, 4, done, "without a key nothing is remembered")

	late := now.Add(store.IdempotencyLife)
	_, found, err = recall(k, late)
	require.NoError(t, err)
	require.False(t, found)
	answer, err = once(other, late, nil)
	require.NoError(t, err)
	require.Equal(t, 5, answer, "a key whose time is over is new")
	forgotten, err := memory.Prune(context.Background(), pool, late)
	require.NoError(t, err)
	require.Equal(t, int64(1), forgotten, "that of the other scope")
}
