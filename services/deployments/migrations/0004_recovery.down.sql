ALTER TABLE deployments.deployments DROP COLUMN starting_at;
