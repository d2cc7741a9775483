//! Ratios of pve-tunnel's values to the peers' values: bars from 1 on a logarithmic axis.

use super::layout::{
    BLUE, GREY, INK, LEFT, LINE, MARGIN, MIDDLE, PALE, RIGHT, VERMILLION, heading,
};
use super::svg::{Svg, clipped};
use crate::group::{Detail, Group, groups};
use crate::results::Results;
use crate::row::Goal;

/// Columns: unit and peer to the left of the bars, ratio and goal to the right.
const UNIT: f64 = MARGIN + 200.0;
const PEER: f64 = UNIT + 68.0;
const FIGURE: f64 = RIGHT + 12.0;
const GOAL: f64 = FIGURE + 134.0;

/// Draws from `y` downwards. Returns the `y` at which the drawing ends.
pub fn draw(svg: &mut Svg, mut y: f64, results: &Results) -> f64 {
    svg.text(
        [MARGIN, y],
        "panel",
        "Speed, time and cost: ratio of pve-tunnel to peer",
    );
    y = legend(svg, y + LINE);
    let groups = groups(&results.rows, Detail::Kinds);
    let axis = Axis::of(&groups);
    y += 1.5 * LINE;
    axis.label(svg, y);
    let mut case = "";
    for group in &groups {
        if group.contest().0 != case {
            case = group.contest().0;
            y = heading(svg, y, case);
        }
        y += LINE;
        draw_texts(svg, y, group);
        axis.draw(svg, y, group);
    }
    y += LINE;
    axis.label(svg, y);
    y
}

fn draw_texts(svg: &mut Svg, y: f64, group: &Group) {
    let row = group.worst();
    let name = clipped(&group.name(), UNIT - MARGIN - 12.0);
    svg.text([MARGIN + 8.0, y], "", &name);
    svg.text([UNIT, y], "small", &row.unit);
    let peer = clipped(&row.peer_text(), LEFT - PEER - 4.0);
    svg.text([PEER, y], "", &peer);
    svg.text([FIGURE, y], "", &row.ratio_text());
    let goal = row.goal_text();
    match row.meets_goal() {
        Some(false) => svg.text([GOAL, y], "missed", &format!("{goal} missed")),
        _ => svg.text([GOAL, y], "", &goal),
    }
}

/// A logarithmic axis that is symmetric around 1.
struct Axis {
    /// The axis ends at 2^doublings and at 2^-doublings.
    doublings: f64,
}

impl Axis {
    /// The limit for `doublings`. A bar beyond it ends in an arrow; the column of figures shows the
    /// ratio.
    const MAX_DOUBLINGS: f64 = 3.0;

    fn of(groups: &[Group]) -> Self {
        let ratios = groups
            .iter()
            .map(|group| group.worst().ratio.median.log2().abs());
        Self {
            doublings: ratios.fold(1.0, f64::max).ceil().min(Self::MAX_DOUBLINGS),
        }
    }

    fn x(&self, ratio: f64) -> f64 {
        let doublings = ratio.log2().clamp(-self.doublings, self.doublings);
        let middle = (LEFT + RIGHT) / 2.0;
        middle + doublings / self.doublings * (RIGHT - LEFT) / 2.0
    }

    fn shows(&self, ratio: f64) -> bool {
        ratio.log2().abs() <= self.doublings
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let most = self.doublings as i32;
        (-most..=most).map(|doublings| f64::from(doublings).exp2())
    }

    fn label(&self, svg: &mut Svg, y: f64) {
        for tick in self.ticks() {
            svg.text([self.x(tick), y], "tick", &tick.to_string());
        }
    }

    fn draw(&self, svg: &mut Svg, y: f64, group: &Group) {
        let (row, middle) = (group.worst(), y - MIDDLE);
        self.grid(svg, middle);
        let (from, to) = (self.x(1.0), self.x(row.ratio.median));
        let fill = colour(row.meets_goal());
        svg.bar([from.min(to), middle], (to - from).abs(), fill);
        if self.shows(row.ratio.median) {
            whisker(svg, self.x(row.ratio.min), self.x(row.ratio.max), middle);
        } else {
            let side = (to - from).signum();
            svg.triangle(
                [
                    [to, middle - 8.0],
                    [to + 8.0 * side, middle],
                    [to, middle + 8.0],
                ],
                fill,
            );
        }
        if let Some(goal) = row.goal.filter(|goal| self.shows(goal.ratio())) {
            mark(svg, self.x(goal.ratio()), middle, goal);
        }
    }

    fn grid(&self, svg: &mut Svg, middle: f64) {
        let (top, bottom) = (middle - LINE / 2.0, middle + LINE / 2.0);
        for tick in self.ticks() {
            let (x, colour) = (self.x(tick), if tick == 1.0 { INK } else { PALE });
            svg.line([x, top], [x, bottom], colour, 1.0);
        }
    }
}

fn colour(is_met: Option<bool>) -> &'static str {
    match is_met {
        Some(true) => BLUE,
        Some(false) => VERMILLION,
        None => GREY,
    }
}

fn whisker(svg: &mut Svg, min: f64, max: f64, y: f64) {
    svg.line([min, y], [max, y], INK, 1.0);
    for end in [min, max] {
        svg.line([end, y - 3.0], [end, y + 3.0], INK, 1.0);
    }
}

/// A pole with a flag. The flag points to the side on which the goal is met.
fn mark(svg: &mut Svg, x: f64, y: f64, goal: Goal) {
    let side = match goal {
        Goal::AtLeast(_) => 1.0,
        Goal::AtMost(_) => -1.0,
    };
    let (top, bottom) = (y - LINE / 2.0, y + LINE / 2.0);
    svg.line([x, top], [x, bottom], INK, 2.0);
    svg.triangle([[x, top], [x + 6.0 * side, top + 3.0], [x, top + 6.0]], INK);
}

/// Draws from `y` downwards. Returns the `y` of the last line.
fn legend(svg: &mut Svg, y: f64) -> f64 {
    let middle = y - MIDDLE;
    let mut x = MARGIN;
    for (is_met, meaning) in [
        (Some(true), "goal met"),
        (Some(false), "goal missed"),
        (None, "no goal"),
    ] {
        svg.bar([x, middle], 20.0, colour(is_met));
        svg.text([x + 26.0, y], "", meaning);
        x += 112.0;
    }
    whisker(svg, x, x + 24.0, middle);
    svg.text([x + 32.0, y], "", "minimum and maximum");
    x += 184.0;
    mark(svg, x, middle, Goal::AtLeast(1.0));
    svg.text([x + 12.0, y], "", "goal, with a flag on its better side");
    let y = y + LINE;
    let summary = "A line for several measurements shows the worst of them.";
    svg.text([MARGIN, y], "small", summary);
    y
}
