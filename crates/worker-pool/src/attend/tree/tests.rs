use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use super::*;

#[test]
fn a_process_and_its_memory_are_seen() {
    let (_, own) = used(Pid::this().as_raw()).expect("this process");
    assert!(own.memory_kb > 0 && own.largest_kb > own.memory_kb, "{own:?}");
    assert!(used(i32::MAX).is_none());
}

#[test]
fn a_kernel_without_lists_of_children_gives_the_same_tree() {
    let script = "sleep 60 & (sleep 60 & echo ready; wait) & wait";
    let mut command = Command::new("/bin/sh");
    let mut top = command.args(["-c", script]).stdout(Stdio::piped()).spawn().expect("a shell");
    let mut ready = String::new();
    let stdout = top.stdout.take().expect("piped");
    BufReader::new(stdout).read_line(&mut ready).expect("a line");
    let own = Pid::this().as_raw();
    let known = all_children();
    let scanned = below(own, |pid| known.get(&pid).cloned().unwrap_or_default());
    let listed = descendants();
    crate::attend::watch::end(descendants);
    top.wait().expect("it ends");
    let sorted = |mut pids: Vec<i32>| {
        pids.sort_unstable();
        pids
    };
    assert!(scanned.len() >= 3, "{scanned:?}");
    assert_eq!(sorted(scanned), sorted(listed));
}

/// Processes by number, with the time of their own and of those that they have waited for.
fn look(reaped_seconds: f64, living: &[(i32, u64, u64)]) -> Look {
    let one = |(pid, ticks, waited_ticks): &(i32, u64, u64)| {
        ((*pid, 7), Use { ticks: *ticks, waited_ticks: *waited_ticks, ..Use::default() })
    };
    Look { reaped_seconds, living: living.iter().map(one).collect() }
}

#[test]
fn time_is_lost_when_nobody_waited_for_it() {
    let before = look(1.0, &[(1, 10, 5), (2, 100, 20), (3, 50, 0)]);
    let check = |later: Look, expected: f64| {
        let lost = before.lost_until(&later);
        assert!((lost - expected).abs() < 1e-9, "{lost} after {later:?}");
    };
    check(before.clone(), 0.0);
    check(look(1.0, &[(1, 30, 5), (2, 100, 20), (3, 50, 0), (4, 9, 0)]), 0.0);
    // Two has gone with what it had waited for, and three.
    check(look(1.0, &[(1, 10, 5), (3, 50, 0)]), 1.2);
    check(look(1.0, &[(1, 10, 5)]), 1.7);
    check(look(1.0, &[]), 1.85);
    // Waited for by one, by this process, by one that is new; with what was not seen of it.
    check(look(1.0, &[(1, 10, 125), (3, 50, 0)]), 0.0);
    check(look(2.3, &[(1, 10, 5), (3, 50, 0)]), 0.0);
    check(look(1.0, &[(1, 10, 5), (3, 50, 0), (4, 0, 120)]), 0.0);
    check(look(1.0, &[(1, 10, 5), (3, 50, 70)]), 0.5);
    // The number was given out again.
    let mut again = before.clone();
    let used = again.living.remove(&(3, 7)).expect("there");
    again.living.insert((3, 8), used);
    check(again, 0.5);
}

#[test]
fn what_is_counted_in_ticks_is_never_lost_for_that() {
    assert!(look(0.0, &[(1, 1, 0)]).lost_until(&look(0.009, &[])).abs() < 1e-9);
    assert!(look(0.0, &[(1, 2, 0)]).lost_until(&look(0.009, &[])) > 0.0);
}
