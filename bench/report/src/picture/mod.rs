//! The pictures. `bench/results.svg` shows ratios, and CPU seconds per GiB below them.

mod cost;
mod layout;
pub mod planes;
mod ratio;
mod svg;

use crate::results::Results;
use layout::{LINE, MARGIN, WIDTH};
use svg::Svg;

pub fn render(results: &Results) -> String {
    let mut svg = Svg::default();
    let mut y = MARGIN + 14.0;
    svg.text([MARGIN, y], "title", "pve-tunnel against its peers");
    let lines = [results.machine_text(), results.versions_text()];
    for line in lines
        .iter()
        .flat_map(|line| svg::wrapped(line, WIDTH - 2.0 * MARGIN))
    {
        y += LINE;
        svg.text([MARGIN, y], "small", &line);
    }
    y = ratio::draw(&mut svg, y + 2.0 * LINE, results);
    y = cost::draw(&mut svg, y + 2.0 * LINE, results);
    svg.finish(WIDTH, y + MARGIN, svg::STYLE)
}
