DO $$
DECLARE t text;
BEGIN
    FOR t IN SELECT table_name FROM information_schema.columns WHERE table_schema = 'functions' AND column_name = 'sealed' LOOP
        EXECUTE format('ALTER TABLE functions.%I DROP COLUMN key_id', t);
    END LOOP;
END $$;
DROP TABLE functions.encryption_keys;
CREATE TABLE functions.sealing_key (
    the_one     boolean PRIMARY KEY DEFAULT true CHECK (the_one),
    fingerprint bytea NOT NULL,
    key         bytea
);
