//! Every bound of the system, with its unit last. `docs/reference/limits.md` is generated from here.

use std::time::Duration;

/// Longest task id, in bytes.
pub const TASK_ID_BYTES_MAX: usize = 128;
/// Longest tenant, queue, handler, worker name and error code, in bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// Longest title, in bytes.
pub const TITLE_BYTES_MAX: usize = 512;
/// Longest free text of a submission (description, reasons), in bytes.
pub const TEXT_BYTES_MAX: usize = 8 * 1024;
/// Largest input in an event, in bytes of JSON; a larger one lies in the object store.
pub const INPUT_BYTES_MAX: usize = 256 * 1024;
/// Largest input and largest result of a task, in bytes of JSON.
pub const OBJECT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Largest metadata of a task, in bytes of JSON.
pub const METADATA_BYTES_MAX: usize = 64 * 1024;
/// Arrays and objects of an input or metadata in one another, at most.
pub const JSON_DEPTH_MAX: usize = 64;
/// Largest submission as a whole, encoded, in bytes.
pub const SPEC_BYTES_MAX: usize = 512 * 1024;
/// Most tags of a task.
pub const TAGS_MAX: usize = 64;
/// Most dependencies of a task.
pub const DEPENDENCIES_MAX: usize = 1_000;
/// Most tries of a task.
pub const ATTEMPTS_MAX: i32 = 1_000;
/// Longest delay, back-off and timeout.
pub const DURATION_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// Times an attempt may be lost with its worker before the task fails.
pub const LOSSES_MAX: u16 = 3;

/// Longest expression that gives a limit's key, in bytes.
pub const KEY_SOURCE_BYTES_MAX: usize = 512;
/// Longest key of a limit, in bytes; a longer one counts as the empty key.
pub const KEY_BYTES_MAX: usize = 128;
/// Most tasks or starts that a limit can name.
pub const LIMIT_COUNT_MAX: u32 = 1_000_000;
/// Shortest time of a limit.
pub const LIMIT_TIME_MIN: Duration = Duration::from_millis(1);
/// Most keys of a limit that have a weight of their own.
pub const LIMIT_WEIGHTS_MAX: usize = 1_000;
/// Limits of one queue that hold at once: the first by name.
pub const LIMITS_OF_QUEUE_MAX: usize = 8;
/// Keys of all rates that are told apart when the log is cut.
pub const CUT_RATES_MAX: usize = 1_000;

/// Time between two looks of the leader at what doors are to know, and of a door at what it was told.
pub const INTAKE_HINT_EVERY: Duration = Duration::from_millis(250);
/// What doors were told is forgotten after this.
pub const INTAKE_HINT_AGE: Duration = Duration::from_secs(6);
/// How long a submission waits to hear what doors are told, at most.
pub const INTAKE_HINT_WAIT: Duration = Duration::from_millis(500);
/// How long a submission waits to hear whether it fits its type, at most.
pub const INTAKE_CHECK_WAIT: Duration = Duration::from_secs(2);
/// A door that could not hear that does not ask again for this long.
pub const INTAKE_HINT_BLIND: Duration = Duration::from_secs(30);
/// Longest time after which a submission to a full queue is told to come back.
pub const ROOM_RETRY_MAX: Duration = Duration::from_secs(60);

/// Task types whose tasks are counted in one question, at most.
pub const COUNTED_TYPES_MAX: usize = 1_000;

/// Longest cron expression, in bytes.
pub const CRON_BYTES_MAX: usize = 256;
/// Shortest interval of a schedule.
pub const SCHEDULE_EVERY_MIN: Duration = Duration::from_secs(1);
/// Open runs of one schedule, at most and by default.
pub const SCHEDULE_RUNS_MAX: usize = 100;
/// A tick of a schedule that is at most so late is not late.
pub const SCHEDULE_GRACE: Duration = Duration::from_secs(60);
/// How late a tick may be that is caught up, by default.
pub const CATCH_UP_WINDOW: Duration = Duration::from_secs(24 * 3600);
/// Ticks of one schedule that are caught up, at most.
pub const CATCH_UP_TICKS_MAX: usize = 1_000;
/// Ticks of one schedule that are caught up, by default.
pub const CATCH_UP_TICKS: usize = 100;
/// Longest jitter of a schedule.
pub const SCHEDULE_JITTER_MAX: Duration = Duration::from_secs(24 * 3600);

/// Most events in one message of the log.
pub const BUNDLE_EVENTS_MAX: usize = 256;
/// Largest message of the log, in bytes; nats-server's own limit is 1 MiB.
pub const BUNDLE_BYTES_MAX: usize = 256 * 1024;
/// Messages that one publisher keeps unacknowledged.
pub const PUBLISH_IN_FLIGHT_MAX: usize = 8;
/// Events that wait in a publisher before it makes its callers wait.
pub const PUBLISH_QUEUE_EVENTS_MAX: usize = 4_096;
/// How long a publisher tries again before it reports the log as unavailable.
pub const PUBLISH_RETRY: Duration = Duration::from_secs(30);

/// Most bytes of the log, by default.
pub const LOG_BYTES_MAX: i64 = 4 * 1024 * 1024 * 1024;
/// Share of the log's byte limit at which intake closes, in percent: the rest is for work in progress.
pub const INTAKE_CLOSES_PERCENT: u64 = 80;
/// Share of the log's byte limit below which intake opens again, in percent.
pub const INTAKE_OPENS_PERCENT: u64 = 70;
/// Share of the log's byte limit that trimming keeps, in percent.
pub const LOG_KEPT_PERCENT: u64 = 50;
/// Messages that a trim takes away, at least.
pub const TRIM_MESSAGES_MIN: u64 = 1_000;
/// Time between two looks at whether the log can be trimmed and whether intake is to be open.
pub const TRIM_EVERY: Duration = Duration::from_secs(5);
/// Tasks that are carried before the log is looked at again.
pub const CARRY_TASKS_MAX: usize = 256;
/// Open tasks of one scheduler at which intake closes.
pub const BACKLOG_TASKS_MAX: usize = 5_000_000;
/// Finished tasks that the scheduler remembers, by default; above it the log is trimmed.
pub const FINISHED_TASKS_MAX: usize = 1_000_000;
/// How long the log keeps what is over, by default, while its size allows.
pub const HISTORY_AGE: Duration = Duration::from_secs(24 * 3600);
/// Most bytes of the object store, by default.
pub const OBJECTS_BYTES_MAX: i64 = 2 * 1024 * 1024 * 1024;
/// How long large inputs and results are kept after their task has ended, by default.
pub const OBJECTS_KEPT: Duration = Duration::from_secs(24 * 3600);
/// Shortest time for which they are kept: from being put into the store to being named in the log.
pub const OBJECTS_KEPT_MIN: Duration = Duration::from_secs(1);
/// Longest time between two looks for objects that nobody needs any more.
pub const SWEEP_EVERY_MAX: Duration = Duration::from_secs(600);
/// Objects that one question to the ledger is about.
pub const SWEEP_OBJECTS_MAX: usize = 1_000;
/// How long the next piece of an object may take.
pub const OBJECT_PIECE_WAIT: Duration = Duration::from_secs(10);
/// Largest piece of an object in one gRPC message, in bytes.
pub const OBJECT_CHUNK_BYTES_MAX: usize = 256 * 1024;
/// Objects that one gateway takes or gives out at once; others wait.
pub const OBJECT_TRANSFERS_MAX: usize = 8;
/// Time between two registrations of a reader's cursor.
pub const CURSOR_EVERY: Duration = Duration::from_secs(5);

/// Largest result in an event, in bytes of JSON; a larger one lies in the object store.
pub const RESULT_BYTES_MAX: usize = 256 * 1024;
/// Output of one attempt that is kept in `LOGS`, in bytes for each of stdout and stderr.
pub const OUTPUT_BYTES_MAX: usize = 1_000_000;
/// What a process may leave as its result, in bytes: of a command's stdout the end, and what a script
/// in Lua returns.
pub const PROCESS_RESULT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Stderr that the result of a command carries, in bytes: the end of it.
pub const RESULT_STDERR_BYTES_MAX: usize = 64 * 1024;
/// Processes of one command with everything that it starts, at once, where nobody says another number.
pub const COMMAND_PROCESSES: u32 = 1_024;
/// Longest URL of an HTTP request, in bytes.
pub const HTTP_URL_BYTES_MAX: usize = 8 * 1024;
/// Headers that a task gives to its HTTP request.
pub const HTTP_HEADERS_MAX: usize = 64;
/// Body of an HTTP answer that is read, in bytes; of more, the beginning counts.
pub const HTTP_BODY_BYTES_MAX: usize = 10_000_000;
/// Headers of an HTTP answer that its result carries, in bytes.
pub const HTTP_RESULT_HEADERS_BYTES_MAX: usize = 16 * 1024;
/// Redirects that one HTTP request follows.
pub const HTTP_REDIRECTS_MAX: usize = 3;
/// How long an HTTP request waits for a connection.
pub const HTTP_CONNECT_WAIT: Duration = Duration::from_secs(10);
/// Longest wait that the other side of an attempt may ask for, as with Retry-After.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
/// Memory of a Lua script that asks for none, in MiB.
pub const LUA_MEMORY_MB: u32 = 64;
/// Memory of a Lua script, in MiB.
pub const LUA_MEMORY_MB_MAX: u32 = 1_024;
/// Longest time of one attempt of a Lua script.
pub const LUA_RUN_MAX: Duration = Duration::from_secs(30);
/// Longest time of one attempt of a container.
pub const CONTAINER_RUN_MAX: Duration = Duration::from_secs(600);
/// Processors that a container can ask for.
pub const CONTAINER_CPUS_MAX: u32 = 1_024;
/// Processors that a container can ask for, at least, in hundredths.
pub const CONTAINER_CPU_HUNDREDTHS_MIN: u32 = 1;
/// Memory that a container can ask for, in MiB.
pub const CONTAINER_MEMORY_MB_MAX: u32 = 1024 * 1024;
/// Memory that a container can ask for, at least, in MiB: less the engine does not take.
pub const CONTAINER_MEMORY_MB_MIN: u32 = 6;
/// Processes of a container that asks for no number of them.
pub const CONTAINER_PROCESSES: u32 = 256;
/// Mounts of one container.
pub const CONTAINER_MOUNTS_MAX: usize = 32;
/// How long one answer of the Docker engine is waited for.
pub const ENGINE_WAIT: Duration = Duration::from_secs(30);
/// How long an engine may be away before its running containers are given up.
pub const ENGINE_AWAY_MAX: Duration = Duration::from_secs(15);
/// Time between two looks for containers that nobody runs any more.
pub const ORPHANS_EVERY: Duration = Duration::from_secs(10);
/// Largest piece of output in one message, in bytes.
pub const LOG_CHUNK_BYTES_MAX: usize = 32 * 1024;
/// Subjects over which `LOGS` spreads.
pub const LOG_BUCKETS: u32 = 64;
/// How long output is kept.
pub const LOGS_AGE_MAX: Duration = Duration::from_secs(24 * 3600);
/// How long dead letters are kept.
pub const DEAD_AGE_MAX: Duration = Duration::from_secs(90 * 24 * 3600);

/// Time between two heartbeats of a worker.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(2);
/// A worker that was not heard for this long is lost.
pub const WORKER_LOST_AFTER: Duration = Duration::from_secs(10);
/// Time after which nats-server delivers an unacknowledged execution again.
pub const EXECUTION_ACK_WAIT: Duration = Duration::from_secs(30);
/// Time between two progress acks of an execution that runs.
pub const EXECUTION_PROGRESS_EVERY: Duration = Duration::from_secs(10);
/// Work messages of one queue that may be unacknowledged.
pub const EXECUTIONS_UNACKED_MAX: i64 = 20_000;
/// Most slots of one worker.
pub const SLOTS_MAX: u32 = 4_096;
/// Released-but-unfinished tasks of one queue, at least while a worker serves it.
pub const WINDOW_MIN: u32 = 16;
/// Released-but-unfinished tasks of one queue, at most.
pub const WINDOW_MAX: u32 = 4_096;
/// Time that an attempt has to end after it was told to, before it is killed.
pub const CANCEL_GRACE: Duration = Duration::from_secs(5);

/// Time until a running attempt says for the first time what it has used so far, by default.
pub const SNAPSHOT_EVERY: Duration = Duration::from_secs(10);
/// Shortest such time.
pub const SNAPSHOT_EVERY_MIN: Duration = Duration::from_millis(100);
/// Longest time between two such reports: they come more rarely the longer an attempt runs.
pub const SNAPSHOT_EVERY_MAX: Duration = Duration::from_secs(300);
/// Time between two progress events of an attempt, at first.
pub const PROGRESS_EVERY: Duration = Duration::from_millis(500);
/// Longest time between two progress events: they come more rarely the longer an attempt runs.
pub const PROGRESS_EVERY_MAX: Duration = Duration::from_secs(30);
/// Longest message of a progress, in bytes; of more, the beginning counts.
pub const PROGRESS_MESSAGE_BYTES_MAX: usize = 512;
/// Counters of a task's progress; further names are left out.
pub const PROGRESS_COUNTERS_MAX: usize = 32;
/// Longest line by which a command says how far it is, in bytes; a longer one is output.
pub const PROGRESS_LINE_BYTES_MAX: usize = 8 * 1024;

/// Lifetime of the scheduler's lease.
pub const LEASE: Duration = Duration::from_secs(4);
/// Time between two renewals of the lease.
pub const LEASE_RENEW_EVERY: Duration = Duration::from_secs(1);
/// Payloads that the scheduler keeps in memory at the heads of its queues, in bytes.
pub const PAYLOAD_CACHE_BYTES_MAX: usize = 10 * 1024 * 1024;

/// Limits, schedules and task types, together.
pub const DOCUMENTS_MAX: usize = 10_000;
/// One limit, schedule or task type, in bytes.
pub const DOCUMENT_BYTES_MAX: usize = 64 * 1024;

/// Events that the registry writes in one transaction.
pub const LEDGER_BATCH_EVENTS_MAX: usize = 4_000;
/// What the registry remembers of open tasks, in bytes; it asks the ledger for others.
pub const LEDGER_KNOWN_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long the registry waits for one answer of the ledger.
pub const LEDGER_WAIT: Duration = Duration::from_secs(10);
/// Longest pause before the registry tries again what the ledger or NATS did not do.
pub const LEDGER_BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Bytes of the log that a reader takes, and the registry writes, at once.
pub const READ_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Largest page of a list.
pub const PAGE_SIZE_MAX: i32 = 1_000;
/// Page of a list when the caller names none.
pub const PAGE_SIZE: i32 = 100;
/// Longest filter, in bytes.
pub const FILTER_BYTES_MAX: usize = 4_096;
/// Parentheses and NOTs of a filter inside one another, at most.
pub const FILTER_DEPTH_MAX: usize = 32;
/// Entries of one task's history in an answer: the newest ones.
pub const HISTORY_ENTRIES_MAX: usize = 1_000;
/// Largest list in one answer of the admin API, encoded, in bytes; a page ends early there.
pub const ANSWER_BYTES_MAX: usize = 512 * 1024;
/// What a dead letter keeps of a message that could not be read, in bytes.
pub const DEAD_ORIGINAL_BYTES_MAX: usize = 512 * 1024;
/// Items of one message that get a dead letter each; one more stands for all others.
pub const DEAD_ITEMS_MAX: usize = 256;
/// Tasks in one submit request of the admin API.
pub const SUBMIT_TASKS_MAX: usize = 1_000;
/// How long a query waits for the ledger to catch up.
pub const CATCH_UP_WAIT: Duration = Duration::from_secs(10);
/// How long a caller of the admin API waits for an answer.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// How often a reader of the log checks that it is still the same log.
pub const IDENTITY_CHECK_EVERY: Duration = Duration::from_secs(5);

/// Largest gRPC message in either direction, in bytes.
pub const GATEWAY_MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Largest request that is handed on over NATS, in bytes: nats-server's 1 MiB less the headers.
pub const REQUEST_BYTES_MAX: usize = 1024 * 1024 - 16 * 1024;
/// Streams of one gRPC connection that may be open.
pub const CONNECTION_STREAMS_MAX: u32 = 256;
/// Live views of one gateway that may be open, by default.
pub const LIVE_VIEWS_MAX: usize = 256;
/// Connections to the probes and metrics of one process.
pub const PROBE_CONNECTIONS_MAX: usize = 64;
/// Longest life of such a connection.
pub const PROBE_CONNECTION_LIFETIME: Duration = Duration::from_secs(10);
/// Largest head of a request for probes and metrics, in bytes.
pub const PROBE_HEAD_BYTES_MAX: usize = 16 * 1024;
/// Largest configuration file, in bytes.
pub const CONFIG_FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Time that the tasks of a service have to end, unless the service asks for more.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);

/// Largest file of task types, in bytes.
pub const CATALOG_FILE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Lists and maps of a file of task types in one another, at most.
pub const CATALOG_DEPTH_MAX: usize = 32;
/// Largest input schema of a task type, in bytes of JSON.
pub const SCHEMA_BYTES_MAX: usize = 32 * 1024;
/// Parts of an input schema, each reference counted as what it leads to.
pub const SCHEMA_PARTS_MAX: usize = 1_000;
/// Problems of one input that are named.
pub const INPUT_PROBLEMS_MAX: usize = 64;
/// Longest template of a task type, in bytes.
pub const TEMPLATE_BYTES_MAX: usize = 8 * 1024;
/// Templates of one task type.
pub const TEMPLATES_MAX: usize = 64;
/// Steps that a template may take.
pub const TEMPLATE_FUEL: u64 = 20_000;
/// What the templates of one task may make and look at, in bytes.
pub const TEMPLATE_WORK_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Shortest period of a uniqueness.
pub const UNIQUE_PERIOD_MIN: Duration = Duration::from_secs(1);
