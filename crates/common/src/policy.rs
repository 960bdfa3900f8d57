//! **Pure.** Documents: how work is done, as data in the log.

pub mod task_type;
