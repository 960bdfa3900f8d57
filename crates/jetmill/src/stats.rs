//! `jetmill stats`: counts of everything.

use comfy_table::Cell;
use common::pb;

use crate::{connect::Session, exit::Exit, table};

/// Prints the counts of the ledger.
pub(crate) async fn run(session: &Session) -> anyhow::Result<Exit> {
    let stats = session.client.stats(&pb::StatsRequest::default()).await?;
    session.ui.answer(&stats, |stats| {
        let mut rows = table::table(["WHAT", "TASKS"]);
        for (state, count) in &stats.by_state {
            rows.add_row(vec![Cell::new(state), Cell::new(count)]);
        }
        for (subsystem, count) in &stats.by_subsystem {
            rows.add_row(vec![Cell::new(format!("subsystem {subsystem}")), Cell::new(count)]);
        }
        rows.add_row(vec![Cell::new("all"), Cell::new(stats.total)]);
        let lag = match stats.lag {
            0 => "the ledger has all of it".to_owned(),
            lag => format!("the ledger is {lag} messages behind"),
        };
        format!("{}\nlog position {}, {lag}", rows.trim_fmt(), stats.sequence)
    })?;
    Ok(Exit::Done)
}
