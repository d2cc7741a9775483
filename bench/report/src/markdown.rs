//! The generated blocks of documents. A block lies between two marks, `<!-- figures -->` and
//! `<!-- /figures -->` for example.

use crate::group::{Detail, Group, groups};
use crate::results::Results;
use crate::row::Cost;
use crate::text::short;

/// Replaces the text of the block `mark`. Returns `None` if the document has no such block.
pub fn with_block(document: &str, mark: &str, block: &str) -> Option<String> {
    let (begin, end) = (format!("<!-- {mark} -->\n"), format!("<!-- /{mark} -->\n"));
    let (before, rest) = document.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some([before, &begin, "\n", block, "\n", &end, after].concat())
}

/// One line for each goal, with the worst result among the rows that have this goal.
pub fn figures(results: &Results) -> String {
    let goals = results.rows.iter().filter(|row| row.goal.is_some());
    let lines = lines(&groups(goals, Detail::Cases));
    let header = "| case | measurement | peer | ratio | goal | CPU ratio | CPU goal |";
    format!(
        "![Ratios to the peers, and CPU seconds per GiB](../bench/results.svg)\n\n{}\n\
         A ratio is pve-tunnel's value divided by the peer's: the median of all turns, then minimum and\n\
         maximum. A line for several measurements shows the worst of them. The CPU ratio compares the CPU\n\
         time of all processes in the path.\n",
        table(header, lines),
    )
}

pub fn results(results: &Results) -> String {
    let groups = groups(&results.rows, Detail::Ends);
    let header =
        "| case | measurement | pve-tunnel | peer | peer's value | ratio | goal | CPU s/GiB |";
    format!(
        "{}\nMeasured on {}.\n\nVersions: {}.\n",
        table(header, groups.iter().map(cells)),
        results.machine_text(),
        results.versions_text(),
    )
}

fn cells(group: &Group) -> [String; 8] {
    let row = group.worst();
    let [ratio, goal] = ratio_and_goal(Some(group));
    [
        row.case.clone(),
        group.name(),
        format!("{} {}", short(row.ours.median), row.unit),
        row.peer.clone(),
        short(row.theirs.median),
        ratio,
        goal,
        // The line for the speed lists each process's cost.
        if group.is_cost() {
            String::new()
        } else {
            costs(&row.cpu)
        },
    ]
}

/// One line for each group. If a case and a peer have one group for the speed and one for the cost,
/// these share a line.
fn lines(groups: &[Group]) -> Vec<[String; 7]> {
    let mut lines = Vec::new();
    for group in groups {
        let row = group.worst();
        let contest = group.contest();
        let same = groups.iter().filter(|other| other.contest() == contest);
        let (costs, others): (Vec<&Group>, Vec<&Group>) = same.partition(|other| other.is_cost());
        let [speed, cost] = match (&costs[..], &others[..]) {
            // The line for the speed includes this cost.
            ([_], [_]) if group.is_cost() => continue,
            ([cost], [_]) => [Some(group), Some(*cost)],
            _ if group.is_cost() => [None, Some(group)],
            _ => [Some(group), None],
        };
        let [ratio, goal] = ratio_and_goal(speed);
        let [cpu, cpu_goal] = ratio_and_goal(cost);
        let (case, peer) = (row.case.clone(), row.peer_text());
        lines.push([case, group.name(), peer, ratio, goal, cpu, cpu_goal]);
    }
    lines
}

fn ratio_and_goal(group: Option<&Group>) -> [String; 2] {
    let Some(row) = group.map(Group::worst) else {
        return [String::new(), String::new()];
    };
    let ratio = row.ratio_text();
    let goal = row.goal_text();
    match row.meets_goal() {
        Some(false) => [ratio, format!("**{goal} missed**")],
        _ => [ratio, goal],
    }
}

/// `pve-tunnel: connector 0.31, listener 0.28; peer: client 0.60, server 0.52`.
fn costs(cost: &Cost) -> String {
    let sides = [("pve-tunnel", &cost.ours), ("peer", &cost.theirs)];
    let sides = sides.into_iter().filter(|(_, costs)| !costs.is_empty());
    let sides = sides.map(|(side, costs)| {
        let costs = costs.iter();
        let costs = costs.map(|(name, cost)| format!("{name} {}", short(*cost)));
        format!("{side}: {}", costs.collect::<Vec<String>>().join(", "))
    });
    sides.collect::<Vec<String>>().join("; ")
}

fn table<const N: usize>(header: &str, lines: impl IntoIterator<Item = [String; N]>) -> String {
    let lines = lines.into_iter();
    let lines = lines.map(|cells| format!("| {} |\n", cells.join(" | ")));
    [format!("{header}\n|{}\n", " --- |".repeat(N))]
        .into_iter()
        .chain(lines)
        .collect()
}
