//! **Pure.** Policy documents: how work is to be done, as data.

pub mod schedule;
