//! `jetmill log`: how far the log is trimmed, who still needs what of it, and telling it that a reader
//! will not come back.

use bus::{cursors, streams, trim};
use comfy_table::Cell;
use common::{
    error::{ApiError, ErrorCode},
    subject,
};
use serde::Serialize;

use crate::{connect::Session, exit::Exit, output, table};

/// What about the log.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show where the log begins to count, and the readers that it waits for
    Readers,
    /// Keep nothing for a reader that will not come back
    Forget {
        /// Its name
        name: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

#[derive(Debug, Serialize)]
struct Log {
    first: u64,
    last: u64,
    /// 0 where it has everything.
    floor: u64,
    bytes: u64,
    bytes_max: u64,
    intake_open: bool,
    readers: Vec<Reader>,
}

#[derive(Debug, Serialize)]
struct Reader {
    name: String,
    sequence: u64,
    behind: u64,
}

/// Runs one of the commands about the log.
pub(crate) async fn run(session: &Session, command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Readers => readers(session).await,
        Command::Forget { name, yes } => forget(session, &name, yes).await,
    }
}

async fn readers(session: &Session) -> anyhow::Result<Exit> {
    let bus = session.client.bus();
    let stream = streams::get(bus, subject::TASKS).await?;
    let info = stream.cached_info();
    let last = info.state.last_sequence;
    let readers = cursors::list(bus).await?.into_iter().map(|reader| {
        let sequence = reader.cursor.sequence;
        Reader { name: reader.name, sequence, behind: last.saturating_sub(sequence) }
    });
    let log = Log {
        first: info.state.first_sequence,
        last,
        floor: trim::last(bus).await?.map_or(0, |cut| cut.trimmed.floor),
        bytes: info.state.bytes,
        bytes_max: u64::try_from(info.config.max_bytes).unwrap_or(0),
        intake_open: subject::takes_new_work(&info.config.subjects),
        readers: readers.collect(),
    };
    session.ui.answer(&log, text)?;
    Ok(Exit::Done)
}

fn text(log: &Log) -> String {
    let floor = match log.floor {
        0 => "it has everything".to_owned(),
        floor => format!("it counts from {floor} on"),
    };
    let intake = if log.intake_open { "takes new work" } else { "takes NO new work" };
    let mut rows = table::table(["READER", "HAS STORED", "BEHIND"]);
    for reader in &log.readers {
        let Reader { name, sequence, behind } = reader;
        rows.add_row(vec![Cell::new(name), Cell::new(sequence), Cell::new(behind)]);
    }
    let readers = if log.readers.is_empty() {
        "no reader has registered: nothing is trimmed until a ledger has".to_owned()
    } else {
        rows.trim_fmt()
    };
    format!(
        "messages {} to {}, {} of {}; {floor}; {intake}\n\n{readers}",
        log.first,
        log.last,
        table::bytes(log.bytes),
        table::bytes(log.bytes_max),
    )
}

async fn forget(session: &Session, name: &str, yes: bool) -> anyhow::Result<Exit> {
    output::confirm(
        yes,
        &format!("keep nothing of the log for reader {name}, which then can only begin anew?"),
    )?;
    if !cursors::forget(session.client.bus(), name).await? {
        let told = ApiError::new(ErrorCode::NotFound, format!("no reader {name:?} is registered"));
        return Err(told.hint("`jetmill log readers` lists them").into());
    }
    output::note(format_args!("forgot reader {name}; one that still runs registers itself again"))?;
    Ok(Exit::Done)
}
