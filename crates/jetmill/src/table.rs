//! Tables, times and states as people read them.

use std::time::Duration;

use anstream::{AutoStream, ColorChoice};
use comfy_table::{Cell, Color, ContentArrangement, Table, TableStyle};
use common::{
    lifecycle::state_word,
    pb::{self, TaskState},
    time::Timestamp,
    wire::time as wire,
};

/// Whether standard output takes colours.
fn is_coloured() -> bool {
    AutoStream::choice(&std::io::stdout()) != ColorChoice::Never
}

/// An empty table.
pub(crate) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(TableStyle::new()).set_content_arrangement(ContentArrangement::Dynamic);
    if is_coloured() {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table
        .set_header(header.map(|name| Cell::new(name).add_attribute(comfy_table::Attribute::Bold)));
    table
}

/// A cell that says a state in its colour.
pub(crate) fn state(task: &pb::Task) -> Cell {
    let state = task.state();
    Cell::new(state_text(task)).fg(color(state))
}

/// The state with what goes with it.
pub(crate) fn state_text(task: &pb::Task) -> String {
    let word = state_word(task.state());
    match task.state() {
        TaskState::Failed => format!("{word} ({})", cause(task.cause())),
        TaskState::Running if task.cancel_requested => format!("{word} (cancel asked)"),
        TaskState::Running => match task.progress {
            Some(fraction) => format!("{word} ({:.0} %)", fraction * 100.0),
            None => word.to_owned(),
        },
        TaskState::Unspecified
        | TaskState::Pending
        | TaskState::Completed
        | TaskState::Cancelled
        | TaskState::Skipped => word.to_owned(),
    }
}

/// The word of a cause.
pub(crate) fn cause(cause: pb::Cause) -> &'static str {
    common::lifecycle::Cause::from_pb(cause).as_str()
}

fn color(state: TaskState) -> Color {
    match state {
        TaskState::Unspecified | TaskState::Pending => Color::Yellow,
        TaskState::Running => Color::Cyan,
        TaskState::Completed => Color::Green,
        TaskState::Failed => Color::Red,
        TaskState::Cancelled | TaskState::Skipped => Color::DarkGrey,
    }
}

/// A duration in at most two units: `250ms`, `1.5s`, `3m 20s`.
pub(crate) fn duration(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0 if length.as_micros() < 1_000 => format!("{}µs", length.as_micros()),
        0 => format!("{}ms", length.as_millis()),
        1..60 => format!("{:.1}s", length.as_secs_f64()),
        60..3_600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// A duration of a message; empty when there is none.
pub(crate) fn wire_duration(length: Option<wire::Duration>) -> String {
    length.and_then(wire::Duration::to_std).map(duration).unwrap_or_default()
}

/// How long ago, or in how long; empty when it is not known.
pub(crate) fn relative(now: Timestamp, at: Option<wire::Timestamp>) -> String {
    let Some(at) = at.map(Timestamp::from) else { return String::new() };
    let whole = |length: Duration| duration(Duration::from_secs(length.as_secs()));
    match at > now {
        true => format!("in {}", whole(at.since(now))),
        false if now.since(at) < Duration::from_secs(1) => "now".to_owned(),
        false => format!("{} ago", whole(now.since(at))),
    }
}

/// The exact time and how long ago that was.
pub(crate) fn exact(now: Timestamp, at: Option<wire::Timestamp>) -> String {
    let Some(time) = at.map(Timestamp::from) else { return String::new() };
    format!("{time} ({})", relative(now, at))
}

/// A number of bytes: `512 B`, `1.5 MB`.
pub(crate) fn bytes(count: u64) -> String {
    let units = ["kB", "MB", "GB", "TB"];
    let mut value = count as f64;
    let mut unit = "B";
    for next in units {
        if value < 1_000.0 {
            break;
        }
        value /= 1_000.0;
        unit = next;
    }
    if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") }
}

/// A text cut to so many characters.
pub(crate) fn cut(text: &str, max: usize) -> String {
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() <= max {
        return line.to_owned();
    }
    line.chars().take(max.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_read_well() {
        assert_eq!(duration(Duration::from_micros(40)), "40µs");
        assert_eq!(duration(Duration::from_millis(250)), "250ms");
        assert_eq!(duration(Duration::from_secs(200)), "3m 20s");
        assert_eq!(duration(Duration::from_secs(200_000)), "2d 7h");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_500_000), "1.5 MB");
        assert_eq!(cut("abcdef\nx", 4), "abc…");
        let now = Timestamp::from_unix(1_000, 0);
        let at = |s| Some(wire::Timestamp::from(Timestamp::from_unix(s, 0)));
        assert_eq!(relative(now, at(940)), "1m 0s ago");
        assert_eq!(relative(now, at(1_010)), "in 10.0s");
        assert_eq!(relative(now, None), "");
    }
}
