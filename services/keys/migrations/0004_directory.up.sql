-- People: the local users of the access API (keys §9.4). tokens_after is the first second in which a token of the user
-- may have been issued; those of before are revoked.
CREATE TABLE keys.directory_users (
    id             uuid PRIMARY KEY,
    account        text NOT NULL,
    email          text NOT NULL,
    first_name     text NOT NULL DEFAULT '',
    last_name      text NOT NULL DEFAULT '',
    password_hash  text NOT NULL,
    -- Who chose the password: 'environment' for the first administrator, 'administrator' for a temporary one, or 'user'.
    password_from  text NOT NULL CHECK (password_from IN ('environment', 'administrator', 'user')),
    must_change    boolean NOT NULL DEFAULT false,
    created_by     text NOT NULL,
    created_at     timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    last_login     timestamptz,
    tokens_after   timestamptz NOT NULL
);

CREATE UNIQUE INDEX directory_users_email ON keys.directory_users (lower(email));

-- Programs: applications, and the access keys of one user each, which have an owner and its rights.
CREATE TABLE keys.directory_applications (
    id           uuid PRIMARY KEY,
    account      text NOT NULL,
    name         text NOT NULL,
    client_id    text NOT NULL UNIQUE,
    owner        uuid REFERENCES keys.directory_users (id) ON DELETE CASCADE,
    secret_hash  text NOT NULL,
    enabled      boolean NOT NULL DEFAULT true,
    created_by   text NOT NULL,
    created_at   timestamptz NOT NULL,
    updated_at   timestamptz NOT NULL,
    last_login   timestamptz,
    tokens_after timestamptz NOT NULL
);

CREATE UNIQUE INDEX directory_applications_name ON keys.directory_applications (name) WHERE owner IS NULL;
CREATE UNIQUE INDEX directory_access_keys_name ON keys.directory_applications (owner, name) WHERE owner IS NOT NULL;

-- Access rules. subject_id and scope_id are as the client wrote them; subject is whom they mean, NULL for a group.
CREATE TABLE keys.directory_rules (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account      text NOT NULL,
    subject      uuid,
    subject_id   text NOT NULL,
    subject_type text NOT NULL CHECK (subject_type IN ('user', 'app', 'service-account', 'group')),
    role_id      integer NOT NULL,
    scope_id     text NOT NULL,
    scope_type   text NOT NULL CHECK (scope_type IN ('system', 'tenant', 'cluster', 'department', 'project')),
    cluster_id   text NOT NULL DEFAULT '',
    created_by   text NOT NULL,
    created_at   timestamptz NOT NULL,
    updated_at   timestamptz NOT NULL,
    deleted_at   timestamptz
);

CREATE UNIQUE INDEX directory_rules_once ON keys.directory_rules (coalesce(subject::text, subject_id), role_id, scope_type, scope_id)
    WHERE deleted_at IS NULL;
CREATE INDEX directory_rules_of_subject ON keys.directory_rules ((subject::text)) WHERE deleted_at IS NULL;
CREATE INDEX directory_rules_deleted ON keys.directory_rules (deleted_at) WHERE deleted_at IS NOT NULL;

-- Refresh tokens, of which only the digest is here. A used one stays until it expires, so that its return is noticed;
-- chain joins a sign-in with everything that was refreshed from it.
CREATE TABLE keys.directory_refresh (
    digest     bytea PRIMARY KEY CHECK (length(digest) = 32),
    chain      uuid NOT NULL,
    subject    uuid NOT NULL,
    client     text NOT NULL,
    jti        text NOT NULL,
    scopes     text[],
    issued_at  timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    used_at    timestamptz
);

CREATE INDEX directory_refresh_chain ON keys.directory_refresh (chain);
CREATE INDEX directory_refresh_subject ON keys.directory_refresh (subject, issued_at);
CREATE INDEX directory_refresh_expiry ON keys.directory_refresh (expires_at);

-- Failed sign-ins by the digest of the name that was tried, whether or not it is anybody's.
CREATE TABLE keys.directory_failures (
    name          bytea PRIMARY KEY CHECK (length(name) = 32),
    -- Whose name it is, NULL for nobody's, and whether it was tried as a user's or an application's.
    subject       uuid,
    subject_type  text NOT NULL,
    failures      integer NOT NULL,
    -- How many of the failures an event has told of.
    told          integer NOT NULL DEFAULT 0,
    first_at      timestamptz NOT NULL,
    last_at       timestamptz NOT NULL,
    blocked_until timestamptz
);

CREATE INDEX directory_failures_age ON keys.directory_failures (last_at);
