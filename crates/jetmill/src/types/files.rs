//! Files and folders of task types: all of them, or everything that is wrong in any.

use std::path::{Path, PathBuf};

use common::pb;

use crate::{connect::read_text, exit::bad_input};

/// Files of one folder, at most.
const FILES_MAX: usize = 10_000;

/// Reads the types of files and folders.
pub(super) async fn read(paths: &[PathBuf]) -> anyhow::Result<Vec<pb::TaskType>> {
    let mut files = Vec::new();
    for path in paths {
        files.extend(expand(path)?);
    }
    let (mut types, mut problems) = (Vec::<pb::TaskType>::new(), Vec::new());
    for file in files {
        let name = file.display();
        let bytes = read_text(&file).await?;
        let Ok(text) = String::from_utf8(bytes) else {
            problems.push(format!("{name}:1: is not UTF-8 text"));
            continue;
        };
        match catalog::read(&text) {
            Ok(entries) => {
                for entry in entries {
                    let twin = types.iter().any(|other| other.name == entry.task_type.name);
                    if twin {
                        let (line, of) = (entry.line, &entry.task_type.name);
                        problems.push(format!("{name}:{line}: name {of} is in another file too"));
                    }
                    types.push(entry.task_type);
                }
            }
            Err(found) => problems.extend(found.iter().map(|problem| format!("{name}:{problem}"))),
        }
    }
    if problems.is_empty() {
        return Ok(types);
    }
    let count = problems.len();
    let told = format!("{count} problems, nothing was applied:\n  {}", problems.join("\n  "));
    Err(bad_input(told).hint("docs/guides/task-types.md has every field").into())
}

/// A file, or those of a folder in the order of their names.
fn expand(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let is_type = |path: &PathBuf| {
        let end = path.extension().and_then(|end| end.to_str());
        path.is_file() && matches!(end, Some("yaml" | "yml" | "json"))
    };
    let entries = std::fs::read_dir(path)
        .map_err(|error| bad_input(format!("cannot read {}: {error}", path.display())))?;
    let entries = entries.filter_map(Result::ok).map(|entry| entry.path());
    let mut files = entries.filter(is_type).take(FILES_MAX).collect::<Vec<_>>();
    files.sort();
    if files.is_empty() {
        let told = bad_input(format!("there is no YAML or JSON file in {}", path.display()));
        return Err(told.hint("folders within it are not looked at").into());
    }
    Ok(files)
}
