//! **Pure.** The flags of a container.

use common::{error::ApiError, pb};
use worker_pool::attend::limits::Limits;

use crate::exit::bad_input;

/// What a container needs beyond what every command has.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Container {
    /// An image of the worker's Docker engine; the command runs in a container of it
    #[arg(id = "docker", long = "docker", value_name = "IMAGE", requires_all = ["cpus", "limits"])]
    pub(super) image: Option<String>,
    /// Processors of the container, such as 0.5
    #[arg(long, value_name = "N", requires = "docker")]
    cpus: Option<f64>,
    /// A folder or file of the worker that the container sees; may be repeated
    #[arg(long = "mount", value_name = "FROM:TO[:rw]", value_parser = mount, requires = "docker")]
    mounts: Vec<pb::Mount>,
    /// The container's network: none or bridge [default: none]
    #[arg(long, value_name = "NAME", requires = "docker")]
    network: Option<String>,
}

impl Container {
    /// The container, without what it has in common with other commands.
    pub(super) fn executor(&self, limits: Limits) -> Result<pb::Docker, ApiError> {
        let Limits { memory_mb, processes, .. } = limits;
        if limits != (Limits { memory_mb, processes, ..Limits::default() }) {
            return Err(bad_input("--limits of a container are memory_mb and processes")
                .hint("its processors are --cpus, its time is --timeout"));
        }
        Ok(pb::Docker {
            image: self.image.clone().unwrap_or_default(),
            mounts: self.mounts.clone(),
            cpus: self.cpus.unwrap_or_default(),
            memory_mb: memory_mb.unwrap_or_default(),
            processes,
            network: self.network.clone().unwrap_or_default(),
            ..pb::Docker::default()
        })
    }
}

/// Reads `FROM:TO` or `FROM:TO:rw`; with nothing before the colon it is a fresh folder in memory.
fn mount(text: &str) -> Result<pb::Mount, String> {
    let (paths, writable) = match text.strip_suffix(":rw") {
        Some(paths) => (paths, true),
        None => (text, false),
    };
    match paths.split_once(':') {
        Some((source, target)) if target.starts_with('/') && !target.contains(':') => {
            Ok(pb::Mount { source: source.to_owned(), target: target.to_owned(), writable })
        }
        _ => Err("write it as FROM:TO or FROM:TO:rw, such as /srv/data:/data".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_only_unless_they_say_more() {
        let read = |text: &str| mount(text).map(|m| (m.source, m.target, m.writable));
        let of = |from: &str, to: &str, rw| Ok((from.to_owned(), to.to_owned(), rw));
        assert_eq!(read("/srv/data:/data"), of("/srv/data", "/data", false));
        assert_eq!(read("/srv/out:/out:rw"), of("/srv/out", "/out", true));
        assert_eq!(read(":/work"), of("", "/work", false));
        for bad in ["", "/a", "/a:b", "/a:/b:ro", "/a:"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn limits_that_a_container_does_not_have_are_refused() {
        let limits = |text: &str| Limits::parse(text).expect("limits");
        let container =
            Container { image: Some("a".into()), cpus: Some(0.5), ..Container::default() };
        let made = container.executor(limits("memory_mb=64,processes=8")).expect("valid");
        assert_eq!((made.memory_mb, made.processes, made.cpus), (64, Some(8), 0.5));
        assert!(container.executor(limits("memory_mb=64,open_files=9")).is_err());
    }
}
