//! The data folder, held by one process at a time.

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use common::error::{ApiError, ErrorCode};

/// The data folder of this process; the lock goes with it, also when the process is killed.
pub(super) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Makes the folder if it is missing and takes it.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let context = || format!("failed to make the data folder {}", path.display());
        fs::create_dir_all(path).with_context(context)?;
        let path = path.canonicalize().with_context(context)?;
        let name = path.join("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&name)
            .with_context(|| format!("failed to open {}", name.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(TryLockError::WouldBlock) => {
                let why = format!("another `jetmill dev` uses the data folder {}", path.display());
                let told = ApiError::new(ErrorCode::FailedPrecondition, why);
                Err(told
                    .hint(
                        "end that one, or give this one its own with --data-dir and --nats-port 0",
                    )
                    .into())
            }
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("failed to lock {}", name.display()))
            }
        }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_user_at_a_time() {
        let parent = tempfile::tempdir().expect("a folder");
        let path = parent.path().join("new/data");
        let first = Folder::open(&path).expect("free");
        let second = Folder::open(&path).err().expect("taken");
        assert!(second.to_string().contains("another"), "{second}");
        drop(first);
        Folder::open(&path).map(|_| ()).expect("free again");
    }
}
