use std::time::Duration;

use common::{pb, policy::limit::Limit};

use super::{Arrival, Flow, Hold, Named, Refusal, Stand};
use crate::plan::Ticket;

fn named(name: &str, change: impl FnOnce(&mut pb::Limit)) -> Named {
    let mut limit = pb::Limit { queue: "q".into(), ..pb::Limit::default() };
    change(&mut limit);
    let limit = Limit::parse(&limit).expect("a limit");
    Named { name: name.into(), limit, since: 0 }
}

fn ticket(slot: u32) -> Ticket {
    Ticket { slot, generation: 0 }
}

fn lane(flow: &mut Flow, keys: &[&str]) -> u32 {
    let keys = keys.iter().map(|key| Box::from(*key)).collect::<Vec<_>>();
    flow.enter(&keys, Stand::Waiting)
}

/// A task that is ready; returns its lane.
fn ready(flow: &mut Flow, keys: &[&str], slot: u32, now: i64) -> u32 {
    let lane = lane(flow, keys);
    flow.moved(lane, Stand::Waiting, Stand::Ready, now);
    flow.push(lane, 5, ticket(slot), now);
    lane
}

/// Everything that may go now, in order.
fn drain(flow: &mut Flow, lanes: &[u32], now: i64, most: usize) -> Vec<u32> {
    let mut gone = Vec::new();
    while gone.len() < most
        && let Some(next) = flow.next(now, |_, _| true)
    {
        flow.take(next, now);
        flow.moved(lanes[next.ticket.slot as usize], Stand::Ready, Stand::Out, now);
        gone.push(next.ticket.slot);
    }
    gone
}

const SECOND: i64 = 1_000_000;

#[test]
fn one_key_that_is_full_does_not_hold_the_others() {
    let mut flow = Flow::new(vec![named("each", |l| {
        l.key = "input.k".into();
        l.concurrency = Some(1);
    })]);
    let keys = ["a", "a", "a", "b", "a", "c"];
    let lanes = (0..6).map(|n| ready(&mut flow, &[keys[n as usize]], n, 0)).collect::<Vec<_>>();
    assert_eq!(drain(&mut flow, &lanes, 0, 9), [0, 3, 5]);
    assert_eq!(flow.holds(lanes[1], 0)[0].hold, Hold::Full { out: 1, max: 1 });
    flow.leave(lanes[0], Stand::Out, 0);
    assert_eq!(drain(&mut flow, &lanes, 0, 9), [1]);
}

#[test]
fn a_key_inside_another_waits_for_both() {
    let limit = |name: &str, key: &str, most| {
        named(name, |l| {
            l.key = key.into();
            l.concurrency = Some(most);
        })
    };
    let mut flow = Flow::new(vec![limit("a", "input.customer", 1), limit("b", "tenant", 2)]);
    let keys = [["c1", "t"], ["c1", "t"], ["c2", "t"], ["c3", "t"], ["c4", "u"]];
    let lanes = (0..5).map(|n| ready(&mut flow, &keys[n as usize], n, 0)).collect::<Vec<_>>();
    assert_eq!(drain(&mut flow, &lanes, 0, 9), [0, 2, 4], "two of t");
    flow.leave(lanes[2], Stand::Out, 0);
    assert_eq!(drain(&mut flow, &lanes, 0, 9), [3], "c1 is full, c3 is not");
    flow.leave(lanes[0], Stand::Out, 0);
    assert_eq!(drain(&mut flow, &lanes, 0, 9), [1]);
}

#[test]
fn a_rate_spaces_starts_and_says_when_the_next_is_due() {
    let mut flow = Flow::new(vec![named("slow", |l| {
        l.rate = Some(pb::LimitRate { count: 2, burst: Some(3), ..pb::LimitRate::default() });
    })]);
    let lanes = (0..6).map(|n| ready(&mut flow, &[], n, 0)).collect::<Vec<_>>();
    assert_eq!(drain(&mut flow, &lanes, 10 * SECOND, 9), [0, 1, 2], "the burst");
    assert_eq!(flow.next_wake(10 * SECOND), Some(10 * SECOND + SECOND / 2));
    assert!(drain(&mut flow, &lanes, 10 * SECOND + SECOND / 2 - 1, 9).is_empty());
    assert_eq!(drain(&mut flow, &lanes, 10 * SECOND + SECOND / 2, 9), [3]);
    assert_eq!(drain(&mut flow, &lanes, 11 * SECOND, 9), [4]);
}

#[test]
fn a_rate_of_a_key_wakes_its_lane_and_is_forgotten_when_it_is_of_no_use() {
    let mut flow = Flow::new(vec![named("slow", |l| {
        l.key = "input.k".into();
        l.rate = Some(pb::LimitRate { count: 1, ..pb::LimitRate::default() });
    })]);
    let lanes = (0..3).map(|n| ready(&mut flow, &["a"], n, 0)).collect::<Vec<_>>();
    assert_eq!(drain(&mut flow, &lanes, 5 * SECOND, 9), [0]);
    assert_eq!(flow.next_wake(5 * SECOND), Some(6 * SECOND));
    assert_eq!(drain(&mut flow, &lanes, 6 * SECOND, 9), [1]);
    assert_eq!(drain(&mut flow, &lanes, 7 * SECOND, 9), [2]);
    for lane in lanes {
        flow.leave(lane, Stand::Out, 7 * SECOND);
    }
    assert_eq!(flow.buckets.len(), 1, "who comes again at once must wait");
    flow.tick(8 * SECOND);
    assert_eq!((flow.buckets.len(), flow.lanes.len(), flow.by_key.len()), (0, 0, 0));
}

#[test]
fn weights_share_the_queue() {
    let mut flow = Flow::new(vec![named("fair", |l| {
        l.key = "input.k".into();
        l.fair = Some(pb::LimitFair { weights: [("big".to_owned(), 3)].into() });
    })]);
    let mut lanes = Vec::new();
    for n in 0..3_000 {
        lanes.push(ready(&mut flow, &[["big", "x", "y"][n as usize % 3]], n, 0));
    }
    let gone = drain(&mut flow, &lanes, 0, 1_000);
    let big = gone.iter().filter(|n| **n % 3 == 0).count();
    assert!((598..=602).contains(&big), "{big} of 1000");
    // One that was idle does not get what it did not ask for.
    let late = (0..1_000).map(|n| ready(&mut flow, &["late"], 3_000 + n, 0)).collect::<Vec<_>>();
    lanes.extend(late);
    let gone = drain(&mut flow, &lanes, 0, 600);
    let late = gone.iter().filter(|n| **n >= 3_000).count();
    assert!((98..=102).contains(&late), "{late} of 600");
}

#[test]
fn priority_goes_before_fairness_and_age_makes_priority() {
    let mut flow = Flow::new(vec![named("old", |l| {
        l.ageing = Some(Duration::from_secs(10).into());
    })]);
    let lane = lane(&mut flow, &[]);
    flow.moved(lane, Stand::Waiting, Stand::Ready, SECOND);
    flow.push(lane, 1, ticket(0), SECOND);
    let mut order = Vec::new();
    for second in 1..100 {
        let now = i64::from(second + 1) * SECOND;
        flow.push(lane, 5, ticket(second), now);
        let next = flow.next(now, |_, _| true).expect("one is ready");
        flow.take(next, now);
        order.push(next.ticket.slot);
    }
    let at = order.iter().position(|slot| *slot == 0).expect("it is not starved");
    assert_eq!(at + 1, 40, "after four steps of ten seconds it counts as 5, and is the older");
}

#[test]
fn of_a_burst_the_newest_runs_once_when_it_is_quiet_or_has_lasted() {
    let mut flow = Flow::new(vec![named("calm", |l| {
        l.key = "input.k".into();
        let (quiet, longest) = (Duration::from_secs(2), Duration::from_secs(5));
        l.debounce =
            Some(pb::LimitDebounce { quiet: Some(quiet.into()), longest: Some(longest.into()) });
    })]);
    let mut refused = Vec::new();
    let mut lanes = Vec::new();
    for n in 0..8 {
        let at = i64::from(n) * SECOND;
        lanes.push(ready(&mut flow, &["a"], n, at));
        let arrival = Arrival { ticket: ticket(n), at, order: u64::from(n), is_new: true };
        let gone = refused.clone();
        let waits = |ticket: Ticket| !gone.contains(&ticket.slot);
        flow.arrived(lanes[n as usize], arrival, None, waits);
        let gone = refused.clone();
        for (t, why) in flow.judge(|ticket| !gone.contains(&ticket.slot)) {
            assert_eq!(why, Refusal::Superseded);
            refused.push(t.slot);
            flow.leave(lanes[t.slot as usize], Stand::Ready, at);
        }
        let next = flow.next(at, |ticket, _| !refused.contains(&ticket.slot));
        match n {
            5 => {
                let next = next.expect("it has lasted");
                assert_eq!(next.ticket.slot, 5);
                flow.take(next, at);
                flow.moved(lanes[5], Stand::Ready, Stand::Out, at);
                flow.leave(lanes[5], Stand::Out, at);
                refused.push(5);
            }
            _ => assert_eq!(next, None, "{n}"),
        }
    }
    assert_eq!(refused, [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(flow.next_wake(7 * SECOND), Some(8 * SECOND), "the wake of before");
    let next = flow.next(9 * SECOND, |ticket, _| ticket.slot == 7).expect("it was quiet");
    assert_eq!(next.ticket.slot, 7);
}

#[test]
fn only_one_of_a_key_waits_and_only_so_many_in_all() {
    let mut flow = Flow::new(vec![
        named("one", |l| {
            l.key = "input.k".into();
            l.singleton = pb::LimitSingleton::Waiting.into();
        }),
        named("three", |l| l.depth = Some(3)),
    ]);
    let keys = ["a", "a", "b", "c", "d", "e"];
    let mut lanes = Vec::new();
    for n in 0..6 {
        lanes.push(ready(&mut flow, &[keys[n as usize]], n, 0));
        let arrival = Arrival { ticket: ticket(n), at: 0, order: u64::from(n), is_new: true };
        flow.arrived(lanes[n as usize], arrival, None, |_| true);
    }
    let refused = flow.judge(|_| true);
    let expected = [
        (ticket(1), Refusal::Duplicate),
        (ticket(3), Refusal::TooMany),
        (ticket(4), Refusal::TooMany),
        (ticket(5), Refusal::TooMany),
    ];
    assert_eq!(refused, expected);
}

#[test]
fn what_one_limit_refuses_does_not_count_for_another() {
    let mut flow = Flow::new(vec![
        named("all", |l| l.depth = Some(10)),
        named("each", |l| {
            l.key = "input.k".into();
            l.depth = Some(5);
        }),
    ]);
    let mut come = |keys: &[&str], first: u32| {
        for (n, key) in (first..).zip(keys) {
            let lane = ready(&mut flow, &[*key], n, 0);
            let arrival = Arrival { ticket: ticket(n), at: 0, order: u64::from(n), is_new: true };
            flow.arrived(lane, arrival, None, |_| true);
        }
        flow.judge(|_| true)
    };
    assert_eq!(come(&["k", "k", "k", "k", "u", "u", "u", "u", "u"], 0), []);
    // The queue has room for one, the key as well.
    let refused = come(&["k", "k", "k", "k"], 9);
    let expected = [10, 11, 12].map(|n| (ticket(n), Refusal::TooMany));
    assert_eq!(refused, expected);
}

/// What came while nobody led is judged at once.
#[test]
fn a_flood_is_judged_in_one_pass() {
    let mut flow = Flow::new(vec![named("calm", |l| {
        l.key = "input.k".into();
        let quiet = Some(Duration::from_secs(2).into());
        l.debounce = Some(pb::LimitDebounce { quiet, ..pb::LimitDebounce::default() });
    })]);
    let lane = lane(&mut flow, &["a"]);
    let flood = 200_000;
    for n in 0..flood {
        let arrival = Arrival { ticket: ticket(n), at: 0, order: u64::from(n), is_new: true };
        flow.arrived(lane, arrival, None, |_| true);
    }
    let refused = flow.judge(|_| true);
    assert_eq!(refused.len(), flood as usize - 1);
    assert_eq!(refused.last(), Some(&(ticket(flood - 2), Refusal::Superseded)));
}

#[test]
fn other_numbers_hold_at_once() {
    let limit = |most| {
        vec![named("each", |l| {
            l.key = "input.k".into();
            l.concurrency = Some(most);
        })]
    };
    let mut flow = Flow::new(limit(1));
    let lanes = (0..5).map(|n| ready(&mut flow, &["a"], n, 0)).collect::<Vec<_>>();
    assert_eq!(drain(&mut flow, &lanes, 0, 9), [0]);
    flow.set(limit(3), 0);
    flow.look_again(0);
    assert_eq!(drain(&mut flow, &lanes, 0, 9), [1, 2]);
    flow.set(limit(1), 0);
    flow.look_again(0);
    flow.leave(lanes[0], Stand::Out, 0);
    assert!(drain(&mut flow, &lanes, 0, 9).is_empty(), "two are out, of one");
}

#[test]
fn another_rate_holds_at_once() {
    let limit = |count, per| {
        vec![named("slow", |l| {
            l.key = "input.k".into();
            let per = Some(Duration::from_secs(per).into());
            l.rate = Some(pb::LimitRate { count, per, ..pb::LimitRate::default() });
        })]
    };
    let day = 24 * 3_600;
    let mut flow = Flow::new(limit(1, day));
    let lanes = (0..3).map(|n| ready(&mut flow, &["a"], n, 0)).collect::<Vec<_>>();
    assert_eq!(drain(&mut flow, &lanes, SECOND, 9), [0]);
    assert!(drain(&mut flow, &lanes, 2 * SECOND, 9).is_empty(), "the next is a day away");
    flow.set(limit(2, 1), 2 * SECOND);
    flow.look_again(2 * SECOND);
    assert!(drain(&mut flow, &lanes, 2 * SECOND, 9).is_empty(), "never faster than the new one");
    assert_eq!(drain(&mut flow, &lanes, 3 * SECOND - SECOND / 2, 9), [1]);
    // A slower one counts from what was used.
    flow.set(limit(1, day), 3 * SECOND);
    flow.look_again(3 * SECOND);
    assert_eq!(drain(&mut flow, &lanes, 3 * SECOND, 9), [2]);
}

#[test]
fn what_was_used_of_a_rate_outlives_a_process() {
    let limits = || {
        vec![named("slow", |l| {
            let per = Some(Duration::from_secs(60).into());
            l.rate = Some(pb::LimitRate { count: 1, per, ..pb::LimitRate::default() });
        })]
    };
    let mut flow = Flow::new(limits());
    let lanes = (0..2).map(|n| ready(&mut flow, &[], n, 0)).collect::<Vec<_>>();
    assert_eq!(drain(&mut flow, &lanes, SECOND, 9), [0]);
    let heard = flow.states(std::iter::empty());
    let mut again = Flow::new(limits());
    again.restore(&heard[0], SECOND);
    let lanes = (0..2).map(|n| ready(&mut again, &[], n, 0)).collect::<Vec<_>>();
    assert!(drain(&mut again, &lanes, 60 * SECOND, 9).is_empty());
    assert_eq!(drain(&mut again, &lanes, 61 * SECOND, 9), [0]);
    // What nobody has heard of yet is charged when it is heard of.
    let unheard = flow.states([lanes[0]].into_iter());
    assert_eq!(unheard[0].next, SECOND);
}

#[test]
fn tickets_that_have_moved_on_do_not_pile_up_where_nothing_is_taken_off() {
    let mut flow = Flow::new(vec![named("one", |l| l.concurrency = Some(1))]);
    let lane = ready(&mut flow, &[], 0, 0);
    for n in 1..20_000 {
        flow.push(lane, 5, ticket(n), 0);
        flow.compact(|ticket, _| ticket.slot == n, |_| false);
    }
    let kept = flow.lanes.iter().map(|(_, lane)| lane.len()).sum::<usize>();
    assert!(kept < 10_000, "{kept}");
    let next = flow.next(20_000, |ticket, _| ticket.slot == 19_999).expect("one is ready");
    assert_eq!(next.ticket.slot, 19_999);
}
