package seal_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/coder/quartz"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/seal"
	"github.com/sirocco-cloud/sirocco/libs/store"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const ddl = `
CREATE TABLE vaults.encryption_keys (id text PRIMARY KEY, current boolean NOT NULL, value bytea, since timestamptz NOT NULL);
CREATE UNIQUE INDEX encryption_keys_one_current ON vaults.encryption_keys (current) WHERE current;
CREATE TABLE vaults.things (name text PRIMARY KEY, sealed bytea,
	key_id text GENERATED ALWAYS AS (CASE WHEN substring(sealed FROM 1 FOR 4) = '\x0273726b'
		THEN encode(substring(sealed FROM 5 FOR 8), 'hex') END) STORED REFERENCES vaults.encryption_keys (id));`

// house is a database with sealed things, and a clock, that replicas share.
type house struct {
	t     *testing.T
	pool  *pgxpool.Pool
	clock *quartz.Mock
	dir   string
}

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{t: t, clock: quartz.NewMock(t).WithLogger(quartz.NoOpLogger), dir: t.TempDir()}
	h.pool = testkit.Database(t, "vaults", fstest.MapFS{
		"0001_vaults.up.sql": {Data: []byte(ddl)}, "0001_vaults.down.sql": {Data: []byte(`DROP TABLE vaults.things, vaults.encryption_keys;`)},
	})
	return h
}

func (h *house) register() *store.Keyring {
	return store.NewKeyring(h.pool, "vaults", store.Sealed{Table: "things", Column: "sealed", Name: `'thing/' || name`})
}

func (h *house) vault(source seal.Source, register seal.Register) *seal.Vault {
	h.t.Helper()
	source.Variable = "SIROCCO_TEST_KEY"
	v, err := seal.New(source, register, func() time.Time { return h.clock.Now() })
	require.NoError(h.t, err)
	return v
}

func (h *house) ready(source seal.Source) *seal.Vault {
	h.t.Helper()
	v := h.vault(source, h.register())
	require.NoError(h.t, v.Load(h.t.Context()))
	return v
}

func (h *house) put(ctx context.Context, v *seal.Vault, name string) error {
	sealed, err := v.Seal(ctx, "thing/"+name, []byte("canary of "+name))
	if err == nil {
		_, err = h.pool.Exec(ctx, `INSERT INTO vaults.things VALUES ($1, $2)`, name, sealed)
	}
	return err
}

// holds wants n things that all open.
func (h *house) holds(v *seal.Vault, n int) {
	h.t.Helper()
	rows, err := h.pool.Query(h.t.Context(), `SELECT name, sealed FROM vaults.things`)
	require.NoError(h.t, err)
	defer rows.Close()
	for rows.Next() {
		var name string
		var sealed []byte
		require.NoError(h.t, rows.Scan(&name, &sealed))
		value, err := v.Open(h.t.Context(), "thing/"+name, sealed)
		require.NoError(h.t, err)
		require.Equal(h.t, "canary of "+name, string(value))
		n--
	}
	require.NoError(h.t, rows.Err())
	require.Zero(h.t, n)
}

// settle waits, as replicas do, until the previous key may go.
func (h *house) settle(v *seal.Vault) seal.Status {
	h.t.Helper()
	h.clock.Advance(time.Minute)
	status, err := v.Settle(h.t.Context())
	require.NoError(h.t, err)
	require.Empty(h.t, status.Previous)
	return status
}

func b64(fill string) string {
	return base64.StdEncoding.EncodeToString([]byte(strings.Repeat(fill, seal.KeySize)))
}

// sources are the places where a key may live, before and after a rotation.
func (h *house) sources() map[string][2]seal.Source {
	file := seal.Source{File: filepath.Join(h.dir, "encryption.key")}
	return map[string][2]seal.Source{
		"in the database":                  {{}, {}},
		"in a file":                        {file, file},
		"from the operator":                {{Given: b64("a")}, {Given: b64("b"), Previous: b64("a")}},
		"from the database to an operator": {{}, {Given: b64("b")}},
	}
}

func TestRotationMovesEverythingToTheNewKey(t *testing.T) {
	t.Parallel()
	for name := range newHouse(t).sources() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			source := h.sources()[name]
			first := h.ready(source[0])
			for i := range 450 {
				require.NoError(t, h.put(t.Context(), first, fmt.Sprint(i)))
			}
			before, err := first.Status(t.Context())
			require.NoError(t, err)
			v := h.ready(source[1])
			status, err := v.Rotate(t.Context())
			require.NoError(t, err)
			require.Equal(t, 450, status.Rewrapped)
			require.Equal(t, []string{before.Current}, status.Previous, "a replica may still be sealing with it")
			h.holds(v, 450)
			again, err := v.Rotate(t.Context())
			require.NoError(t, err)
			require.Equal(t, status.Current, again.Current, "a rotation that is not over makes no further key")

			require.Equal(t, status.Current, h.settle(v).Current)
			h.holds(v, 450)
			// What was given for the rotation may go, and so may the old key.
			source[1].Previous = ""
			h.holds(h.ready(source[1]), 450)
			if source[1].File != "" {
				text, err := os.ReadFile(source[1].File)
				require.NoError(t, err)
				require.Equal(t, 1, strings.Count(string(text), "\n"))
			}
			if source[0].Given != "" {
				err := h.vault(source[0], h.register()).Load(t.Context())
				require.ErrorContains(t, err, status.Current, "the old key alone opens nothing")
			}
			if source[1].Given == "" {
				next, err := h.ready(source[1]).Rotate(t.Context())
				require.NoError(t, err)
				require.NotEqual(t, status.Current, next.Current)
			} else {
				_, err := h.ready(source[1]).Rotate(t.Context())
				require.ErrorContains(t, err, "SIROCCO_TEST_KEY_PREVIOUS", "there is no key to rotate to")
			}
		})
	}
}

// mortal is a register that fails for good after a number of calls, as a process does that is killed.
type mortal struct {
	seal.Register

	left atomic.Int64
}

var errKilled = errors.New("killed")

func (m *mortal) alive() error {
	if m.left.Add(-1) < 0 {
		return errKilled
	}
	return nil
}

func (m *mortal) Keys(ctx context.Context) ([]seal.Record, error) {
	if err := m.alive(); err != nil {
		return nil, err
	}
	return m.Register.Keys(ctx)
}

func (m *mortal) Promote(ctx context.Context, next seal.Record) error {
	if err := m.alive(); err != nil {
		return err
	}
	return m.Register.Promote(ctx, next)
}

func (m *mortal) Stale(ctx context.Context, current string, limit int) ([]seal.Value, error) {
	if err := m.alive(); err != nil {
		return nil, err
	}
	return m.Register.Stale(ctx, current, limit)
}

func (m *mortal) Replace(ctx context.Context, v seal.Value, sealed []byte) error {
	if err := m.alive(); err != nil {
		return err
	}
	return m.Register.Replace(ctx, v, sealed)
}

func (m *mortal) Retire(ctx context.Context, name string) (bool, error) {
	if err := m.alive(); err != nil {
		return false, err
	}
	return m.Register.Retire(ctx, name)
}

func TestRotationSurvivesDeathAtEveryStep(t *testing.T) {
	t.Parallel()
	for name := range newHouse(t).sources() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			source := h.sources()[name]
			const things = 5
			first := h.ready(source[0])
			for i := range things {
				require.NoError(t, h.put(t.Context(), first, fmt.Sprint(i)))
			}
			deaths := 0
			for lives := int64(1); ; lives++ {
				register := &mortal{Register: h.register()}
				register.left.Store(lives)
				v := h.vault(source[1], register)
				err := v.Load(t.Context())
				if err == nil {
					_, err = v.Rotate(t.Context())
				}
				if err == nil {
					h.clock.Advance(time.Minute)
					_, err = v.Settle(t.Context())
				}
				h.holds(h.ready(source[1]), things)
				if err == nil || problem.HasCode(err, problem.Conflict) { // it was over when the one before died
					break
				}
				require.ErrorIs(t, err, errKilled)
				deaths++
				require.Less(t, deaths, 100)
			}
			require.Greater(t, deaths, 7, "the test must have killed it often")
			h.settle(h.ready(source[1]))
			h.holds(h.ready(source[1]), things)
		})
	}
}

// Replicas that store things all the while neither fail nor lose one.
func TestReplicasSealDuringARotation(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	a, b := h.ready(seal.Source{}), h.ready(seal.Source{})
	const each = 60
	var writers sync.WaitGroup
	for r, v := range []*seal.Vault{a, b} {
		writers.Go(func() {
			for i := range each {
				if err := h.put(t.Context(), v, fmt.Sprintf("%d-%d", r, i)); err != nil {
					t.Errorf("put: %v", err)
				}
			}
		})
	}
	_, err := a.Rotate(t.Context())
	require.NoError(t, err)
	writers.Wait()
	h.settle(b)
	h.holds(a, 2*each)
	h.holds(b, 2*each)
	require.NoError(t, h.put(t.Context(), a, "more"), "the clock has moved: the replica looks which key is current")
}

// A replica that still seals with a key that is gone is refused by the database: it cannot store what nobody can open.
func TestNothingIsStoredUnderAForgottenKey(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	stale := h.ready(seal.Source{})
	sealed, err := stale.Seal(t.Context(), "thing/late", []byte("late"))
	require.NoError(t, err)
	v := h.ready(seal.Source{})
	_, err = v.Rotate(t.Context())
	require.NoError(t, err)
	h.settle(v)
	_, err = h.pool.Exec(t.Context(), `INSERT INTO vaults.things VALUES ('late', $1)`, sealed)
	require.Error(t, err)
}

func TestAKeyThatAValueNeedsIsNotForgotten(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	v := h.ready(seal.Source{})
	old, err := v.Status(t.Context())
	require.NoError(t, err)
	require.NoError(t, h.put(t.Context(), v, "thing"))
	register := h.register()
	retired, err := register.Retire(t.Context(), old.Current)
	require.NoError(t, err)
	require.False(t, retired, "it is the current one")
	// The promotion alone, as by a process that died right after it.
	mortal := &mortal{Register: register}
	mortal.left.Store(4)
	dying := h.vault(seal.Source{}, mortal)
	require.NoError(t, dying.Load(t.Context()))
	_, err = dying.Rotate(t.Context())
	require.ErrorIs(t, err, errKilled)
	retired, err = register.Retire(t.Context(), old.Current)
	require.NoError(t, err)
	require.False(t, retired, "a value needs it")
	h.settle(v)
	h.holds(v, 1)
}

func TestADamagedValueKeepsNoOtherUnderTheOldKey(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	v := h.ready(seal.Source{})
	for i := range 3 {
		require.NoError(t, h.put(t.Context(), v, fmt.Sprint(i)))
	}
	var good []byte
	require.NoError(t, h.pool.QueryRow(t.Context(), `SELECT sealed FROM vaults.things WHERE name = '0'`).Scan(&good))
	_, err := h.pool.Exec(t.Context(), `UPDATE vaults.things SET sealed = set_byte(sealed, 20, 255 - get_byte(sealed, 20)) WHERE name = '0'`)
	require.NoError(t, err)
	old, err := v.Status(t.Context())
	require.NoError(t, err)
	_, err = v.Rotate(t.Context())
	require.ErrorContains(t, err, "open thing/0", "it says which value does not open")
	h.clock.Advance(time.Minute)
	_, err = v.Settle(t.Context())
	require.Error(t, err)
	status, err := v.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{old.Current}, status.Previous, "the key stays: the value may yet be mended")
	var left int
	require.NoError(t, h.pool.QueryRow(t.Context(), `SELECT count(*) FROM vaults.things WHERE key_id = $1`, old.Current).Scan(&left))
	require.Equal(t, 1, left)
	_, err = h.pool.Exec(t.Context(), `UPDATE vaults.things SET sealed = $1 WHERE name = '0'`, good)
	require.NoError(t, err)
	h.settle(v)
	h.holds(v, 3)
}

func TestReplicaWithoutTheKeySaysWhatToBring(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.ready(seal.Source{Given: b64("a")})
	for source, want := range map[seal.Source]string{
		{Given: b64("b")}: "SIROCCO_TEST_KEY is not the key",
		{}:                "set SIROCCO_TEST_KEY",
		{File: filepath.Join(h.dir, "svc", "a.key")}: "copy svc/a.key",
		{Given: b64("b"), Previous: b64("c")}:        "SIROCCO_TEST_KEY_PREVIOUS",
	} {
		err := h.vault(source, h.register()).Load(t.Context())
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), source.Given+"!", "no key is in an error")
	}
	_, err := os.Stat(filepath.Join(h.dir, "svc"))
	require.ErrorIs(t, err, os.ErrNotExist, "no key is made that would open nothing")
	_, err = h.vault(seal.Source{}, h.register()).Seal(t.Context(), "n", nil)
	require.Error(t, err, "nothing is sealed before the keys are loaded")
	_, err = h.vault(seal.Source{}, h.register()).Open(t.Context(), "n", nil)
	require.Error(t, err)
	_, err = seal.New(seal.Source{Variable: "SIROCCO_TEST_KEY", Previous: "AAAA"}, h.register(), time.Now)
	require.ErrorContains(t, err, "SIROCCO_TEST_KEY_PREVIOUS: want 32 bytes")
}

func TestFirstReplicasAgreeOnOneKey(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	file := seal.Source{File: filepath.Join(h.dir, "one.key")}
	for _, source := range []seal.Source{{}, file} {
		h := newHouse(t)
		vaults := make([]*seal.Vault, 6)
		var all sync.WaitGroup
		for i := range vaults {
			vaults[i] = h.vault(source, h.register())
			all.Go(func() {
				if err := vaults[i].Load(t.Context()); err != nil {
					t.Errorf("load: %v", err)
				}
			})
		}
		all.Wait()
		for i, v := range vaults {
			require.NoError(t, h.put(t.Context(), v, fmt.Sprint(i)))
		}
		for _, v := range vaults {
			h.holds(v, len(vaults))
		}
	}
}
