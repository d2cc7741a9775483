//! Many rows as one line.
//!
//! Names of rows have parts: `64 KiB, off by 3`. A part that begins or ends with a number is one of
//! a series, and a line may stand for all of it: `1 KiB–1 MiB, off by 1–7`. What the line then says
//! is what the worst of its rows says.

use crate::measure::{Goal, Row};
use std::cmp::Ordering;

/// What one line stands for, from the finest to the coarsest.
#[derive(Clone, Copy)]
pub enum Detail {
    /// Rows that differ in the number at their names' end.
    Ends,
    /// Rows that differ in any numbers of their names.
    Kinds,
    /// All rows of a case.
    Cases,
}

/// Rows of one case, peer, unit and goal.
pub struct Group<'a> {
    key: String,
    rows: Vec<&'a Row>,
}

/// Rows as groups, in the order of the first of each.
pub fn groups<'a>(rows: impl IntoIterator<Item = &'a Row>, detail: Detail) -> Vec<Group<'a>> {
    let mut groups: Vec<Group> = Vec::new();
    for row in rows {
        let key = detail.key(&row.name);
        match groups.iter_mut().find(|group| group.takes(row, &key)) {
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
    /// The row that is the furthest from good.
    pub fn worst(&self) -> &'a Row {
        let rows = self.rows.iter().copied();
        rows.min_by(|one, other| goodness(one, other)).unwrap()
    }

    /// `1 KiB–1 MiB, off by 1–7`; of several kinds of rows, the worst one's.
    pub fn name(&self) -> String {
        let kind = kind(&self.rows[0].name);
        if self.rows.iter().any(|row| self::kind(&row.name) != kind) {
            return format!("{} (the worst)", self.worst().name);
        }
        let names: Vec<Vec<&str>> = self.rows.iter().map(|row| parts(&row.name)).collect();
        let parts = (0..names[0].len()).map(|i| range(&names, i));
        parts.collect::<Vec<String>>().join(", ")
    }

    /// The case and the peer.
    pub fn contest(&self) -> (&'a str, &'a str) {
        (&self.rows[0].case, &self.rows[0].peer)
    }

    /// Whether it is about CPU seconds for a GiB.
    pub fn is_cost(&self) -> bool {
        self.rows[0].unit.ends_with("/GiB")
    }

    fn takes(&self, row: &Row, key: &str) -> bool {
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

/// Orders rows from worse to better ones.
fn goodness(one: &Row, other: &Row) -> Ordering {
    let order = one.ratio.median.total_cmp(&other.ratio.median);
    let more_is_better = match one.goal {
        Some(Goal::AtLeast(_)) => true,
        Some(Goal::AtMost(_)) => false,
        None => one.unit.ends_with("/s"),
    };
    if more_is_better {
        order
    } else {
        order.reverse()
    }
}

/// A name with none of the numbers that make it one of a series.
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

/// `off by 3` is `off by`.
fn without_number(part: &str) -> &str {
    match part.rsplit_once(' ') {
        Some((words, number)) if number.parse::<f64>().is_ok() => words,
        _ => part,
    }
}

/// What the `i`th parts of names are together: `off by 1–7`, `0–40 ms`, `64 KiB–1 MiB`.
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
