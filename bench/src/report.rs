//! The results of a run: printed, and recorded in `bench/results.json`.

use crate::machine;
use bench_report::{Results, Row, files, table};

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
        let mut results = results_of_this_machine();
        if let Some((case, rows)) = self.cases.last() {
            results.replace(case, rows.clone());
        }
        results.write();
        files::generate(&results);
    }
}

/// The recorded results, if they are from this machine; otherwise none. Results of different
/// machines are not mixed.
fn results_of_this_machine() -> Results {
    let mut results = Results::read().unwrap_or_default();
    let machine = machine::machine();
    if results.machine != machine && !results.rows.is_empty() {
        crate::output::line(format_args!(
            "bench/results.json contains results of another machine, which are dropped"
        ));
        results = Results::default();
    }
    results.machine = machine;
    results.versions.extend(machine::versions());
    results.date = machine::today();
    results
}
