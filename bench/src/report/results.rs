//! `bench/results.json`.

use super::machine;
use crate::case;
use crate::measure::{Row, Spread};
use crate::project::path;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;

const FILE: &str = "bench/results.json";

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Results {
    /// The day of the newest of them, in UTC.
    pub date: String,
    /// What they were measured on.
    pub machine: BTreeMap<String, String>,
    /// Of ours, the peers, and what built them.
    pub versions: BTreeMap<String, String>,
    #[serde(rename = "results")]
    pub rows: Vec<Row>,
}

impl Results {
    pub fn read() -> Option<Self> {
        let text = fs::read_to_string(path(FILE)).ok()?;
        let results = serde_json::from_str(&text);
        Some(results.unwrap_or_else(|error| panic!("{FILE} is not what a run wrote: {error}")))
    }

    pub fn write(&self) {
        let text = serde_json::to_string_pretty(self).unwrap();
        fs::write(path(FILE), text + "\n").unwrap();
    }

    /// What earlier runs on this machine have left. Figures of two machines do not mix.
    pub fn of_this_machine() -> Self {
        let mut results = Self::read().unwrap_or_default();
        let machine = machine::machine();
        if results.machine != machine && !results.rows.is_empty() {
            println!("{FILE} was measured on another machine: it begins anew");
            results = Self::default();
        }
        results.machine = machine;
        results.versions.extend(machine::versions());
        results.date = machine::today();
        results
    }

    /// Puts the rows of a case in the place of those that it had.
    pub fn replace(&mut self, case: &str, rows: Vec<Row>) {
        self.rows.retain(|row| row.case != case);
        self.rows.extend(rows.into_iter().map(rounded));
        self.rows.retain(|row| place(&row.case).is_some());
        self.rows.sort_by_key(|row| place(&row.case));
    }
}

/// Where a case stands among all; none if it is no more.
fn place(name: &str) -> Option<usize> {
    case::all().iter().position(|case| case.name == name)
}

/// With figures that are as exact as they are true, and differ where there is a difference.
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
