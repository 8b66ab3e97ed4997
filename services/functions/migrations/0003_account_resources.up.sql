-- What belongs to an account beside its functions: sinks of telemetry, credentials of registries, assets.

CREATE TABLE functions.telemetries (
    telemetry_id uuid PRIMARY KEY,
    account      text NOT NULL,
    name         text NOT NULL,
    endpoint     text NOT NULL,
    protocol     text NOT NULL,
    provider     text NOT NULL,
    types        text[] NOT NULL,
    sealed       bytea NOT NULL,
    created_at   timestamptz NOT NULL,
    position     bigint GENERATED ALWAYS AS IDENTITY,
    CONSTRAINT telemetries_name UNIQUE (account, name)
);

CREATE TABLE functions.registry_credentials (
    credential_id  uuid PRIMARY KEY,
    account        text NOT NULL,
    name           text NOT NULL,
    registry_name  text NOT NULL,
    hostname       text NOT NULL,
    artifact_types text[] NOT NULL,
    tags           text[] NOT NULL,
    description    text NOT NULL,
    provisioned_by text NOT NULL CHECK (provisioned_by IN ('SYSTEM', 'USER')),
    key_type       text NOT NULL,
    sealed         bytea NOT NULL,
    created_at     timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    position       bigint GENERATED ALWAYS AS IDENTITY
);
CREATE UNIQUE INDEX registry_credentials_host ON functions.registry_credentials (account, lower(hostname), name);

CREATE TABLE functions.assets (
    asset_id     uuid PRIMARY KEY,
    account      text NOT NULL,
    content_type text NOT NULL,
    description  text NOT NULL,
    created_at   timestamptz NOT NULL,
    position     bigint GENERATED ALWAYS AS IDENTITY
);
CREATE INDEX assets_account ON functions.assets (account, created_at DESC, position DESC);

-- Objects whose asset is gone and whose bytes are still to be deleted.
CREATE TABLE functions.doomed_objects (
    key   text PRIMARY KEY,
    since timestamptz NOT NULL
);

-- At most one row: what signs the addresses of objects. It is sealed like every other secret.
CREATE TABLE functions.object_keys (
    the_one boolean PRIMARY KEY DEFAULT true CHECK (the_one),
    sealed  bytea NOT NULL
);
