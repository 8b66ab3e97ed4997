-- grace is how long a graceful drain may take, in seconds.
ALTER TABLE deployments.deployments ADD COLUMN grace integer NOT NULL DEFAULT 3600;

-- health is what was last told about healthInfo, in short.
ALTER TABLE deployments.deployments ADD COLUMN health text NOT NULL DEFAULT '';

-- The answers of deploy calls that may come twice; see libs/store.
CREATE TABLE deployments.idempotency (
    scope      text NOT NULL,
    key        text NOT NULL,
    digest     bytea NOT NULL,
    answer     bytea NOT NULL DEFAULT '',
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (scope, key)
);
CREATE INDEX idempotency_expiry ON deployments.idempotency (expires_at);

-- gpus is how many GPUs one instance of the specification has, as the inventory said when it was deployed.
ALTER TABLE deployments.specifications ADD COLUMN gpus integer NOT NULL DEFAULT 1;

-- rolling marks an instance that ends as soon as another one has taken its place.
ALTER TABLE deployments.instances ADD COLUMN rolling boolean NOT NULL DEFAULT false;
