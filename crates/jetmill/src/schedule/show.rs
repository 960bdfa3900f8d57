//! A schedule as people read it.

use common::{
    pb::{self, catch_up::Mode, schedule},
    time::Timestamp,
    wire::time::Duration,
};

use crate::{connect::Session, pause, table};

/// When it comes, in one line.
pub(super) fn when(body: &pb::Schedule) -> String {
    match &body.when {
        Some(schedule::When::Cron(cron)) if body.time_zone.is_empty() => cron.clone(),
        Some(schedule::When::Cron(cron)) => format!("{cron} {}", body.time_zone),
        Some(schedule::When::Every(every)) => {
            let every = every.to_std().map(table::duration).unwrap_or_default();
            format!("every {every}")
        }
        Some(schedule::When::At(at)) => format!("at {}", Timestamp::from(*at)),
        None => String::new(),
    }
}

/// Why nothing comes, if nothing does.
pub(super) fn standing(body: &pb::Schedule, comes: bool, now: Timestamp) -> String {
    let lasts = body.paused_until.is_none_or(|until| Timestamp::from(until) > now);
    match body.paused && lasts {
        true => pause::text(now, body.paused_until, &body.pause_reason),
        false if !comes => "over".into(),
        false => String::new(),
    }
}

/// Everything about it.
pub(super) fn text(state: &pb::ScheduleState) -> String {
    let now = Session::now();
    let body = state.schedule.clone().unwrap_or_default();
    let time = |at: Option<common::wire::time::Timestamp>| table::exact(now, at);
    let duration = |given: Option<Duration>| table::wire_duration(given);
    let catch_up = body.catch_up.unwrap_or_default();
    let comes = !state.next.is_empty();
    let mut lines = vec![
        ("schedule", format!("{} (version {})", state.name, state.version)),
        ("when", when(&body)),
        ("state", standing(&body, comes, now)),
        ("starts", time(body.starts_at)),
        ("ends", time(body.ends_at)),
        ("overlap", overlap(&body).to_owned()),
        ("runs at most", body.runs_max.map(|most| most.to_string()).unwrap_or_default()),
        ("catch-up", mode(catch_up).to_owned()),
        ("catch-up window", duration(catch_up.window)),
        ("catch-up max", catch_up.max.map(|max| max.to_string()).unwrap_or_default()),
        ("jitter", duration(body.jitter)),
        ("description", body.description.clone()),
        ("last tick run", time(state.last)),
        ("decided up to", time(state.decided)),
        ("open runs", state.open_runs.join(", ")),
    ];
    lines.extend(state.next.iter().map(|fire| ("next", time(fire.at))));
    let mut text = String::new();
    for (name, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        text.extend([format!("{:<17}{value}\n", format!("{name}:"))]);
    }
    let task = serde_json::to_string_pretty(&body.task).unwrap_or_default();
    text.extend([format!("task of each run:\n{task}")]);
    text
}

fn overlap(body: &pb::Schedule) -> &'static str {
    match body.overlap() {
        schedule::Overlap::Unspecified | schedule::Overlap::Skip => "skip",
        schedule::Overlap::Queue => "queue",
        schedule::Overlap::CancelOlder => "cancel_older",
        schedule::Overlap::Allow => "allow",
    }
}

fn mode(catch_up: pb::CatchUp) -> &'static str {
    match catch_up.mode() {
        Mode::None => "none",
        Mode::Unspecified | Mode::Last => "last",
        Mode::All => "all",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_reads_in_one_line() {
        let cron = |time_zone: &str| pb::Schedule {
            when: Some(schedule::When::Cron("0 2 * * *".into())),
            time_zone: time_zone.into(),
            ..pb::Schedule::default()
        };
        assert_eq!(when(&cron("")), "0 2 * * *");
        assert_eq!(when(&cron("Europe/Berlin")), "0 2 * * * Europe/Berlin");
        let every = Duration { seconds: 90, nanos: 0 };
        let body =
            pb::Schedule { when: Some(schedule::When::Every(every)), ..pb::Schedule::default() };
        let now = Timestamp::from_unix(60, 0);
        assert_eq!(
            (when(&body), standing(&body, false, now)),
            ("every 1m 30s".into(), "over".into())
        );
        let held = pb::Schedule { paused: true, pause_reason: "night".into(), ..body };
        assert_eq!(standing(&held, false, now), "paused: night");
        let timed = |seconds| pb::Schedule {
            paused_until: Some(Timestamp::from_unix(seconds, 0).into()),
            ..held.clone()
        };
        let until = "paused until 1970-01-01T00:02:00.000000Z (in 1m 0s): night";
        assert_eq!(standing(&timed(120), true, now), until);
        assert_eq!(standing(&timed(60), true, now), "", "it ended by itself");
    }
}
