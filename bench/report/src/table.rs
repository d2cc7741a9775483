//! The table in a terminal.

use crate::group::{Detail, Group, groups};
use crate::row::Row;
use crate::text::{clipped, length, short};
use std::iter::zip;

/// The width of the table, in characters.
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

/// Which columns are aligned to the right.
const RIGHT: [bool; 8] = [false, true, false, false, true, false, false, false];

/// All results, and the number of goals that are met.
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
    text + "\n" + &goals_met(rows)
}

fn cells(group: &Group) -> [String; 8] {
    let row = group.worst();
    [
        format!("  {}", group.name()),
        short(row.ours.median),
        row.unit.clone(),
        row.peer.clone(),
        short(row.theirs.median),
        row.ratio_text(),
        row.goal_text(),
        match row.meets_goal() {
            None => "",
            Some(true) => "met",
            Some(false) => "MISSED",
        }
        .to_owned(),
    ]
}

fn goals_met(rows: &[&Row]) -> String {
    let goals: Vec<bool> = rows.iter().filter_map(|row| row.meets_goal()).collect();
    let met = goals.iter().filter(|met| **met).count();
    format!("{met} of {} goals met\n", goals.len())
}

/// Each column is as wide as its widest cell. The names get the remaining width.
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
