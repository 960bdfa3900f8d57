//! **Pure.** What is wrong with a container that a task asks for.

use std::path::{Component, Path};

use super::Check;
use crate::{limits, pb};

/// Longest name of an image, in bytes.
const IMAGE_BYTES_MAX: usize = 255;
/// Folders that are the container's own.
const RESERVED: [&str; 3] = ["/proc", "/sys", "/dev"];

impl Check {
    pub(super) fn docker(&mut self, given: &pb::Docker, timeouts: Option<&pb::Timeouts>) {
        self.resources(given);
        let image = given.image.as_str();
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
        let starts = image.starts_with(|c: char| c.is_ascii_alphanumeric());
        if !starts || image.len() > IMAGE_BYTES_MAX || !image.chars().all(plain) {
            self.wrong("executor.docker.image", "must be an image such as \"alpine:3\"");
        }
        if !matches!(given.network.as_str(), "" | "none" | "bridge") {
            self.wrong("executor.docker.network", "must be none or bridge");
        }
        if !given.working_dir.is_empty() && !given.working_dir.starts_with('/') {
            self.wrong("executor.docker.working_dir", "must begin with `/`");
        }
        let texts = given.command.iter().chain(given.env.values()).chain([&given.working_dir]);
        if texts.into_iter().any(|t| t.contains('\0')) {
            self.wrong("executor.docker", "must not have NUL characters");
        }
        self.environment("executor.docker", &given.env, &given.secrets);
        self.mounts(&given.mounts);
        self.run_at_most(limits::CONTAINER_RUN_MAX, "docker", timeouts);
    }

    fn resources(&mut self, given: &pb::Docker) {
        let min = f64::from(limits::CONTAINER_CPU_HUNDREDTHS_MIN) / 100.0;
        let max = f64::from(limits::CONTAINER_CPUS_MAX);
        if !(min..=max).contains(&given.cpus) {
            let problem = format!("must be said: processors, {min} to {max}, such as 0.5");
            self.wrong("executor.docker.cpus", problem);
        }
        let (min, max) = (limits::CONTAINER_MEMORY_MB_MIN, limits::CONTAINER_MEMORY_MB_MAX);
        if !(min..=max).contains(&given.memory_mb) {
            let problem = format!("must be said: memory in MiB, {min} to {max}, such as 256");
            self.wrong("executor.docker.memory_mb", problem);
        }
        let max = 1024 * 1024;
        if given.processes.is_some_and(|n| !(1..=max).contains(&n)) {
            self.wrong("executor.docker.processes", format!("must be 1 to {max}"));
        }
    }

    fn mounts(&mut self, mounts: &[pb::Mount]) {
        if mounts.len() > limits::CONTAINER_MOUNTS_MAX {
            let max = limits::CONTAINER_MOUNTS_MAX;
            self.wrong("executor.docker.mounts", format!("must be at most {max}"));
        }
        for (n, mount) in mounts.iter().enumerate() {
            let field = |name: &str| format!("executor.docker.mounts[{n}].{name}");
            let source = mount.source.as_str();
            if source.contains('\0') || !(source.is_empty() || source.starts_with('/')) {
                self.wrong(field("source"), "must begin with `/`, or be empty for a fresh folder");
            }
            match target(&mount.target) {
                Err(problem) => self.wrong(field("target"), problem),
                Ok(path) => {
                    let before = mounts.iter().take(n).filter_map(|m| target(&m.target).ok());
                    if before.into_iter().any(|other| other == path) {
                        self.wrong(field("target"), "is the target of another mount, too");
                    }
                }
            }
        }
    }
}

/// A place in a container that something may be mounted at.
fn target(text: &str) -> Result<&Path, &'static str> {
    let path = Path::new(text);
    let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    if !path.is_absolute() || text.contains(['\0', ':']) || !path.components().all(plain) {
        Err("must be a whole path without `..` and `:`")
    } else if path.parent().is_none() {
        Err("must not be the container's root")
    } else if RESERVED.iter().any(|own| path.starts_with(own)) {
        Err("must not be in /proc, /sys or /dev")
    } else {
        Ok(path)
    }
}
