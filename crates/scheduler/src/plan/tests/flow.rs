use std::time::Duration;

use common::{
    id::DocumentName,
    policy::{Body, Document, limit::Limit},
};

use super::*;
use crate::{flow::Refusal, why};

impl World {
    fn limit(&mut self, name: &str, change: impl FnOnce(&mut pb::Limit)) {
        let mut limit = pb::Limit { queue: "handlers".into(), ..pb::Limit::default() };
        change(&mut limit);
        Limit::parse(&limit).expect("a limit");
        let (name, body) = (DocumentName::parse(name).unwrap(), Body::Limit(Box::new(limit)));
        let document = Document { name, version: self.sequence + 1, carried: None, body };
        self.decree(Policy::Document(Box::new(document)));
    }

    fn of(&mut self, id: &str, customer: &str) {
        let text = format!(r#"{{"customer": "{customer}"}}"#);
        self.submit(id, |spec| spec.input = Some(pb::Json { text }));
    }

    fn spec(id: &str, customer: &str) -> TaskSpec {
        let text = format!(r#"{{"customer": "{customer}"}}"#);
        let input = Some(pb::Json { text });
        TaskSpec::parse(pb::TaskSpec { task_id: id.into(), input, ..pb::TaskSpec::default() })
            .expect("a task")
    }

    fn reasons(&self, id: &str, customer: &str) -> Vec<(String, String)> {
        let key = key_of(id);
        let names = why::holders(&self.planner, key);
        let names = names.into_iter().map(|at| (at, format!("at-{}", at.0))).collect();
        let why = why::why(&self.planner, key, &Self::spec(id, customer), 4_096, &names);
        why.expect("it is known").reasons.into_iter().map(|r| (r.code, r.message)).collect()
    }
}

const IDS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

fn by_customer(limit: &mut pb::Limit) {
    limit.key = "input.customer".into();
    limit.concurrency = Some(1);
}

#[test]
fn a_limit_of_the_queue_holds_and_says_who_is_out() {
    let mut world = World::with_worker(8);
    world.limit("two", |l| l.concurrency = Some(2));
    for id in ["a", "b", "c"] {
        world.submit(id, |_| {});
    }
    assert_eq!(world.released(&IDS), ["a", "b"]);
    let reasons = world.reasons("c", "");
    assert_eq!(reasons[0].0, "limit");
    let expected = "limit two lets 2 run at once, and 2 are out: at-2, at-3";
    assert_eq!(reasons[0].1, expected);
    world.complete("a", 1);
    assert_eq!(world.released(&IDS), ["c"]);
}

#[test]
fn a_limit_by_key_holds_each_key_by_itself() {
    let mut world = World::with_worker(8);
    world.limit("each", by_customer);
    for (id, customer) in [("a", "x"), ("b", "x"), ("c", "y"), ("d", "x")] {
        world.of(id, customer);
    }
    world.submit("e", |_| {});
    world.submit("f", |_| {});
    assert_eq!(world.released(&IDS), ["a", "c", "e"], "what has no key counts as the empty one");
    let reasons = world.reasons("b", "x");
    assert!(reasons[0].1.contains("with key \"x\""), "{reasons:?}");
    let unnamed = TaskSpec::parse(pb::TaskSpec { task_id: "f".into(), ..pb::TaskSpec::default() });
    let names = why::Names::new();
    let why = why::why(&world.planner, key_of("f"), &unnamed.unwrap(), 4_096, &names).unwrap();
    assert!(why.reasons.iter().any(|r| r.code == "key"), "{why:?}");
    world.complete("a", 1);
    world.fail("c", 1);
    assert_eq!(world.released(&IDS), ["b"]);
}

#[test]
fn a_limit_holds_for_what_was_there_before_once_its_key_is_read() {
    let mut world = World::with_worker(8);
    for (id, customer) in [("a", "x"), ("b", "x"), ("c", "y"), ("d", "y")] {
        world.of(id, customer);
    }
    world.planner.tick(world.now(), world.now_ms);
    assert_eq!(world.planner.release(world.now_ms, 4_096, 1).len(), 1, "a is out");
    world.limit("each", by_customer);
    assert!(world.released(&IDS).is_empty(), "whose key is out is not known yet");
    assert!(world.reasons("b", "x").iter().any(|(code, _)| code == "limit"));
    let unkeyed = world.planner.unkeyed(10);
    assert_eq!(unkeyed.len(), 4);
    for (ticket, customer) in unkeyed.into_iter().zip(["x", "x", "y", "y"]) {
        world.planner.keyed(ticket, &World::spec("any", customer));
    }
    assert!(world.planner.unkeyed(10).is_empty());
    assert_eq!(world.released(&IDS), ["c"]);
    world.complete("a", 1);
    assert_eq!(world.released(&IDS), ["b"]);
    world.planner.set_limit("each", None, 99);
    assert_eq!(world.released(&IDS), ["d"], "without the limit");
}

#[test]
fn another_number_keeps_what_is_known_and_another_key_does_not() {
    let mut world = World::with_worker(8);
    world.limit("each", by_customer);
    for id in ["a", "b", "c"] {
        world.of(id, "x");
    }
    assert_eq!(world.released(&IDS), ["a"]);
    world.limit("each", |l| {
        by_customer(l);
        l.concurrency = Some(2);
    });
    assert_eq!(world.released(&IDS), ["b"]);
    world.limit("all", |l| l.concurrency = Some(3));
    assert!(world.planner.unkeyed(10).is_empty(), "keys are kept beside another limit");
    world.limit("each", |l| {
        l.key = "input.customer|upper".into();
        l.concurrency = Some(3);
    });
    assert_eq!(world.planner.unkeyed(10).len(), 3);
}

#[test]
fn another_rate_holds_at_once_beside_another_limit() {
    let rate = |count, secs| {
        move |l: &mut pb::Limit| {
            let per = Some(Duration::from_secs(secs).into());
            l.rate = Some(pb::LimitRate { count, per, ..pb::LimitRate::default() });
        }
    };
    let mut world = World::with_worker(8);
    world.limit("slow", rate(1, 24 * 3_600));
    for id in ["a", "b"] {
        world.submit(id, |_| {});
    }
    assert_eq!(world.released(&IDS), ["a"]);
    // Another limit makes every lane anew.
    world.limit("all", |l| l.concurrency = Some(5));
    assert!(world.released(&IDS).is_empty());
    world.planner.set_limit("all", None, 90);
    world.limit("slow", rate(100, 1));
    world.pass(10);
    assert_eq!(world.released(&IDS), ["b"]);
}

#[test]
fn a_rate_holds_until_a_time_and_rings_then() {
    let mut world = World::with_worker(8);
    world.limit("slow", |l| {
        l.rate = Some(pb::LimitRate { count: 1, ..pb::LimitRate::default() });
    });
    for id in ["a", "b", "c"] {
        world.submit(id, |_| {});
    }
    assert_eq!(world.released(&IDS), ["a"]);
    let due = world.now().after(Duration::from_secs(1));
    assert_eq!(world.planner.next_alarm(), Some(due));
    let spec = World::spec("c", "");
    let why = why::why(&world.planner, key_of("c"), &spec, 4_096, &why::Names::new()).unwrap();
    assert_eq!((why.reasons[0].code.as_str(), why.reasons[0].until), ("rate", Some(due.into())));
    let second = due.after(Duration::from_secs(1));
    assert_eq!(why.estimated_start, Some(second.into()), "b goes before");
    world.pass(1_000);
    assert_eq!(world.released(&IDS), ["b"]);
    world.pass(999);
    assert!(world.released(&IDS).is_empty());
    world.pass(1);
    assert_eq!(world.released(&IDS), ["c"]);
}

#[test]
fn a_release_that_did_not_happen_goes_first_again() {
    let mut world = World::with_worker(8);
    world.limit("one", |l| l.concurrency = Some(1));
    for id in ["a", "b"] {
        world.submit(id, |_| {});
    }
    world.planner.tick(world.now(), world.now_ms);
    let ticket = world.planner.release(world.now_ms, 4_096, 10)[0].tickets[0];
    world.planner.unrelease(ticket);
    assert_eq!(world.released(&IDS), ["a"]);
    assert_eq!(world.place("b"), Place::Ready);
}

/// With a key for each task, every lane is empty when its task goes.
#[test]
fn a_release_that_did_not_happen_keeps_its_age_among_other_keys() {
    let mut world = World::with_worker(8);
    world.limit("each", by_customer);
    world.limit("old", |l| l.ageing = Some(Duration::from_secs(1).into()));
    world.submit("a", |spec| {
        spec.priority = Some(1);
        spec.input = Some(pb::Json { text: r#"{"customer": "a"}"#.into() });
    });
    for id in ["b", "c"] {
        world.pass(8_000);
        world.of(id, id);
    }
    world.beat("w", 8, &[]);
    for _ in 0..3 {
        world.pass(1);
        let releases = world.planner.release(world.now_ms, 4_096, 1);
        assert_eq!(world.name(releases[0].tickets[0], &IDS), "a", "it counts as 10 and is oldest");
        world.planner.unrelease(releases[0].tickets[0]);
    }
    assert_eq!(world.released(&IDS), ["a", "b", "c"]);
}

#[test]
fn what_waits_too_long_expires_by_the_limit() {
    let mut world = World::with_worker(8);
    world.submit("a", |spec| spec.queue = "handlers".into());
    world.decree(Policy::Paused(Pause { queue: None, reason: String::new(), until: None }));
    world.submit("b", |_| {});
    world.pass(5_000);
    world.limit("ttl", |l| l.ttl = Some(Duration::from_secs(10).into()));
    world.beat("w", 8, &[]);
    world.pass(9_000);
    assert_eq!(world.decisions(), []);
    world.beat("w", 8, &[]);
    world.pass(1_000);
    assert_eq!(world.decisions(), [Decision::Expired, Decision::Expired]);
    let (ticket, entry) = match world.planner.find(key_of("a")) {
        Some(Found::Open(ticket, entry)) => (ticket, entry),
        other => panic!("{other:?}"),
    };
    let spec = World::spec("a", "");
    let event =
        crate::verdict::event(&world.planner, (ticket, &entry), &spec, Decision::Expired, 0.5);
    assert!(format!("{event:?}").contains("the ttl of limit ttl"), "{event:?}");
}

#[test]
fn a_ttl_that_was_set_while_a_task_was_out_counts_when_it_was_not_released() {
    let mut world = World::with_worker(8);
    world.submit("a", |_| {});
    assert_eq!(world.released(&IDS), ["a"]);
    world.limit("ttl", |l| l.ttl = Some(Duration::from_secs(10).into()));
    let Some(Found::Open(ticket, _)) = world.planner.find(key_of("a")) else { panic!() };
    world.planner.unrelease(ticket);
    world.pass(9_000);
    assert_eq!(world.decisions(), []);
    world.pass(1_000);
    assert_eq!(world.decisions(), [Decision::Expired]);
}

/// Each has an alarm for the limit's time and one for its whole.
#[test]
fn timers_that_are_of_use_are_not_looked_through_again_and_again() {
    let mut world = World::following();
    world.limit("ttl", |l| l.ttl = Some(Duration::from_secs(3_600).into()));
    let hour = Some(Duration::from_secs(3_600).into());
    for n in 0..6_000 {
        world.submit(&format!("t{n}"), |spec| {
            spec.timeouts = Some(pb::Timeouts { total: hour, ..pb::Timeouts::default() });
        });
    }
    for n in 1..6 {
        // Whoever leads or sets a limit gives each an alarm once more.
        world.planner.lead(world.now(), world.now_ms);
        world.limit("ttl", |l| l.ttl = Some(Duration::from_secs(3_600 - n).into()));
    }
    world.pass(1);
    assert_eq!(world.planner.timers.len(), 12_000, "one for each reason");
    for _ in 0..2 {
        world.planner.lead(world.now(), world.now_ms);
        world.pass(1);
    }
    assert_eq!(world.planner.timers.len(), 24_000, "nobody looks for a few");
    for n in 0..6_000 {
        world.complete(&format!("t{n}"), 1);
    }
    world.pass(1);
    assert!(world.planner.timers.is_empty(), "{}", world.planner.timers.len());
}

#[test]
fn what_counts_as_more_by_its_age_says_so() {
    let mut world = World::with_worker(8);
    world.limit("old", |l| {
        l.ageing = Some(Duration::from_secs(2).into());
        l.concurrency = Some(1);
    });
    for id in ["a", "b"] {
        world.submit(id, |spec| spec.priority = Some(3));
    }
    assert_eq!(world.released(&IDS), ["a"]);
    let counts_as = |world: &World| {
        let key = key_of("b");
        let spec = World::spec("b", "");
        why::why(&world.planner, key, &spec, 4_096, &why::Names::new()).unwrap().counts_as
    };
    assert_eq!(counts_as(&world), None);
    world.pass(4_500);
    assert_eq!(counts_as(&world), Some(5));
    world.pass(60_000);
    assert_eq!(counts_as(&world), Some(10));
}

#[test]
fn more_than_may_wait_are_refused_and_do_not_count() {
    let mut world = World::with_worker(8);
    world.limit("depth", |l| {
        l.depth = Some(2);
        l.concurrency = Some(1);
    });
    world.submit("a", |_| {});
    assert_eq!(world.released(&IDS), ["a"]);
    for id in ["b", "c", "d", "e"] {
        assert_eq!(world.planner.full_queues().len(), usize::from(id > "c"), "before {id}");
        world.submit(id, |_| {});
    }
    world.pass(1);
    let full = world.planner.full_queues();
    assert_eq!((full[0].queue.as_str(), full[0].limit.as_str()), ("handlers", "depth"));
    assert_eq!((full.len(), full[0].depth), (1, 2));
    assert_eq!(world.decisions(), [Decision::Refused(Refusal::TooMany); 2]);
    assert_eq!([world.place("b"), world.place("c")], [Place::Ready; 2]);
    let reasons = world.reasons("d", "");
    assert_eq!(reasons[0].0, "verdict");
    for id in ["d", "e"] {
        let cause = pb::Cause::Rejected.into();
        world.say(id, Kind::Failed(Box::new(pb::Failed { cause, ..pb::Failed::default() })));
        assert_eq!(world.end(id), Some(Phase::Failed(Cause::Rejected)));
    }
    world.complete("a", 1);
    assert_eq!(world.released(&IDS), ["b"]);
    assert!(world.planner.full_queues().is_empty(), "one more may wait");
}

#[test]
fn a_singleton_runs_alone_and_one_waits() {
    let mut world = World::with_worker(8);
    world.limit("one", |l| {
        l.key = "input.customer".into();
        l.singleton = pb::LimitSingleton::Waiting.into();
    });
    world.of("a", "x");
    assert_eq!(world.released(&IDS), ["a"]);
    for id in ["b", "c"] {
        world.of(id, "x");
    }
    world.of("d", "y");
    assert_eq!(world.released(&IDS), ["d"]);
    let refused = world.planner.take_decisions(9);
    assert_eq!(refused.len(), 1);
    assert_eq!(world.name(refused[0].0, &IDS), "c");
    let entry = world.planner.entry(refused[0].0).unwrap();
    let spec = World::spec("c", "x");
    let text = crate::verdict::refusal(&world.planner, &entry, &spec, Refusal::Duplicate);
    assert_eq!(text, "another task with key \"x\" waits already, by limit one");
}

#[test]
fn who_takes_over_counts_what_is_out_and_judges_anew() {
    let mut world = World::following();
    world.beat("w", 8, &[]);
    world.limit("one", |l| {
        l.key = "input.customer".into();
        l.singleton = pb::LimitSingleton::Waiting.into();
    });
    world.of("a", "x");
    world.of("b", "x");
    world.planner.tick(world.now(), world.now_ms);
    // The last leader released a; nobody has begun it.
    world.planner.lead(world.now(), world.now_ms);
    world.planner.only_these_are_out(&[(key_of("a"), 1)], world.now_ms);
    assert!(world.released(&IDS).is_empty(), "a is out");
    assert_eq!(world.decisions(), [], "b is the only one that waits");
    world.complete("a", 1);
    assert_eq!(world.released(&IDS), ["b"]);
}

impl World {
    /// The process starts again from what it stored, and leads.
    fn starts_again(&mut self) {
        let bytes = self.planner.store("the log".to_owned(), self.sequence);
        self.planner = Planner::restore(Stored::decode(bytes.as_slice()).unwrap()).unwrap();
        self.takes_over();
    }

    fn takes_over(&mut self) {
        self.planner.lead(self.now(), self.now_ms);
        self.beat("w", 8, &[]);
        self.pass(1);
    }

    /// An attempt of the task begins and fails; another follows in a minute.
    fn tries(&mut self, id: &str) {
        self.say(id, Kind::Started(pb::Started { attempt: 1, worker: "w".into() }));
        let delay = Some(Duration::from_secs(60).into());
        let body = pb::Retrying { attempt: 1, delay, ..pb::Retrying::default() };
        self.say(id, Kind::Retrying(Box::new(body)));
    }
}

fn one_waits(limit: &mut pb::Limit) {
    limit.key = "input.customer".into();
    limit.singleton = pb::LimitSingleton::Waiting.into();
}

#[test]
fn what_waited_before_a_limit_is_not_judged_after_a_restart() {
    let mut world = World::with_worker(8);
    for id in ["a", "b", "c"] {
        world.of(id, "x");
    }
    world.limit("one", one_waits);
    for ticket in world.planner.unkeyed(10) {
        world.planner.keyed(ticket, &World::spec("any", "x"));
    }
    world.pass(1);
    assert_eq!(world.decisions(), []);
    world.starts_again();
    assert_eq!(world.decisions(), [], "they came before it");
    world.of("d", "x");
    world.pass(1);
    assert_eq!(world.decisions(), [Decision::Refused(Refusal::Duplicate)]);
}

#[test]
fn after_a_restart_the_newest_that_waits_stands_and_not_one_from_before_the_limit() {
    let mut world = World::with_worker(8);
    world.of("e", "y");
    world.of("a", "x");
    world.limit("one", one_waits);
    for ticket in world.planner.unkeyed(10) {
        let customer = if world.name(ticket, &IDS) == "a" { "x" } else { "y" };
        world.planner.keyed(ticket, &World::spec("any", customer));
    }
    // How old a task is is known by the marks of the log.
    world.pass(1_000);
    for n in 0..20 {
        world.say(&format!("o{n}"), Kind::Progress(pb::Progress::default()));
    }
    // The slot of e is that of b, and so b comes before a in what is stored.
    world.complete("e", 1);
    world.of("b", "x");
    world.pass(1);
    assert_eq!(world.decisions(), []);
    world.starts_again();
    assert_eq!(world.released(&IDS), ["a"]);
    world.of("c", "x");
    world.pass(1);
    assert_eq!(world.decisions(), [Decision::Refused(Refusal::Duplicate)], "b waits");
}

#[test]
fn a_try_that_comes_back_is_not_judged_and_nothing_is_judged_by_it() {
    for from_stored in [false, true] {
        let mut world = World::following();
        world.limit("one", one_waits);
        world.of("a", "x");
        world.tries("a");
        world.of("b", "x");
        if from_stored {
            world.starts_again();
        } else {
            world.takes_over();
        }
        assert_eq!(world.decisions(), [], "{from_stored}: both were accepted");
    }
    let mut world = World::with_worker(8);
    world.limit("calm", |l| {
        l.key = "input.customer".into();
        let quiet = Some(Duration::from_secs(1).into());
        l.debounce = Some(pb::LimitDebounce { quiet, ..pb::LimitDebounce::default() });
    });
    world.of("a", "x");
    world.pass(1);
    world.tries("a");
    world.of("b", "x");
    world.pass(1);
    assert_eq!(world.decisions(), [], "a began before b came");
    world.of("c", "x");
    world.pass(1);
    assert_eq!(world.decisions(), [Decision::Refused(Refusal::Superseded)]);
}

#[test]
fn the_longest_wait_of_a_burst_goes_on_when_another_takes_over() {
    let mut world = World::following();
    world.limit("calm", |l| {
        l.key = "input.customer".into();
        let (quiet, longest) = (Duration::from_secs(10), Duration::from_secs(49));
        let (quiet, longest) = (Some(quiet.into()), Some(longest.into()));
        l.debounce = Some(pb::LimitDebounce { quiet, longest });
    });
    let began = world.now();
    for (n, id) in IDS.into_iter().enumerate() {
        world.of(id, "x");
        if n > 0 {
            // The leader says so.
            world.say(IDS[n - 1], Kind::Skipped(pb::Skipped::default()));
        }
        world.now_ms += 8_000;
    }
    world.takes_over();
    assert!(world.released(&IDS).is_empty());
    assert_eq!(world.planner.next_alarm(), Some(began.after(Duration::from_secs(49))));
}

#[test]
fn who_takes_over_fails_nothing_that_was_accepted_within_the_depth() {
    let depth = |most| move |l: &mut pb::Limit| l.depth = Some(most);
    for from_stored in [false, true] {
        let mut world = World::following();
        world.limit("depth", depth(3));
        for id in ["a", "b", "c"] {
            world.submit(id, |_| {});
        }
        world.tries("a");
        world.tries("b");
        world.submit("d", |_| {});
        world.submit("e", |_| {});
        if from_stored {
            world.starts_again();
        } else {
            world.takes_over();
        }
        assert_eq!(world.decisions(), [], "{from_stored}: three wait beside tries that came back");
        world.submit("f", |_| {});
        world.pass(1);
        assert_eq!(world.decisions(), [Decision::Refused(Refusal::TooMany)]);
    }
    let mut world = World::following();
    world.limit("depth", depth(3));
    for id in ["a", "b", "c"] {
        world.submit(id, |_| {});
    }
    world.limit("depth", depth(1));
    world.takes_over();
    assert_eq!(world.decisions(), [], "they came before it was lowered");
}

#[test]
fn a_follower_charges_rates_for_what_it_hears_of() {
    let mut world = World::following();
    world.beat("w", 8, &[]);
    let minute = Duration::from_secs(60);
    world.limit("slow", |l| {
        let per = Some(minute.into());
        l.rate = Some(pb::LimitRate { count: 1, per, ..pb::LimitRate::default() });
    });
    world.submit("a", |_| {});
    world.submit("b", |_| {});
    world.complete("a", 1);
    world.planner.lead(world.now(), world.now_ms);
    assert!(world.released(&IDS).is_empty());
    assert_eq!(world.planner.next_alarm(), Some(world.now().after(minute)));
}
