//! The nats-server of `jetmill dev`: a child on the loopback that never outlives it.
//!
//! Its end is bound to ours three times: stopped in order at the end, by the kernel when we are
//! killed (`setpriv --pdeathsig`, where there is one), and by the next start on the same folder.
//! The kernel counts the thread that started it as the parent, so it is started from the thread
//! that runs `main` and from no other.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::{
    process::Child,
    time::{Instant, sleep, timeout},
};

use super::bound::bound_to_us;
use crate::{exit::bad_input, settings::Nats};

const START_WITHIN: Duration = Duration::from_secs(30);
const STOP_WITHIN: Duration = Duration::from_millis(400);
const STALE_STOP_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Crashes in a row after which it is given up, and the time that makes them a row.
const CRASHES_MAX: u32 = 5;
const ROW: Duration = Duration::from_secs(60);
/// Bytes for streams besides the log and the object store: what ours reserve, and room for others.
const OTHER_STREAMS_BYTES: u64 = 4 << 30;

/// The child.
pub(crate) struct NatsServer {
    program: PathBuf,
    folder: PathBuf,
    settings: Nats,
    port: u16,
    child: Child,
}

/// Most bytes of the log: half of the disk, the same at each start.
pub(super) fn log_bytes_max(folder: &Path) -> i64 {
    const LEAST: u64 = 1 << 30;
    let disk = rustix::fs::statvfs(folder).map(|disk| disk.f_blocks.saturating_mul(disk.f_frsize));
    let half = disk.unwrap_or(0) / 2;
    i64::try_from(half.max(LEAST)).unwrap_or(i64::MAX)
}

impl NatsServer {
    /// Ends what an earlier start left behind, then starts; returns once it accepts connections.
    pub(crate) async fn start(
        program: &Path,
        data: &Path,
        port: u16,
        settings: &Nats,
    ) -> anyhow::Result<Self> {
        let folder = data.join("nats");
        fs::create_dir_all(&folder)
            .with_context(|| format!("failed to make {}", folder.display()))?;
        end_stale(&folder).await;
        if port != 0 && TcpListener::bind(("127.0.0.1", port)).is_err() {
            return Err(bad_input(format!("port {port} is taken, and NATS was to listen there"))
                .hint("use --nats-port 0 for any free port, or end what listens there")
                .into());
        }
        let (child, port) = launch(program, &folder, port, settings).await?;
        Ok(Self { program: program.to_owned(), folder, settings: settings.clone(), port, child })
    }

    /// Where clients connect.
    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Starts it again when it dies; returns when that makes no sense any more.
    pub(super) async fn keep(&mut self) -> anyhow::Error {
        let (mut crashes, mut first) = (0, Instant::now());
        loop {
            let ended = self.child.wait().await;
            if first.elapsed() > ROW {
                (crashes, first) = (0, Instant::now());
            }
            crashes += 1;
            let log = self.folder.join("nats-server.log");
            if crashes > CRASHES_MAX {
                return anyhow::anyhow!("nats-server ended {crashes} times; see {}", log.display());
            }
            tracing::warn!(?ended, log = %log.display(), "nats-server ended; starting it again");
            match launch(&self.program, &self.folder, self.port, &self.settings).await {
                Ok((child, _)) => self.child = child,
                Err(error) => return error.context("failed to start nats-server again"),
            }
        }
    }

    /// Stops it in order, or else at once.
    pub(crate) async fn stop(mut self) {
        if let Some(pid) = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            // It may be gone already.
            let _ = kill_process(pid, Signal::TERM);
        }
        if timeout(STOP_WITHIN, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
        let _ = fs::remove_file(pid_file(&self.folder));
    }
}

fn pid_file(folder: &Path) -> PathBuf {
    folder.join("nats-server.pid")
}

fn config_file(folder: &Path) -> PathBuf {
    folder.join("nats-server.conf")
}

/// Ends the nats-server of a start that was killed, where the kernel did not.
async fn end_stale(folder: &Path) {
    let Some(pid) = stale(folder) else { return };
    tracing::warn!(
        pid = pid.as_raw_nonzero(),
        "ending the nats-server that an earlier start left behind"
    );
    for signal in [Signal::TERM, Signal::KILL] {
        // It may end between the look and the signal.
        let _ = kill_process(pid, signal);
        let gone = async {
            while test_kill_process(pid).is_ok() && stale(folder).is_some() {
                sleep(LOOK_EVERY).await;
            }
        };
        if timeout(STALE_STOP_WITHIN, gone).await.is_ok() {
            return;
        }
    }
}

/// The process of the pid file, when it is a nats-server of this folder: the kernel gives numbers
/// away again.
fn stale(folder: &Path) -> Option<Pid> {
    let text = fs::read_to_string(pid_file(folder)).ok()?;
    let pid = text.trim().parse::<i32>().ok()?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let config = config_file(folder);
    let ours = command
        .split(|byte| *byte == 0)
        .any(|argument| argument == config.as_os_str().as_encoded_bytes());
    if ours { Pid::from_raw(pid) } else { None }
}

async fn launch(
    program: &Path,
    folder: &Path,
    port: u16,
    settings: &Nats,
) -> anyhow::Result<(Child, u16)> {
    let config = config_file(folder);
    fs::write(&config, configuration(folder, port, settings))
        .with_context(|| format!("failed to write {}", config.display()))?;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|end| end == "ports") {
            // One of an earlier start; its port may be anybody's now.
            let _ = fs::remove_file(entry.path());
        }
    }
    let log = folder.join("nats-server.out");
    let output =
        fs::File::create(&log).with_context(|| format!("failed to write {}", log.display()))?;
    let mut command = bound_to_us(program).await;
    if std::env::var_os("GOGC").is_none() {
        // Half the garbage for a few percent of its time: under load that is most of its memory.
        command.env("GOGC", "50");
    }
    command
        .arg("--config")
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        // Ctrl-C is for us: it must stop last.
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn().context("failed to start nats-server")?;
    let pid = child.id().context("nats-server ended at once")?;
    let ports = folder.join(format!("nats-server_{pid}.ports"));
    let end = Instant::now() + START_WITHIN;
    while Instant::now() < end {
        if let Some(port) = read_port(&ports) {
            return Ok((child, port));
        }
        if let Some(status) = child.try_wait().context("failed to look after nats-server")? {
            bail!("nats-server ended with {status}: {}", tail(folder));
        }
        sleep(LOOK_EVERY).await;
    }
    bail!("nats-server did not start within {START_WITHIN:?}: {}", tail(folder))
}

fn configuration(folder: &Path, port: u16, settings: &Nats) -> String {
    // Paths in JSON's quotes, which the format shares.
    let path =
        |name: &str| serde_json::Value::from(folder.join(name).display().to_string()).to_string();
    let here = serde_json::Value::from(folder.display().to_string());
    let port = if port == 0 { "-1".to_owned() } else { port.to_string() };
    let data = folder.parent().unwrap_or(folder);
    let sync_interval = &settings.sync_interval;
    let objects = u64::try_from(settings.streams.objects_bytes_max).unwrap_or(0);
    let store = log_bytes_max(data).cast_unsigned().saturating_add(OTHER_STREAMS_BYTES + objects);
    format!(
        "# Written by `jetmill dev` at each start.\n\
         host: \"127.0.0.1\"\nport: {port}\nserver_name: \"jetmill-dev\"\n\
         pid_file: {pid}\nports_file_dir: {here}\n\
         log_file: {log}\nlogfile_size_limit: 10MB\nlogfile_max_num: 3\n\
         jetstream {{\n  store_dir: {store_dir}\n  max_file_store: {store}\n  sync_interval: {sync_interval}\n}}\n",
        pid = path("nats-server.pid"),
        log = path("nats-server.log"),
        store_dir = path("store"),
    )
}

fn read_port(file: &Path) -> Option<u16> {
    let ports: serde_json::Value = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
    let url = ports.get("nats")?.get(0)?.as_str()?;
    url.rsplit(':').next()?.parse().ok()
}

/// What it said last.
fn tail(folder: &Path) -> String {
    let text = ["nats-server.log", "nats-server.out"]
        .map(|name| fs::read(folder.join(name)).unwrap_or_default())
        .concat();
    let text = String::from_utf8_lossy(&text);
    let lines = text.lines().collect::<Vec<_>>();
    lines.get(lines.len().saturating_sub(5)..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_nats_server_of_this_folder_is_stale() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(stale(folder.path()), None);
        // This test's own process: alive, and no nats-server.
        fs::write(pid_file(folder.path()), std::process::id().to_string()).expect("written");
        assert_eq!(stale(folder.path()), None);
    }

    #[test]
    fn the_configuration_quotes_its_paths() {
        let settings = crate::settings::Settings::read(runtime::config::Layers::new());
        let settings = settings.expect("valid").nats;
        let text = configuration(Path::new("/a \"b\"/nats"), 0, &settings);
        assert!(text.contains("port: -1"), "{text}");
        assert!(text.contains(r#"store_dir: "/a \"b\"/nats/store""#), "{text}");
    }
}
