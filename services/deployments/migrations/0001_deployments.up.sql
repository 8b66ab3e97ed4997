-- A row lives from the deployment of a version until its last instance is gone. teardown is empty, graceful or forced.
-- reported_* is what the functions service has acknowledged of status and reason.
CREATE TABLE deployments.deployments (
    id              uuid PRIMARY KEY,
    account         text NOT NULL,
    function_id     uuid NOT NULL,
    version_id      uuid NOT NULL UNIQUE,
    function_name   text NOT NULL,
    status          text NOT NULL,
    reason          json NOT NULL,
    reported_status text NOT NULL,
    reported_code   text NOT NULL,
    teardown        text NOT NULL,
    queue_ready     boolean NOT NULL,
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL
);

CREATE INDEX deployments_account ON deployments.deployments (account, created_at);

-- body is the specification as it is answered; json, not jsonb, keeps what was sent letter by letter.
CREATE TABLE deployments.specifications (
    id            uuid PRIMARY KEY,
    deployment_id uuid NOT NULL REFERENCES deployments.deployments ON DELETE CASCADE,
    position      integer NOT NULL,
    body          json NOT NULL,
    wanted        integer NOT NULL,
    -- proven is the minimum that has been met before; until raised_until only falling below it counts as a loss.
    proven        integer NOT NULL,
    raised_until  timestamptz NOT NULL,
    -- ran is true once an instance of the specification has been ready.
    ran           boolean NOT NULL,
    -- unplaced is a sentence while an instance cannot be placed, unplaced_code its stable part.
    unplaced      text NOT NULL,
    unplaced_code text NOT NULL
);

CREATE INDEX specifications_deployment ON deployments.specifications (deployment_id, position);

CREATE TABLE deployments.instances (
    id               uuid PRIMARY KEY,
    deployment_id    uuid NOT NULL REFERENCES deployments.deployments ON DELETE CASCADE,
    specification_id uuid NOT NULL REFERENCES deployments.specifications ON DELETE CASCADE,
    cluster          text NOT NULL,
    node             text NOT NULL,
    region           text NOT NULL,
    gpu              text NOT NULL,
    instance_type    text NOT NULL,
    devices          text[] NOT NULL,
    state            text NOT NULL,
    phase            text NOT NULL,
    cause            text NOT NULL,
    message          text NOT NULL,
    logs             text[] NOT NULL,
    sequence         bigint NOT NULL,
    created_at       timestamptz NOT NULL,
    updated_at       timestamptz NOT NULL,
    -- state_at is when the instance came into its state.
    state_at         timestamptz NOT NULL,
    deadline         timestamptz NOT NULL,
    ready_at         timestamptz,
    ended_at         timestamptz,
    -- stop_cause is empty until the instance was ordered to end.
    stop_cause       text NOT NULL,
    stop_drain       integer NOT NULL,
    stop_at          timestamptz
);

CREATE INDEX instances_deployment ON deployments.instances (deployment_id, created_at);

-- One row per device of a live instance: no device can be given away twice, whoever places and however often.
CREATE TABLE deployments.devices (
    cluster     text NOT NULL,
    node        text NOT NULL,
    device      text NOT NULL,
    instance_id uuid NOT NULL REFERENCES deployments.instances ON DELETE CASCADE,
    CONSTRAINT devices_held_once PRIMARY KEY (cluster, node, device)
);

CREATE INDEX devices_instance ON deployments.devices (instance_id);
