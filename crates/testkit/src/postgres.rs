//! A real PostgreSQL: one server for the test process, one database for each test.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context;
use launch::postgres::{self, Programs, output_of, temporary_folder};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};

/// No durability, and little memory: there is one server for each test process.
const SETTINGS: [&str; 5] = [
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "max_connections=200",
    "shared_buffers=32MB",
];

/// The PostgreSQL of this test process, on a Unix socket in a temporary folder.
///
/// It trades durability for speed (`fsync=off`). `initdb` runs once for each target folder; its
/// result is kept there and copied. The programs are the newest of those on the `PATH`, in the
/// system's folders and in `.tools/pg`.
#[derive(Debug)]
pub struct Postgres {
    server: postgres::Postgres,
    databases: AtomicU32,
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
            .server
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
        Ok(self.server.url(&name))
    }

    fn start() -> anyhow::Result<Self> {
        let programs = Programs::find_or_tell()?;
        let template = template(&programs)?;
        let server = postgres::Postgres::start(&programs, Some(&template), &SETTINGS)?;
        Ok(Self { server, databases: AtomicU32::new(0) })
    }
}

/// The data folder as `initdb` left it, made once for each version, user and target folder.
fn template(programs: &Programs) -> anyhow::Result<PathBuf> {
    let cache = launch::process::profile_dir()?.join("testkit");
    fs::create_dir_all(&cache).context("failed to create a folder")?;
    let version = programs.version()?;
    let version: String =
        version.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
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
    // Small segments of the log keep the folder small, and so its copies quick.
    programs.initdb(&data, &["--no-sync", "--wal-segsize=1"])?;
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
