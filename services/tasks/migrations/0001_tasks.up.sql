CREATE TABLE tasks.tasks (
    id         uuid PRIMARY KEY,
    account    text NOT NULL,
    name       text NOT NULL,
    status     text NOT NULL,
    created_at timestamptz NOT NULL
);

CREATE INDEX tasks_account ON tasks.tasks (account, created_at);
