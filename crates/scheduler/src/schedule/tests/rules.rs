//! What holds for every schedule.

use std::collections::BTreeSet;

use common::{
    id::{TaskId, TaskKey, Tenant},
    policy::schedule::{Schedule, before},
    time::Timestamp,
};
use proptest::prelude::*;
use serde_json::json;

use super::{
    super::{Order, Run, Schedules},
    schedule,
};

fn schedules() -> impl Strategy<Value = Schedule> {
    let when = prop_oneof![
        (1_u64..100_000).prop_map(|seconds| json!({ "every": seconds })),
        (0_u32..60, 0_u32..24).prop_map(|(m, h)| json!({ "cron": format!("{m} {h} * * *") })),
        (1_u32..60).prop_map(|step| json!({ "cron": format!("*/{step} * * * * *") })),
        Just(json!({ "cron": "* * 2 * * *" })),
        (0_i64..40_000_000).prop_map(|s| json!({ "at": start().after(secs(s)).to_string() })),
    ];
    let zone = prop::sample::select(vec!["Europe/Berlin", "Australia/Lord_Howe", "UTC"]);
    let overlap = prop::sample::select(vec!["skip", "queue", "cancel_older", "allow"]);
    let catch_up = prop_oneof![
        Just(json!({ "mode": "none" })),
        (60_u64..200_000).prop_map(|w| json!({ "mode": "last", "window": w })),
        (60_u64..200_000, 1_u32..20)
            .prop_map(|(w, max)| json!({ "mode": "all", "window": w, "max": max })),
    ];
    (when, zone, overlap, catch_up, 0_u64..50_000, 1_u32..5).prop_map(
        |(mut fields, zone, overlap, catch_up, jitter, runs_max)| {
            let most = fields["every"].as_u64().unwrap_or(u64::MAX);
            if fields.get("cron").is_some() {
                fields["time_zone"] = zone.into();
            }
            fields["overlap"] = overlap.into();
            fields["catch_up"] = catch_up;
            fields["jitter"] = jitter.min(most).into();
            fields["runs_max"] = runs_max.into();
            schedule(&fields)
        },
    )
}

fn start() -> Timestamp {
    Timestamp::parse("2026-03-20T12:34:56.789Z").unwrap()
}

fn secs(seconds: i64) -> std::time::Duration {
    std::time::Duration::from_secs(seconds as u64)
}

fn key(id: &TaskId) -> TaskKey {
    TaskKey::new(&Tenant::default(), id)
}

/// One who folds what is decided.
#[derive(Default)]
struct Folder {
    schedules: Schedules,
    sequence: u64,
    runs: Vec<(TaskId, Timestamp)>,
    open: Vec<TaskId>,
}

impl Folder {
    fn of(schedule: &Schedule) -> Self {
        let mut folder = Self::default();
        folder.schedules.lead(start());
        folder.schedules.set("s", schedule.clone(), start());
        folder
    }

    fn fold(&mut self, order: &Order) {
        self.sequence += 1;
        match order {
            Order::Advance(advanced) => self.schedules.advanced(advanced, self.sequence),
            Order::Create { tick, spec, cancel, .. } => {
                for id in cancel {
                    self.end(id);
                }
                let id = spec.id().unwrap();
                self.schedules.created(spec, self.sequence);
                if self.runs.iter().all(|(known, _)| *known != id) {
                    self.schedules.opened("s", Run { key: key(&id), id: id.clone() });
                    self.runs.push((id.clone(), *tick));
                    self.open.push(id);
                }
            }
        }
    }

    fn end(&mut self, id: &TaskId) {
        self.schedules.ended(key(id));
        self.open.retain(|open| open != id);
    }

    fn decide(&mut self, now: Timestamp) {
        for _ in 0..5_000 {
            let orders = self.schedules.orders(now, 1);
            let Some(order) = orders.first() else { return };
            self.fold(order);
        }
        panic!("it does not come to an end");
    }

    fn ids(&self) -> Vec<String> {
        self.runs.iter().map(|(id, _)| id.to_string()).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn ticks_strictly_increase_and_none_is_between(schedule in schedules(), from in 0_i64..20_000_000) {
        let from = start().after(secs(from));
        let mut last = from;
        for tick in schedule.ticks(from).take(200) {
            prop_assert!(tick > last);
            // The same from any instant between the two.
            let middle = Timestamp::from_micros(last.micros().midpoint(tick.micros()));
            prop_assert_eq!(schedule.next(middle.min(before(tick))), Some(tick));
            prop_assert!(schedule.fires_at("s", tick) >= tick);
            prop_assert!(schedule.fires_at("s", tick).since(tick) <= schedule.jitter());
            last = tick;
        }
    }

    #[test]
    fn runs_come_in_order_and_at_their_time(
        schedule in schedules(),
        waits in prop::collection::vec(0_i64..40_000, 1..40),
        ends in any::<u64>(),
    ) {
        let mut folder = Folder::of(&schedule);
        let mut now = start();
        for (n, wait) in waits.into_iter().enumerate() {
            now = now.after(secs(wait));
            let known = folder.runs.len();
            folder.decide(now);
            for (_, tick) in &folder.runs[known..] {
                let fires = schedule.fires_at("s", *tick);
                prop_assert!(fires <= now, "not before its time");
                prop_assert!(now.since(fires) <= schedule.catch_up.window, "not too late");
                prop_assert!(schedule.next(before(*tick)) == Some(*tick));
            }
            prop_assert!(folder.open.len() <= schedule.runs_max);
            prop_assert!(folder.schedules.next_alarm().is_none_or(|at| at > now));
            if ends >> (n % 64) & 1 == 1 && let Some(id) = folder.open.first().cloned() {
                folder.end(&id);
            }
        }
        prop_assert!(folder.runs.windows(2).all(|pair| pair[0].1 < pair[1].1));
        let ids = folder.ids();
        prop_assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
    }

    /// Two that both decide, as in the moment when a lease goes over: whatever the one gets into the
    /// log, the other's means the same tasks.
    #[test]
    fn two_leaders_fire_the_same_ids(
        schedule in schedules(),
        waits in prop::collection::vec(0_i64..40_000, 1..30),
    ) {
        let (mut one, mut two) = (Folder::of(&schedule), Folder::of(&schedule));
        let mut now = start();
        for wait in waits {
            now = now.after(secs(wait));
            for _ in 0..5_000 {
                let (first, second) = (one.schedules.orders(now, 1), two.schedules.orders(now, 1));
                prop_assert_eq!(format!("{first:?}"), format!("{second:?}"));
                // The log has the decisions of both, one after the other, and both read it.
                for order in first.iter().chain(&second) {
                    one.fold(order);
                    two.fold(order);
                }
                if first.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(one.ids(), two.ids());
            if let Some(id) = one.open.first().cloned() {
                one.end(&id);
                two.end(&id);
            }
        }
    }

    /// At one moment it is the same whether all is decided at once or a leader after each step
    /// begins anew.
    #[test]
    fn one_leader_or_many_decide_the_same(
        schedule in schedules(),
        waits in prop::collection::vec(0_i64..400_000, 1..12),
    ) {
        let (mut one, mut many) = (Folder::of(&schedule), Folder::of(&schedule));
        let mut now = start();
        for wait in waits {
            now = now.after(secs(wait));
            one.decide(now);
            for _ in 0..5_000 {
                many.schedules.lead(now);
                // Its first decision never got into the log.
                let lost = many.schedules.orders(now, 1).len();
                many.schedules.lead(now);
                let orders = many.schedules.orders(now, 1);
                prop_assert_eq!(lost, orders.len());
                let Some(order) = orders.first() else { break };
                many.fold(order);
            }
            prop_assert_eq!(one.ids(), many.ids());
            let decided = |folder: &Folder| folder.schedules.get("s").unwrap().decided;
            prop_assert_eq!(decided(&one), decided(&many));
        }
    }
}
