//! Reports about a run.
//!
//! | module | provides |
//! |---|---|
//! | `results` | `bench/results.json`, the only source of all figures |
//! | `machine` | the machine, and the versions of all programs |
//! | `group` | one line for many rows: the worst of them |
//! | `table` | the table in a terminal |
//! | `distance` | the table of the case `wan` in docs/performance.md |
//! | `markdown` | the generated blocks of README.md and docs/performance.md |
//! | `picture` | `bench/results.svg` |

mod distance;
mod group;
mod machine;
mod markdown;
mod picture;
mod results;
mod table;

use crate::measure::Row;
use crate::project::path;
use results::Results;
use std::fs;
use std::process::ExitCode;

/// The results of a run, by case.
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

    /// Writes the results of the case that was added last, and generates all files from them. The
    /// recorded results of other cases stay.
    pub fn write(&self) {
        let mut results = Results::of_this_machine();
        if let Some((case, rows)) = self.cases.last() {
            results.replace(case, rows.clone());
        }
        results.write();
        generate(&results);
    }
}

/// Generates all files from the recorded results.
pub fn regenerate() -> ExitCode {
    let Some(results) = Results::read() else {
        eprintln!("bench: bench/results.json does not exist; `make bench` writes it");
        return ExitCode::FAILURE;
    };
    generate(&results);
    ExitCode::SUCCESS
}

/// Compares all generated files with the recorded results, and reports each file that differs.
pub fn check() -> ExitCode {
    let files = Results::read().as_ref().map(generated).unwrap_or_default();
    let stale = files.iter().filter(|file| !file.is_current());
    let count = stale
        .inspect(|file| eprintln!("bench: {} does not match bench/results.json", file.name))
        .count();
    if count == 0 {
        return ExitCode::SUCCESS;
    }
    eprintln!("bench: run `make bench-report` to generate it again");
    ExitCode::FAILURE
}

fn generate(results: &Results) {
    let files = generated(results);
    for file in files.iter().filter(|file| !file.is_current()) {
        fs::write(path(file.name), &file.text).unwrap();
    }
}

/// A file with the text that it should have.
struct Generated {
    name: &'static str,
    text: String,
}

impl Generated {
    fn is_current(&self) -> bool {
        fs::read_to_string(path(self.name)).is_ok_and(|text| text == self.text)
    }
}

/// All files that are generated from the results.
fn generated(results: &Results) -> Vec<Generated> {
    let picture = Generated {
        name: "bench/results.svg",
        text: picture::render(results),
    };
    let blocks = [
        ("README.md", "figures", markdown::figures(results)),
        ("docs/performance.md", "distance", distance::table(results)),
        ("docs/performance.md", "results", markdown::results(results)),
    ];
    let mut files: Vec<Generated> = vec![picture];
    for (name, mark, block) in blocks {
        let known = files.iter().position(|file| file.name == name);
        let text = match known {
            Some(index) => files[index].text.clone(),
            None => fs::read_to_string(path(name)).unwrap_or_default(),
        };
        // A document that does not exist or has no such block is skipped.
        let Some(text) = markdown::with_block(&text, mark, &block) else {
            continue;
        };
        match known {
            Some(index) => files[index].text = text,
            None => files.push(Generated { name, text }),
        }
    }
    files
}
