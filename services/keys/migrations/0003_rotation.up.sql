-- Which keys wrap the data keys of the sealed values, and a key itself when it was given no other place to live; see
-- libs/seal.
CREATE TABLE keys.encryption_keys (
    id      text PRIMARY KEY,
    current boolean NOT NULL,
    value   bytea,
    since   timestamptz NOT NULL
);
CREATE UNIQUE INDEX encryption_keys_one_current ON keys.encryption_keys (current) WHERE current;

INSERT INTO keys.encryption_keys (id, current, value, since)
    SELECT fingerprint, true, value, created_at FROM keys.secrets WHERE name = 'key-encryption-key';
DELETE FROM keys.secrets WHERE name = 'key-encryption-key';

-- A sealed value names its key, and a key that is named cannot be forgotten.
ALTER TABLE keys.secrets ADD COLUMN key_id text GENERATED ALWAYS AS (
    CASE WHEN substring(value FROM 1 FOR 4) = '\x0273726b' THEN encode(substring(value FROM 5 FOR 8), 'hex') END)
    STORED REFERENCES keys.encryption_keys (id);
ALTER TABLE keys.signing_keys ADD COLUMN key_id text GENERATED ALWAYS AS (
    CASE WHEN substring(private_key FROM 1 FOR 4) = '\x0273726b' THEN encode(substring(private_key FROM 5 FOR 8), 'hex') END)
    STORED REFERENCES keys.encryption_keys (id);

-- A rotation has one successor at a time.
CREATE UNIQUE INDEX signing_keys_one_next ON keys.signing_keys (state) WHERE state = 'next';

-- Tokens that are refused before they expire: one (jti), all of a signing key (kid), or those of a subject that were
-- issued before a moment. A row goes when everything that it refuses has expired by itself.
CREATE TABLE keys.token_revocations (
    kind          text NOT NULL CHECK (kind IN ('jti', 'kid', 'sub')),
    name          text NOT NULL,
    issued_before timestamptz,
    expires_at    timestamptz NOT NULL,
    reason        text NOT NULL DEFAULT '',
    PRIMARY KEY (kind, name),
    CHECK ((kind = 'sub') = (issued_before IS NOT NULL))
);
CREATE INDEX token_revocations_expiry ON keys.token_revocations (expires_at);
