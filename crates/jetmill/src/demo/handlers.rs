//! The handlers of the demonstration: what a program of a user would register.

use std::collections::HashMap;

use common::{
    id::{TaskId, Tenant},
    pb,
};
use futures::{StreamExt as _, stream};
use jetmill_sdk::{Client, HandlerContext, HandlerError};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::AsyncReadExt as _;

use super::report::{File, Report};

/// Results that the report reads at once.
const READS_AT_ONCE: usize = 16;
const PIECE_BYTES: usize = 64 * 1024;

#[derive(Deserialize)]
struct StatsInput {
    path: String,
}

/// What a file has.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Counts {
    pub(super) lines: u64,
    pub(super) bytes: u64,
}

/// Counts the lines and bytes of one file, piece by piece.
pub(super) async fn file_stats(context: HandlerContext) -> Result<Counts, HandlerError> {
    let StatsInput { path } = context.input()?;
    let mut file = tokio::fs::File::open(&path)
        .await
        .map_err(|e| HandlerError::permanent("unreadable", format!("cannot open {path}: {e}")))?;
    let mut counts = Counts::default();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let read = file.read(&mut piece).await?;
        if read == 0 {
            context.log(format_args!("{path}: {} lines, {} bytes", counts.lines, counts.bytes));
            return Ok(counts);
        }
        let piece = piece.get(..read).unwrap_or_default();
        counts.bytes += read as u64;
        counts.lines += piece.split(|byte| *byte == b'\n').skip(1).count() as u64;
    }
}

#[derive(Deserialize)]
struct ReportInput {
    tenant: String,
    files: Vec<Part>,
}

#[derive(Deserialize)]
struct Part {
    path: String,
    task: String,
}

/// Reads the results of all files and adds them up.
pub(super) async fn file_report(
    client: Client,
    context: HandlerContext,
) -> Result<Report, HandlerError> {
    let ReportInput { tenant, files } = context.input()?;
    let tenant = Tenant::parse_or_default(&tenant)?;
    let total = files.len();
    let mut results = stream::iter(files)
        .map(|part| {
            let (client, tenant) = (&client, &tenant);
            async move {
                let outcome = client.result(tenant, &TaskId::parse(&part.task)?).await?;
                Ok::<_, HandlerError>((part.path, outcome))
            }
        })
        .buffer_unordered(READS_AT_ONCE);
    let mut found = HashMap::new();
    while let Some(result) = results.next().await {
        let (path, outcome) = result?;
        let file = counted(&outcome).ok_or_else(|| {
            HandlerError::permanent(
                "bad_result",
                format!("the result of {} is no count", outcome.task_id),
            )
        })?;
        found.insert(path, file);
        context.progress(found.len() as f64 / total as f64, "reading results");
    }
    Ok(Report::new(found))
}

/// The counts in a result: a handler's object, or the line that `wc` printed.
fn counted(outcome: &pb::Outcome) -> Option<File> {
    let value = outcome.result.as_ref()?.to_value();
    if let Some(text) = value.get("stdout").and_then(Value::as_str) {
        let mut numbers = text.split_whitespace().map_while(|word| word.parse::<u64>().ok());
        let counts = Counts { lines: numbers.next()?, bytes: numbers.next()? };
        return Some(File { counts, by: "shell" });
    }
    Some(File { counts: serde_json::from_value(value).ok()?, by: "handler" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_result_are_read() {
        let outcome = |text: &str| pb::Outcome {
            result: Some(pb::Json { text: text.into() }),
            ..pb::Outcome::default()
        };
        let shell = counted(&outcome(r#"{"exit":0,"stdout":"  3  44 a 1 b\n","stderr":""}"#))
            .expect("counts");
        assert_eq!((shell.counts.lines, shell.counts.bytes, shell.by), (3, 44, "shell"));
        let handler = counted(&outcome(r#"{"lines":3,"bytes":44}"#)).expect("counts");
        assert_eq!((handler.counts.lines, handler.counts.bytes, handler.by), (3, 44, "handler"));
        assert!(counted(&outcome("[]")).is_none());
    }
}
