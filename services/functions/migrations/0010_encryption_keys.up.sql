-- Which keys wrap the data keys of the sealed values, and a key itself when it was given no other place to live; see
-- libs/seal. The key of the older table keeps its older name until a replica that has it names it anew.
CREATE TABLE functions.encryption_keys (
    id      text PRIMARY KEY,
    current boolean NOT NULL,
    value   bytea,
    since   timestamptz NOT NULL
);
CREATE UNIQUE INDEX encryption_keys_one_current ON functions.encryption_keys (current) WHERE current;

INSERT INTO functions.encryption_keys (id, current, value, since)
    SELECT encode(fingerprint, 'hex'), true, key, clock_timestamp() FROM functions.sealing_key;
DROP TABLE functions.sealing_key;

-- A sealed value names its key, and a key that is named cannot be forgotten. Every table with a column "sealed" has this;
-- one of a later migration adds the column itself.
DO $$
DECLARE t text;
BEGIN
    FOR t IN SELECT table_name FROM information_schema.columns WHERE table_schema = 'functions' AND column_name = 'sealed' LOOP
        EXECUTE format($f$ALTER TABLE functions.%I ADD COLUMN IF NOT EXISTS key_id text GENERATED ALWAYS AS (
            CASE WHEN substring(sealed FROM 1 FOR 4) = '\x0273726b' THEN encode(substring(sealed FROM 5 FOR 8), 'hex') END)
            STORED REFERENCES functions.encryption_keys (id)$f$, t);
        EXECUTE format('CREATE INDEX ON functions.%I (key_id)', t);
    END LOOP;
END $$;
