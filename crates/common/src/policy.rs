//! **Pure.** What operators decide about all tasks.

pub mod limit;
