//! **Pure.** What is wrong with a schedule, but for its cron expression.

use crate::{
    error::Violation,
    limits,
    pb::{self, schedule},
    task::TaskSpec,
    time::Timestamp,
    wire::time::Duration,
};

/// Longest name of a schedule, in a run that stands for all.
const NAME: &str = "x123456789x123456789x123456789x123456789x123456789x123456789x123";

pub(super) fn missing_when() -> Violation {
    let problem = "is missing: give one of cron, every and at".into();
    Violation { field: "cron".into(), problem }
}

/// Everything that is wrong; empty when nothing is.
pub(super) fn violations(body: &pb::Schedule) -> Vec<Violation> {
    let mut check = Check::default();
    check.times(body);
    check.counts(body);
    check.texts(body);
    check.task(body);
    check.violations
}

/// A field of the task as a path.
fn of_task(field: &str) -> String {
    ["task", field].join(".")
}

#[derive(Default)]
struct Check {
    violations: Vec<Violation>,
}

impl Check {
    fn wrong(&mut self, field: &str, problem: impl Into<String>) {
        self.violations.push(Violation { field: field.into(), problem: problem.into() });
    }

    fn times(&mut self, body: &pb::Schedule) {
        let at = match &body.when {
            Some(schedule::When::At(at)) => Some(*at),
            Some(schedule::When::Cron(_) | schedule::When::Every(_)) | None => None,
        };
        let given = [
            ("at", at),
            ("anchor", body.anchor),
            ("starts_at", body.starts_at),
            ("ends_at", body.ends_at),
            ("paused_until", body.paused_until),
        ];
        for (field, time) in given {
            let fits = |t: Timestamp| (Timestamp::default()..=Timestamp::MAX).contains(&t);
            if time.is_some_and(|t| !fits(t.into())) {
                self.wrong(field, "must be between the years 1970 and 9999");
            }
        }
        if body.paused_until.is_some() && !body.paused {
            self.wrong("paused_until", "is for a schedule with `paused: true`");
        }
        if let (Some(start), Some(end)) = (body.starts_at, body.ends_at)
            && Timestamp::from(end) <= Timestamp::from(start)
        {
            self.wrong("ends_at", "must be after starts_at");
        }
        if !body.time_zone.is_empty() && !matches!(body.when, Some(schedule::When::Cron(_))) {
            self.wrong("time_zone", "is for cron; intervals and instants need none");
        }
        if body.anchor.is_some() && !matches!(body.when, Some(schedule::When::Every(_))) {
            self.wrong("anchor", "is for every");
        }
        let jitter = body.jitter.map_or(Some(std::time::Duration::ZERO), Duration::to_std);
        if jitter.is_none_or(|jitter| jitter > limits::SCHEDULE_JITTER_MAX) {
            self.wrong("jitter", "must be 0 to 24 hours");
        }
        if let Some(schedule::When::Every(every)) = &body.when {
            let range = limits::SCHEDULE_EVERY_MIN..=limits::DURATION_MAX;
            if every.to_std().is_none_or(|every| !range.contains(&every)) {
                self.wrong("every", "must be 1 second to 366 days");
            } else if jitter > every.to_std() {
                self.wrong("jitter", "must be at most the interval");
            }
        }
        if let Some(window) = body.catch_up.and_then(|c| c.window)
            && window.to_std().is_none_or(|window| window > limits::DURATION_MAX)
        {
            self.wrong("catch_up.window", "must be 0 to 366 days");
        }
    }

    fn counts(&mut self, body: &pb::Schedule) {
        let fits =
            |given: Option<u32>, max| given.is_none_or(|n| (1..=max).contains(&(n as usize)));
        if !fits(body.runs_max, limits::SCHEDULE_RUNS_MAX) {
            self.wrong("runs_max", format!("must be 1 to {}", limits::SCHEDULE_RUNS_MAX));
        }
        let catch_up = body.catch_up.unwrap_or_default();
        if !fits(catch_up.max, limits::CATCH_UP_TICKS_MAX) {
            self.wrong("catch_up.max", format!("must be 1 to {}", limits::CATCH_UP_TICKS_MAX));
        }
        if schedule::Overlap::try_from(body.overlap).is_err() {
            self.wrong("overlap", "must be skip, queue, cancel_older or allow");
        }
        match pb::catch_up::Mode::try_from(catch_up.mode) {
            Err(_) => self.wrong("catch_up.mode", "must be none, last or all"),
            Ok(pb::catch_up::Mode::None) if catch_up.window.is_some() => {
                self.wrong("catch_up.window", "is for the modes last and all");
            }
            Ok(_) => {}
        }
        if catch_up.max.is_some() && catch_up.mode() != pb::catch_up::Mode::All {
            self.wrong("catch_up.max", "is for the mode all");
        }
    }

    fn texts(&mut self, body: &pb::Schedule) {
        let cron = match &body.when {
            Some(schedule::When::Cron(cron)) => cron.as_str(),
            Some(schedule::When::Every(_) | schedule::When::At(_)) | None => "",
        };
        for (field, text, max) in [
            ("cron", cron, limits::CRON_BYTES_MAX),
            ("pause_reason", &body.pause_reason, limits::TEXT_BYTES_MAX),
            ("description", &body.description, limits::TEXT_BYTES_MAX),
        ] {
            if text.len() > max {
                self.wrong(field, format!("must have at most {max} bytes; it has {}", text.len()));
            }
        }
    }

    fn task(&mut self, body: &pb::Schedule) {
        let Some(task) = &body.task else {
            return self.wrong("task", "is missing: say what is to be created at each tick");
        };
        for (field, given) in [
            ("task_id", !task.task_id.is_empty()),
            ("idempotency_key", !task.idempotency_key.is_empty()),
            ("retry_of", !task.retry_of.is_empty()),
            ("traceparent", !task.traceparent.is_empty()),
            ("schedule", task.schedule.is_some()),
        ] {
            if given {
                self.wrong(&of_task(field), "must be empty: each run has its own");
            }
        }
        if task.run_at.is_some() {
            self.wrong(
                &of_task("run_at"),
                "must be empty: the schedule says when; a delay may follow",
            );
        }
        if task.deadline.is_some() {
            self.wrong(
                &of_task("deadline"),
                "would be the same for every run: give task.sla_hours",
            );
        }
        let own = [&task.task_id, &task.idempotency_key, &task.retry_of];
        let mut probe = task.clone();
        if own.iter().all(|text| text.is_empty()) {
            // The longest that a run can become: it waits for all others.
            probe.task_id = "x".repeat(limits::TASK_ID_BYTES_MAX);
            probe.schedule =
                Some(pb::Tick { name: NAME.into(), tick: Some(Timestamp::MAX.into()) });
            let id = format!("{NAME}{NAME}");
            let wait = pb::Dependency { task_id: id, on: pb::dependency::On::End.into() };
            probe.depends_on.extend(vec![wait; limits::SCHEDULE_RUNS_MAX]);
        }
        (probe.run_at, probe.deadline) = (None, None);
        for violation in TaskSpec::parse(probe).err().into_iter().flatten() {
            let field = of_task(&violation.field);
            if !self.violations.iter().any(|known| known.field == field) {
                self.violations.push(Violation { field, ..violation });
            }
        }
    }
}

/// The name of a run's id is no longer than that of the probe.
const _: () = assert!(NAME.len() == limits::NAME_BYTES_MAX);
