//! What both parts of the picture have in common. All lengths are in pixels.

use super::svg::{Svg, width};
use crate::case;

pub const WIDTH: f64 = 1008.0;
pub const MARGIN: f64 = 24.0;

/// The distance from one line of text or one bar to the next.
pub const LINE: f64 = 16.0;

/// The additional space above the name of a case.
const GAP: f64 = 8.0;

/// The area of the bars. Text is to the left of it, figures are to the right.
pub const LEFT: f64 = 428.0;
pub const RIGHT: f64 = 740.0;

/// The distance from the base line of a text up to the middle of its letters.
pub const MIDDLE: f64 = 4.0;

/// Colours that people with colour blindness can distinguish (Okabe and Ito).
pub const BLUE: &str = "#0072b2";
pub const VERMILLION: &str = "#d55e00";
pub const GREY: &str = "#8c8c8c";
pub const PALE: &str = "#dddddd";
pub const INK: &str = "#222222";

/// Draws the name of a case and what it measures. Returns the new `y`.
pub fn heading(svg: &mut Svg, y: f64, name: &str) -> f64 {
    let y = y + GAP + LINE;
    svg.text([MARGIN, y], "case", name);
    if let Some(case) = case::named(name) {
        let after = MARGIN + width(name) * 1.15 + 10.0;
        svg.text([after, y], "small", case.about);
    }
    y
}
