//! CPU seconds per GiB: one bar for pve-tunnel and one for each peer, divided by process.

use super::layout::{LEFT, LINE, MARGIN, MIDDLE, RIGHT, WIDTH, heading};
use super::svg::{Svg, clipped, width};
use crate::group::{Detail, groups};
use crate::results::Results;
use crate::row::{Costs, Row};
use crate::text::short;
use std::collections::BTreeSet;

/// The colours of the processes. Processes of different works can have the same colour.
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

impl<'a> Work<'a> {
    fn processes(&self) -> BTreeSet<&'a str> {
        let paths = self.paths.iter();
        paths
            .flat_map(|(_, path)| path.keys().map(String::as_str))
            .collect()
    }
}

/// Draws from `y` downwards. Returns the `y` at which the drawing ends.
pub fn draw(svg: &mut Svg, mut y: f64, results: &Results) -> f64 {
    let works = works(&results.rows);
    let paths = || works.iter().flat_map(|work| &work.paths);
    let most = paths().map(|(_, path)| total(path)).fold(0.0, f64::max);
    if most == 0.0 {
        return y;
    }
    let colours = Colours::of(&works);
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

/// The processes of each colour.
#[derive(Default)]
struct Colours<'a>([Vec<&'a str>; COLOURS.len()]);

impl<'a> Colours<'a> {
    /// Different colours for all processes of a work, as long as there are enough colours.
    fn of(works: &[Work<'a>]) -> Self {
        let works: Vec<BTreeSet<&str>> = works.iter().map(Work::processes).collect();
        let mut colours = Self::default();
        for process in works.iter().flatten() {
            if colours.index(process).is_some() {
                continue;
            }
            let beside = |other: &&&str| {
                let mut works = works.iter().filter(|work| work.contains(process));
                works.any(|work| work.contains(**other))
            };
            let conflicts = |names: &[&str]| names.iter().filter(|name| beside(name)).count();
            let preference = |names: &&mut Vec<&str>| (conflicts(names), names.len());
            let best = colours.0.iter_mut().min_by_key(preference);
            best.unwrap().push(process);
        }
        colours
    }

    fn index(&self, process: &str) -> Option<usize> {
        self.0.iter().position(|names| names.contains(&process))
    }

    fn of_process(&self, name: &str) -> &'static str {
        COLOURS[self.index(name).unwrap_or(0)]
    }

    fn legend(&self, svg: &mut Svg, mut y: f64) -> f64 {
        let mut x = MARGIN;
        for (names, colour) in self.0.iter().zip(COLOURS) {
            let names = names.join(" / ");
            let end = x + 20.0 + width(&names);
            if end > WIDTH - MARGIN {
                (x, y) = (MARGIN, y + LINE);
            }
            if !names.is_empty() {
                svg.bar([x, y - MIDDLE], 14.0, colour);
                svg.text([x + 20.0, y], "", &names);
            }
            x += 20.0 + width(&names) + 16.0;
        }
        y
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_processes_of_a_recorded_work_have_different_colours() {
        let results = Results::read().unwrap();
        let works = works(&results.rows);
        let colours = Colours::of(&works);
        assert!(works.len() > 10, "only {} works found", works.len());
        for work in &works {
            let processes = work.processes();
            let different: BTreeSet<&str> = processes
                .iter()
                .map(|name| colours.of_process(name))
                .collect();
            let Work { case, name, .. } = work;
            assert_eq!(
                different.len(),
                processes.len(),
                "{case}: {name}: {processes:?}"
            );
        }
    }
}
