//! `simulate`: many seeds, or one again.

use std::{
    collections::BTreeSet,
    io::Write as _,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;
use simulator::run::{Outcome, run, shorten};

/// Runs the system's own decisions in a world that breaks; stops at the first invariant that does
/// not hold.
#[derive(Debug, Parser)]
struct Options {
    /// How many seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Steps of each.
    #[arg(long, default_value_t = 1_000)]
    steps: u64,
    /// One seed only, with its history.
    #[arg(long)]
    seed: Option<u64>,
    /// Flow control alone, against a model of its own.
    #[arg(long)]
    flow: bool,
    /// The name of the change of the product that this was built with, for the summary.
    #[arg(long)]
    mutant: Option<String>,
    /// Runs that shortening a history may take.
    #[arg(long, default_value_t = 400)]
    shorten: usize,
    /// Lines of the shortened history that are printed.
    #[arg(long, default_value_t = 120)]
    lines: usize,
}

fn main() -> anyhow::Result<ExitCode> {
    let options = Options::parse();
    // A panic is an outcome; it is told with its history.
    std::panic::set_hook(Box::new(|_| {}));
    let begun = now();
    let seeds = match options.seed {
        Some(seed) => seed..seed + 1,
        None => options.from..options.from + options.seeds,
    };
    if options.flow {
        return flow(&options, seeds);
    }
    let mut sum = Sum::default();
    let mut told = now();
    for seed in seeds {
        let outcome = run(seed, options.steps, &BTreeSet::new(), false);
        sum.add(&outcome);
        if outcome.broken.is_some() {
            explain(&options, seed, &outcome)?;
            summary(&options, &sum, begun.elapsed(), Some((seed, &outcome)))?;
            return Ok(ExitCode::from(1));
        }
        if told.elapsed() > Duration::from_secs(5) {
            told = now();
            let rate = sum.steps as f64 / begun.elapsed().as_secs_f64();
            writeln!(
                anstream::stderr(),
                "{} seeds, {} steps, {rate:.0} steps/s",
                sum.seeds,
                sum.steps
            )?;
        }
    }
    summary(&options, &sum, begun.elapsed(), None)?;
    Ok(ExitCode::SUCCESS)
}

/// Flow control: each seed's steps, and as many releases to compare shares by.
fn flow(options: &Options, seeds: std::ops::Range<u64>) -> anyhow::Result<ExitCode> {
    let begun = now();
    let (mut sum, mut refused, mut terms, mut cuts) = (Sum::default(), 0, 0, 0);
    let mut found = None;
    for seed in seeds {
        let outcome = simulator::flow::run(seed, options.steps);
        (sum.seeds, sum.steps) = (sum.seeds + 1, sum.steps + outcome.steps);
        sum.begun += outcome.released;
        (refused, terms) = (refused + outcome.refused, terms + outcome.terms);
        cuts += outcome.cuts;
        let shares = simulator::flow::shares::run(seed, options.steps as usize).err();
        found = outcome.broken.or(shares).map(|broken| (seed, outcome.steps, broken));
        if let Some((seed, step, broken)) = &found {
            let name = broken.invariant;
            let detail = &broken.detail;
            let text = format!("seed {seed}, step {step}: {name} does not hold: {detail}");
            writeln!(anstream::stderr(), "{text}")?;
            break;
        }
    }
    let line = serde_json::json!({
        "seeds": sum.seeds,
        "steps": sum.steps,
        "seconds": (begun.elapsed().as_secs_f64() * 10.0).round() / 10.0,
        "released": sum.begun,
        "refused": refused,
        "terms": terms,
        "cuts": cuts,
        "mutant": options.mutant,
        "broken": found.as_ref().map(|(.., broken)| broken.invariant),
        "detail": found.as_ref().map(|(.., broken)| broken.detail.as_str()),
        "seed": found.as_ref().map(|(seed, ..)| seed),
        "step": found.as_ref().map(|(_, step, _)| step),
    });
    writeln!(anstream::stdout(), "{line}")?;
    Ok(if found.is_some() { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

#[expect(clippy::disallowed_methods, reason = "how long it takes is said, and decides nothing")]
fn now() -> Instant {
    Instant::now()
}

#[derive(Debug, Default)]
struct Sum {
    seeds: u64,
    steps: u64,
    messages: u64,
    ended: u64,
    begun: u64,
}

impl Sum {
    fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.steps += outcome.steps;
        self.messages += outcome.messages;
        self.ended += outcome.ended;
        self.begun += outcome.begun;
    }
}

fn explain(options: &Options, seed: u64, outcome: &Outcome) -> anyhow::Result<()> {
    let Some(broken) = &outcome.broken else { return Ok(()) };
    let mut out = anstream::stderr();
    writeln!(out, "\nseed {seed}, step {}: {} does not hold", outcome.steps, broken.invariant)?;
    let words = simulator::invariants::ALL.iter().find(|(name, _)| *name == broken.invariant);
    if let Some((_, words)) = words {
        writeln!(out, "  {words}")?;
    }
    writeln!(out, "  {}", broken.detail)?;
    let (end, without) = shorten(seed, outcome.steps, broken.invariant, options.shorten);
    let short = run(seed, end, &without, true);
    let left = end - without.iter().filter(|step| **step < end).count() as u64;
    writeln!(out, "\nshortened from {} to {left} steps:", outcome.steps)?;
    let skipped = short.history.len().saturating_sub(options.lines);
    if skipped > 0 {
        writeln!(out, "  ... {skipped} lines before")?;
    }
    for line in short.history.iter().skip(skipped) {
        writeln!(out, "  {line}")?;
    }
    let mutant = options.mutant.as_ref().map(|m| format!(" --mutant {m}")).unwrap_or_default();
    writeln!(
        out,
        "\nagain: cargo run --release -p simulator -- --seed {seed} --steps {}{mutant}",
        options.steps
    )?;
    Ok(())
}

fn summary(
    options: &Options,
    sum: &Sum,
    took: Duration,
    broken: Option<(u64, &Outcome)>,
) -> anyhow::Result<()> {
    let what = broken.and_then(|(_, outcome)| outcome.broken.as_ref());
    let line = serde_json::json!({
        "seeds": sum.seeds,
        "steps": sum.steps,
        "seconds": (took.as_secs_f64() * 10.0).round() / 10.0,
        "steps_per_second": (sum.steps as f64 / took.as_secs_f64()).round(),
        "messages": sum.messages,
        "tasks_ended": sum.ended,
        "attempts_begun": sum.begun,
        "mutant": options.mutant,
        "broken": what.map(|b| b.invariant),
        "detail": what.map(|b| b.detail.as_str()),
        "seed": broken.map(|(seed, _)| seed),
        "step": broken.map(|(_, outcome)| outcome.steps),
    });
    writeln!(anstream::stdout(), "{line}")?;
    Ok(())
}
