//! What is written about a run.
//!
//! | room | owns |
//! |---|---|
//! | `results` | `bench/results.json`: the one place that figures come from |
//! | `machine` | what a run ran on, and the versions of everybody in it |
//! | `group` | many rows as one line: the worst of them stands for all |
//! | `figure` | how a figure, a spread, a goal reads |
//! | `table` | a run in a terminal |
//! | `markdown` | the marked blocks of README.md and docs/performance.md |
//! | `picture` | `bench/results.svg` |

mod figure;
mod group;
mod machine;
mod markdown;
mod picture;
mod results;
mod table;

pub use table::line;

use crate::measure::Row;
use crate::project::path;
use results::Results;
use std::fs;
use std::process::ExitCode;

/// A run.
#[derive(Default)]
pub struct Report {
    cases: Vec<(&'static str, Vec<Row>)>,
}

impl Report {
    pub fn add(&mut self, case: &'static str, rows: Vec<Row>) {
        self.cases.push((case, rows));
    }

    pub fn print(&self) {
        let rows: Vec<&Row> = self.cases.iter().flat_map(|(_, rows)| rows).collect();
        print!("{}", table::render(&rows));
    }

    /// Writes the results of the case that was added last, and all that is made of them. Others keep
    /// what they have.
    pub fn write(&self) {
        let mut results = Results::of_this_machine();
        for (case, rows) in self.cases.iter().rev().take(1) {
            results.replace(case, rows.clone());
        }
        results.write();
        write(&results);
    }
}

/// Writes everything that is made of the results anew.
pub fn renew() -> ExitCode {
    let Some(results) = Results::read() else {
        eprintln!("bench: there is no bench/results.json yet; `make bench` writes it");
        return ExitCode::FAILURE;
    };
    write(&results);
    ExitCode::SUCCESS
}

/// Says whether everything that is made of the results is fresh, and if not, what is stale.
pub fn check() -> ExitCode {
    let made = Results::read().as_ref().map(made).unwrap_or_default();
    let stale = made.iter().filter(|file| !file.is_fresh());
    let count = stale
        .inspect(|file| eprintln!("bench: {} is not made of bench/results.json", file.name))
        .count();
    if count == 0 {
        return ExitCode::SUCCESS;
    }
    eprintln!("bench: `make bench-report` writes what is stale anew");
    ExitCode::FAILURE
}

fn write(results: &Results) {
    for file in made(results).iter().filter(|file| !file.is_fresh()) {
        fs::write(path(file.name), &file.text).unwrap();
    }
}

/// A file as it should be.
struct Made {
    name: &'static str,
    text: String,
}

impl Made {
    fn is_fresh(&self) -> bool {
        fs::read_to_string(path(self.name)).is_ok_and(|text| text == self.text)
    }
}

/// Everything that is made of the results.
fn made(results: &Results) -> Vec<Made> {
    let picture = Made {
        name: "bench/results.svg",
        text: picture::render(results),
    };
    let blocks = [
        ("README.md", "figures", markdown::figures(results)),
        ("docs/performance.md", "results", markdown::results(results)),
    ];
    // A document that there is not, or that has no such block, is none of ours.
    let documents = blocks.into_iter().filter_map(|(name, mark, block)| {
        let text = fs::read_to_string(path(name)).ok()?;
        let text = markdown::with_block(&text, mark, &block)?;
        Some(Made { name, text })
    });
    documents.chain([picture]).collect()
}
