//! **Pure.** A schedule: at which points in time, its *ticks*, which task is to be created. It is
//! checked and read once at the door; who decides about a tick is the scheduler.

mod calendar;
mod check;

use std::{fmt::Write as _, time::Duration};

use chrono::DateTime;
use sha2::{Digest as _, Sha256};

pub use self::calendar::Calendar;
use crate::{
    error::Violation,
    id::TaskId,
    limits,
    pb::{self, catch_up::Mode, schedule},
    task::TaskSpec,
    time::Timestamp,
};

/// A valid schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    when: When,
    starts_at: Timestamp,
    ends_at: Timestamp,
    jitter: Duration,
    /// What becomes of a tick while an earlier run is open.
    pub overlap: Overlap,
    /// Open runs at most.
    pub runs_max: usize,
    /// Which late ticks still have their run.
    pub catch_up: CatchUp,
    pause: Option<Pause>,
    task: pb::TaskSpec,
}

/// No tick is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    /// Until somebody resumes it.
    Open,
    /// There is none before this.
    Until(Timestamp),
}

/// When the ticks are.
#[derive(Clone, Debug, PartialEq)]
enum When {
    Cron(Box<Calendar>),
    Every { micros: i64, anchor: Timestamp },
    At(Timestamp),
}

/// What becomes of a tick while an earlier run is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlap {
    /// It has no run.
    Skip,
    /// Its run waits for the end of the earlier ones.
    Queue,
    /// The earlier ones are asked to end, and its run waits for that.
    CancelOlder,
    /// Its run goes beside them.
    Allow,
}

/// Which late ticks still have their run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatchUp {
    /// Those that are not later than this.
    pub window: Duration,
    /// The newest so many of them.
    pub max: usize,
}

/// Where a schedule stands: up to where its ticks were decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advanced {
    /// The schedule.
    pub name: String,
    /// No tick up to here has a run any more.
    pub through: Timestamp,
    /// The last tick that had one, where it is known.
    pub last: Option<Timestamp>,
    /// Why ticks have no run; empty when it only says again where the schedule stands.
    pub why: String,
}

impl Schedule {
    /// Checks a schedule, fills in the defaults, and reports everything that is wrong at once.
    pub fn parse(body: &pb::Schedule) -> Result<Self, Vec<Violation>> {
        let mut violations = check::violations(body);
        let when = match &body.when {
            None => Err(vec![check::missing_when()]),
            Some(schedule::When::Cron(cron)) => {
                Calendar::parse(cron, &body.time_zone).map(|read| When::Cron(Box::new(read)))
            }
            Some(schedule::When::Every(every)) => {
                let every = every.to_std().unwrap_or_default();
                let anchor = body.anchor.map(Timestamp::from).unwrap_or_default();
                // A period that is too short was found already.
                Ok(When::Every { micros: (every.as_micros() as i64).max(1), anchor })
            }
            Some(schedule::When::At(at)) => Ok(When::At((*at).into())),
        };
        let when = match when {
            Ok(when) if violations.is_empty() => when,
            Ok(_) => return Err(violations),
            Err(more) => {
                violations.extend(more);
                return Err(violations);
            }
        };
        let default = |given: Option<u32>, default| given.map_or(default, |n| n as usize);
        let task = body.task.clone().unwrap_or_default();
        Ok(Self {
            when,
            starts_at: body.starts_at.map(Timestamp::from).unwrap_or_default(),
            ends_at: body.ends_at.map_or(Timestamp::MAX, Timestamp::from),
            jitter: body.jitter.and_then(crate::wire::time::Duration::to_std).unwrap_or_default(),
            overlap: match body.overlap() {
                schedule::Overlap::Unspecified | schedule::Overlap::Skip => Overlap::Skip,
                schedule::Overlap::Queue => Overlap::Queue,
                schedule::Overlap::CancelOlder => Overlap::CancelOlder,
                schedule::Overlap::Allow => Overlap::Allow,
            },
            runs_max: default(body.runs_max, limits::SCHEDULE_RUNS_MAX),
            catch_up: catch_up(body.catch_up.unwrap_or_default()),
            pause: body
                .paused
                .then(|| body.paused_until.map_or(Pause::Open, |until| Pause::Until(until.into()))),
            task,
        })
    }

    /// Whether no tick comes until somebody resumes it.
    pub fn is_paused(&self) -> bool {
        self.pause == Some(Pause::Open)
    }

    /// The type that says how its runs are run.
    pub fn type_of_runs(&self) -> Option<&str> {
        let task = Some(&self.task).filter(|task| task.executor.is_none());
        task.map(|task| task.task_type.as_str()).filter(|name| !name.is_empty())
    }

    /// Until when it is paused, if that ends by itself.
    pub fn paused_until(&self) -> Option<Timestamp> {
        match self.pause? {
            Pause::Open => None,
            Pause::Until(until) => Some(until),
        }
    }

    /// Whether it is paused then.
    pub fn is_paused_at(&self, at: Timestamp) -> bool {
        self.is_paused() || self.paused_until().is_some_and(|until| until > at)
    }

    /// The first tick after this instant; a pause that ends by itself has none.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let begins = self.paused_until().unwrap_or_default().max(self.starts_at);
        let after = after.max(before(begins));
        let next = match &self.when {
            When::Cron(calendar) => calendar.next(after)?,
            When::Every { micros, anchor } => {
                let since = after.micros().saturating_sub(anchor.micros());
                let count = since.div_euclid(*micros).saturating_add(1).max(0);
                let length = count.checked_mul(*micros)?;
                Timestamp::from_micros(anchor.micros().checked_add(length)?)
            }
            When::At(at) => Some(*at).filter(|at| *at > after)?,
        };
        Some(next).filter(|next| *next < self.ends_at)
    }

    /// The ticks after this instant.
    pub fn ticks(&self, after: Timestamp) -> impl Iterator<Item = Timestamp> {
        std::iter::successors(self.next(after), |tick| self.next(*tick))
    }

    /// When a tick's task is created: within the jitter after it, always the same.
    pub fn fires_at(&self, name: &str, tick: Timestamp) -> Timestamp {
        if self.jitter.is_zero() {
            return tick;
        }
        let mut hash = Sha256::new();
        hash.update(name);
        hash.update([0]);
        hash.update(tick.micros().to_be_bytes());
        let hash = hash.finalize();
        let drawn = u32::from_be_bytes(*hash.first_chunk().expect("invariant: 32 bytes"));
        tick.after(self.jitter.mul_f64(f64::from(drawn) / 2_f64.powi(32)))
    }

    /// Longest time from a tick to its task.
    pub fn jitter(&self) -> Duration {
        self.jitter
    }

    /// Whether another schedule has the same ticks.
    pub fn has_ticks_of(&self, other: &Self) -> bool {
        (&self.when, self.starts_at, self.ends_at, self.jitter)
            == (&other.when, other.starts_at, other.ends_at, other.jitter)
    }

    /// The tenant whose tasks these are.
    pub fn tenant(&self) -> crate::id::Tenant {
        crate::id::Tenant::parse_or_default(&self.task.tenant).unwrap_or_default()
    }

    /// The task of a tick, which waits for the end of these.
    pub fn run(
        &self,
        name: &str,
        tick: Timestamp,
        waits_for: &[TaskId],
    ) -> Result<TaskSpec, Vec<Violation>> {
        let id = tick_id(name, tick).map(|id| id.to_string()).unwrap_or_default();
        let edge = |id: &TaskId| {
            let on = pb::dependency::On::End.into();
            pb::Dependency { task_id: id.to_string(), on }
        };
        let mut task = self.task_of(name, Some(tick));
        task.task_id = id;
        task.depends_on.extend(waits_for.iter().map(edge));
        TaskSpec::parse(task)
    }

    /// A run that somebody asks for, at no tick. With a key it is the same one each time.
    pub fn run_now(&self, name: &str, key: &str) -> Result<TaskSpec, Vec<Violation>> {
        let mut task = self.task_of(name, None);
        key.clone_into(&mut task.idempotency_key);
        TaskSpec::parse(task)
    }

    fn task_of(&self, name: &str, tick: Option<Timestamp>) -> pb::TaskSpec {
        let mut task = self.task.clone();
        task.schedule = Some(pb::Tick { name: name.to_owned(), tick: tick.map(Into::into) });
        if task.created_by.is_empty() {
            task.created_by = format!("schedule:{name}");
        }
        if task.title.is_empty() {
            name.clone_into(&mut task.title);
        }
        task
    }
}

/// Everything that is wrong with one in a document; empty when nothing is.
pub(super) fn violations(body: &pb::Schedule) -> Vec<Violation> {
    let wrong = Schedule::parse(body).err().into_iter().flatten();
    let named = |violation: Violation| Violation {
        field: format!("schedule.{}", violation.field),
        ..violation
    };
    wrong.map(named).collect()
}

/// The newest instant before this one.
pub fn before(at: Timestamp) -> Timestamp {
    Timestamp::from_micros(at.micros().saturating_sub(1))
}

fn catch_up(given: pb::CatchUp) -> CatchUp {
    let window = given.window.and_then(crate::wire::time::Duration::to_std);
    let window = window.unwrap_or(limits::CATCH_UP_WINDOW).max(limits::SCHEDULE_GRACE);
    match given.mode() {
        Mode::None => CatchUp { window: limits::SCHEDULE_GRACE, max: 1 },
        Mode::Unspecified | Mode::Last => CatchUp { window, max: 1 },
        Mode::All => {
            CatchUp { window, max: given.max.map_or(limits::CATCH_UP_TICKS, |max| max as usize) }
        }
    }
}

/// The id of a tick's task: the same whoever creates it, so that the log takes it once.
pub fn tick_id(name: &str, tick: Timestamp) -> Option<TaskId> {
    let at = DateTime::from_timestamp_micros(tick.micros())?;
    let mut text = format!("sched.{name}.{}", at.format("%Y%m%dT%H%M%S"));
    let micros = at.timestamp_subsec_micros();
    if micros > 0 {
        write!(text, ".{micros:06}").expect("invariant: a String takes all");
    }
    text.push('Z');
    TaskId::parse(&text).ok()
}

/// The schedule and tick that a submission is the run of, if its id is that of this tick. Whether it
/// is of the schedule's tenant is for who knows the schedule.
pub fn tick_of(spec: &TaskSpec) -> Option<(&str, Option<Timestamp>)> {
    let of = spec.as_pb().schedule.as_ref()?;
    let tick = of.tick.map(Timestamp::from);
    let fits = tick.is_none_or(|tick| {
        tick_id(&of.name, tick).is_some_and(|id| id.as_str() == spec.as_pb().task_id)
    });
    fits.then_some((of.name.as_str(), tick))
}

#[cfg(test)]
mod tests;
