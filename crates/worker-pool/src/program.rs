//! Which file a command's name stands for, as the operating system would find it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::fs::{Access, access};

/// Where commands are looked for when nothing else is said.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Why there is no such program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// There is no such file.
    NotFound,
    /// There is one that may not be executed.
    NotExecutable,
}

/// The file that is executed for `program`, on the PATH or, where it has a slash, from `cwd`.
pub(crate) fn find(program: &str, path: Option<&str>, cwd: &Path) -> Result<PathBuf, Missing> {
    if program.contains('/') {
        return try_file(&cwd.join(program));
    }
    let mut missing = Missing::NotFound;
    for folder in path.unwrap_or(PATH).split(':') {
        match try_file(&cwd.join(folder).join(program)) {
            Ok(file) => return Ok(file),
            Err(Missing::NotExecutable) => missing = Missing::NotExecutable,
            Err(Missing::NotFound) => {}
        }
    }
    Err(missing)
}

fn try_file(file: &Path) -> Result<PathBuf, Missing> {
    match fs::metadata(file) {
        Ok(found) if found.is_file() && access(file, Access::EXEC_OK).is_ok() => {
            Ok(file.to_owned())
        }
        Ok(_) => Err(Missing::NotExecutable),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(Missing::NotExecutable)
        }
        Err(_) => Err(Missing::NotFound),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_as_a_shell_finds_it() {
        let root = Path::new("/");
        assert_eq!(find("sh", Some("/no/such:/bin"), root), Ok("/bin/sh".into()));
        assert_eq!(find("sh", Some("/no/such"), root), Err(Missing::NotFound));
        assert_eq!(find("sh", None, root).map(|p| p.ends_with("sh")), Ok(true));
        assert_eq!(find("/bin/sh", Some(""), root), Ok("/bin/sh".into()));
        assert_eq!(find("./sh", None, Path::new("/bin")), Ok("/bin/./sh".into()));
        assert_eq!(find("passwd", Some("/etc"), root), Err(Missing::NotExecutable));
        assert_eq!(find("/etc", None, root), Err(Missing::NotExecutable));
    }
}
