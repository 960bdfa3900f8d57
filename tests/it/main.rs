//! The tests of Jetmill as a whole, in one binary: each further one would link everything again.

mod bad_input;
mod bench;
mod catalog;
mod chaos;
mod doors;
mod kills;
mod life;
mod objects;
mod python;
mod reference;
mod reflection;
mod rig;
mod schedules;
mod separate;
mod support;
mod tidy;
mod trace;
mod trim;
mod week;
