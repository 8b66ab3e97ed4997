package objects

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

var noon = time.Date(2013, 5, 24, 0, 0, 0, 0, time.UTC)

func TestSignedAddresses(t *testing.T) {
	t.Parallel()
	now := noon
	secret := func(context.Context) ([]byte, error) { return []byte("secret"), nil }
	e := NewEmbedded(nil, secret, func() time.Time { return now })
	const id = "5e0c2a5c-7f0e-4f5d-9f1c-2c6f3c3a1b10"
	sign := func(address string, err error) (signature string) {
		require.NoError(t, err)
		signature, found := strings.CutPrefix(address, functions.ObjectsPath+id+"?signature=")
		require.True(t, found, address)
		return signature
	}
	admits := func(method, id, signature string) bool {
		ok, err := e.Admits(t.Context(), method, id, signature)
		require.NoError(t, err)
		return ok
	}
	signature := sign(e.UploadURL(t.Context(), Object{Key: "account/" + id}, time.Hour))
	require.True(t, admits(http.MethodPut, id, signature))
	require.True(t, admits(http.MethodPut, strings.ToUpper(id), signature))
	require.False(t, admits(http.MethodGet, id, signature))
	require.False(t, admits(http.MethodPut, "6"+id[1:], signature))
	for _, forged := range []string{"", ".", "x", "9" + signature, strings.Replace(signature, ".", "0.", 1), signature + "A", "99999999999999999999." + signature} {
		require.False(t, admits(http.MethodPut, id, forged), forged)
	}
	now = noon.Add(time.Hour)
	require.False(t, admits(http.MethodPut, id, signature), "its time is over")

	signature = sign(e.DownloadURL(t.Context(), Object{Key: "account/" + id}, time.Hour))
	require.True(t, admits(http.MethodGet, id, signature))
	require.True(t, admits(http.MethodHead, id, signature))
	require.False(t, admits(http.MethodPut, id, signature))
}
