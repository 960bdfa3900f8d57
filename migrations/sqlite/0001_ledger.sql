-- The ledger: what work there is, and what became of it. One fold of the log writes it.
-- A place is (sequence in the log << 20) + index in the message. Times are microseconds since 1970.

-- Rules that a list of words would check are checked where rows are read: as constraints they cost
-- more than the row.

CREATE TABLE tasks (
    place INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    task_id TEXT NOT NULL,
    state TEXT NOT NULL,
    cause TEXT NOT NULL,
    awaits_verdict BOOLEAN NOT NULL,
    attempts INTEGER NOT NULL,
    tries INTEGER NOT NULL,
    losses INTEGER NOT NULL,
    stub BOOLEAN NOT NULL,
    cancel_requested BOOLEAN NOT NULL,
    task_type TEXT NOT NULL,
    subsystem TEXT NOT NULL,
    title TEXT NOT NULL,
    created_by TEXT NOT NULL,
    priority INTEGER NOT NULL CHECK (priority BETWEEN 1 AND 10),
    queue TEXT NOT NULL,
    executor TEXT NOT NULL,
    worker TEXT NOT NULL,
    parent_id TEXT NOT NULL,
    retry_of TEXT NOT NULL,
    -- A JSON array.
    tags TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    finished_at INTEGER,
    -- The message that ended it: once the log is cut behind it, the id is new.
    ended_at INTEGER,
    deadline INTEGER,
    duration INTEGER,
    verification TEXT NOT NULL,
    -- The place of the event in the task's history that has its submission.
    spec_at INTEGER NOT NULL,
    -- jetmill.v1.Task with what was reported: result, error, usage, metadata, progress.
    report BLOB NOT NULL,
    CHECK ((state = 'failed') = (cause <> '')),
    CHECK ((state = 'pending' OR state = 'running') = (finished_at IS NULL)),
    CHECK ((finished_at IS NULL) = (ended_at IS NULL))
);

-- The id comes first: it tells tasks apart sooner than the tenant.
CREATE INDEX tasks_key ON tasks (task_id, tenant);
-- What is not completed is what people ask for, and it is little: completed tasks leave the index.
CREATE INDEX tasks_state ON tasks (state) WHERE state <> 'completed';

-- How many tasks there are, so that nobody needs to count them.
CREATE TABLE task_counts (
    subsystem TEXT PRIMARY KEY,
    pending INTEGER NOT NULL,
    running INTEGER NOT NULL,
    completed INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    cancelled INTEGER NOT NULL,
    skipped INTEGER NOT NULL
);

CREATE TABLE events (
    -- The place of the task; 0 for what is about none.
    task INTEGER NOT NULL,
    place INTEGER NOT NULL,
    kind TEXT NOT NULL,
    at INTEGER NOT NULL,
    -- Why it changed nothing; empty when it took effect.
    ignored TEXT NOT NULL,
    -- jetmill.v1.Event.
    event BLOB NOT NULL,
    PRIMARY KEY (task, place)
) WITHOUT ROWID;

-- The large inputs and results in the object store, and whose they are: what no task needs any more is
-- removed from there.
CREATE TABLE objects (
    name TEXT NOT NULL,
    -- The place of the task.
    task INTEGER NOT NULL,
    PRIMARY KEY (name, task)
) WITHOUT ROWID;

-- How far the fold has come, in the same transaction as what it made: one row.
CREATE TABLE log_cursor (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    stream TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    clock INTEGER NOT NULL,
    -- What ended before this message is forgotten: its id is new.
    floor INTEGER NOT NULL,
    -- The cut at which this ledger began: until it is folded, what was carried up to it is taken in
    -- before what is told of it. 0 once that is done.
    cold_until INTEGER NOT NULL
);
