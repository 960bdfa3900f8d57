//! Removes the folder of an attempt, whatever the command has left in it.
//!
//! The attendant does it and not the worker: it may take long, it happens when the worker was killed
//! too, and nothing else runs here that it could hold up. It follows no links. It does not go down
//! either: what lies deeper is moved to the top first, so that a tree of any depth takes no more
//! memory, open files or length of a path than a flat one.

use std::{
    fs::{self, DirEntry, Permissions, ReadDir},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// Removes as much as can be removed; the last error when that is not all.
pub(super) fn remove(top: &Path) -> io::Result<()> {
    let mut moved = 0;
    loop {
        let (mut progress, mut failed) = (false, None);
        for entry in open(top)? {
            match entry
                .and_then(|entry| take_away(&entry, |folder| flatten(folder, top, &mut moved)))
            {
                Ok(()) => progress = true,
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            None if !progress => return fs::remove_dir(top),
            Some(error) if !progress => return Err(error),
            _ => {}
        }
    }
}

fn take_away(entry: &DirEntry, folder: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    if entry.file_type()?.is_dir() { folder(&entry.path()) } else { fs::remove_file(entry.path()) }
}

/// Removes a folder; the folders in it move to the top.
fn flatten(folder: &Path, top: &Path, moved: &mut u64) -> io::Result<()> {
    let mut failed = None;
    for entry in open(folder)? {
        let away = entry.and_then(|entry| {
            take_away(&entry, |deeper| {
                // Who moves a folder writes its new parent into it.
                may_write(deeper)?;
                fs::rename(deeper, unused(top, moved))
            })
        });
        failed = away.err().or(failed);
    }
    failed.map_or_else(|| fs::remove_dir(folder), Err)
}

fn unused(top: &Path, moved: &mut u64) -> PathBuf {
    loop {
        *moved += 1;
        let path = top.join(format!("moved-{moved}"));
        if fs::symlink_metadata(&path).is_err() {
            return path;
        }
    }
}

fn open(folder: &Path) -> io::Result<ReadDir> {
    may_write(folder)?;
    fs::read_dir(folder)
}

fn may_write(folder: &Path) -> io::Result<()> {
    fs::set_permissions(folder, Permissions::from_mode(0o700))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::{Mode, OFlags, mkdirat, openat};

    use super::*;

    #[test]
    fn a_folder_goes_with_all_that_is_in_it_and_nothing_else() {
        let around = tempfile::tempdir().expect("folder");
        let (top, beside) = (around.path().join("top"), around.path().join("beside"));
        for folder in [&beside, &top.join("a/b/c"), &top.join("moved-1"), &top.join("shut/in")] {
            fs::create_dir_all(folder).expect("a folder");
        }
        for file in [beside.join("kept"), top.join("a/b/file"), top.join("moved-2")] {
            fs::write(file, "x").expect("a file");
        }
        symlink(&beside, top.join("a/link")).expect("a link");
        symlink("/no/such", top.join("dangling")).expect("a link");
        fs::set_permissions(top.join("shut"), Permissions::from_mode(0o0)).expect("shut");
        remove(&top).expect("it goes");
        assert!(!top.exists() && beside.join("kept").exists());
        assert!(remove(&top).is_err(), "there is nothing to remove");
    }

    #[test]
    fn a_path_longer_than_any_path_may_be_goes_too() {
        let around = tempfile::tempdir().expect("folder");
        let top = around.path().join("top");
        fs::create_dir(&top).expect("a folder");
        let mut deepest = fs::File::open(&top).expect("open");
        let name = "d".repeat(200);
        for _ in 0..100 {
            mkdirat(&deepest, &name, Mode::RWXU).expect("a folder");
            let flags = OFlags::DIRECTORY | OFlags::RDONLY;
            deepest = openat(&deepest, &name, flags, Mode::empty()).expect("open").into();
        }
        remove(&top).expect("it goes");
        assert!(!top.exists());
    }
}
