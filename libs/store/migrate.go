package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/golang-migrate/migrate/v4"
	"github.com/golang-migrate/migrate/v4/database"
	migratepgx "github.com/golang-migrate/migrate/v4/database/pgx/v5"
	"github.com/golang-migrate/migrate/v4/source"
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
)

const versionTable = "schema_migrations"

// direction is the sign of a migrator's step.
type direction int

const (
	forward direction = 1
	back    direction = -1
)

// Migrate brings schema up to the newest of the migrations, which are golang-migrate files (0001_name.up.sql,
// 0001_name.down.sql) in the root of the file system; fs.Sub peels an embedded folder. It creates the schema and, in it,
// the tables that every service has: outbox, inbox and schema_migrations. The schema comes first on the search path while
// migrations run.
//
// Each migration and the note of its version are one transaction: after a crash or an error the schema is at the version
// before, and the next start tries again. (Hence a migration must hold neither BEGIN and COMMIT nor statements such as CREATE
// INDEX CONCURRENTLY that refuse a transaction.) Replicas may start at once; one migrates, the others wait for it and find
// nothing to do. A schema that is newer than the migrations is left alone, so that the release before can run beside its successor. While Postgres is unreachable Migrate tries again until ctx ends; every other error returns at once.
func Migrate(ctx context.Context, pool *pgxpool.Pool, schema string, migrations fs.FS) error {
	return migrateSchema(ctx, pool, schema, migrations, forward)
}

// MigrateDown undoes all migrations of schema, newest first, and leaves the schema with its outbox and inbox in place. It
// exists to prove that migrations can be undone; production only goes forward.
func MigrateDown(ctx context.Context, pool *pgxpool.Pool, schema string, migrations fs.FS) error {
	return migrateSchema(ctx, pool, schema, migrations, back)
}

// Digest identifies what Migrate would make of an empty schema; equal digests, equal schemas.
func Digest(schema string, migrations fs.FS) (string, error) {
	hash := sha256.New()
	fmt.Fprintf(hash, "%s\x00%s\x00", schema, strings.Join(ensureDDL(schema), "\x00"))
	err := fs.WalkDir(migrations, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		body, err := fs.ReadFile(migrations, path)
		fmt.Fprintf(hash, "%s\x00%d\x00%s", path, len(body), body)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("store: migrations of %s: %w", schema, err)
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

func migrateSchema(ctx context.Context, pool *pgxpool.Pool, schema string, migrations fs.FS, dir direction) error {
	if err := checkSchema(schema); err != nil {
		return err
	}
	for attempt := 0; ; attempt++ {
		err := migrateOnce(ctx, pool, schema, migrations, dir)
		switch {
		case err == nil:
			return nil
		case !IsAway(err):
			return fmt.Errorf("store: migrate %s: %w", schema, err)
		}
		if pause(ctx, backoff(attempt, 50*time.Millisecond, 2*time.Second)) != nil {
			return fmt.Errorf("store: migrate %s: gave up waiting for PostgreSQL at %s: %w", schema, where(pool), err)
		}
	}
}

// migrateOnce works on one session of its own: it holds the lock, and a pool that other migrations share cannot run dry and
// deadlock them.
func migrateOnce(ctx context.Context, pool *pgxpool.Pool, schema string, migrations fs.FS, dir direction) error {
	config := pool.Config().ConnConfig
	config.RuntimeParams["search_path"] = searchPath(schema)
	db := stdlib.OpenDB(*config)
	defer db.Close()
	db.SetMaxOpenConns(1)
	db.SetMaxIdleConns(1)

	// The lock ends with the session. Unlike the migrator's own, which it makes redundant, it ends waiting when ctx does.
	if _, err := db.ExecContext(ctx, `SELECT pg_advisory_lock(hashtextextended($1, 0))`, "sirocco.migrate."+schema); err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	if err := ensure(ctx, db, schema); err != nil {
		return err
	}
	files, err := iofs.New(migrations, ".")
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	driver, err := migratepgx.WithInstance(db, &migratepgx.Config{SchemaName: schema, MigrationsTable: versionTable})
	if err != nil {
		return errors.Join(migrationError(err), files.Close())
	}
	migrator, err := migrate.NewWithInstance("files", files, "postgres", &atomicDriver{Driver: driver, versions: table(schema, versionTable)})
	if err != nil {
		return errors.Join(err, files.Close(), driver.Close())
	}
	err = migrationError(run(migrator, files, driver, dir))
	sourceErr, driverErr := migrator.Close()
	if err != nil {
		return err
	}
	return errors.Join(sourceErr, driverErr)
}

// run takes one step per migration. The migrator's own Up and Down read ahead, and when a migration fails the readers of those
// after it never end.
func run(migrator *migrate.Migrate, files source.Driver, driver database.Driver, dir direction) error {
	current, dirty, err := driver.Version()
	if err != nil {
		return err
	}
	if dirty {
		return migrate.ErrDirty{Version: current}
	}
	steps := 0
	version, err := files.First()
	for ; err == nil; version, err = files.Next(version) {
		if applied := int(version) <= current; applied == (dir == back) {
			steps++
		}
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for range steps {
		if err := migrator.Steps(int(dir)); err != nil {
			return err
		}
	}
	return nil
}

// ensure creates the schema and the tables that every service has. It looks before it creates, because a role without the
// right to create may use what exists.
func ensure(ctx context.Context, db *sql.DB, schema string) error {
	var schemaThere, tablesThere bool
	err := db.QueryRowContext(ctx, `SELECT to_regnamespace($1) IS NOT NULL, to_regclass($2) IS NOT NULL AND to_regclass($3) IS NOT NULL`,
		schema, table(schema, "outbox"), table(schema, "inbox")).Scan(&schemaThere, &tablesThere)
	if err != nil {
		return fmt.Errorf("look for the schema: %w", err)
	}
	ddl := ensureDDL(schema)
	if schemaThere {
		ddl = ddl[1:]
	}
	if schemaThere && tablesThere {
		return nil
	}
	if _, err := db.ExecContext(ctx, strings.Join(ddl, ";\n")); err != nil {
		return fmt.Errorf("create the schema with its outbox and inbox: %w", err)
	}
	return nil
}

// ensureDDL starts with the schema itself. Outbox rows live for milliseconds, so vacuum goes by a count, not by a share.
func ensureDDL(schema string) []string {
	return []string{
		`CREATE SCHEMA IF NOT EXISTS ` + schema,
		`CREATE TABLE IF NOT EXISTS ` + table(schema, "outbox") + ` (
			id         bigserial PRIMARY KEY,
			subject    text NOT NULL,
			msg_id     text NOT NULL,
			headers    jsonb NOT NULL,
			payload    bytea NOT NULL,
			created_at timestamptz NOT NULL DEFAULT clock_timestamp()
		) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000)`,
		`CREATE TABLE IF NOT EXISTS ` + table(schema, "inbox") + ` (
			consumer text NOT NULL,
			event_id text NOT NULL,
			seen_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
			PRIMARY KEY (consumer, event_id)
		)`,
	}
}

// atomicDriver makes a migration and the note of its version one transaction. The migrator marks a version as dirty, runs
// the migration, and marks it clean, in three transactions; killed between two of them it would need a person. Here the mark
// is only remembered, and the version travels with the migration: PostgreSQL runs the statements of one simple query as one
// transaction.
type atomicDriver struct {
	database.Driver
	versions string
	target   int
}

func (d *atomicDriver) SetVersion(version int, dirty bool) error {
	if dirty {
		d.target = version
		return nil
	}
	return d.Driver.SetVersion(version, false)
}

func (d *atomicDriver) Run(migration io.Reader) error {
	// The first line break ends a comment that the migration may end with.
	note := "\n;\nDELETE FROM " + d.versions
	if d.target != database.NilVersion {
		note += fmt.Sprintf("; INSERT INTO %s (version, dirty) VALUES (%d, false)", d.versions, d.target)
	}
	if err := d.Driver.Run(io.MultiReader(migration, strings.NewReader(note))); err != nil {
		return fmt.Errorf("version %d: %w", d.target, migrationError(err))
	}
	return nil
}

// migrationError drops the text of the whole migration that the migrator's errors carry, and says what to do about a dirty one.
func migrationError(err error) error {
	if err == nil {
		return nil
	}
	if dirty, ok := errors.AsType[migrate.ErrDirty](err); ok {
		return fmt.Errorf("version %d is marked dirty: a migration was left half done; make the schema whole by hand, then set dirty to false in %s",
			dirty.Version, versionTable)
	}
	var value database.Error
	var pointer *database.Error
	switch {
	case errors.As(err, &value):
		pointer = &value
	case !errors.As(err, &pointer):
		return err
	}
	if pointer.OrigErr == nil {
		return err
	}
	if pointer.Line > 0 {
		return fmt.Errorf("line %d: %w", pointer.Line, pointer.OrigErr)
	}
	return pointer.OrigErr
}
