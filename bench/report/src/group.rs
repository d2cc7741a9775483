//! One line for many rows.
//!
//! The name of a row has parts: `64 KiB, off by 3`. Rows whose parts differ only in numbers are a
//! series. One line can stand for the whole series: `1 KiB–1 MiB, off by 1–7`. It shows the values
//! of the worst row.

use crate::row::{Goal, Row};
use std::cmp::Ordering;

/// Which rows share a line, from the finest to the coarsest.
#[derive(Clone, Copy)]
pub enum Detail {
    /// Rows whose names differ only in a number at the end.
    Ends,
    /// Rows whose names differ only in numbers.
    Kinds,
    /// All rows of a case.
    Cases,
}

/// Rows with the same case, peer, unit and goal.
pub struct Group<'a> {
    key: String,
    rows: Vec<&'a Row>,
}

/// Groups the rows. Groups are in the order of their first rows.
pub fn groups<'a>(rows: impl IntoIterator<Item = &'a Row>, detail: Detail) -> Vec<Group<'a>> {
    let mut groups: Vec<Group> = Vec::new();
    for row in rows {
        let key = detail.key(&row.name);
        match groups.iter_mut().find(|group| group.accepts(row, &key)) {
            Some(group) => group.rows.push(row),
            None => groups.push(Group {
                key,
                rows: vec![row],
            }),
        }
    }
    groups
}

impl<'a> Group<'a> {
    /// The row with the worst ratio.
    pub fn worst(&self) -> &'a Row {
        let rows = self.rows.iter().copied();
        rows.min_by(|a, b| compare(a, b)).unwrap()
    }

    /// `1 KiB–1 MiB, off by 1–7`. If the rows are not a series, the name of the worst row.
    pub fn name(&self) -> String {
        let kind = kind(&self.rows[0].name);
        if self.rows.iter().any(|row| self::kind(&row.name) != kind) {
            return format!("{} (worst)", self.worst().name);
        }
        let names: Vec<Vec<&str>> = self.rows.iter().map(|row| parts(&row.name)).collect();
        let parts = (0..names[0].len()).map(|i| range(&names, i));
        parts.collect::<Vec<String>>().join(", ")
    }

    /// The case and the peer.
    pub fn contest(&self) -> (&'a str, &'a str) {
        (&self.rows[0].case, &self.rows[0].peer)
    }

    /// Whether the unit is CPU seconds per GiB.
    pub fn is_cost(&self) -> bool {
        self.rows[0].unit.ends_with("/GiB")
    }

    fn accepts(&self, row: &Row, key: &str) -> bool {
        let first = self.rows[0];
        self.key == key
            && (&first.case, &first.peer, &first.unit) == (&row.case, &row.peer, &row.unit)
            && first.goal == row.goal
    }
}

impl Detail {
    fn key(self, name: &str) -> String {
        match self {
            Self::Ends => without_number(name).to_owned(),
            Self::Kinds => kind(name),
            Self::Cases => String::new(),
        }
    }
}

/// Orders rows from worse to better.
fn compare(a: &Row, b: &Row) -> Ordering {
    let order = a.ratio.median.total_cmp(&b.ratio.median);
    let more_is_better = match a.goal {
        Some(Goal::AtLeast(_)) => true,
        Some(Goal::AtMost(_)) => false,
        None => a.unit.ends_with("/s"),
    };
    if more_is_better {
        order
    } else {
        order.reverse()
    }
}

/// A name without the numbers that differ in a series.
fn kind(name: &str) -> String {
    let parts = parts(name).into_iter();
    let kinds = parts.map(|part| {
        if part.starts_with(|c: char| c.is_ascii_digit()) {
            "#"
        } else {
            without_number(part)
        }
    });
    kinds.collect::<Vec<&str>>().join(", ")
}

fn parts(name: &str) -> Vec<&str> {
    name.split(", ").collect()
}

/// `off by 3` becomes `off by`.
fn without_number(part: &str) -> &str {
    match part.rsplit_once(' ') {
        Some((words, number)) if number.parse::<f64>().is_ok() => words,
        _ => part,
    }
}

/// The range of the `i`th part of the names: `off by 1–7`, `0–40 ms`, `64 KiB–1 MiB`.
fn range(names: &[Vec<&str>], i: usize) -> String {
    let (first, last) = (names[0][i], names[names.len() - 1][i]);
    if first == last {
        return first.to_owned();
    }
    if let (Some((number, unit)), Some((end, end_unit))) =
        (first.split_once(' '), last.split_once(' '))
    {
        if unit == end_unit {
            return format!("{number}–{end} {unit}");
        }
    }
    let end = last.strip_prefix(without_number(first)).unwrap_or(last);
    format!("{first}–{}", end.trim_start())
}
