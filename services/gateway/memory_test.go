package gateway

import (
	"net/http"
	"runtime"
	"testing"
	"time"

	"github.com/coder/quartz"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/access"
)

var realClock = quartz.NewReal()

// issued is a key with the default scopes of a function key.
func issued(resources ...access.Resource) access.Credential {
	const aud = access.FunctionsAudience
	return access.Credential{
		Kind: access.Key, Account: access.DefaultAccount, ID: uuid.NewString(), Subject: "svc@nvcf-api.local", Version: 1, ExpiresAt: time.Now().Add(time.Hour),
		Audiences: []string{aud}, Policies: []access.Policy{{
			Audience: aud, Audiences: []string{aud}, Product: "nv-cloud-functions", Resources: resources,
			Scopes: []access.Scope{access.InvokeFunction, access.ListFunctions, access.QueueDetails, access.ListFunctionDetails},
		}},
	}
}

// TestManyKeysNeedLittleMemory: 100,000 keys fit into 100 MiB, also when no two of them may do the same.
func TestManyKeysNeedLittleMemory(t *testing.T) {
	const keys, limit = 100_000, 100 << 20
	for name, one := range map[string]func() access.Credential{
		"as the command line makes them": func() access.Credential { return issued(entries[access.AF], entries[access.SF]) },
		"each for a function of its own": func() access.Credential { return issued(access1(uuid.NewString() + "/*")) },
	} {
		a := newAuthenticator(nil, realClock, nil, nil, access.DefaultCompat)
		now := time.Now()
		before := heap()
		for range keys {
			e := &entry{credential: one(), asOf: now}
			a.cache.share(e)
			a.cache.keep(a.digest(e.credential.ID), e)
			_, p := a.cache.invoker(e)
			require.Nil(t, p)
		}
		used := heap() - before
		t.Logf("%s: %.1f MiB for %d keys", name, float64(used)/(1<<20), keys)
		require.Less(t, used, int64(limit), name)
		runtime.KeepAlive(a)
	}
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestTheCacheForgetsWhatNobodyCanUse(t *testing.T) {
	t.Parallel()
	c := newCredentials(access.Invoke)
	now := time.Now()
	for i, asOf := range []time.Time{now, now.Add(-credentialLife - maxStale - time.Second), now} {
		e := &entry{credential: issued(allFunctions), asOf: asOf}
		if i == 0 {
			e.credential.ID = "kept"
		}
		if i == 2 {
			e.credential.ExpiresAt = now
		}
		c.share(e)
		c.keep(digest{byte(i)}, e)
	}
	require.Len(t, c.shared, 1, "equal rights are kept once")
	c.sweep(now)
	require.Len(t, c.known, 2, "an expired one is kept for a moment: its refusal costs no read")
	c.sweep(now.Add(time.Minute))
	require.Len(t, c.known, 1)
	require.Len(t, c.byKey, 1)
	c.forget(digest{0})
	require.Empty(t, c.shared)
	for i := range maxRefused + 1 {
		c.refuse(digest{byte(i), byte(i >> 8)}, authorizationFailed(), now)
	}
	require.LessOrEqual(t, len(c.refused), maxRefused)
	_, err := c.find(digest{byte(maxRefused & 255), byte(maxRefused >> 8)}, now)
	require.Error(t, err)
	_, err = c.find(digest{byte(maxRefused & 255), byte(maxRefused >> 8)}, now.Add(negativeLife))
	require.NoError(t, err, "ten seconds at most")
}

// BenchmarkAuthorize is a management request and an invocation with a key that is known: no round trip.
func BenchmarkAuthorize(b *testing.B) {
	s := newSite(b)
	bearer, _ := s.key([]string{access.InvokeFunction, access.ListFunctions, access.DeployFunction, access.ListFunctionDetails}, allFunctions,
		access.Resource{Type: string(access.SharedFunctions), ID: "*"}, access1(fid+"/*"), access1(fid+"/"+vid))
	r := request(b, "GET", s.url+"/v2/nvcf/functions", nil, "Authorization", auth(bearer))
	authorize := func(row *access.Row) (*entry, error) {
		e, err := s.gw.auth.authenticate(r.Context(), r.Header)
		_, err = decided(row, e, err)
		return e, err
	}
	_, err := authorize(&access.ReadFunctions)
	require.NoError(b, err)
	for name, decide := range map[string]func() error{
		"manage": func() error {
			e, err := authorize(&access.Deploy)
			s.gw.decisions.note(auditStream, e, reasonOf(err), r, "id")
			return err
		},
		"invoke": func() error {
			e, err := s.gw.invoker(r)
			if err != nil {
				return err
			}
			if _, p := s.gw.auth.cache.invoker(e); p != nil {
				return p
			}
			_, p := e.admit(r, time.Time{})
			s.gw.decisions.note(directCall, e, access.ReasonOK, r, "id")
			if p != nil {
				return p
			}
			return nil
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := decide(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	require.Equal(b, http.MethodGet, r.Method)
}
