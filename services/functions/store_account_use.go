package functions

import (
	"context"
	"fmt"
	"time"
)

// accountCounts counts the distinct functions of an account, and its versions.
func (r reads) accountCounts(ctx context.Context, account string) (functions, versions int, err error) {
	err = r.db.QueryRow(ctx, `SELECT count(DISTINCT function_id), count(*) FROM functions.versions WHERE account = $1`, account).Scan(&functions, &versions)
	if err != nil {
		return 0, 0, fmt.Errorf("count functions: %w", err)
	}
	return functions, versions, nil
}

// dropAccount deletes what an account has beside functions; the bytes of its assets are left to [Functions.Sweep].
func (u unit) dropAccount(ctx context.Context, account string, at time.Time) error {
	_, err := u.tx.Exec(ctx, `INSERT INTO functions.doomed_objects (key, since) SELECT account || '/' || asset_id::text, $2
		FROM functions.assets WHERE account = $1 ON CONFLICT DO NOTHING`, account, at)
	if err != nil {
		return fmt.Errorf("doom the objects of an account: %w", err)
	}
	for _, table := range []string{"assets", "telemetries", "registry_credentials"} {
		if _, err := u.tx.Exec(ctx, `DELETE FROM functions.`+table+` WHERE account = $1`, account); err != nil {
			return fmt.Errorf("drop the %s of an account: %w", table, err)
		}
	}
	return nil
}

// authorizedParty tells whether another account shares a function with this one by name.
func (r reads) authorizedParty(ctx context.Context, account string) (is bool, err error) {
	err = r.db.QueryRow(ctx, `SELECT EXISTS (SELECT FROM functions.versions WHERE authorized <> '{}' AND authorized @> ARRAY[$1::text])`, account).Scan(&is)
	if err != nil {
		return false, fmt.Errorf("look for an authorized party: %w", err)
	}
	return is, nil
}
