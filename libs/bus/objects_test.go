package bus_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

func TestObjects(t *testing.T) {
	t.Parallel()
	conn := testkit.Conn(t, testkit.NATS(t))
	ctx := t.Context()
	guest := conn.Objects("things", 0)
	_, err := guest.Has(ctx, "a")
	require.Error(t, err, "only its owner makes a bucket")
	require.NoError(t, conn.Objects("things", 1<<20).Declare(ctx))
	owner := conn.Objects("things", 4<<20)
	require.NoError(t, owner.Declare(ctx), "its owner may change its size")

	read := func(o *bus.Objects, key string) []byte {
		body, size, err := o.Get(ctx, key)
		require.NoError(t, err)
		b, err := io.ReadAll(body)
		require.NoError(t, err)
		require.NoError(t, body.Close())
		require.EqualValues(t, len(b), size)
		return b
	}
	large := bytes.Repeat([]byte("0123456789abcdef"), 32<<10) // several chunks
	for _, content := range [][]byte{large, []byte("small"), {}} {
		size, err := owner.Put(ctx, "an account/ü/key", bytes.NewReader(content))
		require.NoError(t, err)
		require.EqualValues(t, len(content), size)
		require.Equal(t, string(content), string(read(guest, "an account/ü/key")))
	}

	broken := errors.New("broken")
	_, err = owner.Put(ctx, "other", io.MultiReader(bytes.NewReader(large), iotest.ErrReader(broken)))
	require.ErrorIs(t, err, broken)
	there, err := guest.Has(ctx, "other")
	require.NoError(t, err)
	require.False(t, there, "whole or not at all")
	_, _, err = guest.Get(ctx, "other")
	require.ErrorIs(t, err, bus.ErrNoObject)

	_, err = owner.Put(ctx, "too large", bytes.NewReader(bytes.Repeat(large, 16)))
	require.ErrorIs(t, err, bus.ErrBucketFull)

	require.NoError(t, owner.Delete(ctx, "an account/ü/key"))
	require.NoError(t, owner.Delete(ctx, "an account/ü/key"), "it is deleted already")
	there, err = guest.Has(ctx, "an account/ü/key")
	require.NoError(t, err)
	require.False(t, there)
	gone, cancel := context.WithCancel(ctx)
	cancel()
	_, err = owner.Put(gone, "k", bytes.NewReader(large))
	require.Error(t, err)
}
