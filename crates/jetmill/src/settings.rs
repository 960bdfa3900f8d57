//! Every setting of the services, from defaults, file, environment and flags.

mod roles;

use std::{net::SocketAddr, path::PathBuf, str::FromStr};

use bus::streams::StreamOptions;
use common::{
    id::{QueueName, WorkerName},
    limits,
};
use runtime::{
    config::{ConfigErrors, Entry, LEDGER_URL, Layers, NATS_URL, Reader},
    telemetry::{DEFAULT_FILTER, Format, TelemetryConfig},
};

use worker_pool::attend::limits::Limits;

use crate::connect::DEFAULT_URL;

/// Short and customary names of variables, and the settings that they are.
const ALIASES: [(&str, &str); 6] = [
    ("JETMILL_NATS_URL", "JETMILL_NATS__URL"),
    ("JETMILL_NATS_CREDS", "JETMILL_NATS__CREDENTIALS"),
    ("JETMILL_NATS_SERVER", "JETMILL_NATS__SERVER"),
    ("JETMILL_LEDGER_URL", "JETMILL_REGISTRY__LEDGER_URL"),
    ("RUST_LOG", "JETMILL_LOG__FILTER"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "JETMILL_TELEMETRY__OTLP_ENDPOINT"),
];
/// Variables of ours that are no settings: they are for tests and scripts.
const OTHERS: [&str; 1] = ["JETMILL_BIN"];
/// The settings in force.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The name of this process among others.
    pub(crate) name: String,
    pub(crate) nats: Nats,
    pub(crate) telemetry: TelemetryConfig,
    /// Its ledger's URL is empty when nobody said it.
    pub(crate) registry: registry::Config,
    pub(crate) scheduler: scheduler::Config,
    pub(crate) worker_pool: worker_pool::Config,
    pub(crate) gateway: gateway::Config,
    pub(crate) grpc_addr: SocketAddr,
    pub(crate) http_addr: SocketAddr,
    /// All of them with their origins, for `config show`.
    pub(crate) entries: Vec<Entry>,
}

/// What there is to say about NATS.
#[derive(Clone, Debug)]
pub(crate) struct Nats {
    pub(crate) url: String,
    pub(crate) credentials: Option<PathBuf>,
    /// The program that `jetmill dev` starts.
    pub(crate) server: Option<PathBuf>,
    /// How often that program flushes to disk: a duration, or `always`.
    pub(crate) sync_interval: String,
    pub(crate) streams: StreamOptions,
}

/// The variables of the environment, with short names made long. With `own_only` nothing that
/// others use as well is taken: `jetmill dev` must not write into a database that happens to be named.
pub(crate) fn environment(own_only: bool) -> Vec<(String, String)> {
    let all = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    translate(all.collect(), own_only)
}

fn translate(mut variables: Vec<(String, String)>, own_only: bool) -> Vec<(String, String)> {
    variables.retain(|(name, value)| !OTHERS.contains(&name.as_str()) && !value.is_empty());
    for (short, long) in ALIASES {
        let taken = variables.iter().any(|(name, _)| name == long);
        if let Some(place) = variables.iter().position(|(name, _)| name == short) {
            let (_, value) = variables.swap_remove(place);
            if !taken {
                variables.push((long.to_owned(), value));
            }
        }
    }
    variables.retain(|(name, _)| !own_only || name.starts_with("JETMILL_"));
    variables
}

impl Settings {
    /// Reads every setting and tells everything that is wrong at once.
    pub(crate) fn read(layers: Layers) -> Result<Self, ConfigErrors> {
        let mut reader = layers.reader();
        let r = &mut reader;
        let settings = Self {
            name: name(r),
            nats: nats(r),
            telemetry: telemetry(r),
            registry: registry(r),
            scheduler: scheduler(r),
            worker_pool: worker_pool(r),
            gateway: gateway(r),
            grpc_addr: r.address(
                "grpc_addr",
                ([127, 0, 0, 1], 7443).into(),
                "where gRPC is served",
            ),
            http_addr: r.address(
                "http_addr",
                ([127, 0, 0, 1], 0).into(),
                "where metrics and probes are served; port 0 takes any free one",
            ),
            entries: Vec::new(),
        };
        let entries = reader.origins();
        reader.finish()?;
        Ok(Self { entries, ..settings })
    }
}

fn name(r: &mut Reader) -> String {
    let given = r.parsed("name", "", "the name of this process among others", |text| {
        let fits = text.is_empty() || WorkerName::parse(text).is_ok();
        fits.then(|| text.to_owned())
            .ok_or("must have only letters, digits, `_` and `-`, at most 64")
    });
    given.filter(|name| !name.is_empty()).unwrap_or_else(default_name)
}

/// Host and process: unique among the living.
fn default_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let token =
        host.trim().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(40);
    let host = token.collect::<String>();
    let host = host.trim_matches('-');
    format!("{}-{}", if host.is_empty() { "jetmill" } else { host }, std::process::id())
}

fn nats(r: &mut Reader) -> Nats {
    let log_bytes_max =
        r.size("nats.log_bytes_max", limits::LOG_BYTES_MAX.unsigned_abs(), "most bytes of the log");
    let objects_bytes_max = r.size(
        "nats.objects_bytes_max",
        limits::OBJECTS_BYTES_MAX.cast_unsigned(),
        "most bytes of large inputs and results",
    );
    Nats {
        url: r.string(NATS_URL, DEFAULT_URL, "addresses of NATS, separated by commas"),
        credentials: r.path("nats.credentials", None, "a .creds file for NATS"),
        server: r.path("nats.server", None, "the nats-server that `jetmill dev` starts"),
        sync_interval: r
            .parsed(
                "nats.sync_interval",
                "2m",
                "how often the nats-server of `jetmill dev` flushes",
                |text| {
                    let fits = text == "always" || common::time::parse_duration(text).is_some();
                    fits.then(|| text.to_owned())
                        .ok_or("must be `always` or a duration such as 10s")
                },
            )
            .unwrap_or_default(),
        streams: StreamOptions {
            replicas: r.u32("nats.replicas", 1, 1..=5, "copies of each stream") as usize,
            log_bytes_max: i64::try_from(log_bytes_max).unwrap_or(i64::MAX),
            objects_bytes_max: i64::try_from(objects_bytes_max).unwrap_or(i64::MAX),
        },
    }
}

fn telemetry(r: &mut Reader) -> TelemetryConfig {
    let endpoint = r.string("telemetry.otlp_endpoint", "", "where traces go, as http://host:4317");
    TelemetryConfig {
        filter: r.string("log.filter", DEFAULT_FILTER, "which log lines appear, as in RUST_LOG"),
        format: Format::parse(&r.word(
            "log.format",
            "compact",
            &Format::WORDS,
            "how log lines look",
        ))
        .unwrap_or_default(),
        otlp_endpoint: (!endpoint.is_empty()).then_some(endpoint),
    }
}

fn registry(r: &mut Reader) -> registry::Config {
    let ledger_url = r.string(LEDGER_URL, "", "the ledger: postgres://user@host/database");
    let objects_kept = r.duration(
        "registry.objects_kept",
        registry::Config::default().objects_kept,
        "how long large inputs and results are kept after their task has ended",
    );
    registry::Config { ledger_url, objects_kept: objects_kept.max(limits::OBJECTS_KEPT_MIN) }
}

fn scheduler(r: &mut Reader) -> scheduler::Config {
    let default = scheduler::Config::default();
    let every = u32::try_from(default.snapshot_every_messages).unwrap_or(u32::MAX);
    scheduler::Config {
        snapshot_every_messages: r
            .u32(
                "scheduler.snapshot_every_messages",
                every,
                1..=u32::MAX,
                "log messages between two snapshots",
            )
            .into(),
        window_max: r.u32(
            "scheduler.window_max",
            default.window_max,
            limits::WINDOW_MIN..=limits::WINDOW_MAX,
            "released tasks of one queue, at most",
        ),
        history_age: r.duration(
            "scheduler.history_age",
            default.history_age,
            "how long the log keeps what is over, while its size allows",
        ),
        finished_tasks_max: r.u32(
            "scheduler.finished_tasks_max",
            u32::try_from(default.finished_tasks_max).unwrap_or(u32::MAX),
            1_000..=100_000_000,
            "finished tasks that the scheduler remembers; above it the log is trimmed",
        ) as usize,
    }
}

fn worker_pool(r: &mut Reader) -> worker_pool::Config {
    let default = worker_pool::Config::default();
    let queues = default.queues.iter().map(|(name, slots)| format!("{name}={slots}"));
    let queues = queues.collect::<Vec<_>>().join(",");
    let env_allow = default.env_allow.iter().map(String::as_str).collect::<Vec<_>>();
    worker_pool::Config {
        name: None,
        queues: r
            .parsed(
                "queues",
                &queues,
                "queues that the worker serves, and slots of each",
                parse_queues,
            )
            .unwrap_or(default.queues),
        env_allow: r.list("worker_pool.env_allow", &env_allow, "variables that commands may see"),
        env: default.env,
        secrets_dir: r.path(
            "worker_pool.secrets_dir",
            None,
            "the folder of secrets named file:NAME",
        ),
        roles: roles::read(r),
        limits: worker_pool::Bounds {
            default: limits_of(
                r,
                "worker_pool.limits",
                "what a command may use that asks for nothing, as memory_mb=512,processes=64",
            ),
            most: limits_of(r, "worker_pool.limits_max", "what a command may use at most"),
        },
        http: worker_pool::Access {
            hosts: list(
                r,
                "worker_pool.http.hosts",
                "hosts that requests may ask; empty is every public one",
            ),
            allow_private: list(
                r,
                "worker_pool.http.allow_private",
                "hosts and address ranges that requests may ask although they are not public",
            ),
        },
        docker: docker(r),
        drain_timeout: r.duration(
            "drain_timeout",
            default.drain_timeout,
            "time that running work has to end",
        ),
        snapshot_every: r.duration(
            "worker_pool.snapshot_every",
            default.snapshot_every,
            "time until a running attempt says what it has used so far, and then at least between two times",
        ),
        executable: default.executable,
    }
}

fn docker(r: &mut Reader) -> worker_pool::Engine {
    let socket = r.path(
        "worker_pool.docker.socket",
        Some(worker_pool::SOCKET),
        "the socket of the Docker engine that runs containers",
    );
    let network = r.word(
        "worker_pool.docker.network",
        "none",
        &worker_pool::Network::WORDS,
        "the most that containers may have of a network",
    );
    worker_pool::Engine {
        socket: socket.unwrap_or_else(|| worker_pool::SOCKET.into()),
        folders: list(
            r,
            "worker_pool.docker.mounts",
            "folders that containers may mount, to write only as /path:rw",
        ),
        network: network.parse().unwrap_or_default(),
    }
}

fn limits_of(r: &mut Reader, key: &'static str, description: &'static str) -> Limits {
    r.parsed(key, "", description, Limits::parse).unwrap_or_default()
}

/// Reads values that are separated by commas.
fn list<T: FromStr<Err = String>>(
    r: &mut Reader,
    key: &'static str,
    description: &'static str,
) -> Vec<T> {
    let items = r.parsed(key, "", description, |text| {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        items.map(str::parse).collect::<Result<Vec<T>, _>>()
    });
    items.unwrap_or_default()
}

/// Reads `default=8,gpu=1`.
pub(crate) fn parse_queues(text: &str) -> Result<Vec<(QueueName, u32)>, String> {
    let expected = || "must be queues with slots, such as default=8,gpu=1".to_owned();
    let mut queues = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, slots) = part.split_once(['=', ':']).ok_or_else(expected)?;
        let name = QueueName::parse(name.trim()).map_err(|_| expected())?;
        let slots = slots.trim().parse::<u32>().map_err(|_| expected())?;
        if !(1..=limits::SLOTS_MAX).contains(&slots) {
            return Err(format!("must have 1 to {} slots", limits::SLOTS_MAX));
        }
        if queues.iter().any(|(other, _)| *other == name) {
            return Err(format!("must name queue {name} once"));
        }
        queues.push((name, slots));
    }
    if queues.is_empty() { Err(expected()) } else { Ok(queues) }
}

fn gateway(r: &mut Reader) -> gateway::Config {
    let default = gateway::Config::default();
    let views = u32::try_from(default.live_views_max).unwrap_or(u32::MAX);
    let views =
        r.u32("gateway.live_views_max", views, 1..=65_536, "live views that may be open at once");
    gateway::Config { live_views_max: views as usize }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn queues_are_read_as_they_are_written() {
        let text = |queues: Vec<(QueueName, u32)>| {
            queues
                .iter()
                .map(|(name, slots)| format!("{name}={slots}"))
                .collect::<Vec<_>>()
                .join(",")
        };
        assert_eq!(parse_queues("default=8, gpu=1").map(text).as_deref(), Ok("default=8,gpu=1"));
        for bad in ["", "a", "a=0", "a=x", "a.b=1", "a=1,a=2", "a=99999"] {
            assert!(parse_queues(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn short_names_are_the_long_ones_and_the_long_ones_win() {
        let made = translate(
            pairs(&[("JETMILL_NATS_URL", "a"), ("DATABASE_URL", "b"), ("JETMILL_BIN", "c")]),
            true,
        );
        assert_eq!(made, pairs(&[("JETMILL_NATS__URL", "a")]));
        let made =
            translate(pairs(&[("JETMILL_NATS_URL", "a"), ("JETMILL_NATS__URL", "b")]), false);
        assert_eq!(made, pairs(&[("JETMILL_NATS__URL", "b")]));
    }

    #[test]
    fn every_default_is_valid() {
        let settings = Settings::read(Layers::new()).expect("valid");
        assert_eq!(settings.nats.url, DEFAULT_URL);
        assert!(settings.entries.len() > 10);
    }
}
