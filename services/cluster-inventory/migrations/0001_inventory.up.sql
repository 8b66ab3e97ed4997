-- clusters and nodes are projections of the nodes domain: emptied together with the inbox, they fill again by replay.
CREATE TABLE cluster_inventory.clusters (
    id            uuid PRIMARY KEY,
    name          text NOT NULL UNIQUE,
    account       text NOT NULL,
    group_id      uuid NOT NULL,
    region        text NOT NULL,
    status        text NOT NULL,
    registered_at timestamptz NOT NULL
);

CREATE TABLE cluster_inventory.nodes (
    cluster       text NOT NULL,
    node          text NOT NULL,
    account       text NOT NULL,
    epoch         bigint NOT NULL,
    seq           bigint NOT NULL,
    state         text NOT NULL,
    want_snapshot boolean NOT NULL,
    seen_at       timestamptz NOT NULL,
    facts         json NOT NULL,
    devices       json NOT NULL,
    types         json NOT NULL,
    PRIMARY KEY (cluster, node)
);

-- images is owned here, not projected: the process catalogue. name is the normal form of reference.
CREATE TABLE cluster_inventory.images (
    name       text PRIMARY KEY,
    reference  text NOT NULL,
    command    text[] NOT NULL,
    directory  text NOT NULL,
    created_at timestamptz NOT NULL
);
