//! A real PostgreSQL: one server for the test process, one database for each test.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};

use launch::postgres::{
    initdb, is_ready, output_of, programs, temporary_folder, unprivileged_prefix,
};
use launch::{process, wait_for};

const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Stands between the test process and the server: when the pipe on its standard input closes,
/// because the test process ended in whatever way, it ends the server and removes the folder.
/// A server that has only just been started ignores the signal, hence the loop.
const GUARD: &str = r#"
template=$1 dir=$2
shift 2
trap : TERM INT HUP
cp -a "$template" "$dir/data"
"$@" &
read -r _ || true
while kill -QUIT $! 2>/dev/null; do sleep 0.1; done
rm -rf "$dir"
"#;

/// The PostgreSQL of this test process, on a Unix socket in a temporary folder.
///
/// It trades durability for speed (`fsync=off`). `initdb` runs once for each target folder; its
/// result is kept there and copied. The programs are the newest of those on the `PATH`, in the
/// system's folders and in `.tools/pg`.
#[derive(Debug)]
pub struct Postgres {
    dir: PathBuf,
    databases: AtomicU32,
    // Its standard input is the pipe that keeps the server alive.
    _guard: Child,
}

impl Postgres {
    /// The server; the first call starts it, which blocks for less than half a second.
    pub fn shared() -> anyhow::Result<&'static Self> {
        static SHARED: OnceLock<Result<Postgres, String>> = OnceLock::new();
        SHARED
            .get_or_init(|| Self::start().map_err(|error| format!("{error:#}")))
            .as_ref()
            .map_err(|error| anyhow::anyhow!("failed to start PostgreSQL: {error}"))
    }

    /// Creates an empty database and returns its URL.
    pub async fn create_database(&self) -> anyhow::Result<String> {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut admin = self
            .url("postgres")
            .parse::<sqlx::postgres::PgConnectOptions>()
            .context("failed to parse the server's URL")?
            .connect()
            .await
            .context("failed to connect to PostgreSQL")?;
        let statement = format!("CREATE DATABASE {name}");
        sqlx::query(AssertSqlSafe(statement))
            .execute(&mut admin)
            .await
            .context("failed to create a database")?;
        admin.close().await.context("failed to close a connection")?;
        Ok(self.url(&name))
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://jetmill@localhost/{database}?host={}", self.dir.display())
    }

    fn start() -> anyhow::Result<Self> {
        let programs = programs()?;
        let template = template(&programs)?;
        let dir = temporary_folder()?;
        let log = dir.path().join("log");
        let mut command = guarded_server(&programs, &template, dir.path());
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(File::create(&log)?);
        let guard = process::spawn(command).context("failed to start a process")?;
        // From here on the guard removes the folder.
        let dir = dir.keep();
        wait_for("PostgreSQL", START_TIMEOUT, || Ok(is_ready(&dir.join("data")).then_some(())))
            .with_context(|| format!("the server did not start:\n{}", process::tail(&log)))?;
        Ok(Self { dir, databases: AtomicU32::new(0), _guard: guard })
    }
}

fn guarded_server(programs: &Path, template: &Path, dir: &Path) -> Command {
    let mut command = Command::new("sh");
    command.current_dir("/").args(["-c", GUARD, "sh"]).arg(template).arg(dir);
    command.args(unprivileged_prefix());
    command.arg(programs.join("postgres")).arg("-D").arg(dir.join("data")).arg("-k").arg(dir);
    for setting in [
        "listen_addresses=",
        "fsync=off",
        "synchronous_commit=off",
        "full_page_writes=off",
        "max_connections=200",
        "shared_buffers=32MB",
    ] {
        command.args(["-c", setting]);
    }
    command
}

/// The data folder as `initdb` left it, made once for each version, user and target folder.
fn template(programs: &Path) -> anyhow::Result<PathBuf> {
    let cache = process::profile_dir()?.join("testkit");
    fs::create_dir_all(&cache).context("failed to create a folder")?;
    let version = output_of(Command::new(programs.join("postgres")).arg("--version"))?;
    let version: String =
        version.trim().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let user = rustix::process::geteuid().as_raw();
    let template = cache.join(format!("{version}-{user}"));
    let lock = File::create(cache.join("lock")).context("failed to create a lock file")?;
    lock.lock().context("failed to wait for the lock file")?;
    if template.is_dir() {
        return Ok(template);
    }
    // initdb works where the unprivileged user may write, and the result appears all at once.
    let scratch = temporary_folder()?;
    let data = scratch.path().join("data");
    initdb(programs, &data)?;
    let partial = cache.join(format!("{version}-{user}.partial"));
    if partial.exists() {
        fs::remove_dir_all(&partial).context("failed to remove a folder")?;
    }
    copy_tree(&data, &partial)?;
    fs::rename(&partial, &template).context("failed to rename a folder")?;
    Ok(template)
}

/// Copies a folder with its owners and modes, on which PostgreSQL insists.
fn copy_tree(from: &Path, to: &Path) -> anyhow::Result<()> {
    output_of(Command::new("cp").arg("-a").arg(from).arg(to)).map(drop)
}
