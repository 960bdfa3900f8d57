//! A real Docker engine of a test's own, with one small image.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use bollard::{API_DEFAULT_VERSION, Docker, query_parameters::CreateImageOptions};
use futures::TryStreamExt as _;
use launch::{
    process::{self, Stray},
    wait_for,
};
use rustix::process::geteuid;
use tempfile::TempDir;

const START_TIMEOUT: Duration = Duration::from_secs(30);
const REQUEST_TIMEOUT_SECS: u64 = 30;
/// What the image's programs are called; all of them are busybox.
const PROGRAMS: [&str; 18] = [
    "cat", "dd", "echo", "env", "false", "grep", "head", "id", "ls", "mount", "nc", "sh", "sleep",
    "stat", "touch", "true", "wget", "yes",
];
/// Everything that the engine does is undone with this process: its mounts, its networks, its
/// processes. An engine of the machine itself is neither seen nor touched.
const OWN: [&str; 7] =
    ["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--"];
const START: &str = r#"
mount -t tmpfs none /run
exec dockerd --host "unix://$1/docker.sock" --data-root "$1/data" --exec-root "$1/exec" \
    --pidfile "$1/pid" --cgroup-parent "$2" --exec-opt native.cgroupdriver=cgroupfs \
    --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false --userland-proxy=false \
    --log-level warn
"#;

/// An engine in a temporary folder, which ends, and its containers with it, when this is dropped.
///
/// It needs root, `dockerd` and a static busybox. Where these are missing there is none, and the
/// tests that want one say so; where `CI` is set that is a failure.
#[derive(Debug)]
pub struct DockerEngine {
    dir: TempDir,
    cgroup: String,
    child: Child,
}

impl DockerEngine {
    /// The image that the engine has.
    pub const IMAGE: &str = "box:1";

    /// Starts an engine, which takes a second; `None` where there can be none.
    pub async fn start() -> anyhow::Result<Option<Self>> {
        match Self::try_start().await {
            Ok(engine) => Ok(Some(engine)),
            Err(error) if std::env::var_os("CI").is_some() => {
                Err(error
                    .context("the tests of containers need a Docker engine: see scripts/tools.sh"))
            }
            Err(error) => {
                let told = format!("LEFT OUT: the tests of containers: {error:#}\n");
                std::io::stderr().write_all(told.as_bytes())?;
                Ok(None)
            }
        }
    }

    async fn try_start() -> anyhow::Result<Self> {
        ensure!(geteuid().is_root(), "only root can start a Docker engine");
        for program in ["dockerd", "unshare", "busybox"] {
            process::on_path(program).with_context(|| {
                format!("{program} is missing: `make test-tools` installs it for root")
            })?;
        }
        let is_dynamic = Command::new("ldd").arg(busybox()?).output()?.status.success();
        ensure!(!is_dynamic, "busybox is not static: install busybox-static");
        let dir = tempfile::Builder::new().prefix("jetmill-docker-").tempdir()?;
        let cgroup = dir.path().file_name().context("a folder has a name")?;
        let cgroup = cgroup.to_string_lossy().into_owned();
        let log = dir.path().join("dockerd.log");
        let mut command = process::bound_command("unshare");
        command.args(OWN).args(["sh", "-c", START, "sh"]).arg(dir.path()).arg(&cgroup);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
        let mut child = process::spawn(command).context("failed to start dockerd")?;
        let socket = dir.path().join("docker.sock");
        let started = wait_for("dockerd", START_TIMEOUT, || {
            if let Some(status) = child.try_wait()? {
                bail!("dockerd ended with {status}:\n{}", process::tail(&log));
            }
            Ok(std::os::unix::net::UnixStream::connect(&socket).ok())
        });
        let engine = Self { dir, cgroup, child };
        started.with_context(|| process::tail(&log))?;
        engine.import().await.context("failed to make an image")?;
        Ok(engine)
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("docker.sock")
    }

    /// A client of it.
    pub async fn client(&self) -> anyhow::Result<Docker> {
        let socket = self.socket();
        let path = socket.to_string_lossy();
        let client = Docker::connect_with_unix(&path, REQUEST_TIMEOUT_SECS, API_DEFAULT_VERSION)?;
        Ok(client.negotiate_version().await?)
    }

    /// Makes the image of a folder with busybox in it.
    async fn import(&self) -> anyhow::Result<()> {
        let root = self.dir.path().join("root");
        let bin = root.join("bin");
        fs::create_dir_all(&bin)?;
        for folder in ["tmp", "data", "out"] {
            fs::create_dir(root.join(folder))?;
        }
        fs::copy(busybox()?, bin.join("busybox"))?;
        for program in PROGRAMS {
            symlink("busybox", bin.join(program))?;
        }
        let tar = Command::new("tar").arg("-C").arg(&root).args(["-c", "."]).output()?;
        ensure!(tar.status.success(), "tar failed: {}", String::from_utf8_lossy(&tar.stderr));
        let (repo, tag) = Self::IMAGE.split_once(':').context("a tag")?;
        let options = CreateImageOptions {
            from_src: Some("-".into()),
            repo: Some(repo.into()),
            tag: Some(tag.into()),
            ..CreateImageOptions::default()
        };
        let body = bollard::body_full(tar.stdout.into());
        let client = self.client().await?;
        client.create_image(Some(options), Some(body), None).try_collect::<Vec<_>>().await?;
        Ok(())
    }
}

impl Drop for DockerEngine {
    fn drop(&mut self) {
        // The first process of its own namespace takes all others along, and is gone after them.
        Stray::descendants_of(self.child.id()).iter().for_each(Stray::kill);
        let _ = self.child.wait();
        for controller in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            remove_groups(&controller.path().join(&self.cgroup));
        }
        remove_groups(&Path::new("/sys/fs/cgroup").join(&self.cgroup));
    }
}

fn busybox() -> anyhow::Result<PathBuf> {
    process::on_path("busybox").context("busybox is missing")
}

/// Removes control groups that have no processes any more; what the kernel still needs stays.
fn remove_groups(group: &Path) {
    for below in fs::read_dir(group).into_iter().flatten().flatten() {
        if below.path().is_dir() {
            remove_groups(&below.path());
        }
    }
    let _ = fs::remove_dir(group);
}
