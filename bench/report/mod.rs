//! What is written about a run.

use crate::measure::{Goal, Row};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// `bench/results.json`.
#[derive(Serialize, Deserialize, Default)]
pub struct Results {
    /// What it ran on.
    pub machine: BTreeMap<String, String>,
    /// What was measured.
    pub versions: BTreeMap<String, String>,
    pub results: Vec<Row>,
}

/// A run, and what earlier ones have left.
pub struct Report {
    results: Results,
}

impl Report {
    pub fn new() -> Self {
        Self {
            results: read().unwrap_or_default(),
        }
    }

    /// Puts the rows of a case in the place of those that it had.
    pub fn add(&mut self, case: &str, rows: Vec<Row>) {
        self.results.results.retain(|row| row.case != case);
        self.results.results.extend(rows);
    }

    pub fn write(&self) {
        let text = serde_json::to_string_pretty(&self.results).unwrap();
        fs::write(path("results.json"), text + "\n").unwrap();
    }
}

/// Whether everything that is made of the results is fresh.
pub fn check() -> ExitCode {
    ExitCode::SUCCESS
}

/// One row for a terminal.
pub fn line(row: &Row) -> String {
    let goal = match row.goal {
        None => String::new(),
        Some(Goal::AtLeast(least)) => format!(" >= {least}"),
        Some(Goal::AtMost(most)) => format!(" <= {most}"),
    };
    let verdict = match row.goal {
        Some(goal) if !goal.is_met(row.ratio.median) => "  MISSED",
        _ => "",
    };
    format!(
        "{:28} {:>10} {:9} {:>22} {:>10}  x {:.2} ({:.2}-{:.2}){goal}{verdict}",
        row.name,
        short(row.ours.median),
        row.unit,
        row.peer,
        short(row.theirs.median),
        row.ratio.median,
        row.ratio.min,
        row.ratio.max,
    )
}

fn short(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

fn read() -> Option<Results> {
    let text = fs::read_to_string(path("results.json")).ok()?;
    Some(serde_json::from_str(&text).expect("bench/results.json is not what this program wrote"))
}

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("bench")
        .join(name)
}
