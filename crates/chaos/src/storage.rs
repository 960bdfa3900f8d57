//! Where the ledger is kept: a file, or a PostgreSQL of our own. Both can be copied and put back.

use std::{
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use launch::{
    postgres::{self, Programs},
    process, wait_for,
};
use rustix::process::Signal;

const START_WITHIN: Duration = Duration::from_secs(30);
/// A server that was killed leaves children behind, which end by themselves.
const STARTS_MAX: u32 = 40;

/// Which ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// A file, in one process with everything else.
    Sqlite,
    /// A server.
    Postgres,
}

impl Flavour {
    /// The word of the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }
}

/// The ledger's files, and the server that has them.
#[derive(Debug)]
pub struct Storage {
    flavour: Flavour,
    /// The folder that is copied.
    data: PathBuf,
    /// The same, as the registry sees it.
    seen: PathBuf,
    /// Where the server has its socket and its log.
    folder: PathBuf,
    copies: PathBuf,
    programs: Option<Programs>,
    server: Option<Child>,
}

impl Storage {
    /// Makes an empty ledger with its files in `data`, which the registry has at `seen`, and
    /// what else it needs in `folder`.
    pub fn start(
        flavour: Flavour,
        data: &Path,
        seen: &Path,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let programs = match flavour {
            Flavour::Sqlite => None,
            Flavour::Postgres => Some(Programs::find_or_tell()?),
        };
        let (data, seen) = (data.join("ledger"), seen.join("ledger"));
        let (folder, copies) = (folder.to_owned(), folder.join("copies"));
        let mut storage = Self { flavour, data, seen, folder, copies, programs, server: None };
        match flavour {
            Flavour::Sqlite => fs::create_dir_all(&storage.data)?,
            Flavour::Postgres => {
                storage.initdb()?;
                storage.serve()?;
            }
        }
        Ok(storage)
    }

    /// Which it is.
    pub fn flavour(&self) -> Flavour {
        self.flavour
    }

    /// Its URL.
    pub fn url(&self) -> String {
        match self.flavour {
            Flavour::Sqlite => format!("sqlite:{}", self.seen.join("ledger.db").display()),
            Flavour::Postgres => {
                format!("postgres://jetmill@localhost/postgres?host={}", self.folder.display())
            }
        }
    }

    /// Whether the server runs, where there is one.
    pub fn is_alive(&mut self) -> bool {
        self.server.as_mut().is_none_or(|server| matches!(server.try_wait(), Ok(None)))
            && (self.flavour == Flavour::Sqlite || self.server.is_some())
    }

    /// Ends the server with SIGKILL.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut server) = self.server.take() {
            server.kill().context("failed to kill PostgreSQL")?;
            server.wait().context("failed to wait for PostgreSQL")?;
        }
        Ok(())
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        let Some(mut server) = self.server.take() else { return Ok(()) };
        process::signal(&server, Signal::INT)?;
        wait_for("the end of PostgreSQL", START_WITHIN, || Ok(server.try_wait()?))?;
        Ok(())
    }

    /// Starts the server again, where there is one.
    pub fn serve(&mut self) -> anyhow::Result<()> {
        if self.flavour == Flavour::Sqlite || self.is_alive() {
            return Ok(());
        }
        let mut last = anyhow::anyhow!("it was not started");
        for _ in 0..STARTS_MAX {
            match self.launch() {
                Ok(()) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(last.context("PostgreSQL does not start"))
    }

    fn launch(&mut self) -> anyhow::Result<()> {
        let mut words = vec![OsString::from("setpriv"), "--pdeathsig".into(), "QUIT".into()];
        let prefix = postgres::unprivileged_prefix();
        match prefix.split_first() {
            // It is a setpriv already.
            Some((_, rest)) => words.extend(rest.iter().cloned()),
            None => words.push("--".into()),
        }
        words.push(self.programs()?.postgres().into());
        let (program, rest) = words.split_first().context("invariant: a program was pushed")?;
        let mut command = Command::new(program);
        command.args(rest).arg("-D").arg(&self.data).arg("-k").arg(&self.folder);
        for setting in [
            "listen_addresses=",
            // What a kill takes is the process, not the page cache.
            "fsync=off",
            "max_connections=50",
            "shared_buffers=32MB",
            "min_wal_size=4MB",
            "max_wal_size=32MB",
        ] {
            command.args(["-c", setting]);
        }
        let log = self.folder.join("postgres.log");
        let output = File::options().create(true).append(true).open(&log)?;
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(output);
        let mut server = process::spawn(command).context("failed to start PostgreSQL")?;
        let ready = wait_for("PostgreSQL", START_WITHIN, || {
            if let Some(status) = server.try_wait()? {
                anyhow::bail!("PostgreSQL ended with {status}: {}", process::tail(&log));
            }
            let pid = fs::read_to_string(self.data.join("postmaster.pid")).unwrap_or_default();
            let ours = pid.lines().next() == Some(&server.id().to_string());
            Ok((ours && postgres::is_ready(&self.data)).then_some(()))
        });
        if let Err(error) = ready {
            let _ = server.kill();
            let _ = server.wait();
            std::thread::sleep(Duration::from_millis(100));
            return Err(error);
        }
        self.server = Some(server);
        Ok(())
    }

    /// Copies the files. Whoever writes them must have ended, but for the server, which is stopped
    /// and started again here.
    pub fn copy(&mut self) -> anyhow::Result<()> {
        self.stop()?;
        let fresh = self.copies.with_extension("new");
        for old in [&fresh, &self.copies] {
            if old.exists() {
                fs::remove_dir_all(old)?;
            }
        }
        copy_tree(&self.data, &fresh)?;
        fs::rename(&fresh, &self.copies)?;
        self.serve()
    }

    /// Whether there is a copy.
    pub fn has_copy(&self) -> bool {
        self.copies.is_dir()
    }

    /// Puts the copy in the place of the files, in the same way.
    pub fn restore(&mut self) -> anyhow::Result<()> {
        self.stop()?;
        fs::remove_dir_all(&self.data).context("failed to remove the ledger")?;
        let mut words = match self.flavour {
            Flavour::Sqlite => Vec::new(),
            Flavour::Postgres => postgres::unprivileged_prefix(),
        };
        words.extend(["cp", "-a"].map(OsString::from));
        let (program, rest) = words.split_first().context("invariant: there is cp")?;
        postgres::output_of(
            Command::new(program).args(rest).arg(&self.copies).arg(&self.data).current_dir("/"),
        )?;
        self.serve()
    }

    fn programs(&self) -> anyhow::Result<&Programs> {
        self.programs.as_ref().context("a ledger in a file has no programs")
    }

    fn initdb(&self) -> anyhow::Result<()> {
        // Small segments of its own log keep the folder small, and so its copies quick.
        self.programs()?.initdb(&self.data, &["--no-sync", "--wal-segsize=1"])
    }

    /// Makes it an empty one.
    pub fn empty(&mut self) -> anyhow::Result<()> {
        self.stop()?;
        fs::remove_dir_all(&self.data).context("failed to remove the ledger")?;
        match self.flavour {
            Flavour::Sqlite => fs::create_dir_all(&self.data)?,
            Flavour::Postgres => self.initdb()?,
        }
        self.serve()
    }

    /// What the server said last.
    pub fn log_tail(&self) -> String {
        process::tail(&self.folder.join("postgres.log"))
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            // It ends its children with itself, which it would not when it is killed.
            let _ = process::signal(server, Signal::QUIT);
        }
        if let Some(mut server) = self.server.take() {
            let ended =
                wait_for(
                    "the end of PostgreSQL",
                    Duration::from_secs(5),
                    || Ok(server.try_wait()?),
                );
            if ended.is_err() {
                let _ = server.kill();
                let _ = server.wait();
            }
        }
    }
}

fn copy_tree(from: &Path, to: &Path) -> anyhow::Result<()> {
    postgres::output_of(Command::new("cp").arg("-a").arg(from).arg(to)).map(drop)
}
