-- idle_since is when the instance's last request was over, as far as its node has told; stop_if_idle marks an order to end
-- that counts only while that is still so.
ALTER TABLE deployments.instances ADD COLUMN idle_since timestamptz;
ALTER TABLE deployments.instances ADD COLUMN stop_if_idle boolean NOT NULL DEFAULT false;

-- asked_at is when work last asked for more instances than the minimum.
ALTER TABLE deployments.specifications ADD COLUMN asked_at timestamptz NOT NULL DEFAULT 'epoch';
