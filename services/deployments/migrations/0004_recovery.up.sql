-- starting_at is since when the deployment tries to start: its creation, or its last recovery from ERROR.
ALTER TABLE deployments.deployments ADD COLUMN starting_at timestamptz;
UPDATE deployments.deployments SET starting_at = created_at;
ALTER TABLE deployments.deployments ALTER COLUMN starting_at SET NOT NULL;
