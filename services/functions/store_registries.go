package functions

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
)

const selectCredentials = `SELECT credential_id::text, account, name, registry_name, hostname, artifact_types, tags, description, provisioned_by,
	key_type, created_at, updated_at FROM functions.registry_credentials `

func (r reads) collectCredentials(ctx context.Context, sql string, args ...any) ([]contract.RegistryCredential, error) {
	return collect(ctx, r, "read registry credentials", func(row pgx.CollectableRow) (c contract.RegistryCredential, err error) {
		err = row.Scan(&c.RegistryCredentialID, &c.NCAID, &c.RegistryCredentialName, &c.RegistryName, &c.RegistryHostname, &c.ArtifactTypes,
			&c.Tags, &c.Description, &c.ProvisionedBy, &c.KeyType, &c.CreatedAt, &c.LastUpdatedAt)
		c.CreatedAt, c.LastUpdatedAt = c.CreatedAt.UTC(), c.LastUpdatedAt.UTC()
		return c, err
	}, selectCredentials+sql, args...)
}

// credentials returns those of an account, newest first.
func (r reads) credentials(ctx context.Context, account string) ([]contract.RegistryCredential, error) {
	return r.collectCredentials(ctx, `WHERE account = $1`+newestFirst, account)
}

func (r reads) credential(ctx context.Context, account, credentialID string, lock rowLock) (contract.RegistryCredential, bool, error) {
	return first(r.collectCredentials(ctx, `WHERE credential_id = $1 AND account = $2`+string(lock), credentialID, account))
}

func (r reads) credentialSecret(ctx context.Context, credentialID string) (sealed []byte, err error) {
	if err = r.db.QueryRow(ctx, `SELECT sealed FROM functions.registry_credentials WHERE credential_id = $1`, credentialID).Scan(&sealed); err != nil {
		return nil, fmt.Errorf("read registry credential: %w", err)
	}
	return sealed, nil
}

func (u unit) insertCredential(ctx context.Context, c contract.RegistryCredential, sealed []byte) error {
	tags := c.Tags
	if tags == nil {
		tags = []string{}
	}
	_, err := u.tx.Exec(ctx, `INSERT INTO functions.registry_credentials (credential_id, account, name, registry_name, hostname, artifact_types, tags,
			description, provisioned_by, key_type, sealed, created_at, updated_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $12)`, c.RegistryCredentialID, c.NCAID, c.RegistryCredentialName, c.RegistryName,
		c.RegistryHostname, c.ArtifactTypes, tags, c.Description, c.ProvisionedBy, c.KeyType, sealed, c.CreatedAt)
	if err != nil {
		return fmt.Errorf("insert registry credential: %w", err)
	}
	return nil
}

// saveCredential stores what an update may change of a locked credential; the secret stays when sealed is nil.
func (u unit) saveCredential(ctx context.Context, c contract.RegistryCredential, sealed []byte) error {
	_, err := u.tx.Exec(ctx, `UPDATE functions.registry_credentials SET name = $2, artifact_types = $3, key_type = $4, updated_at = $5,
		sealed = coalesce($6, sealed) WHERE credential_id = $1`, c.RegistryCredentialID, c.RegistryCredentialName, c.ArtifactTypes, c.KeyType, c.LastUpdatedAt, sealed)
	if err != nil {
		return fmt.Errorf("save registry credential: %w", err)
	}
	return nil
}

func (u unit) deleteCredential(ctx context.Context, credentialID string) error {
	if _, err := u.tx.Exec(ctx, `DELETE FROM functions.registry_credentials WHERE credential_id = $1`, credentialID); err != nil {
		return fmt.Errorf("delete registry credential: %w", err)
	}
	return nil
}

// eachSource hands the versions of an account to see, with no more of their specifications than what comes from
// registries, until see returns false. One row is in memory at a time.
func (r reads) eachSource(ctx context.Context, account string, see func(pair, contract.Spec) bool) error {
	rows, err := r.db.Query(ctx, `SELECT function_id::text, version_id::text, coalesce(spec->>'containerImage', ''), coalesce(spec->>'helmChart', ''),
		coalesce(spec->'models', '[]'), coalesce(spec->'resources', '[]') FROM functions.versions WHERE account = $1`+newestFirst, account)
	if err != nil {
		return fmt.Errorf("read the sources of versions: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var p pair
		var s contract.Spec
		if err := rows.Scan(&p.functionID, &p.versionID, &s.ContainerImage, &s.HelmChart, &s.Models, &s.Resources); err != nil {
			return fmt.Errorf("read the sources of versions: %w", err)
		}
		if !see(p, s) {
			return nil
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read the sources of versions: %w", err)
	}
	return nil
}
