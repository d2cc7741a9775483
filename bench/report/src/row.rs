//! The result of one comparison.

use crate::text::{clipped, precise, short};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

/// CPU seconds per GiB of each process in a path, by name.
pub type Costs = BTreeMap<String, f64>;

/// The peer's name in a row whose values must not exceed a limit.
const LIMIT: &str = "limit";

/// The peer's name in a row that compares with the path to a node without pve-tunnel, at its best:
/// the real pveproxy, fed by the connector through a websocket. pveproxy's single core is the limit
/// of this path, whatever program feeds it. The stock helper, whose place the connector takes, is
/// not a package of Debian.
pub const STOCK: &str = "stock at best";

/// The most digits that a ratio can have in addition. The recorded values have four digits.
const MORE_DIGITS: usize = 3;

/// One comparison of pve-tunnel with a peer. `bench/results.json` consists of these.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Row {
    pub case: String,
    pub name: String,
    pub unit: String,
    pub ours: Spread,
    pub peer: String,
    pub theirs: Spread,
    /// Our values divided by the peer's, turn by turn.
    pub ratio: Spread,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goal: Option<Goal>,
    pub runs: usize,
    #[serde(default, rename = "cpu_seconds_per_gib")]
    pub cpu: Cost,
}

impl Row {
    /// A row from values that were taken in turns.
    pub fn new(title: Title, peer: &str, ours: &[f64], theirs: &[f64], goal: Option<Goal>) -> Self {
        let ratios: Vec<f64> = ours
            .iter()
            .zip(theirs)
            .map(|(ours, theirs)| ours / theirs)
            .collect();
        Self {
            case: title.case.to_owned(),
            name: title.name.to_owned(),
            unit: title.unit.to_owned(),
            ours: Spread::of(ours),
            peer: peer.to_owned(),
            theirs: Spread::of(theirs),
            ratio: Spread::of(&ratios),
            goal,
            runs: ours.len(),
            cpu: Cost::default(),
        }
    }

    /// A row of values that must not exceed a limit.
    pub fn limited(title: Title, ours: &[f64], limit: f64) -> Self {
        let limits = vec![limit; ours.len()];
        Self::new(title, LIMIT, ours, &limits, Some(Goal::AtMost(1.0)))
    }

    /// The peer, or the limit with its value.
    pub fn peer_text(&self) -> String {
        match self.peer.as_str() {
            LIMIT => format!("limit of {} {}", self.theirs.median, self.unit),
            peer => peer.to_owned(),
        }
    }

    /// `1.62 (1.50–1.71)`. If the rounded median were on the other side of the goal, the text has
    /// more digits: `0.9986 (0.9970–1.0030)`.
    pub fn ratio_text(&self) -> String {
        let agrees = |more: &usize| {
            let shown = precise(self.ratio.median, *more).parse();
            let shown = shown.unwrap_or(self.ratio.median);
            self.goal.map(|goal| goal.is_met(shown)) == self.meets_goal()
        };
        let more = (0..MORE_DIGITS).find(agrees).unwrap_or(MORE_DIGITS);
        self.ratio.text(more)
    }

    /// `≥ 1.25`; an empty text if there is no goal.
    pub fn goal_text(&self) -> String {
        self.goal.map(|goal| goal.to_string()).unwrap_or_default()
    }

    /// Whether the median ratio meets the goal; none if there is no goal.
    pub fn meets_goal(&self) -> Option<bool> {
        self.goal.map(|goal| goal.is_met(self.ratio.median))
    }
}

/// The line that is printed during a run.
impl Display for Row {
    fn fmt(&self, formatter: &mut Formatter) -> fmt::Result {
        let name = clipped(&self.name, 32);
        let peer = clipped(&self.peer, 20);
        let line = format!(
            "{name:32} {:>7} {:9} {peer:20} {:18} {}",
            short(self.ours.median),
            self.unit,
            self.ratio_text(),
            self.goal_text(),
        );
        formatter.write_str(line.trim_end())
    }
}

/// What a row measures.
#[derive(Clone, Copy)]
pub struct Title<'a> {
    pub case: &'a str,
    pub name: &'a str,
    pub unit: &'a str,
}

/// What the median ratio has to reach.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    pub fn ratio(self) -> f64 {
        let (Self::AtLeast(ratio) | Self::AtMost(ratio)) = self;
        ratio
    }

    fn is_met(self, ratio: f64) -> bool {
        match self {
            Self::AtLeast(least) => ratio >= least,
            Self::AtMost(most) => ratio <= most,
        }
    }
}

impl Display for Goal {
    fn fmt(&self, formatter: &mut Formatter) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(formatter, "≥ {least}"),
            Self::AtMost(most) => write!(formatter, "≤ {most}"),
        }
    }
}

/// Median, minimum and maximum of some values.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// The spread of at least one value.
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        Self {
            median: sorted[sorted.len() / 2],
            min: sorted[0],
            max: sorted[sorted.len() - 1],
        }
    }

    /// `1.62 (1.50–1.71)`, with `more` digits.
    fn text(&self, more: usize) -> String {
        let values = [self.median, self.min, self.max];
        let [median, min, max] = values.map(|value| precise(value, more));
        format!("{median} ({min}–{max})")
    }
}

/// The median costs of a row, in CPU seconds per GiB.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct Cost {
    pub ours: Costs,
    pub theirs: Costs,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row with this ratio, as text.
    fn ratio_text(median: f64, goal: Option<Goal>) -> String {
        let title = Title {
            case: "mask",
            name: "128 KiB",
            unit: "MB/s",
        };
        Row::new(title, "peer", &[median], &[1.0], goal).ratio_text()
    }

    #[test]
    fn a_ratio_that_rounds_to_a_missed_goal_has_more_digits() {
        for (ratio, goal, text) in [
            (0.9986, Goal::AtLeast(1.0), "0.999 (0.999–0.999)"),
            (0.9996, Goal::AtLeast(1.0), "0.9996 (0.9996–0.9996)"),
            (0.947, Goal::AtLeast(0.95), "0.947 (0.947–0.947)"),
            (1.003, Goal::AtMost(1.0), "1.003 (1.003–1.003)"),
            (24.98, Goal::AtLeast(25.0), "24.98 (24.98–24.98)"),
        ] {
            assert_eq!(ratio_text(ratio, Some(goal)), text);
        }
    }

    #[test]
    fn other_ratios_have_three_digits() {
        for (ratio, goal, text) in [
            (0.9986, None, "1.00 (1.00–1.00)"),
            (0.9986, Some(Goal::AtMost(1.0)), "1.00 (1.00–1.00)"),
            (1.0, Some(Goal::AtLeast(1.0)), "1.00 (1.00–1.00)"),
            (0.401, Some(Goal::AtLeast(0.8)), "0.40 (0.40–0.40)"),
            (40.6, Some(Goal::AtLeast(25.0)), "40.6 (40.6–40.6)"),
            (0.0, Some(Goal::AtMost(1.0)), "0 (0–0)"),
        ] {
            assert_eq!(ratio_text(ratio, goal), text);
        }
    }
}
