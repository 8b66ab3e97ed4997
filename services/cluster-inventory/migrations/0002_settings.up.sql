-- What an operator says about a cluster; owned here, not projected, so it survives a replay. Absent means nothing said.
CREATE TABLE cluster_inventory.settings (
    cluster    text PRIMARY KEY,
    authorized text[] NOT NULL,
    attributes text[] NOT NULL
);

-- The GPUs that an account may use; gpu '*' and no clusters mean any.
CREATE TABLE cluster_inventory.quota_rules (
    id       uuid PRIMARY KEY,
    account  text NOT NULL,
    gpu      text NOT NULL,
    clusters text[] NOT NULL,
    quota    integer NOT NULL
);

CREATE INDEX quota_rules_account ON cluster_inventory.quota_rules (account);
