-- One row per version. A function has no row of its own: it exists while a version of it does. The specification is
-- json, not jsonb, because a client must get back what it sent, down to the spelling of a number.
CREATE TABLE functions.versions (
    version_id    uuid PRIMARY KEY,
    function_id   uuid NOT NULL,
    account       text NOT NULL,
    function_type text NOT NULL,
    status        text NOT NULL CHECK (status IN ('INACTIVE', 'DEPLOYING', 'ACTIVE', 'DEGRADING', 'DEGRADED', 'ERROR')),
    deployment_id text NOT NULL DEFAULT '',
    reason        json NOT NULL DEFAULT '{}',
    spec          json NOT NULL,
    revision      bigint NOT NULL DEFAULT 1,
    created_at    timestamptz NOT NULL,
    updated_at    timestamptz NOT NULL,
    -- Orders versions that were created in the same millisecond.
    position      bigint GENERATED ALWAYS AS IDENTITY
);

CREATE INDEX versions_account ON functions.versions (account, created_at DESC, position DESC);
CREATE INDEX versions_function ON functions.versions (function_id, created_at DESC, position DESC);

-- Values are sealed before they come here; see sealing.go.
CREATE TABLE functions.secrets (
    version_id uuid NOT NULL REFERENCES functions.versions ON DELETE CASCADE,
    position   int NOT NULL,
    name       text NOT NULL,
    sealed     bytea NOT NULL,
    PRIMARY KEY (version_id, name)
);

-- At most one row: which key seals the secrets, and the key itself when it was given no other place to live.
CREATE TABLE functions.sealing_key (
    the_one     boolean PRIMARY KEY DEFAULT true CHECK (the_one),
    fingerprint bytea NOT NULL,
    key         bytea
);
