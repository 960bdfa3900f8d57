//! **Pure.** What must hold of what is read: cuts take nothing away that is needed, and nobody reads what
//! it is too old for.

use common::task::TaskSpec;

use super::{Held, broken};

/// What an open task is to do can always be read.
pub fn payloads_stay(name: &str, spec: Option<&TaskSpec>, at: (u64, u32)) -> Held {
    match spec {
        Some(spec) if spec.as_pb().task_id == name => Ok(()),
        _ => broken("payloads_stay", format!("{name}: nothing to be read at {}.{}", at.0, at.1)),
    }
}

/// Trimming never takes away what somebody has yet to read.
pub fn nobody_is_cut_off(cursor: u64, first: u64, who: &str) -> Held {
    if cursor + 1 < first {
        let detail = format!("{who} has read up to {cursor}; the log begins at {first}");
        return broken("nobody_is_cut_off", detail);
    }
    Ok(())
}

/// A service stops before an event that it is too old for.
pub fn old_readers_stop(cursor: u64, newer: u64, who: &str) -> Held {
    if cursor >= newer {
        return broken("old_readers_stop", format!("{who} read beyond {newer}, up to {cursor}"));
    }
    Ok(())
}
