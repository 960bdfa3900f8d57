//! One rule at a time.

use std::time::Duration;

use common::{
    id::{TaskId, TaskKey, Tenant},
    pb,
    policy::schedule::{Advanced, Schedule, tick_id},
    task::TaskSpec,
    time::Timestamp,
};
use serde_json::{Value, json};

use super::{
    super::{Order, Run, Schedules},
    schedule,
};

fn at(text: &str) -> Timestamp {
    Timestamp::parse(&format!("2026-06-01T{text}Z")).unwrap()
}

fn hourly(more: &Value) -> Schedule {
    let mut fields = json!({ "cron": "0 * * * *" });
    for (field, value) in more.as_object().unwrap() {
        fields[field] = value.clone();
    }
    schedule(&fields)
}

fn key(id: &TaskId) -> TaskKey {
    TaskKey::new(&Tenant::default(), id)
}

/// Schedules that fold what they decide.
struct Book {
    schedules: Schedules,
    sequence: u64,
}

impl Book {
    fn new(schedule: Schedule, since: &str) -> Self {
        let mut book = Self { schedules: Schedules::default(), sequence: 1 };
        book.schedules.lead(at(since));
        book.schedules.set("s", schedule, at(since));
        book
    }

    /// What is decided now, each as a line.
    fn now(&mut self, now: &str) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(order) = self.schedules.orders(at(now), 1).pop() {
            self.sequence += 1;
            lines.push(match &order {
                Order::Advance(advanced) => {
                    self.schedules.advanced(advanced, self.sequence);
                    format!("{} {}", advanced.why, clock(advanced.through))
                }
                Order::Create { tick, spec, cancel, .. } => {
                    let id = spec.id().unwrap();
                    self.schedules.created(spec, self.sequence);
                    self.schedules.opened("s", Run { key: key(&id), id });
                    let (waits, cancels) = (spec.depends_on().len(), cancel.len());
                    format!("run {} waits {waits} cancels {cancels}", clock(*tick))
                }
            });
        }
        lines
    }

    fn end(&mut self, tick: &str) {
        let id = format!("sched.s.20260601T{}Z", tick.replace(':', ""));
        self.schedules.ended(key(&TaskId::parse(&id).unwrap()));
    }

    fn open(&self) -> usize {
        self.schedules.get("s").map_or(0, |known| known.runs.len())
    }
}

fn clock(at: Timestamp) -> String {
    at.to_string()[11..].trim_end_matches(".000000Z").to_owned()
}

#[test]
fn a_tick_is_decided_once_and_then_the_next_alarm_is_set() {
    let mut book = Book::new(hourly(&json!({})), "08:30:00");
    assert_eq!(book.schedules.next_alarm(), Some(at("09:00:00")));
    assert_eq!(book.now("08:59:59"), [""; 0]);
    assert_eq!(book.now("09:00:00.2"), ["run 09:00:00 waits 0 cancels 0"]);
    assert_eq!(book.now("09:00:00.3"), [""; 0]);
    assert_eq!(book.schedules.next_alarm(), Some(at("10:00:00")));
}

#[test]
fn what_is_on_its_way_into_the_log_is_not_decided_again() {
    let mut book = Book::new(hourly(&json!({ "overlap": "allow" })), "08:30:00");
    assert_eq!(book.schedules.orders(at("09:00:00"), 9).len(), 1);
    assert_eq!(book.schedules.orders(at("10:00:00"), 9).len(), 0);
    assert_eq!(book.schedules.next_alarm(), None);
    book.schedules.put_back("s", at("10:00:01"));
    assert_eq!(book.schedules.next_alarm(), Some(at("10:00:01")));
    assert_eq!(book.now("10:00:00"), [""; 0]);
    // Its turn is over: by the default the last has its run.
    assert_eq!(book.now("10:00:01"), ["late 09:59:59.999999Z", "run 10:00:00 waits 0 cancels 0"]);
}

#[test]
fn each_overlap_does_what_it_says() {
    let days = |overlap: &str| {
        let more = json!({ "overlap": overlap, "runs_max": 2 });
        let mut book = Book::new(hourly(&more), "08:30:00");
        let mut lines = book.now("09:00:00");
        lines.extend(book.now("10:00:00"));
        lines.extend(book.now("11:00:00"));
        book.end("09:00:00");
        lines.extend(book.now("12:00:00"));
        (lines.join(", "), book.open())
    };
    let (lines, open) = days("skip");
    let run = "run 09:00:00 waits 0 cancels 0";
    let skips = "overlap 10:00:00, overlap 11:00:00, run 12:00:00 waits 0 cancels 0";
    assert_eq!((lines, open), (format!("{run}, {skips}"), 1));
    let (lines, open) = days("queue");
    let waits = "run 10:00:00 waits 1 cancels 0, full 11:00:00, run 12:00:00 waits 1 cancels 0";
    assert_eq!((lines, open), (format!("{run}, {waits}"), 2));
    let (lines, open) = days("cancel_older");
    let cancels = "run 10:00:00 waits 1 cancels 1, full 11:00:00, run 12:00:00 waits 1 cancels 1";
    assert_eq!((lines, open), (format!("{run}, {cancels}"), 2));
    let (lines, open) = days("allow");
    let beside = "run 10:00:00 waits 0 cancels 0, full 11:00:00, run 12:00:00 waits 0 cancels 0";
    assert_eq!((lines, open), (format!("{run}, {beside}"), 2));
}

#[test]
fn each_catch_up_does_what_it_says() {
    let after = |catch_up: Value, now: &str| {
        let more = json!({ "overlap": "allow", "catch_up": catch_up });
        let mut book = Book::new(hourly(&more), "08:30:00");
        book.now("09:00:00");
        // Nobody leads for a while.
        book.now(now).join(", ")
    };
    let run = |hour: u32| format!("run {hour}:00:00 waits 0 cancels 0");
    assert_eq!(after(json!({ "mode": "none" }), "13:30:00"), "late 13:30:00");
    let (late, thirteen) = ("late 12:59:59.999999Z", run(13));
    assert_eq!(after(json!({ "mode": "none" }), "13:00:59"), format!("{late}, {thirteen}"));
    assert_eq!(after(json!({ "mode": "last" }), "13:30:00"), format!("{late}, {thirteen}"));
    assert_eq!(after(json!({ "mode": "last", "window": "20m" }), "13:30:00"), "late 13:30:00");
    let all = [run(10), run(11), run(12), run(13)].join(", ");
    assert_eq!(after(json!({ "mode": "all" }), "13:30:00"), all);
    let two = format!("late 11:59:59.999999Z, {}, {}", run(12), run(13));
    assert_eq!(after(json!({ "mode": "all", "max": 2 }), "13:30:00"), two);
    assert_eq!(after(json!({ "mode": "all", "window": "2h" }), "13:30:00"), two);
}

#[test]
fn a_pause_is_not_made_up_for() {
    let mut book = Book::new(hourly(&json!({})), "08:30:00");
    book.schedules.set("s", hourly(&json!({ "paused": true })), at("08:40:00"));
    assert_eq!(book.schedules.next_alarm(), None);
    assert_eq!(book.now("10:30:00"), [""; 0]);
    book.schedules.set("s", hourly(&json!({})), at("10:40:00"));
    assert_eq!(book.now("10:41:00"), [""; 0]);
    assert_eq!(book.now("11:00:00").len(), 1);
}

#[test]
fn a_pause_may_end_by_itself_and_is_not_made_up_for() {
    let mut book = Book::new(hourly(&json!({ "catch_up": { "mode": "all" } })), "08:30:00");
    let paused = |until: &str| {
        let until = at(until).to_string();
        hourly(&json!({ "paused": true, "paused_until": until, "catch_up": { "mode": "all" } }))
    };
    book.schedules.set("s", paused("10:30:00"), at("08:40:00"));
    assert_eq!(book.schedules.next_alarm(), Some(at("11:00:00")));
    assert_eq!(book.now("10:59:59"), [""; 0]);
    assert_eq!(book.now("11:00:00"), ["run 11:00:00 waits 0 cancels 0"]);
    // Of a pause that is over nothing follows when its schedule changes.
    book.schedules.set("s", paused("12:30:00"), at("11:40:00"));
    let all = || hourly(&json!({ "catch_up": { "mode": "all" }, "overlap": "allow" }));
    book.schedules.set("s", all(), at("12:40:00"));
    assert_eq!(book.now("13:00:00"), ["run 13:00:00 waits 0 cancels 0"]);
    // Who resumes it before its end has the ticks from then on.
    book.schedules.set("s", paused("20:00:00"), at("13:40:00"));
    book.schedules.set("s", all(), at("14:40:00"));
    assert_eq!(book.now("15:00:00"), ["run 15:00:00 waits 0 cancels 0"]);
}

#[test]
fn a_change_of_the_ticks_begins_when_it_is_made_and_another_change_loses_none() {
    let mut book = Book::new(hourly(&json!({})), "08:30:00");
    // Nobody led at nine; the new version has the same ticks.
    book.schedules.set("s", hourly(&json!({ "overlap": "allow" })), at("09:10:00"));
    assert_eq!(book.now("09:10:01"), ["run 09:00:00 waits 0 cancels 0"]);
    book.schedules.set("s", schedule(&json!({ "cron": "5 * * * *" })), at("09:20:00"));
    assert_eq!(book.now("09:20:01"), [""; 0], "09:05 was before the change");
    assert_eq!(book.schedules.next_alarm(), Some(at("10:05:00")));
}

#[test]
fn what_was_removed_does_not_fire_and_comes_back_as_new() {
    let mut book = Book::new(hourly(&json!({})), "08:30:00");
    book.now("09:00:00");
    book.schedules.remove("s");
    assert_eq!((book.now("10:00:00"), book.open()), (vec![], 1));
    book.schedules.set("s", hourly(&json!({})), at("10:30:00"));
    assert_eq!(book.now("11:00:00"), ["overlap 11:00:00"], "its run of nine is open");
    book.schedules.remove("s");
    book.end("09:00:00");
    assert!(book.schedules.get("s").is_none());
    assert_eq!(book.schedules.next_alarm(), None);
}

#[test]
fn jitter_moves_the_run_and_not_the_tick() {
    let jittery = hourly(&json!({ "jitter": "30m" }));
    let fires = jittery.fires_at("s", at("09:00:00"));
    assert!(fires > at("09:00:00") && fires < at("09:30:00"));
    let mut book = Book::new(jittery, "08:30:00");
    assert_eq!(book.schedules.next_alarm(), Some(fires));
    assert_eq!(book.schedules.orders(Timestamp::from_micros(fires.micros() - 1), 9).len(), 0);
    let orders = book.schedules.orders(fires, 9);
    assert!(matches!(&orders[..], [Order::Create { tick, .. }] if *tick == at("09:00:00")));
}

#[test]
fn an_outage_of_years_is_over_at_once() {
    let second = schedule(&json!({
        "cron": "* * * * * *",
        "overlap": "allow",
        "catch_up": { "mode": "all", "window": "366d", "max": 3 },
    }));
    let mut book = Book { schedules: Schedules::default(), sequence: 1 };
    book.schedules.lead(Timestamp::default());
    book.schedules.set("s", second, Timestamp::from_unix(1_000_000_000, 0));
    let lines = book.now("09:00:00");
    assert_eq!(lines.len(), 4);
    assert_eq!(
        lines[1..],
        ["08:59:58", "08:59:59", "09:00:00"].map(|t| format!("run {t} waits 0 cancels 0"))
    );
}

#[test]
fn who_begins_at_a_floor_is_told_where_each_stands() {
    let mut book = Book::new(hourly(&json!({})), "08:30:00");
    let told =
        Advanced { name: "s".into(), through: at("08:30:00"), last: None, why: String::new() };
    assert_eq!(book.schedules.to_state(1), [told], "no message has said so");
    book.now("09:00:00");
    let told = book.schedules.to_state(3);
    assert_eq!((told[0].through, told[0].last), (at("09:00:00"), Some(at("09:00:00"))));
    assert_eq!(book.schedules.to_state(2), [], "the run itself is told");
    book.schedules.advanced(&told[0], 9);
    assert_eq!(book.schedules.to_state(9), []);
    let mut fresh = Schedules::default();
    fresh.learn("s", hourly(&json!({})));
    fresh.advanced(&told[0], 9);
    fresh.lead(at("13:00:00"));
    assert_eq!(fresh.next_alarm(), Some(at("10:00:00")));
}

#[test]
fn a_run_that_somebody_asks_for_counts_and_moves_nothing() {
    let hourly = hourly(&json!({}));
    let mut book = Book::new(hourly.clone(), "08:30:00");
    let id = TaskId::parse("by-hand").unwrap();
    let spec = hourly.run_now("s", "").unwrap().with_id(&id);
    book.schedules.created(&spec, 5);
    book.schedules.opened("s", Run { key: key(&id), id: id.clone() });
    assert_eq!(book.now("09:00:00"), ["overlap 09:00:00"]);
    book.schedules.ended(key(&id));
    assert_eq!(book.now("10:00:00"), ["run 10:00:00 waits 0 cancels 0"]);
}

#[test]
fn nobody_moves_a_schedule_by_saying_that_he_is_its_run() {
    let mut book = Book::new(hourly(&json!({})), "08:30:00");
    let forged = pb::TaskSpec {
        task_id: "mine".into(),
        schedule: Some(pb::Tick { name: "s".into(), tick: Some(at("23:00:00").into()) }),
        ..pb::TaskSpec::default()
    };
    let spec = TaskSpec::parse(forged).unwrap();
    book.schedules.created(&spec, 5);
    // With the id of the tick, but of somebody else; and a run of theirs is none of this schedule's.
    let tick = at("23:00:00");
    let id = tick_id("s", tick).unwrap();
    let theirs = pb::TaskSpec {
        tenant: "other".into(),
        task_id: id.to_string(),
        schedule: Some(pb::Tick { name: "s".into(), tick: Some(tick.into()) }),
        ..pb::TaskSpec::default()
    };
    let spec = TaskSpec::parse(theirs).unwrap();
    book.schedules.created(&spec, 6);
    book.schedules.opened("s", Run { key: TaskKey::new(&spec.tenant(), &id), id });
    assert_eq!(book.now("09:00:00"), ["run 09:00:00 waits 0 cancels 0"]);
}

#[test]
fn a_day_of_many_schedules_costs_as_many_decisions() {
    let mut schedules = Schedules::default();
    schedules.lead(at("08:30:00"));
    for n in 0..500 {
        schedules.set(&format!("s{n}"), hourly(&json!({ "jitter": "10m" })), at("08:30:00"));
    }
    let mut now = at("08:30:00");
    let mut fired = 0;
    while let Some(alarm) = schedules.next_alarm().filter(|at_| *at_ < at("12:30:00")) {
        assert!(alarm >= now, "an alarm is not before its time");
        now = alarm;
        for order in schedules.orders(now, 1_000) {
            fired += 1;
            let Order::Create { spec, .. } = order else { continue };
            let id = spec.id().unwrap();
            schedules.created(&spec, fired);
            let (name, run) = (spec.as_pb().schedule.as_ref().unwrap().name.clone(), key(&id));
            schedules.opened(&name, Run { key: run, id });
            schedules.ended(run);
        }
    }
    assert_eq!(fired, 4 * 500);
    assert!(now.since(at("12:00:00")) < Duration::from_mins(10));
}
