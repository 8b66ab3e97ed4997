package functions

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/libs/store"
	"github.com/sirocco-cloud/sirocco/services/functions/objects"
)

const selectAssets = `SELECT asset_id::text, content_type, description, created_at FROM functions.assets `

func (r reads) collectAssets(ctx context.Context, sql string, args ...any) ([]contract.Asset, error) {
	return collect(ctx, r, "read assets", func(row pgx.CollectableRow) (a contract.Asset, err error) {
		err = row.Scan(&a.AssetID, &a.ContentType, &a.Description, &a.CreatedAt)
		a.CreatedAt = a.CreatedAt.UTC()
		return a, err
	}, selectAssets+sql, args...)
}

// assets returns those of an account, newest first.
func (r reads) assets(ctx context.Context, account string) ([]contract.Asset, error) {
	return r.collectAssets(ctx, `WHERE account = $1`+newestFirst, account)
}

func (r reads) asset(ctx context.Context, account, assetID string, lock rowLock) (contract.Asset, bool, error) {
	return first(r.collectAssets(ctx, `WHERE asset_id = $1 AND account = $2`+string(lock), assetID, account))
}

// assetOfAnyone returns an asset with the account that has it.
func (r reads) assetOfAnyone(ctx context.Context, assetID string) (account string, a contract.Asset, found bool, err error) {
	a.AssetID = assetID
	err = r.db.QueryRow(ctx, `SELECT account, content_type, description, created_at FROM functions.assets WHERE asset_id = $1`, assetID).
		Scan(&account, &a.ContentType, &a.Description, &a.CreatedAt)
	if store.IsNotFound(err) {
		return "", a, false, nil
	}
	if err != nil {
		return "", a, false, fmt.Errorf("find asset: %w", err)
	}
	return account, a, true, nil
}

func (r reads) countAssets(ctx context.Context, account string) (n int, err error) {
	if err = r.db.QueryRow(ctx, `SELECT count(*) FROM functions.assets WHERE account = $1`, account).Scan(&n); err != nil {
		return 0, fmt.Errorf("count assets: %w", err)
	}
	return n, nil
}

func (u unit) insertAsset(ctx context.Context, account string, a contract.Asset) error {
	_, err := u.tx.Exec(ctx, `INSERT INTO functions.assets (asset_id, account, content_type, description, created_at) VALUES ($1, $2, $3, $4, $5)`,
		a.AssetID, account, a.ContentType, a.Description, a.CreatedAt)
	if err != nil {
		return fmt.Errorf("insert asset: %w", err)
	}
	return nil
}

// deleteAsset deletes an asset and dooms its bytes.
func (u unit) deleteAsset(ctx context.Context, assetID, key string, at time.Time) error {
	if _, err := u.tx.Exec(ctx, `DELETE FROM functions.assets WHERE asset_id = $1`, assetID); err != nil {
		return fmt.Errorf("delete asset: %w", err)
	}
	if _, err := u.tx.Exec(ctx, `INSERT INTO functions.doomed_objects (key, since) VALUES ($1, $2) ON CONFLICT DO NOTHING`, key, at); err != nil {
		return fmt.Errorf("doom object: %w", err)
	}
	return nil
}

// sweepBatch is how many doomed objects are read at once.
const sweepBatch = 100

func (r reads) doomedObjects(ctx context.Context) ([]string, error) {
	return collect(ctx, r, "read doomed objects", pgx.RowTo[string], `SELECT key FROM functions.doomed_objects ORDER BY since LIMIT $1`, sweepBatch)
}

func (r reads) forgetObject(ctx context.Context, key string) error {
	if _, err := r.db.Exec(ctx, `DELETE FROM functions.doomed_objects WHERE key = $1`, key); err != nil {
		return fmt.Errorf("forget object: %w", err)
	}
	return nil
}

// objectSecretPlace is what the secret that signs addresses of objects is bound to.
const objectSecretPlace = "object-key"

// objectSecret returns what signs addresses of objects. The replica that needs it first makes it, the others read it.
func (f *Functions) objectSecret(ctx context.Context) ([]byte, error) {
	f.signing.Lock()
	defer f.signing.Unlock()
	if f.secret != nil {
		return f.secret, nil
	}
	sealed, found, err := f.store.objectSecret(ctx)
	if err != nil {
		return nil, err
	}
	if !found {
		made := make([]byte, objects.KeySize)
		rand.Read(made)
		if sealed, err = f.vault.Seal(ctx, objectSecretPlace, made); err != nil {
			return nil, err
		}
		if sealed, err = f.store.claimObjectSecret(ctx, sealed); err != nil {
			return nil, err
		}
	}
	f.secret, err = f.vault.Open(ctx, objectSecretPlace, sealed)
	return f.secret, err
}

func (r reads) objectSecret(ctx context.Context) (sealed []byte, found bool, err error) {
	err = r.db.QueryRow(ctx, `SELECT sealed FROM functions.object_keys`).Scan(&sealed)
	if store.IsNotFound(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("read the secret of objects: %w", err)
	}
	return sealed, true, nil
}

// claimObjectSecret stores the secret unless there is one, and returns the one that stands.
func (r reads) claimObjectSecret(ctx context.Context, sealed []byte) ([]byte, error) {
	if _, err := r.db.Exec(ctx, `INSERT INTO functions.object_keys (sealed) VALUES ($1) ON CONFLICT DO NOTHING`, sealed); err != nil {
		return nil, fmt.Errorf("claim the secret of objects: %w", err)
	}
	stands, _, err := r.objectSecret(ctx)
	return stands, err
}
