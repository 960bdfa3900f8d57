-- The ledger: what work there is, and what became of it. One fold of the log writes it.
-- A place is (sequence in the log << 20) + index in the message. Times are microseconds since 1970.

-- Rules that a list of words would check are checked where rows are read: as constraints they cost
-- more than the row.

CREATE TABLE tasks (
    place BIGINT PRIMARY KEY,
    tenant TEXT NOT NULL COLLATE "C",
    task_id TEXT NOT NULL COLLATE "C",
    state TEXT NOT NULL COLLATE "C",
    cause TEXT NOT NULL,
    awaits_verdict BOOLEAN NOT NULL,
    attempts BIGINT NOT NULL,
    tries BIGINT NOT NULL,
    losses BIGINT NOT NULL,
    stub BOOLEAN NOT NULL,
    cancel_requested BOOLEAN NOT NULL,
    task_type TEXT NOT NULL,
    subsystem TEXT NOT NULL,
    title TEXT NOT NULL,
    created_by TEXT NOT NULL,
    priority BIGINT NOT NULL CHECK (priority BETWEEN 1 AND 10),
    queue TEXT NOT NULL,
    executor TEXT NOT NULL,
    worker TEXT NOT NULL,
    parent_id TEXT NOT NULL,
    retry_of TEXT NOT NULL,
    -- A JSON array.
    tags TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    started_at BIGINT,
    finished_at BIGINT,
    -- The message that ended it: once the log is cut behind it, the id is new.
    ended_at BIGINT,
    deadline BIGINT,
    duration BIGINT,
    verification TEXT NOT NULL,
    -- The place of the event in the task's history that has its submission.
    spec_at BIGINT NOT NULL,
    -- jetmill.v1.Task with what was reported: result, error, usage, metadata, progress.
    report BYTEA NOT NULL,
    CHECK ((state = 'failed') = (cause <> '')),
    CHECK ((state = 'pending' OR state = 'running') = (finished_at IS NULL)),
    CHECK ((finished_at IS NULL) = (ended_at IS NULL))
);

-- The id comes first: it tells tasks apart sooner than the tenant.
CREATE INDEX tasks_key ON tasks (task_id, tenant);
-- What is not completed is what people ask for, and it is little: completed tasks leave the index.
CREATE INDEX tasks_state ON tasks (state, place) WHERE state <> 'completed';

-- How many tasks there are, so that nobody needs to count them.
CREATE TABLE task_counts (
    subsystem TEXT PRIMARY KEY,
    pending BIGINT NOT NULL,
    running BIGINT NOT NULL,
    completed BIGINT NOT NULL,
    failed BIGINT NOT NULL,
    cancelled BIGINT NOT NULL,
    skipped BIGINT NOT NULL
);

CREATE TABLE events (
    -- The place of the task; 0 for what is about none.
    task BIGINT NOT NULL,
    place BIGINT NOT NULL,
    kind TEXT NOT NULL,
    at BIGINT NOT NULL,
    -- Why it changed nothing; empty when it took effect.
    ignored TEXT NOT NULL,
    -- jetmill.v1.Event.
    event BYTEA NOT NULL,
    PRIMARY KEY (task, place)
);

-- The large inputs and results in the object store, and whose they are: what no task needs any more is
-- removed from there.
CREATE TABLE objects (
    name TEXT COLLATE "C" NOT NULL,
    -- The place of the task.
    task BIGINT NOT NULL,
    PRIMARY KEY (name, task)
);

-- How far the fold has come, in the same transaction as what it made: one row.
CREATE TABLE log_cursor (
    one BIGINT PRIMARY KEY CHECK (one = 1),
    stream TEXT NOT NULL,
    sequence BIGINT NOT NULL,
    clock BIGINT NOT NULL,
    -- What ended before this message is forgotten: its id is new.
    floor BIGINT NOT NULL,
    -- The cut at which this ledger began: until it is folded, what was carried up to it is taken in
    -- before what is told of it. 0 once that is done.
    cold_until BIGINT NOT NULL
);
