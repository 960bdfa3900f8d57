//! Whole years, against an oracle: what fires is what should fire.
//!
//! `make test` takes half a year of ticks with both changes of the clocks and a leap day, and one year of
//! policies in each zone; all zones together have every expression. `make soak` sets `YEARS`, and
//! takes all of it.

use chrono_tz::Tz;
use serde_json::json;

use super::{
    mix,
    oracle::{self, Expression, Minute, Overlap, Policy, Ran, Wall, minute},
    schedule,
    site::{Begins, Site, at},
};

const CRONS: [&str; 12] = [
    "30 2 * * *",
    "0 2 * * *",
    "15 1,2,3 * * *",
    "0,30 0-4 * * 0,6",
    "*/15 * * * *",
    "0 * * * *",
    "20 */2 * * *",
    "*/10 2 * * *",
    "0 9-17 * * 1-5",
    "5 0 1 * *",
    "0 12 29 2 *",
    "45 1 13 * 5",
];

fn is_soak() -> bool {
    std::env::var_os("YEARS").is_some()
}

/// Two years and a leap day, with both changes of the clocks in each; or the half a year that has one of
/// each in every zone.
fn years() -> (Minute, Minute) {
    let (from, to) = if is_soak() {
        ("2026-01-01T00:00:00Z", "2028-03-02T00:00:00Z")
    } else {
        ("2027-09-25T00:00:00Z", "2028-04-10T00:00:00Z")
    };
    (minute(from), minute(to))
}

fn ticks_are_those_of_the_wall(zone: Tz) {
    let (from, to) = years();
    let wall = Wall::of(zone, (from, to));
    for cron in CRONS {
        let expected = wall.ticks(&Expression::read(cron));
        let schedule = schedule(&json!({ "cron": cron, "time_zone": zone.name() }));
        let ticks = schedule.ticks(at(from - 1)).take_while(|tick| *tick < at(to));
        let ticks = ticks.map(|tick| tick.micros() / 60_000_000).collect::<Vec<_>>();
        let differs = expected.iter().zip(&ticks).find(|(expected, tick)| expected != tick);
        if let Some((expected, tick)) = differs {
            panic!("{cron} in {zone}: expected {}, found {}", at(*expected), at(*tick));
        }
        assert_eq!(ticks.len(), expected.len(), "{cron} in {zone}");
        assert!(!ticks.is_empty(), "{cron} in {zone}");
    }
}

/// When a scheduler leads: there are short and long outages, and each leader begins in its own way.
fn terms(seed: u64, (from, to): (Minute, Minute)) -> Vec<(Minute, Minute, Begins)> {
    const BEGINS: [Begins; 4] =
        [Begins::FromTheLog, Begins::FromASnapshot, Begins::AtTheFloor, Begins::Followed];
    let mut terms = Vec::new();
    let (mut begin, mut begins) = (from, Begins::Followed);
    for n in 0.. {
        let draw = mix(seed ^ (n << 32));
        let end = begin + 60 + (draw % (40 * 1440)) as Minute;
        terms.push((begin, end.min(to), begins));
        let outage = match draw >> 32 & 3 {
            0 => 0,
            1 => 1 + (draw >> 40) % 10,
            2 => 1 + (draw >> 40) % (12 * 60),
            _ => 1 + (draw >> 40) % (6 * 1440),
        };
        begin = end + outage as Minute;
        begins = BEGINS[(draw >> 34 & 3) as usize];
        if begin >= to {
            return terms;
        }
    }
    unreachable!("there is an end")
}

struct Case<'a> {
    when: serde_json::Value,
    ticks: &'a [Minute],
    span: (Minute, Minute),
    seed: u64,
}

fn check(case: &Case, overlap: Overlap, catch_up: &serde_json::Value) -> usize {
    let Case { when, ticks, span, seed } = case;
    let (word, runs_max) = match overlap {
        Overlap::Skip => ("skip", 100),
        Overlap::Queue => ("queue", 3),
        Overlap::CancelOlder => ("cancel_older", 100),
        Overlap::Allow => ("allow", 4),
    };
    let (window, max) = match catch_up["mode"].as_str().unwrap() {
        "none" => (1, 1),
        "last" => (6 * 60, 1),
        _ => (30 * 60, 5),
    };
    let policy = Policy { overlap, runs_max, window, max };
    let mut fields = when.clone();
    for (field, value) in
        [("overlap", json!(word)), ("runs_max", json!(runs_max)), ("catch_up", catch_up.clone())]
    {
        fields[field] = value;
    }
    // Often shorter than the time between two ticks, and sometimes much longer.
    let takes = |tick: Minute| match mix(seed ^ tick as u64) {
        draw if draw % 10 == 0 => 1 + (draw >> 8) as Minute % 2_000,
        draw => 1 + (draw >> 8) as Minute % 45,
    };
    let terms = terms(*seed, *span);
    let leads = |now: Minute| {
        let after = terms.partition_point(|(begin, ..)| *begin <= now);
        after > 0 && now < terms[after - 1].1
    };
    let expected = oracle::runs(ticks, *span, policy, leads, takes);
    let mut site = Site::that_loses(7);
    site.set(span.0, schedule(&fields));
    let found = site.run(*span, &terms, takes);
    let differs = expected.iter().zip(&found).find(|(expected, found)| expected != found);
    if let Some((expected, found)) = differs {
        let show = |ran: &Ran| format!("{ran:?}, that is {} at {}", at(ran.tick), at(ran.created));
        panic!("{fields}, seed {seed}:\nexpected {}\nfound {}", show(expected), show(found));
    }
    assert_eq!(expected.len(), found.len(), "{fields}, seed {seed}");
    expected.len()
}

/// Every policy, over a year with outages, restarts and both changes of the clocks: both years, or one.
fn what_runs_is_what_should_run(zone: Tz, one: u64) {
    let catch_ups = [
        json!({ "mode": "none" }),
        json!({ "mode": "last", "window": "6h" }),
        json!({ "mode": "all", "window": "30h", "max": 5 }),
    ];
    let overlaps = [Overlap::Skip, Overlap::Queue, Overlap::CancelOlder, Overlap::Allow];
    let years = [
        ("2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
        ("2027-01-01T00:00:00Z", "2028-01-01T00:00:00Z"),
    ];
    let mut runs = 0;
    for (year, (from, to)) in (0..).zip(years).filter(|(year, _)| is_soak() || *year == one) {
        let span = (minute(from), minute(to));
        let wall = Wall::of(zone, span);
        for (n, cron) in (0..).zip(CRONS).filter(|(n, _)| is_taken(*n, year, zone)) {
            let ticks = wall.ticks(&Expression::read(cron));
            for (m, catch_up) in (0..).zip(&catch_ups) {
                let overlap = overlaps[(n / 2 + m + year) as usize % 4];
                let seed = mix(year << 16 | n << 8 | m);
                let when = json!({ "cron": cron, "time_zone": zone.name() });
                runs += check(&Case { when, ticks: &ticks, span, seed }, overlap, catch_up);
            }
        }
        // An interval knows no wall.
        let ticks = (span.0..span.1).filter(|m| (m - span.0 - 100) % 47 == 0 && *m >= span.0 + 100);
        let ticks = ticks.collect::<Vec<_>>();
        for (m, overlap) in (0..).zip(overlaps) {
            let when = json!({ "every": "47m", "anchor": at(span.0 + 100).to_string() });
            let case = Case { when, ticks: &ticks, span, seed: mix(year << 24 | m) };
            runs += check(&case, overlap, &catch_ups[m as usize % 3]);
        }
    }
    assert!(runs > 10_000, "{runs} runs are no test");
}

/// Each zone and year has other expressions; all of them together have each.
fn is_taken(cron: u64, year: u64, zone: Tz) -> bool {
    (cron + year + zone.name().len() as u64).is_multiple_of(4)
}

macro_rules! zones {
    ($($module:ident: $zone:expr, $year:expr;)*) => {
        /// Each expression of the wall is in one of the zones' years.
        #[test]
        fn every_expression_has_its_year() {
            let mut left = (0..CRONS.len() as u64).collect::<Vec<_>>();
            $(left.retain(|n| !is_taken(*n, $year, $zone));)*
            assert!(left.is_empty(), "{left:?}");
        }

        $(mod $module {
            #[test]
            fn ticks_are_those_of_the_wall() {
                super::ticks_are_those_of_the_wall($zone);
            }

            #[test]
            fn what_runs_is_what_should_run() {
                super::what_runs_is_what_should_run($zone, $year);
            }
        })*
    };
}

zones! {
    berlin: chrono_tz::Europe::Berlin, 1;
    new_york: chrono_tz::America::New_York, 1;
    lord_howe: chrono_tz::Australia::Lord_Howe, 0;
    kolkata: chrono_tz::Asia::Kolkata, 0;
    utc: chrono_tz::UTC, 0;
}
