DROP TABLE keys.token_revocations;
DROP INDEX keys.signing_keys_one_next;
ALTER TABLE keys.signing_keys DROP COLUMN key_id;
ALTER TABLE keys.secrets DROP COLUMN key_id;
INSERT INTO keys.secrets (name, fingerprint, value)
    SELECT 'key-encryption-key', id, value FROM keys.encryption_keys WHERE current;
DROP TABLE keys.encryption_keys;
