//! `bench/results.json`.

use crate::case::position;
use crate::project::path;
use crate::row::{Row, Spread};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;

const FILE: &str = "bench/results.json";

/// The contents of the file.
#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Results {
    /// The day of the latest measurement, in UTC.
    pub date: String,
    /// The machine of the measurements.
    pub machine: BTreeMap<String, String>,
    /// Versions of pve-tunnel, of the peers, and of the compiler.
    pub versions: BTreeMap<String, String>,
    #[serde(rename = "results")]
    pub rows: Vec<Row>,
}

impl Results {
    pub fn read() -> Option<Self> {
        let text = fs::read_to_string(path(FILE)).ok()?;
        let results = serde_json::from_str(&text);
        Some(results.unwrap_or_else(|error| panic!("{FILE} is not valid: {error}")))
    }

    pub fn write(&self) {
        let text = serde_json::to_string_pretty(self).unwrap();
        fs::write(path(FILE), text + "\n").unwrap();
    }

    /// Replaces the rows of a case. Rows of cases that no longer exist are dropped.
    pub fn replace(&mut self, case: &str, rows: Vec<Row>) {
        self.rows.retain(|row| row.case != case);
        self.rows.extend(rows.into_iter().map(rounded));
        self.rows.retain(|row| position(&row.case).is_some());
        self.rows.sort_by_key(|row| position(&row.case));
    }

    /// The machine and the day, in one line.
    pub fn machine_text(&self) -> String {
        let fact = |name| self.machine.get(name).map(String::as_str);
        let cores = fact("cores").map(|cores| format!("{cores} cores"));
        let kernel = fact("kernel").map(|kernel| format!("Linux {kernel}"));
        let facts = [
            fact("cpu"),
            cores.as_deref(),
            fact("memory"),
            fact("system"),
            kernel.as_deref(),
            Some(&self.date),
        ];
        let facts: Vec<&str> = facts.into_iter().flatten().collect();
        facts.join(", ")
    }

    /// The versions, in one line.
    pub fn versions_text(&self) -> String {
        let versions = self.versions.iter();
        let versions: Vec<String> = versions
            .map(|(name, version)| format!("{name} {version}"))
            .collect();
        versions.join(", ")
    }
}

/// Rounds all values of a row, so that the file shows no more digits than the measurement has.
fn rounded(mut row: Row) -> Row {
    for Spread { median, min, max } in [&mut row.ours, &mut row.theirs, &mut row.ratio] {
        for value in [median, min, max] {
            round(value);
        }
    }
    let costs = row.cpu.ours.values_mut().chain(row.cpu.theirs.values_mut());
    costs.for_each(round);
    row
}

/// To four significant digits.
fn round(value: &mut f64) {
    *value = format!("{value:.3e}").parse().unwrap();
}
