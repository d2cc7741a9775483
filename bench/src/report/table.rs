//! A run in a terminal.

use super::figure;
use super::group::{Detail, Group, groups};
use crate::measure::Row;
use std::iter::zip;

/// How wide a terminal is.
const WIDTH: usize = 100;

const HEADS: [&str; 8] = [
    "case",
    "ours",
    "unit",
    "peer",
    "theirs",
    "ratio (min–max)",
    "goal",
    "",
];

/// Columns of figures, which end where the others begin.
const RIGHT: [bool; 8] = [false, true, false, false, true, false, false, false];

/// One line while it runs.
pub fn line(row: &Row) -> String {
    let ratio = figure::spread(&row.ratio);
    let goal = figure::goal(row.goal);
    let name = clipped(&row.name, 32);
    let peer = clipped(&row.peer, 20);
    let line = format!(
        "{name:32} {:>7} {:9} {peer:20} {ratio:18} {goal}",
        figure::short(row.ours.median),
        row.unit
    );
    line.trim_end().to_owned()
}

/// Everything that was measured, with what was reached at the end.
pub fn render(rows: &[&Row]) -> String {
    let groups = groups(rows.iter().copied(), Detail::Ends);
    let lines: Vec<[String; 8]> = groups.iter().map(cells).collect();
    let widths = widths(&lines);
    let mut text = laid_out(&HEADS.map(str::to_owned), &widths);
    let mut case = "";
    for (group, cells) in zip(&groups, &lines) {
        if group.worst().case != case {
            case = &group.worst().case;
            text += &format!("\n{case}\n");
        }
        text += &laid_out(cells, &widths);
    }
    text + "\n" + &reached(rows)
}

fn cells(group: &Group) -> [String; 8] {
    let row = group.worst();
    [
        format!("  {}", group.name()),
        figure::short(row.ours.median),
        row.unit.clone(),
        row.peer.clone(),
        figure::short(row.theirs.median),
        figure::spread(&row.ratio),
        figure::goal(row.goal),
        match figure::is_met(row) {
            None => "",
            Some(true) => "met",
            Some(false) => "MISSED",
        }
        .to_owned(),
    ]
}

fn reached(rows: &[&Row]) -> String {
    let goals: Vec<bool> = rows.iter().filter_map(|row| figure::is_met(row)).collect();
    let met = goals.iter().filter(|met| **met).count();
    format!("{met} of {} goals met\n", goals.len())
}

/// As wide as what is in them, but for the names, which have what the others leave.
fn widths(lines: &[[String; 8]]) -> [usize; 8] {
    let mut widths = HEADS.map(length);
    for line in lines {
        for (width, cell) in zip(&mut widths, line) {
            *width = length(cell).max(*width);
        }
    }
    let others: usize = widths[1..].iter().map(|width| width + 1).sum();
    widths[0] = widths[0].min(WIDTH.saturating_sub(others).max(20));
    widths
}

fn laid_out(cells: &[String; 8], widths: &[usize; 8]) -> String {
    let mut line = String::new();
    for ((cell, width), right) in zip(zip(cells, widths), RIGHT) {
        let cell = clipped(cell, *width);
        line += &if right {
            format!("{cell:>width$} ")
        } else {
            format!("{cell:width$} ")
        };
    }
    line.trim_end().to_owned() + "\n"
}

fn clipped(text: &str, width: usize) -> String {
    if length(text) <= width {
        return text.to_owned();
    }
    text.chars().take(width - 1).chain(['…']).collect()
}

fn length(text: &str) -> usize {
    text.chars().count()
}
