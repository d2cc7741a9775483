//! The elements of SVG that the picture uses.

use crate::text;
use std::fmt::Write;

/// The style of `bench/results.svg`.
pub const STYLE: &str = ".page{fill:#ffffff}text{font-family:sans-serif;font-size:12px;fill:#222222}\
    .title{font-size:20px;font-weight:bold}.panel{font-size:15px;font-weight:bold}\
    .case,.missed{font-weight:bold}.small,.tick{font-size:11px;fill:#595959}\
    .tick{text-anchor:middle}";

const BAR: f64 = 11.0;

/// The average width of a letter in common fonts at 12 pixels.
const LETTER: f64 = 6.7;

/// The distances from the left and from the top, in pixels.
pub type Point = [f64; 2];

#[derive(Default)]
pub struct Svg {
    body: String,
}

impl Svg {
    /// A text that starts at the point. The class `tick` centres it there.
    pub fn text(&mut self, [x, y]: Point, class: &str, text: &str) {
        let text = escaped(text);
        self.put(&format!(
            r#"<text x="{x:.1}" y="{y:.1}" class="{class}">{text}</text>"#
        ));
    }

    /// A bar from the point to the right.
    pub fn bar(&mut self, [x, y]: Point, length: f64, fill: &str) {
        let top = y - BAR / 2.0;
        self.put(&format!(
            r#"<rect x="{x:.1}" y="{top:.1}" width="{length:.1}" height="{BAR}" fill="{fill}"/>"#
        ));
    }

    /// A bar with the colour that the style gives to the class.
    pub fn bar_of_class(&mut self, [x, y]: Point, length: f64, class: &str) {
        let top = y - BAR / 2.0;
        self.put(&format!(
            r#"<rect x="{x:.1}" y="{top:.1}" width="{length:.1}" height="{BAR}" class="{class}"/>"#
        ));
    }

    /// A line with the colour that the style gives to the class.
    pub fn line_of_class(&mut self, from: Point, to: Point, class: &str) {
        let ([x1, y1], [x2, y2]) = (from, to);
        self.put(&format!(
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" class="{class}"/>"#
        ));
    }

    pub fn line(&mut self, from: Point, to: Point, stroke: &str, width: f64) {
        let ([x1, y1], [x2, y2]) = (from, to);
        self.put(&format!(
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="{stroke}" stroke-width="{width}"/>"#
        ));
    }

    pub fn triangle(&mut self, corners: [Point; 3], fill: &str) {
        let corners = corners.map(|[x, y]| format!("{x:.1},{y:.1}")).join(" ");
        self.put(&format!(r#"<polygon points="{corners}" fill="{fill}"/>"#));
    }

    /// The picture. The background has the class `page`.
    pub fn finish(self, width: f64, height: f64, style: &str) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
             width=\"{width:.0}\" height=\"{height:.0}\">\n<style>{style}</style>\n\
             <rect width=\"100%\" height=\"100%\" class=\"page\"/>\n{}</svg>\n",
            self.body
        )
    }

    fn put(&mut self, element: &str) {
        writeln!(self.body, "{element}").unwrap();
    }
}

/// The approximate width of a text.
pub fn width(text: &str) -> f64 {
    text::length(text) as f64 * LETTER
}

/// A text that is not wider than `most`. A wider text is cut and ends with an ellipsis.
pub fn clipped(text: &str, most: f64) -> String {
    text::clipped(text, (most / LETTER) as usize)
}

/// The lines of a text, none of them wider than `most`. It is broken after commas.
pub fn wrapped(text: &str, most: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for piece in text.split_inclusive(", ") {
        match lines.last_mut() {
            Some(line) if width(line) + width(piece) <= most => line.push_str(piece),
            _ => lines.push(piece.to_owned()),
        }
    }
    lines
}

fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;");
    text.replace('<', "&lt;").replace('>', "&gt;")
}
