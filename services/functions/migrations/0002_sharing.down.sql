DROP TABLE functions.idempotency;
ALTER TABLE functions.secrets DROP COLUMN updated_at;
DROP TABLE functions.accounts;
ALTER TABLE functions.versions DROP COLUMN public, DROP COLUMN authorized, DROP COLUMN version_parties, DROP COLUMN function_parties;
