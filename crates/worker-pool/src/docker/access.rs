//! Which engine runs containers, and what of this machine they may have: the worker's configuration.
//!
//! A container that may mount any folder is no wall at all, so nothing may be mounted that the
//! configuration does not name. A source is judged where it really lies, and that place is what the
//! engine is told.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    str::FromStr,
};

use common::pb;
use jetmill_sdk::worker::AttemptError;

use crate::roles::{self, Role};

/// Where the engine listens when nobody says otherwise.
pub const SOCKET: &str = "/var/run/docker.sock";

/// What containers may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Engine {
    /// The Unix socket of the engine.
    pub socket: PathBuf,
    /// Folders of which, and of whose folders, something may be mounted; none: nothing may.
    pub folders: Vec<Folder>,
    /// The most that a container may have of a network.
    pub network: Network,
}

/// A folder that containers may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// The whole path.
    pub path: PathBuf,
    /// Whether they may write to it.
    pub writable: bool,
}

/// What a container has of a network; more comes later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Network {
    /// Only its own loopback.
    #[default]
    None,
    /// The engine's bridge: whatever the machine reaches.
    Bridge,
}

/// A mount as the engine is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bind {
    pub(super) source: PathBuf,
    pub(super) target: String,
    pub(super) writable: bool,
}

impl Default for Engine {
    fn default() -> Self {
        Self { socket: SOCKET.into(), folders: Vec::new(), network: Network::None }
    }
}

impl Network {
    /// The words of the configuration.
    pub const WORDS: [&str; 2] = ["none", "bridge"];
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" | "none" => Ok(Self::None),
            "bridge" => Ok(Self::Bridge),
            _ => Err("must be none or bridge".into()),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Bridge => "bridge",
        })
    }
}

impl FromStr for Folder {
    type Err = String;

    /// Reads `/srv/data` or `/srv/out:rw`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (path, writable) = match text.strip_suffix(":rw") {
            Some(path) => (path, true),
            None => (text, false),
        };
        if path.starts_with('/') && !path.contains(':') {
            Ok(Self { path: path.into(), writable })
        } else {
            Err(format!("must be whole paths such as /srv/data or /srv/out:rw, and has {text:?}"))
        }
    }
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = if self.writable { ":rw" } else { "" };
        write!(f, "{}{end}", self.path.display())
    }
}

impl Engine {
    /// Judges the network that a task asks for.
    pub(super) fn network(
        &self,
        asked: &str,
        role: Option<&Role>,
    ) -> Result<Network, AttemptError> {
        let refuse = |why: String| AttemptError::permanent("forbidden_network", why);
        let asked = asked.parse::<Network>().map_err(|e| refuse(format!("the network {e}")))?;
        if asked > self.network {
            return Err(refuse(format!(
                "this worker does not allow the network {asked}; worker_pool.docker.network is {}",
                self.network
            )));
        }
        role.map_or(Ok(()), |role| role.check_network(asked))?;
        Ok(asked)
    }

    /// Judges the mounts that have a source on this machine.
    pub(super) fn binds(
        &self,
        asked: &[pb::Mount],
        role: Option<&Role>,
    ) -> Result<Vec<Bind>, AttemptError> {
        let with_source = asked.iter().filter(|mount| !mount.source.is_empty());
        with_source
            .map(|mount| {
                let source = self.source(mount)?;
                role.map_or(Ok(()), |role| role.check_mount(&source))?;
                Ok(Bind { source, target: mount.target.clone(), writable: mount.writable })
            })
            .collect()
    }

    /// Where a source really lies.
    fn source(&self, mount: &pb::Mount) -> Result<PathBuf, AttemptError> {
        let named = Path::new(&mount.source);
        let refuse = |why: &str| {
            let message = format!("the source {} of a mount {why}", named.display());
            AttemptError::permanent("forbidden_path", message)
        };
        let Ok(real) = fs::canonicalize(named) else {
            // Whoever may not have a place is not told what is there.
            if !self.folders.iter().any(|folder| named.starts_with(&folder.path)) {
                return Err(refuse(&self.allowed()));
            }
            let message =
                format!("the source {} of a mount is not there on the worker", named.display());
            return Err(AttemptError::permanent("mount_not_found", message));
        };
        // The folder that is named most closely decides.
        let folders = self.folders.iter().filter(|f| roles::is_within(&real, &f.path));
        let Some(folder) = folders.max_by_key(|folder| folder.path.components().count()) else {
            return Err(refuse(&self.allowed()));
        };
        if mount.writable && !folder.writable {
            return Err(refuse(&format!("may be read and not written: {}", self.allowed())));
        }
        if fs::canonicalize(&self.socket).is_ok_and(|socket| socket.starts_with(&real)) {
            return Err(refuse("holds the engine's own socket, which is never given out"));
        }
        match fs::metadata(&real) {
            Ok(found) if found.is_dir() || found.is_file() => Ok(real),
            _ => Err(refuse("is neither a folder nor a file")),
        }
    }

    fn allowed(&self) -> String {
        let all = self.folders.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let all = if all.is_empty() { "nothing" } else { &all };
        format!("is not allowed; worker_pool.docker.mounts allows {all}")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::symlink, net::UnixListener};

    use super::*;

    fn mount(source: &Path, writable: bool) -> pb::Mount {
        pb::Mount { source: source.to_string_lossy().into_owned(), target: "/m".into(), writable }
    }

    fn folder(path: &Path, writable: bool) -> Folder {
        Folder { path: path.to_owned(), writable }
    }

    #[test]
    fn a_source_is_judged_where_it_really_lies() {
        let base = tempfile::tempdir().expect("folder");
        let (data, out) = (base.path().join("data"), base.path().join("data/out"));
        fs::create_dir_all(&out).expect("folders");
        fs::create_dir(base.path().join("data-more")).expect("folder");
        fs::write(data.join("file"), "x").expect("file");
        symlink("/etc", data.join("away")).expect("link");
        symlink("out", data.join("inside")).expect("link");
        let socket = data.join("engine.sock");
        let _listener = UnixListener::bind(&socket).expect("socket");
        let _other = UnixListener::bind(data.join("out/other.sock")).expect("socket");
        let engine = Engine {
            socket: base.path().join("none.sock"),
            folders: vec![folder(&data, false), folder(&out, true)],
            network: Network::None,
        };
        let code = |engine: &Engine, path: &Path, writable| {
            let binds = engine.binds(&[mount(path, writable)], None);
            binds.map(|b| b[0].source.clone()).map_err(|e| e.code)
        };
        let real = |path: &Path| Ok(fs::canonicalize(path).expect("there"));
        let no = || Err("forbidden_path".to_owned());
        assert_eq!(code(&engine, &data, false), real(&data));
        assert_eq!(code(&engine, &data.join("file"), false), real(&data.join("file")));
        assert_eq!(code(&engine, &data.join("inside"), true), real(&out));
        assert_eq!(code(&engine, &out, true), real(&out));
        assert_eq!(code(&engine, &data, true), no());
        for escape in ["away", "..", "out/../../data-more", "../data-more", "away/passwd"] {
            assert_eq!(code(&engine, &data.join(escape), false), no(), "{escape}");
        }
        assert_eq!(code(&engine, Path::new("/"), false), no());
        assert_eq!(code(&engine, Path::new("/no/such"), false), no());
        assert_eq!(code(&engine, &data.join("gone"), false), Err("mount_not_found".into()));
        assert_eq!(code(&engine, &out.join("other.sock"), true), no(), "no socket of anybody");
        assert_eq!(code(&Engine::default(), &data, false), no(), "nothing is allowed by itself");
        let careless = Engine { socket, ..engine };
        assert_eq!(code(&careless, &data, false), no(), "the engine's socket is in it");
        assert_eq!(code(&careless, &out, true), real(&out));
        let role = Role { paths: vec![out.clone()], ..Role::default() };
        let refused = careless.binds(&[mount(&data.join("file"), false)], Some(&role));
        assert_eq!(refused.expect_err("the role").code, "forbidden_path");
        assert!(careless.binds(&[mount(&out, false)], Some(&role)).is_ok());
    }

    #[test]
    fn a_network_needs_the_worker_and_the_role() {
        let engine = |network| Engine { network, ..Engine::default() };
        let role = Role { network: Some(Network::None), ..Role::default() };
        assert_eq!(engine(Network::None).network("", None), Ok(Network::None));
        let code = |engine: &Engine, role| engine.network("bridge", role).map_err(|e| e.code);
        assert_eq!(code(&engine(Network::None), None), Err("forbidden_network".into()));
        assert_eq!(code(&engine(Network::Bridge), None), Ok(Network::Bridge));
        assert_eq!(code(&engine(Network::Bridge), Some(&role)), Err("forbidden_network".into()));
        assert!(engine(Network::Bridge).network("host", None).is_err());
    }

    #[test]
    fn folders_are_read_as_they_are_written() {
        for text in ["/srv/data", "/srv/out:rw"] {
            assert_eq!(text.parse::<Folder>().map(|f| f.to_string()).as_deref(), Ok(text));
        }
        for bad in ["", "data", "/srv:ro", "/a:b:rw", ":rw"] {
            assert!(bad.parse::<Folder>().is_err(), "{bad}");
        }
    }
}
