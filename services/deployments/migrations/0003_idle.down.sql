ALTER TABLE deployments.specifications DROP COLUMN asked_at;
ALTER TABLE deployments.instances DROP COLUMN stop_if_idle;
ALTER TABLE deployments.instances DROP COLUMN idle_since;
