DROP TABLE deployments.idempotency;
ALTER TABLE deployments.instances DROP COLUMN rolling;
ALTER TABLE deployments.specifications DROP COLUMN gpus;
ALTER TABLE deployments.deployments DROP COLUMN health;
ALTER TABLE deployments.deployments DROP COLUMN grace;
