//! `bench/results.svg`: ratios above, CPU seconds for a GiB below.

mod cost;
mod ratio;
mod svg;

use super::figure;
use super::results::Results;
use crate::case;
use svg::Svg;

const WIDTH: f64 = 1008.0;
const MARGIN: f64 = 24.0;

/// From one line of text or one bar to the next.
const LINE: f64 = 16.0;

/// What is left above the name of a case.
const GAP: f64 = 8.0;

/// Where bars begin and end; words are at their left, figures at their right.
const LEFT: f64 = 428.0;
const RIGHT: f64 = 740.0;

/// How far above a text's base the middle of its letters is.
const MIDDLE: f64 = 4.0;

/// Colours that everybody can tell apart (Okabe and Ito), the first of them for what counts.
const BLUE: &str = "#0072b2";
const VERMILLION: &str = "#d55e00";
const GREY: &str = "#8c8c8c";
const PALE: &str = "#dddddd";
const INK: &str = "#222222";

pub fn render(results: &Results) -> String {
    let mut svg = Svg::default();
    let mut y = MARGIN + 14.0;
    svg.text([MARGIN, y], "title", "pve-tunnel against its peers");
    let lines = [figure::machine(results), figure::versions(results)];
    for line in lines
        .iter()
        .flat_map(|line| svg::wrapped(line, WIDTH - 2.0 * MARGIN))
    {
        y += LINE;
        svg.text([MARGIN, y], "small", &line);
    }
    y = ratio::draw(&mut svg, y + 2.0 * LINE, results);
    y = cost::draw(&mut svg, y + 2.0 * LINE, results);
    svg.finish(WIDTH, y + MARGIN)
}

/// The name of a case, and what it is about; how far down that is.
fn heading(svg: &mut Svg, y: f64, name: &str) -> f64 {
    let y = y + GAP + LINE;
    svg.text([MARGIN, y], "case", name);
    if let Some(case) = case::all().iter().find(|case| case.name == name) {
        let after = MARGIN + svg::width(name) * 1.15 + 10.0;
        svg.text([after, y], "small", case.about);
    }
    y
}
