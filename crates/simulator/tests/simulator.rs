//! The simulator itself: it finds nothing in the product as it is, replays what it did, shortens
//! what it found, and its mutants can still be made.

use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path};

use simulator::{
    invariants,
    run::{run, shorten},
};

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

#[test]
fn a_hundred_thousand_steps_break_nothing() {
    for seed in 0..50 {
        let outcome = run(seed, 2_000, &BTreeSet::new(), false);
        let again = "cargo run -p simulator -- --steps 2000 --seed";
        assert_eq!(outcome.broken, None, "{again} {seed}");
        assert!(outcome.messages > 20, "seed {seed}: something happens");
    }
}

#[test]
fn many_steps_of_flow_control_exceed_no_limit() {
    let (mut released, mut refused) = (0, 0);
    for seed in 0..20 {
        let outcome = simulator::flow::run(seed, 1_000);
        let again = "cargo run -p simulator -- --flow --steps 1000 --seed";
        assert_eq!(outcome.broken, None, "{again} {seed}");
        released += outcome.released;
        refused += outcome.refused;
    }
    assert!(released > 2_000 && refused > 200, "{released} released, {refused} refused");
}

#[test]
fn fair_shares_are_within_five_percent() {
    for seed in 0..4 {
        assert_eq!(simulator::flow::shares::run(seed, 10_000), Ok(()), "seed {seed}");
    }
}

#[test]
fn a_seed_is_the_same_run_again() {
    let history = || run(11, 1_500, &BTreeSet::new(), true).history;
    let first = history();
    assert!(first.len() > 100);
    assert_eq!(first, history());
}

#[test]
fn what_is_left_out_changes_nothing_else_and_what_does_not_break_is_not_shortened() {
    let without = (0..400).collect::<BTreeSet<_>>();
    let outcome = run(3, 800, &without, false);
    assert_eq!(outcome.broken, None);
    let (end, left_out) = shorten(3, 60, "ends_once", 10);
    assert_eq!((end, left_out.len()), (60, 0));
}

/// A patch whose lines are not in the sources any more shows nothing.
#[test]
fn every_mutant_can_be_made_of_the_sources() {
    let mut count = 0;
    for entry in fs::read_dir(root().join("crates/simulator/mutants")).expect("the mutants") {
        let place = entry.expect("a file").path();
        let patch = fs::read_to_string(&place).expect("text");
        let file = patch.lines().find_map(|line| line.strip_prefix("--- a/")).expect("a file");
        let source = fs::read_to_string(root().join(file)).expect(file);
        let hunks = patch.split("\n@@").skip(1);
        for hunk in hunks {
            let mut old = String::new();
            for line in hunk.lines().skip(1).filter(|line| !line.starts_with(['+', '\\'])) {
                writeln!(old, "{}", line.get(1..).unwrap_or_default()).expect("memory");
            }
            let found = source.matches(old.trim_end_matches('\n')).count();
            assert_eq!(found, 1, "{}: these lines are not in {file}:\n{old}", place.display());
        }
        count += 1;
    }
    assert!(count >= 8, "{count} mutants");
}

/// `UPDATE=1 cargo nextest run -p simulator` writes the list anew.
#[test]
fn the_guarantees_list_every_invariant() {
    const BEGIN: &str = "<!-- invariants: generated -->\n";
    const END: &str = "<!-- end -->";
    let path = root().join("docs/guarantees.md");
    let page = fs::read_to_string(&path).expect("the page");
    let (head, rest) = page.split_once(BEGIN).expect("the mark");
    let (_, tail) = rest.split_once(END).expect("the end");
    let mut list = String::new();
    for (name, words) in invariants::ALL {
        writeln!(list, "- {words} (`{name}`)").expect("memory");
    }
    let wanted = format!("{head}{BEGIN}\n{list}\n{END}{tail}");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &wanted).expect("docs/guarantees.md");
    }
    assert!(page == wanted || std::env::var_os("UPDATE").is_some(), "run this with UPDATE=1");
}
