//! The marked blocks of documents: `<!-- figures -->` to `<!-- /figures -->`.

use super::figure;
use super::group::{Detail, Group, groups};
use super::results::Results;
use crate::measure::Cost;

/// A document with this in the place of what its block has; none if it has no such block.
pub fn with_block(document: &str, mark: &str, block: &str) -> Option<String> {
    let (begin, end) = (format!("<!-- {mark} -->\n"), format!("<!-- /{mark} -->\n"));
    let (before, rest) = document.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some([before, &begin, "\n", block, "\n", &end, after].concat())
}

/// What was to be reached, and what was: a line for a goal, with the worst that it has.
pub fn figures(results: &Results) -> String {
    let goals = results.rows.iter().filter(|row| row.goal.is_some());
    let lines = lines(&groups(goals, Detail::Cases));
    let heads = "| case | what | against | ratio | goal | CPU ratio | goal |";
    format!(
        "![Ratios to the peers, and CPU seconds for a GiB](bench/results.svg)\n\n{}\n\
         Ratios are ours to theirs: the median of the runs in which they took turns, and from the least to\n\
         the most of them; of a series, the worst. CPU is that of every process in the path.\n\
         Measured on {}.\n\
         [bench/results.json](bench/results.json) has every row, and how often it was run.\n",
        table(heads, lines),
        figure::machine(results),
    )
}

/// Everything.
pub fn results(results: &Results) -> String {
    let groups = groups(&results.rows, Detail::Ends);
    let heads = "| case | what | ours | against | theirs | ratio | goal | CPU s/GiB |";
    format!(
        "{}\nMeasured on {}.\n\nVersions: {}.\n",
        table(heads, groups.iter().map(everything)),
        figure::machine(results),
        figure::versions(results),
    )
}

fn everything(group: &Group) -> [String; 8] {
    let row = group.worst();
    let [ratio, goal] = judged(Some(group));
    [
        row.case.clone(),
        group.name(),
        format!("{} {}", figure::short(row.ours.median), row.unit),
        row.peer.clone(),
        figure::short(row.theirs.median),
        ratio,
        goal,
        // Who is judged by its cost has its processes told beside its speed.
        if group.is_cost() {
            String::new()
        } else {
            costs(&row.cpu)
        },
    ]
}

/// A line for each, but one for both speed and cost where there is one of each.
fn lines(groups: &[Group]) -> Vec<[String; 7]> {
    let mut lines = Vec::new();
    for group in groups {
        let row = group.worst();
        let contest = group.contest();
        let alike = groups.iter().filter(|other| other.contest() == contest);
        let (costs, others): (Vec<&Group>, Vec<&Group>) = alike.partition(|other| other.is_cost());
        let [figure, cost] = match (&costs[..], &others[..]) {
            // It has been told beside the speed.
            ([_], [_]) if group.is_cost() => continue,
            ([cost], [_]) => [Some(group), Some(*cost)],
            _ if group.is_cost() => [None, Some(group)],
            _ => [Some(group), None],
        };
        let [ratio, goal] = judged(figure);
        let [cpu, cpu_goal] = judged(cost);
        let (case, peer) = (row.case.clone(), figure::against(row));
        lines.push([case, group.name(), peer, ratio, goal, cpu, cpu_goal]);
    }
    lines
}

/// The ratio, and what it had to be.
fn judged(group: Option<&Group>) -> [String; 2] {
    let Some(row) = group.map(Group::worst) else {
        return [String::new(), String::new()];
    };
    let ratio = figure::spread(&row.ratio);
    let goal = figure::goal(row.goal);
    match figure::is_met(row) {
        Some(false) => [ratio, format!("**{goal} missed**")],
        _ => [ratio, goal],
    }
}

/// `ours: connector 0.31, listener 0.28; theirs: client 0.60, server 0.52`.
fn costs(cost: &Cost) -> String {
    let sides = [("ours", &cost.ours), ("theirs", &cost.theirs)];
    let sides = sides.into_iter().filter(|(_, costs)| !costs.is_empty());
    let sides = sides.map(|(side, costs)| {
        let costs = costs.iter();
        let costs = costs.map(|(name, cost)| format!("{name} {}", figure::short(*cost)));
        format!("{side}: {}", costs.collect::<Vec<String>>().join(", "))
    });
    sides.collect::<Vec<String>>().join("; ")
}

fn table<const N: usize>(heads: &str, lines: impl IntoIterator<Item = [String; N]>) -> String {
    let lines = lines.into_iter();
    let lines = lines.map(|cells| format!("| {} |\n", cells.join(" | ")));
    [format!("{heads}\n|{}\n", " --- |".repeat(N))]
        .into_iter()
        .chain(lines)
        .collect()
}
