//! **Pure.** The figures of all runs, for people and as one line of JSON.

use std::collections::BTreeMap;

use comfy_table::Cell;
use serde::Serialize;
use serde_json::Value;

use super::{
    machine::Machine,
    plan::{self, Goal, Scenario},
};
use crate::table;

/// What the figures are of.
#[derive(Clone, Debug, Serialize)]
pub(super) struct About {
    pub(super) machine: Machine,
    pub(super) jetmill: &'static str,
    pub(super) build: &'static str,
    pub(super) nats_server: String,
    pub(super) postgres: Option<String>,
    pub(super) rustc: &'static str,
    pub(super) settings: BTreeMap<&'static str, u64>,
}

/// One figure of all runs.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Figure {
    scenario: String,
    name: String,
    unit: &'static str,
    median: f64,
    min: f64,
    max: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    goal: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    met: Option<bool>,
    values: Vec<f64>,
    #[serde(skip)]
    at_most: bool,
    /// What stands behind the figure, of the last run.
    how: String,
}

/// A row that there is no figure of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Missing {
    scenario: String,
    row: String,
    why: String,
}

/// Everything that one run of a row found, as it found it.
#[derive(Clone, Debug, Serialize)]
struct Detail {
    scenario: String,
    row: String,
    run: usize,
    found: Value,
}

/// Collects.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Sheet {
    figures: Vec<Figure>,
    not_measured: Vec<Missing>,
    details: Vec<Detail>,
}

/// Every figure, with what was measured.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    #[serde(flatten)]
    pub(super) about: About,
    pub(super) runs: usize,
    #[serde(flatten)]
    pub(super) sheet: Sheet,
}

impl Sheet {
    /// One more value of a figure.
    pub(super) fn add(
        &mut self,
        scenario: &Scenario,
        (name, unit): (&str, &'static str),
        value: f64,
        how: impl Into<String>,
    ) {
        let goal = plan::goal(scenario, name);
        let scenario = scenario.to_string();
        let known = self.figures.iter().position(|f| f.scenario == scenario && f.name == name);
        let mut figure = match known {
            Some(place) => self.figures.remove(place),
            None => Figure {
                scenario,
                name: name.to_owned(),
                unit,
                median: 0.0,
                min: 0.0,
                max: 0.0,
                goal: goal.map(|goal| match goal {
                    Goal::AtLeast(value) | Goal::AtMost(value) => value,
                }),
                at_most: matches!(goal, Some(Goal::AtMost(_))),
                met: None,
                values: Vec::new(),
                how: String::new(),
            },
        };
        figure.values.push((value * 1e3).round() / 1e3);
        (figure.median, figure.min, figure.max) = spread(&figure.values);
        figure.met = goal.map(|goal| goal.is_met(figure.median));
        figure.how = how.into();
        let place = known.unwrap_or(self.figures.len());
        self.figures.insert(place, figure);
    }

    /// A row that could not be measured.
    pub(super) fn miss(&mut self, scenario: &Scenario, row: &str, why: impl Into<String>) {
        let missing =
            Missing { scenario: scenario.to_string(), row: row.to_owned(), why: why.into() };
        if !self.not_measured.contains(&missing) {
            self.not_measured.push(missing);
        }
    }

    /// All that a row found.
    pub(super) fn detail(&mut self, scenario: &Scenario, row: &str, found: Value) {
        let scenario = scenario.to_string();
        let same = self.details.iter().filter(|d| d.scenario == scenario && d.row == row);
        let run = same.count() + 1;
        self.details.push(Detail { scenario, row: row.to_owned(), run, found });
    }

    /// The median of a figure that was measured.
    pub(super) fn median(&self, scenario: &Scenario, name: &str) -> Option<f64> {
        let scenario = scenario.to_string();
        let figure = self.figures.iter().find(|f| f.scenario == scenario && f.name == name)?;
        Some(figure.median)
    }
}

/// Median, least and most; the median of two is between them.
pub(super) fn spread(values: &[f64]) -> (f64, f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |place: usize| sorted.get(place).copied().unwrap_or_default();
    let (low, high) = (at(sorted.len().saturating_sub(1) / 2), at(sorted.len() / 2));
    (f64::midpoint(low, high), at(0), at(sorted.len().saturating_sub(1)))
}

impl Report {
    /// As a table with what it was measured on.
    pub(super) fn text(&self) -> String {
        let About { machine, jetmill, build, nats_server, postgres, rustc, settings } = &self.about;
        let Machine { cpu, cores, memory_gb, kernel } = machine;
        let settings =
            settings.iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>();
        let head = format!(
            "{cpu}, {cores} cores, {memory_gb} GB, Linux {kernel}\n\
             jetmill {jetmill} ({build}), nats-server {nats_server}, {}, rustc {rustc}\n\
             {}, runs {}\n",
            postgres.as_deref().unwrap_or("no PostgreSQL"),
            settings.join(", "),
            self.runs,
        );
        let mut rows = table::table(["WHERE", "WHAT", "FIGURE", "GOAL", "HOW"]);
        for figure in &self.sheet.figures {
            rows.add_row(vec![
                Cell::new(&figure.scenario),
                Cell::new(&figure.name),
                Cell::new(figure.text()),
                Cell::new(figure.goal_text()),
                Cell::new(&figure.how),
            ]);
        }
        for missing in &self.sheet.not_measured {
            rows.add_row(vec![
                Cell::new(&missing.scenario),
                Cell::new(&missing.row),
                Cell::new("not measured"),
                Cell::new(""),
                Cell::new(&missing.why),
            ]);
        }
        format!("{head}\n{}\n", rows.trim_fmt())
    }
}

impl Figure {
    fn text(&self) -> String {
        let Self { median, min, max, unit, .. } = self;
        if self.values.len() < 2 {
            return format!("{} {unit}", round(*median));
        }
        format!("{} ({}–{}) {unit}", round(*median), round(*min), round(*max))
    }

    fn goal_text(&self) -> String {
        let Some(goal) = self.goal else { return String::new() };
        let sign = if self.at_most { "≤" } else { "≥" };
        let verdict = if self.met == Some(true) { "met" } else { "missed" };
        format!("{sign} {}: {verdict}", round(goal))
    }
}

/// With as many digits as mean something.
fn round(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_quoted_with_their_spread() {
        assert_eq!(spread(&[3.0, 1.0, 2.0]), (2.0, 1.0, 3.0));
        assert_eq!(spread(&[1.0, 2.0]), (1.5, 1.0, 2.0));
        assert_eq!(spread(&[]), (0.0, 0.0, 0.0));
    }

    #[test]
    fn runs_of_one_figure_are_one_line() {
        let scenario = plan::plan(&plan::Asked::default()).remove(0);
        let mut sheet = Sheet::default();
        for value in [19_000.0, 21_000.0, 22_000.0] {
            sheet.add(&scenario, (plan::BULK, "tasks/s"), value, "x");
            sheet.add(&scenario, (plan::CHAIN, "ms"), 2.0, "x");
            sheet.detail(&scenario, "bulk", Value::Null);
            sheet.miss(&scenario, "steady", "why");
        }
        let [bulk, chain] = sheet.figures.as_slice() else { panic!("{sheet:?}") };
        assert_eq!((bulk.text().as_str(), bulk.met), ("21000 (19000–22000) tasks/s", Some(true)));
        assert_eq!(
            (bulk.goal_text().as_str(), chain.goal_text().as_str()),
            ("≥ 20000: met", "≤ 1.00: missed")
        );
        assert_eq!((sheet.not_measured.len(), sheet.details.last().map(|d| d.run)), (1, Some(3)));
        assert_eq!(sheet.median(&scenario, plan::CHAIN), Some(2.0));
    }
}
