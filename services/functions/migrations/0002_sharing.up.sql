-- Who else may use a version. Parties of the function stand in each of its versions, so that one row says everything;
-- authorized holds the accounts of both lists for the index, and public that one of them has the wildcard.
ALTER TABLE functions.versions
    ADD COLUMN function_parties json NOT NULL DEFAULT '[]',
    ADD COLUMN version_parties  json NOT NULL DEFAULT '[]',
    ADD COLUMN authorized       text[] NOT NULL DEFAULT '{}',
    ADD COLUMN public           boolean NOT NULL DEFAULT false;

-- Lists go through these in their order, a page at a time.
CREATE INDEX versions_public ON functions.versions (created_at DESC, position DESC) WHERE public;
CREATE INDEX versions_authorized ON functions.versions USING gin (authorized) WHERE authorized <> '{}';

-- How many functions an account has: counting them would read all of its versions at every creation.
CREATE TABLE functions.accounts (
    account   text PRIMARY KEY,
    functions bigint NOT NULL
);
INSERT INTO functions.accounts (account, functions)
    SELECT account, count(DISTINCT function_id) FROM functions.versions GROUP BY account;

ALTER TABLE functions.secrets ADD COLUMN updated_at timestamptz NOT NULL DEFAULT now();

-- The answers of creations that were sent with an idempotency key; see store.Idempotency.
CREATE TABLE functions.idempotency (
    scope      text NOT NULL,
    key        text NOT NULL,
    digest     bytea NOT NULL,
    answer     bytea NOT NULL DEFAULT '',
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (scope, key)
);
CREATE INDEX idempotency_expiry ON functions.idempotency (expires_at);
