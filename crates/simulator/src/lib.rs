//! A simulator of the whole system without its wires: the product's own fold, planner, office,
//! worker's rules and ledger's projection, in a world of models that break as the real one does.
//!
//! Everything comes from a seed: which faults there are, which actor does what at each step, how
//! much time passes. Messages are lost, doubled, delayed and overtaken where the real system can do
//! that; processes are killed or stand still between any two effects; two schedulers believe to
//! lead; clocks jump; snapshots are old, new or missing.
//!
//! What must hold is in [`invariants`]. A seed that breaks one is run again with fewer and fewer
//! steps, and what is left is printed with the command that replays it. That the simulator finds
//! what it should is shown by `mutants/`: patches of the product that it must notice.

#![expect(
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::similar_names,
    clippy::should_implement_trait,
    clippy::too_many_arguments,
    clippy::unnecessary_wraps,
    clippy::struct_excessive_bools,
    reason = "a simulator that goes wrong should stop at once; and it asks for few kinds of many"
)]

pub mod client;
pub mod faults;
pub mod flow;
pub mod invariants;
pub mod ledger;
pub mod log;
pub mod net;
pub mod queue;
pub mod quiesce;
pub mod random;
pub mod run;
pub mod scheduler;
pub mod truth;
pub mod worker;
pub mod world;
