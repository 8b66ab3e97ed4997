-- What keys §4.6 and §11 add to a key. superseded marks the old key of a rotation: in its grace it counts against no limit.
-- retired tells that the end of the grace was announced. cluster_id is set for the keys of hosted registrations (keys
-- §4.13), whose limit is counted per cluster; key_type is what the client called such a key, empty for all others.
ALTER TABLE keys.keys
    ADD COLUMN authorized_at timestamptz,
    ADD COLUMN not_before    timestamptz,
    ADD COLUMN rate_limit    jsonb,
    ADD COLUMN allowed_cidrs text[] NOT NULL DEFAULT '{}',
    ADD COLUMN rotated_from  uuid,
    ADD COLUMN superseded    boolean NOT NULL DEFAULT false,
    ADD COLUMN retired       boolean NOT NULL DEFAULT false,
    ADD COLUMN key_type      text NOT NULL DEFAULT '',
    ADD COLUMN cluster_id    text NOT NULL DEFAULT '';

CREATE INDEX keys_of_account ON keys.keys (account);
CREATE INDEX keys_in_grace ON keys.keys (expires_at) WHERE superseded AND NOT retired;

-- When and from where a key was last let through; apart from the key, so that use never waits for a change.
CREATE TABLE keys.uses (
    key_id  uuid PRIMARY KEY REFERENCES keys.keys (id) ON DELETE CASCADE,
    at      timestamptz NOT NULL,
    address text NOT NULL,
    service text NOT NULL
);

-- The decisions of keys §10, kept for a while so that they can be asked for. id orders them as they were learned. An event
-- that comes again long after the inbox has forgotten it finds its row here.
CREATE TABLE keys.decisions (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id text NOT NULL UNIQUE,
    at       timestamptz NOT NULL,
    key_id   text NOT NULL,
    owner_id text NOT NULL,
    decision text NOT NULL,
    document json NOT NULL
);

CREATE INDEX decisions_by_time ON keys.decisions (at, id);
CREATE INDEX decisions_of_key ON keys.decisions (key_id, at, id) WHERE key_id <> '';
CREATE INDEX decisions_of_owner ON keys.decisions (owner_id, at, id) WHERE owner_id <> '';

-- Tenants (functions-deployments §10). Their clients are the rows of keys.clients.
CREATE TABLE keys.accounts (
    id                       text PRIMARY KEY,
    name                     text NOT NULL,
    max_functions            integer NOT NULL CHECK (max_functions >= 1),
    max_tasks                integer NOT NULL CHECK (max_tasks >= 1),
    max_telemetries          integer NOT NULL CHECK (max_telemetries >= 0),
    max_registry_credentials integer NOT NULL CHECK (max_registry_credentials >= 0),
    created_at               timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at               timestamptz NOT NULL DEFAULT clock_timestamp()
);

INSERT INTO keys.accounts (id, name, max_functions, max_tasks, max_telemetries, max_registry_credentials)
    VALUES ('nvcf-default', 'nvcf-default', 2147483647, 2147483647, 25, 25);

CREATE INDEX clients_of_account ON keys.clients (account);

-- Creations that carried an Idempotency-Key (libs/store). The key inside an answer is sealed.
CREATE TABLE keys.idempotency (
    scope      text NOT NULL,
    key        text NOT NULL,
    digest     bytea NOT NULL,
    answer     bytea NOT NULL DEFAULT '',
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (scope, key)
);

CREATE INDEX idempotency_expiry ON keys.idempotency (expires_at);
