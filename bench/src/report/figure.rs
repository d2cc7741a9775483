//! How a figure, a spread, a goal reads.

use super::results::Results;
use crate::measure::{Goal, Row, Spread};
use std::collections::BTreeMap;

/// A figure with about three digits that say something.
pub fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 99.95 => format!("{value:.0}"),
        size if size >= 9.995 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// `1.62 (1.50–1.71)`.
pub fn spread(spread: &Spread) -> String {
    let [median, min, max] = [spread.median, spread.min, spread.max].map(short);
    format!("{median} ({min}–{max})")
}

/// `≥ 1.25`, or nothing.
pub fn goal(goal: Option<Goal>) -> String {
    match goal {
        None => String::new(),
        Some(Goal::AtLeast(least)) => format!("≥ {least}"),
        Some(Goal::AtMost(most)) => format!("≤ {most}"),
    }
}

/// The peer; of a limit, how high it is.
pub fn against(row: &Row) -> String {
    match row.peer.as_str() {
        "limit" => format!("limit of {} {}", row.theirs.median, row.unit),
        peer => peer.to_owned(),
    }
}

/// Whether a row's goal is met; nothing where there is none.
pub fn is_met(row: &Row) -> Option<bool> {
    row.goal.map(|goal| goal.is_met(row.ratio.median))
}

/// CPU seconds for a GiB of everybody in a path.
pub fn total(cost: &BTreeMap<String, f64>) -> f64 {
    cost.values().sum()
}

/// What it was measured on and when, in a line.
pub fn machine(results: &Results) -> String {
    let fact = |name| results.machine.get(name).map(String::as_str);
    let cores = fact("cores").map(|cores| format!("{cores} cores"));
    let kernel = fact("kernel").map(|kernel| format!("Linux {kernel}"));
    let facts = [
        fact("cpu"),
        cores.as_deref(),
        fact("memory"),
        fact("system"),
        kernel.as_deref(),
        Some(&results.date),
    ];
    let facts: Vec<&str> = facts.into_iter().flatten().collect();
    facts.join(", ")
}

/// Who took part, in a line.
pub fn versions(results: &Results) -> String {
    let versions = results.versions.iter();
    let versions: Vec<String> = versions
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    versions.join(", ")
}
