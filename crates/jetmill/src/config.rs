//! `jetmill config show`: every setting in force, and where it comes from.

use comfy_table::Cell;
use serde_json::json;

use crate::{
    cli::Global,
    exit::Exit,
    output::{self, Ui},
    serve,
    settings::Settings,
    table,
};

/// What about the configuration.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Print every setting in force
    Show {
        /// Say where each value comes from
        #[arg(long)]
        origin: bool,
        #[command(flatten)]
        flags: serve::Flags,
    },
}

/// Prints the settings; secrets are masked.
pub(crate) fn run(global: &Global, command: &Command) -> anyhow::Result<Exit> {
    let Command::Show { origin, flags } = command;
    let ui = Ui { json: global.json };
    let settings = Settings::read(serve::layers(global, flags))?;
    if ui.json {
        for entry in &settings.entries {
            let mut line =
                json!({ "key": entry.key, "value": entry.value, "description": entry.description });
            if let (true, Some(fields)) = (*origin, line.as_object_mut()) {
                fields.insert("origin".into(), entry.origin.to_string().into());
            }
            output::json(&line)?;
        }
        return Ok(Exit::Done);
    }
    let text = if *origin {
        let mut rows = table::table(["KEY", "VALUE", "ORIGIN", "WHAT IT IS"]);
        for entry in &settings.entries {
            rows.add_row(
                [&entry.key, &entry.value, &entry.origin.to_string(), entry.description]
                    .map(Cell::new),
            );
        }
        rows.trim_fmt()
    } else {
        let mut rows = table::table(["KEY", "VALUE", "WHAT IT IS"]);
        for entry in &settings.entries {
            rows.add_row([&entry.key, &entry.value, entry.description].map(Cell::new));
        }
        rows.trim_fmt()
    };
    output::line(text)?;
    Ok(Exit::Done)
}
