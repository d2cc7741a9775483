//! The rows of a case.

use bench_report::Row;

/// The rows of a case. Each is printed when it is added.
#[derive(Default)]
pub struct Rows(Vec<Row>);

impl Rows {
    pub fn push(&mut self, row: Row) {
        crate::output::line(format_args!("  {row}"));
        self.0.push(row);
    }

    pub fn extend(&mut self, rows: impl IntoIterator<Item = Row>) {
        for row in rows {
            self.push(row);
        }
    }

    pub fn into_vec(self) -> Vec<Row> {
        self.0
    }
}
