use serde_json::{Value, json};

use super::*;

fn body(fields: &Value) -> pb::Schedule {
    let mut body = json!({ "task": { "executor": { "shell": { "argv": ["true"] } } } });
    let object = body.as_object_mut().unwrap();
    for (field, value) in fields.as_object().unwrap() {
        object.insert(field.clone(), value.clone());
    }
    serde_json::from_value(body).unwrap()
}

fn schedule(fields: &Value) -> Schedule {
    Schedule::parse(&body(fields)).unwrap()
}

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap_or_else(|| panic!("{text}"))
}

/// The ticks from one instant to another.
fn ticks(schedule: &Schedule, from: &str, to: &str) -> Vec<String> {
    let ticks = schedule.ticks(before(at(from))).take_while(|tick| *tick < at(to));
    ticks.map(|tick| tick.to_string().replace(".000000", "")).collect()
}

#[track_caller]
fn cron(expression: &str, zone: &str, (from, to): (&str, &str), expected: &[&str]) {
    let schedule = schedule(&json!({ "cron": expression, "time_zone": zone }));
    assert_eq!(ticks(&schedule, from, to), expected, "{expression} in {zone}");
}

const SPRING: (&str, &str) = ("2026-03-29T00:00:00Z", "2026-03-29T04:00:00Z");
const AUTUMN: (&str, &str) = ("2026-10-24T23:30:00Z", "2026-10-25T02:30:00Z");

#[test]
fn a_fixed_time_that_the_clock_jumps_over_comes_right_after_the_jump() {
    // Berlin: at 01:00 UTC, 02:00 becomes 03:00.
    cron("30 2 * * *", "Europe/Berlin", SPRING, &["2026-03-29T01:00:00Z"]);
    cron("0,15,30 2 * * *", "Europe/Berlin", SPRING, &["2026-03-29T01:00:00Z"]);
    cron(
        "0 1-4 * * *",
        "Europe/Berlin",
        SPRING,
        &["2026-03-29T00:00:00Z", "2026-03-29T01:00:00Z", "2026-03-29T02:00:00Z"],
    );
    // Lord Howe: at 15:30 UTC, 02:00 becomes 02:30.
    let spring = ("2026-10-03T15:00:00Z", "2026-10-03T16:30:00Z");
    cron("15 2 * * *", "Australia/Lord_Howe", spring, &["2026-10-03T15:30:00Z"]);
    cron("45 2 * * *", "Australia/Lord_Howe", spring, &["2026-10-03T15:45:00Z"]);
}

#[test]
fn a_fixed_time_that_the_clock_shows_twice_comes_once() {
    // Berlin: at 01:00 UTC, 03:00 becomes 02:00.
    cron("30 2 * * *", "Europe/Berlin", AUTUMN, &["2026-10-25T00:30:00Z"]);
    cron("0 2,3 * * *", "Europe/Berlin", AUTUMN, &["2026-10-25T00:00:00Z", "2026-10-25T02:00:00Z"]);
    // Lord Howe: at 15:00 UTC, 02:00 becomes 01:30.
    let autumn = ("2026-04-04T14:00:00Z", "2026-04-04T16:00:00Z");
    cron("45 1 * * *", "Australia/Lord_Howe", autumn, &["2026-04-04T14:45:00Z"]);
}

#[test]
fn repeating_times_follow_the_wall_clock_through_both_changes() {
    let halves = |from: u32| {
        let time = |n| format!("2026-03-29T{:02}:{:02}:00Z", n / 2, n % 2 * 30);
        (from..8).map(time).collect::<Vec<_>>()
    };
    let expected = halves(0);
    cron(
        "*/30 * * * *",
        "Europe/Berlin",
        SPRING,
        &expected.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    cron("* 2 * * *", "Europe/Berlin", SPRING, &[]);
    let both = ["2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z"];
    cron("0 */2 * * *", "Europe/Berlin", ("2026-10-25T00:00:00Z", "2026-10-25T02:00:00Z"), &both);
    cron(
        "*/20 1 * * *",
        "Australia/Lord_Howe",
        ("2026-04-04T14:00:00Z", "2026-04-04T16:00:00Z"),
        &[
            "2026-04-04T14:00:00Z",
            "2026-04-04T14:20:00Z",
            "2026-04-04T14:40:00Z",
            // 01:40, the second time.
            "2026-04-04T15:10:00Z",
        ],
    );
    cron(
        "@hourly",
        "Europe/Berlin",
        AUTUMN,
        &both[..].iter().chain(&["2026-10-25T02:00:00Z"]).copied().collect::<Vec<_>>(),
    );
}

#[test]
fn a_midnight_that_there_is_not_comes_at_one() {
    // Cairo: at 22:00 UTC, 00:00 becomes 01:00.
    let change = ("2026-04-23T20:00:00Z", "2026-04-24T20:00:00Z");
    cron("@daily", "Africa/Cairo", change, &["2026-04-23T22:00:00Z"]);
}

#[test]
fn leap_days_and_the_last_days_of_months_are_known() {
    let years = ("2026-01-01T00:00:00Z", "2033-01-01T00:00:00Z");
    cron("0 0 29 2 *", "", years, &["2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"]);
    let winter = ("2028-02-01T00:00:00Z", "2028-04-01T00:00:00Z");
    cron("0 12 L * *", "UTC", winter, &["2028-02-29T12:00:00Z", "2028-03-31T12:00:00Z"]);
    cron("15 0 12 * * MON#1", "UTC", winter, &["2028-02-07T12:00:15Z", "2028-03-06T12:00:15Z"]);
}

#[test]
fn intervals_count_real_time_from_their_anchor() {
    let every = schedule(&json!({ "every": "90s", "anchor": "2026-03-29T00:59:00Z" }));
    assert_eq!(
        ticks(&every, "2020-01-01T00:00:00Z", "2026-03-29T01:03:30Z"),
        ["2026-03-29T00:59:00Z", "2026-03-29T01:00:30Z", "2026-03-29T01:02:00Z"]
    );
    let epoch = schedule(&json!({ "every": 3600 }));
    assert_eq!(ticks(&epoch, "1970-01-01T00:00:00Z", "1970-01-01T01:30:00Z").len(), 2);
    assert_eq!(epoch.next(Timestamp::MAX), None);
}

#[test]
fn bounds_hold_the_start_and_not_the_end() {
    let bounded = schedule(&json!({
        "cron": "0 * * * *",
        "starts_at": "2026-05-01T10:00:00Z",
        "ends_at": "2026-05-01T12:00:00Z",
    }));
    let all = ticks(&bounded, "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z");
    assert_eq!(all, ["2026-05-01T10:00:00Z", "2026-05-01T11:00:00Z"]);
    let once = schedule(&json!({ "at": "2026-05-01T10:00:00.5Z" }));
    assert_eq!(once.next(at("2026-05-01T10:00:00.4Z")), Some(at("2026-05-01T10:00:00.5Z")));
    assert_eq!(once.next(at("2026-05-01T10:00:00.5Z")), None);
}

#[test]
fn jitter_is_the_same_each_time_and_spreads() {
    let jittery = schedule(&json!({ "every": "10m", "jitter": "5m" }));
    let late = |name: &str, n: u64| {
        let tick = Timestamp::default().after(Duration::from_mins(10 * n));
        jittery.fires_at(name, tick).since(tick)
    };
    assert_eq!(late("a", 7), late("a", 7));
    assert!((0..1_000).all(|n| late("a", n) < Duration::from_mins(5)));
    let mean = (0..1_000).map(|n| late("b", n).as_secs_f64()).sum::<f64>() / 1_000.0;
    assert!((130.0..170.0).contains(&mean), "{mean}");
    assert_ne!(late("a", 7), late("b", 7));
}

#[test]
fn the_id_of_a_tick_says_which_it_is_and_nobody_else_has_it() {
    let id = |tick| tick_id("nightly-1", at(tick)).unwrap().to_string();
    assert_eq!(id("2026-03-29T01:00:00Z"), "sched.nightly-1.20260329T010000Z");
    assert_eq!(id("2026-03-29T01:00:00.25Z"), "sched.nightly-1.20260329T010000.250000Z");
    let tick = at("2026-03-29T01:00:00Z");
    let nightly = schedule(&json!({ "cron": "0 1 * * *" }));
    let id = tick_id("nightly", tick).unwrap();
    let run = nightly.run("nightly", tick, std::slice::from_ref(&id)).unwrap_err();
    assert_eq!(run[0].field, "depends_on[0]", "a run does not wait for itself");
    let run = nightly.run("nightly", tick, &[]).unwrap();
    assert_eq!(run.id(), Some(id));
    assert_eq!(tick_of(&run), Some(("nightly", Some(tick))));
    let mut other = run.into_pb();
    (other.task_id, other.created_by) = ("mine".into(), String::new());
    assert_eq!(tick_of(&TaskSpec::parse(other).unwrap()), None, "any id may not say it");
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let fields = |body: &pb::Schedule| {
        let mut fields =
            Schedule::parse(body).unwrap_err().into_iter().map(|v| v.field).collect::<Vec<_>>();
        fields.sort();
        fields.join(" ")
    };
    assert_eq!(fields(&pb::Schedule::default()), "cron task");
    let wrong = json!({
        "cron": "61 * * * *",
        "time_zone": "Europe/Nowhere",
        "anchor": "2026-01-01T00:00:00Z",
        "starts_at": "2026-01-02T00:00:00Z",
        "ends_at": "2026-01-01T00:00:00Z",
        "runs_max": 0,
        "catch_up": { "mode": "last", "max": 5, "window": "400d" },
        "jitter": "25h",
        "task": { "task_id": "x", "priority": 11, "run_at": "2026-01-01T00:00:00Z" },
    });
    assert_eq!(
        fields(&body(&wrong)),
        "anchor catch_up.max catch_up.window cron ends_at jitter runs_max task.priority \
         task.run_at task.task_id time_zone"
    );
    assert_eq!(fields(&body(&json!({ "every": "500ms" }))), "every");
    assert_eq!(fields(&body(&json!({ "every": "1m", "jitter": "2m" }))), "jitter");
    for never in [
        "0 0 30 2 *",
        "0 0 31 4,6 *",
        "* * * *",
        "0 0 0 1 1 * 2030",
        "@reboot",
        "",
        "0 0 * * MONDAYS",
    ] {
        assert_eq!(fields(&body(&json!({ "cron": never }))), "cron", "{never}");
    }
    let word = serde_json::from_value::<pb::Schedule>(json!({ "overlap": "never" })).unwrap_err();
    assert!(word.to_string().contains("skip, queue, cancel_older, allow"), "{word}");
}

#[test]
fn defaults_are_filled_in_and_words_are_read_both_ways() {
    let plain = schedule(&json!({ "cron": "0 0 * * *" }));
    assert_eq!((plain.overlap, plain.runs_max), (Overlap::Skip, limits::SCHEDULE_RUNS_MAX));
    assert_eq!(plain.catch_up, CatchUp { window: limits::CATCH_UP_WINDOW, max: 1 });
    let none = schedule(&json!({ "cron": "0 0 * * *", "catch_up": { "mode": "MODE_NONE" } }));
    assert_eq!(none.catch_up, CatchUp { window: limits::SCHEDULE_GRACE, max: 1 });
    let body = body(&json!({ "every": "1h", "overlap": "cancel_older" }));
    let text = serde_json::to_value(&body).unwrap();
    assert_eq!((&text["overlap"], &text["every"]), (&json!("cancel_older"), &json!("3600s")));
    assert_eq!(serde_json::from_value::<pb::Schedule>(text).unwrap(), body);
}
