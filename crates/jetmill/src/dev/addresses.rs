//! Where a `jetmill dev` answers, left in its folder for the commands that are run beside it.

use std::{fs, path::Path};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

const FILE: &str = "jetmill.json";

/// The addresses, and the one line that `jetmill dev --json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Addresses {
    pub(crate) nats: String,
    pub(crate) grpc: String,
    pub(crate) http: String,
    pub(crate) data_dir: String,
}

impl Addresses {
    /// What a running platform left in its folder.
    pub(crate) fn read(folder: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(folder.join(FILE)).ok()?).ok()
    }

    /// Leaves them there, whole or not at all.
    pub(super) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let (file, new) = (folder.join(FILE), folder.join("jetmill.json.new"));
        let text = serde_json::to_string(self)?;
        fs::write(&new, text).with_context(|| format!("failed to write {}", new.display()))?;
        fs::rename(&new, &file).with_context(|| format!("failed to write {}", file.display()))
    }

    /// Takes them away: nobody answers there any more.
    pub(super) fn remove(folder: &Path) {
        // After a crash it stays; the next start overwrites it.
        let _ = fs::remove_file(folder.join(FILE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_by_those_who_come_later() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(Addresses::read(folder.path()), None);
        let addresses = Addresses {
            nats: "nats://127.0.0.1:1".into(),
            grpc: "http://127.0.0.1:2".into(),
            http: "http://127.0.0.1:3".into(),
            data_dir: folder.path().display().to_string(),
        };
        addresses.write(folder.path()).expect("written");
        assert_eq!(Addresses::read(folder.path()), Some(addresses));
        Addresses::remove(folder.path());
        assert_eq!(Addresses::read(folder.path()), None);
    }
}
