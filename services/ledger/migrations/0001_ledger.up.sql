-- One row. Whoever appends holds it until the commit, so sequences become visible in order and a reader that pages by
-- sequence misses nothing.
CREATE TABLE ledger.pen (
    sequence bigint NOT NULL
) WITH (fillfactor = 10);

INSERT INTO ledger.pen (sequence) VALUES (0);

-- The newest record of each account's chain; the empty account is the platform.
CREATE TABLE ledger.chains (
    account  text PRIMARY KEY,
    sequence bigint NOT NULL,
    hash     text NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE ledger.events (
    sequence  bigint PRIMARY KEY,
    event_id  text NOT NULL CONSTRAINT events_event_id UNIQUE,
    subject   text NOT NULL,
    time      timestamptz NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    account   text NOT NULL,
    domain    text NOT NULL,
    type      text NOT NULL,
    actor     text NOT NULL,
    refs      text[] NOT NULL,
    -- The bytes that were published: the hash can be recomputed, and nothing that a later release understands is lost.
    envelope  bytea NOT NULL,
    prev_hash text NOT NULL,
    hash      text NOT NULL
);

CREATE INDEX events_account ON ledger.events (account, sequence);
CREATE INDEX events_domain ON ledger.events (domain, sequence);
CREATE INDEX events_time ON ledger.events (time);
CREATE INDEX events_refs ON ledger.events USING gin (refs) WITH (fastupdate = off);
