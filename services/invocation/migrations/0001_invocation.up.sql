-- The versions that must have a queue. The queues themselves live in the memory of NATS and are made again from here.
CREATE TABLE invocation.queues (
    version_id  text PRIMARY KEY,
    function_id text NOT NULL,
    account     text NOT NULL,
    provided_at timestamptz NOT NULL
);

-- Requests whose clients were told 202. A finished one stays until it expires, so that finishing twice is harmless.
CREATE TABLE invocation.requests (
    request_id  text PRIMARY KEY,
    account     text NOT NULL,
    subject     text NOT NULL,
    function_id text NOT NULL,
    version_id  text NOT NULL,
    worker      text NOT NULL,
    detached_at timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    finished    boolean NOT NULL DEFAULT false
);

CREATE INDEX requests_expires ON invocation.requests (expires_at);
