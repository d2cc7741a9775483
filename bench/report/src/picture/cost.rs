//! CPU seconds per GiB: one bar for pve-tunnel and one for each peer, divided by process.

use super::layout::{LEFT, LINE, MARGIN, MIDDLE, RIGHT, WIDTH, heading};
use super::svg::{Svg, clipped, width};
use crate::group::{Detail, groups};
use crate::results::Results;
use crate::row::{Costs, Row};
use crate::text::short;

/// The colours of the processes, in the order of their first appearance. If there are more
/// processes, the colours repeat.
const COLOURS: [&str; 8] = [
    "#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#8c8c8c", "#f0e442", "#0072b2", "#d55e00",
];

/// The column of the contender. The name of the row is to the left of it.
const CONTENDER: f64 = MARGIN + 200.0;

/// One kind of work, and what it cost each contender.
struct Work<'a> {
    case: &'a str,
    name: &'a str,
    paths: Vec<(&'a str, &'a Costs)>,
}

/// Draws from `y` downwards. Returns the `y` at which the drawing ends.
pub fn draw(svg: &mut Svg, mut y: f64, results: &Results) -> f64 {
    let works = works(&results.rows);
    let paths = || works.iter().flat_map(|work| &work.paths);
    let most = paths().map(|(_, path)| total(path)).fold(0.0, f64::max);
    if most == 0.0 {
        return y;
    }
    let colours = Colours::of(paths().flat_map(|(_, path)| path.keys()));
    svg.text([MARGIN, y], "panel", "CPU seconds per GiB");
    y = colours.legend(svg, y + LINE);
    let mut case = "";
    for work in &works {
        if work.case != case {
            case = work.case;
            y = heading(svg, y, case);
        }
        let name = clipped(work.name, CONTENDER - MARGIN - 12.0);
        svg.text([MARGIN + 8.0, y + LINE], "", &name);
        for (contender, path) in &work.paths {
            y += LINE;
            svg.text(
                [CONTENDER, y],
                "",
                &clipped(contender, LEFT - CONTENDER - 4.0),
            );
            bar(svg, y, path, &colours, (RIGHT - LEFT) / most);
        }
    }
    y
}

/// All work that has a cost. pve-tunnel is the first contender of each.
fn works(rows: &[Row]) -> Vec<Work<'_>> {
    let mut works: Vec<Work> = Vec::new();
    let groups = groups(rows, Detail::Kinds);
    // The row for the cost has the same paths as the row for the speed.
    for group in groups.iter().filter(|group| !group.is_cost()) {
        let row = group.worst();
        let same = works
            .iter()
            .position(|work| (work.case, work.name) == (&row.case, &row.name));
        let index = same.unwrap_or_else(|| {
            works.push(Work {
                case: &row.case,
                name: &row.name,
                paths: vec![("pve-tunnel", &row.cpu.ours)],
            });
            works.len() - 1
        });
        works[index].paths.push((&row.peer, &row.cpu.theirs));
    }
    for work in &mut works {
        work.paths.retain(|(_, path)| !path.is_empty());
    }
    works.retain(|work| !work.paths.is_empty());
    works
}

fn bar(svg: &mut Svg, y: f64, path: &Costs, colours: &Colours, scale: f64) {
    let mut x = LEFT;
    for (process, cost) in path {
        let length = cost * scale;
        svg.bar([x, y - MIDDLE], length, colours.of_process(process));
        x += length;
    }
    svg.text([x + 8.0, y], "", &short(total(path)));
}

fn total(costs: &Costs) -> f64 {
    costs.values().sum()
}

/// The processes, in the order of their colours.
struct Colours<'a>(Vec<&'a str>);

impl<'a> Colours<'a> {
    fn of(processes: impl Iterator<Item = &'a String>) -> Self {
        let mut names: Vec<&str> = Vec::new();
        for name in processes {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        Self(names)
    }

    fn of_process(&self, name: &str) -> &'static str {
        let index = self.0.iter().position(|one| *one == name);
        COLOURS[index.unwrap_or(0) % COLOURS.len()]
    }

    fn legend(&self, svg: &mut Svg, mut y: f64) -> f64 {
        let mut x = MARGIN;
        for name in &self.0 {
            let end = x + 20.0 + width(name);
            if end > WIDTH - MARGIN {
                (x, y) = (MARGIN, y + LINE);
            }
            svg.bar([x, y - MIDDLE], 14.0, self.of_process(name));
            svg.text([x + 20.0, y], "", name);
            x += 20.0 + width(name) + 16.0;
        }
        y
    }
}
