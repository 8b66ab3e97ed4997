package functions

import (
	"context"
	"fmt"
)

// putSecrets stores secrets of a locked version: known names keep their place, new ones follow.
func (u unit) putSecrets(ctx context.Context, v version, secrets []sealedSecret) error {
	names, values := make([]string, len(secrets)), make([][]byte, len(secrets))
	for i, s := range secrets {
		names[i], values[i] = s.name, s.value
	}
	_, err := u.tx.Exec(ctx, `INSERT INTO functions.secrets (version_id, position, name, sealed, updated_at)
		SELECT $1, s.position + (SELECT coalesce(max(position), 0) FROM functions.secrets WHERE version_id = $1), name, sealed, $4
		FROM unnest($2::text[], $3::bytea[]) WITH ORDINALITY AS s (name, sealed, position)
		ON CONFLICT (version_id, name) DO UPDATE SET sealed = excluded.sealed, updated_at = excluded.updated_at`, v.id, names, values, v.updatedAt)
	if err != nil {
		return fmt.Errorf("store secrets: %w", err)
	}
	return nil
}

// dropSecrets deletes secrets of a locked version.
func (u unit) dropSecrets(ctx context.Context, v version, names []string) error {
	if _, err := u.tx.Exec(ctx, `DELETE FROM functions.secrets WHERE version_id = $1 AND name = ANY($2)`, v.id, names); err != nil {
		return fmt.Errorf("delete secrets: %w", err)
	}
	return nil
}

// touch makes a new revision of a locked version of which nothing changed but what belongs to it.
func (u unit) touch(ctx context.Context, v version) error {
	_, err := u.tx.Exec(ctx, `UPDATE functions.versions SET updated_at = $2, revision = revision + 1 WHERE version_id = $1`, v.id, v.updatedAt)
	if err != nil {
		return fmt.Errorf("touch version: %w", err)
	}
	return nil
}
