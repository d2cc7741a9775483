//! The table of the case `wan`: one line for each path, one column for each plane and peer.

use crate::results::Results;
use crate::row::Row;
use crate::text::short;

const CASE: &str = "wan";

/// Peers whose rate was measured. The others are constants.
const PEERS: [&str; 2] = ["bare TCP", "bare TCP × 8"];

/// The table in Markdown, in MB/s. Each cell is the median of all turns.
pub fn table(results: &Results) -> String {
    let rows = results.rows.iter().filter(|row| row.case == CASE);
    let rows: Vec<(&str, &str, &Row)> = rows.filter_map(named).collect();
    let paths = distinct(rows.iter().map(|(_, path, _)| *path));
    let planes = distinct(rows.iter().map(|(plane, _, _)| *plane));
    let heads = ["round trip, loss"].into_iter().chain(PEERS);
    let heads: Vec<String> = heads
        .map(str::to_owned)
        .chain(planes.iter().map(|plane| format!("`{plane}`")))
        .collect();
    let mut text = line(&heads) + &format!("|{}\n", " --- |".repeat(heads.len()));
    for path in paths {
        let of_path: Vec<_> = rows.iter().filter(|(_, name, _)| *name == path).collect();
        let peers = PEERS.iter().map(|peer| {
            let row = of_path.iter().find(|(_, _, row)| row.peer == *peer);
            row.map(|(_, _, row)| short(row.theirs.median))
        });
        let planes = planes.iter().map(|plane| {
            let row = of_path.iter().find(|(name, _, _)| name == plane);
            row.map(|(_, _, row)| short(row.ours.median))
        });
        let cells = peers.chain(planes).map(Option::unwrap_or_default);
        let cells: Vec<String> = [path.to_owned()].into_iter().chain(cells).collect();
        text += &line(&cells);
    }
    text
}

/// The plane and the path in a row's name: `tls, 20 ms, 1 % loss`.
fn named(row: &Row) -> Option<(&str, &str, &Row)> {
    let (plane, path) = row.name.split_once(", ")?;
    Some((plane, path, row))
}

fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut found = Vec::new();
    for name in names {
        if !found.contains(&name) {
            found.push(name);
        }
    }
    found
}

fn line(cells: &[String]) -> String {
    format!("| {} |\n", cells.join(" | "))
}
