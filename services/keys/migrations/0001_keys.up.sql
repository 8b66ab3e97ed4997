-- The registry of keys §1: who issues keys, for whom, within which limits.
CREATE TABLE keys.services (
    id                                text PRIMARY KEY,
    name                              text NOT NULL UNIQUE,
    position                          smallint NOT NULL UNIQUE,
    audiences                         text[] NOT NULL CHECK (cardinality(audiences) > 0),
    max_api_keys_per_user             integer NOT NULL DEFAULT 8 CHECK (max_api_keys_per_user >= 1),
    max_api_key_ttl_days              integer NOT NULL DEFAULT 365 CHECK (max_api_key_ttl_days >= 1),
    max_authz_size_chars              integer NOT NULL DEFAULT 2048 CHECK (max_authz_size_chars >= 1),
    min_authz_update_interval_seconds integer NOT NULL DEFAULT 3 CHECK (min_authz_update_interval_seconds >= 0)
);

INSERT INTO keys.services (id, name, position, audiences) VALUES
    ('nvidia-cloud-functions-ncp-service-id-aketm', 'nvcf-api', 1, '{nvidia-cloud-functions-ncp-service-id-aketm}'),
    ('nvidia-cloud-tasks-ncp-service-id-nvcttasks', 'nvct-api', 2, '{nvidia-cloud-tasks-ncp-service-id-nvcttasks}'),
    ('nvidia-cloud-events-ncp-service-id-ckozoh6f', 'event-ledger', 3, '{nvidia-cloud-events-ncp-service-id-ckozoh6f}');

-- The account behind the sub claim of a token (keys §6.3).
CREATE TABLE keys.clients (
    id      text PRIMARY KEY,
    account text NOT NULL
);

INSERT INTO keys.clients (id, account) VALUES ('ncp', 'nvcf-default');

-- Owners appear with their first key and outlive their last one.
CREATE TABLE keys.owners (
    owner_type        text NOT NULL,
    owner_id          text NOT NULL,
    account           text NOT NULL,
    status            text NOT NULL DEFAULT 'ACTIVE' CHECK (status IN ('ACTIVE', 'SUSPENDED')),
    status_updated_at timestamptz NOT NULL,
    created_at        timestamptz NOT NULL,
    PRIMARY KEY (owner_type, owner_id)
);

-- One row per key. The key itself is nowhere: hash is its HMAC, mask_tail its last three characters. authorizations is
-- json and not jsonb, because its order and its unknown members are the client's and are given back as they came.
CREATE TABLE keys.keys (
    id                 uuid PRIMARY KEY,
    hash               text NOT NULL UNIQUE CHECK (length(hash) = 43),
    domain_key_version smallint NOT NULL DEFAULT 1,
    mask_tail          text NOT NULL CHECK (length(mask_tail) = 3),
    account            text NOT NULL,
    owner_type         text NOT NULL,
    owner_id           text NOT NULL,
    service_id         text NOT NULL REFERENCES keys.services (id),
    status             text NOT NULL DEFAULT 'ACTIVE' CHECK (status IN ('ACTIVE', 'SUSPENDED')),
    description        text NOT NULL,
    audiences          text[] NOT NULL,
    authorizations     json NOT NULL,
    version            bigint NOT NULL DEFAULT 1,
    created_at         timestamptz NOT NULL,
    updated_at         timestamptz NOT NULL,
    expires_at         timestamptz NOT NULL,
    deletes_at         timestamptz NOT NULL,
    FOREIGN KEY (owner_type, owner_id) REFERENCES keys.owners (owner_type, owner_id)
);

CREATE INDEX keys_of_owner ON keys.keys (owner_type, owner_id, service_id);
CREATE INDEX keys_to_purge ON keys.keys (deletes_at);

-- The secrets of the deployment that all replicas share. fingerprint tells whether a replica has the same one. value is
-- sealed with the key-encryption key; for that key itself it is the key, or NULL when only files and environments hold it.
CREATE TABLE keys.secrets (
    name        text PRIMARY KEY,
    fingerprint text NOT NULL,
    value       bytea,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Signing keys of tokens. next is published and not used yet, current signs, previous is still listed for the tokens it
-- signed (keys §6.4). The private half is sealed with the key-encryption key; the public half follows from it.
CREATE TABLE keys.signing_keys (
    kid         text PRIMARY KEY CHECK (length(kid) = 27),
    state       text NOT NULL CHECK (state IN ('next', 'current', 'previous')),
    private_key bytea NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    state_since timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE UNIQUE INDEX signing_keys_one_current ON keys.signing_keys (state) WHERE state = 'current';
